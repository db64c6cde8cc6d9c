"""Shapes in annotations: what an array is, by the dimensions it has.

The tests have them checked, by jaxtyping and beartype (tests/conftest.py). Elsewhere they are all a plain `jax.Array`,
so that neither needs to be installed, or imported along with the solvers.
"""

import os
from typing import TYPE_CHECKING, Any, TypeAlias

from jax import Array

CHECK_SHAPES = "GENPO_JAX_CHECK_SHAPES"

if TYPE_CHECKING or CHECK_SHAPES in os.environ:
    from jaxtyping import Bool, Float
else:

    class _Unchecked:
        def __class_getitem__(cls, item: tuple[Any, str]) -> Any:
            return item[0]

    Bool = Float = _Unchecked

# Batch dimensions of one call agree; k iterates of d action coordinates.
State: TypeAlias = Float[Array, "*batch k d"]
Rest: TypeAlias = Float[Array, "*batch k_rest d"]
Action: TypeAlias = Float[Array, "*batch d"]
Obs: TypeAlias = Float[Array, "*batch obs"]
Noise: TypeAlias = Float[Array, "*batch n d"]
ActionLike: TypeAlias = Float[Array, "*#batch d"]
Samples: TypeAlias = Float[Array, "n *batch"]  # noqa: F821
Numbers: TypeAlias = Float[Array, "*batch"]
Scalar: TypeAlias = Float[Array, ""]
# Several numbers for each, of which a method makes as many ratios.
Several: TypeAlias = Float[Array, "*batch n"]
# Of a rollout.
Steps: TypeAlias = Float[Array, "T B"]
Flags: TypeAlias = Bool[Array, "T B"]

__all__ = [
    "Action",
    "ActionLike",
    "Noise",
    "Flags",
    "Numbers",
    "Obs",
    "Rest",
    "Samples",
    "Scalar",
    "Several",
    "State",
    "Steps",
]
