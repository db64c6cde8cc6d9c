"""Compare exported policies with the trainer's: the largest difference of an action, and the time that one takes.

    python -m benchmarks.exported RUN [RUN ...]
    python -m benchmarks.exported --methods genpo++ gaussian

Of runs it takes the trained weights. Without any, it takes each method's networks of the full preset, at the size of
`env`, with weights moved away from where training starts. Observations are drawn about what a policy has seen.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

from benchmarks.timing import Spread, report, seconds, spread
from genpo_jax import load, preset
from genpo_jax.cli import run_program
from genpo_jax.export.exporter import policy_files
from genpo_jax.export.standalone import onnx_session
from genpo_jax.methods import METHODS
from genpo_jax.policy import PolicySpec, TrainedPolicy
from genpo_jax.training.normalizer import RunningMoments

# Sizes of observation and action.
SIZES = {"humanoid": (244, 17), "reacher": (11, 2)}
# Of the noise that moves weights: actions are then of a few tenths.
MOVED = 0.03


@dataclass(frozen=True)
class ExportedOptions:
    """What to compare."""

    runs: tyro.conf.Positional[tuple[str, ...]] = ()
    """Folders of runs."""
    env: str = "humanoid"
    """Without runs, whose sizes and preset to take."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Without runs, which methods."""
    observations: int = 10_000
    """How many to compare on."""
    calls: int = 1000
    """How many to time, one observation each."""
    json: Path | None = None
    """Where to write the result."""


def moved_policy(env: str, method: str) -> TrainedPolicy:
    """Return a policy of the full preset with moved weights."""
    if env not in SIZES:
        raise ValueError(f"env must be one of {', '.join(SIZES)}, got {env!r}; name runs for others")
    config, (obs_size, action_size) = preset(env, method, accelerator=True), SIZES[env]
    spec = PolicySpec(
        env=env,
        seed=0,
        obs_size=obs_size,
        obs_name="state",
        action_size=action_size,
        squash=config.env_options.squash,
        method=config.method,
        networks=config.networks,
        normalized=True,
    )
    leaves, tree = jax.tree.flatten(nnx.state(spec.build(), nnx.Param))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [x + MOVED * jax.random.normal(key, x.shape) for x, key in zip(leaves, keys, strict=True)]
    seen = RunningMoments(jnp.float32(10), jnp.zeros(obs_size), 10 * jnp.ones(obs_size))
    return TrainedPolicy(spec, jax.tree.unflatten(tree, moved), seen)


def times(call: Any, calls: int) -> Spread:
    """Return milliseconds of one call."""
    call()
    return spread([1e3 * seconds(call) for _ in range(calls)])


def row(name: str, policy: TrainedPolicy, options: ExportedOptions) -> dict[str, Any]:
    """Return what one policy came to."""
    rng = np.random.default_rng(0)
    moments = policy.moments
    mean, std = (0.0, 1.0) if moments is None else (np.asarray(moments.mean), np.asarray(moments.std))
    obs = (mean + std * rng.normal(size=(options.observations, policy.spec.obs_size))).astype(np.float32)
    noise = rng.normal(size=(options.observations, *policy.noise_shape)).astype(np.float32)
    files = policy_files(policy)
    still, noisy = (onnx_session(files[f"policy{kind}.onnx"]) for kind in ("", "_noise"))
    (action,), (sampled,) = (
        still.run(None, {"observation": obs}),
        noisy.run(None, {"observation": obs, "noise": noise}),
    )
    expected = np.asarray(jax.jit(policy)(obs))
    compiled = jax.jit(jax.export.deserialize(bytearray(files["policy.stablehlo"])).call)
    one = obs[:1]
    return {
        "policy": name,
        "action_size": f"{np.abs(expected).mean():.2f}",
        "difference": f"{np.abs(action - expected).max():.1e}",
        "with_noise": f"{np.abs(sampled - jax.jit(lambda o, n: policy(o, noise=n))(obs, noise)).max():.1e}",
        "onnx_ms": times(partial(still.run, None, {"observation": one}), options.calls),
        "stablehlo_ms": times(lambda: np.asarray(compiled(one)), options.calls),
    }


def main(options: ExportedOptions) -> None:
    """Measure, print one table, write JSON where asked."""
    policies = {Path(run).name: load(run) for run in options.runs}
    if not policies:
        policies = {f"{name} on {options.env}": moved_policy(options.env, name) for name in options.methods}
    rows = [row(name, policy, options) for name, policy in policies.items()]
    report(f"exported policies over {options.observations} observations; ms of one, median (quartiles)", options, rows)


if __name__ == "__main__":
    run_program(ExportedOptions, main, __doc__)
