"""`python -m genpo_jax` and `genpo-jax` are the command line."""

import sys

from genpo_jax.version import explained


def run(prog: str = "genpo-jax") -> None:
    """Run the command line, or say what is not installed."""
    try:
        from genpo_jax.cli import main
    except ModuleNotFoundError as error:
        sys.exit(f"error: {explained(error)}")
    main(prog=prog)


if __name__ == "__main__":
    run("python -m genpo_jax")
