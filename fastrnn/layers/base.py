"""What all layers share: name, dtype, weights, configs, and the way from a call to a plan."""

import collections
import contextlib
import contextvars
import functools
import inspect
import re
import types
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fastrnn import activations, initializers
from fastrnn._nested import flatten, map_structure, unflatten
from fastrnn._types import Config, InitializerFunction, InitializerLike, Nested, Shape
from fastrnn.dtypes import (
    HALVES,
    as_dtype,
    is_floating,
    narrow_precision,
    policy,
    rounded,
)
from fastrnn.errors import UnsupportedLayerError
from fastrnn.layers import own_call
from fastrnn.layers.arguments import (
    arrays_in,
    form_of,
    is_array,
    is_array_like,
    leaves_of,
    look_at,
    to_mask,
    to_numeric,
)
from fastrnn.layers.calls import (
    NamedInput,
    PreparedCall,
    PreparedCalls,
    prepared_call,
)
from fastrnn.plan import (
    Builder,
    Constant,
    Executable,
    StreamBuilder,
    Value,
    values_in,
)
from fastrnn.symbolic import holds_tensors, record

if TYPE_CHECKING:
    from fastrnn.layers.rnn import RNN

_names_given: collections.Counter[str] = collections.Counter()


def snake_case(class_name: str) -> str:
    """Return a class name as Keras writes it in names: "ConvLSTM2D" gives "conv_lstm2d"."""
    partly = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", class_name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", partly).lower()


def _unused_name(class_name: str) -> str:
    stem = snake_case(class_name)
    _names_given[stem] += 1
    count = _names_given[stem] - 1
    return f"{stem}_{count}" if count else stem


_initializing = contextvars.ContextVar("initializing", default=True)


@contextlib.contextmanager
def weights_come_later() -> Iterator[None]:
    """Let layers built inside get zeros for weights: initial values, replaced at once, cost seconds and memory."""
    token = _initializing.set(False)
    try:
        yield
    finally:
        _initializing.reset(token)


def serialize(layer: Any) -> Config:
    """Return Keras 3's description of a layer, or of a cell of your own that has `get_config`, a dict."""
    cls = type(layer)
    module = getattr(layer, "module", cls.__module__)
    return {
        "module": module,
        "class_name": cls.__name__,
        "config": layer.get_config(),
        "registered_name": None if module.split(".")[0] == "keras" else cls.__name__,
    }


_custom_objects: contextvars.ContextVar[Mapping[str, Any]] = contextvars.ContextVar(
    "custom_objects", default=types.MappingProxyType({})
)


def deserialize(config: Config, custom_objects: Mapping[str, Any] | None = None) -> Any:
    """Return the layer that `serialize` described.

    Parameters
    ----------
    config : dict
    custom_objects : dict of str to class, optional
        Your own classes of layers and cells, for those inside the layer too.

    Raises
    ------
    UnsupportedLayerError
        If its class is neither in `fastrnn.layers` nor one of yours.
    """
    from fastrnn.layers import REGISTRY
    from fastrnn.model import Sequential

    custom = {**_custom_objects.get(), **(custom_objects or {})}
    classes = {**REGISTRY, "Sequential": Sequential, **custom}
    names = [config.get("registered_name"), config["class_name"]]
    cls = next((classes[name] for name in names if name in classes), None)
    if cls is None:
        raise UnsupportedLayerError(
            f"layers of class {config['class_name']} are not supported; known: {', '.join(classes)}"
        )
    token = _custom_objects.set(custom)
    try:
        if hasattr(cls, "from_config"):
            return cls.from_config(config["config"])
        return cls(**config["config"])
    finally:
        _custom_objects.reset(token)


_SERIALIZERS: dict[str, Callable[[Any], Any]] = {
    "activation": activations.serialize,
    "initializer": initializers.serialize,
    "cell": serialize,
    "layer": serialize,
}


_NOT_HELD = ("_executables", "_prepared", "_users", "_weights")
"""Attributes of a layer that hold neither layers inside it nor weights under another name."""


