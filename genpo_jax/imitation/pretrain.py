"""Train a policy on demonstrations; the result is a run folder that `genpo_jax.load` opens."""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from flax.struct import PyTreeNode
from jax import Array

from genpo_jax import envs
from genpo_jax.checks import require
from genpo_jax.config import Config, build_settings
from genpo_jax.data import Demonstrations
from genpo_jax.envs import Environment
from genpo_jax.envs.base import ACTOR_OBS
from genpo_jax.envs.wrappers import Bounds, from_units
from genpo_jax.imitation.action_range import action_range
from genpo_jax.imitation.config import PretrainConfig
from genpo_jax.imitation.held_out import write_held_out
from genpo_jax.normalizer import RunningMoments
from genpo_jax.policies.losses import demonstration_losses, draws
from genpo_jax.policy import PolicySpec, TrainedPolicy, policy_of
from genpo_jax.runs.callbacks import Callback
from genpo_jax.runs.curve import LOSS_LINES
from genpo_jax.runs.environment import Recorded, env_option, importable_name, record_of
from genpo_jax.runs.folder import (
    FORMAT,
    PRETRAIN_FILE,
    check_run_dir,
    new_run_dir,
    read_json,
    write_config,
    write_json,
    write_policy_spec,
)
from genpo_jax.runs.session import Plan, Session, refuse_changed
from genpo_jax.runtime import configure_jax
from genpo_jax.training.ppo import Learner

logger = logging.getLogger(__name__)
# Name in the settings of a run without an environment.
UNKNOWN = "demonstrations"
FINAL_RATE = 0.01
MAX_GRAD_NORM = 1.0
# Largest number of held-out steps in the validation loss.
MAX_VALIDATED = 4096


class PretrainState(PyTreeNode):
    """Training state, complete for a bit-identical resume. Outside a chunk, every leaf has a leading axis of one seed.

    Attributes:
        learner: moving average of the parameters, with which the policy acts, and optimizer state of `params`.
        obs_moments: moments of the demonstrated observations.
        params: parameters that the optimizer updates.
        key: typed PRNG key.
        num_updates: int32 scalar.
    """

    learner: Learner
    obs_moments: dict[str, RunningMoments]
    params: Any
    key: Array
    num_updates: Array


