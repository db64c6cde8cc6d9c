"""A control loop for a robot: an exported policy, limits on range and change, and a stop. No JAX, no simulator.

Try it with a stand-in for a robot: `python -m examples.robot_loop runs/hopper/exported --seconds 2`.
"""

import argparse
import time
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

# On the robot: from standalone import ...
from genpo_jax.export.standalone import ObservationHistory, OnnxPolicy, executed_actions

LARGEST_CHANGE = 0.15  # of an action coordinate from one control period to the next, as a share of its range
LARGEST_DISTANCE = 8.0  # standard deviations from the mean of training; the policy is unknown beyond
LARGEST_DRIFT = 0.01  # of the period, as a share of the period of training


class Robot(Protocol):
    """Interface of a robot driver."""

    def observe(self) -> np.ndarray:
        """Return the observation of the task, in its order and units."""
        ...

    def command(self, action: np.ndarray) -> None:
        """Send an action to the actuators; policy.json has the order, bounds and units of its coordinates."""
        ...


class Clock(Protocol):
    """Time in seconds, such as Python's `time`, or the time of a simulator."""

    def monotonic(self) -> float:
        """Return the present time."""
        ...

    def sleep(self, seconds: float, /) -> None:
        """Return after this time."""
        ...


class StandIn:
    """A robot that does not move, to try the loop."""

    def __init__(self, policy: OnnxPolicy):
        seen = policy.description["observation"]
        self.obs = np.asarray(seen.get("seen_mean", [0.0] * seen["size"]), np.float32)[-seen["size"] :]

    def observe(self) -> np.ndarray:
        """Return the mean observation of training."""
        return self.obs

    def command(self, action: np.ndarray) -> None:
        """Do nothing."""


class UnknownObservation(RuntimeError):
    """An observation is not finite, or far from those of training."""


class Log(NamedTuple):
    """What a loop has done: observations `[T, n]` and the actions `[T, d]` that were sent after them.

    Attributes:
        obs: list of observations.
        action: list of actions.
    """

    obs: list[np.ndarray]
    action: list[np.ndarray]


def run(
    policy: OnnxPolicy,
    robot: Robot,
    period: float,
    seconds: float,
    rest: np.ndarray | None = None,
    log: Log | None = None,
    largest_change: float = LARGEST_CHANGE,
    clock: Clock = time,
) -> int:
    """Send one action every `period` seconds, and return the number of missed deadlines.

    The policy is called again when the executed actions of its chunk have been sent, each of them `action_repeat`
    times.

    Args:
        policy: the exported policy.
        robot: the driver.
        period: seconds between two actions.
        seconds: duration of the loop.
        rest: action `[d]` that the first action departs from; None for the middle of the bounds. For position control,
            pass the present positions.
        log: filled with what was observed and sent.
        largest_change: of an action coordinate from one period to the next, as a share of its range; 1 for no limit.
        clock: measures the periods.

    Raises:
        ValueError: if the policy was trained at another rate.
        UnknownObservation: if an observation is not finite, or far from those of training. The last action is held.
    """
    trained = policy.description["rate"]["control_period_seconds"]
    if trained is not None and abs(period - trained) > LARGEST_DRIFT * trained:
        raise ValueError(f"period must be {trained:g} s, at which the policy was trained, got {period:g}; export again")
    described, history = policy.description["action"], ObservationHistory(policy.description)
    low, high = np.asarray(described["low"], np.float32), np.asarray(described["high"], np.float32)
    previous = (low + high) / 2 if rest is None else np.asarray(rest, np.float32)
    planned: list[np.ndarray] = []
    missed, due = 0, clock.monotonic()
    for _ in range(round(seconds / period)):
        obs = robot.observe()
        recent = history(obs)
        if strange := _strange(policy, recent):
            robot.command(previous)
            raise UnknownObservation(f"stopped and holding the last action: {strange}")
        if not planned:
            planned = list(executed_actions(policy.description, policy(recent)))
        largest = largest_change * (high - low)
        previous = np.clip(previous + np.clip(planned.pop(0) - previous, -largest, largest), low, high)
        robot.command(previous)
        if log is not None:
            log.obs.append(obs.copy())
            log.action.append(previous.copy())
        due += period
        now = clock.monotonic()
        missed += now > due
        # After a delay the periods start anew: actions sent to catch up would exceed the limit on speed.
        due = max(due, now)
        clock.sleep(due - now)
    return missed


def _strange(policy: OnnxPolicy, recent: np.ndarray) -> str:
    """Return what is wrong with the last observations: not finite, or far from those of training; "" for nothing."""
    seen = policy.description["observation"]
    # A policy that does not standardize its observations has no statistics of them.
    mean, std = np.asarray(seen.get("seen_mean", 0.0)), np.asarray(seen.get("seen_std", np.inf))
    distance = np.broadcast_to(np.abs(recent - mean) / std, recent.shape)
    worst = int(np.argmax(np.where(np.isnan(distance), np.inf, distance)))
    if distance[worst] <= LARGEST_DISTANCE and np.isfinite(recent).all():
        return ""
    i = worst % seen["size"]
    name = seen["names"][i] if seen["names"] else f"observation {i}"
    return f"{name} is {recent[worst]:.4g}, {distance[worst]:.3g} standard deviations from the mean of training"


def record(path: Path, description: dict[str, Any], log: Log, period: float) -> None:
    """Write what a loop has done as a LeRobot data set of one episode, which pretraining reads (needs pyarrow)."""
    from genpo_jax.data import Demonstrations, Episode, write

    action, seen = description["action"], description["observation"]
    episode = Episode(np.stack(log.obs), np.stack(log.action), np.zeros(len(log.obs)))
    names = {"action_names": tuple(action["names"]), "obs_names": tuple(seen["names"]) if seen["names"] else None}
    write(path, Demonstrations((episode,), {seen["name"]: seen["size"]}, rate=1 / period, **names), "lerobot")


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("folder")
    options.add_argument("--seconds", type=float, default=2.0)
    options.add_argument("--period", type=float, help="seconds between two actions, if the policy does not know them")
    options.add_argument("--record", type=Path, help="folder for a LeRobot data set of what was observed and sent")
    arguments = options.parse_args()
    policy, log = OnnxPolicy(arguments.folder), Log([], [])
    period = arguments.period or policy.description["rate"]["control_period_seconds"]
    if period is None:
        raise SystemExit("the policy does not know its rate; give the seconds between two actions by --period")
    if arguments.record and arguments.record.exists():
        raise SystemExit(f"{arguments.record} exists; name a new folder for --record")
    try:
        missed = run(policy, StandIn(policy), period, arguments.seconds, log=log)
        print(f"{missed} missed deadlines, period {period} s")
    finally:
        # Also what was sent before a stop is kept.
        if arguments.record and log.obs:
            record(arguments.record, policy.description, log, period)
