"""Flow policies whose likelihood ratio is exact, through a reversible solver."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from flax.struct import PyTreeNode
from jax import Array

from genpo_jax.config import PolicyConfig
from genpo_jax.networks import MLP, OUTPUT_GAIN, make_velocity
from genpo_jax.policies.base import Policy
from genpo_jax.policies.gaussian import normal_log_prob
from genpo_jax.solvers import (
    CoupledSolver,
    DiagonalNormal,
    Flow,
    HistorySolver,
    MultistepSolver,
    ReversibleSolver,
    Velocity,
    VerletSolver,
)

PUBLISHED_STEPS = 5


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
        config: settings of the policy.
        solver: from noise to action.
        rngs: of the initial parameters.
        evaluations: of the velocity per inverse, for the prediction of memory.
        time_steps: the solver evaluates the velocity at multiples of 1 / time_steps alone: these are embedded
            together. None: each time is embedded when the solver asks for it.
    """

    def __init__(
        self,
        obs_size: int,
        action_size: int,
        config: PolicyConfig,
        solver: ReversibleSolver,
        rngs: nnx.Rngs,
        *,
        evaluations: int = 0,
        time_steps: int | None = None,
    ) -> None:
        self.velocity = make_velocity(obs_size, action_size, config, rngs)
        self.solver = solver
        self.evaluations = evaluations
        self.time_steps = time_steps
        self.action_size = action_size
        log_scale = jnp.full((solver.num_states, action_size), jnp.log(config.initial_std / _still_std(solver)))
        self.log_scale = None if config.base == "standard" else nnx.Param(log_scale)
        mean = {"size_out": action_size, "gain": OUTPUT_GAIN, "dtype": config.compute_dtype}
        conditioned = config.base == "conditioned"
        self.mean = MLP(obs_size, config.hidden_sizes, config.activation, rngs, **mean) if conditioned else None
        self.history = HistoryModel(obs_size, action_size, solver, config, rngs) if config.action_entropy_coef else None

    def sample(self, obs: Array, key: Array) -> tuple[Array, ReversibleRecord]:
        """Draw actions `[..., d]`."""
        base = self._base()
        noise = base.sample(key, obs.shape[:-1])
        state = self.solver.forward(self._velocity(obs), self._mean(obs) + noise)
        return self.solver.output(state), ReversibleRecord(state, base.log_prob(noise))

    def log_ratio(self, obs: Array, record: Any) -> Array:
        """Return the log-ratio `[...]` of recorded states."""
        noise = self.solver.inverse(self._velocity(obs), record.state) - self._mean(obs)
        return self._base().log_prob(noise) - record.log_base

    def mode(self, obs: Array) -> Array:
        """Return the actions `[..., d]` that zero noise flows to."""
        noise = jnp.zeros((*obs.shape[:-1], self.solver.num_states, self.action_size), obs.dtype)
        return self.solver.output(self.solver.forward(self._velocity(obs), self._mean(obs) + noise))

    def entropy(self) -> Array:
        """Return the entropy of the whole state, a scalar; its gradient is zero under the standard base."""
        return self._base().entropy() + self.solver.log_det(self.action_size)

    def penalty(self, obs: Array, record: Any) -> Array:
        """Return the loss of the history model, a scalar; it does not reach the policy itself."""
        if self.history is None:
            return jnp.zeros(())
        return -self.history.log_prob(self.solver, obs, record.state).mean()

    def log_prob(self, obs: Array, record: Any) -> tuple[Array, Array]:
        """Return recorded actions `[..., d]` and an estimate of their log density `[...]`.

        With the state (a, h) of action and history, log p(a) = log p(a, h) - log p(h | a). A model q of the history
        makes this too large by the KL divergence of q from p(h | a), and not at all once q has learned it.

        Raises:
            ValueError: if the policy was built without a model of the history.
        """
        if self.history is None:
            raise ValueError("the density of the action needs a model of the history; set action_entropy_coef > 0")
        log_joint = record.log_base - self.solver.log_det(self.action_size)
        log_history = self.history.log_prob(self.solver, obs, record.state)
        return self.solver.output(record.state), log_joint - log_history

    def flow(self, obs: Array) -> Flow:
        """Return the distribution of the solver's state for one observation `[obs_size]`.

        Raises:
            ValueError: if the base follows the observation: its noise is not centred, as that of a flow is.
        """
        if self.mean is not None:
            raise ValueError("a policy with a conditioned base is no plain flow; build it with another base")
        return Flow(self.solver, self._velocity(obs), self._base())

    def _velocity(self, obs: Array) -> Velocity:
        """Return `v(x, t)` for the times of the solver."""
        if self.time_steps is None:
            return self.velocity.condition(obs)
        count = self.time_steps
        on_grid = self.velocity.condition(obs, jnp.arange(count + 1) / count)
        return lambda x, t: on_grid(x, jnp.round(t * count).astype(jnp.int32))

    def _mean(self, obs: Array) -> Array:
        """Return the mean `[..., 1, d]` of every iterate of the noise, or a scalar zero."""
        if self.mean is None:
            return jnp.zeros(())
        return self.mean(obs)[..., None, :]

    def _base(self) -> DiagonalNormal:
        if self.log_scale is None:
            return DiagonalNormal(jnp.zeros((self.solver.num_states, self.action_size)))
        return DiagonalNormal(self.log_scale[...])


