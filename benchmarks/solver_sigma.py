"""Find the best history coefficient σ for each order of `MultistepSolver`.

    python -m benchmarks.solver_sigma

The table has, for each order and σ:

- the root-mean-square error of the action, from equal iterates, for M = 3, 5, 10 and three families of velocities:
  random networks, the flow to a narrow normal, contraction to a moving target;
- the geometric mean of these errors;
- the standard deviation of the action at zero velocity, from independent N(0, 1) iterates;
- the predicted float32 round-trip error at M = 20.

The recommended σ has the smallest mean error among those whose round-trip error at M = 20 is within the guard and whose
zero-velocity action is no wider than the noise.
"""

import functools
import math
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import report
from experiments.program import run_program
from genpo_jax.solvers import RK4, MultistepSolver, RungeKuttaSolver
from genpo_jax.solvers.base import MAX_ROUND_TRIP_ERROR

BATCH, SIZE, WIDTH = 64, 3, 16
SIGMAS = (-0.5, -0.3, -0.1, *(round(0.05 * i, 2) for i in range(1, 21)))


def velocities() -> dict:
    """Return the families of velocities, each a batch of 64 random instances."""
    rng = np.random.default_rng(0)
    w1, w2 = 0.8 * rng.normal(size=(BATCH, WIDTH, SIZE)), 0.5 * rng.normal(size=(BATCH, SIZE, WIDTH))
    wt, bias, target = (
        2 * rng.normal(size=(BATCH, WIDTH)),
        rng.normal(size=(BATCH, WIDTH)),
        rng.normal(size=(BATCH, SIZE)),
    )

    rate, width = rng.uniform(0.5, 5.0, size=(BATCH, 1)), rng.uniform(0.1, 0.6, size=(BATCH, 1))

    def network(x, t):
        return jnp.einsum("nij,nj->ni", w2, jnp.tanh(jnp.einsum("nij,nj->ni", w1, x) + wt * t + bias))

    def narrow_normal(x, t):
        """Flow-matching velocity from N(0, 1) to N(target, width²)."""
        variance = (1 - t) ** 2 + (t * width) ** 2
        return target + (t * width**2 - (1 - t)) / variance * (x - t * target)

    def contraction(x, t):
        return -rate * (x - target * jnp.cos(2 * t))

    return {"network": network, "narrow normal": narrow_normal, "contraction": contraction}


@functools.partial(jax.jit, static_argnums=(0, 1))
def integrate(solver, velocity, start):
    """Return the action from a state of equal iterates."""
    state = jnp.broadcast_to(start[:, None], (BATCH, solver.num_states, SIZE))
    return solver.output(solver.forward(velocity, state))


def zero_velocity_std(solver) -> float:
    """Return the standard deviation of the action from independent N(0, 1) iterates at zero velocity."""
    last = solver.forward(lambda x, t: jnp.zeros_like(x), jnp.eye(solver.num_states))
    return float(jnp.linalg.norm(solver.output(last)))


def build(num_steps: int, order: int, sigma: float):
    """Return the solver, without a guard on its round trip."""
    return MultistepSolver(num_steps, order, sigma, unroll=False, max_error=math.inf)


@dataclass(frozen=True)
class SolverSigmaOptions:
    """Options of the search."""

    orders: tuple[int, ...] = (1, 2, 3)
    """Orders of the solver."""
    sigmas: tuple[float, ...] = SIGMAS
    """History coefficients."""
    step_counts: tuple[int, ...] = (3, 5, 10)
    """Numbers of steps over which the error is averaged."""
    json: Path | None = None
    """File for the result."""


def main(options: SolverSigmaOptions) -> None:
    """Measure, print one table, and write JSON if requested."""
    jax.config.update("jax_enable_x64", True)
    start = jnp.asarray(np.random.default_rng(1).normal(size=(BATCH, SIZE)))
    fields = velocities()
    exact = RungeKuttaSolver(500, RK4, 1.0, unroll=False)
    targets = {name: integrate(exact, velocity, start) for name, velocity in fields.items()}
    rows = []
    for order in options.orders:
        results = []
        for sigma in options.sigmas:
            try:
                solvers = {m: build(m, order, sigma) for m in (*options.step_counts, 20)}
            except ValueError:  # not zero-stable
                continue
            errors = {
                f"{name}, M = {m}": float(
                    jnp.sqrt(jnp.mean((integrate(solvers[m], velocity, start) - targets[name]) ** 2))
                )
                for name, velocity in fields.items()
                for m in options.step_counts
            }
            round_trip, std = solvers[20].round_trip_error(jnp.float32), zero_velocity_std(solvers[5])
            results.append(
                {
                    "order": order,
                    "sigma": sigma,
                    "best": "",
                    "mean_error": math.exp(np.log(list(errors.values())).mean()),
                    "std_at_zero_velocity": std,
                    "round_trip_at_20": round_trip,
                }
                | errors
            )
        allowed = [
            r for r in results if r["round_trip_at_20"] <= MAX_ROUND_TRIP_ERROR and r["std_at_zero_velocity"] <= 1
        ]
        if allowed:
            min(allowed, key=lambda r: r["mean_error"])["best"] = "*"
        rows += results
    if not rows:
        raise ValueError(f"no solver is zero-stable for sigmas = {options.sigmas}; choose values in (0, 1)")
    report("errors of the multistep solvers", options, rows)


if __name__ == "__main__":
    run_program(SolverSigmaOptions, main, __doc__)
