"""Keras's merging layers: several inputs, one output."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any, Literal

import numpy as np

from fastrnn import plan
from fastrnn._nested import flatten
from fastrnn._types import Nested, Shape
from fastrnn.layers.arguments import fits
from fastrnn.layers.array import ArrayLayer
from fastrnn.layers.common import across_axes
from fastrnn.layers.normalization import unit_vectors

_SMALLEST_NORM = 1e-7

Masks = Sequence[np.ndarray | None]


class Merge(ArrayLayer):
    """A layer of several inputs.

    A subclass gives `compute`, or `merge`.

    Parameters
    ----------
    mask_rule : {"any", "all", "none"}
        How the inputs' masks become the output's, for the files of versions that differ; not in the config. "any", as
        the newest Keras: a step counts where it counts in any input, if every input has a mask, and `Multiply`,
        `Maximum` and `Minimum` leave masked steps out. "all": where it counts in all inputs that have a mask, and
        masks change no values. "none": the output has no mask, and masks change no values.
    **kwargs
        `Layer`'s arguments.
    """

    takes_several = True
    least_inputs: int = 1
    most_inputs: int | None = None

    def __init__(self, *, mask_rule: Literal["any", "all", "none"] = "any", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mask_rule = mask_rule
        self.supports_masking = mask_rule != "none"

    # A list of shapes, where other layers have one.

    def build(self, input_shape: Nested) -> None:
        """Check the inputs' shapes, a list of tuple."""
        self._check_input(input_shape)
        super().build(input_shape)

    def _check_input(self, shape: Nested) -> None:
        several = isinstance(shape, (list, tuple)) and all(
            isinstance(one, (list, tuple)) for one in shape
        )
        most = self.most_inputs
        if not several or len(shape) < self.least_inputs or (most and len(shape) > most):
            number = f"{most}" if most else f"at least {self.least_inputs}"
            found = f"{len(shape)} of shapes {shape}" if several else f"one of shape {shape}"
            raise ValueError(
                f"layer {self.name!r}: expected a list of {number} inputs; got {found}"
            )
        self._check_shapes([tuple(one) for one in shape])

    def _check_shapes(self, shapes: list[Shape]) -> None:
        """Raise ValueError unless inputs of these shapes can be merged."""
        batches = {shape[0] for shape in shapes if shape} - {None}
        if len(batches) > 1:
            raise ValueError(
                f"layer {self.name!r}: expected inputs of one batch size; got the shapes {shapes}"
            )
        self._broadcast(shapes)

    def compute_output_shape(self, input_shape: Nested) -> Shape:
        """Return the output's shape, with the batch, for a list of the inputs'."""
        shapes = [tuple(shape) for shape in input_shape]
        batches = {shape[0] for shape in shapes} - {None}
        return (batches.pop() if len(batches) == 1 else None, *self._broadcast(shapes))

    def _broadcast(self, shapes: list[Shape]) -> Shape:
        """The shape, without the batch, that the inputs have together."""
        rank = max(len(shape) for shape in shapes) - 1
        aligned = [(1,) * (rank + 1 - len(shape)) + shape[1:] for shape in shapes]
        sizes: list[int | None] = []
        for along_axis in zip(*aligned, strict=True):
            larger = {size for size in along_axis if size != 1}
            if len(larger - {None}) > 1:
                raise ValueError(
                    f"layer {self.name!r}: expected inputs that can be broadcast to one shape; "
                    f"got the shapes {shapes}"
                )
            sizes.append(None if None in larger else larger.pop() if larger else 1)
        return tuple(sizes)

    def _form_of(self, given: dict[str, Nested]) -> Hashable:
        # Inputs of other numbers of features may be broadcast otherwise.
        arrays = flatten(given[self.call_arguments[0]])
        return super()._form_of(given), *(array.shape[1:][-1:] for array in arrays)

    # Values.

    def compute(self, *arrays: np.ndarray) -> np.ndarray:
        return self.merge(_of_one_rank(arrays), [None] * len(arrays))

    def merge(self, arrays: list[np.ndarray], masks: Masks) -> np.ndarray:
        """Return the output for inputs of one rank and the masks that broadcast to them, None for an input without."""
        raise NotImplementedError

    def _mask_of(self, values: Sequence[plan.Value], builder: plan.Builder) -> int | None:
        """The buffer of the output's mask, None if it has none."""
        masks = [value.mask for value in values if value.mask is not None]
        if not masks or (len(masks) < len(values) and self.mask_rule == "any"):
            return None
        different = tuple(dict.fromkeys(masks))
        join = np.logical_and if self.mask_rule == "all" else np.logical_or
        if len(different) == 1:
            return different[0]
        return _add_mask_step(builder, different, lambda *arrays: reduce(join, arrays))


