"""Tasks on MJCF models: one definition, simulated by MuJoCo's C engine, MJX or MJX's Warp."""

import copy
import dataclasses
import hashlib
import math
import numbers
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from flax.struct import PyTreeNode
from jax import Array

from genpo_jax.checks import require
from genpo_jax.config import SUCCESS
from genpo_jax.envs.agreement import compare
from genpo_jax.envs.base import ACTOR_OBS, CRITIC_OBS, Metrics, Observation
from genpo_jax.envs.contract import (
    check_finite,
    check_observation,
    check_scalars,
    check_unchanged,
    named,
    strong,
    traced,
)
from genpo_jax.envs.engines import CEngine, Engine, MjxEngine, WarpEngine
from genpo_jax.envs.mirror import Mirror, together, unchanged
from genpo_jax.envs.names import TASK_BACKENDS, unknown_in_model
from genpo_jax.envs.physics import Physics
from genpo_jax.runtime import compiler_options, default_platform


@dataclasses.dataclass(frozen=True)
class Start:
    """The initial state of an episode. A field that is None has its value in the first keyframe, or its default.

    The first keyframe also sets the initial time.

    Attributes:
        qpos: positions `[nq]`.
        qvel: velocities `[nv]`.
        ctrl: controls `[nu]`.
        mocap_pos: positions of mocap bodies `[nmocap, 3]`, in meters.
        mocap_quat: orientations of mocap bodies `[nmocap, 4]`.
        goal: goal of the episode, which stays constant; a tree of arrays.
        memory: initial memory, which `remember` updates in each step; a tree of arrays.
        act: activations of actuators with internal state, such as muscles and filters, `[na]`.
    """

    qpos: Any = None
    qvel: Any = None
    ctrl: Any = None
    mocap_pos: Any = None
    mocap_quat: Any = None
    goal: Any = ()
    memory: Any = ()
    act: Any = None


class TaskState(PyTreeNode):
    """State of an episode.

    Attributes:
        data: the engine's data, with the field names of `MjData`.
        goal: goal of the episode.
        memory: memory of the task.
        variant: number of the model's variant; None without `MjcfTask.physics`.
    """

    data: Any
    goal: Any
    memory: Any
    variant: Any = None


class View:
    """Read access of a task to one simulation.

    Attributes:
        time: seconds since the start of the episode, plus the time of the first keyframe.
        qpos: positions `[nq]`.
        qvel: velocities `[nv]`.
        act: activations of actuators with internal state `[na]`.
        ctrl: current controls `[nu]`.
        goal: goal of the episode.
        memory: memory of the task.
        physics: the numbers that the episode has drawn, by item of `EnvConfig.physics` without its range: `[1]` for a
            factor, `[3]` for an offset of a center of mass. {} without these settings.
    """

    def __init__(self, task: "MjcfTask", state: TaskState) -> None:
        self.time, self.goal, self.memory = state.data.time, state.goal, state.memory
        self.qpos, self.qvel = state.data.qpos, state.data.qvel
        self.act, self.ctrl = state.data.act, state.data.ctrl
        self._sensordata, self._sensors = state.data.sensordata, task.sensors
        self.physics = {} if task.physics is None else task.physics.values(state.variant)

    def sensor(self, name: str) -> Array:
        """Return the value `[n]` of the named sensor; after a step, it lags by one physics step.

        Raises:
            ValueError: if the model has no such sensor.
        """
        if name not in self._sensors:
            raise ValueError(unknown_in_model("sensor", name, self._sensors))
        return self._sensordata[self._sensors[name]]


