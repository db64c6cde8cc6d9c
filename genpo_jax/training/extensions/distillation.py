"""Distillation: learn the actions of teachers in the states that the policy visits."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax.struct import PyTreeNode, field
from jax import Array

from genpo_jax.checks import require
from genpo_jax.config import Config
from genpo_jax.envs import EpisodeEnv
from genpo_jax.envs.base import ACTOR_OBS
from genpo_jax.envs.teachers import TAKEN, TURN, teacher_obs
from genpo_jax.envs.wrappers import Bounds, action_bounds, bounds_of, from_units
from genpo_jax.methods import Gaussian, NoisyFlowMethod
from genpo_jax.policies.losses import demonstration_losses, draws
from genpo_jax.policy import TrainedPolicy
from genpo_jax.shapes import Scalar
from genpo_jax.training.agent import Agent
from genpo_jax.training.batch import Batch
from genpo_jax.training.extensions.base import Extension, Metrics, Update

TEACHER = "teacher"
# Draws of noise and time per label; they serve all epochs of an update.
NUM_DRAWS = 4
# Largest bounded action that tanh is inverted for: the unbounded action is then 3.8.
LARGEST_TANH = 0.999
# Bases of the noise from which flow matching transports; it cannot fit the others.
BASES = ("standard", "correlated")


class Label(PyTreeNode):
    """A teacher's action `[..., d]`, unbounded, with N draws of noise `[..., N, d]` and time `[..., N]`."""

    COORDINATES: ClassVar[tuple[str, ...]] = ("action", "noise")

    action: Array
    noise: Array
    time: Array


