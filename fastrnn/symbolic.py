"""Models written as calls of layers on symbolic tensors, as in Keras's functional API.

A call of a layer on symbolic tensors computes nothing: it is recorded, and gives symbolic tensors that remember it.
`fastrnn.graph` makes a model's graph of them.
"""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from fastrnn._nested import flatten, map_structure
from fastrnn._types import Nested, Shape
from fastrnn.dtypes import as_dtype
from fastrnn.plan import Builder, Value

if TYPE_CHECKING:
    from fastrnn.layers import Layer

_serial_numbers = itertools.count()


class Call:
    """One call of a layer on symbolic tensors.

    Attributes
    ----------
    layer : Layer
    args, kwargs : tuple, dict
        The call's arguments: symbolic tensors and constants in any nesting.
    number : int
        Larger than those of all calls recorded before.
    """

    def __init__(self, layer: "Layer", args: Sequence[Nested], kwargs: dict[str, Nested]) -> None:
        self.layer, self.args, self.kwargs = layer, tuple(args), kwargs
        self.number = next(_serial_numbers)

    @property
    def tensors(self) -> list["KerasTensor"]:
        """list of KerasTensor: what the call takes."""
        leaves = flatten([self.args, self.kwargs])
        return [leaf for leaf in leaves if isinstance(leaf, KerasTensor)]


class KerasTensor:
    """What a layer will return: a shape and a dtype without numbers.

    Arithmetic and indexing give symbolic tensors too.

    Attributes
    ----------
    shape : tuple of int or None
        With the batch; None where a size is not known.
    dtype : str
    name : str
    call : Call
        What returns it.
    index : int
        Which of the call's outputs it is.
    """

    __array_ufunc__ = None  # an array on the left leaves the operator to this class

    def __init__(self, shape: Shape, dtype: str, call: Call, index: int, name: str) -> None:
        self.shape, self.dtype, self.name = shape, dtype, name
        self.call, self.index = call, index

    @property
    def ndim(self) -> int:
        """int: the number of axes, with the batch."""
        return len(self.shape)

    def __repr__(self) -> str:
        return f"<KerasTensor shape={self.shape}, dtype={self.dtype}, name={self.name}>"

    def _refuse(self, *args: object) -> NoReturn:
        raise TypeError(
            f"{self!r} has no values: compute with it by layers, operators and fastrnn.ops, and run a model of it"
        )

    __array__ = __bool__ = __float__ = __int__ = __len__ = __iter__ = _refuse

    def __getitem__(self, key: Any) -> Any:
        return record_operation("GetItem", (self, key), {})


def _operator(name: str, reflected: bool = False) -> Any:
    def apply(self: KerasTensor, *others: Any) -> Any:
        return record_operation(name, (*others, self) if reflected else (self, *others), {})

    return apply


for _method, _name in {
    "add": "Add",
    "sub": "Subtract",
    "mul": "Multiply",
    "truediv": "TrueDivide",
    "floordiv": "FloorDivide",
    "mod": "Mod",
    "pow": "Power",
    "matmul": "Matmul",
    "and": "LogicalAnd",
    "or": "LogicalOr",
    "xor": "LogicalXor",
}.items():
    setattr(KerasTensor, f"__{_method}__", _operator(_name))
    setattr(KerasTensor, f"__r{_method}__", _operator(_name, reflected=True))
for _method, _name in {
    "lt": "Less",
    "le": "LessEqual",
    "gt": "Greater",
    "ge": "GreaterEqual",
    "ne": "NotEqual",
    "neg": "Negative",
    "abs": "Absolute",
    "invert": "LogicalNot",
}.items():
    setattr(KerasTensor, f"__{_method}__", _operator(_name))


def holds_tensors(*structures: Nested) -> bool:
    """Return whether there is a symbolic tensor in nested structures."""
    for structure in structures:
        if isinstance(structure, KerasTensor):
            return True
        if isinstance(structure, dict):
            structure = list(structure.values())
        array_like = not isinstance(structure, (list, tuple)) or isinstance(
            next(iter(structure), None), (int, float)
        )
        if not array_like and holds_tensors(*structure):
            return True
    return False


def record(layer: "Layer", args: Sequence[Nested], kwargs: dict[str, Nested]) -> Nested:
    """Record a call of a layer, which is built for it.

    Parameters
    ----------
    layer : Layer
    args, kwargs : sequence, dict
        The call's arguments: symbolic tensors and constants in any nesting; None is an argument not given.

    Returns
    -------
    KerasTensor, or dict or tuple of KerasTensor
        In the structure that the layer returns arrays in.
    """
    given = {key: value for key, value in kwargs.items() if value is not None}
    if given.get("training") is False:
        del given["training"]
    builder = Builder()
    values: Any = map_structure(
        lambda leaf: _value_of(leaf, builder) if isinstance(leaf, KerasTensor) else leaf,
        [list(args), given],
    )
    call = Call(layer, args, given)
    indices = itertools.count()

    def tensor(value: Value) -> KerasTensor:
        index = next(indices)
        name = f"{layer.name}_{index}" if index else layer.name
        dtype = layer.compute_dtype if value.dtype is None else value.dtype
        return KerasTensor(value.shape, dtype.name, call, index, name)

    outputs = map_structure(tensor, layer.lower_call(builder, *values))
    return tuple(outputs) if isinstance(outputs, list) else outputs


def _value_of(tensor: KerasTensor, builder: Builder) -> Value:
    return builder.value(tensor.shape, dtype=as_dtype(tensor.dtype))


def record_operation(name: str, args: Sequence[Nested], kwargs: dict[str, Nested]) -> Any:
    """Record a call of the operation that Keras names so, such as "Add"; returns what `record` does."""
    from fastrnn.layers.operations import OPERATIONS

    return record(OPERATIONS[name](), args, kwargs)


def input_tensor(layer: "Layer", shape: Shape, dtype: str) -> KerasTensor:
    """Return the symbolic tensor that an input layer stands for."""
    return KerasTensor(shape, dtype, Call(layer, (), {}), 0, layer.name)


def is_input(tensor: KerasTensor) -> bool:
    """Return whether a symbolic tensor is an input rather than what a call returns."""
    return not tensor.call.tensors
