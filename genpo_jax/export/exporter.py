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
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genpo_jax.config import Config, method_to_dict
from genpo_jax.envs.names import BRAX, chosen_backend
from genpo_jax.export import standalone
from genpo_jax.export.model_card import model_card
from genpo_jax.export.onnx_graph import batched, to_onnx
from genpo_jax.normalizer import CLIP
from genpo_jax.policies.products import NATIVE
from genpo_jax.policy import PolicySpec, TrainedPolicy
from genpo_jax.runs.environment import Recorded, env_option, environment_of, record_of
from genpo_jax.runs.files import write_atomically
from genpo_jax.runs.folder import PRETRAIN_FILE, read_config, saved_config
from genpo_jax.runs.load import CheckpointName, checkpoint_step, folder_of, load
from genpo_jax.runs.metrics import METRICS_FILE, read_metrics
from genpo_jax.version import __version__

PLATFORMS = ("cpu", "cuda", "tpu")
# Engines of Brax that do not simulate as MuJoCo does.
APPROXIMATE = ("spring", "positional", "generalized")


def export(
    run_dir: str | Path,
    out: str | Path,
    *,
    step: int | None = None,
    seed: int | None = None,
    checkpoint: CheckpointName = "newest",
    overwrite: bool = False,
    env: Any = None,
) -> Path:
    """Export the policy of a run, and return the folder.

    Args:
        run_dir: folder of the run.
        out: folder to write.
        step: env steps of the checkpoint; None for the newest.
        seed: which seed of a run with several seeds.
        checkpoint: `newest`, or `best` at the evaluations during training; see `genpo_jax.load`.
        overwrite: replace an exported policy in `out`.
        env: the environment, by name or as an object, for its rate of control and its robot. None: those that training
            recorded. No module that the run names is imported.

    Raises:
        ValueError: if `out` is not empty, or the run cannot be loaded.
        FileNotFoundError: if `run_dir` holds no run, or no checkpoint at `step`.
    """
    out = Path(out)
    _check_out(out, overwrite)
    run_dir = folder_of(Path(run_dir), seed)
    step = checkpoint_step(run_dir, step, checkpoint)
    policy, config, contents = load(run_dir, step), saved_config(run_dir), read_config(run_dir)
    record = _record(run_dir, contents["environment"], env)
    description: dict[str, Any] = {"format": standalone.FORMAT} | describe_policy(policy)
    names, size = policy.spec.action_names, description["action"]["size"]
    description["action"]["names"] = list(names) if names else _action_names(record["robot"], size)
    description |= {
        "rate": _rate(record["control_period_seconds"], policy.spec),
        "robot": record["robot"],
        "environment": _describe_environment(config, record),
        "cloned": (run_dir / PRETRAIN_FILE).exists(),
        "trained": _trained(run_dir, step),
        "versions": contents["versions"] | {"onnx": metadata.version("onnx")},
    }
    files = policy_files(policy)
    files["standalone.py"] = Path(standalone.__file__).read_bytes()
    files["README.md"] = model_card(description).encode()
    description["files"] = {name: hashlib.sha256(contents).hexdigest() for name, contents in files.items()}
    out.mkdir(parents=True, exist_ok=True)
    before = _files_of(out)
    # Nothing loads a folder with this description, but `overwrite` knows it.
    unfinished = {"files": dict.fromkeys([*before, *files])}
    write_atomically(out / standalone.DESCRIPTION, json.dumps(unfinished).encode())
    for name in before:
        (out / Path(name).name).unlink(missing_ok=True)
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


def _record(run_dir: Path, recorded: dict[str, Any], env: Any) -> dict[str, Any]:
    """Return the record of the environment: that of training, or that of the environment given in its place.

    Runs of earlier versions have no record. Then the environment is made, if it is one of a library.
    """
    run = Recorded.of_run(run_dir)
    missing = "robot" not in recorded and run.imports_nothing
    if env is not None or missing:
        try:
            made = environment_of(run_dir, env)
        except (ValueError, ImportError, RuntimeError):
            if env is not None:
                raise
        else:
            is_path = isinstance(env, str) and ":" in env
            factory = env if is_path and env != run.name else run.factory
            return record_of(made, factory, run.is_object and not is_path)
    empty = dict.fromkeys(("robot", "control_period_seconds", "default_episode_length"))
    return empty | _checked(recorded)


