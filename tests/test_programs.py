"""Studies and benchmarks accept their default options and refuse invalid options with one sentence."""

import dataclasses
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from experiments.program import check_options, keep_options, run_program
from genpo_jax import cli
from genpo_jax.cli import run_command
from genpo_jax.commands import COMMANDS
from genpo_jax.config import Config

ROOT = Path(__file__).parents[1]
PROGRAMS = {
    **{f"experiments.{name}": "Options" for name in ("compare", "ablation", "ratio_study", "multimodality")},
    **{f"benchmarks.{name}": "Config" for name in ("env_overhead", "brax_ppo")},
    "benchmarks.__main__": "ShortOptions",
    "benchmarks.accelerator.__main__": "AcceleratorOptions",
    "benchmarks.against_brax": "AgainstOptions",
    "benchmarks.cost_of_exactness": "CostOptions",
    "benchmarks.engines": "EngineOptions",
    "benchmarks.names": "NameOptions",
    "benchmarks.scaling": "ScalingOptions",
    "benchmarks.seeds": "SeedsOptions",
    "benchmarks.solver_cost": "SolverCostOptions",
    "benchmarks.solver_sigma": "SolverSigmaOptions",
    "benchmarks.startup": "StartupOptions",
    "benchmarks.steady": "SteadyOptions",
    "benchmarks.steps_per_second": "StepsOptions",
}
# An invalid value of each option, and the message. Each program is tested with the options that it has.
BAD = {
    "env": ("hoper", "did you mean 'hopper'"),
    "envs": (("hoper",), "did you mean 'hopper'"),
    "method": ("ppo", "method must be one of"),
    "methods": (("ppo",), "method must be one of"),
    "num_seeds": (0, "num_seeds must be in"),
    "num_timesteps": (-1, "num_timesteps must be in"),
    "num_envs": (0, "num_envs must be in"),
    "rounds": (0, "rounds must be in"),
    "repeats": (0, "repeats must be in"),
    "batch": (-3, "batch must be in"),
    "step_counts": ((3, 0), "step_counts must be in"),
    "env_counts": ((2**40,), "env_counts must be in"),
    "orders": ((), "orders must be a list of at least one"),
    "sigmas": ((float("nan"),), "sigmas must be"),
    "sample_seconds": (float("inf"), "sample_seconds must be"),
    "seeds": ((-1,), "seeds must be in"),
    "chunks": (10**30, "chunks must be in"),
    "json": (Path("/dev/null/result.json"), "cannot be written, because /dev/null is a file"),
    "out": (Path("/dev/null/folder"), "cannot be written, because /dev/null is a file"),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_accepts_its_defaults_and_refuses_invalid_options(program, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    options_class = getattr(importlib.import_module(program), PROGRAMS[program])
    check_options(options_class())
    tried = [name for name in BAD if name in {field.name for field in dataclasses.fields(options_class)}]
    assert tried
    for name in tried:
        value, message = BAD[name]
        with pytest.raises(ValueError, match=message):
            check_options(dataclasses.replace(options_class(), **{name: value}))


@pytest.mark.parametrize(
    ("study", "changed", "message"),
    [
        ("multimodality", {"base": ("learned-scale", "bogus")}, "base must be one of .* got 'bogus'"),
        ("compare", {"envs": ("ring",), "methods": ("gaussian", "gaussian:num_minibatches=7")}, "num_minibatches"),
        ("ablation", {"envs": ("ring",), "method": "gaussian:num_minibatches=7"}, "num_minibatches"),
    ],
)
def test_a_study_with_one_invalid_run_trains_nothing(study, changed, message, monkeypatch, tmp_path):
    module = importlib.import_module(f"experiments.{study}")
    monkeypatch.setattr(module, "train", lambda *_: pytest.fail("something was trained"))
    with pytest.raises(ValueError, match=message):
        module.study(dataclasses.replace(module.Options(), out=tmp_path, **changed))


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of a test program."""

    num_seeds: int = 1
    """Seeds."""
    json: Path | None = None
    """Result."""


def test_a_file_is_refused_as_an_output_folder(tmp_path):
    from experiments.compare import Options as CompareOptions

    (tmp_path / "file").touch()
    for path in (tmp_path / "file", Path("/dev/full")):
        with pytest.raises(ValueError, match=f"out must be a folder, got '?{path}"):
            check_options(CompareOptions(out=path))
    check_options(CompareOptions(out=tmp_path))
    check_options(CompareOptions(out=tmp_path / "new"))


def test_a_folder_is_refused_as_an_output_file(tmp_path):
    from experiments.avoid_paths import Options as PathsOptions

    options = PathsOptions((tmp_path,))
    with pytest.raises(ValueError, match="file must be a file, got .*name a file in it"):
        check_options(dataclasses.replace(options, file=tmp_path))
    (tmp_path / "paths.png").touch()
    check_options(dataclasses.replace(options, file=tmp_path / "paths.png"))


def test_the_folder_of_an_output_file_is_made_before_anything_is_computed(tmp_path):
    check_options(dataclasses.replace(Options(), json=tmp_path / "new" / "folder" / "result.json"))
    assert (tmp_path / "new" / "folder").is_dir()


def test_zero_is_a_seed_and_a_step():
    from genpo_jax.commands.deploy import DeployOptions
    from genpo_jax.commands.eval import EvalOptions

    check_options(EvalOptions(Path("run"), start_seed=0, step=0))
    check_options(DeployOptions(Path("folder"), noise_seed=0))


def test_other_options_of_a_study_are_refused_where_its_results_would_be_mixed(tmp_path):
    keep_options(tmp_path, Options(num_seeds=2), free=("json",))
    keep_options(tmp_path, Options(num_seeds=2, json=tmp_path / "file"), free=("json",))
    with pytest.raises(ValueError, match="must be options num_seeds=2, those of its results, got .3.; choose another"):
        keep_options(tmp_path, Options(num_seeds=3), free=("json",))


def test_settings_of_a_file_are_not_trained_on_the_default_task(monkeypatch):
    from experiments import manipulation

    named = []
    monkeypatch.setattr(manipulation, "train", lambda arguments, prog: named.append(arguments) or stop())
    for given in (["--config", "runs/unscrew"], ["--seed", "1"]):
        with pytest.raises(StopIteration):
            manipulation.manipulation(given, "program")
    assert named == [["--config", "runs/unscrew"], ["--env", "panda_push", "--seed", "1"]]


def stop():
    raise StopIteration


def fail_with(error):
    def program(_):
        raise error

    return program


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ValueError("num_seeds must be even"), "error: --num-seeds must be even"),
        (OSError(28, "No space left on device", "a/b"), "error: [Errno 28] No space left on device: 'a/b'"),
        (RuntimeError("\nINTERNAL: first\nsecond"), "error: RuntimeError: INTERNAL: first"),
        (OverflowError("too large"), "error: OverflowError: too large"),
        (ZeroDivisionError("by zero"), "error: ZeroDivisionError: by zero"),
        (MemoryError(), "error: out of memory (no message); reduce --num-envs, --num-seeds or unroll"),
        (RuntimeError("RESOURCE_EXHAUSTED: x"), "error: out of memory (RESOURCE_EXHAUSTED: x); reduce"),
        (subprocess.CalledProcessError(3, ["a"]), "error: CalledProcessError: Command '['a']' returned non-zero"),
        (
            ModuleNotFoundError("no brax", name="brax"),
            "error: brax is not installed; in your clone of genpo_jax: pip install -e '.[train]'",
        ),
    ],
)
def test_an_error_that_a_user_can_cause_is_one_sentence(monkeypatch, error, sentence):
    monkeypatch.setattr("sys.argv", ["program"])
    with pytest.raises(SystemExit) as refusal:
        run_program(Options, fail_with(error), None)
    assert str(refusal.value.code).startswith(sentence)
    assert "\n" not in str(refusal.value.code)


def test_an_error_in_the_users_own_code_names_file_line_and_function(monkeypatch):
    monkeypatch.setattr("sys.argv", ["program"])
    program = fail_with(TypeError("shapes differ"))
    with pytest.raises(SystemExit) as refusal:
        run_program(Options, program, None)
    line = program.__code__.co_firstlineno + 1
    assert str(refusal.value.code) == (
        f"error: TypeError: shapes differ (raised in test_programs.py, line {line}, in program; "
        "python -X dev shows the traceback)"
    )


def test_a_platform_that_jax_does_not_have_is_one_sentence(tmp_path):
    words = [sys.executable, "-m", "genpo_jax", "train", "--env", "multigoal", "--run-dir", str(tmp_path / "run")]
    end = subprocess.run(words, env=os.environ | {"JAX_PLATFORMS": "rocm"}, capture_output=True, text=True)
    phase, message = end.stderr.splitlines()
    assert (end.returncode, phase) == (1, "loading jax ...")
    assert message.startswith("error: jax finds no device of JAX_PLATFORMS='rocm': unset it, or install jax")


def code(module, path, text):
    """Return the function `f` of a module with this name and file."""
    path.write_text(text)
    space: dict[str, Any] = {"__name__": module}
    exec(compile(text, path, "exec"), space)
    return space["f"]


def test_a_mistake_in_the_users_own_code_is_one_line_with_its_place(tmp_path):
    step = code("mine", tmp_path / "mine.py", "def f(state):\n    return state['speed']")
    with pytest.raises(SystemExit) as end:
        run_command(lambda *_: step({}), [], "program")
    place = "raised in mine.py, line 2, in f; python -X dev shows the traceback"
    assert end.value.code == f"error: KeyError: 'speed' ({place})"


def test_a_bug_of_the_package_keeps_its_traceback(tmp_path):
    ours = code("genpo_jax.actor", tmp_path / "actor.py", "def f():\n    return {}['no such name']")
    with pytest.raises(KeyError, match="no such name"):
        run_command(lambda *_: ours(), [], "program")
    users = code("mine", tmp_path / "mine.py", "def f(call):\n    return call()")
    with pytest.raises(KeyError, match="no such name"):
        run_command(lambda *_: users(ours), [], "program")


def test_an_interruption_shows_no_traceback():
    def interrupted(*_):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        run_command(interrupted, [], "program")
    assert end.value.code == cli.INTERRUPTED


INTERRUPTED_IMPORT = """
import signal, sys
from genpo_jax.interrupts import exit_if_an_import_is_interrupted
signal.signal(signal.SIGINT, signal.default_int_handler)
exit_if_an_import_is_interrupted()
try:
    if sys.argv[1] == "during an import":
        import interrupts_itself
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("raised")
"""


def test_an_interrupt_of_an_import_cannot_be_hidden_and_others_are_raised(tmp_path):
    (tmp_path / "interrupts_itself.py").write_text(
        "import signal\ntry:\n    signal.raise_signal(signal.SIGINT)\nexcept KeyboardInterrupt:\n    pass\n"
    )
    during, later = (
        subprocess.run(
            [sys.executable, "-c", INTERRUPTED_IMPORT, when],
            check=False,
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
        )
        for when in ("during an import", "later")
    )
    assert (during.returncode, during.stdout + during.stderr) == (cli.INTERRUPTED, "")
    assert later.stdout == "raised\n"


REFUSED = [
    (["--run-dir", "/dev/null/run"], "/dev/null/run cannot be written, because /dev/null is a file"),
    (["--run-dir", "/proc/run"], "cannot be written"),
    (["--run-dir", "x" * 300], "--run-dir must be a path"),
    (["--run-dir", "runs/[a]"], "the path of a run must not contain '['"),
    (["--coordinator", "10.0.0.1:99999", "--num-processes", "2", "--process-id", "0"], "port from 1 to 65535"),
    (["--coordinator", "10.0.0.1:1", "--num-processes", "2", "--process-id", "0", "--host-timeout", "0"], "in [1,"),
    (["--num-envs", "16777216", "--unroll", "1048576"], "num_envs * unroll must be at most 2147483647"),
]


def test_training_refuses_invalid_options_before_it_imports_physics():
    # One process, because each imports jax.
    code = (
        "import contextlib, io, json, sys\n"
        "for name in ('brax', 'mujoco', 'orbax'): sys.modules[name] = None\n"
        "from genpo_jax.cli import main\n"
        "for options in json.loads(sys.argv[1]):\n"
        "    with contextlib.redirect_stderr(io.StringIO()) as errors:\n"
        "        try: main(['train', '--env', 'fast', *options]); code = 0\n"
        "        except SystemExit as end: code = end.code\n"
        "    print(json.dumps([code, errors.getvalue()]))\n"
    )
    options = json.dumps([each for each, _ in REFUSED])
    done = subprocess.run([sys.executable, "-c", code, options], capture_output=True, text=True, cwd=ROOT)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    for (each, message), (code, errors) in zip(REFUSED, lines, strict=True):
        text = " ".join(f"{errors} {code}".replace("│", " ").split())
        assert code and message in text, (each, text, done.stderr)
        assert "Traceback" not in text


def test_sizes_beyond_32_bits_are_refused():
    with pytest.raises(ValueError, match=r"num_timesteps must be at most 2147483647 updates"):
        Config(num_timesteps=10**15)


def test_a_measurement_is_written_without_git(monkeypatch, tmp_path):
    from benchmarks.steps_per_second import StepsOptions
    from benchmarks.timing import report

    monkeypatch.setenv("PATH", "")
    report("title", StepsOptions(json=tmp_path / "a.json"), [{"method": "gaussian", "ms": 1.0}])
    assert json.loads((tmp_path / "a.json").read_text())["machine"]["commit"] == "unknown"


@pytest.mark.parametrize(("command", "option"), [("report", "players"), ("pretrain", "episodes")])
def test_zero_disables_what_the_help_says_it_disables(command, option):
    options = COMMANDS[command].options
    given = {"runs": (Path("run"),)} if command == "report" else {"run_dir": Path("run")}
    check_options(options(**given, **{option: 0}))
    with pytest.raises(ValueError, match=rf"{option} must be in \[0, "):
        check_options(options(**given, **{option: -1}))


@pytest.mark.parametrize("command", ["eval", "play", "export"])
def test_the_first_seed_and_the_first_checkpoint_can_be_chosen(command):
    check_options(COMMANDS[command].options(run=Path("run"), seed=0, step=0))
