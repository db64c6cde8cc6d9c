"""Train a policy on demonstrations, and leave a run that `genpo_jax.load` opens."""

import hashlib
import io
import json
import time
from contextlib import ExitStack
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
from genpo_jax.config import build_settings
from genpo_jax.data import Demonstrations
from genpo_jax.imitation.config import PretrainConfig
from genpo_jax.imitation.losses import demonstration_losses
from genpo_jax.policy import PolicySpec
from genpo_jax.runs.checkpoint import Checkpointer
from genpo_jax.runs.folder import (
    CHECKPOINTS,
    FORMAT,
    check_run_dir,
    identity_of,
    locked,
    read_json,
    run_id_of,
    write_config,
    write_json,
    write_policy,
)
from genpo_jax.runs.metrics import MetricsWriter
from genpo_jax.runs.progress import Progress
from genpo_jax.runs.run import stop_requests
from genpo_jax.training.agent import ACTOR_OBS
from genpo_jax.training.normalizer import MIN_STD, RunningMoments
from genpo_jax.training.ppo import Learner

PRETRAIN_FILE = "pretrain.json"
FINAL_RATE = 0.01
MAX_GRAD_NORM = 1.0
# Held-out steps that the validation loss is a mean over.
MOST_VALIDATED = 4096


class PretrainState(PyTreeNode):
    """Everything needed to go on bit for bit; what acts lies where a run's policy does.

    Attributes:
        learner: the moving average of the parameters, and the optimizer of `params`.
        obs_moments: of the demonstrations.
        params: what the gradient moves.
        key: typed PRNG key.
        num_updates: int32 scalar.
    """

    learner: Learner
    obs_moments: dict[str, RunningMoments]
    params: Any
    key: Array
    num_updates: Array


