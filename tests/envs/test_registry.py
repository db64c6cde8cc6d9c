import subprocess
import sys

import pytest

from genpo_jax.envs import check, make, names


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
