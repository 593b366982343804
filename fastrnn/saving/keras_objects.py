"""Taking over models and layers from a running Keras, by what the objects say of themselves.

Keras is never imported here: an object that came from it brings its config, weights and states.
"""

import json
import sys
from typing import Any

import numpy as np

from fastrnn._types import Config, Nested
from fastrnn.errors import UnsupportedLayerError
from fastrnn.saving.config import parse_json, parse_version
from fastrnn.saving.weights import assign_arrays

_PACKAGES = ("keras", "tf_keras")


def describe(obj: Any) -> tuple[Config, tuple[int, ...]]:
    """Return the config of a Keras model or layer as its file would hold it, and the version.

    Raises
    ------
    TypeError
        If `obj` is not a model or layer of Keras.
    UnsupportedLayerError
        If it is a model that no config describes.
    """
    package = _package_of(obj)
    if package is None:
        raise TypeError(f"expected a model or a layer of Keras, got {type(obj).__name__}")
    version = parse_version(getattr(sys.modules.get(package), "__version__", None))
    if is_model(obj):
        try:
            text = obj.to_json()
        except NotImplementedError as error:
            raise UnsupportedLayerError(
                f"{type(obj).__name__} {obj.name!r} is a model of its own class; only Sequential "
                "and functional models can be taken over"
            ) from error
        return parse_json(text, "the model's config"), version
    described = {
        "class_name": type(obj).__name__,
        "module": type(obj).__module__,
        "config": obj.get_config(),
        "build_config": obj.get_build_config(),
    }
    return parse_json(json.dumps(described, default=_plain), "the layer's config"), version


def is_model(obj: Any) -> bool:
    """Whether a Keras object is a model rather than a layer."""
    return hasattr(obj, "layers") and hasattr(obj, "to_json")


def copy_weights(obj: Any, layer: Any, spec: Any) -> None:
    """Copy the weights of a Keras object into the built layer or model that came from it."""
    if not is_model(obj):
        if _is_keras_3(obj):
            inside = [layer for layer in obj._flatten_layers() if layer is not obj]
            if any(getattr(layer, "quantization_mode", None) for layer in inside):
                raise UnsupportedLayerError(
                    f"{type(obj).__name__} {obj.name!r}: a layer inside is quantized, which no config tells; "
                    "Keras cannot load a file of it either"
                )
            assign_arrays(layer, spec, _merged_weights(obj), trainable_first=False)
        else:
            assign_arrays(layer, spec, obj.get_weights(), trainable_first=True)
        return
    parts = {part.name: part for part in obj.layers}
    for part, part_spec in zip(layer._layers, spec.layers, strict=True):
        if part_spec.name in parts:
            copy_weights(parts[part_spec.name], part, part_spec)


def _merged_weights(obj: Any) -> list[np.ndarray]:
    """Return the weights of a layer of Keras 3 as an archive would have them: those that LoRA learned merged."""
    inside = {id(weight) for child in obj._layers for weight in child.weights}
    own = [weight for weight in obj.weights if id(weight) not in inside]
    if getattr(obj, "lora_enabled", False) or getattr(obj, "quantization_mode", None):
        stored: dict[str, Any] = {}
        obj.save_own_variables(stored)
        own = [stored[key] for key in sorted(stored, key=int)]
    return [*map(np.asarray, own), *(w for child in obj._layers for w in _merged_weights(child))]


def copy_states(obj: Any, layer: Any) -> None:
    """Copy the states that stateful layers hold at the moment."""
    if is_model(obj):
        parts = {part.name: part for part in obj.layers}
        for part in layer._layers:
            if part.name in parts:
                copy_states(parts[part.name], part)
        return
    for attribute, child in layer._children():
        inner = getattr(obj, attribute, None)
        if not isinstance(child, list) and inner is not None:
            copy_states(inner, child)
    states = getattr(obj, "states", None)
    if getattr(obj, "stateful", False) and hasattr(obj, "cell") and _is_set(states):
        layer.reset_states(_arrays(states))


def _is_set(states: Nested) -> bool:
    if isinstance(states, list | tuple):
        return bool(states) and all(_is_set(state) for state in states)
    return states is not None


def _arrays(states: Nested) -> Nested:
    if isinstance(states, list | tuple):
        return [_arrays(state) for state in states]
    return np.asarray(states)


def _package_of(obj: Any) -> str | None:
    """Return the package that the object's class, or one that it derives from, belongs to."""
    if not (hasattr(obj, "get_config") and hasattr(obj, "get_weights")):
        return None
    packages = [cls.__module__.split(".")[0] for cls in type(obj).__mro__]
    return next((package for package in packages if package in _PACKAGES), None)


def _is_keras_3(obj: Any) -> bool:
    return parse_version(getattr(sys.modules.get(_package_of(obj) or ""), "__version__", None)) >= (
        3,
    )


def _plain(value: Any) -> Any:
    """Return what JSON can hold for the odd values in configs."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"a config holds a {type(value).__name__}, which no file can hold")
