"""Base densities: distributions of the state at the first time of the grid."""

import math
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from genpo_jax.shapes import Numbers, State
from genpo_jax.solvers.base import check_floating
from genpo_jax.solvers.grid import check_count


@runtime_checkable
class BaseDensity(Protocol):
    """Protocol of a density over states `[*batch_shape, k, d]`."""

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape `(k, d)` of one state."""
        ...

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The batch shape of the parameters, one density for each element; `()` for one density."""
        ...

    def sample(self, key: Array, batch_shape: tuple[int, ...]) -> Array:
        """Draw states `[*batch_shape, k, d]`; `batch_shape` must end with `self.batch_shape`."""
        ...

    def log_prob(self, state: State) -> Numbers:
        """Return the log density `[...]` of states `[..., k, d]`."""
        ...

    def entropy(self) -> Array:
        """Return the differential entropy `[*self.batch_shape]`."""
        ...


@dataclass(frozen=True)
class _ScaledDensity:
    """Base class of the densities with parameters `log_scale` `[..., k, d]`."""

    log_scale: Array

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape `(k, d)` of one state."""
        if self.log_scale.ndim < 2:
            raise ValueError(f"log_scale must be [..., k, d], got {self.log_scale.shape}; give it one row per iterate")
        return self.log_scale.shape[-2:]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The leading dimensions of `log_scale`."""
        return self.log_scale.shape[:-2]

    def _check_sample(self, batch_shape: tuple[int, ...]) -> None:
        """Raise `ValueError` unless `batch_shape` ends with `self.batch_shape`."""
        own = self.batch_shape
        if own and tuple(batch_shape[-len(own) :]) != own:
            raise ValueError(f"batch_shape must end with {own}, as the density's does, got {batch_shape}; append it")

    def _check_state(self, state: Array) -> None:
        """Raise `ValueError` unless each state matches one density; plain broadcasting would give wrong values."""
        event, own = self.event_shape, self.batch_shape
        batch = state.shape[:-2]
        broadcasts = all(b in (1, s) for b, s in zip(own[::-1], batch[::-1], strict=False))
        if state.shape[-2:] != event or len(own) > len(batch) or not broadcasts:
            raise ValueError(
                f"states of this density must be [..., {', '.join(map(str, (*own, *event)))}], got {state.shape}; "
                "build the density for these states"
            )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DiagonalNormal(_ScaledDensity):
    """Independent normals over a state `[..., k, d]`.

    Attributes:
        log_scale: `[..., k, d]`, log standard deviations; zeros give the published N(0, I). Leading dimensions are
            batch dimensions, e.g. for a scale that depends on an observation.
        mean: `[..., d]`, the mean of every iterate, with batch dimensions like `log_scale`; None for 0.

    """

    mean: Array | None = None

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape `(k, d)` of one state."""
        shape = super().event_shape
        if self.mean is not None and self.mean.shape[-1:] != shape[-1:]:
            raise ValueError(
                f"mean must be [..., {shape[-1]}] to match log_scale, got {self.mean.shape}; its last axis is d"
            )
        return shape

    @property
    def batch_shape(self) -> tuple[Any, ...]:
        """The leading dimensions of `log_scale` and `mean`; symbolic if `jax.export` traces for any batch."""
        mean_shape = () if self.mean is None else self.mean.shape[:-1]
        return jnp.broadcast_shapes(self.log_scale.shape[:-2], mean_shape)

    def sample(self, key: Array, batch_shape: tuple[int, ...]) -> Array:
        """Draw states `[*batch_shape, k, d]`."""
        self._check_sample(batch_shape)
        return self.from_standard(jax.random.normal(key, (*batch_shape, *self.event_shape), self.log_scale.dtype))

    def from_standard(self, noise: State) -> State:
        """Scale and shift standard normal noise to states `[..., k, d]` of this density."""
        self._check_state(noise)
        noise = noise * _lead(jnp.exp(self.log_scale), noise.ndim)
        return noise if self.mean is None else noise + _lead(self.mean[..., None, :], noise.ndim)

    def log_prob(self, state: State) -> Numbers:
        """Return the log density `[...]` of states `[..., k, d]`."""
        self._check_state(state)
        if self.mean is not None:
            state = state - _lead(self.mean[..., None, :], state.ndim)
        log_scale = _lead(self.log_scale, state.ndim)
        standard = state * jnp.exp(-log_scale)
        terms = -0.5 * standard**2 - log_scale - 0.5 * math.log(2 * math.pi)
        return terms.sum(axis=(-2, -1))

    def entropy(self) -> Array:
        """Return the differential entropy, a scalar for each batch element."""
        entropy = (self.log_scale + 0.5 * math.log(2 * math.pi * math.e)).sum(axis=(-2, -1))
        return jnp.broadcast_to(entropy, self.batch_shape)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CorrelatedNormal(_ScaledDensity):
    """Density of a normal newest iterate x and of older iterates `x + τ ε` around it.

    With a small τ all iterates are nearly the same draw, so that a pretrained flow keeps its action
    distribution. For τ → 0 the density degenerates and ratios become steep.

    Attributes:
        log_scale: `[..., k, d]`. Row 0 is the log standard deviation of x; rows 1 to k-1 are the log τ of the
            older iterates' deviations from x. `correlated_normal` builds it from one τ.

    """

    def sample(self, key: Array, batch_shape: tuple[int, ...]) -> Array:
        """Draw states `[*batch_shape, k, d]`."""
        return _around_newest(DiagonalNormal(self.log_scale).sample(key, batch_shape))

    def from_standard(self, noise: State) -> State:
        """Turn standard normal noise into states `[..., k, d]` of this density."""
        return _around_newest(DiagonalNormal(self.log_scale).from_standard(noise))

    def log_prob(self, state: State) -> Numbers:
        """Return the log density `[...]` of states `[..., k, d]`; the shear has determinant 1."""
        self._check_state(state)
        newest, older = _newest_and_older(state)
        deviation = jnp.concatenate([newest, older - newest], axis=-2)
        return DiagonalNormal(self.log_scale).log_prob(deviation)

    def entropy(self) -> Array:
        """Return the differential entropy, a scalar for each batch element."""
        return DiagonalNormal(self.log_scale).entropy()


def _around_newest(deviation: Array) -> Array:
    """Add the newest iterate to the deviations of the older ones."""
    newest, older = _newest_and_older(deviation)
    return jnp.concatenate([newest, newest + older], axis=-2)


def _newest_and_older(state: Array) -> tuple[Array, Array]:
    """Return the first row `[..., 1, d]` and the other rows `[..., k-1, d]` of a state."""
    # With a symbolic batch size, jnp's indexing is a gather, which exports badly.
    return jax.lax.slice_in_dim(state, 0, 1, axis=-2), jax.lax.slice_in_dim(state, 1, None, axis=-2)


def standard_normal(num_states: int, event_size: int, dtype: DTypeLike = jnp.float32) -> DiagonalNormal:
    """Return N(0, I) over states `[..., num_states, event_size]`."""
    _check_sizes(num_states, event_size)
    return DiagonalNormal(jnp.zeros((num_states, event_size), check_floating(dtype)))


def correlated_normal(num_states: int, event_size: int, tau: float, dtype: DTypeLike = jnp.float32) -> CorrelatedNormal:
    """Return the density of `(x, x + τ ε_1, ..., x + τ ε_{k-1})` with independent x and ε_j from N(0, I).

    Raises:
        ValueError: unless τ is positive and finite.

    """
    _check_sizes(num_states, event_size)
    if isinstance(tau, bool) or not (tau > 0 and math.isfinite(tau)):
        raise ValueError(f"tau must be a finite number > 0, got {tau!r}; at 0 the state has no density")
    rows = jnp.where(jnp.arange(num_states)[:, None] == 0, 0.0, math.log(tau))
    return CorrelatedNormal(jnp.broadcast_to(rows, (num_states, event_size)).astype(check_floating(dtype)))


def _lead(array: Array, ndim: int) -> Array:
    """Add leading dimensions of size 1 up to `ndim`, so that `array` broadcasts at equal rank."""
    return array.reshape((1,) * (ndim - array.ndim) + array.shape)


def _check_sizes(num_states: int, event_size: int) -> None:
    check_count("num_states", num_states, "pass solver.num_states")
    check_count("event_size", event_size, "pass the size d of the action")
