"""MuJoCo's C engine instead of MJX in the unchanged environments of Brax and MuJoCo Playground.

Their functions are traced with `mjx.step`, `mjx.forward` and Playground's `mjx_env.step` replaced. The C engine fills
every field that `MjData` has under the same name, except contacts: MJX keeps a fixed number of contacts in its own
order. An environment that reads an unfilled field is refused.
"""

import dataclasses
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jax.interpreters.partial_eval import dce_jaxpr

from genpo_jax.envs.engines import STATE, CEngine, check_c
from genpo_jax.envs.mujoco_model import mj_model_of, synchronized
from genpo_jax.envs.patches import deprecations_ignored, import_mjx, physics_replaced

mjx: Any = import_mjx()


class CPhysics:
    """The C engine for one environment of a library.

    Args:
        name: name used in error messages.
        raw: the library's environment, made for MJX.

    Raises:
        ValueError: if the C engine cannot be used here, or the environment reads a field that it does not fill.
    """

    def __init__(self, name: str, raw: Any) -> None:
        check_c()
        model = mj_model_of(raw)
        if model is None:
            raise ValueError(f"{name} has no MuJoCo model, which backend c needs; choose another backend")
        self.name = name
        self.model = model
        self.filled = _filled(model)
        self._engines: list[tuple[Any, CEngine]] = []
        self._probe: dict[str, Any] | None = None
        self._refuse_unfilled_fields(raw)

    def replaced(self) -> AbstractContextManager[None]:
        """Replace MJX's functions while the environment is traced."""
        return physics_replaced(self._step, self._forward, self._control_step)

    def _step(self, model: Any, data: Any) -> Any:
        return self._probed(self._engine(model).step(data, 1))

    def _forward(self, model: Any, data: Any) -> Any:
        return self._probed(self._engine(model).forward(data))

    def _control_step(self, model: Any, data: Any, action: Any, n_substeps: int = 1) -> Any:
        return self._probed(self._engine(model).step(data.replace(ctrl=action), n_substeps))

    def _engine(self, model: Any) -> CEngine:
        for known, engine in self._engines:
            if known is model:
                return engine
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(model)):
            raise ValueError(
                f"backend c simulates one model for all environments, but {self.name} has one model per environment; "
                "leave the randomization out, or use another backend"
            )
        engine = CEngine(synchronized(self.model, model), self.filled)
        self._engines.append((model, engine))
        return engine

    def _probed(self, data: Any) -> Any:
        return data if self._probe is None else data.replace(**self._probe)

    def _refuse_unfilled_fields(self, raw: Any) -> None:
        """Raise `ValueError` if the environment's results depend on a field that the C engine does not fill.

        The step is traced with the unfilled fields as inputs; dead-code elimination shows which of them are read.
        """
        with self.replaced(), deprecations_ignored():
            state = jax.eval_shape(raw.reset, jax.random.key_data(jax.random.key(0)))
            (data,) = [x for x in jax.tree.leaves(state, is_leaf=_is_data) if _is_data(x)][:1] or [None]
            if data is None:
                raise ValueError(f"{self.name} keeps no mjx.Data in its state; backend c cannot simulate it")
            unfilled = {name: getattr(data, name) for name in self._unfilled(data)}
            action = jax.ShapeDtypeStruct((raw.action_size,), jnp.float32)

            def step(before: Any, after: Any, state: Any, action: Any) -> Any:
                self._probe = after
                changed = jax.tree.map(lambda x: x.replace(**before) if _is_data(x) else x, state, is_leaf=_is_data)
                results = raw.step(changed, action)
                return jax.tree.map(self._without_unfilled, results, is_leaf=_is_data)

            try:
                closed = jax.make_jaxpr(step)(unfilled, unfilled, state, action)
            finally:
                self._probe = None
        _, used = dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
        leaves = jax.tree_util.tree_leaves_with_path((unfilled, unfilled))
        paths = [jax.tree_util.keystr(path) for path, _ in leaves]
        read = sorted({path for path, is_used in zip(paths, used, strict=False) if is_used})
        if read:
            names = ", ".join(dict.fromkeys(path.split("]", 1)[1].strip("[]'") for path in read))
            raise ValueError(
                f"{self.name} reads {names} of MJX's data, which MuJoCo's C engine does not fill; use another backend"
            )

    def _unfilled(self, data: Any) -> list[str]:
        filled = {*STATE, *self.filled}
        own = {f.name for f in dataclasses.fields(_DATA)} | {"contact"}
        return [f.name for f in dataclasses.fields(data) if f.name in own and f.name not in filled]

    def _without_unfilled(self, x: Any) -> Any:
        return x.replace(**dict.fromkeys(self._unfilled(x))) if _is_data(x) else x


def _filled(model: mujoco.MjModel) -> tuple[str, ...]:
    """Return the fields of `mjx.Data` that the C engine fills, with the same shape."""
    from mujoco.batch import DATA_FIELDS

    data: Any = mujoco.MjData(model)
    traced: Any = mjx.make_data(model)
    # The C engine does not compute inverse dynamics, so this field is never written.
    names = [f.name for f in dataclasses.fields(traced) if f.name in DATA_FIELDS - {*STATE, "qfrc_inverse"}]
    return tuple(
        name
        for name in names
        if isinstance(getattr(data, name, None), np.ndarray)
        and getattr(data, name).size == np.size(getattr(traced, name)) > 0
        and getattr(data, name).dtype.kind == "f"
    )


_DATA: Any = mjx.Data


def _is_data(x: Any) -> bool:
    return isinstance(x, mjx.Data)
