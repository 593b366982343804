"""Keras's core layers: Input, Dense, Activation, Dropout."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastrnn import activations, initializers, plan
from fastrnn._types import ActivationFunction, ActivationLike, Config, InitializerLike, Shape
from fastrnn.dtypes import is_floating
from fastrnn.errors import UnsupportedLayerError
from fastrnn.layers.base import Layer
from fastrnn.layers.quantized import RoundsInputs
from fastrnn.symbolic import KerasTensor, input_tensor


class InputLayer(Layer):
    """The input of a model.

    Parameters
    ----------
    shape : tuple of int or None, optional
        Without the batch.
    batch_size : int, optional
    dtype : str, optional
    sparse, ragged : bool
        Not supported.
    batch_shape : tuple of int or None, optional
        With the batch, instead of `shape` and `batch_size`.
    name : str, optional
    optional : bool
        Whether a model can be called with None for the input, where it is an argument of its own that a layer can do
        without, such as a mask or an initial state.

    Raises
    ------
    ValueError
        Unless exactly one of `shape` and `batch_shape` is given.
    UnsupportedLayerError
        For sparse or ragged inputs.
    """

    arguments = ("batch_shape", "sparse", "ragged", "optional")
    across_time = None

    def __init__(
        self,
        shape: Sequence[int | None] | None = None,
        batch_size: int | None = None,
        dtype: str | None = None,
        sparse: bool | None = None,
        ragged: bool | None = None,
        batch_shape: Sequence[int | None] | None = None,
        input_tensor: None = None,
        optional: bool = False,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.batch_shape: Shape
        if shape is not None and batch_shape is None:
            self.batch_shape = (batch_size, *shape)
        elif batch_shape is not None and shape is None:
            self.batch_shape = tuple(batch_shape)
        else:
            raise ValueError(
                f"expected one of shape and batch_shape; got {shape!r} and {batch_shape!r}"
            )
        if sparse or ragged or input_tensor is not None:
            raise UnsupportedLayerError(
                f"input {self.name!r}: sparse, ragged and tensor inputs are not supported"
            )
        self.input_dtype = "float32" if dtype is None else str(dtype)
        self.sparse, self.ragged, self.optional = bool(sparse), bool(ragged), bool(optional)
        self.built = True

    def get_config(self) -> Config:
        config = super().get_config()
        del config["trainable"]
        return {**config, "dtype": self.input_dtype}

    def lower(self, builder: plan.Builder, x: plan.Value) -> plan.Value:
        return x


def Input(
    shape: Sequence[int | None] | None = None,
    batch_size: int | None = None,
    dtype: str | None = None,
    sparse: bool | None = None,
    ragged: bool | None = None,
    batch_shape: Sequence[int | None] | None = None,
    name: str | None = None,
    tensor: None = None,
    optional: bool = False,
) -> KerasTensor:
    """Return the symbolic tensor of an `InputLayer`; the arguments are its, in the order of Keras's function."""
    layer = InputLayer(
        shape, batch_size, dtype, sparse, ragged, batch_shape, tensor, optional, name
    )
    return input_tensor(layer, layer.batch_shape, layer.input_dtype)


class Dense(RoundsInputs):
    """activation(x @ kernel + bias) over the last axis.

    Parameters
    ----------
    units : int
    activation : str or callable, optional
    use_bias : bool
    kernel_initializer, bias_initializer : str, dict or callable
    kernel_regularizer, bias_regularizer, activity_regularizer, kernel_constraint, bias_constraint : optional
        Kept for the config.
    lora_rank, lora_alpha, quantization_config : None
        Not supported.

    Notes
    -----
    Weights: kernel (features, units), bias (units,).
    """

    arguments = (
        "units",
        "activation",
        "use_bias",
        "kernel_initializer",
        "bias_initializer",
        "kernel_regularizer",
        "bias_regularizer",
        "kernel_constraint",
        "bias_constraint",
        "quantization_config",
    )

    def __init__(
        self,
        units: int,
        activation: ActivationLike = None,
        use_bias: bool = True,
        kernel_initializer: InitializerLike = "glorot_uniform",
        bias_initializer: InitializerLike = "zeros",
        kernel_regularizer: object = None,
        bias_regularizer: object = None,
        activity_regularizer: object = None,
        kernel_constraint: object = None,
        bias_constraint: object = None,
        lora_rank: None = None,
        lora_alpha: None = None,
        quantization_config: None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        if lora_rank or quantization_config is not None:
            raise UnsupportedLayerError(
                f"layer {self.name!r}: LoRA and quantized Dense layers are not supported"
            )
        self.units = positive_integer(units, f"layer {self.name!r}: units")
        self.activation = activations.get(activation)
        self.use_bias = use_bias
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.kernel_regularizer, self.bias_regularizer = kernel_regularizer, bias_regularizer
        self.kernel_constraint, self.bias_constraint = kernel_constraint, bias_constraint
        self.quantization_config = quantization_config

    @property
    def kernel(self) -> np.ndarray:
        """ndarray, shape (features, units)."""
        return self._weights["kernel"]

    @property
    def bias(self) -> np.ndarray | None:
        """ndarray, shape (units,), or None."""
        return self._weights.get("bias")

    def get_config(self) -> Config:
        config = super().get_config()
        if self.activity_regularizer is not None:
            config["activity_regularizer"] = self.activity_regularizer
        return config

    def build(self, input_shape: Shape) -> None:
        self.add_weight((input_shape[-1], self.units), self.kernel_initializer, name="kernel")
        if self.use_bias:
            self.add_weight((self.units,), self.bias_initializer, name="bias")
        self._add_inputs_scale()
        super().build(input_shape)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape[:-1], self.units)

    def _check_input(self, shape: Shape) -> None:
        if len(shape) < 2:
            raise ValueError(
                f"layer {self.name!r}: expected an input (batch, ..., features); got shape {tuple(shape)}"
            )
        if self.built and shape[-1] != self.kernel.shape[0]:
            raise ValueError(
                f"layer {self.name!r}: expected {self.kernel.shape[0]} features; got an input of shape {tuple(shape)}"
            )

    def why_across_time(self, x: plan.Value) -> str | None:
        return over_last_axis(x) or over_timesteps(self.activation, (*x.shape[:-1], self.units))

    def lower(self, builder: plan.Builder, x: plan.Value) -> plan.Value:
        if self.input_rounding is not None:
            x = self._round(builder, x)
        y = builder.value(self.compute_output_shape(x.shape), x.mask)
        inside = self.activation if plan.is_elementwise(self.activation) else activations.linear
        builder.add(
            plan.Dense((x.buffer,), (y.buffer,), self.compute_dtype, self.kernel, self.bias, inside)
        )
        return (
            y
            if inside is self.activation
            else activate(builder, y, self.activation, self.compute_dtype)
        )

    def _round(self, builder: plan.Builder, x: plan.Value) -> plan.Value:
        """The input as a quantized layer rounds it."""
        y = builder.value(x.shape, x.mask)

        def compute(array: np.ndarray) -> np.ndarray:
            return self._rounded(array, [-1])

        builder.add(plan.Apply((x.buffer,), (y.buffer,), self.compute_dtype, compute))
        return y


