"""Linear map of a solver at zero velocity."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

from genpo_jax.solvers.base import ReversibleSolver


@cache
def still_weights(solver: ReversibleSolver) -> np.ndarray:
    """Return the weights `[k, k]` of the noise iterates in action (row 0) and rest (other rows) at zero velocity.

    At zero velocity a solver is linear and acts on each action coordinate separately.
    """
    with jax.ensure_compile_time_eval():
        unit_noises = jnp.eye(solver.num_states)[..., None]
        action, rest = solver.split(solver.forward(lambda x, t: jnp.zeros_like(x), unit_noises))
        return np.asarray(jnp.concatenate([action[:, None], rest], axis=1)[..., 0].T)
