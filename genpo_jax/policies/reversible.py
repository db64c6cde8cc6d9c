"""Flow policies whose likelihood ratio is exact, through a reversible solver."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from flax.struct import PyTreeNode
from jax import Array

from genpo_jax.methods import NetworksConfig, ReversibleMethod
from genpo_jax.policies.base import Policy
from genpo_jax.policies.history_model import HistoryModel
from genpo_jax.policies.networks import MLP, OUTPUT_GAIN, make_velocity
from genpo_jax.shapes import Action, Numbers, Obs, Scalar
from genpo_jax.solvers import DiagonalNormal, Flow, ReversibleSolver, Velocity


class ReversibleRecord(PyTreeNode):
    """The solver's final state `[..., k, d]` and the base log density `[...]` of the noise it came from."""

    state: Array
    log_base: Array


class ReversiblePolicy(Policy):
    """Integrate noise to an action by a learned velocity; take the solver back to the noise for the ratio.

    With z the noise that the *stored* final state has under the present parameters,

        log ratio = log p0(z_now) - log p0(z_then)

    as the log-determinant of a reversible solver is a constant and cancels. The ratio is exact for the density of
    the whole state (GenPO++, arXiv:2606.06967), not for the marginal of the executed action: as an importance
    weight it is unbiased for the action too, with more variance than the marginal ratio would have.

    Args:
        obs_size: numbers in an observation.
        action_size: number d of action coordinates.
        method: settings of the policy.
        networks: what its networks share.
        rngs: of the initial parameters.
        solver: from noise to action; None for the method's.
    """

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
        self.ratio_evaluations = len(self.solver.evaluation_times)
        self.action_size = action_size
        log_scale = jnp.full(
            (self.solver.num_states, action_size), jnp.log(method.initial_std / _still_std(self.solver))
        )
        self.log_scale = None if method.base == "standard" else nnx.Param(log_scale)
        mean = {"size_out": action_size, "gain": OUTPUT_GAIN, "dtype": networks.compute_dtype}
        conditioned = method.base == "conditioned"
        self.mean = MLP(obs_size, method.hidden_sizes, networks.activation, rngs, **mean) if conditioned else None
        sizes = (obs_size, action_size, method.hidden_sizes)
        self.history = HistoryModel(*sizes, networks, self.solver, rngs) if method.action_entropy_coef else None

    def sample(self, obs: Obs, key: Array) -> tuple[Action, ReversibleRecord]:
        """Draw actions `[..., d]`."""
        base = self.base
        noise = base.sample(key, obs.shape[:-1])
        state = self.solver.forward(self._velocity(obs), self._mean(obs) + noise)
        return self.solver.output(state), ReversibleRecord(state, base.log_prob(noise))

    def log_ratio(self, obs: Obs, record: Any) -> Numbers:
        """Return the log-ratio `[...]` of recorded states."""
        noise = self.solver.inverse(self._velocity(obs), record.state) - self._mean(obs)
        return self.base.log_prob(noise) - record.log_base

    def zero_noise_action(self, obs: Obs) -> Action:
        """Return the actions `[..., d]` that zero noise flows to."""
        noise = jnp.zeros((*obs.shape[:-1], self.solver.num_states, self.action_size), obs.dtype)
        return self.solver.output(self.solver.forward(self._velocity(obs), self._mean(obs) + noise))

    def entropy(self) -> Scalar:
        """Return the entropy of the whole state, a scalar; its gradient is zero under the standard base."""
        return self.base.entropy() + self.solver.log_det(self.action_size)

    def auxiliary_loss(self, obs: Obs, record: Any) -> Scalar:
        """Return the loss of the history model, a scalar; it does not reach the policy itself."""
        if self.history is None:
            return jnp.zeros(())
        return -self.history.log_prob(self.solver, obs, record.state).mean()

    def recorded_action(self, record: Any) -> Action:
        """Return recorded actions `[..., d]`."""
        return self.solver.output(record.state)

    def action_log_prob(self, obs: Obs, record: Any) -> Numbers:
        """Return an estimate of the log density `[...]` of recorded actions.

        With the state (a, h) of action and history, log p(a) = log p(a, h) - log p(h | a). A model q of the history
        makes this too large by the KL divergence of q from p(h | a), and not at all once q has learned it.

        Raises:
            ValueError: if the policy was built without a model of the history.
        """
        if self.history is None:
            raise ValueError("the density of the action needs a model of the history; set action_entropy_coef > 0")
        log_joint = record.log_base - self.solver.log_det(self.action_size)
        log_history = self.history.log_prob(self.solver, obs, record.state)
        return log_joint - log_history

    def flow(self, obs: Array) -> Flow:
        """Return the distribution of the solver's state for one observation `[obs_size]`.

        Raises:
            ValueError: if the base follows the observation: its noise is not centerd, as that of a flow is.
        """
        if self.mean is not None:
            raise ValueError("a policy with a conditioned base is no plain flow; build it with another base")
        return Flow(self.solver, self._velocity(obs), self.base)

    def _velocity(self, obs: Array) -> Velocity:
        """Return `v(x, t)` for the times of the solver."""
        return self.velocity.condition(obs, self.solver.evaluation_times)

    def _mean(self, obs: Array) -> Array:
        """Return the mean `[..., 1, d]` of every iterate of the noise, or a scalar zero."""
        if self.mean is None:
            return jnp.zeros(())
        return self.mean(obs)[..., None, :]

    @property
    def base(self) -> DiagonalNormal:
        """The density of the noise about its mean."""
        if self.log_scale is None:
            return DiagonalNormal(jnp.zeros((self.solver.num_states, self.action_size)))
        return DiagonalNormal(self.log_scale[...])


def _still_std(solver: ReversibleSolver) -> Array:
    """Return the standard deviation of the output, a scalar, where unit noise meets a velocity of zero.

    The solver is then linear: each number of the noise state moves the output by a fixed weight.
    """
    unit_noises = jnp.eye(solver.num_states)[..., None]
    weights = solver.output(solver.forward(lambda x, t: jnp.zeros_like(x), unit_noises))
    return jnp.linalg.norm(weights)
