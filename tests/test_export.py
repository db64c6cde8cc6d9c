"""An exported policy acts as the policy in the trainer does, and can be deployed."""

import dataclasses
import itertools
import json
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import get_args, get_type_hints

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from flax import nnx
from probes import IntegratorEnv, planning_policy
from settings import networks, sized

from genpo_jax import cli, envs, train
from genpo_jax.config import Config, EnvConfig, PPOConfig
from genpo_jax.envs.mujoco_model import robot_of
from genpo_jax.methods import METHODS, FlowMethod, GenPOPlusPlus, ReversibleMethod
from genpo_jax.normalizer import RunningMoments
from genpo_jax.policy import PolicySpec, TrainedPolicy
from genpo_jax.runs.evaluate import evaluate
from genpo_jax.runs.files import write_atomically
from genpo_jax.runs.folder import write_config
from genpo_jax.runs.metrics import MetricsWriter

ort = pytest.importorskip("onnxruntime")
from examples import in_the_loop, robot_loop  # noqa: E402
from genpo_jax.export import deploy as deployment  # noqa: E402
from genpo_jax.export import exporter, onnx_graph, standalone  # noqa: E402
from genpo_jax.export.deploy import Deployment, _backends, deploy, table  # noqa: E402
from genpo_jax.export.exporter import export, policy_files  # noqa: E402
from genpo_jax.export.model_card import model_card, randomization_text  # noqa: E402
from genpo_jax.export.onnx_graph import batched, to_onnx  # noqa: E402

OBS, ACTION = 6, 3
ACTIVATIONS = ("mish", "elu", "swish", "tanh")
BASES = get_args(get_type_hints(ReversibleMethod)["base"])
SOLVERS = get_args(get_type_hints(GenPOPlusPlus)["solver"])


def trained(method="genpo++", activation="mish", squash="tanh", moments=True, **settings):
    """Return a policy whose weights and normalizer differ much from the initial ones."""
    spec = PolicySpec(
        env="some",
        seed=0,
        obs_size=OBS,
        obs_name="state",
        action_size=ACTION,
        squash=squash,
        method=sized((16,), method, **settings),
        networks=networks((8,), activation=activation),
        normalized=moments,
    )
    leaves, tree = jax.tree.flatten(nnx.state(spec.build(), nnx.Param))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [p + 0.1 * jax.random.normal(key, p.shape) for p, key in zip(leaves, keys, strict=True)]
    seen = (
        RunningMoments(jnp.float32(10.0), jnp.arange(OBS, dtype=jnp.float32), 40 * jnp.ones(OBS)) if moments else None
    )
    return TrainedPolicy(spec, jax.tree.unflatten(tree, moved), seen)


def observations(count=64):
    return np.random.default_rng(0).normal(scale=2, size=(count, OBS)).astype(np.float32)


def run_onnx(contents, **inputs):
    return ort.InferenceSession(contents, providers=["CPUExecutionProvider"]).run(None, inputs)[0]


def has_network(method):
    return issubclass(METHODS[method], FlowMethod)


def variants(method):
    """Yield the settings of a method, for each network, base and solver that it has."""
    choices = {}
    if has_network(method):
        choices["network"] = ("encoder", "concat")
    if issubclass(METHODS[method], ReversibleMethod):
        choices["base"] = BASES
    if method == GenPOPlusPlus.name:
        choices["solver"] = SOLVERS
    for values in itertools.product(*choices.values()):
        settings = dict(zip(choices, values, strict=True))
        # Recommended for order 3, and valid for every order.
        coef = {"history_coef": 0.3} if settings.get("solver", "").startswith("multistep") else {}
        yield settings | coef


EVERY = [
    (method, network, activation)
    for method in METHODS
    for network in ("encoder", "concat")[: 2 if has_network(method) else 1]
    for activation in ACTIVATIONS
]


def largest_difference(method, network, activation, **settings):
    policy = trained(method, activation, **({"network": network} if has_network(method) else {}), **settings)
    obs = observations()
    noise = np.random.default_rng(1).normal(size=(len(obs), *policy.noise_shape)).astype(np.float32)
    still = to_onnx(policy, {"observation": batched(OBS)}, ["action"]).SerializeToString()
    noisy = to_onnx(
        lambda obs, noise: policy(obs, noise=noise),
        {"observation": batched(OBS), "noise": batched(*policy.noise_shape)},
        ["action"],
    ).SerializeToString()
    expected, expected_noisy = jax.jit(policy)(obs), jax.jit(lambda o, n: policy(o, noise=n))(obs, noise)
    assert jnp.abs(expected).mean() > 0.05 and jnp.abs(expected_noisy - expected).mean() > 0.05
    return max(
        float(np.abs(run_onnx(still, observation=obs) - expected).max()),
        float(np.abs(run_onnx(noisy, observation=obs, noise=noise) - expected_noisy).max()),
    )


