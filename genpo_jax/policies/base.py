"""What a policy is to the trainer: a few operations that hide the method."""

from collections.abc import Callable
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jax import Array

from genpo_jax.shapes import Action, Noise, Numbers, Obs, Scalar, Several


class Policy(nnx.Module):
    """A stochastic policy.

    Actions are unbounded: the environment layer squashes them, and the squash cancels in every ratio.

    Attributes:
        action_size: number d of action coordinates.
        noise_rows: rows n of standard normal noise `[n, d]` that an action is made of.
        ratio_evaluations: evaluations of a velocity that the gradient of a ratio keeps at once, for the prediction of
            memory.
        regressions: attributes that only `auxiliary_loss` trains. They learn at the rate of the value network, which
            does not follow the KL divergence, and their gradient is clipped by itself.
    """

    action_size: int
    noise_rows: int = 1
    ratio_evaluations: int = 0
    regressions: ClassVar[tuple[str, ...]] = ()

    def sample(self, obs: Obs, key: Array) -> tuple[Action, Any]:
        """Draw actions.

        Args:
            obs: normalized observations `[..., obs_size]`.
            key: one typed PRNG key for the whole batch.

        Returns:
            actions `[..., d]`, and a record: a pytree of `[..., *]` arrays with all that `log_ratio` needs later.
        """
        raise NotImplementedError

    def initial_carry(self, num: int) -> Any:
        """Return the memory of `num` environments at the start of an episode, leaves `[num, ...]`; () for none.

        A policy with memory overrides this, `act` and `zero_noise_act`, and keeps in its records the carry that
        `log_ratio` needs.
        """
        del num
        return ()

    def act(self, obs: Obs, carry: Any, key: Array) -> tuple[Action, Any, Any]:
        """Draw actions; return them, the next carry and the record, see `sample`."""
        action, record = self.sample(obs, key)
        return action, carry, record

    def zero_noise_act(self, obs: Obs, carry: Any) -> tuple[Action, Any]:
        """Return the actions of zero noise and the next carry."""
        return self.zero_noise_action(obs), carry

    def action_of(self, obs: Obs, noise: Noise) -> Action:
        """Return the actions `[..., d]` that `sample` makes of standard normal noise `[..., n, d]`."""
        raise NotImplementedError

    def complete(self, obs: Obs, record: Any, key: Array) -> Any:
        """Return records `[..., *]` with what can be added to all of a rollout at once; the policy must not change."""
        del obs, key
        return record

    def mirrored(self, record: Any, mirror: Callable[[Array], Array]) -> Any:
        """Return records `[..., *]` of mirrored actions, with the density that the actions themselves were drawn by.

        A mirrored action has just that density among mirrored actions, whatever the policy does on that side: its
        ratio is an exact importance weight, and 1 at unchanged parameters where the policy is symmetric.

        Args:
            record: as `sample` or `complete` returned it; its class names what of it has `COORDINATES` of actions.
            mirror: a signed permutation of the last axis, of d coordinates.
        """
        return record.replace(**{name: mirror(getattr(record, name)) for name in record.COORDINATES})

    def log_ratio(self, obs: Obs, record: Any) -> Numbers | Several:
        """Return `log p_now / p_then` of recorded actions: 0 where the parameters have not changed.

        One number each, `[...]`, or several, `[..., n]`, each of which PPO clips by itself.
        """
        raise NotImplementedError

    def zero_noise_action(self, obs: Obs) -> Action:
        """Return the actions `[..., d]` that zero noise gives."""
        return self.action_of(obs, jnp.zeros((*obs.shape[:-1], self.noise_rows, self.action_size)))

    def entropy(self) -> Scalar:
        """Return what is known of the entropy in closed form, a scalar that does not depend on the observation."""
        return jnp.zeros(())

    def auxiliary_loss(self, obs: Obs, record: Any) -> Scalar:
        """Return what the method adds to the PPO loss, a scalar."""
        del obs, record
        return jnp.zeros(())

    def metrics(self, record: Any) -> dict[str, Array]:
        """Return scalars to be logged of a rollout's records, by name."""
        del record
        return {}

    def recorded_action(self, record: Any) -> Action:
        """Return the actions `[..., d]` of a record, where the method knows their density."""
        raise NotImplementedError(f"{type(self).__name__} knows no density of its actions")

    def action_log_prob(self, obs: Obs, record: Any) -> Numbers:
        """Return the log density `[...]` of recorded actions under the policy that drew them.

        The density may be an estimate that is no lower in the mean: minus its mean then bounds the entropy from below.
        """
        raise NotImplementedError(f"{type(self).__name__} knows no density of its actions")
