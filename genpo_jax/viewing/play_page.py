"""Write recorded episodes as one HTML page that needs no network: the player and all poses are inside.

The player is `player/player.js`. The command at the top of that file bundles it with three.js (MIT,
`player/three.LICENSE`).
"""

import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from genpo_jax.runs.files import printable
from genpo_jax.viewing.camera import framing
from genpo_jax.viewing.packing import INT16, packed, packed_bytes, rounded
from genpo_jax.viewing.recording import RecordedEpisode, Recording, drawable, frames
from genpo_jax.viewing.shapes import scene

PLAY_FILE = "play.html"
PLAYER = Path(__file__).parent / "player"
FRAMES_PER_SECOND = 30


def play_page(recording: Recording) -> str:
    """Return the page as text. An episode ends before its first frame that is not finite.

    Raises:
        ValueError: if an episode has no finite frame.
    """
    recording = drawable(recording)
    every = max(1, round(1 / FRAMES_PER_SECOND / recording.seconds))
    extent, followed, center = framing(recording.model, next(frames(recording, recording.episodes[0])))
    data = scene(recording.model) | {
        "extent": extent,
        "followed": followed,
        "center": rounded(center),
        "seconds": every * recording.seconds,
        "episodes": [_episode(recording, episode, every) for episode in recording.episodes],
    }
    parts = {
        "TITLE": html.escape(printable(recording.title)),
        "DATA": embedded_json(data),
        "PLAYER": packed_bytes((PLAYER / "player.min.js").read_bytes()),
    }
    page = (PLAYER / "play_page.html").read_text(encoding="utf-8")
    # One pass: a title or a name of a body that contains a mark is not replaced again.
    return re.sub(f"@({'|'.join(parts)})@", lambda mark: parts[mark[1]], page)


def embedded_json(data: Any) -> str:
    r"""Return JSON for a `<script>` element, with `<` written as `\u003c`.

    HTML ends a script at `</script` and changes how it reads the rest at `<!--<script`, also inside of strings.
    """
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


def _episode(recording: Recording, episode: RecordedEpisode, every: int) -> dict[str, Any]:
    """Return poses as 16-bit integers, positions in units of `scale`, and the return so far at each frame.

    Each number is sent as its changes from frame to frame, which compress to half of the size of the numbers.
    """
    poses = np.stack([np.hstack([data.xpos, data.xquat]) for data in frames(recording, episode, every)])
    scale = max(float(np.abs(poses[..., :3]).max()), 1e-6) / INT16
    poses = np.rint(np.concatenate([poses[..., :3] / scale, poses[..., 3:] * INT16], axis=-1)).astype(np.int16)
    changes = np.diff(poses.reshape(len(poses), -1), axis=0, prepend=np.int16(0))
    return {
        "actions": episode.actions,
        "frames": len(poses),
        "scale": scale,
        "changes": packed(changes.T, np.int16),
        "returns": rounded(np.cumsum(episode.rewards)[::every]),
    }
