"""Name what is suspicious in demonstrations, though it may be right: doubled episodes, values far from all others."""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from genpo_jax.data.demonstrations import ACTION_TOLERANCE, Demonstrations, Episode

# Shorter episodes may have constant actions by chance.
SHORTEST = 3
# A value this many times farther from the median than all but one in a thousand others.
FAR = 100.0
LISTED = 3


def suspicions(demonstrations: Demonstrations) -> Iterator[str]:
    """Yield one sentence for each kind of suspicious data."""
    labels = [episode.name or f"episode {number}" for number, episode in enumerate(demonstrations.episodes)]
    yield from _doubled_episodes(demonstrations.episodes, labels)
    yield from _still(demonstrations.episodes, labels)
    yield from _repeated_frames(demonstrations.episodes, labels)
    yield from _repeated_last(demonstrations.episodes)
    for kind in ("obs", "action"):
        yield from _far_values(demonstrations, kind, labels)
    yield from _beyond_bounds(demonstrations, labels)


def listed(labels: Sequence[str]) -> str:
    """Return the first labels, and how many more there are."""
    more = f" and {len(labels) - LISTED} more" if len(labels) > LISTED else ""
    return ", ".join(labels[:LISTED]) + more


def _doubled_episodes(episodes: Sequence[Episode], labels: Sequence[str]) -> Iterator[str]:
    seen: dict[bytes, str] = {}
    doubled = []
    for episode, label in zip(episodes, labels, strict=True):
        digest = hashlib.sha256(episode.obs.tobytes() + episode.action.tobytes()).digest()
        if len(episode) >= SHORTEST and digest in seen:
            doubled.append(f"{label} and {seen[digest]}")
        seen.setdefault(digest, label)
    if doubled:
        yield f"episodes are identical: {listed(doubled)}"


def _still(episodes: Sequence[Episode], labels: Sequence[str]) -> Iterator[str]:
    long = [(e, label) for e, label in zip(episodes, labels, strict=True) if len(e) >= SHORTEST]
    for name in ("action", "obs"):
        still = [label for e, label in long if (getattr(e, name) == getattr(e, name)[0]).all()]
        if still:
            yield f"{name} never changes in {listed(still)}"


def _repeated_frames(episodes: Sequence[Episode], labels: Sequence[str]) -> Iterator[str]:
    """Name episodes with a frame that is equal to the one before, between frames that differ."""
    found, count = [], 0
    for episode, label in zip(episodes, labels, strict=True):
        frames = np.concatenate([episode.obs, episode.action], axis=-1)
        moved = (frames[1:] != frames[:-1]).any(axis=-1)
        alone = ~moved[1:-1] & moved[:-2] & moved[2:]
        if alone.any():
            found.append(f"{label} at step {int(np.argmax(alone)) + 2}")
            count += int(alone.sum())
    if found:
        yield f"{count} frames repeat the frame before, between frames that differ: {listed(found)}"


def _repeated_last(episodes: Sequence[Episode]) -> Iterator[str]:
    """Name sets whose observation after the last action is always the one before it."""
    known = [e for e in episodes if e.last_obs is not None and (e.obs != e.obs[0]).any()]
    if known and all(np.array_equal(e.last_obs, e.obs[-1]) for e in known if e.last_obs is not None):
        yield "the observation after the last action repeats the one before it in all episodes"


def _far_values(demonstrations: Demonstrations, kind: str, labels: Sequence[str]) -> Iterator[str]:
    """Name single values that are far from all others of their coordinate, as flipped bits are."""
    values = np.concatenate([getattr(episode, kind) for episode in demonstrations.episodes]).astype(np.float64)
    if len(values) < SHORTEST:
        return
    deviation = np.abs(values - np.median(values, axis=0))
    index = len(values) - 1 - max(1, len(values) // 1000)
    usual = np.partition(deviation, index, axis=0)[index]
    far = (deviation.max(axis=0) > FAR * usual) & (usual > 0)
    if far.any():
        coordinate = int(np.argmax(far))
        row = int(np.argmax(deviation[:, coordinate]))
        ends = np.cumsum([len(episode) for episode in demonstrations.episodes])
        number = int(np.searchsorted(ends, row, side="right"))
        step = row - int(ends[number]) + len(demonstrations.episodes[number])
        yield (
            f"{kind} of {labels[number]} is {values[row, coordinate]:.4g} at [{step}, {coordinate}], far from all "
            "other values of this coordinate"
        )


def _beyond_bounds(demonstrations: Demonstrations, labels: Sequence[str]) -> Iterator[str]:
    if demonstrations.action_bounds is None:
        return
    low, high = demonstrations.action_bounds
    with np.errstate(invalid="ignore", over="ignore"):
        slack = ACTION_TOLERANCE * np.where(np.isfinite(high - low), high - low, 0) + 1e-6
    beyond = [
        label
        for episode, label in zip(demonstrations.episodes, labels, strict=True)
        if ((episode.action < low - slack) | (episode.action > high + slack)).any()
    ]
    if beyond:
        yield f"actions exceed the bounds that the file declares in {listed(beyond)}"
