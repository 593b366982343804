"""Prepared calls: what is known of a form of call once one of it has been checked and computed.

The first call of a form goes the whole way: its arguments are named, checked and converted one by one, a plan is made,
and an error says what is wrong. What that showed is kept as a `PreparedCall`. Calls that look the same then need no
second look: the core holds arrays to the types and shapes that the plan was made for, and refuses others, which go the
whole way again. So every check is written once.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastrnn._nested import unflatten
from fastrnn._types import Nested, Shape
from fastrnn.layers.arguments import NUMERIC_KINDS, is_array_like
from fastrnn.plan import Executable, index_dtype

Run = Callable[[Any], Any]
"""From arrays, one or a tuple, to what a call returns; None if the arrays are not as the plan needs them."""

Adapt = Callable[[np.ndarray, Sequence[np.ndarray]], np.ndarray | None]
"""From an array of numbers, and the arrays before it in the call, to what the plan takes; None to go the whole way."""

ToMask = Callable[[Any, tuple[int, ...]], np.ndarray]
"""From a mask, as it is given, and the shape of what it is for, to booleans; ValueError if it does not fit."""

MOST_FORMS = 4
"""Prepared calls that are kept of those that look the same, such as those of inputs with 2, 3 and 4 axes."""


def _take_no_other(array: np.ndarray, before: Sequence[np.ndarray]) -> None:
    """The `adapt` of inputs that are of one number of axes."""


class PreparedInput:
    """How the arrays come that one input of a plan is made of.

    Parameters
    ----------
    ndim : int
        The number of axes that the plan was made for, with the batch; -1 to `adapt` all arrays.
    dtype : numpy.dtype, optional
        What they are converted to; by default they are as `adapt` returns them.
    kinds : str
        The kinds of dtypes that may be converted.
    adapt : callable, optional
        Gets arrays with another number of axes.
    """

    __slots__ = ("adapt", "dtype", "kinds", "ndim")

    def __init__(
        self,
        ndim: int,
        dtype: np.dtype | None = None,
        kinds: str = NUMERIC_KINDS,
        adapt: Adapt = _take_no_other,
    ) -> None:
        self.ndim, self.dtype, self.kinds, self.adapt = ndim, dtype, kinds, adapt

    def converted(self, array: Any, before: Sequence[np.ndarray]) -> np.ndarray | None:
        """Return the array as the plan takes it, or None if something may be wrong with it.

        `before` are the arrays of the inputs before.
        """
        try:
            if not isinstance(array, np.ndarray):
                if not isinstance(array, (list, tuple)) or not is_array_like(array):
                    return None
                array = np.asarray(array)
            if array.dtype.kind not in self.kinds or not array.size:
                return None
            if array.ndim != self.ndim:
                array = self.adapt(array, before)
                if array is None or self.dtype is None:
                    return array
            if array.dtype != self.dtype:
                return array.astype(self.dtype, "C")
            return array if array.flags.c_contiguous else array.copy()
        except (TypeError, ValueError):
            return None  # the whole way says what is wrong


class PreparedCall:
    """One form of call.

    Parameters
    ----------
    form : hashable
        What the plan was made for.
    run : callable
        The plan on arrays that are as it needs them, up to what the call returns; None for others.
    inputs : sequence of PreparedInput
        Those of the plan, in its order.
    as_they_come : bool
        Whether `run` refuses whatever the whole way would refuse or convert, so that it may be tried first.
    """

    __slots__ = ("_first", "_inputs", "as_they_come", "form", "run")

    def __init__(
        self,
        form: Hashable,
        run: Run,
        inputs: Sequence[PreparedInput],
        as_they_come: bool = False,
    ) -> None:
        self.form, self.run, self._inputs = form, run, inputs
        self.as_they_come = as_they_come
        self._first = inputs[0]

    def of_one(self, array: Any) -> Any:
        """Return what the call returns, from one array that needs to be converted; None as `__call__` does."""
        converted = self._first.converted(array, ())
        return None if converted is None else self.run(converted)

    def __call__(self, leaves: Sequence[Any]) -> Any:
        """Return what the call returns, from arrays that need to be converted; None if it has to go the whole way."""
        if len(leaves) == 1 == len(self._inputs):
            return self.of_one(leaves[0])
        arrays = self.converted(leaves)
        return None if arrays is None else self.run(arrays)

    def converted(self, leaves: Sequence[Any]) -> tuple[np.ndarray, ...] | None:
        """Return the call's arrays as the plan takes them, or None if something may be wrong with them."""
        if len(leaves) != len(self._inputs):
            return None
        arrays: tuple[np.ndarray, ...] = ()
        for wanted in self._inputs:
            array = wanted.converted(leaves[len(arrays)], arrays)
            if array is None:
                return None
            arrays = (*arrays, array)
        return arrays


def _integers_of(dtype: np.dtype, wanted: np.dtype) -> PreparedInput:
    """The input that takes integers of `dtype`, or booleans, as `wanted`."""

    def adapt(array: np.ndarray, before: Sequence[np.ndarray]) -> np.ndarray | None:
        return array.astype(wanted, "C", copy=False) if array.dtype == dtype else None

    return PreparedInput(-1, adapt=adapt)


