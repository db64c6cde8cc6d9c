"""Running statistics that standardize observations and rewards."""

from typing import Any

import jax
import jax.numpy as jnp
from flax.struct import PyTreeNode
from jax import Array
from jax.typing import ArrayLike

from genpo_jax.checks import require, require_count, require_flags, require_fraction, require_one_shape
from genpo_jax.shapes import Flags, Steps

# Clip of standardized observations, in standard deviations: rare contacts must not dominate a network's input.
CLIP = 10.0
# Below this fraction of the mean, a standard deviation is rounding: float32 keeps a mean to 2e-7 of its size.
ROUNDING = 1e-6


class RunningMoments(PyTreeNode):
    """Count, mean and summed squared deviation of all samples seen, per coordinate.

    Attributes:
        count: scalar, number of samples.
        mean: `[n]` or scalar.
        squares: sum of squared deviations from the mean, in the shape of `mean`.
    """

    count: Array
    mean: Array
    squares: Array

    @classmethod
    def create(cls, shape: tuple[int, ...] = ()) -> "RunningMoments":
        """Return the moments of zero samples: mean 0 and standard deviation 1."""
        return cls(jnp.zeros(()), jnp.zeros(shape), jnp.zeros(shape))

    @property
    def std(self) -> Array:
        """Standard deviation in any unit; 1 for a coordinate that was constant, also before the first sample.

        So a constant coordinate is only shifted to 0, and a small change of it later is a small input.
        """
        std = jnp.sqrt(self.squares / jnp.maximum(self.count, 1.0))
        return jnp.where(std > ROUNDING * jnp.abs(self.mean), std, 1.0)

    def absorb(self, samples: Array) -> "RunningMoments":
        """Return the moments after more samples `[..., *shape]` (Chan et al. 1979, pairwise merging).

        If a sum over the samples is not finite, all of them are refused: one NaN would never leave the statistics.

        Raises:
            ValueError: if the samples have another shape.
        """
        self._check(samples)
        axes = tuple(range(samples.ndim - self.mean.ndim))
        added = jnp.asarray(samples.size / max(self.mean.size, 1), self.count.dtype)
        mean = samples.mean(axis=axes)
        squares = jnp.square(samples - mean).sum(axis=axes)
        count = self.count + added
        delta = mean - self.mean
        after = RunningMoments(
            count=count,
            mean=self.mean + delta * (added / count),
            squares=self.squares + squares + jnp.square(delta) * (self.count * added / count),
        )
        finite = (jnp.isfinite(after.mean) & jnp.isfinite(after.squares)).all()
        return jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, self)

    def standardize(self, x: Array) -> Array:
        """Return `x` `[..., *shape]` with mean 0 and standard deviation 1, clipped to ±`CLIP`.

        Raises:
            ValueError: if `x` has another shape.
        """
        self._check(x)
        return jnp.clip((x - self.mean) / self.std, -CLIP, CLIP)

    def _check(self, samples: Array) -> None:
        shape = self.mean.shape
        matches = samples.shape[samples.ndim - len(shape) :] == shape and samples.ndim >= len(shape)
        require(matches, f"[..., {', '.join(map(str, shape))}]" if shape else "an array", "samples", samples.shape)


def create_for(sizes: dict[str, int]) -> dict[str, RunningMoments]:
    """Return empty moments for each named observation."""
    return {name: RunningMoments.create((size,)) for name, size in sizes.items()}


def absorb_each(moments: dict[str, RunningMoments], samples: dict[str, Array]) -> dict[str, RunningMoments]:
    """Absorb each named observation into its moments.

    Raises:
        ValueError: if an observation is missing.
    """
    require(moments.keys() <= samples.keys(), f"all of {sorted(moments)}", "observations", sorted(samples))
    return {name: moments[name].absorb(samples[name]) for name in moments}


def standardize_each(moments: dict[str, RunningMoments], obs: dict[str, Array]) -> dict[str, Array]:
    """Standardize each named observation; with empty `moments`, return the observations unchanged.

    Raises:
        ValueError: if `moments` is not empty and lacks an observation.
    """
    if not moments:
        return obs
    require(obs.keys() <= moments.keys(), f"among those with moments, {sorted(moments)}", "observations", sorted(obs))
    return {name: moments[name].standardize(x) for name, x in obs.items()}


class RewardScale(PyTreeNode):
    """Running standard deviation of the discounted return; rewards are divided by it.

    Attributes:
        moments: moments of the discounted return, over environments and steps.
        discounted_return: `[B]`, discounted return of the episode so far.
    """

    moments: RunningMoments
    discounted_return: Array

    @classmethod
    def create(cls, num_envs: int) -> "RewardScale":
        """Return the scale 1 for B = `num_envs` environments."""
        require_count(num_envs=num_envs)
        return cls(RunningMoments.create(), jnp.zeros(num_envs))

    def absorb(self, reward: Steps, ended: Flags, gamma: ArrayLike) -> "RewardScale":
        """Return the scale updated with rewards and episode ends `[T, B]`.

        Raises:
            ValueError: if the shapes differ, B does not match, `ended` is not boolean, or `gamma` is not in [0, 1].
        """
        require_one_shape(2, reward=reward, ended=ended)
        require(len(reward) > 0, "of at least one step", "reward", reward.shape)
        require_one_shape(1, reward_of_a_step=reward[0], discounted_return=self.discounted_return)
        require_flags(ended=ended)
        require_fraction(gamma=gamma)

        def step(carry: Array, inputs: Any) -> tuple[Array, Array]:
            reward, ended = inputs
            total = gamma * carry + reward
            return jnp.where(ended, 0.0, total), total

        last, totals = jax.lax.scan(step, self.discounted_return, (reward, ended))
        return RewardScale(self.moments.absorb(totals), jnp.where(jnp.isfinite(last), last, 0.0))