def positive_integer(value: int, what: str) -> int:
    """Return `value` as an int.

    Raises
    ------
    ValueError
        If it is not a positive integer.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{what}: expected a positive integer; got {value!r}")
    return int(value)


def activate(
    builder: plan.Builder, x: plan.Value, activation: ActivationFunction, dtype: np.dtype
) -> plan.Value:
    """Write the step activation(x); returns its value."""
    if activation is activations.linear:
        return x
    y = builder.value(_shape_after(activation, x.shape), x.mask)
    builder.add(plan.Activate((x.buffer,), (y.buffer,), dtype, activation))
    return y


def _shape_after(activation: ActivationFunction, shape: Shape) -> Shape:
    """The shape that an activation makes of `shape`: another one for `glu`, or for a function of the user's."""
    tried = np.shape(activation(np.zeros([size or 1 for size in shape], np.float32)))
    return tuple(None if size is None else new for size, new in zip(shape, tried, strict=True))


def over_last_axis(x: plan.Value) -> str | None:
    """Return why a layer over the last axis cannot run timestep by timestep over `x`, or None if it can."""
    return "its features are the timesteps" if len(x.shape) < 3 else None


def over_timesteps(function: ActivationFunction, shape: Shape) -> str | None:
    """Return why a function of (batch, steps, ...) cannot be computed timestep by timestep, or None if it can.

    It is tried out on random numbers of this shape.
    """
    sizes = [2, 5, *(size or 4 for size in shape[2:])]
    x = np.random.default_rng(0).normal(size=sizes).astype(np.float32)
    whole = np.asarray(function(x))
    steps = [np.asarray(function(x[:, t : t + 1])) for t in range(5)]
    alone = whole.ndim > 1 and all(step.shape[:2] == (2, 1) for step in steps)
    if alone and np.allclose(np.concatenate(steps, axis=1), whole, 1e-4, 1e-5, equal_nan=True):
        return None
    return f"its {getattr(function, '__name__', 'activation')} of a timestep takes other timesteps"


_KEEPING_INTEGERS = (activations.relu, activations.relu6)


class Activation(Layer):
    """activation(x).

    Parameters
    ----------
    activation : str or callable
    """

    arguments = ("activation",)

    def __init__(self, activation: ActivationLike, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.activation = activations.get(activation)

    def why_across_time(self, x: plan.Value) -> str | None:
        return over_timesteps(self.activation, x.shape)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return _shape_after(self.activation, input_shape)

    def lower(self, builder: plan.Builder, x: plan.Value) -> plan.Value:
        dtype = x.dtype
        if self.activation not in _KEEPING_INTEGERS or dtype is None or is_floating(dtype):
            return activate(builder, x, self.activation, self.compute_dtype)
        y = builder.value(x.shape, x.mask, dtype)
        builder.add(plan.Apply((x.buffer,), (y.buffer,), None, self.activation, dtype))
        return y


class Dropout(Layer):
    """The identity, as in inference.

    Parameters
    ----------
    rate : float
        Between 0 and 1; `training=True` is an error if it is not 0.
    noise_shape, seed : optional
        Kept for the config.
    """

    arguments = ("rate", "seed", "noise_shape")
    across_time = None

    def __init__(
        self, rate: float, noise_shape: object = None, seed: object = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if not 0 <= rate <= 1:
            raise ValueError(f"layer {self.name!r}: expected a rate between 0 and 1; got {rate!r}")
        self.rate, self.noise_shape, self.seed = rate, noise_shape, seed

    def _refuse_training(self, training: bool) -> None:
        if training and self.rate:
            raise ValueError(
                f"layer {self.name!r}: fastrnn runs inference only, so training=True cannot drop inputs"
            )

    def lower(self, builder: plan.Builder, x: plan.Value) -> plan.Value:
        return x
