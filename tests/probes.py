"""Small environments with a known solution."""

import jax
import jax.numpy as jnp


class TargetEnv:
    """One observation x in [-1, 1] per step; the reward is `-(action - x / 2)^2`, best at action = x / 2."""

    name = "target"
    action_size = 1
    default_episode_length = 8

    def __init__(self, privileged=False, nan_at=None):
        self.nan_at = nan_at
        self.observation_sizes = {"state": 1} | ({"privileged_state": 2} if privileged else {})

    def _draw(self, key, count):
        key, draw_key = jax.random.split(key)
        x = jax.random.uniform(draw_key, (1,), minval=-1.0)
        obs = {"state": x, "privileged_state": jnp.concatenate([x, x**2])}
        return (key, x, count), {name: obs[name] for name in self.observation_sizes}

    def reset(self, key):
        return self._draw(key, jnp.int32(0))

    def step(self, state, action):
        key, x, count = state
        reward = -jnp.square(action - x / 2).sum()
        if self.nan_at is not None:
            reward = jnp.where(count == self.nan_at, jnp.nan, reward)
        state, obs = self._draw(key, count + 1)
        return state, obs, reward, jnp.asarray(False), {"target": x[0] / 2}


class ConstantEnv:
    """Constant reward 1; episodes end only by the time limit, or terminate in every step."""

    name = "constant"
    action_size = 1
    observation_sizes = {"state": 1}
    default_episode_length = 4

    def __init__(self, terminates=False):
        self.terminates = terminates

    def reset(self, key):
        return jnp.zeros(()), {"state": jnp.zeros(1)}

    def step(self, state, action):
        return state, {"state": jnp.zeros(1)}, jnp.ones(()), jnp.asarray(self.terminates), {"steps": 1.0}


class ClockEnv:
    """The observation is the number of steps so far."""

    name = "clock"
    action_size = 1
    observation_sizes = {"state": 1}
    default_episode_length = 3

    def reset(self, key):
        return jnp.zeros(()), {"state": jnp.zeros(1)}

    def step(self, state, action):
        return state + 1, {"state": (state + 1)[None]}, jnp.ones(()), jnp.asarray(False), {}
