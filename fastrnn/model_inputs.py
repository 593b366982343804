"""What models are called with: arrays in the structure of the model's inputs, in a list, or by name."""

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from fastrnn._nested import unflatten
from fastrnn._types import Nested, Shape
from fastrnn.dtypes import HALVES, as_dtype, rounded
from fastrnn.layers import InputLayer
from fastrnn.layers.arguments import (
    fits,
    is_array,
    is_array_like,
    is_plain_mask,
    to_mask,
    to_numeric,
)
from fastrnn.layers.calls import PreparedInput, Run

if TYPE_CHECKING:
    from fastrnn.model import Model


class ModelInputs:
    """The inputs of a model, and what arguments of a call have to be for them.

    Parameters
    ----------
    model : Model
        Whom errors name.
    layers : list of InputLayer
        In the order of a flat list of inputs.
    structure : nested
        The structure in which inputs come, holding anything.

    Attributes
    ----------
    least_features : int
        How many numbers each timestep or pixel has at least, of any input.
    """

    def __init__(self, model: "Model", layers: Sequence[InputLayer], structure: Nested) -> None:
        self._model, self.layers, self._structure = model, list(layers), structure
        self._names = [layer.name for layer in layers]
        self._of_halves = any(layer.input_dtype in HALVES for layer in layers)
        self.least_features = min(map(_features, layers), default=1)
        self._keys = self._names
        if isinstance(structure, dict) and len(structure) == len(layers):
            self._keys = sorted(structure)

    # -- the whole way ----------------------------------------------------------------------------------------------

    def flat(self, given: Nested, what: str = "inputs") -> list[Any]:
        """Return what `given` holds for each input: in their own structure, a flat list, or a dict by input name.

        Raises
        ------
        ValueError
            If it is built otherwise.
        """
        expected, names = self._structure, self._names
        if isinstance(expected, (list, tuple, dict)):
            leaves = _in_structure(given, expected)
            if leaves is not None:
                return [_only_leaf(leaf) for leaf in leaves]
        if isinstance(given, dict):
            if set(given) >= set(names):
                return [_only_leaf(given[name]) for name in names]
        else:
            # As in Keras, whichever way they are nested.
            leaves = _leaves(given)
            if len(leaves) == len(names):
                return leaves
            # Lists of numbers, and of rows, are arrays.
            if len(names) == 1:
                return [given]
            if isinstance(given, (list, tuple)) and len(given) == len(names):
                return list(given)
        described = unflatten(expected, names)
        found = f"{type(given).__name__}"
        if isinstance(given, dict):
            found = f"a dict of {', '.join(map(str, given))}"
        elif isinstance(given, (list, tuple)):
            found = f"a list of {len(given)}"
        raise ValueError(
            f"model {self._model.name!r}: expected {len(names)} {what}, as {described}, a list or a dict by name; "
            f"got {found}"
        )

    def checked(self, given: Nested, any_size: bool) -> list[np.ndarray | None]:
        """Return the arrays of a call's inputs, flat; None for one that is optional.

        With `any_size` their sizes need not be the declared ones: it is the layers that may refuse them.

        Raises
        ------
        TypeError, ValueError
            If one is not of numbers, or does not fit.
        """
        arrays = [
            None if array is None and layer.optional else fitted(array, layer, any_size)
            for array, layer in zip(self.flat(given), self.layers, strict=True)
        ]
        lengths = [len(array) for array in arrays if array is not None]
        what = f"model {self._model.name!r}"
        if not lengths:
            raise ValueError(f"{what}: expected at least one input")
        if len(set(lengths)) > 1:
            sizes = ", ".join(map(str, lengths))
            raise ValueError(f"{what}: expected inputs of one batch size; got {sizes}")
        return arrays

    def checked_masks(
        self, mask: Nested, arrays: Sequence[np.ndarray | None]
    ) -> list[np.ndarray | None]:
        """Return the masks of a call's inputs, flat; None for an input without.

        Raises
        ------
        TypeError, ValueError
            If one is not of numbers, or does not fit.
        """
        if mask is None:
            return [None] * len(arrays)
        return [
            None if one is None or array is None else self._to_mask(one, array.shape)
            for one, array in zip(self.flat(mask, "masks"), arrays, strict=True)
        ]

    def _to_mask(self, mask: ArrayLike, shape: tuple[int, ...]) -> np.ndarray:
        return to_mask(mask, shape[:2], f"model {self._model.name!r}")

    def other_shapes(self, arrays: Sequence[np.ndarray | None]) -> tuple[Shape | None, ...] | None:
        """Return the shapes, with None for what is not declared so, and for one not given; None if all is."""
        pairs = list(zip(arrays, self.layers, strict=True))
        if all(
            array is not None and fits(array.shape[1:], layer.batch_shape[1:])
            for array, layer in pairs
        ):
            return None
        return tuple(
            None
            if array is None
            else tuple(
                declared if size == declared else None
                for size, declared in zip(array.shape, layer.batch_shape, strict=True)
            )
            for array, layer in pairs
        )

    @property
    def shapes(self) -> list[Shape]:
        """list of tuple: the declared shapes, with the batch."""
        return [layer.batch_shape for layer in self.layers]

    # -- the short way ----------------------------------------------------------------------------------------------

    def at_a_glance(self, given: Nested) -> Sequence[Any] | None:
        """Return what may be the inputs' arrays, flat; None if that takes the whole way to tell."""
        if isinstance(given, np.ndarray):
            return (given,)
        if isinstance(given, (list, tuple)):
            if len(self.layers) > 1 or not is_array_like(given):
                return given
            try:
                return (np.asarray(given),)
            except ValueError:
                return None
        if isinstance(given, dict):
            try:
                return [given[key] for key in self._keys]
            except KeyError:
                return None
        return (given,)

    def look_at(
        self, inputs: Nested, mask: Nested, any_size: bool
    ) -> tuple[tuple[Hashable, ...], Sequence[Any]] | None:
        """Return what tells calls from others at a glance, and what may be arrays in one: see `fastrnn.layers.calls`.

        None if it takes the whole way to tell. With `any_size` sizes may be others than the declared ones.
        """
        if self._of_halves:
            return None  # which are rounded before they are converted
        if isinstance(inputs, np.ndarray) and (mask is None or isinstance(mask, np.ndarray)):
            arrays = (inputs,) if mask is None else (inputs, mask)
            return (any_size, 1, len(arrays)), arrays
        leaves = self.at_a_glance(inputs)
        if leaves is None:
            return None
        n_inputs = len(leaves)
        if mask is not None:
            masks = self.at_a_glance(mask)
            if masks is None:
                return None
            leaves = (*leaves, *masks)
        for leaf in leaves:
            if leaf is None:
                given = [one for one in leaves if one is not None]
                return (any_size, n_inputs, *[one is None for one in leaves]), given
        return (any_size, n_inputs, len(leaves)), leaves

    def prepared(self, given: Sequence[bool], masked: Sequence[bool]) -> list[PreparedInput]:
        """Return how the arrays come of the inputs that are given, and then the masks of those that have one."""
        present = [layer for layer, is_given in zip(self.layers, given, strict=True) if is_given]
        masks = [_prepared_mask(place) for place in _places_of_masked(given, masked)]
        return [*map(_prepared, present), *masks]

    def dtypes(self, given: Sequence[bool], masked: Sequence[bool]) -> list[np.dtype | None]:
        """Return what the arrays of `prepared` inputs are of, None for masks."""
        layers = [layer for layer, is_given in zip(self.layers, given, strict=True) if is_given]
        return [*(as_dtype(layer.input_dtype) for layer in layers), *[None] * sum(masked)]

    def taking_apart(self, run: Run) -> Run:
        """Return `run`, from a tuple of the inputs' arrays, from what a call is given instead."""
        if len(self.layers) == 1:
            return run  # the core takes an array as it takes a tuple of one
        guard = any(None in shape[1:] for shape in self.shapes)

        def run_apart(given: Any) -> Any:
            leaves = self.at_a_glance(given)
            if leaves is None or (guard and not all(map(np.size, leaves))):
                return None
            return run(tuple(leaves))

        return run_apart


