"""Convert the JAX function of a policy to an ONNX graph: walk over its jaxpr and add nodes for each equation.

Values that do not depend on an input are computed here and become constants. Loops of known length are unrolled. An
operation without a rule is refused by its name. The operators are those of opset 18 (https://onnx.ai/onnx/operators).
The rules cover the operations of our policies; environments are not converted.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from jax.extend import core
from onnx import helper, numpy_helper

OPSET = 18
# The newest version that the oldest supported onnxruntime reads.
IR_VERSION = 9
BATCH = "batch"
_NO_RULE = "no rule for "


def batched(*sizes: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    """Return the type of an array `[batch, *sizes]` with any batch size."""
    return jax.ShapeDtypeStruct((_BATCH_SIZE, *sizes), dtype)


def to_onnx(
    function: Callable[..., Any], inputs: Mapping[str, jax.ShapeDtypeStruct], outputs: Sequence[str], doc: str = ""
) -> onnx.ModelProto:
    """Return the ONNX model of a function.

    Args:
        function: takes the inputs in their order, and returns one array or a tuple with one array for each output.
        inputs: type of each input, by name; a leading dimension may be the batch, see `batched`.
        outputs: names of the outputs.
        doc: description to store in the model.

    Raises:
        NotImplementedError: if the function uses an operation without a rule; the message names the operation.
    """
    closed = jax.make_jaxpr(function)(*inputs.values())
    graph = Graph()
    results = graph.run(closed.jaxpr, closed.consts, [graph.input(name, kind) for name, kind in inputs.items()])
    types = [variable.aval for variable in closed.jaxpr.outvars]
    return graph.model({name: pair for name, *pair in zip(outputs, results, types, strict=True)}, doc)


class Tensor(str):
    """The name of a tensor whose value is known at run time only."""


# An input or output of an equation: a constant, or a tensor.
Value: TypeAlias = Any


class Graph:
    """Nodes of an ONNX graph, added by walking over jaxprs.

    Attributes:
        inputs: type of each input, by name.
    """

    def __init__(self) -> None:
        self.inputs: dict[str, Any] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.made: dict[Any, list[Tensor]] = {}
        self.initializers: dict[tuple[Any, ...], onnx.TensorProto] = {}
        self.batch_source: Tensor | None = None

    def input(self, name: str, kind: Any) -> Tensor:
        """Add an input, and return its tensor."""
        self.inputs[name] = kind
        if not _is_static(kind) and self.batch_source is None:
            self.batch_source = Tensor(name)
        return Tensor(name)

    def run(self, jaxpr: Any, consts: Sequence[Value], arguments: Sequence[Value]) -> list[Value]:
        """Return the values of a jaxpr's outputs."""
        known: dict[Any, Value] = {}
        known.update(
            (variable, _typed(value, variable)) for variable, value in zip(jaxpr.constvars, consts, strict=True)
        )
        known.update(zip(jaxpr.invars, arguments, strict=True))

        def read(atom: Any) -> Value:
            return _typed(atom.val, atom) if isinstance(atom, core.Literal) else known[atom]

        for equation in jaxpr.eqns:
            values = [read(atom) for atom in equation.invars]
            results = self.equation(equation, values)
            known.update(zip(equation.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def equation(self, equation: Any, values: list[Value]) -> list[Value]:
        """Return the values of an equation's outputs."""
        name = equation.primitive.name
        for parameter in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
            if parameter in equation.params and name not in ("scan", "while", "cond"):
                inner = equation.params[parameter]
                closed = isinstance(inner, core.ClosedJaxpr)
                return self.run(inner.jaxpr if closed else inner, inner.consts if closed else (), values)
        of_batch = any(not _is_static(variable.aval) for variable in equation.outvars)
        if not of_batch and not any(isinstance(value, Tensor) for value in values):
            bound = equation.primitive.bind(*values, **equation.primitive.get_bind_params(equation.params))
            return list(bound) if equation.primitive.multiple_results else [bound]
        try:
            results = RULES[name](self, equation, *values) if name in RULES else None
        except NotImplementedError:
            results = None
        if results is None:
            # `model` refuses this node if an output depends on it.
            results = self.node(_NO_RULE + name, *values, count=len(equation.outvars))
        return results if isinstance(results, list) else [results]

    def node(self, operator: str, *values: Value, count: int = 1, **attributes: Any) -> Any:
        """Add a node unless the graph has an equal one, and return its output, or a list of several outputs."""
        names = [self.tensor(value) for value in values]
        key = (operator, *names, repr(attributes))
        if key not in self.made:
            self.made[key] = [Tensor(f"t{len(self.nodes)}_{i}") for i in range(count)]
            self.nodes.append(helper.make_node(operator, names, self.made[key], **attributes))
        return self.made[key][0] if count == 1 else self.made[key]

    def tensor(self, value: Value) -> str:
        """Return the name of a value; equal constants are stored once."""
        if isinstance(value, Tensor):
            return value
        array = np.asarray(value)
        key = (array.shape, str(array.dtype), array.tobytes())
        if key not in self.initializers:
            self.initializers[key] = numpy_helper.from_array(array, f"c{len(self.initializers)}")
        return self.initializers[key].name

    def reshape(self, value: Value, shape: Sequence[Any]) -> Value:
        """Reshape a value; at most one dimension may be symbolic."""
        sizes = [size if isinstance(size, int) else -1 for size in shape]
        if sizes.count(-1) > 1:
            raise NotImplementedError
        return self.node("Reshape", value, np.asarray(sizes, np.int64))

    def shape(self, shape: Sequence[Any]) -> Value:
        """Return a shape as a tensor of integers."""
        if all(isinstance(size, int) for size in shape):
            return np.asarray(shape, np.int64)
        parts = [np.asarray([size], np.int64) if isinstance(size, int) else self.batch_size(size) for size in shape]
        return self.node("Concat", *parts, axis=0)

    def batch_size(self, size: Any) -> Tensor:
        """Return the batch size as a tensor `[1]`."""
        if size != _BATCH_SIZE or self.batch_source is None:
            raise NotImplementedError
        return self.node("Shape", self.batch_source, start=0, end=1)

    def model(self, outputs: Mapping[str, Sequence[Any]], doc: str = "") -> onnx.ModelProto:
        """Return the model that computes these outputs, without the nodes that no output depends on.

        Args:
            outputs: value and type of each output, by name.
            doc: description to store in the model.

        Raises:
            NotImplementedError: if an output depends on an operation without a rule.
        """
        ends = [helper.make_node("Identity", [self.tensor(value)], [name]) for name, (value, _) in outputs.items()]
        nodes = self._needed([node.input[0] for node in ends]) + ends
        tensors = {name for node in nodes for name in node.input}
        graph = helper.make_graph(
            nodes,
            "genpo_jax",
            [_value_info(name, kind) for name, kind in self.inputs.items()],
            [_value_info(name, kind) for name, (_, kind) in outputs.items()],
            initializer=[array for array in self.initializers.values() if array.name in tensors],
        )
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, doc_string=doc)
        model.producer_name = "genpo_jax"
        onnx.checker.check_model(model)
        return model

    def _needed(self, names: Iterable[str]) -> list[onnx.NodeProto]:
        """Return the nodes that the named tensors depend on, in order."""
        tensors, nodes = set(names), []
        for node in reversed(self.nodes):
            if tensors.isdisjoint(node.output):
                continue
            if node.op_type.startswith(_NO_RULE):
                raise NotImplementedError(
                    f"there is no ONNX rule for this use of the operation '{node.op_type.removeprefix(_NO_RULE)}' "
                    "of JAX; add one in genpo_jax/export/onnx_graph.py"
                )
            nodes.append(node)
            tensors.update(node.input)
        return nodes[::-1]


def _typed(value: Value, atom: Any) -> Value:
    """Return a constant with the type that it has in JAX; numpy's float64 and Python's numbers are float32 there."""
    return value if isinstance(value, Tensor) else np.asarray(value, atom.aval.dtype)


(_BATCH_SIZE,) = jax.export.symbolic_shape(BATCH)


def _is_static(aval: Any) -> bool:
    return all(isinstance(size, int) for size in aval.shape)


def _value_info(name: str, kind: Any) -> onnx.ValueInfoProto:
    shape = [size if isinstance(size, int) else BATCH for size in kind.shape]
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(kind.dtype)), shape)


