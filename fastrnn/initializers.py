"""The weight initializers that Keras names, in NumPy.

An initializer is called with a shape and a dtype and returns a new array. The random ones draw
from a NumPy generator. With an integer seed every call gives the same values, and they are those of
Keras on its NumPy backend; without one, the initializer takes a seed from Python's `random` module
when it is made.
"""

import inspect
import math
import operator
import random
from collections.abc import Sequence
from typing import Any, ClassVar, Self, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fastrnn._types import Config, InitializerFunction, InitializerLike
from fastrnn.activations import describe_function
from fastrnn.errors import DAMAGE

Seed = int | Config | None
Axes = Sequence[int] | None

# The standard deviation of a standard normal distribution cut at -2 and 2.
_TRUNCATED_STDDEV = 0.8796256610342398


class Initializer:
    """The base class: makes arrays when called, and has a config to make an equal one from."""

    def __call__(self, shape: Sequence[int], dtype: DTypeLike | None = "float32") -> np.ndarray:
        """Return a new array.

        Parameters
        ----------
        shape : sequence of int
        dtype : dtype-like, optional
            None means float32.

        Returns
        -------
        np.ndarray
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how to make the values")

    def get_config(self) -> Config:
        """Return the constructor's arguments as plain values."""
        return {}

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """Return an initializer made from what `get_config` returned."""
        return cls(**config)

    def clone(self) -> Self:
        """Return an initializer with the same config."""
        return self.from_config(self.get_config())


class Constant(Initializer):
    """Fill with `value`, a number or an array that broadcasts to the shape."""

    def __init__(self, value: ArrayLike = 0.0) -> None:
        self.value = value

    def __call__(self, shape: Sequence[int], dtype: DTypeLike | None = "float32") -> np.ndarray:
        return np.full(shape, self.value, dtype or "float32")

    def get_config(self) -> Config:
        return {"value": _describe_value(self.value)}

    @classmethod
    def from_config(cls, config: Config) -> Self:
        return cls(**{key: _described_value(value) for key, value in config.items()})


class Zeros(Initializer):
    """Fill with 0."""

    def __call__(self, shape: Sequence[int], dtype: DTypeLike | None = "float32") -> np.ndarray:
        return np.zeros(shape, dtype or "float32")


class Ones(Initializer):
    """Fill with 1."""

    def __call__(self, shape: Sequence[int], dtype: DTypeLike | None = "float32") -> np.ndarray:
        return np.ones(shape, dtype or "float32")


class Identity(Initializer):
    """Make `gain` times the identity matrix; the shape must have two dimensions."""

    def __init__(self, gain: float = 1.0) -> None:
        self.gain = gain

    def __call__(self, shape: Sequence[int], dtype: DTypeLike | None = "float32") -> np.ndarray:
        if len(shape) != 2:
            raise ValueError(f"Identity makes matrices; expected a shape of 2 numbers, got {shape}")
        return np.eye(*shape, dtype=np.dtype(dtype or "float32")) * self.gain

    def get_config(self) -> Config:
        # Keras reads a gain but never writes one.
        return {} if self.gain == 1 else {"gain": self.gain}


class STFT(Initializer):
    """Make a short-time Fourier transform's convolution kernel, of shape (frame length, 1, bins).

    Parameters
    ----------
    side : {"real", "imag"}
        Which part of the complex kernel to make.
    window : str, array-like or None
        A window's name in `scipy.signal.windows`, or its values, of the frame's length.
    scaling : {"density", "spectrum"} or None
        Divide the window by its L2 or its L1 norm.
    periodic : bool
        Whether a named window is made periodic.
    """

    def __init__(
        self,
        side: str = "real",
        window: ArrayLike | None = "hann",
        scaling: str | None = "density",
        periodic: bool = False,
    ) -> None:
        _check_choice("side", side, ("real", "imag"))
        _check_choice("scaling", scaling, ("density", "spectrum", None))
        self.side = side
        self.window = window
        self.scaling = scaling
        self.periodic = periodic
        if isinstance(window, str):
            self._window_values(1)

    def _window_values(self, length: int) -> np.ndarray:
        from scipy.signal import get_window  # takes long to import, and is hardly ever needed

        return get_window(self.window, length, self.periodic)

    def __call__(self, shape: Sequence[int], dtype: DTypeLike | None = "float32") -> np.ndarray:
        length, _, bins = shape
        angle = -np.pi * np.outer(np.arange(length), np.arange(bins)) / (bins - 1)
        kernel = np.cos(angle) if self.side == "real" else np.sin(angle)
        if self.window is not None:
            named = isinstance(self.window, str)
            window = self._window_values(length) if named else np.asarray(self.window)
            if window.shape != (length,):
                raise ValueError(
                    f"expected a window of shape {(length,)} for the kernel {shape}, "
                    f"got one of shape {window.shape}"
                )
            if self.scaling is not None:
                window = window / np.linalg.norm(window, 2 if self.scaling == "density" else 1)
            kernel = kernel * window[:, None]
        return kernel[:, None, :].astype(dtype or "float32")

    def get_config(self) -> Config:
        return {
            "side": self.side,
            "window": _describe_value(self.window),
            "periodic": self.periodic,
            "scaling": self.scaling,
        }

    @classmethod
    def from_config(cls, config: Config) -> Self:
        return cls(**{key: _described_value(value) for key, value in config.items()})


