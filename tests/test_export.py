"""What leaves the trainer acts as what is in it."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from settings import networks, sized

from genpo_jax.methods import METHODS
from genpo_jax.policy import PolicySpec, TrainedPolicy
from genpo_jax.training.normalizer import RunningMoments

ort = pytest.importorskip("onnxruntime")
from genpo_jax.export import standalone  # noqa: E402
from genpo_jax.export.exporter import export, policy_files  # noqa: E402
from genpo_jax.export.onnx_graph import batched, to_onnx  # noqa: E402

OBS, ACTION = 6, 3


def trained(method="genpo++", activation="mish", squash="tanh", moments=True, **settings):
    """Return a policy whose weights and normalizer are far from where training starts."""
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
    return "network" in {field.name for field in dataclasses.fields(METHODS[method])}


EVERY = [
    (method, network, activation)
    for method in METHODS
    for network in ("encoder", "concat")[: 2 if has_network(method) else 1]
    for activation in ("mish", "elu", "swish", "tanh")
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
def test_a_policy_in_bfloat16_leaves_as_it_is_in_stablehlo_and_in_float32_in_onnx():
    exact = trained()
    rounded = TrainedPolicy(
        dataclasses.replace(exact.spec, networks=networks((8,), compute_dtype="bfloat16")), exact.params, exact.moments
    )
    obs, files = observations(), policy_files(rounded)
    expected, expected_exact = jax.jit(rounded)(obs), jax.jit(exact)(obs)
    # bfloat16 keeps 8 bits: what differs from float32 by so much less than that would not be it.
    assert 1e-4 < jnp.abs(expected - expected_exact).max() < 0.1
    np.testing.assert_allclose(run_onnx(files["policy.onnx"], observation=obs), expected_exact, atol=1e-5)
    same = jax.export.deserialize(bytearray(files["policy.stablehlo"])).call(obs)
    np.testing.assert_allclose(same, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "network", "activation"),
    [
        ("genpo++", "encoder", "mish"),
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
@pytest.mark.parametrize(
    "settings",
    [
        {"base": "standard"},
        {"base": "conditioned"},
        {"solver": "multistep-3", "history_coef": 0.3},
        {"num_histories": 2},
    ],
)
def test_every_variant_of_genpo_acts_in_onnx_as_in_the_trainer(settings):
    assert largest_difference("genpo++", "encoder", "mish", **settings) < 1e-5


@pytest.mark.parametrize(
    "method", ["gaussian", "genpo++", *(pytest.param(method, marks=pytest.mark.ci) for method in ("dppo", "fpo"))]
)
def test_noise_makes_the_action_that_a_key_does(method):
    policy = trained(method)
    obs = jnp.asarray(observations(4))
    # FPO also draws for its ratio, and splits its key first.
    key = jax.random.split(jax.random.key(3), 3)[0] if method == "fpo" else jax.random.key(3)
    noise = jax.random.normal(key, (4, *policy.noise_shape))
    np.testing.assert_allclose(policy(obs, noise=noise), policy(obs, jax.random.key(3)), atol=1e-6)
    np.testing.assert_allclose(policy(obs, noise=jnp.zeros_like(noise)), policy(obs), atol=1e-6)


def test_clipped_and_unstandardized_policies_are_exported_as_they_are():
    policy, obs = trained("gaussian", squash="clip", moments=False), observations()
    action = run_onnx(to_onnx(policy, {"observation": batched(OBS)}, ["action"]).SerializeToString(), observation=obs)
    np.testing.assert_allclose(action, policy(obs), atol=1e-6)
    assert np.abs(action).max() == 1


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: jnp.where(x > 0, x, jnp.expm1(x)).sum(axis=-1, keepdims=True), [[1.5 + np.expm1(-2.0)]]),
        (lambda x: x[:, ::-1].at[:, 0].set(7.0) if x.shape[0] == 1 else x, [[7.0, 1.5]]),
        (lambda x: jnp.stack([x, 2 * x], axis=1).max(axis=1), [[3.0, -2.0]]),
        (lambda x: jax.lax.fori_loop(0, 3, lambda i, y: y + i * x, x), [[6.0, -8.0]]),
        (lambda x: jax.lax.cond(x[0, 0] > 1, lambda: x, lambda: -x), [[1.5, -2.0]]),
        (lambda x: jnp.einsum("bi,bj->bij", x, x).reshape(x.shape[0], 4), [[2.25, -3.0, -3.0, 4.0]]),
        (lambda x: jnp.concatenate([x, jnp.broadcast_to(jnp.arange(2.0), x.shape)], axis=1), [[1.5, -2.0, 0.0, 1.0]]),
        (lambda x: jnp.all(x > -3, axis=1, keepdims=True), [[True]]),
        (lambda x: jnp.arctan2(x, x[:, ::-1]), [[np.arctan2(1.5, -2), np.arctan2(-2, 1.5)]]),
        (lambda x: jnp.arctan2(-jnp.abs(x), -jnp.abs(x)), [[-0.75 * np.pi, -0.75 * np.pi]]),
        (lambda x: jnp.arctan2(jnp.stack([x[:, 0], 0 * x[:, 0]], 1), 0 * x), [[np.pi / 2, 0.0]]),
        (lambda x: jnp.round(jnp.sign(x) * jax.lax.rsqrt(x * x), 0) ** 3, [[1.0, -0.0]]),
    ],
)
def test_a_graph_computes_what_the_function_does(function, expected):
    x = np.array([[1.5, -2.0]], np.float32)
    kind = jax.ShapeDtypeStruct(x.shape, x.dtype)
    contents = to_onnx(function, {"x": kind}, ["y"]).SerializeToString()
    np.testing.assert_allclose(run_onnx(contents, x=x), np.asarray(expected), atol=1e-6)


def test_an_operation_without_a_rule_is_named():
    with pytest.raises(NotImplementedError, match="this use of the operation 'sort'"):
        to_onnx(lambda x: jnp.sort(x, axis=-1), {"x": batched(3)}, ["y"])


def test_an_operation_without_a_rule_that_nothing_depends_on_is_left_out():
    to_onnx(lambda x: (jnp.sort(x, axis=-1), 2 * x)[1], {"x": batched(3)}, ["y"])


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A run of a moment on a toy, and its export."""
    from genpo_jax import train
    from genpo_jax.config import Config, EnvConfig, PPOConfig

    folder = tmp_path_factory.mktemp("export")
    config = Config(
        env="ring",
        num_timesteps=256,
        num_evals=1,
        eval_envs=2,
        updates_per_chunk=2,
        env_options=EnvConfig(num_envs=16),
        method=sized((8,)),
        networks=networks((8,)),
        ppo=PPOConfig(unroll=8, num_minibatches=2, num_epochs=2),
    )
    run = train("ring", config, folder / "run", progress=False)
    return run, export(folder / "run", folder / "exported")