class Layer:
    """A layer with Keras's names.

    Parameters
    ----------
    name : str, optional
        By default the class's name in snake case, numbered.
    dtype : str, optional
        The dtype policy: "float32" (the default), "float64", "float16", "bfloat16", "mixed_float16" or
        "mixed_bfloat16". Those of half precision compute in float32, and only what is returned is float16 or bfloat16.
    trainable : bool
        Kept for the config.
    activity_regularizer : optional
        Kept for the config.
    input_shape, batch_input_shape : tuple, optional
        The shape of the input, without or with the batch, for the first layer of a `Sequential`.
    carries_mask : bool
        Whether the output can carry a mask; False for files of versions in which the layer dropped it, and not in the
        config.
    carries_given_mask : bool
        Whether the output carries the mask that a call was given; False for files of versions in which it carried the
        input's own, and not in the config.

    Raises
    ------
    UnsupportedLayerError
        For another dtype policy.
    ValueError
        For a keyword that is none of these.

    Attributes
    ----------
    dtype_policy : fastrnn.dtypes.DTypePolicy
    compute_dtype : numpy.dtype
        float32 or float64: what the layer computes in.
    """

    arguments: ClassVar[tuple[str, ...]] = ()
    """Names of the constructor's arguments that `get_config` returns, each an attribute."""

    module = "keras.layers"
    """Where Keras has the class, for configs."""

    supports_masking = True
    """Whether the layer passes on the mask that its input carries."""

    takes_several: ClassVar[bool] = False
    """Whether the first argument of a call is a list of tensors; its shape is a list of shapes then."""

    call_arguments: ClassVar[tuple[str, ...]] = ("inputs", "mask", "training")
    """Names of the arguments of a call, in Keras's order."""

    def __init__(
        self,
        *,
        name: str | None = None,
        dtype: DTypeLike | Config | None = None,
        trainable: bool = True,
        activity_regularizer: object = None,
        input_shape: Shape | None = None,
        batch_input_shape: Shape | None = None,
        carries_mask: bool = True,
        carries_given_mask: bool = True,
        **unknown: object,
    ) -> None:
        if unknown:
            raise ValueError(
                f"{type(self).__name__}: unknown arguments {', '.join(map(repr, sorted(unknown)))}"
            )
        self.name = _unused_name(type(self).__name__) if name is None else str(name)
        self.dtype_policy = policy(dtype, f"layer {self.name!r}")
        returned = self.dtype_policy.compute_dtype
        self.compute_dtype = np.dtype(np.float32 if returned in HALVES else returned)
        self.trainable = trainable
        self.activity_regularizer = activity_regularizer
        self.carries_given_mask = carries_given_mask
        if not carries_mask:
            self.supports_masking = False
        self.declared_input_shape = (
            (None, *input_shape)
            if input_shape is not None
            else batch_input_shape and tuple(batch_input_shape)
        )
        self.built = False
        self._weights: dict[str, np.ndarray] = {}
        self._not_trainable: set[str] = set()
        self._rounded_to: dict[str, str] = {}
        self._executables: dict[Hashable, tuple[Executable, Nested]] = {}
        self._prepared = PreparedCalls()
        self._users: list[Layer] = []

    @property
    def variable_dtype(self) -> str:
        """str: the dtype of the weights in Keras; those of half precision are kept in float32, rounded."""
        return self.dtype_policy.variable_dtype

    dtype = variable_dtype

    # -- weights ----------------------------------------------------------------------------------------------------

    def build(self, input_shape: Shape) -> None:
        """Create the weights.

        Parameters
        ----------
        input_shape : tuple of int or None
            With the batch.
        """
        self.built = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = vars(cls)
        if "build" in own:
            cls.build = _noting_it_is_built(own["build"])  # type: ignore[method-assign]
        cls._computes_mask |= "compute_mask" in own
        cls._tells_output_shape |= "compute_output_shape" in own
        if "call" in own:
            cls._built_in = next(
                base for base in cls.__mro__ if getattr(base, "call", None) is Layer.call
            )
            cls.call_arguments = tuple(inspect.signature(own["call"]).parameters)[1:]
            cls.takes_several = True
            cls.lower = Layer.lower  # type: ignore[method-assign]
            cls.module = cls.__module__
            if "supports_masking" not in own and cls._built_in is Layer:
                cls.supports_masking = cls._computes_mask

    def _unbuild(self) -> None:
        """Undo `build`, after an error further on in a model."""
        self.built = False
        self._weights = {}
        for child in self._flat_children():
            child._unbuild()

    def add_weight(
        self,
        shape: Sequence[int | None] | None = None,
        initializer: InitializerLike | None = None,
        dtype: DTypeLike | None = None,
        trainable: bool = True,
        autocast: bool = True,
        regularizer: object = None,
        constraint: object = None,
        aggregation: str | None = "none",
        overwrite_with_gradient: bool = False,
        name: str | None = None,
    ) -> np.ndarray:
        """Create, register and return a weight.

        An attribute of the layer that holds the weight holds the new values after `set_weights`.

        Parameters
        ----------
        shape : tuple of int, optional
            A number by default.
        initializer : str, dict or callable, optional
            What `fastrnn.initializers.get` takes; "glorot_uniform" by default, "zeros" for whole numbers.
        dtype : str, optional
            The layer's own by default.
        trainable : bool
            The weights that are come first in `weights`.
        name : str, optional
        autocast, regularizer, constraint, aggregation, overwrite_with_gradient : optional
            Have no effect.

        Returns
        -------
        ndarray
            Read-only.

        Raises
        ------
        ValueError
            If a size is not known.
        """
        shape = tuple(shape or ())
        kept_as = self.variable_dtype if dtype is None else as_dtype(dtype).name
        own_dtype = np.dtype(np.float32 if kept_as in HALVES else kept_as)
        if initializer is None:
            initializer = "glorot_uniform" if own_dtype.kind == "f" else "zeros"
        while name is None or name in self._weights:
            name = f"{name or 'variable'}_{len(self._weights)}"
        if None in shape:
            raise ValueError(
                f"layer {self.name!r}: expected an input with a known number of features; {name} would be {shape}"
            )
        if kept_as in HALVES:
            self._rounded_to[name] = kept_as
        if _initializing.get():
            make: InitializerFunction = initializers.get(initializer)
            values = self._as_weight(name, make(shape, dtype=own_dtype.name), own_dtype)
        else:
            # One number that is seen everywhere.
            values = np.broadcast_to(np.zeros((), own_dtype), cast(tuple[int, ...], shape))
        self._weights[name] = values
        if not trainable:
            self._not_trainable.add(name)
        return values

    def _as_weight(
        self, name: str, values: np.ndarray, dtype: np.dtype, adopt: bool = False
    ) -> np.ndarray:
        """A read-only array of the weight's values, rounded where its policy has it in half precision.

        It is a new one, or with `adopt` the one given if that will do.
        """
        half = self._rounded_to.get(name)
        as_array = np.asarray if adopt else np.array
        weight = as_array(values, dtype, order="C") if half is None else rounded(values, half)
        weight.flags.writeable = False
        return weight

    def _children(self) -> "list[tuple[str, Layer | list[Layer]]]":
        """The layers inside this one, by the attribute that holds them: (name, layer or list of layers)."""
        children: list[tuple[str, Layer | list[Layer]]] = []
        for name, value in vars(self).items():
            held = flatten(value) if name not in _NOT_HELD else []
            if held and all(isinstance(one, Layer) for one in held):
                children.append((name, held[0] if isinstance(value, Layer) else held))
        return children

    def _flat_children(self) -> "Iterator[Layer]":
        for _, child in self._children():
            yield from child if isinstance(child, list) else [child]

    @property
    def _weight_names(self) -> list[str]:
        return sorted(self._weights, key=self._not_trainable.__contains__)

    @property
    def weights(self) -> list[np.ndarray]:
        """list of ndarray: all weights, read-only, in Keras's order."""
        return [
            *map(self._weights.__getitem__, self._weight_names),
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

    def _take_weights(self, weights: Iterator[np.ndarray], adopt: bool = False) -> None:
        """Replace the weights by arrays of their shapes; with `adopt` by these themselves, which nobody else holds."""
        changed: dict[int, np.ndarray] = {}
        for name in self._weight_names:
            before = self._weights[name]
            values = self._as_weight(name, next(weights), before.dtype, adopt)
            self._weights[name] = changed[id(before)] = values
        for attribute, value in vars(self).items():
            if attribute not in _NOT_HELD and any(id(one) in changed for one in flatten(value)):
                vars(self)[attribute] = map_structure(lambda one: changed.get(id(one), one), value)
        for child in self._flat_children():
            child._take_weights(weights, adopt)
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

    _precision: str | None = None

    def set_precision(self, precision: str | None) -> None:
        """Choose in which precision the recurrent layers of this model, or this one, multiply.

        It is for the calls, `predict` and streams of this object; a model that holds it has a choice of its own.

        Parameters
        ----------
        precision : {"float32", "bfloat16", "int8"} or None
            What recurrent weights, and the states that they multiply, are rounded to. None and "float32" leave them as
            they are.

        Raises
        ------
        ValueError
            If it is another one, or a recurrent layer is of float64.
        """
        narrow = narrow_precision(precision)
        if narrow is not None:
            self._refuse_to_narrow(narrow)
        self._precision = narrow
        self._forget_plans()

    def _refuse_to_narrow(self, precision: str) -> None:
        """Raise ValueError if a recurrent layer, in this one or this one itself, is of float64."""
        for child in self._flat_children():
            child._refuse_to_narrow(precision)

    def _forget_plans(self) -> None:
        """Drop the plans made from the weights, here and in the layers and models that hold this one."""
        self._executables, self._prepared = {}, PreparedCalls()
        for user in self._users:
            user._forget_plans()

    def __getstate__(self) -> dict[str, Any]:
        # Plans hold what is compiled, and are made anew.
        return {**self.__dict__, "_executables": {}, "_prepared": PreparedCalls()}

    # -- configs ----------------------------------------------------------------------------------------------------

    def get_config(self) -> Config:
        """Return the constructor's arguments as Keras 3 writes them, a dict."""
        config: Config = {
            "name": self.name,
            "trainable": self.trainable,
            "dtype": {
                "module": "keras",
                "class_name": "DTypePolicy",
                "config": {"name": self.dtype_policy.name},
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

    _computes_mask: bool = False
    _tells_output_shape: bool = False
    _built_in: "type[Layer]"

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the layer: what a layer of your own defines, over NumPy arrays.

        `training` among its arguments is False, and `mask` the mask that the first one carries or is given. In a class
        that derives from one of `fastrnn.layers`, `super().call` computes that.
        """
        if type(self).call is Layer.call:
            return self(*args, **kwargs)
        if self._built_in is Layer:
            raise NotImplementedError(f"layer {self.name!r}: {type(self).__name__} has no call")
        same = object.__new__(self._built_in)
        same.__dict__ = self.__dict__  # weights, states and plans are those of one layer
        return same(*args, **kwargs)

    def compute_mask(self, inputs: Nested, previous_mask: Nested) -> Nested:
        """Return the output's mask: what a layer of your own may define."""
        return previous_mask

    def compute_output_shape(self, input_shape: Nested) -> Nested:
        """Return the output's shape, with the batch, for an input's."""
        if type(self).call is Layer.call:
            return tuple(input_shape)
        builder = Builder()
        outputs = self.lower_call(builder, [own_call.map_shapes(builder.value, input_shape)], {})
        return map_structure(lambda value: value.shape, outputs)

    def lower(self, builder: Builder, x: Nested) -> Nested:
        """Write the layer's steps.

        Parameters
        ----------
        builder : fastrnn.plan.Builder
        x : fastrnn.plan.Value, or a list of them where the layer takes several tensors
            The input, and the mask it carries.
        **arguments : optional
            The call's other arguments but masks and `training`: Values and constants, nested as in the call.

        Returns
        -------
        Value or list of Value
            The output, or the outputs; a list among them holds the states of one cell of several.
        """
        if type(self).call is Layer.call:
            raise NotImplementedError(f"layer {self.name!r}: {type(self).__name__} has no call")
        return own_call.lower(self, builder, {self.call_arguments[0]: x})

    across_time: str | None = "it does not compute a timestep from that timestep alone"
    """Why the layer cannot run in a stream, one timestep after the other; None if it can."""

    def lower_stream(self, builder: StreamBuilder, x: Nested) -> Nested:
        """Write the layer's steps for some timesteps of a stream, from their inputs and what is carried along.

        Parameters
        ----------
        builder : fastrnn.plan.StreamBuilder
        x : fastrnn.plan.StreamValue, or a list of them
            Sequences, (batch, steps, ...), and values from the start of the stream.
        **arguments : optional
            As for `lower`, where a layer takes any.

        Returns
        -------
        Value or list of Value
            Sequences but for StreamValues that say otherwise.
        """
        return self.lower(builder, x)

    def why_across_time(self, x: Nested) -> str | None:
        """Return why the layer cannot run timestep by timestep over these values, or None if it can."""
        return self.across_time

    def lower_call(
        self, builder: Builder, args: Sequence[Nested], kwargs: dict[str, Nested]
    ) -> Nested:
        """Write the steps of a call: give each tensor its mask, build the layer, lower it.

        Parameters
        ----------
        builder : fastrnn.plan.Builder
        args : sequence
            The positional arguments of the call, Values and constants in any nesting.
        kwargs : dict
            The keyword arguments.

        Returns
        -------
        Value or list of Value
            As from `lower`.

        Notes
        -----
        The mask that a tensor carries counts where the tensors come in one argument of the call, or where the call
        has an argument for just that mask, as in Keras: not in a decoder that is given an initial state. Its output
        carries the mask all the same. `RecurrentLayer.mask_beside_states` lifts that.
        """
        given = self._named(args, kwargs)
        try:
            self._refuse_training(bool(given.pop("training", False)))
        except ValueError as error:
            raise UnsupportedLayerError(
                f"layer {self.name!r}: a call of it within the model has training=True, which Keras 2 obeys in "
                f"predict, too: build the same model without training=True, give it the weights, and save it ({error})"
            ) from error
        first = self.call_arguments[0]
        if type(self).call is Layer.call:
            given = self._with_constants(builder, given)
            if self.takes_several and isinstance(given[first], tuple):
                given[first] = list(given[first])
        masks = {name: given.pop(f"{name}_mask") for name in [*given] if f"{name}_mask" in given}
        if "mask" in given:
            masks[first] = given.pop("mask")
        x = given[first]
        if not self.takes_several:
            (x, *others) = flatten(x)
            if others:
                raise ValueError(f"layer {self.name!r}: expected one input; got {len(others) + 1}")
            given[first] = x
        tensors = [name for name, value in given.items() if values_in(value)]
        own: Value | None = None
        for name in tensors:
            if name in masks or not self._carried_mask_counts(name, tensors):
                given[name] = self._with_masks(builder, given[name], masks.get(name))
                is_given = name in masks and self.carries_given_mask
                if name == first and not is_given and isinstance(x, Value):
                    own = x
        x = given.pop(first)
        for leaf in flatten(x):
            if not isinstance(leaf, Value):
                raise ValueError(
                    f"layer {self.name!r}: expected tensors as {first}; got {str(leaf)[:80]!r}"
                )
        shapes = map_structure(lambda value: value.shape, x)
        self._check_input(shapes)
        if not self.built:
            self.build(shapes)
        if type(self).call is not Layer.call:
            outputs = own_call.lower(self, builder, {first: x, **given})
        else:
            outputs = builder.lower(self, x, given)
        outputs = self._typed(outputs)
        if self.supports_masking:
            return outputs if own is None else self._pass_mask(outputs, own.mask)
        return map_structure(lambda value: replace(value, mask=None), outputs)

    def _carried_mask_counts(self, name: str, tensors: Sequence[str]) -> bool:
        """Whether the mask that the argument `name` carries counts in a call with these arguments of tensors."""
        return len(tensors) == 1 or f"{name}_mask" in self.call_arguments

    def _typed(self, outputs: Nested) -> Nested:
        """The outputs with the dtype that callers see them in; what a user's `call` returns is as it comes."""
        if type(self).call is not Layer.call and self.dtype_policy.compute_dtype not in HALVES:
            return outputs
        return map_structure(self._as_returned, outputs)

    def _as_returned(self, value: Value) -> Value:
        if value.dtype is not None and not is_floating(value.dtype):
            return value
        return replace(value, dtype=as_dtype(self.dtype_policy.compute_dtype))

    def _pass_mask(self, outputs: Nested, mask: int | None) -> Nested:
        """The outputs carrying the mask that the input carries, which had no part in them."""
        return map_structure(lambda value: replace(value, mask=mask), outputs)

    def _with_constants(self, builder: Builder, given: dict[str, Nested]) -> dict[str, Nested]:
        """A call's arguments with Values for the constant tensors among them, which are tensors as others are."""
        tensors = values_in(given)

        def value_of(leaf: Any) -> Any:
            if not isinstance(leaf, np.ndarray):
                return leaf
            if not (leaf.ndim and tensors):
                raise ValueError(
                    f"layer {self.name!r}: expected a constant with a batch, beside a tensor; got shape {leaf.shape}"
                )
            batch = None if len(leaf) == 1 else len(leaf)
            dtype = None if leaf.dtype.kind == "f" else leaf.dtype
            value = builder.value((batch, *leaf.shape[1:]), dtype=dtype)
            sources, targets = (tensors[0].buffer,), (value.buffer,)
            builder.add(Constant(sources, targets, None, leaf, self.name))
            return value

        return {name: map_structure(value_of, value) for name, value in given.items()}

    def _with_masks(self, builder: Builder, tensors: Nested, masks: Nested) -> Nested:
        """The Values of `tensors` carrying the Values of `masks`, one for each; None is no mask, for one or for all."""
        values = flatten(tensors)
        carried = [None] * len(values) if masks is None else flatten(masks)
        if len(carried) != len(values):
            raise ValueError(
                f"layer {self.name!r}: expected {len(values)} masks; got {len(carried)}"
            )
        for mask in carried:
            if mask is not None and not isinstance(mask, Value):
                raise ValueError(
                    f"layer {self.name!r}: expected a mask as a tensor; got {str(mask)[:80]!r}"
                )
        buffers = [None if mask is None else mask.buffer for mask in carried]
        builder.masks.update(buffer for buffer in buffers if buffer is not None)
        masked = [replace(value, mask=mask) for value, mask in zip(values, buffers, strict=True)]
        return unflatten(tensors, masked)

    def _check_input(self, shape: Shape) -> None:
        """Raise ValueError unless an input of this shape, with the batch, fits; None is an unknown size."""

    def _refuse_training(self, training: bool) -> None:
        """Raise ValueError if `training` asks for what inference leaves out."""
        for child in self._flat_children() if training else ():
            child._refuse_training(training)

    def _stateful_layers(self) -> Iterator["RNN"]:
        """The recurrent layers, in this one or this one itself, that keep states between calls."""
        for child in self._flat_children():
            yield from child._stateful_layers()

    def _named(self, args: Sequence[Nested], kwargs: dict[str, Nested]) -> dict[str, Nested]:
        """A call's arguments by their names, the first one first, without those that are None."""
        names = self.call_arguments
        if len(args) > len(names):
            raise TypeError(
                f"layer {self.name!r}: expected at most {len(names)} arguments; got {len(args)}"
            )
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        if given.get(names[0]) is None:
            raise TypeError(f"layer {self.name!r}: expected the argument {names[0]!r}")
        ordered = {names[0]: given.pop(names[0]), **given}
        return {name: value for name, value in ordered.items() if value is not None}

    def __call__(self, *args: Nested, **kwargs: Nested) -> Nested:
        """Compute the layer.

        Parameters
        ----------
        inputs : array-like, shape (batch, ...), or a list of them for a layer of several inputs
        mask : array-like of bool, shape (batch, time), or a list with one or None for each input, optional
        training : bool
            An error where the layer would do something else in training.
        *args, **kwargs : optional
            For a layer of your own what its `call` takes, instead.

        Returns
        -------
        ndarray, or what stands for it if the inputs are symbolic tensors
        """
        if len(args) == 1 and not kwargs:
            (x,) = args
            call = self._prepared.direct.get((type(self), getattr(x, "ndim", None)))
            if call is not None:
                results = call.run(tuple(x) if isinstance(x, (list, tuple)) else x)
                if results is None and isinstance(x, np.ndarray):
                    results = call.of_one(x)
                if results is not None:
                    return results
        return self._call(args, kwargs)

    # From here every call goes one way to its plan. A layer with a signature of its own says in `_checked` what its
    # arguments have to be, and nothing else of the way.

    def _call(self, args: Sequence[Nested], kwargs: dict[str, Nested]) -> Nested:
        """Compute a call, or record it, from the arguments as the caller gave them."""
        kwargs = {name: value for name, value in kwargs.items() if value is not None}
        if not self._prepared.is_empty:
            look, leaves = look_at(args, kwargs)
            results = self._prepared.results((type(self), look), leaves)
            if results is not None:
                return results
        if holds_tensors(*args, *kwargs.values()):
            return self._record(args, kwargs)
        given = dict(zip(self.call_arguments, args, strict=False)) | kwargs
        if type(self).__call__ is Layer.__call__:  # otherwise Python has seen to their names
            given = self._named(args, kwargs)
        training = bool(given.pop("training", False))
        self._refuse_training(training)
        arguments = self._checked(given)
        self._build_for(arguments)
        # Where weights change meanwhile, what is made of the old ones is kept where nobody will look.
        executables, prepared = self._executables, self._prepared
        form = self._form_of(arguments)
        made = executables.get(form)
        if made is None:
            made = executables[form] = self._compile(arguments)
        executable, structure = made
        arrays = leaves_of(list(arguments.values()))
        results = unflatten(structure, executable(arrays))
        if executable.plan.program is not None and not training:
            look, leaves = look_at(args, kwargs)
            if not prepared.has((type(self), look), form):
                call = self._prepare(form, arguments, executable, structure)
                kept = call and prepared.keep((type(self), look), call, leaves, arrays)
                if call and kept and call.as_they_come:
                    prepared.direct[self._direct_key(arguments)] = call
        return results

    def _record(self, args: Sequence[Nested], kwargs: dict[str, Nested]) -> Nested:
        """Record a call on symbolic tensors."""
        return record(self, args, kwargs)

    def _checked(self, given: dict[str, Nested]) -> dict[str, Nested]:
        """The arguments of a call as arrays and constants, in their order; an error if one is not what it has to be."""
        first = self.call_arguments[0]
        x = self._to_arrays(given[first])
        self._check_input(map_structure(np.shape, x))
        checked = {**given, first: x}
        if "mask" in given:
            arrays = flatten(x)
            masks = flatten(given["mask"]) if self.takes_several else [given["mask"]]
            if len(masks) != len(arrays):
                raise ValueError(
                    f"layer {self.name!r}: expected {len(arrays)} masks; got {len(masks)}"
                )
            checked["mask"] = [
                None if one is None else self._to_mask(one, array.shape)
                for one, array in zip(masks, arrays, strict=True)
            ]
        others = [name for name in given if name not in (first, "mask")]
        return {**checked, **{name: arrays_in(given[name]) for name in others}}

    def _to_arrays(self, x: Nested) -> Nested:
        """The first argument of a call as an array, or as arrays in its structure where the layer takes several."""
        what = f"layer {self.name!r}"
        if not self.takes_several or is_array_like(x):
            if self.takes_several and type(self).call is Layer.call:
                raise ValueError(f"{what}: expected a list of inputs; got {type(x).__name__}")
            return self._autocast(to_numeric(x, what))
        return map_structure(lambda leaf: self._autocast(to_numeric(leaf, what)), x)

    def _autocast(self, array: np.ndarray) -> np.ndarray:
        """Floating-point numbers in the layer's dtype, others as they are."""
        return array.astype(self.compute_dtype, copy=False) if array.dtype.kind == "f" else array

    def _to_mask(self, mask: ArrayLike, shape: tuple[int, ...]) -> np.ndarray:
        """A call's mask as booleans, for an input of `shape`; ValueError if the layer takes no mask of its shape."""
        return to_mask(mask, shape[:2], f"layer {self.name!r}")

    def _build_for(self, arguments: dict[str, Nested]) -> None:
        """Build the layer for a call's arguments, if it is not built yet."""
        if not self.built:
            self.build(map_structure(np.shape, arguments[self.call_arguments[0]]))

    def _form_of(self, given: dict[str, Nested]) -> Hashable:
        """What the calls that one plan can serve have in common."""
        return type(self), form_of(given)

    def _compile(self, given: dict[str, Nested]) -> tuple[Executable, Nested]:
        """What runs calls of the form of this one, and the structure of what they return."""
        builder = Builder(precision=self._precision)
        values = map_structure(
            lambda leaf: self._value_for(builder, leaf) if is_array(leaf) else leaf, given
        )
        outputs = self.lower_call(builder, [], values)
        inputs = values_in(list(values.values()))
        executable = Executable(builder, [value.buffer for value in inputs], flatten(outputs))
        structure = self._returned(map_structure(lambda _: None, outputs))
        return executable, structure

    def _returned(self, outputs: Nested) -> Nested:
        """What a call returns of what `lower` does."""
        return tuple(outputs) if isinstance(outputs, list) else outputs

    def _prepare(
        self,
        form: Hashable,
        arguments: dict[str, Nested],
        executable: Executable,
        structure: Nested,
    ) -> PreparedCall | None:
        """A call of this form for the next time, None if it has to go the whole way every time."""
        x = arguments[self.call_arguments[0]]
        inputs = [
            NamedInput(
                name,
                array,
                self._shape_of_inputs(array.ndim) if array is x else (None,) * array.ndim,
            )
            for name, argument in arguments.items()
            for array in leaves_of(argument)
        ]
        to_mask = self._to_mask if is_array(x) else None
        return prepared_call(form, executable, structure, inputs, self.compute_dtype, to_mask)

    def _direct_key(self, arguments: dict[str, Nested]) -> Hashable:
        """What `__call__` looks a call up by that may take its arrays as they come, None if it does not look it up."""
        (x, *others) = arguments.values()
        if others or not (is_array(x) or all(map(is_array, x))):
            return None
        return type(self), x.ndim if is_array(x) else None

    def _shape_of_inputs(self, ndim: int) -> Shape:
        """The shape with the batch that the core is to hold an input of so many axes to, beside what its steps need."""
        return (None,) * ndim

    def _value_for(self, builder: Builder, array: np.ndarray) -> Value:
        """A new value for an array of a call, for later calls too: of its shape, only the features stay the same."""
        if type(self).call is not Layer.call:
            return builder.value(
                array.shape, dtype=array.dtype
            )  # which a user's call is tried with
        batch = array.shape[0] if getattr(self, "stateful", False) else None
        dtype = None if array.dtype.kind == "f" else array.dtype
        return builder.value(
            (batch, *[None] * (array.ndim - 2), *array.shape[1:][-1:]), dtype=dtype
        )


def _noting_it_is_built(build: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(build)
    def build_and_note(self: Layer, *args: Any, **kwargs: Any) -> None:
        build(self, *args, **kwargs)
        self.built = True

    return build_and_note
