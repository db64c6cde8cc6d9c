"""Choose observations by name and concatenate them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from genpo_jax.checks import require
from genpo_jax.data.reading import EVERY, MAX_KEYS, Reading, size_of

# Without names, longer vectors are taken for flattened images.
LONGEST_VECTOR = 4096


class Part(NamedTuple):
    """One observation that a file holds: shape of one step, and dtype."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def is_vector(self) -> bool:
        """Whether it is a vector of numbers, as opposed to an image or text."""
        image = self.dtype == np.uint8 and len(self.shape) >= 2
        return self.is_numeric and not image and 0 < size_of(self.shape) <= LONGEST_VECTOR

    @property
    def is_numeric(self) -> bool:
        """Whether it can be converted to float32."""
        return self.dtype.kind in "biuf"


def choose(
    parts: Mapping[str, Part],
    reading: Reading,
    default: Callable[[Sequence[str]], tuple[str, ...]],
    group: str,
) -> tuple[str, ...]:
    """Return the names of the observations to concatenate, and record those that are left out.

    A name may be a path such as `policy/joint_pos`, with or without the name of the `group` that holds all
    observations, or a group, which means all vectors in it.

    Args:
        parts: the observations of the file by path.
        reading: the choice of the user.
        default: maps the names of all vectors to those that are read by default; empty if some must be named.
        group: name of the group that holds the observations; empty if there is none.

    Raises:
        ValueError: if the choice is ambiguous, missing or doubled.
    """
    require(len(parts) <= MAX_KEYS, f"at most {MAX_KEYS}", "the number of observations", len(parts))
    vectors = [name for name, part in parts.items() if part.is_vector]
    listed = ", ".join(f"{name} {list(parts[name].shape)}" for name in sorted(vectors)) or "none"
    reading.default_keys = default(vectors)
    asked = reading.obs_keys
    if asked is None:
        asked = reading.default_keys
        require(len(asked) > 0, f"given, in the order of concatenation, from: {listed}", "obs_keys", None)
    elif EVERY in asked:
        require(asked == (EVERY,), f"'{EVERY}' alone, or names", "obs_keys", list(asked))
        asked = tuple(vectors)
    names = [name for key in asked for name in _expanded(key.strip("/"), parts, vectors, group) or [key]]
    missing = [name for name in names if name not in parts or not parts[name].is_numeric]
    require(not missing and len(names) > 0, f"among: {listed}", "obs_keys", missing or list(asked))
    require(len(set(names)) == len(names), "different names", "obs_keys", names, "name each once")
    empty = [name for name in names if size_of(parts[name].shape) == 0]
    require(not empty, "of at least one number", "obs_keys", empty)
    prefix = f"{group}/" if group else ""
    reading.leave_out(f"{prefix}{name} {_described(part)}" for name, part in parts.items() if name not in names)
    return tuple(names)


def joined(arrays: Mapping[str, Any], keys: Sequence[str], reading: Reading, episode: str) -> np.ndarray:
    """Return named arrays `[T, *]` concatenated to float32 `[T, o]`.

    Raises:
        ValueError: if their lengths differ, or one has no axis of steps.
    """
    flat = []
    for name in keys:
        array = reading.to_float32(arrays[name], name, episode)
        require(array.ndim > 0, "an array with one row per step", f"{name} of {episode}", array.tolist())
        flat.append(array.reshape(len(array), size_of(array.shape[1:])))
    lengths = {name: len(array) for name, array in zip(keys, flat, strict=True)}
    require(len(set(lengths.values())) == 1, "of one length", f"observations of {episode}", lengths)
    return np.concatenate(flat, axis=-1)


def usual_or_only(usual: str) -> Callable[[Sequence[str]], tuple[str, ...]]:
    """Return the default choice: the observation with the format's usual name, or else the only one."""

    def default(vectors: Sequence[str]) -> tuple[str, ...]:
        return (usual,) if usual in vectors else tuple(vectors) if len(vectors) == 1 else ()

    return default


def _expanded(key: str, parts: Mapping[str, Part], vectors: Sequence[str], group: str) -> list[str]:
    """Return the observations that a key names: one, or all vectors of a group."""
    for name in (key, key.removeprefix(f"{group}/") if group else key):
        if name in parts:
            return [name]
        if inside := [vector for vector in vectors if vector.startswith(f"{name}/")]:
            return inside
    return []


def _described(part: Part) -> str:
    return f"{list(part.shape)}" if part.is_numeric else "(no numbers)"
