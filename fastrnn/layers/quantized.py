"""What layers that Keras has quantized do to their inputs; their weights are dequantized when they are loaded."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fastrnn._types import Config
from fastrnn.layers.base import Layer

_LARGEST_FLOAT8 = 448.0
_LEAST_EXPONENT = -6
_MANTISSA_BITS = 3


def as_float8(x: np.ndarray) -> np.ndarray:
    """Return floating-point numbers rounded to those of float8_e4m3fn, to even where two are as near."""
    x = np.clip(x, -_LARGEST_FLOAT8, _LARGEST_FLOAT8)
    _, exponents = np.frexp(x)
    steps = np.ldexp(x.dtype.type(1), np.maximum(exponents - 1, _LEAST_EXPONENT) - _MANTISSA_BITS)
    return np.rint(x / steps) * steps


def through_float8(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return `x` as it is after being stored in float8, divided by `scale`."""
    scale = scale.astype(x.dtype)
    return as_float8(x / scale) * scale


@dataclass(frozen=True)
class InputRounding:
    """Rounds inputs as a quantized layer does.

    Parameters
    ----------
    limits : (int, int) or None
        Of the whole numbers that inputs become, times a scale that is computed from them; None is float8, whose scale
        is a weight of the layer.
    epsilon : float
        Added to the largest input before its scale is computed.
    """

    limits: tuple[int, int] | None
    epsilon: float = 1e-7

    def __call__(
        self, x: np.ndarray, axes: Sequence[int], scale: np.ndarray | None = None
    ) -> np.ndarray:
        """Return `x` rounded; whole numbers along `axes` share a scale."""
        if self.limits is None:
            assert scale is not None
            return through_float8(x, scale)
        least, most = self.limits
        largest = np.max(np.abs(x), axis=tuple(axes), keepdims=True)
        scales = x.dtype.type(most) / (largest + x.dtype.type(self.epsilon))
        return np.clip(np.rint(x * scales), least, most) / scales


class RoundsInputs(Layer):
    """A layer that Keras can quantize so that it rounds its inputs."""

    input_rounding: InputRounding | None = None

    def get_config(self) -> Config:
        if self.input_rounding is not None:
            raise NotImplementedError(f"layer {self.name!r}: a quantized layer has no config")
        return super().get_config()

    def _add_inputs_scale(self) -> None:
        """Make the scale that float8 has as a weight."""
        if self.input_rounding is not None and self.input_rounding.limits is None:
            self.add_weight((), "ones", trainable=False, name="inputs_scale")

    def _rounded(self, x: np.ndarray, axes: Sequence[int]) -> np.ndarray:
        """Inputs as a quantized layer rounds them, along the axes over which it sums products."""
        assert self.input_rounding is not None
        return self.input_rounding(x, axes, self._weights.get("inputs_scale"))
