"""What all layers share: name, dtype, weights, configs, and the way from a call to a plan."""

import collections
import contextlib
import contextvars
import re

import numpy as np

from fastrnn import activations, initializers
from fastrnn.errors import UnsupportedLayerError
from fastrnn.plan import Builder, Executable

_names_given = collections.Counter()
_COMPUTE_DTYPES = {"float32": np.dtype(np.float32), "float64": np.dtype(np.float64)}


def snake_case(class_name):
    """Return Keras's default name for a layer of this class: "SimpleRNN" gives "simple_rnn"."""
    partly = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", class_name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", partly).lower()


def _unused_name(class_name):
    stem = snake_case(class_name)
    _names_given[stem] += 1
    count = _names_given[stem] - 1
    return f"{stem}_{count}" if count else stem


def _policy_name(dtype):
    """Return the name of a Keras dtype policy given as a name, a NumPy dtype or a config."""
    if dtype is None:
        return "float32"
    if isinstance(dtype, dict):
        return dtype["config"]["name"]
    return dtype if isinstance(dtype, str) else getattr(dtype, "name", None) or np.dtype(dtype).name


_initializing = contextvars.ContextVar("initializing", default=True)


@contextlib.contextmanager
def weights_come_later():
    """Let layers built inside get zeros for weights: initial values that are replaced at once cost seconds."""
    token = _initializing.set(False)
    try:
        yield
    finally:
        _initializing.reset(token)


def to_numeric(x, what):
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


def to_mask(mask, batch_and_time, what):
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


def serialize(layer):
    """Return Keras 3's description of a layer, a dict."""
    return {
        "module": layer.module,
        "class_name": type(layer).__name__,
        "config": layer.get_config(),
        "registered_name": None,
    }


def deserialize(description):
    """Return the layer that `serialize` described.

    Raises
    ------
    UnsupportedLayerError
        If its class is none of `fastrnn.layers`.
    """
    from fastrnn.layers import REGISTRY
    from fastrnn.model import Sequential

    classes = {**REGISTRY, "Sequential": Sequential}
    class_name = description["class_name"]
    if class_name not in classes:
        raise UnsupportedLayerError(
            f"layers of class {class_name} are not supported; known: {', '.join(classes)}"
        )
    return classes[class_name].from_config(description["config"])


_SERIALIZERS = {
    "activation": activations.serialize,
    "initializer": initializers.serialize,
    "cell": serialize,
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

    arguments = ()
    """Names of the constructor's arguments that `get_config` returns, each an attribute."""

    module = "keras.layers"
    """Where Keras has the class, for configs."""

    supports_masking = True
    """Whether the layer passes on the mask that its input carries."""

    def __init__(
        self,
        *,
        name=None,
        dtype=None,
        trainable=True,
        activity_regularizer=None,
        input_shape=None,
        batch_input_shape=None,
        **unknown,
    ):
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
        self._weights = {}
        self._executables = {}
        self._users = []

    # -- weights ----------------------------------------------------------------------------------------------------

    def build(self, input_shape):
        """Create the weights.

        Parameters
        ----------
        input_shape : tuple of int or None
            With the batch.
        """
        self.built = True

    def _unbuild(self):
        """Undo `build`, after an error further on in a model."""
        self.built = False
        self._weights = {}
        for child in self._flat_children():
            child._unbuild()

    def add_weight(self, shape, initializer, name):
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
        """
        if _initializing.get():
            values = np.ascontiguousarray(
                initializers.get(initializer)(shape, dtype=self.compute_dtype.name)
            )
        else:
            values = np.zeros(shape, self.compute_dtype)
        values.flags.writeable = False
        self._weights[name] = values
        return values

    def _children(self):
        """The layers inside this one, by the attribute that holds them: (name, layer or list of layers)."""
        return []

    def _flat_children(self):
        for _, child in self._children():
            yield from child if isinstance(child, list) else [child]

    @property
    def weights(self):
        """list of ndarray: all weights, read-only, in Keras's order."""
        return [
            *self._weights.values(),
            *(w for child in self._flat_children() for w in child.weights),
        ]

    def get_weights(self):
        """Return copies of the weights in Keras's order, a list of ndarray."""
        return [weight.copy() for weight in self.weights]

    def set_weights(self, weights):
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
        weights = [to_numeric(weight, f"weights of layer {self.name!r}") for weight in weights]
        if not self.built:
            raise ValueError(
                f"layer {self.name!r} is not built: build it, or call it, before set_weights"
            )
        expected = [weight.shape for weight in self.weights]
        given = [weight.shape for weight in weights]
        if given != expected:
            raise ValueError(
                f"layer {self.name!r}: expected weights of shapes {expected}; got {given}"
            )
        self._take_weights(iter(weights))

    def _take_weights(self, weights):
        for name in self._weights:
            values = np.array(next(weights), self.compute_dtype, order="C")
            values.flags.writeable = False
            self._weights[name] = values
        for child in self._flat_children():
            child._take_weights(weights)
        self._forget_plans()

    def count_params(self):
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

    def _forget_plans(self):
        """Drop the plans made from the weights, here and in the layers and models that hold this one."""
        self._executables = {}
        for user in self._users:
            user._forget_plans()

    def __getstate__(self):
        return {
            **self.__dict__,
            "_executables": {},
        }  # plans hold what is compiled, and are made anew

    # -- configs ----------------------------------------------------------------------------------------------------

    def get_config(self):
        """Return the constructor's arguments as Keras 3 writes them, a dict."""
        config = {
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
    def from_config(cls, config):
        """Return a layer from what `get_config` returned."""
        return cls(**config)

    # -- calls ------------------------------------------------------------------------------------------------------

    def compute_output_shape(self, input_shape):
        """Return the output's shape, with the batch, for an input's."""
        return tuple(input_shape)

    def lower(self, builder, x):
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

    def _check_input(self, shape):
        """Raise ValueError unless an input of this shape, with the batch, fits; None is an unknown size."""

    def _refuse_training(self, training):
        """Raise ValueError if `training` asks for what inference leaves out."""

    def __call__(self, inputs, mask=None, training=False):
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

    def _build_for(self, x):
        if not self.built:
            self.build(x.shape)

    def _execute(self, x, masks, states):
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
            outputs = self.lower(builder, value, *([initial] if initial else []))
            several = isinstance(outputs, list)
            buffers = [output.buffer for output in (outputs if several else [outputs])]
            inputs = [
                value.buffer,
                *([mask] if masks else []),
                *(state.buffer for state in initial),
            ]
            executable = Executable(builder, inputs, buffers), several
            self._executables[form] = executable
        run, several = executable
        results = run([x, *masks, *states])
        return tuple(results) if several else results[0]
