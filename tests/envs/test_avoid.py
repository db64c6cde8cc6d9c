import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genpo_jax.data.collect import record_demonstrations, scripted_actor
from genpo_jax.envs import make

AVOID = make("avoid")


def step(position, action):
    state, _ = AVOID.reset(jax.random.key(0))
    return AVOID.step(state.replace(position=jnp.array(position)), jnp.array(action))


def test_going_straight_touches_a_post_in_every_column():
    # 0.08 per step, and posts of radius 0.08, at for example (0.5, 0), (1, 0.2) and (1.5, 0.4).
    for position in [(0.35, 0.0), (0.85, 0.2), (1.35, 0.4)]:
        _, _, reward, terminated, metrics = step(position, [1.0, 0.0])
        assert terminated and reward == 0 and metrics["success"] == 0
    assert not step((0.3, 0.0), [1.0, 0.0])[3]


def test_all_gaps_are_equally_wide_and_each_has_a_post_in_front():
    columns = [sorted(y for x, y in AVOID.posts if x == column) for column in AVOID.COLUMNS]
    for column in columns:
        np.testing.assert_allclose(np.diff(column), AVOID.SPACING)
    for before, after in zip(columns, columns[1:], strict=False):
        middles = np.add(after[1:], after[:-1]) / 2
        assert all(np.abs(np.array(before) - middle).min() < 1e-9 for middle in middles)


def test_a_step_cannot_jump_over_the_edge_of_a_post():
    # From 0.04 before to 0.04 behind the middle, 0.07 beside it: both ends are further away than the radius.
    assert np.hypot(0.04, 0.07) > AVOID.RADIUS
    assert step((0.46, 0.07), [1.0, 0.0])[3]


def test_walls_end_an_episode():
    assert step((0.1, 0.85), [0.0, 1.0])[3] and step((0.1, -0.85), [0.0, -1.0])[3]


@pytest.mark.parametrize(("height", "mode"), [(-0.6, 0), (-0.2, 1), (0.2, 2), (0.6, 3)])
def test_the_mode_is_the_gap_of_the_last_column(height, mode):
    state, *_ = step((1.46, height), [1.0, 0.0])
    assert int(state.mode) == mode
    state, _, reward, terminated, metrics = AVOID.step(
        state.replace(position=jnp.array([1.95, height])), jnp.array([1.0, 0.0])
    )
    assert reward == 1 and terminated
    assert [float(metrics[f"mode_{k}"]) for k in range(4)] == [float(k == mode) for k in range(4)]


def test_the_expert_takes_every_mode_equally_often_and_never_fails():
    recorded = record_demonstrations(AVOID, scripted_actor(AVOID, 400), 400, jax.random.key(0))
    assert recorded.metrics["success"].all()
    shares = [recorded.metrics[f"mode_{k}"].mean() for k in range(4)]
    # Four standard errors of a quarter.
    np.testing.assert_allclose(shares, 0.25, atol=4 * np.sqrt(0.25 * 0.75 / 400))
    episode = recorded.episodes[0]
    # The observation after each action is the position that the action led to.
    moved = np.diff(np.concatenate([episode.obs, episode.last_obs[None]]), axis=0)
    np.testing.assert_allclose(moved, AVOID.SPEED * episode.action, atol=1e-6)
    assert episode.terminated and episode.reward.tolist() == [0.0] * (len(episode) - 1) + [1.0]
