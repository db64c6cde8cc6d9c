"""Evaluate the policy of a run over many episodes, with any noise, environment or backend."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from genpo_jax import intervals
from genpo_jax.checks import require
from genpo_jax.config import SUCCESS, is_outcome
from genpo_jax.envs import EpisodeEnv
from genpo_jax.envs.base import ACTOR_OBS, succeeded
from genpo_jax.policy import TrainedPolicy
from genpo_jax.runs.environment import check_conditions, environment_of
from genpo_jax.runs.folder import saved_config
from genpo_jax.runs.load import CheckpointName, checkpoint_step, folder_of, load
from genpo_jax.runtime import compiler_options
from genpo_jax.training.play import Episodes, Noise, play_episodes, policy_actor

logger = logging.getLogger(__name__)
# Names of the kinds of noise in tables.
ACTIONS: dict[str, str] = {"zero": "deterministic", "random": "sampled", "fixed": "fixed noise"}


def evaluate(
    run_dir: str | Path,
    *,
    episodes: int = 64,
    noise: Sequence[Noise] = ("zero", "random"),
    start_seed: int = 1_000_003,
    env: Any = None,
    backend: str | None = None,
    randomize: bool = False,
    physics: Sequence[str] = (),
    imperfect: bool = False,
    step: int | None = None,
    seed: int | None = None,
    checkpoint: CheckpointName = "newest",
    trust: bool = False,
    fusion_emitters: bool = True,
) -> dict[str, Any]:
    """Evaluate the policy of a run and return the results as JSON-compatible values.

    Args:
        run_dir: folder of the run.
        episodes: episodes for each kind of noise; all kinds have the same initial states.
        noise: `zero` (deterministic); `random`, drawn at every step as in training; `fixed`, drawn once per episode.
        start_seed: seed of the initial states and the noise; the default differs from the usual training seeds.
        env: another environment with the same observation and action size, by name or as an object; None: that of the
            run.
        backend: another backend; None: that of the run.
        randomize: evaluate with randomized physics, as in training; otherwise it is nominal.
        physics: evaluate with this physics drawn per episode, see `EnvConfig.physics`; it replaces that of training.
        imperfect: evaluate with the noise, delays and pushes of training; otherwise the robot is perfect.
        step: env steps of the checkpoint; None: the newest.
        seed: seed of the run; required if the run has several.
        checkpoint: `newest`, or `best` at the evaluations during training; see `genpo_jax.load`.
        trust: import the module that the run names as its environment.
        fusion_emitters: use XLA's fusion emitters on a CPU if training did, see `Config.fusion_emitters`.

    Raises:
        ValueError: a setting is not allowed, the environment has other sizes than the policy, or its module must be
            trusted or named first.
        FileNotFoundError: `run_dir` holds no run, or no checkpoint at `step`.
    """
    run_dir = folder_of(Path(run_dir), seed)
    step = checkpoint_step(run_dir, step, checkpoint)
    policy, config = load(run_dir, step), saved_config(run_dir)
    options = policy.spec.seen(config.env_options)
    check_conditions(options, physics, imperfect, run_dir)
    raw = environment_of(run_dir, env, backend, randomize, physics=physics, trust=trust)
    batch = EpisodeEnv.of(raw, options, imperfect=imperfect)
    xla_options = compiler_options(fusion_emitters and config.fusion_emitters)
    results = evaluate_policy(policy, batch, episodes, noise, start_seed, xla_options)
    return {
        "run": str(run_dir),
        "env_steps": step,
        "env": raw.name,
        "backend": getattr(raw, "backend", backend or (config.backend if env is None else None)),
        "randomize": randomize,
        "physics": list(physics),
        "imperfect": imperfect,
        "episodes": episodes,
        "start_seed": start_seed,
        "noise": results,
    }


def evaluate_policy(
    policy: TrainedPolicy,
    env: EpisodeEnv,
    episodes: int,
    noise: Sequence[Noise] = ("zero", "random"),
    start_seed: int = 1_000_003,
    compiler_options: dict[str, bool] | None = None,
) -> dict[str, dict[str, Any]]:
    """Evaluate a policy and return the results of each kind of noise; see `evaluate`.

    Raises:
        ValueError: a setting is not allowed, or the environment has other sizes than the policy.
    """
    require(episodes >= 1, ">= 1", "episodes", episodes)
    for kind in noise:
        require(kind in ("zero", "random", "fixed"), "zero, random or fixed", "noise", kind)
    _check_sizes(policy, env)
    program = jax.jit(_episodes, static_argnums=(1, 2, 3), compiler_options=compiler_options)
    key = jax.random.key(start_seed)
    results = {kind: jax.device_get(program(policy, env, kind, episodes, key)) for kind in dict.fromkeys(noise)}
    for kind, played in results.items():
        if count := int(played.nonfinite.sum()):
            logger.warning(
                "%d of %d episodes with %s actions ended early after non-finite physics; their returns are those of "
                "the steps before",
                *(count, episodes, ACTIONS[kind]),
            )
    return {kind: _describe(played) for kind, played in results.items()}


def table(results: dict[str, Any]) -> str:
    """Format the results of `evaluate` as a text table."""
    lines = [f"{results['env']}, {results['episodes']} episodes; mean [95 % interval]"]
    for kind, values in results["noise"].items():
        low, high = values["return_interval"]
        line = f"  {ACTIONS[kind]:14} return {values['return']:.1f} [{low:.1f}, {high:.1f}]"
        line += f"  length {values['length']:.0f}"
        if SUCCESS in values:
            low, high = values[f"{SUCCESS}_interval"]
            line += f"  success {values[SUCCESS]:.3f} [{low:.3f}, {high:.3f}]"
        lines.append(line)
        metrics = {name: f"{name} {value:.4g}" for name, value in values["metrics"].items() if name != SUCCESS}
        for label, at_end in (("sums over an episode", False), ("at its end", True)):
            if texts := [text for name, text in metrics.items() if is_outcome(name) == at_end]:
                lines.append(f"                 {label}: {', '.join(texts)}")
    return "\n".join(lines)


def _episodes(policy: TrainedPolicy, env: EpisodeEnv, kind: Noise, episodes: int, key: jax.Array) -> Episodes:
    # The second key is unused, so that published evaluations keep their initial states and noise.
    reset_key, _, key = jax.random.split(key, 3)
    actor = policy_actor(policy, episodes, kind)
    return play_episodes(env, actor, jax.random.split(reset_key, episodes), key)


def _describe(played: Episodes) -> dict[str, Any]:
    returns, metrics = np.asarray(played.returns), played.metrics
    values: dict[str, Any] = {
        "return": float(returns.mean()),
        "return_interval": list(intervals.mean(returns)[1:]),
        "return_std": float(returns.std()),
        "length": float(played.lengths.mean()),
        "metrics": {name: float(each.mean()) for name, each in metrics.items()},
    }
    if SUCCESS in metrics:
        hits = int(succeeded(metrics[SUCCESS]).sum())
        value, *ends = intervals.share(hits, len(returns))
        values |= {SUCCESS: value, f"{SUCCESS}_interval": ends}
    return values


def _check_sizes(policy: TrainedPolicy, env: EpisodeEnv) -> None:
    spec = policy.spec
    sizes = (env.env.observation_sizes.get(ACTOR_OBS), env.action_size)
    if sizes != (spec.obs_size, spec.action_size):
        raise ValueError(
            f"env {env.env.name} must have observation size {spec.obs_size} and action size {spec.action_size}, as the "
            f"policy, got {sizes[0]} and {sizes[1]}"
        )
