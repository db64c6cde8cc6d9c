import re
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_snippet_that_embeds_the_solver_runs():
    snippets = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert snippets
    for snippet in snippets:
        exec(compile(snippet, "README.md", "exec"), {})


def test_the_pictures_and_pages_it_shows_exist():
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert links
    for link in links:
        assert (Path(__file__).parents[1] / link).exists(), link


def test_ci_runs_the_test_command_to_the_letter():
    command = next(line for line in README.splitlines() if line.endswith(".venv/bin/pytest"))
    script = (Path(__file__).parents[1] / ".ci" / "run").read_text()
    assert command in script.splitlines()


def test_the_table_of_options_names_real_options():
    from genpo_jax.cli import parse_train

    options = re.findall(r"`(--[a-z-]+)`", README.split("## Options")[1].split("## Embed")[0])
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
