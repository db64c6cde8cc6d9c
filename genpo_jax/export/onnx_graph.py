"""Write a JAX function as an ONNX graph: a walk over its jaxpr, one ONNX node or a few for each equation.

What does not depend on an input is computed here and becomes a constant; loops of known length are unrolled; what has
no rule is refused by its name. Operators are those of opset 18 (https://onnx.ai/onnx/operators).
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from jax.extend import core
from onnx import helper, numpy_helper

OPSET = 18
# The newest that the oldest supported onnxruntime reads.
IR_VERSION = 9
BATCH = "batch"
_NO_RULE = "no rule for "


def batched(*sizes: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    """Return the type of an array `[batch, *sizes]` of any batch size."""
    return jax.ShapeDtypeStruct((_BATCH_SIZE, *sizes), dtype)


def to_onnx(
    function: Callable[..., Any], inputs: Mapping[str, jax.ShapeDtypeStruct], outputs: Sequence[str], doc: str = ""
) -> onnx.ModelProto:
    """Return the ONNX model of a function.

    Args:
        function: of the inputs, in their order; returns one array, or a tuple with one for each output.
        inputs: name and type of each; a leading dimension may be the batch, see `batched`.
        outputs: their names.
        doc: what the model says of itself.

    Raises:
        NotImplementedError: the function uses an operation that has no rule here; its name is in the message.
    """
    closed = jax.make_jaxpr(function)(*inputs.values())
    graph = Graph()
    results = graph.run(closed.jaxpr, closed.consts, [graph.input(name, kind) for name, kind in inputs.items()])
    kinds = [variable.aval for variable in closed.jaxpr.outvars]
    typed = {name: (value, kind) for name, value, kind in zip(outputs, results, kinds, strict=True)}
    return graph.model(typed, tuple(inputs), doc)


class Tensor(str):
    """The name of a tensor that is known at run time alone."""


# What an equation is given or gives: a constant, or a tensor.
Value: TypeAlias = Any


class Graph:
    """Nodes of an ONNX graph, grown by walking over jaxprs.

    Args:
        rules: rules for more operations; as in `_RULES`, a function of the graph, the equation and its values.

    Attributes:
        inputs: the type of each input, by name.
    """

    def __init__(self, rules: Mapping[str, Callable[..., Any]] | None = None) -> None:
        self.rules = _RULES | dict(rules or {})
        self.inputs: dict[str, Any] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.made: dict[Any, list[Tensor]] = {}
        self.initializers: dict[tuple[Any, ...], onnx.TensorProto] = {}
        self.batch_source: Tensor | None = None

    def input(self, name: str, kind: Any) -> Tensor:
        """Add an input; return its tensor."""
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
        of_batch = any(not _is_static(variable.aval) for variable in equation.outvars) or name == "dim_as_value"
        if not of_batch and not any(isinstance(value, Tensor) for value in values):
            bound = equation.primitive.bind(*values, **equation.primitive.get_bind_params(equation.params))
            return list(bound) if equation.primitive.multiple_results else [bound]
        try:
            results = self.rules[name](self, equation, *values) if name in self.rules else None
        except NotImplementedError:
            results = None
        if results is None:
            # Refused only where something that is asked for depends on it.
            results = self.node(_NO_RULE + name, *values, count=len(equation.outvars))
        return results if isinstance(results, list) else [results]

    def node(self, operator: str, *values: Value, count: int = 1, **attributes: Any) -> Any:
        """Add a node, unless it is there already; return its output, or a list of several."""
        names = [self.tensor(value) for value in values]
        key = (operator, *names, repr(attributes))
        if key not in self.made:
            self.made[key] = [Tensor(f"t{len(self.nodes)}_{i}") for i in range(count)]
            self.nodes.append(helper.make_node(operator, names, self.made[key], **attributes))
        return self.made[key][0] if count == 1 else self.made[key]

    def tensor(self, value: Value) -> str:
        """Return the name of a value; a constant is stored once, whoever asks for it."""
        if isinstance(value, Tensor):
            return value
        array = _plain(value)
        key = (array.shape, str(array.dtype), array.tobytes())
        if key not in self.initializers:
            self.initializers[key] = numpy_helper.from_array(array, f"c{len(self.initializers)}")
        return self.initializers[key].name

    def reshape(self, value: Value, shape: Sequence[Any]) -> Value:
        """Return a value in another shape, of which at most one dimension is not a number."""
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
        """Return the batch size as a tensor of one integer."""
        if size != _BATCH_SIZE or self.batch_source is None:
            raise NotImplementedError
        return self.node("Shape", self.batch_source, start=0, end=1)

    def needed(self, values: Iterable[Value]) -> tuple[list[onnx.NodeProto], set[str]]:
        """Return the nodes that values depend on, in order, and the names of all tensors among them.

        Raises:
            NotImplementedError: one of them is an operation that has no rule.
        """
        tensors = {self.tensor(value) for value in values}
        nodes = []
        for node in reversed(self.nodes):
            if not tensors.isdisjoint(node.output):
                nodes.append(node)
                tensors.update(node.input)
                if node.op_type.startswith(_NO_RULE):
                    raise NotImplementedError(
                        f"there is no ONNX rule for this use of the operation '{node.op_type.removeprefix(_NO_RULE)}' "
                        "of JAX; add one in genpo_jax/export/onnx_graph.py"
                    )
        return nodes[::-1], tensors

    def model(
        self, outputs: Mapping[str, tuple[Value, Any]], inputs: Sequence[str] | None = None, doc: str = ""
    ) -> onnx.ModelProto:
        """Return the model that computes these outputs, and nothing else.

        Args:
            outputs: value and type of each, by name.
            inputs: names of its inputs; None for those that the outputs depend on.
            doc: what the model says of itself.
        """
        nodes, tensors = self.needed(value for value, _ in outputs.values())
        inputs = [name for name in self.inputs if name in tensors] if inputs is None else inputs
        ends = [helper.make_node("Identity", [self.tensor(value)], [name]) for name, (value, _) in outputs.items()]
        constants = [array for array in self.initializers.values() if array.name in tensors]
        graph = helper.make_graph(
            [*nodes, *ends],
            "genpo_jax",
            [_value_info(name, self.inputs[name]) for name in inputs],
            [_value_info(name, kind) for name, (_, kind) in outputs.items()],
            initializer=constants,
        )
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, doc_string=doc)
        model.producer_name = "genpo_jax"
        onnx.checker.check_model(model)
        return model


def _typed(value: Value, atom: Any) -> Value:
    """Return a constant in the type that JAX takes it for: numpy's float64 and Python's numbers are float32."""
    if isinstance(value, Tensor) or jnp.issubdtype(atom.aval.dtype, jax.dtypes.extended):
        return value
    return np.asarray(value, atom.aval.dtype)


def _plain(value: Value) -> np.ndarray:
    """Return a constant as numpy's; PRNG keys as their numbers, which no rule reads."""
    if hasattr(value, "dtype") and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    return np.asarray(value)


