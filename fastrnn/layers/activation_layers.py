"""Keras's activations that are layers of their own."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastrnn import activations, initializers, plan
from fastrnn._types import ActivationFunction, InitializerLike, Shape
from fastrnn.layers.arguments import to_numeric
from fastrnn.layers.array import ArrayLayer
from fastrnn.layers.common import MaskReadingLayer, across_axes


def activation_step(
    x: plan.Value, y: plan.Value, dtype: np.dtype, function: ActivationFunction
) -> plan.Activate:
    """Return the step y = function(x)."""
    return plan.Activate((x.buffer,), (y.buffer,), dtype, function)


class _Slope(ArrayLayer):
    across_time = None

    def _not_negative(self, value: float | None, argument: str) -> float:
        if value is None or value < 0:
            raise ValueError(
                f"layer {self.name!r}: {argument}: expected a number of at least 0; got {value!r}"
            )
        return value


class ReLU(_Slope):
    """x from `threshold` to `max_value`, negative_slope * (x - threshold) below.

    Parameters
    ----------
    max_value : float, optional
        The largest output.
    negative_slope, threshold : float
        At least 0.
    """

    arguments = ("max_value", "negative_slope", "threshold")

    def __init__(
        self,
        max_value: float | None = None,
        negative_slope: float = 0.0,
        threshold: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.max_value = None if max_value is None else self._not_negative(max_value, "max_value")
        self.negative_slope = self._not_negative(negative_slope, "negative_slope")
        self.threshold = self._not_negative(threshold, "threshold")
        self.keeps_integers = not self.negative_slope and (self.max_value or 0) % 1 == 0

    def _step(self, values: Sequence[plan.Value], y: plan.Value) -> plan.Step | None:
        if self.negative_slope or self.threshold or self.max_value not in (None, 6):
            return None
        function = activations.relu if self.max_value is None else activations.relu6
        return activation_step(values[0], y, self.compute_dtype, function)

    def compute(self, *arrays: np.ndarray) -> np.ndarray:
        (x,) = arrays
        return activations.relu(x, self.negative_slope, self.max_value, self.threshold)


class LeakyReLU(_Slope):
    """x where positive, negative_slope * x elsewhere.

    Parameters
    ----------
    negative_slope : float
        At least 0; `alpha` is its old name.
    """

    arguments = ("negative_slope",)

    def __init__(self, negative_slope: float = 0.3, **kwargs: Any) -> None:
        negative_slope = kwargs.pop("alpha", negative_slope)
        super().__init__(**kwargs)
        self.negative_slope = self._not_negative(negative_slope, "negative_slope")

    def compute(self, *arrays: np.ndarray) -> np.ndarray:
        (x,) = arrays
        return activations.leaky_relu(x, self.negative_slope)


class PReLU(ArrayLayer):
    """x where positive, alpha * x elsewhere.

    Parameters
    ----------
    alpha_initializer : str, dict or callable
    alpha_regularizer, alpha_constraint : optional
        Kept for the config.
    shared_axes : int or list of int, optional
        The axes, from 1, along which alpha is the same.

    Notes
    -----
    Weights: alpha, of the input's shape without the batch, 1 along the shared axes.
    """

    arguments = ("alpha_initializer", "alpha_regularizer", "alpha_constraint", "shared_axes")

    def __init__(
        self,
        alpha_initializer: InitializerLike = "Zeros",
        alpha_regularizer: Any = None,
        alpha_constraint: Any = None,
        shared_axes: int | Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.alpha_initializer = initializers.get(alpha_initializer)
        self.alpha_regularizer, self.alpha_constraint = alpha_regularizer, alpha_constraint
        self.shared_axes = [shared_axes] if isinstance(shared_axes, int) else shared_axes
        if self.shared_axes is not None:
            self.shared_axes = list(self.shared_axes)

    @property
    def alpha(self) -> np.ndarray:
        """ndarray, of the input's shape without the batch, 1 along the shared axes."""
        return self._weights["alpha"]

    def build(self, input_shape: Shape) -> None:
        shared = self.shared_axes or []
        if any(not 1 <= axis < len(input_shape) for axis in shared):
            raise ValueError(
                f"layer {self.name!r}: shared_axes: expected axes from 1 to {len(input_shape) - 1}; got {shared}"
            )
        shape = tuple(1 if i in shared else size for i, size in enumerate(input_shape))[1:]
        if None in shape:
            raise ValueError(
                f"layer {self.name!r}: expected an input of known sizes along the axes that are not shared; "
                f"got shape {tuple(input_shape)}"
            )
        self.add_weight(shape, self.alpha_initializer, name="alpha")
        super().build(input_shape)

    def why_across_time(self, x: plan.Value) -> str | None:
        shared = len(x.shape) > 2 and self.alpha.shape[0] == 1
        return None if shared else "its alpha is another one at each timestep (no shared_axes=[1])"

    def _check_input(self, shape: Shape) -> None:
        if not self.built:
            return
        expected = self.alpha.shape
        if len(shape) != len(expected) + 1 or any(
            size not in (None, known) and known != 1
            for size, known in zip(shape[1:], expected, strict=True)
        ):
            raise ValueError(
                f"layer {self.name!r}: expected an input that fits alpha's shape {expected}; got shape {tuple(shape)}"
            )

    def compute(self, *arrays: np.ndarray) -> np.ndarray:
        (x,) = arrays
        return np.where(x > 0, x, self.alpha * x)


