"""Measure the memory of the training program, as XLA plans it, against `genpo_jax.training.memory.predict`.

    python -m benchmarks.memory --envs ant humanoid --env-counts 64 512 2048

Nothing runs: every program is only compiled. The measured bytes are arguments and temporaries; outputs reuse the
arguments, as the state is donated.
"""

from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.programs import Options
from benchmarks.timing import report
from genpo_jax.cli import run_program
from genpo_jax.config import Config
from genpo_jax.envs import Environment
from genpo_jax.training.memory import predict, state_bytes
from genpo_jax.training.trainer import Trainer


@dataclass(frozen=True)
class MemoryOptions:
    """What to measure: all combinations."""

    envs: tuple[str, ...] = ("ant", "humanoid")
    """Environments."""
    backend: str | None = None
    """Physics backend; None: the environment's default."""
    methods: tuple[str, ...] = ("genpo++", "gaussian")
    """Methods."""
    env_counts: tuple[int, ...] = (64, 512, 2048)
    """Environments side by side."""
    unrolls: tuple[int, ...] = (32,)
    """Steps per rollout."""
    minibatch_counts: tuple[int, ...] = (4, 16)
    """Minibatches per epoch."""
    json: Path | None = None
    """Where to write the result."""


def measure(env: Environment, config: Config) -> dict[str, Any]:
    """Return measured and predicted bytes of one configuration."""
    trainer = Trainer(env, config)
    program = trainer.program.lower(trainer.abstract_state(1), trainer.hyper).compile()
    analysis: Any = program.memory_analysis()
    arguments, temporaries = analysis.argument_size_in_bytes, analysis.temp_size_in_bytes
    fresh = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    measured = arguments + temporaries + fresh
    predicted = predict(config, env.observation_sizes, env.action_size, state_bytes(env))
    num_envs, unroll = config.env_options.num_envs, config.ppo.unroll
    return {
        "argument_mb": arguments / 1e6,
        "output_mb": analysis.output_size_in_bytes / 1e6,
        "temp_mb": temporaries / 1e6,
        "kb_per_env": measured / num_envs / 1e3,
        "kb_per_transition": measured / num_envs / unroll / 1e3,
        "predicted_mb": predicted.total / 1e6,
        "error_percent": 100 * (predicted.total / measured - 1),
    }


def main(options: MemoryOptions) -> None:
    """Measure, print one table, write JSON where asked."""
    rows = []
    for name in options.envs:
        base = Options(env=name, backend=options.backend)
        env = base.make_env()
        combinations = product(options.methods, options.env_counts, options.unrolls, options.minibatch_counts)
        for method, num_envs, unroll, parts in combinations:
            sized = replace(base, num_envs=num_envs, unroll=unroll, num_minibatches=parts)
            settings = {"env": name, "method": method, "num_envs": num_envs, "unroll": unroll, "minibatches": parts}
            rows.append(settings | measure(env, sized.config(method)))
    report("memory of the training program, one seed", options, rows)


if __name__ == "__main__":
    run_program(MemoryOptions, main, __doc__)
