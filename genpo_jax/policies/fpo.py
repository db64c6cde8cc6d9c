"""Flow matching policy optimization: the flow-matching loss replaces the likelihood."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from flax.struct import PyTreeNode
from jax import Array

from genpo_jax.methods import FPO, NetworksConfig
from genpo_jax.policies.base import Policy
from genpo_jax.policies.euler import euler, grid
from genpo_jax.policies.networks import make_velocity
from genpo_jax.shapes import Action, LogRatios, Noise, Numbers, Obs


class MatchingRecord(PyTreeNode):
    """The action `[..., d]`, and N draws of noise `[..., N, d]` and time `[..., N]` with their losses at rollout."""

    COORDINATES: ClassVar[tuple[str, ...]] = ("action", "noise")

    action: Array
    noise: Array
    time: Array
    loss: Array


class FPOPolicy(Policy):
    """FPO (arXiv:2507.21053): `exp(old loss - new loss)` of the flow-matching loss replaces the ratio.

    The loss bounds the negative log likelihood up to a constant, so the surrogate is a ratio of bounds. It is estimated
    from N draws of noise ε and time t, which are the same for both losses. With x_t = (1 - t) ε + t a, the velocity
    predicts ε as x_t - t v, and the loss is the squared error of this prediction, as published.
    """

    def __init__(self, obs_size: int, action_size: int, method: FPO, networks: NetworksConfig, rngs: nnx.Rngs) -> None:
        self.velocity = make_velocity(obs_size, action_size, method, networks, rngs)
        self.action_size = action_size
        self.scale = method.initial_std
        self.num_steps = method.num_steps
        self.num_samples = method.num_samples

    def sample(self, obs: Obs, key: Array) -> tuple[Action, MatchingRecord]:
        """Draw actions `[..., d]`."""
        batch = obs.shape[:-1]
        start_key, noise_key, time_key = jax.random.split(key, 3)
        action = self.action_of(obs, jax.random.normal(start_key, (*batch, 1, self.action_size)))
        noise = jax.random.normal(noise_key, (*batch, self.num_samples, self.action_size))
        # Only the start times of solver steps, because the velocity is used at no other times.
        time = jax.random.randint(time_key, (*batch, self.num_samples), 0, self.num_steps) / self.num_steps
        return action, MatchingRecord(action, noise, time, self._loss(obs, action, noise, time))

    def log_ratio(self, obs: Obs, record: Any) -> Numbers | LogRatios:
        """Return the surrogate log-ratio `[...]` of recorded actions."""
        return (record.loss - self._loss(obs, record.action, record.noise, record.time)).mean(axis=-1)

    def action_of(self, obs: Obs, noise: Noise) -> Action:
        """Return the actions `[..., d]` for one row of noise."""
        start = self.scale * noise[..., 0, :]
        return euler(self.velocity.condition(obs, grid(self.num_steps)), start, self.num_steps)

    def _loss(self, obs: Array, action: Array, noise: Array, time: Array) -> Array:
        """Return the losses `[..., N]`, in units of the noise."""
        start, end = self.scale * noise, action[..., None, :]
        t = time[..., None]
        velocity = self.velocity.condition(obs[..., None, :], grid(self.num_steps))
        error = (velocity((1 - t) * start + t * end, time) - (end - start)) / self.scale
        return jnp.square(self._weight(t) * error).mean(axis=-1)

    def _weight(self, t: Array) -> Array:
        return t
