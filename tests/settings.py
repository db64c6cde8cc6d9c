"""Settings and policies that are small enough for tests of seconds."""

import dataclasses
from typing import Any

import jax
from flax import nnx

from genpo_jax.methods import METHODS, Method, NetworksConfig


def sized(sizes: tuple[int, ...], name: str = "genpo++", **settings: Any) -> Method:
    """Return a method whose networks all have these hidden layers; `settings` are its other settings."""
    cls = METHODS[name]
    names = {f.name for f in dataclasses.fields(cls)}
    layers = {key: sizes for key in ("hidden_sizes", "encoder_sizes", "head_sizes") if key in names}
    return cls(**(layers | settings))


def networks(sizes: tuple[int, ...], **settings: Any) -> NetworksConfig:
    """Return settings of networks with a critic of these hidden layers."""
    return NetworksConfig(value_sizes=sizes, **settings)


def fresh_policy(method: Method, obs_size: int, action_size: int, seed: int = 0, **shared: Any) -> Any:
    """Return the initial policy of a method."""
    return method.build(obs_size, action_size, NetworksConfig(**shared), nnx.Rngs(seed))


def raw_leaves(tree: Any) -> list[Any]:
    """Return the leaves of a tree, with typed keys as raw numbers."""
    return [
        jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        for x in jax.tree.leaves(tree)
    ]
