"""Every damaged folder of an exported policy ends in one sentence, and the undamaged one acts."""

import hashlib
import json
import os
import signal
from typing import Any

import jax
import numpy as np
import pytest
from probes import ClockEnv

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper  # noqa: E402

from genpo_jax.export.deploy import deploy  # noqa: E402
from genpo_jax.export.standalone import OnnxPolicy, StableHloPolicy, describe  # noqa: E402

GONE = "<gone>"


def model(inputs=("observation",), size=1, weight=0.5, obs_size=1, scalar=False):
    """Return a policy whose action is `weight` times the observation; a scalar is the sum over the batch."""
    shape = ["batch", obs_size]
    infos = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape if i == 0 else None)
        for i, name in enumerate(inputs)
    ]
    weights = helper.make_tensor("w", TensorProto.FLOAT, [obs_size, size], [weight] * obs_size * size)
    output = helper.make_tensor_value_info("action", TensorProto.FLOAT, [] if scalar else ["batch", size])
    nodes = [helper.make_node("MatMul", [inputs[0], "w"], ["product" if scalar else "action"])]
    if scalar:
        nodes.append(helper.make_node("ReduceSum", ["product"], ["action"], keepdims=0))
    graph = helper.make_graph(nodes, "policy", infos, [output], [weights])
    opset = helper.make_opsetid("", 18)
    return helper.make_model(graph, opset_imports=[opset], ir_version=10).SerializeToString()


def description():
    return {
        "format": 3,
        "method": {"name": "fpo"},
        "observation": {"name": "state", "size": 1, "history": 1, "names": None},
        "action": {
            **{"size": 1, "chunk": 1, "executed": 1, "action_repeat": 1, "squash": "clip", "names": ["a"]},
            **{"low": [-1.0], "high": [1.0]},
        },
        "noise": {"shape": [1, 1]},
        "rate": {"control_period_seconds": 0.02, "policy_period_seconds": 0.02},
        "environment": {
            **{"name": "clock", "backend": None, "factory": None, "object": True, "reward": "task"},
            "episode_length": 3,
        },
        "trained": {"eval/return_zero": 1.5},
    }


def write(folder, contents=None, **files):
    """Write an exported folder whose hashes fit its files."""
    files = {"policy.onnx": model()} | {name.replace("_onnx", ".onnx"): data for name, data in files.items()}
    contents = contents or description()
    contents.setdefault("files", {name: hashlib.sha256(data).hexdigest() for name, data in files.items()})
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / "policy.json").write_text(json.dumps(contents))
    return folder


def refused(folder, sentence, load=OnnxPolicy):
    """Check that loading and deploying end in one sentence that names the folder."""

    def ring(*_):
        raise TimeoutError("it hangs")

    previous = signal.signal(signal.SIGALRM, ring)
    signal.alarm(20)
    try:
        for use in (load, lambda path: deploy(path, env=ClockEnv(), episodes=1)):
            with pytest.raises((ValueError, FileNotFoundError), match=sentence) as error:
                use(folder)
            text = str(error.value)
            assert "\n" not in text and str(folder) in text and len(text) < 700, text
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def test_an_undamaged_folder_acts(tmp_path):
    folder = write(tmp_path)
    assert OnnxPolicy(folder)([3.0]).tolist() == [1.5]
    assert deploy(folder, env=ClockEnv(), episodes=1).lengths == [3]


