"""Play an exported policy by the robot loop in its environment on engine C; compare its return with that of `deploy`.

    python -m examples.in_the_loop FOLDER [--episodes 64]

The loop of `examples/robot_loop.py` sends one action per control period. Here the robot is a simulator, which also
gives the time. Episode i starts from the same state in every row.
"""

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

from examples import robot_loop
from experiments.program import run_program
from genpo_jax import intervals
from genpo_jax.checks import require
from genpo_jax.envs import EpisodeEnv
from genpo_jax.envs.base import ACTOR_OBS
from genpo_jax.envs.wrappers import from_units
from genpo_jax.export.deploy import deploy, env_options_of, environment_of_export, reset_keys
from genpo_jax.export.standalone import OnnxPolicy
from genpo_jax.runs.environment import with_physics


@dataclass(frozen=True)
class LoopOptions:
    """Options of the comparison."""

    folder: tyro.conf.Positional[Path]
    """Folder of an exported policy that acts in an environment of this package."""
    episodes: int = 64
    """Episodes of each row."""


class Ended(Exception):
    """The episode has ended."""


class Simulated:
    """A robot and a clock: an episode in a simulator, of one env step per command."""

    def __init__(self, batch: EpisodeEnv, bounds: Any) -> None:
        self._bounds = bounds
        self._init, self._step = jax.jit(batch.init), jax.jit(batch.step)

    def begin(self, key: jax.Array) -> None:
        """Start an episode from a typed key."""
        self._state = self._init(key[None])
        self.total, self._seconds = 0.0, 0.0

    def observe(self) -> np.ndarray:
        """Return the observation `[n]`."""
        return np.asarray(self._state.obs[ACTOR_OBS][0])

    def command(self, action: np.ndarray) -> None:
        """Execute an action `[d]`, in units, for one env step."""
        self._state, timestep = self._step(self._state, from_units(action, self._bounds)[None].astype(np.float32))
        self.total += float(timestep.reward[0])
        if bool(timestep.terminated[0] | timestep.truncated[0]):
            raise Ended

    def monotonic(self) -> float:
        """Return the simulated time, in seconds."""
        return self._seconds

    def sleep(self, seconds: float, /) -> None:
        """Let simulated time pass."""
        self._seconds += seconds


def returns_in_the_loop(folder: Path, episodes: int, largest_change: float = 1.0) -> tuple[np.ndarray, int]:
    """Return the returns `[episodes]` of an exported policy in the robot loop on engine C, and how often it stopped."""
    policy = OnnxPolicy(folder)
    action, period = policy.description["action"], policy.description["rate"]["control_period_seconds"]
    require(period is not None, "known", f"the control period of {folder}", period, "export it with --env")
    # The loop itself repeats actions, executes chunks and keeps a history.
    options = replace(env_options_of(policy.description), action_repeat=1, chunk=1, executed=None, history=1)
    made, _ = environment_of_export(folder, policy.description["environment"], backend="c")
    robot = Simulated(EpisodeEnv.of(with_physics(made, options), options), (action["low"], action["high"]))
    totals, stops = [], 0
    for key in reset_keys(episodes):
        robot.begin(key)
        seconds = period * options.episode_length
        try:
            with suppress(Ended):
                robot_loop.run(policy, robot, period, seconds, largest_change=largest_change, clock=robot)
        except robot_loop.UnknownObservation:
            stops += 1
        totals.append(robot.total)
    return np.array(totals), stops


def line(name: str, returns: np.ndarray, deployed: np.ndarray, stops: int = 0) -> str:
    """Return a line: return, largest difference of an episode from the deployed policy, and stopped episodes."""
    value, low, high = intervals.mean(returns)
    difference = np.abs(returns - deployed).max()
    text = f"{name:32} return {value:.1f} [{low:.1f}, {high:.1f}], largest difference of an episode {difference:.1e}"
    return f"{text}, stopped in {stops} episodes at an unknown observation" if stops else text


def main(options: LoopOptions) -> None:
    """Measure, and print a line for each player."""
    folder, episodes = options.folder, options.episodes
    deployed = deploy(folder, episodes=episodes, backend="c").returns
    print(f"{folder}, engine c, {episodes} episodes; mean [95 % interval]")
    print(line("deploy", deployed, deployed))
    for name, largest in (("robot loop, no limit on changes", 1.0), ("robot loop", robot_loop.LARGEST_CHANGE)):
        returns, stops = returns_in_the_loop(folder, episodes, largest)
        print(line(name, returns, deployed, stops))


if __name__ == "__main__":
    run_program(LoopOptions, main, __doc__)
