"""Measure env steps per second of the training program and of its parts.

    python -m benchmarks.steps_per_second --env ant --num-envs 256 --methods genpo++ gaussian

`env` steps the environments with given actions, `rollout` collects with the policy, `update` is all epochs of
minibatches on one batch, `full` is the training program. All parts run in turn in one process.
"""

from dataclasses import dataclass

from benchmarks.programs import Options, Part, Programs
from benchmarks.timing import Contender, interleave, rates, ratios, report, spread
from experiments.program import run_program


@dataclass(frozen=True)
class StepsOptions(Options):
    """Options of the benchmark."""

    methods: tuple[str, ...] = ("genpo++", "gaussian")
    """Methods."""
    parts: tuple[Part, ...] = ("env", "rollout", "update", "full")
    """Parts of the training program."""


def measure(options: StepsOptions) -> dict[tuple[str, Part], Contender]:
    """Time the parts of all methods, interleaved; `env` does not depend on the method and is timed once."""
    env = options.make_env()
    contenders: dict[tuple[str, Part], Contender] = {}
    for method in options.methods:
        programs = Programs(env, options.config(method))
        for part in options.parts:
            if part != "env":
                contenders[method, part] = programs.make(part)
            elif ("any", part) not in contenders:
                contenders["any", part] = programs.make(part)
    interleave(contenders, options.rounds, options.sample_seconds)
    return contenders


def main(options: StepsOptions) -> None:
    """Measure, print one table, and write JSON if requested."""
    contenders = measure(options)
    bare = contenders.get(("any", "env"))
    rows = [
        {
            "method": method,
            "part": part,
            "steps_per_second": rates(options.steps, contender.samples),
            "ms_per_update": spread([1e3 * sample for sample in contender.samples]),
            "time_over_env": ratios(contender.samples, bare.samples) if bare else None,
            "compile_s": contender.compile_seconds,
        }
        for (method, part), contender in contenders.items()
    ]
    report(options.title, options, rows)


if __name__ == "__main__":
    run_program(StepsOptions, main, __doc__)
