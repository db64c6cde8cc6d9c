"""Networks of actor and critic (Flax NNX)."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from genpo_jax.methods import FlowMethod, NetworksConfig
from genpo_jax.policies.products import dot_general_of, storage_dtype
from genpo_jax.solvers import Velocity

# In float32, mish is the identity above the first value and zero below the second.
MISH_LINEAR, MISH_ZERO = 20.0, -40.0


@jax.custom_jvp
def mish(x: Array) -> Array:
    """Return `x tanh(log(1 + exp(x)))` (Misra, arXiv:1908.08681), with one exponential.

    With e = exp(x) and n = e (e + 2), tanh(log(1 + e)) = n / (n + 2).
    """
    e = jnp.exp(jnp.minimum(x, MISH_LINEAR))
    n = e * (e + 2)
    return x * (n / (n + 2))


@mish.defjvp
def _mish_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """Differentiate `mish` with a separate exponential, exp(-x).

    With exp(x), XLA would compute it once for both passes and keep it and three more arrays in between. On a CPU this
    doubles the memory and time of a network's gradient.
    """
    x = jnp.clip(primals[0], MISH_ZERO, -MISH_ZERO)
    u = jnp.exp(-x)
    scale = 1 / (1 + 2 * u * (1 + u))
    slope = (1 + 2 * u) * scale + 4 * x * (1 + u) * jnp.square(u * scale)
    return mish(primals[0]), slope * tangents[0]


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "mish": mish,
    "elu": jax.nn.elu,
    "swish": jax.nn.swish,
    "tanh": jnp.tanh,
}
HIDDEN_GAIN = 2**0.5
# Near zero, so that a flow is initially a linear map of its noise and a Gaussian policy has mean 0.
OUTPUT_GAIN = 0.01
# Number of periods of the slowest and the fastest time feature over t in [0, 1].
FREQUENCIES = (0.5, 16.0)


@jax.jit
def _polar_factor(x: Array) -> Array:
    """Return the orthonormal factor of a matrix `[m, n]`, m >= n, whose singular values are in (0, 1]."""
    # Small singular values grow by 3/2 per step until they converge to 1.
    return jax.lax.fori_loop(0, 40, lambda _, x: 1.5 * x - 0.5 * x @ (x.T @ x), x)


def orthogonal(gain: float) -> Callable[..., Array]:
    """Return an initializer of `gain` times matrices with orthonormal rows or columns.

    The polar factor of a normal matrix, from the Newton-Schulz iteration (Higham, Functions of Matrices, ch. 8), is
    uniform over such matrices, like the usual QR factor. QR is not used because LAPACK's QR, batched by a vmap over
    seeds, can deadlock XLA's CPU thread pool (jaxlib 0.10.2).
    """

    def init(key: Array, shape: tuple[int, int], dtype: DTypeLike = jnp.float32) -> Array:
        tall = (max(shape), min(shape))
        x = jax.random.normal(key, tall, dtype)
        x = _polar_factor(x / jnp.linalg.norm(x))
        return gain * (x if shape[0] >= shape[1] else x.T)

    return init


def _dense(
    size_in: int, size_out: int, rngs: nnx.Rngs, dtype: str, gain: float = HIDDEN_GAIN, bias: bool = True
) -> nnx.Linear:
    """Return a linear layer with float32 parameters that computes in `dtype`, a `NetworksConfig.compute_dtype`."""
    kernel_init, multiply = orthogonal(gain), dot_general_of(dtype)
    return nnx.Linear(
        *(size_in, size_out),
        use_bias=bias,
        kernel_init=kernel_init,
        dtype=storage_dtype(dtype),
        dot_general=multiply,
        rngs=rngs,
    )


class MLP(nnx.Module):
    """Dense layers with an activation after each and an optional linear output layer, computed in `dtype`."""

    def __init__(
        self,
        size_in: int,
        sizes: Sequence[int],
        activation: str,
        rngs: nnx.Rngs,
        *,
        size_out: int = 0,
        gain: float = 1.0,
        dtype: str = "float32",
    ) -> None:
        ends = [size_in, *sizes]
        self.layers = nnx.List([_dense(a, b, rngs, dtype) for a, b in zip(ends[:-1], ends[1:], strict=True)])
        self.sizes = tuple(sizes)
        self.output = _dense(ends[-1], size_out, rngs, dtype, gain) if size_out else None
        self.activation = activation

    def __call__(self, x: Array) -> Array:
        """Map `[..., size_in]` to float32 `[..., size_out]`; without an output layer, to the last layer in `dtype`."""
        for layer in self.layers:
            x = ACTIVATIONS[self.activation](layer(x))
        return x if self.output is None else self.output(x).astype(jnp.float32)


def embed_time(t: Array, size: int) -> Array:
    """Return sines and cosines `[..., size]` of t `[...]` in [0, 1], at logarithmically spaced frequencies."""
    angles = 2 * jnp.pi * jnp.expand_dims(t, -1) * jnp.geomspace(*FREQUENCIES, size // 2, dtype=jnp.result_type(t))
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def _at_times(embed: Callable[[Array], Array], times: Sequence[float] | None) -> Callable[[Array], Array]:
    """Return `embed`; if all times are known in advance, return a lookup that embeds each of them once.

    Rows are selected by a matrix product, because the gradient of indexing is a scatter, which is slow on a CPU.
    """
    if times is None:
        return embed
    known = np.unique(np.asarray(times, np.float64))
    # A time matches its nearest known time, so that rounding has no effect.
    middles = 0.5 * (known[1:] + known[:-1])
    table = embed(jnp.asarray(known, jnp.float32))

    def look_up(t: Array) -> Array:
        index = (jnp.expand_dims(t, -1) >= jnp.asarray(middles, jnp.float32)).sum(axis=-1)
        return jax.nn.one_hot(index, len(known), dtype=table.dtype) @ table

    return look_up


class EncodedVelocity(nnx.Module):
    """Velocity field that encodes the observation once for all solver steps.

    The first layer of the head is a sum of three linear maps: of the encoded observation, of x and of the embedded
    time. The first map is the same in all solver steps, so `condition` computes it once. The last map does not
    depend on the batch. With `skip`, `c(t) * x` is added to the velocity, with c [action_size] linear in the embedded
    time and 0 at first. The velocity of a flow to independent normals is of this form, up to a constant.
    """

    def __init__(
        self,
        obs_size: int,
        action_size: int,
        rngs: nnx.Rngs,
        *,
        encoder_sizes: Sequence[int],
        head_sizes: Sequence[int],
        skip: bool,
        time_embedding: int,
        activation: str,
        dtype: str = "float32",
    ) -> None:
        width = head_sizes[0]
        self.encoder = MLP(obs_size, encoder_sizes, activation, rngs, dtype=dtype)
        self.from_obs = _dense(encoder_sizes[-1], width, rngs, dtype)
        self.from_x = _dense(action_size, width, rngs, dtype, bias=False)
        self.from_time = _dense(64, width, rngs, dtype, bias=False)
        self.time = MLP(time_embedding, (64, 64), activation, rngs, dtype=dtype)
        self.head = MLP(width, head_sizes[1:], activation, rngs, size_out=action_size, gain=OUTPUT_GAIN, dtype=dtype)
        self.skip = _dense(64, action_size, rngs, dtype, gain=0.0) if skip else None
        self.activation = activation
        self.time_embedding = time_embedding

    def condition(self, obs: Array, times: Sequence[float] | None = None) -> Velocity:
        """Return `v(x, t)` for observations `[..., obs_size]`: x is `[..., action_size]`, t a scalar or `[...]`.

        If `times` lists all values that t will take, each is embedded once, independent of the batch.
        """
        from_obs = self.from_obs(self.encoder(obs))
        from_time = _at_times(lambda t: self.from_time(self.time(embed_time(t, self.time_embedding))), times)

        def velocity(x: Array, t: Array) -> Array:
            return self.head(ACTIVATIONS[self.activation](from_obs + self.from_x(x) + from_time(t)))

        if (skip := self.skip) is None:
            return velocity
        scale = _at_times(lambda t: skip(self.time(embed_time(t, self.time_embedding))), times)
        return lambda x, t: velocity(x, t) + scale(t).astype(jnp.float32) * x


class ConcatVelocity(nnx.Module):
    """Velocity field as published: one network on (observation, x, time) that runs in every solver step."""

    def __init__(
        self,
        obs_size: int,
        action_size: int,
        rngs: nnx.Rngs,
        *,
        hidden_sizes: Sequence[int],
        time_embedding: int,
        activation: str,
        dtype: str = "float32",
    ) -> None:
        self.time = MLP(time_embedding, (64, 64), activation, rngs, dtype=dtype)
        self.trunk = MLP(
            obs_size + action_size + 64,
            hidden_sizes,
            activation,
            rngs,
            size_out=action_size,
            gain=OUTPUT_GAIN,
            dtype=dtype,
        )
        self.time_embedding = time_embedding

    def condition(self, obs: Array, times: Sequence[float] | None = None) -> Velocity:
        """Return `v(x, t)`; see `EncodedVelocity.condition`."""
        embed = _at_times(lambda t: self.time(embed_time(t, self.time_embedding)), times)

        def velocity(x: Array, t: Array) -> Array:
            parts = (obs, x, embed(t))
            batch = jnp.broadcast_shapes(*(part.shape[:-1] for part in parts))
            return self.trunk(jnp.concatenate([jnp.broadcast_to(p, (*batch, p.shape[-1])) for p in parts], axis=-1))

        return velocity


def make_velocity(
    obs_size: int, action_size: int, method: FlowMethod, networks: NetworksConfig, rngs: nnx.Rngs
) -> EncodedVelocity | ConcatVelocity:
    """Build the velocity field of a method."""
    shared = {
        "time_embedding": method.time_embedding,
        "activation": networks.activation,
        "dtype": networks.compute_dtype,
    }
    if method.network == "encoder":
        sizes = {"encoder_sizes": method.encoder_sizes, "head_sizes": method.head_sizes, "skip": method.skip}
        return EncodedVelocity(obs_size, action_size, rngs, **sizes, **shared)
    return ConcatVelocity(obs_size, action_size, rngs, hidden_sizes=method.hidden_sizes, **shared)


class ValueNetwork(nnx.Module):
    """State-value function."""

    def __init__(self, obs_size: int, networks: NetworksConfig, rngs: nnx.Rngs) -> None:
        dtype = networks.compute_dtype
        self.net = MLP(obs_size, networks.value_sizes, networks.activation, rngs, size_out=1, dtype=dtype)

    def __call__(self, obs: Array) -> Array:
        """Return the value `[...]` of observations `[..., obs_size]`."""
        return self.net(obs)[..., 0]
