"""The public Python API: train, load, act, and custom environments."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import TargetEnv
from settings import networks, sized

import genpo_jax
from genpo_jax import cli, envs
from genpo_jax.config import Config, EnvConfig, PPOConfig
from genpo_jax.runs import run as run_module
from genpo_jax.runs.folder import read_config, saved_config
from genpo_jax.runs.metrics import read_metrics

CONFIG = Config(
    env="some-preset's",
    backend="spring",
    seed=3,
    num_timesteps=256,
    updates_per_chunk=2,
    num_evals=1,
    eval_envs=2,
    env_options=EnvConfig(num_envs=8),
    method=sized((8,), "gaussian"),
    networks=networks((8,)),
    ppo=PPOConfig(unroll=8, num_minibatches=2, num_epochs=2),
)
EXAMPLES = Path(__file__).parents[1] / "examples"


class PrivilegedTarget(TargetEnv):
    name = "privileged"

    def __init__(self):
        super().__init__(privileged=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two seeds on an environment object, whose name overrides the name in the config."""
    folder = tmp_path_factory.mktemp("front") / "run"
    return genpo_jax.train(PrivilegedTarget(), replace(CONFIG, num_seeds=2, method=sized((8,))), folder, progress=False)


def test_an_environment_object_overrides_the_backend_of_the_config_with_a_warning(caplog):
    assert run_module._named(PrivilegedTarget(), CONFIG)[1].backend is None
    assert "backend 'spring' of the config is not used: the environment object privileged has its own" in caplog.text
    caplog.clear()
    task = PrivilegedTarget()
    task.backend = "spring"
    run_module._named(task, CONFIG)
    run_module._named(PrivilegedTarget(), replace(CONFIG, backend=None))
    assert not caplog.text


def test_an_environment_object_overrides_the_name_and_backend_of_the_config(run):
    saved = read_config(run.run_dir)
    assert (saved["config"]["env"], saved["config"]["backend"]) == ("privileged", None)
    assert saved["environment"] == {
        "own_name": "privileged",
        "factory": None,
        "object": True,
        "class": "test_front_door:PrivilegedTarget",
        "sha256": None,
        "default_episode_length": 8,
        "control_period_seconds": None,
        "robot": None,
    }


def test_a_run_has_metrics_and_policies_and_prints_nothing(run, capsys):
    lines = read_metrics(run.run_dir / "metrics.jsonl")
    assert run.metrics["eval/return_zero"] == lines[-1]["eval/return_zero"]
    assert run.metrics["train/env/target"] == lines[-1]["train/env/target"]
    assert {"eval/env/target", "eval/env_zero/target"} <= lines[-1].keys()
    assert list(run.policies) == [3, 4]
    assert capsys.readouterr().out == ""


def test_a_loaded_policy_equals_the_trained_policy(run):
    obs = np.random.default_rng(0).normal(size=(5, 1))
    for seed in (3, 4):
        loaded, trained = genpo_jax.load(run.run_dir, seed=seed), run.policies[seed]
        alone = genpo_jax.load(run.run_dir / f"seed-{seed}")
        for arguments in ((obs,), (obs, jax.random.key(1)), ({"state": obs, "privileged_state": np.zeros((5, 2))},)):
            np.testing.assert_array_equal(loaded(*arguments), trained(*arguments))
            np.testing.assert_array_equal(loaded(*arguments), alone(*arguments))
    assert not np.array_equal(run.policies[3](obs), run.policies[4](obs))


def test_a_policy_applies_normalizer_agent_and_squash(run):
    state = jax.tree.map(lambda x: x[0], run._state)
    algorithm = run.trainer.algorithm
    obs = {"state": jnp.linspace(-2, 2, 7)[:, None], "privileged_state": jnp.zeros((7, 2))}
    expected = jnp.tanh(algorithm.make_agent(state.learner.params).zero_noise_action(algorithm.normalize(state, obs)))
    assert float(jnp.abs(state.obs_moments["state"].mean).sum()) > 0
    np.testing.assert_allclose(run.policy(obs), expected, atol=1e-6)


@pytest.mark.ci
def test_a_policy_acts_on_one_or_many_observations_inside_jit_and_as_a_pytree(run):
    policy, obs = genpo_jax.load(run.run_dir, seed=3), jnp.ones((4, 3, 1))
    many = policy(obs)
    assert many.shape == (4, 3, 1) and many.dtype == jnp.float32
    np.testing.assert_allclose(policy(obs[0, 0]), many[0, 0], atol=1e-6)
    np.testing.assert_allclose(jax.jit(policy)(obs), many, atol=1e-6)
    np.testing.assert_allclose(jax.vmap(policy)(obs), many, atol=1e-6)
    np.testing.assert_allclose(jax.jit(lambda p, o: p(o))(policy, obs), many, atol=1e-6)
    sampled = policy(obs, jax.random.key(0))
    assert float(jnp.abs(sampled - many).max()) > 1e-3
    assert float(jnp.abs(sampled).max()) <= 1


