"""The measurement of an accelerator: planning, cutting, continuing, failures, tables."""

import json
import os
import sys
import time
from types import SimpleNamespace

import pytest

from benchmarks.accelerator import learning
from benchmarks.accelerator.__main__ import supervise
from benchmarks.accelerator.page import write_page
from benchmarks.accelerator.plan import Job, Step, Unfinished, next_step, planned
from benchmarks.accelerator.results import Results
from benchmarks.accelerator.speed import Setup
from benchmarks.accelerator.steps import REHEARSAL, STEPS
from benchmarks.accelerator.worker import RESTART, work

HOUR = 3600.0


@pytest.fixture
def results(tmp_path):
    return Results(tmp_path, rehearsal=False)


def job(folder, seconds=HOUR, rehearsal=False):
    return Job(folder, time.time() + seconds, rehearsal, os.getppid())


def step(name, run=lambda job: {}, minutes=1.0, resumable=False):
    return Step(name, minutes, run, resumable)


def fails(job):
    raise RuntimeError("\nout of memory\nwhile trying")


def is_cut(job):
    raise KeyboardInterrupt


class Calls:
    """Steps that record their calls."""

    def __init__(self):
        self.names = []

    def step(self, name, then=lambda job: {}, **options):
        def run(job):
            self.names.append(name)
            return then(job)

        return step(name, run, **options)


def test_a_call_runs_the_first_steps_that_fit_and_starts_a_training_without_enough_time():
    steps = [step("a", minutes=2), step("b", minutes=10), step("c", minutes=3), step("d", minutes=20, resumable=True)]
    assert [s.name for s in planned(steps, (), 6)] == ["a", "c"]
    assert [s.name for s in planned(steps, (), 9)] == ["a", "c", "d"]
    assert [s.name for s in planned(steps, {"a", "c"}, 10)] == ["b"]
    assert next_step(steps, {"a", "b", "c", "d"}, 60) is None


@pytest.mark.parametrize("minutes", [4, 9, 25])
def test_the_steps_planned_for_a_call_fit_into_its_minutes(minutes):
    *whole, last = planned(STEPS, (), minutes)
    spent = sum(s.minutes for s in whole)
    assert spent + last.shortest <= minutes
    assert all(s.shortest > minutes - spent - last.minutes for s in STEPS if s not in (*whole, last))


def test_a_call_of_25_minutes_measures_speed_and_begins_to_learn():
    names = [s.name for s in planned(STEPS, (), 25)]
    assert names[:3] == ["versions", "speed-gaussian", "speed-genpo++"]
    assert "curve-genpo++" in names


def test_a_rehearsal_has_a_step_of_every_kind_and_no_name_twice():
    for steps in (STEPS, REHEARSAL):
        assert {s.name.split("-")[0] for s in steps} == {"versions", "speed", "engine", "curve", "task", "seeds"}
        assert len({s.name for s in steps}) == len(steps)


def test_a_failed_step_is_recorded_in_one_line_and_the_next_process_continues(results):
    calls = Calls()
    steps = [calls.step("a"), calls.step("b", fails), calls.step("c")]
    assert work(steps, job(results.folder)) == RESTART
    assert work(steps, job(results.folder)) == 0
    assert calls.names == ["a", "b", "c"]
    assert results.read()["b"]["error"] == "RuntimeError: out of memory"
    assert "error" not in results.read()["c"]


def test_a_cut_between_steps_repeats_no_finished_step(results):
    calls = Calls()
    steps = [calls.step("a", lambda job: {"value": 3}), calls.step("b")]
    assert work(steps[:1], job(results.folder)) == 0
    assert work(steps, job(results.folder)) == 0
    assert calls.names == ["a", "b"]
    assert results.read()["a"]["value"] == 3


def test_a_step_that_was_cut_starts_again_and_is_given_up_after_two_cuts(results):
    calls = Calls()
    steps = [calls.step("a"), calls.step("b", is_cut)]
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            work(steps, job(results.folder))
    assert work(steps, job(results.folder)) == RESTART
    assert calls.names == ["a", "b", "b"]
    assert results.read()["b"]["error"] == "was cut 2 times before it finished; give a call at least 1 minutes"


def test_a_training_that_was_cut_is_never_given_up(results):
    calls = Calls()
    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            work([calls.step("a", is_cut, resumable=True)], job(results.folder))
    assert calls.names == ["a"] * 4 and not results.read()


