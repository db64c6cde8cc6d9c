"""Entry point of `genpo-jax` and `python -m genpo_jax`."""

import sys

from genpo_jax.interrupts import interrupt_ends_process
from genpo_jax.version import explained


def run(prog: str = "genpo-jax") -> None:
    """Run the command line; exit with a message if a package is not installed."""
    try:
        with interrupt_ends_process():
            from genpo_jax.cli import main
    except ModuleNotFoundError as error:
        sys.exit(f"error: {explained(error)}")
    main(prog=prog)


if __name__ == "__main__":
    run("python -m genpo_jax")
