from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import ClockEnv

from genpo_jax.config import EnvConfig
from genpo_jax.data.collect import record_demonstrations, unwrapped
from genpo_jax.envs import EpisodeEnv, make
from genpo_jax.envs.mirror import Mirror, exchanged, signs, unchanged
from genpo_jax.envs.randomized import RandomizedEnvironment
from genpo_jax.envs.wrappers import History, bounds_of, declared_bounds, from_units, in_units, wrapped
from genpo_jax.training.play import Actor


class Counter:
    """Observes the number of its steps and the last action; two actions, in volts from -2 to 6."""

    name, action_size, observation_sizes, default_episode_length = "counter", 2, {"state": 2, "privileged_state": 1}, 4
    action_low, action_high = -2, 6
    mirror = Mirror({"state": unchanged(2), "privileged_state": unchanged(1)}, exchanged(1, 0))

    def reset(self, key):
        return jnp.float32(0), self._seen(jnp.float32(0), jnp.zeros(2))

    def step(self, state, action):
        return state + 1, self._seen(state + 1, action), action.sum(), state + 1 >= 3, {}

    def _seen(self, count, action):
        return {"state": jnp.stack([count, action[0]]), "privileged_state": count[None]}


def played(episodes, actions):
    """Return the observations of the actor [T + 1, n] and the rewards of one environment."""
    state = episodes.init(jax.random.split(jax.random.key(0), 1))
    seen, rewards = [state.obs["state"][0]], []
    for action in actions:
        state, timestep = episodes.step(state, jnp.asarray([action], jnp.float32))
        seen.append(state.obs["state"][0])
        rewards.append(float(timestep.reward[0]))
    return np.stack(seen), rewards


def test_actions_are_scaled_to_the_bounds_that_an_environment_declares():
    episodes = EpisodeEnv.of(Counter(), EnvConfig(squash="clip"))
    seen, rewards = played(episodes, [[-1, 1], [0, 0.5]])
    np.testing.assert_allclose(seen[:, 1], [0, -2, 2])
    np.testing.assert_allclose(rewards, [-2 + 6, 2 + 4])


def test_the_bounds_of_a_run_come_first_and_the_environment_clips_them():
    options = EnvConfig(squash="clip", action_low=(0.0, -10.0), action_high=(1.0, 10.0))
    _, rewards = played(EpisodeEnv.of(Counter(), options), [[-1, 1], [1, -1]])
    np.testing.assert_allclose(rewards, [0 + 6, 1 - 2])


def test_a_history_is_filled_by_the_first_observation_and_starts_anew_in_each_episode():
    episodes = EpisodeEnv.of(Counter(), EnvConfig(squash="clip", history=3))
    assert episodes.env.observation_sizes == {"state": 6, "privileged_state": 1}
    seen, _ = played(episodes, np.zeros((4, 2)))
    counts = seen[:, 0::2]
    np.testing.assert_array_equal(counts, [[0, 0, 0], [0, 0, 1], [0, 1, 2], [0, 0, 0], [0, 0, 1]])


def test_the_first_observation_that_fills_a_history_need_not_be_zero():
    class FromFive(ClockEnv):
        def reset(self, key):
            return jnp.asarray(5.0), {"state": jnp.full(1, 5.0)}

    state, obs = History(FromFive(), 3).reset(jax.random.key(0))
    assert obs["state"].tolist() == [5, 5, 5]
    assert History(FromFive(), 3).step(state, jnp.zeros(1))[1]["state"].tolist() == [5, 5, 6]


def test_a_policy_sees_the_observation_that_it_names_with_its_history_and_the_critic_its_own():
    episodes = EpisodeEnv.of(Counter(), EnvConfig(squash="clip", observations="privileged_state", history=2))
    assert episodes.env.observation_sizes == {"state": 2, "privileged_state": 1}
    seen, _ = played(episodes, np.zeros((2, 2)))
    np.testing.assert_array_equal(seen, [[0, 0], [0, 1], [1, 2]])
    assert episodes.init(jax.random.split(jax.random.key(0), 1)).obs["privileged_state"].shape == (1, 1)
    image = episodes.mirror.observation({"state": jnp.arange(2.0), "privileged_state": jnp.ones(1)})
    np.testing.assert_array_equal(image["state"], [0, 1])


def test_an_unknown_observation_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="observations must be one of privileged_state, state, .* got 'camera'"):
        wrapped(Counter(), EnvConfig(observations="camera"))


