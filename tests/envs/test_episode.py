import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import ClockEnv

from genpo_jax.envs import EpisodeEnv


def play(episodes, state, actions):
    """Step through actions [T, B, 1]; return the last state and the stacked [states before, timesteps]."""

    def step(state, action):
        next_state, timestep = episodes.step(state, action)
        return next_state, (next_state, timestep)

    last, (states, timesteps) = jax.jit(lambda s, a: jax.lax.scan(step, s, a))(state, actions)
    return last, states, timesteps


def idle(num_steps, num_envs):
    return jnp.zeros((num_steps, num_envs, 1))


def keys(num_envs, seed=0):
    return jax.random.split(jax.random.key(seed), num_envs)


def assert_same(a, b):
    def raw(leaf):
        return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf

    jax.tree.map(lambda x, y: np.testing.assert_array_equal(raw(x), raw(y)), a, b)


def avals(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.weak_type), tree)


def test_the_time_limit_truncates_and_does_not_terminate(counting_episodes):
    episodes = counting_episodes(3)
    _, _, timesteps = play(episodes, episodes.init(keys(2)), idle(7, 2))
    assert timesteps.truncated[:, 0].tolist() == [False, False, True, False, False, True, False]
    assert not timesteps.terminated.any()


def test_termination_before_and_at_the_time_limit_is_termination(counting_episodes):
    for limit in (5, 2):
        episodes = counting_episodes(limit, terminate_at=2)
        _, _, timesteps = play(episodes, episodes.init(keys(2)), idle(4, 2))
        assert timesteps.terminated[:, 1].tolist() == [False, True, False, True]
        assert not timesteps.truncated.any()


def test_returns_and_lengths_include_the_last_step_and_restart_from_zero(counting_episodes):
    episodes = counting_episodes(3)
    last, _, timesteps = play(episodes, episodes.init(keys(2)), idle(4, 2))
    assert timesteps.reward[:, 0].tolist() == [1, 2, 3, 1]
    assert timesteps.episode_return[:, 0].tolist() == [1, 3, 6, 1]
    assert timesteps.episode_length[:, 0].tolist() == [1, 2, 3, 1]
    assert last.episode_return.tolist() == [1, 1]
    assert last.episode_length.tolist() == [1, 1]


def test_next_obs_is_the_final_observation_and_obs_is_the_first_of_the_new_episode(counting_episodes):
    episodes = counting_episodes(3)
    first = episodes.init(keys(2))
    _, states, timesteps = play(episodes, first, idle(3, 2))
    assert timesteps.next_obs["state"][:, 0, 0].tolist() == [1, 2, 3]
    assert timesteps.next_obs["state"][2, 0, 1] == first.obs["state"][0, 1]
    assert states.obs["state"][:, 0, 0].tolist() == [1, 2, 0]
    assert states.obs["state"][2, 0, 1] != first.obs["state"][0, 1]


def test_neighbors_and_episodes_of_successive_rollouts_start_differently(counting_episodes):
    episodes = counting_episodes(2)
    state = episodes.init(keys(8))
    starts = [state.obs["state"][:, 1]]
    for _ in range(3):
        state, states, _ = play(episodes, episodes.refresh(state), idle(2, 8))
        starts.append(states.obs["state"][1, :, 1])
    starts = np.stack(starts)
    assert starts.shape == (4, 8)
    assert all(len(set(row)) == 8 for row in starts), "neighbors"
    assert all(len(set(column)) == 4 for column in starts.T), "one environment over time"


def test_an_environment_is_independent_of_its_neighbors(counting_episodes):
    episodes = counting_episodes(3)
    together = episodes.init(keys(8), stagger=True)
    alone = episodes.init(keys(8)[2:4], stagger=True)
    for _ in range(2):
        together, _, seen = play(episodes, episodes.refresh(together), idle(4, 8))
        alone, _, seen_alone = play(episodes, episodes.refresh(alone), idle(4, 2))
        assert_same(jax.tree.map(lambda leaf: leaf[:, 2:4], seen), seen_alone)
    assert_same(jax.tree.map(lambda leaf: leaf[2:4], together), alone)


def test_refresh_brings_new_starts_and_leaves_running_episodes_unchanged(counting_episodes):
    episodes = counting_episodes(2)
    first = episodes.init(keys(8))
    second = episodes.refresh(first)
    third = episodes.refresh(second)
    pools = [set(np.asarray(state.pool[1]["state"][:, 1])) for state in (first, second, third)]
    assert len(set.union(*pools)) == 24
    assert_same(first.env_state, third.env_state)
    assert_same(first.obs, third.obs)


def test_a_reset_replaces_every_leaf_of_the_state_including_typed_keys(counting_episodes):
    episodes = counting_episodes(1)
    first = episodes.init(keys(2))
    last, _, _ = play(episodes, first, idle(1, 2))
    assert_same(last.env_state, first.pool[0])
    assert jnp.issubdtype(last.env_state["key"].dtype, jax.dtypes.prng_key)


