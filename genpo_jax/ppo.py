"""Clipped PPO on recorded actions, whatever the policy (Schulman et al. 2017, arXiv:1707.06347)."""

import dataclasses
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
from flax.struct import PyTreeNode
from jax import Array

from genpo_jax.agent import Agent
from genpo_jax.config import PPOConfig
from genpo_jax.envs import Observation

Tree = TypeVar("Tree")
# Largest factor by which the learning rate changes after one update, and how strongly it answers to the KL.
LEARNING_RATE_FACTOR = 1.5
LEARNING_RATE_GAIN = 0.5

# The numbers of a PPOConfig are data, so that a program serves all of their values; what shapes it is not.
NUMBERS = [field.name for field in dataclasses.fields(PPOConfig) if field.type in (float, float | None)]
SHAPES = [field.name for field in dataclasses.fields(PPOConfig) if field.name not in NUMBERS]


def _flatten(config: PPOConfig) -> tuple[list[Any], tuple[Any, ...]]:
    return [getattr(config, name) for name in NUMBERS], tuple(getattr(config, name) for name in SHAPES)


def _unflatten(shapes: tuple[Any, ...], numbers: Iterable[Any]) -> PPOConfig:
    # Without its checks: a traced number has no range yet, and it was checked when it was set.
    config = object.__new__(PPOConfig)
    for name, value in zip((*NUMBERS, *SHAPES), (*numbers, *shapes), strict=True):
        object.__setattr__(config, name, value)
    return config


jax.tree_util.register_pytree_node(PPOConfig, _flatten, _unflatten)


class Batch(PyTreeNode):
    """Transitions to learn from, `[G, N, ...]`: N of each of G groups; observations are standardised already."""

    obs: Observation
    record: Any
    value: Array
    value_target: Array
    advantage: Array


class Learner(PyTreeNode):
    """What an update changes: parameters, optimiser state and learning rate."""

    params: Any
    opt_state: Any
    learning_rate: Array


def make_optimizer(config: PPOConfig) -> optax.GradientTransformation:
    """Return Adam on clipped gradients, without the learning rate; non-finite gradients are skipped and counted."""
    adam = optax.chain(optax.clip_by_global_norm(config.max_grad_norm), optax.scale_by_adam(eps=1e-5))
    return optax.apply_if_finite(adam, max_consecutive_errors=jnp.iinfo(jnp.int32).max)


def loss(agent: Agent, batch: Batch, config: PPOConfig) -> tuple[Array, dict[str, Array]]:
    """Return the PPO loss of a minibatch, a scalar, and its metrics."""
    log_ratio = agent.log_ratio(batch.obs, batch.record)
    ratio = jnp.exp(log_ratio)
    # Several ratios of one action share its advantage.
    advantage = batch.advantage.reshape(batch.advantage.shape + (1,) * (ratio.ndim - batch.advantage.ndim))
    policy_loss = -_surrogate(ratio, advantage, config).mean()
    value_loss = _value_loss(agent.value_of(batch.obs), batch, config.value_clip)
    entropy = agent.policy.entropy()
    total = policy_loss + config.value_coef * value_loss - config.entropy_coef * entropy
    total += agent.penalty(batch.obs, batch.record)
    return total, {
        "train/policy_loss": policy_loss,
        "train/value_loss": value_loss,
        "train/entropy": entropy,
        # k3 estimate (Schulman, "Approximating KL divergence"): never negative, unlike the mean of -log ratio.
        "train/kl": (ratio - 1 - log_ratio).mean(),
        "train/clip_fraction": (jnp.abs(ratio - 1) > config.clip_range).mean(),
        "train/ess": ratio.sum() ** 2 / jnp.maximum((ratio**2).sum() * ratio.size, jnp.finfo(ratio.dtype).tiny),
        "train/first_ratio_error": jnp.abs(log_ratio).max(),
    }


def _surrogate(ratio: Array, advantage: Array, config: PPOConfig) -> Array:
    clipped = jnp.clip(ratio, 1 - config.clip_range, 1 + config.clip_range)
    clip = jnp.minimum(ratio * advantage, clipped * advantage)
    if config.objective == "clip":
        return clip
    penalised = ratio * advantage - jnp.abs(advantage) / (2 * config.clip_range) * jnp.square(ratio - 1)
    return jnp.where(advantage > 0, clip, penalised)


def _value_loss(value: Array, batch: Batch, value_clip: float | None) -> Array:
    error = jnp.square(value - batch.value_target)
    if value_clip is not None:
        near = batch.value + jnp.clip(value - batch.value, -value_clip, value_clip)
        error = jnp.maximum(error, jnp.square(near - batch.value_target))
    return 0.5 * error.mean()


