"""Copy the networks of a trained policy to another method, or to the initial state of a run."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from genpo_jax.checks import require
from genpo_jax.envs.base import ACTOR_OBS
from genpo_jax.methods import FlowMethod, Gaussian, Method
from genpo_jax.policy import PolicySpec, TrainedPolicy
from genpo_jax.training.algorithm import TrainState

# Settings of the networks that are copied.
FLOW_NETWORKS = ("network", "encoder_sizes", "head_sizes", "hidden_sizes", "time_embedding", "skip")


def with_networks_of(method: Method, other: Method) -> Method:
    """Return a method with the network settings of another method; for flows, the settings of the velocity.

    Raises:
        ValueError: if one is a flow and the other is not.
    """
    same_kind = isinstance(method, FlowMethod) == isinstance(other, FlowMethod)
    kind = "a flow" if isinstance(other, FlowMethod) else "gaussian"
    require(same_kind, f"{kind}, as the pretrained policy ({other.name})", "method", method.name, "choose another")
    return replace(method, **{name: getattr(other, name) for name in _network_settings(method)})


def as_method(policy: TrainedPolicy, method: Method) -> TrainedPolicy:
    """Return a policy of `method` with the velocity of a pretrained flow, or with the mean and scale of a Gaussian.

    The other parts of the method are new: solver, base density, added noise.

    Raises:
        ValueError: if one is a flow and the other is not.
    """
    spec = replace(policy.spec, method=with_networks_of(method, policy.spec.method))
    params = nnx.state(spec.build(), nnx.Param)
    for name in _copied_params(spec.method):
        params[name] = policy.params[name]
    return TrainedPolicy(spec, params, policy.moments)


def start_from(state: TrainState, policy: TrainedPolicy) -> TrainState:
    """Return the state `[S, ...]` with the networks and normalizer of a pretrained policy.

    Value network, optimizer state and noise parameters do not change.
    """
    params = jax.tree.map(lambda x: x, state.learner.params)
    for name in _copied_params(policy.spec.method):
        params["policy"][name] = _for_all_seeds(policy.params[name], state)
    moments = dict(state.obs_moments)
    if policy.moments is not None:
        moments[ACTOR_OBS] = _for_all_seeds(policy.moments, state)
    initial = None if state.initial_policy is None else params["policy"]
    state = state.replace(learner=state.learner.replace(params=params), obs_moments=moments, initial_policy=initial)
    # Copies: a program donates its state, and an array cannot be donated twice.
    return jax.tree.map(jnp.copy, state)


def check_start(spec: PolicySpec, new: PolicySpec) -> None:
    """Raise `ValueError` if a run has other networks, observations or actions than its initial policy."""
    # Refuses a flow that would start from a Gaussian, and the reverse.
    with_networks_of(new.method, spec.method)
    parts = (
        (spec, new, ("obs_name", "obs_size", "normalized", "history", "action_size", "chunk", "squash", "bounds")),
        (spec.method, new.method, _network_settings(spec.method)),
        (spec.networks, new.networks, ("activation",)),
    )
    for before, now, names in parts:
        for name in names:
            rule = f"{getattr(before, name)}, that of the initial policy"
            same = getattr(before, name) == getattr(now, name)
            remedy = "change the config, or start from another policy"
            require(same, rule, f"{name} of the run", getattr(now, name), remedy)


def _network_settings(method: Method) -> tuple[str, ...]:
    return ("hidden_sizes",) if isinstance(method, Gaussian) else FLOW_NETWORKS


def _copied_params(method: Method) -> tuple[str, ...]:
    return ("mean", "log_std") if isinstance(method, Gaussian) else ("velocity",)


def _for_all_seeds(tree: Any, state: TrainState) -> Any:
    seeds = state.num_updates.shape[0]

    def repeated(x: Array) -> Array:
        return jnp.broadcast_to(x, (seeds, *x.shape))

    return jax.tree.map(repeated, tree)
