"""What the layers over spatial axes, and the layers that read a mask, share."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from fastrnn import plan
from fastrnn._types import Shape
from fastrnn.layers.array import ArrayLayer


def whole_numbers(value: Any, count: int, what: str, minimum: int = 1) -> tuple[int, ...]:
    """Return `value`, one integer for all or `count` of them, as a tuple of `count` integers.

    Raises
    ------
    ValueError
        If it is something else, or one is below `minimum`.
    """
    numbers = [value] * count if isinstance(value, (int, np.integer)) else value
    if (
        not isinstance(numbers, Sequence)
        or len(numbers) != count
        or any(isinstance(n, bool) or not isinstance(n, (int, np.integer)) for n in numbers)
        or any(n < minimum for n in numbers)
    ):
        raise ValueError(
            f"{what}: expected an integer, or {count} of them, of at least {minimum}; got {value!r}"
        )
    return tuple(int(n) for n in numbers)


def one_of(known: Sequence[str], value: str, argument: str, what: str) -> str:
    """Return the one of `known` that `value` is, in whichever case it is written.

    Raises
    ------
    ValueError
        If it is none of them.
    """
    name = value.lower() if isinstance(value, str) else value
    if name not in known:
        raise ValueError(
            f"{what}: expected {argument} {' or '.join(map(repr, known))}; got {value!r}"
        )
    return name


def known_data_format(value: str | None, what: str) -> str:
    """Return "channels_last" or "channels_first"; None is the former.

    Raises
    ------
    ValueError
        If it is something else.
    """
    formats = ("channels_last", "channels_first")
    return one_of(formats, formats[0] if value is None else value, "data_format", what)


def check_rank(shape: Shape, rank: int, what: str) -> None:
    """Raise ValueError unless there are as many axes, with the batch."""
    if len(shape) != rank:
        raise ValueError(f"{what}: expected an input of {rank} axes; got shape {tuple(shape)}")


def count_windows(size: int, window: int, stride: int, padding: str) -> int:
    """Return how many windows there are along an axis of `size`, below 1 where none fits; "valid" ones lie inside."""
    return (size - (window if padding == "valid" else 1)) // stride + 1


def across_axes(axes: Sequence[int], x: plan.Value) -> str | None:
    """Return why a layer over these axes cannot run timestep by timestep over `x`, or None if time is none of them."""
    over_time = any(axis % len(x.shape) == 1 for axis in axes)
    return f"axis={list(axes)} is over the timesteps" if over_time else None


class MaskReadingLayer(ArrayLayer):
    """A layer whose `compute` takes the mask, after its input, where there is one."""

    reads_masks = True

    def lower(self, builder: plan.Builder, x: plan.Value | list[plan.Value]) -> plan.Value:
        if isinstance(x, list) or x.mask is None or not self.reads_masks:
            return super().lower(builder, x)
        y = builder.value(self.compute_output_shape(x.shape), self._mask_of([x], builder))
        builder.add(self._masked_step(x, x.mask, y))
        return y

    def _masked_step(self, x: plan.Value, mask: int, y: plan.Value) -> plan.Step:
        return plan.Apply((x.buffer, mask), (y.buffer,), self.compute_dtype, self.compute)


class SpatialLayer(ArrayLayer):
    """A layer of (batch, *sizes, channels), or of (batch, channels, *sizes).

    Parameters
    ----------
    data_format : str, optional
        "channels_last" (the default) or "channels_first".
    """

    rank: ClassVar[int]
    """How many sizes there are."""

    limits: ClassVar[tuple[str, ...]] = ()
    """Names of the arguments that can be too large for an input."""

    supports_masking = False

    def __init__(self, data_format: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.data_format = known_data_format(data_format, f"layer {self.name!r}")

    def _whole_numbers(self, value: Any, argument: str) -> tuple[int, ...]:
        """The value of an argument that is a number for every spatial axis."""
        return whole_numbers(value, self.rank, f"layer {self.name!r}: {argument}")

    @property
    def _channel_axis(self) -> int:
        return -1 if self.data_format == "channels_last" else 1

    @property
    def _axes(self) -> tuple[int, ...]:
        first = 1 if self.data_format == "channels_last" else 2
        return tuple(range(first, first + self.rank))

    def _size_after(self, size: int, index: int) -> int:
        """The size that the spatial axis of this index has in the output."""
        raise NotImplementedError

    def _check_input(self, shape: Shape) -> None:
        self.compute_output_shape(shape)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        check_rank(input_shape, self.rank + 2, f"layer {self.name!r}")
        shape = list(input_shape)
        for index, axis in enumerate(self._axes):
            size = shape[axis]
            if size is not None:
                size = shape[axis] = self._size_after(size, index)
                if self.limits and size < 1:
                    limits = ", ".join(f"{name}={getattr(self, name)}" for name in self.limits)
                    raise ValueError(
                        f"layer {self.name!r}: expected an input large enough for {limits}; "
                        f"got shape {tuple(input_shape)}"
                    )
        return tuple(shape)
