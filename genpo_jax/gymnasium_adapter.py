"""Use our environments as Gymnasium environments, and our policies in Gymnasium environments.

A Gymnasium environment runs one step at a time on the host. That serves other libraries, and a second simulator can
check a policy. To train in Gymnasium's environments, name them `gymnasium:NAME` (`envs/gymnasium.py`).
"""

import os
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from genpo_jax import envs
from genpo_jax.checks import require
from genpo_jax.envs import Environment
from genpo_jax.envs.episode import time_limit
from genpo_jax.envs.host import host_of, ticket_of
from genpo_jax.envs.wrappers import bounds_of, declared_bounds
from genpo_jax.policy import TrainedPolicy
from genpo_jax.runtime import draw_without_display

# A forked copy of a process with jax in it waits forever for threads that were not copied.
IMPORTED_IN = os.getpid()


class GymnasiumEnv(gymnasium.Env):
    """One of our environments with Gymnasium's interface: metrics are in `info`.

    Actions are in [-1, 1], or within the bounds that the environment declares. Episodes are truncated at the time
    limit.

    Args:
        env: name of an environment, or an environment object.
        backend: backend of the physics, for an environment that is given by name.
        episode_length: time limit in env steps; None for that of the environment.
        render_mode: `rgb_array`: `render` returns an image, so that Gymnasium's `RecordVideo` works. None: no images.

    Raises:
        ValueError: in a process that was forked after this module was imported, as by `AsyncVectorEnv`'s default; or
            if images are asked for and the environment has no MuJoCo model, or there is no time limit.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}

    def __init__(
        self,
        env: Any,
        backend: str | None = None,
        episode_length: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        if os.getpid() != IMPORTED_IN:
            raise ValueError(
                "jax cannot compute in a forked process; start processes anew: AsyncVectorEnv(..., context='spawn')"
            )
        require(render_mode in (None, "rgb_array"), "None or 'rgb_array'", "render_mode", render_mode)
        if render_mode is not None:
            draw_without_display()
        self.env: Environment = envs.make(env, backend) if isinstance(env, str) else envs.as_environment(env)
        self.episode_length = time_limit(self.env, episode_length)
        boxes: dict[str, spaces.Space] = {
            name: spaces.Box(-np.inf, np.inf, (size,), np.float32) for name, size in self.env.observation_sizes.items()
        }
        # A single observation is a plain array, as in Gymnasium's own environments.
        self._single = next(iter(boxes)) if len(boxes) == 1 else None
        self.observation_space = boxes[self._single] if self._single else spaces.Dict(boxes)
        declared = declared_bounds(self.env) or bounds_of(None, self.env.action_size)
        low, high = (np.asarray(bound, np.float32) for bound in declared)
        self._box = self.action_space = spaces.Box(low, high, dtype=np.float32)
        self._reset, self._step = jax.jit(self._start), jax.jit(self.env.step)
        self._state: Any = None
        self._steps = 0
        self.render_mode = render_mode
        self._camera = None
        if render_mode is not None:
            from genpo_jax.viewing.pictures import StateCamera

            self._camera = StateCamera(self.env)
            self.metadata = self.metadata | {"render_fps": self._camera.frames_per_second}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode, and return its first observation; equal seeds give equal observations."""
        super().reset(seed=seed, options=options)
        key = jax.random.key(int(self.np_random.integers(2**31)))
        self._state, obs = self._reset(key)
        self._steps = 0
        return self._observation(obs), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Advance by one env step; actions are clipped to their bounds, as in Gymnasium's own environments."""
        require(self._state is not None, "reset before its first step", "the environment", self.env.name)
        action = np.asarray(action, np.float32)
        require(action.shape == self.action_space.shape, f"of shape {self.action_space.shape}", "action", action.shape)
        require(bool(np.isfinite(action).all()), "finite", "action", action.tolist())
        action = np.clip(action, self._box.low, self._box.high)
        self._state, obs, reward, terminated, metrics = self._step(self._state, action)
        self._steps += 1
        info = {name: float(value) for name, value in metrics.items()}
        cut = host_of(self.env) is not None and bool(ticket_of(self._state).truncated)
        truncated = cut or self._steps >= self.episode_length
        return self._observation(obs), float(reward), bool(terminated), truncated, info

    def render(self) -> Any:
        """Return an image `[480, 640, 3]` of the present state, uint8; None without a render mode."""
        if self._camera is None:
            return None
        require(self._state is not None, "reset before it is drawn", "the environment", self.env.name)
        return self._camera.image(self._state)

    def close(self) -> None:
        """Free the renderer."""
        if self._camera is not None:
            self._camera.close()

    def _start(self, key: jax.Array) -> tuple[Any, Any]:
        """Return a fresh `(state, observation)`; simulators on the host get the time limit of this adapter."""
        host = host_of(self.env)
        with nullcontext() if host is None else host.starting(self.episode_length, False):
            return self.env.reset(key)

    def _observation(self, obs: Any) -> Any:
        arrays = {name: np.asarray(value, np.float32) for name, value in obs.items()}
        return arrays[self._single] if self._single else arrays