def with_masks_that_fit(run: Run, given: Sequence[bool], masked: Sequence[bool]) -> Run:
    """Return `run`, from a tuple of inputs and masks, but for masks that are not as most come, each for its input."""
    places = list(enumerate(_places_of_masked(given, masked), start=sum(given)))

    def run_if_masks_fit(arrays: tuple[Any, ...]) -> Any:
        for number, place in places:
            x, mask = arrays[place], arrays[number]
            if not (is_array(x) and is_array(mask) and x.size):
                return None
            if not is_plain_mask(mask, x.shape[:2]):
                return None
        return run(arrays)

    return run_if_masks_fit


def _places_of_masked(given: Sequence[bool], masked: Sequence[bool]) -> list[int]:
    """Which of the inputs that are given have masks."""
    present = [has_mask for is_given, has_mask in zip(given, masked, strict=True) if is_given]
    return [place for place, has_mask in enumerate(present) if has_mask]


def refusing_empty(run: Run) -> Run:
    """Return `run`, from one array, but for arrays without numbers: some axis other than the batch may be empty."""

    def run_unless_empty(given: Any) -> Any:
        return run(given) if np.size(given) else None

    return run_unless_empty


def fitted(array: ArrayLike, layer: InputLayer, any_size: bool) -> np.ndarray:
    """Return `array` as an input for `layer`; like Keras it adds or drops a last axis of size 1.

    Raises
    ------
    TypeError, ValueError
        If it is not of numbers, or does not fit; with `any_size` its sizes may be others than the declared ones.
    """
    shape = layer.batch_shape
    array = _of_rank(to_numeric(array, f"input {layer.name!r}"), shape)
    known = (None,) * len(shape) if any_size else (None, *shape[1:])
    if not fits(array.shape, known):
        raise ValueError(f"input {layer.name!r}: expected shape {shape}; got {array.shape}")
    if 0 in array.shape[1:]:
        raise ValueError(
            f"input {layer.name!r}: expected no empty axis but the batch; got shape {array.shape}"
        )
    if layer.input_dtype in HALVES:
        return rounded(array, layer.input_dtype)
    return np.asarray(array, layer.input_dtype)


