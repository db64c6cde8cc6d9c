import copy
import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import TargetEnv
from settings import networks, raw_leaves, sized

import genpo_jax
from genpo_jax import cli
from genpo_jax.config import Config, EnvConfig, PPOConfig
from genpo_jax.runs.callbacks import Callback, StopTraining
from genpo_jax.runs.checkpoint import Checkpointer
from genpo_jax.runs.evaluate import evaluate
from genpo_jax.runs.folder import read_config, saved_config, write_config
from genpo_jax.runs.health import SickRunError
from genpo_jax.runs.metrics import read_metrics
from genpo_jax.runs.run import Run
from genpo_jax.runs.run import train as start
from genpo_jax.runs.session import stop_requests
from genpo_jax.training.algorithm import PER_EPISODE
from genpo_jax.training.evaluation import Evaluator
from genpo_jax.training.ppo import Hyperparameters
from genpo_jax.training.trainer import Trainer

CONFIG = Config(
    env="target",
    seed=3,
    num_timesteps=4 * 64,
    updates_per_chunk=1,
    num_evals=2,
    eval_envs=2,
    env_options=EnvConfig(num_envs=8),
    method=sized((8,)),
    networks=networks((8,)),
    ppo=PPOConfig(unroll=8, num_minibatches=2, num_epochs=2),
)


# Settings that do not affect the compiled programs.
NOT_COMPILED = {"seed": 0, "num_seeds": 1, "num_timesteps": 1, "num_evals": 0, "checkpoint_minutes": 0.0}


