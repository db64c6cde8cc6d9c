"""Use an exported folder without the trainer: this file alone, numpy, and what each class names.

    from standalone import OnnxPolicy

    policy = OnnxPolicy("exported")
    action = policy(observation)  # [..., obs_size] to [..., d] in [-1, 1]

The folder's `policy.json` says what each number of an observation and an action is.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = 1
DESCRIPTION = "policy.json"


def describe(folder: str | Path) -> dict[str, Any]:
    """Return what `policy.json` says.

    Raises:
        FileNotFoundError: there is none in this folder.
        ValueError: another version wrote it.
    """
    path = Path(folder) / DESCRIPTION
    if not path.is_file():
        raise FileNotFoundError(f"there is no exported policy in {folder}: it holds no {DESCRIPTION}; check the path")
    contents = json.loads(path.read_text(encoding="utf-8"))
    if contents.get("format") != FORMAT:
        raise ValueError(f"{path} has format {contents.get('format')}, this loader reads {FORMAT}; export it again")
    return contents


def read(folder: str | Path, name: str) -> bytes:
    """Return the bytes of an exported file.

    Raises:
        ValueError: they are not those that were exported.
    """
    contents = (Path(folder) / name).read_bytes()
    if hashlib.sha256(contents).hexdigest() != describe(folder)["files"][name]:
        raise ValueError(f"{Path(folder) / name} is not the file that was exported (its hash differs); copy it again")
    return contents


class OnnxPolicy:
    """A policy in ONNX Runtime, on one thread. Needs onnxruntime.

    Args:
        folder: the exported folder.

    Attributes:
        description: what `policy.json` says.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = folder
        self.description = describe(folder)
        self._sessions = {"policy.onnx": onnx_session(read(folder, "policy.onnx"))}

    def __call__(self, observation: Any, *, noise: Any = None, seed: int | None = None) -> np.ndarray:
        """Return actions `[..., d]`, float32 in [-1, 1].

        Args:
            observation: `[..., obs_size]`, as the environment gives it.
            noise: standard normal noise `[..., n, d]`; None, with no seed, acts with zero noise.
            seed: draws that noise, by numpy's generator.

        Raises:
            ValueError: if a shape is wrong.
        """
        observation, noise = _checked(self.description, observation, noise, seed)
        name, inputs = "policy.onnx", {"observation": observation.reshape(-1, observation.shape[-1])}
        if noise is not None:
            name, inputs["noise"] = "policy_noise.onnx", noise.reshape(-1, *noise.shape[-2:])
        if name not in self._sessions:
            self._sessions[name] = onnx_session(read(self.folder, name))
        (action,) = self._sessions[name].run(None, inputs)
        return action.reshape(*observation.shape[:-1], -1)