class Pretraining:
    """One policy, its demonstrations and the folder that it leaves.

    Args:
        demonstrations: with actions in [-1, 1].
        config: all settings.
        run_dir: folder of the run.
        resume: go on from the newest checkpoint in the folder, bit for bit.
        progress: show progress on standard output.
        source: the file that the demonstrations are from, to be recorded.

    Attributes:
        metrics: the last values, by name.
        stopped: whether the run was asked to stop before its end.

    Raises:
        ValueError: if the demonstrations do not fit the environment, or actions are out of bounds.
    """

    def __init__(
        self,
        demonstrations: Demonstrations,
        config: PretrainConfig,
        run_dir: str | Path,
        *,
        resume: bool = False,
        progress: bool = True,
        source: str = "",
    ) -> None:
        self.demonstrations = demonstrations.with_bounded_actions()
        self.config, self.run_dir, self.resume = config, Path(run_dir), resume
        self.show_progress, self.source = progress, source
        self.env = config.env or demonstrations.env
        if self.env:
            _check_sizes(demonstrations, envs.make(self.env))
        self.run_config = config.run_config(self.env or "demonstrations")
        self.spec = PolicySpec(
            env=self.run_config.env,
            seed=config.seed,
            obs_size=demonstrations.obs_size,
            obs_name=ACTOR_OBS,
            action_size=config.chunk * demonstrations.action_size,
            squash=self.run_config.env_options.squash,
            method=self.run_config.method,
            networks=self.run_config.networks,
            normalized=True,
            chunk=config.chunk,
            executed=config.executed or config.chunk,
        )
        train, held_out = self.demonstrations.split(config.valid_share, config.seed)
        obs = self.demonstrations.observations(train)
        self.moments = moments_of(obs, config.normalization)
        self.train_set = self._prepared(train)
        self.valid_set = jax.tree.map(lambda x: x[:MOST_VALIDATED], self._prepared(held_out)) if held_out else None
        self.graph = nnx.graphdef(nnx.eval_shape(self.spec.build))
        self.schedule = optax.cosine_decay_schedule(
            config.learning_rate, config.num_chunks * config.updates_per_chunk, FINAL_RATE
        )
        self.optimizer = optax.chain(
            optax.clip_by_global_norm(MAX_GRAD_NORM),
            optax.adamw(self.schedule, weight_decay=config.weight_decay),
        )
        self.metrics: dict[str, float] = {}
        self.stopped = False

    def train(self) -> None:
        """Train to the end, or until interrupted; what is left can be loaded, evaluated and fine-tuned.

        Raises:
            ValueError: if the folder holds a run that `resume` does not ask for, or another run.
        """
        with ExitStack() as stack:
            stack.enter_context(locked(self.run_dir))
            check_run_dir(self.run_dir, self.resume)
            run_id = run_id_of(self.run_dir)
            checkpointer = Checkpointer(self.run_dir / CHECKPOINTS, identity=identity_of(run_id, self.config.seed))
            stack.callback(checkpointer.close)
            state = self._start(checkpointer, run_id)
            stop = stack.enter_context(stop_requests())
            total = self.config.num_chunks * self.config.updates_per_chunk
            stream = None if self.show_progress else io.StringIO()
            done = int(state.num_updates)
            progress = stack.enter_context(Progress(total, start=done, stream=stream))
            resume_at = (done or -1) if self.resume else None
            writer = stack.enter_context(MetricsWriter(self.run_dir, resume_at, self.config.updates_per_chunk))
            program = jax.jit(self._chunk, donate_argnums=0)
            started = saved = time.monotonic()
            while done < total and not self.stopped:
                began = time.monotonic()
                state, metrics = program(state, self.train_set, self.valid_set)
                self.metrics = {name: float(value) for name, value in jax.device_get(metrics).items()}
                self.metrics["time/steps_per_second"] = self.config.updates_per_chunk / (time.monotonic() - began)
                done = int(state.num_updates)
                writer.write(done, time.monotonic() - started, self.metrics)
                progress.update(done, self.metrics)
                self.stopped = bool(stop)
                if done == total or self.stopped or time.monotonic() > saved + 60 * self.config.checkpoint_minutes:
                    self._save(checkpointer, state)
                    saved = time.monotonic()

    def init(self) -> PretrainState:
        """Return the state of a new run."""
        key, params_key = jax.random.split(jax.random.key(self.config.seed))
        policy = self.spec.method.build(
            self.spec.obs_size, self.spec.action_size, self.spec.networks, nnx.Rngs(params_key)
        )
        params = {"policy": nnx.state(policy, nnx.Param)}
        # Copies: a program consumes its state, and nothing may be in it twice.
        average, moments = jax.tree.map(jnp.copy, (params, self.moments))
        learner = Learner(average, self.optimizer.init(params), jnp.float32(0))
        return PretrainState(learner, {ACTOR_OBS: moments}, params, key, jnp.int32(0))

    def update(self, state: PretrainState, data: tuple[Array, Array]) -> tuple[PretrainState, Array]:
        """Take one step on a random batch; return the next state and the loss."""
        key, batch_key, loss_key = jax.random.split(state.key, 3)
        index = jax.random.randint(batch_key, (self.config.batch_size,), 0, len(data[0]))
        obs, action = data[0][index], data[1][index]

        def loss(params: Any) -> Array:
            return demonstration_losses(self._policy(params), obs, action, loss_key).mean()

        value, gradient = jax.value_and_grad(loss)(state.params)
        updates, opt_state = self.optimizer.update(gradient, state.learner.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        # Until there is much to average, the last parameters count for more.
        decay = jnp.minimum(self.config.average, (1 + state.num_updates) / (10 + state.num_updates))
        average = jax.tree.map(lambda mean, new: decay * mean + (1 - decay) * new, state.learner.params, params)
        learner = Learner(average, opt_state, jnp.float32(self.schedule(state.num_updates)))
        return state.replace(learner=learner, params=params, key=key, num_updates=state.num_updates + 1), value

    def _chunk(self, state: PretrainState, data: Any, held_out: Any) -> tuple[PretrainState, dict[str, Array]]:
        state, losses = jax.lax.scan(
            lambda state, _: self.update(state, data), state, length=self.config.updates_per_chunk
        )
        metrics = {"train/loss": losses.mean(), "train/learning_rate": state.learner.learning_rate}
        if held_out is not None:
            # The same noise and times for ever, so that its course is that of the policy alone.
            policy, key = self._policy(state.learner.params), jax.random.key(self.config.seed)
            obs, action = held_out
            metrics["valid/loss"] = demonstration_losses(policy, obs, action, key).mean()
        return state, metrics

    def _policy(self, params: Any) -> Any:
        return nnx.merge(self.graph, params["policy"])

    def _prepared(self, numbers: list[int]) -> tuple[Array, Array]:
        """Return standardized observations and chunks of actions of these episodes."""
        obs = self.moments.standardize(jnp.asarray(self.demonstrations.observations(numbers)))
        return obs, jnp.asarray(self.demonstrations.chunks(numbers, self.config.chunk))

    def _start(self, checkpointer: Checkpointer, run_id: str) -> PretrainState:
        state = self.init()
        if self.resume:
            saved = read_json(self.run_dir / PRETRAIN_FILE, "data")["data"]
            same = saved["sha256"] == _fingerprint(self.demonstrations)
            require(same, f"those of {saved['source']}", "demonstrations of a resumed run", self.source or "others")
            # As in every run, a state has a leading axis of seeds.
            abstract = jax.eval_shape(lambda: jax.tree.map(lambda x: x[None], state))
            _, restored, _ = checkpointer.restore(abstract)
            return jax.tree.map(lambda x: x[0], restored)
        self._save(checkpointer, state)
        described = {
            "source": self.source,
            "sha256": _fingerprint(self.demonstrations),
            "episodes": len(self.demonstrations),
            "steps": self.demonstrations.num_steps,
            "obs_keys": self.demonstrations.obs_keys,
        }
        write_json(
            self.run_dir / PRETRAIN_FILE,
            {"format": FORMAT, "settings": self.config.to_dict(), "data": described},
        )
        write_policy(self.run_dir, self.spec.to_dict())
        device = jax.devices()[0].device_kind, jax.device_count()
        write_config(
            self.run_dir, self.run_config, *device, run_id=run_id, env_factory=envs.factory_path(self.run_config.env)
        )
        return state

    def _save(self, checkpointer: Checkpointer, state: PretrainState) -> None:
        checkpointer.save(int(state.num_updates), jax.tree.map(lambda x: x[None], state), {"wall_seconds": 0.0})


def saved_settings(run_dir: str | Path) -> tuple[PretrainConfig, str]:
    """Return the settings of a pretraining run, and the file of its demonstrations.

    Raises:
        FileNotFoundError: if `run_dir` holds none.
    """
    path = Path(run_dir) / PRETRAIN_FILE
    if not path.exists():
        raise FileNotFoundError(f"{run_dir} holds no {PRETRAIN_FILE}: it is no run of pretraining; check the path")
    contents = read_json(path, "settings", "data")
    return build_settings(PretrainConfig, contents["settings"]), contents["data"]["source"]


def moments_of(obs: np.ndarray, normalization: str) -> RunningMoments:
    """Return moments that standardize observations `[N, n]`, or bring them to [-1, 1] (`min-max`).

    A coordinate that never changes is only shifted.
    """
    if normalization == "min-max":
        low, high = obs.min(axis=0), obs.max(axis=0)
        center, scale = (high + low) / 2, (high - low) / 2
    else:
        center, scale = obs.mean(axis=0), obs.std(axis=0)
    scale = np.where(scale < MIN_STD, 1.0, scale)
    count = jnp.float32(len(obs))
    return RunningMoments(count, jnp.asarray(center, jnp.float32), jnp.asarray(count * scale**2, jnp.float32))


def _check_sizes(demonstrations: Demonstrations, env: envs.Environment) -> None:
    found = (demonstrations.obs_size, demonstrations.action_size)
    wanted = (env.observation_sizes.get(ACTOR_OBS), env.action_size)
    rule = f"of {wanted[0]} observed numbers and {wanted[1]} of action, as {env.name} has"
    require(found == wanted, rule, "demonstrations", found, "choose other obs_keys, or another env")


def _fingerprint(demonstrations: Demonstrations) -> str:
    """Return what tells demonstrations apart, wherever their file is."""
    digest = hashlib.sha256(json.dumps(demonstrations.valid).encode())
    for episode in demonstrations.episodes:
        for array in (episode.obs, episode.action):
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
