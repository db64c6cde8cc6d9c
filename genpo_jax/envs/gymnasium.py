"""Train in Gymnasium's environments: simulators on the host, behind callbacks.

A simulator keeps its state outside jax, so a state here is a `Ticket`: the number of a session (simulators that are
stepped together) and the number of steps so far. Each step needs the ticket of the step before, so a program takes its
steps in order. Training, and episodes that are played to their end, have separate sessions.

Gymnasium's own automatic resets are off. `EpisodeEnv` decides when an episode ends, and resets its simulator by a seed
from the episode's key. The observation before the reset is therefore the true final observation.
"""

import ast
import importlib.util
import logging
import secrets
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from jax import Array

from genpo_jax.checks import require
from genpo_jax.config import GYMNASIUM, SUCCESS
from genpo_jax.envs.base import ACTOR_OBS, Metrics, Observation
from genpo_jax.envs.host import Ticket
from genpo_jax.envs.names import gymnasium_parts

# Answers the rows `(session, calls, ended, seed) [N, 4]` and actions `[N, d]` of one call; see `Session.answer`.
Answer = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
logger = logging.getLogger(__name__)
# Keys of `info` that report success; the first that an environment has is used.
SUCCESS_KEYS = ("is_success", "success")
# Fields of `MjData` that the recorder of episodes draws, and of `Ticket`.
DRAWN = ("qpos", "mocap_pos", "mocap_quat")


