"""Keras's convolution layers: one implementation for any number of space axes, on matrix products of patches.

Inside, arrays are (batch, *space, channels), kernels (*kernel_size, channels of a group, filters).
"""

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import Any, ClassVar

import numpy as np

from fastrnn import activations, initializers, plan
from fastrnn._types import ActivationLike, InitializerLike, Shape
from fastrnn.layers.arguments import fits
from fastrnn.layers.common import SpatialLayer, count_windows, one_of, whole_numbers
from fastrnn.layers.core import activate, over_timesteps, positive_integer
from fastrnn.reference import convolve

Sizes = int | Sequence[int]

_NUMBERS_AT_ONCE = 1 << 22
"""How many numbers the patches of a convolution may hold together: 16 MB of float32."""


def refuse_strides_of_dilated(
    strides: Sequence[int], dilation_rate: Sequence[int], what: str
) -> None:
    """Raise ValueError if both are larger than 1."""
    if max(strides) > 1 and max(dilation_rate) > 1:
        raise ValueError(
            f"{what}: expected strides or dilation_rate to be 1; got {strides} and {dilation_rate}"
        )


def convolve_each(
    x: np.ndarray,
    kernel: np.ndarray,
    strides: Sequence[int],
    dilation: Sequence[int],
    padding: str,
) -> np.ndarray:
    """Return the convolutions of each channel of `x` with its own kernels; see `convolve`.

    Parameters
    ----------
    kernel : ndarray, shape (*kernel_size, channels, multiplier)

    Returns
    -------
    ndarray, shape (batch, *new_space, channels * multiplier)
    """
    *sizes, channels, multiplier = kernel.shape
    alone = kernel.reshape(*sizes, 1, channels * multiplier)
    return convolve(x, alone, strides, dilation, padding)


def convolve_transposed(
    x: np.ndarray,
    kernel: np.ndarray,
    strides: Sequence[int],
    dilation: Sequence[int],
    starts: Sequence[int],
    lengths: Sequence[int],
) -> np.ndarray:
    """Return what a convolution with these strides would take to give `x`: each number spreads the kernel.

    Parameters
    ----------
    x : ndarray, shape (batch, *space, channels)
    kernel : ndarray, shape (*kernel_size, filters, channels)
    strides, dilation : sequence of int
    starts, lengths : sequence of int
        The part of the result that is wanted, along each space axis; zeros where nothing is spread to.

    Returns
    -------
    ndarray, shape (batch, *lengths, filters)
    """
    batch, *space, channels = x.shape
    *sizes, filters, _ = kernel.shape
    whole = [
        max((n - 1) * stride + (size - 1) * step + 1, start + length)
        for n, stride, size, step, start, length in zip(
            space, strides, sizes, dilation, starts, lengths, strict=True
        )
    ]
    spread = x @ kernel.reshape(-1, channels).T
    spread = spread.reshape(batch, *space, *sizes, filters)
    y = np.zeros((batch, *whole, filters), x.dtype)
    for offset in product(*map(range, sizes)):
        targets = [
            slice(i * step, i * step + n * stride, stride)
            for i, step, n, stride in zip(offset, dilation, space, strides, strict=True)
        ]
        y[(slice(None), *targets)] += spread[(slice(None), *[slice(None)] * len(space), *offset)]
    wanted = [slice(start, start + n) for start, n in zip(starts, lengths, strict=True)]
    return y[(slice(None), *wanted)]


