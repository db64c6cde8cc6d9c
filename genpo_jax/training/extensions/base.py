"""Interface of the optional parts of the update."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from flax.struct import PyTreeNode
from jax import Array

from genpo_jax import normalizer
from genpo_jax.config import Config
from genpo_jax.envs import EpisodeEnv, Observation
from genpo_jax.normalizer import RunningMoments
from genpo_jax.policy import TrainedPolicy
from genpo_jax.shapes import Scalar, Steps
from genpo_jax.training.agent import Agent
from genpo_jax.training.batch import Batch
from genpo_jax.training.rollout import Rollout

Metrics = dict[str, Array]


@dataclass(frozen=True)
class Update:
    """Data of one update that the extensions read.

    Attributes:
        config: settings of the run.
        env: the environments.
        agent: the agent that collected the rollout.
        initial_agent: the same agent with the initial policy; None if no extension needs the initial policy.
        rollout: transitions `[T, B, ...]`.
        moments: observation statistics, which stay fixed during the update.
        num_updates: updates done before this one, int32 scalar.
        progress: fraction of the run that is done, in [0, 1].
        gamma: discount factor of this update, scalar.
        key: typed PRNG key of the extensions.
    """

    config: Config
    env: EpisodeEnv
    agent: Agent
    initial_agent: Agent | None
    rollout: Rollout
    moments: dict[str, RunningMoments]
    num_updates: Array
    progress: Array
    gamma: Array
    key: Array

    @cached_property
    def obs(self) -> Observation:
        """Standardized observations `[T, B, ...]` of the rollout."""
        return self.normalize(self.rollout.obs)

    def normalize(self, obs: Observation) -> Observation:
        """Standardize observations by the statistics of this update."""
        return normalizer.standardize_each(self.moments, obs)


class Extension(PyTreeNode):
    """Base class of the optional parts of the update.

    The fields are coefficients. They are leaves of the program's arguments, so one compiled program serves all values.
    By default every hook does nothing.
    """

    needs_initial_policy: ClassVar[bool] = False
    """Whether the training state keeps the parameters of the initial policy."""

    @classmethod
    def of(cls, config: Config) -> "Extension | None":
        """Return the extension with plain numbers from the settings; None if the settings do not enable it."""
        raise NotImplementedError

    def taught_by(self, teachers: tuple[TrainedPolicy, ...]) -> "Extension":
        """Return the extension with the teachers of the run."""
        del teachers
        return self

    def check(self, env: EpisodeEnv) -> None:
        """Raise `ValueError` if the extension cannot work in this environment."""

    def reward(self, update: Update) -> tuple[Steps | float, Metrics]:
        """Return a term of the rewards `[T, B]`, in units of the environment's reward, and metrics."""
        del update
        return 0.0, {}

    def extend(self, update: Update, batch: Batch) -> Batch:
        """Return the batch `[T, B, ...]` with additional data, or with additional transitions along T."""
        del update
        return batch

    def observations(self, update: Update) -> tuple[Observation, ...]:
        """Return additional observations `[T, B, ...]` for the statistics of the normalizer."""
        del update
        return ()

    def loss(self, agent: Agent, batch: Batch) -> tuple[Scalar | float, Metrics]:
        """Return a term of the loss of a minibatch, a scalar, and metrics."""
        del agent, batch
        return 0.0, {}

    def rate_during(self, rate: Array, num_updates: Array) -> Array:
        """Return the policy's learning rate for the epochs of this update."""
        del num_updates
        return rate

    def rate_after(self, before: Array, after: Array, num_updates: Array) -> Array:
        """Return the policy's learning rate for the next update, from the rates before and after this one."""
        del before, num_updates
        return after
