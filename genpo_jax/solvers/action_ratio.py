"""The likelihood ratio of the action alone, unbiased, from a few histories that are stored with it.

A solver state is an action a and a history h (the *rest* of `solver.split`). The ratio of states, p_now(a, h) /
p_then(a, h), is unbiased for that of actions, p_now(a) / p_then(a), but the history makes it noisy. Store with each
action its own history h_1, a draw of p_then(h | a), others from any proposal q(h | a), and beside each of them its
reflection about the center of q. With the weights w_k = p(a, h_k) / q(h_k | a) of all K,

    ratio_K(a) = sum_k w_k(now) / sum_k w_k(then)

has for every q the expectation p_now(a) / p_then(a), is the ratio of states for K = 1 and that of actions for K to
infinity, and is 1 at unchanged parameters. docs/methods.md has the proof. A step of the parameters changes log p(h | a)
nearly linearly in h, which a history and its reflection cancel: they leave about the noise of eight independent
ones (docs/studies/histories.md).
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array

from genpo_jax.shapes import Action, Numbers, State
from genpo_jax.solvers.flow import Flow
from genpo_jax.solvers.grid import check_count


@runtime_checkable
class Proposal(Protocol):
    """A density q of the rest given the action, and a symmetry of it."""

    def sample(self, key: Array, action: Array, num_samples: int) -> Array:
        """Draw rests `[num_samples, ..., k-1, d]` for actions `[..., d]`."""
        ...

    def log_prob(self, rest: Array, action: Array) -> Array:
        """Return log q `[n, ...]` of rests `[n, ..., k-1, d]` given actions `[..., d]`."""
        ...

    def reflect(self, rest: Array, action: Array) -> Array:
        """Return rests `[n, ..., k-1, d]` reflected, as about the mean of a normal density.

        Twice must be not at all, and q and volumes must stay the same. Where q has no symmetry, return the rests as
        they are: each then counts twice.
        """
        ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StoredHistories:
    """Actions, each with K histories, and their weights under the flow that drew them.

    Attributes:
        action: `[..., d]`.
        rest: `[K, ..., k-1, d]`: the action's own, its reflection, the next and its reflection, ...
        log_proposal: `[K, ...]`, log q(h_k | a).
        log_weight: `[K, ...]`, log w_k under the flow that drew the action.
    """

    action: Array
    rest: Array
    log_proposal: Array
    log_weight: Array


def store_histories(flow: Flow, proposal: Proposal, state: State, key: Array, num_histories: int) -> StoredHistories:
    """Add K - 1 more histories to that of each state, and weigh all K.

    Args:
        flow: that drew the states.
        proposal: q(h | a); its tails should be no lighter than those of p(h | a), or the ratio has a large variance.
        state: `[..., k, d]`, samples of the flow.
        key: typed key of the histories.
        num_histories: K, 1 or even.

    Raises:
        ValueError: if K is below 1, or odd and not 1.
    """
    check_count("num_histories", num_histories, "1 is the ratio of the whole state")
    if num_histories > 1 and num_histories % 2:
        raise ValueError(
            f"num_histories must be 1 or even, as each history comes with its reflection, got {num_histories}; use "
            f"{num_histories + 1}"
        )
    action, own = flow.solver.split(state)
    rest = own[None]
    if num_histories > 1:
        rest = jnp.concatenate([rest, proposal.sample(key, action, num_histories // 2 - 1)])
        pairs = jnp.stack([rest, proposal.reflect(rest, action)], axis=1)
        rest = pairs.reshape(num_histories, *own.shape)
    log_proposal = proposal.log_prob(rest, action)
    return StoredHistories(action, rest, log_proposal, log_weights(flow, action, rest, log_proposal))


def log_weights(flow: Flow, action: Action, rest: Array, log_proposal: Array) -> Array:
    """Return `log p(a, h) - log q(h | a)` `[n, ...]` of n rests `[n, ..., k-1, d]` for each action `[..., d]`."""
    if log_proposal.shape != (len(rest), *action.shape[:-1]):
        raise ValueError(
            f"log_proposal must be [n, ...] for rests {rest.shape} and actions {action.shape}, got "
            f"{log_proposal.shape}; pass what the proposal's log_prob returned"
        )

    # One history after the other, each computed again for its gradient: memory does not grow with their number, and
    # what stays in a CPU's cache takes half the time.
    @jax.checkpoint
    def log_weight(history: tuple[Array, Array]) -> Array:
        rest, log_proposal = history
        return flow.log_prob(flow.solver.join(action, rest)) - log_proposal

    return jax.lax.map(log_weight, (rest, log_proposal))


def action_log_ratio(flow: Flow, stored: StoredHistories) -> Numbers:
    """Return the logarithm `[...]` of the unbiased ratio of actions, of `flow` to the flow that stored them."""
    if stored.log_weight.shape != stored.log_proposal.shape:
        raise ValueError(
            f"log_weight must have the shape {stored.log_proposal.shape} of log_proposal, got "
            f"{stored.log_weight.shape}; pass what store_histories returned"
        )
    now = log_weights(flow, stored.action, stored.rest, stored.log_proposal)
    return jax.nn.logsumexp(now, axis=0) - jax.nn.logsumexp(stored.log_weight, axis=0)


def action_log_prob(stored: StoredHistories) -> Numbers:
    """Return an estimate `[...]` of the log density of actions under the flow that drew them.

    As the true history is among the K, it is too large in the mean, for any K and q, and less so the larger K is: minus
    it bounds the entropy of the action from below.
    """
    return jax.nn.logsumexp(stored.log_weight, axis=0) - math.log(len(stored.log_weight))
