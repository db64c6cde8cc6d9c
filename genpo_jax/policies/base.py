"""Interface between the trainer and the policy of a method."""

from collections.abc import Callable
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jax import Array

from genpo_jax.shapes import Action, LogRatios, Noise, Numbers, Obs, Scalar


class Policy(nnx.Module):
    """Base class of stochastic policies.

    Actions are unbounded. The environment layer squashes them, and the squash cancels in every ratio.

    Attributes:
        action_size: number d of action coordinates.
        noise_rows: number n of rows of the standard normal noise `[n, d]` from which an action is computed.
        regressions: attributes that only `auxiliary_loss` trains. They use the learning rate of the value network,
            which does not adapt to the KL divergence, and their gradients are clipped separately.
    """

    action_size: int
    noise_rows: int = 1
    regressions: ClassVar[tuple[str, ...]] = ()

    def sample(self, obs: Obs, key: Array) -> tuple[Action, Any]:
        """Draw actions.

        Args:
            obs: normalized observations `[..., obs_size]`.
            key: one typed PRNG key for the whole batch.

        Returns:
            actions `[..., d]`, and a record: a pytree of arrays `[..., *]` that `log_ratio` needs later.
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
        """Return the actions `[..., d]` for given standard normal noise `[..., n, d]`."""
        raise NotImplementedError

    def complete(self, obs: Obs, record: Any, key: Array) -> Any:
        """Add to the records `[..., *]` of a whole rollout what the update needs; parameters must not have changed."""
        del obs, key
        return record

    def mirrored(self, record: Any, mirror: Callable[[Array], Array]) -> Any:
        """Return records `[..., *]` of the mirrored actions, with the densities of the original actions.

        Mirroring preserves volume, so a mirrored action was drawn with the density of its original. The ratio is
        therefore an exact importance weight; it is 1 at unchanged parameters if the policy is symmetric.

        Args:
            record: the result of `sample` or `complete`. The fields listed in its `COORDINATES` are mirrored.
            mirror: signed permutation of the last axis, which has d coordinates.
        """
        return record.replace(**{name: mirror(getattr(record, name)) for name in record.COORDINATES})

    def log_ratio(self, obs: Obs, record: Any) -> Numbers | LogRatios:
        """Return `log p_now / p_then` of recorded actions; it is 0 at unchanged parameters.

        The shape is `[...]`, or `[..., n]` for n ratios per action, which PPO clips separately.
        """
        raise NotImplementedError

    def zero_noise_action(self, obs: Obs) -> Action:
        """Return the deterministic actions `[..., d]`, computed from zero noise."""
        return self.action_of(obs, jnp.zeros((*obs.shape[:-1], self.noise_rows, self.action_size)))

    def entropy(self) -> Scalar:
        """Return the part of the entropy with a closed form, a scalar that does not depend on the observation."""
        return jnp.zeros(())

    def auxiliary_loss(self, obs: Obs, record: Any) -> Scalar:
        """Return the additional loss of the method, a scalar that is added to the PPO loss."""
        del obs, record
        return jnp.zeros(())

    def metrics(self, record: Any) -> dict[str, Array]:
        """Return scalar metrics of the records of a rollout, by name."""
        del record
        return {}

    def recorded_action(self, record: Any) -> Action:
        """Return the actions `[..., d]` of a record, for methods with a density."""
        raise NotImplementedError(f"{type(self).__name__} has no density of its actions")

    def action_log_prob(self, obs: Obs, record: Any) -> Numbers:
        """Return the log density `[...]` of recorded actions under the policy that drew them.

        It may be an estimate that is too high in expectation; its negative mean is then a lower bound of the entropy.
        """
        raise NotImplementedError(f"{type(self).__name__} has no density of its actions")
