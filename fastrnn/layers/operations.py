"""The operations that Keras 3's functional API records where a model computes with tensors: `a + b`, `x[:, -1]`.

They are layers only to the loader, under names such as "ops.Add". Each is a NumPy function of the call's arguments,
which hold tensors and constants, and of the operation's own options.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from fastrnn import activations, plan
from fastrnn._nested import flatten, map_structure
from fastrnn._types import Nested
from fastrnn.layers.base import Layer


class Operation(Layer):
    """The base of the operations; a subclass holds the function and the defaults of its options."""

    function: ClassVar[Callable[..., np.ndarray]]
    defaults: ClassVar[dict[str, Any]]

    def __init__(self, name: str | None = None, **options: Any) -> None:
        super().__init__(name=name)
        self.options = {**self.defaults, **options}
        self.built = True

    def lower_call(
        self, builder: plan.Builder, args: Sequence[Nested], kwargs: dict[str, Nested]
    ) -> plan.Value:
        """Write the step of one call, whose arguments hold values and constants."""
        values = [leaf for leaf in flatten([args, kwargs]) if isinstance(leaf, plan.Value)]

        def compute(*arrays: np.ndarray) -> np.ndarray:
            rest = iter(arrays)
            filled, named = map_structure(
                lambda leaf: next(rest) if isinstance(leaf, plan.Value) else leaf, [args, kwargs]
            )
            result = type(self).function(*filled, **named, **self.options)
            wide = result.dtype == np.float64 and all(array.dtype != np.float64 for array in arrays)
            return result.astype(np.float32) if wide else result

        # An axis whose size is not known before a call is one that follows the unknown sizes of the inputs.
        small, large = (
            compute(
                *(
                    np.ones([n if size is None else size for size in value.shape], np.float32)
                    for value in values
                )
            )
            for n in (2, 3)
        )
        shape = [
            size if size == other else None
            for size, other in zip(small.shape, large.shape, strict=True)
        ]
        y = builder.value(shape)
        builder.add(plan.Apply(tuple(value.buffer for value in values), (y.buffer,), None, compute))
        return y


def _operation(name: str, function: Callable[..., Any], **defaults: Any) -> type[Operation]:
    def __init__(self: Operation, name: str | None = None, **options: Any) -> None:
        Operation.__init__(self, name, **options)

    parameters = [
        inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY)
        for key in ("self", "name", *defaults)
    ]
    __init__.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    contents = {"function": staticmethod(function), "defaults": defaults, "__init__": __init__}
    return type(name, (Operation,), contents)


def _get_item(x: np.ndarray, key: Any) -> np.ndarray:
    return np.asarray(x[tuple(key) if isinstance(key, list) else key])


def _axes(axis: Any) -> Any:
    return tuple(axis) if isinstance(axis, list) else axis


def _reduction(function: Callable[..., Any]) -> Callable[..., np.ndarray]:
    def reduce(x: np.ndarray, axis: Any, keepdims: bool, initial: Any = None) -> np.ndarray:
        start = {} if initial is None else {"initial": initial}
        return np.asarray(function(x, axis=_axes(axis), keepdims=keepdims, **start))

    return reduce


_ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "Abs": np.abs,
    "Absolute": np.abs,
    "Add": np.add,
    "Divide": np.divide,
    "Equal": np.equal,
    "Exp": np.exp,
    "Greater": np.greater,
    "GreaterEqual": np.greater_equal,
    "Less": np.less,
    "LessEqual": np.less_equal,
    "Log": np.log,
    "LogicalAnd": np.logical_and,
    "LogicalNot": np.logical_not,
    "LogicalOr": np.logical_or,
    "Matmul": np.matmul,
    "Maximum": np.maximum,
    "Minimum": np.minimum,
    "Multiply": np.multiply,
    "Negative": np.negative,
    "NotEqual": np.not_equal,
    "Power": np.power,
    "Relu": activations.relu,
    "Sigmoid": activations.sigmoid,
    "Sqrt": np.sqrt,
    "Square": np.square,
    "Subtract": np.subtract,
    "Tanh": np.tanh,
    "TrueDivide": np.true_divide,
}
_REDUCTIONS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "Max": (np.max, {"initial": None}),
    "Mean": (np.mean, {}),
    "Min": (np.min, {"initial": None}),
    "Sum": (np.sum, {}),
}

OPERATIONS: dict[str, type[Operation]] = {
    **{name: _operation(name, function) for name, function in _ELEMENTWISE.items()},
    **{
        name: _operation(name, _reduction(function), axis=None, keepdims=False, **options)
        for name, (function, options) in _REDUCTIONS.items()
    },
    "Concatenate": _operation("Concatenate", lambda xs, axis: np.concatenate(xs, axis), axis=0),
    "ExpandDims": _operation("ExpandDims", lambda x, axis: np.expand_dims(x, _axes(axis)), axis=-1),
    "Flip": _operation("Flip", lambda x, axis: np.flip(x, _axes(axis)), axis=None),
    "GetItem": _operation("GetItem", _get_item),
    "Reshape": _operation("Reshape", lambda x, newshape: np.reshape(x, newshape), newshape=(-1,)),
    "Softmax": _operation("Softmax", lambda x, axis: activations.softmax(x, axis), axis=-1),
    "Squeeze": _operation("Squeeze", lambda x, axis: np.squeeze(x, _axes(axis)), axis=None),
    "Stack": _operation("Stack", lambda xs, axis: np.stack(xs, axis), axis=0),
    "Transpose": _operation("Transpose", lambda x, axes: np.transpose(x, axes), axes=None),
}
"""By Keras's names of the classes in keras.src.ops."""
