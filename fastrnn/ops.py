"""Keras's `keras.ops`: its functions by their names and signatures, on NumPy arrays.

They take arrays, numbers and lists, and return what Keras's functions return, in its dtypes: numbers of 64 bits only
from arrays of 64 bits. A user's own cells and layers compute with them; where Keras's functional API recorded one of
them in a model, a file names it.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from fastrnn import activations
from fastrnn._nested import flatten, map_structure, unflatten
from fastrnn._operation import array_dtype, operation, to_array
from fastrnn._types import Nested

Tensor = Any
"""An array, or a number or lists that can be made one."""

Axes = int | Sequence[int] | None

_EPSILON = 1e-7


def _named(function: Callable[..., Any], name: str, summary: str) -> Callable[..., Any]:
    function.__name__ = function.__qualname__ = name
    function.__doc__ = summary
    return operation(function)


def _unary(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def apply(x: Tensor) -> Tensor:
        return function(x)

    return _named(apply, name, f"Return {name} of each number in `x`.")


def _unary_of_floats(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """As `_unary`, for functions that NumPy would compute in whole numbers, or in 16 bits for small ones."""

    def apply(x: Tensor) -> Tensor:
        return function(_floating(x))

    return _named(apply, name, f"Return {name} of each number in `x`, as floating point.")


def _binary(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def apply(x1: Tensor, x2: Tensor) -> Tensor:
        return function(x1, x2)

    return _named(apply, name, f"Return {name} of `x1` and `x2`, which are broadcast.")


def _bitwise(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def apply(x: Tensor, y: Tensor) -> Tensor:
        return function(x, y)

    return _named(apply, name, f"Return {name} of `x` and `y`, which are broadcast.")


def _reduction(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def apply(x: Tensor, axis: Axes = None, keepdims: bool = False) -> Tensor:
        return function(to_array(x), axis=_axes(axis), keepdims=keepdims)

    return _named(apply, name, f"Return {name} of `x` along `axis`, None for all axes.")


def _extremum(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def apply(x: Tensor, axis: Axes = None, keepdims: bool = False, initial: Any = None) -> Tensor:
        start = {} if initial is None else {"initial": initial}
        return function(to_array(x), axis=_axes(axis), keepdims=keepdims, **start)

    return _named(apply, name, f"Return {name} of `x`, and of `initial`, along `axis`.")


def _position(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def apply(x: Tensor, axis: int | None = None, keepdims: bool = False) -> Tensor:
        return np.asarray(function(to_array(x), axis=axis, keepdims=keepdims)).astype(np.int32)

    return _named(apply, name, f"Return {name} of `x` along `axis`, as int32.")


def _running(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def apply(x: Tensor, axis: int | None = None, dtype: Any = None) -> Tensor:
        return function(x, axis=axis, dtype=None if dtype is None else array_dtype(dtype))

    return _named(apply, name, f"Return {name} of `x` along `axis`, None for all numbers in a row.")


def _quantile(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def apply(
        x: Tensor, q: Tensor, axis: Axes = None, method: str = "linear", keepdims: bool = False
    ) -> Tensor:
        return function(_floating(x), q, axis=_axes(axis), method=method, keepdims=keepdims)

    return _named(apply, name, f"Return {name} `q` of `x` along `axis`.")


def _axes(axis: Axes) -> Any:
    return tuple(axis) if isinstance(axis, Sequence) else axis


def _floating(x: Tensor) -> Tensor:
    x = to_array(x)
    return x if x.dtype.kind in "fc" else x.astype(np.float32)


def _whole(x: Tensor) -> Tensor:
    x = to_array(x)
    return x if x.dtype.kind in "iu" else x.astype(np.int32)


# Arithmetic

add = _binary("add", np.add)
divide = _binary("divide", np.divide)
equal = _binary("equal", np.equal)
floor_divide = _binary("floor_divide", np.floor_divide)
fmax = _binary("fmax", np.fmax)
fmin = _binary("fmin", np.fmin)
fmod = _binary("fmod", np.fmod)
gcd = _binary("gcd", np.gcd)
greater = _binary("greater", np.greater)
greater_equal = _binary("greater_equal", np.greater_equal)
heaviside = _binary("heaviside", np.heaviside)
hypot = _binary("hypot", np.hypot)
lcm = _binary("lcm", np.lcm)
ldexp = _binary("ldexp", np.ldexp)
less = _binary("less", np.less)
less_equal = _binary("less_equal", np.less_equal)
logaddexp = _binary("logaddexp", np.logaddexp)
logaddexp2 = _binary("logaddexp2", np.logaddexp2)
logical_and = _binary("logical_and", np.logical_and)
logical_or = _binary("logical_or", np.logical_or)
logical_xor = _binary("logical_xor", np.logical_xor)
matmul = _binary("matmul", np.matmul)
maximum = _binary("maximum", np.maximum)
minimum = _binary("minimum", np.minimum)
mod = _binary("mod", np.mod)
multiply = _binary("multiply", np.multiply)
nextafter = _binary("nextafter", np.nextafter)
not_equal = _binary("not_equal", np.not_equal)
power = _binary("power", np.power)
subtract = _binary("subtract", np.subtract)
true_divide = _binary("true_divide", np.true_divide)
arctan2 = _binary("arctan2", lambda x1, x2: np.arctan2(_floating(x1), _floating(x2)))
dot = _binary("dot", np.dot)
inner = _binary("inner", np.inner)
kron = _binary("kron", np.kron)
outer = _binary("outer", np.outer)
vdot = _binary("vdot", np.vdot)
bitwise_and = _bitwise("bitwise_and", np.bitwise_and)
bitwise_left_shift = _bitwise("bitwise_left_shift", np.left_shift)
bitwise_or = _bitwise("bitwise_or", np.bitwise_or)
bitwise_right_shift = _bitwise("bitwise_right_shift", np.right_shift)
bitwise_xor = _bitwise("bitwise_xor", np.bitwise_xor)
left_shift = _bitwise("left_shift", np.left_shift)
right_shift = _bitwise("right_shift", np.right_shift)

abs = _unary("abs", np.abs)
absolute = _unary("absolute", np.abs)
angle = _unary("angle", np.angle)
bitwise_invert = _unary("bitwise_invert", np.invert)
bitwise_not = _unary("bitwise_not", np.invert)
conj = _unary("conj", np.conj)
conjugate = _unary("conjugate", np.conj)
copy = _unary("copy", np.array)
fabs = _unary_of_floats("fabs", np.abs)
imag = _unary("imag", np.imag)
isfinite = _unary("isfinite", np.isfinite)
isinf = _unary("isinf", np.isinf)
isnan = _unary("isnan", np.isnan)
isneginf = _unary("isneginf", np.isneginf)
isposinf = _unary("isposinf", np.isposinf)
isreal = _unary("isreal", np.isreal)
logical_not = _unary("logical_not", np.logical_not)
negative = _unary("negative", np.negative)
real = _unary("real", np.real)
sign = _unary("sign", np.sign)
signbit = _unary("signbit", np.signbit)
square = _unary("square", np.square)
trunc = _unary("trunc", np.trunc)

arccos = _unary_of_floats("arccos", np.arccos)
arccosh = _unary_of_floats("arccosh", np.arccosh)
arcsin = _unary_of_floats("arcsin", np.arcsin)
arcsinh = _unary_of_floats("arcsinh", np.arcsinh)
arctan = _unary_of_floats("arctan", np.arctan)
arctanh = _unary_of_floats("arctanh", np.arctanh)
cbrt = _unary_of_floats("cbrt", np.cbrt)
ceil = _unary_of_floats("ceil", np.ceil)
cos = _unary_of_floats("cos", np.cos)
cosh = _unary_of_floats("cosh", np.cosh)
deg2rad = _unary_of_floats("deg2rad", np.deg2rad)
exp = _unary_of_floats("exp", np.exp)
exp2 = _unary_of_floats("exp2", np.exp2)
expm1 = _unary_of_floats("expm1", np.expm1)
floor = _unary_of_floats("floor", np.floor)
i0 = _unary_of_floats("i0", np.i0)
log = _unary_of_floats("log", np.log)
log10 = _unary_of_floats("log10", np.log10)
log1p = _unary_of_floats("log1p", np.log1p)
log2 = _unary_of_floats("log2", np.log2)
rad2deg = _unary_of_floats("rad2deg", np.rad2deg)
reciprocal = _unary_of_floats("reciprocal", np.reciprocal)
rsqrt = _unary_of_floats("rsqrt", lambda x: 1 / np.sqrt(x))
sin = _unary_of_floats("sin", np.sin)
sinc = _unary_of_floats("sinc", np.sinc)
sinh = _unary_of_floats("sinh", np.sinh)
sqrt = _unary_of_floats("sqrt", np.sqrt)
tan = _unary_of_floats("tan", np.tan)
tanh = _unary_of_floats("tanh", np.tanh)


@operation
def stop_gradient(variable: Tensor) -> Tensor:
    """Return `variable`."""
    return variable


@operation
def clip(x: Tensor, x_min: Tensor, x_max: Tensor) -> Tensor:
    """Return `x` limited to `x_min` to `x_max`, in its own dtype."""
    x = to_array(x)
    return np.clip(x, x_min, x_max).astype(np.int32 if x.dtype == np.bool_ else x.dtype)


@operation
def divide_no_nan(x1: Tensor, x2: Tensor) -> Tensor:
    """Return x1 / x2, and 0 where `x2` is 0."""
    return np.where(np.equal(x2, 0), 0, np.divide(x1, x2))


@operation
def isclose(
    x1: Tensor, x2: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> Tensor:
    """Return where `x1` and `x2` differ by at most atol + rtol * abs(x2)."""
    return np.isclose(x1, x2, rtol, atol, equal_nan)


@operation
def allclose(
    x1: Tensor, x2: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> Tensor:
    """Return whether `isclose` is everywhere."""
    return np.bool_(np.allclose(x1, x2, rtol, atol, equal_nan))


@operation
def nan_to_num(
    x: Tensor, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None
) -> Tensor:
    """Return `x` with NaN and the infinities replaced, the latter by the largest numbers of the dtype."""
    return np.nan_to_num(x, nan=nan, posinf=posinf, neginf=neginf)


@operation
def round(x: Tensor, decimals: int = 0) -> Tensor:
    """Return `x` rounded to `decimals` digits after the point."""
    return np.round(to_array(x), decimals)


# Activations


@operation
def relu(x: Tensor) -> Tensor:
    """Return `x`, and 0 where it is negative."""
    x = to_array(x)
    return np.maximum(x, x.dtype.type(0))


hard_sigmoid = _unary("hard_sigmoid", activations.hard_sigmoid)
hard_silu = hard_swish = _unary("hard_silu", activations.hard_silu)
hard_tanh = _unary("hard_tanh", activations.hard_tanh)
log_sigmoid = _unary("log_sigmoid", activations.log_sigmoid)
relu6 = _unary("relu6", activations.relu6)
selu = _unary("selu", activations.selu)
sigmoid = _unary("sigmoid", activations.sigmoid)
silu = swish = _unary("silu", activations.silu)
softplus = _unary("softplus", activations.softplus)
softsign = _unary("softsign", activations.softsign)
sparse_plus = _unary("sparse_plus", activations.sparse_plus)
sparse_sigmoid = _unary("sparse_sigmoid", activations.sparse_sigmoid)
tanh_shrink = _unary("tanh_shrink", activations.tanh_shrink)


@operation
def celu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """Return `fastrnn.activations.celu` of `x`."""
    return activations.celu(x, alpha)


@operation
def elu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """Return `fastrnn.activations.elu` of `x`."""
    return activations.elu(x, alpha)


@operation
def gelu(x: Tensor, approximate: bool = True) -> Tensor:
    """Return `fastrnn.activations.gelu` of `x`."""
    return activations.gelu(x, approximate)


@operation
def glu(x: Tensor, axis: int = -1) -> Tensor:
    """Return `fastrnn.activations.glu` of `x`."""
    return activations.glu(x, axis)


@operation
def hard_shrink(x: Tensor, threshold: float = 0.5) -> Tensor:
    """Return `fastrnn.activations.hard_shrink` of `x`."""
    return activations.hard_shrink(x, threshold)


@operation
def leaky_relu(x: Tensor, negative_slope: float = 0.2) -> Tensor:
    """Return `fastrnn.activations.leaky_relu` of `x`."""
    return activations.leaky_relu(x, negative_slope)


@operation
def log_softmax(x: Tensor, axis: Axes = -1) -> Tensor:
    """Return the logarithm of `softmax`."""
    return activations.log_softmax(x, _axes(axis))


@operation
def soft_shrink(x: Tensor, threshold: float = 0.5) -> Tensor:
    """Return `fastrnn.activations.soft_shrink` of `x`."""
    return activations.soft_shrink(x, threshold)


@operation
def softmax(x: Tensor, axis: Axes = -1) -> Tensor:
    """Return exp(x) / sum(exp(x)) along `axis`."""
    return activations.softmax(x, _axes(axis))


@operation
def sparsemax(x: Tensor, axis: int = -1) -> Tensor:
    """Return `fastrnn.activations.sparsemax` of `x`."""
    return activations.sparsemax(x, axis)


@operation
def squareplus(x: Tensor, b: float = 4) -> Tensor:
    """Return `fastrnn.activations.squareplus` of `x`."""
    return activations.squareplus(x, b)


@operation
def threshold(x: Tensor, threshold: float, default_value: float) -> Tensor:
    """Return `x` where it exceeds `threshold`, else `default_value`."""
    return activations.threshold(x, threshold, default_value)


# Special functions, whose library takes as long to import as all the rest


@operation
def erf(x: Tensor) -> Tensor:
    """Return the error function of `x`."""
    from scipy import special

    return special.erf(_floating(x))


@operation
def erfc(x: Tensor) -> Tensor:
    """Return 1 - erf(x)."""
    from scipy import special

    return special.erfc(_floating(x))


@operation
def erfinv(x: Tensor) -> Tensor:
    """Return the inverse of `erf` at `x`."""
    from scipy import special

    return special.erfinv(_floating(x))


# Reductions

all = _reduction("all", np.all)
any = _reduction("any", np.any)
amax = _reduction("amax", np.max)
amin = _reduction("amin", np.min)
mean = _reduction("mean", np.mean)
median = _reduction("median", np.median)
nanmax = _reduction("nanmax", np.nanmax)
nanmean = _reduction("nanmean", np.nanmean)
nanmedian = _reduction("nanmedian", np.nanmedian)
nanmin = _reduction("nanmin", np.nanmin)
nanprod = _reduction("nanprod", np.nanprod)
nanstd = _reduction("nanstd", np.nanstd)
nansum = _reduction("nansum", np.nansum)
nanvar = _reduction("nanvar", np.nanvar)
ptp = _reduction("ptp", np.ptp)
std = _reduction("std", np.std)
sum = _reduction("sum", np.sum)
var = _reduction("var", np.var)
max = _extremum("max", np.max)
min = _extremum("min", np.min)
argmax = _position("argmax", np.argmax)
argmin = _position("argmin", np.argmin)
nanargmax = _position("nanargmax", np.nanargmax)
nanargmin = _position("nanargmin", np.nanargmin)
cumprod = _running("cumprod", np.cumprod)
cumsum = _running("cumsum", np.cumsum)
nancumprod = _running("nancumprod", np.nancumprod)
nancumsum = _running("nancumsum", np.nancumsum)
nanpercentile = _quantile("nanpercentile", np.nanpercentile)
nanquantile = _quantile("nanquantile", np.nanquantile)
percentile = _quantile("percentile", np.percentile)
quantile = _quantile("quantile", np.quantile)


@operation
def average(x: Tensor, axis: Axes = None, weights: Tensor = None) -> Tensor:
    """Return the mean of `x` along `axis`, weighted."""
    return np.average(x, _axes(axis), weights)


@operation
def count_nonzero(x: Tensor, axis: Axes = None) -> Tensor:
    """Return how many numbers along `axis` are not 0, as int32."""
    return np.asarray(np.count_nonzero(x, _axes(axis))).astype(np.int32)


@operation
def logsumexp(x: Tensor, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """Return log(sum(exp(x))) along `axis`."""
    x = _floating(x)
    largest = np.max(x, _axes(axis), keepdims=True)
    largest = np.where(np.isfinite(largest), largest, 0)
    total = np.log(np.sum(np.exp(x - largest), _axes(axis), keepdims=True)) + largest
    return total if keepdims else np.squeeze(total, _axes(axis))


@operation
def moments(
    x: Tensor, axes: Axes, keepdims: bool = False, synchronized: bool = False
) -> tuple[Tensor, Tensor]:
    """Return mean and variance of `x` along `axes`."""
    x = to_array(x)
    return x.mean(_axes(axes), keepdims=keepdims), x.var(_axes(axes), keepdims=keepdims)


@operation
def prod(x: Tensor, axis: Axes = None, keepdims: bool = False, dtype: Any = None) -> Tensor:
    """Return the product of `x` along `axis`."""
    wanted = None if dtype is None else array_dtype(dtype)
    return np.prod(x, _axes(axis), wanted, keepdims=keepdims)


@operation
def norm(x: Tensor, ord: Any = None, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """Return the norm of the vectors or matrices in `x`; see `numpy.linalg.norm`."""
    return np.linalg.norm(_floating(x), ord, _axes(axis), keepdims)


@operation
def trace(x: Tensor, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Tensor:
    """Return the sums of the diagonals of `x`."""
    return np.trace(x, offset, axis1, axis2)


@operation
def trapezoid(y: Tensor, x: Tensor = None, dx: float = 1.0, axis: int = -1) -> Tensor:
    """Return the integral of `y` along `axis` by the trapezoidal rule."""
    return np.trapezoid(_floating(y), x, dx, axis)


# Normalization


@operation
def normalize(x: Tensor, axis: Axes = -1, order: int = 2, epsilon: float | None = None) -> Tensor:
    """Return `x` divided by its norm along `axis`, or by `epsilon` (1e-7) if that is more."""
    x = _floating(x)
    x = x if x.ndim else x[np.newaxis]
    norms = np.linalg.norm(x, order, _axes(axis), keepdims=True)
    return x / np.maximum(norms, x.dtype.type(_EPSILON if epsilon is None else epsilon))


@operation
def batch_normalization(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    axis: int,
    offset: Tensor = None,
    scale: Tensor = None,
    epsilon: float = 1e-3,
) -> Tensor:
    """Return (x - mean) / sqrt(variance + epsilon) * scale + offset; what is given has the size of `axis`."""
    x = _floating(x)
    y = (x - _along(mean, x, axis)) / np.sqrt(_along(variance, x, axis) + epsilon)
    y = y if scale is None else y * _along(scale, x, axis)
    return y if offset is None else y + _along(offset, x, axis)


@operation
def layer_normalization(
    x: Tensor,
    gamma: Tensor = None,
    beta: Tensor = None,
    axis: Axes = -1,
    epsilon: float | None = None,
    rms_scaling: bool = False,
) -> Tensor:
    """Return `x` with mean 0 and variance 1 along `axis`, times `gamma`, plus `beta`."""
    x = _floating(x)
    along, least = _axes(axis), _EPSILON if epsilon is None else epsilon
    variance = x.var(along, keepdims=True)
    scale = 1 if gamma is None else _along(gamma, x, axis)
    if rms_scaling:
        return x / np.sqrt(variance + least) * scale
    y = (x - x.mean(along, keepdims=True)) / np.sqrt(variance + least) * scale
    return y if beta is None else y + _along(beta, x, axis)


@operation
def rms_normalization(
    x: Tensor, scale: Tensor = None, axis: Axes = -1, epsilon: float | None = None
) -> Tensor:
    """Return `x` divided by the root of its mean square along `axis`, times `scale`."""
    x = _floating(x)
    squares = np.mean(np.square(x), _axes(axis), keepdims=True)
    y = x / np.sqrt(squares + (_EPSILON if epsilon is None else epsilon))
    return y if scale is None else y * _along(scale, x, axis)


def _along(values: Tensor, x: np.ndarray, axis: Axes) -> np.ndarray:
    """Return `values`, of the sizes that `x` has along `axis`, so that they broadcast to `x`."""
    chosen = {one % x.ndim for one in ([axis] if isinstance(axis, int) else axis or range(x.ndim))}
    shape = [size if i in chosen else 1 for i, size in enumerate(x.shape)]
    return np.reshape(values, shape)


# Shapes


@operation
def broadcast_to(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Return `x` repeated to `shape`."""
    return np.broadcast_to(x, shape)


