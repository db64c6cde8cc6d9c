import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from genpo_jax.data.collect import record_demonstrations, scripted_actor
from genpo_jax.envs import make
from genpo_jax.envs.names import TASKS
from genpo_jax.envs.tasks import panda
from genpo_jax.runtime import compiler_options


@pytest.fixture(scope="module")
def tasks():
    return {name: make(name, "c") for name in TASKS}


@pytest.mark.parametrize("name", TASKS)
def test_random_actions_keep_everything_finite_and_solve_nothing(tasks, name):
    task = tasks[name]

    def play(key):
        def step(state, action):
            state, obs, reward, terminated, metrics = task.step(state, action)
            return state, (obs["state"], reward, terminated, metrics["success"])

        state, _ = task.reset(key)
        actions = jax.random.uniform(key, (task.default_episode_length, task.action_size), minval=-1.0)
        return jax.lax.scan(step, state, actions)[1]

    obs, reward, terminated, success = jax.jit(jax.vmap(play))(jax.random.split(jax.random.key(0), 16))
    assert np.isfinite(obs).all() and np.isfinite(reward).all()
    assert not terminated.any()
    assert success[:, -1].mean() < 0.3


# panda_push covers the arm of panda_reach; test_unscrew.py compares the engines on unscrew.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("panda_reach", marks=pytest.mark.slow),
        pytest.param("panda_push", marks=pytest.mark.ci),
        pytest.param("push_t", marks=pytest.mark.ci),
    ],
)
def test_both_engines_give_the_same_observations_and_rewards(tasks, name):
    actions = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (6, tasks[name].action_size)), jnp.float32)

    def play(task):
        def step(state, action):
            state, obs, reward, *_ = task.step(state, action)
            return state, (obs["state"], reward)

        # With fusion emitters, MJX takes minutes on a CPU.
        xla_options = compiler_options(fusion_emitters=False)
        play = jax.jit(lambda key: jax.lax.scan(step, task.reset(key)[0], actions)[1], compiler_options=xla_options)
        return play(jax.random.key(3))

    (ours, our_reward), (theirs, their_reward) = play(tasks[name]), play(make(name, "mjx"))
    # Random actions drive the arm's last joints to their force limits, where the engines integrate differently.
    arm = name != "push_t"
    np.testing.assert_allclose(ours, theirs, atol=0.2 if arm else 5e-3)
    np.testing.assert_allclose(our_reward, their_reward, atol=0.05 if arm else 1e-3)


def test_inverse_kinematics_put_the_tool_at_a_position_pointing_down(tasks):
    model = tasks["panda_push"].mj_model
    data = mujoco.MjData(model)
    for place in ([0.5, 0.0, 0.1], [0.4, -0.3, 0.03], [0.65, 0.3, 0.2], [0.3, 0.0, 0.05]):
        data.qpos[:7] = np.asarray(panda.joints_for(jnp.asarray(place)))
        mujoco.mj_kinematics(model, data)
        np.testing.assert_allclose(data.site("tool").xpos, place, atol=1e-6)
        np.testing.assert_allclose(data.site("tool").xmat[[2, 5, 8]], [0, 0, -1], atol=1e-6)
    assert (data.qpos[:7] >= model.jnt_range[:7, 0]).all() and (data.qpos[:7] <= model.jnt_range[:7, 1]).all()


def test_a_tool_held_still_over_the_table_stays(tasks):
    task = tasks["panda_push"]
    state, _ = task.reset(jax.random.key(0))
    step = jax.jit(task.step)
    before = np.asarray(state.data.sensordata[:3])
    for _ in range(20):
        state = step(state, jnp.zeros(3))[0]
    assert np.abs(np.asarray(state.data.sensordata[:3]) - before).max() < 0.01


