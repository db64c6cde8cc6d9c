"""Record demonstrations: of the expert of an environment, of trained policies, or of several of them in turn.

    python -m experiments.collect --env avoid --episodes 100 --data demos/avoid.hdf5
    python -m experiments.collect runs/seed-0 runs/seed-1 --episodes 200 --data demos/push-v0 --form minari

Each demonstrator records its share of the episodes. A file can be read by `genpo_jax.data.read`, and pretrained on with
`python -m experiments.pretrain`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax
import tyro

from experiments.program import run_program
from genpo_jax import envs
from genpo_jax.checks import require
from genpo_jax.data import write
from genpo_jax.envs import Environment

EXPERT = "expert"


@dataclass(frozen=True)
class Options:
    """Who demonstrates what, and where it goes."""

    demonstrators: tyro.conf.Positional[tuple[str, ...]] = (EXPERT,)
    """Folders of runs, or `expert` for the scripted expert of --env."""
    env: str | None = None
    """Environment. None: that of the first run."""
    episodes: int = 100
    """Episodes to record, in all."""
    noise: float = 0.0
    """Standard deviation of noise on every action; recorded is what was executed."""
    policy_noise: Literal["random", "zero"] = "random"
    """A policy's own noise: new at every step, or none."""
    keep: Literal["all", "success"] = "all"
    """Keep all episodes, or only those whose last value of the metric success is above 0."""
    seed: int = 0
    """Seed of starts, plans and noise."""
    form: Literal["robomimic", "minari"] = "robomimic"
    """Format: one .hdf5 of robomimic, or a folder of Minari (its name ends in -v0)."""
    data: Path = Path("demonstrations.hdf5")
    """File or folder to write."""


def collect(options: Options) -> None:
    """Record and write."""
    from genpo_jax.data.collect import Demonstrator, mixed, record, scripted, trained
    from genpo_jax.runs.folder import saved_config
    from genpo_jax.runs.load import load

    require(not options.data.exists(), "a new file or folder", "data", str(options.data), "name another, or remove it")
    runs = {name: load(name) for name in options.demonstrators if name != EXPERT}
    env = environment(options, runs)
    counts = [len(range(i, options.episodes, len(options.demonstrators))) for i in range(len(options.demonstrators))]
    require(min(counts) > 0, "at least one for each demonstrator", "episodes", options.episodes)

    def demonstrator(name: str, count: int) -> Demonstrator:
        if name == EXPERT:
            return scripted(env, count)
        repeat = saved_config(name).env_options.action_repeat
        return trained(runs[name], count, options.policy_noise, repeat)

    keys = jax.random.split(jax.random.key(options.seed), len(counts))
    parts = [
        record(env, demonstrator(name, count), count, key, noise=options.noise)
        for name, count, key in zip(options.demonstrators, counts, keys, strict=True)
    ]
    demonstrations, means = mixed(parts, env, options.keep == "success")
    write(options.data, demonstrations, options.form)
    described = ", ".join(f"{name} {value:.3g}" for name, value in means.items())
    print(f"{len(demonstrations)} episodes of {demonstrations.num_steps} steps in {options.data}; {described}")


def environment(options: Options, runs: dict) -> Environment:
    """Return the environment to record in, after checking that the policies fit it."""
    from genpo_jax.runs.environment import environment_of

    if options.env is None:
        require(len(runs) > 0, "named, where no run has one", "env", None)
        env = environment_of(next(iter(runs)))
    else:
        env = envs.make(options.env)
    for name, policy in runs.items():
        found = (policy.spec.obs_size, policy.spec.action_size // policy.spec.chunk)
        wanted = (env.observation_sizes.get(policy.spec.obs_name), env.action_size)
        require(found == wanted, f"for {wanted[0]} observed numbers and {wanted[1]} of action", name, found)
    return env


if __name__ == "__main__":
    run_program(Options, collect, __doc__)