def _mask_by(to_mask: ToMask) -> PreparedInput:
    """The input that takes the mask of the first one by `to_mask`."""

    def adapt(array: np.ndarray, before: Sequence[np.ndarray]) -> np.ndarray:
        return to_mask(array, before[0].shape)

    return PreparedInput(-1, adapt=adapt)


def returning(run: Run, structure: Nested) -> Run:
    """Return `run` with its results, an array or a tuple of several, in `structure`."""
    several = isinstance(structure, (list, tuple)) and len(structure) > 1
    flat = several and all(part is None for part in structure)
    if structure is None or (flat and isinstance(structure, tuple)):
        return run

    def run_and_nest(arrays: Any) -> Any:
        results = run(arrays)
        if results is None:
            return None
        if flat:
            return list(results)
        return unflatten(structure, results if isinstance(results, tuple) else [results])

    return run_and_nest


def _go_the_whole_way(arrays: Any) -> None:
    """The `run` of a model that has not been called yet."""


_NOTHING_PREPARED = PreparedCall((), _go_the_whole_way, [PreparedInput(-1)])


class NamedInput(NamedTuple):
    """An array of a layer's call: the argument that holds it, and the shape of later ones, None for any size."""

    name: str
    array: np.ndarray
    shape: Shape


def prepared_call(
    form: Hashable,
    executable: Executable,
    structure: Nested,
    inputs: Sequence[NamedInput],
    dtype: np.dtype,
    to_mask: ToMask | None,
) -> PreparedCall | None:
    """Return a layer's call of this form for the next time, None if it has to go the whole way every time.

    Parameters
    ----------
    form : hashable
    executable : Executable
    structure : nested
        What the call returns, with None for each array.
    inputs : sequence of NamedInput
        The arrays of a call, after they were checked, in the order of the executable's inputs.
    dtype : numpy.dtype
        What the layer computes in.
    to_mask : callable, optional
        Checks and converts a mask for the first input, given that input's shape.
    """
    if to_mask is None and any(_is_mask(one.name) for one in inputs):
        return None
    shapes = [one.shape for one in inputs]
    as_they_come = [
        None if _is_mask(name) else dtype if array.dtype.kind == "f" else array.dtype
        for name, array, _ in inputs
    ]
    dtypes = as_they_come
    run = executable.run_directly(shapes, dtypes)
    if run is None:  # unless integers become what the layer computes in
        dtypes = [one and dtype for one in as_they_come]
        run = executable.run_directly(shapes, dtypes)
    if run is None:
        return None
    prepared = [_prepared_input(*one, to_mask) for one in zip(inputs, dtypes, strict=True)]
    return PreparedCall(form, returning(run, structure), prepared, dtypes is as_they_come)


def _prepared_input(
    given: NamedInput, wanted: np.dtype | None, to_mask: ToMask | None
) -> PreparedInput:
    if wanted is None and to_mask is not None:
        return _mask_by(to_mask)
    assert wanted is not None
    if given.name == "initial_state":
        return PreparedInput(given.array.ndim, wanted)
    if given.array.dtype.kind == "f":
        return PreparedInput(given.array.ndim, wanted, "f")
    return _integers_of(given.array.dtype, index_dtype(wanted))


def _is_mask(name: str) -> bool:
    """Whether an argument of this name holds masks, as Keras names them."""
    return name == "mask" or name.endswith("_mask")


class PreparedCalls:
    """The prepared calls of one layer or model, by how their arguments look.

    Attributes
    ----------
    direct : dict of PreparedCall
        Those of a layer that may be `run` on arrays as they come, by what its `__call__` sees first.
    shortest : PreparedCall
        That of a model's inputs alone, of the declared sizes, which may be `run` on them as they come.
    """

    __slots__ = ("_by_look", "direct", "shortest")

    def __init__(self) -> None:
        self._by_look: dict[Hashable, tuple[PreparedCall, ...]] = {}
        self.direct: dict[Hashable, PreparedCall] = {}
        self.shortest = _NOTHING_PREPARED

    @property
    def is_empty(self) -> bool:
        """bool: whether no call has been prepared."""
        return not self._by_look

    def results(self, look: Hashable, leaves: Sequence[Any]) -> Any:
        """Return what a call returns, or None if it has to go the whole way."""
        for call in self._by_look.get(look, ()):
            results = call.run(tuple(leaves)) if call.as_they_come else None
            if results is None:
                results = call(leaves)
            if results is not None:
                return results
        return None

    def has(self, look: Hashable, form: Hashable) -> bool:
        """Return whether a call that looks so has been prepared for the plan of this form."""
        return any(call.form == form for call in self._by_look.get(look, ()))

    def keep(
        self,
        look: Hashable,
        call: PreparedCall,
        leaves: Sequence[Any],
        arrays: Sequence[np.ndarray],
    ) -> bool:
        """Keep a call for those that look so, in place of the oldest one if there are many; return whether it serves.

        It has to make `arrays` of `leaves`, as the whole way does: names may come in another order, a list may be an
        array, or hold one.
        """
        made = call.converted(leaves)
        if made is None or [one.shape for one in made] != [one.shape for one in arrays]:
            return False
        self._by_look[look] = (*self._by_look.get(look, ())[1 - MOST_FORMS :], call)
        return True
