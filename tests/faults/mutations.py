"""Change one operator or number of a module at a time, and report the changes that its tests do not detect.

    pip install 'cosmic-ray>=8.4,<9'
    python -m tests.faults.mutations genpo_jax/training/advantage.py --most 60

At each of `--most` random places in the code, one random mutation of Cosmic Ray is applied to a copy. Prints each
mutation that survives, and how many were detected.
"""

import argparse
import importlib
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
# The tests of each module, with the tests of whole updates against numpy where the others are few.
TESTS = {
    "genpo_jax/training/advantage.py": ("tests/test_advantage.py", "tests/test_replay.py"),
    "genpo_jax/normalizer.py": ("tests/test_normalizer.py", "tests/test_replay.py"),
    "genpo_jax/training/ppo.py": ("tests/test_ppo.py", "tests/test_surrogates.py", "tests/test_replay.py"),
    "genpo_jax/envs/episode.py": ("tests/envs/test_episode.py", "tests/test_replay.py"),
    "genpo_jax/runs/checkpoint.py": ("tests/test_checkpoint.py",),
    "genpo_jax/runs/manifest.py": ("tests/test_checkpoint.py",),
}
OF_SOLVERS = tuple(f"tests/solvers/test_{name}.py" for name in ("inversion", "density", "errors", "order"))
OF_DENSITIES = tuple(f"tests/solvers/test_{name}.py" for name in ("action_ratio", "marginal"))
MOST_SECONDS = 300.0
# `X | None` is an annotation here, and removing a decorator always fails: both would only improve the score.
EXCLUDED = ("core/ReplaceBinaryOperator_BitOr", "core/RemoveDecorator", "core/NoOp")


def tests_of(module: str) -> tuple[str, ...]:
    """Return the test files of a module."""
    if module in TESTS:
        return TESTS[module]
    stem = Path(module).stem
    own = f"tests/solvers/test_{stem}.py"
    tests = (*OF_SOLVERS, *(OF_DENSITIES if stem in ("action_ratio", "marginal", "grid") else ()))
    return tests if own in tests or not (ROOT / own).exists() else (own, *tests)


def mutations(module: str, most: int, seed: int) -> list[Any]:
    """Return one random mutation for each of `most` random places."""
    # Imported by name, because the type checker runs without Cosmic Ray.
    all_items = importlib.import_module("cosmic_ray.commands.init")._all_work_items
    places: dict[Any, list[Any]] = {}
    for item in all_items([Path(module)], {}):
        mutation = item.mutations[0]
        if not mutation.operator_name.startswith(EXCLUDED):
            places.setdefault((mutation.start_pos, mutation.end_pos), []).append(mutation)
    draw = random.Random(seed)
    chosen = sorted(draw.sample(sorted(places), min(most, len(places))))
    return [draw.choice(places[place]) for place in chosen]


def main() -> None:
    """Run the campaign."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="+")
    parser.add_argument("--most", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    mutating = importlib.import_module("cosmic_ray.mutating")
    survived = total = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        copy.mkdir()
        for name in ("genpo_jax", "experiments", "benchmarks", "tests", "examples", "pyproject.toml"):
            source = ROOT / name
            shutil.copytree(source, copy / name) if source.is_dir() else shutil.copy(source, copy)
        os.chdir(copy)
        os.environ["PYTHONPATH"] = os.pathsep.join([str(copy), os.environ.get("PYTHONPATH", "")])
        for module in options.modules:
            command = f"{sys.executable} -m pytest -x -q -n 0 -p no:cacheprovider {' '.join(tests_of(module))}"
            unchanged = importlib.import_module("cosmic_ray.testing").run_tests(command, MOST_SECONDS)
            if unchanged[0].value != "survived":
                sys.exit(f"the tests of {module} fail without any mutation:\n{unchanged[1][-2000:]}")
            detected = []
            for mutation in mutations(module, options.most, options.seed):
                result = mutating.mutate_and_test([mutation], command, MOST_SECONDS)
                detected.append(result.is_killed)
                if not result.is_killed:
                    print(f"{module}:{mutation.start_pos[0]} {mutation.operator_name}\n{result.diff}", flush=True)
            print(f"{module}: {sum(detected)} of {len(detected)} mutations detected", flush=True)
            survived, total = survived + detected.count(False), total + len(detected)
    print(f"{total - survived} of {total} mutations detected")


if __name__ == "__main__":
    main()
