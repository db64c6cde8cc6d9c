"""The words of the project: no private dialect, short sentences, every option and backend in the docs."""

import ast
import contextlib
import io
import re
from pathlib import Path

import pytest

from docs import options
from genpo_jax.cli import main
from genpo_jax.commands import COMMANDS
from genpo_jax.envs.names import BRAX_BACKENDS, PLAYGROUND_BACKENDS, TASK_BACKENDS
from genpo_jax.methods import METHODS

ROOT = Path(__file__).parents[1]
ROOMS = ("genpo_jax", "experiments", "benchmarks", "examples")
SOURCES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md"))]
LONGEST_SENTENCE = 25
# The private dialect that was replaced in 0.2: a pattern, and the plain word.
REPLACED = {
    r"\bso many\b": "at most N",
    r"\bgo(?:es|ing)? on\b": "continue, resume",
    r"\bbut for\b": "except",
    r"\bfor ever\b": "always, without end",
    r"\bnobody\b": "no process, no user",
    r"\bof its own\b": "its own",
    r"\bstands? (?:for|at|in|here|there)\b": "is",
    r"\bwatchers?\b": "callback",
    r"\bwhose .{1,30} is that of\b": "two sentences",
    r"\b(?:several|other|many|which|four|two|its|all) ways\b": "modes",
    r"\bways? of (?:the|a) (?:policy|policies|success)\b": "modes",
    r"\bwhat (?:it|that|this) (?:is|says)\b": "name the thing",
    r"\bsays (?:so|what|how|which|whether|that|it)\b": "describes, reports",
    r"\btold\b": "compiler options; reported",
    r"\b(?:policy|policies|that|agent|parameters) (?:at|of) the start\b": "initial policy",
    r"\bof their own\b": "their own",
    r"\bone's own\b": "your own",
    r"\bof ours\b": "of this package",
    r"\bbit for bit\b": "bit-identical",
    r"\bnothing but\b": "only",
    r"\bwhat else\b": "name the thing",
    r"\bwhere there (?:is|are)\b": "if there is",
    r"(?:^|[.:;] )(?-i:Of) ": "begin with the subject",
}


def texts_of(path):
    """Yield the comments and string literals of a source file, or the lines of a page without code, by line number."""
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        fenced = False
        for number, line in enumerate(source.splitlines(), 1):
            fenced ^= line.lstrip().startswith("```")
            if not fenced:
                yield number, re.sub(r"`[^`]*`", "", line)
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
    for number, line in enumerate(source.splitlines(), 1):
        if (comment := re.search(r"(?:^|\s)#\s(.*)", line)) is not None:
            yield number, comment[1]


@pytest.mark.parametrize("path", [*SOURCES, *PAGES], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_text_uses_the_old_dialect(path):
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match[0]!r}; write: {plain}"
        for number, text in texts_of(path)
        for pattern, plain in REPLACED.items()
        if (match := re.search(pattern, text, flags=re.IGNORECASE)) is not None
    ]
    assert not found, "\n".join(found)


def docstrings():
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
                yield f"{path.relative_to(ROOT)}: {getattr(node, 'name', 'module')}", text


def words_of(sentence):
    return len([word for word in sentence.split() if re.search(r"\w", word)])


def test_the_first_line_of_every_docstring_is_short():
    long = [(where, text.splitlines()[0]) for where, text in docstrings()]
    long = [f"{where}: {line}" for where, line in long if words_of(line) > LONGEST_SENTENCE]
    assert not long, "\n".join(long)


def help_of(*arguments):
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        main([*arguments, "--help"])
    return text.getvalue()


def option_helps():
    """Yield the help of every option of every command, read from the dataclasses in which it is written."""
    for path in (*(ROOT / "genpo_jax/commands").glob("*.py"), *(ROOT / "genpo_jax").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ClassDef):
                continue
            for field, text in zip(node.body, node.body[1:], strict=False):
                is_text = isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
                if isinstance(field, ast.AnnAssign) and is_text and isinstance(text.value.value, str):
                    yield f"{path.name}: {node.name}.{field.target.id}", text.value.value


def test_the_help_of_every_option_is_in_short_sentences_that_no_line_break_splits():
    helps = dict(option_helps())
    assert len(helps) > 100
    for where, text in helps.items():
        for sentence in re.split(r"(?<=[.:;])\s|\n- ", text):
            assert words_of(sentence) <= LONGEST_SENTENCE, f"{where}: {sentence}"
        # The command line keeps a break before a line that starts with anything but a letter.
        for line in text.splitlines()[1:]:
            assert re.match(r"\s*(?:[A-Za-z]|- )", line), f"{where}: {line}"


def test_train_help_names_every_family_and_backend_of_environments():
    text = re.sub(r"[\s│]+", " ", help_of("train"))
    for name in ("Brax", "MuJoCo Playground", "panda_push", "push_t", "multigoal", "avoid", "package.module:NAME"):
        assert name in text, name
    backends = text[text.index("--backend") :]
    for backend in {*BRAX_BACKENDS, *PLAYGROUND_BACKENDS, *TASK_BACKENDS}:
        assert re.search(rf"\b{backend}\b", backends[:600]), backend


def test_help_shows_a_run_where_a_run_is_expected():
    for command in ("play", "eval", "report", "export", "fidelity"):
        assert re.search(r"\] RUN\b", help_of(command)), command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--out", "x"], "this command has no option --out; use --run-dir"),
        (["finetune", "--from", "a", "--out=x"], "this command has no option --out; use --run-dir"),
        (["collect", "--out", "x"], "this command has no option --out; use --data"),
        (["sweep", "--run-dir", "x"], "this command has no option --run-dir; use --out"),
        (["eval", "--from", "x"], "this command has no option --from; give RUN without the name of an option"),
    ],
)
def test_the_option_of_another_command_is_answered_with_the_option_of_this_one(arguments, message):
    with pytest.raises(SystemExit) as refusal:
        main(arguments)
    assert refusal.value.code == f"error: {message}"


def test_every_command_method_and_backend_is_in_the_docs():
    docs = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    for name in (*(f"genpo-jax {command}" for command in COMMANDS), *METHODS):
        assert name in docs, name
    for backend in {*BRAX_BACKENDS, *PLAYGROUND_BACKENDS, *TASK_BACKENDS}:
        assert f"`{backend}`" in docs, backend


def test_the_page_of_options_is_that_of_the_present_commands():
    page = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    assert page == "\n".join(options.page()).rstrip() + "\n", "run: python -m docs.options > docs/options.md"
    for command in COMMANDS:
        for option in re.findall(r"(?<![\w-])(--[a-z][a-z-]+)", help_of(command)):
            assert option.startswith("--no-") or option == "--help" or f"`{option}`" in page, (command, option)
