"""Change entries of the JSON files of runs and exports; each is refused in one sentence or means what it says.

    python -m tests.faults.configurations --files 100

Changes entries of `config.json`, `policy_spec.json`, `pretrain.json` and `policy.json` at random: types, ranges,
missing and unknown keys, NaN, huge numbers, nested nonsense. A file that is accepted must give the values in it.
"""

import copy
import json
import math
import os
import random
import signal
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
from flax import nnx

from genpo_jax.config import Config, EnvConfig
from genpo_jax.export.standalone import DESCRIPTION, describe
from genpo_jax.imitation.config import PretrainConfig
from genpo_jax.imitation.pretrain import saved_settings
from genpo_jax.policy import PolicySpec
from genpo_jax.runs.environment import Recorded, config_from
from genpo_jax.runs.folder import CONFIG_FILE, FORMAT, POLICY_FILE, PRETRAIN_FILE, read_policy_spec, write_config
from tests.faults.program import run_campaign
from tests.faults.refusals import is_refusal

SECONDS = 20
Path_ = tuple[Any, ...]
NESTED: Any = []
for _ in range(200):
    NESTED = [NESTED]
VALUES = (
    *(None, True, False, 0, -1, 1, 2, 0.5, -0.5, 7, 1.0, 2**31, 2**63, 10**30, 1e-30, 1e30, -1e300),
    *(float("nan"), float("inf"), "", "x", "1", "genpo++", "../..", "<script>", "\0", "a" * 5000, [], {}, [1], ["x"]),
    *([None], [0, 0], [-1, 64], [float("nan")], [[64]], {"x": 1}, {"name": "fpo"}, {"name": 3}, {"name": ["fpo"]}),
    NESTED,
)


def places(contents: Any, path: Path_ = ()) -> list[Path_]:
    """Return the paths of all entries."""
    items = (
        contents.items() if isinstance(contents, dict) else enumerate(contents) if isinstance(contents, list) else ()
    )
    return [each for key, value in items for each in [(*path, key), *places(value, (*path, key))]]


def at(contents: Any, path: Path_) -> Any:
    """Return the entry at a path."""
    for key in path:
        contents = contents[key]
    return contents


def changed(contents: Any, choose: random.Random) -> tuple[str, Any]:
    """Return a description and the contents with one change."""
    contents = copy.deepcopy(contents)
    path = choose.choice([each for each in places(contents) if each[0] not in ("versions", "platform", "method_text")])
    parent, key = at(contents, path[:-1]), path[-1]
    kind = choose.choice(["replace", "replace", "replace", "remove", "add"])
    if kind == "remove":
        del parent[key]
    elif kind == "add" and isinstance(parent, dict):
        parent[choose.choice(["learning_rat", "", "__class__", "self", "name", "format", "env"])] = choose.choice(
            VALUES
        )
    else:
        parent[key] = choose.choice(VALUES)
    return f"{kind} {'.'.join(map(str, path))}: {str(at(contents, path[:-1]))[:150]}", contents


def equal(value: Any, written: Any) -> bool:
    """Whether a value that was read is what the file says: tuples are lists, and integers are floats."""
    if isinstance(written, dict):
        return isinstance(value, dict) and all(key in value and equal(value[key], written[key]) for key in written)
    if isinstance(written, list):
        return isinstance(value, list | tuple) and len(value) == len(written) and all(map(equal, value, written))
    if isinstance(written, float) and math.isnan(written):
        return isinstance(value, float) and math.isnan(value)
    return value == written and isinstance(value, bool) == isinstance(written, bool)


def read_config_file(folder: Path) -> Any:
    """Return the settings in `config.json`, as `--config` and `load` read them."""
    Recorded.of_run(folder)
    return config_from(folder / CONFIG_FILE).to_dict()


