"""What a policy is to the trainer: a few operations that hide the method."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array


class Policy(nnx.Module):
    """A stochastic policy.

    Actions are unbounded: the environment layer squashes them, and the squash cancels in every ratio.
    """

    def sample(self, obs: Array, key: Array) -> tuple[Array, Any]:
        """Draw actions.

        Args:
            obs: normalised observations `[..., obs_size]`.
            key: one typed PRNG key for the whole batch.

        Returns:
            actions `[..., d]`, and a record: a pytree of `[..., *]` arrays with all that `log_ratio` needs later.
        """
        raise NotImplementedError

    def log_ratio(self, obs: Array, record: Any) -> Array:
        """Return `log p_now / p_then` of recorded actions: 0 where the parameters have not changed.

        One number each, `[...]`, or several, `[..., n]`, each of which PPO clips by itself.
        """
        raise NotImplementedError

    def mode(self, obs: Array) -> Array:
        """Return the actions `[..., d]` of zero noise."""
        raise NotImplementedError

    def entropy(self) -> Array:
        """Return what is known of the entropy in closed form, a scalar that does not depend on the observation."""
        return jnp.zeros(())

    def penalty(self, obs: Array, record: Any) -> Array:
        """Return what the method adds to the PPO loss, a scalar."""
        del obs, record
        return jnp.zeros(())

    def log_prob(self, obs: Array, record: Any) -> tuple[Array, Array]:
        """Return recorded actions `[..., d]` and their log density `[...]` under the policy that drew them.

        The density may be an estimate that is no lower in the mean: minus its mean then bounds the entropy from below.
        """
        raise NotImplementedError(f"{type(self).__name__} knows no density of its actions")
