"""The manifest of a checkpoint: files with checksums, leaves of the state, owner, and evaluation of the policy."""

import hashlib
import json
import stat
from pathlib import Path
from typing import Any, NamedTuple

from genpo_jax.runs.files import sync, write_atomically

MANIFEST = "manifest.json"
MAX_LEAVES_NAMED = 10
# About a hundred times the size of the manifest of a state with a thousand arrays.
MAX_MANIFEST_BYTES = 2**24


class Leaf(NamedTuple):
    """Path, shape and dtype of one array of the state, as in the manifest."""

    path: str
    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        """Format as `float32[3,4]`."""
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


class IncompleteCheckpointError(Exception):
    """The save of this checkpoint was interrupted."""


class DamagedCheckpointError(Exception):
    """The files of this checkpoint differ from those that were saved."""


def describe_leaves(tree: Any) -> list[Leaf]:
    """Return path, shape and dtype of each array of a state, concrete or from `jax.eval_shape`.

    Raises:
        TypeError: a leaf is not an array.
    """
    import jax

    leaves = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path)
        if not (hasattr(leaf, "dtype") and hasattr(leaf, "shape")):
            raise TypeError(f"state{name} is {leaf!r}, not an array; store it as jnp.asarray or in `meta`")
        leaves.append(Leaf(name, tuple(leaf.shape), str(leaf.dtype)))
    return leaves


def write_manifest(
    path: Path, leaves: list[Leaf], identity: dict[str, Any], evaluation: dict[str, float] | None = None
) -> None:
    """Complete the checkpoint `path`: force its files to disk, then record them and the other arguments."""
    files = {}
    for file in sorted(path.rglob("*")):
        sync(file)
        if file.is_file():
            files[file.relative_to(path).as_posix()] = [file.stat().st_size, _sha256(file)]
    _write(path, {"files": files, "leaves": leaves, "identity": identity, "evaluation": evaluation or {}})


def write_evaluation(path: Path, evaluation: dict[str, float]) -> None:
    """Record an evaluation in the manifest of the complete checkpoint `path`, in place of an earlier one."""
    _write(path, _read_manifest(path) | {"evaluation": evaluation})


def read_identity(path: Path) -> dict[str, Any]:
    """Return the identity that the checkpoint `path` records; empty if it cannot be read."""
    return _read_table(path, "identity")


def read_evaluation(path: Path) -> dict[str, float]:
    """Return the evaluation that the checkpoint `path` records; empty if it has none or cannot be read."""
    return _read_table(path, "evaluation")


def verified_leaves(path: Path) -> list[Leaf]:
    """Compare all files of the checkpoint `path` with its manifest, and return the recorded leaves.

    Raises:
        IncompleteCheckpointError: there is no manifest.
        DamagedCheckpointError: a file is missing, unreadable or different from the saved one.
    """
    try:
        manifest = _read_manifest(path)
        for name, (size, sha256) in manifest["files"].items():
            _check_file(path, name, size, sha256)
        return [Leaf(str(name), tuple(map(int, shape)), str(dtype)) for name, shape, dtype in manifest["leaves"]]
    except OSError as error:
        raise DamagedCheckpointError(f"cannot read {error.filename}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedCheckpointError(f"{MANIFEST} has an unknown structure") from error


def _check_file(path: Path, name: str, size: int, sha256: str) -> None:
    # The names in a manifest are not trusted: open no link, no device and no file outside the folder.
    root = path.resolve()
    try:
        inside = (root / name).resolve() == root / name and root in (root / name).parents
    except RuntimeError:
        # A link to itself.
        inside = False
    if not inside:
        raise DamagedCheckpointError(f"{name} is outside of the checkpoint")
    status = (root / name).lstat()
    if not stat.S_ISREG(status.st_mode):
        raise DamagedCheckpointError(f"{name} is not a regular file")
    if status.st_size != size:
        raise DamagedCheckpointError(f"{name} has {status.st_size} bytes, not {size}")
    if _sha256(root / name) != sha256:
        raise DamagedCheckpointError(f"{name} differs from the saved file (SHA-256)")


def _write(path: Path, contents: dict[str, Any]) -> None:
    signed = {"manifest": contents, "sha256": _sha256_of_json(contents)}
    write_atomically(path / MANIFEST, json.dumps(signed, separators=(",", ":")).encode())


def _read_table(path: Path, name: str) -> dict[str, Any]:
    try:
        return dict(_read_manifest(path).get(name, {}))
    except (IncompleteCheckpointError, DamagedCheckpointError, OSError, ValueError, TypeError):
        return {}


def _read_manifest(path: Path) -> dict:
    file = path / MANIFEST
    try:
        status = file.lstat()
    except FileNotFoundError:
        raise IncompleteCheckpointError(f"no {MANIFEST}, because its save was interrupted") from None
    if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_MANIFEST_BYTES:
        raise DamagedCheckpointError(f"{MANIFEST} is not a regular file of at most {MAX_MANIFEST_BYTES:,} bytes")
    try:
        signed = json.loads(file.read_bytes())
        intact = signed["sha256"] == _sha256_of_json(signed["manifest"]) and isinstance(signed["manifest"], dict)
    except (ValueError, KeyError, TypeError, RecursionError):
        intact = False
    if not intact:
        raise DamagedCheckpointError(f"{MANIFEST} differs from the saved one")
    return signed["manifest"]


def check_leaves(path: Path, saved: list[Leaf], expected: list[Leaf]) -> None:
    """Raise `ValueError` with the leaves that differ between a checkpoint and the expected state."""
    if saved == expected:
        return
    before, now = ({leaf.path: leaf for leaf in leaves} for leaves in (saved, expected))
    differing = [name for name in before | now if before.get(name) != now.get(name)]
    lines = [
        f"state{name}: {before.get(name, 'nothing')} saved, {now.get(name, 'nothing')} expected"
        for name in differing[:MAX_LEAVES_NAMED]
    ]
    if len(differing) > MAX_LEAVES_NAMED:
        lines.append(f"and {len(differing) - MAX_LEAVES_NAMED} more")
    details = "\n  ".join(lines or ["the same leaves in another order"])
    raise ValueError(
        f"checkpoint {path} must have the same leaves as the state of this configuration, but {len(differing)} differ; "
        f"use the configuration of the saved run, or start a new run:\n  {details}"
    )


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha256_of_json(contents: dict) -> str:
    return hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()
