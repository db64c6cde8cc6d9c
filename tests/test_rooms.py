"""Imports point down: no circle between files, and none from a room to a room above it."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From the ground floor up; rooms on one floor do not import each other.
FLOORS = (
    ("version", "checks", "shapes", "intervals", "runtime"),
    ("solvers", "interrupts"),
    ("methods",),
    ("config",),
    ("envs",),
    ("presets",),
    ("policies", "normalizer"),
    ("policy",),
    ("training",),
    ("data",),
    ("runs",),
    ("imitation", "viewing"),
    ("export", "reporting", "gymnasium_adapter"),
    ("commands",),
    ("completion",),
    ("cli",),
    ("__main__", "genpo_jax"),
    ("experiments",),
    ("benchmarks", "examples"),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


@cache
def modules():
    """Return the files of all rooms by the name of their module."""
    names = {}
    for package in ("genpo_jax", "experiments", "benchmarks", "examples"):
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def imported(module):
    """Return the modules of this project that a file imports, now or later, also in its functions and for its types."""
    found = set()
    for node in ast.walk(ast.parse(modules()[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {max((m for m in modules() if f"{name}.".startswith(f"{m}.")), key=len, default="") for name in found} - {
        "",
        module,
    }


def room_of(module):
    package, _, rest = module.partition(".")
    return (rest or package).partition(".")[0] if package == "genpo_jax" else package


# These import their public names on first use.
FRONT_DOORS = {"genpo_jax", "genpo_jax.envs"}


@pytest.mark.parametrize("module", sorted(set(modules()) - FRONT_DOORS))
def test_every_import_of_a_file_points_to_its_own_room_or_a_room_below(module):
    room = room_of(module)
    assert "genpo_jax" not in imported(module) or not module.startswith("genpo_jax"), f"{module} imports the package"
    for other in imported(module) - FRONT_DOORS:
        above = FLOOR_OF[room_of(other)] >= FLOOR_OF[room]
        assert room_of(other) == room or not above, f"{module} imports {other}, which is above it or beside it"


def test_no_files_import_each_other_in_a_circle():
    edges = {module: imported(module) - FRONT_DOORS for module in set(modules()) - FRONT_DOORS}
    while leaves := {module for module, others in edges.items() if not others & edges.keys()}:
        edges = {module: others for module, others in edges.items() if module not in leaves}
    assert not edges, f"circles among {sorted(edges)}"


def test_every_room_has_a_floor():
    assert {room_of(module) for module in modules()} == set(FLOOR_OF)
