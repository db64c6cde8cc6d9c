"""Compare exported policies with the trainer's: largest difference of an action, and time per action.

    python -m benchmarks.exported RUN [RUN ...]
    python -m benchmarks.exported --methods genpo++ gaussian

Runs are compared with their trained weights. Without runs, each method takes the networks of its full preset, at the
sizes of `env`, with noise added to the initial weights. Observations are drawn from the distribution of the policy's
observation normalizer.
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
from experiments.program import run_program
from genpo_jax import load, preset
from genpo_jax.export.exporter import policy_files
from genpo_jax.export.standalone import onnx_session
from genpo_jax.methods import METHODS
from genpo_jax.normalizer import RunningMoments
from genpo_jax.policy import PolicySpec, TrainedPolicy

# Sizes of observation and action.
SIZES = {"humanoid": (244, 17), "reacher": (11, 2)}
# Standard deviation of the noise on weights, which gives actions of a few tenths.
WEIGHT_NOISE = 0.03


@dataclass(frozen=True)
class ExportedOptions:
    """Options of the comparison."""

    runs: tyro.conf.Positional[tuple[str, ...]] = ()
    """Run folders. None: policies with random weights."""
    env: str = "humanoid"
    """Environment whose sizes and preset to use without runs."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Methods to compare without runs."""
    observations: int = 10_000
    """Observations to compare on."""
    calls: int = 1000
    """Timed calls, of one observation each."""
    json: Path | None = None
    """File for the result."""


def random_policy(env: str, method: str) -> TrainedPolicy:
    """Return a policy of the full preset with noise on its initial weights."""
    if env not in SIZES:
        raise ValueError(f"env must be one of {', '.join(SIZES)}, got {env!r}; pass run folders for other environments")
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
    weights = [x + WEIGHT_NOISE * jax.random.normal(key, x.shape) for x, key in zip(leaves, keys, strict=True)]
    moments = RunningMoments(jnp.float32(10), jnp.zeros(obs_size), 10 * jnp.ones(obs_size))
    return TrainedPolicy(spec, jax.tree.unflatten(tree, weights), moments)


def times(call: Any, calls: int) -> Spread:
    """Time calls; return their milliseconds."""
    call()
    return spread([1e3 * seconds(call) for _ in range(calls)])


def row(name: str, policy: TrainedPolicy, options: ExportedOptions) -> dict[str, Any]:
    """Compare one exported policy with the trainer's; return its row."""
    rng = np.random.default_rng(0)
    moments = policy.moments
    mean, std = (0.0, 1.0) if moments is None else (np.asarray(moments.mean), np.asarray(moments.std))
    obs = (mean + std * rng.normal(size=(options.observations, policy.spec.obs_size))).astype(np.float32)
    noise = rng.normal(size=(options.observations, *policy.noise_shape)).astype(np.float32)
    files = policy_files(policy)
    deterministic, sampling = (onnx_session(files[f"policy{kind}.onnx"]) for kind in ("", "_noise"))
    (action,), (sampled,) = (
        deterministic.run(None, {"observation": obs}),
        sampling.run(None, {"observation": obs, "noise": noise}),
    )
    expected = np.asarray(jax.jit(policy)(obs))
    compiled = jax.jit(jax.export.deserialize(bytearray(files["policy.stablehlo"])).call)
    first = obs[:1]
    return {
        "policy": name,
        "mean_abs_action": f"{np.abs(expected).mean():.2f}",
        "difference": f"{np.abs(action - expected).max():.1e}",
        "with_noise": f"{np.abs(sampled - jax.jit(lambda o, n: policy(o, noise=n))(obs, noise)).max():.1e}",
        "onnx_ms": times(partial(deterministic.run, None, {"observation": first}), options.calls),
        "stablehlo_ms": times(lambda: np.asarray(compiled(first)), options.calls),
    }


def main(options: ExportedOptions) -> None:
    """Measure, print one table, and write JSON if requested."""
    policies = {str(run): load(run) for run in options.runs}
    if not policies:
        policies = {f"{name} on {options.env}": random_policy(options.env, name) for name in options.methods}
    rows = [row(name, policy, options) for name, policy in policies.items()]
    report(f"exported policies, {options.observations} observations; ms per action, median (quartiles)", options, rows)


if __name__ == "__main__":
    run_program(ExportedOptions, main, __doc__)
