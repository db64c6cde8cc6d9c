"""A task on an MJCF model: one definition, simulated by MuJoCo's C engine or by MJX."""

import dataclasses
import difflib
import hashlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from flax.struct import PyTreeNode
from jax import Array

from genpo_jax.checks import require
from genpo_jax.config import SUCCESS
from genpo_jax.envs.base import Metrics, Observation
from genpo_jax.envs.engines import CEngine, Engine, MjxEngine
from genpo_jax.envs.mirror import Mirror
from genpo_jax.envs.registry import TASK_BACKENDS
from genpo_jax.runtime import compiler_options


@dataclasses.dataclass(frozen=True)
class Start:
    """How an episode starts; what is None is as in the model's first keyframe, or else its default.

    Attributes:
        qpos: positions `[nq]`.
        qvel: speeds `[nv]`.
        ctrl: controls `[nu]`.
        mocap_pos: positions of mocap bodies `[nmocap, 3]`, in meters.
        mocap_quat: their orientations `[nmocap, 4]`.
        goal: whatever the task aims at, kept for the episode; a tree of arrays.
        memory: what `remember` goes on from; a tree of arrays.
    """

    qpos: Any = None
    qvel: Any = None
    ctrl: Any = None
    mocap_pos: Any = None
    mocap_quat: Any = None
    goal: Any = ()
    memory: Any = ()


class TaskState(PyTreeNode):
    """State of an episode.

    Attributes:
        data: of the engine, with the names of `MjData`.
        goal: of this episode.
        memory: what the task remembers of it.
    """

    data: Any
    goal: Any
    memory: Any


class View:
    """What a task reads of one simulation.

    Attributes:
        time: seconds since the start.
        qpos: positions `[nq]`.
        qvel: speeds `[nv]`.
        ctrl: controls in force `[nu]`.
        goal: of this episode.
        memory: what the task remembers of it.
    """

    def __init__(self, task: "MjcfTask", state: TaskState) -> None:
        self.time, self.goal, self.memory = state.data.time, state.goal, state.memory
        self.qpos, self.qvel, self.ctrl = state.data.qpos, state.data.qvel, state.data.ctrl
        self._sensordata, self._sensors = state.data.sensordata, task.sensors

    def sensor(self, name: str) -> Array:
        """Return what the sensor of that name measured, `[n]`; at the state one physics step ago.

        Raises:
            ValueError: if the model has no such sensor.
        """
        if name not in self._sensors:
            raise ValueError(_unknown("sensor", name, self._sensors))
        return self._sensordata[self._sensors[name]]


