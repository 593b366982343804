"""What all layers share: name, dtype, weights, configs, and the way from a call to a plan."""

import collections
import contextlib
import contextvars
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fastrnn import activations, initializers
from fastrnn._types import Config, InitializerFunction, InitializerLike, Nested, Shape
from fastrnn.errors import UnsupportedLayerError
from fastrnn.plan import Builder, Executable, Value

if TYPE_CHECKING:
    from fastrnn.layers.rnn import RNN

_names_given: collections.Counter[str] = collections.Counter()
_COMPUTE_DTYPES: dict[str, np.dtype] = {
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}


def snake_case(class_name: str) -> str:
    """Return a class name as Keras writes it in names: "ConvLSTM2D" gives "conv_lstm2d"."""
    partly = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", class_name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", partly).lower()


def _unused_name(class_name: str) -> str:
    stem = snake_case(class_name)
    _names_given[stem] += 1
    count = _names_given[stem] - 1
    return f"{stem}_{count}" if count else stem


def _policy_name(dtype: Any) -> str:
    """Return the name of a Keras dtype policy given as a name, a NumPy dtype or a config."""
    if dtype is None:
        return "float32"
    if isinstance(dtype, dict):
        return dtype["config"]["name"]
    return dtype if isinstance(dtype, str) else getattr(dtype, "name", None) or np.dtype(dtype).name


_initializing = contextvars.ContextVar("initializing", default=True)


@contextlib.contextmanager
def weights_come_later() -> Iterator[None]:
    """Let layers built inside get zeros for weights: initial values that are replaced at once cost seconds."""
    token = _initializing.set(False)
    try:
        yield
    finally:
        _initializing.reset(token)


def to_numeric(x: ArrayLike, what: str) -> np.ndarray:
    """Return `x` as an array of numbers.

    Raises
    ------
    TypeError
        If it is something else: strings, objects, complex numbers.
    """
    array = np.asarray(x)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{what}: expected an array of real numbers; got dtype {array.dtype}")
    return array


def to_mask(mask: ArrayLike, batch_and_time: tuple[int, ...], what: str) -> np.ndarray:
    """Return a mask (batch, time) or (batch, time, 1), of booleans or 0 and 1, as booleans (batch, time).

    Raises
    ------
    ValueError
        If its shape is another one.
    """
    array = to_numeric(mask, f"{what}: mask")
    if array.shape == (*batch_and_time, 1):
        array = array[..., 0]
    if array.shape != tuple(batch_and_time):
        raise ValueError(
            f"{what}: expected a mask of shape {tuple(batch_and_time)}; got {np.shape(mask)}"
        )
    return np.ascontiguousarray(array, np.bool_)


def serialize(layer: "Layer") -> Config:
    """Return Keras 3's description of a layer, a dict."""
    return {
        "module": layer.module,
        "class_name": type(layer).__name__,
        "config": layer.get_config(),
        "registered_name": None,
    }


def deserialize(description: Config) -> "Layer":
    """Return the layer that `serialize` described.

    Raises
    ------
    UnsupportedLayerError
        If its class is none of `fastrnn.layers`.
    """
    from fastrnn.layers import REGISTRY
    from fastrnn.model import Sequential

    classes: dict[str, type[Layer]] = {**REGISTRY, "Sequential": Sequential}
    class_name = description["class_name"]
    if class_name not in classes:
        raise UnsupportedLayerError(
            f"layers of class {class_name} are not supported; known: {', '.join(classes)}"
        )
    return classes[class_name].from_config(description["config"])


_SERIALIZERS: dict[str, Callable[[Any], Any]] = {
    "activation": activations.serialize,
    "initializer": initializers.serialize,
    "cell": serialize,
    "layer": serialize,
}


