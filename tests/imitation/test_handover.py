"""A policy cloned in units of a robot, with chunks and a history, acts alike wherever it is handed to."""

from dataclasses import replace

import gymnasium
import jax.numpy as jnp
import numpy as np
import pytest

import genpo_jax
from examples import robot_loop
from genpo_jax.data import Demonstrations, Episode
from genpo_jax.export import standalone
from genpo_jax.export.exporter import export
from genpo_jax.gymnasium_adapter import policy_for
from genpo_jax.imitation.config import PretrainConfig

# Cloning, exporting and loading take several seconds.
pytestmark = pytest.mark.ci

TINY = PretrainConfig(
    policy="gaussian", sizes=(8,), num_updates=2, updates_per_chunk=2, batch_size=4, chunk=3, executed=2, history=2
)


@pytest.fixture(scope="module")
def robot(tmp_path_factory):
    """Return a cloned policy and its exported folder; actions in degrees from 0 to 90, at 1 kHz."""
    rng = np.random.default_rng(0)
    obs, action = rng.normal(size=(20, 2)), rng.uniform(0, 90, size=(20, 1))
    data = Demonstrations((Episode(obs, action, np.zeros(20)),), {"state": 2}, rate=1000.0, action_names=("elbow",))
    folder = tmp_path_factory.mktemp("robot")
    genpo_jax.pretrain(data, TINY, folder / "run", progress=False)
    return genpo_jax.load(folder / "run"), export(folder / "run", folder / "out")


def test_the_description_has_units_bounds_names_rate_and_history(robot):
    policy, folder = robot
    described = standalone.describe(folder)
    action, seen = described["action"], described["observation"]
    low, high = policy.spec.bounds
    assert (action["low"], action["high"]) == (list(low), list(high)) and 80 < high[0] < 90
    assert action["names"] == ["elbow"] and (action["size"], action["chunk"], action["executed"]) == (1, 3, 2)
    assert (seen["size"], seen["history"], seen["shape"]) == (2, 2, ["batch", 4])
    assert described["rate"] == {"control_period_seconds": 0.001, "policy_period_seconds": 0.002}


def test_every_way_out_gives_the_same_actions_in_degrees(robot):
    policy, folder = robot
    frames = np.random.default_rng(1).normal(size=(3, 2)).astype(np.float32)
    history = standalone.ObservationHistory(standalone.describe(folder))
    first, second, third = (history(frame) for frame in frames)
    np.testing.assert_array_equal(first, [*frames[0], *frames[0]])
    np.testing.assert_array_equal(third, [*frames[1], *frames[2]])
    expected = np.asarray(policy(jnp.asarray([first, second, third])))
    assert expected.min() >= 0 and np.abs(expected).max() > 1
    for exported in (standalone.OnnxPolicy(folder), standalone.StableHloPolicy(folder)):
        np.testing.assert_allclose(exported(np.stack([first, second, third])), expected, rtol=1e-5)
    history.reset()
    np.testing.assert_array_equal(history(frames[2]), [*frames[2], *frames[2]])


def test_a_constant_coordinate_is_exported_and_loaded(tmp_path):
    action = np.stack([np.linspace(0, 1, 8), np.full(8, 0.04)], axis=1)
    data = Demonstrations((Episode(np.ones((8, 2)), action, np.zeros(8)),), {"state": 2}, rate=10.0)
    genpo_jax.pretrain(data, replace(TINY, chunk=1, executed=1), tmp_path / "run", progress=False)
    policy = standalone.OnnxPolicy(export(tmp_path / "run", tmp_path / "out"))
    assert policy(np.ones(4))[1] == pytest.approx(0.04)
    (tmp_path / "out" / "notes.txt").write_text("mine")
    export(tmp_path / "run", tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


def test_a_gymnasium_environment_gets_the_actions_in_units_within_its_box(robot):
    policy, _ = robot

    class Arm(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,))
        action_space = gymnasium.spaces.Box(0.0, 45.0, (1,), np.float64)

    act, frames = policy_for(policy, Arm()), np.random.default_rng(1).normal(size=(3, 2)).astype(np.float32)
    sent = [act(frame) for frame in frames]
    first = np.asarray(policy(jnp.asarray([*frames[0], *frames[0]])))
    third = np.asarray(policy(jnp.asarray([*frames[1], *frames[2]])))
    # Two of three actions are executed; at the third frame the policy is called with the last two frames.
    np.testing.assert_allclose(np.concatenate(sent), np.clip([first[0], first[1], third[0]], 0, 45), rtol=1e-6)


def test_the_robot_loop_sends_degrees_and_limits_their_change_to_a_share_of_the_range(robot):
    policy, folder = robot

    class Still:
        sent = []

        def observe(self):
            return np.asarray(policy.moments.mean)[:2]

        def command(self, action):
            self.sent.append(float(action[0]))

    arm, exported = Still(), standalone.OnnxPolicy(folder)
    robot_loop.run(exported, arm, period=0.001, seconds=0.03, rest=np.array([0.0]))
    seen = np.asarray(policy.moments.mean)[:2]
    target = np.asarray(policy(jnp.asarray([*seen, *seen])))
    (low,), (high,) = policy.spec.bounds
    largest = robot_loop.LARGEST_CHANGE * (high - low)
    assert arm.sent[0] == pytest.approx(max(low, min(target[0], largest)), rel=1e-4)
    assert arm.sent[-2:] == pytest.approx(target[:2].tolist(), rel=1e-4)


def test_a_strange_observation_stops_the_loop_with_its_name_and_holds_the_last_action(robot):
    policy, folder = robot

    class Jumps:
        sent = []

        def observe(self):
            return np.asarray(policy.moments.mean)[:2] + np.array([100.0 if len(self.sent) == 3 else 0.0, 0.0])

        def command(self, action):
            self.sent.append(float(action[0]))

    arm, exported = Jumps(), standalone.OnnxPolicy(folder)
    with pytest.raises(RuntimeError, match="holding the last action: observation 0 is .* standard deviations from"):
        robot_loop.run(exported, arm, period=0.001, seconds=0.01, rest=np.array([0.0]))
    assert len(arm.sent) == 4 and arm.sent[3] == arm.sent[2]
    with pytest.raises(ValueError, match="period must be 0.001 s, at which the policy was trained, got 0.02"):
        robot_loop.run(exported, arm, period=0.02, seconds=0.1)
