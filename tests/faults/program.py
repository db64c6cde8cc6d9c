"""The command line of a campaign."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

# Test modules import others by their bare names, which pytest finds in these folders.
sys.path += [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "data")]


def run_campaign(campaign: Callable[[int, int], list[str]], counted: str, description: str | None) -> None:
    """Run a campaign with the number of cases (`--counted`) and the seed of the command line; print what was wrong.

    The process ends with code 1 if something was.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(f"--{counted}", dest="count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    wrong = campaign(options.count, options.seed)
    print("\n".join(wrong), f"\n{len(wrong)} problems", sep="")
    sys.exit(bool(wrong))
