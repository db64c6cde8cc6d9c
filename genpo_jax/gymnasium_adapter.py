"""Our environments as Gymnasium's, and our policies in Gymnasium's environments.

Gymnasium steps one environment at a time on the host: good for other libraries' code and for a second opinion on a
policy, not for training here, which needs environments that are JAX functions.
"""

from collections.abc import Callable
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from genpo_jax import envs
from genpo_jax.checks import require
from genpo_jax.envs import Environment
from genpo_jax.policy import TrainedPolicy


class GymnasiumEnv(gymnasium.Env):
    """One of our environments as Gymnasium's: actions in [-1, 1], truncation at its time limit, metrics in `info`.

    Args:
        env: its name, or an environment object.
        backend: of its physics, where it has a name.
        episode_length: time limit in steps; None for the environment's own.
    """

    metadata = {"render_modes": []}

    def __init__(self, env: Any, backend: str | None = None, episode_length: int | None = None) -> None:
        self.env: Environment = envs.make(env, backend) if isinstance(env, str) else envs.as_environment(env)
        self.episode_length = episode_length or self.env.default_episode_length
        boxes: dict[str, spaces.Space] = {
            name: spaces.Box(-np.inf, np.inf, (size,), np.float32) for name, size in self.env.observation_sizes.items()
        }
        # A single observation is a plain array, as in Gymnasium's own environments.
        self._single = next(iter(boxes)) if len(boxes) == 1 else None
        self.observation_space = boxes[self._single] if self._single else spaces.Dict(boxes)
        self.action_space = spaces.Box(-1.0, 1.0, (self.env.action_size,), np.float32)
        self._reset, self._step = jax.jit(self.env.reset), jax.jit(self.env.step)
        self._state: Any = None
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode, and return its first observation; the same one for the same seed."""
        super().reset(seed=seed, options=options)
        key = jax.random.key(int(self.np_random.integers(2**31)))
        self._state, obs = self._reset(key)
        self._steps = 0
        return self._observation(obs), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Do one step; what is beyond [-1, 1] is clipped, as Gymnasium's own environments do."""
        require(self._state is not None, "reset before its first step", "the environment", self.env.name)
        action = np.asarray(action, np.float32)
        require(action.shape == self.action_space.shape, f"of shape {self.action_space.shape}", "action", action.shape)
        self._state, obs, reward, terminated, metrics = self._step(self._state, np.clip(action, -1.0, 1.0))
        self._steps += 1
        info = {name: float(value) for name, value in metrics.items()}
        return self._observation(obs), float(reward), bool(terminated), self._steps >= self.episode_length, info

    def _observation(self, obs: Any) -> Any:
        arrays = {name: np.asarray(value, np.float32) for name, value in obs.items()}
        return arrays[self._single] if self._single else arrays


def policy_for(policy: TrainedPolicy, env: gymnasium.Env) -> Callable[..., np.ndarray]:
    """Return a policy as a function of an environment of Gymnasium: `(obs, key=None) -> action` in its bounds.

    What the numbers mean is for the caller to know: the environment must order its observation and its action as that
    of training does.

    Args:
        policy: from `genpo_jax.load` or `Run.policy`.
        env: whose actions are a bounded `Box`.

    Raises:
        ValueError: if observation or action have other sizes, or actions have no bounds.
    """
    space = env.action_space
    bounded = isinstance(space, spaces.Box) and space.is_bounded()
    require(bounded, "a Box with bounds", "the action space", space)
    assert isinstance(space, spaces.Box)
    found = (spaces.flatdim(env.observation_space), spaces.flatdim(space))
    wanted = (policy.spec.obs_size, policy.spec.action_size)
    require(found == wanted, f"of {wanted[0]} observed numbers and {wanted[1]} of action", "the environment", found)
    act = jax.jit(policy)

    def action(obs: Any, key: jax.Array | None = None) -> np.ndarray:
        chosen = np.asarray(act(jnp.asarray(spaces.flatten(env.observation_space, obs), jnp.float32), key), np.float64)
        scaled = space.low + (chosen.reshape(space.shape) + 1) / 2 * (space.high - space.low)
        return scaled.astype(space.dtype)

    return action


def returns(policy: TrainedPolicy, env: gymnasium.Env, episodes: int, seed: int = 0) -> np.ndarray:
    """Return the returns `[episodes]` of a policy, with zero noise, in an environment of Gymnasium.

    Raises:
        ValueError: as `policy_for`, or if there is no episode to play.
    """
    require(episodes >= 1, ">= 1", "episodes", episodes)
    act, totals = policy_for(policy, env), np.zeros(episodes)
    for episode in range(episodes):
        obs, _ = env.reset(seed=seed + episode)
        ended = False
        while not ended:
            obs, reward, terminated, truncated, _ = env.step(act(obs))
            totals[episode] += float(reward)
            ended = terminated or truncated
    return totals
