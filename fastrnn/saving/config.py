"""The one reader of Keras's model configs, of every version.

Reading is strict: a class, an option, a value or a graph that is not understood is an error which
names the layer and where it stands. Nothing that a config says is imported, called or opened.
"""

import inspect
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from fastrnn import activations, initializers
from fastrnn._nested import flatten
from fastrnn._types import Config, Nested, Shape
from fastrnn.errors import DAMAGE, ModelFormatError, UnsupportedLayerError
from fastrnn.layers.base import snake_case
from fastrnn.saving import nodedefs
from fastrnn.saving.eras import (
    ANYTHING,
    ERAS,
    IGNORED,
    MEANINGS,
    SECOND_OF_TENSORFLOWS_OWN,
    TENSORFLOWS_OWN,
)
from fastrnn.saving.spec import (
    LayerSpec,
    LoRA,
    ModelSpec,
    NodeSpec,
    Quantization,
    TensorRef,
)

MAX_JSON_BYTES = 32 << 20
MAX_LAYERS = 10_000
MAX_CALLS = 100_000
MAX_NESTING = 32
MAX_INT = 2**31 - 1

MODEL_CLASSES = ("Sequential", "Functional")
INPUT_LAYER = "InputLayer"

_FLOAT_POLICIES = {
    "float16",
    "float32",
    "float64",
    "bfloat16",
    "mixed_float16",
    "mixed_bfloat16",
}
_ACTIVATION_KEYS = {"activation", "recurrent_activation"}
_COUNT_KEYS = {
    "units",
    "filters",
    "kernel_size",
    "strides",
    "pool_size",
    "dilation_rate",
    "depth_multiplier",
    "input_dim",
    "output_dim",
    "num_heads",
    "key_dim",
    "value_dim",
    "n",
}
_FLAG_KEYS = {
    "use_bias",
    "return_sequences",
    "return_state",
    "go_backwards",
    "stateful",
    "unroll",
    "zero_output_for_mask",
    "unit_forget_bias",
    "reset_after",
    "mask_zero",
    "trainable",
}
_KEPT_AS_WRITTEN = ("_regularizer", "_constraint")
_MAY_BE_NOT_FINITE = {"mask_value", "args", "kwargs", "constant", "initial", "x_min", "x_max"}

_RECURRENT = {
    "SimpleRNN",
    "LSTM",
    "GRU",
    "RNN",
    "ConvLSTM1D",
    "ConvLSTM2D",
    "ConvLSTM3D",
    "Bidirectional",
}
_RECURRENT_ARGUMENTS = ("initial_state", "mask", "training")
_HOLDS_CODE = {"Lambda", "__lambda__"}


Path = tuple[str, ...]
"""The titles of what a layer stands in, outermost first."""

Call = tuple[str, int]
"""A layer's name and which of its calls."""


def parse_version(text: Any) -> tuple[int, ...]:
    """Return the leading numbers of a Keras version, such as (3, 15, 1).

    No version at all means Keras 1, which did not always write one. TensorFlow's own Keras, which called itself
    ``2.2.4-tf`` and ``2.3.0-tf`` before it was 2.4, came after 2.3.1, the last that was not TensorFlow's own.
    """
    if text is None:
        return (1,)
    if isinstance(text, str) and re.fullmatch(r"2\.[23]\.\d-tf", text):
        return TENSORFLOWS_OWN if text.startswith("2.2") else SECOND_OF_TENSORFLOWS_OWN
    numbers = re.match(r"\d{1,6}(?:\.\d{1,6}){0,2}(?!\d)", text) if isinstance(text, str) else None
    if numbers is None:
        raise ModelFormatError(f"expected a Keras version such as '3.15.1', got {str(text)[:40]!r}")
    return tuple(int(number) for number in numbers[0].split("."))