class MjcfTask:
    """A task on an MJCF model. Derive from it, name `model` and `control_dt`, and define what is not None below.

    Everything is a pure function of one simulation, in JAX. What a task reads (`s`, a `View`) are positions, speeds,
    controls, its own goal and memory, and the model's `<sensor>` elements by name, which both engines fill.

    Args:
        backend: `c`, MuJoCo's own engine on the CPU, which compiles in seconds and simulates whatever MuJoCo does;
            `mjx` (or `warp`) for GPUs. None takes `mjx` where jax has an accelerator or several processes, else `c`.

    Attributes:
        model: path of an MJCF file, its text, or an `mujoco.MjSpec`.
        control_dt: seconds between actions; a multiple of the model's time step.
        episode_length: time limit in actions.
        action_size: number of action coordinates; None for one each actuator.
        mirror: the symmetry of the task, to learn from mirror images (`PPOConfig.mirror`); None where it has none.
        mj_model: MuJoCo's compiled model.
        dt: `control_dt`.
        sensors: the part of `sensordata` of each sensor, by name.
        sha256: of the MJCF text and of the compiled model, by `mjcf` and `model`.

    Raises:
        ValueError: if the model does not compile, MJX lacks what it has, an attribute is missing or cannot be right, or
            the first observation, reward or success is not finite numbers of the right shape.
    """

    model: Any = None
    control_dt: float = 0.0
    episode_length: int = 200
    action_size: int = None  # type: ignore[assignment]
    name: str = ""
    mirror: Mirror | None = None

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
        self.engine: Engine = (
            CEngine(self.mj_model)
            if self.backend == "c"
            else MjxEngine(self.mj_model, "warp" if self.backend == "warp" else "jax")
        )
        self.observation_sizes = self._try_out()

    def initial(self, key: Array) -> Start:
        """Return how an episode starts."""
        del key
        return Start()

    def observe(self, s: View) -> Array | Observation:
        """Return what the policy sees, `[n]`; or a dict, with `privileged_state` for the critic."""
        raise NotImplementedError(f"{self.name} must define observe(s)")

    def reward(self, s: View, action: Array) -> Array:
        """Return the reward of the step that led here."""
        raise NotImplementedError(f"{self.name} must define reward(s, action)")

    def control(self, s: View, action: Array) -> Array:
        """Return the controls `[nu]` of an action in [-1, 1]; as it stands, the actuators' ranges."""
        del s
        low, high = self.mj_model.actuator_ctrlrange.T
        return jnp.asarray(low + (high - low) / 2, action.dtype) + jnp.asarray((high - low) / 2, action.dtype) * action

    def terminated(self, s: View) -> Array:
        """Whether the task ends the episode here."""
        del s
        return jnp.asarray(False)

    def success(self, s: View) -> Array | None:
        """Whether the task is solved here; that of an episode's last step counts. None: there is no such thing."""
        del s
        return None

    def remember(self, s: View) -> Any:
        """Return the memory after this step, which reward, success and metrics of the step see already."""
        return s.memory

    def metrics(self, s: View, action: Array) -> Metrics:
        """Return scalars by name; their sums over an episode are reported, of `way_...` the last values."""
        del s, action
        return {}

    def reset(self, key: Array) -> tuple[TaskState, Observation]:
        """Return a fresh `(state, observation)` for a typed PRNG key."""
        start = self.initial(key)
        require(isinstance(start, Start), "a Start", f"what initial of {self.name} returns", type(start).__name__)
        data = self.engine.start()
        changed = {}
        for name in ("qpos", "qvel", "ctrl", "mocap_pos", "mocap_quat"):
            value, shape = getattr(start, name), jnp.shape(getattr(data, name))
            if value is None and self.mj_model.nkey:
                value = getattr(self.mj_model, _KEYFRAME[name])[0].reshape(shape)
            if value is not None:
                value = jnp.asarray(value, getattr(data, name).dtype)
                require(value.shape == shape, f"of shape {shape}", f"{name} of {self.name}'s Start", value.shape)
                changed[name] = value
        state = TaskState(self.engine.forward(data.replace(**changed)), start.goal, start.memory)
        return state, self._observation(View(self, state))

    def step(self, state: TaskState, action: Array) -> tuple[TaskState, Observation, Array, Array, Metrics]:
        """Return `(state, observation, reward, terminated, metrics)` for an action `[d]` in [-1, 1]."""
        ctrl = self.control(View(self, state), action)
        shape = (self.mj_model.nu,)
        require(jnp.shape(ctrl) == shape, f"of shape {shape}", f"control of {self.name}", jnp.shape(ctrl))
        data = self.engine.step(state.data.replace(ctrl=jnp.asarray(ctrl, state.data.ctrl.dtype)), self.substeps)
        state = state.replace(data=data)
        state = state.replace(memory=self.remember(View(self, state)))
        s = View(self, state)
        metrics = dict(self.metrics(s, action))
        success = self.success(s)
        if success is not None:
            metrics[SUCCESS] = jnp.asarray(success, jnp.float32)
        return (
            state,
            self._observation(s),
            jnp.asarray(self.reward(s, action)),
            jnp.asarray(self.terminated(s)),
            metrics,
        )

    def _observation(self, s: View) -> Observation:
        obs = self.observe(s)
        return obs if isinstance(obs, dict) else {"state": obs}

    def _try_out(self) -> dict[str, int]:
        """Return the sizes of observations, once one step has shown that everything fits and is finite.

        Raises:
            ValueError: names what is not.
        """
        # Without these emitters MJX takes seconds on a CPU, with them minutes.
        xla_options = compiler_options(fusion_emitters=False)
        state, obs = jax.jit(self.reset, compiler_options=xla_options)(jax.random.key(0))
        for name, value in obs.items():
            require(value.ndim == 1, "a vector", f"observation '{name}' of {self.name}", f"shape {value.shape}")
            bad = np.flatnonzero(~np.isfinite(np.asarray(value)))
            rule = "finite at the start"
            require(
                bad.size == 0, rule, f"observation '{name}' of {self.name}", f"entries {bad[:8].tolist()} that are not"
            )
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
        kinds = jax.eval_shape(self.step, state, jax.ShapeDtypeStruct((self.action_size,), jnp.float32))
        before, after = (jax.eval_shape(lambda x: x, each.memory) for each in (state, kinds[0]))
        require(after == before, f"what it was, {before}", f"the memory of {self.name}", after, "mind remember")
        for name, kind in (("reward", kinds[2]), ("terminated", kinds[3]), *kinds[4].items()):
            require(kind.shape == (), "one number", f"{name} of {self.name}", f"shape {kind.shape}")
        return {name: value.shape[0] for name, value in obs.items()}


