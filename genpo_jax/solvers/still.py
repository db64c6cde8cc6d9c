"""What a solver does where the velocity is zero: it maps its noise linearly, coordinate by coordinate."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

from genpo_jax.solvers.base import ReversibleSolver


@cache
def still_weights(solver: ReversibleSolver) -> np.ndarray:
    """Return the weights `[k, k]` of the noise's iterates in the action (row 0) and the rest, at a velocity of zero."""
    with jax.ensure_compile_time_eval():
        unit_noises = jnp.eye(solver.num_states)[..., None]
        action, rest = solver.split(solver.forward(lambda x, t: jnp.zeros_like(x), unit_noises))
        return np.asarray(jnp.concatenate([action[:, None], rest], axis=1)[..., 0].T)


def action_directions(solver: ReversibleSolver) -> np.ndarray:
    """Return directions `[k, k]` of the noise, of which the first alone reaches the action at a velocity of zero.

    Along the others noise reaches the rest of the solver's state only. A density of the noise that is narrowed along
    the first narrows the action, and leaves what the history adds to a ratio as it is: narrowed along all iterates, the
    divergence of a step counts the same change again for each of them.

    Returns:
        Orthonormal rows, for `DiagonalNormal`.

    """
    weights = still_weights(solver)[0]
    first = weights / np.linalg.norm(weights)
    # Householder's reflection that exchanges the first and, but for its sign, the first unit vector.
    sign, unit = 1.0 if first[0] >= 0 else -1.0, np.eye(len(first), dtype=first.dtype)
    normal = first + sign * unit[0]
    return -sign * (unit - 2 * np.outer(normal, normal) / (normal @ normal))
