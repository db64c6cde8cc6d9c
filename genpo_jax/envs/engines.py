"""Engines that simulate an MJCF model: MuJoCo's C engine behind a callback, MJX, and MJX's Warp.

All have the same three functions of a single simulation, which can be jitted, scanned and vmapped. Their data has the
fields of `MjData` (`qpos`, `qvel`, `ctrl`, `sensordata`, ...) and a method `replace`. After `step`, quantities computed
from the state, such as `sensordata`, lag by one physics step in all engines, as after `mj_step`.
"""

import copy
import hashlib
import os
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from flax.struct import PyTreeNode
from jax import Array

from genpo_jax.checks import require
from genpo_jax.envs import host_call
from genpo_jax.envs.patches import import_mjx, mujoco_log_ignored
from genpo_jax.envs.warp import DEFAULT_ENVS, check_warp, default_contacts, shared_of, with_shared, without_shared
from genpo_jax.runtime import default_platform

# State of a simulation, in the order of `mjSTATE_INTEGRATION`; a step changes the first five.
MOVED = ("time", "qpos", "qvel", "act", "qacc_warmstart")
STATE = (*MOVED, "ctrl", "qfrc_applied", "xfrc_applied", "eq_active", "mocap_pos", "mocap_quat")


class Engine(Protocol):
    """Simulates one model, or for each simulation one of several variants of a model."""

    def start(self) -> Any:
        """Return data of the model's initial state; quantities computed from it are not filled in."""
        ...

    def forward(self, data: Any, variant: Array | None = None) -> Any:
        """Compute all quantities that depend on the state, as `mj_forward` does.

        Args:
            data: data of the simulation.
            variant: number of the model in `variants`, a scalar; None for an engine with one model.
        """
        ...

    def step(self, data: Any, substeps: int, variant: Array | None = None) -> Any:
        """Advance the simulation by `substeps` physics steps."""
        ...


class Simulation(PyTreeNode):
    """State and sensors of one simulation in the C engine, with the field names of `MjData`."""

    time: Array
    qpos: Array
    qvel: Array
    act: Array
    qacc_warmstart: Array
    ctrl: Array
    qfrc_applied: Array
    xfrc_applied: Array
    eq_active: Array
    mocap_pos: Array
    mocap_quat: Array
    sensordata: Array


