"""An imperfect robot: pushes, delayed actions, and a policy's observation with noise, bias and delay.

Each wrapper changes what the actor sees, `state`, or what the robot does. What the critic sees, `privileged_state`,
stays exact. Everything is drawn from a key in the state, so a run resumes bit-identically.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.struct import PyTreeNode
from jax import Array

from genpo_jax.checks import require
from genpo_jax.config import EnvConfig, span
from genpo_jax.envs.base import ACTOR_OBS, CRITIC_OBS, Environment, Metrics, Observation
from genpo_jax.envs.contract import check_environment
from genpo_jax.envs.mirror import Mirror
from genpo_jax.envs.names import unknown_in_model
from genpo_jax.envs.teachers import Turns, observed_by_teachers
from genpo_jax.envs.wrappers import View, Wrapper, require_observation

Step = tuple[Any, Observation, Array, Array, Metrics]


def with_imperfections(
    env: Environment, options: EnvConfig, active: bool, teachers: Sequence[View] = ()
) -> Environment:
    """Return an environment with the imperfections of a run, and with the observations of its teachers.

    Teachers see exact observations, as the critic does, also where the policy's are late or noisy.

    Args:
        env: the environment.
        options: settings of the run.
        active: False for a perfect robot with the same observations, as in evaluations.
        teachers: what each teacher sees, see `genpo_jax.envs.teachers`.

    Raises:
        ValueError: if the environment cannot be pushed, its `noise_scale` has another size than `state`, or it does not
            have the observation of a teacher.
    """
    imperfect = active and bool(options.imperfections)
    if options.imperfections:
        # First, because a wrapper uses the environment.
        check_environment(env)
        if CRITIC_OBS not in env.observation_sizes:
            env = ExactCritic(env)
    if imperfect and options.push:
        env = Pushed(env, options.push, options.push_interval)
    if teachers:
        # Before the observations of the teachers exist, which are not for the policy.
        require_observation(env, options.observations)
    env = observed_by_teachers(env, teachers)
    if imperfect:
        env = _late_and_noisy(env, options)
    # Last, because it observes the action that the policy took, not one that is executed late.
    return Turns(env, len(teachers)) if teachers else env


def _late_and_noisy(env: Environment, options: EnvConfig) -> Environment:
    if span(options.action_delay, "action_delay")[1]:
        env = LateActions(env, options.action_delay)
    if options.obs_noise or options.obs_bias:
        env = NoisyObservations(env, options.obs_noise, options.obs_bias)
    return LateObservations(env, options.obs_delay) if span(options.obs_delay, "obs_delay")[1] else env


class ExactCritic(Wrapper):
    """An environment whose `privileged_state` is its `state`, before another wrapper changes the latter."""

    def __init__(self, env: Environment) -> None:
        super().__init__(env)
        self.observation_sizes = env.observation_sizes | {CRITIC_OBS: env.observation_sizes[ACTOR_OBS]}

    def reset(self, key: Array) -> tuple[Any, Observation]:
        """Return a fresh `(state, observation)` for a typed PRNG key."""
        state, obs = self.env.reset(key)
        return state, obs | {CRITIC_OBS: obs[ACTOR_OBS]}

    def step(self, state: Any, action: Array) -> Step:
        """Return `(state, observation, reward, terminated, metrics)` for an action `[d]`."""
        state, obs, reward, terminated, metrics = self.env.step(state, action)
        return state, obs | {CRITIC_OBS: obs[ACTOR_OBS]}, reward, terminated, metrics

    @property
    def mirror(self) -> Mirror | None:
        """The symmetry of the environment."""
        mirror = getattr(self.env, "mirror", None)
        if mirror is None:
            return None
        return Mirror(mirror.observations | {CRITIC_OBS: mirror.observations[ACTOR_OBS]}, mirror.action)


class NoisyState(PyTreeNode):
    """State of an environment with noisy observations.

    Attributes:
        env_state: state of the inner environment.
        bias: error of the observation in this episode `[n]`.
        key: key of the noise of the next steps.
    """

    env_state: Any
    bias: Array
    key: Array


class NoisyObservations(Wrapper):
    """An environment whose actor sees its observation plus noise of each step and a bias of each episode.

    Both are Gaussian. The attribute `noise_scale` of the environment, one number or one per coordinate, multiplies
    them; 0 keeps a coordinate exact, such as a target that the robot itself has set.

    Args:
        env: the environment.
        noise: standard deviation of the noise.
        bias: standard deviation of the bias.
    """

    def __init__(self, env: Environment, noise: float, bias: float) -> None:
        super().__init__(env)
        size = env.observation_sizes[ACTOR_OBS]
        scale = np.asarray(getattr(env, "noise_scale", 1.0), np.float32)
        fits = scale.shape in ((), (size,)) and bool((scale >= 0).all())
        require(fits, f"one number >= 0, or {size}", f"noise_scale of {env.name}", scale.tolist())
        self.noise, self.bias = noise * np.broadcast_to(scale, size), bias * np.broadcast_to(scale, size)

    def reset(self, key: Array) -> tuple[NoisyState, Observation]:
        """Return a fresh `(state, observation)` for a typed PRNG key."""
        key, bias_key, noise_key = jax.random.split(key, 3)
        env_state, obs = self.env.reset(key)
        bias = jnp.asarray(self.bias) * jax.random.normal(bias_key, self.bias.shape)
        return self._seen(NoisyState(env_state, bias, noise_key), obs)

    def step(self, state: NoisyState, action: Array) -> Step:
        """Return `(state, observation, reward, terminated, metrics)` for an action `[d]`."""
        env_state, obs, reward, terminated, metrics = self.env.step(state.env_state, action)
        state, obs = self._seen(state.replace(env_state=env_state), obs)
        return state, obs, reward, terminated, metrics

    def _seen(self, state: NoisyState, obs: Observation) -> tuple[NoisyState, Observation]:
        key, noise_key = jax.random.split(state.key)
        exact = obs[ACTOR_OBS]
        error = state.bias + self.noise * jax.random.normal(noise_key, exact.shape)
        return state.replace(key=key), obs | {ACTOR_OBS: exact + error.astype(exact.dtype)}


class LateState(PyTreeNode):
    """State of an environment with a delay.

    Attributes:
        env_state: state of the inner environment.
        recent: the last values, oldest first `[k, n]`.
        delay: delay in this episode in env steps, at most k - 1.
        fresh: whether the next value is the first of the episode.
    """

    env_state: Any
    recent: Array
    delay: Array
    fresh: Array

    @classmethod
    def drawn(cls, key: Array, delay: str, env_state: Any, value: Array, fresh: bool) -> "LateState":
        """Return the state at the start of an episode with a delay from a range."""
        low, high = map(int, span(delay, "a delay"))
        recent = jnp.tile(value, (high + 1, 1))
        return cls(env_state, recent, jax.random.randint(key, (), low, high + 1), jnp.asarray(fresh))

    def take(self, value: Array) -> "LateState":
        """Return the state after a new value; the first value of an episode is taken for all values before it."""
        shifted = jnp.concatenate([self.recent[1:], value[None]])
        recent = jnp.where(self.fresh, jnp.broadcast_to(value, shifted.shape), shifted)
        return self.replace(recent=recent, fresh=jnp.zeros_like(self.fresh))

    @property
    def late(self) -> Array:
        """The value of `delay` steps ago `[n]`."""
        return self.recent[len(self.recent) - 1 - self.delay]


class Late(Wrapper):
    """An environment with a delay.

    Args:
        env: the environment.
        delay: range of the delay in env steps, drawn per episode.
    """

    def __init__(self, env: Environment, delay: str) -> None:
        super().__init__(env)
        self.delay = delay


class LateActions(Late):
    """An environment that executes an action some steps after it was given.

    Until the first action of an episode is due again, it is executed without delay: there is none before it.
    """

    def reset(self, key: Array) -> tuple[LateState, Observation]:
        """Return a fresh `(state, observation)` for a typed PRNG key."""
        key, delay_key = jax.random.split(key)
        env_state, obs = self.env.reset(key)
        return LateState.drawn(delay_key, self.delay, env_state, jnp.zeros(self.action_size), True), obs

    def step(self, state: LateState, action: Array) -> Step:
        """Return `(state, observation, reward, terminated, metrics)` for an action `[d]`."""
        state = state.take(action)
        env_state, obs, reward, terminated, metrics = self.env.step(state.env_state, state.late)
        return state.replace(env_state=env_state), obs, reward, terminated, metrics


class LateObservations(Late):
    """An environment whose actor sees the observation of some steps ago, or the first one of the episode."""

    def reset(self, key: Array) -> tuple[LateState, Observation]:
        """Return a fresh `(state, observation)` for a typed PRNG key."""
        key, delay_key = jax.random.split(key)
        env_state, obs = self.env.reset(key)
        return LateState.drawn(delay_key, self.delay, env_state, obs[ACTOR_OBS], False), obs

    def step(self, state: LateState, action: Array) -> Step:
        """Return `(state, observation, reward, terminated, metrics)` for an action `[d]`."""
        env_state, obs, reward, terminated, metrics = self.env.step(state.env_state, action)
        state = state.take(obs[ACTOR_OBS]).replace(env_state=env_state)
        return state, obs | {ACTOR_OBS: state.late}, reward, terminated, metrics


class PushedState(PyTreeNode):
    """State of an environment with pushes.

    Attributes:
        env_state: state of the inner environment.
        left: env steps until the next push.
        key: key of the next pushes.
    """

    env_state: Any
    left: Array
    key: Array


class Pushed(Wrapper):
    """An environment whose robot or objects are pushed at random times: their velocities change at once.

    Args:
        env: an environment with the methods of `MjcfTask`.
        pushes: what is pushed, see `EnvConfig.push`.
        interval: range of the env steps between two pushes.

    Raises:
        ValueError: if the environment cannot be pushed, or its model has no such joint or free body.
    """

    def __init__(self, env: Environment, pushes: Sequence[str], interval: str) -> None:
        super().__init__(env)
        task: Any = env
        require(hasattr(task, "pushed"), "an MJCF task", "an environment with push", env.name, "leave push out")
        self.low, self.high = map(int, span(interval, "push_interval"))
        self.speeds = _speeds(task.mj_model, pushes)

    def reset(self, key: Array) -> tuple[PushedState, Observation]:
        """Return a fresh `(state, observation)` for a typed PRNG key."""
        key, left_key, push_key = jax.random.split(key, 3)
        env_state, obs = self.env.reset(key)
        return PushedState(env_state, self._left(left_key), push_key), obs

    def step(self, state: PushedState, action: Array) -> Step:
        """Return `(state, observation, reward, terminated, metrics)` for an action `[d]`."""
        key, change_key, left_key = jax.random.split(state.key, 3)
        due = state.left <= 0
        change = self.speeds * jax.random.uniform(change_key, self.speeds.shape, minval=-1.0, maxval=1.0)
        task: Any = self.env
        pushed = task.pushed(state.env_state, jnp.where(due, change, 0.0))
        env_state, obs, reward, terminated, metrics = self.env.step(pushed, action)
        left = jnp.where(due, self._left(left_key), state.left) - 1
        return PushedState(env_state, left, key), obs, reward, terminated, metrics

    def _left(self, key: Array) -> Array:
        return jax.random.randint(key, (), self.low, self.high + 1)


def _speeds(model: Any, pushes: Sequence[str]) -> np.ndarray:
    """Return the largest change of each velocity `[nv]`, for MuJoCo's model.

    Raises:
        ValueError: if a name is no joint and no body with a free joint, or a speed is not positive.
    """
    # Imported here, because most environments need no MuJoCo.
    import mujoco

    free = model.jnt_type == mujoco.mjtJoint.mjJNT_FREE
    bodies = {model.body(model.jnt_bodyid[i]).name: i for i in np.flatnonzero(free)}
    joints = bodies | {model.joint(i).name: i for i in range(model.njnt)}
    speeds = np.zeros(model.nv, np.float32)
    for item in pushes:
        name, _, number = item.rpartition("=")
        speed = span(number, f"the speed of push {name}")[0]
        require(speed > 0, "positive", f"the speed of push {name}", number)
        if name not in joints:
            known = [known for known in joints if known]
            raise ValueError(f"push {name}: {unknown_in_model('joint or free body', name, known)}")
        first = model.jnt_dofadr[joints[name]]
        of_joint = model.dof_jntid == joints[name]
        # The first two velocities of a free joint are horizontal.
        speeds[np.flatnonzero(of_joint) if not free[joints[name]] else [first, first + 1]] = speed
    return speeds
