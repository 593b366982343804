"""The base of the layers that are computed by NumPy: the ones that are not where the time goes."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from fastrnn import plan
from fastrnn._types import Nested, Shape
from fastrnn.dtypes import is_floating
from fastrnn.layers.base import Layer


class ArrayLayer(Layer):
    """A layer that is one function of its input array, or of its several input arrays.

    A subclass gives `compute` and, where the shape changes, `compute_output_shape`; also `_check_input`.
    """

    keeps_integers: bool = False
    """Whether integers and booleans come out as such: where numbers are only moved, chosen, added or multiplied."""

    def compute(self, *arrays: np.ndarray) -> np.ndarray:
        """Return the output for the inputs, each (batch, ...) and of the layer's dtype."""
        raise NotImplementedError

    def _mask_of(self, values: Sequence[plan.Value], builder: plan.Builder) -> int | None:
        """The buffer of the output's mask, or None: by default the one input's own."""
        return values[0].mask if self.supports_masking and len(values) == 1 else None

    def _values(self, x: Nested) -> list[plan.Value]:
        """The inputs in a list; ValueError if they are nested deeper."""
        values = x if isinstance(x, list) else [x]
        if not all(isinstance(value, plan.Value) for value in values):
            raise ValueError(f"layer {self.name!r}: expected an array or a flat list of arrays")
        return values

    def lower(self, builder: plan.Builder, x: plan.Value | list[plan.Value]) -> plan.Value:
        values = self._values(x)
        shapes = [value.shape for value in values]
        shape: Shape = self.compute_output_shape(shapes if isinstance(x, list) else shapes[0])
        dtype = self._integers_of(values) if self.keeps_integers else None
        y = builder.value(shape, self._mask_of(values, builder), dtype)
        step = None if dtype is not None else self._step(values, y)
        builder.add(step or self._in_numpy([value.buffer for value in values], y, self.compute))
        return y

    def _integers_of(self, values: Sequence[plan.Value]) -> np.dtype | None:
        """The dtype that the inputs have together, if they are known to hold integers or booleans."""
        dtypes = [value.dtype for value in values if value.dtype is not None]
        if len(dtypes) < len(values) or any(map(is_floating, dtypes)):
            return None
        return np.result_type(*dtypes)

    def _step(self, values: Sequence[plan.Value], y: plan.Value) -> plan.Step | None:
        """The step that has a kernel for `compute`, or None: by default there is none."""
        return None

    def _in_numpy(
        self, sources: Iterable[int], y: plan.Value, function: Callable[..., np.ndarray]
    ) -> plan.Step:
        """The step y = function(*sources), over integers as they come if that is what y holds."""
        dtype = self.compute_dtype if y.dtype is None else None
        return plan.Apply(tuple(sources), (y.buffer,), dtype, function, y.dtype)
