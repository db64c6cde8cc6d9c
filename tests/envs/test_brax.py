import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genpo_jax.envs import EpisodeEnv, EpisodeState, make, names
from genpo_jax.envs.adapter import LibraryEnvironment


@pytest.fixture(scope="module")
def hopper():
    return make("hopper", "spring")


@pytest.fixture(scope="module")
def pendulum():
    return make("inverted_pendulum", "spring")


def test_sizes_and_time_limit_equal_brax(hopper):
    assert (hopper.observation_sizes, hopper.action_size) == ({"state": 11}, 3)
    assert hopper.default_episode_length == 1000


@pytest.mark.ci
def test_a_single_hopper_stays_upright_in_its_first_steps(hopper):
    state, obs = hopper.reset(jax.random.key(0))
    assert obs["state"].shape == (11,)
    for _ in range(3):
        state, obs, reward, terminated, metrics = hopper.step(state, jnp.zeros(3))
        assert 0.5 < reward < 1.5, "1 for being upright, plus the speed"
        assert not terminated
        assert metrics["x_velocity"] == state.metrics["x_velocity"]
    assert state.pipeline_state.x.pos[0, 2] > 0.7


def strong(tree):
    """Make types strong: Brax's first step makes some weak, which costs a second compilation."""
    return jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype), tree)


@pytest.mark.ci
def test_rollouts_equal_brax_wrappers_up_to_the_first_reset(pendulum):
    from brax.envs import training

    num_envs, limit = 8, 20
    keys = jax.random.split(jax.random.key(0), num_envs)
    actions = jax.random.normal(jax.random.key(1), (limit, num_envs, 1))
    wrapped = training.wrap(pendulum.raw, episode_length=limit)
    state = jax.jit(wrapped.reset)(jax.random.key_data(keys))
    env_state, obs = jax.vmap(pendulum.reset)(keys)
    np.testing.assert_allclose(obs["state"], state.obs, rtol=1e-6)

    episodes = EpisodeEnv(pendulum, episode_length=limit)
    zeros = jnp.zeros(num_envs)
    counts = {"episode_return": zeros, "episode_length": zeros.astype(jnp.int32), "episode_metrics": {}}
    pool = (env_state, obs)
    counts["time_limit"] = jnp.full(num_envs, limit, jnp.int32)
    ours = EpisodeState(env_state=env_state, obs=obs, **counts, pool=pool, key=keys)
    step, brax_step = jax.jit(episodes.step), jax.jit(lambda s, a: strong(wrapped.step(s, a)))
    running = np.ones(num_envs, bool)
    ends = {"terminated": 0, "truncated": 0}
    for action in actions:
        ours, timestep = step(ours, action)
        state = brax_step(state, jnp.tanh(action))
        ended = np.asarray(timestep.terminated | timestep.truncated)
        np.testing.assert_array_equal(ended[running], state.done[running].astype(bool))
        np.testing.assert_array_equal(timestep.truncated[running], state.info["truncation"][running] > 0)
        np.testing.assert_array_equal(timestep.reward[running], state.reward[running])
        ends["terminated"] += int(timestep.terminated[running].sum())
        ends["truncated"] += int(timestep.truncated[running].sum())
        running &= ~ended
        np.testing.assert_allclose(ours.obs["state"][running], state.obs[running], rtol=1e-3, atol=1e-4)
    assert min(ends.values()) > 0, "both kinds of end are compared"
    assert not running.any()


def test_the_state_is_a_brax_state_with_stable_types(hopper):
    from brax.envs import State

    episodes = EpisodeEnv(hopper, 50)
    first = jax.eval_shape(episodes.init, jax.random.split(jax.random.key(0), 4))
    stepped, _ = jax.eval_shape(episodes.step, first, jax.ShapeDtypeStruct((4, 3), jnp.float32))
    assert isinstance(first.env_state, State)
    assert [(a.shape, a.dtype, a.weak_type) for a in jax.tree.leaves(first)] == [
        (a.shape, a.dtype, a.weak_type) for a in jax.tree.leaves(stepped)
    ]