class _Convolution(SpatialLayer):
    """What the convolution layers share: sizes, channels, bias, activation."""

    paddings: ClassVar[tuple[str, ...]] = ("valid", "same")
    limits = ("kernel_size", "dilation_rate")

    def __init__(
        self,
        *,
        kernel_size: Sizes,
        strides: Sizes,
        padding: str,
        data_format: str | None,
        dilation_rate: Sizes,
        activation: ActivationLike,
        use_bias: bool,
        bias_initializer: InitializerLike,
        bias_regularizer: object,
        bias_constraint: object,
        **kwargs: Any,
    ) -> None:
        super().__init__(data_format, **kwargs)
        self.kernel_size = self._whole_numbers(kernel_size, "kernel_size")
        self.strides = self._whole_numbers(strides, "strides")
        self.dilation_rate = self._whole_numbers(dilation_rate, "dilation_rate")
        self.padding = one_of(self.paddings, padding, "padding", f"layer {self.name!r}")
        self.activation = activations.get(activation)
        self.use_bias = use_bias
        self.bias_initializer = initializers.get(bias_initializer)
        self.bias_regularizer, self.bias_constraint = bias_regularizer, bias_constraint

    @property
    def bias(self) -> np.ndarray | None:
        """ndarray, shape (filters,), or None."""
        return self._weights.get("bias")

    def _add_bias(self, filters: int) -> None:
        if self.use_bias:
            self.add_weight((filters,), self.bias_initializer, name="bias")

    def _known_channels(self, shape: Shape) -> int:
        self._check_input(shape)
        channels = shape[self._channel_axis]
        if channels is None:
            raise ValueError(
                f"layer {self.name!r}: expected a known number of channels; got shape {tuple(shape)}"
            )
        return channels

    def _channels_of_weights(self) -> int | None:
        """The input's channels, where the weights tell."""
        raise NotImplementedError

    def _filters(self, channels: int | None) -> int | None:
        """The output's channels, for the input's."""
        raise NotImplementedError

    def _window(self, i: int) -> int:
        """The size of the dilated kernel along a space axis."""
        return (self.kernel_size[i] - 1) * self.dilation_rate[i] + 1

    def _size_after(self, size: int, index: int) -> int:
        return count_windows(size, self._window(index), self.strides[index], self.padding)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        shape = list(super().compute_output_shape(input_shape))
        channels = shape[self._channel_axis]
        if channels == 0:
            raise ValueError(
                f"layer {self.name!r}: expected channels; got none, an input of shape {tuple(input_shape)}"
            )
        expected = self._channels_of_weights() if self.built else channels
        if not fits((channels,), (expected,)):
            raise ValueError(
                f"layer {self.name!r}: expected {expected} channels; got an input of shape {tuple(input_shape)}"
            )
        shape[self._channel_axis] = self._filters(channels)
        return tuple(shape)

    def convolution(self, x: np.ndarray) -> np.ndarray:
        """Return the output before bias and activation; both arrays are (batch, *space, channels)."""
        raise NotImplementedError

    def compute(self, *arrays: np.ndarray) -> np.ndarray:
        (x,) = arrays
        self._check_input(x.shape)
        x = np.moveaxis(x, self._channel_axis, -1)
        # The patches of one sample are about as many numbers as it has, for each place in the kernel.
        at_once = max(_NUMBERS_AT_ONCE // max(prod(self.kernel_size) * x[:1].size, 1), 1)
        blocks = [x[i : i + at_once] for i in range(0, len(x), at_once)] or [x]
        done = [self.convolution(block) for block in blocks]
        y = done[0] if len(done) == 1 else np.concatenate(done)
        if self.bias is not None:
            y = y + self.bias
        return np.moveaxis(y, -1, self._channel_axis)

    def lower(self, builder: plan.Builder, x: plan.Value | list[plan.Value]) -> plan.Value:
        y = super().lower(builder, x)
        return activate(builder, y, self.activation, self.compute_dtype)


class _FullConvolution(_Convolution):
    """A convolution with one kernel, from all channels of a group to each filter."""

    def __init__(
        self,
        *,
        filters: int,
        kernel_initializer: InitializerLike,
        kernel_regularizer: object,
        kernel_constraint: object,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.filters = positive_integer(filters, f"layer {self.name!r}: filters")
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.kernel_regularizer, self.kernel_constraint = kernel_regularizer, kernel_constraint

    @property
    def kernel(self) -> np.ndarray:
        """ndarray."""
        return self._weights["kernel"]

    def _filters(self, channels: int | None) -> int | None:
        return self.filters


class _Conv(_FullConvolution):
    """Conv1D, Conv2D and Conv3D."""

    arguments = (
        "filters",
        "kernel_size",
        "strides",
        "padding",
        "data_format",
        "dilation_rate",
        "groups",
        "activation",
        "use_bias",
        "kernel_initializer",
        "bias_initializer",
        "kernel_regularizer",
        "bias_regularizer",
        "activity_regularizer",
        "kernel_constraint",
        "bias_constraint",
    )

    def __init__(
        self,
        filters: int,
        kernel_size: Sizes,
        strides: Sizes = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: Sizes = 1,
        groups: int = 1,
        activation: ActivationLike = None,
        use_bias: bool = True,
        kernel_initializer: InitializerLike = "glorot_uniform",
        bias_initializer: InitializerLike = "zeros",
        kernel_regularizer: object = None,
        bias_regularizer: object = None,
        activity_regularizer: object = None,
        kernel_constraint: object = None,
        bias_constraint: object = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            filters=filters,
            kernel_size=kernel_size,
            strides=strides,
            padding=padding,
            data_format=data_format,
            dilation_rate=dilation_rate,
            activation=activation,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            **kwargs,
        )
        self.groups = positive_integer(groups, f"layer {self.name!r}: groups")
        if self.filters % self.groups:
            raise ValueError(
                f"layer {self.name!r}: expected a multiple of {self.groups} filters, one a group; got {self.filters}"
            )
        refuse_strides_of_dilated(self.strides, self.dilation_rate, f"layer {self.name!r}")

    def build(self, input_shape: Shape) -> None:
        channels = self._known_channels(input_shape)
        if channels % self.groups:
            raise ValueError(
                f"layer {self.name!r}: expected a multiple of {self.groups} channels, one a group; "
                f"got shape {tuple(input_shape)}"
            )
        shape = (*self.kernel_size, channels // self.groups, self.filters)
        self.add_weight(shape, self.kernel_initializer, name="kernel")
        self._add_bias(self.filters)
        super().build(input_shape)

    def _channels_of_weights(self) -> int | None:
        return self.kernel.shape[-2] * self.groups

    def convolution(self, x: np.ndarray) -> np.ndarray:
        return convolve(x, self.kernel, self.strides, self.dilation_rate, self.padding)


class Conv1D(_Conv):
    """activation(convolution of x with the kernel + bias).

    Parameters
    ----------
    filters : int
    kernel_size, strides, dilation_rate : int or tuple of int
        Strides and dilation are not both larger than 1.
    padding : str
        "valid" or "same"; "causal" too in one dimension.
    data_format : str, optional
        "channels_last", (batch, *space, channels), the default; or "channels_first".
    groups : int
        Of channels and filters, each with a kernel of its own.
    activation : str or callable, optional
    use_bias : bool
    kernel_initializer, bias_initializer : str, dict or callable
    kernel_regularizer, bias_regularizer, activity_regularizer, kernel_constraint, bias_constraint : optional
        Kept for the config.

    Notes
    -----
    Weights: kernel (*kernel_size, channels / groups, filters), bias (filters,).
    """

    rank = 1
    paddings = ("valid", "same", "causal")

    def why_across_time(self, x: plan.Value) -> str | None:
        if self.strides != (1,):
            return f"strides={self.strides} leave out timesteps"
        if self.data_format != "channels_last":
            return "with data_format='channels_first' its channels are the timesteps"
        if self.padding != "causal" and self.kernel_size != (1,):
            return f"padding={self.padding!r} takes later timesteps; 'causal' would not"
        return over_timesteps(self.activation, (*x.shape[:-1], self.filters))

    def lower_stream(self, builder: plan.StreamBuilder, x: plan.Value) -> plan.Value:
        """Write the convolution as a product, of the inputs that each timestep sees with the kernel."""
        (taps,), (dilation,), channels = self.kernel_size, self.dilation_rate, x.shape[-1]
        seen = x
        if taps > 1:
            shape = ((taps - 1) * dilation, channels)
            state = builder.carry(f"{self.name}/inputs", shape, self.compute_dtype)
            state.after = builder.value(state.before.shape)
            seen = builder.value((*x.shape[:2], taps * self._known_channels(x.shape)))
            sources = (x.buffer, state.before.buffer)
            targets = (seen.buffer, state.after.buffer)
            builder.add(plan.Window(sources, targets, self.compute_dtype, taps, dilation))
        y = builder.value((*x.shape[:2], self.filters))
        buffers = (seen.buffer,), (y.buffer,), self.compute_dtype
        if self.groups == 1:
            kernel = self.kernel.reshape(-1, self.filters)
            builder.add(plan.Dense(*buffers, kernel, self.bias, activations.linear))
        else:
            builder.add(plan.Apply(*buffers, self._product_of_groups))
        return activate(builder, y, self.activation, self.compute_dtype)

    def _product_of_groups(self, seen: np.ndarray) -> np.ndarray:
        """The convolution of what each timestep sees, (batch, steps, taps * channels)."""
        (taps,), inputs = self.kernel_size, self.kernel.shape[-2]
        grouped = seen.reshape(*seen.shape[:2], taps, self.groups, inputs)
        kernels = self.kernel.reshape(taps, inputs, self.groups, -1)
        y = np.einsum("btkgc,kcgf->btgf", grouped, kernels)
        y = y.reshape(*seen.shape[:2], self.filters)
        return y if self.bias is None else y + self.bias


class Conv2D(_Conv):
    """As `Conv1D` with 2 space axes, without "causal"."""

    rank = 2


class Conv3D(_Conv):
    """As `Conv1D` with 3 space axes, without "causal"."""

    rank = 3


class _ConvTranspose(_FullConvolution):
    """Conv1DTranspose, Conv2DTranspose and Conv3DTranspose."""

    arguments = (
        "filters",
        "kernel_size",
        "strides",
        "padding",
        "output_padding",
        "data_format",
        "dilation_rate",
        "activation",
        "use_bias",
        "kernel_initializer",
        "bias_initializer",
        "kernel_regularizer",
        "bias_regularizer",
        "activity_regularizer",
        "kernel_constraint",
        "bias_constraint",
    )

    def __init__(
        self,
        filters: int,
        kernel_size: Sizes,
        strides: Sizes = 1,
        padding: str = "valid",
        output_padding: Sizes | None = None,
        data_format: str | None = None,
        dilation_rate: Sizes = 1,
        activation: ActivationLike = None,
        use_bias: bool = True,
        kernel_initializer: InitializerLike = "glorot_uniform",
        bias_initializer: InitializerLike = "zeros",
        kernel_regularizer: object = None,
        bias_regularizer: object = None,
        activity_regularizer: object = None,
        kernel_constraint: object = None,
        bias_constraint: object = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            filters=filters,
            kernel_size=kernel_size,
            strides=strides,
            padding=padding,
            data_format=data_format,
            dilation_rate=dilation_rate,
            activation=activation,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            **kwargs,
        )
        refuse_strides_of_dilated(self.strides, self.dilation_rate, f"layer {self.name!r}")
        self.output_padding: tuple[int, ...] | None = None
        if output_padding is not None:
            what = f"layer {self.name!r}: output_padding"
            self.output_padding = whole_numbers(output_padding, self.rank, what, minimum=0)
            if any(
                more >= stride
                for more, stride in zip(self.output_padding, self.strides, strict=True)
            ):
                raise ValueError(
                    f"{what}: expected less than strides {self.strides}; got {output_padding!r}"
                )

    def build(self, input_shape: Shape) -> None:
        channels = self._known_channels(input_shape)
        shape = (*self.kernel_size, self.filters, channels)
        self.add_weight(shape, self.kernel_initializer, name="kernel")
        self._add_bias(self.filters)
        super().build(input_shape)

    def _channels_of_weights(self) -> int | None:
        return self.kernel.shape[-1]

    def _size_after(self, size: int, index: int) -> int:
        window, stride = self._window(index), self.strides[index]
        if self.output_padding is None:
            more = max(window, stride) if self.padding == "valid" else stride
        else:
            more = self.output_padding[index] + (window if self.padding == "valid" else window % 2)
        return (size - 1) * stride + more

    def _start(self, i: int) -> int:
        """Where the output starts in all that the numbers are spread to."""
        window, stride = self._window(i), self.strides[i]
        if self.padding == "valid":
            return 0
        more = stride if self.output_padding is None else self.output_padding[i] + window % 2
        return window - 1 - min((window + more - 1) // 2, window - 1)

    def convolution(self, x: np.ndarray) -> np.ndarray:
        starts = [self._start(i) for i in range(self.rank)]
        lengths = [self._size_after(size, i) for i, size in enumerate(x.shape[1:-1])]
        return convolve_transposed(
            x, self.kernel, self.strides, self.dilation_rate, starts, lengths
        )


class Conv1DTranspose(_ConvTranspose):
    """activation(transposed convolution of x with the kernel + bias), as the gradient of a convolution has it.

    Parameters
    ----------
    filters : int
    kernel_size, strides, dilation_rate : int or tuple of int
        Strides and dilation are not both larger than 1.
    padding : str
        "valid" or "same".
    output_padding : int or tuple of int, optional
        What the output is longer than the shortest possible; less than the strides.
    data_format : str, optional
        "channels_last", (batch, *space, channels), the default; or "channels_first".
    activation : str or callable, optional
    use_bias : bool
    kernel_initializer, bias_initializer : str, dict or callable
    kernel_regularizer, bias_regularizer, activity_regularizer, kernel_constraint, bias_constraint : optional
        Kept for the config.

    Notes
    -----
    Weights: kernel (*kernel_size, filters, channels), bias (filters,).
    """

    rank = 1


class Conv2DTranspose(_ConvTranspose):
    """As `Conv1DTranspose` with 2 space axes."""

    rank = 2


class Conv3DTranspose(_ConvTranspose):
    """As `Conv1DTranspose` with 3 space axes."""

    rank = 3


class _ChannelConvolution(_Convolution):
    """A convolution that starts with each channel on its own."""

    def __init__(
        self,
        *,
        depth_multiplier: int,
        depthwise_initializer: InitializerLike,
        depthwise_regularizer: object,
        depthwise_constraint: object,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.depth_multiplier = positive_integer(
            depth_multiplier, f"layer {self.name!r}: depth_multiplier"
        )
        self.depthwise_initializer = initializers.get(depthwise_initializer)
        self.depthwise_regularizer = depthwise_regularizer
        self.depthwise_constraint = depthwise_constraint

    def _add_depthwise_kernel(self, channels: int, name: str) -> None:
        shape = (*self.kernel_size, channels, self.depth_multiplier)
        self.add_weight(shape, self.depthwise_initializer, name=name)

    def _channels_of_weights(self) -> int | None:
        return next(iter(self._weights.values())).shape[-2]


class _DepthwiseConv(_ChannelConvolution):
    """DepthwiseConv1D and DepthwiseConv2D."""

    arguments = (
        "depth_multiplier",
        "kernel_size",
        "strides",
        "padding",
        "data_format",
        "dilation_rate",
        "activation",
        "use_bias",
        "depthwise_initializer",
        "bias_initializer",
        "depthwise_regularizer",
        "bias_regularizer",
        "activity_regularizer",
        "depthwise_constraint",
        "bias_constraint",
    )

    def __init__(
        self,
        kernel_size: Sizes,
        strides: Sizes = 1,
        padding: str = "valid",
        depth_multiplier: int = 1,
        data_format: str | None = None,
        dilation_rate: Sizes = 1,
        activation: ActivationLike = None,
        use_bias: bool = True,
        depthwise_initializer: InitializerLike = "glorot_uniform",
        bias_initializer: InitializerLike = "zeros",
        depthwise_regularizer: object = None,
        bias_regularizer: object = None,
        activity_regularizer: object = None,
        depthwise_constraint: object = None,
        bias_constraint: object = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            kernel_size=kernel_size,
            strides=strides,
            padding=padding,
            depth_multiplier=depth_multiplier,
            data_format=data_format,
            dilation_rate=dilation_rate,
            activation=activation,
            use_bias=use_bias,
            depthwise_initializer=depthwise_initializer,
            bias_initializer=bias_initializer,
            depthwise_regularizer=depthwise_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            depthwise_constraint=depthwise_constraint,
            bias_constraint=bias_constraint,
            **kwargs,
        )

    @property
    def kernel(self) -> np.ndarray:
        """ndarray, shape (*kernel_size, channels, depth_multiplier)."""
        return self._weights["kernel"]

    def build(self, input_shape: Shape) -> None:
        channels = self._known_channels(input_shape)
        self._add_depthwise_kernel(channels, "kernel")
        self._add_bias(channels * self.depth_multiplier)
        super().build(input_shape)

    def _filters(self, channels: int | None) -> int | None:
        if channels is None and self.built:
            channels = self._channels_of_weights()
        return None if channels is None else channels * self.depth_multiplier

    def convolution(self, x: np.ndarray) -> np.ndarray:
        return convolve_each(x, self.kernel, self.strides, self.dilation_rate, self.padding)


class DepthwiseConv1D(_DepthwiseConv):
    """activation(convolution of each channel of x with its own kernels + bias).

    Parameters
    ----------
    kernel_size, strides : int or tuple of int
    padding : str
        "valid" or "same".
    depth_multiplier : int
        The filters of each channel.
    data_format : str, optional
        "channels_last", (batch, time, channels), the default; or "channels_first".
    dilation_rate : int or tuple of int
    activation : str or callable, optional
    use_bias : bool
    depthwise_initializer, bias_initializer : str, dict or callable
    depthwise_regularizer, bias_regularizer, activity_regularizer, depthwise_constraint, bias_constraint : optional
        Kept for the config.

    Notes
    -----
    Weights: kernel (kernel_size, channels, depth_multiplier), bias (channels * depth_multiplier,).
    """

    rank = 1


class DepthwiseConv2D(_DepthwiseConv):
    """As `DepthwiseConv1D` with 2 space axes."""

    rank = 2


class _SeparableConv(_ChannelConvolution):
    """SeparableConv1D and SeparableConv2D."""

    arguments = (
        "depth_multiplier",
        "filters",
        "kernel_size",
        "strides",
        "padding",
        "data_format",
        "dilation_rate",
        "activation",
        "use_bias",
        "depthwise_initializer",
        "pointwise_initializer",
        "bias_initializer",
        "depthwise_regularizer",
        "pointwise_regularizer",
        "bias_regularizer",
        "activity_regularizer",
        "depthwise_constraint",
        "pointwise_constraint",
        "bias_constraint",
    )

    def __init__(
        self,
        filters: int,
        kernel_size: Sizes,
        strides: Sizes = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: Sizes = 1,
        depth_multiplier: int = 1,
        activation: ActivationLike = None,
        use_bias: bool = True,
        depthwise_initializer: InitializerLike = "glorot_uniform",
        pointwise_initializer: InitializerLike = "glorot_uniform",
        bias_initializer: InitializerLike = "zeros",
        depthwise_regularizer: object = None,
        pointwise_regularizer: object = None,
        bias_regularizer: object = None,
        activity_regularizer: object = None,
        depthwise_constraint: object = None,
        pointwise_constraint: object = None,
        bias_constraint: object = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            kernel_size=kernel_size,
            strides=strides,
            padding=padding,
            depth_multiplier=depth_multiplier,
            data_format=data_format,
            dilation_rate=dilation_rate,
            activation=activation,
            use_bias=use_bias,
            depthwise_initializer=depthwise_initializer,
            bias_initializer=bias_initializer,
            depthwise_regularizer=depthwise_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            depthwise_constraint=depthwise_constraint,
            bias_constraint=bias_constraint,
            **kwargs,
        )
        self.filters = positive_integer(filters, f"layer {self.name!r}: filters")
        self.pointwise_initializer = initializers.get(pointwise_initializer)
        self.pointwise_regularizer = pointwise_regularizer
        self.pointwise_constraint = pointwise_constraint

    @property
    def depthwise_kernel(self) -> np.ndarray:
        """ndarray, shape (*kernel_size, channels, depth_multiplier)."""
        return self._weights["depthwise_kernel"]

    @property
    def pointwise_kernel(self) -> np.ndarray:
        """ndarray, shape (1, ..., channels * depth_multiplier, filters)."""
        return self._weights["pointwise_kernel"]

    def build(self, input_shape: Shape) -> None:
        channels = self._known_channels(input_shape)
        self._add_depthwise_kernel(channels, "depthwise_kernel")
        shape = (*[1] * self.rank, channels * self.depth_multiplier, self.filters)
        self.add_weight(shape, self.pointwise_initializer, name="pointwise_kernel")
        self._add_bias(self.filters)
        super().build(input_shape)

    def _filters(self, channels: int | None) -> int | None:
        return self.filters

    def convolution(self, x: np.ndarray) -> np.ndarray:
        each = convolve_each(
            x, self.depthwise_kernel, self.strides, self.dilation_rate, self.padding
        )
        return each @ self.pointwise_kernel.reshape(self.pointwise_kernel.shape[-2:])


class SeparableConv1D(_SeparableConv):
    """activation(the convolution of each channel of x, then Dense over the channels, + bias).

    Parameters
    ----------
    filters : int
    kernel_size, strides : int or tuple of int
    padding : str
        "valid" or "same".
    data_format : str, optional
        "channels_last", (batch, time, channels), the default; or "channels_first".
    dilation_rate : int or tuple of int
    depth_multiplier : int
        The filters of each channel in between.
    activation : str or callable, optional
    use_bias : bool
    depthwise_initializer, pointwise_initializer, bias_initializer : str, dict or callable
    depthwise_regularizer, pointwise_regularizer, bias_regularizer, activity_regularizer : optional
        Kept for the config.
    depthwise_constraint, pointwise_constraint, bias_constraint : optional
        Kept for the config.

    Notes
    -----
    Weights: depthwise_kernel (kernel_size, channels, depth_multiplier),
    pointwise_kernel (1, channels * depth_multiplier, filters), bias (filters,).
    """

    rank = 1


class SeparableConv2D(_SeparableConv):
    """As `SeparableConv1D` with 2 space axes."""

    rank = 2
