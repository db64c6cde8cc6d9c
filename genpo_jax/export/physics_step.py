"""Cut one step of an environment at its physics: what is computed before, by the engine, and after.

The step is traced with the physics replaced by a marker. What the marker is given and what is made of its results
become two ONNX graphs, between which any engine that fills MuJoCo's `MjData` can do the physics.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import onnx
from jax.extend.core import Primitive
from mujoco import mjx

from genpo_jax.envs import Environment
from genpo_jax.envs.base import ACTOR_OBS
from genpo_jax.envs.engines import MOVED, STATE, CEngine
from genpo_jax.envs.mujoco_model import mj_model_of, synchronized
from genpo_jax.export.onnx_graph import Graph

# What a physics step holds, beside what it moves.
HELD = (*STATE[len(MOVED) :], "userdata")

_physics_step = Primitive("physics_step")
_physics_step.multiple_results = True
_physics_step.def_abstract_eval(lambda *leaves, names: list(leaves))


@dataclass(frozen=True)
class PhysicsStep:
    """A step of an environment around its physics.

    Attributes:
        before: from state and action to what is written into `MjData`, `write_FIELD`.
        after: from state, action and fields of `MjData` to `observation`, `reward`, `terminated`, `metric_NAME`, and
            `next_NAME` for each part of the state.
        model: MuJoCo's, with the numbers that the trainer's has.
        substeps: physics steps between the two.
        state: parts of the environment's state that both need, as places among its leaves, by name.
        physics: fields of `MjData` that an episode starts from, likewise.
        reads: the field of `MjData` that each other input of `after` is.
        metrics: names.
    """

    before: onnx.ModelProto
    after: onnx.ModelProto
    model: mujoco.MjModel
    substeps: int
    state: dict[str, int]
    physics: dict[str, int]
    reads: dict[str, str]
    metrics: list[str]


def cut(env: Environment) -> PhysicsStep:
    """Return the two halves of an environment's step.

    Args:
        env: one whose step has not been traced yet, as traces are kept.

    Raises:
        ValueError: if its physics is not MJX's, or another engine cannot do it; the message says why.
        NotImplementedError: if it computes what ONNX has no rule for.
    """
    original = mj_model_of(env)
    if original is None:
        raise ValueError(f"{env.name} has no MuJoCo model; one of your own shows it as its attribute mj_model")
    leaves, tree = jax.tree.flatten(jax.eval_shape(env.reset, jax.random.key(0))[0])
    action = jax.ShapeDtypeStruct((env.action_size,), jnp.float32)

    def step(leaves: list[Any], action: Any) -> Any:
        state, obs, reward, terminated, metrics = env.step(jax.tree.unflatten(tree, leaves), action)
        results = {
            "observation": jnp.asarray(obs[ACTOR_OBS], jnp.float32),
            "reward": jnp.asarray(reward, jnp.float32),
            "terminated": jnp.asarray(terminated, bool),
        }
        results |= {f"metric_{name}": jnp.asarray(value, jnp.float32) for name, value in metrics.items()}
        return jax.tree.leaves(state), results

    with _marked() as models:
        closed, (_, kinds) = jax.make_jaxpr(step, return_shape=True)(leaves, action)
    physics = _Physics(env.name)
    graph = Graph({"physics_step": physics.rule})
    inputs = [graph.input(f"state_{i}", leaf) for i, leaf in enumerate(leaves)]
    values = graph.run(closed.jaxpr, closed.consts, [*inputs, graph.input("action", action)])
    if not physics.steps:
        raise ValueError(f"the physics of {env.name} is not MuJoCo's; train with backend c or mjx")
    updates, results = values[: len(inputs)], dict(zip(sorted(kinds), values[len(inputs) :], strict=True))
    kept, written = physics.exchanged(inputs, updates)
    needed = _closure(graph, inputs, updates, [*written.values(), *results.values()])
    before = {f"write_{name}": (value, physics.kinds[name]) for name, value in written.items()}
    after = {name: (value, kinds[name]) for name, value in results.items()}
    after |= {f"next_{inputs[i]}": (updates[i], leaves[i]) for i in needed}
    model = models[-1] if isinstance(models[-1], mujoco.MjModel) else synchronized(original, models[-1])
    return PhysicsStep(
        before=graph.model(before),
        after=graph.model(after),
        model=model,
        substeps=len(physics.steps),
        state={str(inputs[i]): i for i in needed},
        physics=kept,
        reads=physics.read(graph.needed(value for value, _ in after.values())[1], mujoco.MjData(model)),
        metrics=sorted(name.removeprefix("metric_") for name in results if name.startswith("metric_")),
    )


def _closure(graph: Graph, inputs: list[Any], updates: list[Any], wanted: list[Any]) -> list[int]:
    """Return which leaves of the state are needed for what is wanted, and for those leaves at the next step."""
    needed: list[int] = []
    while True:
        _, tensors = graph.needed([*wanted, *(updates[i] for i in needed)])
        found = [i for i, name in enumerate(inputs) if name in tensors]
        if found == needed:
            return needed
        needed = found


class _Physics:
    """The rule of the marker, and what it has seen.

    Attributes:
        steps: what each physics step is given and what it gives, by name of the field.
        kinds: their types.
    """

    def __init__(self, env: str) -> None:
        self.env = env
        self.steps: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self.kinds: dict[str, Any] = {}

    def rule(self, graph: Graph, equation: Any, *values: Any) -> list[Any]:
        """Make an input of every result."""
        names = equation.params["names"]
        given = dict(zip(names, values, strict=True))
        self.kinds = {name: variable.aval for name, variable in zip(names, equation.outvars, strict=True)}
        results = {
            name: graph.input(self._input(len(self.steps), name), self.kinds[name]) if _moves(name) else given[name]
            for name in names
        }
        self.steps.append((given, results))
        return list(results.values())

    def exchanged(self, inputs: list[Any], updates: list[Any]) -> tuple[dict[str, int], dict[str, Any]]:
        """Return which fields the engine keeps from step to step, as places in the state, and what is written anew."""
        first, last = self.steps[0][0], self.steps[-1][1]
        fields = [name for name in (*MOVED, *HELD) if name in first and np.prod(self.kinds[name].shape) > 0]
        for (_, earlier), (later, _) in pairwise(self.steps):
            for name in fields:
                if not _same(later[name], earlier[name]):
                    raise ValueError(f"{self.env} changes {name} between physics steps; another engine cannot play it")
        kept, written = {}, {}
        for name in fields:
            place = inputs.index(first[name]) if isinstance(first[name], str) and first[name] in inputs else None
            if place is not None and _same(updates[place], last[name]):
                kept[name] = place
            else:
                written[name] = first[name]
        if not {"qpos", "qvel"} <= kept.keys():
            raise ValueError(f"{self.env} sets positions or speeds within a step; another engine cannot play it")
        return kept, written

    def read(self, tensors: set[str], data: mujoco.MjData) -> dict[str, str]:
        """Return the field of each of the tensors that is a result of physics.

        Raises:
            ValueError: if `MjData` has no such field, or it is of another substep than the last.
        """
        reads = {}
        for number in range(len(self.steps)):
            for name in self.kinds:
                if self._input(number, name) not in tensors:
                    continue
                if number + 1 < len(self.steps):
                    raise ValueError(f"{self.env} reads {name} between physics steps; another engine cannot play it")
                if np.size(getattr(data, name, ())) != np.prod(self.kinds[name].shape):
                    raise ValueError(f"{self.env} reads {name} of MJX, which MuJoCo's C engine keeps otherwise")
                reads[self._input(number, name)] = name
        return reads

    def _input(self, number: int, name: str) -> str:
        return f"physics{number}_{name}"


def _moves(name: str) -> bool:
    """Whether physics changes a leaf; those that a library adds to `mjx.Data` it leaves alone."""
    return name not in HELD and (not name.startswith(".") or name.startswith("._impl"))


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        return isinstance(one, str) and isinstance(other, str) and one == other
    return np.array_equal(one, other)


def _field(path: Any) -> str:
    """Return the name that a leaf of `mjx.Data` has in `MjData`; of another leaf, its path."""
    name = jax.tree_util.keystr(path)
    field = name.removeprefix("._impl").removeprefix(".")
    return field if hasattr(mujoco.MjData, field) else name


@contextmanager
def _marked() -> Iterator[list[Any]]:
    """Trace a physics step of either engine as a marker; collect the models that are stepped."""
    models: list[Any] = []

    def step(model: Any, data: Any) -> Any:
        models.append(model)
        leaves, tree = jax.tree_util.tree_flatten_with_path(data)
        names = tuple(_field(path) for path, _ in leaves)
        return jax.tree.unflatten(tree, _physics_step.bind(*(leaf for _, leaf in leaves), names=names))

    def steps_in_c(engine: CEngine, data: Any, substeps: int) -> Any:
        for _ in range(substeps):
            data = step(engine.model, data)
        return data

    with mock.patch.object(mjx, "step", step), mock.patch.object(CEngine, "step", steps_in_c):
        yield models
