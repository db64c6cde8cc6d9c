"""Mirror symmetry of a robot or a task, as signed permutations of observations and actions."""

from dataclasses import dataclass

import numpy as np
from jax import Array

from genpo_jax.checks import require


@dataclass(frozen=True)
class SignedPermutation:
    """A signed permutation that is an involution: `y[i] = signs[i] * x[indices[i]]`.

    Attributes:
        indices: the permutation, n indices.
        signs: n signs, 1 or -1.

    Raises:
        ValueError: if this is no signed permutation, or no involution (its own inverse).
    """

    indices: tuple[int, ...]
    signs: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check that this is a signed permutation and an involution."""
        identity = np.arange(len(self.indices))
        indices = np.asarray(self.indices, int)
        valid = len(self.indices) == len(self.signs) and sorted(self.indices) == identity.tolist()
        require(valid, "each of 0 ... n - 1 once, with n signs", "indices of a mirror image", self.indices)
        signs = np.asarray(self.signs)
        require(bool((np.abs(signs) == 1).all()), "1 or -1", "signs of a mirror image", self.signs)
        involution = (indices[indices] == identity).all() and (signs * signs[indices] == 1).all()
        require(bool(involution), "an involution (its own inverse)", "a mirror image", self)

    def __call__(self, x: Array) -> Array:
        """Return the image of `x` `[..., n]`."""
        return x[..., np.asarray(self.indices, int)] * np.asarray(self.signs, x.dtype)

    def __len__(self) -> int:
        """Return the number n of coordinates."""
        return len(self.indices)


@dataclass(frozen=True)
class Mirror:
    """The mirror symmetry of an environment: the image of each transition is a transition with the same reward.

    An environment with a symmetry has it as its attribute `mirror`.

    Attributes:
        observations: permutation of each observation, by name.
        action: permutation of the action.
    """

    observations: dict[str, SignedPermutation]
    action: SignedPermutation

    def observation(self, obs: dict[str, Array]) -> dict[str, Array]:
        """Return the image of observations, each `[..., n]`."""
        return {name: self.observations[name](x) for name, x in obs.items()}


def signs(*values: float) -> SignedPermutation:
    """Return the permutation that multiplies coordinates by signs and keeps their order."""
    return SignedPermutation(tuple(range(len(values))), values)


def unchanged(size: int) -> SignedPermutation:
    """Return the identity on `size` coordinates."""
    return signs(*[1.0] * size)


def exchanged(*indices: int) -> SignedPermutation:
    """Return the permutation of coordinates that keeps their signs."""
    return SignedPermutation(indices, (1.0,) * len(indices))


def together(*parts: SignedPermutation) -> SignedPermutation:
    """Return the direct sum: each part acts on its own block of coordinates."""
    offsets = np.cumsum([0, *map(len, parts)])
    indices = [i + int(offset) for part, offset in zip(parts, offsets, strict=False) for i in part.indices]
    return SignedPermutation(tuple(indices), tuple(sign for part in parts for sign in part.signs))


def each(outer: SignedPermutation, inner: SignedPermutation) -> SignedPermutation:
    """Return the Kronecker product of two signed permutations, which acts on `len(outer)` blocks of `len(inner)`."""
    indices = [i * len(inner) + j for i in outer.indices for j in inner.indices]
    return SignedPermutation(tuple(indices), tuple(a * b for a in outer.signs for b in inner.signs))


def mirror_of(env: object, observation_sizes: dict[str, int], action_size: int) -> Mirror:
    """Return the symmetry of an environment.

    Raises:
        ValueError: if it has none, or its sizes do not fit.
    """
    name, mirror = getattr(env, "name", type(env).__name__), getattr(env, "mirror", None)
    require(
        isinstance(mirror, Mirror),
        "a genpo_jax.Mirror to train with mirror=True",
        f"the attribute mirror of {name}",
        mirror,
        "define it, or leave mirror=True out",
    )
    assert isinstance(mirror, Mirror)
    sizes = {key: len(permutation) for key, permutation in mirror.observations.items()}
    require(sizes == observation_sizes, f"of sizes {observation_sizes}", f"the mirrored observations of {name}", sizes)
    require(
        len(mirror.action) == action_size, f"of size {action_size}", f"the mirrored action of {name}", mirror.action
    )
    return mirror
