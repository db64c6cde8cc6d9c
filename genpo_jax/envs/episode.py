"""Batched episodes: action bounds, time limit, reset on termination and non-finite physics."""

import dataclasses
from functools import cached_property
from typing import Any, Literal

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array, lax

from genpo_jax.checks import require, require_count
from genpo_jax.config import SUCCESS, EnvConfig, is_outcome
from genpo_jax.envs.base import Environment, Metrics, Observation
from genpo_jax.envs.mirror import Mirror, each, mirror_of, unchanged

# Larger magnitudes count as non-finite: squares must not overflow float32 sums of the running statistics.
LARGEST = 1e8


class EpisodeState(flax.struct.PyTreeNode):
    """Everything needed to go on, bit for bit. All leaves have a leading axis B, and no row depends on another.

    Attributes:
        env_state: states of the environments.
        obs: current observation, finite, each [B, size].
        episode_return: sum of rewards so far [B], float32.
        episode_length: environment steps so far [B], int32.
        episode_metrics: sums of the environment's metrics so far, of outcomes the last value, each [B], float32.
        time_limit: environment steps after which the present episode is truncated [B], int32.
        pool: `(env_state, obs)` of B fresh resets; environment b takes entry b when its episode ends.
        key: typed PRNG keys [B], for all that is random in each environment from here on.

    """

    env_state: Any
    obs: Observation
    episode_return: Array
    episode_length: Array
    episode_metrics: Metrics
    time_limit: Array
    pool: tuple[Any, Observation]
    key: Array


class Timestep(flax.struct.PyTreeNode):
    """What one step tells the rollout. All leaves have a leading axis B.

    Attributes:
        next_state: states of the environments after the step, before any reset.
        next_obs: the real observation after the step, before any reset, each [B, size].
        reward: sum over the repeated actions [B], float32; 0 where `nonfinite`.
        terminated: the task ended the episode; never with `truncated` [B].
        truncated: the time limit or non-finite physics ended it [B].
        nonfinite: an observation or the reward was not finite, or larger than `LARGEST` [B].
        episode_return: including this step [B]; of the whole episode where it ended.
        episode_length: likewise, in environment steps [B].
        episode_metrics: likewise, sums of the environment's metrics and the last outcomes, each [B].

    """

    next_state: Any
    next_obs: Observation
    reward: Array
    terminated: Array
    truncated: Array
    nonfinite: Array
    episode_return: Array
    episode_length: Array
    episode_metrics: Metrics


