"""Flow policies whose likelihood ratio is exact, through a reversible solver."""

import math
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.struct import PyTreeNode
from jax import Array

from genpo_jax.methods import NetworksConfig, ReversibleMethod
from genpo_jax.policies.base import Policy
from genpo_jax.policies.history_model import HistoryModel
from genpo_jax.policies.networks import MLP, OUTPUT_GAIN, make_velocity
from genpo_jax.shapes import Action, Noise, Numbers, Obs, Scalar
from genpo_jax.solvers import (
    CorrelatedNormal,
    DiagonalNormal,
    Flow,
    ReversibleSolver,
    StoredHistories,
    action_directions,
    action_log_prob,
    action_log_ratio,
    correlated_normal,
    effective_sample_size,
    still_weights,
    store_histories,
)


class StateRecord(PyTreeNode):
    """The solver's final state `[..., k, d]` and the base log density `[...]` of the noise it came from."""

    COORDINATES: ClassVar[tuple[str, ...]] = ("state",)

    state: Array
    log_base: Array


class HistoriesRecord(PyTreeNode):
    """An action with K histories, batch dimensions first.

    Attributes:
        action: `[..., d]`.
        rest: `[..., K, k-1, d]`: the action's own, its reflection, the next and its reflection, ...
        log_proposal: `[..., K]`.
        log_weight: `[..., K]`.
        anchor: `[..., k, d]`, where the model of the history looked for it.
    """

    COORDINATES: ClassVar[tuple[str, ...]] = ("action", "rest", "anchor")

    action: Array
    rest: Array
    log_proposal: Array
    log_weight: Array
    anchor: Array

    @classmethod
    def of(cls, stored: StoredHistories, anchor: Array) -> "HistoriesRecord":
        """Return stored histories with their axis K after those of the batch."""
        rest = jnp.moveaxis(stored.rest, 0, -3)
        return cls(
            stored.action,
            rest,
            jnp.moveaxis(stored.log_proposal, 0, -1),
            jnp.moveaxis(stored.log_weight, 0, -1),
            anchor,
        )

    def first(self, count: int) -> "HistoriesRecord":
        """Return the record with the first `count` histories alone, as if no more had been drawn."""
        return self.replace(
            rest=self.rest[..., :count, :, :],
            log_proposal=self.log_proposal[..., :count],
            log_weight=self.log_weight[..., :count],
        )

    @property
    def stored(self) -> StoredHistories:
        """The same with axis K first."""
        rest = jnp.moveaxis(self.rest, -3, 0)
        log_proposal, log_weight = (jnp.moveaxis(x, -1, 0) for x in (self.log_proposal, self.log_weight))
        return StoredHistories(self.action, rest, log_proposal, log_weight)