class MjcfTask:
    """A task on an MJCF model. Derive a class, set `model` and `control_dt`, define `observe` and `reward`.

    All methods are pure JAX functions of one simulation. They read it through a `View`, named `s`: positions,
    velocities, activations, controls, the task's goal and memory, and the model's `<sensor>` elements by name.

    Args:
        backend: `c`, MuJoCo's C engine on the CPU, which compiles in seconds and supports all of MuJoCo; `mjx` for any
            accelerator; or `warp` for GPUs of NVIDIA. None selects `mjx` if jax has an accelerator or several
            processes, otherwise `c`.

    Attributes:
        model: path of an MJCF file, its text, or an `mujoco.MjSpec`. A relative path starts at the current folder; use
            `Path(__file__).with_name("arm.xml")` for a file beside the task.
        control_dt: seconds between actions; a multiple of the model's time step.
        episode_length: time limit in actions.
        action_size: number of action coordinates; None for one per actuator.
        mirror: symmetry of the task, for training with `PPOConfig.mirror`; None if it has none.
        mj_model: MuJoCo's compiled model.
        physics: variants of the model, see `varied`; None for one model.
        dt: `control_dt`.
        sensors: slice of `sensordata` of each sensor, by name.
        sha256: hashes of the MJCF text and of the compiled model, with keys `mjcf` and `model`.

    Raises:
        ValueError: if the model does not compile or MJX does not support it, an attribute is missing or invalid, or an
            observation, reward or success has the wrong shape or is not finite.
    """

    model: Any = None
    control_dt: float = 0.0
    episode_length: int = 200
    action_size: int = None  # type: ignore[assignment]
    name: str = ""
    mirror: Mirror | None = None
    physics: Physics | None = None

    def __init__(self, backend: str | None = None) -> None:
        self.name = self.name or type(self).__name__
        self.backend = backend or _default_backend()
        require(
            self.backend in TASK_BACKENDS, f"one of {', '.join(TASK_BACKENDS)}", f"the backend of {self.name}", backend
        )
        self.mj_model, self.sha256 = _compiled(self.name, self.model)
        self.dt = self.control_dt
        self.substeps = _substeps(self.name, self.control_dt, self.mj_model.opt.timestep)
        if self.action_size is None:
            self.action_size = self.mj_model.nu
        require(
            self.action_size > 0, "at least 1", f"action_size of {self.name}", self.action_size, "add an <actuator>"
        )
        self.default_episode_length = self.episode_length
        self.sensors = _sensors(self.mj_model)
        self.engine: Engine = _engine(self.backend, self.mj_model)
        self.observation_sizes = self._checked_sizes()

    def varied(self, physics: Sequence[str], variants: int | None = 64, seed: int = 0) -> Self:
        """Return this task with physics that is drawn for each episode.

        What was drawn is `View.physics`, and is appended to the observation `privileged_state`, which is the
        observation `state` if the task has no other.

        Args:
            physics: what to draw, see `EnvConfig.physics`.
            variants: number of variants of the model; None for the nominal model with the same observations.
            seed: seed of the variants.

        Raises:
            ValueError: if a name or a range is unknown or changes nothing, or the physics is drawn already.
        """
        require(self.physics is None, "a task with one model", self.name, "one with drawn physics", "set it once")
        task = copy.copy(self)
        if variants is None:
            task.physics = Physics.nominal(physics)
            task.engine = _engine(self.backend, self.mj_model)
        else:
            drawn = Physics.of(_spec(self.name, self.model), physics, variants, seed)
            task.engine = _engine(self.backend, drawn.models[0], variants=drawn.models)
            # The engine has copies, and models with meshes are large.
            task.physics = dataclasses.replace(drawn, models=())
        obs = jax.eval_shape(task.reset, jax.random.key(0))[1]
        task.observation_sizes = {name: value.shape[0] for name, value in obs.items()}
        if self.mirror is not None:
            task.mirror = _mirror(self.mirror, task.physics)
        return task

    def pushed(self, state: TaskState, change: Array) -> TaskState:
        """Return a state whose velocities have changed by `change` `[nv]`."""
        return state.replace(data=state.data.replace(qvel=state.data.qvel + change))

    def reserve(self, num_envs: int) -> None:
        """Allocate for this number of environments in one program, which only backend warp needs."""
        if isinstance(self.engine, WarpEngine):
            self.engine.reserve(num_envs)

    def initial(self, key: Array) -> Start:
        """Return the initial state of an episode."""
        del key
        return Start()

    def observe(self, s: View) -> Array | Observation:
        """Return the observation `[n]`; or a dict of observations, with `privileged_state` for the critic."""
        raise NotImplementedError(f"{self.name} must define observe(s)")

    def reward(self, s: View, action: Array) -> Array:
        """Return the reward of the step that ended in `s`."""
        raise NotImplementedError(f"{self.name} must define reward(s, action)")

    def control(self, s: View, action: Array) -> Array:
        """Return the controls `[nu]` for an action in [-1, 1]; by default, scale it to the actuators' ranges."""
        del s
        low, high = self.mj_model.actuator_ctrlrange.T
        return jnp.asarray(low + (high - low) / 2, action.dtype) + jnp.asarray((high - low) / 2, action.dtype) * action

    def terminated(self, s: View) -> Array:
        """Whether the task ends the episode in `s`."""
        del s
        return jnp.asarray(False)

    def success(self, s: View) -> Array | None:
        """Whether the task is solved in `s`; the last step of an episode counts. None: success is not defined."""
        del s
        return None

    def remember(self, s: View) -> Any:
        """Return the memory after a step; reward, success and metrics of the same step read this new memory."""
        return s.memory

    def metrics(self, s: View, action: Array) -> Metrics:
        """Return scalars by name; they are summed over an episode, but `mode_k` keeps its last value."""
        del s, action
        return {}

    def reset(self, key: Array) -> tuple[TaskState, Observation]:
        """Return a fresh `(state, observation)` for a typed PRNG key."""
        state = self._start(key)
        state = state.replace(data=self.engine.forward(state.data, state.variant))
        return state, self._observation(View(self, state))

    def _start(self, key: Array) -> TaskState:
        """Return the initial state of an episode; quantities computed from it are not filled in."""
        variant = None
        if self.physics is not None:
            variant_key, key = jax.random.split(key)
            variant = jax.random.randint(variant_key, (), 0, self.physics.count)
        start = self._call("initial", key)
        require(isinstance(start, Start), "a Start", f"the result of initial of {self.name}", type(start).__name__)
        data = self.engine.start()
        changed = {}
        for name, keyframes in _KEYFRAMES.items():
            value, shape = getattr(start, name, None), jnp.shape(getattr(data, name))
            if value is None and self.mj_model.nkey:
                value = getattr(self.mj_model, keyframes)[0].reshape(shape)
            if value is not None:
                value = jnp.asarray(value, getattr(data, name).dtype)
                require(value.shape == shape, f"of shape {shape}", f"{name} of {self.name}'s Start", value.shape)
                changed[name] = value
        goal = strong(start.goal, f"goal of {self.name}'s Start")
        memory = strong(start.memory, f"memory of {self.name}'s Start")
        return TaskState(data.replace(**changed), goal, memory, variant)

    def step(self, state: TaskState, action: Array) -> tuple[TaskState, Observation, Array, Array, Metrics]:
        """Return `(state, observation, reward, terminated, metrics)` for an action `[d]` in [-1, 1]."""
        ctrl = self._call("control", View(self, state), action)
        shape = (self.mj_model.nu,)
        require(jnp.shape(ctrl) == shape, f"of shape {shape}", f"control of {self.name}", jnp.shape(ctrl))
        data = state.data.replace(ctrl=jnp.asarray(ctrl, state.data.ctrl.dtype))
        data = self.engine.step(data, self.substeps, state.variant)
        state = state.replace(data=data)
        memory = strong(self._call("remember", View(self, state)), f"the memory that remember of {self.name} returns")
        state = state.replace(memory=memory)
        s = View(self, state)
        metrics = dict(self._call("metrics", s, action))
        success = self._call("success", s)
        if success is not None:
            metrics[SUCCESS] = jnp.asarray(success, jnp.float32)
        reward, terminated = self._call("reward", s, action), self._call("terminated", s)
        return state, self._observation(s), jnp.asarray(reward), jnp.asarray(terminated).astype(bool), metrics

    def _call(self, method: str, *args: Any) -> Any:
        """Call a method of the task; errors about traced values name the method."""
        with traced(f"{method} of {self.name}"):
            return getattr(self, method)(*args)

    def _observation(self, s: View) -> Observation:
        obs = self._call("observe", s)
        obs = obs if isinstance(obs, dict) else {"state": obs}
        if self.physics is not None:
            obs = obs | {CRITIC_OBS: jnp.concatenate([obs.get(CRITIC_OBS, obs[ACTOR_OBS]), *s.physics.values()])}
        return {name: strong(jnp.asarray(value)) for name, value in obs.items()}

    def _checked_sizes(self) -> dict[str, int]:
        """Check one reset and one step, and return the sizes of the observations.

        Raises:
            ValueError: names what has the wrong shape or is not finite.
        """
        # With fusion emitters, MJX needs minutes on a CPU instead of seconds.
        xla_options = compiler_options(fusion_emitters=False)
        state, obs = self._first(xla_options)
        check_observation(obs, self.name)
        check_finite(self.name, "at the start", named(obs))
        if type(self).control is MjcfTask.control:
            free = [i for i in range(self.mj_model.nu) if not self.mj_model.actuator_ctrllimited[i]]
            names = ", ".join(self.mj_model.actuator(i).name or str(i) for i in free)
            require(
                not free,
                "given for all actuators",
                f"ctrlrange of {self.name}",
                f"none for {names}",
                "or define control",
            )
            require(
                self.action_size == self.mj_model.nu,
                f"the number of actuators, {self.mj_model.nu}",
                f"action_size of {self.name}",
                self.action_size,
                "define control for another",
            )
        action = jnp.zeros(self.action_size, jnp.float32)
        jax.eval_shape(self._checked_step, state, obs, action)
        if self.backend == "c":
            # With MJX, this would take as long to compile as the training.
            _, obs, reward, _, metrics = jax.jit(self.step, compiler_options=xla_options)(state, action)
            check_finite(self.name, "after a step with action 0", named(obs) | {"reward": reward}, metrics)
        return {name: value.shape[0] for name, value in obs.items()}

    def _first(self, xla_options: Any) -> tuple[TaskState, Observation]:
        """Return the first state and observation; with MJX, compare one physics step with the C engine."""
        key = jax.random.key(0)
        if self.backend == "c":
            return jax.jit(self.reset, compiler_options=xla_options)(key)
        state = jax.jit(self._start)(key)
        # A step costs as much to compile as the reset, and also fills in the sensors of the state before it.
        step = jax.jit(partial(self.engine.step, substeps=1), compiler_options=xla_options)
        after = compare(self.name, self.backend, self.mj_model, state.data, step)
        state = state.replace(data=state.data.replace(sensordata=after.sensordata))
        return state, self._observation(View(self, state))

    def _checked_step(self, state: TaskState, obs: Observation, action: Array) -> TaskState:
        after, after_obs, reward, terminated, metrics = self.step(state, action)
        check_unchanged(state.memory, after.memory, f"the memory that remember of {self.name} returns")
        check_unchanged(obs, after_obs, f"the observation of {self.name} after a step")
        check_scalars(self.name, reward=reward, terminated=terminated, **metrics)
        return after