@pytest.mark.parametrize("poison", [1.0, -1.0], ids=["nan observation", "reward of 1e9"])
def test_non_finite_physics_truncates_without_reward_and_keeps_the_last_good_observation(counting_episodes, poison):
    episodes = counting_episodes(10, terminate_at=3)
    first = episodes.init(keys(2))
    _, states, timesteps = play(episodes, first, idle(4, 2).at[2, 0].set(poison))
    assert timesteps.nonfinite[:, 0].tolist() == [False, False, True, False]
    assert timesteps.truncated[:, 0].tolist() == [False, False, True, False]
    assert not timesteps.terminated[:, 0].any(), "although the task ends at step 3"
    assert timesteps.reward[:, 0].tolist() == [1, 2, 0, 1]
    assert timesteps.episode_return[2, 0] == 3
    assert timesteps.next_obs["state"][2, 0, 0] == 2
    assert states.obs["state"][2, 0, 0] == 0, "a new episode"
    assert np.isfinite(states.obs["state"]).all()


def test_non_finite_physics_of_one_environment_leaves_the_others_untouched(counting_episodes):
    episodes = counting_episodes(10)
    first = episodes.init(keys(3))
    _, _, clean = play(episodes, first, idle(6, 3))
    _, _, poisoned = play(episodes, first, idle(6, 3).at[2, 1].set(1.0))
    assert_same(*(jax.tree.map(lambda leaf: leaf[:, ::2], run) for run in (clean, poisoned)))


def test_non_finite_resets_are_never_returned(counting_episodes):
    episodes = counting_episodes(10, nan_resets=True)
    first = episodes.init(keys(2))
    _, states, timesteps = play(episodes, episodes.refresh(first), idle(3, 2))
    assert timesteps.nonfinite.all()
    assert timesteps.reward.tolist() == [[0, 0]] * 3
    for obs in (first.obs, states.obs, timesteps.next_obs):
        assert np.isfinite(obs["state"]).all()


def test_repeated_actions_sum_rewards_and_count_environment_steps(counting_episodes):
    episodes = counting_episodes(6, action_repeat=3)
    _, _, timesteps = play(episodes, episodes.init(keys(2)), idle(2, 2))
    assert timesteps.reward[:, 0].tolist() == [1 + 2 + 3, 4 + 5 + 6]
    assert timesteps.episode_length[:, 0].tolist() == [3, 6]
    assert timesteps.truncated[:, 0].tolist() == [False, True]


def test_repeated_actions_stop_at_termination(counting_episodes):
    episodes = counting_episodes(100, action_repeat=3, terminate_at=5)
    _, _, timesteps = play(episodes, episodes.init(keys(2)), idle(2, 2))
    assert timesteps.reward[:, 0].tolist() == [1 + 2 + 3, 4 + 5]
    assert timesteps.terminated[:, 0].tolist() == [False, True]
    assert timesteps.episode_length[1, 0] == 5
    assert timesteps.next_obs["state"][1, 0, 0] == 5


def test_repeated_actions_stop_at_the_time_limit(counting_episodes):
    episodes = counting_episodes(4, action_repeat=3, terminate_at=5)
    _, _, timesteps = play(episodes, episodes.init(keys(2)), idle(2, 2))
    assert timesteps.reward[:, 0].tolist() == [1 + 2 + 3, 4]
    assert timesteps.truncated[:, 0].tolist() == [False, True]


@pytest.mark.parametrize(("squash", "expected"), [("tanh", np.tanh(0.5)), ("clip", 0.5)])
def test_actions_are_squashed_into_the_unit_interval(counting_episodes, squash, expected):
    episodes = counting_episodes(10, squash=squash)
    _, timestep = episodes.step(episodes.init(keys(2)), jnp.array([[0.5], [-0.5]]))
    np.testing.assert_allclose(timestep.next_obs["state"][:, 2], [expected, -expected], rtol=1e-6)
    _, timestep = episodes.step(episodes.init(keys(2)), jnp.array([[9.0], [-9.0]]))
    assert (np.abs(timestep.next_obs["state"][:, 2]) <= 1).all()


def test_equal_keys_give_bit_identical_rollouts_and_different_keys_different_ones(counting_episodes):
    episodes = counting_episodes(3)
    runs = [play(episodes, episodes.init(keys(4, seed)), idle(7, 4)) for seed in (0, 0, 1)]
    assert_same(runs[0], runs[1])
    assert (runs[0][1].obs["state"] != runs[2][1].obs["state"]).any()


def test_a_rollout_in_two_parts_equals_one_in_one_part(counting_episodes):
    episodes = counting_episodes(3)
    first = episodes.init(keys(4))
    whole, _, _ = play(episodes, first, idle(7, 4))
    middle, _, _ = play(episodes, first, idle(3, 4))
    last, _, _ = play(episodes, middle, idle(4, 4))
    assert_same(whole, last)