class _RandomInitializer(Initializer):
    def __init__(self, seed: Seed = None) -> None:
        self.seed = seed
        self._entropy = _seed_number(seed)

    # The types are quoted because NumPy imports np.random when it is first looked at: 12 ms.
    def _generator(self) -> "np.random.Generator":
        return np.random.default_rng([self._entropy, 0])

    def _draw(self, generator: "np.random.Generator", shape: Sequence[int]) -> ArrayLike:
        """Numbers in float64."""
        raise NotImplementedError

    def __call__(self, shape: Sequence[int], dtype: DTypeLike | None = "float32") -> np.ndarray:
        return np.asarray(self._draw(self._generator(), shape), dtype or "float32")

    def get_config(self) -> Config:
        return {"seed": self.seed}


class RandomNormal(_RandomInitializer):
    """Draw from a normal distribution."""

    def __init__(self, mean: float = 0.0, stddev: float = 0.05, seed: Seed = None) -> None:
        _check_finite(mean=mean, stddev=stddev)
        super().__init__(seed)
        self.mean = mean
        self.stddev = stddev

    def _draw(self, generator: "np.random.Generator", shape: Sequence[int]) -> ArrayLike:
        return generator.normal(self.mean, self.stddev, shape)

    def get_config(self) -> Config:
        return super().get_config() | {"mean": self.mean, "stddev": self.stddev}


class TruncatedNormal(RandomNormal):
    """Draw from a normal distribution, anew where over two standard deviations from the mean."""

    def _draw(self, generator: "np.random.Generator", shape: Sequence[int]) -> ArrayLike:
        return _truncated_normal(generator, self.mean, self.stddev, shape)


class RandomUniform(_RandomInitializer):
    """Draw evenly from `minval` (included) to `maxval` (excluded)."""

    def __init__(self, minval: float = -0.05, maxval: float = 0.05, seed: Seed = None) -> None:
        _check_finite(minval=minval, maxval=maxval)
        super().__init__(seed)
        self.minval = minval
        self.maxval = maxval

    def _draw(self, generator: "np.random.Generator", shape: Sequence[int]) -> ArrayLike:
        return generator.uniform(self.minval, self.maxval, shape)

    def get_config(self) -> Config:
        return super().get_config() | {"minval": self.minval, "maxval": self.maxval}


class VarianceScaling(_RandomInitializer):
    """Draw with mean 0 and variance ``scale / n``, where `n` follows from the shape.

    Parameters
    ----------
    scale : float
        Positive.
    mode : {"fan_in", "fan_out", "fan_avg"}
        Whether `n` is the number of inputs, of outputs, or their mean.
    distribution : {"truncated_normal", "untruncated_normal", "uniform"}
        "normal", as older files have it, means "truncated_normal".
    seed : int, dict or None
    input_axes, output_axes : sequence of int, optional
        The axes whose lengths multiply to the number of inputs and outputs, when both are given. By
        default the last two axes, each times the axes before them.
    """

    def __init__(
        self,
        scale: float = 1.0,
        mode: str = "fan_in",
        distribution: str = "truncated_normal",
        seed: Seed = None,
        input_axes: Axes = None,
        output_axes: Axes = None,
    ) -> None:
        if not scale > 0:
            raise ValueError(f"scale must be positive, got {scale}")
        distribution = distribution.lower()
        if distribution == "normal":
            distribution = "truncated_normal"
        _check_finite(scale=scale)
        _check_choice("mode", mode, ("fan_in", "fan_out", "fan_avg"))
        _check_choice(
            "distribution", distribution, ("truncated_normal", "untruncated_normal", "uniform")
        )
        super().__init__(seed)
        self.scale = scale
        self.mode = mode
        self.distribution = distribution
        self.input_axes = input_axes
        self.output_axes = output_axes

    def _draw(self, generator: "np.random.Generator", shape: Sequence[int]) -> ArrayLike:
        fan_in, fan_out = _fans(shape, self.input_axes, self.output_axes)
        fans = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}
        variance = self.scale / max(1.0, fans[self.mode])
        if self.distribution == "uniform":
            limit = math.sqrt(3 * variance)
            return generator.uniform(-limit, limit, shape)
        stddev = math.sqrt(variance)
        if self.distribution == "untruncated_normal":
            return generator.normal(0.0, stddev, shape)
        return _truncated_normal(generator, 0.0, stddev / _TRUNCATED_STDDEV, shape)

    def get_config(self) -> Config:
        return super().get_config() | {
            "scale": self.scale,
            "mode": self.mode,
            "distribution": self.distribution,
            "input_axes": self.input_axes,
            "output_axes": self.output_axes,
        }


