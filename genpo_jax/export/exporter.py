"""Export the policy of a run to a folder that needs nothing of this package.

policy.onnx, policy_noise.onnx              zero noise; noise as an input. For ONNX Runtime
policy.stablehlo, policy_noise.stablehlo    the same for JAX, on CPU, GPU and TPU
policy_seeded.stablehlo                     draws the noise from a seed
policy.json                                 what every number is, where it comes from, hashes of all files
standalone.py                               loads all of this; needs none of ours
task/                                       the task for MuJoCo's C engine, where it is one of MuJoCo's
README.md                                   a model card
"""

import hashlib
import io
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

import genpo_jax
from genpo_jax.config import Config, method_to_dict
from genpo_jax.envs import Environment
from genpo_jax.envs.mujoco_model import mj_model_of
from genpo_jax.export import standalone
from genpo_jax.export.model_card import model_card
from genpo_jax.export.onnx_graph import batched, to_onnx
from genpo_jax.export.physics_step import PhysicsStep, cut
from genpo_jax.policy import TrainedPolicy
from genpo_jax.runs.environment import environment_of
from genpo_jax.runs.files import write_atomically
from genpo_jax.runs.folder import read_config, saved_config
from genpo_jax.runs.load import folder_of, load
from genpo_jax.runs.metrics import METRICS_FILE, read_metrics
from genpo_jax.training.agent import ACTOR_OBS
from genpo_jax.training.normalizer import CLIP

PLATFORMS = ("cpu", "cuda", "tpu")
NUM_STARTS = 256


def export(
    run_dir: str | Path, out: str | Path, *, step: int | None = None, seed: int | None = None, overwrite: bool = False
) -> Path:
    """Export the policy of a run; return the folder.

    Args:
        run_dir: folder of the run.
        out: folder to write.
        step: env steps of the checkpoint; None for the newest.
        seed: which of several seeds.
        overwrite: whether an exported folder may be replaced.

    Raises:
        ValueError: if `out` is not empty, or the run cannot be loaded.
        FileNotFoundError: if there is no run, or no such checkpoint.
    """
    out = Path(out)
    _check_out(out, overwrite)
    run_dir = folder_of(Path(run_dir), seed)
    policy = load(run_dir, step)
    env, reason = _environment_or_reason(run_dir)
    if policy.spec.chunk > 1:
        env, reason = None, "the policy acts in chunks of several actions"
    task, task_files = _task(env, reason)
    description: dict[str, Any] = {"format": standalone.FORMAT} | describe_policy(policy)
    description["action"]["names"] = _action_names(env, policy.spec.action_size)
    description |= {
        "environment": _describe_environment(saved_config(run_dir), env),
        "task": task,
        "trained": _trained(run_dir),
        "versions": read_config(run_dir)["versions"] | {"onnx": metadata.version("onnx")},
    }
    files = policy_files(policy) | task_files
    files["standalone.py"] = Path(standalone.__file__).read_bytes()
    files["README.md"] = model_card(description).encode()
    description["files"] = {name: hashlib.sha256(contents).hexdigest() for name, contents in files.items()}
    if out.exists():
        shutil.rmtree(out)
    for name, contents in files.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out / name, contents)
    # Last: a folder that has it is complete.
    write_atomically(out / standalone.DESCRIPTION, (json.dumps(description, indent=2) + "\n").encode())
    return out