@pytest.mark.parametrize("action_repeat", [1, 3])
def test_types_of_the_state_never_change(counting_episodes, action_repeat):
    episodes = counting_episodes(3, action_repeat=action_repeat)
    first = jax.eval_shape(episodes.init, keys(4))
    action = jax.ShapeDtypeStruct((4, 1), jnp.float32)
    stepped, timestep = jax.eval_shape(episodes.step, first, action)
    assert avals(first) == avals(stepped) == avals(jax.eval_shape(episodes.refresh, first))
    assert timestep.reward.dtype == timestep.episode_return.dtype == jnp.float32
    assert timestep.terminated.dtype == timestep.truncated.dtype == timestep.nonfinite.dtype == bool
    assert not any(leaf.weak_type for leaf in jax.tree.leaves((first, timestep)))


def test_a_donated_jitted_rollout_compiles_once(counting_episodes):
    episodes = counting_episodes(3)
    rollout = jax.jit(lambda state: jax.lax.scan(episodes.step, episodes.refresh(state), idle(5, 4)), donate_argnums=0)
    state = episodes.init(keys(4))
    for _ in range(3):
        state, _ = rollout(state)
    assert rollout._cache_size() == 1


def test_seeds_can_be_vmapped(counting_episodes):
    episodes = counting_episodes(3)

    def run(key):
        state = episodes.refresh(episodes.init(jax.random.split(key, 4)))
        return jax.lax.scan(episodes.step, state, idle(5, 4))

    keys = jax.random.split(jax.random.key(0), 3)
    together = jax.jit(jax.vmap(run))(keys)
    alone = jax.jit(run)(keys[1])
    assert_same(jax.tree.map(lambda leaf: leaf[1], together), alone)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"episode_length": 0}, "episode_length must be an integer in .*, got 0"),
        ({"action_repeat": 0}, "action_repeat must be an integer in .*, got 0"),
        ({"squash": "relu"}, "squash must be 'tanh' or 'clip', got 'relu'"),
    ],
)
def test_invalid_settings_are_refused(counting_env, kwargs, message):
    with pytest.raises(ValueError, match=message):
        EpisodeEnv(**{"env": counting_env(), "episode_length": 3, **kwargs})


@pytest.mark.ci
def test_staggered_first_episodes_end_at_random_times_and_later_ones_at_the_limit(counting_episodes):
    episodes = counting_episodes(10)
    state = episodes.init(keys(512), stagger=True)
    lengths = []
    for _ in range(20):
        state, timestep = episodes.step(state, jnp.zeros((512, 1)))
        ended = timestep.terminated | timestep.truncated
        lengths.append(jnp.where(ended, timestep.episode_length, 0))
    first = jnp.asarray(lengths[:10]).max(axis=0)
    assert set(first.tolist()) == set(range(1, 11))
    # Ten steps after its first end, every environment ends again, at the time limit.
    again = jnp.asarray(lengths)[first - 1 + 10, jnp.arange(512)]
    assert (again == 10).all()


def test_without_stagger_all_end_together(counting_episodes):
    episodes = counting_episodes(10)
    assert (episodes.init(keys(4)).time_limit == 10).all()


class Path:
    """The state is the sum of the actions; success is a state above 2.5; the reward is the action."""

    name = "path"
    action_size = 1
    observation_sizes = {"state": 1}
    default_episode_length = 7

    def reset(self, key):
        return jnp.zeros(1), {"state": jnp.zeros(1)}

    def step(self, state, action):
        state = state + action
        return state, {"state": state}, action[0], jnp.asarray(False), {"success": jnp.float32(state[0] > 2.5)}


def chunked(**options):
    env = EpisodeEnv(Path(), 7, squash="clip", **options)
    return env, env.init(jax.random.split(jax.random.key(0), 1))


def test_the_first_actions_of_a_chunk_are_executed_one_after_another():
    env, state = chunked(chunk=3, executed=2)
    assert env.action_size == 3 and env.steps_per_action == 2
    state, timestep = env.step(state, jnp.array([[0.5, 0.25, 0.125]]))
    assert float(state.obs["state"][0, 0]) == 0.75 and float(timestep.reward[0]) == 0.75
    assert int(timestep.episode_length[0]) == 2


def test_an_episode_may_end_within_a_chunk():
    env, state = chunked(chunk=4)
    state, _ = env.step(state, jnp.full((1, 4), 0.5))
    state, timestep = env.step(state, jnp.full((1, 4), 0.125))
    # Three of the four steps were left.
    assert bool(timestep.truncated[0]) and int(timestep.episode_length[0]) == 7
    assert float(timestep.next_obs["state"][0, 0]) == 2.375


def test_the_reward_for_success_is_paid_once_and_ends_the_episode():
    env, state = chunked(chunk=4, reward="success")
    state, timestep = env.step(state, jnp.ones((1, 4)))
    assert bool(timestep.terminated[0]) and float(timestep.reward[0]) == 1.0 and int(timestep.episode_length[0]) == 3
    with pytest.raises(ValueError, match="reward='success' needs a metric 'success'.*use reward='task'"):
        EpisodeEnv(ClockEnv(), 3, reward="success").metric_names  # noqa: B018
