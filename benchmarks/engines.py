"""Compare MuJoCo's C engine with MJX, alone and inside a rollout.

    python -m benchmarks.engines --envs push_t panda_reach panda_push --num-envs 64

`batch` is `mujoco.batch.Batch` in a Python loop, an upper bound for the C engine. `c` and `mjx` are scans of T steps of
the environments with random actions; `c, policy` and `mjx, policy` are the rollout of training. With `--physics`,
`c, physics` draws physics per episode, and `c, physics, noise` has noise and delays too.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from benchmarks.programs import Options, Programs, env_scan
from benchmarks.timing import Contender, compiled, interleave, rates, ratios, report
from experiments.program import run_program
from genpo_jax import envs
from genpo_jax.config import EnvConfig
from genpo_jax.envs import EpisodeEnv
from genpo_jax.envs.engines import CEngine
from genpo_jax.envs.mujoco_model import mj_model_of
from genpo_jax.envs.names import PLAYGROUND
from genpo_jax.runtime import compiler_options

BASELINE = "batch"
IMPERFECT = EnvConfig(obs_noise=0.02, obs_bias=0.02, obs_delay="0:2", action_delay="0:2")


@dataclass(frozen=True)
class EngineOptions(Options):
    """Options of the benchmark."""

    envs: tuple[str, ...] = ("push_t", "panda_reach", "panda_push")
    """Environments. For Playground's, `c` is compared with `jax`, which is MJX."""
    num_envs: int = 64
    """Parallel environments."""
    mjx: bool = True
    """Measure MJX too; it compiles for minutes on some models."""
    policy: bool = True
    """Measure the rollout of training too."""
    physics: tuple[str, ...] = ()
    """Also measure `c` with this physics drawn per episode, as `--physics` of `genpo-jax train`; for MJCF tasks."""


def alone(env: Any, num_envs: int, unroll: int) -> Contender:
    """Return a Python loop that steps the batch with random controls."""
    model = mj_model_of(env)
    assert model is not None
    raw = getattr(env, "raw", env)
    substeps = next(getattr(raw, name) for name in ("substeps", "n_substeps", "_n_frames") if hasattr(raw, name))
    batch = CEngine(model, ()).batch(num_envs)
    states = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), num_envs))[0]
    fields = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(states)}
    for name in ("qpos", "qvel", "mocap_pos", "mocap_quat"):
        leaves = [leaf for path, leaf in fields.items() if path.endswith(f".{name}")]
        if leaves and leaves[0].size:
            batch.bind(name)[:] = np.asarray(leaves[0])
    first = batch.state.copy()
    low, high = model.actuator_ctrlrange.T
    controls = np.random.default_rng(0).uniform(low, high, (unroll, num_envs, model.nu))

    def run(carry: Any) -> Any:
        batch.state[:] = first
        for ctrl in controls:
            batch.bind("ctrl")[:] = ctrl
            batch.step(nstep=substeps)
        return carry, np.zeros(())

    return Contender(run, None)


def scanned(env: Any, options: EngineOptions, settings: EnvConfig) -> Contender:
    """Compile a scan of T steps of an environment with random actions, with the episode ends of training."""
    episodes = EpisodeEnv.of(env, settings, imperfect=True)
    keys = jax.random.split(jax.random.key(0), options.num_envs)
    xla_options = compiler_options(False)
    state = jax.jit(lambda keys: episodes.init(keys, stagger=True), compiler_options=xla_options)(keys)
    actions = jax.random.normal(jax.random.key(1), (options.unroll, options.num_envs, env.action_size))
    scan = jax.jit(env_scan(episodes, False), donate_argnums=0, compiler_options=xla_options)
    return compiled(scan, state, actions)


def contenders_of(options: EngineOptions, name: str) -> dict[str, Contender]:
    """Compile the programs of one environment."""
    contenders = {}
    for label in ("c", "mjx") if options.mjx else ("c",):
        backend = "jax" if label == "mjx" and name in PLAYGROUND else label
        env = envs.make(name, backend)
        if label == "c":
            contenders[BASELINE] = alone(env, options.num_envs, options.unroll)
        contenders[label] = scanned(env, options, EnvConfig())
        if options.physics and label == "c":
            drawn = envs.varied(env, options.physics)
            contenders["c, physics"] = scanned(drawn, options, EnvConfig())
            contenders["c, physics, noise"] = scanned(drawn, options, IMPERFECT)
        if options.policy:
            config = replace(options.config("genpo++"), fusion_emitters=False)
            contenders[f"{label}, policy"] = Programs(env, config).make("rollout")
    return contenders


def main(options: EngineOptions) -> None:
    """Measure, print one table, and write JSON if requested."""
    rows: list[dict[str, Any]] = []
    for name in options.envs:
        print(f"{name} ...", flush=True)
        contenders = contenders_of(options, name)
        interleave(contenders, options.rounds, options.sample_seconds)
        base = contenders[BASELINE].samples
        rows += [
            {
                "env": name,
                "rollout": label,
                "env_steps_per_s": rates(options.num_envs * options.unroll, contender.samples),
                "speed_over_batch": ratios(base, contender.samples),
                "compile_s": contender.compile_seconds,
            }
            for label, contender in contenders.items()
        ]
    report(f"engines, {options.num_envs} environments, T = {options.unroll}", options, rows)


if __name__ == "__main__":
    run_program(EngineOptions, main, __doc__)
