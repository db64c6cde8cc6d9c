"""Importing the solvers loads only jax and numpy."""

import json
import subprocess
import sys


def test_importing_the_solvers_loads_no_robotics_or_network_library():
    code = (
        "import jax, json, sys; before = set(sys.modules); import genpo_jax.solvers;"
        "print(json.dumps(sorted({name.split('.')[0] for name in set(sys.modules) - before})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert "genpo_jax" in loaded
    assert not loaded & {"flax", "brax", "mujoco", "orbax", "optax", "chex", "scipy", "matplotlib"}
