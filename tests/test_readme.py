import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()


ROOT = Path(__file__).parents[1]


def snippets(page):
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)


def test_the_snippet_that_embeds_the_solver_runs():
    (snippet,) = (code for code in snippets("README.md") if "genpo_jax.solvers" in code)
    exec(compile(snippet, "README.md", "exec"), {})


@pytest.mark.ci
@pytest.mark.parametrize("page", ["README.md", "docs/start.md", "docs/extend.md"])
def test_what_a_page_says_to_do_in_python_runs_from_top_to_bottom(page, tmp_path):
    code = "\n".join(code for code in snippets(page) if "genpo_jax.solvers" not in code)
    assert "genpo_jax.train(" in code
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "runs").iterdir())) == code.count("genpo_jax.train(")


@pytest.mark.parametrize("page", [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md"))], ids=str)
def test_the_pictures_and_pages_that_a_page_shows_exist(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    links = re.findall(r"\]\((?!http)([^)#]+)(?:#[^)]*)?\)", text)
    for link in links:
        assert (page.parent / link).exists(), link


def test_the_site_lists_every_page():
    listed = re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text())
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in ROOT.glob("docs/**/*.md")}
    assert pages <= set(listed) and len(listed) == len(set(listed))


@pytest.mark.ci
def test_the_table_of_presets_for_accelerators_is_that_of_the_present_presets():
    pytest.importorskip("mujoco_playground")
    from genpo_jax.commands.envs import preset_table

    page = (ROOT / "docs" / "accelerator.md").read_text(encoding="utf-8")
    assert preset_table() in page, "put the output of genpo-jax envs --presets there"


def test_there_are_pages_with_links():
    assert len(re.findall(r"\]\(docs/", README)) >= 5


def test_ci_runs_the_test_command_to_the_letter():
    command = next(line for line in README.splitlines() if line.endswith(".venv/bin/pytest"))
    script = (Path(__file__).parents[1] / ".ci" / "run").read_text()
    assert command in script.splitlines()


def test_the_table_of_options_names_real_options():
    from genpo_jax.cli import parse_train

    options = re.findall(r"`(--[a-z-]+)`", README.split("## Options")[1].split("## Compare")[0])
    assert {"--env", "--backend", "--method", "--seed", "--num-timesteps", "--num-envs", "--run-dir", "--resume"} <= {
        *options
    }
    import contextlib
    import io

    text = io.StringIO()
    for method in ("genpo++", "genpo"):
        with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
            parse_train(["--method", method, "--help"])
    for option in set(options):
        assert option in text.getvalue(), option
