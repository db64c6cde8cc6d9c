"""`genpo-jax pretrain`."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from genpo_jax.commands.base import STOPPED, Command, leave, print_end, write_json
from genpo_jax.imitation.config import PretrainConfig

if TYPE_CHECKING:
    from genpo_jax.data import Demonstrations


# Between the files of a run in its pretrain.json.
SEPARATOR = ", "


@dataclass(frozen=True, kw_only=True)
class PretrainOptions(PretrainConfig):
    """Train a policy on demonstrations: a flow by flow matching, or a Gaussian by maximum likelihood."""

    data: Annotated[tuple[Path, ...], tyro.conf.arg(help_behavior_hint="")] = ()
    """Demonstrations: a robomimic .hdf5, a Minari or LeRobot folder, or DPPO's train.npz. Several are one set.
    Required unless --resume is given. Default: the data of the run to resume, if it is one file or folder."""
    run_dir: Path
    """Folder of the run."""
    resume: bool = False
    """Resume the run in --run-dir bit-identically. Settings and the path of the data come from the run.
    Give --obs-keys, --part and --mask again if you used them."""
    obs_keys: Annotated[tuple[str, ...], tyro.conf.arg(help_behavior_hint="")] = ()
    """Names of the observations to concatenate, in this order. DPPO's format has no names.
    Default: the usual name of the format, or the only observation. `genpo-jax data` lists the names.
    Usual names: state (robomimic), observation with desired_goal (Minari), observation.state (LeRobot)."""
    part: str | None = None
    """Numbers of the demonstrated episodes to read, such as 0:50,60. None: all."""
    mask: str | None = None
    """Read only the episodes of this mask of a robomimic file. None: all."""
    trust: bool = False
    """Import the module that the data or the run to resume names as its environment; importing it runs its code."""
    episodes: int = 1000
    """Episodes of the final evaluation, for each kind of noise. 0 disables it."""

    MAY_BE_EMPTY = ("obs_keys", "data")
    MAY_BE_ZERO = ("episodes",)


def settings(options: PretrainOptions) -> PretrainConfig:
    """Return the settings from the command line; those of the run to resume take the place of defaults.

    Raises:
        ValueError: if another value differs from the saved settings of the run to resume.
    """
    from genpo_jax.imitation.pretrain import resumed_settings, saved_settings

    names = [f.name for f in dataclasses.fields(PretrainConfig)]
    given = PretrainConfig(**{name: getattr(options, name) for name in names})
    if not options.resume:
        return given
    saved, default = saved_settings(options.run_dir)[0], PretrainConfig()
    left_out = {name: getattr(saved, name) for name in names if getattr(given, name) == getattr(default, name)}
    return resumed_settings(options.run_dir, dataclasses.replace(given, **left_out))


def demonstrations_of(options: PretrainOptions) -> tuple["Demonstrations", str]:
    """Return the demonstrations, and their file or files as text.

    Raises:
        ValueError: if no data is named, or it cannot be read.
    """
    from genpo_jax.data import read

    paths = options.data
    if not paths:
        from genpo_jax.imitation.pretrain import saved_settings

        if not options.resume:
            raise ValueError("data must name the file or folder of the demonstrations, got none")
        source = saved_settings(options.run_dir)[1]
        paths = (Path(source),) if Path(source).exists() else tuple(map(Path, source.split(SEPARATOR)))
    path = paths[0] if len(paths) == 1 else paths
    data = read(path, options.obs_keys or None, episodes=options.part, mask=options.mask)
    return data, SEPARATOR.join(map(str, paths))


def run(options: PretrainOptions) -> None:
    """Train, evaluate, and leave both in the folder."""
    from genpo_jax.imitation.pretrain import pretrain
    from genpo_jax.runs.evaluate import evaluate, table

    config = settings(options)
    demonstrations, source = demonstrations_of(options)
    given = {"env": options.env, "trust": options.trust}
    run = pretrain(demonstrations, config, options.run_dir, resume=options.resume, source=source, **given)
    if run.stopped:
        leave(STOPPED)
    if run.env is not None and options.episodes:
        results = evaluate(options.run_dir, env=run.env, episodes=options.episodes)
        write_json(options.run_dir / "evaluation.json", results)
        print(table(results))
    print_end(options.run_dir)


COMMAND = Command(PretrainOptions, run)
