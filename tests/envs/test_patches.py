import subprocess
import sys

import jax.numpy as jnp
import pytest

from genpo_jax.envs import patches


def test_clip_accepts_its_old_names_only_inside_the_patch():
    x = jnp.array([-2.0, 0.0, 2.0])
    with patches.old_clip():
        assert jnp.clip(x, a_max=1.0).tolist() == [-2, 0, 1]
        assert jnp.clip(x, a_min=-1.0, a_max=1.0).tolist() == [-1, 0, 1]
        assert jnp.clip(x, -1, 1).tolist() == [-1, 0, 1]
    with pytest.raises(TypeError):
        jnp.clip(x, a_max=1.0)


@pytest.mark.ci
def test_a_missing_warp_prints_nothing_to_stdout():
    code = (
        "import sys; sys.modules['warp'] = None; from genpo_jax.envs.patches import import_mjx;"
        "assert import_mjx().__name__ == 'mujoco.mjx'"
    )
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert printed == ""


def test_prints_are_discarded(capsys):
    with patches.prints_ignored():
        print("a library")
    assert capsys.readouterr().out == ""


def test_mjx_functions_are_replaced_only_inside_the_patch():
    from mujoco import mjx

    step, forward = mjx.step, mjx.forward
    with patches.physics_replaced(lambda *_: "step", lambda *_: "forward", lambda *_: "control step"):
        assert (mjx.step(None, None), mjx.forward(None, None)) == ("step", "forward")
    assert (mjx.step, mjx.forward) == (step, forward)


def test_every_workaround_names_library_symptom_and_removal():
    public = [
        value for name, value in vars(patches).items() if callable(value) and value.__module__ == patches.__name__
    ]
    assert len(public) >= 9
    for function in public:
        for part in ("Library:", "Symptom:", "Remove:"):
            assert part in (function.__doc__ or ""), (function.__name__, part)
