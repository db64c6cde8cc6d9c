"""Trained policy: maps observations to actions, without a physics library or an environment."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from genpo_jax.checks import check_types, require
from genpo_jax.config import Config, EnvConfig, build_settings, method_from_dict, method_to_dict
from genpo_jax.envs import Environment, Observation, bounded
from genpo_jax.envs.base import ACTOR_OBS
from genpo_jax.envs.wrappers import Bounds, action_bounds, bounds_of, in_units
from genpo_jax.methods import Method, NetworksConfig
from genpo_jax.normalizer import RunningMoments
from genpo_jax.policies import Policy

# Larger sizes, as in damaged files, would fill the memory.
LARGEST_SIZE = 2**24


@dataclass(frozen=True)
class PolicySpec:
    """Description of a policy: all that is needed to act with the parameters of a checkpoint.

    Attributes:
        env: name of the environment.
        seed: seed of the run.
        obs_size: size of the observation.
        obs_name: name of the environment's observation that the policy sees.
        action_size: number d of action coordinates, for a whole action chunk.
        squash: how unbounded actions are mapped to [-1, 1].
        method: settings of the method.
        networks: settings of the networks.
        normalized: whether observations are standardized.
        chunk: action chunk length H, the number of actions that the policy outputs per call.
        executed: actions h of a chunk to execute before the policy is called again.
        action_repeat: env steps for which each action is executed.
        history: number k of observations in `obs_size`, oldest first, one per env step.
        action_low: what -1 means in units of the action, one number per coordinate; None for actions in [-1, 1].
        action_high: what 1 means.
        action_names: name of each coordinate of the action; None if unknown.
        obs_names: name of each coordinate of one observation; None if unknown.
        rate: env steps per second of real or simulated time; None if unknown.
    """

    env: str
    seed: int
    obs_size: int
    obs_name: str
    action_size: int
    squash: Literal["tanh", "clip"]
    method: Method
    networks: NetworksConfig
    normalized: bool
    chunk: int = 1
    executed: int = 1
    action_repeat: int = 1
    history: int = 1
    action_low: tuple[float, ...] | None = None
    action_high: tuple[float, ...] | None = None
    action_names: tuple[str, ...] | None = None
    obs_names: tuple[str, ...] | None = None
    rate: float | None = None

    @classmethod
    def of(cls, env: Environment, config: Config, seed: int) -> "PolicySpec":
        """Return the spec of one seed of a run."""
        bounds = action_bounds(env, config.env_options)
        name, sizes = config.env_options.observations, env.observation_sizes
        require(name in sizes, f"one of {', '.join(sorted(sizes))}, those of {env.name}", "observations", name)
        return cls.of_sizes(config, seed, sizes[name], env.action_size, bounds)

    @classmethod
    def of_sizes(
        cls, config: Config, seed: int, obs_size: int, action_size: int, bounds: Bounds | None
    ) -> "PolicySpec":
        """Return the spec of a run for single observations and actions of these sizes; bounds None: -1 and 1."""
        options, (low, high) = config.env_options, bounds or (None, None)
        return cls(
            env=config.env,
            seed=seed,
            obs_size=options.history * obs_size,
            obs_name=options.observations,
            action_size=options.chunk * action_size,
            squash=options.squash,
            method=config.method,
            networks=config.networks,
            normalized=config.ppo.normalize_observations,
            chunk=options.chunk,
            executed=options.executed or options.chunk,
            action_repeat=options.action_repeat,
            history=options.history,
            action_low=low,
            action_high=high,
        )

    def build(self) -> Policy:
        """Return a policy with new parameters."""
        return self.method.build(self.obs_size, self.action_size, self.networks, nnx.Rngs(0))

    @property
    def observations(self) -> str:
        """Name of the environment's observation that the policy sees, as in `EnvConfig`."""
        return self.obs_name

    @property
    def bounds(self) -> Bounds:
        """Lower and upper bound of each coordinate of one action, `[d]` each."""
        return bounds_of(self, self.action_size // self.chunk)

    def in_units(self, action: Any) -> Any:
        """Return action chunks `[..., chunk * d]` in [-1, 1] in the units of the environment."""
        if self.action_low is None:
            return action
        single = action.reshape(*action.shape[:-1], self.chunk, -1)
        return in_units(single, self.bounds).reshape(action.shape)

    def seen(self, options: EnvConfig) -> EnvConfig:
        """Return settings with the bounds of this policy, also if the environment of its run declared them."""
        return dataclasses.replace(options, action_low=self.action_low, action_high=self.action_high)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return dataclasses.asdict(self) | {"method": method_to_dict(self.method)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "PolicySpec":
        """Build a spec from the values of `to_dict`, also after a round trip through JSON.

        Raises:
            ValueError: if a setting is missing or wrong.
        """
        missing = {"method", "networks"} - values.keys()
        if missing:
            raise ValueError(
                f"the description of a policy must have method and networks, got {sorted(values)}; restore the file"
            )
        method = method_from_dict(values["method"])
        networks = build_settings(NetworksConfig, values["networks"])
        spec = build_settings(cls, values | {"method": method, "networks": networks})
        spec.check()
        return spec

    def check(self) -> None:
        """Check types and ranges of all fields, which a file may hold in any combination.

        Raises:
            ValueError: names the first field that is wrong.
        """
        check_types(self)
        counts = {name: getattr(self, name) for name in ("obs_size", "action_size", "chunk", "executed")}
        for name, value in (counts | {"action_repeat": self.action_repeat, "history": self.history}).items():
            require(1 <= value <= LARGEST_SIZE, f"in [1, {LARGEST_SIZE}]", name, value)
        require(self.executed <= self.chunk, f"at most the chunk of {self.chunk}", "executed", self.executed)
        require(
            self.action_size % self.chunk == 0, f"divisible by chunk = {self.chunk}", "action_size", self.action_size
        )
        require(self.obs_size % self.history == 0, f"divisible by history = {self.history}", "obs_size", self.obs_size)
        require(self.rate is None or self.rate > 0, "positive", "rate", self.rate)
        low, high, single = self.action_low, self.action_high, self.action_size // self.chunk
        require((low is None) == (high is None), "given together", "action_low and action_high", (low, high))
        for name, size in (("action", single), ("obs", self.obs_size // self.history)):
            names = getattr(self, f"{name}_names")
            require(names is None or len(names) == size, f"{size} names", f"{name}_names", names)
        if low is not None and high is not None:
            require(
                len(low) == len(high) == single, f"{single} numbers each", "action_low and action_high", (low, high)
            )
            ordered = all(a <= b for a, b in zip(low, high, strict=True))
            require(ordered, f"<= action_high = {high}", "action_low", low)


@cache
def _graph(spec: PolicySpec) -> nnx.GraphDef[Policy]:
    """Return the graph definition of a policy; it is traced once per spec and cached."""
    return nnx.graphdef(nnx.eval_shape(spec.build))


@jax.tree_util.register_pytree_node_class
class TrainedPolicy:
    """Trained policy: a function from observations to actions, with its parameters and observation normalizer.

    It works under `jax.jit` and `jax.vmap`, and it is a pytree whose leaves are its arrays.

    Args:
        spec: description of the policy.
        params: parameters of the policy.
        moments: running moments of the observations; None if observations are not standardized.
    """

    def __init__(self, spec: PolicySpec, params: Any, moments: RunningMoments | None) -> None:
        self.spec = spec
        self.params = params
        self.moments = moments

    def __repr__(self) -> str:
        """Describe the policy: method, environment, seed, sizes, and how often it is called."""
        spec = self.spec
        parts = [f"{spec.method.name} policy of {spec.env}", f"seed {spec.seed}"]
        parts.append(f"observation [{spec.obs_size}]{' of ' + str(spec.history) if spec.history > 1 else ''}")
        parts.append(f"action [{spec.action_size}]")
        if spec.chunk > 1:
            parts.append(f"a chunk of {spec.chunk}, {spec.executed} executed")
        if spec.action_repeat > 1:
            parts.append(f"each repeated for {spec.action_repeat} env steps")
        return f"<{', '.join(parts)}>"

    def __call__(self, obs: Observation | Any, key: Array | None = None, *, noise: Array | None = None) -> Array:
        """Return actions `[..., d]` in the units of the environment; without bounds in the spec, these are [-1, 1].

        Args:
            obs: observations `[..., obs_size]` as the environment returns them, or a dict with them under `obs_name`.
                With a history of k observations, the last k in one vector, oldest first.
            key: typed PRNG key for sampled actions; None for deterministic actions.
            noise: standard normal noise `[..., n, d]` instead of a key; see `noise_shape`.

        Raises:
            ValueError: if the observation has the wrong size or is missing from the dict.
        """
        return self.spec.in_units(bounded(self.unbounded(obs, key, noise=noise), self.spec.squash))

    def unbounded(self, obs: Observation | Any, key: Array | None = None, *, noise: Array | None = None) -> Array:
        """Return actions before the squash, for `EpisodeEnv`, which squashes them; see `__call__`."""
        obs = self.standardized(obs)
        policy = nnx.merge(_graph(self.spec), self.params)
        if jax.tree.leaves(policy.initial_carry(1)):
            raise ValueError(f"a {self.spec.method.name} policy has memory; use policy.initial_carry and policy.act")
        if noise is not None:
            return policy.action_of(obs, jnp.asarray(noise, jnp.float32))
        return policy.zero_noise_action(obs) if key is None else policy.sample(obs, key)[0]

    def initial_carry(self, num: int) -> Any:
        """Return the policy's memory at the start of `num` episodes, leaves `[num, ...]`; () for none."""
        return nnx.merge(_graph(self.spec), self.params).initial_carry(num)

    def act(
        self, obs: Observation | Any, carry: Any, key: Array | None = None, *, noise: Array | None = None
    ) -> tuple[Array, Any]:
        """Return unbounded actions `[..., d]` and the next carry, see `initial_carry` and `__call__`."""
        if noise is not None:
            return self.unbounded(obs, noise=noise), carry
        policy, obs = nnx.merge(_graph(self.spec), self.params), self.standardized(obs)
        if key is None:
            return policy.zero_noise_act(obs, carry)
        action, carry, _ = policy.act(obs, carry, key)
        return action, carry

    @property
    def noise_shape(self) -> tuple[int, int]:
        """Shape `(n, d)` of the noise for one action: n rows of d coordinates."""
        policy = nnx.merge(_graph(self.spec), self.params)
        return policy.noise_rows, policy.action_size

    def standardized(self, obs: Observation | Any) -> Array:
        """Return the standardized observations, float32 `[..., obs_size]`; see `__call__`."""
        if isinstance(obs, dict):
            if self.spec.obs_name not in obs:
                raise ValueError(
                    f"the policy needs an observation called '{self.spec.obs_name}', got {sorted(obs)}; rename one"
                )
            obs = obs[self.spec.obs_name]
        obs = jnp.asarray(obs, jnp.float32)
        if obs.ndim < 1 or obs.shape[-1] != self.spec.obs_size:
            stacked = f" (the last {self.spec.history} observations, oldest first)" if self.spec.history > 1 else ""
            raise ValueError(
                f"observations of {self.spec.env} must be [..., {self.spec.obs_size}]{stacked}, got {obs.shape}; "
                "pass them as the environment returns them"
            )
        return obs if self.moments is None else self.moments.standardize(obs)

    def tree_flatten(self) -> tuple[tuple[Any, Any], PolicySpec]:
        """Return arrays and spec."""
        return (self.params, self.moments), self.spec

    @classmethod
    def tree_unflatten(cls, spec: PolicySpec, arrays: tuple[Any, Any]) -> "TrainedPolicy":
        """Build the policy from spec and arrays."""
        return cls(spec, *arrays)


def policy_of(spec: PolicySpec, state: Any, index: int) -> TrainedPolicy:
    """Return the policy of one seed of a `TrainState`, with its arrays copied to the default device."""
    moments = state.obs_moments.get(ACTOR_OBS) if spec.normalized else None
    arrays = jax.tree.map(lambda x: jnp.asarray(jax.device_get(x[index])), (state.learner.params["policy"], moments))
    return TrainedPolicy(spec, *arrays)


def make_inference_fn(policy: TrainedPolicy, deterministic: bool = False) -> Callable[..., tuple[Array, dict]]:
    """Return a policy in the form of Brax's trainers: `(obs, key) -> (action, {})`.

    It has the signature of Brax's `make_inference_fn(params, deterministic)`, with the policy in place of the
    parameters. Code that renders or evaluates Brax policies can therefore use it.

    Args:
        policy: policy from `genpo_jax.load` or `Run.policy`.
        deterministic: return deterministic actions and ignore the key.
    """
    return lambda obs, key: (policy(obs, None if deterministic else key), {})
