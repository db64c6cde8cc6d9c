"""Array types with shapes, for annotations.

The tests check them with jaxtyping and beartype (tests/conftest.py). Otherwise each is a plain `jax.Array`, so that
users of the solvers need neither package.
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

# Batch dimensions agree within one call. A state has k iterates of d action coordinates.
State: TypeAlias = Float[Array, "*batch k d"]
Rest: TypeAlias = Float[Array, "*batch k_rest d"]
Action: TypeAlias = Float[Array, "*batch d"]
Obs: TypeAlias = Float[Array, "*batch obs"]
Noise: TypeAlias = Float[Array, "*batch n d"]
ActionLike: TypeAlias = Float[Array, "*#batch d"]
Samples: TypeAlias = Float[Array, "n *batch"]  # noqa: F821
Numbers: TypeAlias = Float[Array, "*batch"]
Scalar: TypeAlias = Float[Array, ""]
# n ratios per action.
LogRatios: TypeAlias = Float[Array, "*batch n"]
# Values of a rollout.
Steps: TypeAlias = Float[Array, "T B"]
Flags: TypeAlias = Bool[Array, "T B"]

__all__ = [
    "Action",
    "ActionLike",
    "Flags",
    "LogRatios",
    "Noise",
    "Numbers",
    "Obs",
    "Rest",
    "Samples",
    "Scalar",
    "State",
    "Steps",
]
