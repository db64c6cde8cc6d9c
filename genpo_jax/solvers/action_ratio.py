"""Unbiased likelihood ratio of the action alone, from a few stored histories.

A solver state is an action a and a history h (the *rest* of `solver.split`). The ratio of states,
p_now(a, h) / p_then(a, h), is an unbiased estimate of the ratio of actions, p_now(a) / p_then(a), but the history
makes it noisy. To reduce the noise, K histories are stored with each action: its own history h_1, which is a draw from
p_then(h | a), and draws from any proposal q(h | a). Each history is stored with its reflection at the center of q; the
two are an antithetic pair. With the weights w_k = p(a, h_k) / q(h_k | a),

    ratio_K(a) = sum_k w_k(now) / sum_k w_k(then)

has the expectation p_now(a) / p_then(a) for every q. It is the ratio of states for K = 1, the ratio of actions for K to
infinity, and 1 at unchanged parameters. docs/methods.md has the proof. A small parameter step changes log p(h | a)
nearly linearly in h, so the two changes of an antithetic pair cancel: one pair has about the noise of eight independent
histories (docs/studies/histories.md).
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
    """Protocol of a density q of the rest given the action, with a reflection that preserves q."""

    def sample(self, key: Array, action: Array, num_samples: int) -> Array:
        """Draw rests `[num_samples, ..., k-1, d]` for actions `[..., d]`."""
        ...

    def log_prob(self, rest: Array, action: Array) -> Array:
        """Return log q `[n, ...]` of rests `[n, ..., k-1, d]` given actions `[..., d]`."""
        ...

    def reflect(self, rest: Array, action: Array) -> Array:
        """Return reflected rests `[n, ..., k-1, d]`, e.g. at the mean of a normal density.

        The reflection must be an involution that preserves q and volume. If q has no symmetry, return the rests
        unchanged: each then counts twice.
        """
        ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StoredHistories:
    """Actions with K histories each, and the weights of the histories under the flow that drew them.

    Attributes:
        action: `[..., d]`.
        rest: `[K, ..., k-1, d]`, the histories in antithetic pairs, starting with the action's own history.
        log_proposal: `[K, ...]`, log q(h_k | a).
        log_weight: `[K, ...]`, log w_k under the flow that drew the action.
    """

    action: Array
    rest: Array
    log_proposal: Array
    log_weight: Array


def store_histories(flow: Flow, proposal: Proposal, state: State, key: Array, num_histories: int) -> StoredHistories:
    """Add K - 1 histories to the history of each state, and compute the weights of all K.

    Args:
        flow: the flow that drew the states.
        proposal: q(h | a). If its tails are lighter than those of p(h | a), the ratio has a large variance.
        state: `[..., k, d]`, samples of the flow.
        key: typed key of the histories.
        num_histories: K, which is 1 or even.

    Raises:
        ValueError: if K is below 1, or odd and not 1.
    """
    check_count("num_histories", num_histories, "1 is the ratio of the whole state")
    if num_histories > 1 and num_histories % 2:
        raise ValueError(
            f"num_histories must be 1 or even, because histories come in antithetic pairs, got {num_histories}; use "
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
    """Return `log p(a, h) - log q(h | a)` `[n, ...]` for rests `[n, ..., k-1, d]` and actions `[..., d]`."""
    if log_proposal.shape != (len(rest), *action.shape[:-1]):
        raise ValueError(
            f"log_proposal must be [n, ...] for rests {rest.shape} and actions {action.shape}, got "
            f"{log_proposal.shape}; pass the result of the proposal's log_prob"
        )

    # One history at a time, recomputed in the backward pass: memory does not grow with K, and on a CPU the working
    # set fits the cache, which halves the time.
    @jax.checkpoint
    def log_weight(history: tuple[Array, Array]) -> Array:
        rest, log_proposal = history
        return flow.log_prob(flow.solver.join(action, rest)) - log_proposal

    return jax.lax.map(log_weight, (rest, log_proposal))


def action_log_ratio(flow: Flow, stored: StoredHistories) -> Numbers:
    """Return the log `[...]` of the unbiased ratio of actions, `flow` over the flow that stored them."""
    if stored.log_weight.shape != stored.log_proposal.shape:
        raise ValueError(
            f"log_weight must have the shape {stored.log_proposal.shape} of log_proposal, got "
            f"{stored.log_weight.shape}; pass the result of store_histories"
        )
    now = log_weights(flow, stored.action, stored.rest, stored.log_proposal)
    return jax.nn.logsumexp(now, axis=0) - jax.nn.logsumexp(stored.log_weight, axis=0)


def action_log_prob(stored: StoredHistories) -> Numbers:
    """Return an estimate `[...]` of the log density of actions under the flow that drew them.

    The true history is among the K, so the estimate is too high in expectation, for any K and q. The excess shrinks
    with K. The negative mean of the estimate is a lower bound of the action's entropy.
    """
    return jax.nn.logsumexp(stored.log_weight, axis=0) - math.log(len(stored.log_weight))