# Fields of the state that a keyframe sets, with the names of their arrays in `MjModel`.
_KEYFRAMES = {
    "time": "key_time",
    "qpos": "key_qpos",
    "qvel": "key_qvel",
    "act": "key_act",
    "ctrl": "key_ctrl",
    "mocap_pos": "key_mpos",
    "mocap_quat": "key_mquat",
}


def _default_backend() -> str:
    return "c" if default_platform() == "cpu" and jax.process_count() == 1 else "mjx"


def _engine(backend: str, model: mujoco.MjModel, **variants: Any) -> Engine:
    return {"c": CEngine, "mjx": MjxEngine, "warp": WarpEngine}[backend](model, **variants)


def _mirror(mirror: Mirror, physics: Physics) -> Mirror | None:
    """Return the symmetry of a task with drawn physics; None if an item could change one side alone."""
    if not physics.symmetric:
        return None
    seen = mirror.observations.get(CRITIC_OBS, mirror.observations[ACTOR_OBS])
    drawn = unchanged(sum(values.shape[1] for values in physics.drawn.values()))
    return Mirror(mirror.observations | {CRITIC_OBS: together(seen, drawn)}, mirror.action)


def _spec(name: str, source: Any) -> mujoco.MjSpec:
    """Return a new specification of the model of a task."""
    if isinstance(source, str) and source.lstrip().startswith("<"):
        spec = mujoco.MjSpec.from_string
    elif isinstance(source, str | os.PathLike):
        source = os.fspath(source)
        folder = "" if Path(source).is_absolute() else f" relative to the current folder {Path.cwd()}"
        remedy = f"write Path(__file__).with_name({Path(source).name!r}) for a file beside the task" if folder else ""
        require(Path(source).is_file(), f"the path of an MJCF file{folder}", f"model of {name}", source, remedy)
        is_text = not source.lower().endswith(".mjb")
        require(is_text, "an MJCF or URDF file", f"model of {name}", source, "save it with mujoco.mj_saveLastXML")
        spec = mujoco.MjSpec.from_file
    elif isinstance(source, mujoco.MjSpec):
        spec = mujoco.MjSpec.copy
    else:
        remedy = "set the attribute `model`" if source is None else "give what it was made from"
        rule, kind = "a path, MJCF text or an MjSpec", source if source is None else type(source).__name__
        raise ValueError(f"model of {name} must be {rule}, got {kind}; {remedy}")
    try:
        return spec(source)
    except (ValueError, mujoco.FatalError) as error:
        raise ValueError(_no_model(name, error)) from error


