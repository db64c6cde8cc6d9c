"""Change one operator or number of a module at a time, in a copy; which changes do the module's tests not see?

    pip install 'cosmic-ray>=8.4,<9'
    python -m tests.faults.mutations genpo_jax/training/advantage.py --most 60

One change for each place in the code, drawn from all that Cosmic Ray knows; `--most` of these places, drawn as well.
Prints each change that survives, and how many were seen.
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
# Of each module, the tests of what it says and, where they are few, those of whole updates against numpy.
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
# `X | None` is an annotation here, and a decorator removed fails at once: they would only flatter the score.
LEFT_OUT = ("core/ReplaceBinaryOperator_BitOr", "core/RemoveDecorator", "core/NoOp")


def tests_of(module: str) -> tuple[str, ...]:
    """Return the files that test a module."""
    if module in TESTS:
        return TESTS[module]
    stem = Path(module).stem
    own = f"tests/solvers/test_{stem}.py"
    tests = (*OF_SOLVERS, *(OF_DENSITIES if stem in ("action_ratio", "marginal", "grid") else ()))
    return tests if own in tests or not (ROOT / own).exists() else (own, *tests)


def changes(module: str, most: int, seed: int) -> list[Any]:
    """Return what to change: one mutation for each of `most` places."""
    # Cosmic Ray is not among what is installed for types to be checked.
    all_items = importlib.import_module("cosmic_ray.commands.init")._all_work_items
    places: dict[Any, list[Any]] = {}
    for item in all_items([Path(module)], {}):
        mutation = item.mutations[0]
        if not mutation.operator_name.startswith(LEFT_OUT):
            places.setdefault((mutation.start_pos, mutation.end_pos), []).append(mutation)
    draw = random.Random(seed)
    chosen = sorted(draw.sample(sorted(places), min(most, len(places))))
    return [draw.choice(places[place]) for place in chosen]


def main() -> None:
    """Run it."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("modules", nargs="+")
    asked.add_argument("--most", type=int, default=60)
    asked.add_argument("--seed", type=int, default=0)
    options = asked.parse_args()
    mutating = importlib.import_module("cosmic_ray.mutating")
    survived = total = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        copy.mkdir()
        for name in ("genpo_jax", "experiments", "benchmarks", "tests", "examples", "pyproject.toml"):
            there = ROOT / name
            shutil.copytree(there, copy / name) if there.is_dir() else shutil.copy(there, copy)
        os.chdir(copy)
        os.environ["PYTHONPATH"] = os.pathsep.join([str(copy), os.environ.get("PYTHONPATH", "")])
        for module in options.modules:
            command = f"{sys.executable} -m pytest -x -q -n 0 -p no:cacheprovider {' '.join(tests_of(module))}"
            unchanged = importlib.import_module("cosmic_ray.testing").run_tests(command, MOST_SECONDS)
            if unchanged[0].value != "survived":
                sys.exit(f"the tests of {module} fail on the code as it is:\n{unchanged[1][-2000:]}")
            seen = []
            for mutation in changes(module, options.most, options.seed):
                result = mutating.mutate_and_test([mutation], command, MOST_SECONDS)
                seen.append(result.is_killed)
                if not result.is_killed:
                    print(f"{module}:{mutation.start_pos[0]} {mutation.operator_name}\n{result.diff}", flush=True)
            print(f"{module}: {sum(seen)} of {len(seen)} changes seen", flush=True)
            survived, total = survived + seen.count(False), total + len(seen)
    print(f"{total - survived} of {total} changes seen")


if __name__ == "__main__":
    main()
