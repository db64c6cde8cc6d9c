"""What a policy is to the trainer: three operations that hide the method."""

from typing import Any, Protocol

from jax import Array


class Policy(Protocol):
    """A stochastic policy; in practice a `flax.nnx.Module`, so that its parameters are a pytree.

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
        ...

    def log_ratio(self, obs: Array, record: Any) -> Array:
        """Return `log p_now / p_then` `[...]` of recorded actions: 0 where the parameters have not changed."""
        ...

    def mode(self, obs: Array) -> Array:
        """Return the actions `[..., d]` of zero noise."""
        ...

    def entropy(self) -> Array:
        """Return the entropy, a scalar that does not depend on the observation."""
        ...