class Layer:
    """A layer with Keras's names.

    Parameters
    ----------
    name : str, optional
        By default the class's name in snake case, numbered.
    dtype : str, optional
        "float32" (the default) or "float64".
    trainable : bool
        Kept for the config.
    activity_regularizer : optional
        Kept for the config.
    input_shape, batch_input_shape : tuple, optional
        The shape of the input, without or with the batch, for the first layer of a `Sequential`.

    Raises
    ------
    UnsupportedLayerError
        For another dtype policy.
    ValueError
        For a keyword that is none of these.
    """

    arguments: ClassVar[tuple[str, ...]] = ()
    """Names of the constructor's arguments that `get_config` returns, each an attribute."""

    module = "keras.layers"
    """Where Keras has the class, for configs."""

    supports_masking = True
    """Whether the layer passes on the mask that its input carries."""

    def __init__(
        self,
        *,
        name: str | None = None,
        dtype: DTypeLike | Config | None = None,
        trainable: bool = True,
        activity_regularizer: object = None,
        input_shape: Shape | None = None,
        batch_input_shape: Shape | None = None,
        **unknown: object,
    ) -> None:
        if unknown:
            raise ValueError(
                f"{type(self).__name__}: unknown arguments {', '.join(map(repr, sorted(unknown)))}"
            )
        self.name = _unused_name(type(self).__name__) if name is None else str(name)
        self.dtype = _policy_name(dtype)
        if self.dtype not in _COMPUTE_DTYPES:
            raise UnsupportedLayerError(
                f"layer {self.name!r}: expected dtype float32 or float64; got the policy {self.dtype!r}"
            )
        self.compute_dtype = _COMPUTE_DTYPES[self.dtype]
        self.trainable = trainable
        self.activity_regularizer = activity_regularizer
        self.declared_input_shape = (
            (None, *input_shape)
            if input_shape is not None
            else batch_input_shape and tuple(batch_input_shape)
        )
        self.built = False
        self._weights: dict[str, np.ndarray] = {}
        self._executables: dict[tuple[int, ...], tuple[Executable, Nested]] = {}
        self._users: list[Layer] = []

    # -- weights ----------------------------------------------------------------------------------------------------

    def build(self, input_shape: Shape) -> None:
        """Create the weights.

        Parameters
        ----------
        input_shape : tuple of int or None
            With the batch.
        """
        self.built = True

    def _unbuild(self) -> None:
        """Undo `build`, after an error further on in a model."""
        self.built = False
        self._weights = {}
        for child in self._flat_children():
            child._unbuild()

    def add_weight(self, shape: Shape, initializer: InitializerLike, name: str) -> np.ndarray:
        """Create, register and return a weight.

        Parameters
        ----------
        shape : tuple of int
        initializer : str, dict or callable
            What `fastrnn.initializers.get` takes.
        name : str

        Returns
        -------
        ndarray
            Read-only, of the layer's dtype.

        Raises
        ------
        ValueError
            If a size is not known.
        """
        if None in shape:
            raise ValueError(
                f"layer {self.name!r}: expected an input with a known number of features; {name} would be {shape}"
            )
        make: InitializerFunction = (
            initializers.get(initializer) if _initializing.get() else np.zeros
        )
        values = np.asarray(make(shape, dtype=self.compute_dtype.name), order="C")
        values.flags.writeable = False
        self._weights[name] = values
        return values

    def _children(self) -> "list[tuple[str, Layer | list[Layer]]]":
        """The layers inside this one, by the attribute that holds them: (name, layer or list of layers)."""
        return []

    def _flat_children(self) -> "Iterator[Layer]":
        for _, child in self._children():
            yield from child if isinstance(child, list) else [child]

    @property
    def weights(self) -> list[np.ndarray]:
        """list of ndarray: all weights, read-only, in Keras's order."""
        return [
            *self._weights.values(),
            *(w for child in self._flat_children() for w in child.weights),
        ]

    def get_weights(self) -> list[np.ndarray]:
        """Return copies of the weights in Keras's order, a list of ndarray."""
        return [weight.copy() for weight in self.weights]

    def set_weights(self, weights: Sequence[ArrayLike]) -> None:
        """Replace all weights.

        Parameters
        ----------
        weights : list of array-like
            In Keras's order and shapes.

        Raises
        ------
        ValueError
            If the layer is not built, or the number or a shape is another one; nothing is changed then.
        """
        arrays = [to_numeric(weight, f"weights of layer {self.name!r}") for weight in weights]
        if not self.built:
            raise ValueError(
                f"layer {self.name!r} is not built: build it, or call it, before set_weights"
            )
        expected = [weight.shape for weight in self.weights]
        given = [array.shape for array in arrays]
        if given != expected:
            raise ValueError(
                f"layer {self.name!r}: expected weights of shapes {expected}; got {given}"
            )
        self._take_weights(iter(arrays))

    def _take_weights(self, weights: Iterator[np.ndarray]) -> None:
        for name in self._weights:
            values = np.array(next(weights), self.compute_dtype, order="C")
            values.flags.writeable = False
            self._weights[name] = values
        for child in self._flat_children():
            child._take_weights(weights)
        self._forget_plans()

    def count_params(self) -> int:
        """Return the number of numbers in all weights.

        Raises
        ------
        ValueError
            If the layer is not built.
        """
        if not self.built:
            raise ValueError(
                f"layer {self.name!r} is not built: build it, or call it, before count_params"
            )
        return sum(weight.size for weight in self.weights)

    def _forget_plans(self) -> None:
        """Drop the plans made from the weights, here and in the layers and models that hold this one."""
        self._executables = {}
        for user in self._users:
            user._forget_plans()

    def __getstate__(self) -> dict[str, Any]:
        return {
            **self.__dict__,
            "_executables": {},
        }  # plans hold what is compiled, and are made anew

    # -- configs ----------------------------------------------------------------------------------------------------

    def get_config(self) -> Config:
        """Return the constructor's arguments as Keras 3 writes them, a dict."""
        config: Config = {
            "name": self.name,
            "trainable": self.trainable,
            "dtype": {
                "module": "keras",
                "class_name": "DTypePolicy",
                "config": {"name": self.dtype},
                "registered_name": None,
            },
        }
        for argument in self.arguments:
            serialize = _SERIALIZERS.get(argument.rpartition("_")[2], lambda value: value)
            config[argument] = serialize(getattr(self, argument))
        return config

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """Return a layer from what `get_config` returned."""
        return cls(**config)

    # -- calls ------------------------------------------------------------------------------------------------------

    def compute_output_shape(self, input_shape: Nested) -> Nested:
        """Return the output's shape, with the batch, for an input's."""
        return tuple(input_shape)

    def lower(self, builder: Builder, x: Value) -> Value | list[Value]:
        """Write the layer's steps.

        Parameters
        ----------
        builder : fastrnn.plan.Builder
        x : fastrnn.plan.Value
            The input, and the mask it carries.

        Returns
        -------
        Value or list of Value
            The output, or the output and the states.
        """
        raise NotImplementedError

    def _check_input(self, shape: Shape) -> None:
        """Raise ValueError unless an input of this shape, with the batch, fits; None is an unknown size."""

    def _refuse_training(self, training: bool) -> None:
        """Raise ValueError if `training` asks for what inference leaves out."""
        for child in self._flat_children():
            child._refuse_training(training)

    def _stateful_layers(self) -> Iterator["RNN"]:
        """The recurrent layers, in this one or this one itself, that keep states between calls."""
        for child in self._flat_children():
            yield from child._stateful_layers()

    def __call__(
        self, inputs: ArrayLike, mask: ArrayLike | None = None, training: bool = False
    ) -> np.ndarray:
        """Compute the layer.

        Parameters
        ----------
        inputs : array-like, shape (batch, ...)
        mask : array-like of bool, shape (batch, time), optional
        training : bool
            An error where the layer would do something else in training.

        Returns
        -------
        ndarray
        """
        self._refuse_training(training)
        x = to_numeric(inputs, f"layer {self.name!r}")
        self._check_input(x.shape)
        masks = [] if mask is None else [to_mask(mask, x.shape[:2], f"layer {self.name!r}")]
        self._build_for(x)
        return self._execute(x, masks, [])

    def _build_for(self, x: np.ndarray) -> None:
        if not self.built:
            self.build(x.shape)

    def _execute(self, x: np.ndarray, masks: list[np.ndarray], states: list[np.ndarray]) -> Nested:
        """Run the layer's plan for this form of call, made when the form is met first."""
        form = (x.ndim, len(masks), len(states))
        executable = self._executables.get(form)
        if executable is None:
            builder = Builder()
            batch = x.shape[0] if getattr(self, "stateful", False) else None
            mask = builder.mask() if masks else None
            value = builder.value(
                (batch, *[None] * (x.ndim - 2), *x.shape[-1:][: x.ndim - 1]), mask
            )
            initial = [builder.value((None, state.shape[1])) for state in states]
            lowered = self.lower(builder, value, *([initial] if initial else []))
            outputs = lowered if isinstance(lowered, list) else [lowered]
            inputs = [
                value.buffer,
                *([] if mask is None else [mask]),
                *(state.buffer for state in initial),
            ]
            executable = (
                Executable(builder, inputs, [output.buffer for output in outputs]),
                isinstance(lowered, list),
            )
            self._executables[form] = executable
        run, several = executable
        results = run([x, *masks, *states])
        return tuple(results) if several else results[0]