@dataclasses.dataclass(frozen=True)
class EpisodeEnv:
    """Run environments side by side, for ever: one that ends starts again from a pool of fresh states.

    The pool is renewed by `refresh`, once per rollout of T steps: a reset thus costs 1/T of itself per step, and only
    an environment that ends twice within one rollout starts twice from the same state. Every environment has its own
    key and its own entry, so that it does the same whichever others, and on whichever device, run beside it.

    Attributes:
        env: one environment.
        episode_length: time limit in environment steps, repeated actions included.
        action_repeat: environment steps per action; rewards are summed until the episode ends.
        squash: maps the policy's unbounded action into [-1, 1], `tanh` or `clip`.
        chunk: number H of the environment's actions that are one action here, of size `H * d`.
        executed: how many of them are executed before the next is asked for; None for all. Rewards are summed as
            over repeated actions, and an episode may end within.
        reward: `task`; or `success`, 1 where the metric of that name is, which ends the episode, else 0.

    Raises:
        ValueError: if a count is not a positive int32, or `squash` or `reward` is unknown.

    """

    env: Environment
    episode_length: int
    action_repeat: int = 1
    squash: Literal["tanh", "clip"] = "tanh"
    chunk: int = 1
    executed: int | None = None
    reward: Literal["task", "success"] = "task"

    def __post_init__(self):
        executed = self.chunk if self.executed is None else self.executed
        require_count(
            episode_length=self.episode_length, action_repeat=self.action_repeat, chunk=self.chunk, executed=executed
        )
        require(executed <= self.chunk, f"at most chunk = {self.chunk}", "executed", executed)
        require(self.reward in ("task", "success"), "'task' or 'success'", "reward", self.reward)
        _check_squash(self.squash)

    @classmethod
    def of(cls, env: Environment, options: EnvConfig) -> "EpisodeEnv":
        """Return the episodes of an environment as the settings of a run have them."""
        return cls(
            env,
            options.episode_length or env.default_episode_length,
            options.action_repeat,
            options.squash,
            options.chunk,
            options.executed,
            options.reward,
        )

    @property
    def action_size(self) -> int:
        """Numbers in an action: those of a whole chunk."""
        return self.chunk * self.env.action_size

    @cached_property
    def mirror(self) -> Mirror:
        """The symmetry of observations and whole chunks of actions.

        Raises:
            ValueError: if the environment shows none.
        """
        mirror = mirror_of(self.env, self.env.observation_sizes, self.env.action_size)
        return dataclasses.replace(mirror, action=each(unchanged(self.chunk), mirror.action))

    @property
    def steps_per_action(self) -> int:
        """Environment steps per action, where no episode ends within."""
        return self.action_repeat * (self.executed or self.chunk)

    def init(self, keys: Array, stagger: bool = False) -> EpisodeState:
        """Start B episodes, and fill the first pool, from typed keys [B].

        With `stagger`, the first episodes are truncated at random times. Otherwise environments whose episodes
        seldom terminate reach the time limit together for ever, and each rollout sees one phase of the task only.

        Raises:
            ValueError: unless there is one axis of keys.
        """
        typed = isinstance(keys, Array) and keys.ndim == 1 and jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
        require(typed, "typed keys [B], as jax.random.split(jax.random.key(0), B) returns them", "keys", keys)
        num_envs = keys.shape[0]
        keys, first_keys, pool_keys, limit_keys = _split(keys, 4)
        time_limit = jnp.full(num_envs, self.episode_length, jnp.int32)
        if stagger:
            time_limit = jax.vmap(lambda key: jax.random.randint(key, (), 1, self.episode_length + 1))(limit_keys)
        # One reset of 2 B states, not two of B: it compiles once.
        fresh = self._reset(jnp.concatenate([first_keys, pool_keys]))
        env_state, obs = jax.tree.map(lambda leaf: leaf[:num_envs], fresh)
        return EpisodeState(
            env_state=env_state,
            obs=obs,
            episode_return=jnp.zeros(num_envs, jnp.float32),
            episode_length=jnp.zeros(num_envs, jnp.int32),
            episode_metrics={name: jnp.zeros(num_envs, jnp.float32) for name in self.metric_names},
            time_limit=time_limit,
            pool=jax.tree.map(lambda leaf: leaf[num_envs:], fresh),
            key=keys,
        )

    def refresh(self, state: EpisodeState) -> EpisodeState:
        """Return `state` with a new pool; call it once at the start of each rollout."""
        keys, reset_keys = _split(state.key, 2)
        return state.replace(pool=self._reset(reset_keys), key=keys)

    def step(self, state: EpisodeState, action: Array) -> tuple[EpisodeState, Timestep]:
        """Advance every environment by one action [B, action_size], unbounded; reset those that end.

        Raises:
            ValueError: if the actions have another shape.
        """
        shape = (len(state.episode_length), self.action_size)
        require(action.shape == shape, f"of shape {shape}", f"actions of {self.env.name}", action.shape)
        env_state, obs, reward, terminated, metrics, length = jax.vmap(self._advance)(
            state.env_state, self.bounded(action), state.episode_length, state.time_limit
        )
        nonfinite = ~(_acceptable(reward) & _acceptable(*obs.values()))
        terminated = terminated & ~nonfinite
        timestep = Timestep(
            next_state=env_state,
            next_obs=select_rows(nonfinite, state.obs, obs),
            reward=jnp.where(nonfinite, 0.0, reward),
            terminated=terminated,
            truncated=~terminated & (nonfinite | (length >= state.time_limit)),
            nonfinite=nonfinite,
            episode_return=state.episode_return + jnp.where(nonfinite, 0.0, reward),
            episode_length=length,
            episode_metrics=_added(state.episode_metrics, select_rows(nonfinite, _zeros(metrics), metrics)),
        )
        return self._restart(state, env_state, timestep), timestep

    def bounded(self, action: Array) -> Array:
        """Map unbounded actions into [-1, 1]."""
        return bounded(action, self.squash)

    @cached_property
    def metric_names(self) -> tuple[str, ...]:
        """Names of the environment's metrics.

        Raises:
            ValueError: if `step` does not return what an `Environment` does, or a metric is not one number.
        """
        # Strong types, as the steps will have: the physics is then traced once.
        state, _ = jax.eval_shape(lambda key: _strong(self.env.reset(key)), jax.random.key(0))
        returned = jax.eval_shape(self.env.step, state, jax.ShapeDtypeStruct((self.env.action_size,), jnp.float32))
        if not (isinstance(returned, tuple) and len(returned) == 5 and isinstance(returned[4], dict)):
            raise ValueError(
                f"step of {self.env.name} must return (state, observation, reward, terminated, metrics), got "
                f"{len(returned) if isinstance(returned, tuple) else type(returned).__name__} values; "
                "return {} where there are no metrics"
            )
        if self.reward == "success" and SUCCESS not in returned[4]:
            raise ValueError(
                f"reward='success' needs a metric '{SUCCESS}', and {self.env.name} has {sorted(returned[4])}"
            )
        for name, value in returned[4].items():
            if value.shape != ():
                raise ValueError(f"metrics must be scalars, '{name}' of {self.env.name} has shape {value.shape}")
        return tuple(sorted(returned[4]))

    def _restart(self, state: EpisodeState, env_state: Any, timestep: Timestep) -> EpisodeState:
        """Put pool entries in place of the episodes that ended."""
        ended = timestep.terminated | timestep.truncated
        env_state, obs = select_rows(ended, state.pool, (env_state, timestep.next_obs))
        return state.replace(
            env_state=env_state,
            obs=obs,
            episode_return=jnp.where(ended, 0.0, timestep.episode_return),
            episode_length=jnp.where(ended, 0, timestep.episode_length),
            episode_metrics=select_rows(
                ended, jax.tree.map(jnp.zeros_like, timestep.episode_metrics), timestep.episode_metrics
            ),
            time_limit=jnp.where(ended, self.episode_length, state.time_limit),
        )

    def _reset(self, keys: Array) -> tuple[Any, Observation]:
        env_state, obs = jax.vmap(self.env.reset)(keys)
        # A bad reset must not reach the policy; if the physics is bad too, the next step is caught.
        obs = {name: jnp.where(jnp.abs(leaf) <= LARGEST, leaf, 0) for name, leaf in obs.items()}
        return _strong((env_state, obs))

    def _advance(self, env_state: Any, action: Array, length: Array, time_limit: Array):
        """Step one environment by the actions of a chunk, each repeated, or until its episode ends."""
        actions = jnp.repeat(action.reshape(self.chunk, -1)[: self.executed], self.action_repeat, axis=0)
        first = (*self._single_step(env_state, actions[0]), length + 1)
        if len(actions) == 1:
            return first

        def again(carry, action):
            env_state, _, reward, terminated, metrics, length = carry
            ended = terminated | (length >= time_limit)
            env_state, obs, more, terminated, added = self._single_step(env_state, action)
            metrics = _added(metrics, added)
            return select_rows(ended, carry, (env_state, obs, reward + more, terminated, metrics, length + 1)), None

        return lax.scan(again, first, actions[1:])[0]

    def _single_step(self, env_state: Any, action: Array):
        env_state, obs, reward, terminated, metrics = self.env.step(env_state, action)
        metrics = {name: jnp.asarray(metrics[name], jnp.float32) for name in self.metric_names}
        if self.reward == "success":
            reward = jnp.float32(metrics[SUCCESS] > 0)
            terminated = terminated | (metrics[SUCCESS] > 0)
        return env_state, obs, jnp.asarray(reward, jnp.float32), terminated, metrics


