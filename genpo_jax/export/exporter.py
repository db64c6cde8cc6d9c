"""Export the policy of a run to a folder that does not need this package.

policy.onnx, policy_noise.onnx              for ONNX Runtime: deterministic actions; noise as a second input
policy.stablehlo, policy_noise.stablehlo    the same for JAX, on CPU, GPU and TPU
policy_seeded.stablehlo                     draws the noise from a seed
policy.json                                 meaning of all numbers, rate of control, origin, hashes of all files
standalone.py                               loads the files above; does not import this package
README.md                                   a model card
"""

import hashlib
import json
import math
import shutil
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from genpo_jax.config import Config, method_to_dict
from genpo_jax.envs import Environment
from genpo_jax.envs.mujoco_model import mj_model_of, step_seconds
from genpo_jax.export import standalone
from genpo_jax.export.model_card import model_card
from genpo_jax.export.onnx_graph import batched, to_onnx
from genpo_jax.normalizer import CLIP
from genpo_jax.policies.products import NATIVE
from genpo_jax.policy import PolicySpec, TrainedPolicy
from genpo_jax.runs.environment import environment_of
from genpo_jax.runs.files import write_atomically
from genpo_jax.runs.folder import read_config, saved_config
from genpo_jax.runs.load import CheckpointName, checkpoint_step, folder_of, load
from genpo_jax.runs.metrics import METRICS_FILE, read_metrics
from genpo_jax.version import __version__

PLATFORMS = ("cpu", "cuda", "tpu")


def export(
    run_dir: str | Path,
    out: str | Path,
    *,
    step: int | None = None,
    seed: int | None = None,
    checkpoint: CheckpointName = "newest",
    overwrite: bool = False,
) -> Path:
    """Export the policy of a run, and return the folder.

    Args:
        run_dir: folder of the run.
        out: folder to write.
        step: env steps of the checkpoint; None for the newest.
        seed: which seed of a run with several seeds.
        checkpoint: `newest`, or `best` at the evaluations during training; see `genpo_jax.load`.
        overwrite: replace an exported policy in `out`.

    Raises:
        ValueError: if `out` is not empty, or the run cannot be loaded.
        FileNotFoundError: if `run_dir` holds no run, or no checkpoint at `step`.
    """
    out = Path(out)
    _check_out(out, overwrite)
    run_dir = folder_of(Path(run_dir), seed)
    step = checkpoint_step(run_dir, step, checkpoint)
    policy, config, contents = load(run_dir, step), saved_config(run_dir), read_config(run_dir)
    env = _environment_or_none(run_dir)
    description: dict[str, Any] = {"format": standalone.FORMAT} | describe_policy(policy)
    names = policy.spec.action_names
    description["action"]["names"] = list(names) if names else _action_names(env, description["action"]["size"])
    description |= {
        "rate": _rate(env, policy.spec),
        "robot": _robot(env),
        "environment": _describe_environment(config, contents["environment"], env),
        "trained": _trained(run_dir, step),
        "versions": contents["versions"] | {"onnx": metadata.version("onnx")},
    }
    files = policy_files(policy)
    files["standalone.py"] = Path(standalone.__file__).read_bytes()
    files["README.md"] = model_card(description).encode()
    description["files"] = {name: hashlib.sha256(contents).hexdigest() for name, contents in files.items()}
    if out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True)
    for name, contents in files.items():
        write_atomically(out / name, contents)
    # The description comes last: a folder that has it is complete.
    write_atomically(out / standalone.DESCRIPTION, (json.dumps(description, indent=2) + "\n").encode())
    return out


def policy_files(policy: TrainedPolicy) -> dict[str, bytes]:
    """Return the contents of the ONNX and StableHLO files, by name."""
    obs, noise = batched(policy.spec.obs_size), batched(*policy.noise_shape)

    def with_noise(obs: Any, noise: Any) -> Any:
        return policy(obs, noise=noise)

    def seeded(obs: Any, seed: Any) -> Any:
        return policy(obs, noise=jax.random.normal(jax.random.key(seed), (*obs.shape[:-1], *policy.noise_shape)))

    exact = _in_float32(policy)
    if policy.spec.networks.compute_dtype in NATIVE:
        # Only GPUs of NVIDIA have products in TF32.
        policy = exact
    doc = f"{policy.spec.method.name} policy trained on {policy.spec.env} by genpo_jax {__version__}"
    return {
        "policy.onnx": to_onnx(exact, {"observation": obs}, ["action"], doc).SerializeToString(),
        "policy_noise.onnx": to_onnx(
            lambda obs, noise: exact(obs, noise=noise), {"observation": obs, "noise": noise}, ["action"], doc
        ).SerializeToString(),
        "policy.stablehlo": _stablehlo(lambda obs: policy(obs), obs),
        "policy_noise.stablehlo": _stablehlo(with_noise, obs, noise),
        "policy_seeded.stablehlo": _stablehlo(seeded, obs, jax.ShapeDtypeStruct((), jnp.uint32)),
    }


