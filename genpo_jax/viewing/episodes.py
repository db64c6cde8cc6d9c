"""Record episodes of a policy as poses of MuJoCo bodies, whatever physics the environment has."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from genpo_jax.checks import require
from genpo_jax.config import Config, EnvConfig
from genpo_jax.envs import Environment
from genpo_jax.envs.mujoco_model import mj_model_of
from genpo_jax.policy import TrainedPolicy
from genpo_jax.runs.environment import environment_of
from genpo_jax.runs.folder import saved_config
from genpo_jax.runs.load import folder_of, load
from genpo_jax.runtime import compiler_options

# Positions and mocap poses: where a library's state keeps them.
FIELDS = {"qpos": (".qpos", ".q"), "mocap_pos": (".mocap_pos",), "mocap_quat": (".mocap_quat",)}


@dataclass(frozen=True)
class Episode:
    """One recorded episode of T frames, the first before any action.

    Attributes:
        noise: with which it acted.
        positions: `qpos`, and mocap poses where there are, by field of `MjData`, each `[T, n]`.
        rewards: `[T]`, the first 0.
    """

    noise: Literal["zero", "random"]
    positions: dict[str, np.ndarray]
    rewards: np.ndarray


@dataclass(frozen=True)
class Recording:
    """Episodes of a run's policy.

    Attributes:
        title: what it is.
        model: MuJoCo's, to draw it with.
        seconds: between frames.
        episodes: with zero noise first.
    """

    title: str
    model: mujoco.MjModel
    seconds: float
    episodes: list[Episode]


def record(
    run_dir: str | Path,
    *,
    episodes: int = 1,
    steps: int | None = None,
    start_seed: int = 0,
    step: int | None = None,
    seed: int | None = None,
) -> Recording:
    """Record episodes with zero noise, and as many with the policy's own, from the same starts.

    Args:
        run_dir: folder of the run.
        episodes: for each kind of noise.
        steps: at most so many steps of an episode; None for its time limit.
        start_seed: of starts and noise.
        step: env steps of the checkpoint; None for the newest.
        seed: which of several seeds.

    Raises:
        ValueError: if the environment has no MuJoCo model, or shows no positions.
        FileNotFoundError: if there is no run in `run_dir`, or no checkpoint at `step`.
    """
    run_dir = folder_of(Path(run_dir), seed)
    policy = load(run_dir, step)
    recorder = Recorder(environment_of(run_dir), saved_config(run_dir), episodes=episodes, steps=steps)
    return recorder.record(policy, start_seed)


class Recorder:
    """Records episodes of policies on one environment; the program is compiled once.

    Args:
        env: with a MuJoCo model, and its positions in the state.
        config: of the run.
        episodes: for each kind of noise.
        steps: at most so many steps of an episode; None for its time limit.

    Raises:
        ValueError: if the environment has no MuJoCo model, or shows no positions.
    """

    def __init__(self, env: Environment, config: Config, *, episodes: int = 1, steps: int | None = None) -> None:
        require(episodes >= 1, ">= 1", "episodes", episodes)
        model = mj_model_of(env)
        if model is None:
            raise ValueError(
                f"{env.name} has no MuJoCo model to draw; one of your own shows it as its attribute mj_model"
            )
        self.model, self.episodes = model, episodes
        self.title = f"{config.method.name} on {config.env}"
        self.seconds = _seconds(env, model)
        self.places = _places(env, model)
        length = steps or config.env_options.episode_length or env.default_episode_length
        play = jax.vmap(partial(_play, env, self.places, length, config.env_options), (None, 0, 0))
        self._program = jax.jit(play, compiler_options=compiler_options(config.fusion_emitters))

    def positions(self, state: Any) -> dict[str, Any]:
        """Return the positions of a state, by field of `MjData`."""
        return _positions(self.places, state)

    def record(self, policy: TrainedPolicy, start_seed: int = 0) -> Recording:
        """Record episodes of one policy from the starts of a seed."""
        keys = jax.random.split(jax.random.key(start_seed), self.episodes)
        noisy = jnp.arange(2 * self.episodes) >= self.episodes
        first, seen, rewards, ended = jax.device_get(self._program(policy, jnp.concatenate([keys, keys]), noisy))
        recorded = []
        for i in range(2 * self.episodes):
            frames = int((~ended[i]).sum())
            positions = {
                name: np.concatenate([first[name][i][None], seen[name][i, :frames]]).reshape(frames + 1, -1)
                for name in self.places
            }
            noise = "random" if noisy[i] else "zero"
            recorded.append(Episode(noise, positions, np.concatenate([[0.0], rewards[i, :frames]])))
        return Recording(self.title, self.model, self.seconds, recorded)


def _play(
    env: Environment,
    places: dict[str, int],
    length: int,
    options: EnvConfig,
    policy: TrainedPolicy,
    key: jax.Array,
    noisy: jax.Array,
) -> Any:
    """Return positions at the start, positions and rewards of all steps, and whether each came after the end."""
    reset_key, key = jax.random.split(key)
    state, obs = env.reset(reset_key)
    every, repeat = options.steps_per_action, options.action_repeat

    def advance(carry: Any, i: jax.Array) -> Any:
        state, obs, chunk, ended = carry
        fresh = jnp.where(noisy, policy(obs, jax.random.fold_in(key, i)), policy(obs))
        chunk = jnp.where(i % every == 0, fresh.reshape(chunk.shape), chunk)
        state, obs, reward, terminated, _ = env.step(state, chunk[i % every // repeat])
        seen = _positions(places, state)
        return (state, obs, chunk, ended | terminated), (seen, jnp.asarray(reward, jnp.float32), ended)

    first = _positions(places, state)
    carry = (state, obs, jnp.zeros((options.chunk, env.action_size)), jnp.asarray(False))
    # A state may change its type in the first step, where libraries mix in weak ones.
    carry = jax.tree.map(lambda x, kind: jnp.asarray(x, kind.dtype), carry, jax.eval_shape(advance, carry, 0)[0])
    _, (seen, rewards, ended) = jax.lax.scan(advance, carry, jnp.arange(length))
    return first, seen, rewards, ended


def frames(recording: Recording, episode: Episode, every: int = 1) -> Any:
    """Yield `MjData` with the kinematics of every so many frames of an episode; it is the same object each time."""
    data = mujoco.MjData(recording.model)
    for i in range(0, len(episode.rewards), every):
        pose(recording.model, data, {name: values[i] for name, values in episode.positions.items()})
        yield data


def pose(model: mujoco.MjModel, data: mujoco.MjData, positions: dict[str, Any]) -> None:
    """Bring `MjData` to positions, by its fields, with their kinematics."""
    for name, values in positions.items():
        field = getattr(data, name)
        field[:] = np.asarray(values).reshape(field.shape)
    mujoco.mj_kinematics(model, data)
    mujoco.mj_camlight(model, data)


def _positions(places: dict[str, int], state: Any) -> dict[str, Any]:
    leaves = jax.tree.leaves(state)
    return {name: leaves[place] for name, place in places.items()}


def _places(env: Environment, model: mujoco.MjModel) -> dict[str, int]:
    """Return where the leaves of a state have positions, by field of `MjData`."""
    data = mujoco.MjData(model)
    state = jax.eval_shape(env.reset, jax.random.key(0))[0]
    paths = [
        (jax.tree_util.keystr(path), np.prod(leaf.shape)) for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    ]
    places = {}
    for field, endings in FIELDS.items():
        size = getattr(data, field).size
        found = [i for ending in endings for i, (path, n) in enumerate(paths) if path.endswith(ending) and n == size]
        if found and size:
            places[field] = found[0]
    if "qpos" not in places:
        raise ValueError(f"the state of {env.name} shows no {model.nq} positions; keep mjx.Data in it")
    return places


def _seconds(env: Environment, model: mujoco.MjModel) -> float:
    """Return the time of one step: the library's, or that of an environment of one's own as its attribute `dt`."""
    raw: Any = getattr(env, "raw", env)
    return float(getattr(raw, "dt", model.opt.timestep))