@pytest.mark.ci
def test_a_policy_in_tf32_is_exported_in_float32():
    exact = trained()
    settings = networks((8,), compute_dtype="tf32")
    policy = TrainedPolicy(dataclasses.replace(exact.spec, networks=settings), exact.params, exact.moments)
    obs = observations()
    expected = jax.jit(exact)(obs)
    assert jnp.abs(jax.jit(policy)(obs) - expected).max() > 1e-5
    same = jax.export.deserialize(bytearray(policy_files(policy)["policy.stablehlo"])).call(obs)
    np.testing.assert_allclose(same, expected, atol=1e-6)


@pytest.mark.ci
def test_a_policy_in_bfloat16_is_unchanged_in_stablehlo_and_in_float32_in_onnx():
    exact = trained()
    rounded = TrainedPolicy(
        dataclasses.replace(exact.spec, networks=networks((8,), compute_dtype="bfloat16")), exact.params, exact.moments
    )
    obs, files = observations(), policy_files(rounded)
    expected, expected_exact = jax.jit(rounded)(obs), jax.jit(exact)(obs)
    # bfloat16 keeps 8 bits, so its actions must differ from those of float32 by more than rounding.
    assert 1e-4 < jnp.abs(expected - expected_exact).max() < 0.1
    np.testing.assert_allclose(run_onnx(files["policy.onnx"], observation=obs), expected_exact, atol=1e-5)
    same = jax.export.deserialize(bytearray(files["policy.stablehlo"])).call(obs)
    np.testing.assert_allclose(same, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "network", "activation"),
    [
        pytest.param("genpo++", "encoder", "mish", marks=pytest.mark.ci),
        ("gaussian", "encoder", "swish"),
        pytest.param("reinflow", "concat", "elu", marks=pytest.mark.ci),
    ],
)
def test_some_methods_act_in_onnx_as_in_the_trainer(method, network, activation):
    assert largest_difference(method, network, activation) < 1e-5


@pytest.mark.ci
@pytest.mark.parametrize(("method", "network", "activation"), EVERY)
def test_every_method_acts_in_onnx_as_in_the_trainer(method, network, activation):
    assert largest_difference(method, network, activation) < 1e-5


@pytest.mark.ci
@pytest.mark.parametrize("method", ["genpo", "saflow"])
def test_a_fine_tuned_policy_acts_in_onnx_as_in_the_trainer(method):
    assert largest_difference(method, "encoder", "mish", base="correlated", num_steps=2) < 1e-5


@pytest.mark.ci
@pytest.mark.parametrize(
    ("method", "settings"),
    [
        *((m, s) for m in ("genpo++", "genpo", "saflow") for s in variants(m) if s["network"] == "encoder"),
        ("genpo++", {"network": "encoder", "num_histories": 2}),
        ("dppo", {"network": "encoder", "noise_std": 0.3}),
    ],
    ids=str,
)
def test_every_base_and_solver_acts_in_onnx_as_in_the_trainer(method, settings):
    assert largest_difference(method, activation="mish", **settings) < 1e-5


def converted(method, activation, action_size, **settings):
    """Convert a policy with random weights, which nothing is computed with."""
    # Fewer steps convert sooner; more than 16 would be a loop, which must convert too.
    steps = {} if method in ("gaussian", "fpo++") else {"num_steps": 2}
    method = sized((8, 8), method, **steps, **settings)
    nets = networks((8,), activation=activation)
    spec = PolicySpec("some", 0, OBS, "state", action_size, "tanh", method, nets, normalized=True)
    kinds = nnx.state(nnx.eval_shape(spec.build), nnx.Param)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda kind: rng.normal(scale=0.3, size=kind.shape).astype(kind.dtype), kinds)
    policy = TrainedPolicy(spec, params, RunningMoments(jnp.float32(10), jnp.zeros(OBS), 40 * jnp.ones(OBS)))
    inputs = {"observation": batched(OBS), "noise": batched(*policy.noise_shape)}
    to_onnx(policy, {"observation": batched(OBS)}, ["action"])
    return to_onnx(lambda obs, noise: policy(obs, noise=noise), inputs, ["action"])


