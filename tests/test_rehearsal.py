"""Rehearsals of an accelerator's presets, and the table of first updates."""

import json
import sys
from dataclasses import replace

import pytest

from experiments import first_updates, rehearsal
from experiments.program import run_program
from genpo_jax.presets import apply, preset
from genpo_jax.runs.folder import write_config
from genpo_jax.runs.metrics import METRICS_FILE

TINY = {
    "env_options": {"num_envs": 4},
    "networks": {"value_sizes": (8,)},
    "method": {"hidden_sizes": (8,), "encoder_sizes": (8,), "head_sizes": (8,)},
    "ppo": {"unroll": 4, "num_minibatches": 2, "num_epochs": 1},
}


def write_run(folder, lines, **changes):
    config = apply(preset("ring", accelerator=False), {"ppo": {"num_epochs": 5, "num_minibatches": 2}} | changes)
    write_config(folder, config, "cpu", 1)
    (folder / METRICS_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_table_shows_kl_over_target_and_counts_gradient_steps_beyond_twice_the_target(tmp_path):
    evaluated = {"env_steps": 0, "wall_seconds": 0.0, "eval/return_random": 1.25}
    updates = [(0.06, 0.2), (0.03, 0.1), (0.015, 0.0)]
    lines = [
        {"env_steps": 64 * i, "wall_seconds": 1.0, "train/kl": kl, "train/braked": braked}
        for i, (kl, braked) in enumerate(updates, 1)
    ]
    write_run(tmp_path, [evaluated, *lines], updates_per_chunk=1)
    cells = [cell.strip() for cell in first_updates.update_row(tmp_path).split("|")[2:-1]]
    # A fifth of the first update's 10 gradient steps, and a tenth of the second's.
    assert cells == ["0.03", "2.00 (2.00)", "1.00 (1.00)", "0.50 (0.50)", "-", "-", "3.0 (3) of 30"]
    assert first_updates.return_rows(tmp_path)[1].endswith("| 0 | 1.25 |")


def test_a_run_without_a_line_for_each_update_or_without_a_target_is_refused(tmp_path):
    write_run(tmp_path, [], updates_per_chunk=2)
    with pytest.raises(ValueError, match="updates_per_chunk must be 1, got 2; run: "):
        first_updates.update_row(tmp_path)
    constant = apply(preset("ring", accelerator=False), {"updates_per_chunk": 1, "ppo": {"target_kl": None}})
    with pytest.raises(ValueError, match="constant learning rate; choose a run with --target-kl"):
        first_updates.check_run(constant, tmp_path)


def test_a_rehearsal_differs_from_the_preset_only_in_environments_engine_and_what_is_logged():
    options = rehearsal.Options(num_timesteps=500_000, num_evals=5)
    config, of_gpu = rehearsal.rehearsal_config("humanoid", options), preset("humanoid", accelerator=True)
    assert config.env_options == replace(of_gpu.env_options, num_envs=512)
    assert (config.method, config.networks, config.ppo) == (of_gpu.method, of_gpu.networks, of_gpu.ppo)
    assert (config.backend, config.num_timesteps) == ("c", of_gpu.num_timesteps), "schedules keep their length"
    # 5 evaluations in the first 0.5 of 100 million env steps.
    assert config.num_evals == 1000
    shorter = rehearsal.rehearsal_config("humanoid", replace(options, unroll=8, num_minibatches=16, backend="spring"))
    assert shorter.ppo == replace(of_gpu.ppo, unroll=8, num_minibatches=16) and shorter.backend == "spring"


@pytest.mark.ci
def test_a_rehearsal_stops_at_its_env_steps_prints_its_tables_and_is_not_repeated(monkeypatch, tmp_path, capsys):
    # `ring` has episodes of one step.
    monkeypatch.setattr(rehearsal, "preset", lambda *args, accelerator: apply(preset(*args, accelerator=False), TINY))
    sizes = ("--num-envs", "4", "--num-seeds", "2", "--num-timesteps", "48", "--num-evals", "3", "--eval-envs", "2")
    monkeypatch.setattr(sys, "argv", ["program", "--envs", "ring", *sizes, "--out", str(tmp_path)])
    run_program(rehearsal.Options, rehearsal.study, rehearsal.__doc__)
    lines = (tmp_path / "ring" / METRICS_FILE).read_text()
    assert [json.loads(line)["env_steps"] for line in lines.splitlines()] == [0, 16, 32, 48]
    assert "thousand env steps | | 0, 0, 0, 0 |" in capsys.readouterr().out
    run_program(rehearsal.Options, rehearsal.study, rehearsal.__doc__)
    assert (tmp_path / "ring" / METRICS_FILE).read_text() == lines