def test_observations_of_another_shape_or_name_are_refused(run):
    policy = run.policy
    with pytest.raises(ValueError, match=r"observations of privileged must be \[..., 1\], got \(2, 3\)"):
        policy(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="observation called 'state', got .'pixels'"):
        policy({"pixels": np.zeros(1)})


def test_errors_of_loading_list_the_existing_seeds_and_steps(run, tmp_path):
    with pytest.raises(ValueError, match="holds the seeds 3, 4; choose one"):
        genpo_jax.load(run.run_dir)
    with pytest.raises(ValueError, match="holds the seeds 3, 4, not 7"):
        genpo_jax.load(run.run_dir, seed=7)
    with pytest.raises(FileNotFoundError, match="no checkpoint in .* of step 100; there are 0, 256"):
        genpo_jax.load(run.run_dir, step=100, seed=3)
    with pytest.raises(FileNotFoundError, match="there is no run in"):
        genpo_jax.load(tmp_path)


def test_a_checkpoint_can_be_chosen(run):
    obs = np.ones((3, 1))
    first, last = (genpo_jax.load(run.run_dir, step=step, seed=3) for step in (0, 256))
    assert first.moments.count == 0 and last.moments.count == 256
    np.testing.assert_array_equal(last(obs), run.policies[3](obs))


