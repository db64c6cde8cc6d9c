from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arms import Arm

import genpo_jax
from genpo_jax.config import EnvConfig
from genpo_jax.envs import EpisodeEnv, make
from genpo_jax.envs.randomized import RandomizedEnvironment
from genpo_jax.runtime import compiler_options


def heavier(model, keys):
    """Scale all masses by a factor in [1, 5]."""
    scale = jax.vmap(lambda key: jax.random.uniform(key, minval=1.0, maxval=5.0))(keys)
    axes = jax.tree.map(lambda _: None, model).replace(body_mass=0)
    return model.replace(body_mass=scale[:, None] * model.body_mass), axes


def compiled(function):
    """Compile without XLA's fusion emitters, with which MJX takes minutes on a CPU."""
    return jax.jit(function, compiler_options=compiler_options(fusion_emitters=False))


@pytest.fixture(scope="module")
def arm():
    return RandomizedEnvironment(Arm("mjx"), heavier)


@pytest.mark.ci
def test_parallel_environments_have_different_parameters_and_keep_them(arm):
    states, _ = compiled(jax.vmap(arm.reset))(jax.random.split(jax.random.key(0), 4))
    (masses,) = states.drawn
    scales = masses[:, 1] / arm.env.mj_model.body_mass[1]
    assert len(set(np.asarray(scales).tolist())) == 4
    assert ((scales >= 1) & (scales <= 5)).all()
    after = compiled(jax.vmap(arm.step))(states, jnp.zeros((4, 2)))[0]
    np.testing.assert_array_equal(after.drawn[0], masses)


@pytest.mark.ci
def test_a_heavier_arm_moves_less_under_the_same_torque(arm):
    state, _ = compiled(arm.reset)(jax.random.key(0))
    step = compiled(arm.step)
    nominal = jnp.asarray(arm.env.mj_model.body_mass, jnp.float32)
    speeds = []
    for scale in (1.0, 4.0):
        moved = step(state.replace(drawn=[scale * nominal]), jnp.ones(2))[0]
        idle = step(state.replace(drawn=[scale * nominal]), -jnp.ones(2))[0]
        speeds.append(float(jnp.abs(moved.state.data.qvel - idle.state.data.qvel)[0]))
    assert speeds[1] < 0.7 * speeds[0]
    # The wrapped environment is unchanged.
    plain = compiled(arm.env.step)(state.state, jnp.ones(2))[0]
    same = step(state.replace(drawn=[nominal]), jnp.ones(2))[0]
    np.testing.assert_allclose(plain.data.qvel, same.state.data.qvel, rtol=1e-5)


@pytest.mark.ci
def test_a_new_episode_draws_new_parameters(arm):
    episodes = EpisodeEnv(arm, 2)
    state = compiled(episodes.init)(jax.random.split(jax.random.key(0), 3))
    before = np.asarray(state.env_state.drawn[0])
    step = compiled(episodes.step)
    for _ in range(2):
        state, _ = step(state, jnp.zeros((3, 2)))
    assert (np.asarray(state.env_state.drawn[0])[:, 1] != before[:, 1]).all()


@pytest.mark.ci
@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda model, keys: model, r"must return \(model, in_axes\)"),
        (lambda model, keys: (model, jax.tree.map(lambda _: None, model)), "draws nothing"),
        (lambda model, keys: (model, heavier(model, keys)[1]), r"must have the shape \(3, 3\) and axis 0, got \(3,\)"),
    ],
)
def test_an_invalid_randomization_is_refused(arm, function, message):
    with pytest.raises(ValueError, match=message):
        RandomizedEnvironment(arm.env, function)


def test_an_environment_that_cannot_be_randomized_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has no model to randomize"):
        RandomizedEnvironment(Arm("c"), heavier)
    with pytest.raises(ValueError, match="backend c simulates one model for all environments"):
        make("panda_push", randomize=True)
    with pytest.raises(ValueError, match="ring has no randomization; leave it out, or pass randomization_fn"):
        make("ring", randomize=True)
    with pytest.raises(ValueError, match="randomization_fn needs an environment object"):
        genpo_jax.train("ring", randomization_fn=heavier)
    # An object, too: the name of a module once hid the function that adds the randomization.
    config = replace(genpo_jax.preset("arm", accelerator=False), env_options=EnvConfig(randomize=True))
    with pytest.raises(ValueError, match="arm has no randomization"):
        genpo_jax.train(Arm("c"), config, tmp_path / "run")


@pytest.mark.ci
def test_a_randomized_environment_has_the_attributes_of_the_environment_that_hold_for_it(arm):
    assert (arm.name, arm.dt, arm.sha256) == ("arm", arm.env.dt, arm.env.sha256) and arm.raw is arm.env
    assert hasattr(arm.env, "pushed") and hasattr(arm.env, "varied")
    # A push would change the state of the inner environment, and a variant would not be randomized.
    for name in ("pushed", "varied", "randomization_fn"):
        assert not hasattr(arm, name)
