"""Running statistics that standardize observations and rewards."""

from typing import Any

import jax
import jax.numpy as jnp
from flax.struct import PyTreeNode
from jax import Array
from jax.typing import ArrayLike

from genpo_jax.shapes import Flags, Steps

# Standardized observations beyond this many standard deviations are clipped: rare contacts must not rule a network.
CLIP = 10.0
MIN_STD = 1e-4


class RunningMoments(PyTreeNode):
    """Count, mean and summed squared deviation of all samples seen, per coordinate.

    Attributes:
        count: scalar, number of samples.
        mean: `[n]` or scalar.
        squares: like `mean`, the sum of squared deviations from it.
    """

    count: Array
    mean: Array
    squares: Array

    @classmethod
    def create(cls, shape: tuple[int, ...] = ()) -> "RunningMoments":
        """Return moments of no samples: standardizing with them changes nothing."""
        return cls(jnp.zeros(()), jnp.zeros(shape), jnp.zeros(shape))

    @property
    def std(self) -> Array:
        """Standard deviation, at least `MIN_STD`; 1 before the first sample."""
        variance = self.squares / jnp.maximum(self.count, 1.0)
        return jnp.where(self.count > 0, jnp.maximum(jnp.sqrt(variance), MIN_STD), 1.0)

    def absorb(self, samples: Array) -> "RunningMoments":
        """Return the moments after more samples `[..., *shape]` (Chan et al. 1979, pairwise merging).

        Samples whose sums are not finite are refused whole: a statistic that is lost once would be lost for good.
        """
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
        sound = (jnp.isfinite(after.mean) & jnp.isfinite(after.squares)).all()
        return jax.tree.map(lambda new, old: jnp.where(sound, new, old), after, self)

    def standardize(self, x: Array) -> Array:
        """Return `x` `[..., *shape]` with mean 0 and standard deviation 1, clipped to ±`CLIP`."""
        return jnp.clip((x - self.mean) / self.std, -CLIP, CLIP)


def create_for(sizes: dict[str, int]) -> dict[str, RunningMoments]:
    """Return empty moments for each named observation."""
    return {name: RunningMoments.create((size,)) for name, size in sizes.items()}


def absorb_each(moments: dict[str, RunningMoments], samples: dict[str, Array]) -> dict[str, RunningMoments]:
    """Absorb each named observation into its moments."""
    return {name: moments[name].absorb(samples[name]) for name in moments}


def standardize_each(moments: dict[str, RunningMoments], obs: dict[str, Array]) -> dict[str, Array]:
    """Standardize each named observation; empty `moments` standardize nothing."""
    return {name: moments[name].standardize(x) if name in moments else x for name, x in obs.items()}


class RewardScale(PyTreeNode):
    """Running standard deviation of the discounted return, by which rewards are divided.

    Attributes:
        moments: of the discounted return, over environments and steps.
        discounted_return: `[B]`, of the episode so far.
    """

    moments: RunningMoments
    discounted_return: Array

    @classmethod
    def create(cls, num_envs: int) -> "RewardScale":
        """Return the scale 1 for B = `num_envs` environments."""
        return cls(RunningMoments.create(), jnp.zeros(num_envs))

    def absorb(self, reward: Steps, ended: Flags, gamma: ArrayLike) -> "RewardScale":
        """Return the scale after rewards and episode ends `[T, B]`."""

        def step(carry: Array, inputs: Any) -> tuple[Array, Array]:
            reward, ended = inputs
            total = gamma * carry + reward
            return jnp.where(ended, 0.0, total), total

        last, totals = jax.lax.scan(step, self.discounted_return, (reward, ended))
        return RewardScale(self.moments.absorb(totals), jnp.where(jnp.isfinite(last), last, 0.0))