class GymnasiumEnvironment:
    """Any Gymnasium environment with bounded continuous actions, as an environment of this package.

    The bounds of the action space are `action_low` and `action_high`, so a policy acts in the units of the space. The
    parts of a Dict observation are flattened and joined in the order of the space. `is_success` or `success` in `info`
    is the metric `success`.

    Args:
        env: a name for `gymnasium.make`, such as `Hopper-v5` or `gym_pusht/PushT-v0`; or a function that returns an
            environment.
        keys: parts of a Dict observation to use, in this order; a part within a part is `outer/inner`. None: all.
        processes: step each simulator in a process; for simulators that take longer than about a millisecond.
        arguments: further arguments of `gymnasium.make`.

    Raises:
        ValueError: if there is no such environment, its spaces are not supported, or there are several devices.
    """

    def __init__(
        self,
        env: str | Callable[[], gymnasium.Env],
        keys: Sequence[str] | None = None,
        processes: bool = False,
        **arguments: Any,
    ) -> None:
        _check_devices()
        factory = getattr(env, "func", env)
        self.name = f"{GYMNASIUM}{env if isinstance(env, str) else getattr(factory, '__name__', type(env).__name__)}"
        self.processes = processes
        self._env = _registered_name(env) if isinstance(env, str) else env
        self._arguments = arguments
        keys = (keys,) if isinstance(keys, str) else keys
        self._keys = None if keys is None else tuple(keys)
        self._sessions: dict[bool, Session] = {}
        self._reset_by: tuple[Answer, tuple[Any, ...]] | None = None
        self._lock = threading.Lock()
        one = self._example()
        limit = None if one.spec is None else one.spec.max_episode_steps
        # None is refused where the episodes are made, unless the user sets a limit.
        self.default_episode_length: Any = limit
        self.action_space = space = _checked_actions(self.name, one.action_space)
        self.action_size = int(np.prod(space.shape))
        self.action_low, self.action_high = (tuple(map(float, np.ravel(x))) for x in (space.low, space.high))
        self._paths = _checked_paths(self.name, one.observation_space, self._keys)
        self.observation_sizes = {ACTOR_OBS: sum(size for _, size in self._paths)}
        robot: Any = one.unwrapped if _has_mujoco(one) else None
        # Another environment's `dt` may be the time of a part of a step.
        self.dt = getattr(robot, "dt", None)
        # Data of another process cannot be read.
        self.mj_model = None if processes else getattr(robot, "model", None)
        self._drawn = {} if self.mj_model is None else {name: np.size(getattr(robot.data, name)) for name in DRAWN}
        self._success = _success_key(one)
        one.close()
        weakref.finalize(self, _close_all, self._sessions)

    @classmethod
    def named(cls, name: str) -> "GymnasiumEnvironment":
        """Return the environment `gymnasium:NAME,argument=value,...`.

        Raises:
            ValueError: as the class.
        """
        first, *rest = gymnasium_parts(name)
        env = cls(first, **{key: _parsed(value) for key, _, value in (item.partition("=") for item in rest)})
        env.name = name
        return env

    @property
    def host(self) -> "GymnasiumEnvironment":
        """The host of the simulators."""
        return self

    def reset(self, key: Array) -> tuple[Ticket, Observation]:
        """Return a fresh `(state, observation)` for a typed PRNG key; under `vmap` all rows are one session."""
        default = partial(self._start, self.default_episode_length, False), ()
        answer, numbers = self._reset_by or default
        flags, numbers = self._call(answer, (*numbers, 0, 0, 0)[:3] + (_seed(key),))
        return self._received(flags, numbers)

    def step(self, state: Ticket, action: Array) -> tuple[Ticket, Observation, Array, Array, Metrics]:
        """Return `(state, observation, reward [], terminated [], metrics)` for an action [d] within the bounds."""
        flags, numbers = self._call(self._step, (state.session, state.calls, 0, 0), action)
        metrics = {} if self._success is None else {SUCCESS: flags[5].astype(jnp.float32)}
        return *self._received(flags, numbers), numbers[0], flags[3] > 0, metrics

    def starting(self, limit: int, lasting: bool) -> AbstractContextManager[None]:
        """See `Host`; there is one session of each kind, and a new one takes the simulators of the last."""
        return self._resets_by(partial(self._start, limit, lasting))

    def restarting(self, ticket: Ticket, ended: Array) -> AbstractContextManager[None]:
        """See `Host`."""
        return self._resets_by(self._restart, ticket.session, ticket.calls, ended)

    def resuming(self, limit: int, ticket: Ticket) -> AbstractContextManager[None]:
        """See `Host`."""
        return self._resets_by(partial(self._resume, limit), ticket.session, ticket.calls)

    @contextmanager
    def _resets_by(self, answer: Answer, *numbers: Any) -> Iterator[None]:
        before, self._reset_by = self._reset_by, (answer, numbers)
        try:
            yield
        finally:
            self._reset_by = before

    def _example(self) -> gymnasium.Env:
        """Return one environment, from which sizes and names are read."""
        try:
            return self._maker(None)()
        except (gymnasium.error.Error, ImportError, TypeError) as error:
            text = " ".join(str(error).split()).rstrip(".")
            raise ValueError(f"Gymnasium cannot make '{self.name.removeprefix(GYMNASIUM)}' ({text})") from error

    def _maker(self, limit: int | None) -> Callable[[], gymnasium.Env]:
        """Return a function that makes one environment whose own time limit is `limit`."""
        if not isinstance(self._env, str):
            return self._env
        limited = {} if limit is None else {"max_episode_steps": limit}
        return partial(gymnasium.make, self._env, disable_env_checker=True, **(self._arguments | limited))

    def _call(self, answer: Answer, numbers: tuple[Any, ...], action: Array | None = None) -> tuple[Array, Array]:
        """Call the host with `(session, calls, ended, seed)` and an action."""
        sent = jnp.stack([jnp.asarray(x, jnp.int32) for x in numbers])
        action = jnp.zeros(self.action_size) if action is None else action
        size = 1 + sum(self.observation_sizes.values()) + sum(self._drawn.values())
        kinds = jax.ShapeDtypeStruct((6,), jnp.int32), jax.ShapeDtypeStruct((size,), jnp.float32)
        # Not `io_callback`, which `vmap` calls once per simulator. The ticket gives the order.
        return jax.pure_callback(
            partial(self._locked, answer), kinds, sent, action.astype(jnp.float32), vmap_method="broadcast_all"
        )

    def _received(self, flags: Array, numbers: Array) -> tuple[Ticket, Observation]:
        size = self.observation_sizes[ACTOR_OBS]
        parts = jnp.split(numbers[1 + size :], np.cumsum(list(self._drawn.values()), dtype=int)[:-1])
        drawn = dict(zip(self._drawn, parts, strict=False))
        ticket = Ticket(flags[0], flags[1], flags[2] > 0, flags[4] > 0, **drawn)
        return ticket, {ACTOR_OBS: numbers[1 : 1 + size]}

    def _locked(self, answer: Answer, sent: Any, action: Any) -> tuple[np.ndarray, np.ndarray]:
        """Answer one call on the host. This must not compute with jax, which waits for the result."""
        sent, action = np.asarray(sent), np.asarray(action)
        with self._lock:
            flags, numbers = answer(sent.reshape(-1, 4), action.reshape(-1, self.action_size))
        leading = sent.shape[:-1]
        return flags.reshape(*leading, -1), numbers.reshape(*leading, -1)

    def _start(
        self, limit: int | None, lasting: bool, sent: np.ndarray, action: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        session = self._sessions.get(lasting)
        if session is None or (session.size, session.limit) != (len(sent), limit):
            if session is not None:
                session.vector.close()
            session = self._sessions[lasting] = Session(self._vector(len(sent), limit), limit, self._reader())
        if lasting:
            logger.warning(
                "the simulators of %s cannot be saved: a resumed run starts new episodes, and is not bit-identical",
                self.name,
            )
        session.begin(sent[:, 3])
        return session.answer()

    def _step(self, sent: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        session = self._session(sent)
        session.step(_within(self.action_space, action))
        return session.answer()

    def _restart(self, sent: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # Not counted: it may be of a seed whose evaluation has finished, and the other seeds do not see its ticket.
        session = self._session(sent, counted=False)
        session.restart(sent[:, 2] > 0, sent[:, 3])
        return session.answer()

    def _resume(self, limit: int, sent: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self._find(sent) is None:
            return self._start(limit, True, sent, action)
        session = self._session(sent)
        session.keep()
        return session.answer()

    def _session(self, sent: np.ndarray, counted: bool = True) -> "Session":
        """Return the session of a ticket, and count this call if it is a step."""
        session = self._find(sent)
        if session is None:
            raise RuntimeError(f"a state of {self.name} can be stepped once, and only until other episodes start")
        session.calls += counted
        return session

    def _find(self, sent: np.ndarray) -> "Session | None":
        # A program of several seeds does not update the tickets of a seed whose evaluation has finished.
        calls = sent[:, 1].max()
        for session in self._sessions.values():
            if len(sent) == session.size and (sent[:, 0] == session.number).all() and calls == session.calls:
                return session
        return None

    def _vector(self, size: int, limit: int | None) -> VectorEnv:
        makers = [self._maker(limit)] * size
        if self.processes:
            return AsyncVectorEnv(makers, context="spawn", autoreset_mode=AutoresetMode.DISABLED)
        return SyncVectorEnv(makers, autoreset_mode=AutoresetMode.DISABLED)

    def _reader(self) -> "Reader":
        return Reader(tuple(path for path, _ in self._paths), self._success, tuple(self._drawn))


class Reader:
    """Reads observations, success and positions of N simulators as rows of numbers.

    Args:
        paths: keys of each part of a Dict observation; a single () for an observation without parts.
        success: key of `info` that reports success; None if there is none.
        drawn: fields of `MjData`.
    """

    def __init__(self, paths: tuple[tuple[str, ...], ...], success: str | None, drawn: tuple[str, ...]) -> None:
        self.paths, self.success, self.drawn = paths, success, drawn

    def observation(self, obs: Any) -> np.ndarray:
        """Return observations `[N, n]`, float32."""
        parts = []
        for path in self.paths:
            part = obs
            for key in path:
                part = part[key]
            parts.append(np.reshape(part, (len(part), -1)))
        with np.errstate(over="ignore"):
            return np.concatenate(parts, axis=1).astype(np.float32)

    def successes(self, info: dict[str, Any], size: int) -> np.ndarray:
        """Return whether each simulator reports success `[N]`."""
        if self.success not in info:
            return np.zeros(size, bool)
        return np.asarray(info[self.success], float) > 0

    def positions(self, vector: VectorEnv) -> np.ndarray:
        """Return positions of MuJoCo's bodies `[N, m]`; m is 0 for an environment without a model."""
        if not self.drawn:
            return np.zeros((vector.num_envs, 0), np.float32)
        data: Any = [env.unwrapped.data for env in vector.envs]  # pyright: ignore[reportAttributeAccessIssue]
        rows = [np.concatenate([np.ravel(getattr(one, name)) for name in self.drawn]) for one in data]
        return np.stack(rows).astype(np.float32)


class Session:
    """N simulators that are stepped together.

    Args:
        vector: the simulators, without automatic resets.
        limit: their time limit in steps.
        reader: reads their results.

    Attributes:
        number: random number, new for each start; a number of an earlier process is therefore not found.
        calls: calls so far.
    """

    def __init__(self, vector: VectorEnv, limit: int | None, reader: Reader) -> None:
        self.vector, self.limit, self.reader = vector, limit, reader
        self.size = vector.num_envs
        self.number = self.calls = 0
        self._clear()

    def begin(self, seeds: np.ndarray) -> None:
        """Reset all simulators."""
        self.number, self.calls = secrets.randbelow(2**31), 0
        self._clear()
        self._begun = np.ones(self.size, bool)
        obs, _ = self.vector.reset(seed=seeds.tolist())
        self._obs = self.reader.observation(obs)

    def step(self, actions: np.ndarray) -> None:
        """Step all simulators; one whose episode has ended is reset before, and its result is not used."""
        ended = self._terminated | self._truncated
        self.restart(ended, np.zeros(self.size, int))
        obs, reward, terminated, truncated, info = self.vector.step(actions)
        self._obs, self._reward = self.reader.observation(obs), np.asarray(reward, np.float32)
        self._terminated, self._truncated = np.array(terminated, bool), np.array(truncated, bool)
        self._success = self.reader.successes(info, self.size)
        self.keep()

    def keep(self) -> None:
        """Continue all episodes."""
        self._begun = np.zeros(self.size, bool)

    def restart(self, ended: np.ndarray, seeds: np.ndarray) -> None:
        """Reset some of the simulators."""
        self._begun = ended
        if not ended.any():
            return
        obs, _ = self.vector.reset(seed=seeds.tolist(), options={"reset_mask": ended})
        self._obs = np.where(ended[:, None], self.reader.observation(obs), self._obs)
        self._terminated, self._truncated = self._terminated & ~ended, self._truncated & ~ended

    def answer(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the results of the last call.

        These are `(session, calls, begun, terminated, truncated, success) [N, 6]`, and reward, observation and
        positions as one array `[N, *]`.
        """
        tickets = np.full((self.size, 2), (self.number, self.calls))
        ends = self._terminated, self._truncated
        flags = np.column_stack([tickets, self._begun, *ends, self._success]).astype(np.int32)
        return flags, np.concatenate([self._reward[:, None], self._obs, self.reader.positions(self.vector)], axis=1)

    def _clear(self) -> None:
        self._begun = self._terminated = self._truncated = self._success = np.zeros(self.size, bool)
        self._reward = np.zeros(self.size, np.float32)


def _within(space: spaces.Box, action: np.ndarray) -> np.ndarray:
    """Return actions `[..., d]` within the bounds of a space, with its shape and type."""
    action = action.reshape(*action.shape[:-1], *space.shape)
    # Rounding may have exceeded the bounds.
    return np.clip(action, space.low, space.high).astype(space.dtype)


def _seed(key: Array) -> Array:
    """Return a seed in [0, 2^31) from a typed key."""
    return (jax.random.bits(key, (), jnp.uint32) >> 1).astype(jnp.int32)


def _parsed(value: str) -> Any:
    try:
        return ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return {"true": True, "false": False, "none": None}.get(value.lower(), value)


def _registered_name(name: str) -> str:
    """Return a name that `gymnasium.make` finds also in a new process.

    A package registers its environments when it is imported; Gymnasium imports it if the name is `package:ID`.
    """
    package, slash, _ = name.partition("/")
    known = ":" in name or not slash or name in gymnasium.registry
    return name if known or not _importable(package) else f"{package}:{name}"


def _importable(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def _check_devices() -> None:
    """Raise `ValueError` unless one process uses one device; simulators cannot be shared."""
    count = jax.device_count()
    require(
        count == 1 and jax.process_count() == 1,
        "one, for Gymnasium's environments",
        "the number of devices and of processes",
        (count, jax.process_count()),
        "use one process with one device, for example with CUDA_VISIBLE_DEVICES=0",
    )


def _checked_actions(name: str, space: spaces.Space) -> spaces.Box:
    kind = isinstance(space, spaces.Box)
    require(kind, "a Box of continuous actions", f"the action space of {name}", space, "choose another environment")
    assert isinstance(space, spaces.Box)
    bounded = space.is_bounded() and np.issubdtype(space.dtype, np.floating)
    require(
        bounded, "a Box of floats with finite bounds", f"the action space of {name}", space, "wrap it in RescaleAction"
    )
    return space


def _checked_paths(
    name: str, space: spaces.Space, keys: tuple[str, ...] | None
) -> tuple[tuple[tuple[str, ...], int], ...]:
    """Return path and size of each part of the observation."""
    parts = {"/".join(path): (path, leaf) for path, leaf in _leaves(space)}
    if keys is not None:
        known = all(key in parts for key in keys) and len(keys) > 0
        require(known, f"a list of some of {sorted(parts)}", f"keys of {name}", list(keys))
        parts = {key: parts[key] for key in keys}
    for key, (_, leaf) in parts.items():
        numbers = isinstance(leaf, spaces.Box) and leaf.dtype != np.uint8 and len(leaf.shape) < 3
        what = f"the observation {f'{key!r} ' if key else ''}of {name}"
        remedy = f"name others of {sorted(parts)} by keys" if len(parts) > 1 else "choose another environment"
        require(numbers, "a Box of numbers, not an image or discrete", what, leaf, remedy)
    return tuple((path, int(np.prod(leaf.shape))) for path, leaf in parts.values())


def _leaves(space: spaces.Space, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield path and space of each part of an observation that is not a Dict."""
    if not isinstance(space, spaces.Dict):
        yield path, space
        return
    for key, part in space.spaces.items():
        yield from _leaves(part, (*path, key))


def _success_key(env: gymnasium.Env) -> str | None:
    """Return the key of `info` that reports success, read from one step."""
    _, info = env.reset(seed=0)
    space = env.action_space
    assert isinstance(space, spaces.Box)
    info = info | env.step(((space.low + space.high) / 2).astype(space.dtype))[-1]
    return next((key for key in SUCCESS_KEYS if np.size(info.get(key, ())) == 1), None)


def _has_mujoco(env: gymnasium.Env) -> bool:
    """Whether an environment has a MuJoCo model and data, as Gymnasium's own robots have."""
    mujoco = sys.modules.get("mujoco")
    model, data = getattr(env.unwrapped, "model", None), getattr(env.unwrapped, "data", None)
    return mujoco is not None and isinstance(model, mujoco.MjModel) and isinstance(data, mujoco.MjData)


def _close_all(sessions: dict[bool, Session]) -> None:
    for session in sessions.values():
        session.vector.close()