@pytest.mark.ci
def test_loading_and_acting_imports_no_physics(run):
    code = (
        "import sys\n"
        "for name in ('brax', 'mujoco', 'mujoco_playground', 'tensorboardX', 'matplotlib'): sys.modules[name] = None\n"
        f"import genpo_jax; policy = genpo_jax.load({str(run.run_dir)!r}, seed=4); print(float(policy([0.5])[0]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(float(run.policies[4]([0.5])[0]), abs=1e-6)


@pytest.mark.ci
def test_resuming_a_run_on_an_environment_object_needs_the_object(run, capsys):
    advice = "trained on an environment object, 'privileged'; pass env='test_front_door:PrivilegedTarget', a class"
    with pytest.raises(ValueError, match=advice):
        genpo_jax.train(run_dir=run.run_dir, resume=True)
    # On the command line the message names options.
    with pytest.raises(SystemExit) as refusal:
        cli.main(["train", "--run-dir", str(run.run_dir), "--resume"])
    assert "pass --env test_front_door:PrivilegedTarget, a class" in str(refusal.value.code)
    longer = genpo_jax.train(
        PrivilegedTarget(), replace(saved_config(run.run_dir), num_timesteps=384), run.run_dir, resume=True
    )
    assert [line["env_steps"] for line in read_metrics(longer.run_dir / "metrics.jsonl")] == [0, 128, 256, 384]


@pytest.mark.ci
def test_a_registered_name_trains_and_resumes_without_being_registered_again(tmp_path, monkeypatch):
    monkeypatch.setattr(envs.registry, "_registered", {})
    genpo_jax.register_env("my-target", TargetEnv)
    genpo_jax.train("my-target", replace(CONFIG, backend=None), tmp_path)
    assert read_config(tmp_path)["environment"]["factory"] == "probes:TargetEnv"
    assert saved_config(tmp_path).env == "my-target"
    envs.registry._registered.clear()
    cli.main(["train", "--run-dir", str(tmp_path), "--resume", "--trust", "--num-timesteps", "384"])
    assert read_config(tmp_path)["environment"]["factory"] == "probes:TargetEnv"
    assert read_metrics(tmp_path / "metrics.jsonl")[-1]["env_steps"] == 384


@pytest.mark.parametrize(
    ("name", "factory", "error", "message"),
    [
        ("ant", TargetEnv, ValueError, "an environment of a library already"),
        ("a:b", TargetEnv, ValueError, "without ':'"),
        ("mine", TargetEnv(), TypeError, "must be callable"),
    ],
)
def test_a_name_that_cannot_be_registered_is_refused(name, factory, error, message):
    with pytest.raises(error, match=message):
        genpo_jax.register_env(name, factory)


def test_a_name_belongs_to_one_factory(monkeypatch):
    monkeypatch.setattr(envs.registry, "_registered", {})
    genpo_jax.register_env("mine", TargetEnv)
    genpo_jax.register_env("mine", TargetEnv)
    with pytest.raises(ValueError, match="registered already"):
        genpo_jax.register_env("mine", PrivilegedTarget)
    with pytest.raises(ValueError, match="registered are mine"):
        envs.check("hopperr!")


def test_a_module_and_a_name_in_it_create_an_environment():
    assert envs.make("probes:TargetEnv").name == "target"
    with pytest.raises(ValueError, match="no backend 'mjx'; its factory takes none"):
        envs.check("probes:TargetEnv", "mjx")
    with pytest.raises(ValueError, match="has no attribute 'Nothing'"):
        envs.check("probes:Nothing")
    with pytest.raises(ValueError, match="must be a class or function"):
        envs.check("probes:jnp.pi")


@pytest.mark.ci
def test_objects_of_brax_and_playground_are_environments():
    brax = genpo_jax.make_env("fast").raw
    env = envs.as_environment(brax)
    assert (env.name, env.action_size, env.default_episode_length) == ("Fast", 1, 1000)
    playground = pytest.importorskip("mujoco_playground").registry.load(
        "CartpoleBalance", config_overrides={"impl": "jax"}
    )
    assert envs.as_environment(playground).observation_sizes == {"state": 5}
    with pytest.raises(TypeError, match=r"got dict without name, action_size"):
        genpo_jax.train({}, CONFIG)
    nameless = TargetEnv()
    nameless.name = None
    with pytest.raises(ValueError, match="the attribute name of TargetEnv must be a string, got None"):
        genpo_jax.train(nameless, CONFIG)


@pytest.mark.ci
def test_a_brax_object_trains(tmp_path):
    run = genpo_jax.train(genpo_jax.make_env("fast").raw, CONFIG, tmp_path, progress=False)
    assert run.policy.spec.env == "Fast"
    assert run.metrics["train/reward"] > 0


class FourValues(TargetEnv):
    def step(self, state, action):
        return super().step(state, action)[:4]


class VectorMetric(TargetEnv):
    def step(self, state, action):
        *others, _ = super().step(state, action)
        return (*others, {"both": jnp.zeros(2)})


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (FourValues(), r"must return \(state, observation, reward, terminated, metrics\), got 4 values"),
        (VectorMetric(), r"metrics must be scalars, 'both' of target has shape \(2,\)"),
    ],
)
def test_an_environment_that_breaks_the_contract_is_refused(env, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        genpo_jax.train(env, CONFIG, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_errors_name_arguments_in_python_and_options_on_the_command_line(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="resume it with resume=True, or name another run_dir"):
        genpo_jax.train(TargetEnv(), CONFIG, tmp_path)
    with pytest.raises(ValueError, match="resume=True needs run_dir"):
        genpo_jax.train(resume=True)
    with pytest.raises(SystemExit, match="resume it with --resume, or name another --run-dir"):
        cli.main(["train", "--env", "fast", "--run-dir", str(tmp_path)])


def test_an_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        genpo_jax.trian  # noqa: B018
    assert set(genpo_jax.__all__) <= set(dir(genpo_jax))


@pytest.mark.ci
@pytest.mark.parametrize("name", ["train", "load", "make_env('ring')"])
def test_a_missing_package_is_reported_with_the_extra_that_installs_it(name):
    missing = "optax" if name == "train" else "flax"
    code = f"import sys; sys.modules['{missing}'] = None; import genpo_jax; genpo_jax.{name}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"{missing} is not installed; in your clone of genpo_jax: pip install -e '.[train]'" in done.stderr


@pytest.mark.parametrize(
    ("command", "unbuffered"),
    [(["envs"], ""), (["methods", "--json"], "1"), (["--help"], ""), (["train", "--help"], "1")],
)
def test_a_reader_that_closes_the_pipe_ends_a_command_without_an_error(command, unbuffered):
    program = [sys.executable, "-m", "genpo_jax", *command]
    env = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    with subprocess.Popen(program, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_another_broken_pipe_is_an_error(capsys):
    def encode(arguments, prog):
        raise BrokenPipeError(32, "Broken pipe")

    with pytest.raises(SystemExit, match="error: .*Broken pipe"):
        cli.run_command(encode, [], "encode")


def test_every_public_name_can_be_imported():
    for name in genpo_jax.__all__:
        assert getattr(genpo_jax, name) is not None


@pytest.mark.ci
def test_the_example_is_short_and_trains_with_one_command(tmp_path):
    code = (EXAMPLES / "reach_arm.py").read_text()
    assert len(code.splitlines()) < 60
    command = re.search(r"`genpo-jax (.*)`", code)[1].split()
    sizes = {"--num-timesteps": "128", "--num-envs": "4", "--unroll": "16", "--num-minibatches": "2"}
    sizes |= {"--updates-per-chunk": "1", "--num-evals": "1", "--eval-envs": "1", "--episode-length": "8"}
    options = [text for pair in sizes.items() for text in pair]
    done = subprocess.run(
        [sys.executable, "-m", "genpo_jax", *command, *options, "--run-dir", str(tmp_path)],
        cwd=EXAMPLES.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    last = read_metrics(tmp_path / "metrics.jsonl")[-1]
    # The sum over the 8 steps of an episode; the tool is always within 1.1 m of its target.
    assert 0 < last["train/env/distance"] < 8 * 1.1
    assert genpo_jax.load(tmp_path)(np.zeros(10)).shape == (2,)


def test_the_backend_of_a_config_is_kept_for_another_environment_or_refused(tmp_path):
    _, named = run_module._named("hopper", genpo_jax.Config(backend="mjx"))
    assert (named.env, named.backend) == ("hopper", "mjx")
    with pytest.raises(ValueError, match="environment 'fast' has no backend 'mjx'; leave the backend out"):
        genpo_jax.train("fast", genpo_jax.Config(backend="mjx"), tmp_path)
    with pytest.raises(ValueError, match="'CartpoleBalance' has no backend 'spring'; choose one of jax, warp, c"):
        genpo_jax.train("CartpoleBalance", genpo_jax.Config(backend="spring"), tmp_path)
