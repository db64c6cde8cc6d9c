"""The loop on a robot's side: an exported policy behind a clamp, a limit on change, and a stop. No JAX, no simulator.

Run it on a robot that only says zeros: `python -m examples.robot_loop runs/hopper/exported --seconds 2`.
"""

import argparse
import time
from typing import Protocol

import numpy as np

from genpo_jax.export.standalone import OnnxPolicy  # on the robot: `from standalone import OnnxPolicy`

MOST_CHANGE = 0.3  # of an action, of its range of 2, from one step to the next
FARTHEST = 8.0  # standard deviations from what training saw; beyond, nothing is known of the policy


class Robot(Protocol):
    """What a driver must do."""

    def observe(self) -> np.ndarray:
        """Return the numbers of the task's observation, in its order."""
        ...

    def command(self, action: np.ndarray) -> None:
        """Take an action in [-1, 1] for each joint, in the order of policy.json, and scale it to the actuators."""
        ...


class Silent:
    """Stands in for a robot."""

    def __init__(self, policy: OnnxPolicy):
        self.obs = np.asarray(policy.description["observation"]["seen_mean"], np.float32)

    def observe(self) -> np.ndarray:
        """Return what training saw in the mean."""
        return self.obs

    def command(self, action: np.ndarray) -> None:
        """Do nothing."""


def run(policy: OnnxPolicy, robot: Robot, period: float, seconds: float) -> int:
    """Act every `period` seconds; return how many deadlines were missed.

    Raises:
        RuntimeError: if an observation is not finite, or far from all that training saw.
    """
    seen = policy.description["observation"]
    mean, std = np.asarray(seen["seen_mean"]), np.asarray(seen["seen_std"])
    previous = np.zeros(policy.description["action"]["shape"][1], np.float32)
    missed, due = 0, time.monotonic()
    for _ in range(round(seconds / period)):
        obs = robot.observe()
        if not np.isfinite(obs).all() or (np.abs(obs - mean) > FARTHEST * std).any():
            robot.command(np.zeros_like(previous))
            raise RuntimeError(f"stopped: the observation {obs} is far from what the policy was trained on")
        change = np.clip(policy(obs) - previous, -MOST_CHANGE, MOST_CHANGE)
        previous = np.clip(previous + change, -1, 1)  # joints in the order of policy.json
        robot.command(previous)
        due += period
        missed += time.monotonic() > due
        time.sleep(max(0.0, due - time.monotonic()))
    return missed


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("folder")
    options.add_argument("--seconds", type=float, default=2.0)
    arguments = options.parse_args()
    policy = OnnxPolicy(arguments.folder)
    period = policy.description["task"].get("control_seconds", 0.02)
    print(run(policy, Silent(policy), period, arguments.seconds), "deadlines missed of one every", period, "s")
