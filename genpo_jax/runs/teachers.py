"""Copies of the teachers of a distillation in its run folder, so that it is resumed without their folders.

teachers.json     format, and for each teacher: its folder, its description, and the SHA-256 of its arrays
teacher-0.npz     arrays of the first teacher, in the order of the leaves of its policy
"""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from genpo_jax.checks import require
from genpo_jax.config import Config
from genpo_jax.normalizer import RunningMoments
from genpo_jax.policy import PolicySpec, TrainedPolicy
from genpo_jax.runs.files import read_file, write_atomically
from genpo_jax.runs.folder import FORMAT, read_json, write_json
from genpo_jax.runs.load import load

TEACHERS_FILE = "teachers.json"


class Teacher(NamedTuple):
    """A frozen policy, and the run folder that it came from."""

    policy: TrainedPolicy
    source: str


def teachers_of(
    folder: Path | None, resume: bool, config: Config, sources: Sequence[str | Path]
) -> tuple[Teacher, ...]:
    """Return the teachers of a new run from their folders, or those of a run to resume from its own.

    Args:
        folder: of the run; None for a new folder.
        resume: whether the run is resumed.
        config: settings of the run.
        sources: folders of the teachers of a new run.

    Raises:
        ValueError: if there are teachers without a weight of their loss, or the reverse.
    """
    used, named = config.ppo.distill_coef > 0, [str(source) for source in sources]
    if resume and folder is not None:
        require(not named, "left out with resume=True, because the run folder has copies", "teachers", named)
        return read_teachers(folder) if used else ()
    require(used == bool(named), "given with distill_coef > 0, and only then", "teachers", named)
    return tuple(Teacher(load(source), str(Path(source).absolute())) for source in sources)


def write_teachers(folder: Path, teachers: Sequence[Teacher]) -> None:
    """Write the teachers into the folder of a run, the description last."""
    folder.mkdir(parents=True, exist_ok=True)
    described = []
    for number, teacher in enumerate(teachers):
        file = io.BytesIO()
        np.savez(file, *(np.asarray(leaf) for leaf in jax.tree.leaves(teacher.policy)))
        write_atomically(folder / _file_of(number), file.getvalue())
        digest = hashlib.sha256(file.getvalue()).hexdigest()
        described.append({"from": teacher.source, "policy": teacher.policy.spec.to_dict(), "sha256": digest})
    write_json(folder / TEACHERS_FILE, {"format": FORMAT, "teachers": dict(enumerate(described))})


def read_teachers(folder: Path) -> tuple[Teacher, ...]:
    """Return the teachers in the folder of a run.

    Raises:
        FileNotFoundError: if there are none.
        ValueError: if a file is damaged.
    """
    path = folder / TEACHERS_FILE
    described = read_json(path, "teachers")["teachers"]
    return tuple(_read(folder / _file_of(number), path, described.get(str(number))) for number in range(len(described)))


def _read(file: Path, path: Path, described: object) -> Teacher:
    known = isinstance(described, dict) and {"from", "policy", "sha256"} <= described.keys()
    require(known, "a table with from, policy and sha256", f"{file.stem} in {path}", described, "restore the file")
    assert isinstance(described, dict)
    data = read_file(file)
    digest = hashlib.sha256(data).hexdigest()
    require(digest == described["sha256"], "the file that was written", str(file), "another one", "restore the file")
    spec = PolicySpec.from_dict(described["policy"])
    params = nnx.state(nnx.eval_shape(spec.build), nnx.Param)
    moments = RunningMoments.create((spec.obs_size,)) if spec.normalized else None
    _, tree = jax.tree.flatten(TrainedPolicy(spec, params, moments))
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        leaves = [jnp.asarray(arrays[name]) for name in arrays.files]
    return Teacher(jax.tree.unflatten(tree, leaves), str(described["from"]))


def _file_of(number: int) -> str:
    return f"teacher-{number}.npz"
