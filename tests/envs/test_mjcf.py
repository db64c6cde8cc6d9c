import math
from dataclasses import replace
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from arms import ARM, Arm
from etils import epath

import genpo_jax
from genpo_jax import MjcfTask, Start
from genpo_jax.envs import EpisodeEnv
from genpo_jax.runs.metrics import read_metrics
from genpo_jax.runtime import compiler_options

TINY = {"hidden_sizes": (8,), "encoder_sizes": (8,), "head_sizes": (8,)}


@pytest.fixture(scope="module")
def arm():
    return Arm("c")


def played(task, steps=5):
    def step(state, action):
        state, obs, reward, _, metrics = task.step(state, action)
        return state, (obs["state"], reward, metrics["success"])

    xla_options = compiler_options(fusion_emitters=False)
    state, _ = jax.jit(task.reset, compiler_options=xla_options)(jax.random.key(0))
    actions = jnp.sin(jnp.arange(2.0 * steps)).reshape(steps, 2)
    return jax.jit(lambda s: jax.lax.scan(step, s, actions), compiler_options=xla_options)(state)[1]


@pytest.mark.ci
def test_one_definition_is_the_same_task_on_both_engines(arm):
    for ours, theirs in zip(played(arm), played(Arm("mjx")), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_an_action_spans_the_range_of_its_actuators(arm):
    state, _ = arm.reset(jax.random.key(0))
    for action, ctrl in (([-1, -1], [-1, -0.5]), ([0, 0], [0, 0.5]), ([1, 1], [1, 1.5])):
        after = arm.step(state, jnp.asarray(action, jnp.float32))[0]
        np.testing.assert_allclose(after.data.ctrl, ctrl)


def test_fields_missing_from_a_start_come_from_the_first_keyframe():
    class Home(Arm):
        def initial(self, key):
            return Start(qvel=jnp.array([1.0, 2.0]), goal=0.3)

    state, _ = Home("c").reset(jax.random.key(0))
    np.testing.assert_allclose(state.data.qpos, [0.1, -0.2])
    np.testing.assert_allclose(state.data.qvel, [1, 2])
    np.testing.assert_allclose(state.data.ctrl, [0, 0.5])


FILTERED = ARM.replace(
    '<motor name="elbow" joint="elbow" ctrlrange="-0.5 1.5"/>',
    '<general name="elbow" joint="elbow" ctrlrange="-0.5 1.5" dyntype="filter" dynprm="0.1"/>',
).replace('ctrl="0 0.5"/>', 'ctrl="0 0.5" act="0.25" time="2"/>')


@pytest.mark.parametrize("backend", ["c", pytest.param("mjx", marks=pytest.mark.ci)])
def test_activations_are_read_set_and_restored_from_the_keyframe(backend):
    class Filtered(Arm):
        model = FILTERED
        act = None

        def initial(self, key):
            return Start(act=self.act, goal=0.3)

        def observe(self, s):
            return jnp.concatenate([s.act, s.time[None]])

    task = Filtered(backend)
    np.testing.assert_allclose(task.reset(jax.random.key(0))[1]["state"], [0.25, 2.0])
    task.act = [0.75]
    state, obs = task.reset(jax.random.key(0))
    np.testing.assert_allclose(obs["state"], [0.75, 2.0])
    # A filter moves its activation towards the control at the rate 1 / dynprm.
    data = state.data.replace(ctrl=jnp.zeros(2))
    after = jax.jit(lambda data: task.engine.step(data, 1))(data)
    np.testing.assert_allclose(after.act, [0.75 * (1 - 0.005 / 0.1)], rtol=1e-5)


def test_sensors_are_one_physics_step_behind_the_state(arm):
    state, _ = arm.reset(jax.random.key(0))
    state = arm.step(state, jnp.ones(2))[0]
    data = mujoco.MjData(arm.mj_model)
    data.qpos[:], data.qvel[:] = np.asarray(state.data.qpos), np.asarray(state.data.qvel)
    mujoco.mj_forward(arm.mj_model, data)
    seen, now = state.data.sensordata[:3], data.sensor("tip").data
    assert 0 < np.abs(seen - now).max() < 3 * 0.005


def test_success_and_modes_keep_the_last_value_and_metrics_are_sums():
    class Blinking(Arm):
        def initial(self, key):
            return replace(super().initial(key), memory=jnp.zeros(()))

        def remember(self, s):
            return s.memory + 1

        def success(self, s):
            return (s.time > 0.03) & (s.time < 0.07)

        def metrics(self, s, action):
            return {"steps": jnp.ones(()), "remembered": s.memory, "mode_0": s.memory}

    def after(length):
        episodes = EpisodeEnv(Blinking("c"), length)
        state = episodes.init(jax.random.split(jax.random.key(0), 2))
        for _ in range(length):
            state, timestep = episodes.step(state, jnp.zeros((2, 2)))
        assert timestep.truncated.all()
        return [timestep.episode_metrics[name].tolist() for name in ("success", "steps", "remembered", "mode_0")]

    assert after(3) == [[1, 1], [3, 3], [6, 6], [3, 3]]
    assert after(5) == [[0, 0], [5, 5], [15, 15], [5, 5]]


def test_a_failed_simulation_ends_only_its_own_episode():
    class Fragile(Arm):
        def control(self, s, action):
            return jnp.where(action > 0.9, jnp.nan, action)

    episodes = EpisodeEnv(Fragile("c"), 8, squash="clip")
    state = episodes.init(jax.random.split(jax.random.key(0), 3))
    state, timestep = episodes.step(state, jnp.array([[0.0, 0.0], [1.0, 0.0], [0.5, 0.0]]))
    assert timestep.nonfinite.tolist() == [False, True, False]
    state, timestep = episodes.step(state, jnp.zeros((3, 2)))
    assert not timestep.nonfinite.any()
    assert timestep.episode_length.tolist() == [2, 1, 2]


def config(**changes):
    settings = genpo_jax.preset("arm", accelerator=False)
    return replace(
        settings,
        num_timesteps=256,
        updates_per_chunk=1,
        num_evals=2,
        eval_envs=2,
        num_seeds=2,
        env_options=replace(settings.env_options, num_envs=4),
        method=replace(settings.method, **TINY),
        networks=replace(settings.networks, value_sizes=(8,)),
        ppo=replace(settings.ppo, unroll=16, num_minibatches=2, num_epochs=1),
        **changes,
    )


@pytest.mark.ci
def test_a_run_on_it_reports_success_and_resumes_bit_identically(tmp_path):
    whole = genpo_jax.train(Arm("c"), config(), tmp_path / "whole", progress=False)
    genpo_jax.train(Arm("c"), replace(config(), num_timesteps=128), tmp_path / "half", progress=False)
    half = genpo_jax.train(Arm("c"), config(), tmp_path / "half", resume=True, progress=False)
    chex.assert_trees_all_equal(whole._state.learner, half._state.learner)
    last = read_metrics(tmp_path / "whole" / "metrics.jsonl")[-1]
    for name in ("train/env/success", "eval/success_random", "eval/success_zero"):
        assert 0 <= last[name] <= 1
    assert "eval/env/success" not in last


def arm_with(**members):
    return type("Changed", (Arm,), members)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"control_dt": 0.012}, "control_dt of arm must be a positive multiple of the model's time step of 0.005 s"),
        ({"control_dt": 0.0}, "control_dt of arm must be a positive multiple"),
        ({"control_dt": 0.0201}, "control_dt of arm must be a positive multiple.*, got 0.0201; the nearest is 0.02"),
        ({"control_dt": math.nan}, "control_dt of arm must be a positive multiple of .*, got nan"),
        ({"control_dt": "0.02"}, "control_dt of arm must be a positive multiple of .*, got '0.02'"),
        (
            {"model": "no/such.xml"},
            "path of an MJCF file relative to the current folder /.*, got 'no/such.xml'; write Path",
        ),
        ({"model": Path("/no/such.xml")}, "model of arm must be the path of an MJCF file, got '/no/such.xml'"),
        ({"model": None}, "model of arm must be a path, MJCF text or an MjSpec, got None; set the attribute"),
        (
            {"model": ARM.encode()},
            "model of arm must be a path, MJCF text or an MjSpec, got bytes; give",
        ),
        ({"model": "<mujoco><worldbody><body><geom/></body></worldbody></mujoco>"}, "does not compile"),
        ({"model": ARM.replace("<worldbody>", '<asset><mesh file="hand.stl"/></asset><worldbody>')}, "hand.stl"),
        ({"model": ARM.replace('ctrlrange="-1 1"', "")}, "ctrlrange of arm must be given for all.*none for shoulder"),
        ({"observe": lambda self, s: s.sensor("tipp")}, "there is no sensor 'tipp' in the model; did you mean tip"),
        ({"observe": lambda self, s: jnp.log(-jnp.ones(3))}, r"observation 'state' of arm must be finite at the start"),
        ({"observe": lambda self, s: s.qpos[None]}, r"must be a vector, got 'shape \(1, 2\)'"),
        ({"reward": lambda self, s, action: action}, r"reward of arm must be one number, got 'shape \(2,\)'"),
        ({"success": lambda self, s: s.qpos > 0}, r"success of arm must be one number"),
        ({"terminated": lambda self, s: s.qpos > 0}, r"terminated of arm must be one number"),
        ({"control": lambda self, s, action: action[:1]}, r"control of arm must be of shape \(2,\), got \(1,\)"),
        ({"action_size": 3}, "action_size of arm must be the number of actuators, 2, got 3; define control"),
        ({"initial": lambda self, key: Start(qpos=jnp.zeros(3))}, r"qpos of arm's Start must be of shape \(2,\)"),
        ({"initial": lambda self, key: Start(act=[0.5])}, r"act of arm's Start must be of shape \(0,\), got \(1,\)"),
        (
            {"remember": lambda self, s: s.qpos},
            r"memory that remember of arm returns must be \(\), as at the start, got",
        ),
        ({"initial": lambda self, key: jnp.zeros(2)}, "the result of initial of arm must be a Start"),
        ({"initial": lambda self, key: Start(qpos=jnp.full(2, jnp.nan))}, "must be finite at the start"),
        (
            {"observe": lambda self, s: 2e8 * jnp.ones(3)},
            r"observation 'state' of arm must be in \[-1e8, 1e8\] at the st",
        ),
        (
            {"reward": lambda self, s, action: 1e9 + s.time},
            r"reward of arm must be in \[-1e8, 1e8\] after a step.*units",
        ),
    ],
)
def test_an_invalid_task_is_refused_with_a_remedy(members, message):
    with pytest.raises(ValueError, match=message):
        arm_with(**members)("c")