class _NamedScaling(VarianceScaling):
    _recipe: ClassVar[tuple[float, str, str]]

    def __init__(
        self, seed: Seed = None, input_axes: Axes = None, output_axes: Axes = None
    ) -> None:
        super().__init__(*self._recipe, seed, input_axes, output_axes)

    def get_config(self) -> Config:
        return {
            "seed": self.seed,
            "input_axes": self.input_axes,
            "output_axes": self.output_axes,
        }


class GlorotUniform(_NamedScaling):
    """Draw evenly with variance ``2 / (inputs + outputs)``."""

    _recipe = (1.0, "fan_avg", "uniform")


class GlorotNormal(_NamedScaling):
    """Draw from a truncated normal distribution with variance ``2 / (inputs + outputs)``."""

    _recipe = (1.0, "fan_avg", "truncated_normal")


class LecunNormal(_NamedScaling):
    """Draw from a truncated normal distribution with variance ``1 / inputs``."""

    _recipe = (1.0, "fan_in", "truncated_normal")


class LecunUniform(_NamedScaling):
    """Draw evenly with variance ``1 / inputs``."""

    _recipe = (1.0, "fan_in", "uniform")


class HeNormal(_NamedScaling):
    """Draw from a truncated normal distribution with variance ``2 / inputs``."""

    _recipe = (2.0, "fan_in", "truncated_normal")


class HeUniform(_NamedScaling):
    """Draw evenly with variance ``2 / inputs``."""

    _recipe = (2.0, "fan_in", "uniform")


class Orthogonal(_RandomInitializer):
    """Make `gain` times a random orthogonal matrix.

    A shape of more than two dimensions is a matrix with the last one as its columns. A matrix that
    is not square has orthonormal columns or rows, whichever are fewer.
    """

    def __init__(self, gain: float = 1.0, seed: Seed = None) -> None:
        super().__init__(seed)
        self.gain = gain

    def __call__(self, shape: Sequence[int], dtype: DTypeLike | None = "float32") -> np.ndarray:
        if len(shape) < 2:
            raise ValueError(
                f"Orthogonal needs a shape of at least 2 dimensions, got {tuple(shape)}"
            )
        rows, columns = math.prod(shape[:-1]), shape[-1]
        tall = (max(rows, columns), min(rows, columns))
        q, r = np.linalg.qr(np.asarray(self._generator().normal(size=tall), dtype or "float32"))
        # QR leaves the columns' signs to the algorithm; fixed so, the result is uniform.
        q *= np.where(np.diag(r) < 0, -1, 1).astype(q.dtype)
        matrix = q if rows >= columns else q.T
        return self.gain * matrix.reshape(shape)

    def get_config(self) -> Config:
        return super().get_config() | {"gain": self.gain}


constant = Constant
glorot_normal = GlorotNormal
glorot_uniform = GlorotUniform
he_normal = HeNormal
he_uniform = HeUniform
identity = IdentityInitializer = Identity
lecun_normal = LecunNormal
lecun_uniform = LecunUniform
ones = Ones
orthogonal = OrthogonalInitializer = Orthogonal
random_normal = RandomNormal
random_uniform = RandomUniform
stft = STFTInitializer = STFT
truncated_normal = TruncatedNormal
variance_scaling = VarianceScaling
zeros = Zeros

_BY_NAME = {
    name: value
    for name, value in globals().items()
    if inspect.isclass(value) and issubclass(value, Initializer) and not name.startswith("_")
} | {"normal": RandomNormal, "one": Ones, "uniform": RandomUniform, "zero": Zeros}
del _BY_NAME["Initializer"]

NAMES = tuple(sorted(_BY_NAME))
"""Every name that `get` knows."""


@overload
def get(identifier: None) -> None: ...
@overload
def get(identifier: InitializerLike) -> InitializerFunction: ...
def get(identifier: Any) -> InitializerFunction | None:
    """Return the initializer that `identifier` means.

    Parameters
    ----------
    identifier : None, str, dict, np.ndarray or callable
        A string is one of `NAMES`, a dict is a config as Keras 2 or 3 writes it
        (``{"class_name": ..., "config": {...}}``), an array is the values themselves, a class is
        called without arguments; any other callable, and None, are returned as they are.

    Returns
    -------
    callable or None
        ``initializer(shape, dtype) -> np.ndarray``.

    Raises
    ------
    ValueError
        If the name, the kind of identifier or the config is not known.
    """
    if identifier is None:
        return None
    if isinstance(identifier, str):
        return _from_description({"class_name": identifier})
    if isinstance(identifier, dict):
        return _from_description(identifier)
    if isinstance(identifier, (np.ndarray, np.generic)):
        return _from_values(identifier)
    if inspect.isclass(identifier):
        identifier = identifier()
    if callable(identifier):
        return identifier
    raise ValueError(
        f"cannot interpret the initializer {identifier!r}; expected a name, a config dict, "
        "an array or a callable"
    )


