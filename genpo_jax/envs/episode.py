"""Batched episodes: action bounds, time limit, reset on termination and non-finite physics."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any, Literal

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from genpo_jax.checks import require, require_count
from genpo_jax.config import SUCCESS, EnvConfig, is_outcome
from genpo_jax.envs.base import Environment, Metrics, Observation
from genpo_jax.envs.contract import LARGEST, as_floats, check_environment, strong
from genpo_jax.envs.host import Host, host_of, is_ticket, ticket_of
from genpo_jax.envs.imperfect import with_imperfections
from genpo_jax.envs.mirror import Mirror, each, mirror_of, unchanged
from genpo_jax.envs.wrappers import View, wrapped


class EpisodeState(flax.struct.PyTreeNode):
    """Everything needed to continue bit-identically. All leaves have a leading axis B; rows are independent.

    Attributes:
        env_state: states of the environments.
        obs: current observation, finite, each [B, size].
        episode_return: sum of rewards so far [B], float32.
        episode_length: environment steps so far [B], int32.
        episode_metrics: sums of the environment's metrics so far, or last values of outcomes, each [B], float32.
        time_limit: environment steps after which the current episode is truncated [B], int32.
        pool: `(env_state, obs)` of B fresh resets; environment b takes entry b when its episode ends. () for
            simulators on the host.
        key: typed PRNG keys [B], for all randomness of each environment from now on.

    """

    env_state: Any
    obs: Observation
    episode_return: Array
    episode_length: Array
    episode_metrics: Metrics
    time_limit: Array
    pool: tuple[Any, Observation] | tuple[()]
    key: Array


class Timestep(flax.struct.PyTreeNode):
    """Result of one step for the rollout. All leaves have a leading axis B.

    Attributes:
        next_state: states of the environments after the step, before any reset.
        next_obs: the real observation after the step, before any reset, each [B, size].
        reward: sum over the repeated actions [B], float32; 0 where `nonfinite`.
        terminated: the task ended the episode; never with `truncated` [B].
        truncated: the time limit or non-finite physics ended it [B].
        nonfinite: an observation or the reward was not finite, or larger than `LARGEST` [B].
        whole: the episode terminated or reached its time limit, and was not cut short by a staggered start or by
            non-finite physics [B].
        episode_return: sum of rewards up to and including this step [B].
        episode_length: environment steps up to and including this step [B].
        episode_metrics: sums of the environment's metrics, or last values of outcomes, including this step, each [B].

    """

    next_state: Any
    next_obs: Observation
    reward: Array
    terminated: Array
    truncated: Array
    nonfinite: Array
    whole: Array
    episode_return: Array
    episode_length: Array
    episode_metrics: Metrics


def time_limit(env: Environment, episode_length: Any = None) -> int:
    """Return the time limit of episodes in env steps: the given one, or that of the environment.

    Raises:
        ValueError: if it is not an integer of at least 1.
    """
    length = env.default_episode_length if episode_length is None else episode_length
    whole = isinstance(length, int | np.integer) and not isinstance(length, bool) and bool(length >= 1)
    name = f"default_episode_length of {env.name}" if episode_length is None else "episode_length"
    require(whole, "an integer >= 1", name, length, "or set episode_length")
    return int(length)


@dataclasses.dataclass(frozen=True)
class EpisodeEnv:
    """Environments in parallel: an environment whose episode ends restarts from a pool of fresh states.

    `refresh` renews the pool once per rollout of T steps, so a step costs 1/T of a reset. Only an environment that ends
    twice within one rollout starts twice from the same state. Each environment has its own key and its own pool entry,
    so its episodes are independent of the other environments and of the device. Simulators on the host are reset in
    place instead.

    Attributes:
        env: one environment.
        episode_length: time limit in environment steps, repeated actions included.
        action_repeat: environment steps per action; rewards are summed until the episode ends.
        squash: maps the policy's unbounded action into [-1, 1], `tanh` or `clip`.
        chunk: number H of environment actions in one action chunk, which has size `H * d`.
        executed: number of actions of a chunk that are executed; None for all. Rewards are summed, as with repeated
            actions, and an episode may end within a chunk.
        reward: `task`, the environment's reward; or `success`, 1 when the metric `success` becomes positive (this ends
            the episode), else 0.

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
    def of(
        cls, env: Environment, options: EnvConfig, *, imperfect: bool = False, teachers: Sequence[View] = ()
    ) -> "EpisodeEnv":
        """Return the episodes of an environment with the settings of a run; its history and bounds are wrappers.

        Args:
            env: the environment.
            options: settings of the run.
            imperfect: apply noise, bias, delays and pushes of the settings.
            teachers: what each teacher of a distillation sees.
        """
        length = time_limit(env, options.episode_length)
        return cls(
            wrapped(with_imperfections(env, options, imperfect, teachers), options),
            length,
            options.action_repeat,
            options.squash,
            options.chunk,
            options.executed,
            options.reward,
        )

    @property
    def action_size(self) -> int:
        """Size of an action: `H * d` for chunks of H actions."""
        return self.chunk * self.env.action_size

    @cached_property
    def mirror(self) -> Mirror:
        """The symmetry of observations and of action chunks.

        Raises:
            ValueError: if the environment has none.
        """
        mirror = mirror_of(self.env, self.env.observation_sizes, self.env.action_size)
        return dataclasses.replace(mirror, action=each(unchanged(self.chunk), mirror.action))

    @cached_property
    def host(self) -> Host | None:
        """The host of the simulators; None if the environment is a function of its state."""
        return host_of(self.env)

    @property
    def steps_per_action(self) -> int:
        """Environment steps per action chunk, if no episode ends within it."""
        return self.action_repeat * (self.executed or self.chunk)

    def reserve(self, num_envs: int) -> None:
        """Let the environment allocate for this number of environments in one program; most need not."""
        if (reserve := getattr(self.env, "reserve", None)) is not None:
            reserve(num_envs)

    def init(self, keys: Array, stagger: bool = False) -> EpisodeState:
        """Start B episodes, and fill the first pool, from typed keys [B].

        With `stagger`, the first episodes are truncated at random times. Otherwise, environments whose episodes rarely
        terminate always reach the time limit together, and each rollout contains only one phase of the task.

        Raises:
            ValueError: if `keys` is not a vector of typed keys.
        """
        typed = isinstance(keys, Array) and keys.ndim == 1 and jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
        require(typed, "typed keys [B], such as jax.random.split(jax.random.key(0), B)", "keys", keys)
        # The reset below is of 2 B states.
        self.reserve(2 * keys.shape[0])
        # First, because this checks the environment.
        episode_metrics = {name: jnp.zeros(keys.shape[0], jnp.float32) for name in self.metric_names}
        num_envs = keys.shape[0]
        keys, first_keys, pool_keys, limit_keys = _split(keys, 4)
        time_limit = jnp.full(num_envs, self.episode_length, jnp.int32)
        if stagger:
            time_limit = jax.vmap(lambda key: jax.random.randint(key, (), 1, self.episode_length + 1))(limit_keys)
        if self.host is not None:
            starting = partial(self.host.starting, self.episode_length, stagger)
            (env_state, obs), pool = self._begin(starting, first_keys), ()
        else:
            # One reset of 2 B states instead of two of B, so that it is compiled once.
            both = self._reset(jnp.concatenate([first_keys, pool_keys]))
            (env_state, obs), pool = (jax.tree.map(lambda x, i=i: x[i : i + num_envs], both) for i in (0, num_envs))
        return EpisodeState(
            env_state=env_state,
            obs=obs,
            episode_return=jnp.zeros(num_envs, jnp.float32),
            episode_length=jnp.zeros(num_envs, jnp.int32),
            episode_metrics=episode_metrics,
            time_limit=time_limit,
            pool=pool,
            key=keys,
        )

    def refresh(self, state: EpisodeState) -> EpisodeState:
        """Return `state` with a new pool; call this once at the start of each rollout."""
        keys, reset_keys = _split(state.key, 2)
        if self.host is not None:
            resuming = partial(self.host.resuming, self.episode_length)
            fresh = self._begin(resuming, reset_keys, ticket_of(state.env_state))
            new, left = ticket_of(fresh[0]).begun, state.time_limit - state.episode_length
            state = self._replaced(state.replace(key=keys), new, *_renewed(new, fresh, (state.env_state, state.obs)))
            # New episodes end when the old ones would have ended, so that not all end together.
            return state.replace(time_limit=jnp.where(new, left, state.time_limit))
        return state.replace(pool=self._reset(reset_keys), key=keys)

    def step(self, state: EpisodeState, action: Array) -> tuple[EpisodeState, Timestep]:
        """Advance every environment by one action [B, action_size], unbounded; reset those that end.

        Raises:
            ValueError: if the actions have the wrong shape.
        """
        shape = (len(state.episode_length), self.action_size)
        require(action.shape == shape, f"of shape {shape}", f"actions of {self.env.name}", action.shape)
        env_state, obs, reward, terminated, cut, metrics, length = jax.vmap(self._advance)(
            state.env_state, self.bounded(action), state.episode_length, state.time_limit
        )
        nonfinite = ~(_acceptable(reward) & _acceptable(*obs.values()))
        terminated = terminated & ~nonfinite
        timestep = Timestep(
            next_state=strong(env_state),
            next_obs=select_rows(nonfinite, state.obs, obs),
            reward=jnp.where(nonfinite, 0.0, reward),
            terminated=terminated,
            truncated=~terminated & (nonfinite | cut | (length >= state.time_limit)),
            nonfinite=nonfinite,
            whole=terminated | (~nonfinite & (cut | (length >= self.episode_length))),
            episode_return=state.episode_return + jnp.where(nonfinite, 0.0, reward),
            episode_length=length,
            episode_metrics=_added(state.episode_metrics, select_rows(nonfinite, _zeros(metrics), metrics)),
        )
        return self._restart(state, env_state, timestep), timestep

    def most_truncations(self, num_actions: int) -> int:
        """Return how often an episode can be truncated within a number of actions; at least 1."""
        if self.host is not None:
            return num_actions
        return 1 + (num_actions * self.steps_per_action - 1) // self.episode_length

    def bounded(self, action: Array) -> Array:
        """Map unbounded actions into [-1, 1]."""
        return bounded(action, self.squash)

    @cached_property
    def metric_names(self) -> tuple[str, ...]:
        """Names of the environment's metrics.

        Raises:
            ValueError: if the environment does not follow `Environment`, or has no metric `success` if this is needed.
        """
        names = check_environment(self.env)
        if self.reward == "success" and SUCCESS not in names:
            raise ValueError(
                f"reward='success' needs a metric '{SUCCESS}', but {self.env.name} has {list(names)}; use reward='task'"
            )
        return names

    def _restart(self, state: EpisodeState, env_state: Any, timestep: Timestep) -> EpisodeState:
        """Replace the episodes that ended by pool entries, or reset their simulators."""
        ended = timestep.terminated | timestep.truncated
        if self.host is not None:
            keys, reset_keys = _split(state.key, 2)
            state = state.replace(key=keys)
            env_state, obs = self._restart_in_place(self.host, (env_state, timestep.next_obs), ended, reset_keys)
        else:
            env_state, obs = select_rows(ended, state.pool, (env_state, timestep.next_obs))
        state = state.replace(
            episode_return=timestep.episode_return,
            episode_length=timestep.episode_length,
            episode_metrics=timestep.episode_metrics,
        )
        return self._replaced(state, ended, env_state, obs)

    def _restart_in_place(
        self, host: Host, present: tuple[Any, Observation], ended: Array, keys: Array
    ) -> tuple[Any, Observation]:
        """Reset the simulators of the episodes that ended; without such episodes the host is not called."""

        def restart(carry: Any) -> Any:
            present, ended = carry
            fresh = self._begin(host.restarting, keys, ticket_of(present[0]), ended)
            return _renewed(ended, fresh, present), jnp.zeros_like(ended)

        # Not `cond`, which runs both branches under the `vmap` over seeds.
        return jax.lax.while_loop(lambda carry: carry[1].any(), restart, (strong(present), ended))[0]

    def _begin(self, how: Callable[..., Any], keys: Array, *arguments: Any) -> tuple[Any, Observation]:
        """Reset simulators on the host, from keys [B]; `how` has further arguments [B]."""

        def reset(key: Array, *arguments: Any) -> tuple[Any, Observation]:
            with how(*arguments):
                return self.env.reset(key)

        return self._fresh(jax.vmap(reset)(keys, *arguments))

    def _replaced(self, state: EpisodeState, new: Array, env_state: Any, obs: Observation) -> EpisodeState:
        """Return `state` with these states and observations, of which some begin a new episode."""
        return state.replace(
            env_state=env_state,
            obs=obs,
            episode_return=jnp.where(new, 0.0, state.episode_return),
            episode_length=jnp.where(new, 0, state.episode_length),
            episode_metrics=select_rows(new, _zeros(state.episode_metrics), state.episode_metrics),
            time_limit=jnp.where(new, self.episode_length, state.time_limit),
        )

    def _reset(self, keys: Array) -> tuple[Any, Observation]:
        return self._fresh(jax.vmap(self.env.reset)(keys))

    def _fresh(self, reset: tuple[Any, Observation]) -> tuple[Any, Observation]:
        """Return states and observations of a reset as strong types, without non-finite numbers."""
        env_state, obs = reset
        # A non-finite observation must not reach the policy; if the physics is non-finite too, the next step resets.
        obs = {name: jnp.where(jnp.abs(leaf) <= LARGEST, leaf, 0) for name, leaf in as_floats(obs).items()}
        return strong((env_state, obs))

    def _advance(self, env_state: Any, action: Array, length: Array, time_limit: Array):
        """Step one environment through a chunk, with repeated actions, until its episode ends."""
        actions = jnp.repeat(action.reshape(self.chunk, -1)[: self.executed], self.action_repeat, axis=0)
        if len(actions) == 1:
            return *self._single_step(env_state, actions[0]), length + 1
        shapes = jax.eval_shape(self._single_step, env_state, actions[0])[1:]
        first = (env_state, *jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes), length)

        def advance(carry, action):
            env_state, _, reward, terminated, cut, metrics, length = carry
            ended = terminated | cut | (length >= time_limit)
            env_state, obs, more, terminated, cut, added = self._single_step(env_state, action)
            metrics = _added(metrics, added)
            after = (env_state, obs, reward + more, terminated, cut, metrics, length + 1)
            kept = select_rows(ended, carry, after)
            # Simulators on the host are stepped together, and a state can be stepped only once.
            return kept if self.host is None else (env_state, *kept[1:]), None

        # The program has the environment's step once: a second one would double the time to compile.
        return lax.scan(advance, first, actions)[0]

    def _single_step(self, env_state: Any, action: Array):
        env_state, obs, reward, terminated, metrics = self.env.step(env_state, action)
        terminated = jnp.asarray(terminated).astype(bool)
        metrics = {name: jnp.asarray(metrics[name], jnp.float32) for name in self.metric_names}
        if self.reward == "success":
            reward = jnp.float32(metrics[SUCCESS] > 0)
            terminated = terminated | (metrics[SUCCESS] > 0)
        # Whether the environment itself truncated the episode, before our time limit.
        cut = jnp.asarray(False) if self.host is None else ticket_of(env_state).truncated
        return env_state, as_floats(obs), jnp.asarray(reward, jnp.float32), terminated, cut, metrics