(_BATCH_SIZE,) = jax.export.symbolic_shape(BATCH)


def _is_static(aval: Any) -> bool:
    return all(isinstance(size, int) for size in aval.shape)


def _value_info(name: str, kind: Any) -> onnx.ValueInfoProto:
    shape = [size if isinstance(size, int) else BATCH for size in kind.shape]
    return helper.make_tensor_value_info(name, _element_type(kind.dtype), shape)


def _element_type(dtype: Any) -> int:
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


# Rules: of the graph, the equation and its values; they return its output, or a list of several.


def _simple(operator: str, **attributes: Any) -> Callable[..., Any]:
    return lambda graph, equation, *values: graph.node(operator, *values, **attributes)


def _negated(operator: str) -> Callable[..., Any]:
    return lambda graph, equation, *values: graph.node("Not", graph.node(operator, *values))


def _logical(logical: str, bitwise: str) -> Callable[..., Any]:
    def rule(graph: Graph, equation: Any, *values: Value) -> Tensor:
        return graph.node(logical if equation.invars[0].aval.dtype == bool else bitwise, *values)

    return rule


def _extremum(operator: str, logical: str) -> Callable[..., Any]:
    def rule(graph: Graph, equation: Any, *values: Value) -> Tensor:
        return graph.node(logical if equation.invars[0].aval.dtype == bool else operator, *values)

    return rule


def _one(equation: Any) -> np.ndarray:
    return np.ones((), equation.outvars[0].aval.dtype)


def _identity(graph: Graph, equation: Any, *values: Value) -> list[Value]:
    return list(values)


