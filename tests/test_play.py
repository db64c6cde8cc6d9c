"""Pages, videos and image strips of recorded episodes."""

import base64
import json
import os
import re
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import mujoco
import numpy as np
import pytest
from browser import needs_browser, open_page

from genpo_jax import envs
from genpo_jax.config import Config, EnvConfig
from genpo_jax.viewing.camera import framing
from genpo_jax.viewing.pictures import write_strip, write_video
from genpo_jax.viewing.play_page import PLAYER, play_page
from genpo_jax.viewing.recording import RecordedEpisode, Recorder, Recording, frames, with_endless_floors
from genpo_jax.viewing.shapes import MAX_TRIANGLES, Mesh, scene, simplify

MODEL = """
<mujoco><worldbody>
  <geom type="plane" size="0 0 1"/>
  <body name="ball" pos="0 0 1"><joint type="slide" axis="1 0 0"/><geom size=".5" rgba="1 0 0 1"/></body>
</worldbody></mujoco>
"""


@pytest.fixture(scope="module")
def recording():
    """A ball that moves 0.1 m and earns 1 per frame with deterministic actions, and stays with sampled actions."""
    model = mujoco.MjModel.from_xml_string(MODEL)
    moving = RecordedEpisode("deterministic", {"qpos": 0.1 * np.arange(31.0)[:, None]}, np.array([0.0] + 30 * [1.0]))
    still = RecordedEpisode("sampled", {"qpos": np.zeros((16, 1))}, np.zeros(16))
    return Recording("</script> a ball", model, 1 / 30, [moving, still])


def data_of(page):
    return json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)[1])


def unpacked(text, dtype):
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype)


def test_the_page_has_the_poses_of_every_frame_to_a_tenth_of_a_millimeter(recording):
    data = data_of(play_page(recording))
    episode = data["episodes"][0]
    changes = unpacked(episode["changes"], np.int16).reshape(2 * 7, 31)
    poses = np.cumsum(changes, axis=1, dtype=np.int16).T.reshape(31, 2, 7)
    np.testing.assert_allclose(poses[:, 1, 0] * episode["scale"], 0.1 * np.arange(31), atol=1e-4)
    np.testing.assert_allclose(poses[:, 1, 2] * episode["scale"], 1.0, atol=1e-4)
    assert poses[0, 1, 3] == 32767
    assert episode["returns"][-1] == 30
    assert [geom["type"] for geom in data["geoms"]] == ["plane", "sphere"]
    assert [one["frames"] for one in data["episodes"]] == [31, 16]


def test_an_episode_is_shown_up_to_its_first_frame_that_is_not_finite(recording, caplog):
    episode = recording.episodes[0]
    for position, reward, frames_shown in ((np.nan, 1.0, 12), (1e9, 1.0, 12), (0.0, np.inf, 12)):
        positions, rewards = episode.positions["qpos"].copy(), episode.rewards.copy()
        positions[12], rewards[12] = position, reward
        diverged = RecordedEpisode("deterministic", {"qpos": positions}, rewards)
        data = data_of(play_page(replace(recording, episodes=[diverged])))
        assert data["episodes"][0]["frames"] == frames_shown and data["episodes"][0]["returns"][-1] == 11
        assert "deterministic actions is shown up to frame 12; the next one is not finite" in caplog.text
    with pytest.raises(ValueError, match="positions and rewards of the first frame must be finite"):
        play_page(
            replace(recording, episodes=[RecordedEpisode("sampled", {"qpos": np.full((1, 1), np.nan)}, np.zeros(1))])
        )


def test_the_page_loads_nothing_and_is_small(recording):
    page = play_page(recording)
    assert "default-src 'none'" in page
    assert not re.search(r'(?:src|href)="', page)
    assert len(page) < 300e3
    # Three scripts with one end each: a title cannot end a script.
    assert page.count("</script") == 3 and "&lt;/script&gt; a ball" in page