class Pretraining(Session):
    """A pretraining run and its folder.

    Args:
        demonstrations: the data, with actions in any units.
        settings: all settings.
        run_dir: folder of the run.
        env: the environment of the demonstrations; None if it is unknown.
        env_name: name of the environment in the settings; None: the name of the object.
        source: file of the demonstrations, recorded in the run folder.
        options: further arguments of `Session`.

    Raises:
        ValueError: if the demonstrations do not fit `settings.env`, or actions are beyond the chosen bounds.
    """

    unit = "updates"
    length_setting = "num_updates"
    # The schedule of the learning rate ends with the run.
    can_be_longer = False
    command = "pretrain"
    curve_lines = LOSS_LINES

    def __init__(
        self,
        demonstrations: Demonstrations,
        settings: PretrainConfig,
        run_dir: Path,
        *,
        env: Environment | None = None,
        env_name: str | None = None,
        source: str = "",
        **options: Any,
    ) -> None:
        self.demonstrations, self.settings, self.source = demonstrations, settings, source
        self.train_episodes, self.held_out = demonstrations.split(settings.valid_share, settings.seed)
        train = self.train_episodes
        self._env, self.record = env, {}
        if env is not None:
            factory = envs.factory_path(env_name) if env_name else None
            self.record = record_of(env, factory, is_object=env_name is None)
        bounds = action_range(settings, demonstrations, train, env)
        name = env_name or (env.name if env else demonstrations.env) or UNKNOWN
        config = _config(settings, name, demonstrations.action_size, bounds)
        self.spec = _spec(config, demonstrations, bounds)
        obs = demonstrations.observations(train, settings.history)
        self.moments = moments_of(obs, settings.normalization)
        self.graph = nnx.graphdef(nnx.eval_shape(self.spec.build))
        self.schedule = optax.cosine_decay_schedule(
            settings.learning_rate, settings.num_chunks * settings.updates_per_chunk, FINAL_RATE
        )
        self.optimizer = optax.chain(
            optax.clip_by_global_norm(MAX_GRAD_NORM),
            optax.adamw(self.schedule, weight_decay=settings.weight_decay),
        )
        plan = Plan(settings.updates_per_chunk, settings.num_chunks, 0, settings.checkpoint_minutes)
        super().__init__(config, plan, run_dir, **options)

    @property
    def env(self) -> Environment | None:
        """The environment of the demonstrations; None if it is unknown."""
        return self._env

    @property
    def env_option(self) -> str:
        """The option that names the environment of the user; "" if none is needed."""
        return env_option(self.config.env, self.record) if self._env is not None else ""

    def init_state(self) -> PretrainState:
        """Return the state of a new run, leaves `[1, ...]`."""
        return jax.tree.map(lambda x: x[None], self.init())

    def abstract_state(self) -> PretrainState:
        """Return shapes and types of the state."""
        return jax.eval_shape(self.init_state)

    def program(self) -> tuple[Any, tuple[Any, ...]]:
        """Return the program of a chunk, and the data."""

        def chunk(state: PretrainState, data: Any, held_out: Any) -> tuple[PretrainState, dict[str, Array]]:
            state, metrics = self._chunk(jax.tree.map(lambda x: x[0], state), data, held_out)
            return jax.tree.map(lambda x: x[None], state), metrics

        return jax.jit(chunk, donate_argnums=0), (self.train_set, self.valid_set)

    def restore(self) -> tuple[int, PretrainState]:
        """Return updates and state of the newest checkpoint; the data is standardized by its statistics."""
        steps, state = super().restore()
        # An earlier version computed others from the same data.
        self.moments = jax.tree.map(lambda x: x[0], state.obs_moments[ACTOR_OBS])
        return steps, state

    def policies_of(self, state: PretrainState) -> dict[int, TrainedPolicy]:
        """Return the policy of the averaged parameters."""
        return {self.settings.seed: policy_of(self.spec, state, 0)}

    def check_resumed(self) -> None:
        """Raise `ValueError` if the run was trained on other demonstrations."""
        saved = read_json(self.run_dir / PRETRAIN_FILE, "data")["data"]
        present = self.demonstrations
        # Before 0.3, no held-out episodes of a mask were an empty list.
        known = {fingerprint(present), fingerprint(replace(present, valid=present.valid or ()))}
        same = saved["sha256"] in known
        rule = f"the same as before ({saved['source'] or 'without a file'})"
        require(same, rule, "demonstrations of a resumed run", self.source or "other demonstrations")

    def write_settings(self) -> None:
        """Write `pretrain.json`, `policy_spec.json` and `config.json`."""
        described = {
            "source": self.source,
            "sha256": fingerprint(self.demonstrations),
            "episodes": len(self.demonstrations),
            "steps": self.demonstrations.num_steps,
            "obs_keys": self.demonstrations.obs_keys,
        }
        contents = {"format": FORMAT, "settings": self.settings.to_dict(), "data": described}
        write_json(self.run_dir / PRETRAIN_FILE, contents)
        write_policy_spec(self.run_dir, self.spec.to_dict())
        device = jax.devices()[0].device_kind, jax.device_count()
        write_config(self.run_dir, self.config, *device, run_id=self.run_id, environment=self.record)

    def init(self) -> PretrainState:
        """Return the state of a new run."""
        key, params_key = jax.random.split(jax.random.key(self.settings.seed))
        policy = self.spec.method.build(
            self.spec.obs_size, self.spec.action_size, self.spec.networks, nnx.Rngs(params_key)
        )
        params = {"policy": nnx.state(policy, nnx.Param)}
        # Copies: a program donates its state, and an array cannot be donated twice.
        average, moments = jax.tree.map(jnp.copy, (params, self.moments))
        learner = Learner(average, self.optimizer.init(params), jnp.float32(0))
        return PretrainState(learner, {ACTOR_OBS: moments}, params, key, jnp.int32(0))

    def update(self, state: PretrainState, data: tuple[Array, Array]) -> tuple[PretrainState, Array]:
        """Take one step on a random batch; return the next state and the loss."""
        key, batch_key, loss_key = jax.random.split(state.key, 3)
        index = jax.random.randint(batch_key, (self.settings.batch_size,), 0, len(data[0]))
        obs, action = data[0][index], data[1][index]

        def loss(params: Any) -> Array:
            return demonstration_losses(self._policy(params), obs, action, *draws(action.shape, loss_key)).mean()

        value, gradient = jax.value_and_grad(loss)(state.params)
        updates, opt_state = self.optimizer.update(gradient, state.learner.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        # At the start of the run the newest parameters have more weight.
        decay = jnp.minimum(self.settings.average, (1 + state.num_updates) / (10 + state.num_updates))
        average = jax.tree.map(lambda mean, new: decay * mean + (1 - decay) * new, state.learner.params, params)
        learner = Learner(average, opt_state, jnp.float32(self.schedule(state.num_updates)))
        return state.replace(learner=learner, params=params, key=key, num_updates=state.num_updates + 1), value

    def _chunk(self, state: PretrainState, data: Any, held_out: Any) -> tuple[PretrainState, dict[str, Array]]:
        state, losses = jax.lax.scan(
            lambda state, _: self.update(state, data), state, length=self.settings.updates_per_chunk
        )
        metrics = {"train/loss": losses.mean(), "train/learning_rate": state.learner.learning_rate}
        if held_out is not None:
            # The noise and times are always the same, so that the loss changes only with the policy.
            policy, key = self._policy(state.learner.params), jax.random.key(self.settings.seed)
            obs, action = held_out
            metrics["valid/loss"] = demonstration_losses(policy, obs, action, *draws(action.shape, key)).mean()
        return state, metrics

    def _policy(self, params: Any) -> Any:
        return nnx.merge(self.graph, params["policy"])

    @cached_property
    def train_set(self) -> tuple[Array, Array]:
        """The data to train on; made when it is needed, because a resume replaces the statistics."""
        return self._prepared(self.train_episodes)

    @cached_property
    def valid_set(self) -> tuple[Array, Array] | None:
        """The beginning of the held-out data; None if nothing is held out."""
        return jax.tree.map(lambda x: x[:MAX_VALIDATED], self._prepared(self.held_out)) if self.held_out else None

    def _prepared(self, numbers: list[int]) -> tuple[Array, Array]:
        """Return standardized observations and action chunks in [-1, 1] of these episodes."""
        obs = self.moments.standardize(jnp.asarray(self.demonstrations.observations(numbers, self.settings.history)))
        chunks = self.demonstrations.chunks(numbers, self.settings.chunk)
        if self.spec.action_low is not None:
            chunks = from_units(chunks.reshape(-1, self.demonstrations.action_size), self.spec.bounds)
        return obs, jnp.asarray(np.clip(chunks, -1, 1).reshape(len(obs), -1), jnp.float32)


def pretrain(
    demonstrations: Demonstrations,
    settings: PretrainConfig | None = None,
    run_dir: str | Path | None = None,
    *,
    resume: bool = False,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
    source: str = "",
    env: Any = None,
    trust: bool = False,
) -> Pretraining:
    """Train a policy on demonstrations, write the run folder, and return the run.

        run = genpo_jax.pretrain(genpo_jax.read_demonstrations("demos.hdf5"), run_dir="runs/flow")
        action = run.policy(obs)

    Args:
        demonstrations: from `genpo_jax.read_demonstrations`, with actions in any units.
        settings: all settings. None: those of the run to resume, or the defaults.
        run_dir: run folder. None: a new folder under `runs/`.
        resume: resume from the newest checkpoint in `run_dir`, bit-identically.
        progress: show progress on standard output.
        callbacks: called during training.
        source: file of the demonstrations, recorded in the run folder.
        env: environment of the demonstrations, by name or as an object. None: that of `settings`, of the run to resume,
            or the one that the demonstrations name.
        trust: import the module that the run to resume or the demonstrations name as their environment.

    Raises:
        ValueError: if the demonstrations do not fit the environment or have actions beyond the chosen bounds; if the
            environment's module must be trusted or named first; if `run_dir` holds a run but `resume` is False, or
            holds another run, or one with other settings.
    """
    if resume and run_dir is None:
        raise ValueError("resume=True needs run_dir, the folder of the run to resume")
    configure_jax()
    if run_dir is not None:
        check_run_dir(Path(run_dir), resume)
    settings = resumed_settings(run_dir, settings) if resume and run_dir else settings or PretrainConfig()
    resumed, setting = (Path(run_dir), None) if resume and run_dir else (None, settings.env)
    made, name = _environment(demonstrations, setting, resumed, source, env, trust)
    if run_dir is None:
        run_dir = new_run_dir(settings.run_config(name or (made.name if made else UNKNOWN)))
    path = Path(run_dir)
    options: dict[str, Any] = {"resume": resume, "progress": progress, "callbacks": callbacks}
    options |= {"env": made, "env_name": name}
    run = Pretraining(demonstrations, settings, path, source=source, **options)
    run.train()
    if run.held_out and not run.stopped:
        write_held_out(path, run.policy, demonstrations, run.train_episodes, run.held_out)
    return run


def saved_settings(run_dir: str | Path) -> tuple[PretrainConfig, str]:
    """Return the settings of a pretraining run and the file of its demonstrations.

    Raises:
        FileNotFoundError: if `run_dir` holds no pretraining run.
    """
    path = Path(run_dir) / PRETRAIN_FILE
    if not path.exists():
        raise FileNotFoundError(f"{run_dir} holds no {PRETRAIN_FILE}: it is not a pretraining run; check the path")
    contents = read_json(path, "settings", "data")
    source = contents["data"].get("source")
    require(isinstance(source, str), "a string", f"data.source of {path}", source, "restore the file")
    return build_settings(PretrainConfig, contents["settings"]), source


def resumed_settings(run_dir: str | Path, settings: PretrainConfig | None) -> PretrainConfig:
    """Return the settings of a run to resume.

    Raises:
        ValueError: if given settings differ from the saved ones; another path of the environment is compared later.
    """
    saved = saved_settings(run_dir)[0]
    refuse_changed(vars(saved), vars(settings or saved), free=("env",))
    return saved


def moments_of(obs: np.ndarray, normalization: str) -> RunningMoments:
    """Return moments that standardize observations `[N, n]`, or scale them to [-1, 1] (`min-max`).

    A constant coordinate is only shifted to 0, as `RunningMoments.std` has it.
    """
    # Sums of float32 over many rows are wrong in the fourth digit.
    obs = obs.astype(np.float64)
    if normalization == "min-max":
        low, high = obs.min(axis=0), obs.max(axis=0)
        center, scale = (high + low) / 2, (high - low) / 2
    else:
        center, scale = obs.mean(axis=0), obs.std(axis=0)
    count = jnp.float32(len(obs))
    return RunningMoments(count, jnp.asarray(center, jnp.float32), jnp.asarray(count * scale**2, jnp.float32))


def _environment(
    demonstrations: Demonstrations, setting: str | None, resumed: Path | None, source: str, env: Any, trust: bool
) -> tuple[Environment | None, str | None]:
    """Return the environment, or None, and its name, which is None for an object.

    An environment that only the data names is left out if it is unknown or does not fit, or its module must be trusted.

    Raises:
        ValueError: if the given or the resumed environment cannot be made, does not fit, or must be trusted first.
    """
    recorded, env = _recorded(demonstrations, resumed, source), setting if env is None else env
    if not (env is None or isinstance(env, str)):
        made, name = envs.as_environment(env), None
    elif env is None and recorded.name == UNKNOWN:
        return None, None
    else:
        try:
            name = importable_name(recorded, env, trust)
            made = envs.make(name)
            _check_sizes(demonstrations, made)
        except (ValueError, ImportError) as error:
            if env is not None or recorded.own_name is not None:
                raise
            logger.warning(
                "the environment '%s' of the data is not used, so the policy is not evaluated; env names another one "
                "(%s)",
                *(recorded.name, error),
            )
            return None, recorded.name
    _check_sizes(demonstrations, made)
    same = resumed is None or name in (recorded.name, recorded.path) or made.name == recorded.own_name
    require(same, f"that of the run, {recorded.name!r}", "the environment of a resumed run", name or made.name)
    return made, name


def _recorded(demonstrations: Demonstrations, resumed: Path | None, source: str) -> Recorded:
    """Return what the run to resume, or else the file of the demonstrations, names as its environment."""
    if resumed is not None:
        return Recorded.of_run(resumed)
    data = Path(source) if source else None
    folder = data if data is not None and data.is_dir() else None
    return Recorded.of(demonstrations.env or UNKNOWN, {}, source or "the file of the demonstrations", folder)


def _check_sizes(demonstrations: Demonstrations, env: Environment) -> None:
    sizes = (demonstrations.obs_size, demonstrations.action_size)
    expected = (env.observation_sizes.get(ACTOR_OBS), env.action_size)
    rule = f"of observation size {expected[0]} and action size {expected[1]} for {env.name}"
    require(sizes == expected, rule, "demonstrations", sizes, "choose other obs_keys, or another env")


def _config(settings: PretrainConfig, env: str, action_size: int, bounds: Bounds | None) -> Config:
    """Return the settings of the run, from which fine-tuning starts."""
    config, (low, high) = settings.run_config(env, action_size), bounds or (None, None)
    return replace(config, env_options=replace(config.env_options, action_low=low, action_high=high))


def _spec(config: Config, demonstrations: Demonstrations, bounds: Bounds | None) -> PolicySpec:
    sizes = demonstrations.obs_size, demonstrations.action_size
    return replace(
        PolicySpec.of_sizes(config, config.seed, *sizes, bounds),
        action_names=demonstrations.action_names,
        obs_names=demonstrations.obs_names,
        rate=demonstrations.rate,
    )


def fingerprint(demonstrations: Demonstrations) -> str:
    """Return a hash of the contents of demonstrations."""
    digest = hashlib.sha256(json.dumps(demonstrations.valid).encode())
    for episode in demonstrations.episodes:
        for array in (episode.obs, episode.action):
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