def _no_model(name: str, error: Exception) -> str:
    return f"the model of {name} does not compile: {' '.join(str(error).split())}"


def _compiled(name: str, source: Any) -> tuple[mujoco.MjModel, dict[str, str]]:
    """Return the compiled model, and the hashes of its text and of the model."""
    spec = _spec(name, source)
    try:
        model = spec.compile()
        text = spec.to_xml()
    except (ValueError, mujoco.FatalError) as error:
        raise ValueError(_no_model(name, error)) from error
    binary = np.zeros(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, binary)
    hashes = {"mjcf": hashlib.sha256(text.encode()), "model": hashlib.sha256(binary.tobytes())}
    return model, {key: value.hexdigest() for key, value in hashes.items()}


def _substeps(name: str, control_dt: float, timestep: float) -> int:
    rule = f"a positive multiple of the model's time step of {timestep:g} s"
    is_seconds = isinstance(control_dt, numbers.Real) and 0 < control_dt < math.inf
    require(is_seconds, rule, f"control_dt of {name}", control_dt)
    substeps = max(1, round(control_dt / timestep))
    is_multiple = abs(substeps * timestep - control_dt) < 1e-6 * control_dt
    require(is_multiple, rule, f"control_dt of {name}", control_dt, f"the nearest is {substeps * timestep:g}")
    return substeps


def _sensors(model: mujoco.MjModel) -> dict[str, slice]:
    names = [model.sensor(i).name for i in range(model.nsensor)]
    ends = model.sensor_adr + model.sensor_dim
    return {n: slice(int(a), int(b)) for n, a, b in zip(names, model.sensor_adr, ends, strict=True) if n}
