"""Host functions that compiled programs call by name: results, batches, errors, and jax's compilation cache."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from arms import ARM

from genpo_jax.envs import host_call
from genpo_jax.envs.engines import CEngine

shapes: list[tuple[int, ...]] = []


def sum_and_first(operand, results):
    shapes.append(operand.shape)
    results[..., 0], results[..., 1] = operand.sum(-1), operand[..., 0]
    if (operand < 0).any():
        raise ValueError("a negative number")
    with pytest.raises(ValueError, match="read-only"):
        operand[...] = 0


@pytest.fixture(scope="module", autouse=True)
def registered():
    host_call.register("test.sum_and_first", sum_and_first)


def called(x):
    return host_call.call("test.sum_and_first", x, 2)


def test_every_axis_of_vmap_is_an_axis_of_one_call():
    x = jnp.arange(24.0).reshape(2, 3, 4)
    shapes.clear()
    np.testing.assert_array_equal(jax.jit(jax.vmap(jax.vmap(called)))(x), jnp.stack([x.sum(-1), x[..., 0]], -1))
    assert shapes == [(2, 3, 4)]
    np.testing.assert_array_equal(called(jnp.array([1.0, 2.0])), [3, 1])
    assert jax.vmap(called)(jnp.zeros((0, 4))).shape == (0, 2)


def test_an_error_of_the_function_ends_the_program_with_its_message():
    with pytest.raises(jax.errors.JaxRuntimeError, match="ValueError: a negative number"):
        jax.jit(called)(jnp.array([-1.0])).block_until_ready()


def test_a_name_keeps_its_first_function():
    host_call.register("test.sum_and_first", lambda operand, results: 1 / 0)
    np.testing.assert_array_equal(called(jnp.array([1.0])), [1, 1])


def test_equal_engines_have_one_name_and_other_models_fields_or_threads_another():
    model = mujoco.MjModel.from_xml_string(ARM)
    heavier = mujoco.MjModel.from_xml_string(ARM)
    heavier.body_mass[-1] *= 1.5
    engines = [CEngine(model), CEngine(model), CEngine(heavier), CEngine(model, ()), CEngine(model, num_threads=1)]
    names = [engine._name for engine in engines]
    assert names[0] == names[1] and len(set(names)) == 4


PROGRAM = """
import jax, jax.numpy as jnp
from genpo_jax.envs import host_call
def square(operand, results): results[...] = operand ** 2
host_call.register("test.square", square)
step = jax.vmap(lambda x: host_call.call("test.square", x, 3) + 1e-3)
played = jax.jit(lambda x: jax.lax.scan(lambda x, _: (step(x), None), x, length=5)[0])
x = jnp.linspace(0, 1, 6).reshape(2, 3)
events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
print(jax.device_get(played(x)).tolist())
print(events.count("/jax/compilation_cache/cache_hits"))
"""


@pytest.mark.ci
def test_another_process_finds_a_program_with_a_host_call_in_the_compilation_cache(tmp_path):
    variables = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    (result, hits), (again, hits_again) = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env=os.environ | variables,
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        for _ in range(2)
    ]
    assert result == again and (hits, hits_again) == ("0", "1")


DEVICES = """
import sys; sys.path.insert(0, "tests/envs")
import jax, mujoco, numpy as np
from arms import ARM
from genpo_jax.envs.engines import CEngine
engine = CEngine(mujoco.MjModel.from_xml_string(ARM))
def played(qpos):
    data = engine.forward(engine.start().replace(qpos=qpos))
    return jax.lax.scan(lambda data, _: (engine.step(data, 2), data.qpos), data, length=20)[1]
qpos = np.random.default_rng(0).uniform(-1, 1, (4, 2)).astype(np.float32)
together = jax.jit(jax.vmap(played))
spec = jax.sharding.PartitionSpec("data")
mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
manual = jax.jit(jax.shard_map(jax.vmap(played), mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False))
spread = jax.device_put(qpos, jax.sharding.NamedSharding(mesh, spec))
for result in (manual(spread), manual(qpos), together(spread)):
    np.testing.assert_array_equal(result, together(qpos))
"""


@pytest.mark.ci
def test_two_devices_simulate_bit_identically_to_one():
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", DEVICES], env=os.environ | {"XLA_FLAGS": flags}, cwd=root, check=True)