# An entry, what it is replaced by, and the sentence; GONE removes it.
ENTRIES: list[tuple[str, Any, str]] = [
    ("observation", GONE, "observation.size of .* must be an integer"),
    ("observation", [1], "observation.size of .* must be an integer"),
    ("observation.size", GONE, "observation.size of .* got None"),
    ("observation.size", -1, "observation.size of .* got -1"),
    ("observation.size", 0, "observation.size of .* got 0"),
    ("observation.size", 1.0, "observation.size of .* got 1.0"),
    ("observation.size", True, "observation.size of .* got True"),
    ("observation.size", "1", "observation.size of .* got '1'"),
    ("observation.size", 10**30, "observation.size of .* got 1000"),
    ("observation.history", GONE, "observation.history of .* got None"),
    ("observation.history", -2, "observation.history of .* got -2"),
    ("observation.history", "two", "observation.history of .* got 'two'"),
    ("observation.name", 3, "observation.name of .* must be text, got 3"),
    ("observation.names", ["a", "b"], "observation.names of .* must be null or 1 texts"),
    ("observation.names", "x", "observation.names of .* must be null or 1 texts"),
    ("observation.seen_mean", [0.0, 0.0], "observation.seen_mean of .* 1 numbers"),
    ("observation.seen_std", [float("nan")], r"observation.seen_std of .* got \[nan\]"),
    ("action", GONE, "action.size of .* must be an integer"),
    ("action.size", 2.5, "action.size of .* got 2.5"),
    ("action.size", None, "action.size of .* got None"),
    ("action.chunk", 0, "action.chunk of .* got 0"),
    ("action.chunk", 2, "noise.shape of .* must be .a count, 2."),
    ("action.executed", 2, r"action.executed of .* must be an integer in \[1, 1\], got 2"),
    ("action.executed", GONE, "action.executed of .* got None"),
    ("action.action_repeat", -4, "action.action_repeat of .* got -4"),
    ("action.action_repeat", 1e9, "action.action_repeat of .* got 1000000000.0"),
    ("action.names", [3], "action.names of .* must be null or 1 texts"),
    ("action.low", GONE, "action.low of .* must be 1 numbers, got None"),
    ("action.low", -1.0, "action.low of .* must be 1 numbers, got -1.0"),
    ("action.low", ["-1"], "action.low of .* must be 1 numbers"),
    ("action.low", [float("-inf")], "action.low of .* must be 1 numbers"),
    ("action.low", [-1.0, -1.0], "action.low of .* must be 1 numbers"),
    ("action.low", [1.5], "action.low of .* must be at most action.high"),
    ("action.high", [float("nan")], "action.high of .* must be 1 numbers"),
    ("action.high", [1e300], "action.high of .* must be 1 numbers"),
    ("action.high", {"0": 1.0}, "action.high of .* must be 1 numbers"),
    ("noise", GONE, "noise.shape of .* must be two sizes"),
    ("noise.shape", [1], "noise.shape of .* must be two sizes"),
    ("noise.shape", [-1, 1], "noise.shape of .* must be .a count, 1."),
    ("noise.shape", ["1", 1], "noise.shape of .* must be .a count, 1."),
    ("noise.shape", [1, 7], "noise.shape of .* must be .a count, 1."),
    ("rate.control_period_seconds", 0, "rate.control_period_seconds of .* must be null or a positive"),
    ("rate.control_period_seconds", "fast", "rate.control_period_seconds of .* got 'fast'"),
    ("rate.policy_period_seconds", float("nan"), "rate.policy_period_seconds of .* got nan"),
    ("environment", GONE, "environment of .* must be a table"),
    ("environment", "clock", "environment of .* must be a table"),
    ("environment.name", None, "environment.name of .* must be text"),
    ("environment.reward", 1, "environment.reward of .* must be text"),
    ("environment.backend", 1, "environment.backend of .* must be null or text"),
    ("environment.factory", ["a"], "environment.factory of .* must be null or text"),
    ("environment.object", "yes", "environment.object of .* must be true or false"),
    ("environment.episode_length", -3, "environment.episode_length of .* got -3"),
    ("environment.episode_length", 2.5, "environment.episode_length of .* got 2.5"),
    ("trained", GONE, "trained of .* must be a table of numbers"),
    ("trained", {"eval/return_zero": "good"}, "trained of .* must be a table of numbers"),
    ("trained", {"eval/return_zero": float("inf")}, "trained of .* must be a table of numbers"),
    ("files", ["policy.onnx"], "files of .* must be a table of names"),
    ("files", {"policy.onnx": 3}, "files of .* must be a table of names"),
    ("files", {}, "policy.onnx is missing"),
    ("format", 2, "has format 2, this loader reads 3; export it again"),
    ("format", "3", "has format 3, this loader"),
    ("format", "a" * 5000, "has format a{100}, this loader"),
    ("format", GONE, "has format None, this loader"),
]


