"""Predict how much memory the training program needs, before anything is compiled."""

import os
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from genpo_jax.config import Config
from genpo_jax.envs import Environment
from genpo_jax.policies.networks import MLP, ConcatVelocity, EncodedVelocity
from genpo_jax.training.agent import Agent

FLOAT = 4
# Arrays per hidden unit that the compiler plans for forward and backward pass together, as measured on a CPU.
KEPT = {"mish": 2, "elu": 3, "swish": 3, "tanh": 2}
# Part of that which a unit of the velocity costs for each evaluation, by network.
KEPT_BY_VELOCITY = {EncodedVelocity: 0.65, ConcatVelocity: 0.9}
# Advantage, value and its target, twice: in order, and split into minibatches; reward, flags and the episode so far.
SCALARS_PER_TRANSITION = 12
# Return, length, time limit and the two words of the key; the discounted return of the reward scale.
SCALARS_PER_ENV = 6


@dataclass(frozen=True)
class Memory:
    """Bytes of one seed's training program, over all devices.

    Attributes:
        learner: parameters and both moments of Adam; the gradient lies in the workspace.
        environments: states, observations and the pool of fresh ones.
        transitions: observations and records of one rollout, in order and split into minibatches.
        workspace: the largest of what the value network needs for a whole rollout, what the gradient needs for one
            minibatch, and what drawing histories for a whole rollout needs. They are not alive together.
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

    With T the unroll (twice that with mirror images), B the environments, P the minibatches, n the observation numbers
    and r the recorded ones of a transition, U the hidden units that are kept for the gradient (`gradient_units`), r and
    U twice that where the policy at the start is cloned, v the widest layer of the value network, w the widest layer
    of all, and, where several histories are drawn for each action of the rollout, E the evaluations of the velocity in
    one of them, of u units each, and c = w + (E + 1) u; c = 0 otherwise:

        learner       3 * 4 * parameters
        environments  2 B (state + 4 n) + 24 B
        transitions   4 T B (2 n + 2 r + 12)
        workspace     4 T B max(2 v, (KEPT U + n + w / 2) / P, c)

    Physics temporaries are left out: they live during a step of all environments only, and reuse the workspace. Shared
    by D devices, each holds the learner and 1 / D of the rest.

    Args:
        config: of the run; `num_seeds` multiplies everything.
        observation_sizes: of the environment, by name.
        action_size: number of action coordinates.
        env_state_bytes: of one environment, see `state_bytes`.
    """

    def build() -> tuple[Agent, Any, Any]:
        agent = Agent(observation_sizes, action_size, config.method, config.networks, nnx.Rngs(0))
        obs, key = {name: jnp.zeros(size) for name, size in observation_sizes.items()}, jax.random.key(0)
        drawn = agent.sample(obs, key)[1]
        return agent, drawn, agent.complete(obs, drawn, key)

    agent, drawn, record = nnx.eval_shape(build)
    num_envs, activation = config.env_options.num_envs, config.networks.activation
    transitions = num_envs * config.ppo.unroll * (2 if config.ppo.mirror else 1)
    records = 2 if config.ppo.bc_coef else 1
    obs = sum(observation_sizes.values())
    gradient = KEPT[activation] * records * gradient_units(agent) + obs + max(_widths(agent)) / 2
    workspace = max(2 * max(config.networks.value_sizes), gradient / config.ppo.num_minibatches)
    if _bytes(record) > _bytes(drawn):
        velocity: Any = getattr(agent.policy, "velocity", None)
        evaluations = (agent.policy.ratio_evaluations + 1) * velocity.units_per_call
        workspace = max(workspace, max(_widths(agent)) + evaluations)
    return Memory(
        learner=3 * _bytes(nnx.state(agent, nnx.Param)),
        environments=num_envs * (2 * (env_state_bytes + FLOAT * obs) + FLOAT * SCALARS_PER_ENV),
        transitions=transitions * (FLOAT * (2 * obs + SCALARS_PER_TRANSITION) + 2 * records * _bytes(record)),
        workspace=round(transitions * FLOAT * workspace),
    )


def shortage(config: Config, env: Environment) -> str | None:
    """Return a warning where a run is predicted to need more memory than a device has; None where it fits."""
    needed = predict(config, env.observation_sizes, config.env_options.chunk * env.action_size, state_bytes(env))
    shared = (needed.total - needed.learner) / jax.device_count()
    bytes_needed, there = config.num_seeds * (needed.learner + shared), device_bytes()
    if there is None or bytes_needed <= there:
        return None
    return (
        f"this run is predicted to need {bytes_needed / 2**30:.3g} GiB on each device, which has {there / 2**30:.3g}; "
        "it will not fit: fewer num_envs, num_seeds or unroll, or more num_minibatches, need less"
    )


def device_bytes() -> float | None:
    """Return the memory of one device of this process, of a CPU its part of the machine's; None where unknown."""
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("bytes_limit")
    limits = []
    if hasattr(os, "sysconf"):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    group = Path("/sys/fs/cgroup/memory.max")
    # A container's own limit, or "max".
    if group.is_file() and (text := group.read_text().strip()).isdecimal():
        limits.append(int(text))
    return min(limits) / jax.local_device_count() if limits else None


def gradient_units(agent: Agent) -> float:
    """Return the number of hidden units whose activations are kept for the gradient of one transition.

    Those of every network that sees the observation once, and, times KEPT_BY_VELOCITY, those of all evaluations of the
    velocity in one ratio.
    """
    velocity = getattr(agent.policy, "velocity", None)
    units = float(sum(_widths(agent)))
    if velocity is None:
        return units
    kept = KEPT_BY_VELOCITY[type(velocity)] * agent.policy.ratio_evaluations
    return units + kept * velocity.units_per_call


def _widths(agent: Agent) -> list[int]:
    """Return the hidden layers of all networks that see the observation once."""
    velocity = getattr(agent.policy, "velocity", None)
    # The time's own network does not depend on the batch; head and trunk count for each evaluation.
    others = {id(getattr(velocity, name, None)) for name in ("time", "head", "trunk")}
    return [
        width
        for _, module in nnx.iter_modules(agent)
        if isinstance(module, MLP) and id(module) not in others
        for width in module.sizes
    ]


def _bytes(tree: Any) -> int:
    return sum(prod(leaf.shape) * _itemsize(leaf.dtype) for leaf in jax.tree.leaves(tree))


def _itemsize(dtype: Any) -> int:
    # A typed key is two words of 32 bits.
    return 8 if jnp.issubdtype(dtype, jax.dtypes.prng_key) else dtype.itemsize
