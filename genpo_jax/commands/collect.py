"""`genpo-jax collect`."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from genpo_jax.checks import require
from genpo_jax.commands.base import Command

if TYPE_CHECKING:
    from genpo_jax.envs import Environment

EXPERT = "expert"


@dataclass(frozen=True)
class CollectOptions:
    """Record demonstrations of a scripted expert or of trained policies."""

    demonstrators: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="RUN|expert")] = (EXPERT,)
    """Run folders, or `expert` for the scripted expert of --env. Default: expert.
    The episodes of several demonstrators alternate in the recording."""
    env: str | None = None
    """Environment, also package.module:NAME of your own. None: the environment of the first run."""
    backend: str | None = None
    """Physics backend. None: the backend of the first run, or the environment's default."""
    trust: bool = False
    """Import the module that the first run names as its environment; importing it runs its code."""
    episodes: int = 100
    """Total number of episodes to record. Their time limit is that of the first run, or of the environment."""
    noise: float = 0.0
    """Standard deviation of normal noise added to every action; the executed action is recorded."""
    policy_noise: Literal["random", "zero"] = "random"
    """Actions of a policy: random (sampled) or zero (deterministic)."""
    randomize: bool = False
    """Record with randomized physics: that of the first run's training, or the environment's own randomization."""
    physics: tuple[str, ...] = ()
    """Record with this physics, drawn per episode, as --physics of train."""
    keep: Literal["all", "success"] = "all"
    """Keep all episodes, or only those that end with the metric `success` above 0."""
    seed: int = 0
    """Seed of initial states, plans and noise."""
    form: Literal["robomimic", "minari", "lerobot"] = "robomimic"
    """Format: a robomimic .hdf5 file, a Minari folder with a name that ends in -v0, or a LeRobot folder."""
    data: Path = Path("demonstrations.hdf5")
    """File or folder to write."""


def run(options: CollectOptions) -> None:
    """Record and write."""
    import jax

    from genpo_jax.config import EnvConfig
    from genpo_jax.data import write
    from genpo_jax.data.collect import (
        Recorded,
        mixed,
        record_demonstrations,
        recording,
        scripted_actor,
        trained_actor,
        unwrapped,
        with_noise,
    )
    from genpo_jax.data.formats import check_target
    from genpo_jax.envs.base import step_seconds
    from genpo_jax.runs.files import check_writable
    from genpo_jax.runs.folder import saved_config
    from genpo_jax.runs.load import load
    from genpo_jax.training.play import Actor

    check_writable(options.data)
    runs = {name: load(name) for name in options.demonstrators if name != EXPERT}
    env = _environment(options, runs)
    seconds = step_seconds(env)
    check_target(options.data, options.form, 1 / seconds if seconds else None)
    # The horizon of the first run; beyond it, a policy is in states that it never learned.
    length = saved_config(next(iter(runs))).env_options.episode_length if runs else None
    counts = [len(range(i, options.episodes, len(options.demonstrators))) for i in range(len(options.demonstrators))]
    require(min(counts) > 0, "at least 1 for each demonstrator", "episodes", options.episodes)

    def actor_of(name: str, count: int) -> Actor:
        if name == EXPERT:
            return scripted_actor(env, count)
        return trained_actor(runs[name], count, options.policy_noise)

    keys = jax.random.split(jax.random.key(options.seed), len(counts))

    def recorded(name: str, count: int, key: "jax.Array") -> Recorded:
        view = EnvConfig() if name == EXPERT else runs[name].spec
        actor = with_noise(actor_of(name, count), options.noise)
        seen, obs_name = recording(env, view)
        return unwrapped(record_demonstrations(seen, actor, count, key, length, obs_name), env, view)

    parts = [recorded(*part) for part in zip(options.demonstrators, counts, keys, strict=True)]
    demonstrations, means = mixed(parts, env, options.keep == "success")
    write(options.data, replace(demonstrations, env=_name(options, runs) or demonstrations.env), options.form)
    total = sum(float(episode.reward.sum()) for episode in demonstrations.episodes)
    means = {"return": total / len(demonstrations)} | means
    described = ", ".join(f"{name} {value:.3g}" for name, value in means.items())
    print(f"wrote {len(demonstrations)} episodes, {demonstrations.num_steps} steps, to {options.data}; {described}")


def _environment(options: CollectOptions, runs: dict) -> "Environment":
    """Return the environment to record in, after checking that the policies fit it."""
    from genpo_jax import envs
    from genpo_jax.config import EnvConfig
    from genpo_jax.runs.environment import check_conditions, environment_of, with_physics
    from genpo_jax.runs.folder import saved_config

    require(len(runs) > 0 or options.env is not None, "given if no demonstrator is a run", "env", None)
    randomize, physics = options.randomize, options.physics
    if runs:
        first = next(iter(runs))
        env = environment_of(first, options.env, options.backend, randomize, physics=physics, trust=options.trust)
    else:
        made = envs.make(options.env or "", options.backend, randomize and not physics)
        env = with_physics(made, EnvConfig(), physics=physics)
    for name, policy in runs.items():
        check_conditions(policy.spec.seen(saved_config(name).env_options), physics, False, name)
        obs_size, action_size = env.observation_sizes.get(policy.spec.obs_name), env.action_size
        sizes = (policy.spec.obs_size // policy.spec.history, policy.spec.action_size // policy.spec.chunk)
        rule = f"a policy with observation size {obs_size} and action size {action_size}"
        require(sizes == (obs_size, action_size), rule, name, sizes)
    return env


def _name(options: CollectOptions, runs: dict) -> str | None:
    """Return the name by which --env finds the environment again, with the module of one of the user."""
    from genpo_jax.runs.environment import Recorded, importable_name

    return importable_name(Recorded.of_run(next(iter(runs))), options.env, options.trust) if runs else options.env


COMMAND = Command(CollectOptions, run)
