"""MuJoCo's C engine in place of MJX in the environments of Brax and MuJoCo Playground, which are left as they are.

Their functions are traced with `mjx.step`, `mjx.forward` and Playground's `mjx_env.step` exchanged. Of what these
compute, the C engine gives all that `MjData` has under the same name, but no contacts: MJX keeps a fixed number of
them in its own order. An environment that reads what is not given is refused.
"""

import dataclasses
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jax.interpreters.partial_eval import dce_jaxpr
from mujoco import mjx

from genpo_jax.envs.adapter import deprecations_ignored
from genpo_jax.envs.engines import STATE, CEngine, check_c
from genpo_jax.envs.mujoco_model import mj_model_of, synchronized


class CPhysics:
    """The C engine for one environment of a library.

    Args:
        name: what messages call it.
        raw: the library's environment, made for MJX.

    Raises:
        ValueError: if the C engine cannot be used here, or the environment reads what it does not give.
    """

    def __init__(self, name: str, raw: Any) -> None:
        check_c()
        model = mj_model_of(raw)
        if model is None:
            raise ValueError(f"{name} has no MuJoCo model, which backend c needs; choose another backend")
        self.name = name
        self.model = model
        self.given = _given(model)
        self._engines: list[tuple[Any, CEngine]] = []
        self._probe: dict[str, Any] | None = None
        self._refuse_what_is_not_given(raw)

    @contextmanager
    def exchanged(self) -> Iterator[None]:
        """Exchange MJX's functions while the environment is traced."""
        with ExitStack() as stack:
            exchange: list[Any] = [(mjx, "step", self._step), (mjx, "forward", self._forward)]
            if mjx_env := sys.modules.get("mujoco_playground._src.mjx_env"):
                # Whole control steps are one call, where single physics steps would be many.
                exchange.append((mjx_env, "step", self._control_step))
            for module, name, function in exchange:
                stack.enter_context(mock.patch.object(module, name, function))
            yield

    def _step(self, model: Any, data: Any) -> Any:
        return self._filled(self._engine(model).step(data, 1))

    def _forward(self, model: Any, data: Any) -> Any:
        return self._filled(self._engine(model).forward(data))

    def _control_step(self, model: Any, data: Any, action: Any, n_substeps: int = 1) -> Any:
        return self._filled(self._engine(model).step(data.replace(ctrl=action), n_substeps))

    def _engine(self, model: Any) -> CEngine:
        for known, engine in self._engines:
            if known is model:
                return engine
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(model)):
            raise ValueError(
                f"backend c simulates one model for all environments, and those of {self.name} have models of their "
                "own; leave the randomization out, or use another backend"
            )
        engine = CEngine(synchronized(self.model, model), self.given)
        self._engines.append((model, engine))
        return engine

    def _filled(self, data: Any) -> Any:
        return data if self._probe is None else data.replace(**self._probe)

    def _refuse_what_is_not_given(self, raw: Any) -> None:
        """Raise `ValueError` if what the environment returns depends on a field that the C engine does not fill.

        What is not filled is made an input of the step, and whether that is of use is read off the traced program.
        """
        with self.exchanged(), deprecations_ignored():
            state = jax.eval_shape(raw.reset, jax.random.key_data(jax.random.key(0)))
            (data,) = [x for x in jax.tree.leaves(state, is_leaf=_is_data) if _is_data(x)][:1] or [None]
            if data is None:
                raise ValueError(f"{self.name} keeps no mjx.Data in its state; backend c cannot simulate it")
            rest = {name: getattr(data, name) for name in self._not_given(data)}
            action = jax.ShapeDtypeStruct((raw.action_size,), jnp.float32)

            def step(before: Any, after: Any, state: Any, action: Any) -> Any:
                self._probe = after
                changed = jax.tree.map(lambda x: x.replace(**before) if _is_data(x) else x, state, is_leaf=_is_data)
                results = raw.step(changed, action)
                return jax.tree.map(self._without_rest, results, is_leaf=_is_data)

            try:
                closed = jax.make_jaxpr(step)(rest, rest, state, action)
            finally:
                self._probe = None
        _, used = dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
        paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path((rest, rest))]
        read = sorted({path for path, is_used in zip(paths, used, strict=False) if is_used})
        if read:
            names = ", ".join(dict.fromkeys(path.split("]", 1)[1].strip("[]'") for path in read))
            raise ValueError(
                f"{self.name} reads {names} of MJX's data, which MuJoCo's C engine keeps otherwise; use another backend"
            )

    def _not_given(self, data: Any) -> list[str]:
        filled = {*STATE, *self.given}
        own = {f.name for f in dataclasses.fields(_DATA)} | {"contact"}
        return [f.name for f in dataclasses.fields(data) if f.name in own and f.name not in filled]

    def _without_rest(self, x: Any) -> Any:
        return x.replace(**dict.fromkeys(self._not_given(x))) if _is_data(x) else x


def _given(model: mujoco.MjModel) -> tuple[str, ...]:
    """Return the fields of `mjx.Data` that the C engine fills, with the same shape."""
    from mujoco.batch import DATA_FIELDS

    data: Any = mujoco.MjData(model)
    traced: Any = mjx.make_data(model)
    # Inverse dynamics are not computed: there the C engine leaves what it finds.
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
