"""Pages and pictures of a policy's episodes."""

import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import mujoco
import numpy as np
import pytest
from browser import needs_browser, open_page

from genpo_jax.viewing.episodes import Episode, Recording, extent, frames
from genpo_jax.viewing.page import PLAYER, play_page

MODEL = """
<mujoco><worldbody>
  <geom type="plane" size="0 0 1"/>
  <body name="ball" pos="0 0 1"><joint type="slide" axis="1 0 0"/><geom size=".5" rgba="1 0 0 1"/></body>
</worldbody></mujoco>
"""


@pytest.fixture(scope="module")
def recording():
    """A ball that moves by 0.1 m a frame, and earns 1, with zero noise; and one that stays."""
    model = mujoco.MjModel.from_xml_string(MODEL)
    moving = Episode("zero", {"qpos": 0.1 * np.arange(31.0)[:, None]}, np.array([0.0] + 30 * [1.0]))
    still = Episode("random", {"qpos": np.zeros((16, 1))}, np.zeros(16))
    return Recording("</script> a ball", model, 1 / 30, [moving, still])


def data_of(page):
    return json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)[1])


def test_the_page_has_the_poses_of_every_frame_to_a_tenth_of_a_millimeter(recording):
    data = data_of(play_page(recording))
    episode = data["episodes"][0]
    poses = np.frombuffer(base64.b64decode(episode["poses"]), np.int16).reshape(31, 2, 7)
    np.testing.assert_allclose(poses[:, 1, 0] * episode["scale"], 0.1 * np.arange(31), atol=1e-4)
    np.testing.assert_allclose(poses[:, 1, 2] * episode["scale"], 1.0, atol=1e-4)
    assert poses[0, 1, 3] == 32767
    assert episode["returns"][-1] == 30
    assert [geom["type"] for geom in data["geoms"]] == ["plane", "sphere"]
    assert [one["frames"] for one in data["episodes"]] == [31, 16]


def test_the_page_asks_for_nothing_and_is_small(recording):
    page = play_page(recording)
    assert "default-src 'none'" in page
    assert not re.search(r'(?:src|href)="', page)
    assert len(page) < 1e6
    # Two scripts and their two ends: a title cannot end one.
    assert page.count("</script") == 2 and "&lt;/script&gt; a ball" in page


def test_the_bundle_is_that_of_the_source_and_its_license_stands_beside_it():
    source, bundle = ((PLAYER / name).read_text() for name in ("player.js", "player.min.js"))
    assert "npx esbuild player.js" in source
    for text in re.findall(r'byId\("(\w+)"\)', source):
        assert f'"{text}"' in bundle
    assert "MIT" in (PLAYER / "three.LICENSE").read_text()


def test_the_extent_is_that_of_what_can_be_seen(recording):
    # A ball of radius 0.5; the plane has no end.
    assert extent(recording.model, next(frames(recording, recording.episodes[0]))) == pytest.approx(1.0)


@needs_browser
@pytest.mark.ci
def test_a_browser_draws_it_without_an_error(recording, tmp_path):
    (tmp_path / "play.html").write_text(play_page(recording))
    document, errors = open_page(tmp_path / "play.html", tmp_path)
    assert 'data-ready="yes"' in document
    assert "zero noise · return" in document
    assert not errors


@pytest.mark.ci
def test_a_film_and_a_strip_are_drawn_where_mujoco_can_draw(recording, tmp_path):
    code = (
        "import mujoco, numpy as np, sys; sys.path.insert(0, 'tests')\n"
        "from test_play import MODEL\n"
        "from genpo_jax.viewing.episodes import Episode, Recording\n"
        "from genpo_jax.viewing.pictures import write_strip, write_video\n"
        "model = mujoco.MjModel.from_xml_string(MODEL)\n"
        "try: mujoco.Renderer(model).close()\n"
        "except Exception: sys.exit(77)\n"
        "moving = Episode('zero', {'qpos': 0.1 * np.arange(31.0)[:, None]}, np.zeros(31))\n"
        "recording = Recording('a ball', model, 1 / 30, [moving])\n"
        f"write_strip(recording, '{tmp_path}/strip.png'); write_video(recording, '{tmp_path}/film.mp4')\n"
    )
    environment = {**os.environ, "MUJOCO_GL": os.environ.get("MUJOCO_GL", "egl")}
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=root)
    if done.returncode == 77:
        pytest.skip("MuJoCo cannot draw here")
    assert done.returncode == 0, done.stderr
    image = pytest.importorskip("PIL.Image").open(tmp_path / "strip.png")
    assert image.size == (8 * 320, 240)
    red = np.asarray(image).astype(int)
    assert ((red[..., 0] - red[..., 1]) > 60).sum() > 1000
    assert (tmp_path / "film.mp4").stat().st_size > 1000
