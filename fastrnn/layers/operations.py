"""The operations that Keras 3's functional API records where a model computes with tensors: `a + b`, `x[:, -1]`.

A model runs them as it runs layers and does not list them; the loader knows them as "ops.Add". Each is a function of
`fastrnn.ops`, whose arguments a file holds in two places: some among the operation's options, the others, tensors and
constants, in its calls.
"""

import inspect
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

import fastrnn.ops  # noqa: F401  # which fills the table
from fastrnn import _operation, _trials, plan
from fastrnn._nested import flatten, map_structure
from fastrnn._types import Nested, Shape
from fastrnn.dtypes import is_floating, is_half, widened
from fastrnn.layers.base import Layer

_TRIED_DTYPES = (np.dtype(np.float32), np.dtype(np.int32), np.dtype(np.bool_))
_TRIED_BATCHES = (2, 3)
_TRIED_SIZES = (12, 24)
"""For the other unknown axes: they have many divisors, as an operation may cut such an axis into equal parts."""
_LARGEST_AT_FIRST = 500
"""A slice or the like is cut short by a size that is too small; the others are tried on smaller ones if that costs."""
_LARGEST_TRIED = 1 << 12
_MOST_SIZES_TRIED = 16
_LARGEST_DIVISOR = 24
"""Of the sizes that an operation's arguments speak of."""


class Operation(Layer):
    """The base of the operations; a subclass holds the function.

    Parameters
    ----------
    name : str, optional
    **options : optional
        Arguments of the function that are not given in calls.
    """

    function: ClassVar[Callable[..., Any]]

    def __init__(self, name: str | None = None, **options: Any) -> None:
        super().__init__(name=name)
        self.options = {key: _lists_to_tuples(value) for key, value in options.items()}
        self.built = True

    def __reduce__(self) -> tuple[Any, ...]:
        # The classes are made from a table, so pickle finds them by their names in it.
        from fastrnn.layers import LOADABLE

        (name,) = (name for name, loadable in LOADABLE.items() if loadable is type(self))
        return _blank, (name,), self.__getstate__()

    def _arguments(
        self, args: Sequence[Nested], kwargs: dict[str, Nested]
    ) -> tuple[tuple[Nested, ...], dict[str, Nested]]:
        """All arguments of the function: the options, and the call's in the places that are left."""
        parameters = inspect.signature(type(self).function).parameters
        given, rest = {**self.options, **kwargs}, list(args)
        given.pop("name", None)  # what TensorFlow was to call the result
        for name, parameter in parameters.items():
            if parameter.kind is parameter.VAR_POSITIONAL:
                first = [given.pop(one) for one in list(parameters)[: list(parameters).index(name)]]
                return (*first, *rest), given
            if name not in given and rest:
                given[name] = rest.pop(0)
        if rest:
            raise ValueError(f"operation {self.name!r}: {len(rest)} arguments too many")
        return (), given

    def lower_call(
        self, builder: plan.Builder, args: Sequence[Nested], kwargs: dict[str, Nested]
    ) -> Nested:
        """Write the step of one call, whose arguments hold values and constants."""
        arguments = self._arguments(args, kwargs)
        values = plan.values_in(arguments)

        def compute(*arrays: np.ndarray) -> Nested:
            args, kwargs = plan.filled(arguments, map(widened, arrays))
            return _operation.evaluate(type(self).function, args, kwargs)

        try:
            with _trials.limited():
                results = try_out(compute, values, *_sizes_in(arguments))
        except (TypeError, ValueError, IndexError) as error:
            raise ValueError(f"operation {self.name!r}: {error}") from error
        half = None
        if not _operation.asks_for_dtype(type(self).function, *arguments):
            half = _half_of([getattr(leaf, "dtype", None) for leaf in flatten(arguments)])

        def output(result: Tried) -> plan.Value:
            told = result.dtype
            if told is not None and is_floating(told) and not is_half(told):
                told = half
            return builder.value(result.shape, dtype=told)

        outputs = map_structure(output, results)
        sources = tuple(value.buffer for value in values)
        targets = tuple(value.buffer for value in flatten(outputs))
        builder.add(plan.ApplySeveral(sources, targets, None, compute))
        return outputs


def _blank(name: str) -> Layer:
    """An operation without its attributes, which unpickling brings."""
    from fastrnn.layers import LOADABLE

    cls = LOADABLE[name]
    return cls.__new__(cls)


def _half_of(dtypes: Sequence[np.dtype | None]) -> np.dtype | None:
    """What Keras makes of floating-point numbers of these dtypes if one is of half precision, None otherwise.

    Two different ones become float32, or float64 with one of that; numbers without a dtype have no say.
    """
    floating = {dtype for dtype in dtypes if dtype is not None and is_floating(dtype)}
    if not any(map(is_half, floating)):
        return None
    (one, *others) = floating
    return np.result_type(*(np.float32 if is_half(d) else d for d in floating)) if others else one


@dataclass(frozen=True)
class Tried:
    """What an array is known to be before there is one."""

    shape: Shape
    dtype: np.dtype | None