def _of_rank(array: np.ndarray, shape: Shape) -> np.ndarray:
    if array.ndim == len(shape) - 1 and shape[-1] == 1:
        return array[..., np.newaxis]
    if array.ndim == len(shape) + 1 and array.shape[-1] == 1:
        return array[..., 0]
    return array


def _prepared(layer: InputLayer) -> PreparedInput:
    """What `fitted` makes of arrays for `layer`, which is of no half-precision type, but for the checks of sizes."""
    shape = layer.batch_shape

    def adapt(array: np.ndarray, before: Sequence[np.ndarray]) -> np.ndarray | None:
        array = _of_rank(array, shape)
        return array if array.ndim == len(shape) else None

    return PreparedInput(len(shape), as_dtype(layer.input_dtype), adapt=adapt)


def _prepared_mask(place: int) -> PreparedInput:
    """What `ModelInputs.checked_masks` makes of masks for the input at `place`."""

    def adapt(array: np.ndarray, before: Sequence[np.ndarray]) -> np.ndarray:
        return to_mask(array, before[place].shape[:2], "")  # nobody reads what an error says

    return PreparedInput(-1, adapt=adapt)


def _in_structure(given: Nested, structure: Nested) -> list[Any] | None:
    """What `given` holds for each leaf of `structure`, in the order of `flatten`, or None if it is built otherwise."""
    if isinstance(structure, dict):
        if not (isinstance(given, dict) and set(given) >= set(structure)):
            return None
        pairs = [(given[key], structure[key]) for key in sorted(structure)]
    elif isinstance(structure, (list, tuple)):
        if not (isinstance(given, (list, tuple)) and len(given) == len(structure)):
            return None
        pairs = list(zip(given, structure, strict=True))
    else:
        return None if isinstance(given, dict) else [given]
    parts = [_in_structure(one, part) for one, part in pairs]
    if any(part is None for part in parts):
        return None
    return [leaf for part in parts if part is not None for leaf in part]


def _leaves(structure: Nested) -> list[Any]:
    """What nested lists, tuples and dicts hold, in the order of `flatten`; numbers in lists are one array."""
    if not isinstance(structure, (list, tuple, dict)) or is_array_like(structure):
        return [structure]
    parts = (
        [structure[key] for key in sorted(structure)] if isinstance(structure, dict) else structure
    )
    return [leaf for part in parts for leaf in _leaves(part)]


def _only_leaf(structure: Nested) -> Any:
    """`structure`, or the one thing in it however deep."""
    leaves = _leaves(structure)
    return leaves[0] if len(leaves) == 1 else structure


def _features(layer: InputLayer) -> int:
    """Return how many numbers a timestep or pixel of an input has; 1 where that is not known, and of whole numbers."""
    *others, features = layer.batch_shape
    is_whole = as_dtype(layer.input_dtype).kind in "iub"
    return 1 if is_whole or not others else features or 1
