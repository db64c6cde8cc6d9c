"""Solvers and velocities for the tests."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from genpo_jax.solvers import (
    EULER,
    MIDPOINT,
    RALSTON,
    RK4,
    BelmSolver,
    CoupledSolver,
    HistorySolver,
    MultistepSolver,
    RungeKuttaSolver,
    StepSolver,
    VerletSolver,
)

FAMILY: dict[str, Callable[..., StepSolver]] = {
    "history": HistorySolver,
    "leapfrog": lambda num_steps, **options: HistorySolver(num_steps, 1.0, **options),
    "multistep-1": lambda num_steps, **options: MultistepSolver(num_steps, 1, **options),
    "multistep-2": lambda num_steps, **options: MultistepSolver(num_steps, 2, **options),
    "multistep-3": lambda num_steps, **options: MultistepSolver(num_steps, 3, **options),
    "damped-2": lambda num_steps, **options: MultistepSolver(num_steps, 2, 0.5, (0.4,), **options),
    "belm": BelmSolver,
    "coupled": CoupledSolver,
    "verlet": VerletSolver,
    "rk-euler": lambda num_steps, **options: RungeKuttaSolver(num_steps, EULER, **options),
    "rk-midpoint": lambda num_steps, **options: RungeKuttaSolver(num_steps, MIDPOINT, **options),
    "rk-ralston": lambda num_steps, **options: RungeKuttaSolver(num_steps, RALSTON, **options),
    "rk-4": lambda num_steps, **options: RungeKuttaSolver(num_steps, RK4, **options),
}
NAMES = sorted(FAMILY)
# One solver per kind of step, for tests that are too slow for the whole family.
KINDS = ["history", "multistep-3", "belm", "coupled", "verlet", "rk-ralston"]


def make(name: str, num_steps: int, **options) -> StepSolver:
    """Build a solver of the family. By default its steps are scanned, so that one compiled step serves all."""
    return FAMILY[name](num_steps, **{"unroll": False, **options})


def random_state(seed: int, solver: StepSolver, event_size: int, dtype=jnp.float64, batch=()) -> Array:
    """Draw a state from N(0, I)."""
    return jax.random.normal(jax.random.key(seed), (*batch, solver.num_states, event_size), dtype)


def mlp_params(seed: int, event_size: int, dtype=jnp.float64, width: int = 16) -> dict[str, Array]:
    """Draw a two-layer network with Lipschitz constant at most 1 in x (unit spectral norms, tanh)."""
    rng = np.random.default_rng(seed)
    first, last = rng.normal(size=(event_size, width)), rng.normal(size=(width, event_size))
    first, last = first / np.linalg.norm(first, 2), last / np.linalg.norm(last, 2)
    values = {
        "first": first,
        "bias": rng.normal(size=width),
        "time": 3 * rng.normal(size=width),
        "last": last,
    }
    return {name: jnp.asarray(value, dtype) for name, value in values.items()}


@jax.jit
def mlp(params: dict[str, Array], x: Array, t: Array) -> Array:
    """Evaluate the network on x `[..., d]` at the time t."""
    shift = jnp.broadcast_to(params["bias"] + t * params["time"], (*x.shape[:-1], params["bias"].size))
    return jnp.tanh(x @ params["first"] + shift) @ params["last"]


def mlp_velocity(params: dict[str, Array]):
    """Return `v(x, t)` that closes over the parameters."""
    return lambda x, t: mlp(params, x, t)


def pendulum(x: Array, t: Array) -> Array:
    """Return a nonlinear, time-dependent velocity with coupled coordinates."""
    return jnp.sin(3 * t) * jnp.cos(x) - 0.7 * x * jnp.roll(x, 1, -1) + 0.3


def slope(steps: list[int], errors: list[float]) -> float:
    """Return the order of convergence: minus the slope of log error over log M, by least squares."""
    return -float(np.polyfit([math.log(m) for m in steps], [math.log(e) for e in errors], 1)[0])
