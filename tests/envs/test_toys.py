import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genpo_jax.envs import EpisodeEnv, make
from genpo_jax.envs.toys import turned_back


@pytest.mark.parametrize("goal", range(6))
def test_the_straight_path_to_every_goal_earns_the_best_return(goal):
    env = make("multigoal")
    episodes = EpisodeEnv(env, env.default_episode_length, squash="clip")
    state = episodes.init(jax.random.split(jax.random.key(0), 1))
    direction = jnp.asarray(env.goals[goal] / env.RADIUS, jnp.float32)
    for _ in range(4):
        state, timestep = episodes.step(state, 1.0 * direction[None])
    assert timestep.terminated[0]
    np.testing.assert_allclose(timestep.episode_return[0], env.best_return, rtol=1e-5)
    assert env.nearest_goal(timestep.next_obs["state"][0]) == goal
    assert env.nearest_goal(jnp.zeros(2)) == -1


def test_a_longer_action_is_no_faster():
    env = make("multigoal")
    far, *_ = env.step(jnp.zeros(2), jnp.array([1.0, 1.0]))
    np.testing.assert_allclose(jnp.linalg.norm(far), env.SPEED, rtol=1e-6)


@pytest.mark.parametrize("name", ["ring", "moons"])
def test_every_optimum_of_a_bandit_has_reward_1_in_any_context(name):
    env = make(name)
    assert np.abs(env.points).max() < 0.9, "optima must be inside the action bounds"
    state, obs = env.reset(jax.random.key(3))
    angle = jnp.arctan2(obs["state"][1], obs["state"][0])
    rotation = jnp.array([[jnp.cos(angle), -jnp.sin(angle)], [jnp.sin(angle), jnp.cos(angle)]])
    for point in jnp.asarray(env.points, jnp.float32):
        _, _, reward, terminated, _ = env.step(state, rotation @ point)
        np.testing.assert_allclose(reward, 1.0, atol=1e-4)
        assert terminated
    assert env.step(state, jnp.zeros(2))[2] < 0.5


def test_turned_back_inverts_a_rotation():
    context = jnp.array([0.0, 1.0])  # a quarter turn, which maps (1, 0) to (0, 1)
    np.testing.assert_allclose(turned_back(jnp.array([0.0, 1.0]), context), [1.0, 0.0], atol=1e-7)
