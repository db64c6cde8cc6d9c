"""Train a manipulation policy, and say how often it succeeds: `python -m experiments.manipulation --env panda_push`.

Options are those of `genpo-jax train`. At the end 1000 episodes are played with zero and with random noise.
"""

import sys
from collections.abc import Sequence

from genpo_jax.cli import run_command, train

EPISODES = 1000


def manipulation(arguments: Sequence[str], prog: str) -> None:
    """Train, and evaluate each seed."""
    named = any(argument.partition("=")[0] in ("--env", "--resume") for argument in arguments)
    run = train([*arguments] if named else ["--env", "panda_push", *arguments], prog)
    from genpo_jax.runs.evaluate import evaluate, table
    from genpo_jax.runs.folder import write_json
    from genpo_jax.runs.hosts import is_writer

    if not is_writer():
        return
    results = [evaluate(run.run_dir, episodes=EPISODES, seed=seed) for seed in run.config.seeds]
    for seed, result in zip(run.config.seeds, results, strict=True):
        print(f"seed {seed}: {table(result)}", flush=True)
    write_json(run.run_dir / "evaluation.json", results)


if __name__ == "__main__":
    run_command(manipulation, sys.argv[1:], "python -m experiments.manipulation")
