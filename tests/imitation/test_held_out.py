import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import genpo_jax
from genpo_jax.data import Demonstrations, Episode
from genpo_jax.imitation.config import PretrainConfig
from genpo_jax.imitation.held_out import held_out_errors
from genpo_jax.imitation.pretrain import Pretraining

TINY = PretrainConfig(policy="gaussian", sizes=(8,), num_updates=2, updates_per_chunk=2, batch_size=4, chunk=3)


def ramp(start, length=5):
    """One coordinate in percent: action t of an episode is 10 * (start + t), and the observation is its number."""
    step = np.arange(start, start + length, dtype=float)[:, None]
    return Episode(step, 10 * step, np.zeros(length))


@pytest.fixture(scope="module")
def cloned(tmp_path_factory):
    data = Demonstrations((ramp(0), ramp(2)), {"state": 1}, "D4RL/robot-v2", valid=(1,), rate=10.0, action_names=("x",))
    folder = tmp_path_factory.mktemp("cloned") / "run"
    return data, genpo_jax.pretrain(data, replace(TINY, history=2), folder, progress=False), folder


def test_the_errors_of_trivial_predictors_are_known(cloned):
    data, run, _ = cloned
    errors = held_out_errors(run.policy, data, [0], [1])["errors"]
    # Held-out actions 20, 30, ..., 60 rise by 10 per step: holding the last one is wrong by 10, 20 and 30.
    np.testing.assert_allclose(errors["hold"], [10, 20, 30])
    # Training has the same observations up to 4, with actions up to 40, which then repeat.
    # At the observations 3 and 4, the next actions are 30, 40, 40 and 40, 40, 40; at 5 and 6 the last row is nearest.
    np.testing.assert_allclose(errors["nearest"][0], np.sqrt(np.mean(np.square([0, 0, 10, 20]))), rtol=1e-6)
    # One step ahead, the episode ends after three of the four.
    np.testing.assert_allclose(errors["nearest"][1], np.sqrt(np.mean(np.square([0, 10, 20]))), rtol=1e-6)


def test_cloning_without_an_environment_leaves_errors_a_picture_and_a_policy_in_units(cloned, caplog):
    data, run, folder = cloned
    written = json.loads((folder / "held_out.json").read_text())
    assert written["episodes"] == [1] and written["steps"] == 4 and len(written["errors"]["sampled"]) == 3
    assert (folder / "held_out.png").read_bytes()[:4] == b"\x89PNG"
    policy = genpo_jax.load(folder)
    assert policy.spec.env == "D4RL/robot-v2" and policy.spec.bounds == ((0.0,), (40.0,)) and policy.spec.rate == 10
    assert policy.spec.action_names == ("x",) and policy.spec.history == 2 and policy.spec.obs_size == 2
    action = np.asarray(policy(jnp.asarray([3.0, 4.0])))
    assert action.shape == (3,) and (action >= 0).all() and (action <= 40).all()


def test_the_normalized_actions_are_those_that_the_policy_turns_into_units(cloned):
    data, run, _ = cloned
    obs, action = run.train_set
    # The stacked observation of the first step repeats it.
    np.testing.assert_allclose(np.asarray(run.moments.mean + obs[0] * run.moments.std), [0, 0], atol=1e-6)
    np.testing.assert_allclose(run.policy.spec.in_units(np.asarray(action[1])), [10, 20, 30], atol=1e-4)


@pytest.mark.ci
def test_the_policy_acts_with_the_moving_average_of_its_parameters(cloned):
    run = Pretraining(cloned[0], replace(TINY, history=2, average=0.2), cloned[2])
    state, update = jax.tree.map(lambda x: x[0], run.init_state()), jax.jit(run.update)
    average = state.params["policy"]
    # The weight of the old average grows as (1 + n) / (10 + n) up to its setting.
    for decay in (1 / 10, 2 / 11, 0.2):
        state, _ = update(state, run.train_set)
        average = jax.tree.map(lambda old, new, d=decay: d * old + (1 - d) * new, average, state.params["policy"])
    acting = run.policies_of(jax.tree.map(lambda x: x[None], state))[0].params
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), acting, average)
    distances = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), acting, state.params["policy"])
    assert max(jax.tree.leaves(distances)) > 1e-5, "otherwise the newest parameters would pass"


@pytest.mark.ci
def test_an_unknown_environment_is_named_once_and_a_module_is_not_imported(tmp_path, caplog):
    data = Demonstrations((ramp(0), ramp(1)), {"state": 1}, "antigravity:fly")
    run = genpo_jax.pretrain(data, TINY, tmp_path / "run", progress=False)
    (record,) = [r for r in caplog.records if "antigravity" in r.getMessage()]
    assert "is not used, so the policy is not evaluated" in record.getMessage() and run.env is None