def describe_policy(policy: TrainedPolicy) -> dict[str, Any]:
    """Return the meaning of the inputs and outputs of the exported functions, ready for JSON."""
    spec, moments = policy.spec, policy.moments
    low, high = spec.bounds
    observation: dict[str, Any] = {
        "name": spec.obs_name,
        "shape": ["batch", spec.obs_size],
        "size": spec.obs_size // spec.history,
        "history": spec.history,
        "names": spec.obs_names,
        "dtype": "float32",
        "order": "order and units of the training data; the policy standardizes the observation itself; with a "
        "history, the last observations in one vector, oldest first, one per control period; the first of an episode "
        "fills it",
    }
    if moments is not None:
        mean, std = (np.asarray(x, float).tolist() for x in (moments.mean, moments.std))
        observation |= {"seen_mean": mean, "seen_std": std, "clipped_beyond_std": CLIP}
    return {
        "method": method_to_dict(spec.method),
        "seed": spec.seed,
        "observation": observation,
        "action": {
            "shape": ["batch", spec.action_size],
            "dtype": "float32",
            "low": list(low),
            "high": list(high),
            "squash": spec.squash,
            "size": spec.action_size // spec.chunk,
            "chunk": spec.chunk,
            "executed": spec.executed,
            "action_repeat": spec.action_repeat,
            "order": "chunk actions one after another, each of size numbers, in the units of the training data; "
            "execute the first executed actions, each for action_repeat control periods, then call the policy again; "
            "with bounds of -1 and 1, the environment scales them to the range of its actuators",
        },
        "noise": {"shape": list(policy.noise_shape), "distribution": "independent standard normals"},
        "onnx": {"dtype": "float32", "trained_in": spec.networks.compute_dtype},
    }


def _stablehlo(function: Any, *arguments: Any) -> bytes:
    return bytes(jax.export.export(jax.jit(function), platforms=PLATFORMS)(*arguments).serialize())


def _in_float32(policy: TrainedPolicy) -> TrainedPolicy:
    """Return the policy with networks that compute in float32: ONNX Runtime has no bfloat16 products on a CPU."""
    spec = replace(policy.spec, networks=replace(policy.spec.networks, compute_dtype="float32"))
    return TrainedPolicy(spec, policy.params, policy.moments)


def _environment_or_none(run_dir: Path) -> Environment | None:
    """Return the environment of a run; None if it cannot be made here, because a policy is exported without it too."""
    try:
        return environment_of(run_dir)
    except (ValueError, ImportError, RuntimeError):
        return None


def _rate(env: Environment | None, spec: PolicySpec) -> dict[str, float | None]:
    """Return the seconds of one env step and from one policy call to the next; None if they are unknown."""
    seconds = 1 / spec.rate if spec.rate else None if env is None else step_seconds(env)
    return {
        "control_period_seconds": seconds,
        "policy_period_seconds": None if seconds is None else seconds * spec.executed * spec.action_repeat,
    }


def _robot(env: Environment | None) -> dict[str, Any] | None:
    """Return the names of joints and actuators, and the actuators' ranges; None without a MuJoCo model."""
    model = None if env is None else mj_model_of(env)
    if model is None:
        return None
    return {
        "joints": _names(model, "joint", model.njnt),
        "actuators": _actuators(model),
        "ctrl_range": model.actuator_ctrlrange.tolist(),
    }


def _action_names(env: Environment | None, action_size: int) -> list[str]:
    """Return the name of each coordinate of an action: its actuator, or a number if they do not correspond."""
    model = None if env is None else mj_model_of(env)
    if model is None or model.nu != action_size:
        return [f"action_{i}" for i in range(action_size)]
    return _actuators(model)


def _actuators(model: mujoco.MjModel) -> list[str]:
    """Return the name of each actuator; an actuator without a name has the name of its joint."""
    named = _names(model, "actuator", model.nu)
    joints = _names(model, "joint", model.njnt)
    moves_joint = model.actuator_trntype == mujoco.mjtTrn.mjTRN_JOINT
    return [
        joints[model.actuator_trnid[i, 0]] if name == f"actuator_{i}" and moves_joint[i] else name
        for i, name in enumerate(named)
    ]


def _names(model: mujoco.MjModel, kind: str, count: int) -> list[str]:
    return [getattr(model, kind)(i).name or f"{kind}_{i}" for i in range(count)]


def _describe_environment(config: Config, source: dict[str, Any], env: Environment | None) -> dict[str, Any]:
    """Return what `deploy` needs to make the environment again."""
    options = config.env_options
    return {
        "name": config.env,
        "backend": config.backend,
        "factory": source.get("factory"),
        "object": bool(source.get("object")),
        "reward": options.reward,
        "episode_length": options.episode_length or (None if env is None else env.default_episode_length),
    }


def _trained(run_dir: Path, step: int | None) -> dict[str, Any]:
    """Return the last evaluation of the run, or the last until `step`; empty if there was none."""
    records = [record for record in read_metrics(run_dir / METRICS_FILE) if record.get("eval/return_zero") is not None]
    records = [record for record in records if step is None or record["env_steps"] <= step]
    if not records:
        return {}
    names = ("env_steps", "eval/return_zero", "eval/return_zero_std", "eval/return_random")
    return {name: records[-1][name] for name in names if math.isfinite(records[-1].get(name, math.nan))}


def _check_out(out: Path, overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; name a folder to export to")
    if out.is_dir() and any(out.iterdir()):
        if not overwrite:
            raise ValueError(f"{out} is not empty; name another folder, or set overwrite")
        _check_exported(out)


def _check_exported(out: Path) -> None:
    """Raise unless `out` holds an exported policy of any version, because `overwrite` deletes the folder."""
    path = out / standalone.DESCRIPTION
    contents = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if "policy.onnx" not in contents.get("files", {}):
        raise ValueError(f"{out} does not hold an exported policy, so it is not overwritten; name another folder")
