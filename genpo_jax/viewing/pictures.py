"""Draw recorded episodes as videos and image strips with MuJoCo's renderer; no display is needed."""

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from genpo_jax.checks import require
from genpo_jax.envs import Environment
from genpo_jax.envs.base import step_seconds
from genpo_jax.viewing.camera import framing
from genpo_jax.viewing.recording import Recording, drawable, drawn_parts, frames, place_bodies, positions_of

WIDTH, HEIGHT = 640, 480
FRAMES_PER_SECOND = 30
# Images in a strip.
STRIP = 8


def write_video(recording: Recording, path: str | Path, camera: str | None = None) -> None:
    """Write the first episode as an MP4 video, as seen by a camera of the model; None: see `Painter`.

    Raises:
        ValueError: if the model has no such camera, or the first frame cannot be drawn.
        OSError: if neither EGL nor OSMesa can draw on this machine.
        ModuleNotFoundError: if imageio-ffmpeg, which contains ffmpeg, is not installed.
    """
    _check_camera(recording.model, camera)
    import imageio_ffmpeg

    recording = drawable(recording)
    every = max(1, round(1 / FRAMES_PER_SECOND / recording.seconds))
    rate: Any = 1 / (every * recording.seconds)
    writer = imageio_ffmpeg.write_frames(str(path), (WIDTH, HEIGHT), fps=rate)
    with warnings.catch_warnings():
        # JAX warns about every fork; this one is safe, because the child process replaces itself by ffmpeg at once.
        warnings.filterwarnings("ignore", message=".*fork", category=RuntimeWarning)
        writer.send(None)
    try:
        for image in _images(recording, every, WIDTH, HEIGHT, camera):
            writer.send(np.ascontiguousarray(image))
    finally:
        writer.close()


def write_strip(recording: Recording, path: str | Path, camera: str | None = None) -> None:
    """Write evenly spaced frames of the first episode as one PNG image; `camera` as in `write_video`.

    Raises:
        ValueError: if the model has no such camera, or the first frame cannot be drawn.
        OSError: if neither EGL nor OSMesa can draw on this machine.
    """
    _check_camera(recording.model, camera)
    from PIL import Image

    recording = drawable(recording)
    every = max(1, len(recording.episodes[0].rewards) // STRIP)
    images = list(_images(recording, every, WIDTH // 2, HEIGHT // 2, camera))[:STRIP]
    Image.fromarray(np.concatenate(images, axis=1)).save(path)


def _check_camera(model: mujoco.MjModel, camera: str | None) -> None:
    names = [model.camera(i).name for i in range(model.ncam)]
    rule = f"a camera of the model ({', '.join(names) or 'it has none'})"
    require(camera is None or camera in names, rule, "camera", camera)


def _images(
    recording: Recording, every: int, width: int, height: int, camera: str | None = None
) -> Iterator[np.ndarray]:
    painter = Painter(recording.model, next(frames(recording, recording.episodes[0])), width, height, camera)
    try:
        for data in frames(recording, recording.episodes[0], every):
            yield painter.draw(data)
    finally:
        painter.close()


class Painter:
    """Draws frames of one model.

    Args:
        model: MuJoCo's model.
        data: kinematics of a first frame.
        width: pixels.
        height: pixels.
        camera: name of a camera of the model. None: one that follows the robot, or shows the whole scene.

    Raises:
        OSError: if neither EGL nor OSMesa can draw on this machine.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        data: mujoco.MjData,
        width: int = WIDTH,
        height: int = HEIGHT,
        camera: str | None = None,
    ) -> None:
        self._name = camera
        self._renderer = _renderer(model, width, height)
        self._camera = mujoco.MjvCamera()
        mujoco.mjv_defaultFreeCamera(model, self._camera)
        self._camera.azimuth, self._camera.elevation = 90, -15
        extent, self._followed, self._center = framing(model, data)
        self._camera.distance = 2.5 * extent

    def draw(self, data: mujoco.MjData) -> np.ndarray:
        """Return one image `[height, width, 3]`, uint8."""
        turn = data.xmat[self._followed].reshape(3, 3)
        self._camera.lookat = data.xpos[self._followed] + turn @ self._center
        self._renderer.update_scene(data, self._name or self._camera)
        return self._renderer.render()

    def close(self) -> None:
        """Free the renderer."""
        self._renderer.close()


class StateCamera:
    """Draws states of an environment with a MuJoCo model; the first state decides where the camera is.

    Args:
        env: the environment.

    Attributes:
        frames_per_second: env steps in a second.

    Raises:
        ValueError: if the environment has no MuJoCo model, or its state holds no positions.
    """

    def __init__(self, env: Environment) -> None:
        self._model, self._places = drawn_parts(env)
        self._data = mujoco.MjData(self._model)
        self._painter: Painter | None = None
        self.frames_per_second = max(1, round(1 / (step_seconds(env) or float(self._model.opt.timestep))))

    def image(self, state: Any) -> np.ndarray:
        """Return an image of a single state `[480, 640, 3]`, uint8."""
        place_bodies(self._model, self._data, positions_of(state, self._places))
        self._painter = self._painter or Painter(self._model, self._data)
        return self._painter.draw(self._data)

    def close(self) -> None:
        """Free the renderer."""
        if self._painter is not None:
            self._painter.close()
            self._painter = None


def _renderer(model: mujoco.MjModel, width: int, height: int) -> Any:
    """Return MuJoCo's renderer, which uses the library that the environment variable MUJOCO_GL names."""
    try:
        return mujoco.Renderer(model, height, width)
    except Exception as error:
        used = f"MUJOCO_GL={os.environ['MUJOCO_GL']}" if "MUJOCO_GL" in os.environ else "MUJOCO_GL unset"
        raise OSError(
            f"MuJoCo cannot draw on this machine with {used} ({error}); set MUJOCO_GL to egl or osmesa, and install "
            "libegl1 or libosmesa6"
        ) from error