def test_a_folder_acts_as_the_run_in_either_form_with_any_noise(exported):
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


def test_the_description_says_what_the_numbers_are(exported):
    run, folder = exported
    said = json.loads((folder / "policy.json").read_text())
    assert said["observation"]["shape"] == ["batch", 2] and said["action"]["shape"] == ["batch", 2]
    assert said["method"]["name"] == "genpo++" and said["noise"]["shape"] == [2, 2]
    assert "no MuJoCo model" in said["task"]["missing"]
    assert said["trained"]["eval/return_zero"] == run.metrics["eval/return_zero"]
    assert set(said["files"]) == {path.name for path in folder.iterdir()} - {"policy.json"}
    np.testing.assert_allclose(said["observation"]["seen_mean"], run.policy.moments.mean, atol=1e-6)
    assert "genpo++ on ring" in (folder / "README.md").read_text()


def test_a_folder_acts_without_the_trainer(exported, tmp_path):
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


def test_what_cannot_be_used_is_refused(exported, tmp_path):
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
    with pytest.raises(ValueError, match="holds no task to play: ring has no MuJoCo model"):
        standalone.MujocoTask(folder)


def test_the_loader_is_one_file_that_stands_alone():
    code = Path(standalone.__file__).read_text()
    assert "genpo_jax" not in "".join(line for line in code.splitlines() if "import" in line)
