"""Load an exported policy without the trainer: this file needs numpy, and what each class names.

    from standalone import OnnxPolicy

    policy = OnnxPolicy("exported")
    history = ObservationHistory(policy.description)  # reset it at the start of each episode
    chunk = policy(history(observation))  # [chunk * d], in the units of policy.json
    for action in executed_actions(policy.description, chunk):
        ...  # one action [d] and one call of history per control period

`policy.json` in the folder describes each number of an observation and of an action.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = 3
DESCRIPTION = "policy.json"


def describe(folder: str | Path) -> dict[str, Any]:
    """Return the contents of `policy.json`.

    Raises:
        FileNotFoundError: if the folder has no `policy.json` of an exported policy.
        ValueError: if another version wrote the file.
    """
    path = Path(folder) / DESCRIPTION
    if not path.is_file():
        raise FileNotFoundError(f"there is no exported policy in {folder}: it holds no {DESCRIPTION}; check the path")
    contents = json.loads(path.read_text(encoding="utf-8"))
    if "files" not in contents:
        raise FileNotFoundError(f"there is no exported policy in {folder}: its {DESCRIPTION} has no table 'files'")
    if contents.get("format") != FORMAT:
        raise ValueError(f"{path} has format {contents.get('format')}, this loader reads {FORMAT}; export it again")
    return contents


def read(folder: str | Path, name: str) -> bytes:
    """Return the bytes of an exported file.

    Raises:
        ValueError: if the file has changed since the export.
    """
    contents = (Path(folder) / name).read_bytes()
    if hashlib.sha256(contents).hexdigest() != describe(folder)["files"][name]:
        raise ValueError(f"{Path(folder) / name} is not the file that was exported (its hash differs); copy it again")
    return contents


def executed_actions(description: dict[str, Any], chunk: Any) -> np.ndarray:
    """Return the actions `[executed * action_repeat, d]` of one policy call, one for each control period.

    Call the policy again after the last of them.

    Args:
        description: contents of `policy.json`.
        chunk: output of the policy for one observation `[chunk * d]`.
    """
    action = description["action"]
    actions = np.asarray(chunk).reshape(action["chunk"], action["size"])
    return np.repeat(actions[: action["executed"]], action["action_repeat"], axis=0)


class ObservationHistory:
    """The last k observations of an episode, one per control period; the first observation fills the history.

    Args:
        description: contents of `policy.json`, which has k.
    """

    def __init__(self, description: dict[str, Any]) -> None:
        self.size, self.length = description["observation"]["size"], description["observation"]["history"]
        self.reset()

    def reset(self) -> None:
        """Forget all observations, at the start of an episode."""
        self._recent: list[np.ndarray] = []

    def __call__(self, observation: Any) -> np.ndarray:
        """Add an observation `[obs_size]`; return the last k, oldest first `[k * obs_size]`.

        Raises:
            ValueError: if the observation has another shape.
        """
        newest = np.asarray(observation, np.float32)
        if newest.shape != (self.size,):
            raise ValueError(f"an observation must be [{self.size}], got {list(newest.shape)}; see {DESCRIPTION}")
        self._recent = [*(self._recent or [newest] * self.length), newest][-self.length :]
        return np.concatenate(self._recent)


class OnnxPolicy:
    """A policy in ONNX Runtime, on one thread. Needs onnxruntime.

    Args:
        folder: the exported folder.

    Attributes:
        description: contents of `policy.json`.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = folder
        self.description = describe(folder)
        self._sessions = {"policy.onnx": onnx_session(read(folder, "policy.onnx"))}

    def __call__(self, observation: Any, *, noise: Any = None, seed: int | None = None) -> np.ndarray:
        """Return action chunks `[..., chunk * d]`, float32, in the units of `policy.json`.

        Args:
            observation: observations `[..., obs_size]`, as the environment returns them; with a history of k, the last
                k of them `[..., k * obs_size]`, see `ObservationHistory`.
            noise: standard normal noise `[..., n, chunk * d]`. None, without a seed: the deterministic action.
            seed: seed of numpy's generator, which then draws the noise.

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
    """A policy as a compiled JAX function, on the default device of JAX. Needs jax and flatbuffers.

    Args:
        folder: the exported folder.

    Attributes:
        description: contents of `policy.json`.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = folder
        self.description = describe(folder)
        self._calls: dict[str, Any] = {}

    def __call__(self, observation: Any, *, noise: Any = None, seed: int | None = None) -> np.ndarray:
        """Return action chunks as `OnnxPolicy` does; a seed draws the noise from `jax.random.key(seed)`."""
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


def onnx_session(contents: bytes) -> Any:
    """Return an ONNX Runtime session of a model, with one thread that does not spin between calls."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(contents, options, providers=["CPUExecutionProvider"])


def _checked(
    description: dict[str, Any], observation: Any, noise: Any, seed: int | None
) -> tuple[np.ndarray, np.ndarray | None]:
    observation = np.asarray(observation, np.float32)
    size = description["observation"]["size"] * description["observation"]["history"]
    if observation.ndim < 1 or observation.shape[-1] != size:
        raise ValueError(f"observations must be [..., {size}], got {observation.shape}; see {DESCRIPTION}")
    shape = (*observation.shape[:-1], *description["noise"]["shape"])
    if noise is None:
        return observation, None if seed is None else np.random.default_rng(seed).standard_normal(shape, np.float32)
    noise = np.asarray(noise, np.float32)
    if noise.shape != shape:
        raise ValueError(f"noise must be {list(shape)} for these observations, got {list(noise.shape)}")
    return observation, noise