def _integer_pow(graph: Graph, equation: Any, x: Value) -> Tensor:
    exponent = equation.params["y"]
    # Repeated products are what XLA does, and quicker than Pow.
    power = x
    for _ in range(abs(exponent) - 1):
        power = graph.node("Mul", power, x)
    return graph.node("Reciprocal", power) if exponent < 0 else power


def _atan2(graph: Graph, equation: Any, y: Value, x: Value) -> Tensor:
    dtype = equation.outvars[0].aval.dtype
    zero, one, pi = (np.asarray(value, dtype) for value in (0, 1, np.pi))
    nowhere = graph.node("And", graph.node("Equal", x, zero), graph.node("Equal", y, zero))
    angle = graph.node("Atan", graph.node("Div", y, graph.node("Where", nowhere, one, x)))
    turn = graph.node("Where", graph.node("Less", y, zero), -pi, pi)
    return graph.node("Add", angle, graph.node("Where", graph.node("Less", x, zero), turn, zero))


def _clamp(graph: Graph, equation: Any, low: Value, x: Value, high: Value) -> Tensor:
    return graph.node("Min", graph.node("Max", x, low), high)


def _select(graph: Graph, equation: Any, which: Value, *cases: Value) -> Value:
    if equation.invars[0].aval.dtype == bool:
        return graph.node("Where", which, cases[1], cases[0])
    chosen = cases[0]
    for i, case in enumerate(cases[1:], start=1):
        chosen = graph.node("Where", graph.node("Equal", which, np.asarray(i, np.int32)), case, chosen)
    return chosen


def _convert(graph: Graph, equation: Any, x: Value) -> Value:
    if equation.invars[0].aval.dtype == equation.params["new_dtype"]:
        return x
    return graph.node("Cast", x, to=_element_type(equation.params["new_dtype"]))


def _to_output_shape(graph: Graph, equation: Any, x: Value) -> Tensor:
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


def _unstack(graph: Graph, equation: Any, x: Value) -> list[Tensor]:
    axis = equation.params["axis"]
    return [graph.node("Gather", x, np.asarray(i, np.int64), axis=axis) for i in range(len(equation.outvars))]


def _split(graph: Graph, equation: Any, x: Value) -> list[Tensor]:
    sizes, axis = equation.params["sizes"], equation.params["axis"]
    if len(sizes) == 1:
        return [x]
    return graph.node("Split", x, np.asarray(sizes, np.int64), count=len(sizes), axis=axis)


def _transpose(graph: Graph, equation: Any, x: Value) -> Tensor:
    return graph.node("Transpose", x, perm=list(equation.params["permutation"]))


def _slice(graph: Graph, equation: Any, x: Value) -> Value:
    shape = equation.invars[0].aval.shape
    starts, limits = equation.params["start_indices"], equation.params["limit_indices"]
    strides = equation.params["strides"] or (1,) * len(shape)
    cut = [i for i in range(len(shape)) if (starts[i], limits[i], strides[i]) != (0, shape[i], 1)]
    parts = ([parts[i] for i in cut] for parts in (starts, limits, range(len(shape)), strides))
    return graph.node("Slice", x, *(np.asarray(part, np.int64) for part in parts)) if cut else x


def _dynamic_slice(graph: Graph, equation: Any, x: Value, *starts: Value) -> Value:
    shape, sizes = equation.invars[0].aval.shape, equation.params["slice_sizes"]
    for axis, (start, size, whole) in enumerate(zip(starts, sizes, shape, strict=True)):
        if size == whole:
            continue
        # XLA moves a slice that would end outside.
        start = graph.node("Min", graph.node("Max", start, np.int32(0)), np.int32(whole - size))
        start = graph.reshape(graph.node("Cast", start, to=onnx.TensorProto.INT64), [1])
        end = graph.node("Add", start, np.asarray([size], np.int64))
        x = graph.node("Slice", x, start, end, np.asarray([axis], np.int64))
    return x


def _rearranged(graph: Graph, equation: Any, *values: Value) -> Tensor:
    """Pick each number from its place: what an operation that only moves numbers comes to, at constant indices.

    The places are found by doing it to numbers that say where they are.
    """
    moved = [i for i, value in enumerate(values) if isinstance(value, Tensor)]
    shapes = [equation.invars[i].aval.shape for i in moved]
    first = 0
    places = list(values)
    for i, shape in zip(moved, shapes, strict=True):
        places[i] = jnp.arange(first, first + math.prod(shape), dtype=jnp.int32).reshape(shape)
        first += math.prod(shape)
    found = np.asarray(equation.primitive.bind(*places, **equation.primitive.get_bind_params(equation.params)))
    flat = [graph.reshape(values[i], [-1]) for i in moved]
    together = flat[0] if len(flat) == 1 else graph.node("Concat", *flat, axis=0)
    return graph.node("Gather", together, found.astype(np.int64), axis=0)