def bounded(action: Array, squash: Literal["tanh", "clip"]) -> Array:
    """Map unbounded actions into [-1, 1].

    Raises:
        ValueError: if `squash` is unknown.
    """
    _check_squash(squash)
    return jnp.tanh(action) if squash == "tanh" else jnp.clip(action, -1, 1)


def _added(total: Metrics, metrics: Metrics) -> Metrics:
    """Add the metrics of one step to those of an episode."""
    return {name: value if is_outcome(name) else total[name] + value for name, value in metrics.items()}


def _renewed(new: Array, fresh: Any, present: Any) -> Any:
    """Return `present` with the rows of `fresh` that begin a new episode, and with all tickets of `fresh`."""

    def renewed(fresh: Any, present: Any) -> Any:
        return fresh if is_ticket(fresh) else select_rows(new, fresh, present)

    return jax.tree.map(renewed, fresh, present, is_leaf=is_ticket)


def _zeros(metrics: Metrics) -> Metrics:
    return jax.tree.map(jnp.zeros_like, metrics)


def _check_squash(squash: str) -> None:
    require(squash in ("tanh", "clip"), "'tanh' or 'clip'", "squash", squash)


def _split(keys: Array, count: int) -> Array:
    """Split each of the keys [B] into keys [count, B]."""
    return jax.vmap(lambda key: jax.random.split(key, count), out_axes=1)(keys)


def _acceptable(*leaves: Array) -> Array:
    """Return the mask [B] of rows whose entries are finite and at most `LARGEST`."""
    rows = [jnp.all(jnp.abs(leaf) <= LARGEST, axis=tuple(range(1, leaf.ndim))) for leaf in leaves]
    return jnp.all(jnp.stack(rows), axis=0)


def select_rows(mask: Array, on_true: Any, on_false: Any) -> Any:
    """Select between two trees; the axes of `mask` are the leading ones of every leaf."""

    def select(a, b):
        return jnp.where(mask.reshape(mask.shape + (1,) * (jnp.ndim(a) - mask.ndim)), a, b)

    return jax.tree.map(select, on_true, on_false)