def _from_description(description: Config) -> Initializer:
    name = description.get("class_name")
    package = str(description.get("module") or "keras").partition(".")[0]
    # Somebody's own class may share a name with Keras's: its module or registered name tells.
    foreign = package not in ("keras", "tf_keras", "builtins") or (
        description.get("registered_name") not in (None, name)
    )
    if foreign or not isinstance(name, str) or name not in _BY_NAME:
        raise ValueError(
            f"unknown initializer {repr(description if foreign else name)[:200]}; "
            f"expected one of {', '.join(NAMES)}"
        )
    # Files from TensorFlow 1 also name a dtype here.
    given = description.get("config") or {}
    if not isinstance(given, dict):
        raise ValueError(f"{name}: expected its config as a dict; got {str(given)[:80]}")
    config = {k: v for k, v in given.items() if k != "dtype"}
    try:
        return _BY_NAME[name].from_config(config)
    except DAMAGE as error:
        raise ValueError(
            f"{name} cannot be made from the config {str(config)[:200]}: {error}"
        ) from error


def _from_values(values: np.ndarray | np.generic) -> InitializerFunction:
    values = values.copy()

    def given_values(shape: Sequence[int], dtype: DTypeLike | None = "float32") -> np.ndarray:
        if tuple(shape) != values.shape:
            raise ValueError(
                f"the array given as initializer has shape {values.shape}, "
                f"but the weight has shape {tuple(shape)}"
            )
        return np.array(values, dtype or "float32")

    return given_values


def serialize(initializer: InitializerFunction | str | Config | None) -> str | Config | None:
    """Return Keras 3's config for `initializer`.

    Parameters
    ----------
    initializer : Initializer, callable, str, dict or None
        A string, a dict and None are returned as they are.

    Returns
    -------
    dict, str or None

    Raises
    ------
    ValueError
        If `initializer` has neither a config nor a name to be found by.
    """
    if initializer is None or isinstance(initializer, (str, dict)):
        return initializer
    if not isinstance(initializer, Initializer):
        return describe_function(initializer)
    name = type(initializer).__name__
    known = _BY_NAME.get(name) is type(initializer)
    return {
        "module": "keras.initializers" if known else type(initializer).__module__,
        "class_name": name,
        "config": initializer.get_config(),
        "registered_name": None if known else name,
    }


def _seed_number(seed: Any) -> int:
    if seed is None:
        return random.randrange(1, 10**9)
    if isinstance(seed, dict) and seed.get("class_name") == "SeedGenerator":
        return _seed_number(seed["config"]["seed"])
    try:
        number = operator.index(seed)
    except TypeError:
        raise ValueError(f"seed must be an integer or None, got {seed!r}") from None
    if not 0 <= number < 2**32:
        raise ValueError(f"seed must be between 0 and 2**32 - 1, got {seed}")
    return number


def _truncated_normal(
    generator: "np.random.Generator", mean: float, stddev: float, shape: Sequence[int]
) -> np.ndarray:
    count = math.prod(shape)
    kept = np.empty(0)
    while kept.size < count:
        drawn = generator.normal(mean, stddev, count)
        kept = np.append(kept, drawn[np.abs(drawn - mean) <= 2 * stddev])
    return kept[:count].reshape(shape)


def _fans(shape: Sequence[int], input_axes: Axes, output_axes: Axes) -> tuple[int, int]:
    if input_axes is not None and output_axes is not None:
        inputs = math.prod(shape[axis] for axis in input_axes)
        outputs = math.prod(shape[axis] for axis in output_axes)
        return inputs, outputs
    if len(shape) < 2:
        return math.prod(shape), math.prod(shape)
    receptive_field = math.prod(shape[:-2])
    return shape[-2] * receptive_field, shape[-1] * receptive_field


def _check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}")


def _check_finite(**numbers: float) -> None:
    for name, number in numbers.items():
        if not math.isfinite(number):
            raise ValueError(f"{name} must be finite, got {number}")


def _describe_value(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        config = {"value": value.tolist(), "dtype": value.dtype.name}
        return {"class_name": "__tensor__", "config": config}
    return value


def _described_value(value: Any) -> Any:
    if isinstance(value, dict) and value.get("class_name") == "__tensor__":
        return np.array(value["config"]["value"], value["config"]["dtype"])
    return value
