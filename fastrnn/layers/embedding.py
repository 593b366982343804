"""Keras's layers that turn numbers into sequences with masks: Embedding and Masking."""

from typing import Any

import numpy as np

from fastrnn import initializers, plan
from fastrnn._types import InitializerLike, Shape
from fastrnn.errors import UnsupportedLayerError
from fastrnn.layers.base import Layer
from fastrnn.layers.core import over_last_axis, positive_integer


class Embedding(Layer):
    """A row of a table for each integer.

    Parameters
    ----------
    input_dim : int
        Rows of the table: integers are below it.
    output_dim : int
        Columns of the table.
    embeddings_initializer : str, dict or callable
    embeddings_regularizer, embeddings_constraint : optional
        Kept for the config.
    mask_zero : bool
        Let the output carry a mask that is False where the integer is 0.
    weights : ndarray or list of one ndarray, optional
        The table, (input_dim, output_dim).
    lora_rank, lora_alpha, quantization_config : None
        Not supported.

    Notes
    -----
    Weights: embeddings (input_dim, output_dim). Numbers that are no integers are cut off, as Keras does. An integer
    outside the table is a ValueError, as TensorFlow makes it an error.
    """

    arguments = (
        "input_dim",
        "output_dim",
        "embeddings_initializer",
        "embeddings_regularizer",
        "activity_regularizer",
        "embeddings_constraint",
        "mask_zero",
        "quantization_config",
    )

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        embeddings_initializer: InitializerLike = "uniform",
        embeddings_regularizer: Any = None,
        embeddings_constraint: Any = None,
        mask_zero: bool = False,
        weights: Any = None,
        lora_rank: None = None,
        lora_alpha: None = None,
        quantization_config: None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if lora_rank or quantization_config is not None:
            raise UnsupportedLayerError(
                f"layer {self.name!r}: LoRA and quantized Embedding layers are not supported"
            )
        self.input_dim = positive_integer(input_dim, f"layer {self.name!r}: input_dim")
        self.output_dim = positive_integer(output_dim, f"layer {self.name!r}: output_dim")
        self.embeddings_initializer = initializers.get(embeddings_initializer)
        self.embeddings_regularizer = embeddings_regularizer
        self.embeddings_constraint = embeddings_constraint
        self.mask_zero, self.quantization_config = mask_zero, quantization_config
        if weights is not None:
            self.build()
            self.set_weights(weights if isinstance(weights, list) else [weights])

    across_time = None

    @property
    def embeddings(self) -> np.ndarray:
        """ndarray, shape (input_dim, output_dim)."""
        return self._weights["embeddings"]

    def build(self, input_shape: Shape | None = None) -> None:
        if not self.built:
            shape = (self.input_dim, self.output_dim)
            self.add_weight(shape, self.embeddings_initializer, name="embeddings")
        super().build(input_shape or ())

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape, self.output_dim)

    def lower(self, builder: plan.Builder, x: plan.Value) -> plan.Value:
        mask = builder.mask() if self.mask_zero else None
        if mask is not None:
            builder.add(plan.NotZero((x.buffer,), (mask,), self.compute_dtype))
        y = builder.value(self.compute_output_shape(x.shape), mask)
        table = plan.Table(self.embeddings, self.name)
        builder.add(plan.Lookup((x.buffer,), (y.buffer,), self.compute_dtype, table))
        return y


class Masking(Layer):
    """The input with a mask: a timestep whose features all equal `mask_value` does not count, and becomes zeros.

    Parameters
    ----------
    mask_value : float
    """

    arguments = ("mask_value",)

    def __init__(self, mask_value: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mask_value = mask_value

    def why_across_time(self, x: plan.Value) -> str | None:
        return over_last_axis(x)

    def lower(self, builder: plan.Builder, x: plan.Value) -> plan.Value:
        mask = builder.mask()
        y = builder.value(x.shape, mask)
        step = plan.Blank((x.buffer,), (y.buffer, mask), self.compute_dtype, self.mask_value)
        builder.add(step)
        return y