def _checked(recorded: dict[str, Any]) -> dict[str, Any]:
    """Return a record of a run folder without values of another form, as an edited file may have them."""
    robot, kept = recorded.get("robot"), dict(recorded)
    names = ("joints", "actuators", "ctrl_range")
    if not (isinstance(robot, dict) and all(isinstance(robot.get(name), list) for name in names)):
        kept["robot"] = None
    for name in ("control_period_seconds", "default_episode_length"):
        if type(recorded.get(name)) not in (int, float):
            kept[name] = None
    return kept


def _rate(seconds: float | None, spec: PolicySpec) -> dict[str, float | None]:
    """Return the seconds of one env step and from one policy call to the next; None if they are unknown."""
    seconds = 1 / spec.rate if spec.rate else seconds
    return {
        "control_period_seconds": seconds,
        "policy_period_seconds": None if seconds is None else seconds * spec.executed * spec.action_repeat,
    }


def _action_names(robot: dict[str, Any] | None, action_size: int) -> list[str]:
    """Return the name of each coordinate of an action: its actuator, or a number if they do not correspond."""
    if robot is None or len(robot["actuators"]) != action_size:
        return [f"action_{i}" for i in range(action_size)]
    return robot["actuators"]


def _describe_environment(config: Config, record: dict[str, Any]) -> dict[str, Any]:
    """Return what `deploy` needs to make the environment again."""
    options = config.env_options
    described = {
        "name": config.env,
        "backend": config.backend,
        "factory": record.get("factory"),
        "object": bool(record.get("object")),
        "class": record.get("class"),
        "playground_config": list(options.playground_config),
        "reward": options.reward,
        "episode_length": options.episode_length or record["default_episode_length"],
        "physics": list(options.physics),
        "physics_variants": options.physics_variants,
        "physics_seed": options.physics_seed,
        "imperfections": options.imperfections,
    }
    return described | {"deploy": deploy_note(described)}


def deploy_note(environment: dict[str, Any]) -> str:
    """Return the options that `genpo-jax deploy` needs and the physics that it uses, in sentences; "" for no remark.

    Args:
        environment: the table `environment` of `policy.json`.
    """
    name, backend = environment["name"], environment["backend"]
    notes = []
    if option := env_option(name, environment):
        notes.append(f"The environment is not one of a library: genpo-jax deploy needs{option}.")
    if name in BRAX and (engine := chosen_backend(name, backend)) in APPROXIMATE:
        notes.append(
            f"The policy was trained on Brax's engine {engine}, and deploy uses the same engine. "
            "Its physics differs from MuJoCo's, so deploy does not show how the policy acts on engine c or on a robot."
        )
    return " ".join(notes)


def _trained(run_dir: Path, step: int | None) -> dict[str, Any]:
    """Return the last evaluation of the run, or the last until `step`; empty if there was none."""
    records = [record for record in read_metrics(run_dir / METRICS_FILE) if record.get("eval/return_zero") is not None]
    records = [record for record in records if step is None or record["env_steps"] <= step]
    if not records:
        return {}
    names = ("env_steps", "eval/return_zero", "eval/return_zero_std", "eval/return_random")
    return {name: value for name in names if (value := records[-1].get(name)) is not None and math.isfinite(value)}


def _check_out(out: Path, overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; name a folder to export to")
    if out.is_dir() and any(out.iterdir()):
        if not overwrite:
            raise ValueError(f"{out} is not empty; name another folder, or pass overwrite=True (--overwrite)")
        _check_exported(out)


def _check_exported(out: Path) -> None:
    """Raise unless `out` holds an exported policy of any version, because `overwrite` removes its files."""
    if "policy.onnx" not in _files_of(out):
        raise ValueError(f"{out} does not hold an exported policy, so it is not overwritten; name another folder")


def _files_of(out: Path) -> list[str]:
    """Return the names of the files that the description of an exported policy lists; [] if there is none."""
    path = out / standalone.DESCRIPTION
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    files = contents.get("files") if isinstance(contents, dict) else None
    return [name for name in files if isinstance(name, str)] if isinstance(files, dict) else []
