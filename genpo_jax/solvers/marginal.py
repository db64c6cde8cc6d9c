"""Importance sampling of the marginal density of the action.

A solver state is an action and a *rest*, the history; `solver.split` and `solver.join` convert between the two
forms. The marginal `p(a) = ∫ p(a, h) dh` has no closed form. With histories h_n drawn from a proposal q(h | a), the
estimate

    p(a) ≈ mean_n p(a, h_n) / q(h_n | a)

is unbiased, so its logarithm is a lower bound in expectation. It is exact if q is the true conditional density, and
consistent for any q whose tails are not lighter (Burda, Grosse and Salakhutdinov, arXiv:1509.00519).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from genpo_jax.shapes import Numbers, Samples
from genpo_jax.solvers.action_ratio import Proposal
from genpo_jax.solvers.flow import Flow
from genpo_jax.solvers.grid import check_count


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class HistoryProposal:
    """Normal density of the rest h given the action a, with a mean linear in a: `h ~ N(m + a W, L L^T)`.

    Attributes:
        mean: m, `[k-1, d]`.
        slope: W, `[d, (k-1) d]`.
        scale: L, `[(k-1) d, (k-1) d]`, lower triangular with a positive diagonal.

    """

    mean: Array
    slope: Array
    scale: Array

    def sample(self, key: Array, action: Array, num_samples: int) -> Array:
        """Draw rests `[num_samples, ..., k-1, d]` for actions `[..., d]`."""
        center = self._center(action)
        noise = jax.random.normal(key, (num_samples, *center.shape), center.dtype)
        return (center[None] + noise @ self.scale.T).reshape(num_samples, *action.shape[:-1], *self.mean.shape)

    def log_prob(self, rest: Array, action: Array) -> Array:
        """Return the log density `[n, ...]` of rests `[n, ..., k-1, d]` given actions `[..., d]`."""
        expected = (*action.shape[:-1], *self.mean.shape)
        if rest.shape[1:] != expected:
            raise ValueError(
                f"rests must be [n, {', '.join(map(str, expected))}], got {rest.shape}; pass samples of this proposal"
            )
        flat_rest = rest.reshape(*rest.shape[:-2], -1)
        deviation = flat_rest - jnp.broadcast_to(self._center(action), flat_rest.shape)
        flat = deviation.reshape(-1, deviation.shape[-1])
        standard = jax.scipy.linalg.solve_triangular(self.scale, flat.T, lower=True)
        log_scale = jnp.log(jnp.diagonal(self.scale)).sum() + 0.5 * len(self.scale) * math.log(2 * math.pi)
        return (-0.5 * (standard**2).sum(0) - log_scale).reshape(deviation.shape[:-1])

    def reflect(self, rest: Array, action: Array) -> Array:
        """Return rests `[n, ..., k-1, d]` reflected at the mean for actions `[..., d]`."""
        center = self._center(action).reshape(*action.shape[:-1], *self.mean.shape)
        return 2 * center[None] - rest

    def _center(self, action: Array) -> Array:
        shift = action @ self.slope
        return jnp.broadcast_to(self.mean.ravel(), shift.shape) + shift


class MarginalEstimate(NamedTuple):
    """Importance-sampling estimate with its effective sample size.

    Attributes:
        value: the estimated log density or log-ratio `[...]`.
        efficiency: effective sample size as a fraction of the samples `[...]`, in (0, 1]. Near 0 a few samples
            dominate the estimate: draw more, or fit a better proposal.

    """

    value: Array
    efficiency: Array


def fit_history_proposal(flow: Flow, key: Array, num_samples: int = 1024, inflation: float = 1.2) -> HistoryProposal:
    """Fit a `HistoryProposal` to samples of a flow by least squares; use `jax.vmap` for several observations.

    Args:
        flow: flow with batch shape `()`.
        key: typed key of the samples.
        num_samples: states to draw, more than k d + 1; ten times as many are better.
        inflation: factor on the fitted standard deviation, in case the true tails are heavier.

    Raises:
        ValueError: if the flow has batch dimensions, or `num_samples` is too small.

    """
    if flow.batch_shape:
        raise ValueError(f"the flow must have batch shape (), got {flow.batch_shape}; build it inside jax.vmap")
    size = flow.event_shape[0] * flow.event_shape[1]
    check_count("num_samples", num_samples, f"use {10 * size} or more")
    if num_samples <= size + 1:
        raise ValueError(f"num_samples must exceed k d + 1 = {size + 1}, got {num_samples}; use {10 * size} or more")
    if not (inflation > 0 and math.isfinite(inflation)):
        raise ValueError(f"inflation must be a finite number > 0, got {inflation!r}; 1.2 is the default")
    state = flow.sample(seed=key, sample_shape=num_samples)
    action, rest = flow.solver.split(state)
    flat = rest.reshape(num_samples, -1)
    action_mean, mean = action.mean(0, keepdims=True), flat.mean(0, keepdims=True)
    slope = jnp.linalg.lstsq(action - action_mean, flat - mean)[0]
    residual = flat - mean - (action - action_mean) @ slope
    covariance = residual.T @ residual / (num_samples - action.shape[-1] - 1)
    jitter = jnp.finfo(flat.dtype).eps * jnp.trace(covariance) * jnp.eye(flat.shape[-1], dtype=flat.dtype)
    scale = inflation * jnp.linalg.cholesky(covariance + jitter)
    return HistoryProposal((mean - action_mean @ slope).reshape(rest.shape[1:]), slope, scale)


def marginal_log_prob(
    flow: Flow, proposal: Proposal, action: Array, key: Array, num_samples: int = 64
) -> MarginalEstimate:
    """Estimate the log density of the action alone.

    Args:
        flow: flow whose density is estimated; its batch shape must fit the actions.
        proposal: q(h | a).
        action: `[..., d]`.
        key: typed key of the histories.
        num_samples: histories for each action.

    Returns:
        The estimate; value and efficiency have shape `[...]`.

    """
    log_weight = _log_weights(flow, proposal, action, key, num_samples)
    return MarginalEstimate(_log_mean_exp(log_weight), effective_sample_size(log_weight))


def marginal_log_ratio(
    new: Flow, old: Flow, proposal: Proposal, action: Array, key: Array, num_samples: int = 64
) -> MarginalEstimate:
    """Estimate `log p_new(a) - log p_old(a)` with the same histories for both densities.

    With shared histories the errors of the two estimates cancel to first order in new - old. The ratio equals
    the self-normalized average of the state ratio over histories from p_old(h | a), which is the expected state
    ratio given the action.

    Args:
        new: the flow in the numerator.
        old: the flow in the denominator, with the same solver.
        proposal: q(h | a), fitted to `old`.
        action: `[..., d]`.
        key: typed key of the histories.
        num_samples: histories for each action.

    Returns:
        The estimate; its efficiency is the smaller one of the two densities.

    """
    for name in ("event_shape", "solver"):
        if getattr(new, name) != getattr(old, name):
            raise ValueError(
                f"both flows must have the same {name}, because they share histories, got "
                f"{getattr(new, name)} and {getattr(old, name)}; build both with one solver"
            )
    log_new = _log_weights(new, proposal, action, key, num_samples)
    log_old = _log_weights(old, proposal, action, key, num_samples)
    efficiency = jnp.minimum(effective_sample_size(log_new), effective_sample_size(log_old))
    return MarginalEstimate(_log_mean_exp(log_new) - _log_mean_exp(log_old), efficiency)


def effective_sample_size(log_weight: Samples) -> Numbers:
    """Return `(Σ w)² / (n Σ w²)` in (0, 1] over the first axis of log weights `[n, ...]`.

    For the log-ratios of a rollout, it is the effective fraction of the batch in an importance-weighted average.
    """
    if log_weight.ndim < 1 or not len(log_weight):
        raise ValueError(f"log weights must be [n, ...] with n >= 1, got {log_weight.shape}; stack the samples first")
    log_sum = jax.nn.logsumexp(log_weight, axis=0)
    return jnp.exp(2 * log_sum - jax.nn.logsumexp(2 * log_weight, axis=0)) / log_weight.shape[0]


def _log_weights(flow: Flow, proposal: Proposal, action: Array, key: Array, num_samples: int) -> Array:
    check_count("num_samples", num_samples, "64 is the default")
    if action.shape[-1:] != flow.event_shape[-1:]:
        raise ValueError(f"actions must be [..., {flow.event_shape[-1]}], got {action.shape}; pass flow.action(state)")
    rest = proposal.sample(key, action, num_samples)
    # All at once, unlike in `action_ratio.log_weights`: here samples are many and actions are often few.
    actions = jnp.broadcast_to(action, (num_samples, *action.shape))
    return flow.log_prob(flow.solver.join(actions, rest)) - proposal.log_prob(rest, action)


def _log_mean_exp(values: Array) -> Array:
    return jax.nn.logsumexp(values, axis=0) - math.log(values.shape[0])
