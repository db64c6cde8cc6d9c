"""Measure what `EpisodeEnv` costs over Brax's own wrappers, and what fresh resets cost.

    python -m benchmarks.env_overhead --env ant --backend spring --num-envs 64

All contenders run the same jitted scan of T steps with the same random actions, in turn, in one process.
"""

import dataclasses
import json
import platform
import statistics
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tyro
from jax import Array
from rich.console import Console
from rich.table import Table

from genpo_jax.envs.brax import BraxEnvironment
from genpo_jax.envs.episode import EpisodeEnv

EPISODE_LENGTH = 1000
BASELINE = "brax"


@dataclasses.dataclass(frozen=True)
class Config:
    """What to measure."""

    env: str = "ant"
    """Brax environment."""
    backend: str = "spring"
    """Brax backend."""
    num_envs: int = 64
    """Environments side by side."""
    unroll: int = 32
    """Steps per scan."""
    rounds: int = 40
    """Timed samples of each contender."""
    sample_seconds: float = 0.1
    """Shortest sample; scans are repeated to fill it."""
    json: Path | None = None
    """Where to write the result."""


@dataclasses.dataclass
class Contender:
    """A compiled rollout and its carry."""

    rollout: Callable[[Any, Array], Any]
    carry: Any
    actions: Array
    compile_seconds: float
    samples: list[float] = dataclasses.field(default_factory=list)


def ours(config: Config, env: BraxEnvironment, actions: Array, refresh: bool) -> Contender:
    """Compile a rollout of `EpisodeEnv`, with or without a new pool at its start."""
    episodes = EpisodeEnv(env, EPISODE_LENGTH)

    def step(state, action):
        state, timestep = episodes.step(state, action)
        return state, (timestep.reward, timestep.terminated)

    def rollout(state, actions):
        return jax.lax.scan(step, episodes.refresh(state) if refresh else state, actions)

    return compiled(rollout, jax.jit(episodes.init)(jax.random.split(jax.random.key(0), config.num_envs)), actions)


def brax_wrappers(config: Config, env: BraxEnvironment, actions: Array) -> Contender:
    """Compile a rollout of Brax's own `EpisodeWrapper` and `AutoResetWrapper`."""
    from brax.envs import training

    wrapped = training.wrap(env.raw, episode_length=EPISODE_LENGTH, action_repeat=1)

    def step(state, action):
        state = wrapped.step(state, action)
        return state, (state.reward, state.done)

    def rollout(state, actions):
        return jax.lax.scan(step, state, actions)

    keys = jax.random.key_data(jax.random.split(jax.random.key(0), config.num_envs))
    # Some rewards and metrics change from strong to weak types in the first step; scan wants one type.
    state = jax.jit(wrapped.reset)(keys)
    carry = jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype), state)
    return compiled(rollout, carry, jnp.tanh(actions))


def compiled(rollout: Callable, carry: Any, actions: Array) -> Contender:
    """Compile with a donated carry and run once."""
    start = time.perf_counter()
    executable = jax.jit(rollout, donate_argnums=0).lower(carry, actions).compile()
    seconds = time.perf_counter() - start
    carry, outputs = executable(carry, actions)
    jax.block_until_ready(outputs)
    return Contender(executable, carry, actions, seconds)


def run(contender: Contender, scans: int) -> float:
    """Return the seconds of that many scans."""
    start = time.perf_counter()
    for _ in range(scans):
        contender.carry, outputs = contender.rollout(contender.carry, contender.actions)
    jax.block_until_ready((contender.carry, outputs))
    return time.perf_counter() - start


def measure(config: Config) -> dict[str, Contender]:
    """Time all contenders, interleaved."""
    env = BraxEnvironment(config.env, config.backend)
    shape = (config.unroll, config.num_envs, env.action_size)
    actions = jax.random.normal(jax.random.key(1), shape)
    contenders = {
        BASELINE: brax_wrappers(config, env, actions),
        "ours": ours(config, env, actions, refresh=True),
        "no refresh": ours(config, env, actions, refresh=False),
    }
    scans = max(1, round(config.sample_seconds / run(contenders[BASELINE], 1)))
    order = list(contenders.values())
    for _ in range(config.rounds):
        # Each goes first in turn, so that none profits from what runs before it.
        order.append(order.pop(0))
        for contender in order:
            contender.samples.append(run(contender, scans) / scans)
    return contenders


def summarise(config: Config, contenders: dict[str, Contender]) -> dict[str, Any]:
    """Return medians, spreads and times relative to Brax's wrappers (median over rounds of the ratio)."""
    steps = config.unroll * config.num_envs
    base = contenders[BASELINE].samples
    rows = {}
    for name, contender in contenders.items():
        ratios = [mine / theirs for mine, theirs in zip(contender.samples, base, strict=True)]
        low, _, high = statistics.quantiles(contender.samples, n=4)
        rows[name] = {
            "steps_per_second": steps / statistics.median(contender.samples),
            "quartiles_steps_per_second": [steps / high, steps / low],
            "time_over_brax": statistics.median(ratios),
            "quartiles_time_over_brax": statistics.quantiles(ratios, n=4)[::2],
            "compile_seconds": contender.compile_seconds,
        }
    versions = {name: metadata.version(name) for name in ("jax", "jaxlib", "brax", "genpo-jax")}
    machine = {"device": jax.devices()[0].device_kind, "cpu": platform.processor() or platform.machine()}
    settings = {key: value for key, value in dataclasses.asdict(config).items() if key != "json"}
    return {"config": settings, "rows": rows, "versions": versions, "machine": machine}


def table(config: Config, result: dict[str, Any]) -> Table:
    """Lay the result out."""
    view = Table(title=f"{config.env} ({config.backend}), {config.num_envs} envs, T = {config.unroll}")
    for column in ("rollout", "steps/s", "quartiles", "time/brax", "quartiles", "compile"):
        view.add_column(column, justify="left" if column == "rollout" else "right", no_wrap=True)
    for name, row in result["rows"].items():
        low, high = (value / 1000 for value in row["quartiles_steps_per_second"])
        low_ratio, high_ratio = row["quartiles_time_over_brax"]
        view.add_row(
            name,
            f"{row['steps_per_second']:,.0f}",
            f"{low:.1f}-{high:.1f} k",
            f"{row['time_over_brax']:.3f}",
            f"{low_ratio:.2f}-{high_ratio:.2f}",
            f"{row['compile_seconds']:.1f} s",
        )
    return view


def main() -> None:
    """Measure, print one table, write JSON where asked."""
    config = tyro.cli(Config, description=__doc__)
    result = summarise(config, measure(config))
    Console().print(table(config, result))
    if config.json is not None:
        config.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