def test_pushing_a_box_to_its_goal_is_success_and_earns_more(tasks):
    task = tasks["panda_push"]
    state, _ = task.reset(jax.random.key(0))
    step = jax.jit(task.step)
    at_goal = state.replace(goal=state.data.qpos[7:9])
    away = state.replace(goal=state.data.qpos[7:9] + jnp.array([0.2, 0.0]))
    (_, _, near, _, good), (_, _, far, _, bad) = step(at_goal, jnp.zeros(3)), step(away, jnp.zeros(3))
    assert (good["success"], bad["success"]) == (1, 0)
    assert near > far + 1.5
    np.testing.assert_allclose(bad["distance"], 0.2, atol=1e-4)


@pytest.mark.parametrize(("turned", "error"), [(0.0, 0.0), (0.3, 0.03), (2 * np.pi - 0.3, 0.03), (np.pi, 0.1 * np.pi)])
def test_the_error_of_a_t_includes_a_tenth_of_the_smaller_angle(tasks, turned, error):
    task = tasks["push_t"]
    state, _ = task.reset(jax.random.key(0))
    qpos = jnp.array([0.0, 0.0, -np.pi / 4 + turned, 0.3, 0.3])
    state = state.replace(data=state.data.replace(qpos=qpos, ctrl=jnp.array([0.3, 0.3])))
    np.testing.assert_allclose(jax.jit(task.step)(state, jnp.zeros(2))[4]["error"], error, atol=1e-4)


@pytest.mark.ci
def test_the_expert_reaches_the_goal_by_both_sides_equally_often(tasks):
    recorded = record_demonstrations(
        tasks["panda_push"], scripted_actor(tasks["panda_push"], 64), 64, jax.random.key(0)
    )
    modes = np.stack([recorded.metrics[f"mode_{k}"] for k in range(2)])
    assert recorded.metrics["success"].mean() > 0.9
    np.testing.assert_array_equal(modes.sum(axis=0), recorded.metrics["success"])
    # Four standard errors of a half.
    np.testing.assert_allclose(modes.mean(axis=1), 0.5, atol=0.05 + 4 * np.sqrt(0.25 / 64))


@pytest.mark.parametrize(("side", "mode"), [(-1, 0), (1, 1)])
def test_the_mode_of_a_push_is_the_side_on_which_the_tool_was_lowered(tasks, side, mode):
    task = tasks["panda_push"]
    state, _ = task.reset(jax.random.key(0))
    step = jax.jit(task.step)
    box = np.asarray(state.data.qpos[7:9])
    # The push goes along x, so y points to its left.
    state = state.replace(goal=jnp.asarray(box + np.array([0.01, 0.0])))
    posture = panda.joints_for(jnp.array([box[0], box[1] + 0.08 * side, 0.05]))
    state = state.replace(data=state.data.replace(qpos=state.data.qpos.at[:7].set(posture), ctrl=posture))
    for _ in range(2):
        state, _, _, _, metrics = step(state, jnp.zeros(3))
    assert int(state.memory) == side
    assert [float(metrics[f"mode_{k}"]) for k in range(2)] == [float(k == mode) for k in range(2)]
    # Once lowered, the tool can move to the other side; the mode stays.
    other = panda.joints_for(jnp.array([box[0], box[1] - 0.08 * side, 0.05]))
    state = state.replace(data=state.data.replace(qpos=state.data.qpos.at[:7].set(other), ctrl=other))
    assert int(step(state, jnp.zeros(3))[0].memory) == side


def test_the_mode_of_a_t_is_the_direction_of_its_turn(tasks):
    task = tasks["push_t"]
    state, _ = task.reset(jax.random.key(0))
    step = jax.jit(task.step)
    qpos = jnp.array([0.0, 0.0, -np.pi / 4, 0.3, 0.3])
    state = state.replace(data=state.data.replace(qpos=qpos, ctrl=qpos[3:]))
    for memory, modes in ((-1.0, [0, 1]), (-0.5, [1, 0])):
        metrics = step(state.replace(memory=jnp.float32(memory)), jnp.zeros(2))[4]
        assert [float(metrics[f"mode_{k}"]) for k in range(2)] == modes
