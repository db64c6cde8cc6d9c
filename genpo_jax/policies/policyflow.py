"""PolicyFlow: ratio of Gaussian perturbations, shifted by the change of the velocity at one point of the path."""

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from flax.struct import PyTreeNode
from jax import Array

from genpo_jax.methods import NetworksConfig, PolicyFlow
from genpo_jax.policies.base import Policy
from genpo_jax.policies.euler import grid, midpoint
from genpo_jax.policies.gaussian import normal_log_prob
from genpo_jax.policies.networks import make_velocity
from genpo_jax.shapes import Action, Noise, Numbers, Obs, Scalar
from genpo_jax.solvers import DiagonalNormal


class PolicyFlowRecord(PyTreeNode):
    """Record for the surrogate ratio.

    Attributes:
        point: `[..., d]`, a point on the straight line from noise to flow sample.
        time: `[...]`, time of the point.
        velocity: `[..., d]`, velocity at the point at the rollout.
        perturbation: `[..., d]`, noise that is added to the flow sample to give the action.
        log_prob: `[...]`, log density of the perturbation.
    """

    COORDINATES: ClassVar[tuple[str, ...]] = ("point", "velocity", "perturbation")

    point: Array
    time: Array
    velocity: Array
    perturbation: Array
    log_prob: Array


class PolicyFlowPolicy(Policy):
    """PolicyFlow (arXiv:2602.01156): a flow sample plus Gaussian noise with a learned scale.

    The displacement of the sample since the rollout is estimated by the change of the velocity at one random point on
    the straight line from noise to sample. The ratio uses the density of the perturbation around the displaced sample.
    """

    noise_rows = 2

    def __init__(
        self, obs_size: int, action_size: int, method: PolicyFlow, networks: NetworksConfig, rngs: nnx.Rngs
    ) -> None:
        self.velocity = make_velocity(obs_size, action_size, method, networks, rngs)
        self.action_size = action_size
        self.scale, perturbation_std = method.stds
        self.log_std = nnx.Param(jnp.full(action_size, math.log(perturbation_std), jnp.float32))
        self.num_steps = method.num_steps
        self.brownian_coef = method.brownian_coef

    def sample(self, obs: Obs, key: Array) -> tuple[Action, PolicyFlowRecord]:
        """Draw actions `[..., d]`."""
        batch = obs.shape[:-1]
        noise_key, time_key, perturbation_key = jax.random.split(key, 3)
        noise = self.scale * jax.random.normal(noise_key, (*batch, self.action_size))
        sample = self.flow(obs, noise)
        perturbation = jnp.exp(self.log_std[...]) * jax.random.normal(perturbation_key, sample.shape)
        time = jax.random.uniform(time_key, batch)
        point = noise + time[..., None] * (sample - noise)
        record = PolicyFlowRecord(
            point=point,
            time=time,
            velocity=self.velocity.condition(obs)(point, time),
            perturbation=perturbation,
            log_prob=normal_log_prob(perturbation, self.log_std[...]),
        )
        return sample + perturbation, record

    def log_ratio(self, obs: Obs, record: Any) -> Numbers:
        """Return the surrogate log-ratio `[...]` of recorded actions."""
        displacement = self.velocity.condition(obs)(record.point, record.time) - record.velocity
        return normal_log_prob(record.perturbation - displacement, self.log_std[...]) - record.log_prob

    def action_of(self, obs: Obs, noise: Noise) -> Action:
        """Return the actions `[..., d]` for the noise of the flow and the noise of the perturbation."""
        return self.flow(obs, self.scale * noise[..., 0, :]) + jnp.exp(self.log_std[...]) * noise[..., 1, :]

    def entropy(self) -> Scalar:
        """Return the entropy of the perturbation, a scalar."""
        return DiagonalNormal(self.log_std[...][None]).entropy()

    def auxiliary_loss(self, obs: Obs, record: Any) -> Scalar:
        """Return the Brownian regularizer, which pulls the velocity towards heat diffusion."""
        t = record.time[..., None]
        velocity = self.velocity.condition(obs)(record.point, record.time)
        residual = (1 - t) * velocity - (record.point - t * record.velocity)
        return self.brownian_coef * jnp.square(residual).sum(axis=-1).mean()

    def flow(self, obs: Obs, noise: Action) -> Action:
        """Return the flow samples `[..., d]` of scaled noise `[..., d]`, before the perturbation."""
        return midpoint(self.velocity.condition(obs, grid(2 * self.num_steps)), noise, self.num_steps)
