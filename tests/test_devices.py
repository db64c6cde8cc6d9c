"""One device and eight devices run the same computation; the eight are virtual devices of a subprocess."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.ci

SCRIPT = """
import json, sys
import jax, jax.numpy as jnp
import numpy as np
from probes import TargetEnv
from settings import networks, sized
from genpo_jax.config import Config, EnvConfig, PPOConfig
from genpo_jax.training import ppo
from genpo_jax.training.trainer import Trainer

config = Config(
    env="probe", updates_per_chunk=2, env_options=EnvConfig(num_envs=64), method=sized((32,)), networks=networks((32,)),
    ppo=PPOConfig(unroll=8, num_minibatches=2, num_epochs=2),
)
trainer = Trainer(TargetEnv(), config)
algorithm = trainer.algorithm

def gradient(state):
    episodes, _, rollout = algorithm.collect(state)
    update = algorithm.context(state, rollout, trainer.hyper, jax.random.key(0))
    batch = algorithm.batch(update, rollout.reward, episodes.obs, trainer.hyper)
    # Change the parameters, so that clipping is active.
    moved = jax.tree.map(lambda p: p + 0.05, state.learner.params)
    return jax.grad(lambda p: ppo.loss(algorithm.make_agent(p), batch, trainer.hyper)[0])(moved)

def numbers(tree):
    return [np.asarray(x, np.float64).ravel().tolist() for x in jax.tree.leaves(tree)]

state = trainer.init([0])
result = {"devices": jax.device_count(), "gradient": numbers(jax.jit(jax.vmap(gradient))(state))}
text = trainer.program.lower(state, trainer.hyper).compile().as_text()
names = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")
result["collectives"] = {name: text.count(f" {name}(") + text.count(f" {name}-start(") for name in names}
for _ in range(2):
    state, metrics = trainer.chunk(state)
result["params"] = numbers(state.learner.params)
result["moments"] = numbers((state.obs_moments, state.reward_scale.moments))
result["obs"] = numbers(state.episodes.obs)
result["metrics"] = {name: float(value[0]) for name, value in metrics.items()}
result["spread"] = len(state.episodes.obs["state"].sharding.device_set)
result["programs"] = trainer.program._cache_size()
print(json.dumps(result))
"""


def run_on(num_devices):
    tests = Path(__file__).parent
    env = os.environ | {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={num_devices}",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([str(tests.parent), str(tests)]),
    }
    output = subprocess.run([sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True, timeout=600)
    assert output.returncode == 0, output.stderr[-3000:]
    return json.loads(output.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def results():
    return {num_devices: run_on(num_devices) for num_devices in (1, 8)}


def test_environments_are_spread_over_all_devices(results):
    assert [results[n]["devices"] for n in (1, 8)] == [1, 8]
    assert [results[n]["spread"] for n in (1, 8)] == [1, 8]
    assert results[8]["programs"] == 1


def test_the_gradient_is_the_same_as_on_one_device(results):
    # Adam would hide a gradient that is eight times too large.
    for one, eight in zip(results[1]["gradient"], results[8]["gradient"], strict=True):
        np.testing.assert_allclose(eight, one, rtol=1e-4, atol=1e-6)
    assert max(np.abs(g).max() for g in results[1]["gradient"]) > 1e-2


@pytest.mark.parametrize("name", ["params", "moments", "obs"])
def test_four_updates_have_the_same_result_as_on_one_device(results, name):
    for one, eight in zip(results[1][name], results[8][name], strict=True):
        np.testing.assert_allclose(eight, one, rtol=2e-3, atol=2e-4)


def test_metrics_are_the_same_as_on_one_device(results):
    assert results[8]["metrics"].keys() == results[1]["metrics"].keys()
    for name, value in results[1]["metrics"].items():
        tolerance = 1e-4 if name == "train/first_ratio_error" else 2e-3 * max(abs(value), 1.0)
        assert abs(results[8]["metrics"][name] - value) <= tolerance, name


def test_devices_exchange_only_sums(results):
    assert results[8]["collectives"].pop("all-reduce") > 0
    assert set(results[8]["collectives"].values()) == {0}
