"""Damage run folders at random; loading and resuming must be correct or end with one sentence.

    python -m tests.faults.folders --folders 100

Correct means: the state is bit-identical to that of an intact checkpoint, and the metrics have every line once. A
warning or an error must name the damage. A case that takes longer than `SECONDS` counts as hanging.
"""

import argparse
import contextlib
import io
import json
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np

import genpo_jax
from genpo_jax.runs.folder import CONFIG_FILE, POLICY_FILE
from genpo_jax.runs.manifest import MANIFEST
from genpo_jax.runs.metrics import METRICS_FILE, read_metrics
from tests.faults.kills import CONFIG as LONG

STEP = LONG.steps_per_chunk
CONFIG = replace(LONG, num_timesteps=3 * STEP, num_evals=1, checkpoint_minutes=0.0)
OBS = np.zeros(genpo_jax.make_env(CONFIG.env).observation_sizes["state"])
SECONDS = 200
REFUSED, RESUMED = "refused", "resumed with a message"
Damage = Callable[[Path, random.Random], str]


def flip(path: Path, choose: random.Random) -> None:
    """Flip one bit."""
    data = bytearray(path.read_bytes())
    data[choose.randrange(len(data))] ^= 1 << choose.randrange(8)
    path.write_bytes(data)


def any_file(run_dir: Path, choose: random.Random) -> Path:
    """Return a file of the newest checkpoint."""
    newest = run_dir / "checkpoints" / str(3 * STEP)
    return choose.choice([path for path in sorted(newest.rglob("*")) if path.is_file() and path.stat().st_size])


def special(path: Path, choose: random.Random) -> None:
    """Replace a file by a pipe, a folder or a link."""
    path.unlink()
    kind = choose.choice(["fifo", "zero", "loop", "folder", "outside"])
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to({"zero": "/dev/zero", "loop": path.name, "outside": "/etc/hostname"}[kind])


def checkpoint(change: Callable[[Path, random.Random], Any]) -> Damage:
    """Return a damage that changes one file of the newest checkpoint."""

    def damage(run_dir: Path, choose: random.Random) -> str:
        path = any_file(run_dir, choose)
        change(path, choose)
        return f"{path.relative_to(run_dir)}"

    return damage


def named(name: str, change: Callable[[Path, random.Random], Any]) -> Damage:
    """Return a damage that changes this file of the folder."""

    def damage(run_dir: Path, choose: random.Random) -> str:
        change(run_dir / name, choose)
        return name

    return damage


def renamed(run_dir: Path, choose: random.Random) -> str:
    """Copy a checkpoint to the name of another step."""
    steps = run_dir / "checkpoints"
    shutil.copytree(steps / str(choose.choice([STEP, 2 * STEP])), steps / str(choose.randrange(4, 99) * STEP))
    return "a renamed step"


def lines(change: Callable[[list[str], random.Random], Any]) -> Damage:
    """Return a damage that changes the lines of the metrics."""

    def damage(run_dir: Path, choose: random.Random) -> str:
        path = run_dir / METRICS_FILE
        text = path.read_text().splitlines()
        change(text, choose)
        path.write_text("".join(line + "\n" for line in text))
        return METRICS_FILE

    return damage


def cut(path: Path, choose: random.Random) -> None:
    """Truncate a file."""
    path.write_bytes(path.read_bytes()[: choose.randrange(max(1, path.stat().st_size - 1))])


def garbage(path: Path, choose: random.Random) -> None:
    """Replace the contents of a file by JSON or text of another structure."""
    texts = ("null", "[]", "7", '{"format": 2}', '{"format": 2, "config": 3}', "[" * 99_999, '{"format": "2"}', "\0")
    path.write_text(choose.choice(texts))


def setting(path: Path, choose: random.Random) -> None:
    """Change a setting in config.json to an invalid value."""
    contents = json.loads(path.read_text())
    key = choose.choice(sorted(contents["config"]))
    contents["config"][key] = choose.choice([None, -1, "x", [], {}, 1e999, {"x": 1}])
    path.write_text(json.dumps(contents))


