"""Write recorded episodes as one page that opens from disk and asks for nothing: player and poses are inside.

The player is `player/player.js`, bundled with three.js (MIT, `player/three.LICENSE`) by the line at its top.
"""

import base64
import html
import json
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from genpo_jax.viewing.episodes import Episode, Recording, extent, frames

PLAY_FILE = "play.html"
PLAYER = Path(__file__).parent / "player"
FRAMES_PER_SECOND = 30
TYPES = {
    mujoco.mjtGeom.mjGEOM_PLANE: "plane",
    mujoco.mjtGeom.mjGEOM_SPHERE: "sphere",
    mujoco.mjtGeom.mjGEOM_CAPSULE: "capsule",
    mujoco.mjtGeom.mjGEOM_ELLIPSOID: "ellipsoid",
    mujoco.mjtGeom.mjGEOM_CYLINDER: "cylinder",
    mujoco.mjtGeom.mjGEOM_BOX: "box",
    mujoco.mjtGeom.mjGEOM_MESH: "mesh",
}
# Groups from 3 on are collision shapes, which MuJoCo's own viewer hides too.
VISIBLE_GROUPS = 3
INT16 = 32767


def play_page(recording: Recording) -> str:
    """Return the page."""
    every = max(1, round(1 / FRAMES_PER_SECOND / recording.seconds))
    start = next(frames(recording, recording.episodes[0]))
    data = _scene(recording.model) | {
        "extent": extent(recording.model, start),
        "seconds": every * recording.seconds,
        "episodes": [_episode(recording, episode, every) for episode in recording.episodes],
    }
    # A page ends its script at the first `</script`, wherever that stands.
    parts = {
        "@TITLE@": html.escape(recording.title),
        "@DATA@": json.dumps(data, separators=(",", ":")).replace("</", "<\\/"),
        "@PLAYER@": (PLAYER / "player.min.js").read_text(encoding="utf-8").replace("</script", "<\\/script"),
    }
    page = (PLAYER / "page.html").read_text(encoding="utf-8")
    for mark, text in parts.items():
        page = page.replace(mark, text)
    return page


def _scene(model: mujoco.MjModel) -> dict[str, Any]:
    geoms, meshes = [], {}
    for i in range(model.ngeom):
        kind = TYPES.get(mujoco.mjtGeom(model.geom_type[i]))
        if kind is None or model.geom_group[i] >= VISIBLE_GROUPS or model.geom_rgba[i, 3] == 0:
            continue
        geom = {
            "type": kind,
            "size": _rounded(model.geom_size[i]),
            "rgba": _rounded(_color(model, i)),
            "pos": _rounded(model.geom_pos[i]),
            "quat": _rounded(model.geom_quat[i]),
            "body": int(model.geom_bodyid[i]),
        }
        if kind == "mesh":
            geom["mesh"] = number = int(model.geom_dataid[i])
            meshes[number] = _mesh(model, number)
        geoms.append(geom)
    bodies = [model.body(i).name for i in range(model.nbody)]
    return {
        "geoms": geoms,
        "meshes": meshes,
        "bodies": bodies,
        "tracked": min(1, model.nbody - 1),
    }


def _color(model: mujoco.MjModel, geom: int) -> np.ndarray:
    material = model.geom_matid[geom]
    return model.geom_rgba[geom] if material < 0 else model.mat_rgba[material]


def _mesh(model: mujoco.MjModel, number: int) -> dict[str, str]:
    first, count = model.mesh_vertadr[number], model.mesh_vertnum[number]
    face, faces = model.mesh_faceadr[number], model.mesh_facenum[number]
    return {
        "vertices": _base64(model.mesh_vert[first : first + count], np.float32),
        "faces": _base64(model.mesh_face[face : face + faces], np.uint32),
    }


def _episode(recording: Recording, episode: Episode, every: int) -> dict[str, Any]:
    """Return poses as 16-bit integers, positions in units of `scale`, and the return so far at each frame."""
    poses = np.stack([np.hstack([data.xpos, data.xquat]) for data in frames(recording, episode, every)])
    scale = max(float(np.abs(poses[..., :3]).max()), 1e-6) / INT16
    poses = np.concatenate([poses[..., :3] / scale, poses[..., 3:] * INT16], axis=-1)
    return {
        "noise": episode.noise,
        "frames": len(poses),
        "scale": scale,
        "poses": _base64(np.rint(poses), np.int16),
        "returns": _rounded(np.cumsum(episode.rewards)[::every]),
    }


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 5) for value in values]


def _base64(values: np.ndarray, dtype: Any) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype).tobytes()).decode()