def test_a_training_that_ran_out_of_time_ends_the_call_and_the_next_call_resumes_it(results):
    def later(job):
        if len(calls.names) == 1:
            raise Unfinished("saved")
        return {"value": 7}

    calls = Calls()
    steps = [calls.step("a", later, resumable=True), calls.step("b")]
    assert work(steps, job(results.folder)) == 0
    assert not results.read() and results.starts("a") == 0
    assert work(steps, job(results.folder)) == 0
    assert calls.names == ["a", "a", "b"] and results.read()["a"]["value"] == 7


def test_no_step_starts_without_time_or_without_the_process_that_waits_for_it(results):
    calls = Calls()
    assert work([calls.step("a")], job(results.folder, seconds=30)) == 0
    assert work([calls.step("a")], Job(results.folder, time.time() + HOUR, False, parent=-1)) == 0
    assert calls.names == []


# A worker whose second step kills its process, as a broken driver does.
WORKER = """
import os, sys, time
from pathlib import Path
from benchmarks.accelerator.plan import Job, Step
from benchmarks.accelerator.worker import work
def run(job): return {"process": os.getpid()}
def dies(job): os.kill(os.getpid(), 9)
steps = [Step("a", 1, run), Step("b", 1, dies), Step("c", 1, run)]
sys.exit(work(steps, Job(Path(sys.argv[1]), time.time() + 3600, False, os.getppid())))
"""


def test_a_step_that_kills_its_process_is_recorded_and_the_rest_runs_in_another(results):
    command = [sys.executable, "-c", WORKER, str(results.folder)]
    assert supervise(command, results, time.time() + HOUR) == 0
    read = results.read()
    assert read["b"]["error"] == "its process ended with exit code -9"
    assert read["a"]["process"] != read["c"]["process"]


def test_a_worker_that_fails_outside_of_its_steps_ends_the_call_with_its_code(results):
    results.start("a", process=-1)
    assert supervise([sys.executable, "-c", "raise SystemExit(3)"], results, time.time() + HOUR) == 3
    assert not results.read()


def test_a_worker_that_does_not_end_in_time_is_ended_and_its_step_has_no_result(results):
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    started = time.monotonic()
    assert supervise(command, results, time.time(), grace=0.2) == 0
    assert time.monotonic() - started < 20 and not results.read()


def test_results_of_a_rehearsal_and_of_an_accelerator_are_not_mixed(results):
    results.finish("a", {})
    with pytest.raises(ValueError, match="out must be a folder without results of the other kind"):
        Results(results.folder, rehearsal=True).read()


def test_a_training_without_a_checkpoint_starts_anew_and_one_that_stopped_is_unfinished(monkeypatch, tmp_path):
    run_dir = tmp_path / "runs" / "a"
    run_dir.mkdir(parents=True)
    (run_dir / "metrics.jsonl").write_text("{}")

    def train(**options):
        assert not options["resume"] and not run_dir.exists()
        return SimpleNamespace(stopped=True, saved_steps=16, plan=SimpleNamespace(total_steps=48))

    monkeypatch.setattr(learning, "train", train)
    with pytest.raises(Unfinished, match="stopped and saved after 16 of 48 env steps"):
        learning.training(job(tmp_path, rehearsal=True), Setup("multigoal"), "a")


@pytest.mark.ci
def test_a_training_stops_at_the_end_of_a_call_and_the_next_call_resumes_it(tmp_path):
    with pytest.raises(Unfinished, match="after 0 of 48 env steps"):
        learning.training(job(tmp_path, seconds=0, rehearsal=True), Setup("multigoal"), "a")
    first = learning.curve(tmp_path / "runs" / "a")["curves"][0]
    result = learning.training(job(tmp_path, rehearsal=True), Setup("multigoal"), "a")
    whole = result["curves"][0]
    assert whole["env_steps"] == [0, 32, 48]
    assert whole["return_zero"][0] == first["return_zero"][0]
    assert result["setup"]["method"] == "genpo++"


def spread(median):
    return {"median": median, "low": median, "high": median}