def _gather(graph: Graph, equation: Any, x: Value, index: Value) -> Value:
    """Take whole slices along one axis, or anything at constant indices."""
    if not isinstance(index, Tensor) and _is_static(equation.invars[0].aval):
        return _rearranged(graph, equation, x, index)
    numbers, shape = equation.params["dimension_numbers"], equation.invars[0].aval.shape
    axes = numbers.start_index_map
    whole = len(axes) == 1 and all(
        size == (1 if i == axes[0] else n)
        for i, (size, n) in enumerate(zip(equation.params["slice_sizes"], shape, strict=True))
    )
    if not whole or numbers.collapsed_slice_dims != axes or numbers.operand_batching_dims:
        raise NotImplementedError
    (axis,) = axes
    places = equation.invars[1].aval.shape[:-1]
    index = graph.node("Min", graph.node("Max", index, np.int32(0)), np.int32(shape[axis] - 1))
    taken = graph.node("Gather", x, graph.reshape(index, places), axis=axis)
    # ONNX puts the axes of the index where the axis was, XLA where no offset dimension is.
    slices = [i for i in range(len(shape) - 1 + len(places)) if not axis <= i < axis + len(places)]
    order = [-1] * (len(shape) - 1 + len(places))
    for source, target in zip(slices, numbers.offset_dims, strict=True):
        order[target] = source
    rest = iter(range(axis, axis + len(places)))
    order = [next(rest) if i < 0 else i for i in order]
    return taken if order == sorted(order) else graph.node("Transpose", taken, perm=order)


def _scatter(graph: Graph, equation: Any, x: Value, index: Value, updates: Value) -> Value:
    if isinstance(index, Tensor) or not _is_static(equation.invars[0].aval):
        raise NotImplementedError
    x, updates = (value if isinstance(value, Tensor) else graph.node("Identity", value) for value in (x, updates))
    return _rearranged(graph, equation, x, index, updates)


def _scatter_add(graph: Graph, equation: Any, x: Value, index: Value, updates: Value) -> Value:
    """Add a linear map of the updates, whose matrix is found by doing it to unit vectors."""
    shape, update_shape = (equation.invars[i].aval.shape for i in (0, 2))
    if isinstance(index, Tensor) or not _is_static(equation.invars[0].aval):
        raise NotImplementedError
    count, params = math.prod(update_shape), equation.primitive.get_bind_params(equation.params)
    zeros, units = jnp.zeros(shape, equation.invars[0].aval.dtype), jnp.eye(count).reshape(count, *update_shape)
    matrix = [equation.primitive.bind(zeros, index, unit.astype(zeros.dtype), **params).reshape(-1) for unit in units]
    added = graph.node("MatMul", graph.reshape(updates, [1, count]), np.asarray(jnp.stack(matrix)))
    return graph.node("Add", x, graph.reshape(added, shape))


def _update_slice(graph: Graph, equation: Any, x: Value, updates: Value, *starts: Value) -> Value:
    if any(isinstance(start, Tensor) for start in starts) or not _is_static(equation.invars[0].aval):
        raise NotImplementedError
    x, updates = (value if isinstance(value, Tensor) else graph.node("Identity", value) for value in (x, updates))
    return _rearranged(graph, equation, x, updates, *starts)


def _dot(graph: Graph, equation: Any, x: Value, y: Value) -> Tensor:
    (over_x, over_y), (batch_x, batch_y) = equation.params["dimension_numbers"]
    rank_x, rank_y = (len(variable.aval.shape) for variable in equation.invars)
    if not batch_x and rank_y == 2 and tuple(over_y) == (0,) and tuple(over_x) == (rank_x - 1,):
        return graph.node("MatMul", x, y)
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    of_x = [next(letters) for _ in range(rank_x)]
    of_y = [next(letters) for _ in range(rank_y)]
    for i, j in zip((*over_x, *batch_x), (*over_y, *batch_y), strict=True):
        of_y[j] = of_x[i]
    free_x = [of_x[i] for i in range(rank_x) if i not in (*over_x, *batch_x)]
    free_y = [of_y[j] for j in range(rank_y) if j not in (*over_y, *batch_y)]
    out = [of_x[i] for i in batch_x] + free_x + free_y
    return graph.node("Einsum", x, y, equation=f"{''.join(of_x)},{''.join(of_y)}->{''.join(out)}")