class HistoryModel(nnx.Module):
    """A normal density q of a solver state's other iterates, given action and observation."""

    def __init__(
        self, obs_size: int, action_size: int, solver: ReversibleSolver, config: PolicyConfig, rngs: nnx.Rngs
    ) -> None:
        rest_size = (solver.num_states - 1) * action_size
        net = {"size_out": 2 * rest_size, "gain": OUTPUT_GAIN, "dtype": config.compute_dtype}
        self.net = MLP(obs_size + action_size, config.hidden_sizes, config.activation, rngs, **net)
        # For most solvers the history is nearly a multiple of the action.
        self.slope = nnx.Linear(action_size, rest_size, use_bias=False, kernel_init=nnx.initializers.zeros, rngs=rngs)

    def log_prob(self, solver: ReversibleSolver, obs: Array, state: Array) -> Array:
        """Return log q `[...]` of solver states `[..., k, d]`."""
        action, rest = solver.split(state)
        mean, log_std = jnp.split(self.net(jnp.concatenate([obs, action], axis=-1)), 2, axis=-1)
        return normal_log_prob(rest.reshape(mean.shape) - self.slope(action) - mean, log_std)


def _still_std(solver: ReversibleSolver) -> Array:
    """Return the standard deviation of the output, a scalar, where unit noise meets a velocity of zero.

    The solver is then linear: each number of the noise state moves the output by a fixed weight.
    """
    unit_noises = jnp.eye(solver.num_states)[..., None]
    weights = solver.output(solver.forward(lambda x, t: jnp.zeros_like(x), unit_noises))
    return jnp.linalg.norm(weights)


def make_history_policy(obs_size: int, action_size: int, config: PolicyConfig, rngs: nnx.Rngs) -> ReversiblePolicy:
    """Build the GenPO++ policy, with the published solver or one of higher order."""
    steps, coef = config.num_steps or PUBLISHED_STEPS, config.history_coef
    if config.solver_order is not None:
        solver = MultistepSolver(steps, order=config.solver_order, history_coef=coef)
    else:
        solver = HistorySolver(steps, HistorySolver.history_coef if coef is None else coef)
    return ReversiblePolicy(obs_size, action_size, config, solver, rngs, evaluations=steps, time_steps=steps)


def make_coupled_policy(obs_size: int, action_size: int, config: PolicyConfig, rngs: nnx.Rngs) -> ReversiblePolicy:
    """Build the GenPO policy (arXiv:2505.18763): two coupled flows, whose mean is the action.

    Its published cost comes partly from Jacobians; their determinant is a constant, and here none is computed.
    """
    steps = config.num_steps or PUBLISHED_STEPS
    solver = CoupledSolver(steps, CoupledSolver.mix if config.mix is None else config.mix)
    return ReversiblePolicy(obs_size, action_size, config, solver, rngs, evaluations=2 * steps, time_steps=steps)


def make_verlet_policy(obs_size: int, action_size: int, config: PolicyConfig, rngs: nnx.Rngs) -> ReversiblePolicy:
    """Build the self-adjoint flow policy, whose map keeps volumes."""
    steps = config.num_steps or PUBLISHED_STEPS
    return ReversiblePolicy(
        obs_size, action_size, config, VerletSolver(steps), rngs, evaluations=2 * steps + 1, time_steps=2 * steps
    )
