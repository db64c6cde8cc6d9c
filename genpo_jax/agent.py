"""Policy and value function as one set of parameters."""

from typing import Any

from flax import nnx
from jax import Array

from genpo_jax.config import PolicyConfig
from genpo_jax.envs import Environment, Observation
from genpo_jax.networks import ValueNetwork
from genpo_jax.policies import make_policy


class Agent(nnx.Module):
    """A policy and a value network, each on its own part of the observation.

    The actor sees `state`. The critic sees `privileged_state` where the environment offers it, else `state`.
    """

    def __init__(self, env: Environment, config: PolicyConfig, rngs: nnx.Rngs) -> None:
        sizes = env.observation_sizes
        self.critic_obs = "privileged_state" if "privileged_state" in sizes else "state"
        if "state" not in sizes:
            raise ValueError(f"the actor needs an observation called 'state', {env.name} offers {sorted(sizes)}")
        self.policy = make_policy(sizes["state"], env.action_size, config, rngs)
        self.value = ValueNetwork(
            sizes[self.critic_obs], config.value_sizes, config.activation, rngs, config.compute_dtype
        )

    def sample(self, obs: Observation, key: Array) -> tuple[Array, Any]:
        """Draw actions `[..., d]`, with the record for `log_ratio`."""
        return self.policy.sample(obs["state"], key)

    def log_ratio(self, obs: Observation, record: Any) -> Array:
        """Return the log-ratio `[...]` of recorded actions."""
        return self.policy.log_ratio(obs["state"], record)

    def penalty(self, obs: Observation, record: Any) -> Array:
        """Return what the method adds to the PPO loss, a scalar."""
        return self.policy.penalty(obs["state"], record)

    def log_prob(self, obs: Observation, record: Any) -> tuple[Array, Array]:
        """Return recorded actions `[..., d]` and their log density `[...]`, or an estimate no lower in the mean."""
        return self.policy.log_prob(obs["state"], record)

    def mode(self, obs: Observation) -> Array:
        """Return the actions `[..., d]` of zero noise."""
        return self.policy.mode(obs["state"])

    def value_of(self, obs: Observation) -> Array:
        """Return the value `[...]`."""
        return self.value(obs[self.critic_obs])
