"""Write recorded episodes as one page that opens from disk and asks for nothing: player and poses are inside.

The player is `player/player.js`, bundled with three.js (MIT, `player/three.LICENSE`) by the line at its top.
"""

import html
import json
from pathlib import Path
from typing import Any

import numpy as np

from genpo_jax.viewing.camera import view
from genpo_jax.viewing.episodes import Episode, Recording, frames
from genpo_jax.viewing.packing import INT16, packed, packed_bytes, rounded
from genpo_jax.viewing.shapes import scene

PLAY_FILE = "play.html"
PLAYER = Path(__file__).parent / "player"
FRAMES_PER_SECOND = 30


def play_page(recording: Recording) -> str:
    """Return the page."""
    every = max(1, round(1 / FRAMES_PER_SECOND / recording.seconds))
    extent, tracked, center = view(recording.model, next(frames(recording, recording.episodes[0])))
    data = scene(recording.model) | {
        "extent": extent,
        "tracked": tracked,
        "center": rounded(center),
        "seconds": every * recording.seconds,
        "episodes": [_episode(recording, episode, every) for episode in recording.episodes],
    }
    # A page ends its script at the first `</script`, wherever that stands.
    parts = {
        "@TITLE@": html.escape(recording.title),
        "@DATA@": json.dumps(data, separators=(",", ":")).replace("</", "<\\/"),
        "@PLAYER@": packed_bytes((PLAYER / "player.min.js").read_bytes()),
    }
    page = (PLAYER / "page.html").read_text(encoding="utf-8")
    for mark, text in parts.items():
        page = page.replace(mark, text)
    return page


def _episode(recording: Recording, episode: Episode, every: int) -> dict[str, Any]:
    """Return poses as 16-bit integers, positions in units of `scale`, and the return so far at each frame.

    What is sent of each number is how it changes from frame to frame, which packs to half of what the numbers do.
    """
    poses = np.stack([np.hstack([data.xpos, data.xquat]) for data in frames(recording, episode, every)])
    scale = max(float(np.abs(poses[..., :3]).max()), 1e-6) / INT16
    poses = np.rint(np.concatenate([poses[..., :3] / scale, poses[..., 3:] * INT16], axis=-1)).astype(np.int16)
    changes = np.diff(poses.reshape(len(poses), -1), axis=0, prepend=np.int16(0))
    return {
        "noise": episode.noise,
        "frames": len(poses),
        "scale": scale,
        "changes": packed(changes.T, np.int16),
        "returns": rounded(np.cumsum(episode.rewards)[::every]),
    }
