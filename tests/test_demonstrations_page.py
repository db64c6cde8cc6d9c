import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_every_command_of_the_page_runs_one_after_another(tmp_path):
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / "demonstrations.md").read_text(), flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    names = ("collect", "pretrain", "fidelity", "finetune")
    # Later blocks need data of the reader's own.
    commands = [next(line for line in lines if line.startswith(f"genpo-jax {name} ")) for name in names]
    for line in commands:
        done = subprocess.run(
            [sys.executable, "-m", "genpo_jax", *shlex.split(line)[1:]],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"},
        )
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "tuned" / "finetuned.json").exists()