class GymnasiumPolicy:
    """A policy as a function from an observation to the next action of a Gymnasium environment.

    Call it once for each step of the environment. It calls the policy once per executed part of an action chunk,
    repeats each action as the run did, and keeps the history of observations. Call `reset` at the start of each
    episode.
    """

    def __init__(self, policy: TrainedPolicy, env: gymnasium.Env, keys: tuple[str, ...] | None = None) -> None:
        space = env.action_space
        assert isinstance(space, spaces.Box)
        self._policy, self._spec = jax.jit(policy), policy.spec
        self._observation_space, self._space, self._keys = env.observation_space, space, keys
        self._next: list[np.ndarray] = []
        self._history: list[np.ndarray] = []

    def reset(self) -> None:
        """Drop the remaining actions of the chunk, and the history of observations."""
        self._next, self._history = [], []

    def __call__(self, obs: Any, key: jax.Array | None = None) -> np.ndarray:
        """Return the next action, within the bounds of the environment; a key samples the chunk if one is due."""
        parts = [(self._observation_space, obs)]
        if self._keys is not None:
            assert isinstance(self._observation_space, spaces.Dict)
            parts = [(self._observation_space[key], obs[key]) for key in self._keys]
        newest = np.concatenate([np.asarray(spaces.flatten(*part), np.float32) for part in parts])
        count = self._spec.history
        self._history = [*(self._history or [newest] * count), newest][-count:]
        if not self._next:
            flat = jnp.asarray(np.concatenate(self._history))
            chunk = np.asarray(self._policy(flat, key), np.float64).reshape(self._spec.chunk, *self._space.shape)
            self._next = list(np.repeat(chunk[: self._spec.executed], self._spec.action_repeat, axis=0))
        low, high, action = self._space.low, self._space.high, self._next.pop(0)
        # A policy without action bounds has actions in [-1, 1].
        scaled = low + (action + 1) / 2 * (high - low) if self._spec.action_low is None else np.clip(action, low, high)
        return scaled.astype(self._space.dtype)


def policy_for(policy: TrainedPolicy, env: gymnasium.Env, keys: Sequence[str] | None = None) -> GymnasiumPolicy:
    """Return a policy for a Gymnasium environment: `act(obs, key=None)` is the action of the next step.

    Sizes are checked, meanings cannot be: the environment must order observations and actions as in training.

    Args:
        policy: a policy from `genpo_jax.load` or `Run.policy`.
        env: an environment whose action space is a bounded `Box`.
        keys: names of the parts of a `Dict` observation, in the order of training. None: the part with the name of the
            policy's observation, or the only part.

    Raises:
        ValueError: if observation or action have other sizes, the actions have no bounds, or `keys` are needed.
    """
    keys = _keys(policy, env.observation_space, keys)
    space = env.action_space
    bounded = isinstance(space, spaces.Box) and space.is_bounded()
    require(bounded, "a Box with bounds", "the action space", space)
    sizes = (policy.spec.obs_size // policy.spec.history, policy.spec.action_size // policy.spec.chunk)
    seen = env.observation_space
    parts = [seen[key] for key in keys or ()] if isinstance(seen, spaces.Dict) else [seen]
    own = (sum(map(spaces.flatdim, parts)), spaces.flatdim(space))
    if own != sizes:
        raise ValueError(
            f"the environment must have observation size {sizes[0]} and action size {sizes[1]}, got {own[0]} and "
            f"{own[1]}; choose another environment"
        )
    return GymnasiumPolicy(policy, env, keys)


def _keys(policy: TrainedPolicy, space: spaces.Space, keys: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return which parts of a `Dict` observation the policy sees, in order; None for another space."""
    if not isinstance(space, spaces.Dict):
        require(keys is None, "None for an observation that is no Dict", "keys", keys)
        return None
    names = list(space.spaces)
    if keys is None and policy.spec.obs_name in names:
        keys = (policy.spec.obs_name,)
    # Spaces sort their keys or not, depending on how they were made, so their order means nothing.
    remedy = f"name the parts in the order of training, as in policy_for(policy, env, keys={tuple(names)})"
    keys = tuple(names) if keys is None and len(names) == 1 else keys
    require(keys is not None, "given for a Dict observation", "keys", keys, remedy)
    keys = tuple(keys or ())
    require(len(keys) > 0 and set(keys) <= set(names), f"among {names}", "keys", keys)
    return keys


def returns(
    policy: TrainedPolicy, env: gymnasium.Env, episodes: int, seed: int = 0, keys: Sequence[str] | None = None
) -> np.ndarray:
    """Return the returns `[episodes]` of a policy with deterministic actions in a Gymnasium environment.

    Raises:
        ValueError: as `policy_for`, or if `episodes` is less than 1.
    """
    require(episodes >= 1, ">= 1", "episodes", episodes)
    act, totals = policy_for(policy, env, keys), np.zeros(episodes)
    for episode in range(episodes):
        act.reset()
        obs, _ = env.reset(seed=seed + episode)
        ended = False
        while not ended:
            obs, reward, terminated, truncated, _ = env.step(act(obs))
            totals[episode] += float(reward)
            ended = terminated or truncated
    return totals
