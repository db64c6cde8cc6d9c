"""Learned density q of the history (the rest of a solver state) given the action."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from genpo_jax.methods import NetworksConfig
from genpo_jax.policies.networks import MLP, OUTPUT_GAIN
from genpo_jax.shapes import State
from genpo_jax.solvers import DiagonalNormal, ReversibleSolver, still_weights


class HistoryModel(nnx.Module):
    """Normal density q of the rest of a solver state, given action and observation.

    At zero velocity the solver is linear in its noise, and each coordinate of the rest is normal around a multiple of
    the action. The untrained model equals that density. Training shifts its mean and multiplies the Cholesky factor of
    each coordinate's covariance over the k - 1 iterates.
    """

    def __init__(
        self,
        obs_size: int,
        action_size: int,
        sizes: tuple[int, ...],
        networks: NetworksConfig,
        solver: ReversibleSolver,
        rngs: nnx.Rngs,
    ) -> None:
        self.solver = solver
        rest = solver.num_states - 1
        outputs = action_size * (rest + rest * (rest + 1) // 2)
        net = {"size_out": outputs, "gain": OUTPUT_GAIN, "dtype": networks.compute_dtype}
        self.net = MLP(obs_size + action_size, sizes, networks.activation, rngs, **net)
        # The mean of the rest is nearly linear in the action, so a linear layer learns most of it.
        zeros = nnx.initializers.zeros
        self.slope = nnx.Linear(action_size, rest * action_size, use_bias=False, kernel_init=zeros, rngs=rngs)

    def given(self, obs: Array, noise: DiagonalNormal, anchor: State) -> "HistoryDensity":
        """Return q for observations `[..., obs_size]`.

        Args:
            obs: normalized observations.
            noise: base density of the noise; its mean is not used. It gets no gradient.
            anchor: `[..., k, d]`, a state at the center of the flow's states. It gets no gradient.
        """
        return HistoryDensity(self, obs, jax.lax.stop_gradient(noise), jax.lax.stop_gradient(anchor))


@dataclass(frozen=True)
class HistoryDensity:
    """Density q(h | a) for given observations; a `genpo_jax.solvers.Proposal`.

    Attributes:
        model: the history model.
        obs: `[..., obs_size]`.
        noise: base density of the noise; its mean is not used.
        anchor: `[..., k, d]`.
    """

    model: HistoryModel
    obs: Array
    noise: DiagonalNormal
    anchor: Array

    def sample(self, key: Array, action: Array, num_samples: int) -> Array:
        """Draw rests `[num_samples, ..., k-1, d]` for actions `[..., d]`."""
        mean, factor = self._normal(action)
        noise = jax.random.normal(key, (num_samples, *mean.shape), mean.dtype)
        rows = [sum(f * noise[..., j, :] for j, f in enumerate(row)) for row in factor]
        return mean + jnp.stack(rows, axis=-2)

    def log_prob(self, rest: Array, action: Array) -> Array:
        """Return log q `[n, ...]` of rests `[n, ..., k-1, d]` given actions `[..., d]`."""
        mean, factor = self._normal(action)
        deviation, standard = rest - mean, []
        terms = jnp.zeros(())
        for i, row in enumerate(factor):
            known = sum((f * s for f, s in zip(row, standard, strict=False)), jnp.zeros(()))
            standard.append((deviation[..., i, :] - known) / row[i])
            terms += -0.5 * jnp.square(standard[i]) - jnp.log(row[i]) - 0.5 * math.log(2 * math.pi)
        return terms.sum(axis=-1)

    def reflect(self, rest: Array, action: Array) -> Array:
        """Return rests `[n, ..., k-1, d]` reflected at the mean for actions `[..., d]`."""
        return 2 * self._normal(action)[0] - rest

    def _normal(self, action: Array) -> tuple[Array, list[list[Array]]]:
        """Return the mean `[..., k-1, d]` and the rows of the lower Cholesky factor, whose entries are `[..., d]`."""
        solver, size = self.model.solver, action.shape[-1]
        zero_velocity = zero_velocity_factor(solver, self.noise)
        anchor_action, anchor_rest = solver.split(self.anchor)
        deviation = (action - anchor_action) / zero_velocity[0][0]
        count = solver.num_states - 1
        learned = self.model.net(jnp.concatenate([self.obs, deviation], axis=-1))
        learned = learned.reshape(*action.shape[:-1], -1, size)
        shift = learned[..., :count, :] + self.model.slope(deviation).reshape(*action.shape[:-1], count, size)
        below = iter(jnp.moveaxis(learned[..., count:, :], -2, 0))
        change = [[jnp.exp(next(below)) if i == j else next(below) for j in range(i + 1)] for i in range(count)]
        means, factor = [], []
        for i, row in enumerate(zero_velocity[1:]):
            own = row[1:]
            mean = anchor_rest[..., i, :] + row[0] * deviation + sum(own[j] * shift[..., j, :] for j in range(i + 1))
            means.append(mean)
            factor.append([sum(own[m] * change[m][j] for m in range(j, i + 1)) for j in range(i + 1)])
        return jnp.stack(means, axis=-2), factor


def zero_velocity_factor(solver: ReversibleSolver, noise: DiagonalNormal) -> list[list[Array]]:
    """Return the lower Cholesky factor of action and rest at zero velocity, in rows whose entries are `[d]`.

    The solver is then linear in its noise, with the weights `still_weights(solver)`.
    """
    rows = still_weights(solver)[..., None] * jnp.exp(noise.log_scale)
    factor, basis = [], []
    # Gram-Schmidt, because a Cholesky factorization of the covariance in float32 would lose small variances.
    for row in rows:
        known = []
        for direction in basis:
            known.append((row * direction).sum(axis=0))
            row = row - known[-1] * direction
        norm = jnp.sqrt(jnp.square(row).sum(axis=0))
        basis.append(row / norm)
        factor.append([*known, norm])
    return factor
