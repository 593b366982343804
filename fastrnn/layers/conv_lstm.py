"""Keras's ConvLSTM layers and their cell: an LSTM over images of one, two or three space axes."""

from typing import Any, ClassVar, Self

import numpy as np

from fastrnn import plan, reference
from fastrnn._types import ActivationLike, Config, InitializerLike, Shape
from fastrnn.layers.common import count_windows, known_data_format, one_of, whole_numbers
from fastrnn.layers.convolution import Sizes, refuse_strides_of_dilated
from fastrnn.layers.lstm import LSTMCell
from fastrnn.layers.rnn import RNN


class ConvLSTMCell(LSTMCell):
    """One step of a ConvLSTM: an LSTM whose two products are convolutions; states [h, c].

    Parameters
    ----------
    rank : int
        Space axes: 1, 2 or 3.
    filters : int
        Channels of the output and of the states.
    kernel_size : int or tuple of int
    strides, dilation_rate : int or tuple of int
        Of the input's convolution: one of the two is 1. The states' convolution keeps their size and has neither.
    padding : {"valid", "same"}
        Of the input's convolution.
    data_format : {"channels_last", "channels_first"}, optional
    activation, recurrent_activation, use_bias, ..., seed
        As in `LSTMCell`.
    **kwargs
        `Layer`'s arguments.

    Notes
    -----
    Weights: kernel (*kernel_size, channels, 4 * filters), recurrent_kernel (*kernel_size, filters, 4 * filters) and
    bias (4 * filters,), of the gates i, f, g, o.
    """

    arguments = (
        "rank",
        "filters",
        "kernel_size",
        "strides",
        "padding",
        "data_format",
        "dilation_rate",
        *LSTMCell.arguments[1:],
    )
    plan_step = plan.ConvRecurrence

    def __init__(
        self,
        rank: int,
        filters: int,
        kernel_size: Sizes,
        strides: Sizes = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: Sizes = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(filters, **kwargs)
        what = f"layer {self.name!r}"
        if rank not in (1, 2, 3):
            raise ValueError(f"{what}: expected a rank of 1, 2 or 3; got {rank!r}")
        self.rank = rank
        self.kernel_size = whole_numbers(kernel_size, rank, f"{what}: kernel_size")
        self.strides = whole_numbers(strides, rank, f"{what}: strides")
        self.dilation_rate = whole_numbers(dilation_rate, rank, f"{what}: dilation_rate")
        refuse_strides_of_dilated(self.strides, self.dilation_rate, what)
        self.padding = one_of(("valid", "same"), padding, "padding", what)
        self.data_format = known_data_format(data_format, what)
        self.step_shape = (None,) * (rank + 1)

    @classmethod
    def from_config(cls, config: Config) -> Self:
        # Keras writes the rank nowhere but in the length of these.
        return cls(**{"rank": len(config["kernel_size"]), **config})

    @property
    def filters(self) -> int:
        """int: what the other cells call units."""
        return self.units

    @property
    def _channel_axis(self) -> int:
        """Of an array with the batch."""
        return -1 if self.data_format == "channels_last" else 1

    def build(self, input_shape: Shape) -> None:
        self._check_input(input_shape)
        self._image_shape(tuple(input_shape[1:]))
        channels, columns = input_shape[self._channel_axis], 4 * self.filters
        self.add_weight(
            (*self.kernel_size, channels, columns), self.kernel_initializer, name="kernel"
        )
        self.add_weight(
            (*self.kernel_size, self.filters, columns),
            self.recurrent_initializer,
            name="recurrent_kernel",
        )
        if self.use_bias:
            self._add_bias(columns)
        self.step_shape = tuple(input_shape[1:])
        self.built = True

    def _image_shape(self, step_shape: Shape) -> Shape:
        """The shape of the output and of the states without the batch, for one step's input without it."""
        channels_last = self.data_format == "channels_last"
        space = step_shape[:-1] if channels_last else step_shape[1:]
        windows = [
            (size - 1) * step + 1
            for size, step in zip(self.kernel_size, self.dilation_rate, strict=True)
        ]
        lengths = [
            None if length is None else count_windows(length, window, stride, self.padding)
            for length, window, stride in zip(space, windows, self.strides, strict=True)
        ]
        if any(length is not None and length < 1 for length in lengths):
            raise ValueError(
                f"layer {self.name!r}: expected images that a kernel of size {self.kernel_size}, "
                f"dilated by {self.dilation_rate}, fits into; got shape {step_shape}"
            )
        return (*lengths, self.filters) if channels_last else (self.filters, *lengths)

    def state_shapes(self, step_shape: Shape | None = None) -> list[Shape]:
        return [
            self._image_shape((None,) * (self.rank + 1) if step_shape is None else step_shape)
        ] * 2

    def output_shape(self, step_shape: Shape) -> Shape:
        return self._image_shape(step_shape)

    def get_initial_state(self, batch_size: int | None = None) -> list[np.ndarray]:
        """Return zeros for h and c: a list of ndarray, shape (batch_size, *image).

        Raises
        ------
        ValueError
            If the size of the images is not known.
        """
        (shape, _) = self.state_shapes(self.step_shape)
        if None in shape:
            raise ValueError(
                f"layer {self.name!r}: expected images of known size for states of zeros; got {self.step_shape}"
            )
        return super().get_initial_state(batch_size)

    def recurrence(self) -> tuple[reference.Cell, str]:
        cell = reference.ConvLSTM(
            self.kernel,
            self.recurrent_kernel,
            self.bias,
            self.activation,
            self.recurrent_activation,
            strides=self.strides,
            dilation=self.dilation_rate,
            padding=self.padding,
            channel_axis=self._channel_axis,
        )
        return cell, "conv_lstm"


class ConvLSTM(RNN):
    """The base of `ConvLSTM1D`, `ConvLSTM2D` and `ConvLSTM3D`: a `ConvLSTMCell` over time.

    Parameters
    ----------
    filters : int
        Channels of the output and of the states.
    kernel_size : int or tuple of int
    strides, dilation_rate : int or tuple of int
        Of the input's convolution: one of the two is 1. The states' convolution keeps their size and has neither.
    padding : {"valid", "same"}
        Of the input's convolution.
    data_format : {"channels_last", "channels_first"}, optional
    activation, recurrent_activation, use_bias, ..., seed
        As in `LSTM`.
    return_sequences, return_state, go_backwards, stateful, unroll, zero_output_for_mask : bool
        As in `RNN`.
    **kwargs
        `Layer`'s arguments.

    Notes
    -----
    Inputs are (batch, timesteps, *space, channels), or with "channels_first" (batch, timesteps, channels, *space);
    outputs and states are of the same data format. Weights: as of `ConvLSTMCell`.
    """

    rank: ClassVar[int]
    arguments = (*ConvLSTMCell.arguments[1:], "activity_regularizer")

    def __init__(
        self,
        filters: int,
        kernel_size: Sizes,
        strides: Sizes = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: Sizes = 1,
        activation: ActivationLike = "tanh",
        recurrent_activation: ActivationLike = "sigmoid",
        use_bias: bool = True,
        kernel_initializer: InitializerLike = "glorot_uniform",
        recurrent_initializer: InitializerLike = "orthogonal",
        bias_initializer: InitializerLike = "zeros",
        unit_forget_bias: bool = True,
        kernel_regularizer: object = None,
        recurrent_regularizer: object = None,
        bias_regularizer: object = None,
        activity_regularizer: object = None,
        kernel_constraint: object = None,
        recurrent_constraint: object = None,
        bias_constraint: object = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        seed: object = None,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        **kwargs: Any,
    ) -> None:
        cell = ConvLSTMCell(
            self.rank,
            filters,
            kernel_size,
            strides=strides,
            padding=padding,
            data_format=data_format,
            dilation_rate=dilation_rate,
            activation=activation,
            recurrent_activation=recurrent_activation,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            recurrent_initializer=recurrent_initializer,
            bias_initializer=bias_initializer,
            unit_forget_bias=unit_forget_bias,
            kernel_regularizer=kernel_regularizer,
            recurrent_regularizer=recurrent_regularizer,
            bias_regularizer=bias_regularizer,
            kernel_constraint=kernel_constraint,
            recurrent_constraint=recurrent_constraint,
            bias_constraint=bias_constraint,
            dropout=dropout,
            recurrent_dropout=recurrent_dropout,
            seed=seed,
            name="conv_lstm_cell",
            dtype=kwargs.get("dtype"),
        )
        super().__init__(
            cell,
            return_sequences=return_sequences,
            return_state=return_state,
            go_backwards=go_backwards,
            stateful=stateful,
            activity_regularizer=activity_regularizer,
            **kwargs,
        )


class ConvLSTM1D(ConvLSTM):
    """An LSTM of convolutions over images with one space axis; see `ConvLSTM`."""

    rank = 1


class ConvLSTM2D(ConvLSTM):
    """An LSTM of convolutions over images with two space axes; see `ConvLSTM`."""

    rank = 2


class ConvLSTM3D(ConvLSTM):
    """An LSTM of convolutions over images with three space axes; see `ConvLSTM`."""

    rank = 3