def speed(method, rows, memory, **changed):
    setup = {"env": "humanoid", "backend": "spring", "method": method, "compute_dtype": "float32", "num_seeds": 1}
    rows = [
        {"part": part, "steps_per_second": spread(rate), "ms": spread(131_072e3 / rate), "compile_s": 61.4}
        for part, rate in rows.items()
    ]
    predicted, measured, is_peak = memory
    memory = {"predicted_bytes": predicted, "measured_bytes": measured, "is_peak": is_peak}
    shared = {"kind": "speed", "setup": setup | changed, "rows": rows, "memory": memory, "first_ratio_error": 1.53e-5}
    return shared | {"device": "H1", "jax": "0.12.0", "commit": "abc", "date": "2026-11-27 10:00:00"}


def learned(method, steps, returns, **changed):
    lines = [
        {"seed": seed, "env_steps": steps, "wall_seconds": steps, "return_random": values, "return_zero": values}
        for seed, values in enumerate(returns)
    ]
    setup = {"env": "humanoid", "backend": "mjx", "method": method} | changed
    result = {"kind": "curve", "setup": setup, "num_timesteps": 30_000_000, "curves": lines}
    shared = {"device": "H1", "jax": "0.12.0", "commit": "abc", "date": "2026-11-27 10:20:00"}
    return result | shared | {"steps_per_second": 512_345.6}


def test_the_tables_show_the_numbers_of_all_results(results):
    mib = 2**20
    gaussian = {"training": 1_154_321.0, "rollout": 2_000_000.0, "environment": 2_358_000.0}
    results.finish("speed-gaussian", speed("gaussian", gaussian, (600 * mib, 630 * mib, True)))
    four = speed("genpo++", {"training": 500_000.0}, (900 * mib, 990 * mib, False), num_histories=4)
    results.finish("speed-genpo++-4", four)
    results.finish("speed-tf32", {"error": "RuntimeError: no | such type"})
    steps = [0, 10_000_000, 20_000_000]
    results.finish("curve-genpo++", learned("genpo++", steps, [[100, 4000, 6012.3], [90, 4100, None]]))
    results.finish("curve-brax-0", learned("Brax PPO", steps[:2], [[80, 3000.4]]))
    # A training that has only evaluated the untrained policy sets no common end.
    results.finish("curve-brax-1", learned("Brax PPO", steps[:1], [[80]]))
    results.finish("task-WalkerWalk", learned("genpo++", steps, [[1, 300, 700]], env="WalkerWalk", backend="jax"))
    text = write_page(results.folder, STEPS, rehearsal=False).read_text()
    for line in (
        "| device | H1 |",
        "| date | 2026-11-27 10:00:00 to 2026-11-27 10:20:00 |",
        "| speed-gaussian | humanoid (spring) | gaussian | float32 | 1 "
        "| 2,358,000 | 2,000,000 | 1,154,321 | 114 | 61 |",
        "| speed-genpo++-4 | humanoid (spring) | genpo++, K = 4 | float32 | 1 | - | - | 500,000 | 262 | 61 |",
        "| speed-gaussian | 1.5e-05 |",
        "| speed-gaussian | 600.0 | 630.0 | 1.05 |",
        "| speed-genpo++-4 | 900.0 | at most 990.0 | at most 1.10 |",
        "| curve-genpo++ | humanoid (mjx) | genpo++ | 20,000,000 of 30,000,000 | 6,012, 4,100 | 6,012, 4,100 "
        "| 4,000, 4,100 at 10,000,000 | 512,346 | - |",
        "| curve-brax-0 | humanoid (mjx) | Brax PPO | 10,000,000 of 30,000,000 | 3,000 | 3,000 "
        "| 3,000 at 10,000,000 | 512,346 | - |",
        "| task-WalkerWalk | WalkerWalk (jax) | genpo++ | 20,000,000 of 30,000,000 | 700 | 700 | - | 512,346 "
        "| PPO 590 |",
        "| speed-tf32 | RuntimeError: no / such type |",
    ):
        assert line in text, line
    missing = text.split("## Not finished")[1]
    assert "seeds-16" in missing and "curve-brax-0" not in missing and "speed-tf32," not in missing
    assert (results.folder / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_page_without_results_names_all_steps_as_not_finished(tmp_path):
    text = write_page(tmp_path, REHEARSAL, rehearsal=True).read_text()
    assert "A rehearsal" in text and json.dumps(text).count("versions") == 1 and "## Speed" not in text