# Each rule takes the graph, the equation and its values, and returns the output or a list of outputs.


def _simple(operator: str) -> Callable[..., Any]:
    return lambda graph, equation, *values: graph.node(operator, *values)


def _expm1(graph: Graph, equation: Any, x: Value) -> Tensor:
    return graph.node("Sub", graph.node("Exp", x), np.ones((), equation.outvars[0].aval.dtype))


def _select(graph: Graph, equation: Any, which: Value, *cases: Value) -> Tensor:
    if equation.invars[0].aval.dtype != bool:
        raise NotImplementedError
    return graph.node("Where", which, cases[1], cases[0])


def _reshape(graph: Graph, equation: Any, x: Value) -> Tensor:
    return graph.reshape(x, equation.outvars[0].aval.shape)


def _broadcast(graph: Graph, equation: Any, x: Value, *sizes: Value) -> Value:
    shape, places = equation.outvars[0].aval.shape, equation.params["broadcast_dimensions"]
    before = equation.invars[0].aval.shape
    aligned = [1] * len(shape)
    for size, place in zip(before, places, strict=True):
        aligned[place] = size
    x = x if tuple(aligned) == tuple(before) else graph.reshape(x, aligned)
    return x if tuple(aligned) == tuple(shape) else graph.node("Expand", x, graph.shape(shape))


