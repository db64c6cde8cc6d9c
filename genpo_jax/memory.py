"""Predict how much memory the training program needs, before anything is compiled."""

from dataclasses import dataclass
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from genpo_jax.config import Config, PolicyConfig
from genpo_jax.envs import Environment
from genpo_jax.networks import ValueNetwork
from genpo_jax.policies import make_policy

FLOAT = 4
# Arrays per hidden unit that the compiler plans for forward and backward pass together, as measured on a CPU.
KEPT = {"mish": 2, "elu": 3, "swish": 3, "tanh": 2}
# Part of that which a unit of the velocity costs for each evaluation, by network.
KEPT_BY_VELOCITY = {"encoder": 0.65, "concat": 0.9}
# Advantage, value and its target, twice: in order, and dealt into minibatches; reward, flags and the episode so far.
SCALARS_PER_TRANSITION = 12
# Return, length, time limit and the two words of the key; the discounted return of the reward scale.
SCALARS_PER_ENV = 6


@dataclass(frozen=True)
class Memory:
    """Bytes of one seed's training program, over all devices.

    Attributes:
        learner: parameters and both moments of Adam; the gradient lies in the workspace.
        environments: states, observations and the pool of fresh ones.
        transitions: observations and records of one rollout, in order and dealt into minibatches.
        workspace: the larger of what the value network needs for a whole rollout, and what the gradient needs for one
            minibatch. The two are not alive together.
    """

    learner: int
    environments: int
    transitions: int
    workspace: int

    @property
    def total(self) -> int:
        """The sum."""
        return self.learner + self.environments + self.transitions + self.workspace


def state_bytes(env: Environment) -> int:
    """Return the bytes of the state of one environment, without its observations."""
    state, _ = jax.eval_shape(env.reset, jax.random.key(0))
    return _bytes(state)


def predict(config: Config, observation_sizes: dict[str, int], action_size: int, env_state_bytes: int) -> Memory:
    """Return the memory that `Trainer.program` needs for each seed, arguments and temporaries.

    With T the unroll, B the environments, P the minibatches, n the observation numbers and r the recorded ones of a
    transition, W the hidden units that are kept for the gradient (`gradient_units`) and w those of the widest layer:

        learner       3 * 4 * parameters
        environments  2 B (state + 4 n) + 24 B
        transitions   4 T B (2 n + 2 r + 12)
        workspace     4 T B max(2 w, (KEPT W + n + w / 2) / P)

    Physics temporaries are left out: they live during a step of all environments only, and reuse the workspace. Shared
    by D devices, each holds the learner and 1 / D of the rest.

    Args:
        config: of the run; `num_seeds` multiplies everything.
        observation_sizes: of the environment, by name.
        action_size: number of action coordinates.
        env_state_bytes: of one environment, see `state_bytes`.
    """
    policy = config.policy
    parameters, record, evaluations = _describe(policy, observation_sizes, action_size)
    num_envs = config.env_options.num_envs
    transitions = num_envs * config.ppo.unroll
    obs = sum(observation_sizes.values())
    widest = max(policy.value_sizes + (policy.encoder_sizes if _is_encoded(policy) else policy.hidden_sizes))
    gradient = KEPT[policy.activation] * gradient_units(policy, evaluations) + obs + widest / 2
    workspace = max(2 * max(policy.value_sizes), gradient / config.ppo.num_minibatches)
    return Memory(
        learner=3 * parameters,
        environments=num_envs * (2 * (env_state_bytes + FLOAT * obs) + FLOAT * SCALARS_PER_ENV),
        transitions=transitions * (FLOAT * (2 * obs + SCALARS_PER_TRANSITION) + 2 * record),
        workspace=round(transitions * FLOAT * workspace),
    )


def gradient_units(policy: PolicyConfig, evaluations: int) -> float:
    """Return the number of hidden units whose activations are kept for the gradient of one transition.

    Those of the value network, of the encoder or the Gaussian mean, and, times KEPT_BY_VELOCITY, those of all
    evaluations of the velocity (`evaluations` per action).
    """
    units = sum(policy.value_sizes)
    if policy.method == "gaussian":
        return units + sum(policy.hidden_sizes)
    if policy.base == "conditioned":
        units += sum(policy.hidden_sizes)
    velocity = policy.hidden_sizes
    if _is_encoded(policy):
        units += sum(policy.encoder_sizes)
        velocity = policy.head_sizes
    return units + KEPT_BY_VELOCITY[policy.network] * evaluations * sum(velocity)


def _is_encoded(policy: PolicyConfig) -> bool:
    return policy.method != "gaussian" and policy.network == "encoder"


def _describe(policy: PolicyConfig, sizes: dict[str, int], action_size: int) -> tuple[int, int, int]:
    """Return bytes of all parameters and of the record of one action, and velocity evaluations per ratio."""
    critic_obs = sizes.get("privileged_state", sizes["state"])
    evaluations = 0

    def build() -> Any:
        nonlocal evaluations
        rngs = nnx.Rngs(0)
        actor = make_policy(sizes["state"], action_size, policy, rngs)
        evaluations = getattr(actor, "evaluations", 0)
        critic = ValueNetwork(critic_obs, policy.value_sizes, policy.activation, rngs, policy.compute_dtype)
        _, record = actor.sample(jnp.zeros(sizes["state"]), jax.random.key(0))
        return nnx.state(actor, nnx.Param), nnx.state(critic, nnx.Param), record

    actor, critic, record = jax.eval_shape(build)
    return _bytes((actor, critic)), _bytes(record), evaluations


def _bytes(tree: Any) -> int:
    return sum(prod(leaf.shape) * _itemsize(leaf.dtype) for leaf in jax.tree.leaves(tree))


def _itemsize(dtype: Any) -> int:
    # A typed key is two words of 32 bits.
    return 8 if jnp.issubdtype(dtype, jax.dtypes.prng_key) else dtype.itemsize
