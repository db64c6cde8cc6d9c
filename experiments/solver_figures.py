"""Draw the figures of docs/solvers.md and print the numbers that it quotes.

    python -m experiments.solver_figures [--only NAME ...]

Measures the solvers of this package and reads nothing from disk. Takes a few minutes on a CPU.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt

from genpo_jax.solvers import (
    MIDPOINT,
    RK4,
    BelmSolver,
    CoupledSolver,
    DiagonalNormal,
    Flow,
    HistorySolver,
    MultistepSolver,
    RungeKuttaSolver,
    VerletSolver,
    effective_sample_size,
    fit_history_proposal,
    marginal_log_ratio,
    power_grid,
    standard_normal,
)

FOLDER = Path(__file__).parents[1] / "docs" / "figures"
FAMILY = {
    "history": lambda m, **options: HistorySolver(m, **options),
    "multistep 1": lambda m, **options: MultistepSolver(m, 1, **options),
    "multistep 2": lambda m, **options: MultistepSolver(m, 2, **options),
    "multistep 3": lambda m, **options: MultistepSolver(m, 3, **options),
    "BELM": lambda m, **options: BelmSolver(m, **options),
    "coupled": lambda m, **options: CoupledSolver(m, **options),
    "Verlet": lambda m, **options: VerletSolver(m, **options),
    "RK midpoint": lambda m, **options: RungeKuttaSolver(m, MIDPOINT, **options),
    "RK4": lambda m, **options: RungeKuttaSolver(m, RK4, **options),
}
CALLS = {"coupled": 2, "Verlet": 2, "RK midpoint": 4, "RK4": 8}
# One color per family and one dash per member, so that lines are distinguishable without color.
STYLE = {
    "history": ("#1b1b1b", "-"),
    "multistep 1": ("#0072b2", "-"),
    "multistep 2": ("#0072b2", "--"),
    "multistep 3": ("#0072b2", ":"),
    "BELM": ("#009e73", "-"),
    "coupled": ("#d55e00", "-"),
    "Verlet": ("#cc79a7", "-"),
    "RK midpoint": ("#b8860b", "-"),
    "RK4": ("#b8860b", "--"),
}


def build(name: str, num_steps: int, **options):
    """Build a solver for measurement: scanned, without a guard on the round trip."""
    return FAMILY[name](num_steps, unroll=False, max_error=math.inf, **options)


def velocity(x: jax.Array, t: jax.Array) -> jax.Array:
    """Evaluate a nonlinear, time-dependent velocity with coupled coordinates."""
    return jnp.sin(3 * t) * jnp.cos(x) - 0.7 * x * jnp.roll(x, 1, -1) + 0.3


def network(seed: int, size: int, dtype=jnp.float32, scale: float = 1.0):
    """Return the velocity of a random network, with Lipschitz constant at most `scale` in x."""
    rng = np.random.default_rng(seed)
    first, last = rng.normal(size=(size, 64)), rng.normal(size=(64, size))
    first, last = first / np.linalg.norm(first, 2), scale * last / np.linalg.norm(last, 2)
    bias, rate = rng.normal(size=64), 3 * rng.normal(size=64)
    first, last, bias, rate = (jnp.asarray(value, dtype) for value in (first, last, bias, rate))
    return lambda x, t: jnp.tanh(x @ first + bias + t * rate) @ last


def copies(solver, x: jax.Array) -> jax.Array:
    """Return the state with all iterates equal to x."""
    return jnp.broadcast_to(x[..., None, :], (*x.shape[:-1], solver.num_states, x.shape[-1]))


def save(figure, name: str) -> None:
    """Write a figure."""
    FOLDER.mkdir(exist_ok=True)
    figure.savefig(FOLDER / f"solvers_{name}.png", dpi=110, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)


def label_ticks(axis, values) -> None:
    """Label a logarithmic axis only at the measured values."""
    axis.set_xticks(values, [str(value) for value in values])
    axis.xaxis.minorticks_off()


def draw_order() -> None:
    """Plot the error of the action over network calls, on equal and on uneven steps."""
    starts = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, size=(16, 3)))
    exact = RungeKuttaSolver(2000, RK4, 1.0, unroll=False)
    target = exact.output(exact.forward(velocity, copies(exact, starts)))
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True)
    print("order: slope of the error between M = 64 and 256 (RK4: 16 and 64), error at M = 8")
    for axis, exponent in zip(axes, (1.0, 1.5), strict=True):
        for name in FAMILY:
            steps = [4, 8, 16, 32, 64, 128, 256] if name != "RK4" else [2, 4, 8, 16, 32, 64]
            errors = []
            for m in steps:
                solver = build(name, m, grid=power_grid(m, exponent))
                action = solver.output(solver.forward(velocity, copies(solver, starts)))
                errors.append(float(jnp.sqrt(jnp.mean((action - target) ** 2))))
            color, dash = STYLE[name]
            axis.loglog([m * CALLS.get(name, 1) for m in steps], errors, dash, color=color, marker=".", label=name)
            slope = math.log(errors[-3] / errors[-1]) / math.log(4)
            print(
                f"  exponent {exponent} {name:12s} order {solver.order} slope {slope:5.2f}  "
                f"M=8 {errors[steps.index(8)]:.1e}"
            )
        axis.set_xlabel("network calls")
        axis.set_title("equal steps" if exponent == 1 else "uneven steps, $t_i = (i/M)^{1.5}$")
        axis.grid(alpha=0.3)
    constant = HistorySolver(5).forward(lambda x, t: jnp.ones_like(x), jnp.zeros((2, 1)))
    print(f"  history, M = 5, v = 1 from equal iterates at 0: action {float(constant[0, 0]):.3f}")
    axes[0].set_ylabel("root-mean-square error of the action")
    axes[1].legend(fontsize=8, ncol=2)
    save(figure, "order")


def draw_round_trip() -> None:
    """Plot the float32 round-trip error over M, for all solvers and for the history solver with several σ."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2))
    field = network(0, 17)

    def measure(solver) -> float:
        state = jax.random.normal(jax.random.key(1), (64, solver.num_states, 17), jnp.float32)
        last = solver.forward(field, state)
        error = jnp.abs(solver.inverse(field, last) - state).max()
        return float(error / jnp.maximum(jnp.abs(state).max(), jnp.abs(last).max()))

    steps = [1, 2, 3, 5, 8, 12, 16, 20]
    worst = (0.0, "", 0)
    for name in FAMILY:
        solvers = [build(name, m) for m in steps]
        errors = [measure(solver) for solver in solvers]
        ratios = [
            (e / s.round_trip_error(jnp.float32), name, m) for e, s, m in zip(errors, solvers, steps, strict=True)
        ]
        worst = max(worst, *ratios)
        color, dash = STYLE[name]
        axes[0].semilogy(steps, errors, dash, color=color, marker=".", label=name)
    print(f"round trip: largest measured / predicted {worst[0]:.1f} ({worst[1]}, M = {worst[2]})")
    for sigma, color in zip((0.25, 0.5, 0.75, 0.95), ("#999999", "#e69f00", "#1b1b1b", "#56b4e9"), strict=True):
        solvers = [HistorySolver(m, sigma, unroll=False, max_error=math.inf) for m in steps]
        axes[1].semilogy(steps, [measure(s) for s in solvers], ".", color=color, label=f"measured, σ = {sigma}")
        axes[1].semilogy(steps, [s.round_trip_error(jnp.float32) for s in solvers], "-", color=color, lw=1)
        print(
            f"  history sigma {sigma}: "
            + ", ".join(f"M={m} {measure(s):.0e}" for m, s in zip(steps, solvers, strict=True))
        )
    axes[1].axhline(1e-3, color="#d55e00", ls="--", lw=1, label="guard")
    axes[1].set_ylim(1e-8, 1e2)
    for axis, title in zip(axes, ("the family, default coefficients", "history solver; lines: predicted"), strict=True):
        axis.set_xlabel("number of steps M")
        axis.set_title(title)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, ncol=2 if axis is axes[0] else 1)
    axes[0].set_ylabel("relative float32 round-trip error")
    save(figure, "round_trip")