def test_with_repeated_actions_the_history_has_every_env_step():
    seen, _ = played(EpisodeEnv.of(Counter(), EnvConfig(squash="clip", history=2, action_repeat=2)), np.zeros((1, 2)))
    np.testing.assert_array_equal(seen[:, 0::2], [[0, 0], [1, 2]])


def test_the_mirror_image_of_a_history_mirrors_each_observation():
    class Mirrored(Counter):
        mirror = Mirror({"state": signs(1, -1), "privileged_state": unchanged(1)}, exchanged(1, 0))

    mirror = EpisodeEnv.of(Mirrored(), EnvConfig(history=2, chunk=2)).mirror
    image = mirror.observation({"state": jnp.arange(1.0, 5), "privileged_state": jnp.ones(1)})["state"]
    np.testing.assert_array_equal(image, [1, -2, 3, -4])
    np.testing.assert_array_equal(mirror.action(jnp.arange(4)), [1, 0, 3, 2])


def test_a_mirror_image_with_other_bounds_is_refused():
    options = EnvConfig(action_low=(-1.0, -2.0), action_high=(1.0, 2.0))
    with pytest.raises(ValueError, match="the bounds of the actions of counter must be their own mirror image"):
        EpisodeEnv.of(Counter(), options).mirror  # noqa: B018
    same = EnvConfig(action_low=(-1.0, -1.0), action_high=(2.0, 2.0))
    assert EpisodeEnv.of(Counter(), same).mirror.action == exchanged(1, 0)


def test_units_and_back_with_a_constant_coordinate():
    bounds = ((-1.0, 3.0, 5.0), (1.0, 7.0, 5.0))
    action = np.array([[-0.5, 4.0, 5.0], [1.0, 7.0, 5.0]], np.float32)
    scaled = from_units(action, bounds)
    np.testing.assert_allclose(scaled, [[-0.5, -0.5, 0], [1, 1, 0]])
    np.testing.assert_allclose(in_units(scaled, bounds), action)


@pytest.mark.parametrize(
    ("low", "high", "sentence"),
    [
        (None, 1, "action_low of counter must be 2 finite numbers, got None"),
        ([0, 0, 0], 1, "action_low of counter must be 2 finite numbers"),
        (-np.inf, 1, "action_low of counter must be 2 finite numbers"),
        ("0", 1, "action_low of counter must be 2 finite numbers"),
        ([0, 2], [1, 2], "action_low of counter must be below action_high"),
    ],
)
def test_wrong_bounds_of_an_environment_are_refused(low, high, sentence):
    env = Counter()
    env.action_low, env.action_high = low, high
    with pytest.raises(ValueError, match=sentence):
        EpisodeEnv.of(env, EnvConfig())


def test_wrong_bounds_of_a_run_are_refused():
    for low, high in (((0.0,), None), ((0.0, np.nan), (1.0, 1.0)), ((2.0,), (1.0,)), ((0.0,), (1.0, 1.0))):
        with pytest.raises(ValueError, match="action_low"):
            EnvConfig(action_low=low, action_high=high)
    with pytest.raises(ValueError, match=r"must be of 2 numbers each, got \(3, 3\)"):
        wrapped(Counter(), EnvConfig(action_low=(0.0,) * 3, action_high=(1.0,) * 3))
    assert bounds_of(EnvConfig(action_low=(0.0,), action_high=(2.0,)), 2) == ((0.0, 0.0), (2.0, 2.0))


def test_an_environment_without_history_and_bounds_is_not_wrapped():
    env = make("fast")
    assert wrapped(env, EnvConfig()) is env
    seen = wrapped(env, replace(EnvConfig(), history=2))
    assert seen.name == "fast" and seen.observation_sizes["state"] == 2 * env.observation_sizes["state"]


def test_a_randomized_environment_keeps_its_bounds():
    env = Counter()
    env.sys = {"mass": jnp.ones(())}
    randomized = RandomizedEnvironment(env, lambda model, keys: ({"mass": jnp.ones(len(keys))}, {"mass": 0}))
    assert declared_bounds(randomized) == ((-2.0, -2.0), (6.0, 6.0))


def test_recorded_actions_are_those_that_the_environment_executed():
    env, view = Counter(), EnvConfig(action_low=(-8.0, -8.0), action_high=(8.0, 8.0))
    actor = Actor(lambda key: (), lambda carry, obs, key: (carry, jnp.asarray([[1.0, -1.0]])))
    recorded = unwrapped(record_demonstrations(wrapped(env, view), actor, 1, jax.random.key(0)), env, view)
    np.testing.assert_allclose(recorded.episodes[0].action[0], [6.0, -2.0])
    np.testing.assert_allclose(recorded.episodes[0].obs[1], [1.0, 6.0])
