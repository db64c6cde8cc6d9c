"""Environments as users write them: each is accepted, or refused with the attribute before anything is compiled."""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arms import Arm

import genpo_jax
from genpo_jax import Start
from genpo_jax.config import EnvConfig
from genpo_jax.envs import EpisodeEnv
from genpo_jax.envs.contract import check_first_step


class Decay:
    """x decays towards the action; each part can be exchanged."""

    name = "decay"
    action_size = 1
    observation_sizes = {"state": 2}
    default_episode_length = 20
    obs = staticmethod(lambda x: {"state": x})
    reward = staticmethod(lambda x: -jnp.abs(x[0]))
    terminated = staticmethod(lambda x: jnp.abs(x[0]) > 3)
    memory = staticmethod(lambda key: ())
    remember = staticmethod(lambda memory: memory)
    metrics: ClassVar = {}

    def reset(self, key):
        x = jax.random.normal(key, (2,))
        return {"x": x, "memory": self.memory(key)}, self.obs(x)

    def step(self, state, action):
        x = 0.9 * state["x"] + 0.1 * action[0]
        state = {"x": x, "memory": self.remember(state["memory"])}
        return state, self.obs(x), self.reward(x), self.terminated(x), self.metrics


def decay(**parts):
    members = {name: staticmethod(part) if callable(part) else part for name, part in parts.items()}
    return type("Changed", (Decay,), members)()


def played(env):
    episodes = EpisodeEnv.of(env, EnvConfig())
    state = jax.jit(episodes.init)(jax.random.split(jax.random.key(0), 3))
    step = jax.jit(episodes.step)
    for _ in range(3):
        state, timestep = step(state, jnp.ones((3, 1)))
    assert step._cache_size() == 1
    return timestep


@pytest.mark.parametrize(
    "parts",
    [
        {"terminated": lambda x: jnp.where(jnp.abs(x[0]) > 3, 1.0, 0.0)},
        {"terminated": lambda x: jnp.int32(x[0] > 3)},
        {"terminated": lambda x: False},
        {"reward": lambda x: 1},
        {"reward": lambda x: x[0] > 0},
        {"obs": lambda x: {"state": jnp.int32(10 * x)}},
        {"obs": lambda x: {"state": x > 0}},
        {"obs": lambda x: {"state": x.astype(jnp.float16)}},
        {"obs": lambda x: {"state": x, "left eye": x}, "observation_sizes": {"state": 2, "left eye": 2}},
        {
            "obs": lambda x: {"state": x.astype(jnp.bfloat16), "bytes": jnp.uint8(10 * x + 100)},
            "observation_sizes": {"state": 2, "bytes": 2},
        },
        {"memory": lambda key: key},
        {"memory": lambda key: (jax.random.key_data(key), jnp.zeros(0))},
        {"memory": lambda key: 3},
        {"memory": lambda key: (0.5, None, True)},
        {"memory": lambda key: np.array([0.1, 0.2])},
        {"memory": lambda key: 0, "remember": lambda memory: memory + 1},
    ],
)
def test_results_that_can_be_converted_are(parts):
    timestep = played(decay(**parts))
    assert timestep.terminated.dtype == bool and timestep.reward.dtype == jnp.float32
    assert timestep.next_obs["state"].dtype == jnp.float32
    assert not timestep.nonfinite.any()


