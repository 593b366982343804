"""The activation functions that Keras names, in NumPy.

Every function takes an array-like ``x`` and returns a new array (``linear``: the same one) of the
same shape (``glu`` halves one axis) and, for float32 and float64, the same dtype; what is not
floating is computed in float32. Infinities and NaN give what they give in Keras, silently.
"""

import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec

import numpy as np
from numpy.typing import ArrayLike

from fastrnn._types import ActivationFunction, ActivationLike, Config

_Options = ParamSpec("_Options")


def _activation(
    function: Callable[Concatenate[np.ndarray, _Options], np.ndarray],
) -> Callable[Concatenate[ArrayLike, _Options], np.ndarray]:
    @functools.wraps(function)
    def on_floats(x: ArrayLike, *args: _Options.args, **kwargs: _Options.kwargs) -> np.ndarray:
        x = np.asarray(x)
        if x.dtype.kind != "f":
            x = x.astype(np.float32)
        with np.errstate(all="ignore"):
            return function(x, *args, **kwargs)

    return on_floats  # type: ignore[return-value]  # x may be named too


@_activation
def linear(x: np.ndarray) -> np.ndarray:
    """Return `x` itself."""
    return x


@_activation
def relu(
    x: np.ndarray,
    negative_slope: float = 0.0,
    max_value: float | None = None,
    threshold: float = 0.0,
) -> np.ndarray:
    """Return `x` above `threshold`, else ``negative_slope * (x - threshold)``.

    Parameters
    ----------
    x : array-like
    negative_slope : float
    max_value : float or None
        The largest value to return; None for no limit.
    threshold : float
    """
    above = np.maximum(x, 0) if threshold == 0 else np.where(x > threshold, x, 0)
    if max_value is not None:
        above = np.clip(above, 0, max_value)
    if negative_slope == 0:
        return above
    return above - negative_slope * np.maximum(threshold - x, 0)


@_activation
def leaky_relu(x: np.ndarray, negative_slope: float = 0.2) -> np.ndarray:
    """Return `x` where positive, else ``negative_slope * x``."""
    return np.where(x > 0, x, negative_slope * x)


@_activation
def relu6(x: np.ndarray) -> np.ndarray:
    """Return `x` clipped to 0..6."""
    return np.clip(x, 0, 6)


@_activation
def elu(x: np.ndarray, alpha: float = 1.0) -> np.ndarray:
    """Return `x` where positive, else ``alpha * (exp(x) - 1)``."""
    return np.where(x > 0, x, alpha * np.expm1(x))


@_activation
def selu(x: np.ndarray) -> np.ndarray:
    """Return the scaled `elu` of Klambauer et al. (2017), https://arxiv.org/abs/1706.02515."""
    return 1.0507009873554805 * elu(x, 1.6732632423543772)


@_activation
def celu(x: np.ndarray, alpha: float = 1.0) -> np.ndarray:
    """Return `x` where positive, else ``alpha * (exp(x / alpha) - 1)``."""
    return np.maximum(x, 0) + alpha * np.expm1(np.minimum(x, 0) / alpha)


@_activation
def exponential(x: np.ndarray) -> np.ndarray:
    """Return ``exp(x)``."""
    return np.exp(x)


@_activation
def tanh(x: np.ndarray) -> np.ndarray:
    """Return the hyperbolic tangent of `x`."""
    return np.tanh(x)


@_activation
def tanh_shrink(x: np.ndarray) -> np.ndarray:
    """Return ``x - tanh(x)``."""
    return x - np.tanh(x)


@_activation
def hard_tanh(x: np.ndarray) -> np.ndarray:
    """Return `x` clipped to -1..1."""
    return np.clip(x, -1, 1)


@_activation
def sigmoid(x: np.ndarray) -> np.ndarray:
    """Return ``1 / (1 + exp(-x))``."""
    return 1 / (1 + np.exp(-x))


@_activation
def hard_sigmoid(x: np.ndarray) -> np.ndarray:
    """Return ``x / 6 + 0.5`` clipped to 0..1, the hard sigmoid of Keras 3."""
    return np.clip(x + 3, 0, 6) / 6