def test_the_control_period_may_be_a_number_of_numpy():
    assert arm_with(control_dt=np.float32(0.02))("c").substeps == 4


def test_an_engine_that_lacks_a_feature_names_the_engine_that_has_it():
    # MJX has no user sensors.
    lacking = ARM.replace("<sensor>", '<sensor><user name="mine" dim="1"/>')
    arm_with(model=lacking)("c")
    with pytest.raises(ValueError, match="use backend c"):
        arm_with(model=lacking)("mjx")
    with pytest.raises(ValueError, match="the backend of arm must be one of c, mjx, warp, got 'spring'"):
        Arm("spring")


def test_a_path_a_text_and_a_spec_are_the_same_task(tmp_path, arm):
    (tmp_path / "arm.xml").write_text(ARM)
    path = tmp_path / "arm.xml"
    for source in (path, str(path), epath.Path(path), mujoco.MjSpec.from_string(ARM), "\n" + ARM):
        task = arm_with(model=source)("c")
        assert task.sha256["model"] == arm.sha256["model"]
    other = arm_with(model=ARM.replace("500", "400", 1))("c")
    assert other.sha256["model"] != arm.sha256["model"]


# A tetrahedron of 0.1 m, so of 1/6 kg.
MESH = "v 0 0 0\nv .1 0 0\nv 0 .1 0\nv 0 0 .1\nf 1 3 2\nf 1 2 4\nf 2 3 4\nf 1 4 3\n"
SWINGING = """
<mujoco><compiler meshdir="meshes"/><asset><mesh name="m" file="m.obj"/></asset><worldbody><body name="b">
<joint name="j"/><geom type="mesh" mesh="m"/></body></worldbody>
<actuator><motor joint="j" ctrlrange="-1 1"/></actuator></mujoco>
"""
INERTIAL = '<inertial><mass value="1"/><inertia ixx="1" iyy="1" izz="1" ixy="0" ixz="0" iyz="0"/></inertial>'
URDF = (
    f'<robot name="r"><link name="a">{INERTIAL}</link><link name="b">{INERTIAL}</link>'
    '<joint name="j" type="continuous"><parent link="a"/><child link="b"/><axis xyz="0 0 1"/></joint></robot>'
)


