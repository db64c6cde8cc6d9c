"""Train a policy on one environment, as `genpo-jax train` does: `python -m experiments.locomotion --env humanoid`."""

import sys

from genpo_jax.cli import run_command, train

if __name__ == "__main__":
    run_command(train, sys.argv[1:], "python -m experiments.locomotion")
