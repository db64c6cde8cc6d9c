"""Record episodes of a policy as poses of MuJoCo bodies; the environment may use any physics engine."""

import copy
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from genpo_jax.checks import require
from genpo_jax.config import SUCCESS, Config
from genpo_jax.envs import Environment, EpisodeEnv, EpisodeState, Timestep
from genpo_jax.envs.base import step_seconds
from genpo_jax.envs.imperfect import with_imperfections
from genpo_jax.envs.mujoco_model import mj_model_of
from genpo_jax.envs.wrappers import wrapped
from genpo_jax.policy import TrainedPolicy
from genpo_jax.runs.environment import check_conditions, environment_of
from genpo_jax.runs.folder import saved_config
from genpo_jax.runs.load import CheckpointName, folder_of, load
from genpo_jax.runtime import compiler_options
from genpo_jax.training.play import (
    Actor,
    Episodes,
    Noise,
    in_single_steps,
    play_episodes,
    policy_actor,
    side_by_side,
)

# Fields of `MjData`, and the endings of their paths in the state of a library's environment.
FIELDS = {"qpos": (".qpos", ".q"), "mocap_pos": (".mocap_pos",), "mocap_quat": (".mocap_quat",)}
# Half of the side, in meters, from which a plane is a floor.
SMALLEST_FLOOR = 5.0
# Beyond these limits, or not finite, positions in meters and returns cannot be drawn.
LARGEST_POSITION, LARGEST_RETURN = 1e8, 1e30

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RecordedEpisode:
    """One episode of T frames; the first frame is the state before the first action.

    Attributes:
        actions: how the policy acted.
        positions: `qpos`, and poses of mocap bodies if the model has any, by field of `MjData`, each `[T, n]`.
        rewards: reward of the step that led to each frame `[T]`; 0 for the first.
    """

    actions: Literal["deterministic", "sampled"]
    positions: dict[str, np.ndarray]
    rewards: np.ndarray


@dataclass(frozen=True)
class Recording:
    """Recorded episodes of one policy.

    Attributes:
        title: title of the page.
        model: the MuJoCo model, for drawing.
        seconds: time between two frames.
        episodes: first those with deterministic actions, then those with sampled actions.
    """

    title: str
    model: mujoco.MjModel
    seconds: float
    episodes: list[RecordedEpisode]


def record_run(
    run_dir: str | Path,
    *,
    episodes: int = 1,
    steps: int | None = None,
    start_seed: int = 0,
    step: int | None = None,
    seed: int | None = None,
    checkpoint: CheckpointName = "newest",
    env: Any = None,
    backend: str | None = None,
    randomize: bool = False,
    physics: Sequence[str] = (),
    imperfect: bool = False,
    trust: bool = False,
    fusion_emitters: bool = True,
) -> Recording:
    """Record episodes of a run's policy with deterministic actions, and again with sampled actions.

    Episode i with sampled actions starts from the same state as episode i with deterministic actions.

    Args:
        run_dir: folder of the run.
        episodes: episodes with deterministic actions; the same number is recorded with sampled actions.
        steps: most env steps per episode; None for the time limit.
        start_seed: seed of the initial states and of the noise.
        step: env steps of the checkpoint; None for the newest.
        seed: which seed of a run with several seeds.
        checkpoint: `newest`, or `best` at the evaluations during training; see `genpo_jax.load`.
        env: another environment of the same sizes, by name or as an object; None: that of the run.
        backend: another backend; None: that of the run.
        randomize: with randomized physics, as in training; otherwise it is nominal. Shapes are drawn as in the model.
        physics: with this physics drawn per episode, see `EnvConfig.physics`; it replaces that of training.
        imperfect: with the noise, delays and pushes of training; otherwise the robot is perfect.
        trust: import the module that the run names as its environment.
        fusion_emitters: use XLA's fusion emitters on a CPU if training did, see `Config.fusion_emitters`.

    Raises:
        ValueError: if the environment has no MuJoCo model, its state holds no positions, its module must be trusted or
            named first, or the conditions do not fit the policy, see `check_conditions`.
        FileNotFoundError: if `run_dir` holds no run, or no checkpoint at `step`.
    """
    run_dir = folder_of(Path(run_dir), seed)
    policy = load(run_dir, step, checkpoint=checkpoint)
    config = saved_config(run_dir)
    options = policy.spec.seen(config.env_options)
    check_conditions(options, physics, imperfect, run_dir)
    environment = environment_of(run_dir, env, backend, randomize, physics=physics, trust=trust)
    config = replace(config, env_options=options, fusion_emitters=fusion_emitters and config.fusion_emitters)
    recorder = Recorder(environment, config, episodes=episodes, steps=steps, imperfect=imperfect)
    recording = recorder.record(policy, start_seed)
    conditions = [*(physics or ["randomized physics"] * randomize), *["imperfect robot"] * imperfect]
    return replace(recording, title=", ".join([recording.title, *conditions]))


