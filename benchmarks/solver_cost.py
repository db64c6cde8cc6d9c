"""Time a solver against a bare loop of the same network calls, and the import of the solvers.

    python -m benchmarks.solver_cost [--batch 4096] [--num-steps 5] [--repeats 15]

The network is the published one for Humanoid: observation 244 and time embedding concatenated with the
action (17), hidden layers 400, 200, 100, one call on the whole batch. The bare loop is `x <- x + dt v(x, t)`
with as many calls. Loop and solver alternate, and the median of the pairwise quotients is printed, so that a
slow moment of a shared machine hits both. The import time is the median difference between `import jax` and
`import genpo_jax.solvers`.
"""

import argparse
import statistics
import subprocess
import sys

import jax
import jax.numpy as jnp

from benchmarks.timing import ratios, seconds
from genpo_jax.solvers import (
    EULER,
    BelmSolver,
    CoupledSolver,
    HistorySolver,
    MultistepSolver,
    RungeKuttaSolver,
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
    """Return a function that makes `num_calls` network calls and nothing else worth mentioning."""

    def run(params: list, obs: jax.Array, x: jax.Array) -> jax.Array:
        velocity = make_velocity(params, obs)
        for i in range(num_calls):
            x = x + velocity(x, jnp.asarray(i / num_calls)) / num_calls
        return x

    return run


def import_seconds(repeats: int = 5) -> float:
    """Return the median extra seconds of `import genpo_jax.solvers` after `import jax`."""
    code = "import jax, time; t = time.perf_counter(); import genpo_jax.solvers; print(time.perf_counter() - t)"
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(repeats)
    ]
    return statistics.median(float(run.stdout) for run in runs)


def measure_gradient(params: list, obs: jax.Array, num_steps: int, repeats: int) -> None:
    """Print what constant memory costs: the gradient of the inverse against that of a plain scan."""
    state = jax.random.normal(jax.random.key(2), (len(obs), 2, ACTION))
    runs = [
        jax.jit(jax.grad(lambda p, o, s, solver=solver: solver.inverse(make_velocity(p, o), s).sum()))
        for solver in (
            HistorySolver(num_steps, unroll=False),
            HistorySolver(num_steps, constant_memory=True),
        )
    ]
    for run in runs:
        seconds(run, params, obs, state)
    pairs = [[seconds(run, params, obs, state) for run in runs] for _ in range(repeats)]
    plain, walked = (1e3 * statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"gradient of the history inverse: scan {plain:.1f} ms, constant memory {walked:.1f} ms")


def main() -> None:
    """Print one row for each solver and direction, and the price of constant memory."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="*", help="names of solvers; default: all")
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--num-steps", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    m = args.num_steps
    print(f"device {jax.devices()[0].platform}, batch {args.batch}, M = {m}")
    print(f"import genpo_jax.solvers after jax: {1e3 * import_seconds():.1f} ms")
    solvers = {
        "history": (HistorySolver(m), m),
        "multistep-1": (MultistepSolver(m, 1), m),
        "multistep-2": (MultistepSolver(m, 2), m),
        "multistep-3": (MultistepSolver(m, 3), m),
        "belm": (BelmSolver(m), m),
        "coupled": (CoupledSolver(m), 2 * m),
        "verlet": (VerletSolver(m), 2 * m + 1),
        "rk-euler": (RungeKuttaSolver(m, EULER), 2 * m),
        "rk-midpoint": (RungeKuttaSolver(m), 4 * m),
    }
    params = init_network(jax.random.key(0))
    obs = jax.random.normal(jax.random.key(1), (args.batch, OBS))
    print("solver        direction  calls  loop ms  solver ms  quotient (quartiles)")
    for name, (solver, calls) in solvers.items():
        if args.only is not None and name not in args.only:
            continue
        state = jax.random.normal(jax.random.key(2), (args.batch, solver.num_states, ACTION))
        bare = jax.jit(loop(calls))
        for direction in ("forward", "inverse"):
            method = getattr(solver, direction)
            run = jax.jit(lambda params, obs, state, method=method: method(make_velocity(params, obs), state))
            seconds(bare, params, obs, state[:, 0])
            seconds(run, params, obs, state)
            pairs = [
                (seconds(bare, params, obs, state[:, 0]), seconds(run, params, obs, state)) for _ in range(args.repeats)
            ]
            bare_samples, run_samples = zip(*pairs, strict=True)
            bare_ms, run_ms = (1e3 * statistics.median(samples) for samples in (bare_samples, run_samples))
            middle, low, high = ratios(run_samples, bare_samples)
            print(
                f"{name:13s} {direction:9s} {calls:6d} {bare_ms:8.1f} {run_ms:10.1f}"
                f"  {middle:.3f} ({low:.3f}-{high:.3f})",
                flush=True,
            )
    measure_gradient(params, obs, m, args.repeats)


if __name__ == "__main__":
    main()
