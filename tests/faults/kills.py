"""Kill runs at random moments, resume them, and check that they are bit-identical to an uninterrupted run.

    python -m tests.faults.kills --kills 60 --out kills

Each process is forked after all imports, so that a kill costs only seconds. When a run is complete, the next starts.
Prints one line per run, and exits with 1 if anything differs.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np

import genpo_jax
from genpo_jax.config import Config, EnvConfig, PPOConfig
from genpo_jax.methods import METHODS, NetworksConfig
from genpo_jax.runs import run as runs
from genpo_jax.runs.checkpoint import Checkpointer
from genpo_jax.runs.metrics import METRICS_FILE, read_metrics
from genpo_jax.runtime import configure_jax

SMALL: dict[str, Any] = {"num_steps": 2, "hidden_sizes": (8,), "encoder_sizes": (8,), "head_sizes": (8,)}
CONFIG = Config(
    env="ring",
    num_timesteps=300 * 128,
    updates_per_chunk=1,
    num_evals=3,
    eval_envs=2,
    checkpoint_minutes=0.005,
    env_options=EnvConfig(num_envs=16),
    method=METHODS["genpo++"](**SMALL),
    networks=NetworksConfig(value_sizes=(8,)),
    ppo=PPOConfig(unroll=8, num_minibatches=2, num_epochs=2),
)


def in_child(run_dir: Path, kill_after: float | None) -> bool:
    """Start or resume a run in a child process; return whether it completed."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            resume = (run_dir / "config.json").exists()
            genpo_jax.train(
                None if resume else "ring", None if resume else CONFIG, run_dir, resume=resume, progress=False
            )
            code = 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    if kill_after is not None:
        deadline = time.monotonic() + kill_after
        while time.monotonic() < deadline:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return _completed(status)
            time.sleep(0.005)
        os.kill(child, signal.SIGKILL)
    return _completed(os.waitpid(child, 0)[1])


def _completed(status: int) -> bool:
    if os.WIFSIGNALED(status):
        return False
    if os.WEXITSTATUS(status):
        raise SystemExit("a run could not start or resume: see the message above")
    return True


def contents(run_dir: Path) -> dict:
    """Return everything in a run folder that must not differ."""
    lines = [
        {name: value for name, value in line.items() if not name.startswith("time/") and name != "wall_seconds"}
        for line in read_metrics(run_dir / METRICS_FILE)
    ]
    trainer = runs.Trainer(genpo_jax.make_env("ring"), CONFIG)
    step, state, _ = Checkpointer(run_dir / "checkpoints").restore(trainer.abstract_state(1))
    leaves = [
        jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        for leaf in jax.tree.leaves(state)
    ]
    return {
        "step": step,
        "state": [np.asarray(leaf).tobytes() for leaf in leaves],
        "metrics": lines,
        "events": events(run_dir),
        "strays": sorted(path.name for path in run_dir.iterdir() if path.name.endswith(".tmp")),
        "folders": sorted(path.name for path in (run_dir / "checkpoints").iterdir() if not path.name.isdecimal()),
    }


def events(run_dir: Path) -> list[tuple[int, float]]:
    """Return the KL of every chunk, read by TensorBoard."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(run_dir / "tensorboard"))
    read.Reload()
    return [(event.step, event.value) for event in read.Scalars("train/kl")]


def main() -> None:
    """Run the campaign."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    # This only changes settings: a process that has used jax cannot be forked.
    configure_jax()
    in_child(options.out / "whole", None)
    # A second uninterrupted run, with compiled programs, must not differ either; its time bounds that of the kills.
    start = time.monotonic()
    in_child(options.out / "again", None)
    longest, folders, kills = time.monotonic() - start, [options.out / "again"], 0
    while kills < options.kills:
        run_dir = options.out / f"killed-{len(folders) - 1}"
        before = kills
        while not in_child(run_dir, draw.uniform(0.0, longest) if kills < options.kills else None):
            kills += 1
        folders.append(run_dir)
        print(f"{run_dir.name}: {kills - before} kills", flush=True)
    whole = contents(options.out / "whole")
    differing = []
    for run_dir in folders:
        other = contents(run_dir)
        differing += [f"{run_dir.name}: {name}" for name in whole if other[name] != whole[name]]
    size = sum(map(len, whole["state"]))
    print(f"{kills} kills, {len(folders) - 1} runs, {len(whole['metrics'])} lines and {size} bytes of state compared")
    print("\n".join(differing) or "no difference")
    for run_dir in [options.out / "whole", *folders] if not differing else []:
        shutil.rmtree(run_dir)
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()
