"""Train a manipulation policy, and say how often it succeeds: `python -m experiments.manipulation --env panda_push`.

Options are those of `genpo-jax train`. At the end 1000 episodes are played with zero and with random noise; fewer of a
task that says nothing of success.
"""

import sys
from collections.abc import Sequence

from genpo_jax.cli import run_command, train

EPISODES = 1000
# Enough for a mean return: episodes of a hand are long.
EPISODES_WITHOUT_SUCCESS = 64


def manipulation(arguments: Sequence[str], prog: str) -> None:
    """Train, and evaluate each seed."""
    named = any(argument.partition("=")[0] in ("--env", "--resume") for argument in arguments)
    run = train([*arguments] if named else ["--env", "panda_push", *arguments], prog)
    from genpo_jax.runs.evaluate import evaluate, table
    from genpo_jax.runs.folder import write_json
    from genpo_jax.runs.hosts import is_writer

    if not is_writer():
        return
    succeeds = any(name.endswith(("/success", "/success_zero")) for name in run.metrics)
    episodes = EPISODES if succeeds else EPISODES_WITHOUT_SUCCESS
    results = []
    for seed in run.config.seeds:
        print(f"playing {episodes} episodes of seed {seed} with each kind of noise ...", flush=True)
        results.append(evaluate(run.run_dir, episodes=episodes, seed=seed))
        print(f"seed {seed}: {table(results[-1])}", flush=True)
    write_json(run.run_dir / "evaluation.json", results)


if __name__ == "__main__":
    run_command(manipulation, sys.argv[1:], "python -m experiments.manipulation")