class ELU(ArrayLayer):
    """x where positive, alpha * (exp(x) - 1) elsewhere.

    Parameters
    ----------
    alpha : float
    """

    arguments = ("alpha",)
    across_time = None

    def __init__(self, alpha: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.alpha = alpha

    def _step(self, values: Sequence[plan.Value], y: plan.Value) -> plan.Step | None:
        if self.alpha != 1:
            return None
        return activation_step(values[0], y, self.compute_dtype, activations.elu)

    def compute(self, *arrays: np.ndarray) -> np.ndarray:
        (x,) = arrays
        return activations.elu(x, self.alpha)


class Softmax(MaskReadingLayer):
    """exp(x) / sum(exp(x)).

    Parameters
    ----------
    axis : int or list of int
        What the sum is over.
    reads_masks : bool
        Whether a mask counts. This option and the next are False for files of versions that did otherwise, and not in
        the config.
    zeroes_masked_rows : bool
        Whether a sum over nothing but masked numbers gives zeros, and not what it is without the mask.

    Notes
    -----
    With a mask, the sum is over the numbers where it is True, and the others are 0. As in Keras, the mask's axes are
    the input's last ones.
    """

    arguments = ("axis",)

    def __init__(
        self,
        axis: int | Sequence[int] = -1,
        *,
        reads_masks: bool = True,
        zeroes_masked_rows: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.axis = axis
        self.reads_masks, self.zeroes_masked_rows = reads_masks, zeroes_masked_rows

    def why_across_time(self, x: plan.Value) -> str | None:
        if x.mask is not None and self.reads_masks:
            return "it takes the mask of the timesteps for one of the last axis"
        return across_axes([self.axis] if isinstance(self.axis, int) else self.axis, x)

    def _check_input(self, shape: Shape) -> None:
        axes = [self.axis] if isinstance(self.axis, int) else self.axis
        if any(not -len(shape) <= axis < len(shape) for axis in axes):
            raise ValueError(
                f"layer {self.name!r}: expected an input with the axes {self.axis}; got shape {tuple(shape)}"
            )

    def _step(self, values: Sequence[plan.Value], y: plan.Value) -> plan.Step | None:
        if self.axis not in (-1, len(y.shape) - 1) or len(y.shape) < 2:
            return None
        return activation_step(values[0], y, self.compute_dtype, activations.softmax)

    def _to_mask(self, mask: ArrayLike, shape: tuple[int, ...]) -> np.ndarray:
        array = to_numeric(mask, f"layer {self.name!r}: mask")
        # An array also of a mask without axes, of which > makes a number.
        return array if array.dtype == np.bool_ else np.asarray(array > 0.5)

    def compute(self, *arrays: np.ndarray) -> np.ndarray:
        x, *masks = arrays
        axis = self.axis if isinstance(self.axis, int) else tuple(self.axis)
        for mask in masks:
            if not _broadcasts(mask.shape, x.shape):
                raise ValueError(
                    f"layer {self.name!r}: expected a mask that fits the last axes of its input {x.shape}; "
                    f"got shape {mask.shape}"
                )
            less = -1e9 if self.zeroes_masked_rows else x - x.dtype.type(1e9)
            x = np.where(mask, x, less)
        y = activations.softmax(x, axis)
        for mask in masks if self.zeroes_masked_rows else []:
            y = np.where(mask, y, 0)
        return y


def _broadcasts(shape: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return len(shape) <= len(other) and all(
        size in (1, known) for size, known in zip(shape[::-1], other[::-1], strict=False)
    )
