"""Compare the time of `EpisodeEnv` with Brax's own wrappers, with and without fresh resets.

    python -m benchmarks.env_overhead --env ant --backend spring --num-envs 64

All contenders run the same jitted scan of T steps with equal random actions, in turn, in one process.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from benchmarks.programs import env_scan
from benchmarks.timing import Contender, compiled, interleave, rates, ratios, report
from experiments.program import run_program
from genpo_jax.envs.brax import BraxEnvironment
from genpo_jax.envs.episode import EpisodeEnv

EPISODE_LENGTH = 1000
BASELINE = "brax"


@dataclass(frozen=True)
class Config:
    """Options of the benchmark."""

    env: str = "ant"
    """Brax environment."""
    backend: str = "spring"
    """Brax backend."""
    num_envs: int = 64
    """Parallel environments."""
    unroll: int = 32
    """Steps per scan."""
    rounds: int = 40
    """Timed samples per contender."""
    sample_seconds: float = 0.1
    """Minimum seconds per sample; scans are repeated to fill it."""
    json: Path | None = None
    """File for the result."""


def ours(config: Config, env: BraxEnvironment, actions: Array, refresh: bool) -> Contender:
    """Compile a rollout of `EpisodeEnv`, with or without a new pool of initial states."""
    episodes = EpisodeEnv(env, EPISODE_LENGTH)
    state = jax.jit(episodes.init)(jax.random.split(jax.random.key(0), config.num_envs))
    return compiled(env_scan(episodes, refresh), state, actions)


def brax_wrappers(config: Config, env: BraxEnvironment, actions: Array) -> Contender:
    """Compile a rollout of Brax's `EpisodeWrapper` and `AutoResetWrapper`."""
    from brax.envs import training

    wrapped = training.wrap(env.raw, episode_length=EPISODE_LENGTH, action_repeat=1)

    def step(state: Any, action: Array) -> Any:
        state = wrapped.step(state, action)
        return state, (state.reward, state.done)

    def rollout(state: Any, actions: Array) -> Any:
        return jax.lax.scan(step, state, actions)

    keys = jax.random.key_data(jax.random.split(jax.random.key(0), config.num_envs))
    # Some rewards and metrics change from strong to weak types in the first step; scan needs one type.
    state = jax.jit(wrapped.reset)(keys)
    carry = jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype), state)
    return compiled(rollout, carry, jnp.tanh(actions))


def measure(config: Config) -> dict[str, Contender]:
    """Time all contenders, interleaved."""
    env = BraxEnvironment(config.env, config.backend)
    actions = jax.random.normal(jax.random.key(1), (config.unroll, config.num_envs, env.action_size))
    contenders = {
        BASELINE: brax_wrappers(config, env, actions),
        "ours": ours(config, env, actions, refresh=True),
        "no refresh": ours(config, env, actions, refresh=False),
    }
    interleave(contenders, config.rounds, config.sample_seconds)
    return contenders


def summarize(contenders: dict[str, Contender], steps: int) -> list[dict[str, Any]]:
    """Return a row per contender, with its time divided by Brax's; `steps` is the env steps per call."""
    return [
        {
            "rollout": name,
            "steps_per_second": rates(steps, contender.samples),
            "time_over_brax": ratios(contender.samples, contenders[BASELINE].samples),
            "compile_s": contender.compile_seconds,
        }
        for name, contender in contenders.items()
    ]


def main(config: Config) -> None:
    """Measure, print one table, and write JSON if requested."""
    rows = summarize(measure(config), config.unroll * config.num_envs)
    report(f"{config.env} ({config.backend}), {config.num_envs} envs, T = {config.unroll}", config, rows)


if __name__ == "__main__":
    run_program(Config, main, __doc__)
