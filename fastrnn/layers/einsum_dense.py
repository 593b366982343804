"""Keras's EinsumDense: a dense layer over any axes."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastrnn import activations, initializers, plan
from fastrnn._types import ActivationLike, InitializerLike, Shape
from fastrnn.layers.array import ArrayLayer
from fastrnn.layers.core import over_timesteps
from fastrnn.layers.quantized import RoundsInputs


class EinsumDense(RoundsInputs, ArrayLayer):
    """activation(einsum(equation, x, kernel) + bias).

    Parameters
    ----------
    equation : str
        "ab,bc->ac" and the like; the input's and the output's axes may begin or end with "...".
    output_shape : int or tuple of int or None
        The output's sizes without the batch and without those of "...".
    activation : str or callable, optional
    bias_axes : str, optional
        The axes of the output along which the bias differs; no bias by default.
    kernel_initializer, bias_initializer : str, dict or callable
    kernel_regularizer, bias_regularizer, activity_regularizer, kernel_constraint, bias_constraint : optional
        Kept for the config.
    lora_rank, lora_alpha, gptq_unpacked_column_size, quantization_config : None
        Not supported.

    Notes
    -----
    Weights: kernel, of the axes that the equation gives it; bias.
    """

    supports_masking = False
    arguments = (
        "output_shape",
        "equation",
        "activation",
        "bias_axes",
        "kernel_initializer",
        "bias_initializer",
        "kernel_regularizer",
        "bias_regularizer",
        "activity_regularizer",
        "kernel_constraint",
        "bias_constraint",
        "quantization_config",
    )

    def __init__(
        self,
        equation: str,
        output_shape: int | Sequence[int | None],
        activation: ActivationLike = None,
        bias_axes: str | None = None,
        kernel_initializer: InitializerLike = "glorot_uniform",
        bias_initializer: InitializerLike = "zeros",
        kernel_regularizer: object = None,
        bias_regularizer: object = None,
        kernel_constraint: object = None,
        bias_constraint: object = None,
        lora_rank: None = None,
        lora_alpha: None = None,
        gptq_unpacked_column_size: None = None,
        quantization_config: None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        parts = re.fullmatch(
            r"(\.\.\.)?([a-zA-Z]+)(\.\.\.)?,([a-zA-Z]+)->(\.\.\.)?([a-zA-Z]+)(\.\.\.)?", equation
        )
        if parts is None or (parts[1], parts[3]) != (parts[5], parts[7]) or (parts[1] and parts[3]):
            raise ValueError(
                f"layer {self.name!r}: expected an equation such as 'ab,bc->ac' or '...b,bc->...c'; got {equation!r}"
            )
        self.equation, self.bias_axes = equation, bias_axes
        self._input_axes, self._kernel_axes, self._output_axes = parts[2], parts[4], parts[6]
        self._rest_first, self._rest_last = bool(parts[1]), bool(parts[3])
        self.output_shape = (
            tuple(output_shape) if isinstance(output_shape, Sequence) else (output_shape,)
        )
        unknown = set(self._kernel_axes + self._output_axes) - set(
            self._input_axes + self._kernel_axes
        )
        if unknown or set(bias_axes or "") - set(self._output_axes):
            raise ValueError(
                f"layer {self.name!r}: expected axes of the equation {equation!r}; got {bias_axes=!r}"
            )
        self.activation = activations.get(activation)
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.kernel_regularizer, self.bias_regularizer = kernel_regularizer, bias_regularizer
        self.kernel_constraint, self.bias_constraint = kernel_constraint, bias_constraint
        self.quantization_config = quantization_config

    @property
    def kernel(self) -> np.ndarray:
        """ndarray."""
        return self._weights["kernel"]

    @property
    def reduced_axes(self) -> str:
        """str: the axes of the equation over which products are summed."""
        return "".join(axis for axis in self._kernel_axes if axis not in self._output_axes)

    def spread_over_output(self, numbers: np.ndarray) -> np.ndarray:
        """Return numbers for each output, in a shape that broadcasts to the output, in one that does to the kernel."""
        kept = [axis for axis in self._output_axes if axis in self._kernel_axes]
        sizes = dict(zip(self._kernel_axes, self.kernel.shape, strict=True))
        numbers = numbers.reshape([sizes[axis] for axis in kept])
        in_order = sorted(range(len(kept)), key=lambda i: self._kernel_axes.index(kept[i]))
        shape = [1 if axis in self.reduced_axes else sizes[axis] for axis in self._kernel_axes]
        return numbers.transpose(in_order).reshape(shape)

    def shape_over_output(self) -> Shape:
        """Return the shape of numbers for each output, with 1 for the axes that do not come from the kernel."""
        sizes = dict(zip(self._kernel_axes, self.kernel.shape, strict=True))
        rest = [1] * (self.built_rank - len(self._input_axes))
        own = [sizes.get(axis, 1) for axis in self._output_axes]
        return (*rest, *own) if self._rest_first else (*own, *rest)

    @property
    def bias(self) -> np.ndarray | None:
        """ndarray or None."""
        return self._weights.get("bias")

    def build(self, input_shape: Shape) -> None:
        self._check_input(input_shape)
        sizes = self._sizes(input_shape)
        kernel_shape = tuple(sizes[axis] for axis in self._kernel_axes)
        self.add_weight(kernel_shape, self.kernel_initializer, name="kernel")
        if self.bias_axes:
            first = min(map(self._output_axes.index, self.bias_axes))
            shape = [
                sizes[axis] if axis in self.bias_axes else 1 for axis in self._output_axes[first:]
            ]
            rest = len(input_shape) - len(self._input_axes) if self._rest_last else 0
            self.add_weight((*shape, *[1] * rest), self.bias_initializer, name="bias")
        self._add_inputs_scale()
        self.built_rank = len(input_shape)
        super().build(input_shape)

    def _check_input(self, shape: Shape) -> None:
        rest = len(shape) - len(self._input_axes)
        if rest < 0 or (rest and not (self._rest_first or self._rest_last)):
            raise ValueError(
                f"layer {self.name!r}: expected an input that fits the equation {self.equation!r}; "
                f"got shape {tuple(shape)}"
            )
        if not self.built:
            return
        sizes = self._sizes(shape)
        for axis, size in zip(self._kernel_axes, self.kernel.shape, strict=True):
            if axis in self._input_axes and sizes[axis] not in (None, size):
                raise ValueError(
                    f"layer {self.name!r}: expected {size} along the axis {axis!r} of the equation "
                    f"{self.equation!r}; got shape {tuple(shape)}"
                )

    def _sizes(self, input_shape: Shape) -> dict[str, int | None]:
        """The size of each axis of the equation."""
        rest = len(input_shape) - len(self._input_axes)
        start = rest if self._rest_first else 0
        own = self.output_shape[len(self.output_shape) - len(self._output_axes) :]
        if len(self.output_shape) < len(self._output_axes):
            own = (input_shape[0], *self.output_shape)  # the batch is an axis of the equation
        sizes = dict(zip(self._output_axes, own, strict=True))
        taken = dict(zip(self._input_axes, input_shape[start:], strict=False))
        return sizes | taken

    def why_across_time(self, x: plan.Value) -> str | None:
        rest = len(x.shape) - len(self._input_axes)
        place = 1 - rest if self._rest_first else 1
        if 0 <= place < len(self._input_axes):
            time = self._input_axes[place]
            kept = self._output_axes[place : place + 1] == time
            if not kept or time in self._kernel_axes or time in (self.bias_axes or ""):
                return f"the equation {self.equation!r} does not keep the timesteps apart"
        return over_timesteps(self.activation, self.compute_output_shape(x.shape))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        self._check_input(input_shape)
        sizes = self._sizes(input_shape)
        rest = len(input_shape) - len(self._input_axes)
        made = tuple(sizes[axis] for axis in self._output_axes)
        if self._rest_first:
            return (*input_shape[:rest], *made)
        return (*made, *input_shape[len(self._input_axes) :])

    def compute(self, *arrays: np.ndarray) -> np.ndarray:
        (x,) = arrays
        if self.input_rounding is not None:
            first = x.ndim - len(self._input_axes) if self._rest_first else 0
            axes = [first + self._input_axes.index(axis) for axis in self.reduced_axes]
            x = self._rounded(x, axes)
        y = np.einsum(self.equation, x, self.kernel, optimize=True)
        y = y if self.bias is None else y + self.bias
        return y if self.activation is activations.linear else self.activation(y)