@_activation
def hard_sigmoid_keras2(x: np.ndarray) -> np.ndarray:
    """Return ``0.2 * x + 0.5`` clipped to 0..1, the hard sigmoid of Keras 1 and 2."""
    return np.clip(0.2 * x + 0.5, 0, 1)


@_activation
def sparse_sigmoid(x: np.ndarray) -> np.ndarray:
    """Return ``(x + 1) / 2`` clipped to 0..1."""
    return np.clip(0.5 * (x + 1), 0, 1)


@_activation
def log_sigmoid(x: np.ndarray) -> np.ndarray:
    """Return ``log(sigmoid(x))``."""
    return -np.logaddexp(-x, 0)


@_activation
def softplus(x: np.ndarray) -> np.ndarray:
    """Return ``log(exp(x) + 1)``."""
    return np.logaddexp(x, 0)


@_activation
def softsign(x: np.ndarray) -> np.ndarray:
    """Return ``x / (abs(x) + 1)``."""
    return x / (np.abs(x) + 1)


@_activation
def soft_shrink(x: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """Return `x` moved by `threshold` towards 0, and 0 within `threshold` of it."""
    return np.where(x > threshold, x - threshold, np.where(x < -threshold, x + threshold, 0))


@_activation
def hard_shrink(x: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """Return `x` where ``abs(x) > threshold``, else 0."""
    return np.where(np.abs(x) > threshold, x, 0)


@_activation
def threshold(x: np.ndarray, threshold: float, default_value: float) -> np.ndarray:
    """Return `x` where it exceeds `threshold`, else `default_value`."""
    return np.where(x > threshold, x, default_value)


@_activation
def sparse_plus(x: np.ndarray) -> np.ndarray:
    """Return 0 up to -1, ``(x + 1)**2 / 4`` up to 1, then `x`."""
    return np.where(x < 1, np.square(np.maximum(x + 1, 0)) / 4, x)


@_activation
def squareplus(x: np.ndarray, b: float = 4) -> np.ndarray:
    """Return ``(x + sqrt(x**2 + b)) / 2``."""
    return (x + np.sqrt(np.square(x) + b)) / 2


@_activation
def silu(x: np.ndarray) -> np.ndarray:
    """Return ``x * sigmoid(x)``, also called swish."""
    return x * sigmoid(x)


@_activation
def hard_silu(x: np.ndarray) -> np.ndarray:
    """Return ``x * hard_sigmoid(x)``, also called hard swish."""
    return x * hard_sigmoid(x)


@_activation
def gelu(x: np.ndarray, approximate: bool = False) -> np.ndarray:
    """Return `x` times the normal distribution function at `x`, or a tanh formula close to it."""
    if approximate:
        return 0.5 * x * (1 + np.tanh(0.7978845608028654 * (x + 0.044715 * x**3)))
    from scipy.special import erfc  # as long to import as all the rest

    return 0.5 * x * erfc(x * -0.7071067811865476)


@_activation
def mish(x: np.ndarray) -> np.ndarray:
    """Return ``x * tanh(softplus(x))``."""
    return x * np.tanh(softplus(x))


@_activation
def glu(x: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return ``a * sigmoid(b)`` where `a` and `b` are the halves of `x` along `axis`.

    Raises
    ------
    ValueError
        If the length of `axis` is odd.
    """
    if x.shape[axis] % 2:
        raise ValueError(
            f"glu halves axis {axis}, whose length must be even; got an array of shape {x.shape}"
        )
    value, gate = np.split(x, 2, axis)
    return value * sigmoid(gate)


@_activation
def softmax(x: np.ndarray, axis: int | tuple[int, ...] = -1) -> np.ndarray:
    """Return ``exp(x) / sum(exp(x))`` along `axis`, an integer or a tuple of integers."""
    exponentials = np.exp(x - np.max(x, axis, keepdims=True))
    return exponentials / np.sum(exponentials, axis, keepdims=True)


@_activation
def log_softmax(x: np.ndarray, axis: int | tuple[int, ...] = -1) -> np.ndarray:
    """Return ``log(softmax(x))`` along `axis`, an integer or a tuple of integers."""
    shifted = x - np.max(x, axis, keepdims=True)
    return shifted - np.log(np.sum(np.exp(shifted), axis, keepdims=True))


@_activation
def sparsemax(x: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return ``max(x - tau, 0)`` with Keras's `tau` along `axis`.

    Notes
    -----
    Martins et al. (2016), https://arxiv.org/abs/1602.02068, compute `tau` from the sum of the
    support's values. Keras 3.15, on every backend, takes the sum of their running sums instead, so
    the result sums to 1 only if the support is a single value. A model trained so is run so.
    """
    largest = -np.sort(-x, axis)
    running_sum = np.cumsum(largest, axis)
    rank_shape = [1] * x.ndim
    rank_shape[axis] = -1
    rank = np.arange(1, x.shape[axis] + 1, dtype=x.dtype).reshape(rank_shape)
    support = largest > (running_sum - 1) / rank
    size = np.sum(support, axis, keepdims=True, dtype=x.dtype)
    tau = (np.sum(running_sum, axis, keepdims=True, where=support) - 1) / size
    return np.maximum(x - tau, 0)


swish = silu
hard_swish = hard_silu

_BY_NAME: dict[str, ActivationFunction] = {
    function.__name__: function
    for function in (
        celu,
        elu,
        exponential,
        gelu,
        glu,
        hard_shrink,
        hard_sigmoid,
        hard_sigmoid_keras2,
        hard_silu,
        hard_tanh,
        leaky_relu,
        linear,
        log_sigmoid,
        log_softmax,
        mish,
        relu,
        relu6,
        selu,
        sigmoid,
        silu,
        soft_shrink,
        softmax,
        softplus,
        softsign,
        sparse_plus,
        sparse_sigmoid,
        sparsemax,
        squareplus,
        tanh,
        tanh_shrink,
        threshold,
    )
} | {"swish": silu, "hard_swish": hard_silu}

NAMES = tuple(sorted(_BY_NAME))
"""Every name that `get` knows."""


def get(identifier: ActivationLike) -> ActivationFunction:
    """Return the activation function that `identifier` means.

    Parameters
    ----------
    identifier : None, str, dict or callable
        None means `linear`, a string is one of `NAMES`, a dict is Keras 3's description of a
        function (``{"class_name": "function", "config": name}``), a callable is returned as it is.

    Returns
    -------
    callable

    Raises
    ------
    ValueError
        If the name or the kind of identifier is not known.
    """
    if identifier is None:
        return linear
    name = _described_name(identifier) if isinstance(identifier, dict) else identifier
    if isinstance(name, str) and name in _BY_NAME:
        return _BY_NAME[name]
    if callable(identifier):
        return identifier
    raise ValueError(
        f"unknown activation {identifier!r}; expected a callable, None or one of {', '.join(NAMES)}"
    )


def _described_name(description: Config) -> Any:
    # A function that somebody registered as "package>relu" is not Keras's relu.
    name = description.get("config")
    registered = description.get("registered_name")
    if description.get("class_name") == "function" and registered in (None, "function", name):
        return name
    return None


def serialize(activation: ActivationFunction) -> str | Config:
    """Return what a Keras config holds for `activation`.

    Parameters
    ----------
    activation : callable

    Returns
    -------
    str or dict
        The name of one of this module's functions; for any other named function Keras 3's
        description.

    Raises
    ------
    ValueError
        If `activation` has no name to be found by: a lambda or a callable object.
    """
    name = getattr(activation, "__name__", None)
    if name is not None and _BY_NAME.get(name) is activation:
        return name
    return describe_function(activation)


def describe_function(function: Callable[..., Any]) -> Config:
    """Return Keras 3's config dict for a function of the user's.

    Raises
    ------
    ValueError
        If `function` is a lambda or has no name.
    """
    name = getattr(function, "__name__", "<lambda>")
    if name == "<lambda>":
        raise ValueError(f"only a named function can be written to a config; got {function!r}")
    return {
        "module": "builtins",
        "class_name": "function",
        "config": name,
        "registered_name": "function",
    }