def test_terminated_of_another_type_ends_the_episode():
    assert played(decay(terminated=lambda x: 1.0)).terminated.all()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"terminated": lambda x: x[:1] > 3}, r"terminated of decay must be one number, got 'shape \(1,\)'"),
        ({"reward": lambda x: x[:1]}, r"reward of decay must be one number, got 'shape \(1,\)'; return x\[0"),
        ({"obs": lambda x: x}, r"observation of decay must be a dict of vectors, got an array of shape \(2,\); return"),
        ({"obs": lambda x: {"state": x[None]}}, r"observation 'state' of decay must be a vector, got 'shape \(1, 2\)'"),
        (
            {"obs": lambda x: {"state": jnp.zeros((4, 4, 3))}},
            r"must be a vector, got 'shape \(4, 4, 3\)'; return x.ravel",
        ),
        ({"obs": lambda x: {"state": x[:0]}}, "observation 'state' of decay must be a vector of at least one number"),
        (
            {"observation_sizes": {"state": 3}},
            r"observation_sizes of decay must be .* got \{'state': 3\}",
        ),
        ({"obs": lambda x: {"state": x, "more": x}}, "observation_sizes of decay must be .*'more': 2"),
        ({"observation_sizes": {"state": 2, "more": 2}}, r"observation_sizes of decay must be \{'state': 2\}"),
        ({"observation_sizes": 2}, "observation_sizes of decay must be a dict of integers"),
        (
            {"obs": lambda x: {"proprio": x}, "observation_sizes": {"proprio": 2}},
            r"observations of decay must be a dict with 'state', which the actor sees, got \{'proprio': 2\}",
        ),
        ({"action_size": 0}, "action_size of decay must be an integer >= 1, got 0"),
        ({"action_size": np.int64(1)}, "action_size of decay must be an integer >= 1, got .*; convert it by int"),
        ({"default_episode_length": None}, "default_episode_length of decay must be an integer >= 1, got None; or set"),
        ({"default_episode_length": 20.0}, "default_episode_length of decay must be an integer >= 1, got 20.0"),
        ({"name": None}, "the name of an environment must be a string, got None"),
        ({"reward": lambda x: float(x[0])}, r"step of decay must compute with jax.numpy, .* \(Abstract tracer"),
        (
            {"reward": lambda x: 1.0 if x[0] > 0 else 0.0},
            "step of decay must compute with jax.numpy, not with numpy or",
        ),
        ({"reward": lambda x: np.asarray(x)[0]}, "step of decay must compute with jax.numpy, not with numpy or"),
        ({"memory": lambda key: "left"}, "the state of decay must contain only arrays and numbers, got 'left'"),
        (
            {"memory": lambda key: 0, "remember": lambda m: m + 0.5},
            r"step, at \['memory'\] must be int32\[\], as",
        ),
        (
            {"remember": lambda memory: jnp.zeros(2)},
            r"must be .*memory: \(\).*, got .*memory: float32\[2\]",
        ),
        ({"reward": lambda x: None}, "reward of decay must be a real number or an array of them, got None"),
        ({"reward": lambda x: "high"}, "reward of decay must be a real number or an array of them, got 'high'"),
        ({"reward": lambda x: 1j * x[0]}, "reward of decay must be a real number .*, got 'complex64'"),
        ({"terminated": lambda x: None}, "terminated of decay must be a real number .*, got None"),
        (
            {"obs": lambda x: {"state": 1j * x}},
            "'state' of decay must be a real number .*, got 'complex64'",
        ),
        (
            {"obs": lambda x: {"state": [x[0], x[1]]}},
            r"'state' of decay must be an array, got \[.*jnp.stack",
        ),
        (
            {"metrics": {"speed": "fast"}},
            "metric 'speed' of decay must be a real .*, got 'fast'",
        ),
        ({"metrics": {1: 0.0, "a": 0.0}}, r"metrics of decay must be .* strings as keys, got \[1, 'a'\]"),
        ({"reset": lambda key: jnp.zeros(2)}, r"reset of decay must return \(state, observation\), got"),
    ],
)
def test_other_results_are_one_sentence_that_names_the_attribute(parts, message):
    with pytest.raises(ValueError, match=message) as error:
        played(decay(**parts))
    assert "\n" not in str(error.value)


def task(**members):
    return type("Changed", (Arm,), members)("c")


