"""The transitions that an update learns from."""

from typing import Any

from flax.struct import PyTreeNode, field
from jax import Array

from genpo_jax.envs import Observation


class Batch(PyTreeNode):
    """Transitions `[..., N, ...]`: N in each group; observations are standardized.

    Attributes:
        obs: standardized observations.
        record: what the policy needs to compute the ratio of the action taken.
        value: value estimate at collection.
        value_target: regression target of the value network.
        advantage: standardized over the rollout.
        is_image: whether a transition is the mirror image of another; None without images.
        other_records: records of actions that were not executed, in the same states, by the name of the extension that
            drew them.
    """

    obs: Observation
    record: Any
    value: Array
    value_target: Array
    advantage: Array
    is_image: Array | None = None
    other_records: dict[str, Any] = field(default_factory=dict)
