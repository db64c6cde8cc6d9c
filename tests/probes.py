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


def privileged_target():
    """Return `TargetEnv` with its privileged observation, for runs that name it `probes:privileged_target`."""
    return TargetEnv(privileged=True)


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


class IntegratorEnv:
    """The sum x of the actions so far is state, observation and reward; it starts at 0. A step takes 0.05 s."""

    name = "integrator"
    action_size = 1
    observation_sizes = {"state": 1}
    default_episode_length = 6
    dt = 0.05

    def reset(self, key):
        return jnp.zeros(1), {"state": jnp.zeros(1)}

    def step(self, state, action):
        state = state + action
        return state, {"state": state}, state[0], jnp.asarray(False), {"success": state[0] > 1.2}


def planning_policy(chunk=4, executed=2, action_repeat=2):
    """Return a Gaussian policy of `IntegratorEnv`; for x >= 0 its mean is [.1, .2, .3, .4] + [.5, .25, 0, 0] x."""
    from flax import nnx
    from settings import networks, sized

    from genpo_jax.policy import PolicySpec, TrainedPolicy

    spec = PolicySpec(
        env="probes:IntegratorEnv",
        seed=0,
        obs_size=1,
        obs_name="state",
        action_size=chunk,
        squash="clip",
        method=sized((1,), "gaussian", initial_std=0.05),
        networks=networks((8,), activation="elu"),
        normalized=False,
        chunk=chunk,
        executed=executed,
        action_repeat=action_repeat,
    )
    policy = spec.build()
    hidden, output = policy.mean.layers[0], policy.mean.output
    hidden.kernel[...], hidden.bias[...] = jnp.ones((1, 1)), jnp.zeros(1)
    output.kernel[...] = jnp.array([[0.5, 0.25, 0.0, 0.0]])[:, :chunk]
    output.bias[...] = jnp.array([0.1, 0.2, 0.3, 0.4])[:chunk]
    return TrainedPolicy(spec, nnx.state(policy, nnx.Param), None)