def test_no_name_in_a_page_can_end_its_scripts_or_insert_text():
    model = MODEL.replace('name="ball"', 'name="&lt;!--&lt;script&gt;&lt;/script&gt;"')
    still = RecordedEpisode("deterministic", {"qpos": np.zeros((2, 1))}, np.zeros(2))
    page = play_page(Recording("@DATA@ on @PLAYER@ \ud800", mujoco.MjModel.from_xml_string(model), 1 / 30, [still]))
    assert r"<h1>@DATA@ on @PLAYER@ \ud800</h1>" in page and "@TITLE@" not in page
    assert "<!--" not in page and page.count("<script") == page.count("</script") == 3
    # The browser reads the name as it is.
    assert data_of(page)["bodies"] == ["world", "<!--<script></script>"]


def test_the_bundle_matches_the_source_and_its_license_is_included():
    source, bundle = ((PLAYER / name).read_text() for name in ("player.js", "player.min.js"))
    assert "npx esbuild player.js" in source
    for text in re.findall(r'byId\("(\w+)"\)', source):
        assert f'"{text}"' in bundle
    assert "MIT" in (PLAYER / "three.LICENSE").read_text()


def test_the_camera_follows_a_robot_that_moves_and_otherwise_shows_the_whole_scene(recording):
    # The ball has radius 0.5; the infinite plane does not count.
    extent, body, center = framing(recording.model, next(frames(recording, recording.episodes[0])))
    assert extent == pytest.approx(1.0) and body == 1 and not center.any()
    still = mujoco.MjModel.from_xml_string(MODEL.replace('type="slide"', 'type="hinge"'))
    data = mujoco.MjData(still)
    mujoco.mj_kinematics(still, data)
    extent, body, center = framing(still, data)
    assert extent == pytest.approx(1.0) and body == 0 and list(center) == [0, 0, 1]


TEXTURED = """
<mujoco>
  <asset>
    <texture name="checker" type="2d" builtin="checker" rgb1="0 0 0" rgb2="1 1 1" width="8" height="8"/>
    <texture name="half" type="cube" builtin="flat" rgb1=".5 .5 .5" width="4" height="4"/>
    <material name="tiles" texture="checker" texrepeat="3 6" texuniform="true"/>
    <material name="mat" texture="checker" texrepeat="3 6"/>
    <material name="shade" texture="half" rgba="1 .5 0 1"/>
    <mesh name="tent" vertex="0 0 0 1 0 0 0 1 0 0 0 1" texcoord="0 0 1 0 0 1 1 1"
          face="0 2 1 0 1 3 0 3 2 1 2 3"/>
    <hfield name="ramp" nrow="2" ncol="3" elevation="0 1 2 0 1 2" size="3 1 4 .1"/>
  </asset>
  <worldbody>
    <geom type="plane" size="0 0 1" material="tiles"/>
    <geom type="plane" size="2 2 1" material="mat"/>
    <geom type="sphere" size="1" material="shade"/>
    <geom type="sphere" size="1" material="shade" rgba="0 0 1 1"/>
    <geom type="mesh" mesh="tent" material="mat"/>
    <geom type="hfield" hfield="ramp" rgba="0 1 0 1"/>
    <geom type="box" size="1 1 1" group="3"/>
  </worldbody>
</mujoco>
"""


def test_a_large_floor_is_drawn_without_an_edge_with_tiles_of_the_same_size_and_a_small_plane_is_kept():
    model = mujoco.MjModel.from_xml_string("""<mujoco><asset>
      <texture name="check" type="2d" builtin="checker" width="8" height="8"/>
      <material name="tiles" texture="check" texrepeat="60 40"/></asset>
      <worldbody><geom type="plane" size="20 10 1" material="tiles"/><geom type="plane" size="2 2 1"/></worldbody>
    </mujoco>""")
    floor, small = scene(with_endless_floors(model))["geoms"]
    assert floor["size"][:2] == [0, 0] and small["size"][:2] == [2, 2]
    assert floor["repeats"] == scene(model)["geoms"][0]["repeats"] == [1.5, 2.0]
    assert model.geom_size[0, 0] == 20


