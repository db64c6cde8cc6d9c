"""Flows with noise in every step: a chain of Gaussian steps, each with a likelihood."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from flax.struct import PyTreeNode
from jax import Array

from genpo_jax.methods import DPPO, NetworksConfig, ReinFlow
from genpo_jax.policies.base import Policy
from genpo_jax.policies.euler import euler, grid
from genpo_jax.policies.gaussian import normal_log_prob
from genpo_jax.policies.networks import make_velocity
from genpo_jax.shapes import Action, Noise, Obs


class ChainRecord(PyTreeNode):
    """States `[..., K + 1, d]` from noise to action, and the log density `[..., K]` of each step."""

    COORDINATES: ClassVar[tuple[str, ...]] = ("states",)

    states: Array
    log_prob: Array


class ChainPolicy(Policy):
    """Base class of policies that take K noisy Euler steps, `x' = x + v(x, t) / K + std * noise`.

    Subclasses define `log_std` and `log_ratio`.
    """

    def __init__(
        self, obs_size: int, action_size: int, method: DPPO | ReinFlow, networks: NetworksConfig, rngs: nnx.Rngs
    ) -> None:
        self.velocity = make_velocity(obs_size, action_size, method, networks, rngs)
        self.action_size = action_size
        self.num_steps = method.num_steps
        self.noise_rows = self.num_steps + 1
        self.scale, added_std = method.stds
        # Equal variance in every step.
        self.step_std = added_std / self.num_steps**0.5

    def sample(self, obs: Obs, key: Array) -> tuple[Action, ChainRecord]:
        """Draw actions `[..., d]`."""
        noise = jax.random.normal(key, (*obs.shape[:-1], self.noise_rows, self.action_size))
        chain = self._chain(obs, noise)
        return chain[..., -1, :], ChainRecord(chain, self._log_probs(obs, chain))

    def action_of(self, obs: Obs, noise: Noise) -> Action:
        """Return the actions `[..., d]` for the initial noise and the noise of every step."""
        return self._chain(obs, noise)[..., -1, :]

    def _chain(self, obs: Array, noise: Array) -> Array:
        """Return all states `[..., K + 1, d]` from noise to action."""
        velocity = self.velocity.condition(obs, grid(self.num_steps))
        stds = jnp.exp(self.log_std(obs))
        states = [self.scale * noise[..., 0, :]]
        for i in range(self.num_steps):
            x = states[-1]
            drift = velocity(x, jnp.asarray(i / self.num_steps, x.dtype)) / self.num_steps
            states.append(x + drift + stds[..., i, :] * noise[..., i + 1, :])
        return jnp.stack(states, axis=-2)

    def zero_noise_action(self, obs: Obs) -> Action:
        """Return the deterministic actions `[..., d]`, computed from zero noise in every step."""
        start = jnp.zeros((*obs.shape[:-1], self.action_size))
        return euler(self.velocity.condition(obs, grid(self.num_steps)), start, self.num_steps)

    def log_std(self, obs: Array) -> Array:
        """Return the log standard deviation of every step, in a shape that broadcasts to `[..., K, d]`."""
        raise NotImplementedError

    def _log_probs(self, obs: Array, states: Array) -> Array:
        """Return the log density `[..., K]` of every step of a chain, evaluated in one batch."""
        earlier, later = states[..., :-1, :], states[..., 1:, :]
        velocity = self.velocity.condition(obs[..., None, :], grid(self.num_steps))
        times = jnp.asarray(grid(self.num_steps), earlier.dtype)
        mean = earlier + velocity(earlier, times) / self.num_steps
        return normal_log_prob(later - mean, self.log_std(obs))
