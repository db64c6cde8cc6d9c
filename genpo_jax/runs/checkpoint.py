"""Checkpoints that are restored bit-identically, or refused with the reason.

Orbax writes and reads the arrays, but it silently restores overwritten bytes and another dtype. Therefore each
checkpoint also has a manifest (`genpo_jax.runs.manifest`), which is written last: the save of a step without a manifest
was interrupted. The manifest also records the run, the seed and the step, so that a renamed folder or a checkpoint of
another run is refused. Links are not followed, neither to read a step nor to remove one. It records the evaluation of
the policy at this step, too, if there was one: the best checkpoint is found by it, and kept beside the newest.

    directory/<step>/state, meta     Orbax composite of the arrays and a JSON dict
    directory/<step>/manifest.json   completes the step
    directory/superseded/<step>      previous version of a step that is being saved again
"""

import json
import logging
import math
import operator
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from genpo_jax.runs.files import check_usable, remove, sync
from genpo_jax.runs.hosts import in_first_process
from genpo_jax.runs.manifest import (
    MANIFEST,
    DamagedCheckpointError,
    IncompleteCheckpointError,
    Leaf,
    check_leaves,
    describe_leaves,
    read_evaluation,
    read_identity,
    verified_leaves,
    write_evaluation,
    write_manifest,
)

SUPERSEDED = "superseded"
# Metrics that rank checkpoints, of deterministic actions: success rate if there is one, then return.
RANKING = ("eval/success_zero", "eval/return_zero")
logger = logging.getLogger(__name__)


