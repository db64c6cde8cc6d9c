"""Measure the cost of an exact ratio: flow policies against the Gaussian, under equal conditions.

    python -m benchmarks.cost_of_exactness --env humanoid --backend spring --num-envs 256

`full` is the training program, `update` all epochs of minibatches, `gradient` the derivative of mean(ratio * advantage)
on one minibatch. `concat` and `genpo-concat` are GenPO++ and GenPO with the published velocity field, which evaluates
the whole network at every solver step.
"""

from dataclasses import dataclass
from typing import Any

from benchmarks.programs import Options, Part, Programs
from benchmarks.timing import Contender, interleave, ratios, report, spread
from experiments.program import run_program

PARTS: tuple[Part, ...] = ("full", "update", "gradient")
BASELINE = "gaussian"
METHODS: dict[str, dict[str, Any]] = {
    "gaussian": {"method": "gaussian"},
    "genpo++": {"method": "genpo++"},
    "genpo++-2": {"method": "genpo++", "num_histories": 2},
    "genpo++-4": {"method": "genpo++", "num_histories": 4},
    "genpo": {"method": "genpo"},
    "concat": {"method": "genpo++", "network": "concat"},
    "genpo-concat": {"method": "genpo", "network": "concat"},
}


@dataclass(frozen=True)
class CostOptions(Options):
    """Options of the benchmark."""

    methods: tuple[str, ...] = tuple(METHODS)
    """gaussian, genpo++, genpo++-2 and genpo++-4 (2 and 4 histories in the ratio), genpo, concat, genpo-concat."""


def measure(options: CostOptions) -> dict[tuple[str, Part], Contender]:
    """Time the parts of all methods, interleaved."""
    env = options.make_env()
    contenders: dict[tuple[str, Part], Contender] = {}
    for name in options.methods:
        programs = Programs(env, options.config(**METHODS[name]))
        contenders |= {(name, part): programs.make(part) for part in PARTS}
    interleave(contenders, options.rounds, options.sample_seconds)
    return contenders


def summarize(options: CostOptions, contenders: dict[tuple[str, Part], Contender]) -> list[dict[str, Any]]:
    """Return a row per part and method, with its time over the Gaussian's and over GenPO's with the same network."""

    def over(name: str, part: Part) -> Any:
        base = contenders.get((name, part))
        return base and ratios(contender.samples, base.samples)

    rows = []
    for (name, part), contender in sorted(contenders.items(), key=lambda item: PARTS.index(item[0][1])):
        row = {
            "part": part,
            "method": name,
            "ms": spread([1e3 * sample for sample in contender.samples]),
            "us_per_env_step": spread([1e6 * sample / options.steps for sample in contender.samples]),
            "over_gaussian": over(BASELINE, part),
            "over_genpo": over("genpo-concat" if "network" in METHODS[name] else "genpo", part),
            "compile_s": contender.compile_seconds,
        }
        rows.append(row)
    return rows


def main(options: CostOptions) -> None:
    """Measure, print one table, and write JSON if requested."""
    if unknown := sorted(set(options.methods) - set(METHODS)):
        raise ValueError(f"unknown methods {', '.join(unknown)}; choose from {', '.join(METHODS)}")
    report(options.title, options, summarize(options, measure(options)))


if __name__ == "__main__":
    run_program(CostOptions, main, __doc__)
