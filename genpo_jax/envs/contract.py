"""Check one traced reset and step of an environment, before anything is compiled; each error names one attribute."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from genpo_jax.checks import require
from genpo_jax.envs.base import ACTOR_OBS, Environment, Metrics, Observation

# Larger magnitudes count as non-finite: their squares could overflow the float32 running statistics.
LARGEST = 1e8

# Errors of jax for Python or numpy code that needs the value of a traced array.
_TRACER_ERRORS = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)
_REAL = (jnp.bool_, jnp.integer, jnp.floating)


def check_environment(env: Environment) -> tuple[str, ...]:
    """Check the attributes, one traced reset and one traced step; return the sorted names of the metrics.

    Raises:
        ValueError: names what does not follow `Environment`.
    """
    _check_attributes(env)

    def play(key: Array, action: Array) -> Metrics:
        # Strong types, as in later steps, so that the physics is traced once.
        state, obs = _checked_reset(env, key)
        return _checked_step(env, state, obs, action)

    metrics = jax.eval_shape(play, jax.random.key(0), jax.ShapeDtypeStruct((int(env.action_size),), jnp.float32))
    return tuple(sorted(metrics))


def check_first_step(env: Environment) -> None:
    """Check that the numbers of one reset and one step with action 0 are finite and at most `LARGEST`.

    The step is computed operation by operation. That takes minutes for simulated physics, so an environment with a
    model of a robot is not checked: training reports what is not finite.

    Args:
        env: an environment with actions in [-1, 1], see `genpo_jax.envs.wrappers.wrapped`.

    Raises:
        ValueError: names the first observation, reward or metric that is not.
    """
    if hasattr(env, "raw") or hasattr(env, "mj_model"):
        return
    state, obs = env.reset(jax.random.key(0))
    check_finite(env.name, "at the start", named(obs))
    _, obs, reward, terminated, metrics = env.step(state, jnp.zeros(env.action_size, jnp.float32))
    check_finite(env.name, "after a step with action 0", named(obs) | {"reward": reward}, metrics)
    ends = np.asarray(terminated)
    require(bool(np.isin(ends, (0, 1)).all()), "0 or 1, or a boolean", f"terminated of {env.name}", ends.item())


def check_finite(name: str, when: str, results: Mapping[str, Any], metrics: Mapping[str, Any] | None = None) -> None:
    """Check that named results of an environment are finite, and all but its metrics at most `LARGEST`.

    Raises:
        ValueError: names the first that is not.
    """
    for values, limit in ((results, LARGEST), (metrics or {}, np.inf)):
        for key, value in values.items():
            array = np.asarray(value)
            bad = np.flatnonzero(~np.isfinite(array))[:8].tolist()
            got = f"non-finite entries {bad}" if array.ndim else float(array)
            require(not bad, f"finite {when}", f"{key} of {name}", got)
            largest = np.abs(array).max(initial=0).item()
            require(largest <= limit, f"in [-1e8, 1e8] {when}", f"{key} of {name}", largest, "use larger units")


def named(obs: Observation) -> dict[str, Array]:
    """Return the observations by the names that messages have for them."""
    return {f"observation '{key}'": value for key, value in obs.items()}


def check_observation(obs: Any, name: str) -> None:
    """Check that an observation is a dict of non-empty vectors.

    Raises:
        ValueError: names the observation that is not.
    """
    if not isinstance(obs, dict):
        got = f"an array of shape {obs.shape}" if hasattr(obs, "shape") else type(obs).__name__
        raise ValueError(f"the observation of {name} must be a dict of vectors, got {got}; return {{'state': vector}}")
    for key, value in obs.items():
        require(not isinstance(value, list), "an array", f"observation '{key}' of {name}", value, "return jnp.stack(x)")
        check_numbers(name, {f"observation '{key}'": value})
        shape = jnp.shape(value)
        require(len(shape) == 1, "a vector", f"observation '{key}' of {name}", f"shape {shape}", "return x.ravel()")
        require(shape != (0,), "a vector of at least one number", f"observation '{key}' of {name}", f"shape {shape}")


def check_numbers(name: str, values: Mapping[str, Any]) -> None:
    """Check that named results of an environment are real numbers, or arrays of them.

    Raises:
        ValueError: names the first that is not.
    """
    for key, value in values.items():
        try:
            dtype = jnp.asarray(value).dtype
        except (TypeError, ValueError):
            dtype = None
        real = dtype is not None and any(jnp.issubdtype(dtype, kind) for kind in _REAL)
        require(real, "a real number or an array of them", f"{key} of {name}", value if dtype is None else str(dtype))


def check_scalars(name: str, **values: Any) -> None:
    """Check that the named results of a step are real scalars.

    Raises:
        ValueError: names the first that is not.
    """
    check_numbers(name, values)
    for key, value in values.items():
        shape = jnp.shape(value)
        require(shape == (), "one number", f"{key} of {name}", f"shape {shape}", "return x[0], or a sum or mean")


def check_unchanged(before: Any, after: Any, what: str) -> None:
    """Check that a tree keeps its structure, shapes and types in a step.

    Raises:
        ValueError: names the first leaf that changes, or both structures.
    """
    if jax.tree.structure(before) != jax.tree.structure(after):
        old, new = _outline(before, after), _outline(after, before)
        raise ValueError(f"{what} must be {old}, as at the start, got {new}; keep its structure")
    leaves = zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True)
    for (path, old), new in leaves:
        name = f"{what}, at {jax.tree_util.keystr(path)}" if path else what
        require(_can_replace(new, old), f"{_kind(old)}, as at the start", name, _kind(new))


def strong(tree: Any, what: str = "the state") -> Any:
    """Return a tree as arrays without weak types, which come from Python numbers: a change of type recompiles.

    Raises:
        ValueError: if a leaf is no array and no number.
    """

    def cast(leaf: Any) -> Array:
        try:
            array = jnp.asarray(leaf)
        except TypeError as error:
            raise ValueError(f"{what} must contain only arrays and numbers, got {leaf!r}") from error
        is_key = jnp.issubdtype(array.dtype, jax.dtypes.prng_key)
        return array if is_key else lax.convert_element_type(array, array.dtype)

    return jax.tree.map(cast, tree)


def as_floats(obs: Observation) -> Observation:
    """Return observations as float32, or as float64 if they are float64."""
    return {name: jnp.asarray(value, jnp.promote_types(value.dtype, jnp.float32)) for name, value in obs.items()}


@contextlib.contextmanager
def traced(what: str) -> Iterator[None]:
    """Turn jax's errors about traced values into one sentence that names the function.

    Raises:
        ValueError: if the code inside needs the value of a traced array.
    """
    try:
        yield
    except _TRACER_ERRORS as error:
        first = str(error).splitlines()[0].rstrip(".")
        raise ValueError(
            f"{what} must compute with jax.numpy, not with numpy or with if, while or float() on its inputs ({first})"
        ) from error


def _check_attributes(env: Environment) -> None:
    require(isinstance(env.name, str), "a string", "the name of an environment", env.name)
    size = env.action_size
    require(_is_count(size), "an integer >= 1", f"action_size of {env.name}", size, _remedy(size))
    sizes = env.observation_sizes
    known = isinstance(sizes, dict) and all(isinstance(key, str) and _is_count(n) for key, n in sizes.items())
    require(known, "a dict of integers >= 1 by name", f"observation_sizes of {env.name}", sizes)
    require(
        ACTOR_OBS in sizes, f"a dict with '{ACTOR_OBS}', which the actor sees", f"observations of {env.name}", sizes
    )


def _checked_reset(env: Environment, key: Array) -> tuple[Any, Observation]:
    with traced(f"reset of {env.name}"):
        returned = env.reset(key)
    if not (isinstance(returned, tuple) and len(returned) == 2):
        raise ValueError(f"reset of {env.name} must return (state, observation), got {_described(returned)}")
    state, obs = returned
    check_observation(obs, env.name)
    sizes = {name: len(value) for name, value in obs.items()}
    rule = f"{sizes}, the sizes that reset returns"
    require(dict(env.observation_sizes) == sizes, rule, f"observation_sizes of {env.name}", env.observation_sizes)
    return strong(state, f"the state of {env.name}"), obs


def _checked_step(env: Environment, state: Any, obs: Observation, action: Array) -> Metrics:
    with traced(f"step of {env.name}"):
        returned = env.step(state, action)
    if not (isinstance(returned, tuple) and len(returned) == 5 and isinstance(returned[4], dict)):
        raise ValueError(
            f"step of {env.name} must return (state, observation, reward, terminated, metrics), got "
            f"{_described(returned)}; return {{}} if there are no metrics"
        )
    after, after_obs, reward, terminated, metrics = returned
    check_observation(after_obs, env.name)
    check_unchanged(obs, after_obs, f"the observation of {env.name} after a step")
    check_unchanged(state, after, f"the state of {env.name} after a step")
    check_scalars(env.name, reward=reward, terminated=terminated)
    named = all(isinstance(name, str) for name in metrics)
    require(named, "a dict with strings as keys", f"metrics of {env.name}", list(metrics))
    check_numbers(env.name, {f"metric '{name}'": value for name, value in metrics.items()})
    for name, value in metrics.items():
        if jnp.shape(value) != ():
            raise ValueError(f"metrics must be scalars, '{name}' of {env.name} has shape {jnp.shape(value)}")
    return metrics


def _is_count(number: Any) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 1


def _remedy(number: Any) -> str:
    # The files of a run are JSON, which has no numpy types.
    return "convert it by int(...)" if isinstance(number, np.integer) else ""


def _described(returned: Any) -> str:
    return f"{len(returned)} values" if isinstance(returned, tuple) else type(returned).__name__


def _can_replace(new: Any, old: Any) -> bool:
    """Whether a selection between both, as at the end of an episode, has the shape and type of the old leaf."""
    try:
        selected = jnp.where(True, old, new)
    except (TypeError, ValueError):
        return False
    return (selected.shape, selected.dtype) == (jnp.shape(old), jnp.asarray(old).dtype)


def _outline(tree: Any, other: Any) -> str:
    """Return the types of a small tree; of a large one, the paths that the other tree does not have."""
    outline = str(jax.tree.map(_kind, tree)).replace("'", "")
    if len(outline) < 100:
        return outline
    added = sorted(_paths(tree) - _paths(other))
    return f"a tree with {', '.join(added) or 'no other leaves'}"


def _paths(tree: Any) -> set[str]:
    return {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)}


def _kind(leaf: Any) -> str:
    array = jnp.asarray(leaf)
    return f"{array.dtype}{list(array.shape)}"
