"""Engines that simulate an MJCF model: MuJoCo's own C engine behind a callback, and MJX.

Both give data with the names of `MjData` (`qpos`, `qvel`, `ctrl`, `sensordata`, ...) and `replace`, and have the same
three functions, of a single simulation, to be jitted, scanned and vmapped at will. After `step`, what is computed from
the state (`sensordata` among it) is one physics step behind it in both, as in `mj_step`.
"""

import copy
import os
import threading
from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from flax.struct import PyTreeNode
from jax import Array

from genpo_jax.checks import require

# What a simulation consists of, in the order of `mjSTATE_INTEGRATION`; a step changes the first five.
MOVED = ("time", "qpos", "qvel", "act", "qacc_warmstart")
STATE = (*MOVED, "ctrl", "qfrc_applied", "xfrc_applied", "eq_active", "mocap_pos", "mocap_quat")


class Engine(Protocol):
    """What simulates a model."""

    def start(self) -> Any:
        """Return data of the model's initial state, before anything is computed from it."""
        ...

    def forward(self, data: Any) -> Any:
        """Compute what follows from the state."""
        ...

    def step(self, data: Any, substeps: int) -> Any:
        """Take that many physics steps."""
        ...


class Simulation(PyTreeNode):
    """State of one simulation in the C engine, by the names of `MjData`, and its sensors."""

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
    """MuJoCo's C engine on a thread pool, behind `jax.pure_callback`.

    A pure function of the state: B simulations under `vmap` are one call, and the result depends neither on how many
    threads nor on which neighbors there are. C computes in float64; between calls the state has jax's precision. A
    simulation that MuJoCo gives up, or that is not finite, comes back as NaN throughout; the others go on.

    Args:
        model: MuJoCo's; a copy is kept.
        computed: fields of `MjData` to bring back beside the state.
        num_threads: None for the processors that this process may use.

    Attributes:
        model: the copy.

    Raises:
        ValueError: on an accelerator, in several processes, or for a model with plugins, delays or user data.
        ImportError: if MuJoCo is older than 4.
    """

    def __init__(
        self, model: mujoco.MjModel, computed: Sequence[str] = ("sensordata",), num_threads: int | None = None
    ) -> None:
        check_c()
        self.model = copy.deepcopy(model)
        # MuJoCo would set a simulation that blew up back to its initial state, which looks like a success.
        self.model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_AUTORESET)
        self.computed = tuple(computed)
        self.num_threads = num_threads or _num_processors()
        blank = mujoco.MjData(self.model)
        self._shapes = {name: np.shape(getattr(blank, name)) for name in (*STATE, *self.computed)}
        self._initial = np.zeros(mujoco.mj_stateSize(self.model, mujoco.mjtState.mjSTATE_INTEGRATION))
        mujoco.mj_getState(self.model, blank, self._initial, mujoco.mjtState.mjSTATE_INTEGRATION)
        held = sum(self._sizes(STATE))
        require(
            held == self._initial.size,
            f"without plugins, delays, user data and sleep ({held} numbers of state)",
            "a model for backend c",
            f"{self._initial.size} numbers",
            "use backend mjx",
        )
        self._lock = threading.Lock()
        self._batches: dict[int, Any] = {}

    def start(self) -> Simulation:
        """Return the model's initial state."""
        data = mujoco.MjData(self.model)
        return Simulation(**{name: jnp.asarray(getattr(data, name), float) for name in (*STATE, "sensordata")})

    def forward(self, data: Any) -> Any:
        """Compute what follows from the state."""
        return self._call(data, 0)

    def step(self, data: Any, substeps: int) -> Any:
        """Take that many physics steps."""
        require(substeps >= 1, ">= 1", "substeps", substeps)
        return self._call(data, substeps)

    def batch(self, size: int) -> Any:
        """Return the `mujoco.batch.Batch` of so many simulations, always the same."""
        if size not in self._batches:
            from mujoco.batch import Batch

            batch = Batch(self.model, size, self.num_threads)
            for name in self.computed:
                batch.bind(name)
            self._batches[size] = batch
        return self._batches[size]

    def _call(self, data: Any, substeps: int) -> Any:
        # One array there and one back: what a callback costs goes by their number.
        sent = jnp.concatenate([jnp.ravel(jnp.asarray(getattr(data, name), float)) for name in STATE])
        names = (*MOVED, *self.computed)
        sizes = self._sizes(names)
        kind = jax.ShapeDtypeStruct((sum(sizes),), sent.dtype)
        back = jax.pure_callback(partial(self._simulate, substeps), kind, sent, vmap_method="broadcast_all")
        parts = jnp.split(back, np.cumsum(sizes)[:-1])
        # MJX keeps a rotation as a matrix, MuJoCo as nine numbers.
        return data.replace(
            **{n: jnp.reshape(x, jnp.shape(getattr(data, n))) for n, x in zip(names, parts, strict=True)}
        )

    def _simulate(self, substeps: int, sent: Any) -> np.ndarray:
        """Do it, on the host. Nothing here may compute with jax, which waits for this."""
        sent = np.asarray(sent)
        rows = sent.reshape(-1, sent.shape[-1])
        with self._lock:
            batch = self.batch(len(rows))
            batch.state[:] = rows
            bad = self._run(batch, substeps)
            moved = batch.state[:, : sum(self._sizes(MOVED))]
            computed = [batch.bind(name).reshape(len(rows), -1) for name in self.computed]
            back = np.concatenate([moved, *computed], axis=1)
        back[bad | ~np.isfinite(back).all(axis=1)] = np.nan
        with np.errstate(over="ignore"):
            return back.astype(sent.dtype).reshape(*sent.shape[:-1], -1)

    def _run(self, batch: Any, substeps: int) -> np.ndarray:
        """Run a batch; return which of its simulations MuJoCo gave up, or was not given in good order."""
        bad = ~np.isfinite(batch.state).all(axis=1)
        # MuJoCo would write a warning about each of them to a file.
        batch.state[bad] = self._initial
        try:
            batch.step(nstep=substeps) if substeps else batch.forward()
        except RuntimeError as error:
            # SimulationError: the others have run to the end.
            if not hasattr(error, "ids"):
                raise
            bad[error.ids] = True  # pyright: ignore[reportAttributeAccessIssue]
        return bad

    def _sizes(self, names: Sequence[str]) -> list[int]:
        return [int(np.prod(self._shapes[name])) for name in names]