def measure_bound() -> None:
    """Print the largest quotient of measured and predicted round-trip error over sizes, steps and dtypes."""
    worst = (0.0, "", 0, 0)
    for dtype in (jnp.float32, jnp.float64):
        for size in (1, 3, 17, 64):
            field = jax.jit(network(size, size, dtype))
            for name in FAMILY:
                for m in range(1, 21):
                    solver = FAMILY[name](m, max_error=math.inf)
                    state = jax.random.normal(jax.random.key(m), (8, solver.num_states, size), dtype)
                    last = solver.forward(field, state)
                    error = jnp.abs(solver.inverse(field, last) - state).max()
                    scale = jnp.maximum(jnp.abs(state).max(), jnp.abs(last).max())
                    worst = max(worst, (float(error / scale) / solver.round_trip_error(dtype), name, size, m))
    print(f"bound: largest measured / predicted {worst[0]:.1f} ({worst[1]}, d = {worst[2]}, M = {worst[3]})")


def stability(name: str, real: np.ndarray, imag: np.ndarray) -> np.ndarray:
    """Return the spectral radius of one step after the first ones on x' = μ x, over a grid of μ h."""
    solver = build(name, 12)
    width = solver.num_states + (solver.order - 1 if isinstance(solver, MultistepSolver) else 0)
    row = tuple(np.asarray(coef)[8].tolist() for coef in solver.coefs())
    step = solver.times.steps[0]

    def radius(re: jax.Array, im: jax.Array) -> jax.Array:
        # The 2 x 2 real matrix of a complex number lets the real solver step x' = μ x.
        matrix = jnp.array([[re, im], [-im, re]]) / step
        flat = jnp.eye(2 * width).reshape(2 * width, width, 2)
        carry = solver.step(lambda x, t: x @ matrix, row, tuple(flat[:, j] for j in range(width)))
        return jnp.stack(carry, axis=1).reshape(2 * width, 2 * width).T

    matrices = jax.jit(jax.vmap(jax.vmap(radius, (0, None)), (None, 0)))(real, imag)
    return np.abs(np.linalg.eigvals(np.asarray(matrices))).max(-1)