class CEngine:
    """MuJoCo's C engine on a thread pool, called by compiled programs through `host_call`.

    The step is a pure function of the state. `vmap` over B simulations makes one call, whose result is independent of
    the number of threads and of the other simulations. The C engine computes in float64; between calls the state has
    jax's precision. A failed or non-finite simulation is returned as NaN in all fields; the others continue.

    Args:
        model: MuJoCo's model; it is copied.
        computed: fields of `MjData` to return in addition to the state.
        num_threads: number of threads; None for all processors that this process may use.
        variants: models with the layout of `model`, of which each simulation has one.

    Attributes:
        model: the copy of the model.

    Raises:
        ValueError: on an accelerator, in several processes, or for a model with plugins, delays or user data.
        ImportError: if MuJoCo is older than 4.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        computed: Sequence[str] = ("sensordata",),
        num_threads: int | None = None,
        variants: Sequence[mujoco.MjModel] = (),
    ) -> None:
        check_c()
        self.model, *self._variants = map(copy.deepcopy, (model, *variants))
        for each in (self.model, *self._variants):
            # Otherwise MuJoCo resets an unstable simulation to its initial state, which looks like a success.
            each.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_AUTORESET)
        self.computed = tuple(computed)
        self.num_threads = num_threads or _num_processors()
        blank = mujoco.MjData(self.model)
        self._shapes = {name: np.shape(getattr(blank, name)) for name in (*STATE, *self.computed)}
        self._initial = np.zeros(mujoco.mj_stateSize(self.model, mujoco.mjtState.mjSTATE_INTEGRATION))
        mujoco.mj_getState(self.model, blank, self._initial, mujoco.mjtState.mjSTATE_INTEGRATION)
        state_size = sum(self._sizes(STATE))
        require(
            state_size == self._initial.size,
            f"without plugins, delays, user data and sleep (state size {state_size})",
            "a model for backend c",
            f"state size {self._initial.size}",
            "use backend mjx",
        )
        self._lock = threading.Lock()
        self._batches: dict[int, Any] = {}
        # The variants of the simulations of each batch, in the last call.
        self._chosen: dict[int, np.ndarray] = {}
        self._name = f"genpo_jax.mujoco.{self._digest(num_threads)}"

    def start(self) -> Simulation:
        """Return data of the model's initial state."""
        data = mujoco.MjData(self.model)
        return Simulation(**{name: jnp.asarray(getattr(data, name), float) for name in (*STATE, "sensordata")})

    def forward(self, data: Any, variant: Array | None = None) -> Any:
        """Compute all quantities that depend on the state."""
        return self._call(data, 0, variant)

    def step(self, data: Any, substeps: int, variant: Array | None = None) -> Any:
        """Advance the simulation by `substeps` physics steps."""
        require(substeps >= 1, ">= 1", "substeps", substeps)
        return self._call(data, substeps, variant)

    def batch(self, size: int) -> Any:
        """Return the `mujoco.batch.Batch` for `size` simulations; there is one per size."""
        if size not in self._batches:
            from mujoco.batch import Batch

            batch = Batch(self.model, size, self.num_threads)
            for name in self.computed:
                batch.bind(name)
            self._batches[size] = batch
        return self._batches[size]

    def _call(self, data: Any, substeps: int, variant: Array | None) -> Any:
        # One array in each direction, because a callback's cost grows with the number of arrays.
        parts = [getattr(data, name) for name in STATE] + ([variant] if self._variants else [])
        sent = jnp.concatenate([jnp.ravel(jnp.asarray(part, float)) for part in parts])
        names = (*MOVED, *self.computed)
        sizes = self._sizes(names)
        function = f"{self._name}.{substeps}"
        host_call.register(function, partial(self._simulate, substeps))
        received = host_call.call(function, sent, sum(sizes))
        parts = jnp.split(received, np.cumsum(sizes)[:-1])
        # MJX stores a rotation as a 3 x 3 matrix, MuJoCo as nine numbers.
        return data.replace(
            **{n: jnp.reshape(x, jnp.shape(getattr(data, n))) for n, x in zip(names, parts, strict=True)}
        )

    def _simulate(self, substeps: int, sent: np.ndarray, received: np.ndarray) -> None:
        """Simulate on the host, and fill `received`."""
        rows = sent.reshape(-1, sent.shape[-1])
        with self._lock:
            batch = self.batch(len(rows))
            if self._variants:
                self._choose(batch, rows[:, -1].astype(int))
                rows = rows[:, :-1]
            batch.state[:] = rows
            failed = self._run(batch, substeps)
            moved = batch.state[:, : sum(self._sizes(MOVED))]
            computed = [batch.bind(name).reshape(len(rows), -1) for name in self.computed]
            results = np.concatenate([moved, *computed], axis=1)
        results[failed | ~np.isfinite(results).all(axis=1)] = np.nan
        with np.errstate(over="ignore"):
            received[...] = results.reshape(received.shape)

    def _choose(self, batch: Any, numbers: np.ndarray) -> None:
        """Give each simulation of a batch its variant; most calls have the variants of the call before."""
        if not np.array_equal(numbers, self._chosen.get(batch.nsim, ())):
            batch.set_models([self._variants[i] for i in numbers])
            self._chosen[batch.nsim] = numbers

    def _run(self, batch: Any, substeps: int) -> np.ndarray:
        """Run a batch; return the mask of simulations that failed or had a non-finite state before."""
        failed = ~np.isfinite(batch.state).all(axis=1)
        # Their results are replaced by NaN, so simulate any valid state.
        batch.state[failed] = self._initial
        try:
            with mujoco_log_ignored():
                batch.step(nstep=substeps) if substeps else batch.forward()
        except RuntimeError as error:
            # A SimulationError names the failed simulations; the others have finished.
            if not hasattr(error, "ids"):
                raise
            failed[error.ids] = True  # pyright: ignore[reportAttributeAccessIssue]
        return failed

    def _digest(self, num_threads: int | None) -> str:
        """Return what distinguishes this engine in compiled programs: MuJoCo, the models and the arguments."""
        digest = hashlib.sha256()
        for model in (self.model, *self._variants):
            serialized = np.empty(mujoco.mj_sizeModel(model), np.uint8)
            mujoco.mj_saveModel(model, None, serialized)
            digest.update(serialized.data)
        digest.update(repr((mujoco.__version__, self.computed, num_threads)).encode())
        return digest.hexdigest()[:32]

    def _sizes(self, names: Sequence[str]) -> list[int]:
        return [int(np.prod(self._shapes[name])) for name in names]


