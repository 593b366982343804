"""Layers that users write: a `call` over NumPy arrays, as a step of a plan."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fastrnn import plan
from fastrnn._nested import flatten, map_structure, unflatten
from fastrnn._types import Nested, Shape
from fastrnn.dtypes import is_floating

if TYPE_CHECKING:
    from fastrnn.layers import Layer


def lower(layer: "Layer", builder: plan.Builder, arguments: dict[str, Nested]) -> Nested:
    """Write the step that runs `layer.call`.

    Parameters
    ----------
    layer : Layer
    builder : fastrnn.plan.Builder
    arguments : dict
        By the names in the signature of `call`, the first one first: Values and constants in any nesting.

    Returns
    -------
    Value, or Values in the structure that `call` returns
    """
    first = layer.call_arguments[0]
    given = {**arguments, **_masks_asked_for(layer, arguments)}
    values = plan.values_in(given)

    def run(*arrays: np.ndarray) -> Nested:
        filled = plan.filled(given, [_cast(array, layer.compute_dtype) for array in arrays])
        options = {"training": False} if "training" in layer.call_arguments else {}
        result = layer.call(filled.pop(first), **filled, **options)
        return map_structure(lambda leaf: _narrow(np.asarray(leaf), layer.compute_dtype), result)

    shapes = _output_shapes(layer, arguments[first], run, values, builder)
    outputs = map_shapes(builder.value, shapes)
    _add(builder, values, flatten(outputs), run)
    if not layer.supports_masking or not getattr(layer, "return_sequences", True):
        return outputs
    masks = iter(_output_masks(layer, builder, arguments[first]))
    return map_structure(lambda value: replace(value, mask=next(masks, None)), outputs)


def _masks_asked_for(layer: "Layer", arguments: dict[str, Nested]) -> dict[str, Nested]:
    """The masks of the tensors that `call` has arguments for, in the tensors' structure."""
    masks = {}
    for name, tensors in arguments.items():
        main = name == layer.call_arguments[0] and "mask" in layer.call_arguments
        wanted = "mask" if main else f"{name}_mask"
        if wanted in layer.call_arguments and any(
            value.mask is not None for value in plan.values_in(tensors)
        ):
            masks[wanted] = map_structure(_mask_value, tensors)
    return masks


def _mask_value(leaf: Any) -> plan.Value | None:
    mask = getattr(leaf, "mask", None)
    return None if mask is None else plan.Value(mask, leaf.shape[:2], dtype=np.dtype(np.bool_))


def _add(
    builder: plan.Builder,
    sources: Sequence[plan.Value],
    targets: Sequence[plan.Value],
    function: Callable[..., Nested],
) -> None:
    builder.add(
        plan.ApplySeveral(
            tuple(value.buffer for value in sources),
            tuple(value.buffer for value in targets),
            None,
            function,
        )
    )


def _cast(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Floating-point numbers in the layer's dtype, as Keras casts what it gives to `call`; others as they are."""
    return array.astype(dtype, copy=False) if is_floating(array.dtype) else array


def _narrow(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The array, in the layer's dtype if it has become float64 by the way, as only NumPy's rules make it."""
    return array.astype(dtype, copy=False) if array.dtype == np.float64 else array


def _output_shapes(
    layer: "Layer",
    x: Nested,
    run: Callable[..., Nested],
    values: Sequence[plan.Value],
    builder: plan.Builder,
) -> Nested:
    """The shapes that `call` returns, in its structure, and the layers inside built."""
    told = layer._tells_output_shape
    if not told or not all(child.built for child in layer._flat_children()):
        small, large = _tried(layer, run, values, builder)
    if told:
        return layer.compute_output_shape(map_structure(lambda value: value.shape, x))
    sizes = [
        tuple(
            size if size == other else None
            for size, other in zip(one.shape, another.shape, strict=True)
        )
        for one, another in zip(flatten(small), flatten(large), strict=True)
    ]
    return unflatten(small, sizes)


_TRIED_SIZES = ((2, 3), (12, 24), (60, 120))
"""For the sizes that are not known before a call: those that differ follow them. Some calls take only multiples."""


def _tried(
    layer: "Layer",
    run: Callable[..., Nested],
    values: Sequence[plan.Value],
    builder: plan.Builder,
) -> list[Nested]:
    """What `run` returns for two of the sizes that are not known."""
    errors: list[Exception] = []
    for sizes in _TRIED_SIZES:
        try:
            return [_try(layer, run, values, builder, n) for n in sizes]
        except (TypeError, ValueError, IndexError) as error:
            errors.append(error)
    raise errors[0]


def _try(
    layer: "Layer",
    run: Callable[..., Nested],
    values: Sequence[plan.Value],
    builder: plan.Builder,
    n: int,
) -> Nested:
    """What `run` returns for ones, with `n` for sizes that are not known."""

    def ones(value: plan.Value, fallback: np.dtype) -> np.ndarray:
        is_mask = value.buffer in builder.masks
        dtype = np.dtype(np.bool_) if is_mask else value.dtype or fallback
        return np.ones([n if size is None else size for size in value.shape], dtype)

    with np.errstate(all="ignore"), _states_as_they_were(layer):
        try:
            return run(*(ones(value, layer.compute_dtype) for value in values))
        except (TypeError, IndexError):  # as for indices, which cannot be floating-point numbers
            return run(*(ones(value, np.dtype(np.int32)) for value in values))


@contextlib.contextmanager
def _states_as_they_were(layer: "Layer") -> Iterator[None]:
    """Give the stateful layers within `layer` back the states they had; those built meanwhile, their initial ones."""
    before = [(one, one.flat_states) for one in layer._stateful_layers()]
    try:
        yield
    finally:
        for one, states in before:
            if states is None:
                one.reset_states()
            else:
                one.flat_states = states


def map_shapes(function: Callable[[Shape], Any], shapes: Nested) -> Nested:
    """`function` of each shape in `shapes`, in which a tuple or list of sizes is one."""
    if isinstance(shapes, dict):
        return {key: map_shapes(function, shapes[key]) for key in shapes}
    if all(size is None or isinstance(size, (int, np.integer)) for size in shapes):
        return function(tuple(shapes))
    return [map_shapes(function, shape) for shape in shapes]


def _output_masks(layer: "Layer", builder: plan.Builder, x: Nested) -> list[int | None]:
    """The buffers of the masks of the outputs, in their order; by default they are those of the inputs."""
    masks = map_structure(_mask_value, x)
    if not layer._computes_mask:
        return [None if mask is None else mask.buffer for mask in flatten(masks)]
    values = plan.values_in([x, masks])

    def run(*arrays: np.ndarray) -> list[Any]:
        return flatten(layer.compute_mask(*plan.filled([x, masks], arrays)))

    tried = _try(layer, run, values, builder, 2)
    targets = [None if mask is None else builder.mask() for mask in tried]
    made = [plan.Value(target, ()) for target in targets if target is not None]
    _add(builder, values, made, lambda *arrays: [m for m in run(*arrays) if m is not None])
    return targets
