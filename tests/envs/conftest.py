import jax
import jax.numpy as jnp
import pytest

from genpo_jax.envs import EpisodeEnv


class CountingEnv:
    """An environment that counts steps: reward n at the n-th step, observation [n, start, action].

    `start` is random in [0, 1), so it identifies the reset that a state comes from. An action of 1 poisons the
    observation with NaN, and -1 makes the reward 1e9. The episode terminates at step `terminate_at`.
    """

    name = "counting"
    action_size = 1
    observation_sizes = {"state": 3}
    default_episode_length = 10

    def __init__(self, terminate_at=1_000_000, nan_resets=False):
        self.terminate_at = terminate_at
        self.nan_resets = nan_resets

    def reset(self, key):
        start = jnp.nan if self.nan_resets else jax.random.uniform(key)
        state = {"count": jnp.int32(0), "start": jnp.float32(start), "key": key, "weak": jnp.asarray(0.0)}
        return state, self._obs(state, jnp.zeros(1))

    def step(self, state, action):
        count = state["count"] + 1
        # A Python scalar in the state, as in Brax.
        state = {**state, "count": count, "weak": 1.0}
        reward = jnp.where(action[0] <= -1, 1e9, count)
        return state, self._obs(state, action), reward, count >= self.terminate_at, {"count": count, "ones": 1}

    def _obs(self, state, action):
        poison = jnp.where(action[0] >= 1, jnp.nan, 0.0)
        return {"state": jnp.stack([state["count"] + poison, state["start"], action[0]])}


@pytest.fixture
def counting_env():
    return CountingEnv


@pytest.fixture
def counting_episodes():
    """Return the function `make(episode_length, terminate_at=..., ...)`, which returns an `EpisodeEnv`."""

    def make(episode_length, action_repeat=1, squash="clip", **kwargs):
        return EpisodeEnv(CountingEnv(**kwargs), episode_length, action_repeat, squash)

    return make
