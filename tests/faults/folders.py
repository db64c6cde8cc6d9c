"""Damage or craft the folder of a run in a hundred ways; going on and loading must be right, or one sentence.

    python -m tests.faults.folders --folders 100

Right is: the state of an intact checkpoint, bit for bit, and metrics with every line once. What was damaged must be
named in a warning or an error. A case that takes longer than some minutes hangs.
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
from genpo_jax.runs.manifest import MANIFEST
from genpo_jax.runs.metrics import METRICS_FILE, read_metrics
from tests.faults.kills import CONFIG as LONG

STEP = LONG.steps_per_chunk
CONFIG = replace(LONG, num_timesteps=3 * STEP, num_evals=1, checkpoint_minutes=0.0)
OBS = np.zeros(genpo_jax.make_env(CONFIG.env).observation_sizes["state"])
SECONDS = 200
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
    """Put something else in the place of a file."""
    path.unlink()
    kind = choose.choice(["fifo", "zero", "loop", "folder", "outside"])
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to({"zero": "/dev/zero", "loop": path.name, "outside": "/etc/hostname"}[kind])


def checkpoint(change: Callable[[Path, random.Random], Any]) -> Damage:
    """Return the damage that changes one file of the newest checkpoint."""

    def damage(run_dir: Path, choose: random.Random) -> str:
        path = any_file(run_dir, choose)
        change(path, choose)
        return f"{path.relative_to(run_dir)}"

    return damage


def named(name: str, change: Callable[[Path, random.Random], Any]) -> Damage:
    """Return the damage that changes this file of the folder."""

    def damage(run_dir: Path, choose: random.Random) -> str:
        change(run_dir / name, choose)
        return name

    return damage


def renamed(run_dir: Path, choose: random.Random) -> str:
    """Give a checkpoint the name of another step."""
    steps = run_dir / "checkpoints"
    shutil.copytree(steps / str(choose.choice([STEP, 2 * STEP])), steps / str(choose.randrange(4, 99) * STEP))
    return "a step renamed"


def lines(change: Callable[[list[str], random.Random], Any]) -> Damage:
    """Return the damage that changes the lines of the metrics."""

    def damage(run_dir: Path, choose: random.Random) -> str:
        path = run_dir / METRICS_FILE
        text = path.read_text().splitlines()
        change(text, choose)
        path.write_text("".join(line + "\n" for line in text))
        return METRICS_FILE

    return damage


def cut(path: Path, choose: random.Random) -> None:
    """Cut a file off."""
    path.write_bytes(path.read_bytes()[: choose.randrange(max(1, path.stat().st_size - 1))])


def rubbish(path: Path, choose: random.Random) -> None:
    """Replace a file by text that is no table of ours."""
    texts = ("null", "[]", "7", '{"format": 2}', '{"format": 2, "config": 3}', "[" * 99_999, '{"format": "2"}', "\0")
    path.write_text(choose.choice(texts))


def setting(path: Path, choose: random.Random) -> None:
    """Change a setting in config.json to what it cannot be."""
    contents = json.loads(path.read_text())
    key = choose.choice(sorted(contents["config"]))
    contents["config"][key] = choose.choice([None, -1, "x", [], {}, 1e999, {"x": 1}])
    path.write_text(json.dumps(contents))


DAMAGES: dict[str, Damage] = {
    "a bit of a checkpoint": checkpoint(flip),
    "a file of a checkpoint cut off": checkpoint(cut),
    "a file of a checkpoint removed": checkpoint(lambda path, _: path.unlink()),
    "a file of a checkpoint that is none": checkpoint(special),
    "a manifest that is none": named(f"checkpoints/{3 * STEP}/{MANIFEST}", special),
    "a manifest of rubbish": named(f"checkpoints/{3 * STEP}/{MANIFEST}", rubbish),
    "a step renamed": renamed,
    "a config of rubbish": named("config.json", rubbish),
    "a config cut off": named("config.json", cut),
    "a setting that cannot be": named("config.json", setting),
    "a policy of rubbish": named("policy.json", rubbish),
    "metrics without a line": lines(lambda text, choose: text.pop(choose.randrange(1, len(text)))),
    "metrics with a line twice": lines(lambda text, choose: text.insert(1, choose.choice(text))),
    "metrics with rubbish": lines(lambda text, choose: text.insert(choose.randrange(len(text)), "x" * 9)),
    "metrics that are none": named(METRICS_FILE, special),
    "metrics cut off": named(METRICS_FILE, cut),
}


def attempt(run_dir: Path, actions: dict[int, np.ndarray]) -> str:
    """Load, then go on for one chunk; return what was wrong with that, or nothing."""
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    logging.getLogger("genpo_jax").addHandler(handler)
    problems, refused = [], False
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            found = np.asarray(genpo_jax.load(run_dir)(OBS)).tobytes()
            if found not in {action.tobytes() for action in actions.values()}:
                problems.append("loaded a policy that was never saved")
        except (ValueError, OSError, TypeError) as error:
            refused = True
            said.write(str(error))
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
                problems.append("another policy than that of the whole run")
        except (ValueError, OSError, TypeError) as error:
            refused = True
            said.write(str(error))
    logging.getLogger("genpo_jax").removeHandler(handler)
    messages = said.getvalue() + " ".join(
        str(warning.message) for warning in warned if "Checkpoint" in str(warning.message)
    )
    if not messages:
        problems.append("silent")
    return "; ".join(problems) or ("refused" if refused else "went on, and said so")


def hang(*_: object) -> None:
    """End a case that hangs."""
    raise BaseException("hangs")


def main() -> None:
    """Run the campaign."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--folders", type=int, default=100)
    asked.add_argument("--seed", type=int, default=0)
    options = asked.parse_args()
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
            if outcome not in ("refused", "went on, and said so"):
                wrong.append(f"{i}: {name} ({case}): {outcome}")
                print(wrong[-1], flush=True)
            counts[outcome[:20]] = counts.get(outcome[:20], 0) + 1
            shutil.rmtree(run_dir)
    print(f"{options.folders} folders: {counts}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