class Recorder:
    """Records episodes of policies in one environment; the program is compiled once for all policies.

    Args:
        env: an environment with a MuJoCo model, whose state holds positions.
        config: settings of the run.
        episodes: episodes with deterministic actions; the same number is recorded with sampled actions.
        steps: most env steps per episode; None for the time limit.
        imperfect: with the noise, delays and pushes of the settings.

    Raises:
        ValueError: if the environment has no MuJoCo model, or its state holds no positions.
    """

    def __init__(
        self,
        env: Environment,
        config: Config,
        *,
        episodes: int = 1,
        steps: int | None = None,
        imperfect: bool = False,
    ) -> None:
        require(episodes >= 1, ">= 1", "episodes", episodes)
        env = wrapped(with_imperfections(env, config.env_options, imperfect), config.env_options)
        self.model, self.places = drawn_parts(env)
        self.episodes = episodes
        self.title = f"{config.method.name} on {config.env}"
        self.seconds = step_seconds(env) or float(self.model.opt.timestep)
        length = steps or config.env_options.episode_length or env.default_episode_length
        self.batch = EpisodeEnv(env, length, squash="clip")
        # A success ends the episode, as in training; another environment may report none.
        if config.env_options.reward == "success" and SUCCESS in self.batch.metric_names:
            self.batch = replace(self.batch, reward="success")
        self._program = jax.jit(self._play, compiler_options=compiler_options(config.fusion_emitters))

    def record(self, policy: TrainedPolicy, start_seed: int = 0) -> Recording:
        """Record episodes of one policy; `start_seed` determines their initial states."""
        played = jax.device_get(self._program(policy, jax.random.key(start_seed)))
        before, after, rewards = played.frames
        recorded = []
        for i, length in enumerate(played.lengths):
            positions = {
                name: np.concatenate([before[name][:1, i], after[name][:length, i]]).reshape(length + 1, -1)
                for name in self.places
            }
            actions = "deterministic" if i < self.episodes else "sampled"
            recorded.append(RecordedEpisode(actions, positions, np.concatenate([[0.0], rewards[:length, i]])))
        return Recording(self.title, self.model, self.seconds, recorded)

    def _play(self, policy: TrainedPolicy, key: jax.Array) -> Episodes:
        """Play deterministic and sampled episodes from the same initial states."""
        reset_key, key = jax.random.split(key)

        def actor_of(noise: Noise) -> Actor:
            return in_single_steps(policy_actor(policy, self.episodes, noise), policy.spec, self.episodes)

        def frame(before: EpisodeState, action: jax.Array, step: Timestep) -> Any:
            return self._positions(before.env_state), self._positions(step.next_state), step.reward

        actor = side_by_side(actor_of("zero"), actor_of("random"), self.episodes)
        keys = jnp.tile(jax.random.split(reset_key, self.episodes), 2)
        return play_episodes(self.batch, actor, keys, key, frame)

    def _positions(self, states: Any) -> dict[str, jax.Array]:
        """Return positions `[n, ...]` of the states of n environments."""
        return positions_of(states, self.places)