def parse_json(text: str | bytes, what: str, most: int = MAX_JSON_BYTES) -> Config:
    """Return the JSON object in `text` (str or bytes), of at most `most` bytes; duplicate keys are an error."""
    if len(text) > most:
        raise ModelFormatError(
            f"{what} is larger than {most} bytes of JSON; see max_bytes of load_model"
        )
    try:
        value = json.loads(text, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        raise ModelFormatError(f"{what} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelFormatError(f"{what} holds a {type(value).__name__}, expected an object")
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> Config:
    result = dict(pairs)
    if len(result) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        repeated = next(key for key, count in counts.items() if count > 1)
        raise ValueError(f"the key {repeated[:80]!r} occurs twice in one object")
    return result


def constructor_options(cls: type) -> frozenset[str]:
    """Return the names of the keyword arguments that a layer class takes."""
    names: set[str] = set()
    for base in cls.__mro__:
        if base is object:
            continue
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
        names.update(
            p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        )
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return frozenset(names - {"self"})


def read_model(
    config: Config,
    version: tuple[int, ...],
    options: Mapping[str, Collection[str]],
    custom_objects: Mapping[str, Any] | None = None,
) -> ModelSpec:
    """Read the config of a whole model.

    Parameters
    ----------
    config : dict
        The parsed JSON: an object with ``class_name`` and ``config``.
    version : tuple of int
        Of the Keras that wrote it.
    options : mapping of str to collection of str
        The layer classes that can be built, each with the options it takes.
    custom_objects : mapping of str to object, optional
        The caller's own classes and functions by name.

    Returns
    -------
    ModelSpec

    Raises
    ------
    ModelFormatError
        If the config is damaged, contradicts itself or is of no model.
    UnsupportedLayerError
        If a layer or an option is none of those known.
    """
    spec = read_layer(config, version, options, custom_objects)
    if not isinstance(spec, ModelSpec):
        raise ModelFormatError(
            f"expected a Sequential or functional model, got the layer {_title(spec)}"
        )
    return spec


def read_layer(
    config: Config,
    version: tuple[int, ...],
    options: Mapping[str, Collection[str]],
    custom_objects: Mapping[str, Any] | None = None,
) -> LayerSpec | ModelSpec:
    """Read the config of a layer or model; see `read_model`. Returns a LayerSpec or ModelSpec."""
    try:
        spec = _Reader(version, options, custom_objects or {}).layer(config, ())
        calls = _calls_in(spec)
    except RecursionError as error:
        raise ModelFormatError("the model's config is nested too deep") from error
    except (ModelFormatError, UnsupportedLayerError):
        raise
    except DAMAGE as error:
        raise ModelFormatError(
            f"the model's config is damaged: {type(error).__name__}: {error}"
        ) from error
    if calls > MAX_CALLS:
        raise ModelFormatError(f"{_title(spec)} calls {calls} layers; at most {MAX_CALLS} are read")
    return spec


def _calls_in(spec: LayerSpec | ModelSpec) -> int:
    """How many layers run when this one does: models that call others twice double with each that they stand in."""
    if isinstance(spec, LayerSpec):
        options = flatten(list(spec.config.values()))
        return 1 + sum(_calls_in(one) for one in options if isinstance(one, (LayerSpec, ModelSpec)))
    counts = {layer.name: _calls_in(layer) for layer in spec.layers}
    if spec.kind == "sequential":
        return sum(counts.values())
    return sum(counts[node.layer] for node in spec.nodes)


def _title(spec: LayerSpec | ModelSpec) -> str:
    return f"{spec.class_name} {spec.name!r}"


class _Reader:
    """One reading of a config."""

    def __init__(
        self,
        version: tuple[int, ...],
        options: Mapping[str, Collection[str]],
        custom_objects: Mapping[str, Any],
    ) -> None:
        self.version = version
        self.eras = [era for era in ERAS if version < era.before]
        self.meanings = [meaning for meaning in MEANINGS if meaning.holds_for(version)]
        self.options = options
        self.custom_objects = custom_objects
        self.layers_read = 0
        self.unnamed_models = 0

    # Layers

    def layer(self, described: Any, path: Path, name: str | None = None) -> LayerSpec | ModelSpec:
        """Read ``{"class_name", "config", ...}``; `name` is the one that a graph knows it by."""
        described = _object(described, path, "a layer")
        class_name = _string(described.get("class_name"), path, "class_name")
        config = described.get("config")
        self.layers_read += 1
        if self.layers_read > MAX_LAYERS:
            raise _error(path, f"holds more than {MAX_LAYERS} layers")
        if len(path) > MAX_NESTING:
            raise _error(path[:4], f"layers are nested more than {MAX_NESTING} deep")
        own = config.get("name", name) if isinstance(config, dict) else name
        custom = self.custom_object(described, class_name, own)
        if custom is not None:
            return self.custom_layer(custom, class_name, described, path, name)
        if isinstance(config, list) and class_name == "Sequential":
            config = {"name": name or self.name_for_model(), "layers": config}
        config = _object(config, path, f"config of a {class_name}")
        foreign = self.foreign_origin(described, class_name)
        if self.is_operation(described, class_name, config):
            class_name = f"ops.{class_name}"
        class_name, config = self.translate(class_name, config)
        own_name = config.get("name")
        if own_name is None:
            own_name = name or snake_case(class_name)
        own_name = _string(own_name, path, f"name of a {class_name}")
        here = (*path, f"{class_name} {own_name!r}")
        if foreign:
            raise UnsupportedLayerError(
                f"{_where(here)}: {foreign!r} is a class of the model's author; "
                "pass yours for it in custom_objects"
            )
        quantization, config = self.quantization(class_name, config, here)
        shared_id = described.get("shared_object_id")
        if class_name in MODEL_CLASSES:
            return self.model(class_name, own_name, config, described, here, shared_id)
        if class_name not in self.options:
            raise self.unsupported_class(class_name, here)
        return LayerSpec(
            class_name=class_name,
            name=own_name,
            config={**self.layer_options(class_name, config, here), "name": own_name},
            build_shape=_build_shape(described, here),
            shared_id=shared_id if isinstance(shared_id, int) else None,
            build_shapes=_build_shapes(described, here),
            lora=_lora(config, here),
            quantization=quantization,
        )

    def translate(self, class_name: str, config: Config) -> tuple[str, Config]:
        """Return class name and options in the newest words, with all that the version meant by them."""
        for era in self.eras:
            class_name, config = era.translate(class_name, config)
        for meaning in self.meanings:
            config = meaning.explain(class_name, config)
        return class_name, config

    def name_for_model(self) -> str:
        """Return a new name for a Sequential that was written as a bare list of layers."""
        self.unnamed_models += 1
        return f"sequential_{self.unnamed_models - 1}" if self.unnamed_models > 1 else "sequential"

    def is_operation(self, described: Config, class_name: str, config: Config) -> bool:
        """Whether this is a recorded operation, which in .h5 files only lacks a layer's keys."""
        module = described.get("module")
        if module is not None:
            return isinstance(module, str) and module.startswith("keras.src.ops.")
        if self.version < (3,) or class_name in (INPUT_LAYER, *MODEL_CLASSES):
            return False
        # A few layers (SpatialDropout1D) lack the key too.
        is_known = f"ops.{class_name}" in self.options or class_name not in self.options
        return "trainable" not in config and is_known

    def foreign_origin(self, described: Config, class_name: str) -> str | None:
        """Return where a class that is not Keras's own comes from, None for Keras's own."""
        module, registered = described.get("module"), described.get("registered_name")
        if registered not in (None, class_name):
            return str(registered)[:200]
        if module is not None and not _is_keras_module(module):
            return f"{module}.{class_name}"[:200]
        return None

    def unsupported_class(self, class_name: str, here: Path) -> UnsupportedLayerError:
        if class_name in _HOLDS_CODE:
            reason = (
                f"a {class_name} layer holds Python code, which is never run from a file; "
                "pass a NumPy function for it in custom_objects, under the layer's name"
            )
        elif class_name.startswith("ops."):
            reason = f"the operation {class_name[4:200]!r} is not supported"
        else:
            reason = (
                f"layers of class {class_name[:200]!r} are not supported; "
                "pass a class or a NumPy function for it in custom_objects"
            )
        return UnsupportedLayerError(f"{_where(here)}: {reason}")

    def custom_object(self, described: Config, class_name: str, own_name: Any) -> Any:
        """Return the class or function that the caller gave for a layer, None if there is none."""
        registered = described.get("registered_name")
        known_as = [name for name in (registered, class_name) if isinstance(name, str)]
        names: list[Any] = [*known_as, *(name.split(">")[-1] for name in known_as)]
        if class_name not in self.options or self.foreign_origin(described, class_name):
            config = described.get("config")
            function = config.get("function") if isinstance(config, dict) else None
            if isinstance(function, dict):
                function = function.get("config")
            names += [own_name, function]
        for name in names:
            if isinstance(name, str) and callable(self.custom_objects.get(name)):
                return self.custom_objects[name]
        return None

    def custom_layer(
        self, custom: Any, class_name: str, described: Config, path: Path, name: str | None
    ) -> LayerSpec:
        config = _object(described.get("config"), path, f"config of a {class_name}")
        own_name = config.get("name") or name or snake_case(class_name.split(">")[-1])
        own_name = _string(own_name, path, f"name of a {class_name}")
        here = (*path, f"{class_name} {own_name!r}")
        arguments: Config = {}
        if isinstance(custom, type):
            arguments = self.custom_options(custom, config, here)
        elif class_name == "Lambda":
            arguments = {"arguments": self.value("arguments", config.get("arguments") or {}, here)}
        if "dtype" in config:
            arguments["dtype"] = self.dtype(class_name, config["dtype"], here)
        return LayerSpec(
            class_name,
            own_name,
            arguments,
            _build_shape(described, here),
            custom=custom,
        )

    def custom_options(self, custom: type, config: Config, here: Path) -> Config:
        """Read the arguments of a caller's class, with the options of the layer that it derives from, if any."""
        classes = [one.__name__ for one in custom.__mro__[1:]]
        base = next((name for name in classes if name in self.options), None)
        if base is None:
            inherited: Collection[str] = ()
        else:
            inherited = self.options[base]
            _, config = self.translate(base, config)
        result = {}
        for key, value in config.items():
            if key in inherited or key.endswith((*_KEPT_AS_WRITTEN, "_initializer")):
                result[key] = self.option(key, value, here)
            elif base is not None and key in IGNORED:
                self.check_ignored(key, value, here)
            else:
                result[key] = self.custom_value(key, value, here)
        return result

    def custom_value(self, key: str, value: Any, here: Path) -> Any:
        """Read an argument of a caller's class; what Keras describes there other than layers stays as written."""
        if isinstance(value, dict) and "class_name" in value:
            module = value.get("module")
            is_layer = value["class_name"] in (*self.options, *MODEL_CLASSES)
            if _is_keras_module(module) and not is_layer and value.get("registered_name") is None:
                return value
        return self.value(key, value, here)

    def layer_options(self, class_name: str, config: Config, here: Path) -> Config:
        known = self.options[class_name]
        result = {}
        for key, value in config.items():
            if key in known:
                result[key] = self.option(key, value, here)
            elif key not in IGNORED:
                raise UnsupportedLayerError(
                    f"{_where(here)}: the option {key[:80]!r} is not supported"
                )
            else:
                self.check_ignored(key, value, here)
        if "dtype" in result and not class_name.startswith("ops."):
            result["dtype"] = self.dtype(class_name, result["dtype"], here)
        return result

    # Options

    def check_ignored(self, key: str, value: Any, here: Path) -> None:
        """Raise UnsupportedLayerError if an option that is left out would change the result."""
        if IGNORED[key] is not ANYTHING and value not in IGNORED[key]:
            raise UnsupportedLayerError(
                f"{_where(here)}: the option {key}={str(value)[:80]} is not supported"
            )

    def option(self, key: str, value: Any, here: Path) -> Any:
        if key.endswith(_KEPT_AS_WRITTEN) or key == "dtype" or value is None:
            return value
        if key.endswith("_initializer"):
            return _initializer(value)
        if key == "batch_shape":
            return _shape(value, here)
        if key in _ACTIVATION_KEYS:
            return self.activation(value, here)
        if key in _FLAG_KEYS:
            if not (isinstance(value, int) and value in (0, 1)):
                raise _error(here, f"{key} must be true or false, got {value!r}")
            return bool(value)
        if key in _COUNT_KEYS:
            return _counts(key, value, here)
        return self.value(key, value, here)

    def activation(self, value: Any, here: Path) -> Any:
        """Return the name of an activation, the caller's own function, or an activation layer."""
        if isinstance(value, dict):
            if value.get("class_name") != "function":
                return self.layer(value, here)
            value = value.get("config")
        name = _string(value, here, "activation")
        custom = self.custom_objects.get(name)
        if custom is not None:
            return custom
        try:
            activations.get(name)
        except ValueError as error:
            raise UnsupportedLayerError(f"{_where(here)}: {error}") from error
        return name

    def dtype(self, class_name: str, value: Any, here: Path) -> str | None:
        if isinstance(value, dict):
            policy = value.get("config")
            value = policy.get("name") if isinstance(policy, dict) else policy
        if value is None or value in ("infer", "_infer"):
            return None
        if not isinstance(value, str):
            raise _error(here, f"expected the dtype as a name, got {str(value)[:80]}")
        if class_name == INPUT_LAYER or value in _FLOAT_POLICIES:
            return value
        if self.version < (3,) and re.fullmatch(r"u?int(8|16|32|64)|bool", value):
            return None  # the type of the input; weights were float32 all the same
        raise UnsupportedLayerError(f"{_where(here)}: the dtype {value!r} is not supported")

    def quantization(
        self, class_name: str, config: Config, here: Path
    ) -> tuple[Quantization | None, Config]:
        """Read how a layer is quantized; returns it, and the config with the dtype that it was quantized from."""
        dtype = config.get("dtype")
        mode, source = _quantized_dtype(dtype)
        described = config.get("quantization_config")
        if class_name in _QUANTIZED:
            config = {key: value for key, value in config.items() if key != "quantization_config"}
        inner = config.get("layer")
        if class_name == "TimeDistributed" and isinstance(inner, dict):
            inner = inner.get("config")
            if isinstance(inner, dict) and _quantized_dtype(inner.get("dtype"))[0] is not None:
                raise UnsupportedLayerError(
                    f"{_where(here)}: the layer inside is quantized, and Keras forgets its scales there; "
                    "quantize the model without it"
                )
        if mode is None:
            return None, config
        kind, _, size = mode.partition("/")
        if class_name not in _QUANTIZED or kind not in _QUANTIZED[class_name]:
            raise UnsupportedLayerError(
                f"{_where(here)}: the dtype {mode[:80]!r} of a {class_name} is not supported; quantized layers are "
                "Dense, EinsumDense and Embedding of int8 or int4, and Dense and EinsumDense of float8"
            )
        block_size = None
        if size and size != "-1":
            block_size = _counts("block_size", int(size) if size.isdecimal() else size, here)
        config = {**config, "dtype": source}
        if class_name == "Embedding":
            return Quantization(kind, block_size), config
        quantizer: Any = {"config": {}} if kind == "int8" else None
        if described is not None:
            options = _object(described, here, "quantization_config").get("config")
            quantizer = _object(options, here, "quantization_config").get("activation_quantizer")
        if kind == "float8":
            return Quantization(kind, amax_history_length=_history_length(dtype, here)), config
        if quantizer is None or block_size is not None:
            return Quantization(kind, block_size), config
        quantizer = _object(quantizer, here, "activation_quantizer")
        options = _object(quantizer.get("config"), here, "activation_quantizer")
        if quantizer.get("class_name", "AbsMaxQuantizer") != "AbsMaxQuantizer":
            raise UnsupportedLayerError(
                f"{_where(here)}: the quantizer {str(quantizer['class_name'])[:80]!r} is not supported"
            )
        limits = options.get("value_range", [-127, 127])
        if isinstance(limits, dict):
            limits = limits.get("items")
        epsilon = options.get("epsilon", 1e-7)
        if not (isinstance(limits, list) and len(limits) == 2 and all(map(_is_int, limits))):
            raise _error(here, f"expected two whole numbers as value_range, got {str(limits)[:80]}")
        if not isinstance(epsilon, int | float) or not math.isfinite(epsilon):
            raise _error(here, f"expected a number as epsilon, got {str(epsilon)[:80]}")
        return Quantization(kind, None, (limits[0], limits[1]), float(epsilon)), config

    def value(self, key: str, value: Any, here: Path, depth: int = 0) -> Any:
        """Read any JSON value: a plain one, or one of the objects that Keras writes."""
        if depth > MAX_NESTING:
            raise _error(here, f"{key} is nested more than {MAX_NESTING} deep")
        if isinstance(value, list):
            return [self.value(key, item, here, depth + 1) for item in value]
        if isinstance(value, dict):
            return self.object_value(key, value, here, depth)
        finite = not isinstance(value, float) or math.isfinite(value)
        if not finite and key not in _MAY_BE_NOT_FINITE:
            raise _error(here, f"{key} is {value!r}, expected a finite number")
        return value

    def object_value(self, key: str, value: Config, here: Path, depth: int) -> Any:
        class_name, config = value.get("class_name"), value.get("config")
        if class_name is None:
            return {k: self.value(k, item, here, depth + 1) for k, item in value.items()}
        if class_name in ("__tuple__", "TensorShape"):
            items = value.get("items")
            return tuple(self.value(key, item, here, depth + 1) for item in _list(items, here, key))
        if class_name == "__ellipsis__":
            return Ellipsis
        if class_name == "__slice__":
            config = _object(config, here, "a slice")
            return slice(*(_index(config.get(k), here) for k in ("start", "stop", "step")))
        if class_name in ("__numpy__", "__tensor__"):
            return _constant_array(_object(config, here, key), here)
        if class_name == "__keras_tensor__":
            history = _object(config, here, "a tensor").get("keras_history")
            return _tensor_ref(history, here)
        if class_name in _HOLDS_CODE:
            raise self.unsupported_class(class_name, here)
        return self.layer(value, here)

    # Models

    def model(
        self,
        class_name: str,
        name: str,
        config: Config,
        described: Config,
        here: Path,
        shared_id: Any,
    ) -> ModelSpec:
        layers = _list(config.get("layers"), here, "layers")
        trainable = config.get("trainable", True)
        common = {
            "name": name,
            "trainable": trainable is not False,
            "shared_id": shared_id if isinstance(shared_id, int) else None,
        }
        if class_name == "Functional":
            return self.functional(layers, config, here, common)
        if _merged_models(layers) is not None:
            return self.merged(layers, here, common)
        return self.sequential(layers, config, described, here, common)

    def merged(self, layers: list[Any], here: Path, common: dict[str, Any]) -> ModelSpec:
        """Read a Sequential of Keras 1 whose first layer merges other models, as one graph."""
        graph = _Graph(here)
        return graph.model(self.branch(layers, graph, here), common)

    def branch(self, layers: list[Any], graph: "_Graph", here: Path) -> TensorRef:
        """Put the layers of a Sequential into a graph; returns the output of the last."""
        if len(here) > MAX_NESTING:
            raise _error(here[:4], f"models are nested more than {MAX_NESTING} deep")
        merged = _merged_models(layers)
        if merged is None:
            output = self.first_of_branch(layers, graph, here)
        else:
            outputs: list[Nested] = []
            for model in merged:
                model = _object(model, here, "a layer")
                inner = model.get("config")
                is_sequential = model.get("class_name") == "Sequential"
                if is_sequential and isinstance(inner, dict):
                    inner = inner.get("layers")
                parts = _list(inner, here, "layers") if is_sequential else [model]
                outputs.append(self.branch(parts, graph, (*here, "Merge")))
            merge = {**layers[0], "config": {**layers[0]["config"]}}
            del merge["config"]["layers"]
            output = graph.call(self.layer(merge, here), outputs)
        for described in layers[1:]:
            output = graph.call(self.layer(described, here), output)
        return output

    def first_of_branch(self, layers: list[Any], graph: "_Graph", here: Path) -> TensorRef:
        if not layers:
            raise _error(here, "an empty model is merged")
        first = self.layer(layers[0], here)
        if isinstance(first, LayerSpec) and first.class_name == INPUT_LAYER:
            return graph.input(first)
        if isinstance(first, ModelSpec) and first.kind == "functional":
            return graph.call_on_inputs_like_its_own(first)
        shape = _first_input_shape(layers, here) or _input_shape(first)
        if shape is None:
            raise _error(here, f"{_title(first)} is merged and its input's shape is not told")
        name = f"{first.name}_input"
        config = {"name": name, "batch_shape": shape}
        return graph.call(first, graph.input(LayerSpec(INPUT_LAYER, name, config)))

    def sequential(
        self,
        layers: list[Any],
        config: Config,
        described: Config,
        here: Path,
        common: dict[str, Any],
    ) -> ModelSpec:
        specs = [self.layer(layer, here) for layer in layers]
        _check_unique([spec.name for spec in specs], here)
        first = specs[0] if specs else None
        if isinstance(first, ModelSpec) and len(refs_in(first.inputs)) > 1:
            graph = _Graph(here)
            output = graph.call_on_inputs_like_its_own(first)
            for spec in specs[1:]:
                output = graph.call(spec, output)
            return graph.model(output, {**common, "unlisted_inputs": len(graph.inputs)})
        input_name: str | None = None
        input_dtype: str | None = None
        if isinstance(first, LayerSpec) and first.class_name == INPUT_LAYER:
            shape = first.config.get("batch_shape")
            input_name, input_dtype = first.name, first.config.get("dtype")
            specs = specs[1:]
        else:
            shape = _first_input_shape(layers, here)
        shape = (
            shape
            or _shape(config.get("build_input_shape"), here)
            or _build_shape(described, here)
            or (_input_shape(specs[0]) if specs else None)
        )
        if any(spec.class_name == INPUT_LAYER for spec in specs):
            raise _error(here, "an InputLayer stands after another layer")
        return ModelSpec(
            kind="sequential",
            layers=tuple(specs),
            batch_input_shape=shape,
            input_name=input_name,
            input_dtype=input_dtype,
            **common,
        )

    def functional(
        self, layers: list[Any], config: Config, here: Path, common: dict[str, Any]
    ) -> ModelSpec:
        specs: list[LayerSpec | ModelSpec] = []
        calls: list[list[NodeSpec]] = []
        for described in layers:
            described = _object(described, here, "a layer")
            graph_name = _string(described.get("name"), here, "name of a layer in a graph")
            if described.get("class_name") == "TensorFlowOpLayer":
                operation, operation_calls = self.graph_operation(described, graph_name, here)
                specs.append(operation)
                calls.append(operation_calls)
                continue
            spec = self.layer(described, here, name=graph_name)
            if spec.name != graph_name:
                raise _error(here, f"the layer {graph_name!r} calls itself {spec.name!r}")
            specs.append(spec)
            calls.append(self.calls(spec, described, here))
        _check_unique([spec.name for spec in specs], here)
        nodes = tuple(node for layer_calls in calls for node in layer_calls)
        # A nested model counts its own construction as call 0: in Keras 1 and 2 everywhere, in
        # Keras 3 for functional models and in output_layers only.
        old = self.version < (3,)
        models = {spec.name for spec in specs if isinstance(spec, ModelSpec)}
        functional = {
            spec.name for spec in specs if isinstance(spec, ModelSpec) and spec.kind == "functional"
        }
        if old:
            nodes = tuple(
                NodeSpec(
                    node.layer,
                    _earlier_node(node.args, models),
                    _earlier_node(node.kwargs, models),
                )
                for node in nodes
            )
        inputs = _structure(config.get("input_layers"), here, "input_layers")
        outputs = _structure(config.get("output_layers"), here, "output_layers")
        spec = ModelSpec(
            kind="functional",
            layers=tuple(specs),
            nodes=nodes,
            inputs=inputs,
            outputs=_earlier_node(outputs, models if old else functional),
            **common,
        )
        _check_graph(spec, here)
        return spec

    def graph_operation(
        self, described: Config, name: str, here: Path
    ) -> tuple[LayerSpec, list[NodeSpec]]:
        """Read an operation of a TensorFlow graph, and its calls."""
        here = (*here, f"TensorFlowOpLayer {name!r}")
        config = _object(described.get("config"), here, "config")
        node = config.get("node_def")
        if isinstance(node, str):
            node = parse_json(node, f"{_where(here)}: node_def")
        node = _object(node, here, "node_def")
        constants = self.value("constants", config.get("constants") or {}, here)
        function, nodes = None, []
        for call in _list(described.get("inbound_nodes"), here, "inbound_nodes"):
            (given,), _ = self.listed_call(call, here)
            tensors = given if isinstance(given, list) else [given]
            try:
                inputs = list(tensors)
                for place in sorted(constants, key=int):
                    inputs.insert(int(place), constants[place])
                read = nodedefs.read_node(node, inputs)
            except (ValueError, TypeError, LookupError, AttributeError) as error:
                raise _error(here, f"node_def is damaged: {error}") from error
            if read is not None:
                function, args, kwargs = read
                nodes.append(NodeSpec(name, tuple(args), kwargs))
        class_name = f"ops.tf.{function}"
        if class_name not in self.options:
            operation = str(node.get("op"))[:80]
            raise UnsupportedLayerError(
                f"{_where(here)}: TensorFlow's operation {operation!r} is not supported"
            )
        return LayerSpec(class_name, name, {"name": name}), nodes

    def calls(self, spec: LayerSpec | ModelSpec, described: Config, here: Path) -> list[NodeSpec]:
        """Read the inbound nodes of a layer: objects in Keras 3, lists in Keras 1 and 2."""
        here = (*here, _title(spec))
        nodes = []
        for call in _list(described.get("inbound_nodes"), here, "inbound_nodes"):
            if isinstance(call, dict):
                args = self.value("args", _list(call.get("args"), here, "args"), here)
                kwargs = self.value("kwargs", _object(call.get("kwargs"), here, "kwargs"), here)
            elif call:
                is_operation = spec.class_name.startswith("ops.")
                args, kwargs = self.listed_call(call, here, is_operation)
                if spec.class_name in _RECURRENT:
                    kwargs.update(_states_among_inputs(args, described, here))
                    args = args[:1]
            else:
                continue
            nodes.append(self.node(spec, args, kwargs, here))
        return nodes

    def node(
        self, spec: LayerSpec | ModelSpec, args: list[Any], kwargs: dict[str, Any], here: Path
    ) -> NodeSpec:
        if spec.class_name in _RECURRENT and len(args) > 1:
            if len(args) - 1 > len(_RECURRENT_ARGUMENTS):
                raise _error(here, f"is called with {len(args)} positional arguments")
            kwargs = {**dict(zip(_RECURRENT_ARGUMENTS, args[1:], strict=False)), **kwargs}
            args = args[:1]
        kwargs = {key: value for key, value in kwargs.items() if value is not None}
        # The training=False of Keras 3's predict goes before what a call within the model says, in Keras 2 it does not.
        if self.version >= (3,) or kwargs.get("training") is False:
            kwargs.pop("training", None)
        return NodeSpec(spec.name, tuple(args), kwargs)

    def listed_constant(self, value: Any, here: Path, is_operation: bool) -> Any:
        """Read a constant among the inputs of a call: for a layer, what is a list was a tensor."""
        constant = self.value("constant", value, here)
        if is_operation or not isinstance(constant, list):
            return constant
        return _constant_array({"value": constant, "dtype": "float32"}, here)

    def listed_call(
        self, call: Any, here: Path, is_operation: bool = True
    ) -> tuple[list[Any], dict[str, Any]]:
        """Read ``[[layer, node, tensor, kwargs], ...]``, or one such entry outside a list."""
        kwargs = {}

        def argument(value: Any) -> Nested:
            if _is_listed_tensor(value):
                if len(value) == 4:
                    kwargs.update(_object(value[3], here, "arguments of a call"))
                if value[0] == "_CONSTANT_VALUE":
                    return self.listed_constant(value[2], here, is_operation)
                return _tensor_ref(value[:3], here)
            if isinstance(value, list):
                return [argument(item) for item in value]
            if isinstance(value, dict):
                return {key: argument(item) for key, item in value.items()}
            raise _error(here, f"expected an input tensor, got {str(value)[:80]!r}")

        def keyword(key: str, value: Any) -> Nested:
            if _is_listed_tensor(value):
                return _tensor_ref(value[:3], here)
            if isinstance(value, list):
                return [keyword(key, item) for item in value]
            return self.value("kwargs", value, here)

        inputs = argument(call)
        kwargs = {key: keyword(key, value) for key, value in kwargs.items()}
        if isinstance(inputs, list) and len(inputs) == 1:
            inputs = inputs[0]
        return [inputs], kwargs


# Values


def _where(path: Path) -> str:
    return " > ".join(str(part)[:120] for part in path) or "the model's config"


def _error(path: Path, message: str) -> ModelFormatError:
    return ModelFormatError(f"{_where(path)}: {message}")


def _object(value: Any, path: Path, what: str) -> Config:
    if not isinstance(value, dict):
        raise _error(path, f"expected {what} as an object, got {type(value).__name__}")
    return value


def _list(value: Any, path: Path, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise _error(path, f"expected {what} as a list, got {type(value).__name__}")
    return value


def _string(value: Any, path: Path, what: str) -> str:
    if not isinstance(value, str) or not value or len(value) > 1000:
        raise _error(path, f"expected {what} as a string, got {str(value)[:80]!r}")
    return value


def _initializer(value: Any) -> Any:
    """Return what describes an initializer; what is not known does not count, as weights follow."""
    try:
        initializers.get(value)
    except (ValueError, TypeError):
        return "zeros"
    return value


def _is_keras_module(module: Any) -> bool:
    return isinstance(module, str) and module.split(".")[0] in ("keras", "tf_keras", "tensorflow")


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_INT


def _counts(key: str, value: Any, path: Path) -> Any:
    """Return a positive whole number or a list of them; floats such as 3.0 are whole."""
    if isinstance(value, dict) and value.get("class_name") == "__tuple__":
        value = value.get("items")
    if isinstance(value, list):
        return [_counts(key, item, path) for item in value]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not _is_int(value) or value <= 0:
        raise _error(path, f"{key} must be a positive whole number, got {str(value)[:80]}")
    return value


def _index(value: Any, path: Path) -> int | None:
    if value is not None and not _is_int(value):
        raise _error(path, f"expected a whole number or null, got {str(value)[:80]!r}")
    return value


def _constant_array(config: Config, path: Path) -> np.ndarray:
    try:
        return np.array(config.get("value"), dtype=_array_dtype(config.get("dtype"), path))
    except (ValueError, TypeError, OverflowError) as error:
        raise _error(path, f"a constant is not an array of numbers: {error}") from error


def _array_dtype(name: Any, path: Path) -> np.dtype:
    if isinstance(name, str) and re.fullmatch(r"(float|u?int)(8|16|32|64)|bool", name):
        return np.dtype(name)
    raise _error(path, f"a constant has the dtype {name!r}")


def _shape(value: Any, path: Path) -> Shape | None:
    """Return a tuple of sizes and None; None for anything but the one shape of one input."""
    if isinstance(value, dict) and value.get("class_name") in ("__tuple__", "TensorShape"):
        value = value.get("items")
    if not isinstance(value, list | tuple) or any(isinstance(n, list | dict) for n in value):
        return None
    for size in value:
        if size is not None and not (_is_int(size) and size >= 0):
            raise _error(path, f"expected a shape, got {str(value)[:80]}")
    return tuple(value)


def _build_shape(described: Config, path: Path) -> Shape | None:
    build_config = described.get("build_config")
    if not isinstance(build_config, dict):
        return None
    shape = build_config.get("input_shape")
    shapes = build_config.get("shapes_dict")
    if shape is None and isinstance(shapes, dict):
        shape = next(iter(shapes.values()), None)
    return _shape(shape, path)


_QUANTIZED = {
    "Dense": ("int8", "int4", "float8"),
    "EinsumDense": ("int8", "int4", "float8"),
    "Embedding": ("int8", "int4"),
}
"""The modes in which layers can be quantized."""


def _quantized_dtype(dtype: Any) -> tuple[str | None, str | None]:
    """Return the mode of a quantized dtype policy and the policy's name that it was made from, or twice None."""
    if isinstance(dtype, dict):
        dtype = dtype.get("config")
    if isinstance(dtype, dict):
        mode, source = dtype.get("mode"), dtype.get("source_name")
        if isinstance(mode, str) and isinstance(source, str):
            return mode, source
        dtype = dtype.get("name")
    found = (
        re.fullmatch(r"([a-z]+\d*(?:/[-\d]+)*)_from_(\w+)", dtype)
        if isinstance(dtype, str)
        else None
    )
    return (found[1], found[2]) if found else (None, None)


def _history_length(dtype: Any, path: Path) -> int:
    """Return how many numbers the histories of a layer of float8 have."""
    options = dtype.get("config") if isinstance(dtype, dict) else None
    length = options.get("amax_history_length", 1024) if isinstance(options, dict) else 1024
    if not _is_int(length) or length < 1:
        raise _error(path, f"expected a positive amax_history_length, got {str(length)[:80]}")
    return int(length)


def _lora(config: Config, path: Path) -> LoRA | None:
    """Return the LoRA of a layer; without an alpha its product counts once."""
    rank = config.get("lora_rank")
    if rank is None:
        return None
    rank = _counts("lora_rank", rank, path)
    alpha = config.get("lora_alpha")
    alpha = rank if alpha is None else alpha
    if not _is_int(rank) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise _error(path, f"expected numbers for LoRA, got {str([rank, alpha])[:80]}")
    return LoRA(rank, float(alpha))


def _build_shapes(described: Config, path: Path) -> tuple[Shape, ...]:
    """Return the shapes of a layer's several inputs, which are a list, or arguments on their own."""
    build_config = described.get("build_config")
    if not isinstance(build_config, dict):
        return ()
    listed = build_config.get("input_shape")
    if listed is None and isinstance(build_config.get("shapes_dict"), dict):
        listed = list(build_config["shapes_dict"].values())
    shapes = [_shape(one, path) for one in listed] if isinstance(listed, list) else []
    return tuple(shape for shape in shapes if shape is not None)


def _first_input_shape(layers: list[Any], path: Path) -> Shape | None:
    """Return the input shape that the first layer of a Sequential was given, if any."""
    config = layers[0].get("config") if layers else None
    if not isinstance(config, dict):
        return None
    shape = _shape(config.get("batch_input_shape"), path)
    if shape is None and layers[0].get("class_name") == "Bidirectional":
        return _first_input_shape([config["layer"]], path)
    return shape


def _input_shape(spec: LayerSpec | ModelSpec) -> Shape | None:
    """Return the shape of the one input of a layer or model, None when the file does not tell."""
    if isinstance(spec, LayerSpec):
        return spec.build_shape
    if spec.kind == "sequential":
        return spec.batch_input_shape
    if not isinstance(spec.inputs, TensorRef):
        return None
    configs = {layer.name: layer.config for layer in spec.layers if isinstance(layer, LayerSpec)}
    return configs[spec.inputs.layer].get("batch_shape")


def _check_unique(names: list[str], path: Path) -> None:
    seen = set()
    for name in names:
        if name in seen:
            raise _error(path, f"two layers have the name {name!r}")
        seen.add(name)


# Graphs


def _is_listed_tensor(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) in (3, 4)
        and isinstance(value[0], str)
        and _is_int(value[1])
        and (_is_int(value[2]) or value[0] == "_CONSTANT_VALUE")
    )


def _tensor_ref(value: Any, path: Path) -> TensorRef:
    if not _is_listed_tensor(value):
        raise _error(path, f"expected a tensor as [layer, node, index], got {str(value)[:80]}")
    return TensorRef(value[0], value[1], value[2])


def _states_among_inputs(args: list[Any], described: Config, path: Path) -> dict[str, list[Any]]:
    """Take the states and constants of a recurrent layer from its inputs, where Keras 2 put them.

    Returns them as keyword arguments, and leaves the sequence alone in `args`.
    """
    if not isinstance(args[0], list) or not args[0]:
        return {}
    args[0], *states = args[0]
    constants = _index(described["config"].get("num_constants"), path) or 0
    if not 0 <= constants <= len(states):
        raise _error(path, f"has {len(states)} inputs for {constants} constants")
    first_constant = len(states) - constants
    given = {"initial_state": states[:first_constant], "constants": states[first_constant:]}
    return {key: value for key, value in given.items() if value}


def _structure(value: Any, path: Path, what: str) -> Nested:
    """Read input_layers or output_layers; a list of one is that one, as in Keras."""

    def read(value: Any) -> Nested:
        if _is_listed_tensor(value):
            return _tensor_ref(value[:3], path)
        if isinstance(value, list):
            return [read(item) for item in value]
        if isinstance(value, dict):
            return {
                key: read(value[key]) for key in sorted(value)
            }  # the order of Keras's flat lists
        raise _error(path, f"expected {what} as lists and objects, got {type(value).__name__}")

    structure = read(value)
    if isinstance(structure, list) and len(structure) == 1:
        return structure[0]
    return structure


class _Graph:
    """A graph in the making; layers of one name are one layer, as they are for Keras 1."""

    def __init__(self, here: Path) -> None:
        self.here = here
        self.layers: dict[str, LayerSpec | ModelSpec] = {}
        self.nodes: list[NodeSpec] = []
        self.inputs: dict[TensorRef, None] = {}  # in order
        self._calls: dict[tuple[object, ...], TensorRef] = {}
        self._count: Counter[str] = Counter()

    def _add(self, spec: LayerSpec | ModelSpec) -> None:
        if self.layers.setdefault(spec.name, spec) != spec:
            raise _error(self.here, f"two layers have the name {spec.name!r}")

    def input(self, spec: LayerSpec | ModelSpec) -> TensorRef:
        self._add(spec)
        ref = TensorRef(spec.name, 0, 0)
        self.inputs[ref] = None
        return ref

    def call(self, spec: LayerSpec | ModelSpec, inputs: Nested) -> TensorRef:
        """Call a layer; the same call again is the one that was made."""
        self._add(spec)
        call = (spec.name, *refs_in(inputs))
        if call not in self._calls:
            self._calls[call] = TensorRef(spec.name, self._count[spec.name], 0)
            self._count[spec.name] += 1
            self.nodes.append(NodeSpec(spec.name, (inputs,)))
        return self._calls[call]

    def call_on_inputs_like_its_own(self, spec: ModelSpec) -> TensorRef:
        """Call a functional model on new inputs of the graph."""
        layers = {layer.name: layer for layer in spec.layers}
        inputs = [self.input(layers[ref.layer]) for ref in refs_in(spec.inputs)]
        return self.call(spec, inputs if len(inputs) > 1 else inputs[0])

    def model(self, outputs: Nested, common: dict[str, Any]) -> ModelSpec:
        """Return the graph as a model."""
        inputs = list(self.inputs)
        spec = ModelSpec(
            kind="functional",
            layers=tuple(self.layers.values()),
            nodes=tuple(self.nodes),
            inputs=inputs if len(inputs) > 1 else inputs[0],
            outputs=outputs,
            **common,
        )
        _check_graph(spec, self.here)
        return spec


def _merged_models(layers: list[Any]) -> list[Any] | None:
    """Return the models that the first layer of a Sequential of Keras 1 merges, None if it is another layer."""
    first = layers[0] if layers and isinstance(layers[0], dict) else {}
    config = first.get("config")
    if first.get("class_name") != "Merge" or not isinstance(config, dict):
        return None
    models = config.get("layers")
    return models if isinstance(models, list) and models else None


def _map_refs(function: Callable[[TensorRef], Any], value: Nested) -> Nested:
    if isinstance(value, TensorRef):
        return function(value)
    if isinstance(value, list | tuple):
        return type(value)(_map_refs(function, item) for item in value)
    if isinstance(value, dict):
        return {key: _map_refs(function, item) for key, item in value.items()}
    return value


def refs_in(value: Nested) -> list[TensorRef]:
    """Return the tensors in a nested structure, in order."""
    found: list[TensorRef] = []
    _map_refs(found.append, value)
    return found


def _earlier_node(value: Nested, layers: Collection[str]) -> Nested:
    """Count the calls of `layers` from 0 where the file counted from 1."""

    def shift(ref: TensorRef) -> TensorRef:
        return TensorRef(ref.layer, ref.node - 1, ref.tensor) if ref.layer in layers else ref

    return _map_refs(shift, value)


def _check_graph(spec: ModelSpec, path: Path) -> None:
    """Raise unless every tensor comes from a call that the model makes, in some order."""
    calls = {layer.name: 0 for layer in spec.layers}
    for layer in spec.layers:
        if layer.class_name == INPUT_LAYER:
            calls[layer.name] = 1
    identities = []
    for node in spec.nodes:
        identities.append((node.layer, calls[node.layer]))
        calls[node.layer] += 1

    def check(ref: TensorRef, what: str) -> None:
        if ref.layer not in calls:
            raise _error(path, f"{what} takes a tensor of {ref.layer!r}, which is no layer of it")
        if not (0 <= ref.node < calls[ref.layer] and ref.tensor >= 0):
            raise _error(
                path,
                f"{what} takes tensor {ref.tensor} of call {ref.node} of {ref.layer!r}, "
                f"which is called {calls[ref.layer]} times",
            )

    needs = {}
    for node, identity in zip(spec.nodes, identities, strict=True):
        refs = refs_in([node.args, node.kwargs])
        for ref in refs:
            check(ref, f"the layer {node.layer!r}")
        if not refs:
            raise _error(path, f"the layer {node.layer!r} is called without a tensor")
        needs[identity] = {(ref.layer, ref.node) for ref in refs}
    for ref in refs_in([spec.inputs, spec.outputs]):
        check(ref, "the model's input or output")
    inputs = {layer.name for layer in spec.layers if layer.class_name == INPUT_LAYER}
    given = {ref.layer for ref in refs_in(spec.inputs)}
    used = {ref.layer for ref in refs_in([node.args for node in spec.nodes])}
    if not given or given - inputs or (used & inputs) - given:
        raise _error(path, "the model's inputs are not its input layers")
    if not refs_in(spec.outputs):
        raise _error(path, "the model has no outputs")
    _check_order(needs, {(name, 0) for name in inputs}, path)


def _check_order(needs: dict[Call, set[Call]], done: set[Call], path: Path) -> None:
    """Raise if the calls cannot be put in an order in which each has what it takes."""
    users: dict[Call, list[Call]] = {}
    for call, needed in needs.items():
        for one in needed - done:
            users.setdefault(one, []).append(call)
    missing = {call: len(needed - done) for call, needed in needs.items()}
    ready = [call for call, count in missing.items() if count == 0]
    resolved = 0
    while ready:
        call = ready.pop()
        resolved += 1
        for user in users.get(call, ()):
            missing[user] -= 1
            if missing[user] == 0:
                ready.append(user)
    if resolved < len(needs):
        stuck = next(call for call, count in missing.items() if count)
        raise _error(path, f"the graph has a loop through the layer {stuck[0]!r}")