@pytest.mark.parametrize(
    "members",
    [
        {"observe": lambda self, s: [s.qpos[0], s.qvel[0]]},
        {"terminated": lambda self, s: jnp.where(s.qpos[0] > 9, 1.0, 0.0)},
        {"terminated": lambda self, s: 0},
        {"initial": lambda self, key: Start(goal=0.5)},
        {"initial": lambda self, key: Start(goal=np.float64(0.3))},
        {"initial": lambda self, key: Start(goal=0.3, memory=0), "remember": lambda self, s: s.memory + 1},
        {
            "initial": lambda self, key: Start(qpos=[0.1, 0.2], goal=[0.1, 0.2], memory=0.0),
            "remember": lambda self, s: jnp.where(s.qpos[0] > 0, 1.0, s.memory),
            "observe": lambda self, s: jnp.int32(10 * s.qpos),
            "reward": lambda self, s, action: s.goal[0] + s.memory,
        },
        {"initial": lambda self, key: Start(goal=0.3, memory={"a": 1, "b": None, "key": key})},
    ],
)
def test_tasks_may_return_python_numbers(members):
    assert not played_task(task(**members)).nonfinite.any()


def played_task(env):
    episodes = EpisodeEnv(env, 3)
    state = jax.jit(episodes.init)(jax.random.split(jax.random.key(0), 2))
    return jax.jit(episodes.step)(state, jnp.zeros((2, 2)))[1]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (
            {"reward": lambda self, s, a: jnp.log(-1.0 - s.time)},
            "reward of arm must be finite after a step",
        ),
        ({"metrics": lambda self, s, a: {"x": 1 / (0 * s.time)}}, "x of arm must be finite after a step with action 0"),
        ({"observe": lambda self, s: s.qpos[:0]}, "observation 'state' of arm must be a vector of at least one number"),
        ({"observe": lambda self, s: s.qpos[0]}, r"observation 'state' of arm must be a vector, got 'shape \(\)'"),
        ({"control": lambda self, s, a: np.asarray(a)}, "control of arm must compute with jax.numpy, not with numpy"),
        ({"reward": lambda self, s, a: 1.0 if s.qpos[0] > 0 else 0.0}, "reward of arm must compute with jax.numpy"),
        ({"initial": lambda self, key: Start(goal="left")}, "goal of arm's Start must contain only arrays and numbers"),
        ({"metrics": lambda self, s, a: {"x": s.qpos}}, r"x of arm must be one number, got 'shape \(2,\)'"),
    ],
)
def test_a_task_with_another_result_is_one_sentence_that_names_the_method(members, message):
    with pytest.raises(ValueError, match=message) as error:
        task(**members)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"obs": lambda x: {"state": x * jnp.nan}},
            "observation 'state' of decay must be finite at the start, got .non-finite",
        ),
        (
            {"reward": lambda x: jnp.log(-1 - x[0] ** 2)},
            "^reward of decay must be finite after a step with action 0",
        ),
        ({"reward": lambda x: 1 / (0 * x[0])}, "reward of decay must be finite after a step with action 0, got -?inf"),
        (
            {"obs": lambda x: {"state": 1e9 + x}},
            r"observation 'state' of decay must be in \[-1e8, 1e8\] at the start, got 10+.*; use larger units",
        ),
        ({"terminated": lambda x: 0.3 + 0 * x[0]}, "terminated of decay must be 0 or 1, or a boolean, got 0.3"),
        ({"terminated": lambda x: jnp.nan * x[0]}, "terminated of decay must be 0 or 1, or a boolean, got nan"),
    ],
)
def test_numbers_that_are_not_finite_from_the_first_step_are_refused_before_training(parts, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        genpo_jax.train(decay(**parts), genpo_jax.Config(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_metric_that_is_not_finite_is_named_and_a_robot_is_not_simulated_twice():
    env = decay()
    env.step = lambda state, action: (*Decay.step(env, state, action)[:4], {"far": jnp.inf})
    with pytest.raises(ValueError, match="far of decay must be finite after a step with action 0, got inf"):
        check_first_step(env)
    env.mj_model = "a model"
    check_first_step(env)


def test_the_first_step_of_actions_in_units_is_taken_in_the_middle_of_their_bounds(tmp_path):
    # The reward is -inf in the middle, at 2, and would be NaN at 0.
    env = decay(action_low=1.0, action_high=3.0)
    env.step = lambda state, action: (*Decay.step(env, state, action)[:2], jnp.log(action[0] - 2.0), False, {})
    with pytest.raises(ValueError, match="reward of decay must be finite after a step with action 0, got -inf"):
        genpo_jax.train(env, genpo_jax.Config(), tmp_path / "run")