@pytest.fixture(autouse=True, scope="module")
def share_programs():
    """Share the programs of runs with the same settings within this process."""
    trainers, evaluators = {}, {}

    def trainer(env, config, teachers):
        assert not teachers
        key = type(env), replace(config, **NOT_COMPILED)
        trainers[key] = trainers.get(key) or Trainer(env, config)
        made = copy.copy(trainers[key])
        made.config, made.hyper = config, Hyperparameters.of(config)
        return made

    def evaluator(trainer, num_episodes):
        key = trainer.program, num_episodes
        evaluators[key] = evaluators.get(key) or Evaluator(trainer, num_episodes)
        return evaluators[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("genpo_jax.runs.run.Trainer", trainer)
        patch.setattr("genpo_jax.runs.run.Evaluator", evaluator)
        yield


def train(config, run_dir, resume=False):
    return start(TargetEnv(), config, run_dir, resume=resume)


def restored(config, run_dir):
    trainer = Trainer(TargetEnv(), config)
    return Checkpointer(run_dir / "checkpoints").restore(trainer.abstract_state(1))


def bits(state):
    return [np.asarray(x).tobytes() for x in raw_leaves(state)]


def without_clock(lines):
    return [{k: v for k, v in line.items() if not k.startswith("time/") and k != "wall_seconds"} for line in lines]


def test_bounds_between_which_no_action_fits_are_refused(tmp_path):
    options = EnvConfig(num_envs=4, action_low=(1.0,), action_high=(1.0,))
    with pytest.raises(ValueError, match=r"action_low must be below action_high in at least one .* got \(1.0,"):
        genpo_jax.train("ring", Config(env_options=options), run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_writes_config_metrics_curve_events_and_checkpoints(tmp_path):
    run = train(CONFIG, tmp_path)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["env_steps"] for line in lines] == [0, 64, 128, 192, 256]
    assert [("eval/return_random" in line) for line in lines] == [True, False, True, False, True]
    required = {
        "eval/return_random",
        "eval/return_zero",
        "train/first_ratio_error",
        "train/kl",
        "train/clip_fraction",
        "train/ess",
        "train/learning_rate",
        "train/nan_resets",
        "time/steps_per_second",
        "time/compile_seconds",
        "wall_seconds",
    }
    assert required <= set(lines[-1])
    assert max(line["train/first_ratio_error"] for line in lines[1:]) <= 1e-4
    assert run.run_dir == tmp_path and not run.stopped
    assert run.metrics["eval/return_zero"] == lines[-1]["eval/return_zero"]
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert list((tmp_path / "tensorboard").iterdir())
    saved = read_config(tmp_path)
    assert saved["config"]["env"] == "target"
    assert saved["versions"]["jax"] == jax.__version__
    assert Config.from_dict(saved["config"]) == CONFIG


@pytest.mark.ci
def test_each_of_several_seeds_writes_the_same_folder_as_a_single_run(tmp_path):
    config = replace(CONFIG, num_seeds=3)
    means = train(config, tmp_path / "all").metrics
    train(replace(CONFIG, seed=4), tmp_path / "alone")
    folder = tmp_path / "all" / "seed-4"
    assert read_config(folder)["config"] == read_config(tmp_path / "alone")["config"]
    together, alone = (without_clock(read_metrics(path / "metrics.jsonl")) for path in (folder, tmp_path / "alone"))
    assert [line.keys() for line in together] == [line.keys() for line in alone]
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_allclose(a.get("train/reward", 0), b.get("train/reward", 0), rtol=1e-3)
    by_seed = [
        read_metrics(tmp_path / "all" / f"seed-{seed}" / "metrics.jsonl")[-1]["eval/return_zero"] for seed in (3, 4, 5)
    ]
    assert len(set(by_seed)) == 3
    np.testing.assert_allclose(means["eval/return_zero"], np.mean(by_seed), rtol=1e-6)
    assert (tmp_path / "all" / "curve.png").exists()


@pytest.mark.ci
def test_seeds_killed_between_two_saves_resume_together_bit_identically(tmp_path):
    config = replace(CONFIG, num_seeds=2, checkpoint_minutes=0.0)
    train(config, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    steps = tmp_path / "parts" / "seed-4" / "checkpoints"
    # The run was killed when seed 3 had saved step 256 and seed 4 had not.
    shutil.rmtree(steps / "256")
    run = Run(TargetEnv(), config, tmp_path / "parts", resume=True)
    assert run.restore()[0] == 192
    seconds = [each.restore(run.abstract_state(), at=192)[2]["wall_seconds"] for each in run.checkpointers]
    assert run.previous_seconds == max(seconds) > min(seconds)
    # One save earlier.
    shutil.rmtree(steps / "192")
    shutil.rmtree(tmp_path / "parts" / "seed-3" / "checkpoints" / "256")
    train(config, tmp_path / "parts", resume=True)
    for folder in ("seed-3", "seed-4"):
        step, whole, _ = restored(CONFIG, tmp_path / "whole" / folder)
        parts_step, parts, _ = restored(CONFIG, tmp_path / "parts" / folder)
        assert step == parts_step == 256
        assert bits(whole) == bits(parts)
    lines = (tmp_path / "parts" / "seed-3" / "metrics.jsonl").read_bytes()
    assert train(config, tmp_path / "parts", resume=True).saved_steps == 256, "nothing is left to train"
    assert (tmp_path / "parts" / "seed-3" / "metrics.jsonl").read_bytes() == lines


@pytest.mark.ci
def test_one_seed_of_several_can_be_resumed_alone(tmp_path):
    train(replace(CONFIG, num_seeds=2, num_timesteps=128), tmp_path)
    alone = saved_config(tmp_path / "seed-4")
    train(replace(alone, num_timesteps=256), tmp_path / "seed-4", resume=True)
    lines = read_metrics(tmp_path / "seed-4" / "metrics.jsonl")
    assert [line["env_steps"] for line in lines] == [0, 64, 128, 192, 256]


@pytest.mark.ci
def test_a_run_that_was_killed_before_its_first_save_is_evaluated_once_before_training(tmp_path):
    train(replace(CONFIG, num_timesteps=64), tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "64")
    train(CONFIG, tmp_path, resume=True)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["env_steps"] for line in lines] == [0, 64, 128, 192, 256]


class StopsAtOnce(Callback):
    name = "a test"

    def metrics(self, env_steps, wall_seconds, values):
        raise StopTraining("enough")


def test_a_run_that_is_stopped_before_its_first_update_does_not_compile_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Run, "_compile", None)
    run = Run(TargetEnv(), CONFIG, tmp_path, callbacks=[StopsAtOnce()])
    run.train()
    assert run.stopped and run.saved_steps == 0
    command = f"genpo-jax train --run-dir {tmp_path} --resume"
    assert f"stopped by a test (enough) and saved at 0 env steps; to continue:\n{command}" in capsys.readouterr().out