def drawable(recording: Recording) -> Recording:
    """Return a recording whose episodes end before their first frame that cannot be drawn; a warning names the frame.

    Raises:
        ValueError: if this is the first frame of an episode.
    """
    return replace(recording, episodes=list(map(_drawable, recording.episodes)))


def _drawable(episode: RecordedEpisode) -> RecordedEpisode:
    returns = np.cumsum(episode.rewards.astype(np.float64))
    wrong = ~(np.abs(returns) <= LARGEST_RETURN)
    for values in episode.positions.values():
        wrong |= ~(np.abs(values.reshape(len(wrong), -1)) <= LARGEST_POSITION).all(axis=1)
    if not wrong.any():
        return episode
    frame = int(wrong.argmax())
    require(frame > 0, "finite", "positions and rewards of the first frame", "another value", "the simulation diverged")
    logger.warning(
        "an episode with %s actions is shown up to frame %d; the next one is not finite", episode.actions, frame
    )
    positions = {name: values[:frame] for name, values in episode.positions.items()}
    return replace(episode, positions=positions, rewards=episode.rewards[:frame])


def frames(recording: Recording, episode: RecordedEpisode, every: int = 1) -> Iterator[mujoco.MjData]:
    """Yield `MjData` with the kinematics of every n-th frame of an episode; all frames share one object."""
    data = mujoco.MjData(recording.model)
    for i in range(0, len(episode.rewards), every):
        place_bodies(recording.model, data, {name: values[i] for name, values in episode.positions.items()})
        yield data


def place_bodies(model: mujoco.MjModel, data: mujoco.MjData, positions: dict[str, Any]) -> None:
    """Write positions, by field of `MjData`, and compute the kinematics."""
    for name, values in positions.items():
        field = getattr(data, name)
        field[:] = np.asarray(values).reshape(field.shape)
    mujoco.mj_kinematics(model, data)
    mujoco.mj_camlight(model, data)


def positions_of(state: Any, places: dict[str, int]) -> dict[str, Any]:
    """Return the positions in a state, by field of `MjData`."""
    leaves = jax.tree.leaves(state)
    return {name: leaves[place] for name, place in places.items()}


def drawn_parts(env: Environment) -> tuple[mujoco.MjModel, dict[str, int]]:
    """Return MuJoCo's model of an environment, and which leaves of a state hold positions, by field of `MjData`.

    Raises:
        ValueError: if the environment has no MuJoCo model, or its state holds no positions.
    """
    model = mj_model_of(env)
    if model is None:
        raise ValueError(f"{env.name} has no MuJoCo model to draw; give your own environment the attribute mj_model")
    data = mujoco.MjData(model)
    state = jax.eval_shape(env.reset, jax.random.key(0))[0]
    paths = [
        (jax.tree_util.keystr(path), np.prod(leaf.shape)) for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    ]
    places = {}
    for field, endings in FIELDS.items():
        size = getattr(data, field).size
        matches = [i for ending in endings for i, (path, n) in enumerate(paths) if path.endswith(ending) and n == size]
        if matches and size:
            places[field] = matches[0]
    if "qpos" not in places:
        raise ValueError(f"the state of {env.name} must hold {model.nq} positions; keep mjx.Data in the state")
    return with_endless_floors(model), places


def with_endless_floors(model: mujoco.MjModel) -> mujoco.MjModel:
    """Return a copy of a model whose large planes are drawn without an edge, as physics treats all planes."""
    model = copy.deepcopy(model)
    large = (model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE) & (model.geom_size[:, :2].min(axis=1) >= SMALLEST_FLOOR)
    half = model.geom_size[:, :2].copy()
    model.geom_size[large, :2] = 0
    # With an edge, a texture repeats that often over half of the plane, otherwise over a meter.
    for material, size in {model.geom_matid[i]: half[i] for i in np.flatnonzero(large)}.items():
        if material >= 0 and not model.mat_texuniform[material]:
            model.mat_texrepeat[material] /= size
    return model