def _of_one_rank(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The arrays with axes inserted after the batch so that all have as many."""
    rank = max(array.ndim for array in arrays)
    return [
        array.reshape(*array.shape[:1], *(1,) * (rank - array.ndim), *array.shape[1:])
        for array in arrays
    ]


def _add_mask_step(
    builder: plan.Builder, sources: tuple[int, ...], function: Callable[..., np.ndarray]
) -> int:
    target = builder.mask()
    builder.add(plan.Apply(sources, (target,), None, function, result=np.dtype(np.bool_)))
    return target


def _merge_of_two(
    values: Sequence[plan.Value], y: plan.Value, dtype: np.dtype, mode: str
) -> plan.Merge | None:
    """The step for two inputs of which nothing is broadcast, for all that is known before a call."""
    shapes = {value.shape[1:] for value in values}
    if len(values) != 2 or len(shapes) > 1 or not y.shape[1:] or None in y.shape[1:]:
        return None
    a, b = values
    return plan.Merge((a.buffer, b.buffer), (y.buffer,), dtype, mode)


class _ElementwiseMerge(Merge):
    """A layer of which each number takes one of each input."""

    def why_across_time(self, x: Sequence[plan.StreamValue]) -> str | None:
        rank = max(len(value.shape) for value in x)
        aligned = all(
            len(value.shape) == rank
            if value.when == "sequence"
            else len(value.shape) < rank or value.shape[1] == 1
            for value in x
        )
        return None if aligned and rank > 1 else "it does not merge the timesteps of one axis"


class _MaskedMerge(_ElementwiseMerge):
    """A layer whose values, too, depend on the masks of its inputs."""

    keeps_integers = True

    def lower(self, builder: plan.Builder, x: plan.Value | list[plan.Value]) -> plan.Value:
        values = self._values(x)
        rank = max(len(value.shape) for value in values)
        # Keras loses the mask of an input that it reshapes to the others' rank.
        masks = [value.mask if len(value.shape) == rank > 2 else None for value in values]
        if self.mask_rule != "any" or all(mask is None for mask in masks):
            return super().lower(builder, x)

        def compute(*arrays: np.ndarray) -> np.ndarray:
            given = iter(arrays[len(values) :])
            spread = [
                None
                if mask is None
                else next(given).reshape(arrays[i].shape[:2] + (1,) * (rank - 2))
                for i, mask in enumerate(masks)
            ]
            return self.merge(_of_one_rank(arrays[: len(values)]), spread)

        shape = self.compute_output_shape([value.shape for value in values])
        y = builder.value(shape, self._mask_of(values, builder), self._integers_of(values))
        sources = [value.buffer for value in values]
        sources += [mask for mask in masks if mask is not None]
        builder.add(self._in_numpy(sources, y, compute))
        return y


class Add(_ElementwiseMerge):
    """The sum of the inputs, which are broadcast; those of fewer axes get them after the batch."""

    keeps_integers = True

    def _step(self, values: Sequence[plan.Value], y: plan.Value) -> plan.Step | None:
        return _merge_of_two(values, y, self.compute_dtype, "sum")

    def merge(self, arrays: list[np.ndarray], masks: Masks) -> np.ndarray:
        return reduce(np.add, arrays)


class Subtract(_ElementwiseMerge):
    """The first input less the second."""

    least_inputs = most_inputs = 2
    keeps_integers = True

    def merge(self, arrays: list[np.ndarray], masks: Masks) -> np.ndarray:
        return arrays[0] - arrays[1]


class Multiply(_MaskedMerge):
    """The product of the inputs; masked timesteps count as 1, and are 0 where every input is masked."""

    def _step(self, values: Sequence[plan.Value], y: plan.Value) -> plan.Step | None:
        return _merge_of_two(values, y, self.compute_dtype, "mul")

    def merge(self, arrays: list[np.ndarray], masks: Masks) -> np.ndarray:
        counted = [
            x if mask is None else np.where(mask, x, x.dtype.type(1))
            for x, mask in zip(arrays, masks, strict=True)
        ]
        product = reduce(np.multiply, counted)
        known = [mask for mask in masks if mask is not None]
        if len(known) < len(masks):
            return product
        return np.where(reduce(np.logical_or, known), product, product.dtype.type(0))


class Average(_ElementwiseMerge):
    """The mean of the inputs."""

    def _step(self, values: Sequence[plan.Value], y: plan.Value) -> plan.Step | None:
        return _merge_of_two(values, y, self.compute_dtype, "ave")

    def merge(self, arrays: list[np.ndarray], masks: Masks) -> np.ndarray:
        return reduce(np.add, arrays) / len(arrays)


class _Extremum(_MaskedMerge):
    """The larger or smaller number of the inputs whose timestep is not masked."""

    def choose(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def merge(self, arrays: list[np.ndarray], masks: Masks) -> np.ndarray:
        result, known = arrays[0], masks[0]
        for x, mask in zip(arrays[1:], masks[1:], strict=True):
            if mask is not None:
                x = np.where(mask, x, result)
            if known is not None:
                result = np.where(known, result, x)
            known = None if mask is None or known is None else known | mask
            result = self.choose(result, x)
        return result


class Maximum(_Extremum):
    """The largest of the inputs, number by number."""

    def choose(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.maximum(a, b)


class Minimum(_Extremum):
    """The smallest of the inputs, number by number."""

    def choose(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.minimum(a, b)


class Concatenate(Merge):
    """The inputs one after the other along an axis.

    Parameters
    ----------
    axis : int
        With the batch as 0.
    """

    arguments = ("axis",)
    keeps_integers = True

    def __init__(self, axis: int = -1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axis = axis

    def why_across_time(self, x: Sequence[plan.StreamValue]) -> str | None:
        if any(value.when != "sequence" for value in x):
            return "one of its inputs is no sequence"
        return across_axes([self.axis], x[0])

    def _check_shapes(self, shapes: list[Shape]) -> None:
        rank = len(shapes[0])
        can_be_joined = -rank <= self.axis < rank and all(len(shape) == rank for shape in shapes)
        if can_be_joined:
            others = [i for i in range(rank) if i != self.axis % rank]
            can_be_joined = all(len({shape[i] for shape in shapes} - {None}) <= 1 for i in others)
        if not can_be_joined:
            raise ValueError(
                f"layer {self.name!r}: expected inputs of one shape but for axis {self.axis}; got the shapes {shapes}"
            )

    def compute_output_shape(self, input_shape: Nested) -> Shape:
        self._check_shapes([tuple(shape) for shape in input_shape])
        sizes = [shape[self.axis] for shape in input_shape]
        shape = list(input_shape[0])
        shape[self.axis] = None if None in sizes else sum(sizes)
        return tuple(shape)

    def lower(self, builder: plan.Builder, x: plan.Value | list[plan.Value]) -> plan.Value:
        values = self._values(x)
        rank = len(values[0].shape)
        last = len(values) > 1 and rank > 1 and self.axis % rank == rank - 1
        if not last or self._integers_of(values) is not None:
            return super().lower(builder, x)
        joined = values[0]
        for number, value in enumerate(values[1:], 2):
            shape = self.compute_output_shape([one.shape for one in values[:number]])
            y = builder.value(shape)
            buffers = (joined.buffer, value.buffer)
            builder.add(plan.Merge(buffers, (y.buffer,), self.compute_dtype, "concat"))
            joined = y
        return replace(joined, mask=self._mask_of(values, builder))

    def compute(self, *arrays: np.ndarray) -> np.ndarray:
        return np.concatenate(arrays, self.axis)

    def _mask_of(self, values: Sequence[plan.Value], builder: plan.Builder) -> int | None:
        """As in Keras an input without a mask counts everywhere, so along the features the output does, too."""
        masks = [value.mask for value in values]
        rank = len(values[0].shape)
        axis = self.axis % rank
        if rank < 3 or all(mask is None for mask in masks):
            return None
        if axis > 1:
            return super()._mask_of(values, builder)
        sources = tuple(value.buffer if value.mask is None else value.mask for value in values)
        masked = [mask is not None for mask in masks]

        def concatenate(*arrays: np.ndarray) -> np.ndarray:
            parts = [
                array if is_mask else np.ones(array.shape[:2], np.bool_)
                for array, is_mask in zip(arrays, masked, strict=True)
            ]
            return np.concatenate(parts, axis)

        return _add_mask_step(builder, sources, concatenate)


class Dot(Merge):
    """The products of the vectors of two inputs along an axis of each, sample by sample.

    Parameters
    ----------
    axes : int or (int, int)
        Of the first and the second input, with the batch as 0, which is not one of them.
    normalize : bool
        Divide the vectors by their norms first.

    Notes
    -----
    The output has the first input's axes without that one, then the second's without batch and that one, or
    (batch, 1) for two inputs (batch, features).
    """

    arguments = ("axes", "normalize")
    least_inputs = most_inputs = 2

    def __init__(self, axes: int | Sequence[int], normalize: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        each = list(axes) if isinstance(axes, (list, tuple)) else [axes, axes]
        if len(each) != 2 or not all(isinstance(axis, int) for axis in each):
            raise ValueError(
                f"layer {self.name!r}: expected axes as an int or two int; got {axes!r}"
            )
        self.axes, self.normalize = axes, normalize
        self.keeps_integers = not normalize

    def _axes_in(self, shapes: Sequence[Shape]) -> list[int]:
        """The axis of either input, counted from the front."""
        axes = [self.axes] * 2 if isinstance(self.axes, int) else self.axes
        return [
            axis + len(shape) if axis < 0 else axis
            for axis, shape in zip(axes, shapes, strict=True)
        ]

    def _check_shapes(self, shapes: list[Shape]) -> None:
        axes = self._axes_in(shapes)
        pairs = list(zip(axes, shapes, strict=True))
        if not all(0 < axis < len(shape) for axis, shape in pairs) or not fits(
            *((shape[0], shape[axis]) for axis, shape in pairs)
        ):
            raise ValueError(
                f"layer {self.name!r}: expected two inputs of one batch size and of one size along axes "
                f"{self.axes!r}, which are not the batch's; got the shapes {shapes}"
            )

    def compute_output_shape(self, input_shape: Nested) -> Shape:
        shapes = [tuple(shape) for shape in input_shape]
        self._check_shapes(shapes)
        first, second = (
            shape[:axis] + shape[axis + 1 :]
            for shape, axis in zip(shapes, self._axes_in(shapes), strict=True)
        )
        shape = first + second[1:]
        return shape if len(shape) > 1 else (*shape, 1)

    def compute(self, *arrays: np.ndarray) -> np.ndarray:
        axes = self._axes_in([x.shape for x in arrays])
        if self.normalize:
            arrays = tuple(
                unit_vectors(x, axis, _SMALLEST_NORM) for x, axis in zip(arrays, axes, strict=True)
            )
        first, second = (np.moveaxis(x, axis, -1) for x, axis in zip(arrays, axes, strict=True))
        batch, features = first.shape[0], first.shape[-1]
        rows = first.reshape(batch, int(np.prod(first.shape[1:-1])), features)
        columns = second.reshape(batch, int(np.prod(second.shape[1:-1])), features)
        products = rows @ columns.transpose(0, 2, 1)
        shape = self.compute_output_shape([x.shape for x in arrays])
        return products.reshape(shape)

    def _mask_of(self, values: Sequence[plan.Value], builder: plan.Builder) -> int | None:
        return None