@pytest.fixture
def used_rules(monkeypatch):
    """The names of the rules that conversions have used."""
    used = set()

    def watched(name, rule):
        def apply(*arguments):
            used.add(name)
            return rule(*arguments)

        return apply

    rules = {name: watched(name, rule) for name, rule in onnx_graph.RULES.items()}
    monkeypatch.setattr(onnx_graph, "RULES", rules)
    return used


@pytest.mark.ci
def test_every_method_converts_and_every_rule_is_used(used_rules):
    for method, activation in zip(METHODS, itertools.cycle(ACTIVATIONS), strict=False):
        converted(method, activation, ACTION)
    converted("genpo", "mish", ACTION, base="correlated", network="concat")
    assert used_rules == set(onnx_graph.RULES)


@pytest.mark.ci
@pytest.mark.parametrize("method", METHODS)
def test_every_network_base_solver_activation_and_chunk_converts(method):
    # Sizes of one action of one number, and of a chunk of four actions. Rules of networks, solvers and activations do
    # not depend on one another, so each variant has one activation and one size.
    sizes = itertools.cycle(zip(ACTIVATIONS, (1, 4 * ACTION, 1, 4 * ACTION), strict=True))
    for settings, (activation, size) in zip(variants(method), sizes, strict=False):
        contents = converted(method, activation, size, **settings)
        assert [output.name for output in contents.graph.output] == ["action"]


@pytest.mark.parametrize(
    "method", ["gaussian", "genpo++", *(pytest.param(method, marks=pytest.mark.ci) for method in ("dppo", "fpo"))]
)
def test_noise_gives_the_same_action_as_a_key(method):
    policy = trained(method)
    obs = jnp.asarray(observations(4))
    # FPO also draws for its ratio, and splits its key first.
    key = jax.random.split(jax.random.key(3), 3)[0] if method == "fpo" else jax.random.key(3)
    noise = jax.random.normal(key, (4, *policy.noise_shape))
    np.testing.assert_allclose(policy(obs, noise=noise), policy(obs, jax.random.key(3)), atol=1e-6)
    np.testing.assert_allclose(policy(obs, noise=jnp.zeros_like(noise)), policy(obs), atol=1e-6)


def test_clipped_policies_and_policies_without_a_normalizer_are_exported():
    policy, obs = trained("gaussian", squash="clip", moments=False), observations()
    action = run_onnx(to_onnx(policy, {"observation": batched(OBS)}, ["action"]).SerializeToString(), observation=obs)
    np.testing.assert_allclose(action, policy(obs), atol=1e-6)
    assert np.abs(action).max() == 1


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: jnp.where(x > 0, x, jnp.expm1(x)), [[1.5, np.expm1(-2.0)]]),
        (lambda x: jnp.stack([x, 2 * x], axis=1), [[[1.5, -2.0], [3.0, -4.0]]]),
        (lambda x: jax.lax.fori_loop(0, 3, lambda i, y: y + i * x, x), [[6.0, -8.0]]),
        (lambda x: jax.lax.slice_in_dim(x, 0, 1, axis=1), [[1.5]]),
        (lambda x: jax.lax.slice_in_dim(x, 1, None, axis=1), [[-2.0]]),
        (lambda x: jax.lax.slice_in_dim(jnp.concatenate([x, 3 * x], axis=1), 1, 3, axis=1), [[-2.0, 4.5]]),
        (lambda x: x[..., 1], [-2.0]),
        (lambda x: x @ jnp.array([[1.0, 2.0], [3.0, 4.0]]), [[-4.5, -5.0]]),
        (lambda x: jnp.concatenate([x, jnp.broadcast_to(jnp.arange(2.0), x.shape)], axis=1), [[1.5, -2.0, 0.0, 1.0]]),
        (lambda x: jnp.clip(x, -1, 1) / jax.nn.sigmoid(0 * x), [[2.0, -2.0]]),
    ],
)
def test_a_graph_computes_what_the_function_does(function, expected):
    x = np.array([[1.5, -2.0]], np.float32)
    contents = to_onnx(function, {"x": batched(2)}, ["y"]).SerializeToString()
    np.testing.assert_allclose(run_onnx(contents, x=x), np.asarray(expected), atol=1e-6)


