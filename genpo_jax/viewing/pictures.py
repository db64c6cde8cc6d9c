"""Films and strips of recorded episodes, by MuJoCo's own renderer, on a machine without a screen."""

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from genpo_jax.viewing.camera import view
from genpo_jax.viewing.episodes import Recording, frames

WIDTH, HEIGHT = 640, 480
FRAMES_PER_SECOND = 30
STRIP = 8


def write_video(recording: Recording, path: str | Path) -> None:
    """Write the first episode as MP4.

    Raises:
        OSError: if neither EGL nor OSMesa can draw here.
        ModuleNotFoundError: if imageio-ffmpeg, which brings ffmpeg, is not installed.
    """
    import imageio_ffmpeg

    every = max(1, round(1 / FRAMES_PER_SECOND / recording.seconds))
    writer = imageio_ffmpeg.write_frames(str(path), (WIDTH, HEIGHT), fps=round(1 / (every * recording.seconds)))
    with warnings.catch_warnings():
        # JAX warns of any child process; ffmpeg runs another program at once, which is safe.
        warnings.filterwarnings("ignore", message=".*fork", category=RuntimeWarning)
        writer.send(None)
    try:
        for picture in _pictures(recording, every, WIDTH, HEIGHT):
            writer.send(np.ascontiguousarray(picture))
    finally:
        writer.close()


def write_strip(recording: Recording, path: str | Path) -> None:
    """Write moments of the first episode, evenly spread, as one PNG.

    Raises:
        OSError: if neither EGL nor OSMesa can draw here.
    """
    from PIL import Image

    every = max(1, len(recording.episodes[0].rewards) // STRIP)
    pictures = list(_pictures(recording, every, WIDTH // 2, HEIGHT // 2))[:STRIP]
    Image.fromarray(np.concatenate(pictures, axis=1)).save(path)


def _pictures(recording: Recording, every: int, width: int, height: int) -> Iterator[np.ndarray]:
    renderer = _renderer(recording.model, width, height)
    camera = mujoco.MjvCamera()
    mujoco.mjv_defaultFreeCamera(recording.model, camera)
    camera.azimuth, camera.elevation = 90, -15
    extent, tracked, center = view(recording.model, next(frames(recording, recording.episodes[0])))
    camera.distance = 2.5 * extent
    try:
        for data in frames(recording, recording.episodes[0], every):
            camera.lookat = data.xpos[tracked] + data.xmat[tracked].reshape(3, 3) @ center
            renderer.update_scene(data, camera)
            yield renderer.render()
    finally:
        renderer.close()


def _renderer(model: mujoco.MjModel, width: int, height: int) -> Any:
    """Return a renderer by EGL, else by OSMesa; the choice of the environment variable MUJOCO_GL wins."""
    try:
        return mujoco.Renderer(model, height, width)
    except Exception as error:
        tried = os.environ.get("MUJOCO_GL", "no MUJOCO_GL")
        raise OSError(
            f"MuJoCo cannot draw here with {tried} ({error}); set MUJOCO_GL to egl or osmesa, and install libegl1 or "
            "libosmesa6"
        ) from error
