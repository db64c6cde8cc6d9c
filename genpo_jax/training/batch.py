"""Transitions of one update."""

from typing import Any

from flax.struct import PyTreeNode, field
from jax import Array

from genpo_jax.envs import Observation


class Batch(PyTreeNode):
    """Transitions `[..., N, ...]`, N in each group.

    Attributes:
        obs: standardized observations.
        record: data from which the policy computes the ratio of the executed action.
        value: value estimate at collection.
        value_target: regression target of the value network.
        advantage: standardized over the rollout.
        is_image: whether a transition is the mirror image of another; None without images.
        other_records: records of other actions that were drawn in the same states but not executed, by name.
    """

    obs: Observation
    record: Any
    value: Array
    value_target: Array
    advantage: Array
    is_image: Array | None = None
    other_records: dict[str, Any] = field(default_factory=dict)
