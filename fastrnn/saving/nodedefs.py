"""Reading the TensorFlowOpLayer of TensorFlow 1.13 to 2.3: an operation of a graph, as TensorFlow's JSON has it.

Such a layer has a `node_def` with the operation's name and attributes, and `constants`: the inputs
that are no tensors, by their position. Later versions recorded Python's functions instead, so this
puts the one in the words of the other.
"""

from collections.abc import Callable
from typing import Any

from fastrnn._types import Config, Nested

_FUNCTIONS = {
    "Abs": "abs",
    "Add": "add",
    "AddV2": "add",
    "BiasAdd": "bias_add",
    "Div": "truediv",
    "Elu": "elu",
    "Equal": "equal",
    "Erf": "erf",
    "Exp": "exp",
    "FloorDiv": "floordiv",
    "Greater": "greater",
    "GreaterEqual": "greater_equal",
    "Identity": "identity",
    "Less": "less",
    "LessEqual": "less_equal",
    "Log": "log",
    "Log1p": "log1p",
    "LogSoftmax": "log_softmax",
    "LogicalAnd": "logical_and",
    "LogicalNot": "logical_not",
    "LogicalOr": "logical_or",
    "Maximum": "maximum",
    "Minimum": "minimum",
    "Mul": "multiply",
    "Neg": "negative",
    "NotEqual": "not_equal",
    "Pow": "pow",
    "RealDiv": "truediv",
    "Reciprocal": "reciprocal",
    "Relu": "relu",
    "Relu6": "relu6",
    "Reshape": "reshape",
    "ReverseV2": "reverse",
    "Rsqrt": "rsqrt",
    "Selu": "selu",
    "SelectV2": "where",
    "Sigmoid": "sigmoid",
    "Slice": "slice",
    "Softmax": "softmax",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "Sqrt": "sqrt",
    "Square": "square",
    "SquaredDifference": "squared_difference",
    "StopGradient": "stop_gradient",
    "Sub": "subtract",
    "Tanh": "tanh",
    "Tile": "tile",
    "Transpose": "transpose",
}
_REDUCTIONS = {
    "All": "reduce_all",
    "Any": "reduce_any",
    "Max": "reduce_max",
    "Mean": "reduce_mean",
    "Min": "reduce_min",
    "Prod": "reduce_prod",
    "Sum": "reduce_sum",
}

Call = tuple[str, list[Nested], dict[str, Nested]]
"""The name of a function in `fastrnn.layers.tensorflow_operations`, and its arguments."""


def read_node(node: Config, inputs: list[Nested]) -> Call | None:
    """Return the call that a node stands for, None if its operation is not known.

    Parameters
    ----------
    node : dict
        The `node_def`.
    inputs : list
        Tensors and constants in the operation's order.

    Raises
    ------
    ValueError, TypeError, LookupError
        If the node lacks what its operation needs.
    """
    operation = node.get("op")
    attributes = node.get("attr", {})
    if operation in _FUNCTIONS:
        return _FUNCTIONS[operation], inputs, {}
    if operation in _REDUCTIONS:
        return _REDUCTIONS[operation], inputs, {"keepdims": _flag(attributes, "keep_dims")}
    read = _SPECIAL.get(operation) if isinstance(operation, str) else None
    return read and read(attributes, inputs)


def _flag(attributes: Config, name: str) -> bool:
    return attributes.get(name, {}).get("b", False) is True


def _number(attributes: Config, name: str) -> int:
    return int(attributes.get(name, {}).get("i", 0))


def _concat(attributes: Config, inputs: list[Nested]) -> Call:
    return "concat", [inputs[:-1]], {"axis": inputs[-1]}


def _expand_dims(attributes: Config, inputs: list[Nested]) -> Call:
    return "expand_dims", inputs[:1], {"axis": inputs[1]}


def _squeeze(attributes: Config, inputs: list[Nested]) -> Call:
    axes = attributes.get("squeeze_dims", {}).get("list", {}).get("i", [])
    return "squeeze", inputs, {"axis": [int(axis) for axis in axes] or None}


def _pack(attributes: Config, inputs: list[Nested]) -> Call:
    return "stack", [inputs], {"axis": _number(attributes, "axis")}


def _gather(attributes: Config, inputs: list[Nested]) -> Call:
    return "gather", inputs[:2], {"axis": inputs[2]}


def _leaky_relu(attributes: Config, inputs: list[Nested]) -> Call:
    return "leaky_relu", inputs, {"alpha": float(attributes["alpha"]["f"])}


def _matmul(transpose_a: str, transpose_b: str) -> Callable[[Config, list[Nested]], Call]:
    def read(attributes: Config, inputs: list[Nested]) -> Call:
        transposed = {
            "transpose_a": _flag(attributes, transpose_a),
            "transpose_b": _flag(attributes, transpose_b),
        }
        return "matmul", inputs, transposed

    return read


def _strided_slice(attributes: Config, inputs: list[Nested]) -> Call:
    """Bit i of a mask says of axis i: no begin, no end, an index, a new axis, an ellipsis."""
    names = ("begin_mask", "end_mask", "shrink_axis_mask", "new_axis_mask", "ellipsis_mask")
    masks = [_number(attributes, name) for name in names]
    begins, ends, steps = inputs[1:]
    parts: list[Any] = []
    for i, (begin, end, step) in enumerate(zip(begins, ends, steps, strict=True)):
        open_begin, open_end, shrink, new_axis, ellipsis = (mask >> i & 1 for mask in masks)
        if ellipsis:
            parts.append(Ellipsis)
        elif new_axis:
            parts.append(None)
        elif shrink:
            parts.append(begin)
        else:
            parts.append(slice(None if open_begin else begin, None if open_end else end, step))
    return "getitem", inputs[:1], {"slice_spec": parts}


_SPECIAL: dict[str, Callable[[Config, list[Nested]], Call]] = {
    "BatchMatMul": _matmul("adj_x", "adj_y"),
    "BatchMatMulV2": _matmul("adj_x", "adj_y"),
    "ConcatV2": _concat,
    "ExpandDims": _expand_dims,
    "GatherV2": _gather,
    "LeakyRelu": _leaky_relu,
    "MatMul": _matmul("transpose_a", "transpose_b"),
    "Pack": _pack,
    "Squeeze": _squeeze,
    "StridedSlice": _strided_slice,
}
