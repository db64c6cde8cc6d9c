"""A control loop for a robot: an exported policy with a clamp, a limit on change and a stop, without JAX or simulator.

Run it without a robot: `python -m examples.robot_loop runs/hopper/exported --seconds 2`.
"""

import argparse
import time
from typing import Protocol

import numpy as np

from genpo_jax.export.standalone import OnnxPolicy  # on the robot: `from standalone import OnnxPolicy`

MAX_CHANGE = 0.3  # largest change of an action from one step to the next; its range is 2
MAX_DEVIATIONS = 8.0  # largest distance of an observation from the training mean, in standard deviations


class Robot(Protocol):
    """Interface of a robot driver."""

    def observe(self) -> np.ndarray:
        """Return the observation, in the order of the task."""
        ...

    def command(self, action: np.ndarray) -> None:
        """Scale an action in [-1, 1], in the joint order of policy.json, to the actuators and send it."""
        ...


class DummyRobot:
    """A replacement for a robot that observes a constant and ignores commands."""

    def __init__(self, policy: OnnxPolicy):
        self.obs = np.asarray(policy.description["observation"]["seen_mean"], np.float32)

    def observe(self) -> np.ndarray:
        """Return the mean observation of training."""
        return self.obs

    def command(self, action: np.ndarray) -> None:
        """Do nothing."""


def run(policy: OnnxPolicy, robot: Robot, period: float, seconds: float) -> int:
    """Act every `period` seconds; return the number of missed deadlines.

    Raises:
        RuntimeError: if an observation is not finite or too far from the training mean.
    """
    description = policy.description["observation"]
    mean, std = np.asarray(description["seen_mean"]), np.asarray(description["seen_std"])
    previous = np.zeros(policy.description["action"]["shape"][1], np.float32)
    missed, due = 0, time.monotonic()
    for _ in range(round(seconds / period)):
        obs = robot.observe()
        if not np.isfinite(obs).all() or (np.abs(obs - mean) > MAX_DEVIATIONS * std).any():
            robot.command(np.zeros_like(previous))
            raise RuntimeError(f"stopped: the observation {obs} is too far from the observations of training")
        change = np.clip(policy(obs) - previous, -MAX_CHANGE, MAX_CHANGE)
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
    missed = run(policy, DummyRobot(policy), period, arguments.seconds)
    print(f"missed {missed} deadlines at a control period of {period} s")