def test_textures_are_drawn_on_planes_and_meshes_and_give_other_geoms_a_color():
    drawn = scene(mujoco.MjModel.from_xml_string(TEXTURED))
    tiles, mat, shade, blue, tent, ramp = drawn["geoms"]
    # texuniform: texrepeat / 2 repeats per meter. Otherwise texrepeat repeats over the plane, here over 4 m.
    assert tiles["repeats"] == [1.5, 3.0] and mat["repeats"] == [0.75, 1.5]
    assert tiles["texture"] == mat["texture"] == tent["texture"] == 0
    assert len(drawn["textures"]) == 1 and drawn["textures"][0].startswith("data:image/png;base64,")
    # The texture is half gray; it is multiplied by the color of the material, or of the geom if it has one.
    np.testing.assert_allclose(shade["rgba"], [0.5, 0.25, 0, 1], atol=0.01)
    np.testing.assert_allclose(blue["rgba"], [0, 0, 0.5, 1], atol=0.01)
    assert "texture" not in shade and "texture" not in ramp
    # Each corner of the four faces has its own texture coordinates.
    assert unpacked(drawn["meshes"][tent["mesh"]]["uv"], np.float32).shape == (4 * 3 * 2,)


def test_a_height_field_rises_along_x():
    drawn = scene(mujoco.MjModel.from_xml_string(TEXTURED))
    mesh = drawn["meshes"][drawn["geoms"][-1]["mesh"]]
    points = unpacked(mesh["points"], np.int16).reshape(2, 3, 3) * mesh["scale"]
    np.testing.assert_allclose(points[:, :, 0], [[-3, 0, 3]] * 2, atol=1e-3)
    np.testing.assert_allclose(points[:, :, 1], [[-1] * 3, [1] * 3], atol=1e-3)
    np.testing.assert_allclose(points[:, :, 2], [[0, 2, 4]] * 2, atol=1e-3)
    assert unpacked(mesh["faces"], np.uint16).shape == (2 * 2 * 3,)


def test_a_mesh_with_too_many_triangles_is_simplified_and_keeps_its_shape():
    # A square of 1 m, divided into 200 x 200 squares of two triangles each.
    side = np.linspace(0, 1, 201)
    points = np.stack([*np.meshgrid(side, side), np.zeros((201, 201))], axis=-1).reshape(-1, 3)
    corner = np.arange(200)[:, None] * 201 + np.arange(200)
    faces = np.stack([corner, corner + 1, corner + 202, corner, corner + 202, corner + 201], axis=-1).reshape(-1, 3)
    (mesh,) = simplify([Mesh(points, faces)])
    assert MAX_TRIANGLES / 4 < len(mesh.faces) <= MAX_TRIANGLES
    a, b, c = (mesh.points[mesh.faces[:, i]] for i in range(3))
    normals = np.cross(b - a, c - a)
    assert (normals[:, 2] > 0).all() and not normals[:, :2].any()
    # The rim moves inwards by less than one cell.
    assert 0.97 < normals[:, 2].sum() / 2 <= 1.0


def test_a_mesh_with_few_triangles_is_not_changed():
    mesh = Mesh(np.eye(3), np.array([[0, 1, 2]]))
    assert simplify([mesh])[0] is mesh


@needs_browser
@pytest.mark.ci
def test_a_browser_draws_textures_meshes_and_height_fields_without_an_error(tmp_path):
    still = RecordedEpisode("deterministic", {}, np.zeros(3))
    page = play_page(Recording("shapes", mujoco.MjModel.from_xml_string(TEXTURED), 1 / 30, [still]))
    (tmp_path / "play.html").write_text(page)
    document, errors = open_page(tmp_path / "play.html", tmp_path)
    assert 'data-ready="yes"' in document and not errors


