"""The code on docs/solvers.md runs, and the page shows figures that exist."""

import importlib.util
import re
from pathlib import Path

import jax
import pytest

pytestmark = pytest.mark.ci

PAGE = Path(__file__).parents[2] / "docs" / "solvers.md"
IMPORTS, *BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
OPTIONAL = ("equinox", "haiku")


def test_the_page_has_an_example_for_every_library_it_names():
    code = "".join(BLOCKS)
    for library in ("from flax import nnx", "import flax.linen", "import equinox", "import haiku"):
        assert library in code


@pytest.mark.parametrize("block", BLOCKS, ids=[str(i) for i in range(len(BLOCKS))])
def test_the_examples_on_the_page_run(block):
    for library in OPTIONAL:
        if f"import {library}" in block and importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed")
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        exec(compile(IMPORTS + block, str(PAGE), "exec"), {"__name__": "page"})


def test_every_figure_of_the_page_is_checked_in():
    names = re.findall(r"\]\((figures/[a-z_]+\.png)\)", PAGE.read_text())
    assert len(names) >= 6
    for name in names:
        assert (PAGE.parent / name).stat().st_size > 5000
