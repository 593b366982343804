"""Keras's normalization layers, as in inference, and the rescaling of inputs."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from fastrnn import initializers, plan
from fastrnn._types import Config, InitializerLike, Shape
from fastrnn.layers.arguments import fits, to_mask
from fastrnn.layers.array import ArrayLayer
from fastrnn.layers.common import across_axes
from fastrnn.layers.core import positive_integer

_SMALLEST_DEVIATION = 1e-7
_SMALLEST_NORM = 1e-12

Axes = int | Sequence[int]


def _as_list(axis: Axes) -> list[int]:
    return [axis] if isinstance(axis, int) else list(axis)


def affine(
    x: plan.Value,
    y: plan.Value,
    dtype: np.dtype,
    center: ArrayLike | None,
    scale: ArrayLike,
    shift: ArrayLike | None,
) -> plan.Affine | None:
    """Return the step y = (x - center) scale + shift, or None if these are not of the last axis, or it is not known.

    None for `center` or `shift` is 0.
    """
    features = y.shape[-1] if len(y.shape) > 1 else None
    given = [0 if numbers is None else numbers for numbers in (center, scale, shift)]
    if features is None or any(np.shape(n) not in ((), (1,), (features,)) for n in given):
        return None
    vectors = [np.full(features, numbers, dtype) for numbers in given]
    return plan.Affine((x.buffer,), (y.buffer,), dtype, *vectors)


def _ones_but(axes: Sequence[int], shape: Sequence[int | None]) -> tuple[int, ...]:
    """Return the shape that has the sizes of `shape` along `axes`, 1 along the others."""
    sizes = [1] * len(shape)
    for axis in axes:
        sizes[axis] = shape[axis] or 0
    return tuple(sizes)


class _AlongAxes(ArrayLayer):
    """A layer whose result depends on one or several axes, which its input must have."""

    axis: Any
    """int, or a sequence of int."""

    def _check_axis_argument(self, axis: Axes) -> Axes:
        axes: list[int] = list(axis) if isinstance(axis, (list, tuple)) else [axis]  # type: ignore[list-item]
        if any(isinstance(one, bool) or not isinstance(one, int) for one in axes):
            raise TypeError(
                f"layer {self.name!r}: expected axis as an int or a list of int; got {axis!r}"
            )
        return axes if isinstance(axis, (list, tuple)) else axes[0]

    def _check_axes(self, shape: Shape) -> None:
        for axis in _as_list(self.axis):
            if not -len(shape) <= axis < len(shape):
                raise ValueError(
                    f"layer {self.name!r}: expected an input that has the axis {axis}; got shape {tuple(shape)}"
                )

    def why_across_time(self, x: plan.Value) -> str | None:
        return across_axes(self._axes_of_weights(x.shape), x)

    def _axes_of_weights(self, shape: Shape) -> list[int]:
        """The axes in the order of the weights' own, for an input of this shape."""
        return _as_list(self.axis)

    def _sizes(self, shape: Shape) -> tuple[int, ...]:
        """The sizes along the axes, which weights need to be known."""
        self._check_axes(shape)
        sizes = [shape[axis] for axis in self._axes_of_weights(shape)]
        known = tuple(size for size in sizes if size is not None)
        if len(known) < len(sizes):
            raise ValueError(
                f"layer {self.name!r}: expected a known size along axis {self.axis}; got shape {tuple(shape)}"
            )
        return known

    def _check_input(self, shape: Shape) -> None:
        self._check_axes(shape)
        if not self._weights:
            return
        expected = next(iter(self._weights.values())).shape
        if not fits(tuple(shape[axis] for axis in self._axes_of_weights(shape)), expected):
            raise ValueError(
                f"layer {self.name!r}: expected the sizes {expected} along axis {self.axis}; got shape {tuple(shape)}"
            )

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        self._check_axes(input_shape)
        return tuple(input_shape)


