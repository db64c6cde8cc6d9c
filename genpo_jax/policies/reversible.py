"""Flow policies with an exact likelihood ratio, computed through a reversible solver."""

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
    action_log_prob,
    action_log_ratio,
    correlated_normal,
    effective_sample_size,
    still_weights,
    store_histories,
)


class StateRecord(PyTreeNode):
    """Final state `[..., k, d]` of the solver, and the base log density `[...]` of its noise."""

    COORDINATES: ClassVar[tuple[str, ...]] = ("state",)

    state: Array
    log_base: Array


class HistoriesRecord(PyTreeNode):
    """Actions with K histories each; batch dimensions come first. See `StoredHistories`.

    Attributes:
        action: `[..., d]`.
        rest: `[..., K, k-1, d]`, the histories in antithetic pairs, starting with the action's own history.
        log_proposal: `[..., K]`.
        log_weight: `[..., K]`.
        anchor: `[..., k, d]`, the state around which the history model is centered.
    """

    COORDINATES: ClassVar[tuple[str, ...]] = ("action", "rest", "anchor")

    action: Array
    rest: Array
    log_proposal: Array
    log_weight: Array
    anchor: Array

    @classmethod
    def of(cls, stored: StoredHistories, anchor: Array) -> "HistoriesRecord":
        """Build the record from stored histories, with axis K after the batch dimensions."""
        rest = jnp.moveaxis(stored.rest, 0, -3)
        return cls(
            stored.action,
            rest,
            jnp.moveaxis(stored.log_proposal, 0, -1),
            jnp.moveaxis(stored.log_weight, 0, -1),
            anchor,
        )

    def first(self, count: int) -> "HistoriesRecord":
        """Return the record with only the first `count` histories."""
        return self.replace(
            rest=self.rest[..., :count, :, :],
            log_proposal=self.log_proposal[..., :count],
            log_weight=self.log_weight[..., :count],
        )

    @property
    def stored(self) -> StoredHistories:
        """The histories with axis K first."""
        rest = jnp.moveaxis(self.rest, -3, 0)
        log_proposal, log_weight = (jnp.moveaxis(x, -1, 0) for x in (self.log_proposal, self.log_weight))
        return StoredHistories(self.action, rest, log_proposal, log_weight)


class ReversiblePolicy(Policy):
    """Policy that integrates noise to an action by a learned velocity, and inverts the solver for the ratio.

    Let z be the noise from which the velocity leads to the *stored* final state, and p0 its base density. Then

        log ratio = log p0(z_now) - log p0(z_then)

    because the log-determinant of a reversible solver is a constant and cancels. This ratio is exact for the density
    of the whole state, action and history (GenPO++, arXiv:2606.06967). For the action alone it is unbiased, with
    additional variance from the history. With `num_histories` K > 1 the ratio averages over K histories; for K to
    infinity it becomes the ratio of the action alone (`genpo_jax/solvers/action_ratio.py`).

    Args:
        obs_size: size of an observation.
        action_size: number d of action coordinates.
        method: settings of the policy.
        networks: settings of the networks.
        rngs: random streams for the initial parameters.
        solver: solver from noise to action; None for the solver of the method.
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
        self.action_size = action_size
        std = method.initial_std / float(np.linalg.norm(still_weights(self.solver)[0]))
        shape = (self.solver.num_states, action_size)
        # A pretrained flow keeps the noise scale that it was trained with.
        fixed = method.base in ("standard", "correlated")
        self.log_scale = None if fixed else nnx.Param(jnp.full(shape, math.log(std), jnp.float32))
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
        """Return records with K histories instead of one if the policy has a history model."""
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
        """Return the actions `[..., d]` for noise `[..., k, d]`."""
        flow = self.flow(obs)
        return flow.action(flow.forward(self._base(obs).from_standard(noise)))

    def zero_noise_action(self, obs: Obs) -> Action:
        """Return the deterministic actions `[..., d]`, computed from zero noise."""
        flow = self.flow(obs)
        return flow.action(flow.forward(self._zero_noise(obs)))

    def entropy(self) -> Scalar:
        """Return the entropy of the whole state, a scalar; its gradient is zero for a fixed base density."""
        return self._density(None).entropy() + self.solver.log_det(self.action_size)

    def auxiliary_loss(self, obs: Obs, record: Any) -> Scalar:
        """Return the loss of the history model, a scalar; no gradient reaches the rest of the policy."""
        if self.history is None:
            return jnp.zeros(())
        proposal = self.history.given(obs, self._normal(), record.anchor)
        return -proposal.log_prob(record.rest[..., 0, :, :], record.action).mean()

    def metrics(self, record: Any) -> dict[str, Array]:
        """Return the effective sample size of the K histories as a fraction of K, in (1/K, 1]."""
        if self.num_histories == 1:
            return {}
        return {"history_ess": effective_sample_size(record.stored.log_weight).mean()}

    def recorded_action(self, record: Any) -> Action:
        """Return recorded actions `[..., d]`."""
        return record.action if isinstance(record, HistoriesRecord) else self.solver.output(record.state)

    def action_log_prob(self, obs: Obs, record: Any) -> Numbers:
        """Return an estimate of the log density `[...]` of recorded actions that is too high in expectation.

        With one history the estimate is log p(a, h) - log q(h | a), and the excess is KL(p(h | a) || q). More
        histories reduce the excess.

        Raises:
            ValueError: if the policy was built without a history model.
        """
        del obs
        if not isinstance(record, HistoriesRecord):
            raise ValueError(
                f"action_log_prob needs a HistoriesRecord, got {type(record).__name__}; pass a record of `complete`, "
                "from a policy built with num_histories > 1 or action_entropy_coef > 0 (it then has a history model)"
            )
        return action_log_prob(record.stored)

    def flow(self, obs: Array) -> Flow:
        """Return the distribution of the final state for observations `[..., obs_size]`."""
        return Flow(self.solver, self.velocity.condition(obs, self.solver.evaluation_times), self._base(obs))

    def _base(self, obs: Array) -> DiagonalNormal | CorrelatedNormal:
        return self._density(None if self.mean is None else self.mean(obs))

    def _density(self, mean: Array | None) -> DiagonalNormal | CorrelatedNormal:
        if self.tau is not None:
            return correlated_normal(self.solver.num_states, self.action_size, self.tau)
        return self._normal(mean)

    def _normal(self, mean: Array | None = None) -> DiagonalNormal:
        """Return the noise density around `mean`, for every base except correlated."""
        if self.log_scale is None:
            return DiagonalNormal(jnp.zeros((self.solver.num_states, self.action_size)), mean)
        return DiagonalNormal(self.log_scale[...], mean)

    def _zero_noise(self, obs: Array) -> Array:
        """Return the mean `[..., k, d]` of the noise."""
        mean = jnp.zeros((*obs.shape[:-1], self.action_size), obs.dtype) if self.mean is None else self.mean(obs)
        return jnp.broadcast_to(mean[..., None, :], (*obs.shape[:-1], self.solver.num_states, self.action_size))