@pytest.fixture
def robot(tmp_path):
    """Return the folder of a robot with a mesh and a file that includes it; its name has a space and an umlaut."""
    folder = tmp_path / "ro bot ü"
    (folder / "meshes").mkdir(parents=True)
    (folder / "meshes" / "m.obj").write_text(MESH)
    (folder / "robot.xml").write_text(SWINGING)
    (folder / "outer.xml").write_text('<mujoco><include file="robot.xml"/></mujoco>')
    (folder / "robot.urdf").write_text(URDF)
    mujoco.mj_saveModel(mujoco.MjModel.from_xml_string(ARM), str(folder / "robot.mjb"))
    return folder


def attached(folder):
    spec = mujoco.MjSpec()
    spec.worldbody.add_frame(pos=[0, 0, 1]).attach_body(
        mujoco.MjSpec.from_file(str(folder / "robot.xml")).body("b"), "left_", ""
    )
    return spec


def from_memory(folder):
    return mujoco.MjSpec.from_string(SWINGING, assets={"meshes/m.obj": MESH.encode(), "m.obj": MESH.encode()})


@pytest.mark.parametrize("source", [lambda f: f / "outer.xml", attached, from_memory])
def test_a_model_with_meshes_is_a_task_when_included_attached_or_in_memory(source, robot):
    class Swinging(MjcfTask):
        model = source(robot)
        control_dt = 0.02

        def observe(self, s):
            return s.qpos

        def reward(self, s, action):
            return s.qpos[0]

    task = Swinging("c")
    np.testing.assert_allclose(task.mj_model.body_mass.sum(), 1 / 6, rtol=1e-5)
    assert task.action_size == 1 and task.observation_sizes == {"state": 1}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (lambda f: SWINGING, "the model of arm does not compile: .*meshes/m.obj"),
        (lambda f: URDF, "action_size of arm must be at least 1, got 0; add an <actuator>"),
        (lambda f: f / "robot.urdf", "action_size of arm must be at least 1, got 0; add an <actuator>"),
        (lambda f: f / "robot.mjb", "model of arm must be an MJCF or URDF file, got .*robot.mjb.*; save it with"),
        (lambda f: mujoco.MjModel.from_xml_string(ARM), "MjSpec, got MjModel; give what it was made from"),
        (lambda f: ARM.encode(), "a path, MJCF text or an MjSpec, got bytes; give what"),
    ],
)
def test_a_model_of_another_kind_is_refused_in_one_sentence(source, message, robot):
    with pytest.raises(ValueError, match=message) as error:
        arm_with(model=source(robot))("c")
    assert "\n" not in str(error.value)


def test_the_example_is_short():
    code = Path(__file__).parents[2].joinpath("examples", "reach_arm.py").read_text()
    body = code.partition("class ")[2]
    assert sum(1 for line in body.splitlines() if line.strip() and not line.strip().startswith('"""')) < 40


def test_a_missing_method_is_named(arm):
    class Bare(MjcfTask):
        model = ARM
        control_dt = 0.02

    with pytest.raises(NotImplementedError, match=r"Bare must define observe\(s\)"):
        Bare("c")