@pytest.mark.parametrize(("name", "value", "sentence"), ENTRIES, ids=lambda value: str(value)[:40])
def test_a_wrong_entry_of_the_description_is_named(name, value, sentence, tmp_path):
    contents = description()
    *groups, key = name.split(".")
    inner = contents
    for group in groups:
        inner = inner[group]
    inner.pop(key, None) if value is GONE else inner.update({key: value})
    refused(write(tmp_path, contents), sentence)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"", "policy.json is no JSON file"),
        (b'{"format": 3,', "policy.json is no JSON file"),
        (b"\xff\xfe", "policy.json is no JSON file"),
        (b"[" * 100_000, "policy.json is no JSON file"),
        (b"[]", "holds no exported policy|there is no exported policy"),
        (b"3", "there is no exported policy"),
        (b"{}", "there is no exported policy"),
    ],
)
def test_a_description_that_is_no_table_is_refused(text, sentence, tmp_path):
    write(tmp_path)
    (tmp_path / "policy.json").write_bytes(text)
    refused(tmp_path, sentence)


@pytest.mark.parametrize(
    ("contents", "sentence"),
    [
        (b"", "policy.onnx cannot be used"),
        (b"no model", "policy.onnx cannot be used"),
        (model()[:60], "policy.onnx cannot be used"),
        (
            model(inputs=("state",)),
            r"policy.onnx must have the inputs \['observation'\] and one output, got \['state'\]",
        ),
        (model(inputs=("observation", "noise")), r"policy.onnx must have the inputs \['observation'\]"),
    ],
)
def test_a_damaged_model_is_refused(contents, sentence, tmp_path):
    refused(write(tmp_path, **{"policy_onnx": contents}), sentence)


@pytest.mark.parametrize(
    ("contents", "sentence"),
    [
        (model(size=3), r"policy.onnx must return actions of 1 numbers, got shape \(1, 3\)"),
        (model(scalar=True), r"policy.onnx must return actions of 1 numbers, got shape \(\)"),
        (model(obs_size=4), "policy.onnx cannot be used"),
        (model(weight=float("nan")), r"policy.onnx must return finite actions, got \[nan\]"),
    ],
)
def test_a_model_that_does_not_fit_its_description_is_refused_when_it_acts(contents, sentence, tmp_path):
    refused(write(tmp_path, **{"policy_onnx": contents}), sentence, load=lambda path: OnnxPolicy(path)([1.0]))


def test_files_that_are_missing_changed_or_no_files_are_refused(tmp_path):
    write(tmp_path)
    (tmp_path / "policy.onnx").write_bytes(model(weight=0.6))
    refused(tmp_path, "is not the file that was exported")
    (tmp_path / "policy.onnx").unlink()
    refused(tmp_path, "policy.onnx is missing")
    (tmp_path / "policy.onnx").mkdir()
    refused(tmp_path, "policy.onnx is missing")
    (tmp_path / "policy.onnx").rmdir()
    os.mkfifo(tmp_path / "policy.onnx")
    refused(tmp_path, "policy.onnx is missing")
    (tmp_path / "policy.json").unlink()
    os.mkfifo(tmp_path / "policy.json")
    refused(tmp_path, "holds no policy.json")


def stablehlo():
    """Return the bytes of a policy whose action is half of the observation."""
    (batch,) = jax.export.symbolic_shape("batch")
    exported = jax.export.export(jax.jit(lambda x: x / 2))(jax.ShapeDtypeStruct((batch, 1), "float32"))
    return bytes(exported.serialize())


def test_damaged_stablehlo_is_refused_when_it_is_read_or_first_called(tmp_path):
    intact = stablehlo()
    # The function, which jax decodes in the first call, begins with the four bytes of MLIR's bytecode.
    start = intact.index(b"ML\xefR") + 8
    for contents in (intact, b"no function", intact[:start] + bytes(16) + intact[start + 16 :]):
        described = description() | {"files": {"policy.stablehlo": hashlib.sha256(contents).hexdigest()}}
        (tmp_path / "policy.json").write_text(json.dumps(described))
        (tmp_path / "policy.stablehlo").write_bytes(contents)
        policy = StableHloPolicy(tmp_path)
        if contents is intact:
            assert policy([3.0]).tolist() == [1.5]
            continue
        with pytest.raises(ValueError, match=r"policy.stablehlo cannot be used .*export the folder again") as error:
            policy([1.0])
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="policy_noise.stablehlo is missing"):
        policy([1.0], noise=np.zeros((1, 1)))


def test_the_description_of_an_export_passes_its_own_checks(tmp_path):
    assert describe(write(tmp_path))["action"]["low"] == [-1.0]
