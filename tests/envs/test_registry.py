import subprocess
import sys

import pytest

from genpo_jax.envs import check, make, registry


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
def test_a_mistyped_name_is_refused_with_the_nearest_and_the_list(typo, meant):
    with pytest.raises(ValueError, match=f"no environment '{typo}'; did you mean '{meant}'") as error:
        make(typo)
    assert "walker2d" in str(error.value)
    assert "Go1JoystickFlatTerrain" in str(error.value)


@pytest.mark.parametrize(
    ("name", "backend", "remedy"),
    [
        ("ant", "warp", "choose one of spring, positional, generalized, mjx"),
        ("swimmer", "spring", "choose one of generalized"),
        ("fast", "spring", "leave the backend out"),
        ("CartpoleBalance", "spring", "choose one of jax, warp"),
    ],
)
def test_a_backend_the_environment_has_not_is_refused_with_what_to_do(name, backend, remedy):
    with pytest.raises(ValueError, match=f"'{name}' has no backend '{backend}'; {remedy}"):
        make(name, backend)


def test_names_are_checked_without_importing_a_physics_library():
    code = (
        "import sys; from genpo_jax.envs import check; check('ant'); check('CartpoleBalance');"
        "loaded = {name.split('.')[0] for name in sys.modules};"
        "assert not loaded & {'brax', 'mujoco', 'mujoco_playground'}, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_names_are_those_of_brax():
    from brax import envs

    assert set(registry.BRAX) == set(envs._envs)


def test_the_names_are_those_of_playground():
    playground = pytest.importorskip("mujoco_playground")
    assert set(registry.DM_CONTROL) == set(playground.dm_control_suite.ALL_ENVS)
    assert set(registry.LOCOMOTION) == set(playground.locomotion.ALL_ENVS)
    assert set(registry.MANIPULATION) == set(playground.manipulation.ALL_ENVS)
