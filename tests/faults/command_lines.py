"""Run hundreds of generated command lines of all programs; each must be accepted or end with one sentence.

    python -m tests.faults.command_lines --lines 300

Each line runs for some seconds in a process that is forked after all imports. A line that still runs at the end counts
as accepted. Prints the lines that ended with a traceback, a signal or several sentences, and exits with 1 if there are
any.
"""

import argparse
import dataclasses
import importlib
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from experiments.program import run_program
from genpo_jax import cli
from genpo_jax.config import Config, EnvConfig, PPOConfig
from genpo_jax.methods import METHODS, NetworksConfig
from tests.test_programs import PROGRAMS

NUMBERS = ["-1", "0", "1e30", "1e-40", "nan", "inf", "-inf", "9" * 30, "2147483648", "", "x", "1.5", "None", "0x10"]
PATHS = ["/dev/null/x", "/proc/x", "/sys/x", "", "a[b]", "back\\slash", "y" * 300, "/dev/full"]
TEXTS = [
    "bogus",
    "",
    "-",
    "--",
    "ring:",
    ":",
    "os:system",
    "no.such:thing",
    "genpo++:nothing=1",
    "gaussian:clip_range=x",
    "é",
]
QUICK = ["--num-timesteps", "64", "--num-envs", "8", "--unroll", "8", "--num-evals", "0", "--updates-per-chunk", "1"]
SECONDS = 8.0
# Exit codes: our own errors take one line; those of tyro are printed in a box.
REFUSED, BOXED = 1, 2


def programs() -> dict[str, tuple[list[type], Callable[[list[str]], None]]]:
    """Return, for every program, the classes of its options and a function that runs it on a command line."""
    parts = [Config, EnvConfig, PPOConfig, NetworksConfig, cli.HostsConfig, cli.TrainOptions, *METHODS.values()]
    runners: dict[str, Any] = {"train": (parts, lambda line: cli.main(["train", "--env", "ring", *QUICK, *line]))}
    for name, options in PROGRAMS.items():
        module = importlib.import_module(name)
        run = getattr(module, "study", None) or module.main

        def call(line: list[str], module: Any = module, options: str = options, run: Any = run) -> None:
            sys.argv = ["program", *line]
            run_program(getattr(module, options), run, None)

        runners[name] = ([getattr(module, options)], call)
    return runners


def lines(count: int, seed: int, classes: dict[str, list[type]]) -> Iterator[tuple[str, list[str]]]:
    """Generate bad values of known options, unknown options, and options without a value."""
    choose = random.Random(seed)
    for i in range(count):
        program = list(classes)[i % len(classes)] if i % 3 else "train"
        field = choose.choice([f for cls in classes[program] for f in dataclasses.fields(cls)])
        option = "--" + field.name.replace("_", "-")
        kind = str(field.type)
        values = PATHS if "Path" in kind or field.name == "run_dir" else TEXTS if "str" in kind else NUMBERS
        extra = choose.choice(["value", "value", "value", "value", "value", "list", "unknown", "none"])
        if extra == "unknown":
            yield program, [option + "x", "1"]
        elif extra == "none":
            yield program, [option]
        elif extra == "list":
            yield program, [option, *choose.sample(NUMBERS + TEXTS, 2)]
        else:
            yield program, [option, choose.choice(values)]


def run(call: Callable[[list[str]], None], line: list[str], folder: Path) -> tuple[int | None, float, str]:
    """Run one line in a child process; return its exit code (None: still running), its seconds and its output."""
    output = folder / "output"
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        code = 1
        # A process group, so that its own children can be killed with it.
        os.setsid()
        try:
            os.chdir(folder)
            opened = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(opened, 1)
            os.dup2(opened, 2)
            call(line)
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
        except BaseException:
            import traceback

            traceback.print_exc()
            code = 3
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    while time.monotonic() < start + SECONDS:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
            return code, time.monotonic() - start, output.read_text(errors="replace") if output.exists() else ""
        time.sleep(0.01)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None, SECONDS, output.read_text(errors="replace") if output.exists() else ""


def main() -> None:
    """Run the campaign."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    runners, failures, durations, accepted = programs(), [], [], 0
    for program, line in lines(options.lines, options.seed, {name: classes for name, (classes, _) in runners.items()}):
        with tempfile.TemporaryDirectory() as folder:
            code, seconds, printed = run(runners[program][1], line, Path(folder))
        shown = f"{program} {' '.join(map(repr, line))}"
        if code in (0, None):
            accepted += 1
            print(f"accepted: {shown}", flush=True)
        elif code in (REFUSED, BOXED) and "Traceback" not in printed:
            durations.append(seconds)
            errors = [text for text in printed.splitlines() if text.startswith("error: ")]
            if code == REFUSED and len(errors) != 1:
                failures.append(f"{shown}: {printed[-300:]!r}")
        else:
            failures.append(f"{shown}: exit code {code}: {printed[-600:]}")
    print(
        f"{options.lines} lines of {len(runners)} programs: {len(durations)} refused in "
        f"{statistics.median(durations):.2f} s (median, without imports), {accepted} accepted, {len(failures)} failed"
    )
    print("\n".join(failures))
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
