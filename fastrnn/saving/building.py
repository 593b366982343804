"""Building the layers that a spec describes, ready to take weights."""

import dataclasses

from fastrnn import initializers
from fastrnn.errors import ModelFormatError, UnsupportedLayerError
from fastrnn.saving.spec import LayerSpec, ModelSpec


def build(spec):
    """Build a model or a layer; what its constructors refuse is an error of the file.

    The weights start as zeros, which take no memory before they are written: a file that declares
    a giant model and does not hold its weights is found out when the weights are looked for.
    """
    from fastrnn import model

    blank = _without_initial_values(spec)
    try:
        if isinstance(spec, ModelSpec):
            built = model.model_from_spec(blank)
        else:
            built = model.layer_from_spec(blank)
            built.build(spec.build_shape)
    except (ModelFormatError, UnsupportedLayerError):
        raise
    except (ValueError, TypeError, LookupError, OverflowError, MemoryError) as error:
        raise ModelFormatError(f"{spec.class_name} {spec.name!r}: {error}") from error
    _restore_initializers(built, spec)
    return built


def _is_initializer(key):
    return key.endswith("_initializer")


def _without_initial_values(value):
    if isinstance(value, ModelSpec):
        layers = tuple(_without_initial_values(layer) for layer in value.layers)
        return dataclasses.replace(value, layers=layers)
    if isinstance(value, LayerSpec):
        config = {
            key: "zeros" if _is_initializer(key) else _without_initial_values(option)
            for key, option in value.config.items()
        }
        return dataclasses.replace(value, config=config)
    if isinstance(value, list):
        return [_without_initial_values(item) for item in value]
    return value


def _restore_initializers(layer, spec):
    """Give the layers the initializers that the file names, for their configs."""
    if isinstance(spec, ModelSpec):
        for part, part_spec in zip(layer.layers, spec.layers, strict=True):
            _restore_initializers(part, part_spec)
        return
    holder = getattr(layer, "cell", layer)
    for key, value in spec.config.items():
        if _is_initializer(key):
            setattr(holder, key, initializers.get(value))
        elif isinstance(value, LayerSpec | ModelSpec):
            _restore_initializers(getattr(layer, key), value)
        elif isinstance(value, list) and value and isinstance(value[0], LayerSpec):
            for part, part_spec in zip(getattr(layer, key), value, strict=True):
                _restore_initializers(part, part_spec)
