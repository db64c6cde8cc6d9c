import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from genpo_jax.config import MODE, SUCCESS
from genpo_jax.data.collect import ScriptedExpert
from genpo_jax.envs import check, make, names
from genpo_jax.envs.mirror import Mirror
from genpo_jax.envs.playground import LIFTED
from genpo_jax.envs.robot_mirrors import MIRRORS


def test_each_name_has_its_default_backend():
    defaults = {name: check(name) for name in ("ant", "swimmer", "fast", "CartpoleBalance")}
    assert defaults == {"ant": "spring", "swimmer": "generalized", "fast": None, "CartpoleBalance": "jax"}


def test_a_named_backend_is_kept():
    assert check("ant", "mjx") == "mjx"
    assert check("CheetahRun", "warp") == "warp"


@pytest.mark.parametrize(
    ("typo", "meant"),
    [("hoper", "hopper"), ("Half-Cheetah", "halfcheetah"), ("cartpolebalance", "CartpoleBalance")],
)
def test_a_mistyped_name_is_refused_with_the_nearest_and_the_command_that_lists_all(typo, meant):
    with pytest.raises(ValueError, match=f"no environment '{typo}'; did you mean '{meant}'.*genpo-jax envs lists all"):
        make(typo)


@pytest.mark.parametrize(
    ("name", "backend", "remedy"),
    [
        ("ant", "warp", "choose one of spring, positional, generalized, mjx"),
        ("swimmer", "spring", "choose one of generalized"),
        ("fast", "spring", "leave the backend out"),
        ("CartpoleBalance", "spring", "choose one of jax, warp"),
    ],
)
def test_an_unknown_backend_is_refused_with_a_remedy(name, backend, remedy):
    with pytest.raises(ValueError, match=f"'{name}' has no backend '{backend}'; {remedy}"):
        make(name, backend)


def test_names_are_checked_without_importing_jax_or_a_physics_library():
    code = (
        "import sys; from genpo_jax.envs import check; check('ant'); check('CartpoleBalance');"
        "loaded = {name.split('.')[0] for name in sys.modules};"
        "assert not loaded & {'jax', 'brax', 'mujoco', 'mujoco_playground'}, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_names_equal_the_names_in_brax():
    from brax import envs

    assert set(names.BRAX) == set(envs._envs)


def test_the_names_equal_the_names_in_playground():
    playground = pytest.importorskip("mujoco_playground")
    assert set(names.DM_CONTROL) == set(playground.dm_control_suite.ALL_ENVS)
    assert set(names.LOCOMOTION) == set(playground.locomotion.ALL_ENVS)
    assert set(names.MANIPULATION) == set(playground.manipulation.ALL_ENVS)


def test_every_listed_name_is_listed_once_and_has_a_backend():
    assert len(set(names.NAMES)) == len(names.NAMES)
    assert all(names.backends_of(name) for name in names.NAMES)
    assert names.backends_of("my-arm") is None


@pytest.mark.parametrize("name", [*names.TOYS, *names.TASKS])
def test_the_table_of_features_is_that_of_the_environment(name):
    env = make(name)

    def metrics(key):
        return env.step(env.reset(key)[0], jnp.zeros(env.action_size))[-1]

    reported = jax.eval_shape(metrics, jax.random.key(0))
    assert names.features_of(name) == names.Features(
        success=SUCCESS in reported,
        expert=isinstance(env, ScriptedExpert),
        modes=sum(metric.startswith(MODE) for metric in reported),
        randomization=getattr(env, "randomization_fn", None) is not None,
        mirror=isinstance(getattr(env, "mirror", None), Mirror),
    )


def listed_with(feature):
    libraries = {*names.BRAX, *names.PLAYGROUND}
    return {name for name, features in names.FEATURES.items() if name in libraries and getattr(features, feature)}


def test_the_table_of_features_lists_the_symmetries_and_successes_that_this_package_adds():
    assert listed_with("mirror") == set(MIRRORS)
    assert listed_with("success") >= set(LIFTED)
    assert set(names.FEATURES) <= set(names.NAMES)


def test_the_table_of_features_lists_the_randomizations_of_playground(capsys):
    registry = pytest.importorskip("mujoco_playground").registry
    assert listed_with("randomization") == {
        name for name in registry.ALL_ENVS if registry.get_domain_randomizer(name) is not None
    }
    capsys.readouterr()


def test_the_features_of_an_environment_are_named():
    assert str(names.features_of("panda_push")) == "success, expert, 2 modes"
    assert str(names.features_of("Go1JoystickFlatTerrain")) == "randomization, mirror"
    assert str(names.features_of("hopper")) == "-"