class MjxEngine:
    """MuJoCo in JAX.

    Args:
        model: MuJoCo's model.
        variants: models with the layout of `model`, of which each simulation has one.

    Attributes:
        model: MJX's model.

    Raises:
        ValueError: if MJX does not support a feature of the model.
    """

    impl: ClassVar[str] = "jax"

    def __init__(self, model: mujoco.MjModel, variants: Sequence[mujoco.MjModel] = ()) -> None:
        self._mjx = import_mjx()
        # MJX 4.0 looks up the material of geoms without one, which fails in an empty array.
        finds_range = (model.sensor_type == mujoco.mjtSensor.mjSENS_RANGEFINDER).any()
        if self.impl == "jax" and finds_range and not model.nmat:
            raise ValueError(
                "MJX cannot simulate a rangefinder in a model without materials; add a <material> to <asset>, or use "
                "backend c"
            )
        try:
            self.model = self._mjx.put_model(model, impl=self.impl)
            self._table = self._changed_leaves(variants)
            self._initial = self._blank(model)
        except NotImplementedError as error:
            raise ValueError(f"MJX cannot simulate this model ({error}); use backend c") from error

    def start(self) -> Any:
        """Return data of the model's initial state."""
        return self._initial

    def forward(self, data: Any, variant: Array | None = None) -> Any:
        """Compute all quantities that depend on the state."""
        return self._mjx.forward(self._model_of(variant), data)

    def step(self, data: Any, substeps: int, variant: Array | None = None) -> Any:
        """Advance the simulation by `substeps` physics steps."""
        model = self._model_of(variant)
        return jax.lax.scan(lambda data, _: (self._mjx.step(model, data), None), data, length=substeps)[0]

    def _model_of(self, variant: Array | None) -> Any:
        if not self._table:
            return self.model
        return with_leaves(self.model, {i: jnp.asarray(values)[variant] for i, values in self._table.items()})

    def _changed_leaves(self, variants: Sequence[mujoco.MjModel]) -> dict[int, np.ndarray]:
        """Return the leaves of MJX's model that differ between the variants, `[n, ...]` by their index."""
        rows = [jax.device_get(jax.tree.leaves(self._mjx.put_model(model, impl=self.impl))) for model in variants]
        columns = enumerate(zip(*rows, strict=True))
        return {i: np.stack(leaves) for i, leaves in columns if any((x != leaves[0]).any() for x in leaves)}

    def _blank(self, model: mujoco.MjModel) -> Any:
        return self._mjx.make_data(model, impl=self.impl)


class WarpEngine(MjxEngine):
    """MuJoCo Warp, on a GPU of NVIDIA or a CPU; its data between calls has the form of `warp.without_shared`.

    All environments share one buffer of contacts, which `reserve` sizes. Further contacts would be lost.

    Raises:
        ValueError: on another accelerator, or if Warp does not support a feature of the model.
        ImportError: if Warp is not installed.
    """

    impl = "warp"

    def __init__(self, model: mujoco.MjModel, variants: Sequence[mujoco.MjModel] = ()) -> None:
        check_warp()
        self._mj_model = model
        self._num_contacts = default_contacts(model, DEFAULT_ENVS)
        super().__init__(model, variants)

    def reserve(self, num_envs: int) -> None:
        """Allocate contacts for this number of environments, if it is larger than the present one."""
        needed = default_contacts(self._mj_model, num_envs)
        if needed > self._num_contacts:
            self._num_contacts = needed
            self._initial = self._blank(self._mj_model)

    def forward(self, data: Any, variant: Array | None = None) -> Any:
        """Compute all quantities that depend on the state."""
        return without_shared(super().forward(with_shared(data, self._shared), variant))

    def step(self, data: Any, substeps: int, variant: Array | None = None) -> Any:
        """Advance the simulation by `substeps` physics steps."""
        return without_shared(super().step(with_shared(data, self._shared), substeps, variant))

    def _blank(self, model: mujoco.MjModel) -> Any:
        # `reserve` may be called while a program is traced, whose arrays must not stay here.
        with jax.ensure_compile_time_eval():
            data = self._mjx.make_data(model, impl=self.impl, naconmax=self._num_contacts)
        self._shared = shared_of(model, data)
        return without_shared(data)


def with_leaves(model: Any, changed: Mapping[int, Array]) -> Any:
    """Return a model of MJX or Brax with some of its leaves replaced, by their index."""
    leaves, tree = jax.tree.flatten(model)
    for i, leaf in changed.items():
        leaves[i] = leaf
    return jax.tree.unflatten(tree, leaves)


def _num_processors() -> int:
    """Return the number of processors that this process may use, if the system reports it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_c() -> None:
    """Raise an error if the C engine cannot be used here.

    Raises:
        ValueError: if jax computes on an accelerator, or in several processes.
        ImportError: if MuJoCo is older than 4.
    """
    if (platform := default_platform()) != "cpu":
        raise ValueError(
            f"backend c simulates on the CPU, but jax computes on {platform}; use backend mjx, or set JAX_PLATFORMS=cpu"
        )
    if jax.process_count() > 1:
        raise ValueError(f"backend c needs one process, got {jax.process_count()}; use backend mjx")
    try:
        from mujoco import batch  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"backend c needs MuJoCo 4, found {mujoco.__version__}; pip install 'mujoco>=4', or use backend mjx"
        ) from error