def _reduce(operator: str) -> Callable[..., Any]:
    def rule(graph: Graph, equation: Any, x: Value) -> Tensor:
        axes = np.asarray(equation.params["axes"], np.int64)
        # ONNX sums no truth values.
        if equation.invars[0].aval.dtype == bool:
            x = graph.node("Cast", x, to=onnx.TensorProto.INT32)
            x = graph.node(operator, x, axes, keepdims=0)
            return graph.node("Cast", x, to=onnx.TensorProto.BOOL)
        return graph.node(operator, x, axes, keepdims=0)

    return rule


def _arg(operator: str) -> Callable[..., Any]:
    def rule(graph: Graph, equation: Any, x: Value) -> Tensor:
        (axis,) = equation.params["axes"]
        found = graph.node(operator, x, axis=axis, keepdims=0)
        return graph.node("Cast", found, to=_element_type(equation.params["index_dtype"]))

    return rule


def _cumsum(graph: Graph, equation: Any, x: Value) -> Tensor:
    return graph.node(
        "CumSum", x, np.asarray(equation.params["axis"], np.int64), reverse=int(equation.params["reverse"])
    )


def _reverse(graph: Graph, equation: Any, x: Value) -> Tensor:
    axes = list(equation.params["dimensions"])
    far = np.iinfo(np.int64).min + 1
    parts = ([-1] * len(axes), [far] * len(axes), axes, [-1] * len(axes))
    return graph.node("Slice", x, *(np.asarray(part, np.int64) for part in parts))


def _pad(graph: Graph, equation: Any, x: Value, value: Value) -> Tensor:
    padding = equation.params["padding_config"]
    if any(inner or low < 0 or high < 0 for low, high, inner in padding):
        raise NotImplementedError
    widths = [low for low, _, _ in padding] + [high for _, high, _ in padding]
    return graph.node("Pad", x, np.asarray(widths, np.int64), value)


def _round(graph: Graph, equation: Any, x: Value) -> Tensor:
    if equation.params["rounding_method"] != jax.lax.RoundingMethod.TO_NEAREST_EVEN:
        raise NotImplementedError
    return graph.node("Round", x)


def _scan(graph: Graph, equation: Any, *values: Value) -> list[Value]:
    """Unroll."""
    params = equation.params
    num_consts, num_carry, length = params["num_consts"], params["num_carry"], params["length"]
    consts, carry = list(values[:num_consts]), list(values[num_consts : num_consts + num_carry])
    over = values[num_consts + num_carry :]
    steps = range(length - 1, -1, -1) if params["reverse"] else range(length)
    rows: list[list[Value]] = [[] for _ in equation.outvars[num_carry:]]
    for i in steps:
        slices = [_row(graph, value, i) for value in over]
        results = graph.run(params["jaxpr"].jaxpr, params["jaxpr"].consts, [*consts, *carry, *slices])
        carry = results[:num_carry]
        for row, value in zip(rows, results[num_carry:], strict=True):
            row.insert(0, value) if params["reverse"] else row.append(value)
    return [*carry, *(_stacked(graph, row) for row in rows)]


def _row(graph: Graph, value: Value, i: int) -> Value:
    return graph.node("Gather", value, np.asarray(i, np.int64), axis=0) if isinstance(value, Tensor) else value[i]


def _stacked(graph: Graph, values: list[Value]) -> Tensor:
    apart = [graph.node("Unsqueeze", value, np.asarray([0], np.int64)) for value in values]
    return graph.node("Concat", *apart, axis=0)


def _cond(graph: Graph, equation: Any, which: Value, *values: Value) -> list[Value]:
    """Compute every branch and choose: branches have no side effects."""
    branches = [graph.run(branch.jaxpr, branch.consts, values) for branch in equation.params["branches"]]
    if not isinstance(which, Tensor):
        return branches[int(np.clip(which, 0, len(branches) - 1))]
    results = []
    for outputs in zip(*branches, strict=True):
        chosen = outputs[0]
        for i, value in enumerate(outputs[1:], start=1):
            is_it = graph.node("Equal", graph.node("Cast", which, to=onnx.TensorProto.INT32), np.asarray(i, np.int32))
            chosen = graph.node("Where", is_it, value, chosen)
        results.append(chosen)
    return results