def _concatenate(graph: Graph, equation: Any, *values: Value) -> Tensor:
    return graph.node("Concat", *values, axis=equation.params["dimension"])


def _stack(graph: Graph, equation: Any, *values: Value) -> Tensor:
    axis = equation.params["axis"]
    apart = [graph.node("Unsqueeze", value, np.asarray([axis], np.int64)) for value in values]
    return graph.node("Concat", *apart, axis=axis)


def _slice(graph: Graph, equation: Any, x: Value) -> Value:
    shape, params = equation.invars[0].aval.shape, equation.params
    starts, limits = params["start_indices"], params["limit_indices"]
    if any(stride != 1 for stride in params["strides"] or ()):
        raise NotImplementedError
    axes = [i for i in range(len(shape)) if (starts[i], limits[i]) != (0, shape[i])]
    if not axes:
        return x
    parts = ([starts[i] for i in axes], [limits[i] for i in axes], axes)
    return graph.node("Slice", x, *(np.asarray(part, np.int64) for part in parts))


def _gather(graph: Graph, equation: Any, x: Value, index: Value) -> Tensor:
    """Take one slice along one axis, at a constant index."""
    numbers, shape = equation.params["dimension_numbers"], equation.invars[0].aval.shape
    axes = numbers.start_index_map
    one_slice = len(axes) == 1 and all(
        size == (1 if i == axes[0] else n)
        for i, (size, n) in enumerate(zip(equation.params["slice_sizes"], shape, strict=True))
    )
    plain = numbers.collapsed_slice_dims == axes and not numbers.operand_batching_dims
    if isinstance(index, Tensor) or np.size(index) != 1 or not (one_slice and plain):
        raise NotImplementedError
    # XLA clamps an index that is out of range.
    place = np.clip(np.reshape(index, ()), 0, shape[axes[0]] - 1)
    return graph.node("Gather", x, np.asarray(place, np.int64), axis=axes[0])


def _dot(graph: Graph, equation: Any, x: Value, y: Value) -> Tensor:
    """Multiply by a matrix."""
    (over_x, over_y), (batch_x, _) = equation.params["dimension_numbers"]
    rank_x, rank_y = (len(variable.aval.shape) for variable in equation.invars)
    if batch_x or rank_y != 2 or tuple(over_y) != (0,) or tuple(over_x) != (rank_x - 1,):
        raise NotImplementedError
    return graph.node("MatMul", x, y)


def _scan(graph: Graph, equation: Any, *values: Value) -> list[Value]:
    """Unroll a loop of known length that neither reads nor returns arrays with an axis of steps."""
    params = equation.params
    if "num_consts" in params:
        num_consts, num_carry = params["num_consts"], params["num_carry"]
    else:
        # jax 0.11 replaced the numbers by a tree of constants, carry and inputs.
        num_consts, num_carry, _ = (len(list(part)) for part in params["ft_in"].unpack())
    if len(values) > num_consts + num_carry or len(equation.outvars) > num_carry:
        raise NotImplementedError
    consts, carry = list(values[:num_consts]), list(values[num_consts:])
    for _ in range(params["length"]):
        carry = graph.run(params["jaxpr"].jaxpr, params["jaxpr"].consts, [*consts, *carry])
    return carry


RULES: dict[str, Callable[..., Any]] = {
    "add": _simple("Add"),
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "div": _simple("Div"),
    "dot_general": _dot,
    "exp": _simple("Exp"),
    "expm1": _expm1,
    "gather": _gather,
    "gt": _simple("Greater"),
    "logistic": _simple("Sigmoid"),
    "max": _simple("Max"),
    "min": _simple("Min"),
    "mul": _simple("Mul"),
    "reshape": _reshape,
    "scan": _scan,
    "select_n": _select,
    "slice": _slice,
    "stack": _stack,
    "sub": _simple("Sub"),
    "tanh": _simple("Tanh"),
}