class Distillation(Extension):
    """Loss term: the imitation loss of the teachers' actions in the states that the policy visits (DAgger).

    It is a Gaussian's negative log-likelihood, or the flow-matching loss (Ross et al. 2011, arXiv:1011.0686;
    `genpo_jax/policies/losses.py`). Teachers see their own observations, with their own histories and normalizers.

    With several teachers, each episode draws one. Let `E_i` be minus the squared distances of the actions taken in the
    episode so far, in this rollout, to the deterministic actions of teacher i, over `2 std^2`. Teacher i labels a step
    with a probability in proportion to `exp(E_i)`, the posterior of the teacher given the policy's own actions. So a
    policy that has chosen a mode continues to learn this mode. With `std` None, `E_i` is 0.

    Attributes:
        coef: weight of the loss.
        std: standard deviation in `E_i`, for actions in [-1, 1]; None: the actions taken do not matter.
        teachers: the frozen policies.
        sampled: whether labels are sampled; otherwise they are the deterministic actions.
    """

    coef: Any
    std: Any
    teachers: tuple[TrainedPolicy, ...] = ()
    sampled: bool = field(pytree_node=False, default=True)

    @classmethod
    def of(cls, config: Config) -> "Distillation | None":
        """Return the loss, unless its coefficient is 0.

        Raises:
            ValueError: if the policy outputs action chunks, or the loss cannot fit the method.
        """
        ppo, options, method = config.ppo, config.env_options, config.method
        if not ppo.distill_coef:
            return None
        require(options.chunk == 1, "1 to distill, because teachers label single actions", "chunk", options.chunk)
        base = getattr(method, "base", BASES[0])
        require(base in BASES, f"{' or '.join(BASES)} to distill, because flow matching fits no other", "base", base)
        if not isinstance(method, Gaussian):
            # Without its own setting, the added noise takes its share of the initial noise.
            std = method.stds[0] if isinstance(method, NoisyFlowMethod) else method.initial_std
            rule = "1, the noise of flow matching, to distill a flow"
            remedy = "set initial_std=1, and noise_std if it has one"
            require(std == 1, rule, "the standard deviation of the initial noise", std, remedy)
        return cls(ppo.distill_coef, ppo.distill_std, sampled=ppo.distill_labels == "random")

    def taught_by(self, teachers: tuple[TrainedPolicy, ...]) -> "Distillation":
        """Return the loss with the teachers of the run."""
        return self.replace(teachers=teachers)

    def check(self, env: EpisodeEnv) -> None:
        """Raise `ValueError` if there is no teacher, or a teacher does not fit the environment."""
        require(len(self.teachers) > 0, "given with distill_coef > 0", "teachers", None, "name their run folders")
        sizes = env.env.observation_sizes
        for number, teacher in enumerate(self.teachers):
            spec, name = teacher.spec, f"of teacher {number} ({teacher.spec.env})"
            require(spec.chunk == 1, "1, because teachers label single actions", f"chunk {name}", spec.chunk)
            repeat = env.action_repeat
            same = spec.action_repeat == repeat
            require(same, f"{repeat}, that of the run", f"action_repeat {name}", spec.action_repeat)
            own, size = sizes[teacher_obs(number)], env.env.action_size
            require(spec.obs_size == own, f"{own}, as in {env.env.name}", f"observation size {name}", spec.obs_size)
            require(spec.action_size == size, f"{size}, as in {env.env.name}", f"action size {name}", spec.action_size)

    def extend(self, update: Update, batch: Batch) -> Batch:
        """Add the labels `[T, B, ...]` of the visited states."""
        # `Cloning` uses children 0 and 1.
        label_key, noise_key = jax.random.split(update.key, 4)[2:]
        count = len(self.teachers)
        keys = jax.random.split(label_key, count) if self.sampled else [None] * count
        actions = jnp.stack([self._actions(update, i, keys[i]) for i in range(count)])
        chosen = self._turns(update).argmax(axis=-1)
        action = jnp.take_along_axis(actions, chosen[None, ..., None], axis=0)[0]
        num_draws = 1 if isinstance(update.config.method, Gaussian) else NUM_DRAWS
        shape = (*action.shape[:-1], num_draws, action.shape[-1])
        label = Label(unbounded(action, update.config.env_options.squash), *draws(shape, noise_key))
        return batch.replace(other_records=batch.other_records | {TEACHER: label})

    def loss(self, agent: Agent, batch: Batch) -> tuple[Scalar, Metrics]:
        """Return the mean imitation loss of the labels, times the coefficient."""
        label, obs = batch.other_records[TEACHER], batch.obs[ACTOR_OBS]
        # One observation and one action for the N draws.
        obs, action = obs[..., None, :], label.action[..., None, :]
        value = demonstration_losses(agent.policy, obs, action, label.noise, label.time).mean()
        return self.coef * value, {"train/distill_loss": value}

    def _actions(self, update: Update, number: int, key: Array | None = None) -> Array:
        """Return the actions `[T, B, d]` of a teacher in [-1, 1] of the run; without a key the deterministic ones."""
        action = self.teachers[number](update.rollout.obs[teacher_obs(number)], key)
        return self._in_run(update, action)

    def _in_run(self, update: Update, action: Array) -> Array:
        """Return actions in units of the environment as actions in [-1, 1] of the run."""
        return jnp.clip(from_units(action, run_bounds(update)), -1, 1)

    def _turns(self, update: Update) -> Array:
        """Return the scores `[T, B, n]` of the teachers; the teacher with the largest score labels the step."""
        turn = update.rollout.obs[TURN]
        if self.std is None or len(self.teachers) == 1:
            return turn
        actions = jnp.stack([self._actions(update, i) for i in range(len(self.teachers))], axis=-2)
        # The action of a step is observed in the next one.
        taken = self._in_run(update, update.rollout.obs[TAKEN])[1:, ..., None, :]
        evidence = -jnp.square(taken - actions[:-1]).sum(axis=-1) / (2 * jnp.square(self.std))

        def add(total: Array, step: Any) -> tuple[Array, Array]:
            evidence, ended = step
            total = jnp.where(ended[..., None], 0.0, total + evidence)
            return total, total

        _, totals = jax.lax.scan(add, jnp.zeros_like(turn[0]), (evidence, update.rollout.ended[:-1]))
        return turn + jnp.concatenate([jnp.zeros_like(turn[:1]), totals])


def run_bounds(update: Update) -> Bounds:
    """Return what -1 and 1 mean in the actions of a run, in units of the environment."""
    env = update.env.env
    return action_bounds(env, update.config.env_options) or bounds_of(None, env.action_size)


def unbounded(action: Array, squash: str) -> Array:
    """Return actions that the squash maps to these actions in [-1, 1]; tanh never reaches its bounds."""
    return jnp.arctanh(jnp.clip(action, -LARGEST_TANH, LARGEST_TANH)) if squash == "tanh" else action
