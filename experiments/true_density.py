"""The density of an executed action under each method, computed without the method's own ratio.

It is feasible for two action coordinates: by importance sampling over the history (genpo++, genpo, saflow), by
inverting the flow (fpo, fpo++), or by averaging the density of the last noise over samples of all earlier noise
(policyflow, dppo, reinflow).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from genpo_jax.policies import GaussianPolicy, Policy, ReversiblePolicy
from genpo_jax.policies.chain import ChainPolicy
from genpo_jax.policies.fpo import FPOPolicy
from genpo_jax.policies.gaussian import normal_log_prob
from genpo_jax.policies.policyflow import PolicyFlowPolicy
from genpo_jax.solvers import fit_history_proposal, marginal_log_ratio

NUM_HISTORIES = 512
NUM_SAMPLES = 50_000
# Actions per batch; all actions with all their histories or samples would need many GiB.
ACTION_BATCH = 16
NEWTON_STEPS = 12


def true_log_ratio(now: Policy, then: Policy, obs: Array, action: Array, key: Array) -> Array:
    """Return `log p_now(a) - log p_then(a)` `[N]` of actions `[N, 2]` in one state `[n]`.

    Raises:
        ValueError: if the policy is of no known kind.
    """
    if isinstance(now, ReversiblePolicy) and isinstance(then, ReversiblePolicy):
        proposal = fit_history_proposal(then.flow(obs), key, 10_000)

        def one(action_and_key: tuple[Array, Array]) -> Array:
            return marginal_log_ratio(now.flow(obs), then.flow(obs), proposal, *action_and_key, NUM_HISTORIES).value

        return jax.lax.map(one, (action, jax.random.split(key, len(action))), batch_size=ACTION_BATCH)
    return _log_prob(now, obs, key)(action) - _log_prob(then, obs, key)(action)


def _log_prob(policy: Policy, obs: Array, key: Array) -> Callable[[Array], Array]:
    obs_batch = jnp.broadcast_to(obs, (NUM_SAMPLES, *obs.shape))
    if isinstance(policy, GaussianPolicy):
        return lambda action: normal_log_prob(action - policy.zero_noise_action(obs), policy.log_std[...])
    if isinstance(policy, FPOPolicy):
        return jax.vmap(lambda action: _by_inversion(policy, obs, action))
    if isinstance(policy, PolicyFlowPolicy):
        centers = policy.flow(obs_batch, policy.scale * jax.random.normal(key, (NUM_SAMPLES, policy.action_size)))
        return _mixture(centers, policy.log_std[...])
    if isinstance(policy, ChainPolicy):
        _, record = policy.sample(obs_batch, key)
        last = record.states[:, -2]
        velocity = policy.velocity.condition(obs_batch)(last, jnp.asarray(1 - 1 / policy.num_steps))
        return _mixture(last + velocity / policy.num_steps, policy.log_std(obs)[-1])
    raise ValueError(f"the true density of {type(policy).__name__} is not implemented")


def _mixture(centers: Array, log_std: Array) -> Callable[[Array], Array]:
    def log_prob(action: Array) -> Array:
        return jax.nn.logsumexp(normal_log_prob(action - centers, log_std)) - jnp.log(len(centers))

    return lambda actions: jax.lax.map(log_prob, actions, batch_size=ACTION_BATCH)


def _by_inversion(policy: FPOPolicy, obs: Array, action: Array) -> Array:
    """Return the log density of one action by inverting the Euler steps; exact if every step is one to one."""
    velocity = policy.velocity.condition(obs)

    def undo(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        later, log_det = carry
        t = (policy.num_steps - 1 - i) / policy.num_steps
        step = lambda x: x + velocity(x, t) / policy.num_steps  # noqa: E731
        slope = jax.jacfwd(step)
        newton = lambda _, x: x - jnp.linalg.solve(slope(x), step(x) - later)  # noqa: E731
        x = jax.lax.fori_loop(0, NEWTON_STEPS, newton, later)
        return x, log_det + jnp.linalg.slogdet(slope(x))[1]

    noise, log_det = jax.lax.fori_loop(0, policy.num_steps, undo, (action, jnp.zeros(())))
    return normal_log_prob(noise, jnp.full(noise.shape, jnp.log(policy.scale))) - log_det
