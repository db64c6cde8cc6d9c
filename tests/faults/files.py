"""Damage bytes of data sets and of exported policies at random; each is refused in one sentence, or harmless.

    python -m tests.faults.files --files 100

Harmless data have the same numbers, or other numbers and a warning that names them. Other numbers without a warning are
counted for formats without checksums, and wrong for the others. The hashes of an exported policy fit its damaged files,
so it must be refused, or act with finite actions of the right shape. Each case runs in a process of its own, because a
library may crash.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.faults.program import run_campaign

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np

from genpo_jax.export.standalone import OnnxPolicy, StableHloPolicy
from tests import test_damaged_exports as exports
from tests.data import test_damaged_files as data
from tests.faults.refusals import is_refusal

SECONDS = 100
CHECKED = ("ours", "dppo", "lerobot", "lerobot v3")
ACCEPTED, TOLD, REFUSED, UNSEEN = "harmless", "told", "refused", "other numbers, no checksum"
UNCHANGED = "unchanged"


def damaged(contents: bytes, choose: random.Random) -> tuple[str, bytes]:
    """Return a description and the bytes with one damage."""
    array, at = bytearray(contents), choose.randrange(len(contents))
    length = choose.choice([1, 4, 16, 300])
    kind = choose.choice(["flip", "flip", "cut", "zero", "garbage", "insert", "remove", "append"])
    if kind == "flip":
        array[at] ^= 1 << choose.randrange(8)
    elif kind == "cut":
        del array[at:]
    elif kind == "zero":
        array[at : at + length] = bytes(len(array[at : at + length]))
    elif kind == "garbage":
        array[at : at + length] = choose.randbytes(len(array[at : at + length]))
    elif kind == "insert":
        array[at:at] = choose.randbytes(length)
    elif kind == "remove":
        del array[at : at + length]
    else:
        array += choose.randbytes(length)
    return f"{kind} at byte {at} of {len(contents)}", bytes(array)


def outcome_of_data(path: Path, form: str) -> str:
    """Read a data set; return the outcome."""
    got, error, warned = data.outcome(path)
    if got is None:
        return REFUSED if str(path) in error else f"the error {error:.300}"
    if not data.differences(got, form):
        return ACCEPTED
    return TOLD if "check " in warned else "other numbers in silence" if form in CHECKED else UNSEEN


def outcome_of_export(folder: Path, load: Callable[[Path], Callable[[list[float]], np.ndarray]]) -> str:
    """Load a policy and act; return the outcome."""
    try:
        action = load(folder)([3.0])
    except Exception as error:
        return REFUSED if is_refusal(error) and str(folder) in str(error) else f"the error {error!r:.300}"
    return ACCEPTED if action.shape == (1,) and np.isfinite(action).all() else f"the action {action}"


def in_process(call: Callable[[], str]) -> str:
    """Return the result of a call in a forked process, or how that ended."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(SECONDS)
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        try:
            result = call()
        except BaseException as error:
            result = f"{type(error).__name__}: {str(error)[:300]}"
        os.write(write, result.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        result = stream.read().decode()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return result or (f"hangs for {SECONDS} s" if code == -signal.SIGALRM else f"crashes with code {code}")


def campaign(files: int, seed: int = 0) -> list[str]:
    """Damage this many files of each form; return what was wrong."""
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as root:
        pristine = data.sets(Path(root))
        for form in pristine:
            choose, counts = random.Random(f"{seed} {form}"), Counter[str]()
            copy = Path(root) / "copy"
            copy.mkdir()
            path, _ = data.copied(pristine, form, copy)
            for _ in range(files):
                file = choose.choice(data.files_of(copy))
                contents = file.read_bytes()
                case, changed = damaged(contents, choose)
                file.write_bytes(changed)
                count(
                    in_process(lambda p=path, f=form: outcome_of_data(p, f)),
                    f"{form} {file.name} {case}",
                    counts,
                    wrong,
                )
                file.write_bytes(contents)
            shutil.rmtree(copy)
            print(form, dict(counts), flush=True)
        models = {"policy.onnx": (exports.model(), OnnxPolicy)}
        models["policy.stablehlo"] = bytes.fromhex(in_process(lambda: exports.stablehlo().hex())), StableHloPolicy
        for name, (contents, load) in models.items():
            choose, counts = random.Random(f"{seed} {name}"), Counter[str]()
            for i in range(files):
                case, changed = (UNCHANGED, contents) if i == 0 else damaged(contents, choose)
                (Path(root) / name).write_bytes(changed)
                described = exports.description() | {"files": {name: hashlib.sha256(changed).hexdigest()}}
                (Path(root) / "policy.json").write_text(json.dumps(described))
                result = in_process(lambda f=Path(root), load=load: outcome_of_export(f, load))
                count(result, f"{name} {case}", counts, wrong)
            print(name, dict(counts), flush=True)
    return wrong


def count(result: str, case: str, counts: Counter[str], wrong: list[str]) -> None:
    """Count a result, and add it to those that are wrong."""
    counts[result[:40]] += 1
    if result not in (ACCEPTED, TOLD, REFUSED, UNSEEN) or (case.endswith(UNCHANGED) and result != ACCEPTED):
        wrong.append(f"{case}: {result}")


if __name__ == "__main__":
    run_campaign(campaign, "files", __doc__)
