"""The script that completes the command line, in a real bash."""

import shutil
import subprocess

import pytest

from genpo_jax.completion import completion_script

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("completion") / "genpo-jax.sh"
    path.write_text(completion_script())
    return path


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (["rep"], ["report"]),
        (["train", "--env", "hop"], ["hopper"]),
        (["train", "--method", "fpo+"], ["fpo++"]),
        (["train", "--num-e"], ["--num-evals", "--num-envs", "--num-epochs"]),
        (["train", "--no-normalize-r"], ["--no-normalize-rewards"]),
        (["eval", "runs/x", "--checkpoint", ""], ["newest", "best"]),
        (["finetune", "--fro"], ["--from"]),
        (["distill", "--obs-n"], ["--obs-noise"]),
        (["finetune", "--nam"], []),
        (["eval", "--out", "x"], []),
    ],
)
def test_commands_options_and_values_are_completed(script, words, completed):
    code = (
        'source "$1"; shift; COMP_WORDS=(genpo-jax "$@"); COMP_CWORD=$#; _genpo_jax; '
        'for word in "${COMPREPLY[@]}"; do echo "$word"; done'
    )
    done = subprocess.run(["bash", "-c", code, "bash", script, *words], capture_output=True, text=True, check=True)
    assert done.stdout.split() == completed and not done.stderr