class Checkpointer:
    """Writer and reader of the checkpoints of a training state.

    Saving is synchronous: when `save` returns, the checkpoint is complete on disk and the state may be donated. If
    several processes train together, all of them save and restore, in a directory that all of them can access. Nothing
    is written or removed before the first `save`, so another process can read the directory during a run.

    Attributes:
        directory: folder of the checkpoints; the first `save` creates it.
        keep: number of newest complete checkpoints to keep, beside the best.
        identity: the owner (`run`, `seed`). A checkpoint that records another value is refused, and never removed.

    Raises:
        ValueError: Orbax cannot read back what it writes into a folder of this name.
    """

    def __init__(self, directory: str | Path, keep: int = 3, identity: dict[str, Any] | None = None):
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        self.directory = Path(directory).absolute()
        check_usable(self.directory)
        self.keep = keep
        self.identity = identity or {}
        self._orbax = None
        self._refused: set[Path] = set()

    def steps(self) -> list[int]:
        """Return the steps with a complete checkpoint, oldest first, without verifying their checksums."""
        return sorted({int(path.name) for path in self._candidates() if (path / MANIFEST).is_file()})

    def best(self) -> tuple[int, dict[str, float]] | None:
        """Return step and evaluation of the best intact checkpoint, the latest of equals; None without any."""
        evaluations = {path: read_evaluation(path) for path in self._candidates() if path.parent == self.directory}
        ranked = sorted(evaluations, key=lambda path: (score(evaluations[path]), int(path.name)), reverse=True)
        for path in ranked:
            if score(evaluations[path]) and self.is_intact(int(path.name)):
                return int(path.name), evaluations[path]
        return None

    def record_evaluation(self, step: int, evaluation: dict[str, float]) -> None:
        """Add the evaluation of its policy to the complete checkpoint of a step."""
        path = self.directory / str(step)
        in_first_process(f"record an evaluation in {path}", lambda: write_evaluation(path, evaluation))

    def save(self, step: int, state: Any, meta: dict, evaluation: dict[str, float] | None = None) -> None:
        """Save `state` (a pytree of arrays) and `meta` (JSON) as `step`, then remove older checkpoints.

        The newest `keep` checkpoints and the best are kept. Others are removed only after this one is complete. Saving
        a step again replaces it.

        Args:
            step: number of the checkpoint.
            state: a pytree of arrays.
            meta: JSON values.
            evaluation: metrics of the policy by name, which rank the checkpoint; None if it was not evaluated.

        Raises:
            ValueError: `step` is negative.
            TypeError: a leaf is not an array, or `meta` is not JSON.
            OSError: the disk is full or not writable, or another process failed; earlier checkpoints are unchanged.
        """
        import orbax.checkpoint as ocp

        step = operator.index(step)
        if step < 0:
            raise ValueError(f"step must be at least 0, got {step}")
        json.dumps(meta)
        leaves, arrays = describe_leaves(state), _named_arrays(state)
        target = self.directory / str(step)
        in_first_process(f"make room for {target}", lambda: self._make_room(target))
        items = ocp.args.Composite(state=ocp.args.StandardSave(arrays), meta=ocp.args.JsonSave(meta))
        try:
            with _quiet():
                self._checkpointer().save(target, args=items)
        except Exception as error:
            with suppress(OSError):
                self._remove_leftovers()
            raise _system_error(error, target) from error
        in_first_process(f"complete {target}", lambda: self._complete(target, leaves, evaluation))

    def restore_leaves(self, abstract: dict[str, Any], at: int | None = None) -> dict[str, Any]:
        """Restore single arrays of the newest intact checkpoint, by their path in the state.

        Args:
            abstract: shape and dtype of each array, by its path as `jax.tree_util.keystr` writes it.
            at: the step to restore; None: the newest.

        Raises:
            FileNotFoundError: there is no checkpoint, or none at this step.
            ValueError: no checkpoint is intact, or the newest intact one does not have these arrays.
        """
        import orbax.checkpoint as ocp

        path, saved = self._newest(at)
        expected = [Leaf(name, tuple(leaf.shape), str(leaf.dtype)) for name, leaf in abstract.items()]
        check_leaves(path, sorted(leaf for leaf in saved if leaf.path in abstract), sorted(expected))
        numbers = {leaf.path: f"{i:05d}" for i, leaf in enumerate(saved)}
        placed = {numbers[name]: leaf for name, leaf in _placed(abstract).items()}
        arguments = jax.tree.map(
            lambda leaf: ocp.ArrayRestoreArgs(sharding=leaf.sharding, global_shape=leaf.shape, dtype=leaf.dtype), placed
        )
        # Only this handler restores a part of the saved arrays.
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as orbax:
            arrays = orbax.restore(
                path / "state", args=ocp.args.PyTreeRestore(placed, restore_args=arguments, partial_restore=True)
            )
        return {name: arrays[numbers[name]] for name in abstract}

    def restore(self, abstract_state: Any, at: int | None = None) -> tuple[int, Any, dict]:
        """Restore `(step, state, meta)` of the newest intact checkpoint; warn of damaged ones.

        Args:
            abstract_state: the expected state, as from `jax.eval_shape`. A leaf is placed by its `sharding`, or on the
                default device if it has none, independently of the number of devices that saved it.
            at: the step to restore; None: the newest.

        Raises:
            FileNotFoundError: there is no checkpoint.
            ValueError: no checkpoint is intact, or the newest intact one has other leaves, shapes or dtypes.
        """
        path, saved = self._newest(at)
        check_leaves(path, saved, describe_leaves(abstract_state))
        return int(path.name), *self._load(path, abstract_state)

    def _newest(self, at: int | None) -> tuple[Path, list[Leaf]]:
        """Return the newest intact checkpoint (of step `at`, if given) and its leaves; raises as `restore`."""
        refusals = []
        for path in self._candidates():
            if at is not None and int(path.name) != at:
                continue
            if mismatch := self._identity_mismatch(path):
                refusals.append(f"{path}: {mismatch}")
                warnings.warn(
                    f"Checkpoint {path} is not of this run ({mismatch}); trying the previous one", stacklevel=2
                )
                continue
            try:
                saved = verified_leaves(path)
            except IncompleteCheckpointError as error:
                refusals.append(f"{path}: {error}")
                logger.info("Ignoring checkpoint %s: %s", path, error)
            except DamagedCheckpointError as error:
                refusals.append(f"{path}: {error}")
                self._refused.add(path)
                warnings.warn(f"Checkpoint {path} is damaged ({error}); trying the previous one", stacklevel=2)
            else:
                return path, saved
        if not refusals:
            known = ", ".join(map(str, self.steps())) or "none"
            of_step = f" of step {at}; there are {known}" if at is not None else ""
            raise FileNotFoundError(f"no checkpoint in {self.directory}{of_step}; check the path, or start a new run")
        details = "\n  ".join(refusals)
        raise ValueError(f"no intact checkpoint in {self.directory}; start a new run. Found:\n  {details}")

    def newest(self) -> int:
        """Return the step of the newest intact checkpoint; raises as `restore`."""
        return int(self._newest(None)[0].name)

    def is_intact(self, step: int) -> bool:
        """Return whether `step` has a checkpoint of this run with correct checksums."""
        try:
            verified_leaves(self.directory / str(step))
        except (IncompleteCheckpointError, DamagedCheckpointError):
            return False
        return not self._identity_mismatch(self.directory / str(step))

    def close(self) -> None:
        """Release Orbax; this object may still be used."""
        if self._orbax is not None:
            self._orbax.close()
            self._orbax = None

    def _checkpointer(self):
        import orbax.checkpoint as ocp

        # Not CheckpointManager: it silently skips a step that is older than its latest.
        if self._orbax is None:
            self._orbax = ocp.Checkpointer(ocp.CompositeCheckpointHandler())
        return self._orbax

    def _candidates(self) -> list[Path]:
        """Return the folders named as steps, newest first, each before its superseded version."""
        superseded = self.directory / SUPERSEDED
        folders = [*self.directory.glob("*"), *([] if superseded.is_symlink() else superseded.glob("*"))]
        steps = [path for path in folders if path.name.isdecimal() and path.is_dir() and not path.is_symlink()]
        return sorted(steps, key=lambda path: (-int(path.name), path.parent.name == SUPERSEDED))

    def _identity_mismatch(self, path: Path) -> str:
        """Return how the recorded run, seed or step of a checkpoint differ from the expected ones, or ""."""
        recorded = read_identity(path)
        expected = self.identity | {"step": int(path.name)}
        differing = [
            f"{name} {recorded[name]}, not {expected[name]}"
            for name in expected
            if recorded.get(name, expected[name]) != expected[name]
        ]
        return f"it was saved as {', '.join(differing)}" if differing else ""

    def _make_room(self, target: Path) -> None:
        """Free the path `target`; a complete checkpoint there is kept until its replacement is complete."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self._remove_leftovers()
        superseded = self.directory / SUPERSEDED
        if superseded.is_symlink():
            remove(superseded)
        if target.is_symlink() or not (target / MANIFEST).is_file():
            _remove_step(target)
            return
        _remove_step(superseded / target.name)
        superseded.mkdir(exist_ok=True)
        os.replace(target, superseded / target.name)

    def _complete(self, target: Path, leaves: list[Leaf], evaluation: dict[str, float] | None) -> None:
        write_manifest(target, leaves, self.identity | {"step": int(target.name)}, evaluation)
        sync(self.directory)
        self._refused.discard(target)
        self._remove_all_but_newest_and_best(target)

    def _remove_leftovers(self) -> None:
        """Remove the temporary folders of interrupted saves."""
        for leftover in self.directory.glob("*.orbax-checkpoint-tmp*"):
            remove(leftover)

    def _remove_all_but_newest_and_best(self, saved: Path) -> None:
        """Remove damaged, superseded, incomplete and older steps; keep those of other runs."""
        best = self.best()
        candidates = [path for path in self._candidates() if path.parent == self.directory and path != saved]
        candidates = [path for path in candidates if not self._identity_mismatch(path)]
        complete = [path for path in candidates if (path / MANIFEST).is_file() and path not in self._refused]
        kept = {saved, *complete[: self.keep - 1], *([self.directory / str(best[0])] if best else [])}
        for path in candidates:
            if path not in kept:
                _remove_step(path)
        remove(self.directory / SUPERSEDED)
        self._refused &= kept

    def _load(self, path: Path, abstract_state: Any) -> tuple[Any, dict]:
        import orbax.checkpoint as ocp

        placed = _placed(abstract_state)
        items = ocp.args.Composite(state=ocp.args.StandardRestore(_named_arrays(placed)), meta=ocp.args.JsonRestore())
        restored = self._checkpointer().restore(path, args=items)
        return _from_named_arrays(placed, restored["state"]), restored["meta"]


def score(evaluation: dict[str, float]) -> tuple[float, ...]:
    """Return the numbers by which an evaluation is ranked, larger is better; empty if one is missing or not finite."""
    numbers = tuple(evaluation[name] for name in RANKING if name in evaluation)
    return numbers if all(map(math.isfinite, numbers)) else ()


def _placed(abstract: Any) -> Any:
    """Give every abstract array a sharding: without one, Orbax needs the devices of the process that saved."""
    default = jnp.zeros(()).sharding
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None) or default),
        abstract,
    )


def _named_arrays(tree: Any) -> dict[str, Any]:
    """Flatten any pytree to `{leaf number: array}`, without empty arrays, which Orbax refuses."""
    return {f"{i:05d}": leaf for i, leaf in enumerate(jax.tree.leaves(tree)) if leaf.size}


def _from_named_arrays(abstract: Any, arrays: dict[str, Any]) -> Any:
    leaves, structure = jax.tree.flatten(abstract)
    filled = [
        arrays[f"{i:05d}"] if leaf.size else jnp.empty(leaf.shape, leaf.dtype, device=leaf.sharding)
        for i, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, filled)


@contextmanager
def _quiet() -> Iterator[None]:
    """Disable the long log messages of errors that Orbax also raises."""
    log = logging.getLogger("absl")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def _system_error(error: Exception, target: Path) -> OSError:
    """Return an error of Orbax as the operating system's error, if its message has the error number."""
    if isinstance(error, OSError):
        return error
    if number := re.search(r"os_error_code='(\d+)'", str(error)):
        return OSError(int(number[1]), os.strerror(int(number[1])), str(target))
    first_line = (str(error).splitlines() or [""])[0]
    return OSError(f"{target} cannot be saved: {type(error).__name__}: {first_line}")


def _remove_step(path: Path) -> None:
    """Remove a step, the manifest first: an interrupted removal then leaves an incomplete step."""
    if not path.is_symlink():
        (path / MANIFEST).unlink(missing_ok=True)
    remove(path)