DAMAGES: dict[str, Damage] = {
    "a bit of a checkpoint": checkpoint(flip),
    "a truncated file of a checkpoint": checkpoint(cut),
    "a removed file of a checkpoint": checkpoint(lambda path, _: path.unlink()),
    "a file of a checkpoint replaced by a pipe, folder or link": checkpoint(special),
    "a manifest replaced by a pipe, folder or link": named(f"checkpoints/{3 * STEP}/{MANIFEST}", special),
    "a manifest of garbage": named(f"checkpoints/{3 * STEP}/{MANIFEST}", garbage),
    "a renamed step": renamed,
    "a config of garbage": named(CONFIG_FILE, garbage),
    "a truncated config": named(CONFIG_FILE, cut),
    "an invalid setting": named(CONFIG_FILE, setting),
    "a policy of garbage": named(POLICY_FILE, garbage),
    "metrics without a line": lines(lambda text, choose: text.pop(choose.randrange(1, len(text)))),
    "metrics with a line twice": lines(lambda text, choose: text.insert(1, choose.choice(text))),
    "metrics with a line of garbage": lines(lambda text, choose: text.insert(choose.randrange(len(text)), "x" * 9)),
    "metrics replaced by a pipe, folder or link": named(METRICS_FILE, special),
    "truncated metrics": named(METRICS_FILE, cut),
}


def attempt(run_dir: Path, actions: dict[int, np.ndarray]) -> str:
    """Load, then resume for one chunk; return what was wrong, or whether the folder was refused or resumed."""
    messages = io.StringIO()
    handler = logging.StreamHandler(messages)
    logging.getLogger("genpo_jax").addHandler(handler)
    problems, refused = [], False
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            loaded = np.asarray(genpo_jax.load(run_dir)(OBS)).tobytes()
            if loaded not in {action.tobytes() for action in actions.values()}:
                problems.append("loaded a policy that was never saved")
        except (ValueError, OSError, TypeError) as error:
            refused = True
            messages.write(str(error))
        try:
            genpo_jax.train(
                run_dir=run_dir, resume=True, config=replace(CONFIG, num_timesteps=4 * STEP), progress=False
            )
            steps = [line["env_steps"] for line in read_metrics(run_dir / METRICS_FILE)]
            if steps != sorted(set(steps)):
                problems.append(f"lines {steps}")
            if steps[-1] != 4 * STEP:
                problems.append(f"ended at {steps[-1]}")
            if actions[4 * STEP].tobytes() != np.asarray(genpo_jax.load(run_dir)(OBS)).tobytes():
                problems.append("the policy differs from that of the uninterrupted run")
        except (ValueError, OSError, TypeError) as error:
            refused = True
            messages.write(str(error))
    logging.getLogger("genpo_jax").removeHandler(handler)
    warnings_of_checkpoints = [warning for warning in warned if "Checkpoint" in str(warning.message)]
    if not messages.getvalue() and not warnings_of_checkpoints:
        problems.append("silent")
    return "; ".join(problems) or (REFUSED if refused else RESUMED)


def hang(*_: object) -> None:
    """Raise in a case that hangs."""
    raise BaseException("hangs")


def main() -> None:
    """Run the campaign."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folders", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    choose, wrong, counts = random.Random(options.seed), [], {}
    signal.signal(signal.SIGALRM, hang)
    with tempfile.TemporaryDirectory() as folder:
        whole, longer = Path(folder) / "whole", Path(folder) / "longer"
        genpo_jax.train(CONFIG.env, CONFIG, whole, progress=False)
        genpo_jax.train(CONFIG.env, replace(CONFIG, num_timesteps=4 * STEP), longer, progress=False)
        actions = {step: np.asarray(genpo_jax.load(whole, step=step)(OBS)) for step in (STEP, 2 * STEP, 3 * STEP)}
        actions[4 * STEP] = np.asarray(genpo_jax.load(longer)(OBS))
        for i in range(options.folders):
            name = list(DAMAGES)[i % len(DAMAGES)]
            run_dir = Path(shutil.copytree(whole, Path(folder) / "damaged"))
            case = DAMAGES[name](run_dir, choose)
            signal.alarm(SECONDS)
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    outcome = attempt(run_dir, actions)
            except BaseException as error:
                outcome = f"{type(error).__name__}: {str(error)[:300]}"
            signal.alarm(0)
            if outcome not in (REFUSED, RESUMED):
                wrong.append(f"{i}: {name} ({case}): {outcome}")
                print(wrong[-1], flush=True)
            counts[outcome[:30]] = counts.get(outcome[:30], 0) + 1
            shutil.rmtree(run_dir)
    print(f"{options.folders} folders: {counts}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