@operation
def concatenate(xs: Sequence[Tensor], axis: int | None = 0) -> Tensor:
    """Return the arrays `xs` one after the other along `axis`."""
    return np.concatenate(xs, axis)


@operation
def append(x1: Tensor, x2: Tensor, axis: int | None = None) -> Tensor:
    """Return `x2` after `x1` along `axis`, None for both flattened."""
    return np.append(x1, x2, axis)


@operation
def expand_dims(x: Tensor, axis: Any) -> Tensor:
    """Return `x` with new axes of size 1 at the places `axis`."""
    return np.expand_dims(x, _axes(axis))


@operation
def flip(x: Tensor, axis: Axes = None) -> Tensor:
    """Return `x` reversed along `axis`."""
    return np.flip(x, _axes(axis))


fliplr = _unary("fliplr", np.fliplr)
flipud = _unary("flipud", np.flipud)
ravel = _unary("ravel", np.ravel)


@operation
def moveaxis(x: Tensor, source: Any, destination: Any) -> Tensor:
    """Return `x` with the axes `source` at the places `destination`."""
    return np.moveaxis(x, source, destination)


@operation
def pad(
    x: Tensor, pad_width: Any, mode: str = "constant", constant_values: Tensor = None
) -> Tensor:
    """Return `x` with `pad_width` numbers, (before, after) or one for both, more along each axis."""
    if constant_values is None:
        return np.pad(x, pad_width, mode=mode)  # type: ignore[call-overload]
    return np.pad(x, pad_width, mode=mode, constant_values=constant_values)  # type: ignore[call-overload]


