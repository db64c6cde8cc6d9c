"""A trained policy on its own: observation in, action out. Needs no physics library and no environment."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from genpo_jax.checks import require
from genpo_jax.config import Config, build_settings, method_from_dict, method_to_dict
from genpo_jax.envs import Environment, Observation, bounded
from genpo_jax.methods import Method, NetworksConfig
from genpo_jax.policies import Policy
from genpo_jax.training.agent import ACTOR_OBS
from genpo_jax.training.normalizer import RunningMoments


@dataclass(frozen=True)
class PolicySpec:
    """What it takes to act with a checkpoint's parameters, and what they were trained on.

    Attributes:
        env: name of the environment.
        seed: of the run.
        obs_size: numbers in the observation.
        obs_name: what the observation is called, where an environment has several.
        action_size: number d of action coordinates, of a whole chunk.
        squash: how an unbounded action is brought into [-1, 1].
        method: settings of the method.
        networks: settings of the networks.
        normalized: whether observations are standardized.
        chunk: number of the environment's actions that one action of the policy consists of, one after another.
        executed: how many of them are meant to be executed before it is asked again.
        action_repeat: env steps for which each action is executed.
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

    @classmethod
    def of(cls, env: Environment, config: Config, seed: int) -> "PolicySpec":
        """Return the spec of one seed of a run."""
        return cls(
            env=config.env,
            seed=seed,
            obs_size=env.observation_sizes[ACTOR_OBS],
            obs_name=ACTOR_OBS,
            action_size=config.env_options.chunk * env.action_size,
            squash=config.env_options.squash,
            method=config.method,
            networks=config.networks,
            normalized=config.ppo.normalize_observations,
            chunk=config.env_options.chunk,
            executed=config.env_options.executed or config.env_options.chunk,
            action_repeat=config.env_options.action_repeat,
        )

    def build(self) -> Policy:
        """Return a policy with new parameters."""
        return self.method.build(self.obs_size, self.action_size, self.networks, nnx.Rngs(0))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, fit for JSON."""
        return dataclasses.asdict(self) | {"method": method_to_dict(self.method)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "PolicySpec":
        """Build a spec from what `to_dict` returned, after a way through JSON.

        Raises:
            ValueError: if a part is missing or wrong.
        """
        missing = {"method", "networks"} - values.keys()
        require(not missing, "with method and networks", "a policy's description", sorted(values), "restore the file")
        method = method_from_dict(values["method"])
        networks = build_settings(NetworksConfig, values["networks"])
        return build_settings(cls, values | {"method": method, "networks": networks})


@cache
def _graph(spec: PolicySpec) -> nnx.GraphDef[Policy]:
    """Return what, with parameters, makes a policy; found by tracing, so that acting again costs nothing of it."""
    return nnx.graphdef(nnx.eval_shape(spec.build))


@jax.tree_util.register_pytree_node_class
class TrainedPolicy:
    """A policy with its parameters and its normalizer: observation in, action out.

    It is a function that `jax.jit` and `jax.vmap` take, and a pytree whose leaves are all its arrays.

    Args:
        spec: what it is.
        params: parameters of the policy.
        moments: of the observations; None where they are not standardized.
    """

    def __init__(self, spec: PolicySpec, params: Any, moments: RunningMoments | None) -> None:
        self.spec = spec
        self.params = params
        self.moments = moments

    def __call__(self, obs: Observation | Any, key: Array | None = None, *, noise: Array | None = None) -> Array:
        """Return actions `[..., d]` in [-1, 1], as the environment takes them.

        Args:
            obs: observations `[..., obs_size]` as the environment gives them, or a dict that has them under their name.
            key: typed PRNG key of a sampled action; None gives the action of zero noise.
            noise: standard normal noise `[..., n, d]` in place of a key, see `noise_shape`.

        Raises:
            ValueError: if the observation has another size, or a dict lacks it.
        """
        return bounded(self.unbounded(obs, key, noise=noise), self.spec.squash)

    def unbounded(self, obs: Observation | Any, key: Array | None = None, *, noise: Array | None = None) -> Array:
        """Return actions before the squash, which batched episodes do by themselves; see `__call__`."""
        obs = self.standardized(obs)
        policy = nnx.merge(_graph(self.spec), self.params)
        if noise is not None:
            return policy.action_of(obs, jnp.asarray(noise, jnp.float32))
        return policy.zero_noise_action(obs) if key is None else policy.sample(obs, key)[0]

    @property
    def noise_shape(self) -> tuple[int, int]:
        """Rows n and coordinates d of the noise that an action is made of."""
        policy = nnx.merge(_graph(self.spec), self.params)
        return policy.noise_rows, policy.action_size

    def standardized(self, obs: Observation | Any) -> Array:
        """Return observations as the network sees them, float32 `[..., obs_size]`; see `__call__`."""
        if isinstance(obs, dict):
            if self.spec.obs_name not in obs:
                raise ValueError(f"the policy needs an observation called '{self.spec.obs_name}', got {sorted(obs)}")
            obs = obs[self.spec.obs_name]
        obs = jnp.asarray(obs, jnp.float32)
        if obs.ndim < 1 or obs.shape[-1] != self.spec.obs_size:
            raise ValueError(
                f"observations of {self.spec.env} must be [..., {self.spec.obs_size}], got {obs.shape}; "
                "pass them as the environment gives them"
            )
        return obs if self.moments is None else self.moments.standardize(obs)

    def tree_flatten(self) -> tuple[tuple[Any, Any], PolicySpec]:
        """Return arrays and spec."""
        return (self.params, self.moments), self.spec

    @classmethod
    def tree_unflatten(cls, spec: PolicySpec, arrays: tuple[Any, Any]) -> "TrainedPolicy":
        """Put arrays and spec together."""
        return cls(spec, *arrays)


def policy_of(spec: PolicySpec, state: Any, index: int) -> TrainedPolicy:
    """Return the policy of one seed of a `TrainState`; its arrays are copies on the default device."""
    moments = state.obs_moments.get(spec.obs_name) if spec.normalized else None
    arrays = jax.tree.map(lambda x: jnp.asarray(jax.device_get(x[index])), (state.learner.params["policy"], moments))
    return TrainedPolicy(spec, *arrays)


def make_inference_fn(policy: TrainedPolicy, deterministic: bool = False) -> Callable[..., tuple[Array, dict]]:
    """Return a policy in the form that Brax's trainers return: `(obs, key) -> (action, {})`.

    Brax's `make_inference_fn(params, deterministic)` takes its parameters where this takes a policy, which is a pytree
    of its parameters; so what renders or evaluates a policy of Brax takes one of ours.

    Args:
        policy: from `genpo_jax.load` or `Run.policy`.
        deterministic: act with zero noise.
    """
    return lambda obs, key: (policy(obs, None if deterministic else key), {})
