"""Join the demonstrations of several files."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from genpo_jax.checks import require
from genpo_jax.data.demonstrations import Demonstrations
from genpo_jax.data.reading import Reading


def merged(sets: Sequence[Demonstrations], names: Sequence[str], reading: Reading) -> Demonstrations:
    """Return the episodes of several files as one set.

    Args:
        sets: the demonstrations of each file.
        names: the path of each file.
        reading: the present reading.

    Raises:
        ValueError: if observations, actions, names, bounds or rates of two files differ.
    """
    first = sets[0]
    if len(sets) == 1:
        return first
    for other, name in zip(sets[1:], names[1:], strict=True):
        _check_same(first, other, names[0], name)
        if other.env != first.env:
            reading.suspect(f"{name} is of the environment '{other.env}', {names[0]} of '{first.env}'")
    labelled = tuple(
        replace(episode, name=f"{name}: {episode.name}")
        for each, name in zip(sets, names, strict=True)
        for episode in each.episodes
    )
    starts = np.cumsum([0, *map(len, sets)]).tolist()
    valid = [start + number for each, start in zip(sets, starts, strict=False) for number in each.valid or ()]
    known = None if all(each.valid is None for each in sets) else tuple(valid)
    optional = {name: next((v for each in sets if (v := getattr(each, name)) is not None), None) for name in OPTIONAL}
    return replace(first, episodes=labelled, valid=known, **optional)


OPTIONAL = ("action_names", "obs_names", "rate", "action_bounds")


def _check_same(first: Demonstrations, other: Demonstrations, first_name: str, other_name: str) -> None:
    remedy = "read them apart"
    for name in ("obs_keys", "action_size", *OPTIONAL):
        values = (getattr(first, name), getattr(other, name))
        if name in OPTIONAL and None in [None if value is None else 0 for value in values]:
            continue
        same = all(np.array_equal(*pair) for pair in zip(*values, strict=True)) if name == "action_bounds" else None
        same = values[0] == values[1] if same is None else same
        require(same, f"that of {first_name}, {values[0]}", f"{name} of {other_name}", values[1], remedy)