class _Affine(_AlongAxes):
    """A normalization whose result is multiplied by gamma, added to beta."""

    epsilon: float

    def __init__(
        self,
        *,
        center: bool,
        scale: bool,
        beta_initializer: InitializerLike,
        gamma_initializer: InitializerLike,
        beta_regularizer: object,
        gamma_regularizer: object,
        beta_constraint: object,
        gamma_constraint: object,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.center, self.scale = center, scale
        self.beta_initializer = initializers.get(beta_initializer)
        self.gamma_initializer = initializers.get(gamma_initializer)
        self.beta_regularizer, self.gamma_regularizer = beta_regularizer, gamma_regularizer
        self.beta_constraint, self.gamma_constraint = beta_constraint, gamma_constraint

    @property
    def gamma(self) -> np.ndarray | None:
        """ndarray, the sizes along the axes, or None."""
        return self._weights.get("gamma")

    @property
    def beta(self) -> np.ndarray | None:
        """ndarray, the sizes along the axes, or None."""
        return self._weights.get("beta")

    def _add_affine(self, shape: tuple[int, ...], *, gamma: bool, beta: bool) -> None:
        if gamma:
            self.add_weight(shape, self.gamma_initializer, name="gamma")
        if beta:
            self.add_weight(shape, self.beta_initializer, name="beta")

    def _transform(
        self, x: np.ndarray, mean: np.ndarray, variance: np.ndarray, shape: tuple[int, ...]
    ) -> np.ndarray:
        """Return gamma (x - mean) / deviation + beta, with gamma and beta in `shape`."""
        factor = 1 / np.sqrt(variance + x.dtype.type(self.epsilon))
        if self.gamma is not None:
            factor = factor * self.gamma.reshape(shape)
        offset = -mean * factor
        if self.beta is not None:
            offset = offset + self.beta.reshape(shape)
        return x * factor + offset


class BatchNormalization(_Affine):
    """gamma (x - moving_mean) / sqrt(moving_variance + epsilon) + beta, as in inference.

    Parameters
    ----------
    axis : int
        That of the features.
    momentum : float
        Kept for the config.
    epsilon : float
    center, scale : bool
        Whether there are beta and gamma.
    beta_initializer, gamma_initializer, moving_mean_initializer, moving_variance_initializer : str, dict or callable
    beta_regularizer, gamma_regularizer, beta_constraint, gamma_constraint : optional
        Kept for the config.
    renorm : bool
        Adds the weights that Keras keeps for training; the result is the same.
    renorm_clipping, renorm_momentum, synchronized : optional
        Kept for the config.

    Notes
    -----
    Weights, each (features,): gamma, beta, moving_mean, moving_variance; with `renorm` also moving_stddev,
    renorm_mean, renorm_stddev.
    """

    arguments = (
        "axis",
        "momentum",
        "epsilon",
        "center",
        "scale",
        "beta_initializer",
        "gamma_initializer",
        "moving_mean_initializer",
        "moving_variance_initializer",
        "beta_regularizer",
        "gamma_regularizer",
        "beta_constraint",
        "gamma_constraint",
        "synchronized",
        "renorm",
        "renorm_clipping",
        "renorm_momentum",
    )

    def __init__(
        self,
        axis: int = -1,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: InitializerLike = "zeros",
        gamma_initializer: InitializerLike = "ones",
        moving_mean_initializer: InitializerLike = "zeros",
        moving_variance_initializer: InitializerLike = "ones",
        beta_regularizer: object = None,
        gamma_regularizer: object = None,
        beta_constraint: object = None,
        gamma_constraint: object = None,
        renorm: bool = False,
        renorm_clipping: Config | None = None,
        renorm_momentum: float = 0.99,
        synchronized: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            center=center,
            scale=scale,
            beta_initializer=beta_initializer,
            gamma_initializer=gamma_initializer,
            beta_regularizer=beta_regularizer,
            gamma_regularizer=gamma_regularizer,
            beta_constraint=beta_constraint,
            gamma_constraint=gamma_constraint,
            **kwargs,
        )
        self.axis: int = int(axis)
        self.momentum, self.epsilon = float(momentum), float(epsilon)
        self.moving_mean_initializer = initializers.get(moving_mean_initializer)
        self.moving_variance_initializer = initializers.get(moving_variance_initializer)
        self.renorm, self.renorm_momentum = renorm, renorm_momentum
        self.renorm_clipping = renorm_clipping or {} if renorm else renorm_clipping
        self.synchronized = synchronized

    @property
    def moving_mean(self) -> np.ndarray:
        """ndarray, shape (features,)."""
        return self._weights["moving_mean"]

    @property
    def moving_variance(self) -> np.ndarray:
        """ndarray, shape (features,)."""
        return self._weights["moving_variance"]

    def build(self, input_shape: Shape) -> None:
        shape = self._sizes(input_shape)
        self._add_affine(shape, gamma=self.scale, beta=self.center)
        self.add_weight(shape, self.moving_mean_initializer, name="moving_mean")
        self.add_weight(shape, self.moving_variance_initializer, name="moving_variance")
        if self.renorm:
            deviation = np.sqrt(self.moving_variance)
            self.add_weight(shape, initializers.get(deviation), name="moving_stddev")
            self.add_weight(shape, self.moving_mean_initializer, name="renorm_mean")
            self.add_weight(shape, initializers.get(deviation), name="renorm_stddev")
        super().build(input_shape)

    def _refuse_training(self, training: bool) -> None:
        if training and self.trainable:
            raise ValueError(
                f"layer {self.name!r}: fastrnn runs inference only, so training=True cannot use the batch's moments"
            )

    def _to_mask(self, mask: ArrayLike, shape: tuple[int, ...]) -> np.ndarray:
        # It matters in training only, where it says of each vector of features whether it counts.
        return to_mask(
            mask, shape[: max(1, min(np.ndim(mask), len(shape) - 1))], f"layer {self.name!r}"
        )

    def _step(self, values: Sequence[plan.Value], y: plan.Value) -> plan.Step | None:
        if self.axis % len(y.shape) != len(y.shape) - 1:
            return None
        scale = 1 / np.sqrt(self.moving_variance + np.float64(self.epsilon))
        if self.gamma is not None:
            scale = scale * self.gamma
        return affine(values[0], y, self.compute_dtype, self.moving_mean, scale, self.beta)

    def compute(self, *arrays: np.ndarray) -> np.ndarray:
        (x,) = arrays
        shape = _ones_but([self.axis], x.shape)
        mean, variance = self.moving_mean.reshape(shape), self.moving_variance.reshape(shape)
        return self._transform(x, mean, variance, shape)


class _RmsScaling(_Affine):
    """Takes `rms_scaling`, which is none of the named arguments of Keras's class but in its configs."""

    def __init__(self, *, rms_scaling: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rms_scaling = rms_scaling


class LayerNormalization(_RmsScaling):
    """gamma (x - mean) / sqrt(variance + epsilon) + beta, with the moments over the axes of each sample.

    Parameters
    ----------
    axis : int or list of int
    epsilon : float
    center, scale : bool
        Whether there are beta and gamma.
    beta_initializer, gamma_initializer : str, dict or callable
    beta_regularizer, gamma_regularizer, beta_constraint, gamma_constraint : optional
        Kept for the config.
    rms_scaling : bool
        gamma x / sqrt(variance + epsilon) instead.

    Notes
    -----
    Weights, each of the sizes along the axes: gamma, beta.
    """

    arguments = (
        "axis",
        "epsilon",
        "center",
        "scale",
        "rms_scaling",
        "beta_initializer",
        "gamma_initializer",
        "beta_regularizer",
        "gamma_regularizer",
        "beta_constraint",
        "gamma_constraint",
    )

    def __init__(
        self,
        axis: Axes = -1,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: InitializerLike = "zeros",
        gamma_initializer: InitializerLike = "ones",
        beta_regularizer: object = None,
        gamma_regularizer: object = None,
        beta_constraint: object = None,
        gamma_constraint: object = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            center=center,
            scale=scale,
            beta_initializer=beta_initializer,
            gamma_initializer=gamma_initializer,
            beta_regularizer=beta_regularizer,
            gamma_regularizer=gamma_regularizer,
            beta_constraint=beta_constraint,
            gamma_constraint=gamma_constraint,
            **kwargs,
        )
        self.axis = self._check_axis_argument(axis)
        self.epsilon = epsilon

    def build(self, input_shape: Shape) -> None:
        self.axis = sorted(_as_list(self.axis))
        self._add_affine(
            self._sizes(input_shape),
            gamma=self.scale or self.rms_scaling,
            beta=self.center and not self.rms_scaling,
        )
        super().build(input_shape)

    def compute(self, *arrays: np.ndarray) -> np.ndarray:
        (x,) = arrays
        axes = tuple(_as_list(self.axis))
        shape = _ones_but(axes, x.shape)
        mean, variance = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
        return self._transform(
            x, np.zeros_like(mean) if self.rms_scaling else mean, variance, shape
        )


class GroupNormalization(_Affine):
    """gamma (x - mean) / sqrt(variance + epsilon) + beta, with the moments over each group of features of a sample.

    Parameters
    ----------
    groups : int
        -1 for one group a feature.
    axis : int
        That of the features.
    epsilon : float
    center, scale : bool
        Whether there are beta and gamma.
    beta_initializer, gamma_initializer : str, dict or callable
    beta_regularizer, gamma_regularizer, beta_constraint, gamma_constraint : optional
        Kept for the config.

    Notes
    -----
    Weights, each (features,): gamma, beta.
    """

    arguments = (
        "groups",
        "axis",
        "epsilon",
        "center",
        "scale",
        "beta_initializer",
        "gamma_initializer",
        "beta_regularizer",
        "gamma_regularizer",
        "beta_constraint",
        "gamma_constraint",
    )

    def __init__(
        self,
        groups: int = 32,
        axis: int = -1,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: InitializerLike = "zeros",
        gamma_initializer: InitializerLike = "ones",
        beta_regularizer: object = None,
        gamma_regularizer: object = None,
        beta_constraint: object = None,
        gamma_constraint: object = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            center=center,
            scale=scale,
            beta_initializer=beta_initializer,
            gamma_initializer=gamma_initializer,
            beta_regularizer=beta_regularizer,
            gamma_regularizer=gamma_regularizer,
            beta_constraint=beta_constraint,
            gamma_constraint=gamma_constraint,
            **kwargs,
        )
        self.groups = (
            groups if groups == -1 else positive_integer(groups, f"layer {self.name!r}: groups")
        )
        self.axis: int = axis
        self.epsilon = epsilon

    def build(self, input_shape: Shape) -> None:
        (features,) = shape = self._sizes(input_shape)
        groups = features if self.groups == -1 else self.groups
        if features % groups:
            raise ValueError(
                f"layer {self.name!r}: expected a multiple of {groups} features, one a group; "
                f"got shape {tuple(input_shape)}"
            )
        self.groups = groups
        self._add_affine(shape, gamma=self.scale, beta=self.center)
        super().build(input_shape)

    def why_across_time(self, x: plan.Value) -> str | None:
        return "its moments are over all timesteps"

    def compute(self, *arrays: np.ndarray) -> np.ndarray:
        (x,) = arrays
        axis = self.axis % x.ndim
        each = x.shape[axis] // self.groups
        grouped = x.reshape(*x.shape[:axis], self.groups, each, *x.shape[axis + 1 :])
        axes = tuple(i for i in range(1, grouped.ndim) if i != axis)
        moments = grouped.mean(axes, keepdims=True), grouped.var(axes, keepdims=True)
        shape = _ones_but([axis, axis + 1], grouped.shape)
        return self._transform(grouped, *moments, shape).reshape(x.shape)


class UnitNormalization(_AlongAxes):
    """x divided by its L2 norm along the axes.

    Parameters
    ----------
    axis : int or list of int
    """

    arguments = ("axis",)

    def __init__(self, axis: Axes = -1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axis = self._check_axis_argument(axis)
        self.built = True

    def compute(self, *arrays: np.ndarray) -> np.ndarray:
        (x,) = arrays
        return unit_vectors(x, tuple(_as_list(self.axis)), _SMALLEST_NORM)


def unit_vectors(x: np.ndarray, axes: int | tuple[int, ...], smallest_norm: float) -> np.ndarray:
    """Return `x` divided by its L2 norm along the axes, or by `smallest_norm` where that is larger."""
    factor = 1 / np.sqrt(np.square(x).sum(axes, keepdims=True))
    return x * np.minimum(factor, x.dtype.type(1 / smallest_norm))


class RMSNormalization(_AlongAxes):
    """scale x / sqrt(mean of squares + epsilon), with the mean over the axes of each sample.

    Parameters
    ----------
    axis : int or list of int
        As in Keras, the weight is broadcast from the last axis backwards, whatever these are.
    epsilon : float

    Notes
    -----
    Weight, of the sizes along the axes: scale.
    """

    arguments = ("axis", "epsilon")
    supports_masking = False

    def __init__(self, axis: Axes = -1, epsilon: float = 1e-6, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axis = self._check_axis_argument(axis)
        self.epsilon = epsilon

    @property
    def scale(self) -> np.ndarray:
        """ndarray, the sizes along the axes."""
        return self._weights["scale"]

    def build(self, input_shape: Shape) -> None:
        self.axis = sorted(_as_list(self.axis))
        self.add_weight(self._sizes(input_shape), "ones", name="scale")
        super().build(input_shape)

    def compute(self, *arrays: np.ndarray) -> np.ndarray:
        (x,) = arrays
        mean = np.square(x).mean(tuple(_as_list(self.axis)), keepdims=True)
        return x * (1 / np.sqrt(mean + x.dtype.type(self.epsilon))) * self.scale


class Normalization(_AlongAxes):
    """(x - mean) / sqrt(variance), with moments that are given or that the file has.

    Parameters
    ----------
    axis : int, tuple of int or None
        The axes along which each position has its own moments; None for one of each.
    mean, variance : array-like, optional
        Of the sizes along the axes, or broadcast to them.
    invert : bool
        x sqrt(variance) + mean instead.

    Notes
    -----
    Weights where `mean` is not given: mean, variance, each of the sizes along the axes, and count, ().
    """

    arguments = ("axis", "invert")

    def __init__(
        self,
        axis: Axes | None = -1,
        mean: ArrayLike | None = None,
        variance: ArrayLike | None = None,
        invert: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.axis: tuple[int, ...] = () if axis is None else tuple(_as_list(axis))
        if (mean is None) != (variance is None):
            raise ValueError(
                f"layer {self.name!r}: expected both mean and variance or neither; got {mean!r} and {variance!r}"
            )
        shape, variance_shape = (np.shape(0 if m is None else m) for m in (mean, variance))
        if shape != variance_shape or len(shape) > len(self.axis):
            raise ValueError(
                f"layer {self.name!r}: expected mean and variance of one shape with at most {len(self.axis)} axes; "
                f"got the shapes {shape} and {variance_shape}"
            )
        self.input_mean, self.input_variance, self.invert = mean, variance, invert

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "mean": np.array(self.input_mean).tolist(),
            "variance": np.array(self.input_variance).tolist(),
        }

    def _axes_of_weights(self, shape: Shape) -> list[int]:
        return sorted(axis % len(shape) for axis in self.axis)

    def build(self, input_shape: Shape) -> None:
        sizes = self._sizes(input_shape)
        if self.input_mean is None:
            self.add_weight(sizes, "zeros", name="mean")
            self.add_weight(sizes, "ones", name="variance")
            self.add_weight((), "zeros", name="count")
        else:
            np.broadcast_to(self.input_mean, sizes)
        super().build(input_shape)

    def _step(self, values: Sequence[plan.Value], y: plan.Value) -> plan.Step | None:
        if self._axes_of_weights(y.shape) not in ([], [len(y.shape) - 1]):
            return None
        mean, variance = (
            np.asarray(self._weights[weight] if given is None else given, np.float64)
            for weight, given in (("mean", self.input_mean), ("variance", self.input_variance))
        )
        deviation = np.maximum(np.sqrt(variance), _SMALLEST_DEVIATION)
        center, scale, shift = (0, deviation, mean) if self.invert else (mean, 1 / deviation, 0)
        return affine(values[0], y, self.compute_dtype, center, scale, shift)

    def compute(self, *arrays: np.ndarray) -> np.ndarray:
        (x,) = arrays
        mean, variance = (
            self._moment(weight, given, x)
            for weight, given in (("mean", self.input_mean), ("variance", self.input_variance))
        )
        deviation = np.maximum(np.sqrt(variance), x.dtype.type(_SMALLEST_DEVIATION))
        return mean + x * deviation if self.invert else (x - mean) / deviation

    def _moment(self, weight: str, given: ArrayLike | None, x: np.ndarray) -> np.ndarray:
        axes = self._axes_of_weights(x.shape)
        moment = self._weights[weight] if given is None else np.asarray(given, x.dtype)
        sizes = tuple(x.shape[axis] for axis in axes)
        return np.broadcast_to(moment, sizes).reshape(_ones_but(axes, x.shape))


class Rescaling(ArrayLayer):
    """scale x + offset.

    Parameters
    ----------
    scale, offset : float or array-like
        Broadcast to the input.
    """

    arguments = ("scale", "offset")

    def why_across_time(self, x: plan.Value) -> str | None:
        axes = max(np.ndim(self.scale), np.ndim(self.offset))
        return None if axes <= len(x.shape) - 2 else "its numbers are others at each timestep"

    def __init__(self, scale: ArrayLike, offset: ArrayLike = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scale, self.offset = scale, offset
        self.built = True

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "scale": _described(self.scale),
            "offset": _described(self.offset),
        }

    @classmethod
    def from_config(cls, config: Config) -> Self:
        described = {key: _undescribed(config[key]) for key in ("scale", "offset")}
        return cls(**{**config, **described})

    def _step(self, values: Sequence[plan.Value], y: plan.Value) -> plan.Step | None:
        return affine(values[0], y, self.compute_dtype, None, self.scale, self.offset)

    def compute(self, *arrays: np.ndarray) -> np.ndarray:
        (x,) = arrays
        return x * np.asarray(self.scale, x.dtype) + np.asarray(self.offset, x.dtype)


def _described(numbers: ArrayLike) -> Any:
    """Return numbers as Keras 3 writes them in a config."""
    if isinstance(numbers, np.ndarray):
        config = {"value": numbers.tolist(), "dtype": numbers.dtype.name}
        return {"class_name": "__numpy__", "config": config}
    return numbers.item() if isinstance(numbers, np.generic) else numbers


def _undescribed(described: Any) -> ArrayLike:
    if isinstance(described, dict):
        return np.array(described["config"]["value"], described["config"]["dtype"])
    return described
