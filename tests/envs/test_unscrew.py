"""The task `unscrew`: kinematics, thread, observations, reward and success."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from genpo_jax.envs import make
from genpo_jax.envs.mjcf import View
from genpo_jax.envs.tasks.unscrew import HEIGHT, NUM_FINGERS, PITCH, Turning, Unscrew
from genpo_jax.runtime import compiler_options

pytestmark = pytest.mark.ci


@pytest.fixture(scope="module")
def task():
    return make("unscrew", "c")


@pytest.fixture(scope="module")
def step(task):
    return jax.jit(task.step)


@pytest.fixture(scope="module")
def start(task):
    return jax.jit(task.reset)(jax.random.key(0))


@pytest.mark.parametrize(
    ("joints", "tip"),
    [
        # Straight down: 5.05 cm out, 8.6 cm to the side, 29 cm minus two links of 16 cm.
        ([0, 0, 0], [0.086, 0.0505, -0.03]),
        # The knee folds the lower link back onto the middle link, which points outwards.
        ([0, np.pi / 2, -np.pi / 2], [0.086, 0.2105, 0.13]),
        # The swing turns the whole finger about the axis along it.
        ([np.pi / 2, np.pi / 2, -np.pi / 2], [-0.16, 0.2105, 0.204]),
    ],
)
def test_fingertips_have_the_published_kinematics(task, joints, tip):
    data = mujoco.MjData(task.mj_model)
    data.qpos[2:] = np.tile(joints, NUM_FINGERS)
    mujoco.mj_forward(task.mj_model, data)
    for finger in range(NUM_FINGERS):
        angle = -finger * 2 * np.pi / 3
        rotation = [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
        np.testing.assert_allclose(data.sensor(f"tip{finger}").data, np.array(rotation) @ tip, atol=1e-6)


def test_joints_have_the_published_limits_masses_and_torques(task):
    model = task.mj_model
    limits = [[-0.33, 1.0], [0.0, 1.57], [-2.7, 0.0]] * NUM_FINGERS
    np.testing.assert_allclose(model.jnt_range[2:], limits)
    np.testing.assert_allclose(model.actuator_ctrlrange, limits)
    np.testing.assert_allclose(model.actuator_forcerange, [[-0.396, 0.396]] * 9)
    masses = {"upper": 0.26689, "middle": 0.27163, "lower": 0.05569 + 0.0092}
    for name, mass in masses.items():
        for finger in range(NUM_FINGERS):
            np.testing.assert_allclose(model.body(f"{name}{finger}").mass, mass, rtol=1e-6)


def test_the_model_is_small_and_has_primitives_only(task):
    assert Unscrew.model.stat().st_size <= 15_000
    assert task.mj_model.nmesh == 0


def test_the_nut_is_a_hexagon_of_55_mm_across_flats(task):
    # The corners of three boxes, seen from above, are the six corners of the nut.
    model = task.mj_model
    corners = []
    for name in ("nut_a", "nut_b", "nut_c"):
        rotation = np.zeros(9)
        mujoco.mju_quat2Mat(rotation, model.geom(name).quat)
        x, y, _ = model.geom(name).size
        corners += [(rotation.reshape(3, 3) @ [a * x, b * y, 0])[:2] for a in (-1, 1) for b in (-1, 1)]
    corners = np.array(corners)
    np.testing.assert_allclose(np.hypot(*corners.T), 0.0275 * 2 / np.sqrt(3), atol=1e-6)
    angles = np.degrees(np.arctan2(corners[:, 1], corners[:, 0])) % 60
    np.testing.assert_allclose(angles, 30, atol=1e-3)


def view(task, state, turned=0.0, qpos=None, ctrl=None, tips=None):
    """A view of a still hand whose nut has just turned by an angle."""
    data = state.data.replace(qvel=jnp.zeros_like(state.data.qvel))
    qpos = data.qpos if qpos is None else qpos
    sensordata = data.sensordata
    if tips is not None:
        sensordata = sensordata.at[:9].set(jnp.ravel(jnp.asarray(tips)))
    data = data.replace(qpos=qpos, ctrl=qpos[2:] if ctrl is None else ctrl, sensordata=sensordata)
    memory = Turning(jnp.float32(0), jnp.float32(0), jnp.float32(turned))
    return View(task, state.replace(data=data, memory=memory))


FAR_AWAY = [[9.0, 0, 0], [0, 9, 0], [0, 0, 9]]


@pytest.mark.parametrize(
    ("turned", "reward"),
    [(0.0, 0.0), (0.05, 0.5), (-0.05, -0.5), (0.1, 1.0), (0.3, 1.0), (-0.3, -1.0)],
)
def test_turning_at_two_radians_per_second_earns_one_per_step(task, start, turned, reward):
    s = view(task, start[0], turned, tips=FAR_AWAY)
    np.testing.assert_allclose(task.reward(s, jnp.zeros(9)), reward, atol=1e-5)


def test_fingertips_at_the_nut_earn_a_tenth(task, start):
    lift = start[0].data.qpos[1]
    beside = [[0.036, 0, HEIGHT + lift], [0, -0.036, HEIGHT + lift], [0.0, 0.036, HEIGHT + lift]]
    np.testing.assert_allclose(task.reward(view(task, start[0], tips=beside), jnp.zeros(9)), 0.1, atol=1e-4)


def test_torques_and_changes_of_set_points_cost(task, start):
    s = view(task, start[0], tips=FAR_AWAY)
    np.testing.assert_allclose(task.reward(s, jnp.ones(9)), -0.05, atol=1e-5)
    # A set point 1 rad away demands 3 Nm; the actuator gives its largest torque.
    strained = view(task, start[0], tips=FAR_AWAY, ctrl=start[0].data.qpos[2:] + 1)
    np.testing.assert_allclose(task.reward(strained, jnp.zeros(9)), -0.02, atol=1e-5)


@pytest.mark.parametrize(("turns", "success"), [(-2.5, False), (0.0, False), (1.99, False), (2.01, True), (3.0, True)])
def test_two_turns_in_the_unscrewing_direction_are_a_success(task, start, turns, success):
    assert bool(task.success(view(task, start[0], turns * 2 * np.pi))) == success


def test_the_privileged_state_adds_velocities_nut_fingertips_and_contacts(task, start):
    assert task.observation_sizes == {"state": 18, "privileged_state": 48}
    qpos = start[0].data.qpos.at[:2].set(jnp.array([np.pi / 6, 0.001]))
    tips = [[0.03, 0.04, HEIGHT + 0.001], [0, 0.05, HEIGHT + 0.021], [0.1, 0, HEIGHT + 0.001]]
    s = view(task, start[0], qpos=qpos, ctrl=jnp.arange(9.0), tips=tips)
    obs = task.observe(s)
    np.testing.assert_allclose(obs["state"], [*qpos[2:], *range(9)], atol=1e-6)
    privileged = np.asarray(obs["privileged_state"])
    np.testing.assert_allclose(privileged[:18], obs["state"])
    np.testing.assert_allclose(privileged[18:27], 0)
    # Sine and cosine of the angle and of six times the angle, speed, and lift in decimeters.
    np.testing.assert_allclose(privileged[27:33], [0.5, np.sqrt(0.75), 0, -1, 0, 0.1], atol=1e-5)
    np.testing.assert_allclose(privileged[33:42], [0.6, 0.8, 0, 0, 1, 0.4, 2, 0, 0], atol=1e-5)
    np.testing.assert_allclose(privileged[42:45], [1, 1, 2], atol=1e-5)
    np.testing.assert_allclose(privileged[45:], 0)


@pytest.mark.parametrize(("torque", "success"), [(0.2, 1.0), (-0.2, 0.0)])
def test_a_nut_turned_by_force_rises_by_its_pitch_per_turn(task, step, start, torque, success):
    # The fingers are stretched away from the nut.
    away = jnp.tile(jnp.array([0.0, 1.5, 0.0]), NUM_FINGERS)
    data = start[0].data
    data = data.replace(qpos=data.qpos.at[2:].set(away), ctrl=away, qfrc_applied=data.qfrc_applied.at[0].set(torque))
    state, turns = start[0].replace(data=data), 0.0
    for _ in range(20):
        state, _, _, _, metrics = step(state, jnp.zeros(9))
        turns += float(metrics["turns"])
    assert abs(turns) > 2 and np.sign(turns) == np.sign(torque)
    assert metrics["success"] == success
    nut, lift = state.data.qpos[:2]
    np.testing.assert_allclose(nut - start[0].data.qpos[0], 2 * np.pi * turns, rtol=1e-4)
    np.testing.assert_allclose(lift, PITCH * nut / (2 * np.pi), atol=1e-4)


def test_a_nut_that_nobody_touches_stays(task, step, start):
    away = jnp.tile(jnp.array([0.0, 1.5, 0.0]), NUM_FINGERS)
    data = start[0].data
    state = start[0].replace(data=data.replace(qpos=data.qpos.at[2:].set(away), ctrl=away))
    for _ in range(40):
        state = step(state, jnp.zeros(9))[0]
    assert abs(state.data.qpos[0] - data.qpos[0]) < 0.02


def test_a_fingertip_that_presses_on_the_nut_feels_it(task, step, start):
    away = jnp.tile(jnp.array([0.0, 1.5, 0.0]), NUM_FINGERS)
    data = start[0].data
    # One finger starts beside the nut; its set point is 2 cm deep inside.
    beside, inside = jnp.array([0.40, 0.91, -1.77]), jnp.array([0.40, 0.73, -1.75])
    data = data.replace(qpos=data.qpos.at[2:].set(away).at[2:5].set(beside), ctrl=away.at[:3].set(inside))
    state = start[0].replace(data=data)
    for _ in range(40):
        state, obs, *_ = step(state, jnp.zeros(9))
    force = np.expm1(np.asarray(obs["privileged_state"][-3:]))
    # The actuators give at most 0.4 Nm at 16 cm from the knee.
    assert 0.1 < force[0] < 2.5
    np.testing.assert_array_equal(force[1:], 0)


def test_both_engines_turn_the_nut_alike(task, start):
    # All fingertips move back, then to the nut, and turn it. They reach it in the sixth step.
    approach = [[-1.0, 0.5, 0.0], [-0.6, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, -0.6, 0.0]]
    actions = jnp.tile(jnp.array(approach + [[0.7, 0.0, 0.0]] * 7), NUM_FINGERS)

    def play(env):
        def step(state, action):
            state, obs, reward, *_ = env.step(state, action)
            return state, (obs["privileged_state"], reward, state.memory.now - state.memory.start)

        # With fusion emitters, MJX takes minutes on a CPU.
        xla_options = compiler_options(fusion_emitters=False)
        run = jax.jit(lambda key: jax.lax.scan(step, env.reset(key)[0], actions)[1], compiler_options=xla_options)
        return run(jax.random.key(3))

    (ours, our_reward, our_turn), (theirs, their_reward, their_turn) = play(task), play(make("unscrew", "mjx"))
    assert abs(our_turn[4]) < 1e-3 and our_turn[-1] > 0.05
    # Joints and set points.
    np.testing.assert_allclose(ours[:5, :18], theirs[:5, :18], atol=1e-5)
    np.testing.assert_allclose(ours[5:, :18], theirs[5:, :18], atol=0.04)
    np.testing.assert_allclose(our_reward[:5], their_reward[:5], atol=1e-4)
    np.testing.assert_allclose(our_turn, their_turn, atol=0.04)
