"""Policy and value network with one set of parameters."""

from typing import Any

from flax import nnx
from jax import Array

from genpo_jax.envs import Observation
from genpo_jax.envs.base import ACTOR_OBS, CRITIC_OBS
from genpo_jax.methods import Method, NetworksConfig
from genpo_jax.policies.networks import ValueNetwork
from genpo_jax.shapes import Action, Numbers


def critic_obs_of(observation_sizes: dict[str, int]) -> str:
    """Return the name of the critic's observation: `privileged_state` if the environment has it, else `state`."""
    return CRITIC_OBS if CRITIC_OBS in observation_sizes else ACTOR_OBS


class Agent(nnx.Module):
    """A policy, which observes `state`, and a value network, which may observe `privileged_state`.

    Raises:
        ValueError: if there is no observation called `state`.
    """

    def __init__(
        self,
        observation_sizes: dict[str, int],
        action_size: int,
        method: Method,
        networks: NetworksConfig,
        rngs: nnx.Rngs,
    ) -> None:
        if ACTOR_OBS not in observation_sizes:
            raise ValueError(
                f"the actor needs an observation called '{ACTOR_OBS}', got {sorted(observation_sizes)}; rename one"
            )
        self.critic_obs = critic_obs_of(observation_sizes)
        self.policy = method.build(observation_sizes[ACTOR_OBS], action_size, networks, rngs)
        self.value = ValueNetwork(observation_sizes[self.critic_obs], networks, rngs)

    def sample(self, obs: Observation, key: Array) -> tuple[Action, Any]:
        """Draw actions `[..., d]`; return them and the record for `log_ratio`."""
        return self.policy.sample(obs[ACTOR_OBS], key)

    def act(self, obs: Observation, carry: Any, key: Array) -> tuple[Action, Any, Any]:
        """Draw actions `[..., d]`; return them, the policy's next carry and the record for `log_ratio`."""
        return self.policy.act(obs[ACTOR_OBS], carry, key)

    def zero_noise_act(self, obs: Observation, carry: Any) -> tuple[Action, Any]:
        """Return the deterministic actions `[..., d]` and the policy's next carry."""
        return self.policy.zero_noise_act(obs[ACTOR_OBS], carry)

    def complete(self, obs: Observation, record: Any, key: Array) -> Any:
        """Add to the records `[..., *]` of a rollout the data that only the update needs."""
        return self.policy.complete(obs[ACTOR_OBS], record, key)

    def log_ratio(self, obs: Observation, record: Any) -> Array:
        """Return the log-ratio `[...]` of recorded actions."""
        return self.policy.log_ratio(obs[ACTOR_OBS], record)

    def auxiliary_loss(self, obs: Observation, record: Any) -> Array:
        """Return the additional loss of the method, a scalar."""
        return self.policy.auxiliary_loss(obs[ACTOR_OBS], record)

    def action_log_prob(self, obs: Observation, record: Any) -> Array:
        """Return the log density `[...]` of recorded actions, or an estimate; see `Policy.action_log_prob`."""
        return self.policy.action_log_prob(obs[ACTOR_OBS], record)

    def zero_noise_action(self, obs: Observation) -> Array:
        """Return the deterministic actions `[..., d]`."""
        return self.policy.zero_noise_action(obs[ACTOR_OBS])

    def value_of(self, obs: Observation) -> Numbers:
        """Return the value `[...]`."""
        return self.value(obs[self.critic_obs])
