"""Mirror images: what the symmetry of a robot or a task does to its observations and actions."""

from dataclasses import dataclass

import numpy as np
from jax import Array

from genpo_jax.checks import require


@dataclass(frozen=True)
class SignedPermutation:
    """Exchange coordinates in pairs and turn signs: coordinate i of the image is `signs[i]` times `indices[i]`'s.

    Attributes:
        indices: n of them.
        signs: n of them, 1 or -1.

    Raises:
        ValueError: unless twice the same is nothing at all, as it is of a mirror image.
    """

    indices: tuple[int, ...]
    signs: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check that it is an involution."""
        places = np.arange(len(self.indices))
        indices = np.asarray(self.indices, int)
        valid = len(self.indices) == len(self.signs) and sorted(self.indices) == places.tolist()
        require(valid, "each of 0 ... n - 1 once, with n signs", "indices of a mirror image", self.indices)
        signs = np.asarray(self.signs)
        require(bool((np.abs(signs) == 1).all()), "1 or -1", "signs of a mirror image", self.signs)
        twice = (indices[indices] == places).all() and (signs * signs[indices] == 1).all()
        require(bool(twice), "its own inverse", "a mirror image", self)

    def __call__(self, x: Array) -> Array:
        """Return the image of `x` `[..., n]`."""
        return x[..., np.asarray(self.indices, int)] * np.asarray(self.signs, x.dtype)

    def __len__(self) -> int:
        """Return the number n of coordinates."""
        return len(self.indices)


@dataclass(frozen=True)
class Mirror:
    """The symmetry of an environment: the image of a step is a step, with the same reward.

    An environment that has one shows it as its attribute `mirror`.

    Attributes:
        observations: of each observation, by name.
        action: of the action.
    """

    observations: dict[str, SignedPermutation]
    action: SignedPermutation

    def observation(self, obs: dict[str, Array]) -> dict[str, Array]:
        """Return the image of observations, each `[..., n]`."""
        return {name: self.observations[name](x) for name, x in obs.items()}


def signs(*values: float) -> SignedPermutation:
    """Turn the signs of coordinates that stay where they are."""
    return SignedPermutation(tuple(range(len(values))), values)


def unchanged(size: int) -> SignedPermutation:
    """Leave `size` coordinates as they are."""
    return signs(*[1.0] * size)


def exchanged(*indices: int) -> SignedPermutation:
    """Exchange coordinates and leave their signs."""
    return SignedPermutation(indices, (1.0,) * len(indices))


def together(*parts: SignedPermutation) -> SignedPermutation:
    """Return what the parts do to the coordinates of all, one after the other."""
    offsets = np.cumsum([0, *map(len, parts)])
    indices = [i + int(offset) for part, offset in zip(parts, offsets, strict=False) for i in part.indices]
    return SignedPermutation(tuple(indices), tuple(sign for part in parts for sign in part.signs))


def each(outer: SignedPermutation, inner: SignedPermutation) -> SignedPermutation:
    """Return what `outer` does to n things of which each has coordinates that `inner` changes, `[n * m]`."""
    indices = [i * len(inner) + j for i in outer.indices for j in inner.indices]
    return SignedPermutation(tuple(indices), tuple(a * b for a in outer.signs for b in inner.signs))


def mirror_of(env: object, observation_sizes: dict[str, int], action_size: int) -> Mirror:
    """Return the symmetry that an environment shows.

    Raises:
        ValueError: if it shows none, or one of other sizes.
    """
    name, mirror = getattr(env, "name", type(env).__name__), getattr(env, "mirror", None)
    require(
        isinstance(mirror, Mirror),
        "a genpo_jax.Mirror, to learn from mirror images",
        f"the attribute mirror of {name}",
        mirror,
        "without a symmetry leave mirror=True out",
    )
    assert isinstance(mirror, Mirror)
    sizes = {key: len(permutation) for key, permutation in mirror.observations.items()}
    require(sizes == observation_sizes, f"of sizes {observation_sizes}", f"the mirrored observations of {name}", sizes)
    require(
        len(mirror.action) == action_size, f"of size {action_size}", f"the mirrored action of {name}", mirror.action
    )
    return mirror
