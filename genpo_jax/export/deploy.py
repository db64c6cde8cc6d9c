"""Close the loop as a robot would: an exported policy in ONNX Runtime, its task in MuJoCo's C engine, no JAX."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genpo_jax import intervals
from genpo_jax.checks import require
from genpo_jax.config import SUCCESS, is_outcome
from genpo_jax.export.standalone import MujocoTask, OnnxPolicy, describe

PERCENTILES = (50, 90, 99)


@dataclass(frozen=True)
class Deployment:
    """What episodes in the closed loop came to.

    Attributes:
        returns: of each episode `[n]`.
        lengths: in steps of the environment `[n]`.
        metrics: sums over each episode, of outcomes the last value, by name `[n]`.
        latencies: seconds from observation to action, of every action `[m]`.
        control_seconds: time from one action to the next, the deadline of a latency.
        trained_return: mean return of the trainer's last evaluation with zero noise, or None.
    """

    returns: np.ndarray
    lengths: np.ndarray
    metrics: dict[str, np.ndarray]
    latencies: np.ndarray
    control_seconds: float
    trained_return: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return means, intervals and percentiles, fit for JSON."""
        _, low, high = intervals.mean(self.returns)
        hits = self.metrics.get(SUCCESS)
        return {
            "episodes": len(self.returns),
            "return": float(self.returns.mean()),
            "return_interval": [low, high],
            "trained_return": self.trained_return,
            "length": float(self.lengths.mean()),
            "metrics": {name: float(values.mean()) for name, values in self.metrics.items()},
            "success": list(intervals.share(int((hits > 0).sum()), len(hits))) if hits is not None else None,
            "latency_ms": {f"p{p}": float(np.percentile(self.latencies, p) * 1e3) for p in PERCENTILES},
            "control_ms": self.control_seconds * 1e3,
            "deadline_misses": int((self.latencies > self.control_seconds).sum()),
            "actions": len(self.latencies),
        }


def deploy(folder: str | Path, *, episodes: int = 16, noise_seed: int | None = None) -> Deployment:
    """Play episodes of an exported policy in MuJoCo's C engine.

    Args:
        folder: the exported folder.
        episodes: how many; each starts at another of the exported states, over again after the last.
        noise_seed: samples actions with noise of this seed; None acts with zero noise.

    Raises:
        FileNotFoundError: there is no exported policy in `folder`.
        ValueError: it has no task that MuJoCo's C engine can play; the message says why.
    """
    require(episodes >= 1, ">= 1", "episodes", episodes)
    policy, task = OnnxPolicy(folder), MujocoTask(folder)
    description = describe(folder)
    repeat = description["environment"]["action_repeat"]
    noise = None if noise_seed is None else np.random.default_rng(noise_seed)
    latencies: list[float] = []

    def act(obs: np.ndarray) -> np.ndarray:
        drawn = None
        if noise is not None:
            drawn = noise.standard_normal(description["noise"]["shape"], np.float32)
        started = time.perf_counter()
        action = policy(obs, noise=drawn)
        latencies.append(time.perf_counter() - started)
        return action

    # Not counted: a first call allocates.
    act(task.reset(0))
    latencies.clear()
    results = [_episode(task, act, episode % task.num_starts, repeat) for episode in range(episodes)]
    totals, lengths, sums = zip(*results, strict=True)
    return Deployment(
        returns=np.asarray(totals),
        lengths=np.asarray(lengths),
        metrics={name: np.asarray([one[name] for one in sums]) for name in sums[0]},
        latencies=np.asarray(latencies),
        control_seconds=task.control_seconds * repeat,
        trained_return=description["trained"].get("eval/return_zero"),
    )


def table(results: dict[str, Any]) -> str:
    """Return what `Deployment.to_dict` returned as text."""
    low, high = results["return_interval"]
    lines = [f"return {results['return']:.1f} [{low:.1f}, {high:.1f}] over {results['episodes']} episodes"]
    if results["trained_return"] is not None:
        lines[0] += f"; in training {results['trained_return']:.1f}"
    latency = ", ".join(f"{name} {value:.3f}" for name, value in results["latency_ms"].items())
    lines.append(f"latency of an action in ms: {latency}; the next is due every {results['control_ms']:.1f}")
    lines.append(f"deadline misses: {results['deadline_misses']} of {results['actions']} actions")
    if results["success"] is not None:
        share, low, high = results["success"]
        lines.append(f"success {share:.3f} [{low:.3f}, {high:.3f}]")
    return "\n".join(lines)


def _episode(task: MujocoTask, act: Any, start: int, repeat: int) -> tuple[float, int, dict[str, float]]:
    """Return return, length and summed metrics of one episode."""
    obs = task.reset(start)
    total, sums = 0.0, dict.fromkeys(task.description["metrics"], 0.0)
    action = np.zeros(0)
    for length in range(task.episode_length):
        if length % repeat == 0:
            action = act(obs)
        obs, reward, terminated, metrics = task.step(action)
        total += reward
        sums = {name: metrics[name] + (0 if is_outcome(name) else sums[name]) for name in sums}
        if terminated:
            return total, length + 1, sums
    return total, task.episode_length, sums