@pytest.mark.ci
def test_inverted_pendulum_falls_within_a_hundred_steps_of_random_actions(pendulum):
    episodes = EpisodeEnv(pendulum, 1000)
    actions = jax.random.normal(jax.random.key(1), (100, 8, 1))
    state = jax.jit(episodes.init)(jax.random.split(jax.random.key(0), 8))
    rollout = jax.jit(lambda s, a: jax.lax.scan(episodes.step, s, a), donate_argnums=0)
    state, timesteps = rollout(state, actions)
    assert timesteps.terminated.any(axis=0).all()
    assert not (timesteps.truncated | timesteps.nonfinite).any()
    np.testing.assert_array_equal(timesteps.episode_return, timesteps.episode_length)
    rollout(state, actions)
    assert rollout._cache_size() == 1


def test_fast_needs_no_backend():
    env = make("fast")
    episodes = EpisodeEnv(env, 3)
    _, timestep = episodes.step(episodes.init(jax.random.split(jax.random.key(0), 2)), jnp.array([[1.0], [-1.0]]))
    np.testing.assert_allclose(timestep.reward, [0.02 * 0.02, 0.0], rtol=1e-5)


@pytest.mark.ci
@pytest.mark.parametrize("name", [name for name in names.BRAX if name != "fast"])
def test_actions_of_every_environment_lie_in_the_unit_interval(name):
    rescaled_by_brax = {"humanoid", "humanoidstandup", "inverted_pendulum", "pusher"}
    limits = make(name).raw.sys.actuator.ctrl_range
    if name not in rescaled_by_brax:
        np.testing.assert_array_equal(limits, np.tile([-1.0, 1.0], (len(limits), 1)))
    np.testing.assert_array_equal(limits[:, 0], -limits[:, 1])


@pytest.mark.ci
@pytest.mark.parametrize("name", ["swimmer", "humanoidstandup", "inverted_double_pendulum"])
def test_environments_without_another_test_can_be_stepped(name):
    # swimmer calls jnp.clip with argument names that jax has removed.
    env = make(name)
    shapes = jax.eval_shape(lambda key: env.step(env.reset(key)[0], jnp.zeros(env.action_size)), jax.random.key(0))
    assert shapes[1]["state"].shape == (env.observation_sizes["state"],)


def test_making_and_tracing_an_environment_is_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = make("hopper", "spring")
        state, _ = jax.eval_shape(env.reset, jax.random.key(0))
        jax.eval_shape(env.step, state, jnp.zeros(3))


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Result:
    obs: object
    reward: object
    done: object
    metrics: object


class Raw:
    """A stand-in for a library's environment that counts how often its Python code runs."""

    action_size = 1
    traces = 0

    def __init__(self, obs):
        self.obs = obs

    def reset(self, key):
        del key
        return Result(self.obs, 0.0, 0.0, {"sum": 0.0, "vector": jnp.zeros(2)})

    def step(self, state, action):
        self.traces += 1
        return Result(state.obs, action.sum(), 0.0, {"sum": action.sum(), "vector": action})


def test_named_observations_pass_through():
    env = LibraryEnvironment("raw", Raw({"state": jnp.ones(2), "privileged_state": jnp.ones(3)}), 10)
    assert env.observation_sizes == {"state": 2, "privileged_state": 3}
    assert set(env.reset(jax.random.key(0))[1]) == {"state", "privileged_state"}


def test_python_of_the_physics_runs_once_for_all_batch_sizes():
    raw = Raw(jnp.ones(2))
    env = LibraryEnvironment("raw", raw, 10)
    for num_envs in (2, 3, 4):
        episodes = EpisodeEnv(env, 10)
        state = jax.jit(episodes.init)(jax.random.split(jax.random.key(0), num_envs))
        jax.jit(lambda s, e=episodes, n=num_envs: jax.lax.scan(e.step, s, jnp.zeros((3, n, 1))))(state)
    assert raw.traces == 1


def test_pixels_are_refused():
    with pytest.raises(ValueError, match=r"must be vectors; 'state' of raw has shape \(4, 4, 3\)"):
        LibraryEnvironment("raw", Raw(jnp.ones((4, 4, 3))), 10)