def test_a_finished_run_that_is_resumed_says_what_continues_it_and_compiles_nothing(tmp_path, capsys, monkeypatch):
    train(CONFIG, tmp_path)
    monkeypatch.setattr(Run, "_compile", None)
    run = Run(TargetEnv(), CONFIG, tmp_path, resume=True)
    run.train()
    last = read_metrics(tmp_path / "metrics.jsonl")[-1]
    assert run.metrics["eval/return_zero"] == last["eval/return_zero"] and "env_steps" not in run.metrics
    assert "nothing is left to do after 256 env steps; a larger num_timesteps continues" in capsys.readouterr().out


def test_a_resumed_run_is_bit_identical_to_an_uninterrupted_run(tmp_path):
    config = replace(CONFIG, checkpoint_minutes=0.0)
    train(config, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    shutil.rmtree(tmp_path / "parts" / "checkpoints" / "256")
    shutil.rmtree(tmp_path / "parts" / "checkpoints" / "192")
    train(config, tmp_path / "parts", resume=True)
    step, whole, _ = restored(CONFIG, tmp_path / "whole")
    parts_step, parts, _ = restored(CONFIG, tmp_path / "parts")
    assert step == parts_step == 256
    assert bits(whole) == bits(parts)
    lines = [without_clock(read_metrics(tmp_path / name / "metrics.jsonl")) for name in ("whole", "parts")]
    assert lines[0][3:] == lines[1][3:]
    wall = [line["wall_seconds"] for line in read_metrics(tmp_path / "parts" / "metrics.jsonl")]
    assert wall == sorted(wall)


def test_an_existing_run_is_not_overwritten_or_resumed_with_other_settings(tmp_path):
    train(replace(CONFIG, num_timesteps=64), tmp_path)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(ValueError, match="already holds a run.*resume=True"):
        train(CONFIG, tmp_path)
    other = replace(CONFIG, networks=networks((9,)))
    with pytest.raises(ValueError, match=r"keeps its settings, but value_sizes: saved .*8.*given .*9"):
        train(other, tmp_path, resume=True)
    with pytest.raises(ValueError, match=r"float32\[1,8\] saved, float32\[1,9\] expected"):
        Run(TargetEnv(), other, tmp_path, resume=True).train()
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    assert read_config(tmp_path)["config"]["networks"]["value_sizes"] == [8]


def disk_full(*_, code=errno.ENOSPC):
    raise OSError(code, os.strerror(code))


def test_a_failure_to_write_curve_or_metrics_does_not_end_a_run(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("genpo_jax.runs.curve.Curve.draw", disk_full)
    monkeypatch.setattr("genpo_jax.runs.metrics.MetricsWriter.write", disk_full)
    run = train(CONFIG, tmp_path)
    assert Checkpointer(tmp_path / "checkpoints").steps()[-1] == 256 and not run.stopped
    reported = [record.message for record in caplog.records if "could not be written" in record.message]
    assert len(reported) == 2, "each is reported once"


class NeverStarts(Callback):
    name = "log"

    def start(self, *_):
        raise OSError("no connection")

    def metrics(self, *_):
        pytest.fail("it has not started")


class NeverDraws(Callback):
    name = "page"

    def evaluated(self, *_):
        raise OSError("no space")


def test_a_callback_that_fails_is_reported_once_and_not_called_if_it_could_not_start(tmp_path, caplog):
    start(TargetEnv(), CONFIG, tmp_path, progress=False, callbacks=[NeverStarts(), NeverDraws()])
    reported = [record.message for record in caplog.records if "could not be written" in record.message]
    assert ["log" in reported[0], "page" in reported[1], len(reported)] == [True, True, 2]
    assert "is written again" not in caplog.text


def failing_saves(monkeypatch, *steps, code=errno.ENOSPC):
    """Make the saves at these env steps fail; return a list of the env steps at which a save was tried."""
    tried, save = [], Checkpointer.save

    def sometimes(self, step, *rest):
        tried.append(step)
        if step in steps:
            disk_full(code=code)
        save(self, step, *rest)

    monkeypatch.setattr(Checkpointer, "save", sometimes)
    return tried


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_failed_save_is_reported_and_retried_while_training_continues(code, tmp_path, monkeypatch, caplog):
    tried = failing_saves(monkeypatch, 64, 128, code=code)
    train(replace(CONFIG, checkpoint_minutes=0.0), tmp_path)
    assert tried == [0, 64, 128, 192, 256]
    assert Checkpointer(tmp_path / "checkpoints").steps() == [0, 192, 256]
    messages = [record.message for record in caplog.records if "checkpoint" in record.message]
    assert [("could not be written" in m, "written again" in m) for m in messages] == [(True, False), (False, True)]
    assert os.strerror(code) in messages[0]


@pytest.mark.ci
def test_the_error_of_a_failed_last_save_names_the_last_intact_checkpoint(tmp_path, monkeypatch):
    failing_saves(monkeypatch, 256)
    # The evaluation at 128 is saved if it is the best so far.
    sentence = r"trained to 256 .*could not be saved \(.*No space left.*the checkpoint at (0|128) is intact"
    with pytest.raises(OSError, match=sentence):
        train(CONFIG, tmp_path)
    assert (tmp_path / "curve.png").exists()
    monkeypatch.undo()
    train(CONFIG, tmp_path, resume=True)
    assert [line["env_steps"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [0, 64, 128, 192, 256]


def test_without_a_first_checkpoint_nothing_is_trained(tmp_path, monkeypatch):
    failing_saves(monkeypatch, 0)
    with pytest.raises(OSError, match="No space left"):
        train(CONFIG, tmp_path)
    assert not (tmp_path / "config.json").exists()


@pytest.mark.ci
def test_env_steps_are_counted_beyond_32_bits(tmp_path):
    train(replace(CONFIG, num_timesteps=64), tmp_path)
    run, far = Run(TargetEnv(), CONFIG, tmp_path, resume=True), 2**32 - 64
    _, state = run.restore()
    state = state.replace(num_updates=state.num_updates - 1 + far // 64)
    run.checkpointers[0].save(far, run.trainer.select(state, 0), {"wall_seconds": 1.0})
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"env_steps": 64', f'"env_steps": {far}'))
    train(replace(CONFIG, num_timesteps=far + 2 * 64, num_evals=0), tmp_path, resume=True)
    assert [line["env_steps"] for line in read_metrics(metrics)][-3:] == [far, 2**32, 2**32 + 64]
    assert Checkpointer(tmp_path / "checkpoints").steps()[-1] == 2**32 + 64
    step, state, _ = (
        Run(TargetEnv(), CONFIG, tmp_path, resume=True).checkpointers[0].restore(run.trainer.abstract_state(1))
    )
    assert int(np.ravel(state.num_updates)[0]) * 64 == step == 2**32 + 64


def test_a_resumed_run_cannot_be_shortened(tmp_path):
    train(replace(CONFIG, num_timesteps=128), tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(ValueError, match=r"num_timesteps must be at least the 128 env steps .* got 64"):
        train(replace(CONFIG, num_timesteps=64), tmp_path, resume=True)
    assert (tmp_path / "config.json").read_bytes() == before


@pytest.mark.ci
def test_a_run_that_was_killed_during_its_start_can_be_started_again(tmp_path):
    train(replace(CONFIG, num_timesteps=64), tmp_path)
    for name in ("config.json", "metrics.jsonl"):
        (tmp_path / name).unlink()
    shutil.move(tmp_path / "checkpoints" / "64", tmp_path / "checkpoints" / "0.orbax-checkpoint-tmp")
    train(replace(CONFIG, num_timesteps=64), tmp_path)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["0", "64"]


@pytest.mark.ci
def test_checkpoints_of_another_run_are_ignored(tmp_path):
    for name in ("mine", "other"):
        train(replace(CONFIG, num_timesteps=64), tmp_path / name)
    shutil.copytree(tmp_path / "other" / "checkpoints" / "64", tmp_path / "mine" / "checkpoints" / "128")
    with pytest.warns(UserWarning, match="128 is not of this run .it was saved as run .*, step 64, not 128"):
        train(CONFIG, tmp_path / "mine", resume=True)
    (tmp_path / "other" / "config.json").unlink()
    with pytest.raises(ValueError, match="holds checkpoints but no config.json; restore that file"):
        train(CONFIG, tmp_path / "other")


class Broken(TargetEnv):
    """The target environment with a NaN observation after every action except 0, with which a new run is checked."""

    def step(self, state, action):
        state, obs, *others = super().step(state, action)
        return state, {"state": jnp.where(action == 0, obs["state"], jnp.nan)}, *others


@pytest.mark.ci
def test_a_run_with_broken_physics_warns_once_and_stops_after_saving(tmp_path, caplog):
    config = replace(CONFIG, num_timesteps=64 * 30, num_evals=0)
    with pytest.raises(SickRunError, match="stopped after 10 consecutive chunks .*half of the steps .*another backend"):
        start(Broken(), config, tmp_path)
    warnings = [record.message for record in caplog.records if "half of the steps" in record.message]
    assert len(warnings) == 1 and "squash tanh" in warnings[0]
    assert Checkpointer(tmp_path / "checkpoints").steps() == [0, 640]
    assert read_metrics(tmp_path / "metrics.jsonl")[-1]["env_steps"] == 640


def test_resuming_without_a_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no config.json"):
        train(CONFIG, tmp_path / "nowhere", resume=True)


def test_an_unknown_environment_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'hopper'"):
        start("hoper", CONFIG, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_evaluations_are_spread_evenly_and_end_with_the_run(tmp_path):
    run_ = Run(TargetEnv(), replace(CONFIG, num_timesteps=640, num_evals=3), tmp_path)
    marks = [now for now in range(64, 641, 64) if run_.plan.evaluation_due(now - 64, now)]
    assert marks == [256, 448, 640]


COMMAND = [
    *(
        sys.executable,
        "-m",
        "genpo_jax",
        "train",
        "--env",
        "fast",
        "--num-envs",
        "16",
        "--num-evals",
        "0",
    ),
    # Stopping and resuming do not depend on the method.
    *("--method", "gaussian", "--updates-per-chunk", "1", "--unroll", "8"),
]


def started(run_dir, *more):
    """Start a long run and wait until it trains."""
    command = [*COMMAND, "--num-timesteps", "100000000", "--run-dir", str(run_dir), *more]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 240
    while not (run_dir / "metrics.jsonl").exists() or (run_dir / "metrics.jsonl").stat().st_size < 2000:
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline, "the run did not start"
        time.sleep(0.05)
    return process


def resumed(run_dir, steps):
    """Resume a run up to `steps` env steps with the saved settings."""
    command = [sys.executable, "-m", "genpo_jax", "train", "--run-dir", str(run_dir), "--resume"]
    return subprocess.run([*command, "--num-timesteps", str(steps)], capture_output=True, text=True, timeout=240)


@pytest.mark.ci
def test_ctrl_c_saves_and_stops_a_run_that_can_be_resumed(tmp_path):
    process = started(tmp_path)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == cli.STOPPED, output
    assert "stopped and saved" in output and f"to continue:\ngenpo-jax train --run-dir {tmp_path}" in output
    assert "gaussian on fast, seed 0, 1 device (cpu)" in output
    lines = read_metrics(tmp_path / "metrics.jsonl")
    last = lines[-1]["env_steps"]
    result = resumed(tmp_path, last + 256)
    assert result.returncode == 0, result.stderr
    steps = [line["env_steps"] for line in read_metrics(tmp_path / "metrics.jsonl")]
    assert steps == list(range(128, last + 257, 128))


@pytest.mark.ci
def test_a_run_continues_when_its_output_is_closed_and_saves_on_sighup(tmp_path):
    # These tests may run under nohup.
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        process = started(tmp_path)
    finally:
        signal.signal(signal.SIGHUP, before)
    process.stdout.close()
    before = len(read_metrics(tmp_path / "metrics.jsonl"))
    deadline = time.monotonic() + 60
    while len(read_metrics(tmp_path / "metrics.jsonl")) < before + 20:
        assert process.poll() is None, "the run ended with its output"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=120) == cli.STOPPED
    last = read_metrics(tmp_path / "metrics.jsonl")[-1]["env_steps"]
    assert Checkpointer(tmp_path / "checkpoints").steps()[-1] == last


@pytest.mark.ci
def test_sigkill_loses_only_the_work_since_the_last_checkpoint(tmp_path):
    process = started(tmp_path, "--checkpoint-minutes", "0")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = read_metrics(tmp_path / "metrics.jsonl")[-1]["env_steps"]
    result = resumed(tmp_path, before + 128)
    assert result.returncode == 0, result.stderr
    steps = [line["env_steps"] for line in read_metrics(tmp_path / "metrics.jsonl")]
    assert steps == list(range(128, before + 129, 128))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--env", "humanoyd"], "did you mean 'humanoid'"),
        (["--env", "fast", "--backend", "spring"], "no backend 'spring'"),
        (["--num-minibatches", "7"], "not divisible"),
        (["--history-coef", "0"], "--history-coef must"),
        (["--mix", "0.9"], "--mix is not an option of method 'genpo++', only of genpo;"),
        (["--method", "gaussian", "--num-steps", "10"], "--num-steps is not an option of method 'gaussian'"),
        (["--method", "ppo"], "invalid choice: 'ppo'"),
        (["--env", "no_such_module:Env"], "could not be imported"),
        (["--method", "genpo", "--mix", "1.5"], "mix must satisfy 0 < mix <= 1"),
        (["--num-steps", "60"], "round-trip error"),
        (["--resume"], "holds no config.json"),
    ],
)
def test_the_command_line_refuses_bad_input_in_one_line(tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as refusal:
        call(*options, "--run-dir", str(tmp_path / "run"))
    # tyro prints the errors that a dataclass raises during parsing.
    assert message in f"{refusal.value.code} {capsys.readouterr().err}"
    assert not (tmp_path / "run").exists()


def call(*options):
    cli.main(["train", *options])


def test_a_resumed_run_refuses_another_seed(tmp_path):
    write_config(tmp_path, replace(CONFIG, env="fast"), "cpu", 1)
    with pytest.raises(SystemExit) as refusal:
        call("--run-dir", str(tmp_path), "--resume", "--seed", "9")
    assert "seed: saved 3, given 9" in str(refusal.value.code)
    assert read_config(tmp_path)["config"]["seed"] == 3


def test_resuming_needs_a_folder():
    with pytest.raises(SystemExit) as refusal:
        call("--resume")
    assert "--resume needs --run-dir" in str(refusal.value.code)


EVALUATED = replace(CONFIG, num_evals=4)


@pytest.fixture
def evaluations(monkeypatch):
    """Replace the evaluations of runs by lists of returns, one list for each seed."""
    returns: list[list[float]] = []

    def evaluated(self, state):
        now = int(np.asarray(jax.device_get(state.num_updates)).ravel()[0])
        return {"eval/return_zero": np.array([values[now] for values in returns], np.float32)}

    monkeypatch.setattr(Run, "evaluate", evaluated)
    return returns


def parameters(policy):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(policy.params)])


def test_the_best_policy_of_a_run_is_loaded_by_name_also_after_a_resume(tmp_path, evaluations, capsys):
    evaluations[:] = [[1.0, 2.0, 7.0, 3.0, 4.0, 5.0, 6.0]]
    train(EVALUATED, tmp_path)
    output = capsys.readouterr().out
    assert "best checkpoint (--checkpoint best): 128 env steps, return 7 (deterministic actions)" in output
    best = genpo_jax.load(tmp_path, checkpoint="best")
    np.testing.assert_array_equal(parameters(best), parameters(genpo_jax.load(tmp_path, 128)))
    assert (parameters(best) != parameters(genpo_jax.load(tmp_path))).any()
    train(replace(EVALUATED, num_timesteps=6 * 64, num_evals=6), tmp_path, resume=True)
    np.testing.assert_array_equal(parameters(best), parameters(genpo_jax.load(tmp_path, checkpoint="best")))


def test_the_untrained_policy_is_the_best_if_training_only_makes_it_worse(tmp_path, evaluations):
    evaluations[:] = [[9.0, 2.0, 7.0, 3.0, 4.0]]
    train(replace(EVALUATED, checkpoint_minutes=0.0), tmp_path)
    checkpointer = Checkpointer(tmp_path / "checkpoints")
    assert checkpointer.best() == (0, {"eval/return_zero": 9.0}) and checkpointer.steps() == [0, 128, 192, 256]


@pytest.mark.ci
def test_every_seed_has_its_own_best_and_all_seeds_have_the_same_newest_steps(tmp_path, evaluations):
    evaluations[:] = [[0.0, 5.0, 1.0, 1.0, 1.0], [0.0, 1.0, 1.0, 6.0, 1.0]]
    run = train(replace(EVALUATED, num_seeds=2), tmp_path)
    assert [checkpointer.best()[0] for checkpointer in run.checkpointers] == [64, 192]  # pyright: ignore
    assert [checkpointer.steps()[-2:] for checkpointer in run.checkpointers] == [[192, 256]] * 2
    assert "seed 3: 64 env steps, return 5" in run.best_checkpoint and "seed 4: 192 env steps" in run.best_checkpoint
    genpo_jax.load(tmp_path, seed=4, checkpoint="best")


def test_wrong_names_of_checkpoints_are_refused(tmp_path, evaluations):
    evaluations[:] = [[1.0] * 5]
    train(replace(EVALUATED, num_evals=0), tmp_path)
    with pytest.raises(FileNotFoundError, match="was evaluated, so none is the best; load the newest"):
        genpo_jax.load(tmp_path, checkpoint="best")
    with pytest.raises(ValueError, match="checkpoint must be newest or best, got 'latest'"):
        genpo_jax.load(tmp_path, checkpoint="latest")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="step 64 and checkpoint 'best' name two checkpoints; leave one of them out"):
        evaluate(tmp_path, step=64, checkpoint="best", env="fast")


def test_a_run_of_several_seeds_replaces_no_run_of_one_of_them(tmp_path):
    train(CONFIG, tmp_path / "seed-3")
    before = {path: path.read_bytes() for path in (tmp_path / "seed-3").rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="seed-3 already holds a run; resume it"):
        train(replace(CONFIG, num_seeds=2), tmp_path)
    (tmp_path / "seed-3" / "config.json").rename(tmp_path / "elsewhere.json")
    with pytest.raises(ValueError, match="seed-3 holds checkpoints but no config.json"):
        train(replace(CONFIG, num_seeds=2), tmp_path)
    (tmp_path / "elsewhere.json").rename(tmp_path / "seed-3" / "config.json")
    after = {path: path.read_bytes() for path in before}
    assert {path: x for path, x in after.items() if path.name != ".lock"} == {
        path: x for path, x in before.items() if path.name != ".lock"
    }


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
def test_the_end_of_a_terminal_does_not_end_a_run_under_nohup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_requests() as received:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not received
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_seed_without_a_finished_episode_does_not_hide_the_mean_of_the_others():
    session: Any = SimpleNamespace(per_episode=PER_EPISODE)
    values = np.array([np.nan, 3.0, 5.0])
    assert Run._mean(session, "train/episode_return", values) == 4.0
    assert np.isnan(Run._mean(session, "train/episode_return", np.full(2, np.nan)))
    # Elsewhere a number that is not finite is a fault.
    assert np.isnan(Run._mean(session, "train/kl", values))


def test_a_fine_tuning_run_names_the_command_that_also_measures_its_end(tmp_path):
    assert Run(TargetEnv(), CONFIG, tmp_path, progress=False).command == "train"
    (tmp_path / "finetuned.json").write_text("{}")
    assert Run(TargetEnv(), CONFIG, tmp_path, progress=False).command == "finetune"