def draw_stability() -> None:
    """Plot the regions of μ h in which a step of x' = μ x does not grow."""
    real, imag = np.linspace(-2.6, 0.6, 161), np.linspace(-1.8, 1.8, 181)
    figure, axes = plt.subplots(2, 4, figsize=(12, 6), sharex=True, sharey=True)
    names = [name for name in FAMILY if name != "multistep 1"]
    for axis, name in zip(axes.ravel(), names, strict=True):
        radius = stability(name, real, imag)
        axis.contourf(real, imag, radius, levels=[0, 1 + 1e-6], colors=["#56b4e9"])
        axis.contour(real, imag, radius, levels=[1 + 1e-6], colors="k", linewidths=0.8)
        axis.axhline(0, color="k", lw=0.4)
        axis.axvline(0, color="k", lw=0.4)
        axis.set_title(f"{name} ({CALLS.get(name, 1)} call{'s' if CALLS.get(name, 1) > 1 else ''} a step)", fontsize=9)
    for axis in axes[-1]:
        axis.set_xlabel("Re μ h")
    for axis in axes[:, 0]:
        axis.set_ylabel("Im μ h")
    save(figure, "stability")
    print("stability: most negative real μ h with spectral radius <= 1")
    line = np.linspace(0, -3, 601)
    for name in FAMILY:
        unstable = np.flatnonzero(stability(name, line, np.zeros(1))[0] > 1 + 1e-6)
        print(f"  {name:12s} {line[max(unstable[0] - 1, 0)]:.2f}")


def draw_log_det() -> None:
    """Plot the difference between log |det| of the autodiff Jacobian and its closed form."""
    figure, axis = plt.subplots(figsize=(6, 4.2))
    shapes = [(1, 2), (3, 5), (3, 9), (17, 5), (17, 12), (64, 5), (64, 20)]
    worst = {}
    for name in FAMILY:
        differences = []
        for size, m in shapes:
            solver = build(name, m, grid=power_grid(m, 1.2))
            field = network(size, size, jnp.float64)
            state = jax.random.normal(jax.random.key(m), (solver.num_states, size))
            jacobian = jax.jit(jax.jacfwd(lambda z, s=solver, f=field: s.forward(f, z)))(state)
            measured = np.linalg.slogdet(np.asarray(jacobian).reshape(state.size, state.size))[1]
            differences.append(max(abs(measured - solver.log_det(size)), 1e-16))
        worst[name] = max(differences)
        color, dash = STYLE[name]
        axis.semilogy(differences, dash, color=color, marker=".", label=name)
    print(f"log-det: largest difference to autodiff in float64 {max(worst.values()):.1e}")
    axis.set_xticks(range(len(shapes)), [f"d={size}\nM={m}" for size, m in shapes])
    axis.axhline(1e-9, color="k", ls="--", lw=1)
    axis.text(0, 1.3e-9, "required", fontsize=8)
    axis.set_ylabel("| closed form - autodiff |")
    axis.legend(fontsize=7, ncol=3, loc="upper center", bbox_to_anchor=(0.5, 1.2))
    axis.grid(alpha=0.3)
    save(figure, "log_det")


def draw_memory() -> None:
    """Plot the memory of the compiled gradient over M, with and without stored iterates."""
    figure, axis = plt.subplots(figsize=(5.2, 4.0))
    steps, batch, size = [4, 8, 16, 32, 64], 2048, 17
    first, last = jnp.ones((size, 256), jnp.float32), jnp.ones((256, size), jnp.float32)

    def megabytes(solver) -> float:
        def loss(params, state):
            return solver.inverse(lambda x, t: jnp.tanh(x @ params[0] * t) @ params[1], state).sum()

        state = jax.ShapeDtypeStruct((batch, solver.num_states, size), jnp.float32)
        memory: Any = jax.jit(jax.grad(loss)).lower((first, last), state).compile().memory_analysis()
        return (memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes) / 1e6

    for name in ("history", "multistep 3", "coupled"):
        for constant, marker in ((False, "o"), (True, "s")):
            sizes = [megabytes(build(name, m, constant_memory=constant)) for m in steps]
            label = f"{name}, {'constant memory' if constant else 'stored'}"
            axis.loglog(steps, sizes, marker=marker, color=STYLE[name][0], ls="-" if constant else "--", label=label)
            print(f"memory: {label}: M=4 {sizes[0]:.1f} MB, M=64 {sizes[-1]:.1f} MB")
    label_ticks(axis, steps)
    axis.set_xlabel("number of steps M")
    axis.set_ylabel("memory of the compiled gradient (MB)")
    axis.legend(fontsize=7)
    axis.grid(alpha=0.3, which="both")
    save(figure, "memory")


