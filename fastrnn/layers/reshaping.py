"""Keras's layers that move, repeat, cut off or add numbers."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np

from fastrnn import plan
from fastrnn._types import Shape
from fastrnn.errors import UnsupportedLayerError
from fastrnn.layers.array import ArrayLayer
from fastrnn.layers.base import Layer
from fastrnn.layers.common import SpatialLayer, check_rank, known_data_format, whole_numbers
from fastrnn.layers.core import positive_integer


class Identity(Layer):
    """The input as it is."""

    across_time = None

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def lower(self, builder: plan.Builder, x: plan.Value) -> plan.Value:
        return x


class Flatten(ArrayLayer):
    """(batch, ...) to (batch, features).

    Parameters
    ----------
    data_format : str, optional
        "channels_last" (the default), or "channels_first" for an input (batch, channels, ...) whose channels are
        to be last before it is flattened.
    """

    arguments = ("data_format",)
    supports_masking = False
    keeps_integers = True

    def __init__(self, data_format: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.data_format = known_data_format(data_format, f"layer {self.name!r}")

    def _check_input(self, shape: Shape) -> None:
        if not shape:
            raise ValueError(f"layer {self.name!r}: expected an input (batch, ...); got shape ()")

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], _product(input_shape[1:]))

    def _step(self, values: Sequence[plan.Value], y: plan.Value) -> plan.Step | None:
        if self.data_format == "channels_first" and len(values[0].shape) > 2:
            return None
        return plan.Reshape((values[0].buffer,), (y.buffer,), self.compute_dtype, (-1,))

    def compute(self, *arrays: np.ndarray) -> np.ndarray:
        (x,) = arrays
        if self.data_format == "channels_first" and x.ndim > 1:
            x = np.moveaxis(x, 1, -1)
        return x.reshape(len(x), math.prod(x.shape[1:]))


def _product(sizes: Shape) -> int | None:
    product = 1
    for size in sizes:
        if size is None:
            return None
        product *= size
    return product


class Reshape(ArrayLayer):
    """(batch, ...) to (batch, *target_shape).

    Parameters
    ----------
    target_shape : tuple of int
        One may be -1: as large as needed.
    """

    arguments = ("target_shape",)
    supports_masking = False
    keeps_integers = True

    def __init__(self, target_shape: Iterable[int | None], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        given = tuple(target_shape)
        sizes = [-1 if size is None else size for size in given]
        if any(
            isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < -1
            for size in sizes
        ):
            raise ValueError(
                f"layer {self.name!r}: target_shape: expected integers of at least -1; got {given}"
            )
        if sizes.count(-1) > 1:
            raise ValueError(
                f"layer {self.name!r}: target_shape: expected one unknown size at most; got {given}"
            )
        self.target_shape = given

    def why_across_time(self, x: plan.Value) -> str | None:
        first, *others = self.target_shape or (0,)
        kept = first in (-1, None) and _product(tuple(others)) == _product(x.shape[2:])
        return None if kept else "it moves numbers from one timestep to another"

    def _check_input(self, shape: Shape) -> None:
        if not shape:
            raise ValueError(f"layer {self.name!r}: expected an input (batch, ...); got shape ()")
        self.compute_output_shape(shape)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        target: Shape = tuple(None if size in (-1, None) else size for size in self.target_shape)
        count = _product(input_shape[1:])
        if count is None:
            return (input_shape[0], *target)
        known = math.prod(size for size in target if size is not None)
        fits = count == known if None not in target else known and count % known == 0
        if not fits:
            raise ValueError(
                f"layer {self.name!r}: expected an input that fits target_shape={self.target_shape}; "
                f"got shape {tuple(input_shape)}"
            )
        return (input_shape[0], *(count // known if size is None else size for size in target))

    def _step(self, values: Sequence[plan.Value], y: plan.Value) -> plan.Step | None:
        sizes = tuple(-1 if size is None else size for size in self.target_shape)
        # The sizes are checked when the step is written, unless the input's are not known.
        if not 0 < len(sizes) <= 8 or 0 in sizes or None in values[0].shape[1:]:
            return None
        return plan.Reshape((values[0].buffer,), (y.buffer,), self.compute_dtype, sizes)

    def compute(self, *arrays: np.ndarray) -> np.ndarray:
        (x,) = arrays
        return x.reshape([size or 0 for size in self.compute_output_shape(x.shape)])


class Permute(ArrayLayer):
    """The axes after the batch in another order.

    Parameters
    ----------
    dims : tuple of int
        The input's axis for each of the output's, from 1.
    """

    arguments = ("dims",)
    supports_masking = False
    keeps_integers = True

    def __init__(self, dims: Iterable[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dims = tuple(dims)
        if sorted(self.dims) != list(range(1, len(self.dims) + 1)):
            raise ValueError(
                f"layer {self.name!r}: dims: expected the integers from 1 in some order; got {self.dims}"
            )

    def why_across_time(self, x: plan.Value) -> str | None:
        return None if self.dims[0] == 1 else "it makes the timesteps another axis"

    def _check_input(self, shape: Shape) -> None:
        check_rank(shape, len(self.dims) + 1, f"layer {self.name!r}")

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], *(input_shape[axis] for axis in self.dims))

    def compute(self, *arrays: np.ndarray) -> np.ndarray:
        (x,) = arrays
        return np.ascontiguousarray(x.transpose(0, *self.dims))


class RepeatVector(ArrayLayer):
    """(batch, features) to (batch, n, features).

    Parameters
    ----------
    n : int
    """

    arguments = ("n",)
    supports_masking = False
    keeps_integers = True

    def __init__(self, n: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.n = positive_integer(n, f"layer {self.name!r}: n")

    def _check_input(self, shape: Shape) -> None:
        if len(shape) != 2:
            raise ValueError(
                f"layer {self.name!r}: expected an input (batch, features); got shape {tuple(shape)}"
            )

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], self.n, input_shape[1])

    def _step(self, values: Sequence[plan.Value], y: plan.Value) -> plan.Step | None:
        return plan.Repeat((values[0].buffer,), (y.buffer,), self.compute_dtype, self.n)

    def compute(self, *arrays: np.ndarray) -> np.ndarray:
        (x,) = arrays
        return np.repeat(x[:, None], self.n, axis=1)


def _pairs(value: Any, count: int, what: str) -> tuple[tuple[int, ...], ...]:
    """One integer for all, or an integer or a pair for each of `count` axes, as pairs."""
    values = [value] * count if isinstance(value, (int, np.integer)) else value
    if not isinstance(values, (list, tuple)) or len(values) != count:
        raise ValueError(
            f"{what}: expected an integer, or {count} integers or pairs; got {value!r}"
        )
    return tuple(whole_numbers(pair, 2, what, minimum=0) for pair in values)


class _Cropping(SpatialLayer):
    arguments: ClassVar[tuple[str, ...]] = ("cropping", "data_format")
    limits = ("cropping",)
    keeps_integers = True

    def __init__(self, cropping: Any, data_format: str | None = None, **kwargs: Any) -> None:
        super().__init__(data_format, **kwargs)
        self.cropping: Any = _pairs(cropping, self.rank, f"layer {self.name!r}: cropping")

    @property
    def _cut(self) -> tuple[tuple[int, int], ...]:
        return self.cropping

    def _size_after(self, size: int, index: int) -> int:
        return size - sum(self._cut[index])

    def compute(self, *arrays: np.ndarray) -> np.ndarray:
        (x,) = arrays
        self.compute_output_shape(x.shape)
        kept = [slice(None)] * x.ndim
        for axis, (before, after) in zip(self._axes, self._cut, strict=True):
            kept[axis] = slice(before, x.shape[axis] - after)
        return np.ascontiguousarray(x[tuple(kept)])


class Cropping1D(_Cropping):
    """Cut off steps: (batch, steps, features) to (batch, fewer steps, features).

    Parameters
    ----------
    cropping : int or tuple of 2 ints
        At the start and at the end.
    """

    rank = 1
    arguments = ("cropping",)

    def __init__(self, cropping: Any = (1, 1), **kwargs: Any) -> None:
        super().__init__(0, **kwargs)
        self.cropping = whole_numbers(cropping, 2, f"layer {self.name!r}: cropping", minimum=0)

    @property
    def _cut(self) -> tuple[tuple[int, int], ...]:
        return (self.cropping,)


class Cropping2D(_Cropping):
    """Cut off rows and columns: (batch, rows, columns, channels) to fewer.

    Parameters
    ----------
    cropping : int, tuple of 2 ints or tuple of 2 pairs of ints
        At the start and at the end of each axis.
    data_format : str, optional
        "channels_last" (the default) or "channels_first".
    """

    rank = 2

    def __init__(
        self, cropping: Any = ((0, 0), (0, 0)), data_format: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(cropping, data_format, **kwargs)


class Cropping3D(_Cropping):
    """Cut off the ends of three axes: (batch, size, size, size, channels) to smaller.

    Parameters
    ----------
    cropping : int, tuple of 3 ints or tuple of 3 pairs of ints
        At the start and at the end of each axis.
    data_format : str, optional
        "channels_last" (the default) or "channels_first".
    """

    rank = 3

    def __init__(
        self,
        cropping: Any = ((1, 1), (1, 1), (1, 1)),
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(cropping, data_format, **kwargs)


class _ZeroPadding(SpatialLayer):
    arguments = ("padding", "data_format")
    keeps_integers = True

    def __init__(self, padding: Any, data_format: str | None = None, **kwargs: Any) -> None:
        super().__init__(data_format, **kwargs)
        self.padding: Any = _pairs(padding, self.rank, f"layer {self.name!r}: padding")

    @property
    def _added(self) -> tuple[tuple[int, int], ...]:
        return self.padding

    def _size_after(self, size: int, index: int) -> int:
        return size + sum(self._added[index])

    def compute(self, *arrays: np.ndarray) -> np.ndarray:
        (x,) = arrays
        widths = dict(zip(self._axes, self._added, strict=True))
        return np.pad(x, [widths.get(axis, (0, 0)) for axis in range(x.ndim)])


class ZeroPadding1D(_ZeroPadding):
    """Add steps of zeros: (batch, steps, features) to (batch, more steps, features).

    Parameters
    ----------
    padding : int or tuple of 2 ints
        At the start and at the end.
    data_format : str, optional
        "channels_last" (the default), or "channels_first" for (batch, features, steps).
    """

    rank = 1

    def __init__(self, padding: Any = 1, data_format: str | None = None, **kwargs: Any) -> None:
        super().__init__(0, data_format, **kwargs)
        self.padding = whole_numbers(padding, 2, f"layer {self.name!r}: padding", minimum=0)

    @property
    def _added(self) -> tuple[tuple[int, int], ...]:
        return (self.padding,)


class ZeroPadding2D(_ZeroPadding):
    """Add rows and columns of zeros: (batch, rows, columns, channels) to more.

    Parameters
    ----------
    padding : int, tuple of 2 ints or tuple of 2 pairs of ints
        At the start and at the end of each axis.
    data_format : str, optional
        "channels_last" (the default) or "channels_first".
    """

    rank = 2

    def __init__(
        self, padding: Any = (1, 1), data_format: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(padding, data_format, **kwargs)


class ZeroPadding3D(_ZeroPadding):
    """Add zeros at the ends of three axes: (batch, size, size, size, channels) to larger.

    Parameters
    ----------
    padding : int, tuple of 3 ints or tuple of 3 pairs of ints
        At the start and at the end of each axis.
    data_format : str, optional
        "channels_last" (the default) or "channels_first".
    """

    rank = 3

    def __init__(
        self,
        padding: Any = ((1, 1), (1, 1), (1, 1)),
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(padding, data_format, **kwargs)


class _UpSampling(SpatialLayer):
    arguments: ClassVar[tuple[str, ...]] = ("size", "data_format")

    def __init__(self, size: Any, data_format: str | None = None, **kwargs: Any) -> None:
        super().__init__(data_format, **kwargs)
        self.size: Any = self._whole_numbers(size, "size")

    @property
    def _factors(self) -> tuple[int, ...]:
        return self.size

    def _size_after(self, size: int, index: int) -> int:
        return size * self._factors[index]

    def compute(self, *arrays: np.ndarray) -> np.ndarray:
        (x,) = arrays
        for axis, factor in zip(self._axes, self._factors, strict=True):
            x = np.repeat(x, factor, axis)
        return x


class UpSampling1D(_UpSampling):
    """Repeat each step: (batch, steps, features) to (batch, size * steps, features).

    Parameters
    ----------
    size : int
    """

    rank = 1
    keeps_integers = True
    arguments = ("size",)

    def __init__(self, size: int = 2, **kwargs: Any) -> None:
        super().__init__(1, **kwargs)
        self.size = positive_integer(size, f"layer {self.name!r}: size")

    @property
    def _factors(self) -> tuple[int, ...]:
        return (self.size,)


class UpSampling2D(_UpSampling):
    """Enlarge images: (batch, rows, columns, channels) to more rows and columns.

    Parameters
    ----------
    size : int or tuple of 2 ints
        What rows and columns are multiplied by.
    data_format : str, optional
        "channels_last" (the default) or "channels_first".
    interpolation : str
        "nearest" or "bilinear".

    Raises
    ------
    UnsupportedLayerError
        For Keras's other interpolations.
    """

    rank = 2
    arguments = ("size", "data_format", "interpolation")

    def __init__(
        self,
        size: Any = (2, 2),
        data_format: str | None = None,
        interpolation: str = "nearest",
        **kwargs: Any,
    ) -> None:
        super().__init__(size, data_format, **kwargs)
        self.interpolation = str(interpolation).lower()
        if self.interpolation not in ("nearest", "bilinear"):
            raise UnsupportedLayerError(
                f"layer {self.name!r}: expected interpolation 'nearest' or 'bilinear'; got {interpolation!r}"
            )
        self.keeps_integers = self.interpolation == "nearest"

    def compute(self, *arrays: np.ndarray) -> np.ndarray:
        if self.interpolation == "nearest":
            return super().compute(*arrays)
        (x,) = arrays
        for axis, factor in zip(self._axes, self._factors, strict=True):
            if factor > 1 and x.shape[axis]:
                x = _interpolate(x, axis, factor)
        return x


def _interpolate(x: np.ndarray, axis: int, factor: int) -> np.ndarray:
    """Return `x` with `factor` times as many points along an axis, as the centres of equal parts of its own."""
    last = x.shape[axis] - 1
    places = ((np.arange(x.shape[axis] * factor) + 0.5) / factor - 0.5).clip(0, last)
    left = places.astype(np.intp)
    shape = [1] * x.ndim
    shape[axis] = -1
    share = (places - left).astype(x.dtype).reshape(shape)
    right = np.minimum(left + 1, last)
    return x.take(left, axis) * (1 - share) + x.take(right, axis) * share


class UpSampling3D(_UpSampling):
    """Repeat along three axes: (batch, size, size, size, channels) to larger.

    Parameters
    ----------
    size : int or tuple of 3 ints
    data_format : str, optional
        "channels_last" (the default) or "channels_first".
    """

    rank = 3
    keeps_integers = True

    def __init__(
        self, size: Any = (2, 2, 2), data_format: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(size, data_format, **kwargs)