@needs_browser
@pytest.mark.ci
def test_a_browser_plays_a_recording_without_an_error(recording, tmp_path):
    (tmp_path / "play.html").write_text(play_page(recording))
    document, errors = open_page(tmp_path / "play.html", tmp_path)
    assert 'data-ready="yes"' in document
    assert "deterministic · return" in document
    assert not errors


# A clock that advances by 20 ms with each frame, and only when the test asks for one.
CLOCK = """<head><script>
  let milliseconds = 0, queued = null;
  window.requestAnimationFrame = (draw) => { queued = draw; };
  const frame = () => queued(milliseconds += 20);
</script>"""
CONTROLS = """<script>
  const shown = (chosen) => {
    speed.value = chosen;
    slider.value = 20;
    slider.dispatchEvent(new Event("input"));
    document.getElementById("restart").click();
    for (let i = 0; i < 22; i++) frame();
    return slider.value;
  };
  (async () => {
    while (!queued) await new Promise((done) => setTimeout(done, 20));
    frame();
    document.body.dataset.frames = ["0.25", "1", "2"].map(shown) + " " + play.textContent;
  })();
</script></body>"""


@needs_browser
@pytest.mark.ci
def test_a_browser_restarts_the_episode_and_plays_it_at_the_chosen_speed(recording, tmp_path):
    page = play_page(recording).replace("<head>", CLOCK).replace("</body>", CONTROLS)
    (tmp_path / "play.html").write_text(page)
    document, errors = open_page(tmp_path / "play.html", tmp_path)
    # 0.44 s at 30 frames per second and real time are 13.2 frames.
    assert 'data-frames="3,13,26 Pause"' in document and not errors


def test_dark_shapes_are_lightened_and_keep_their_tint():
    model = mujoco.MjModel.from_xml_string(
        """<mujoco><worldbody>
          <geom type="plane" size="1 1 1" rgba="0 0 0 1"/>
          <geom size="1" rgba="0 0 .1 .5"/><geom size="1" rgba=".3 0 0 1"/>
        </worldbody></mujoco>"""
    )
    floor, dark, red = (geom["rgba"] for geom in scene(model)["geoms"])
    np.testing.assert_allclose(dark, [0.2, 0.2, 0.3, 0.5], atol=1e-6)
    np.testing.assert_allclose([floor, red], [[0, 0, 0, 1], [0.3, 0, 0, 1]], atol=1e-6)


def test_an_unknown_camera_is_refused_before_anything_is_drawn(recording, tmp_path):
    for write in (write_strip, write_video):
        with pytest.raises(ValueError, match=r"camera must be a camera of the model \(it has none\), got 'near'"):
            write(recording, tmp_path / "film", "near")
    assert not (tmp_path / "film").exists()


@pytest.mark.ci
def test_a_video_and_a_strip_are_drawn_if_mujoco_can_draw(recording, tmp_path):
    code = (
        "import mujoco, numpy as np, sys; sys.path.insert(0, 'tests')\n"
        "from test_play import MODEL\n"
        "from genpo_jax.viewing.recording import RecordedEpisode, Recording\n"
        "from genpo_jax.viewing.pictures import write_strip, write_video\n"
        "model = mujoco.MjModel.from_xml_string(MODEL)\n"
        "try: mujoco.Renderer(model).close()\n"
        "except Exception: sys.exit(77)\n"
        "moving = RecordedEpisode('deterministic', {'qpos': 0.1 * np.arange(31.0)[:, None]}, np.zeros(31))\n"
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


def test_a_recording_ends_where_training_ended_the_episode():
    config = Config("panda_reach", "c", env_options=EnvConfig(reward="success", episode_length=7))
    batch = Recorder(envs.make("panda_reach", "c"), config).batch
    assert (batch.reward, batch.episode_length) == ("success", 7)