def read_spec_file(folder: Path) -> Any:
    """Return the description of a policy, after building its parameters' shapes."""
    spec = PolicySpec.from_dict(read_policy_spec(folder))
    policy = nnx.eval_shape(spec.build)
    jax.eval_shape(lambda: spec.in_units(jax.numpy.zeros(spec.action_size)))
    assert policy.action_size == spec.action_size
    return spec.to_dict()


def read_pretrain_file(folder: Path) -> Any:
    """Return the settings of a pretraining run."""
    settings, source = saved_settings(folder)
    assert isinstance(source, str)
    return settings.to_dict()


def pristine() -> dict[str, tuple[Any, Callable[[Path], Any], tuple[str, ...]]]:
    """Return contents, reader, and path of the table that the reader returns, by name of the file."""
    from tests.test_damaged_exports import description

    options = EnvConfig(chunk=2, executed=1, action_low=(-1.0, 0.0), action_high=(1.0, 2.0))
    config = Config(env="multigoal", env_options=options)
    with tempfile.TemporaryDirectory() as folder:
        write_config(Path(folder), config, "cpu", 1, run_id="0")
        of_config = json.loads((Path(folder) / CONFIG_FILE).read_text())
    spec = PolicySpec.of_sizes(config, 0, 4, 2, ((-1.0, 0.0), (1.0, 2.0)))
    spec = replace(spec, action_names=("x", "y"), obs_names=("a", "b", "c", "d"), rate=20.0)
    of_spec = {"format": FORMAT, "policy": spec.to_dict()}
    data = {"source": "demos.hdf5", "sha256": "0", "episodes": 3, "steps": 9, "obs_keys": {"state": 4}}
    of_pretrain = {"format": FORMAT, "settings": PretrainConfig().to_dict(), "data": data}
    of_export = description() | {"files": {"policy.onnx": "0"}}
    return {
        CONFIG_FILE: (of_config, read_config_file, ("config",)),
        POLICY_FILE: (of_spec, read_spec_file, ("policy",)),
        PRETRAIN_FILE: (of_pretrain, read_pretrain_file, ("settings",)),
        DESCRIPTION: (of_export, describe, ()),
    }


def attempt(folder: Path, name: str, contents: Any, read: Callable[[Path], Any], table: tuple[str, ...]) -> str:
    """Read a file; return what is wrong with the outcome, or "accepted" or "refused"."""
    (folder / name).write_text(json.dumps(contents))
    signal.alarm(SECONDS)
    try:
        result = read(folder)
    except BaseException as error:
        return "refused" if is_refusal(error) else f"{type(error).__name__} of {len(str(error))}: {str(error)[:200]}"
    finally:
        signal.alarm(0)
    written = json.loads(json.dumps(at(contents, table)))
    return "accepted" if equal(result, written) else "read another value than the file has"


def hang(*_: object) -> None:
    """Raise in a case that hangs."""
    raise BaseException("hangs")


def campaign(files: int, seed: int = 0) -> list[str]:
    """Craft this many of each file; return what was wrong."""
    previous = signal.signal(signal.SIGALRM, hang)
    wrong, counts = [], {}
    with tempfile.TemporaryDirectory() as root:
        for name, (contents, read, table) in pristine().items():
            folder, choose = Path(root) / name.replace(".", "-"), random.Random(f"{seed} {name}")
            folder.mkdir()
            outcome = attempt(folder, name, contents, read, table)
            if outcome != "accepted":
                wrong.append(f"{name} unchanged: {outcome}")
            for i in range(files):
                case, crafted = changed(contents, choose)
                outcome = attempt(folder, name, crafted, read, table)
                counts[outcome[:30]] = counts.get(outcome[:30], 0) + 1
                if outcome not in ("accepted", "refused"):
                    wrong.append(f"{name} {i}: {case}: {outcome}")
    signal.signal(signal.SIGALRM, previous)
    print(counts)
    return wrong


if __name__ == "__main__":
    run_campaign(campaign, "files", __doc__)
