"""Policies of all methods behind one interface. `Method.build` in `genpo_jax.methods` builds them."""

from genpo_jax.policies.base import Policy
from genpo_jax.policies.gaussian import GaussianPolicy
from genpo_jax.policies.reversible import ReversiblePolicy

__all__ = ["GaussianPolicy", "Policy", "ReversiblePolicy"]
