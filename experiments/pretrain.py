"""Train a policy on demonstrations: a flow by flow matching, or a Gaussian by maximum likelihood.

    python -m experiments.pretrain --data demos/avoid.hdf5 --run-dir runs/avoid-flow

What it leaves is a run: `genpo_jax.load` opens it, `genpo-jax eval`, `play` and `export` work on it, and
`python -m experiments.finetune --from FOLDER` goes on from it. At the end its success over many episodes is measured,
with zero and with random noise.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from experiments.program import run_program
from genpo_jax.cli import STOPPED, leave
from genpo_jax.imitation.config import PretrainConfig


@dataclass(frozen=True, kw_only=True)
class Options(PretrainConfig):
    """What to learn from, how, and where to leave it."""

    data: Path | None = None
    """Demonstrations: robomimic's .hdf5, a folder of Minari or LeRobot, DPPO's train.npz."""
    run_dir: Path
    """Folder of the run."""
    resume: bool = False
    """Go on with the run in --run-dir, bit for bit, with its settings and data."""
    obs_keys: tuple[str, ...] = ()
    """Which observations to concatenate, in this order. None: the one there is, or the one called as usual."""
    actions: Literal["refuse", "clip"] = "refuse"
    """What to do with actions out of [-1, 1]."""
    episodes: int = 1000
    """Episodes to evaluate over, for each kind of noise; 0: none."""

    MAY_BE_EMPTY = ("obs_keys",)


def settings(options: Options) -> PretrainConfig:
    """Return the settings of the run: those asked for, or those of the run to go on with.

    Raises:
        ValueError: if a resumed run is asked for other settings.
    """
    from genpo_jax.imitation.pretrain import saved_settings

    names = [f.name for f in dataclasses.fields(PretrainConfig)]
    given = PretrainConfig(**{name: getattr(options, name) for name in names})
    if not options.resume:
        return given
    saved = saved_settings(options.run_dir)[0]
    default = PretrainConfig()
    for name in names:
        value = getattr(given, name)
        if value not in (getattr(default, name), getattr(saved, name)):
            raise ValueError(
                f"a resumed run keeps its settings, but {name}: saved {getattr(saved, name)!r}, given {value!r}; leave "
                "it out, or start a new run"
            )
    return saved


def pretrain(options: Options) -> None:
    """Train, evaluate, and leave both in the folder."""
    from genpo_jax.data import read
    from genpo_jax.imitation.pretrain import Pretraining, saved_settings
    from genpo_jax.runs.evaluate import evaluate, table

    config = settings(options)
    data = options.data
    if data is None:
        if not options.resume:
            raise ValueError("data must be named, the file or folder of the demonstrations, got None")
        data = Path(saved_settings(options.run_dir)[1])
    demonstrations = read(data, options.obs_keys or None).with_bounded_actions(options.actions)
    run = Pretraining(demonstrations, config, options.run_dir, resume=options.resume, source=str(data))
    run.train()
    if run.stopped:
        leave(STOPPED)
    if run.env and options.episodes:
        results = evaluate(options.run_dir, episodes=options.episodes)
        (options.run_dir / "evaluation.json").write_text(json.dumps(results, indent=2) + "\n")
        print(table(results))
    print(f"everything is in {options.run_dir}")


if __name__ == "__main__":
    run_program(Options, pretrain, __doc__)
