"""Clipped PPO on recorded actions, for any policy (Schulman et al. 2017, arXiv:1707.06347)."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
from flax.struct import PyTreeNode, field
from jax import Array

from genpo_jax.config import Config
from genpo_jax.policy import TrainedPolicy
from genpo_jax.training.agent import Agent
from genpo_jax.training.batch import Batch
from genpo_jax.training.extensions import Extension, extensions_of
from genpo_jax.training.schedule import linear_schedule

Tree = TypeVar("Tree")
# Largest factor by which the learning rate rises after one update, and the exponent of target / KL in that factor.
LARGEST_RISE = 1.5
LEARNING_RATE_GAIN = 0.5
# A step after which a minibatch has a KL above this multiple of the target is undone, and the learning rate falls.
EXCESSIVE = 2.0


class Hyperparameters(PyTreeNode):
    """Arguments of the compiled update, so that one program serves all of their values.

    `PPOConfig` describes them. The last three fields are compiled into the program, and so is the choice of None.

    Attributes:
        last_update: number of updates in the whole run.
        extensions: optional parts of the update, with their coefficients.
    """

    last_update: Array
    learning_rate: Array
    value_learning_rate: Array
    target_kl: Array | None
    final_kl: Array | None
    min_learning_rate: Array
    max_learning_rate: Array
    clip_range: Array
    value_clip: Array | None
    gamma: Array
    final_gamma: Array | None
    gae_lambda: Array
    policy_coef: Array | None
    value_coef: Array
    max_grad_norm: Array
    extensions: tuple[Extension, ...]
    objective: str = field(pytree_node=False)
    num_epochs: int = field(pytree_node=False)
    num_minibatches: int = field(pytree_node=False)

    @classmethod
    def of(cls, config: Config, teachers: tuple[TrainedPolicy, ...] = ()) -> "Hyperparameters":
        """Return the numbers of a run, as float32, with the teachers of a distillation."""
        shared = {f.name for f in dataclasses.fields(cls)} & {f.name for f in dataclasses.fields(config.ppo)}
        values: dict[str, Any] = {name: getattr(config.ppo, name) for name in shared}
        values |= {"last_update": config.num_updates, "extensions": extensions_of(config, teachers)}
        # Compiled away, because the gradient of a ratio that overflows is not finite.
        values["policy_coef"] = config.ppo.policy_coef or None
        return jax.tree.map(lambda number: jnp.asarray(number, jnp.float32), cls(**values))


class Learner(PyTreeNode):
    """Parameters, optimizer state and learning rate: the variables that `improve` changes."""

    params: Any
    opt_state: Any
    learning_rate: Array


def make_optimizer(max_grad_norm: Array | float, regressions: tuple[str, ...] = ()) -> optax.GradientTransformation:
    """Return Adam on clipped gradients, without the learning rate; non-finite gradients are skipped and counted.

    Args:
        max_grad_norm: largest global norm of a gradient.
        regressions: see `Policy.regressions`.
    """
    clip = optax.clip_by_global_norm(max_grad_norm)
    clip_separately = optax.partition(
        {True: clip, False: clip},
        partial(jax.tree_util.tree_map_with_path, lambda path, _: _is_regression(path, regressions)),
    )
    adam = optax.chain(clip_separately, optax.scale_by_adam(eps=1e-5))
    return optax.apply_if_finite(adam, max_consecutive_errors=jnp.iinfo(jnp.int32).max)


def _is_regression(path: tuple[Any, ...], regressions: tuple[str, ...]) -> bool:
    return path[0].key == "policy" and path[1].key in regressions


def start_learning(params: Any, hyper: Hyperparameters) -> Learner:
    """Return the learner with new parameters."""
    return Learner(params, make_optimizer(hyper.max_grad_norm).init(params), jnp.asarray(hyper.learning_rate))


def loss(agent: Agent, batch: Batch, hyper: Hyperparameters) -> tuple[Array, dict[str, Array]]:
    """Return the PPO loss of a minibatch, a scalar, and its metrics."""
    log_ratio = agent.log_ratio(batch.obs, batch.record)
    ratio = jnp.exp(log_ratio)
    # Several ratios of one action share its advantage.
    per_action = batch.advantage.shape + (1,) * (ratio.ndim - batch.advantage.ndim)
    advantage = batch.advantage.reshape(per_action)
    policy_loss = -_surrogate(ratio, advantage, hyper).mean()
    value_loss = _value_loss(agent.value_of(batch.obs), batch, hyper.value_clip)
    total = hyper.value_coef * value_loss + agent.auxiliary_loss(batch.obs, batch.record)
    if hyper.policy_coef is not None:
        total = hyper.policy_coef * policy_loss + total
    added: dict[str, Array] = {}
    for extension in hyper.extensions:
        term, metrics = extension.loss(agent, batch)
        total, added = total + term, added | metrics
    # The ratios of mirror images measure the policy's asymmetry, not its change, so the metrics exclude them.
    originals = True if batch.is_image is None else jnp.broadcast_to(~batch.is_image.reshape(per_action), ratio.shape)
    second_moment = (ratio**2).mean(where=originals)
    return total, {
        "train/policy_loss": policy_loss,
        "train/value_loss": value_loss,
        "train/entropy": agent.policy.entropy(),
        # k3 estimate (Schulman, "Approximating KL divergence"): never negative, unlike the mean of -log ratio.
        "train/kl": (ratio - 1 - log_ratio).mean(where=originals),
        "train/clip_fraction": (jnp.abs(ratio - 1) > hyper.clip_range).mean(where=originals),
        "train/ess": ratio.mean(where=originals) ** 2 / jnp.maximum(second_moment, jnp.finfo(ratio.dtype).tiny),
        "train/first_ratio_error": jnp.abs(log_ratio).max(where=originals, initial=0.0),
    } | added


def _surrogate(ratio: Array, advantage: Array, hyper: Hyperparameters) -> Array:
    clipped = jnp.clip(ratio, 1 - hyper.clip_range, 1 + hyper.clip_range)
    clip = jnp.minimum(ratio * advantage, clipped * advantage)
    if hyper.objective == "clip":
        return clip
    penalized = ratio * advantage - jnp.abs(advantage) / (2 * hyper.clip_range) * jnp.square(ratio - 1)
    return jnp.where(advantage > 0, clip, penalized)


def _value_loss(value: Array, batch: Batch, value_clip: Array | None) -> Array:
    error = jnp.square(value - batch.value_target)
    if value_clip is not None:
        near = batch.value + jnp.clip(value - batch.value, -value_clip, value_clip)
        error = jnp.maximum(error, jnp.square(near - batch.value_target))
    return 0.5 * error.mean()


def adapt_learning_rate(learning_rate: Array, kl: Array, progress: Array, hyper: Hyperparameters) -> Array:
    """Return the learning rate of the next update: the present one times the square root of target / KL, within bounds.

    The usual rule (rsl_rl) keeps the rate while the KL is between half and twice its target. A method with a noisy KL
    then stays at the lower end of this range, and one with a steady KL at the upper end. Only the rise is bounded,
    because after a far too large update a bounded fall would let several more follow.

    Args:
        learning_rate: rate at the end of the update.
        kl: mean over the minibatches of an update's last epoch.
        progress: fraction of the run that is done, in [0, 1].
        hyper: target and bounds.
    """
    if hyper.target_kl is None:
        return learning_rate
    target = linear_schedule(hyper.target_kl, hyper.final_kl, progress)
    factor = (target / jnp.maximum(kl, jnp.finfo(kl.dtype).tiny)) ** LEARNING_RATE_GAIN
    # A NaN leaves the rate unchanged. An infinite KL lowers it.
    factor = jnp.where(jnp.isnan(kl), 1.0, jnp.minimum(factor, LARGEST_RISE))
    rate = jnp.clip(learning_rate * factor, hyper.min_learning_rate, hyper.max_learning_rate)
    # The loss may have a wider type than the learner.
    return rate.astype(learning_rate.dtype)


def excess_of(kl: Array, progress: Array, hyper: Hyperparameters) -> Array:
    """Return the KL of a minibatch divided by `EXCESSIVE` times the target; 0 without a target."""
    if hyper.target_kl is None:
        return jnp.zeros_like(kl)
    return kl / (EXCESSIVE * linear_schedule(hyper.target_kl, hyper.final_kl, progress))


def brake_learning_rate(learning_rate: Array, excess: Array, hyper: Hyperparameters) -> Array:
    """Return the learning rate for the next minibatch: divided by the square root of an excess above 1.

    Args:
        learning_rate: present rate, within an update.
        excess: of the present minibatch, see `excess_of`.
        hyper: lower bound.
    """
    lower = jnp.maximum(learning_rate / jnp.sqrt(excess), hyper.min_learning_rate)
    # A comparison with NaN is false.
    return jnp.where(excess > 1, lower, learning_rate).astype(learning_rate.dtype)


def stepped(
    learner: Learner, updates: Any, earlier: Any, excess: Array, hyper: Hyperparameters, regressions: tuple[str, ...]
) -> Any:
    """Return the parameters after a step, or with an excess above 1 those of the policy before the last step.

    Args:
        learner: present parameters and learning rate.
        updates: of the optimizer, without the learning rate.
        earlier: parameters before the last step.
        excess: of the present minibatch, see `excess_of`.
        hyper: rate of the value network and of regressions, which always step.
        regressions: see `Policy.regressions`.
    """

    def moved(path: tuple[Any, ...], now: Array, update: Array, before: Array) -> Array:
        if path[0].key == "value" or _is_regression(path, regressions):
            return now - hyper.value_learning_rate * update
        return jnp.where(excess > 1, before, now - learner.learning_rate * update)

    return jax.tree_util.tree_map_with_path(moved, learner.params, updates, earlier)


def improve(
    learner: Learner,
    batch: Batch,
    key: Array,
    progress: Array,
    make_agent: Callable[[Any], Agent],
    hyper: Hyperparameters,
    shuffle: Callable[[Batch, Array], Batch] | None = None,
) -> tuple[Learner, dict[str, Array]]:
    """Run all epochs of minibatches on one batch.

    Args:
        learner: parameters, optimizer state, learning rate.
        batch: G groups of N transitions.
        key: typed PRNG key, for the shuffles.
        progress: fraction of the run that is done, in [0, 1].
        make_agent: returns the agent with given parameters.
        hyper: hyperparameters.
        shuffle: `split_minibatches` for this number of minibatches, or a sharded version of it.

    Returns:
        the learner and scalar metrics, means over the last epoch. `train/first_ratio_error` is from the first
        minibatch: its parameters are unchanged, so every log-ratio should be 0. `train/braked` is the share of all
        minibatches with an excessive KL: the policy takes back its last step in place of a new one.
    """
    num_groups = batch.advantage.shape[0]
    regressions = make_agent(learner.params).policy.regressions
    optimizer = make_optimizer(hyper.max_grad_norm, regressions)
    if shuffle is None:
        shuffle = partial(split_minibatches, num_minibatches=hyper.num_minibatches)

    def step(carry: tuple[Learner, Any], minibatch: Batch) -> tuple[tuple[Learner, Any], dict[str, Array]]:
        learner, earlier = carry

        def objective(params: Any) -> tuple[Array, dict[str, Array]]:
            return loss(make_agent(params), minibatch, hyper)

        gradient, metrics = jax.grad(objective, has_aux=True)(learner.params)
        updates, opt_state = optimizer.update(gradient, learner.opt_state, learner.params)
        excess = excess_of(metrics["train/kl"], progress, hyper)

        params = stepped(learner, updates, earlier, excess, hyper, regressions)
        earlier = jax.tree.map(lambda p, before: jnp.where(excess > 1, before, p), learner.params, earlier)
        metrics |= {
            "train/grad_norm": optax.tree.norm(gradient),
            "train/braked": (excess > 1).astype(jnp.float32),
        }
        learning_rate = brake_learning_rate(learner.learning_rate, excess, hyper)
        return (Learner(params, opt_state, learning_rate), earlier), metrics

    def epoch(carry: tuple[Learner, Any], key: Array) -> tuple[tuple[Learner, Any], dict[str, Array]]:
        return jax.lax.scan(step, carry, shuffle(batch, jax.random.split(key, num_groups)))

    skipped_before = learner.opt_state.total_notfinite
    carry = learner, learner.params
    (learner, _), metrics = jax.lax.scan(epoch, carry, jax.random.split(key, hyper.num_epochs))
    first, braked = metrics.pop("train/first_ratio_error")[0, 0], metrics.pop("train/braked").mean()
    metrics = {name: values[-1].mean() for name, values in metrics.items()}
    # Once per update: the KL starts at 0 in every update, so a rate adapted per minibatch would oscillate between its
    # bounds.
    learning_rate = adapt_learning_rate(learner.learning_rate, metrics["train/kl"], progress, hyper)
    metrics |= {
        "train/first_ratio_error": first,
        "train/braked": braked,
        "train/learning_rate": learning_rate,
        "train/skipped_gradients": (learner.opt_state.total_notfinite - skipped_before).astype(jnp.float32),
    }
    return learner.replace(learning_rate=learning_rate), metrics


def split_minibatches(batch: Tree, keys: Array, num_minibatches: int) -> Tree:
    """Split leaves `[G, N, ...]` at random into minibatches `[num_minibatches, G, N / num_minibatches, ...]`.

    Every minibatch has the same share of each group. Groups may be on different devices; no data moves between them.
    `keys` `[G]` has one typed PRNG key for each group.
    """

    def split_group(group: Tree, key: Array) -> Tree:
        size = jax.tree.leaves(group)[0].shape[0]
        order = jax.random.permutation(key, size).reshape(num_minibatches, -1)
        return jax.tree.map(lambda x: x[order], group)

    return jax.vmap(split_group, out_axes=1)(batch, keys)