def bounded(action: Array, squash: Literal["tanh", "clip"]) -> Array:
    """Map unbounded actions into [-1, 1].

    Raises:
        ValueError: if `squash` is unknown.
    """
    _check_squash(squash)
    return jnp.tanh(action) if squash == "tanh" else jnp.clip(action, -1, 1)


def _added(total: Metrics, metrics: Metrics) -> Metrics:
    """Return the metrics of an episode after one more step."""
    return {name: value if is_outcome(name) else total[name] + value for name, value in metrics.items()}


def _zeros(metrics: Metrics) -> Metrics:
    return jax.tree.map(jnp.zeros_like, metrics)


def _check_squash(squash: str) -> None:
    require(squash in ("tanh", "clip"), "'tanh' or 'clip'", "squash", squash)


def _split(keys: Array, count: int) -> Array:
    """Split each of the keys [B] into keys [count, B]."""
    return jax.vmap(lambda key: jax.random.split(key, count), out_axes=1)(keys)


def _acceptable(*leaves: Array) -> Array:
    """Tell which rows are finite and at most `LARGEST` throughout [B]."""
    rows = [jnp.all(jnp.abs(leaf) <= LARGEST, axis=tuple(range(1, leaf.ndim))) for leaf in leaves]
    return jnp.all(jnp.stack(rows), axis=0)


def select_rows(mask: Array, on_true: Any, on_false: Any) -> Any:
    """Select between two trees; the axes of `mask` are the leading ones of every leaf of `on_false`."""

    def select(a, b):
        return jnp.where(mask.reshape(mask.shape + (1,) * (b.ndim - mask.ndim)), a, b)

    return jax.tree.map(select, on_true, on_false)


def _strong(tree: Any) -> Any:
    """Make weakly typed leaves strong: libraries mix Python scalars in, and a type that changes recompiles.

    Strong types in the pool are enough, as every step selects between the pool and what the library returns.
    """

    def cast(leaf):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return leaf if is_key else lax.convert_element_type(leaf, leaf.dtype)

    return jax.tree.map(cast, tree)
