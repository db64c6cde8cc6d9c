"""Compare solvers with a plain loop of the same network calls, and time the import of the solvers.

    python -m benchmarks.solver_cost --batch 4096 --num-steps 5 --repeats 15

The network is the published one for Humanoid: observation (244), time embedding and action (17) are concatenated,
hidden layers are 400, 200, 100, and one call takes the whole batch. The plain loop is `x <- x + dt v(x, t)` with the
same number of calls. Loop and solver alternate, and the median of the pairwise quotients is printed, so that a slow
moment of a shared machine affects both. The import time is the median additional time of `import genpo_jax.solvers`
after `import jax`.
"""

import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.timing import ratios, report, seconds, spread
from experiments.program import run_program
from genpo_jax.solvers import (
    EULER,
    BelmSolver,
    CoupledSolver,
    HistorySolver,
    MultistepSolver,
    RungeKuttaSolver,
    StepSolver,
    VerletSolver,
)

OBS, ACTION, TIME, HIDDEN = 244, 17, 64, (400, 200, 100)


def init_network(key: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
    """Return the layers of the humanoid network."""
    ends = (OBS + ACTION + TIME, *HIDDEN, ACTION)
    keys = jax.random.split(key, len(ends) - 1)
    return [
        (jax.random.normal(k, (a, b)) / a**0.5, jnp.zeros(b)) for k, a, b in zip(keys, ends[:-1], ends[1:], strict=True)
    ]


def make_velocity(params: list, obs: jax.Array):
    """Return `v(x, t)` for a batch of observations."""

    def velocity(x: jax.Array, t: jax.Array) -> jax.Array:
        time_features = jnp.broadcast_to(jnp.sin(t * jnp.arange(1.0, TIME + 1)), (*x.shape[:-1], TIME))
        h = jnp.concatenate([obs, x, time_features], axis=-1)
        for weight, bias in params[:-1]:
            h = jax.nn.elu(h @ weight + bias)
        return h @ params[-1][0] + params[-1][1]

    return velocity


def loop(num_calls: int):
    """Return a function that makes `num_calls` network calls and negligible other work."""

    def run(params: list, obs: jax.Array, x: jax.Array) -> jax.Array:
        velocity = make_velocity(params, obs)
        for i in range(num_calls):
            x = x + velocity(x, jnp.asarray(i / num_calls)) / num_calls
        return x

    return run


def import_seconds(repeats: int = 5) -> float:
    """Return the median additional seconds of `import genpo_jax.solvers` after `import jax`."""
    code = "import jax, time; t = time.perf_counter(); import genpo_jax.solvers; print(time.perf_counter() - t)"
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(repeats)
    ]
    return statistics.median(float(run.stdout) for run in runs)


@dataclass(frozen=True)
class SolverCostOptions:
    """Options of the benchmark."""

    only: tuple[str, ...] = ()
    """Solvers. Empty: all."""
    batch: int = 4096
    """Observations per network call."""
    num_steps: int = 5
    """Solver steps M."""
    repeats: int = 15
    """Timed pairs of solver and loop."""
    json: Path | None = None
    """File for the result."""


def solvers(num_steps: int) -> dict[str, StepSolver]:
    """Return the timed solvers."""
    return {
        "history": HistorySolver(num_steps),
        "multistep-1": MultistepSolver(num_steps, 1),
        "multistep-2": MultistepSolver(num_steps, 2),
        "multistep-3": MultistepSolver(num_steps, 3),
        "belm": BelmSolver(num_steps),
        "coupled": CoupledSolver(num_steps),
        "verlet": VerletSolver(num_steps),
        "rk-euler": RungeKuttaSolver(num_steps, EULER),
        "rk-midpoint": RungeKuttaSolver(num_steps),
    }


def row(name: str, what: str, calls: int, base: list[float], mine: list[float]) -> dict[str, Any]:
    """Return one row of the table."""
    return {
        "solver": name,
        "what": what,
        "calls": calls,
        "base_ms": spread([1e3 * sample for sample in base]),
        "ms": spread([1e3 * sample for sample in mine]),
        "over_base": ratios(mine, base),
    }


def in_turn(base: Any, mine: Any, repeats: int) -> tuple[list[float], list[float]]:
    """Time two calls in alternation, after one call of each for compilation; return their seconds."""
    for call in (base, mine):
        seconds(call)
    pairs = [(seconds(base), seconds(mine)) for _ in range(repeats)]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def time_solver(name: str, solver: StepSolver, options: SolverCostOptions, params: list, obs: jax.Array) -> list[dict]:
    """Time both directions against the plain loop; return a row for each."""
    state = jax.random.normal(jax.random.key(2), (options.batch, solver.num_states, ACTION))
    calls = len(solver.evaluation_times)
    plain, rows = jax.jit(loop(calls)), []
    for direction in ("forward", "inverse"):
        method = getattr(solver, direction)
        run = jax.jit(lambda params, obs, state, method=method: method(make_velocity(params, obs), state))
        samples = in_turn(
            lambda: plain(params, obs, state[:, 0]), lambda run=run: run(params, obs, state), options.repeats
        )
        rows.append(row(name, direction, calls, *samples))
    return rows


def time_constant_memory(options: SolverCostOptions, params: list, obs: jax.Array) -> dict[str, Any]:
    """Time the gradient of the inverse with constant memory against a plain scan; return its row."""
    state = jax.random.normal(jax.random.key(2), (len(obs), 2, ACTION))
    plain, constant = (
        jax.jit(jax.grad(lambda p, o, s, solver=solver: solver.inverse(make_velocity(p, o), s).sum()))
        for solver in (
            HistorySolver(options.num_steps, unroll=False),
            HistorySolver(options.num_steps, constant_memory=True),
        )
    )
    samples = in_turn(lambda: plain(params, obs, state), lambda: constant(params, obs, state), options.repeats)
    return row("history", "gradient, constant memory", options.num_steps, *samples)


def main(options: SolverCostOptions) -> None:
    """Measure, print one table, and write JSON if requested."""
    available = solvers(options.num_steps)
    if unknown := sorted(set(options.only) - set(available)):
        raise ValueError(f"unknown solvers {', '.join(unknown)}; choose from {', '.join(available)}")
    params = init_network(jax.random.key(0))
    obs = jax.random.normal(jax.random.key(1), (options.batch, OBS))
    rows = []
    for name in options.only or available:
        rows += time_solver(name, available[name], options, params, obs)
    rows.append(time_constant_memory(options, params, obs))
    title = f"batch {options.batch}, M = {options.num_steps}, import after jax: {1e3 * import_seconds():.1f} ms"
    report(title, options, rows)


if __name__ == "__main__":
    run_program(SolverCostOptions, main, __doc__)
