"""What a call is given: arrays, numbers in lists, masks, and constants, in nested lists, tuples and dicts."""

import math
import operator
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastrnn._nested import flatten, map_structure
from fastrnn._types import Nested, Shape
from fastrnn.dtypes import widened

NUMERIC_KINDS = "fiub"
"""The kinds of dtypes of which arrays are taken."""


def to_numeric(x: ArrayLike, what: str) -> np.ndarray:
    """Return `x` as an array of numbers.

    Raises
    ------
    TypeError
        If it is something else: strings, objects, complex numbers.
    """
    array = np.asarray(x)
    if array.dtype.kind == "V":
        array = widened(array)
    if array.dtype.kind not in NUMERIC_KINDS:
        raise TypeError(f"{what}: expected an array of real numbers; got dtype {array.dtype}")
    return array


def fits(shape: Shape, expected: Shape) -> bool:
    """Return whether two shapes can be one: as many axes, and one size along each of which both are known."""
    return len(shape) == len(expected) and all(
        size == other or None in (size, other) for size, other in zip(shape, expected, strict=True)
    )


def to_mask(mask: ArrayLike, batch_and_time: tuple[int, ...], what: str) -> np.ndarray:
    """Return a mask (batch, time) or (batch, time, 1), of booleans or 0 and 1, as booleans (batch, time).

    Raises
    ------
    ValueError
        If its shape is another one.
    """
    if isinstance(mask, np.ndarray) and is_plain_mask(mask, batch_and_time):
        return mask if mask.flags.c_contiguous else mask.copy()
    array = to_numeric(mask, f"{what}: mask")
    if array.shape == (*batch_and_time, 1):
        array = array[..., 0]
    if array.shape != tuple(batch_and_time):
        raise ValueError(
            f"{what}: expected a mask of shape {tuple(batch_and_time)}; got {np.shape(mask)}"
        )
    return np.ascontiguousarray(array, np.bool_)


def is_plain_mask(mask: np.ndarray, batch_and_time: tuple[int, ...]) -> bool:
    """Return whether a mask comes as most do: booleans (batch, time)."""
    return mask.dtype.kind == "b" and mask.shape == batch_and_time


def is_array(leaf: object) -> bool:
    """Return whether something is an array of NumPy's."""
    return isinstance(leaf, np.ndarray)


def is_array_like(x: Nested) -> bool:
    """Return whether `x` is an array, or numbers in lists, rather than arrays in lists, tuples or dicts."""
    first = x
    while type(first) is list and first:
        first = first[0]
    if type(first) is float:  # as in most lists of numbers
        return True
    if isinstance(x, (list, tuple)):
        return isinstance(_first_leaf(x), (int, float))
    return not isinstance(x, dict)


_NOTHING = object()


def _first_leaf(structure: Nested) -> Any:
    """The first of what `flatten` returns, or `_NOTHING`; looks no further, however many numbers a list holds."""
    if not isinstance(structure, (list, tuple, dict)):
        return structure
    parts: Iterable[Any] = structure
    if isinstance(structure, dict):
        parts = [structure[key] for key in sorted(structure)]
    leaves = (leaf for part in parts if (leaf := _first_leaf(part)) is not _NOTHING)
    return next(leaves, _NOTHING)


_size_of = operator.attrgetter("size")


def holds_at_most(most: float, x: Nested) -> bool:
    """Return whether each array in `x` holds at most so many numbers; False where that is not seen at a glance."""
    if type(x) is list:
        try:
            return max(map(_size_of, x)) <= most  # as most lists are
        except (AttributeError, TypeError, ValueError):
            pass  # lists within, None, other libraries' arrays, or nothing
    return _numbers_in(x) <= most


def _numbers_in(x: Nested) -> float:
    """Return how many numbers the largest array in `x` holds, infinitely many where that is not seen at a glance.

    Lists of numbers are taken to be of one size, as those are that make an array.
    """
    if isinstance(x, np.ndarray):
        return x.size
    if isinstance(x, dict):
        return max(map(_numbers_in, x.values()), default=0)
    if not isinstance(x, (list, tuple)):
        is_number = isinstance(x, (int, float, np.generic))
        return 0 if x is None else 1 if is_number else math.inf
    if not is_array_like(x):
        return max(map(_numbers_in, x), default=0)
    count, first = 1, x
    while isinstance(first, (list, tuple)) and first:
        count, first = count * len(first), first[0]
    return count


def arrays_in(x: Nested) -> Nested:
    """Return `x` with arrays for what are arrays of NumPy's or numbers in lists; other things are constants."""
    if isinstance(x, (list, tuple)) and x and isinstance(_first_leaf(x), (int, float)):
        return np.asarray(x)
    return map_structure(lambda leaf: np.asarray(leaf) if isinstance(leaf, np.generic) else leaf, x)


def leaves_of(structure: Nested) -> list[np.ndarray]:
    """Return the arrays in a nested structure, in the order of `flatten`."""
    return [leaf for leaf in flatten(structure) if is_array(leaf)]


def form_of(structure: Nested) -> Hashable:
    """Return the structure of a call's arguments, their arrays' numbers of axes and integer dtypes, and constants."""
    if isinstance(structure, np.ndarray):
        return structure.ndim if structure.dtype.kind == "f" else (structure.ndim, structure.dtype)
    if isinstance(structure, dict):
        return tuple((key, form_of(value)) for key, value in structure.items())
    if isinstance(structure, (list, tuple)):
        return tuple(form_of(value) for value in structure)
    return "constant", structure


def look_at(arguments: Iterable[Any], named: Mapping[str, Any]) -> tuple[Hashable, list[Any]]:
    """Return what tells calls of one structure from others at a glance, and what may be arrays in them, in order.

    Parameters
    ----------
    arguments, named : sequence, dict
        As the caller gave them: nothing is known of them yet.

    Returns
    -------
    look : hashable
        The names, the lengths of lists, the constants, and what is no array of NumPy's.
    leaves : list
    """
    look: list[Any] = []
    leaves: list[Any] = []
    for argument in arguments:
        if isinstance(argument, np.ndarray):
            look.append(None)
            leaves.append(argument)
        else:
            _look_into(argument, look, leaves)
    for name, argument in named.items():
        look.append(name)
        if isinstance(argument, np.ndarray):
            leaves.append(argument)
        else:
            _look_into(argument, look, leaves)
    return tuple(look), leaves


def _look_into(argument: Any, look: list[Any], leaves: list[Any]) -> None:
    if isinstance(argument, dict):
        look.append((dict, *sorted(argument)))
        for key in sorted(argument):
            _look_into(argument[key], look, leaves)
    elif isinstance(argument, (list, tuple)) and not is_array_like(argument):
        look.append(len(argument))
        for part in argument:
            _look_into(part, look, leaves)
    elif argument is None or isinstance(argument, (bool, str)):
        look.append((type(argument), argument))
    else:
        # Not everywhere are numbers in lists taken for an array.
        look.append(None if isinstance(argument, np.ndarray) else type(argument))
        leaves.append(argument)
