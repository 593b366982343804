"""The arrays that files hold for quantized layers, and the weights that they stand for."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fastrnn.dtypes import rounded
from fastrnn.errors import ModelFormatError
from fastrnn.layers.quantized import through_float8
from fastrnn.saving.spec import Quantization

if TYPE_CHECKING:
    from fastrnn.layers import Layer

_TRAINING_OF_FLOAT8 = (
    "inputs_amax_history",
    "kernel_scale",
    "kernel_amax_history",
    "outputs_grad_scale",
    "outputs_grad_amax_history",
)


@dataclass(frozen=True)
class StoredArrays:
    """What a file holds for a quantized layer.

    Parameters
    ----------
    layer : Layer
        Built.
    quantization : Quantization
    """

    layer: "Layer"
    quantization: Quantization

    @property
    def first(self) -> str:
        """str: the name of the weight that is quantized."""
        return next(iter(self.layer._weights))

    @property
    def _rows_and_columns(self) -> tuple[int, int]:
        """The sizes of the matrix that is packed."""
        shape = self.layer._weights[self.first].shape
        reduced = getattr(self.layer, "reduced_axes", None)
        if reduced is None:
            return shape[0], shape[1]
        axes = self.layer._kernel_axes  # type: ignore[attr-defined]  # an EinsumDense
        rows = int(
            np.prod([size for axis, size in zip(axes, shape, strict=True) if axis in reduced])
        )
        return rows, int(np.prod(shape)) // rows

    def described(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Return the arrays' shapes and dtypes by name, in the order of an archive."""
        first, weights = self.first, self.layer._weights
        others = {
            name: (one.shape, one.dtype.name) for name, one in weights.items() if name != first
        }
        shape, mode, block = (
            weights[first].shape,
            self.quantization.mode,
            self.quantization.block_size,
        )
        if mode == "float8":
            length = (self.quantization.amax_history_length,)
            extra = {name: (() if "scale" in name else length) for name in _TRAINING_OF_FLOAT8}
            arrays = {first: (shape, "float32"), **others}
            return {**arrays, **{name: (one, "float32") for name, one in extra.items()}}
        rows, columns = self._rows_and_columns
        if mode == "int8":
            scale = (rows,) if first == "embeddings" else (columns,)
            scale = getattr(self.layer, "shape_over_output", lambda: scale)()
            return {first: (shape, "int8"), **others, "scale": (scale, "float32")}
        packed = {first: ((rows, (columns + 1) // 2), "int8"), **others}
        by_row = first == "embeddings"
        if block is None:
            return {**packed, "scale": ((rows if by_row else columns,), "float32")}
        groups = -(-(columns if by_row else rows) // block)
        each = (rows, groups) if by_row else (groups, columns)
        length = (columns if by_row else rows,)
        return {
            **packed,
            "scale": (each, "float32"),
            "zero": (each, "int8"),
            "group": (length, "float32"),
        }

    def weights(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the layer's weights by name, from the stored arrays.

        Raises
        ------
        ModelFormatError
            If they contradict each other.
        """
        first, mode = self.first, self.quantization.mode
        result = {name: arrays[name] for name in self.layer._weights}
        with np.errstate(all="ignore"):
            if mode == "float8":
                result[first] = through_float8(arrays[first], arrays["kernel_scale"])
                if "bias" in result and self.layer.dtype_policy.compute_dtype == "float32":
                    result["bias"] = rounded(result["bias"], "bfloat16")
            else:
                result[first] = self._dequantized(arrays)
        return result

    def _dequantized(self, arrays: dict[str, np.ndarray]) -> np.ndarray:
        first, dtype = self.first, self.layer.compute_dtype
        shape = self.layer._weights[first].shape
        by_row = first == "embeddings"
        whole, scale = arrays[first], arrays["scale"].astype(dtype)
        if self.quantization.mode == "int8":
            if hasattr(self.layer, "spread_over_output"):
                return whole / self.layer.spread_over_output(scale)
            return whole / (scale[:, np.newaxis] if by_row else scale)
        _, columns = self._rows_and_columns
        halves = np.stack([whole & 15, whole.view(np.uint8) >> 4], axis=-1).astype(np.int8)
        unpacked = halves.reshape(len(whole), -1)[:, :columns]
        numbers = np.where(unpacked > 7, unpacked - 16, unpacked).astype(dtype)
        if self.quantization.block_size is None:
            return (numbers / (scale[:, np.newaxis] if by_row else scale)).reshape(shape)
        groups, axis = arrays["group"].astype(np.int64), 1 if by_row else 0
        if np.any((groups < 0) | (groups >= scale.shape[axis])):
            raise ModelFormatError(
                f"layer {self.layer.name!r}: expected groups below {scale.shape[axis]} for its quantized weights; "
                f"got {groups.min()} to {groups.max()}"
            )
        zeros = arrays["zero"].astype(dtype)
        spread = (numbers - zeros.take(groups, axis)) * scale.take(groups, axis)
        return spread.reshape(shape)
