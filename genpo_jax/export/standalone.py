"""Load an exported policy without the trainer: this file needs numpy, and what each class names.

    from standalone import ObservationHistory, OnnxPolicy, executed_actions

    policy = OnnxPolicy("exported")
    history = ObservationHistory(policy.description)  # reset it at the start of each episode
    stacked = history(observation)  # once per control period
    chunk = policy(stacked)  # [chunk * d], in the units of policy.json
    actions = executed_actions(policy.description, chunk)  # one action [d] per control period, then call policy again

`policy.json` in the folder describes each number of an observation and of an action.
"""

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = 3
DESCRIPTION = "policy.json"
LARGEST_FILE, LARGEST_COUNT, LARGEST_NUMBER = 2**32, 2**24, 1e30
COUNT = f"an integer in [1, {LARGEST_COUNT}]"


def describe(folder: str | Path) -> dict[str, Any]:
    """Return the contents of `policy.json`.

    Raises:
        FileNotFoundError: if the folder has no `policy.json` of an exported policy.
        ValueError: if another version wrote the file, or it is damaged; the message names the entry.
    """
    path = Path(folder) / DESCRIPTION
    if not path.is_file():
        remedy = "name a folder that genpo-jax export wrote"
        raise FileNotFoundError(f"there is no exported policy in {folder}: it holds no {DESCRIPTION}; {remedy}")
    try:
        contents = json.loads(_bytes(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON file; export it again, or copy it again") from error
    if not isinstance(contents, dict) or "files" not in contents:
        raise FileNotFoundError(f"there is no exported policy in {folder}: its {DESCRIPTION} has no table 'files'")
    if contents.get("format") != FORMAT:
        found = str(contents.get("format"))[:100]
        raise ValueError(f"{path} has format {found}, this loader reads {FORMAT}; export it again")
    _check_description(contents, path)
    return contents


def read(folder: str | Path, name: str) -> bytes:
    """Return the bytes of an exported file.

    Raises:
        ValueError: if the file is missing, or has changed since the export.
    """
    path, hashes = Path(folder) / name, describe(folder)["files"]
    if name not in hashes or not path.is_file():
        raise ValueError(f"{path} is missing; copy or export the folder again")
    contents = _bytes(path)
    if hashlib.sha256(contents).hexdigest() != hashes[name]:
        raise ValueError(f"{path} is not the file that was exported (its hash differs); copy it again")
    return contents


def _bytes(path: Path) -> bytes:
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"{path} must have at most {LARGEST_FILE} bytes; copy or export the folder again")
    return path.read_bytes()


def _check_description(contents: dict[str, Any], path: Path) -> None:
    """Check every entry of `policy.json` that acting or deploying needs.

    Raises:
        ValueError: names the first entry that is missing or wrong.
    """

    def check(name: str, rule: str, fits: Callable[[Any], bool]) -> Any:
        value: Any = contents
        for key in name.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if not fits(value):
            text = repr(value) if len(repr(value)) < 100 else f"{repr(value)[:100]}..."
            raise ValueError(f"{name} of {path} must be {rule}, got {text}; export the policy again")
        return value

    check("files", "a table of names and hashes", _is_table_of_texts)
    size = check("observation.size", COUNT, _is_count)
    history = check("observation.history", COUNT, _is_count)
    check("observation.name", "text", lambda value: isinstance(value, str))
    check("observation.names", f"null or {size} texts", lambda value: value is None or _are_texts(value, size))
    for name in ("observation.seen_mean", "observation.seen_std"):
        length = size * history
        check(name, f"left out, or {length} numbers", lambda value, n=length: value is None or _are_numbers(value, n))
    actions = check("action.size", COUNT, _is_count)
    chunk = check("action.chunk", COUNT, _is_count)
    check("action.executed", f"an integer in [1, {chunk}]", lambda value: _is_count(value) and value <= chunk)
    check("action.action_repeat", COUNT, _is_count)
    check("action.names", f"null or {actions} texts", lambda value: value is None or _are_texts(value, actions))
    low = check("action.low", f"{actions} numbers", lambda value: _are_numbers(value, actions))
    high = check("action.high", f"{actions} numbers", lambda value: _are_numbers(value, actions))
    ordered = all(one <= other for one, other in zip(low, high, strict=True))
    check("action.low", f"at most action.high, {str(high)[:100]}", lambda _: ordered)
    shape = check("noise.shape", "two sizes", lambda value: isinstance(value, list) and len(value) == 2)
    check("noise.shape", f"[a count, {chunk * actions}]", lambda _: _is_count(shape[0]) and shape[1] == chunk * actions)
    check("rate", "a table", lambda value: isinstance(value, dict))
    for name in ("rate.control_period_seconds", "rate.policy_period_seconds"):
        check(name, "null or a positive number", lambda value: value is None or (_is_number(value) and value > 0))
    check("environment", "a table", lambda value: isinstance(value, dict))
    for name in ("environment.name", "environment.reward"):
        check(name, "text", lambda value: isinstance(value, str))
    for name in ("environment.backend", "environment.factory"):
        check(name, "null or text", lambda value: value is None or isinstance(value, str))
    check("environment.object", "true or false", lambda value: isinstance(value, bool))
    check("environment.playground_config", "left out, or texts", lambda value: value is None or _are_texts(value))
    check("environment.episode_length", f"null or {COUNT}", lambda value: value is None or _is_count(value))
    check(
        "trained", "a table of numbers", lambda value: isinstance(value, dict) and all(map(_is_number, value.values()))
    )


def _is_count(value: Any) -> bool:
    return type(value) is int and 1 <= value <= LARGEST_COUNT


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < LARGEST_NUMBER and math.isfinite(value)


def _are_numbers(value: Any, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(map(_is_number, value))


def _are_texts(value: Any, count: int | None = None) -> bool:
    return isinstance(value, list) and count in (None, len(value)) and all(isinstance(each, str) for each in value)


def _is_table_of_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())


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
        self._sessions = {"policy.onnx": self._session("policy.onnx", {"observation"})}

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
            self._sessions[name] = self._session(name, set(inputs))
        try:
            outputs = self._sessions[name].run(None, inputs)
        except Exception as error:  # of a model that does not fit policy.json; the runtime has its own classes
            raise _unusable(Path(self.folder) / name, error) from error
        return _shaped(self.description, outputs[0], observation, Path(self.folder) / name)

    def _session(self, name: str, inputs: set[str]) -> Any:
        """Return the session of a file, after a check of the names of its inputs."""
        contents, path = read(self.folder, name), Path(self.folder) / name
        try:
            session = onnx_session(contents)
        except ImportError:
            raise
        except Exception as error:  # the runtime has its own classes for damaged models
            raise _unusable(path, error) from error
        found = {each.name for each in session.get_inputs()}
        if found != inputs or len(session.get_outputs()) != 1:
            raise ValueError(f"{path} must have the inputs {sorted(inputs)} and one output, got {sorted(found)}")
        return session


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
        name, inputs = "policy.stablehlo", [observation.reshape(-1, observation.shape[-1])]
        if noise is not None:
            name, inputs = "policy_noise.stablehlo", [*inputs, noise.reshape(-1, *noise.shape[-2:])]
        elif seed is not None:
            name, inputs = "policy_seeded.stablehlo", [*inputs, np.uint32(seed)]
        if name not in self._calls:
            self._calls[name] = self._function(name)
        path = Path(self.folder) / name
        try:
            action = np.asarray(self._calls[name](*inputs))
        except Exception as error:  # jax decodes the function when it is first called
            raise _unusable(path, error) from error
        return _shaped(self.description, action, observation, path)

    def _function(self, name: str) -> Any:
        """Return the compiled function of a file."""
        import jax
        from jax import export

        contents = bytearray(read(self.folder, name))
        try:
            return jax.jit(export.deserialize(contents).call)
        except Exception as error:  # of a damaged file; its decoder raises errors of any class
            raise _unusable(Path(self.folder) / name, error) from error


def onnx_session(contents: bytes) -> Any:
    """Return an ONNX Runtime session of a model, with one thread that does not spin between calls."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(contents, options, providers=["CPUExecutionProvider"])


def _unusable(path: Path, error: Exception) -> ValueError:
    first = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return ValueError(f"{path} cannot be used ({first}); copy or export the folder again")


def _shaped(description: dict[str, Any], action: Any, observation: np.ndarray, path: Path) -> np.ndarray:
    """Return the output of a policy as `[..., chunk * d]`.

    Raises:
        ValueError: if it has another size, or is not finite though the observation is.
    """
    size = description["action"]["chunk"] * description["action"]["size"]
    shape = (*observation.shape[:-1], size)
    if np.size(action) != math.prod(shape) or np.shape(action)[-1:] != (size,):
        raise ValueError(f"{path} must return actions of {size} numbers, got shape {np.shape(action)}; export it again")
    if np.isfinite(observation).all() and not np.isfinite(action).all():
        raise ValueError(f"{path} must return finite actions, got {action.reshape(-1)[:4]}; export another checkpoint")
    return action.reshape(shape)


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