class ReversiblePolicy(Policy):
    """Integrate noise to an action by a learned velocity; take the solver back to the noise for the ratio.

    With z the noise that the *stored* final state has under the present parameters,

        log ratio = log p0(z_now) - log p0(z_then)

    as the log-determinant of a reversible solver is a constant and cancels. That ratio is exact for the density of the
    whole state, action and history (GenPO++, arXiv:2606.06967), which makes it unbiased for the action, with the
    variance of the history on top. With `num_histories` K > 1 it is averaged over K histories, and K to infinity is
    the ratio of the action alone (`genpo_jax/solvers/action_ratio.py`).

    Args:
        obs_size: numbers in an observation.
        action_size: number d of action coordinates.
        method: settings of the policy.
        networks: what its networks share.
        rngs: of the initial parameters.
        solver: from noise to action; None for the method's.
    """

    regressions = ("history",)

    def __init__(
        self,
        obs_size: int,
        action_size: int,
        method: ReversibleMethod,
        networks: NetworksConfig,
        rngs: nnx.Rngs,
        solver: ReversibleSolver | None = None,
    ) -> None:
        self.solver: ReversibleSolver = method.make_solver() if solver is None else solver
        self.velocity = make_velocity(obs_size, action_size, method, networks, rngs)
        self.num_histories = method.num_histories
        self.noise_rows = self.solver.num_states
        self.ratio_evaluations = len(self.solver.evaluation_times)
        self.action_size = action_size
        std = method.initial_std / float(np.linalg.norm(still_weights(self.solver)[0]))
        self.history_std = method.history_scale * std if method.base == "action-scale" else None
        rows = self.solver.num_states if self.history_std is None else 1
        fixed = method.base in ("standard", "correlated")
        self.log_scale = None if fixed else nnx.Param(jnp.full((rows, action_size), math.log(std), jnp.float32))
        # Of a flow that was trained elsewhere, noise keeps the scale that it was trained with.
        self.tau = method.tau if method.base == "correlated" else None
        mean = {"size_out": action_size, "gain": OUTPUT_GAIN, "dtype": networks.compute_dtype}
        conditioned = method.base == "conditioned"
        self.mean = MLP(obs_size, method.hidden_sizes, networks.activation, rngs, **mean) if conditioned else None
        with_model = method.num_histories > 1 or method.action_entropy_coef > 0
        sizes = (obs_size, action_size, method.head_sizes)
        self.history = HistoryModel(*sizes, networks, self.solver, rngs) if with_model else None

    def sample(self, obs: Obs, key: Array) -> tuple[Action, StateRecord]:
        """Draw actions `[..., d]`."""
        flow = self.flow(obs)
        noise = flow.base.sample(key, obs.shape[:-1])
        state = flow.forward(noise)
        return flow.action(state), StateRecord(state, flow.base.log_prob(noise))

    def complete(self, obs: Obs, record: Any, key: Array) -> StateRecord | HistoriesRecord:
        """Return records with K histories in place of one, where there is a model of them."""
        if self.history is None:
            return record
        flow = self.flow(obs)
        anchor = flow.forward(self._zero_noise(obs))
        proposal = self.history.given(obs, self._normal(), anchor)
        return HistoriesRecord.of(store_histories(flow, proposal, record.state, key, self.num_histories), anchor)

    def log_ratio(self, obs: Obs, record: Any) -> Numbers:
        """Return the log-ratio `[...]` of recorded actions."""
        flow = self.flow(obs)
        if isinstance(record, HistoriesRecord):
            return action_log_ratio(flow, record.stored)
        return flow.base.log_prob(flow.inverse(record.state)) - record.log_base

    def action_of(self, obs: Obs, noise: Noise) -> Action:
        """Return the actions `[..., d]` that noise flows to."""
        flow = self.flow(obs)
        return flow.action(flow.forward(self._base(obs).from_standard(noise)))

    def zero_noise_action(self, obs: Obs) -> Action:
        """Return the actions `[..., d]` that zero noise flows to."""
        flow = self.flow(obs)
        return flow.action(flow.forward(self._zero_noise(obs)))

    def entropy(self) -> Scalar:
        """Return the entropy of the whole state, a scalar; its gradient is zero under the standard base."""
        return self._density(None).entropy() + self.solver.log_det(self.action_size)

    def auxiliary_loss(self, obs: Obs, record: Any) -> Scalar:
        """Return the loss of the history model, a scalar; it does not reach the policy itself."""
        if self.history is None:
            return jnp.zeros(())
        proposal = self.history.given(obs, self._normal(), record.anchor)
        return -proposal.log_prob(record.rest[..., 0, :, :], record.action).mean()

    def metrics(self, record: Any) -> dict[str, Array]:
        """Return how well the model of the history is met: the effective part of the K histories, in (1/K, 1]."""
        if self.num_histories == 1:
            return {}
        return {"history_ess": effective_sample_size(record.stored.log_weight).mean()}

    def recorded_action(self, record: Any) -> Action:
        """Return recorded actions `[..., d]`."""
        return record.action if isinstance(record, HistoriesRecord) else self.solver.output(record.state)

    def action_log_prob(self, obs: Obs, record: Any) -> Numbers:
        """Return an estimate of the log density `[...]` of recorded actions, no lower in the mean.

        With one history it is log p(a, h) - log q(h | a), too large by the KL divergence of q from p(h | a); every
        further history brings it nearer.

        Raises:
            ValueError: if the policy was built without a model of the history.
        """
        del obs
        if not isinstance(record, HistoriesRecord):
            raise ValueError("the density of an action needs a record of `complete` and a model of the history")
        return action_log_prob(record.stored)

    def flow(self, obs: Array) -> Flow:
        """Return the distribution of the solver's state for observations `[..., obs_size]`."""
        return Flow(self.solver, self.velocity.condition(obs, self.solver.evaluation_times), self._base(obs))

    def _base(self, obs: Array) -> DiagonalNormal | CorrelatedNormal:
        return self._density(None if self.mean is None else self.mean(obs))

    def _density(self, mean: Array | None) -> DiagonalNormal | CorrelatedNormal:
        if self.tau is not None:
            return correlated_normal(self.solver.num_states, self.action_size, self.tau)
        return self._normal(mean)

    def _normal(self, mean: Array | None = None) -> DiagonalNormal:
        """Return the density of noise about `mean`, for all bases but the correlated."""
        shape = (self.solver.num_states, self.action_size)
        if self.log_scale is None:
            return DiagonalNormal(jnp.zeros(shape), mean)
        if self.history_std is None:
            return DiagonalNormal(self.log_scale[...], mean)
        history = jnp.full((shape[0] - 1, shape[1]), math.log(self.history_std))
        return DiagonalNormal(jnp.concatenate([self.log_scale[...], history]), mean, action_directions(self.solver))

    def _zero_noise(self, obs: Array) -> Array:
        """Return the mean `[..., k, d]` of the noise."""
        mean = jnp.zeros((*obs.shape[:-1], self.action_size), obs.dtype) if self.mean is None else self.mean(obs)
        return jnp.broadcast_to(mean[..., None, :], (*obs.shape[:-1], self.solver.num_states, self.action_size))
