"""Take over what a policy has learned: into another method, and into the start of a run."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from genpo_jax.checks import require
from genpo_jax.methods import FlowMethod, Gaussian, Method
from genpo_jax.policy import TrainedPolicy
from genpo_jax.training.algorithm import TrainState

# What describes the networks that are taken over.
FLOW_NETWORKS = ("network", "encoder_sizes", "head_sizes", "hidden_sizes", "time_embedding")


def with_networks_of(method: Method, other: Method) -> Method:
    """Return a method with the networks of another: of a flow, those of its velocity.

    Raises:
        ValueError: if one is a flow and the other is not.
    """
    one_kind = isinstance(method, FlowMethod) == isinstance(other, FlowMethod)
    require(one_kind, "a flow, or gaussian, as what it starts from is", "method", method.name, f"that is {other.name}")
    names = ("hidden_sizes",) if isinstance(method, Gaussian) else FLOW_NETWORKS
    return replace(method, **{name: getattr(other, name) for name in names})


def as_method(policy: TrainedPolicy, method: Method) -> TrainedPolicy:
    """Return the policy of a method that has the velocity of a pretrained flow, or the mean and scale of a Gaussian.

    What else the method has is new: its solver and base, the noise that it adds.

    Raises:
        ValueError: if one is a flow and the other is not.
    """
    spec = replace(policy.spec, method=with_networks_of(method, policy.spec.method))
    params = nnx.state(spec.build(), nnx.Param)
    for name in _taken_over(spec.method):
        params[name] = policy.params[name]
    return TrainedPolicy(spec, params, policy.moments)


def start_from(state: TrainState, policy: TrainedPolicy) -> TrainState:
    """Return the state `[S, ...]` of new runs that start with what a pretrained policy has learned.

    Its networks and normalizer are taken; value function, optimizer and noise are those of the new runs.
    """
    params = jax.tree.map(lambda x: x, state.learner.params)
    for name in _taken_over(policy.spec.method):
        params["policy"][name] = _for_all_seeds(policy.params[name], state)
    moments = dict(state.obs_moments)
    if policy.moments is not None:
        moments[policy.spec.obs_name] = _for_all_seeds(policy.moments, state)
    initial = None if state.initial_policy is None else params["policy"]
    state = state.replace(learner=state.learner.replace(params=params), obs_moments=moments, initial_policy=initial)
    # A program consumes its state, and no array may be in it twice.
    return jax.tree.map(jnp.copy, state)


def _taken_over(method: Method) -> tuple[str, ...]:
    return ("mean", "log_std") if isinstance(method, Gaussian) else ("velocity",)


def _for_all_seeds(tree: Any, state: TrainState) -> Any:
    seeds = state.num_updates.shape[0]

    def repeated(x: Array) -> Array:
        return jnp.broadcast_to(x, (seeds, *x.shape))

    return jax.tree.map(repeated, tree)
