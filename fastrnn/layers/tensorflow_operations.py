"""The operations that Keras 2 recorded where a model computed with TensorFlow's functions: TFOpLambda, SlicingOpLambda.

A file names TensorFlow's function and its arguments in TensorFlow's words; most are a function of `fastrnn.ops` under
another name. The loader knows them as "ops.tf.reduce_sum".
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastrnn import ops
from fastrnn.layers.operations import Operation, class_of


def _in_words_of_tensorflow(function: Callable[..., Any], names: str) -> Callable[..., Any]:
    """`function` with its first parameters named `names`."""
    known = list(inspect.signature(function).parameters.values())
    renamed = names.split()
    own = [parameter.name for parameter in known]

    def call(**given: Any) -> Any:
        return function(**{own[renamed.index(name)]: value for name, value in given.items()})

    call.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [parameter.replace(name=name) for parameter, name in zip(known, renamed, strict=False)]
    )
    return call


def _getitem(tensor: Any, slice_spec: Any) -> Any:
    def part(one: Any) -> Any:
        if isinstance(one, dict):
            return slice(one.get("start"), one.get("stop"), one.get("step"))
        return one

    if isinstance(slice_spec, (list, tuple)):
        return ops.get_item(tensor, tuple(map(part, slice_spec)))
    return ops.get_item(tensor, part(slice_spec))


def _matmul(a: Any, b: Any, transpose_a: bool = False, transpose_b: bool = False) -> Any:
    a = ops.swapaxes(a, -1, -2) if transpose_a else a
    return ops.matmul(a, ops.swapaxes(b, -1, -2) if transpose_b else b)


def _split(value: Any, num_or_size_splits: Any, axis: int = 0) -> list[Any]:
    if isinstance(num_or_size_splits, int):
        return ops.split(value, num_or_size_splits, axis)
    return ops.split(value, np.cumsum(num_or_size_splits)[:-1], axis)


def _slice(input_: Any, begin: Sequence[int], size: Sequence[int]) -> Any:
    parts = zip(begin, size, strict=True)
    return input_[tuple(slice(i, None if n == -1 else i + n) for i, n in parts)]


def _pad(tensor: Any, paddings: Any, mode: str = "CONSTANT", constant_values: Any = 0) -> Any:
    values = constant_values if mode.lower() == "constant" else None
    return ops.pad(tensor, paddings, mode.lower(), values)


def _norm(tensor: Any, ord: Any = "euclidean", axis: Any = None, keepdims: bool = False) -> Any:
    return ops.norm(tensor, None if ord == "euclidean" else ord, axis, keepdims)


def _l2_normalize(x: Any, axis: Any = None, epsilon: float = 1e-12) -> Any:
    squares = np.sum(np.square(x), ops._axes(axis), keepdims=True)
    return x / np.sqrt(np.maximum(squares, epsilon))


def _gather(params: Any, indices: Any, axis: int = 0, batch_dims: int = 0) -> Any:
    if batch_dims:
        raise ValueError(f"gather: expected batch_dims=0; got {batch_dims}")
    return ops.take(params, indices, axis)


def _cumsum(x: Any, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> Any:
    x = np.flip(x, axis) if reverse else np.asarray(x)
    sums = np.cumsum(x, axis)
    sums = sums - x if exclusive else sums
    return np.flip(sums, axis) if reverse else sums


def _transpose(a: Any, perm: Any = None, conjugate: bool = False) -> Any:
    return np.transpose(a, perm)


def _one_hot(
    indices: Any,
    depth: int,
    on_value: Any = 1,
    off_value: Any = 0,
    axis: int = -1,
    dtype: Any = None,
) -> Any:
    chosen = ops.one_hot(indices, depth, axis, dtype)
    return ops.where(chosen != 0, on_value, off_value).astype(chosen.dtype)


_BINARY = {
    "add": ops.add,
    "divide": ops.divide,
    "divide_no_nan": ops.divide_no_nan,
    "equal": ops.equal,
    "floor_div": ops.floor_divide,
    "floordiv": ops.floor_divide,
    "floormod": ops.mod,
    "greater": ops.greater,
    "greater_equal": ops.greater_equal,
    "less": ops.less,
    "less_equal": ops.less_equal,
    "logical_and": ops.logical_and,
    "logical_or": ops.logical_or,
    "logical_xor": ops.logical_xor,
    "maximum": ops.maximum,
    "minimum": ops.minimum,
    "mod": ops.mod,
    "multiply": ops.multiply,
    "not_equal": ops.not_equal,
    "pow": ops.power,
    "realdiv": ops.divide,
    "subtract": ops.subtract,
    "truediv": ops.divide,
}
_UNARY = {
    **{
        name: getattr(ops, name)
        for name in [
            "abs",
            "ceil",
            "cos",
            "cosh",
            "erf",
            "erfc",
            "erfinv",
            "exp",
            "expm1",
            "floor",
            "log",
            "log1p",
            "log_sigmoid",
            "logical_not",
            "negative",
            "reciprocal",
            "round",
            "rsqrt",
            "sigmoid",
            "sign",
            "sin",
            "sinh",
            "sqrt",
            "square",
            "tan",
            "tanh",
        ]
    },
    "acos": ops.arccos,
    "acosh": ops.arccosh,
    "asin": ops.arcsin,
    "asinh": ops.arcsinh,
    "atan": ops.arctan,
    "atanh": ops.arctanh,
    "identity": ops.stop_gradient,
    "is_finite": ops.isfinite,
    "is_inf": ops.isinf,
    "is_nan": ops.isnan,
    "stop_gradient": ops.stop_gradient,
}
_ACTIVATIONS = {
    name: getattr(ops, name)
    for name in ["relu", "relu6", "elu", "selu", "silu", "softplus", "softsign", "swish"]
}
_REDUCTIONS = {
    "reduce_all": ops.all,
    "reduce_any": ops.any,
    "reduce_logsumexp": ops.logsumexp,
    "reduce_max": ops.max,
    "reduce_mean": ops.mean,
    "reduce_min": ops.min,
    "reduce_prod": ops.prod,
    "reduce_std": ops.std,
    "reduce_sum": ops.sum,
    "reduce_variance": ops.var,
}
_RENAMED: dict[str, tuple[Callable[..., Any], str]] = {
    **{name: (function, "x y") for name, function in _BINARY.items()},
    **{name: (function, "x") for name, function in _UNARY.items()},
    **{name: (function, "features") for name, function in _ACTIVATIONS.items()},
    **{name: (function, "input_tensor axis keepdims") for name, function in _REDUCTIONS.items()},
    "atan2": (ops.arctan2, "y x"),
    "bias_add": (ops.add, "value bias"),
    "broadcast_to": (ops.broadcast_to, "input shape"),
    "cast": (ops.cast, "x dtype"),
    "clip_by_value": (ops.clip, "t clip_value_min clip_value_max"),
    "concat": (ops.concatenate, "values axis"),
    "expand_dims": (ops.expand_dims, "input axis"),
    "leaky_relu": (ops.leaky_relu, "features alpha"),
    "log_softmax": (ops.log_softmax, "logits axis"),
    "ones_like": (ops.ones_like, "input dtype"),
    "repeat": (ops.repeat, "input repeats axis"),
    "reshape": (ops.reshape, "tensor shape"),
    "reverse": (ops.flip, "tensor axis"),
    "roll": (ops.roll, "input shift axis"),
    "softmax": (ops.softmax, "logits axis"),
    "squeeze": (ops.squeeze, "input axis"),
    "stack": (ops.stack, "values axis"),
    "tensordot": (ops.tensordot, "a b axes"),
    "tile": (ops.tile, "input multiples"),
    "top_k": (ops.top_k, "input k sorted"),
    "unstack": (ops.unstack, "value num axis"),
    "where": (ops.where, "condition x y"),
    "zeros_like": (ops.zeros_like, "input dtype"),
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: _in_words_of_tensorflow(*one) for name, one in _RENAMED.items()},
    "add_n": lambda inputs: functools.reduce(ops.add, inputs),
    "argmax": lambda input, axis=0: ops.argmax(input, axis),
    "argmin": lambda input, axis=0: ops.argmin(input, axis),
    "cumsum": _cumsum,
    "gather": _gather,
    "gelu": lambda features, approximate=False: ops.gelu(features, approximate),
    "getitem": _getitem,
    "l2_normalize": _l2_normalize,
    "matmul": _matmul,
    "norm": _norm,
    "one_hot": _one_hot,
    "pad": _pad,
    "slice": _slice,
    "split": _split,
    "squared_difference": lambda x, y: ops.square(ops.subtract(x, y)),
    "transpose": _transpose,
}

TENSORFLOW_OPERATIONS: dict[str, type[Operation]] = {
    f"tf.{name}": class_of(f"tf.{name}", function) for name, function in _FUNCTIONS.items()
}
"""By the last part of TensorFlow's names of the functions, such as "tf.matmul" of tf.linalg.matmul."""
