"""MJX's Warp engine, which also runs on a CPU."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from arms import ARM, Arm
from settings import networks, sized

import genpo_jax
from genpo_jax import envs
from genpo_jax.config import Config, EnvConfig, PPOConfig
from genpo_jax.envs.engines import MjxEngine, WarpEngine
from genpo_jax.envs.warp import check_warp, with_shared, without_shared
from genpo_jax.runs.evaluate import evaluate

CONFIG = Config(
    env="CartpoleBalance",
    backend="warp",
    num_seeds=2,
    num_timesteps=64,
    updates_per_chunk=1,
    num_evals=1,
    eval_envs=1,
    env_options=EnvConfig(num_envs=8, episode_length=6),
    method=sized((8,), "gaussian"),
    networks=networks((8,)),
    ppo=PPOConfig(unroll=4, num_minibatches=2, num_epochs=2),
)


@pytest.mark.parametrize("platform", ["tpu", "gpu"])
def test_an_accelerator_without_cuda_is_refused(platform, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    with pytest.raises(ValueError, match=f"needs a GPU of NVIDIA or a CPU, but jax computes on {platform}; use back"):
        check_warp()
    with pytest.raises(ValueError, match="backend warp needs a GPU of NVIDIA"):
        Arm("warp")


def test_a_missing_warp_is_reported_with_the_install_command(monkeypatch):
    warp = pytest.importorskip("mujoco.mjx.warp")
    monkeypatch.setattr(warp, "WARP_INSTALLED", False)
    with pytest.raises(ImportError, match="pip install warp-lang"):
        check_warp()


@pytest.fixture(scope="module")
def engine():
    pytest.importorskip("warp")
    return WarpEngine(mujoco.MjModel.from_xml_string(ARM))


def positions(num_envs):
    return jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (num_envs, 2)), jnp.float32)


def played(engine, qpos):
    """Play six steps, in some of which the tip touches the floor."""

    def step(data, ctrl):
        data = engine.step(data.replace(ctrl=ctrl), 4)
        return data, (data.qpos, data.qvel, data.sensordata)

    data = engine.forward(engine.start().replace(qpos=qpos))
    return jax.lax.scan(step, data, jnp.asarray(np.random.default_rng(1).uniform(-1, 1, (6, 2)), jnp.float32))[1]


@pytest.mark.ci
def test_it_agrees_with_mjx_for_any_nesting_and_any_allocation(engine):
    together = jax.jit(jax.vmap(lambda q: played(engine, q)))(positions(8))
    mjx = MjxEngine(mujoco.MjModel.from_xml_string(ARM))
    reference = jax.jit(jax.vmap(lambda q: played(mjx, q)))(positions(8))
    for ours, theirs, bound in zip(together, reference, (1e-5, 1e-3, 1e-4), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=bound)
    larger = WarpEngine(mujoco.MjModel.from_xml_string(ARM))
    larger.reserve(100)
    nested = jax.jit(jax.vmap(jax.vmap(lambda q: played(larger, q))))(positions(8).reshape(2, 4, 2))
    for ours, other in zip(together, nested, strict=True):
        np.testing.assert_array_equal(other.reshape(ours.shape), ours)


@pytest.mark.ci
def test_the_state_has_nothing_that_environments_share(engine):
    data = engine.start()
    complete = with_shared(data, engine._shared)
    assert complete._impl.contact__dist.shape == (engine._num_contacts,)
    assert jax.tree.structure(without_shared(complete)) == jax.tree.structure(data)
    batch = jax.eval_shape(jax.vmap(lambda q: engine.forward(data.replace(qpos=q))), positions(3))
    assert {leaf.shape[0] for leaf in jax.tree.leaves(batch)} == {3}


@pytest.mark.ci
def test_contacts_are_allocated_for_all_environments_of_a_task():
    pytest.importorskip("warp")
    task = Arm("warp")
    before = task.engine._num_contacts
    episodes = envs.EpisodeEnv(task, episode_length=4)
    jax.eval_shape(episodes.init, jax.random.split(jax.random.key(0), 50))
    assert task.engine._num_contacts == before // 64 * 100
    # What was allocated while one program was traced serves the next.
    jax.eval_shape(task.reset, jax.random.key(0))


@pytest.mark.ci
def test_two_seeds_train_resume_evaluate_and_play_on_warp(tmp_path):
    pytest.importorskip("mujoco_playground")
    pytest.importorskip("warp")
    from genpo_jax.viewing.recording import record_run

    genpo_jax.train(config=CONFIG, run_dir=tmp_path, progress=False)
    run = genpo_jax.train(config=replace(CONFIG, num_timesteps=128), run_dir=tmp_path, resume=True, progress=False)
    assert np.isfinite(run.metrics["train/kl"]) and run.metrics["eval/length_zero"] == 6
    result = evaluate(tmp_path, episodes=3, noise=("zero",), seed=1)
    # On the same states, the C engine earns the same.
    on_c = evaluate(tmp_path, episodes=3, noise=("zero",), seed=1, backend="c")
    assert result["noise"]["zero"]["return"] == pytest.approx(on_c["noise"]["zero"]["return"], abs=1e-3)
    assert len(record_run(tmp_path, seed=0, steps=3).episodes) == 2


def test_an_environment_whose_contacts_are_published_allocates_in_proportion():
    playground = pytest.importorskip("mujoco_playground")
    pytest.importorskip("warp")
    env = envs.make("WalkerWalk", "warp")
    per_env = playground.registry.get_default_config("WalkerWalk").naconmax / 2048
    env.reserve(1000)
    assert env.raw._config.naconmax == per_env * 2048
    env.reserve(4096)
    assert env.raw._config.naconmax == per_env * 4096
    state, _ = jax.eval_shape(env.reset, jax.random.key(0))
    after, *_ = jax.eval_shape(env.step, state, jnp.zeros(env.action_size))
    assert jax.tree.structure(after) == jax.tree.structure(state)
