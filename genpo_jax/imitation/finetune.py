"""Fine-tune a pretrained policy by reinforcement learning, and measure it before and after."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from genpo_jax import envs
from genpo_jax.checks import require
from genpo_jax.config import Config
from genpo_jax.envs import EpisodeEnv
from genpo_jax.imitation.fidelity import Fidelity, fidelity, mode_entropy, visited
from genpo_jax.methods import Method
from genpo_jax.policy import TrainedPolicy
from genpo_jax.presets import Layer, apply, finetune_preset, parse_method
from genpo_jax.runs.callbacks import Callback
from genpo_jax.runs.environment import check_drawn, named_environment, with_physics
from genpo_jax.runs.evaluate import evaluate_policy, table
from genpo_jax.runs.folder import FINETUNED_FILE, check_run_dir, saved_config, seed_folders, write_json
from genpo_jax.runs.load import folder_of, load
from genpo_jax.runs.run import Run, train
from genpo_jax.runtime import compiler_options, configure_jax
from genpo_jax.training.play import Noise
from genpo_jax.training.transfer import with_networks_of

# Largest drop that a new sampler may cause before training, of the success rate or as a share of the return.
MAX_LOSS = 0.05
NOISES: tuple[Noise, ...] = ("random", "fixed", "zero")
ANYWAY = "use anyway=True to start nevertheless"
OTHER_SAMPLER = f"choose another solver, base or tau (docs/demonstrations.md), or {ANYWAY}"


def finetune(
    source: str | Path | None = None,
    run_dir: str | Path | None = None,
    *,
    method: str = "genpo++",
    settings: Layer | None = None,
    resume: bool = False,
    anyway: bool = False,
    episodes: int = 1000,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
    env: Any = None,
    trust: bool = False,
) -> Run:
    """Fine-tune a pretrained policy on success, or on the task's reward; write the run folder, and return the run.

        run = genpo_jax.finetune("runs/flow", "runs/tuned", method="genpo++:target_kl=0.02")
        settings = {"env_options": {"reward": "task"}, "ppo": {"normalize_rewards": True}}
        run = genpo_jax.finetune("runs/hopper-flow", "runs/hopper-tuned", settings=settings)

    The folder is an ordinary run folder. Its `finetuned.json` has success and return of the pretrained policy, of the
    sampler before training, and of the policy after training.

    Args:
        source: folder of the pretrained run; None to resume.
        run_dir: folder of the new run, or of the run to resume.
        method: `NAME`, or with settings `NAME:setting=value,...`.
        settings: settings by name, nested as in `Config`; they override `genpo_jax.presets.finetune_preset`.
        resume: resume from the newest checkpoint in `run_dir`, with its settings; `settings` may change those that
            `genpo_jax.train` may change.
        anyway: start even if the sampler loses success or return before training, or if nothing succeeds.
        episodes: episodes per evaluation, for each kind of noise.
        progress: show progress on standard output.
        callbacks: called during training.
        env: another environment of the same sizes, by name or as an object; None: that of the pretrained run.
        trust: import the module that the pretrained run names as its environment.

    Raises:
        ValueError: before training, if a setting is invalid, nothing succeeds although the reward is success, or the
            interval of the sampler's success or return shows a loss of more than `MAX_LOSS`; if the environment's
            module must be trusted or named first; or if `run_dir` holds a run but `resume` is False.
    """
    configure_jax()
    require(run_dir is not None, "given", "run_dir", run_dir)
    run_dir = Path(str(run_dir))
    check_run_dir(run_dir, resume)
    path = run_dir / FINETUNED_FILE
    if resume:
        remedy = f"it has no {FINETUNED_FILE}; resume a single seed by genpo_jax.train"
        require(path.exists(), "the folder of a whole fine-tuning run", "run_dir", str(run_dir), remedy)
        origin, record = run_dir, json.loads(path.read_text())
        config = apply(saved_config(run_dir), settings or {})
    else:
        require(source is not None, "given, unless resume=True", "source", source)
        origin, record = folder_of(Path(str(source)), None), {}
        config = finetune_config(saved_config(origin), method, settings)
    env, config = named_environment(origin, config, env, trust)
    pretrained, seen = saved_config(origin), config.env_options
    networks = with_networks_of(config.method, pretrained.method)
    rule = "without settings of the networks, which are those of the pretrained policy"
    require(networks == config.method, rule, "method", config.method, "leave them out")
    check_drawn(seen.observations, pretrained.env_options.physics, seen.physics, origin)
    made = env if not isinstance(env, str) else envs.make(env, config.backend, False, seen.playground_config)
    made = with_physics(envs.as_environment(made), seen)
    episodic = EpisodeEnv.of(made, config.env_options)
    if not resume:
        measured = measure_before(load(origin), pretrained, config, episodic, anyway, episodes, progress)
        record = {"from": str(origin)} | measured
        write_json(path, record)
    start = None if resume else load(origin)
    run = train(env, config, run_dir, resume=resume, start=start, progress=progress, callbacks=callbacks)
    # An earlier result is of an earlier policy.
    record.pop("after", None)
    if not run.stopped:
        record["after"] = _measure_after(run_dir, config, episodic, episodes, progress)
    write_json(path, record)
    return run


def finetune_config(pretrained: Config, method: str, settings: Layer | None = None) -> Config:
    """Return the settings of a fine-tuning run.

    Args:
        pretrained: settings of the pretrained run.
        method: `NAME` or `NAME:setting=value,...`.
        settings: further settings by name, nested as in `Config`.
    """
    name, layer = parse_method(method)
    config = finetune_preset(pretrained, name)
    config = replace(config, method=with_networks_of(config.method, pretrained.method))
    return apply(apply(config, layer), settings or {})


def measure_before(
    policy: TrainedPolicy,
    pretrained: Config,
    config: Config,
    env: EpisodeEnv,
    anyway: bool,
    episodes: int,
    progress: bool,
) -> dict[str, Any]:
    """Return success and return of the pretrained policy and of the new sampler; raises errors of `check_sampler`."""
    xla_options = compiler_options(config.fusion_emitters)
    if progress:
        ends = " (a success ends an episode)" if config.env_options.reward == "success" else ""
        print(f"evaluating the pretrained policy and its sampler, {episodes:,} episodes each{ends} ...", flush=True)
    obs = visited(policy, env)

    def measure(label: str, method: Method) -> Fidelity:
        return fidelity(label, policy, method, env, obs, episodes=episodes, compiler_options=xla_options)

    measured = {"pretrained": measure("pretrained", pretrained.method)}
    # The sampler of a Gaussian is the same before and after pretraining.
    same = config.method == pretrained.method
    measured["sampler"] = (
        measured["pretrained"]._replace(label="sampler") if same else measure("sampler", config.method)
    )
    for one in measured.values() if progress else ():
        print(_measured(one), flush=True)
    check = check_return if config.env_options.reward == "task" else check_sampler
    check(measured["pretrained"], measured["sampler"], anyway)
    return {name: one._asdict() for name, one in measured.items()}


def check_sampler(pretrained: Fidelity, sampler: Fidelity, anyway: bool) -> None:
    """Raise `ValueError` if nothing succeeds or the sampler loses success, unless `anyway`."""
    assert pretrained.success is not None and sampler.success is not None, "measured if the reward is success"
    before, after = pretrained.success.value, sampler.success
    rule = "above 0, because fine-tuning learns from success"
    require(anyway or before > 0, rule, "pretrained success", before, ANYWAY)
    require(
        anyway or after.high >= before - MAX_LOSS,
        f"at least {before - MAX_LOSS:.3f} within its interval, as the pretrained policy has {before:.3f}",
        "success of the sampler",
        str(after),
        OTHER_SAMPLER,
    )


def check_return(pretrained: Fidelity, sampler: Fidelity, anyway: bool) -> None:
    """Raise `ValueError` if the sampler loses return, unless `anyway`."""
    before, after = pretrained.returns.value, sampler.returns
    lowest = before - MAX_LOSS * abs(before)
    rule = f"at least {lowest:.4g} within its interval, as the pretrained policy has {before:.4g}"
    require(anyway or after.high >= lowest, rule, "return of the sampler", str(after), OTHER_SAMPLER)


def _measured(one: Fidelity) -> str:
    """Return a line of a measurement."""
    text = f"{one.label:12} return {one.returns} (deterministic {one.returns_zero})"
    return text if one.success is None else f"{text}, success {one.success} (deterministic {one.success_zero})"


def _measure_after(
    run_dir: Path, config: Config, env: EpisodeEnv, episodes: int, progress: bool
) -> list[dict[str, Any]]:
    """Return the evaluation of the fine-tuned policy of every seed, for every kind of noise."""
    xla_options, rows = compiler_options(config.fusion_emitters), []
    if progress:
        print(f"evaluating the fine-tuned policy over {episodes:,} episodes for each kind of noise ...", flush=True)
    for folder in seed_folders(run_dir, config):
        loaded = load(folder)
        # With one seed in the spec, one program serves all seeds.
        policy = TrainedPolicy(replace(loaded.spec, seed=config.seed), loaded.params, loaded.moments)
        row = {
            "run": str(folder),
            "env": env.env.name,
            "episodes": episodes,
            "noise": evaluate_policy(policy, env, episodes, NOISES, compiler_options=xla_options),
            "modes": mode_entropy(policy, env, compiler_options=xla_options),
        }
        if progress:
            print(table(row))
            if row["modes"] is not None:
                print(f"  entropy of the modes from one initial state {row['modes']:.2f}")
        rows.append(row)
    return rows