def adapt_learning_rate(learning_rate: Array, kl: Array, progress: Array, config: PPOConfig) -> Array:
    """Return the rate that brings the KL closer to its target: times the square root of target / KL, within bounds.

    The usual rule (rsl_rl) leaves the rate alone while the KL is between half and twice its target. Of two methods, the
    one whose KL scatters more is then held at the lower end of that range and the other at the upper.
    """
    if config.target_kl is None:
        return learning_rate
    final = config.target_kl if config.final_kl is None else config.final_kl
    target = config.target_kl + progress * (final - config.target_kl)
    factor = (target / jnp.maximum(kl, jnp.finfo(kl.dtype).tiny)) ** LEARNING_RATE_GAIN
    factor = jnp.clip(factor, 1 / LEARNING_RATE_FACTOR, LEARNING_RATE_FACTOR)
    # Without a finite KL there is nothing to follow; an infinite one asks for less.
    factor = jnp.where(jnp.isnan(kl), 1.0, factor)
    return jnp.clip(learning_rate * factor, config.min_learning_rate, config.max_learning_rate)


def improve(
    learner: Learner,
    batch: Batch,
    key: Array,
    progress: Array,
    merge: Callable[[Any], Agent],
    config: PPOConfig,
    shuffle: Callable[[Batch, Array], Batch] | None = None,
) -> tuple[Learner, dict[str, Array]]:
    """Run all epochs of minibatches on one batch.

    Args:
        learner: parameters, optimiser state, learning rate.
        batch: G groups of N transitions.
        key: typed PRNG key, for the shuffles.
        progress: part of the run that is done, in [0, 1].
        merge: turns parameters into an agent.
        config: settings of the update.
        shuffle: `deal` for this number of minibatches, or a sharded form of it.

    Returns:
        the learner, and scalar metrics: means over the last epoch, but `train/first_ratio_error` of the very first
        minibatch, where the parameters have not changed yet and every log-ratio should be 0.
    """
    num_groups = batch.advantage.shape[0]
    optimizer = make_optimizer(config)
    if shuffle is None:
        shuffle = partial(deal, num_minibatches=config.num_minibatches)

    def step(learner: Learner, minibatch: Batch) -> tuple[Learner, dict[str, Array]]:
        def objective(params: Any) -> tuple[Array, dict[str, Array]]:
            return loss(merge(params), minibatch, config)

        gradient, metrics = jax.grad(objective, has_aux=True)(learner.params)
        updates, opt_state = optimizer.update(gradient, learner.opt_state, learner.params)
        rates = {"policy": learner.learning_rate, "value": config.value_learning_rate}
        params = jax.tree_util.tree_map_with_path(
            lambda path, p, u: p - rates[path[0].key] * u, learner.params, updates
        )
        metrics["train/grad_norm"] = optax.tree.norm(gradient)
        return learner.replace(params=params, opt_state=opt_state), metrics

    def epoch(learner: Learner, key: Array) -> tuple[Learner, dict[str, Array]]:
        return jax.lax.scan(step, learner, shuffle(batch, jax.random.split(key, num_groups)))

    learner, metrics = jax.lax.scan(epoch, learner, jax.random.split(key, config.num_epochs))
    first = metrics.pop("train/first_ratio_error")[0, 0]
    metrics = {name: values[-1].mean() for name, values in metrics.items()}
    # Once per update, by the KL at its end: within an update the KL starts at 0, and a rate that follows it
    # minibatch by minibatch would saw between its bounds.
    learning_rate = adapt_learning_rate(learner.learning_rate, metrics["train/kl"], progress, config)
    metrics |= {"train/first_ratio_error": first, "train/learning_rate": learning_rate}
    return learner.replace(learning_rate=learning_rate), metrics


def deal(batch: Tree, keys: Array, num_minibatches: int) -> Tree:
    """Deal leaves `[G, N, ...]` at random into minibatches `[num_minibatches, G, N / num_minibatches, ...]`.

    Every minibatch gets the same share of each group: groups can lie on different devices, and nothing moves between
    them. `keys` `[G]` are one typed PRNG key for each group.
    """

    def deal_group(group: Tree, key: Array) -> Tree:
        size = jax.tree.leaves(group)[0].shape[0]
        order = jax.random.permutation(key, size).reshape(num_minibatches, -1)
        return jax.tree.map(lambda x: x[order], group)

    return jax.vmap(deal_group, out_axes=1)(batch, keys)