_KEYFRAME = {
    "qpos": "key_qpos",
    "qvel": "key_qvel",
    "ctrl": "key_ctrl",
    "mocap_pos": "key_mpos",
    "mocap_quat": "key_mquat",
}


def _default_backend() -> str:
    return "c" if jax.default_backend() == "cpu" and jax.process_count() == 1 else "mjx"


def _compiled(name: str, source: Any) -> tuple[mujoco.MjModel, dict[str, str]]:
    """Return the compiled model, and hashes of the text and of the model."""
    if isinstance(source, Path) or (isinstance(source, str) and "<mujoco" not in source):
        require(Path(source).is_file(), "the path of an MJCF file", f"model of {name}", str(source))
        spec = mujoco.MjSpec.from_file
    elif isinstance(source, str):
        spec = mujoco.MjSpec.from_string
    elif isinstance(source, mujoco.MjSpec):
        spec = mujoco.MjSpec.copy
    else:
        raise ValueError(f"model of {name} must be a path, a text or an MjSpec, got {source!r}; name one")
    try:
        spec = spec(str(source) if isinstance(source, Path) else source)
        model = spec.compile()
        text = spec.to_xml()
    except (ValueError, mujoco.FatalError) as error:
        raise ValueError(f"the model of {name} does not compile: {' '.join(str(error).split())}") from error
    binary = np.zeros(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, binary)
    hashes = {"mjcf": hashlib.sha256(text.encode()), "model": hashlib.sha256(binary.tobytes())}
    return model, {key: value.hexdigest() for key, value in hashes.items()}


def _substeps(name: str, control_dt: float, timestep: float) -> int:
    substeps = round(control_dt / timestep)
    good = substeps >= 1 and abs(substeps * timestep - control_dt) < 1e-6 * control_dt
    rule = f"a positive multiple of the model's time step of {timestep:g} s"
    require(good, rule, f"control_dt of {name}", control_dt)
    return substeps


def _sensors(model: mujoco.MjModel) -> dict[str, slice]:
    names = [model.sensor(i).name for i in range(model.nsensor)]
    ends = model.sensor_adr + model.sensor_dim
    return {n: slice(int(a), int(b)) for n, a, b in zip(names, model.sensor_adr, ends, strict=True) if n}


def _unknown(kind: str, name: str, known: dict[str, Any]) -> str:
    close = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(known) or 'none'}"
    return f"there is no {kind} '{name}' in the model; {hint}"