def test_an_operation_without_a_rule_is_named():
    with pytest.raises(NotImplementedError, match="this use of the operation 'sort'"):
        to_onnx(lambda x: jnp.sort(x, axis=-1), {"x": batched(3)}, ["y"])


def test_an_operation_without_a_rule_that_nothing_depends_on_is_left_out():
    to_onnx(lambda x: (jnp.sort(x, axis=-1), 2 * x)[1], {"x": batched(3)}, ["y"])


def small(env, **settings):
    return Config(
        env=env,
        num_timesteps=256,
        num_evals=1,
        eval_envs=2,
        updates_per_chunk=2,
        env_options=EnvConfig(num_envs=16),
        method=sized((8,)),
        networks=networks((8,)),
        ppo=PPOConfig(unroll=8, num_minibatches=2, num_epochs=2),
        **settings,
    )


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A short run on a toy, and its export."""
    folder = tmp_path_factory.mktemp("export")
    run = train("ring", small("ring"), folder / "run", progress=False)
    return run, export(folder / "run", folder / "exported")


def test_an_exported_policy_acts_as_the_run_in_either_format_with_any_noise(exported):
    run, folder = exported
    obs = np.random.default_rng(0).normal(size=(3, 5, 2)).astype(np.float32)
    noise = np.random.default_rng(1).normal(size=(3, 5, *run.policy.noise_shape)).astype(np.float32)
    onnx, stablehlo = standalone.OnnxPolicy(folder), standalone.StableHloPolicy(folder)
    for policy in (onnx, stablehlo):
        np.testing.assert_allclose(policy(obs), run.policy(obs), atol=1e-6)
        np.testing.assert_allclose(policy(obs[0, 0]), run.policy(obs[0, 0]), atol=1e-6)
        np.testing.assert_allclose(policy(obs, noise=noise), run.policy(obs, noise=noise), atol=1e-5)
        np.testing.assert_array_equal(policy(obs, seed=1), policy(obs, seed=1))
        assert np.abs(policy(obs, seed=1) - policy(obs, seed=2)).max() > 1e-3
    flat = obs.reshape(15, 2)
    drawn = jax.random.normal(jax.random.key(7), (15, *run.policy.noise_shape))
    np.testing.assert_allclose(stablehlo(flat, seed=7), run.policy(flat, noise=drawn), atol=1e-6)


def test_the_description_has_the_meaning_of_all_numbers(exported):
    run, folder = exported
    description = json.loads((folder / "policy.json").read_text())
    assert description["observation"]["shape"] == ["batch", 2] and description["action"]["shape"] == ["batch", 2]
    assert description["method"]["name"] == "genpo++" and description["noise"]["shape"] == [2, 2]
    assert description["environment"]["name"] == "ring" and description["action"]["names"] == ["action_0", "action_1"]
    # A toy has neither a MuJoCo model nor simulated time.
    assert description["robot"] is None
    assert description["rate"] == {"control_period_seconds": None, "policy_period_seconds": None}
    assert description["trained"]["eval/return_zero"] == run.metrics["eval/return_zero"]
    assert set(description["files"]) == {path.name for path in folder.iterdir()} - {"policy.json"}
    np.testing.assert_allclose(description["observation"]["seen_mean"], run.policy.moments.mean, atol=1e-6)
    assert "genpo++ on ring" in (folder / "README.md").read_text()
    assert not description["cloned"] and "The policy was trained in simulation only." in model_card(description)
    assert "The policy imitates demonstrations." in model_card(description | {"cloned": True})


def test_the_description_names_the_joints_and_actuators_of_a_robot():
    model = mujoco.MjModel.from_xml_string(
        "<mujoco><worldbody><body><joint name='hip' type='hinge'/><geom size='.1'/></body></worldbody>"
        "<actuator><motor joint='hip' ctrlrange='-2 2'/></actuator></mujoco>"
    )
    robot = robot_of(types.SimpleNamespace(mj_model=model))
    assert robot == {"joints": ["hip"], "actuators": ["hip"], "ctrl_range": [[-2.0, 2.0]]}
    assert exporter._action_names(robot, 1) == ["hip"]
    assert exporter._action_names(robot, 2) == exporter._action_names(None, 2) == ["action_0", "action_1"]
    # Four env steps of 0.02 s from one policy call to the next.
    spec = dataclasses.replace(trained().spec, chunk=4, executed=2, action_repeat=2)
    rate = exporter._rate(0.02, spec)
    assert rate == {"control_period_seconds": 0.02, "policy_period_seconds": 0.08}


def test_an_export_says_on_which_engine_and_with_which_option_it_is_deployed():
    def note(name, backend, **source):
        return exporter.deploy_note({"name": name, "backend": backend} | source)

    assert note("hopper", "c") == note("hopper", "mjx") == note("ring", None) == note("panda_push", None) == ""
    for name, backend, engine in (("hopper", "positional", "positional"), ("ant", None, "spring")):
        assert f"was trained on Brax's engine {engine}, and deploy uses the same engine" in note(name, backend)
    assert note("mine:Arm", None).endswith("genpo-jax deploy needs --env mine:Arm.")
    assert note("arm", None, factory="mine:Arm").endswith("--env mine:Arm.")
    assert note("hopper", None, object=True, **{"class": "mine:Arm"}).startswith("The environment is not one")
    assert note("arm", None, object=True).endswith("--env my_module:NAME.")


@pytest.fixture(scope="module")
def planning(tmp_path_factory):
    """An exported policy of chunk 4, executed 2 and action repeat 2 with numbers that a person can compute."""
    folder = tmp_path_factory.mktemp("planning")
    options = EnvConfig(num_envs=16, chunk=4, executed=2, action_repeat=2, squash="clip")
    write_config(folder / "run", Config(env="probes:IntegratorEnv", env_options=options), "cpu", 1)
    with MetricsWriter(folder / "run") as writer:
        for steps, value in ((32, 1.5), (64, 3.5), (128, 9.0)):
            writer.write(steps, 1.0, {"eval/return_zero": value, "eval/return_random": value - 0.25})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporter, "load", lambda run_dir, step: planning_policy())
        return export(folder / "run", folder / "exported", step=64, env="probes:IntegratorEnv")


def test_an_exported_policy_has_its_chunk_and_its_rate(planning):
    policy = standalone.OnnxPolicy(planning)
    action, rate = policy.description["action"], policy.description["rate"]
    assert [action[name] for name in ("size", "chunk", "executed", "action_repeat")] == [1, 4, 2, 2]
    assert rate == pytest.approx({"control_period_seconds": 0.05, "policy_period_seconds": 0.2})
    chunk = policy([0.6])
    assert chunk == pytest.approx([0.4, 0.35, 0.3, 0.4])
    assert standalone.executed_actions(policy.description, chunk) == pytest.approx(
        np.array([[0.4], [0.4], [0.35], [0.35]])
    )


def test_a_deployed_policy_executes_its_chunks_and_repeats_its_actions(planning):
    result = deploy(planning, episodes=3)
    # From x = 0 the actions are 0.1, 0.1, 0.2, 0.2, so x is 0.1, 0.2, 0.4, 0.6. The chunk at 0.6 begins with 0.4: x is
    # 1.0 and 1.4, where the time limit of 6 steps ends the episode. A success needs x > 1.2.
    assert result.returns == pytest.approx(3 * [0.1 + 0.2 + 0.4 + 0.6 + 1.0 + 1.4])
    assert list(result.lengths) == 3 * [6] and list(result.metrics["success"]) == 3 * [1]
    assert result.period_seconds == pytest.approx(0.2) and len(result.latencies) == 3 * 2
    assert (result.trained_return, result.env, result.backend) == (3.5, "integrator", None)
    sampled = deploy(planning, episodes=3, noise_seed=1)
    assert len(set(sampled.returns)) == 3 and sampled.trained_return == 3.25
    np.testing.assert_array_equal(sampled.returns, deploy(planning, episodes=3, noise_seed=1).returns)


def test_deadlines_are_those_of_policy_calls():
    latencies = np.array([0.19, 0.21, 0.2, 0.3])
    result = Deployment("arm", "c", np.array([3.0, 5.0]), np.array([6, 8]), {}, latencies, 0.2, 3.5).to_dict()
    assert (result["deadline_misses"], result["policy_calls"], result["policy_period_ms"]) == (2, 4, 200)
    assert result["return"] == 4 and result["length"] == 7 and result["success"] is None
    assert result["latency_ms"]["p50"] == pytest.approx(205)
    assert "deadline misses: 2 of 4 calls, a deadline of 200.0 ms" in table(result)
    assert "return at the last evaluation of training 3.5" in table(result)


def test_the_command_deploys_a_policy_as_evaluation_plays_it(exported, tmp_path, capsys):
    run, folder = exported
    cli.main(["deploy", str(folder), "--episodes", "5", "--out", str(tmp_path / "deploy.json")])
    result = json.loads((tmp_path / "deploy.json").read_text())
    expected = evaluate(run.run_dir, episodes=5, noise=("zero",))["noise"]["zero"]
    assert result["return"] == pytest.approx(expected["return"], rel=1e-4) and result["length"] == expected["length"]
    assert result["trained_return"] == run.metrics["eval/return_zero"] and result["deadline_misses"] is None
    assert "deadline misses: unknown" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "trained", "backends"),
    [
        ("hopper", "mjx", ["c", "mjx"]),
        ("hopper", "c", ["c"]),
        ("hopper", None, [None]),
        ("swimmer", None, [None]),
        ("WalkerWalk", "warp", ["c", "warp"]),
        ("panda_push", None, ["c", None]),
        ("ring", None, [None]),
        ("probes:IntegratorEnv", None, [None]),
    ],
)
def test_the_c_engine_is_preferred_for_what_mujoco_has_simulated(name, trained, backends):
    assert _backends(name, trained) == backends


def test_an_environment_that_cannot_be_made_is_refused_before_anything_is_loaded(planning, tmp_path):
    description = json.loads((planning / "policy.json").read_text())

    def refused(**changes):
        (tmp_path / "policy.json").write_text(json.dumps(description | {"environment": environment | changes}))
        with pytest.raises(ValueError, match=f"^the environment of {tmp_path} cannot be made here: ") as error:
            deploy(tmp_path)
        return str(error.value)

    environment = description["environment"]
    assert "there is no environment 'hopperr'; did you mean 'hopper'?" in refused(name="hopperr")
    by_object = refused(name="integrator", object=True, **{"class": "probes:IntegratorEnv"})
    assert "trained on an environment object, 'integrator'; pass env='probes:IntegratorEnv', a class" in by_object
    assert "has no backend 'warp'" in refused(name="hopper", backend="warp")
    assert deploy(planning, episodes=1, env=IntegratorEnv()).returns == pytest.approx([3.7])
    with pytest.raises(ValueError, match="observation size 1 and action size 1, ring has 2 and 2"):
        deploy(planning, env="ring")


def test_changed_settings_of_playground_are_deployed_but_not_for_another_environment(monkeypatch, tmp_path):
    changed = ("reward_config.scales.torques=-0.001",)
    config = Config(env="Go1Getup", backend="jax", env_options=EnvConfig(playground_config=changed))
    described = exporter._describe_environment(config, {"default_episode_length": 300})
    made = []
    monkeypatch.setattr(envs, "make", lambda name, backend, randomize, settings: made.append((name, settings)))
    for source, env in ((described, None), (described, "Go1Footstand"), (described | {"playground_config": []}, None)):
        deployment.environment_of_export(tmp_path, source, env, "jax", False)
    assert made == [("Go1Getup", [*changed]), ("Go1Footstand", []), ("Go1Getup", [])]


def test_an_environments_own_randomization_is_deployed_on_the_backend_of_the_run(monkeypatch, tmp_path):
    config = Config(env="Go1Getup", backend="jax")
    described = exporter._describe_environment(config, {"default_episode_length": 300})

    def make(name, backend, randomize, settings):
        # As the real one: engine c has one model for all environments of a library.
        if randomize and backend == "c":
            raise ValueError("randomize on another backend")

    monkeypatch.setattr(envs, "make", make)
    for randomize, backend in ((False, "c"), (True, "jax")):
        assert deployment.environment_of_export(tmp_path, described, None, None, False, randomize)[1] == backend


def test_the_physics_and_the_imperfections_of_training_are_read_from_an_export():
    options = EnvConfig(physics=("mass=0.5:2",), physics_variants=8, physics_seed=3, obs_noise=0.1, push=("elbow=1",))
    described = exporter._describe_environment(Config(env="ring", env_options=options), {"default_episode_length": 9})
    action = {"action_repeat": 1, "chunk": 1, "executed": 1, "low": [-1.0], "high": [1.0]}
    description = {"environment": described, "action": action, "observation": {"history": 1, "name": "state"}}
    read = deployment.env_options_of(json.loads(json.dumps(description)))
    for name in ("physics", "physics_variants", "physics_seed", "imperfections"):
        assert getattr(read, name) == getattr(options, name)


@pytest.mark.slow
def test_a_pendulum_trained_on_mjx_is_deployed_on_c(tmp_path, capsys):
    config = small("inverted_pendulum", backend="mjx")
    train("inverted_pendulum", config, tmp_path / "run", progress=False)
    cli.main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "out")])
    cli.main(["deploy", str(tmp_path / "out"), "--episodes", "2", "--out", str(tmp_path / "deploy.json")])
    result = json.loads((tmp_path / "deploy.json").read_text())
    expected = evaluate(tmp_path / "run", episodes=2, noise=("zero",), backend="mjx")["noise"]["zero"]
    assert result["backend"] == "c" and result["policy_period_ms"] == pytest.approx(40)
    assert result["policy_calls"] == 2 * result["length"] == 2 * expected["length"]
    assert result["return"] == pytest.approx(expected["return"], rel=1e-3)
    assert "deadline misses" in capsys.readouterr().out


@pytest.mark.ci
def test_the_robot_loop_earns_the_return_of_the_trainer_with_chunks_repeats_and_a_history(tmp_path):
    options = EnvConfig(num_envs=16, episode_length=21, chunk=4, executed=2, action_repeat=2, history=2)
    config = dataclasses.replace(small("panda_reach", backend="c"), env_options=options)
    train("panda_reach", config, tmp_path / "run", progress=False)
    folder = export(tmp_path / "run", tmp_path / "out")
    assert standalone.OnnxPolicy(folder).description["observation"]["history"] == 2
    expected = evaluate(tmp_path / "run", episodes=3, noise=("zero",), backend="c")["noise"]["zero"]
    deployed = deploy(folder, episodes=3)
    # 21 env steps are five calls of four steps, and one step of a sixth call.
    assert deployed.backend == "c" and len(deployed.latencies) == 3 * 6
    assert deployed.returns.mean() == pytest.approx(expected["return"], rel=1e-4)
    assert len(set(deployed.returns)) == 3
    returns, stops = in_the_loop.returns_in_the_loop(folder, 3)
    np.testing.assert_allclose(returns, deployed.returns, rtol=1e-4)
    assert stops == 0
    limited, _ = in_the_loop.returns_in_the_loop(folder, 3, largest_change=0.001)
    assert np.abs(limited - deployed.returns).max() > 0.01


def test_the_loop_for_a_robot_sends_one_action_per_control_period(planning):
    class Integrator:
        def __init__(self):
            self.x, self.sent = np.zeros(1, np.float32), []

        def observe(self):
            return self.x

        def command(self, action):
            self.x = self.x + action
            self.sent.append(float(action[0]))

    robot = Integrator()
    robot_loop.run(standalone.OnnxPolicy(planning), robot, period=0.05, seconds=0.3)
    assert robot.sent == pytest.approx([0.1, 0.1, 0.2, 0.2, 0.4, 0.4])
    robot.x = np.array([np.nan], np.float32)
    with pytest.raises(RuntimeError, match="stopped"):
        robot_loop.run(standalone.OnnxPolicy(planning), robot, period=0.05, seconds=0.3)
    assert robot.sent[-1] == 0


def test_the_loop_does_not_catch_up_after_a_delay(planning):
    class Stalls:
        now, slept = 0.0, ()

        def observe(self):
            return np.zeros(1, np.float32)

        def command(self, action):
            self.now += 1.0 if len(self.slept) == 1 else 0.01

        def monotonic(self):
            return self.now

        def sleep(self, seconds):
            self.now += seconds
            self.slept += (seconds,)

    robot = Stalls()
    assert robot_loop.run(standalone.OnnxPolicy(planning), robot, period=0.05, seconds=0.3, clock=robot) == 1
    assert robot.slept == pytest.approx([0.04, 0, 0.04, 0.04, 0.04, 0.04])


def test_an_exported_policy_acts_without_the_trainer(exported, tmp_path):
    run, folder = exported
    for name, needs in (("OnnxPolicy", "'jax', "), ("StableHloPolicy", "'onnxruntime', ")):
        code = (
            "import sys\n"
            f"for name in ({needs}'genpo_jax', 'flax', 'brax', 'mujoco', 'optax', 'orbax'): sys.modules[name] = None\n"
            f"sys.path.insert(0, {str(folder)!r})\n"
            f"from standalone import {name}; print(*{name}({str(folder)!r})([0.6, 0.8]))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        np.testing.assert_allclose(np.array(done.stdout.split(), float), run.policy([0.6, 0.8]), atol=1e-5)


def test_wrong_shapes_and_files_are_refused(exported, tmp_path):
    run, folder = exported
    policy = standalone.OnnxPolicy(folder)
    with pytest.raises(ValueError, match=r"observations must be \[..., 2\], got \(3,\)"):
        policy(np.zeros(3))
    with pytest.raises(ValueError, match=r"noise must be \[4, 2, 2\] for these observations, got \[2, 2\]"):
        policy(np.zeros((4, 2)), noise=np.zeros((2, 2)))
    with pytest.raises(FileNotFoundError, match="holds no policy.json"):
        standalone.OnnxPolicy(tmp_path)
    with pytest.raises(ValueError, match="is not empty; name another folder"):
        export(run.run_dir, folder)
    (tmp_path / "policy.json").write_text((folder / "policy.json").read_text())
    (tmp_path / "policy.onnx").write_bytes(b"something else")
    with pytest.raises(ValueError, match="is not the file that was exported"):
        standalone.OnnxPolicy(tmp_path)


def interrupted_after(count):
    """Return `write_atomically` that is interrupted after some files."""
    written = []

    def write(path, data):
        if len(written) == count:
            raise KeyboardInterrupt
        written.append(path)
        write_atomically(path, data)

    return write


def test_only_an_exported_policy_is_overwritten(exported, tmp_path, monkeypatch):
    run, folder = exported
    old = shutil.copytree(folder, tmp_path / "old")
    description = json.loads((old / "policy.json").read_text())
    (old / "policy.json").write_text(json.dumps(description | {"format": 1}))
    with pytest.raises(ValueError, match="has format 1, this loader reads 3; export it again"):
        standalone.describe(old)
    export(run.run_dir, old, overwrite=True)
    assert standalone.describe(old)["format"] == standalone.FORMAT
    # Older folders of runs have a policy.json too, which describes the policy of the run.
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "policy.json").write_text('{"format": 2, "policy": {}}')
    with pytest.raises(FileNotFoundError, match="has no table 'files'"):
        standalone.describe(tmp_path / "run")
    with pytest.raises(ValueError, match="does not hold an exported policy"):
        export(run.run_dir, tmp_path / "run", overwrite=True)
    # An export that is interrupted can be repeated, and is not loaded.
    monkeypatch.setattr(exporter, "write_atomically", interrupted_after(3))
    with pytest.raises(KeyboardInterrupt):
        export(run.run_dir, old, overwrite=True)
    with pytest.raises(ValueError, match="has format None, this loader reads 3; export it again"):
        standalone.describe(old)
    monkeypatch.undo()
    export(run.run_dir, old, overwrite=True)
    assert standalone.describe(old)["format"] == standalone.FORMAT


def test_the_loader_does_not_import_the_package():
    code = Path(standalone.__file__).read_text()
    assert "genpo_jax" not in "".join(line for line in code.splitlines() if "import" in line)


def test_the_card_names_the_physics_and_the_imperfections_of_training():
    options = EnvConfig(physics=("mass:box=0.8:1.2",), obs_noise=0.1, action_delay="0:2", push=("elbow=1", "box=2"))
    text = randomization_text({"physics": list(options.physics), "imperfections": options.imperfections})
    assert text == (
        " Training drew the physics of each episode: `mass:box=0.8:1.2`. The robot of training was imperfect: "
        "`obs_noise` 0.1, `action_delay` 0:2, `push` elbow=1 box=2."
    )
    assert randomization_text({"physics": [], "imperfections": EnvConfig().imperfections}) == ""


def test_an_export_describes_the_evaluation_of_its_checkpoint(exported, tmp_path):
    run, _ = exported
    copy = shutil.copytree(run.run_dir, tmp_path / "run")
    lines = (copy / "metrics.jsonl").read_text().splitlines()
    later = json.loads(lines[-1]) | {"env_steps": 10**6, "eval/return_zero": 1e6}
    # Killed before the checkpoint of its last evaluation.
    (copy / "metrics.jsonl").write_text("\n".join([*lines, json.dumps(later)]) + "\n")
    description = standalone.describe(export(copy, tmp_path / "out"))
    assert description["trained"]["eval/return_zero"] == run.metrics["eval/return_zero"]
