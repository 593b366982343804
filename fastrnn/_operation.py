"""What the functions of `fastrnn.ops` share: the dtypes that Keras gives, and the table that files are read by."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import numpy as np

from fastrnn import _trials
from fastrnn._nested import flatten, map_structure
from fastrnn._types import Nested
from fastrnn.dtypes import as_dtype
from fastrnn.symbolic import holds_tensors, record_operation

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

OPERATIONS: dict[str, Callable[..., Any]] = {}
"""The functions of arrays by the names of Keras's classes for them, such as "ExpandDims"."""

_KERAS_NAMES = {
    "allclose": "AllClose",
    "cdist": "CDist",
    "fft": "FFT",
    "fft2": "FFT2",
    "ifft2": "IFFT2",
    "irfft": "IRFFT",
    "isin": "IsIn",
    "layer_normalization": "LayerNorm",
    "batch_normalization": "BatchNorm",
    "rfft": "RFFT",
    "rms_normalization": "RMSNorm",
    "searchsorted": "SearchSorted",
    "svd": "SVD",
}
_NARROW = {np.dtype(np.float64): np.dtype(np.float32), np.dtype(np.int64): np.dtype(np.int32)}


def array_dtype(name: Any) -> np.dtype:
    """Return the dtype that Keras means by `name`: one of NumPy's, or float or int of 32 bits; None is float."""
    if name in (None, float, "float"):
        return np.dtype(np.float32)
    return np.dtype(np.int32) if name in (int, "int") else as_dtype(name)


def to_array(x: Any) -> Any:
    """Return `x` as an array: one that it is made has at most 32 bits a number, as Keras makes tensors."""
    if isinstance(x, (np.ndarray, np.generic)):
        return x
    array = np.asarray(x)
    return array.astype(_NARROW.get(array.dtype, array.dtype))


def evaluate(
    function: Callable[..., Nested], args: Sequence[Nested], kwargs: dict[str, Nested]
) -> Nested:
    """Return function(*args, **kwargs), of 64 bits a number only where an argument is, or where `dtype` says so."""
    _trials.charge(function, args, kwargs)
    with np.errstate(all="ignore"):
        result = function(*args, **kwargs)
    if getattr(result, "dtype", np.float64) not in _NARROW:
        return result  # nothing to do for most calls, and cells call often
    if asks_for_dtype(function, args, kwargs):
        return result
    dtypes = [getattr(leaf, "dtype", None) for leaf in flatten([args, list(kwargs.values())])]
    wide = {dtype.kind for dtype in dtypes if dtype is not None and dtype.itemsize == 8}

    def narrow(leaf: Any) -> Any:
        dtype = getattr(leaf, "dtype", None)
        if dtype not in _NARROW or dtype.kind in wide:
            return leaf
        return leaf.astype(_NARROW[dtype])

    return map_structure(narrow, result)


def asks_for_dtype(
    function: Callable[..., Any], args: Sequence[Nested], kwargs: dict[str, Nested]
) -> bool:
    """Return whether a call says which dtype it is to return."""
    place = _place_of_dtype(function)
    return place is not None and (len(args) > place or kwargs.get("dtype") is not None)


@functools.cache
def _place_of_dtype(function: Callable[..., Any]) -> int | None:
    names = list(inspect.signature(function).parameters)
    return names.index("dtype") if "dtype" in names else None


def operation(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Register a function of arrays under Keras's name of its class; returns what users call.

    Users may pass numbers, lists and arrays, or symbolic tensors.
    """
    name = function.__name__.rstrip("_")
    class_name = _KERAS_NAMES.get(name) or "".join(map(_capitalized, name.split("_")))
    OPERATIONS[class_name] = function

    @functools.wraps(function)
    def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        if holds_tensors(args, kwargs):
            recorded: Result = record_operation(class_name, args, kwargs)
            return recorded
        return evaluate(function, args, kwargs)

    return call


def _capitalized(word: str) -> str:
    return word[:1].upper() + word[1:]
