"""Training programs with their presets for accelerators lower for each of these, which needs no accelerator."""

import re
from dataclasses import replace

import jax
import pytest

from genpo_jax import envs
from genpo_jax.presets import preset
from genpo_jax.training.trainer import Trainer

PLATFORMS = ("cuda", "tpu", "rocm")
# Words in the text of a program that waits for its host.
HOST = ("callback", "infeed", "outfeed", "stablehlo.send", "stablehlo.recv", "_host", "annotate_device_placement")
# Custom calls of the physics that are part of jax.
SOLVERS = {"cusolver_potrf_ffi", "hipsolver_potrf_ffi"}


def custom_calls(text):
    return set(re.findall(r"custom_call @(\w+)", text))


def test_a_program_that_calls_the_host_is_found():
    kind = jax.ShapeDtypeStruct((), "float32")
    traced = jax.jit(lambda x: jax.pure_callback(lambda x: x, kind, x)).trace(1.0)
    text = traced.lower(lowering_platforms=("cpu",)).as_text()
    assert [word for word in HOST if word in text] == ["callback"]
    for platform in PLATFORMS:
        with pytest.raises(ValueError, match="cpu is different from the lowering platform"):
            traced.lower(lowering_platforms=(platform,))


@pytest.mark.ci
@pytest.mark.parametrize(
    ("env", "backend"),
    [
        ("fast", None),
        ("humanoid", "spring"),
        ("humanoid", "mjx"),
        ("panda_push", "mjx"),
        ("CartpoleBalance", "jax"),
        ("CartpoleBalance", "warp"),
    ],
)
def test_the_program_of_an_accelerator_lowers_and_never_waits_for_the_host(env, backend):
    if env == "CartpoleBalance":
        pytest.importorskip("mujoco_playground")
    config = replace(preset(env, accelerator=True), backend=backend)
    trainer = Trainer(envs.make_from(config), config)
    traced = trainer.program.trace(trainer.abstract_state(1), trainer.hyper)
    for platform in ("cuda",) if backend == "warp" else PLATFORMS:
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert not [word for word in HOST if word in text]
        if backend == "warp":
            # One call for the first half of a step, one for the rest: the physics is not unrolled.
            assert 1 <= len(custom_calls(text)) <= 2
        else:
            assert custom_calls(text) <= SOLVERS
