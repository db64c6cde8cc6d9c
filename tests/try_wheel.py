"""Test a wheel in an environment without other packages: `python try_wheel.py WHEEL README`. Run by .ci/run."""

import importlib.util
import re
import sys
import zipfile
from pathlib import Path


def main(wheel: str, readme: str) -> None:
    """Check the wheel's files, run the README's example of a solver, and check the error for a missing package."""
    top = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in top if not name.endswith(".dist-info")} == {"genpo_jax"}, top
    assert "genpo_jax/py.typed" in zipfile.ZipFile(wheel).namelist()
    present = [name for name in ("flax", "brax", "mujoco", "optax", "orbax", "tyro") if importlib.util.find_spec(name)]
    assert not present, present
    snippets = re.findall(r"```python\n(.*?)```", Path(readme).read_text(), flags=re.DOTALL)
    (snippet,) = (code for code in snippets if "genpo_jax.solvers" in code)
    exec(compile(snippet, readme, "exec"), {})
    import genpo_jax

    try:
        genpo_jax.train("fast")
    except ModuleNotFoundError as error:
        assert "pip install -e '.[train]'" in str(error), error
    else:
        raise AssertionError("training needs packages that are not installed")
    print(f"the wheel of {genpo_jax.__version__} embeds the solver")


if __name__ == "__main__":
    main(*sys.argv[1:])