def draw_ratio() -> None:
    """Plot the effective sample size of state ratio and action ratio over the change of the velocity."""
    figure, axis = plt.subplots(figsize=(5.2, 4.0))
    size, changes = 3, (0.05, 0.1, 0.2, 0.4)
    print("ratio: effective sample size of the state ratio, of the action ratio, efficiency of the estimate")
    for name in ("history", "coupled", "multistep 3"):
        curves = []
        for change in changes:
            solver = build(name, 5)
            base = standard_normal(solver.num_states, size, jnp.float64)
            field, shift = network(0, size, jnp.float64), network(1, size, jnp.float64)
            old = Flow(solver, field, base)
            new = Flow(solver, lambda x, t, c=change, f=field, s=shift: f(x, t) + c * s(x, t), base)
            state, log_prob = old.sample_and_log_prob(seed=jax.random.key(0), sample_shape=2048)
            proposal = fit_history_proposal(old, jax.random.key(1), 4096)
            estimate = marginal_log_ratio(new, old, proposal, old.action(state), jax.random.key(2), 512)
            whole, action = (
                effective_sample_size(new.log_prob(state) - log_prob),
                effective_sample_size(estimate.value),
            )
            curves.append((float(whole), float(action)))
            print(
                f"  {name:12s} change {change:4.2f}: {whole:.3f} {action:.3f} {float(estimate.efficiency.mean()):.2f}"
            )
        for values, dash in zip(zip(*curves, strict=True), ("-", "--"), strict=True):
            axis.semilogx(
                changes,
                values,
                dash,
                marker=".",
                color=STYLE[name][0],
                label=f"{name}, {'state' if dash == '-' else 'action'}",
            )
    label_ticks(axis, changes)
    axis.set_xlabel("size c of the change of velocity")
    axis.set_ylabel("effective sample size / batch")
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3)
    save(figure, "ratio")


def measure_bfloat16() -> None:
    """Print the error that a bfloat16 velocity causes in the first-minibatch ratio of float32 states."""
    size, batch = 17, 8192
    layers = [
        np.random.default_rng(i).normal(size=s) / s[0] ** 0.5
        for i, s in enumerate([(size, 128), (128, 128), (128, size)])
    ]

    def make_field(dtype):
        w1, w2, w3 = (jnp.asarray(layer, dtype) for layer in layers)

        def field(x, t):
            h = jnp.tanh(x.astype(dtype) @ w1 + t.astype(dtype))
            return jnp.tanh(h @ w2) @ w3

        return field

    print("bfloat16: error of the log-ratio at unchanged parameters (float32 state, history σ = 0.75)")
    base = DiagonalNormal(jnp.zeros((2, size), jnp.float32))
    for m in (5, 10, 20):
        for dtype in (jnp.float32, jnp.bfloat16):
            solver, field = HistorySolver(m), make_field(dtype)
            noise = base.sample(jax.random.key(m), (batch,))
            state = jax.jit(lambda z, s=solver, f=field: s.forward(f, z))(noise)
            for label, rows in (("same batch", batch), ("batch split in 8", batch // 8)):
                undo = jax.jit(lambda z, s=solver, f=field: s.inverse(f, z))
                back = jnp.concatenate([undo(part) for part in state.reshape(-1, rows, 2, size)])
                error = jnp.abs(base.log_prob(back) - base.log_prob(noise))
                print(
                    f"  M={m:2d} {jnp.dtype(dtype).name:8s} {label:16s} median {jnp.median(error):.1e} "
                    f"99% {jnp.quantile(error, 0.99):.1e} max {error.max():.1e}"
                )


def main() -> None:
    """Draw the figures that `--only` names, or all."""
    jobs = {
        "order": draw_order,
        "round_trip": draw_round_trip,
        "bound": measure_bound,
        "stability": draw_stability,
        "log_det": draw_log_det,
        "memory": draw_memory,
        "ratio": draw_ratio,
        "bfloat16": measure_bfloat16,
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=sorted(jobs), default=list(jobs))
    jax.config.update("jax_enable_x64", True)
    for name in parser.parse_args().only:
        jobs[name]()


if __name__ == "__main__":
    main()