def policy_files(policy: TrainedPolicy) -> dict[str, bytes]:
    """Return the contents of the files that act, by name."""
    obs, noise = batched(policy.spec.obs_size), batched(*policy.noise_shape)

    def with_noise(obs: Any, noise: Any) -> Any:
        return policy(obs, noise=noise)

    def seeded(obs: Any, seed: Any) -> Any:
        return policy(obs, noise=jax.random.normal(jax.random.key(seed), (*obs.shape[:-1], *policy.noise_shape)))

    exact = _in_float32(policy)
    doc = f"{policy.spec.method.name} policy trained on {policy.spec.env} by genpo_jax {genpo_jax.__version__}"
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
    """Return what a user of the exported functions must know of their inputs and outputs, fit for JSON."""
    spec, moments = policy.spec, policy.moments
    observation: dict[str, Any] = {
        "name": spec.obs_name,
        "shape": ["batch", spec.obs_size],
        "size": spec.obs_size,
        "dtype": "float32",
        "order": "as the environment gives it; units are the environment's, standardizing is inside",
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
            "low": -1.0,
            "high": 1.0,
            "squash": spec.squash,
            "order": "as the environment takes it, which scales it to its actuators",
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


def _environment_or_reason(run_dir: Path) -> tuple[Environment | None, str]:
    """Return the environment of a run, or why it cannot be made."""
    try:
        return environment_of(run_dir), ""
    except (ValueError, ImportError, RuntimeError) as error:
        return None, str(error)


def _task(env: Environment | None, reason: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return what `policy.json` says of the task, and its files; where there is none, why."""
    if env is None:
        return {"missing": reason}, {}
    try:
        physics = cut(env)
    except (ValueError, NotImplementedError) as error:
        return {"missing": str(error)}, {}
    return _describe_task(physics), _task_files(physics, env)


def _action_names(env: Environment | None, action_size: int) -> list[str]:
    """Return the names of the actuators where there is one for each coordinate, else numbers."""
    model = None if env is None else mj_model_of(env)
    if model is None or model.nu != action_size:
        return [f"action_{i}" for i in range(action_size)]
    return _actuators(model)


def _actuators(model: mujoco.MjModel) -> list[str]:
    """Return the name of each actuator, or of the joint that it moves."""
    named = _names(model, "actuator", model.nu)
    joints = _names(model, "joint", model.njnt)
    moves_joint = model.actuator_trntype == mujoco.mjtTrn.mjTRN_JOINT
    return [
        joints[model.actuator_trnid[i, 0]] if name == f"actuator_{i}" and moves_joint[i] else name
        for i, name in enumerate(named)
    ]


def _names(model: mujoco.MjModel, kind: str, count: int) -> list[str]:
    return [getattr(model, kind)(i).name or f"{kind}_{i}" for i in range(count)]


def _describe_task(physics: PhysicsStep) -> dict[str, Any]:
    model = physics.model
    return {
        "mujoco": mujoco.__version__,
        "substeps": physics.substeps,
        "timestep": model.opt.timestep,
        "control_seconds": physics.substeps * model.opt.timestep,
        "joints": _names(model, "joint", model.njnt),
        "joint_positions": model.jnt_qposadr.tolist(),
        "actuators": _actuators(model),
        "ctrl_range": model.actuator_ctrlrange.tolist(),
        "state": list(physics.state),
        "physics": list(physics.physics),
        "reads": physics.reads,
        "metrics": physics.metrics,
    }


def _task_files(physics: PhysicsStep, env: Environment) -> dict[str, bytes]:
    states, obs = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), NUM_STARTS))
    leaves = jax.device_get(jax.tree.leaves(states))
    starts = {name: leaves[i] for name, i in physics.state.items()}
    starts |= {f"physics_{name}": leaves[i] for name, i in physics.physics.items()}
    starts["observation"] = np.asarray(obs[ACTOR_OBS])
    return {
        "task/model.mjb": _binary(physics.model),
        "task/before.onnx": physics.before.SerializeToString(),
        "task/after.onnx": physics.after.SerializeToString(),
        "task/starts.npz": _npz(starts),
    }


def _binary(model: mujoco.MjModel) -> bytes:
    buffer = np.zeros(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, buffer)
    return buffer.tobytes()


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # pyright: ignore[reportArgumentType]
    return file.getvalue()


def _describe_environment(config: Config, env: Environment | None) -> dict[str, Any]:
    options = config.env_options
    length = options.episode_length or (None if env is None else env.default_episode_length)
    return {
        "name": config.env,
        "backend": config.backend,
        "action_repeat": options.action_repeat,
        "episode_length": length,
    }


def _trained(run_dir: Path) -> dict[str, Any]:
    """Return the last evaluation of the run."""
    records = [record for record in read_metrics(run_dir / METRICS_FILE) if record.get("eval/return_zero") is not None]
    if not records:
        return {}
    names = ("env_steps", "eval/return_zero", "eval/return_zero_std", "eval/return_random")
    return {name: records[-1][name] for name in names if math.isfinite(records[-1].get(name, math.nan))}


def _check_out(out: Path, overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; name a folder to export to")
    if out.is_dir() and any(out.iterdir()):
        if not overwrite:
            raise ValueError(f"{out} is not empty; name another folder, or replace it with overwrite")
        standalone.describe(out)
