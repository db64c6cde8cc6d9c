"""Train a manipulation policy and measure its success rate: `python -m experiments.manipulation --env panda_push`.

Takes the options of `genpo-jax train`. After training it evaluates 1000 episodes with deterministic and with sampled
actions, or 64 if the task reports no success.
"""

import sys
from collections.abc import Sequence

from genpo_jax.cli import run_command, train

EPISODES = 1000
# Enough for a mean return; the episodes of the hand tasks are long.
EPISODES_WITHOUT_SUCCESS = 64


def manipulation(arguments: Sequence[str], prog: str) -> None:
    """Train, then evaluate each seed."""
    named = any(argument.partition("=")[0] in ("--env", "--config", "--resume") for argument in arguments)
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
        print(f"evaluating seed {seed}: {episodes} episodes, deterministic and sampled ...", flush=True)
        results.append(evaluate(run.run_dir, episodes=episodes, seed=seed))
        print(f"seed {seed}: {table(results[-1])}", flush=True)
    write_json(run.run_dir / "evaluation.json", results)


if __name__ == "__main__":
    run_command(manipulation, sys.argv[1:], "python -m experiments.manipulation")
