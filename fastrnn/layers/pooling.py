"""Keras's pooling layers."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike

from fastrnn import plan
from fastrnn._types import Shape
from fastrnn.layers.arguments import to_mask
from fastrnn.layers.common import MaskReadingLayer, SpatialLayer, check_rank, count_windows, one_of


class _Pooling(SpatialLayer):
    """One number for each window; the windows are pooled axis by axis."""

    arguments = ("pool_size", "padding", "strides", "data_format")
    limits = ("pool_size",)
    across_time = "it pools windows of timesteps"
    mode: ClassVar[str]
    """What the core calls it."""

    def __init__(
        self,
        pool_size: Any,
        strides: Any = None,
        padding: str = "valid",
        data_format: str | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(data_format, name=name, **kwargs)
        self.pool_size = self._whole_numbers(pool_size, "pool_size")
        self.strides = (
            self.pool_size if strides is None else self._whole_numbers(strides, "strides")
        )
        self.padding = one_of(("valid", "same"), padding, "padding", f"layer {self.name!r}")

    def _size_after(self, size: int, index: int) -> int:
        return count_windows(size, self.pool_size[index], self.strides[index], self.padding)

    def _windows(self, x: np.ndarray, index: int, outside: float) -> np.ndarray:
        """The windows over one spatial axis, as the last axis."""
        axis, window, stride = self._axes[index], self.pool_size[index], self.strides[index]
        if self.padding == "same":
            size = x.shape[axis]
            missing = max((self._size_after(size, index) - 1) * stride + window - size, 0)
            widths = [(0, 0)] * x.ndim
            widths[axis] = (missing // 2, missing - missing // 2)
            x = np.pad(x, widths, constant_values=outside)
        every = [slice(None)] * x.ndim
        every[axis] = slice(None, None, stride)
        return sliding_window_view(x, window, axis)[tuple(every)]

    def _pool(self, x: np.ndarray, index: int) -> np.ndarray:
        """Pool over one spatial axis."""
        raise NotImplementedError

    def _step(self, values: Sequence[plan.Value], y: plan.Value) -> plan.Step | None:
        if self.rank > 1 or self.data_format != "channels_last":
            return None
        return plan.Pool(
            (values[0].buffer,),
            (y.buffer,),
            self.compute_dtype,
            self.mode,
            self.compute,
            self.pool_size[0],
            self.strides[0],
            self.padding == "same",
        )

    def compute(self, *arrays: np.ndarray) -> np.ndarray:
        (x,) = arrays
        self.compute_output_shape(x.shape)
        for index in range(self.rank):
            x = self._pool(x, index)
        return np.ascontiguousarray(x)


class _MaxPooling(_Pooling):
    mode = "max"
    keeps_integers = True

    def _pool(self, x: np.ndarray, index: int) -> np.ndarray:
        least = {"f": -np.inf, "b": False}.get(x.dtype.kind)
        if least is None:
            least = np.iinfo(x.dtype).min
        return self._windows(x, index, least).max(axis=-1)


class _AveragePooling(_Pooling):
    mode = "average"

    def _pool(self, x: np.ndarray, index: int) -> np.ndarray:
        sums = self._windows(x, index, 0).sum(axis=-1)
        axis = self._axes[index]
        shape = [size if i == axis else 1 for i, size in enumerate(x.shape)]
        return sums / self._windows(np.ones(shape, x.dtype), index, 0).sum(axis=-1)


class MaxPooling1D(_MaxPooling):
    """Maxima over windows of (batch, steps, channels).

    Parameters
    ----------
    pool_size : int or tuple of 1 int
        The windows' sizes.
    strides : int or tuple of 1 int, optional
        Steps from a window to the next; by default `pool_size`.
    padding : str
        "valid", or "same" for windows that reach over the edges, where only what is inside counts.
    data_format : str, optional
        "channels_last" (the default), or "channels_first" for (batch, channels, steps).
    """

    rank = 1

    def __init__(
        self,
        pool_size: Any = 2,
        strides: Any = None,
        padding: str = "valid",
        data_format: str | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(pool_size, strides, padding, data_format, name, **kwargs)


class MaxPooling2D(_MaxPooling):
    """As `MaxPooling1D` over windows of (batch, rows, columns, channels), with two sizes and strides."""

    rank = 2

    def __init__(
        self,
        pool_size: Any = (2, 2),
        strides: Any = None,
        padding: str = "valid",
        data_format: str | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(pool_size, strides, padding, data_format, name, **kwargs)


class MaxPooling3D(_MaxPooling):
    """As `MaxPooling1D` over windows of (batch, size, size, size, channels), with three sizes and strides."""

    rank = 3

    def __init__(
        self,
        pool_size: Any = (2, 2, 2),
        strides: Any = None,
        padding: str = "valid",
        data_format: str | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(pool_size, strides, padding, data_format, name, **kwargs)


class AveragePooling1D(_AveragePooling):
    """Averages over windows of (batch, steps, channels).

    Parameters
    ----------
    pool_size : int or tuple of 1 int
        The windows' sizes.
    strides : int or tuple of 1 int, optional
        Steps from a window to the next; by default `pool_size`.
    padding : str
        "valid", or "same" for windows that reach over the edges, where only what is inside counts.
    data_format : str, optional
        "channels_last" (the default), or "channels_first" for (batch, channels, steps).
    """

    rank = 1


class AveragePooling2D(_AveragePooling):
    """As `AveragePooling1D` over windows of (batch, rows, columns, channels), with two sizes and strides."""

    rank = 2


class AveragePooling3D(_AveragePooling):
    """As `AveragePooling1D` over windows of (batch, size, size, size, channels), with three sizes and strides."""

    rank = 3


class _GlobalPooling(SpatialLayer):
    arguments = ("data_format", "keepdims")
    across_time = "it pools all timesteps"
    mode: ClassVar[str]
    """What the core calls it."""

    def __init__(
        self, data_format: str | None = None, keepdims: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(data_format, **kwargs)
        self.keepdims = keepdims

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        check_rank(input_shape, self.rank + 2, f"layer {self.name!r}")
        pooled = [1] * self.rank if self.keepdims else []
        if self.data_format == "channels_last":
            return (input_shape[0], *pooled, input_shape[-1])
        return (*input_shape[:2], *pooled)

    def _step(self, values: Sequence[plan.Value], y: plan.Value) -> plan.Step | None:
        return self._pool_step((values[0].buffer,), y)

    def _pool_step(self, buffers: tuple[int, ...], y: plan.Value) -> plan.Step | None:
        if self.rank > 1 or self.data_format != "channels_last" or self.keepdims:
            return None
        return plan.Pool(buffers, (y.buffer,), self.compute_dtype, self.mode, self.compute)


class _GlobalMaxPooling(_GlobalPooling):
    mode = "max"
    keeps_integers = True

    def _check_input(self, shape: Shape) -> None:
        super()._check_input(shape)
        if 0 in [shape[axis] for axis in self._axes]:
            raise ValueError(
                f"layer {self.name!r}: expected sizes of at least 1 to take a maximum over; "
                f"got shape {tuple(shape)}"
            )

    def compute(self, *arrays: np.ndarray) -> np.ndarray:
        (x,) = arrays
        self._check_input(x.shape)
        return x.max(axis=self._axes, keepdims=self.keepdims)


class _GlobalAveragePooling(_GlobalPooling):
    mode = "average"

    def compute(self, *arrays: np.ndarray) -> np.ndarray:
        (x,) = arrays
        sums = x.sum(axis=self._axes, keepdims=self.keepdims)
        return sums / x.dtype.type(math.prod(x.shape[axis] for axis in self._axes))


class GlobalMaxPooling1D(_GlobalMaxPooling):
    """Maxima over all steps: (batch, steps, channels) to (batch, channels).

    Parameters
    ----------
    data_format : str, optional
        "channels_last" (the default), or "channels_first" for (batch, channels, steps).
    keepdims : bool
        Keep the axes that are pooled, of size 1.
    """

    rank = 1


class GlobalMaxPooling2D(_GlobalMaxPooling):
    """As `GlobalMaxPooling1D` over rows and columns of (batch, rows, columns, channels)."""

    rank = 2


class GlobalMaxPooling3D(_GlobalMaxPooling):
    """As `GlobalMaxPooling1D` over all three spatial axes of (batch, size, size, size, channels)."""

    rank = 3


class GlobalAveragePooling1D(MaskReadingLayer, _GlobalAveragePooling):
    """Averages over all steps: (batch, steps, channels) to (batch, channels).

    Parameters
    ----------
    data_format : str, optional
        "channels_last" (the default), or "channels_first" for (batch, channels, steps).
    keepdims : bool
        Keep the axes that are pooled, of size 1.

    Notes
    -----
    With a mask (batch, steps), the averages are those over the steps where it is True; the output has none.
    """

    rank = 1
    supports_masking = True

    def _to_mask(self, mask: ArrayLike, shape: tuple[int, ...]) -> np.ndarray:
        (steps,) = self._axes
        return to_mask(mask, (shape[0], shape[steps]), f"layer {self.name!r}")

    def _mask_of(self, values: Sequence[plan.Value], builder: plan.Builder) -> None:
        return None

    def _masked_step(self, x: plan.Value, mask: int, y: plan.Value) -> plan.Step:
        compiled = self._pool_step((x.buffer, mask), y)
        return compiled or super()._masked_step(x, mask, y)

    def compute(self, *arrays: np.ndarray) -> np.ndarray:
        if len(arrays) == 1:
            return super().compute(*arrays)
        x, mask = arrays
        (steps,) = self._axes
        counted = np.expand_dims(mask, 3 - steps)
        sums = np.where(counted, x, 0).sum(axis=steps, keepdims=self.keepdims)
        return sums / counted.sum(axis=steps, keepdims=self.keepdims, dtype=x.dtype)


class GlobalAveragePooling2D(_GlobalAveragePooling):
    """As `GlobalAveragePooling1D` over rows and columns of (batch, rows, columns, channels)."""

    rank = 2


class GlobalAveragePooling3D(_GlobalAveragePooling):
    """As `GlobalAveragePooling1D` over all three spatial axes of (batch, size, size, size, channels)."""

    rank = 3