class MjxEngine:
    """MuJoCo in JAX.

    Args:
        model: MuJoCo's.
        impl: `jax`, or `warp` on an NVIDIA GPU.

    Attributes:
        model: MJX's.

    Raises:
        ValueError: if MJX lacks something that the model has.
    """

    def __init__(self, model: mujoco.MjModel, impl: str = "jax") -> None:
        from mujoco import mjx

        self._mjx = mjx
        try:
            self.model = mjx.put_model(model, impl=impl)
            self._initial = mjx.make_data(model, impl=impl)
        except NotImplementedError as error:
            raise ValueError(f"MJX cannot simulate this model ({error}); use backend c") from error

    def start(self) -> Any:
        """Return the model's initial state."""
        return self._initial

    def forward(self, data: Any) -> Any:
        """Compute what follows from the state."""
        return self._mjx.forward(self.model, data)

    def step(self, data: Any, substeps: int) -> Any:
        """Take that many physics steps."""
        return jax.lax.scan(lambda data, _: (self._mjx.step(self.model, data), None), data, length=substeps)[0]


def _num_processors() -> int:
    """Return how many processors this process may use; not every system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_c() -> None:
    """Raise unless the C engine can be used here.

    Raises:
        ValueError: if jax computes on an accelerator, or in several processes.
        ImportError: if MuJoCo is older than 4.
    """
    if jax.default_backend() != "cpu":
        raise ValueError(
            f"backend c simulates on the CPU, and jax computes on {jax.default_backend()}; use backend mjx, or set "
            "JAX_PLATFORMS=cpu"
        )
    if jax.process_count() > 1:
        raise ValueError(f"backend c needs one process, got {jax.process_count()}; use backend mjx")
    try:
        from mujoco import batch  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"backend c needs MuJoCo 4, found {mujoco.__version__}; pip install 'mujoco>=4', or use backend mjx"
        ) from error