class StableHloPolicy:
    """A policy as a compiled JAX function, on whatever device JAX has. Needs jax and flatbuffers.

    Args:
        folder: the exported folder.

    Attributes:
        description: what `policy.json` says.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = folder
        self.description = describe(folder)
        self._calls: dict[str, Any] = {}

    def __call__(self, observation: Any, *, noise: Any = None, seed: int | None = None) -> np.ndarray:
        """Return actions; see `OnnxPolicy.__call__`. A seed draws noise by `jax.random.key(seed)`."""
        observation, noise = _checked(self.description, observation, noise, None)
        flat = observation.reshape(-1, observation.shape[-1])
        if noise is not None:
            action = self._call("policy_noise.stablehlo")(flat, noise.reshape(-1, *noise.shape[-2:]))
        elif seed is not None:
            action = self._call("policy_seeded.stablehlo")(flat, np.uint32(seed))
        else:
            action = self._call("policy.stablehlo")(flat)
        return np.asarray(action).reshape(*observation.shape[:-1], -1)

    def _call(self, name: str) -> Any:
        if name not in self._calls:
            import jax
            from jax import export

            self._calls[name] = jax.jit(export.deserialize(bytearray(read(self.folder, name))).call)
        return self._calls[name]


class MujocoTask:
    """The task that a policy was trained on, in MuJoCo's C engine. Needs mujoco and onnxruntime.

    Observation, reward and end are the trainer's own, as ONNX graphs before and after the physics of a step. Episodes
    begin where the trainer's did.

    Args:
        folder: the exported folder.

    Attributes:
        model: the `mujoco.MjModel`.
        data: the `mujoco.MjData`.
        num_starts: how many exported states episodes may start from.
        control_seconds: time of one step.
        episode_length: time limit in steps; it is the caller's to keep.

    Raises:
        ValueError: the folder has no task; the message says why.
    """

    def __init__(self, folder: str | Path) -> None:
        import mujoco

        description = describe(folder)
        self.description = description["task"]
        if "missing" in self.description:
            raise ValueError(f"{folder} holds no task to play: {self.description['missing']}")
        written_by = self.description["mujoco"]
        if written_by != mujoco.__version__:
            raise ValueError(
                f"the model in {folder} was compiled by mujoco {written_by}, this is {mujoco.__version__}; "
                "install that version, or export again"
            )
        read(folder, "task/model.mjb")
        self.mujoco = mujoco
        self.model = mujoco.MjModel.from_binary_path(str(Path(folder) / "task" / "model.mjb"))
        self.data = mujoco.MjData(self.model)
        self.before, self.after = (onnx_session(read(folder, f"task/{name}.onnx")) for name in ("before", "after"))
        read(folder, "task/starts.npz")
        with np.load(Path(folder) / "task" / "starts.npz") as starts:
            self.starts = dict(starts)
        self.num_starts = len(self.starts["observation"])
        self.control_seconds = self.description["control_seconds"]
        self.episode_length = description["environment"]["episode_length"]
        self._state: dict[str, np.ndarray] = {}

    def reset(self, start: int) -> np.ndarray:
        """Begin an episode at one of the exported states; return the observation `[obs_size]`."""
        self.mujoco.mj_resetData(self.model, self.data)
        self._state = {name: self.starts[name][start] for name in self.description["state"]}
        for field in self.description["physics"]:
            self._write(field, self.starts[f"physics_{field}"][start])
        self.mujoco.mj_forward(self.model, self.data)
        # Computing derived quantities moves the solver's warm start.
        if "qacc_warmstart" in self.description["physics"]:
            self.data.qacc_warmstart[:] = self.starts["physics_qacc_warmstart"][start]
        return self.starts["observation"][start]

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, dict[str, float]]:
        """Return `(observation, reward, terminated, metrics)` after an action `[d]` in [-1, 1]."""
        given = {"action": np.asarray(action, np.float32), **self._state}
        for name, value in _run(self.before, given).items():
            self._write(name.removeprefix("write_"), value)
        self.mujoco.mj_step(self.model, self.data, self.description["substeps"])
        fields = {name: np.asarray(getattr(self.data, field)) for name, field in self.description["reads"].items()}
        results = _run(self.after, given | fields)
        self._state |= {name: results[f"next_{name}"] for name in self.description["state"]}
        metrics = {name: float(results[f"metric_{name}"]) for name in self.description["metrics"]}
        return results["observation"], float(results["reward"]), bool(results["terminated"]), metrics

    def _write(self, field: str, value: np.ndarray) -> None:
        if np.ndim(value) == 0:
            setattr(self.data, field, value.item())
        else:
            array = getattr(self.data, field)
            array[:] = np.reshape(value, array.shape)


def onnx_session(contents: bytes) -> Any:
    """Return a session of ONNX Runtime for a model: one thread, which does not spin between calls."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(contents, options, providers=["CPUExecutionProvider"])


_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(int32)": np.int32,
    "tensor(uint32)": np.uint32,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


def _run(session: Any, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    entries = session.get_inputs()
    given = {entry.name: np.asarray(values[entry.name], _DTYPES[entry.type]).reshape(entry.shape) for entry in entries}
    results = session.run(None, given)
    return {entry.name: value for entry, value in zip(session.get_outputs(), results, strict=True)}


def _checked(
    description: dict[str, Any], observation: Any, noise: Any, seed: int | None
) -> tuple[np.ndarray, np.ndarray | None]:
    observation = np.asarray(observation, np.float32)
    size = description["observation"]["size"]
    if observation.ndim < 1 or observation.shape[-1] != size:
        raise ValueError(f"observations must be [..., {size}], got {observation.shape}; see {DESCRIPTION}")
    shape = (*observation.shape[:-1], *description["noise"]["shape"])
    if noise is None:
        return observation, None if seed is None else np.random.default_rng(seed).standard_normal(shape, np.float32)
    noise = np.asarray(noise, np.float32)
    if noise.shape != shape:
        raise ValueError(f"noise must be {list(shape)} for these observations, got {list(noise.shape)}")
    return observation, noise