@operation
def repeat(x: Tensor, repeats: Any, axis: int | None = None) -> Tensor:
    """Return `x` with each part along `axis` repeated; None for `x` flattened."""
    return np.repeat(x, repeats, axis)


@operation
def reshape(x: Tensor, newshape: Any) -> Tensor:
    """Return `x` in another shape, of which one size may be -1."""
    return np.reshape(x, newshape)


@operation
def roll(x: Tensor, shift: Any, axis: Axes = None) -> Tensor:
    """Return `x` moved by `shift` places along `axis`, what leaves at one end coming in at the other."""
    return np.roll(x, shift, _axes(axis))


@operation
def rot90(array: Tensor, k: int = 1, axes: Any = (0, 1)) -> Tensor:
    """Return `array` turned by `k` right angles from the first of `axes` to the second."""
    return np.rot90(array, k, axes)


@operation
def squeeze(x: Tensor, axis: Axes = None) -> Tensor:
    """Return `x` without the axes `axis`, of size 1; None for all of size 1."""
    return np.squeeze(x, _axes(axis))


@operation
def stack(x: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Return the arrays of the list `x` along a new axis."""
    return np.stack(x, axis)


@operation
def swapaxes(x: Tensor, axis1: int, axis2: int) -> Tensor:
    """Return `x` with two axes changed for each other."""
    return np.swapaxes(x, axis1, axis2)


@operation
def tile(x: Tensor, repeats: Any) -> Tensor:
    """Return `x` put side by side `repeats` times along each axis."""
    return np.tile(x, repeats)


@operation
def transpose(x: Tensor, axes: Any = None) -> Tensor:
    """Return `x` with its axes in the order `axes`; None for the reverse."""
    return np.transpose(x, axes)


@operation
def hstack(xs: Sequence[Tensor]) -> Tensor:
    """Return the arrays `xs` one after the other along the second axis, or the only one."""
    return np.hstack(xs)


@operation
def vstack(xs: Sequence[Tensor]) -> Tensor:
    """Return the arrays `xs` one after the other along the first axis."""
    return np.vstack(xs)


@operation
def dstack(xs: Sequence[Tensor]) -> Tensor:
    """Return the arrays `xs` one after the other along the third axis."""
    return np.dstack(xs)


@operation
def split(x: Tensor, indices_or_sections: Any, axis: int = 0) -> list[Tensor]:
    """Return `x` cut along `axis`: in a number of equal parts, or at places."""
    return np.split(x, indices_or_sections, axis)


@operation
def array_split(x: Tensor, indices_or_sections: Any, axis: int = 0) -> list[Tensor]:
    """As `split`, in parts that need not be equal."""
    return np.array_split(x, indices_or_sections, axis)


@operation
def hsplit(x: Tensor, indices_or_sections: Any) -> list[Tensor]:
    """As `split` along the second axis, or the only one."""
    return np.hsplit(x, indices_or_sections)


@operation
def vsplit(x: Tensor, indices_or_sections: Any) -> list[Tensor]:
    """As `split` along the first axis."""
    return np.vsplit(x, indices_or_sections)


@operation
def dsplit(x: Tensor, indices_or_sections: Any) -> list[Tensor]:
    """As `split` along the third axis."""
    return np.dsplit(x, indices_or_sections)


@operation
def unstack(x: Tensor, num: int | None = None, axis: int = 0) -> list[Tensor]:
    """Return the parts of `x` along `axis`, without that axis, a list."""
    return list(np.moveaxis(to_array(x), axis, 0))


@operation
def meshgrid(*x: Tensor, indexing: str = "xy") -> list[Tensor]:
    """Return the coordinates of the grid over the vectors `x`, a list of arrays."""
    return list(np.meshgrid(*x, indexing=indexing))  # type: ignore[call-overload]


@operation
def extract_sequences(x: Tensor, sequence_length: int, sequence_stride: int) -> Tensor:
    """Return the windows of `sequence_length` numbers, `sequence_stride` apart, along the last axis."""
    windows = sliding_window_view(to_array(x), sequence_length, -1)
    return windows[..., ::sequence_stride, :]


# Choosing


@operation
def get_item(x: Tensor, key: Any) -> Tensor:
    """Return x[key]."""
    return x[tuple(key) if isinstance(key, list) else key]


@operation
def take(x: Tensor, indices: Tensor, axis: int | None = None) -> Tensor:
    """Return the parts of `x` along `axis` at the places `indices`."""
    return np.take(x, _whole(indices), axis)


@operation
def take_along_axis(x: Tensor, indices: Tensor, axis: int | None = None) -> Tensor:
    """Return the numbers of `x` at the places `indices` along `axis`."""
    return np.take_along_axis(to_array(x), _whole(indices), axis)


@operation
def where(condition: Tensor, x1: Tensor = None, x2: Tensor = None) -> Tensor:
    """Return `x1` where `condition` is true, `x2` elsewhere; without them the places where it is."""
    return np.where(condition) if x1 is None or x2 is None else np.where(condition, x1, x2)


@operation
def select(condlist: Sequence[Tensor], choicelist: Sequence[Tensor], default: Tensor = 0) -> Tensor:
    """Return the numbers of the first of `choicelist` whose condition is true, else `default`."""
    return np.select([np.asarray(one) for one in condlist], list(choicelist), default)


@operation
def slice(inputs: Tensor, start_indices: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Return the part of `inputs` of that shape that starts at `start_indices`."""
    return to_array(inputs)[_part(start_indices, shape)]


@operation
def slice_update(inputs: Tensor, start_indices: Sequence[int], updates: Tensor) -> Tensor:
    """Return `inputs` with `updates` for the part that starts at `start_indices`."""
    result = np.array(to_array(inputs))
    result[_part(start_indices, np.shape(updates))] = updates
    return result


def _part(starts: Sequence[int], sizes: Sequence[int]) -> tuple[Any, ...]:
    return tuple(np.s_[int(i) : int(i) + n] for i, n in zip(starts, sizes, strict=True))


@operation
def scatter(indices: Tensor, values: Tensor, shape: Sequence[int]) -> Tensor:
    """Return zeros of `shape` to which `values` are added at the places in the rows of `indices`."""
    values = to_array(values)
    result = np.zeros(shape, values.dtype)
    np.add.at(result, _places(indices), values)
    return result


@operation
def scatter_update(
    inputs: Tensor, indices: Tensor, updates: Tensor, reduction: str | None = None
) -> Tensor:
    """Return `inputs` with `updates` at the places in the rows of `indices`, or combined with them."""
    result = np.array(to_array(inputs))
    if reduction is None:
        result[_places(indices)] = updates
    else:
        _COMBINING[reduction].at(result, _places(indices), updates)
    return result


_COMBINING = {"add": np.add, "max": np.maximum, "min": np.minimum, "mul": np.multiply}


def _places(indices: Tensor) -> tuple[np.ndarray, ...]:
    return tuple(np.moveaxis(_whole(indices), -1, 0))


@operation
def tril(x: Tensor, k: int = 0) -> Tensor:
    """Return `x` with zeros above its `k`th diagonal."""
    return np.tril(x, k)


@operation
def triu(x: Tensor, k: int = 0) -> Tensor:
    """Return `x` with zeros below its `k`th diagonal."""
    return np.triu(x, k)


@operation
def diag(x: Tensor, k: int = 0) -> Tensor:
    """Return the `k`th diagonal of a matrix, or the matrix of a diagonal."""
    return np.diag(to_array(x), k)


@operation
def diagflat(x: Tensor, k: int = 0) -> Tensor:
    """Return the matrix whose `k`th diagonal is `x` flattened."""
    return np.diagflat(to_array(x), k)


@operation
def diagonal(x: Tensor, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Tensor:
    """Return the diagonals of `x` as its last axis."""
    return np.diagonal(to_array(x), offset, axis1, axis2)


# Order


@operation
def sort(x: Tensor, axis: int = -1) -> Tensor:
    """Return `x` sorted along `axis`."""
    return np.sort(x, axis)


@operation
def argsort(x: Tensor, axis: int | None = -1) -> Tensor:
    """Return the places of the sorted numbers along `axis`, as int32."""
    return np.argsort(to_array(x), axis, kind="stable").astype(np.int32)


@operation
def top_k(x: Tensor, k: int, sorted: bool = True) -> tuple[Tensor, Tensor]:
    """Return the `k` largest numbers along the last axis, and their places as int32."""
    x = to_array(x)
    # Of equal numbers the first comes first, which a reversed ascending order would not give.
    backwards = np.argsort(x[..., ::-1], -1, kind="stable")[..., ::-1]
    places = x.shape[-1] - 1 - backwards[..., :k]
    return np.take_along_axis(x, places, -1), places.astype(np.int32)


@operation
def in_top_k(targets: Tensor, predictions: Tensor, k: int) -> Tensor:
    """Return for each row of `predictions` whether fewer than `k` numbers exceed that at the place `targets`."""
    predictions = to_array(predictions)
    chosen = np.take_along_axis(predictions, _whole(targets)[:, np.newaxis], -1)
    return np.sum(predictions > chosen, -1) < k


@operation
def searchsorted(sorted_sequence: Tensor, values: Tensor, side: Any = "left") -> Tensor:
    """Return where `values` would stand in a sorted vector, as int32."""
    return np.asarray(np.searchsorted(sorted_sequence, values, side)).astype(np.int32)


@operation
def digitize(x: Tensor, bins: Tensor) -> Tensor:
    """Return the numbers of the bins, given by their ascending edges, that `x` falls into, as int32."""
    return np.asarray(np.digitize(x, bins)).astype(np.int32)


@operation
def isin(x1: Tensor, x2: Tensor, assume_unique: bool = False, invert: bool = False) -> Tensor:
    """Return where the numbers of `x1` are among those of `x2`."""
    return np.isin(x1, x2, assume_unique, invert)


# Products


@operation
def einsum(subscripts: str, *operands: Tensor) -> Tensor:
    """Return the sum of products that `subscripts` describes; see `numpy.einsum`."""
    return np.einsum(subscripts, *operands, optimize=True)


@operation
def tensordot(x1: Tensor, x2: Tensor, axes: Any = 2) -> Tensor:
    """Return the sums of products along `axes` of both."""
    return np.tensordot(x1, x2, axes)


@operation
def cross(
    x1: Tensor,
    x2: Tensor,
    axisa: int = -1,
    axisb: int = -1,
    axisc: int = -1,
    axis: int | None = None,
) -> Tensor:
    """Return the cross products of vectors of three numbers."""
    return np.cross(x1, x2, axisa, axisb, axisc, axis)


@operation
def diff(a: Tensor, n: int = 1, axis: int = -1) -> Tensor:
    """Return the `n`th differences of neighbours along `axis`."""
    return np.diff(a, n, axis)


@operation
def cdist(x: Tensor, y: Tensor) -> Tensor:
    """Return the distances of the rows of `x` from the rows of `y`."""
    x, y = _floating(x), _floating(y)
    return np.linalg.norm(x[..., :, np.newaxis, :] - y[..., np.newaxis, :, :], axis=-1)


@operation
def vander(x: Tensor, N: int | None = None, increasing: bool = False) -> Tensor:
    """Return the matrix of the powers of `x`."""
    return np.vander(to_array(x), N, increasing)


@operation
def dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor = None,
    mask: Tensor = None,
    scale: float | None = None,
    is_causal: bool = False,
    flash_attention: bool | None = None,
    attn_logits_soft_cap: float | None = None,
) -> Tensor:
    """Return softmax(query key' scale + bias) value for (batch, length, heads, size), `mask` saying what counts."""
    query, key, value = _floating(query), _floating(key), _floating(value)
    scores = np.einsum("bthd,bshd->bhts", query, key, optimize=True)
    scores = scores * scores.dtype.type(key.shape[-1] ** -0.5 if scale is None else scale)
    scores = scores if bias is None else scores + bias
    if attn_logits_soft_cap is not None:
        scores = np.tanh(scores / attn_logits_soft_cap) * attn_logits_soft_cap
    masks = [] if mask is None else [np.asarray(mask, np.bool_)]
    if is_causal:
        masks.append(np.tri(*scores.shape[-2:], dtype=np.bool_))
    for counted in masks:
        scores = np.where(counted, scores, scores.dtype.type(-0.7 * np.finfo(scores.dtype).max))
    return np.einsum("bhts,bshd->bthd", activations.softmax(scores), value, optimize=True)


# Linear algebra

det = _unary_of_floats("det", np.linalg.det)
inv = _unary_of_floats("inv", np.linalg.inv)
logdet = _unary_of_floats("logdet", lambda x: np.linalg.slogdet(x)[1])


@operation
def eigh(x: Tensor) -> tuple[Tensor, ...]:
    """Return eigenvalues and eigenvectors of symmetric matrices."""
    return tuple(np.linalg.eigh(_floating(x)))


@operation
def qr(x: Tensor, mode: Any = "reduced") -> tuple[Tensor, ...]:
    """Return the factors Q and R of matrices."""
    return tuple(np.linalg.qr(_floating(x), mode))


@operation
def slogdet(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return sign and logarithm of the determinants of matrices."""
    return tuple(np.linalg.slogdet(_floating(x)))


@operation
def solve(a: Tensor, b: Tensor) -> Tensor:
    """Return x with a x = b."""
    a, b = _floating(a), _floating(b)
    return (
        np.linalg.solve(a, b[..., np.newaxis])[..., 0] if b.ndim < a.ndim else np.linalg.solve(a, b)
    )


@operation
def svd(x: Tensor, full_matrices: bool = True, compute_uv: bool = True) -> Any:
    """Return the factors U, s and V' of matrices, or s."""
    result: Any = np.linalg.svd(_floating(x), full_matrices, compute_uv)  # type: ignore[call-overload]
    return tuple(result) if compute_uv else result


# Signals: complex numbers are pairs of arrays


@operation
def fft(x: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the Fourier transform along the last axis."""
    return _as_pair(np.fft.fft(_from_pair(x)))


@operation
def fft2(x: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the Fourier transform along the last two axes."""
    return _as_pair(np.fft.fft2(_from_pair(x)))


@operation
def ifft2(x: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the inverse of `fft2`."""
    return _as_pair(np.fft.ifft2(_from_pair(x)))


@operation
def rfft(x: Tensor, fft_length: int | None = None) -> tuple[Tensor, Tensor]:
    """Return the Fourier transform of real numbers along the last axis."""
    return _as_pair(np.fft.rfft(_floating(x), fft_length))


@operation
def irfft(x: tuple[Tensor, Tensor], fft_length: int | None = None) -> Tensor:
    """Return the inverse of `rfft`."""
    return np.fft.irfft(_from_pair(x), fft_length)


def _from_pair(x: tuple[Tensor, Tensor]) -> np.ndarray:
    real_part, imaginary_part = x
    return _floating(real_part) + 1j * _floating(imaginary_part)


def _as_pair(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x.real, x.imag


# Dtypes, and new arrays


@operation
def cast(x: Tensor, dtype: Any) -> Tensor:
    """Return `x` in another dtype."""
    return np.asarray(x).astype(array_dtype(dtype))


@operation
def saturate_cast(x: Tensor, dtype: Any) -> Tensor:
    """Return `x` in another dtype, limited to what that holds."""
    x, wanted = to_array(x), array_dtype(dtype)
    if wanted == np.bool_:
        return x.astype(wanted)
    limits = np.iinfo(wanted) if wanted.kind in "iu" else np.finfo(wanted)
    return np.clip(x.astype(np.float64), limits.min, limits.max).astype(wanted)


@operation
def array(x: Tensor, dtype: Any = None) -> Tensor:
    """Return `x` as a new array."""
    return np.array(
        x if dtype is None else to_array(x), None if dtype is None else array_dtype(dtype)
    )


@operation
def convert_to_tensor(
    x: Tensor, dtype: Any = None, sparse: bool | None = None, ragged: bool | None = None
) -> Tensor:
    """Return `x` as an array."""
    return np.asarray(to_array(x), None if dtype is None else array_dtype(dtype))


@operation
def one_hot(
    x: Tensor, num_classes: int, axis: int = -1, dtype: Any = None, sparse: bool = False
) -> Tensor:
    """Return arrays along a new axis that are 1 at the places `x`, nowhere for a place that there is not."""
    places = np.expand_dims(_whole(x), -1) == np.arange(num_classes)
    return np.moveaxis(places, -1, axis).astype(array_dtype(dtype))


@operation
def multi_hot(
    inputs: Tensor,
    num_classes: int | None = None,
    axis: int = -1,
    dtype: Any = None,
    sparse: bool = False,
    **kwargs: int,
) -> Tensor:
    """Return arrays that are 1 at the places that a row of `inputs` lists; `num_tokens` is an old `num_classes`."""
    count: Any = kwargs.get("num_tokens", num_classes)
    places = np.expand_dims(_whole(inputs), -1) == np.arange(count)
    listed = np.moveaxis(places, -1, axis).any(axis=1 if np.ndim(inputs) > 1 else 0)
    return listed.astype(array_dtype(dtype))


@operation
def full_like(x: Tensor, fill_value: Tensor, dtype: Any = None) -> Tensor:
    """Return an array of the shape of `x`, filled."""
    x = to_array(x)
    return np.full_like(x, fill_value, x.dtype if dtype is None else array_dtype(dtype))


@operation
def ones_like(x: Tensor, dtype: Any = None) -> Tensor:
    """Return ones in the shape of `x`."""
    x = to_array(x)
    return np.ones(x.shape, x.dtype if dtype is None else array_dtype(dtype))


@operation
def zeros_like(x: Tensor, dtype: Any = None) -> Tensor:
    """Return zeros in the shape of `x`."""
    x = to_array(x)
    return np.zeros(x.shape, x.dtype if dtype is None else array_dtype(dtype))


@operation
def full(shape: Any, fill_value: Tensor, dtype: Any = None) -> Tensor:
    """Return an array of that shape, filled."""
    return np.full(shape, fill_value, array_dtype(dtype))


@operation
def arange(start: Any, stop: Any = None, step: Any = None, dtype: Any = None) -> Tensor:
    """Return the numbers from `start` (0 if it stands alone) to below `stop`."""
    first, last = (0, start) if stop is None else (start, stop)
    numbers = np.arange(first, last, 1 if step is None else step)
    return numbers if dtype is None else numbers.astype(array_dtype(dtype))


@operation
def linspace(
    start: Tensor,
    stop: Tensor,
    num: int = 50,
    endpoint: bool = True,
    retstep: bool = False,
    dtype: Any = None,
    axis: int = 0,
) -> Any:
    """Return `num` numbers at equal distances from `start` to `stop`."""
    wanted = None if dtype is None else array_dtype(dtype)
    return np.linspace(start, stop, num, endpoint, retstep, wanted, axis)  # type: ignore[call-overload]


def zeros(shape: Any, dtype: Any = None) -> np.ndarray:
    """Return an array of zeros."""
    return np.zeros(shape, array_dtype(dtype))


def ones(shape: Any, dtype: Any = None) -> np.ndarray:
    """Return an array of ones."""
    return np.ones(shape, array_dtype(dtype))


def empty(shape: Any, dtype: Any = None) -> np.ndarray:
    """Return an array of any numbers."""
    return np.empty(shape, array_dtype(dtype))


def eye(N: int, M: int | None = None, k: int = 0, dtype: Any = None) -> np.ndarray:
    """Return a matrix of zeros with ones on its `k`th diagonal."""
    return np.eye(N, M, k, array_dtype(dtype))


def identity(n: int, dtype: Any = None) -> np.ndarray:
    """Return the identity matrix of `n` rows."""
    return np.identity(n, array_dtype(dtype))


def tri(N: int, M: int | None = None, k: int = 0, dtype: Any = None) -> np.ndarray:
    """Return a matrix of zeros with ones up to its `k`th diagonal."""
    return np.tri(N, M, k, array_dtype(dtype))


# What is not recorded: facts about arrays, and control flow, which arrays decide


def convert_to_numpy(x: Tensor) -> np.ndarray:
    """Return `x` as an array."""
    return np.asarray(to_array(x))


def is_tensor(x: Any) -> bool:
    """Whether `x` is an array."""
    return isinstance(x, (np.ndarray, np.generic))


def shape(x: Tensor) -> tuple[Any, ...]:
    """Return the shape of `x`."""
    return np.shape(x)


def ndim(x: Tensor) -> int:
    """Return the number of axes of `x`."""
    return np.ndim(x)


def size(x: Tensor) -> int:
    """Return how many numbers `x` has."""
    return int(np.size(x))


def dtype(x: Tensor) -> str:
    """Return the name of the dtype of `x`."""
    return str(getattr(x, "dtype", None) or to_array(x).dtype)


def cond(pred: Tensor, true_fn: Callable[[], Any], false_fn: Callable[[], Any]) -> Any:
    """Return true_fn() if `pred` is true, else false_fn()."""
    return true_fn() if pred else false_fn()


def switch(index: Tensor, branches: Sequence[Callable[..., Any]], *operands: Any) -> Any:
    """Return what the branch of that index, or of the nearest that there is, makes of `operands`."""
    return branches[int(np.clip(index, 0, len(branches) - 1))](*operands)


def fori_loop(lower: int, upper: int, body_fun: Callable[[int, Any], Any], init_val: Any) -> Any:
    """Return body_fun(i, value) applied for each i from `lower` to below `upper`, from `init_val` on."""
    value = init_val
    for i in range(lower, upper):
        value = body_fun(i, value)
    return value


def while_loop(
    cond: Callable[..., Any],
    body: Callable[..., Any],
    loop_vars: Any,
    maximum_iterations: int | None = None,
) -> Any:
    """Return `body` applied to `loop_vars`, one or a list or tuple of them, as long as `cond` of them is true."""
    several = isinstance(loop_vars, (list, tuple))
    values = tuple(loop_vars) if several else (loop_vars,)
    done = 0
    while cond(*values) and (maximum_iterations is None or done < maximum_iterations):
        result = body(*values)
        values = tuple(result) if isinstance(result, (list, tuple)) else (result,)
        done += 1
    return values if several else values[0]


def map(f: Callable[[Any], Any], xs: Nested) -> Nested:
    """Return `f` of each part of `xs`, an array or nested arrays, along the first axis, stacked."""
    return _stacked([f(part) for part in _parts(xs)])


def vectorized_map(function: Callable[[Any], Any], elements: Nested) -> Nested:
    """As `map`."""
    return map(function, elements)


def scan(
    f: Callable[[Any, Any], tuple[Any, Any]],
    init: Nested,
    xs: Nested = None,
    length: int | None = None,
    reverse: bool = False,
    unroll: int | bool = 1,
) -> tuple[Nested, Nested]:
    """Apply `f` to a carry, `init` at first, and each part of `xs` along the first axis.

    Returns
    -------
    carry : nested ndarray
        The last one.
    results : nested ndarray
        What else `f` returned, stacked.
    """
    parts = [None] * (length or 0) if xs is None else _parts(xs)
    carry, results = init, []
    for part in reversed(parts) if reverse else parts:
        carry, result = f(carry, part)
        results.append(result)
    return carry, _stacked(results[::-1] if reverse else results)


def _parts(structure: Nested) -> list[Nested]:
    """The parts of nested arrays along the first axis, each in their structure."""

    def part(i: int) -> Nested:
        return map_structure(lambda array: array[i], structure)

    return [part(i) for i in range(len(flatten(structure)[0]))]


def _stacked(parts: Sequence[Nested]) -> Nested:
    """Nested arrays made of their parts, None of parts that are None."""
    leaves = [
        None if one[0] is None else np.stack(one)
        for one in zip(*[flatten(p) for p in parts], strict=True)
    ]
    return unflatten(parts[0], leaves)


nn = numpy = linalg = sys.modules[__name__]
"""Where Keras has some of the functions, too."""