def try_out(
    compute: Callable[..., Nested],
    values: Sequence[plan.Value],
    sizes: Sequence[int] = (),
    above: int = 0,
) -> Nested:
    """Return a `Tried` for each result of `compute`, found by calling it on arrays for these values.

    Their dtypes are tried first, with float32 for any floating-point numbers and for an unknown one. Where `compute`
    takes only others, the dtypes of what it returns say nothing, and are not told. An axis whose size is not known
    before a call is one that follows the unknown sizes of the inputs; those may have to be multiples of `sizes`, or
    some of them, and are tried `above` the indices that are given.

    Raises
    ------
    TypeError, ValueError, IndexError
        What `compute` raises for arrays of every dtype; or it would cost more than `fastrnn._trials` lets it.
    """
    shapes = [value.shape for value in values]
    known = [
        np.dtype(np.float32) if value.dtype is None or is_floating(value.dtype) else value.dtype
        for value in values
    ]
    others = [
        [dtype] * len(values) for dtype in _TRIED_DTYPES if any(dtype != one for one in known)
    ]
    errors: list[Exception] = []
    for trial in _trials_with(sizes, above):
        for dtypes in (known, *others):
            try:
                small, large = (
                    compute(*map(_any_array, shapes, repeat(batch), repeat(other), dtypes))
                    for batch, other in zip(trial.batches, trial.others, strict=True)
                )
            except _trials.TooCostlyError as error:
                if trial.others <= _TRIED_SIZES:
                    raise
                errors.append(error)
            except (TypeError, ValueError, IndexError) as error:
                errors.append(error)
            else:
                return _what_is_known(small, large, trial.not_known, told=dtypes is known)
    raise errors[0]


@dataclass(frozen=True)
class _Trial:
    """Two sizes for a batch that is not known, and two for all other axes that are not."""

    batches: tuple[int, int] = _TRIED_BATCHES
    others: tuple[int, int] = _TRIED_SIZES
    not_known: frozenset[int] = frozenset()
    """Sizes of results that say nothing."""


def _trials_with(sizes: Sequence[int], above: int) -> Iterator[_Trial]:
    """The sizes to try, the likeliest first."""
    others, large = _above(min(above, _LARGEST_AT_FIRST)), _above(above)
    yield _Trial(others=others)
    if others != _TRIED_SIZES:
        yield _Trial()
    # An unknown size may have to be that of another array: 1 is broadcast to it.
    yield _Trial(others=(1, 1), not_known=frozenset([1]))
    multiples = [(size, 2 * size) for size in sizes]
    for pair in [*multiples, large]:
        yield _Trial(others=pair)
        yield _Trial(pair, others)
        yield _Trial(batches=pair, others=pair)
    # Nothing but one size fits, so the results have the sizes that they have then.
    for size in sizes:
        yield _Trial(others=(size, size))
        yield _Trial((size, size), others)
    for batch in sizes:
        for other in sizes:
            yield _Trial((batch, batch), (other, other))


def _above(number: int) -> tuple[int, int]:
    """The sizes to try where they are to be larger than `number`."""
    times = 1 + number // _TRIED_SIZES[0]
    return times * _TRIED_SIZES[0], times * _TRIED_SIZES[1]


def _sizes_in(arguments: Nested) -> tuple[list[int], int]:
    """The sizes that a call's arguments speak of, and the largest number among them.

    Sizes are those of arrays, numbers, products of several in a list, and what divides these.
    """
    found: dict[int, None] = {}
    numbers = [0]

    def enter(argument: Any) -> None:
        if isinstance(argument, dict):
            argument = list(argument.values())
        elif isinstance(argument, slice):
            argument = [argument.start or 0, argument.stop or 0]
        if isinstance(argument, (list, tuple)):
            sizes = [one for one in argument if isinstance(one, int) and one > 0]
            if len(sizes) > 1:
                found[math.prod(sizes)] = None
            for one in argument:
                enter(one)
        elif isinstance(argument, int) and not isinstance(argument, bool):
            found[abs(argument)] = None
            numbers.append(abs(argument))
        else:
            found.update((size, None) for size in getattr(argument, "shape", ()) if size)

    enter(arguments)
    told = [size for size in found if 1 < size <= _LARGEST_TRIED][:_MOST_SIZES_TRIED]
    divisors = {n for size in told for n in range(2, min(size, _LARGEST_DIVISOR)) if size % n == 0}
    largest = max(number for number in numbers if number <= _LARGEST_TRIED)
    return [*told, *sorted(divisors - set(told))], largest


def _any_array(shape: Shape, batch: int, other: int, dtype: DTypeLike) -> np.ndarray:
    sizes = [
        size if size is not None else other if axis else batch for axis, size in enumerate(shape)
    ]
    _trials.charge_array(sizes)
    return (np.random.default_rng(0).random(sizes, np.float32) + np.float32(0.5)).astype(dtype)


def _what_is_known(small: Nested, large: Nested, not_known: Collection[int], told: bool) -> Nested:
    """The sizes that two results have in common, but those of `not_known`, and the dtypes if they are `told`."""
    counterparts = iter(flatten(large))

    def known(array: np.ndarray) -> Tried:
        sizes = zip(array.shape, next(counterparts).shape, strict=True)
        shape = tuple(None if a != b or a in not_known else a for a, b in sizes)
        return Tried(shape, array.dtype if told else None)

    return map_structure(known, small)


def _lists_to_tuples(value: Any) -> Any:
    """`value` as it was before a file made lists of its tuples."""
    return tuple(map(_lists_to_tuples, value)) if isinstance(value, (list, tuple)) else value


def class_of(class_name: str, function: Callable[..., Any]) -> type[Operation]:
    """Return the operation that computes `function`."""

    def __init__(self: Operation, name: str | None = None, **options: Any) -> None:
        Operation.__init__(self, name, **options)

    keyword_only = inspect.Parameter.KEYWORD_ONLY
    names = ["self", "name", *inspect.signature(function).parameters]
    parameters = [inspect.Parameter(name, keyword_only) for name in names]
    __init__.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    contents = {"function": staticmethod(function), "__init__": __init__}
    return type(class_name, (Operation,), contents)


OPERATIONS: dict[str, type[Operation]] = {
    name: class_of(name, function) for name, function in _operation.OPERATIONS.items()
}
"""By Keras's names of the classes in keras.src.ops."""
