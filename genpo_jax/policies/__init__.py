"""Policies: each method is one, and the trainer does not know which it runs."""

from collections.abc import Callable

from flax import nnx

from genpo_jax.config import PolicyConfig
from genpo_jax.policies.base import Policy
from genpo_jax.policies.dppo import DPPOPolicy
from genpo_jax.policies.fpo import FPOPolicy
from genpo_jax.policies.fpo_plus import FPOPlusPolicy
from genpo_jax.policies.gaussian import GaussianPolicy
from genpo_jax.policies.policyflow import PolicyFlowPolicy
from genpo_jax.policies.reinflow import ReinFlowPolicy
from genpo_jax.policies.reversible import (
    ReversiblePolicy,
    make_coupled_policy,
    make_history_policy,
    make_verlet_policy,
)

METHODS: dict[str, Callable[[int, int, PolicyConfig, nnx.Rngs], Policy]] = {
    "genpo++": make_history_policy,
    "genpo": make_coupled_policy,
    "saflow": make_verlet_policy,
    "gaussian": GaussianPolicy,
    "fpo": FPOPolicy,
    "fpo++": FPOPlusPolicy,
    "policyflow": PolicyFlowPolicy,
    "dppo": DPPOPolicy,
    "reinflow": ReinFlowPolicy,
}


def make_policy(obs_size: int, action_size: int, config: PolicyConfig, rngs: nnx.Rngs) -> Policy:
    """Build the policy of `config.method` for observations `[..., obs_size]` and actions `[..., action_size]`.

    Raises:
        ValueError: if the method is unknown or its solver's parameters are bad.
    """
    if config.method not in METHODS:
        raise ValueError(f"method must be one of {sorted(METHODS)}, got {config.method!r}")
    return METHODS[config.method](obs_size, action_size, config, rngs)


__all__ = ["METHODS", "GaussianPolicy", "Policy", "ReversiblePolicy", "make_policy"]