def _iota(graph: Graph, equation: Any, *sizes: Value) -> Tensor:
    """Count along an axis of known length, and repeat along the batch."""
    shape, axis = equation.outvars[0].aval.shape, equation.params["dimension"]
    aligned = [1] * len(shape)
    aligned[axis] = shape[axis]
    counted = np.arange(shape[axis], dtype=equation.params["dtype"]).reshape(aligned)
    return graph.node("Expand", counted, graph.shape(shape))


def _dim_as_value(graph: Graph, equation: Any) -> Tensor:
    size = graph.batch_size(equation.params["dim"])
    return graph.node("Cast", graph.reshape(size, []), to=_element_type(equation.outvars[0].aval.dtype))


_RULES: dict[str, Callable[..., Any]] = {
    "abs": _simple("Abs"),
    "acos": _simple("Acos"),
    "add": _simple("Add"),
    "add_any": _simple("Add"),
    "and": _logical("And", "BitwiseAnd"),
    "argmax": _arg("ArgMax"),
    "argmin": _arg("ArgMin"),
    "asin": _simple("Asin"),
    "atan": _simple("Atan"),
    "atan2": _atan2,
    "broadcast_in_dim": _broadcast,
    "ceil": _simple("Ceil"),
    "clamp": _clamp,
    "concatenate": _concatenate,
    "cond": _cond,
    "convert_element_type": _convert,
    "copy": _identity,
    "copy_p": _identity,
    "cos": _simple("Cos"),
    "cosh": _simple("Cosh"),
    "cumsum": _cumsum,
    "dim_as_value": _dim_as_value,
    "div": _simple("Div"),
    "dot_general": _dot,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _update_slice,
    "eq": _simple("Equal"),
    "erf": _simple("Erf"),
    "exp": _simple("Exp"),
    "expand_dims": _to_output_shape,
    "expm1": lambda graph, equation, x: graph.node("Sub", graph.node("Exp", x), _one(equation)),
    "floor": _simple("Floor"),
    "gather": _gather,
    "ge": _simple("GreaterOrEqual"),
    "gt": _simple("Greater"),
    "integer_pow": _integer_pow,
    "iota": _iota,
    "le": _simple("LessOrEqual"),
    "log": _simple("Log"),
    "log1p": lambda graph, equation, x: graph.node("Log", graph.node("Add", x, _one(equation))),
    "logistic": _simple("Sigmoid"),
    "lt": _simple("Less"),
    "max": _extremum("Max", "Or"),
    "min": _extremum("Min", "And"),
    "mul": _simple("Mul"),
    "ne": _negated("Equal"),
    "neg": _simple("Neg"),
    "not": _logical("Not", "BitwiseNot"),
    "optimization_barrier": _identity,
    "or": _logical("Or", "BitwiseOr"),
    "pad": _pad,
    "pow": _simple("Pow"),
    "reduce_and": _reduce("ReduceMin"),
    "reduce_max": _reduce("ReduceMax"),
    "reduce_min": _reduce("ReduceMin"),
    "reduce_or": _reduce("ReduceMax"),
    "reduce_prod": _reduce("ReduceProd"),
    "reduce_sum": _reduce("ReduceSum"),
    "rem": _simple("Mod", fmod=1),
    "reshape": _to_output_shape,
    "rev": _reverse,
    "round": _round,
    "rsqrt": lambda graph, equation, x: graph.node("Reciprocal", graph.node("Sqrt", x)),
    "scan": _scan,
    "scatter": _scatter,
    "scatter-add": _scatter_add,
    "select_n": _select,
    "sign": _simple("Sign"),
    "sin": _simple("Sin"),
    "sinh": _simple("Sinh"),
    "slice": _slice,
    "split": _split,
    "sqrt": _simple("Sqrt"),
    "square": lambda graph, equation, x: graph.node("Mul", x, x),
    "squeeze": _to_output_shape,
    "stack": _stack,
    "stop_gradient": _identity,
    "sub": _simple("Sub"),
    "tan": _simple("Tan"),
    "tanh": _simple("Tanh"),
    "transpose": _transpose,
    "unstack": _unstack,
    "xor": _logical("Xor", "BitwiseXor"),
}
