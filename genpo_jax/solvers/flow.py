"""Combine a solver, a velocity and a base density into a bijector and a distribution."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import Array

from genpo_jax.shapes import Action, Numbers, State
from genpo_jax.solvers.base import ReversibleSolver, Velocity
from genpo_jax.solvers.density import BaseDensity


@dataclass(frozen=True)
class Flow:
    """Distribution of the solver's final state, with the methods and shape rules of distrax.

    The *event* is a whole state: the last two dimensions `(k, d)` of an array. All dimensions before them
    are batch dimensions; methods return one log-determinant or log density for each batch element.
    `sample_shape` counts independent draws and comes first: samples have shape `[*sample_shape,
    *batch_shape, k, d]`, where `batch_shape` is the batch shape of the base density. The executed action is
    `flow.action(state)`, `[..., d]`.

    A flow is not a pytree. Build it inside the function that is jitted or differentiated, with a velocity that
    closes over the traced parameters.

    Attributes:
        solver: any solver of this package.
        velocity: `v(x, t)`, x `[..., d]`, t a scalar.
        base: density of the noise; its event shape is `(solver.num_states, d)`.

    """

    solver: ReversibleSolver
    velocity: Velocity
    base: BaseDensity

    def __post_init__(self) -> None:
        """Check that base and solver agree on the number of iterates."""
        if len(self.base.event_shape) != 2 or self.base.event_shape[0] != self.solver.num_states:
            raise ValueError(
                f"the base density must have event shape ({self.solver.num_states}, d) for this solver, got "
                f"{self.base.event_shape}; build it with num_states=solver.num_states"
            )

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape `(k, d)` of one state."""
        return self.base.event_shape

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The batch shape of the base density."""
        return self.base.batch_shape

    @property
    def event_ndims_in(self) -> int:
        """The number of event dimensions of the argument: 2."""
        return 2

    @property
    def event_ndims_out(self) -> int:
        """The number of event dimensions of the value: 2."""
        return 2

    def forward(self, noise: State) -> State:
        """Map noise `[..., k, d]` to states `[..., k, d]`."""
        self._check_event(noise)
        return self.solver.forward(self.velocity, noise)

    def inverse(self, state: State) -> State:
        """Map states `[..., k, d]` back to their noise `[..., k, d]`."""
        self._check_event(state)
        return self.solver.inverse(self.velocity, state)

    def forward_and_log_det(self, noise: State) -> tuple[State, Numbers]:
        """Return states `[..., k, d]` and `log |det d state / d noise|` `[...]`."""
        state = self.forward(noise)
        return state, self._log_det(state)

    def inverse_and_log_det(self, state: State) -> tuple[State, Numbers]:
        """Return noise `[..., k, d]` and `log |det d noise / d state|` `[...]`."""
        noise = self.inverse(state)
        return noise, -self._log_det(noise)

    def sample(self, *, seed: Array, sample_shape: int | tuple[int, ...] = ()) -> Array:
        """Draw states `[*sample_shape, *batch_shape, k, d]`."""
        return self.forward(self.base.sample(seed, self._shape(sample_shape)))

    def log_prob(self, value: State) -> Numbers:
        """Return the log density `[...]` of states `[..., k, d]`."""
        noise, log_det = self.inverse_and_log_det(value)
        return self.base.log_prob(noise) + log_det

    def sample_and_log_prob(self, *, seed: Array, sample_shape: int | tuple[int, ...] = ()) -> tuple[Array, Array]:
        """Draw states `[*sample_shape, *batch_shape, k, d]` with their log densities, without an inversion."""
        noise = self.base.sample(seed, self._shape(sample_shape))
        state, log_det = self.forward_and_log_det(noise)
        return state, self.base.log_prob(noise) - log_det

    def entropy(self) -> Array:
        """Return the differential entropy of the state `[*batch_shape]`, in closed form."""
        return self.base.entropy() + self.solver.log_det(self.event_shape[-1])

    def action(self, state: State) -> Action:
        """Return the action `[..., d]` of states `[..., k, d]`."""
        return self.solver.output(state)

    def _check_event(self, state: Array) -> None:
        if jnp.shape(state)[-2:] != self.event_shape:
            event = ", ".join(map(str, self.event_shape))
            raise ValueError(
                f"states of this flow must be [..., {event}] as its base density, got {jnp.shape(state)}; "
                "stack the iterates along axis -2"
            )

    def _log_det(self, state: Array) -> Array:
        return jnp.full(state.shape[:-2], self.solver.log_det(state.shape[-1]), state.dtype)

    def _shape(self, sample_shape: Any) -> tuple[int, ...]:
        sample_shape = (sample_shape,) if isinstance(sample_shape, int) else tuple(sample_shape)
        if not all(isinstance(size, int) and size >= 0 for size in sample_shape):
            raise ValueError(f"sample_shape must hold integers >= 0, got {sample_shape}; use () for one draw")
        return (*sample_shape, *self.base.batch_shape)
