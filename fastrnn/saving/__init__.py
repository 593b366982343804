"""Loading what Keras saved, and taking over what Keras holds in memory.

    file or object -> config -> ModelSpec -> model -> weights

`files` finds out what a file is and opens it safely (`hdf5`, `archive`, `savedmodel`), `config` reads every
version's configs into the one form of `spec` with the help of the tables in `eras`,
`building` has `fastrnn.model` build the model, and `weights` fills it.
"""

import contextlib
import functools
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fastrnn.dtypes import narrow_precision
from fastrnn.layers.core import positive_integer
from fastrnn.saving import files, hdf5, keras_objects
from fastrnn.saving.building import build, weight_bytes
from fastrnn.saving.config import constructor_options, read_layer, read_model
from fastrnn.saving.memory import default_max_bytes
from fastrnn.saving.weights import assign_stored

if TYPE_CHECKING:
    from fastrnn.layers import Layer
    from fastrnn.model import Model

__all__ = ["from_keras", "load_model"]


def load_model(
    path: str | os.PathLike[str],
    weights: str | os.PathLike[str] | None = None,
    custom_objects: Mapping[str, Any] | None = None,
    precision: str | None = None,
    max_bytes: int | None = None,
) -> "Model":
    """Load a model that Keras saved.

    Nothing in a file is ever executed, imported or unpickled, and no other file is opened but those of its folder, and
    those that hold the weights that a ``.weights.json`` beside them lists.

    Parameters
    ----------
    path : str or path-like
        A ``.keras`` archive (or the directory it unpacks to), a whole-model ``.h5`` file, a SavedModel
        folder (or a zip file of one), or the JSON of ``model.to_json()``; of Keras 1, 2 or 3. The content tells
        which, not the name.
    weights : str or path-like, optional
        A ``.weights.h5`` file, the ``.weights.json`` of several, an older weights-only ``.h5``, or a TensorFlow
        checkpoint (its path without ``.index``, or the folder whose newest it is), to go with a JSON; given with a
        whole model, its weights are taken instead of the model's own.
    custom_objects : dict of str to object, optional
        Your own classes and functions, by the name that the file knows them by.
    precision : {"float32", "bfloat16", "int8"}, optional
        What the recurrent layers multiply in, as in `Layer.set_precision`; float32 by default.
    max_bytes : int, optional
        The most that the model's weights may take in memory, and what is unpacked or parsed to find them. By default
        100 times the size of the files, but 64 MiB at least and three quarters of the memory that the process may take
        at most. Loading takes up to 1.3 times the weights' size at its peak; ``docs/reliability.md`` says when more.

    Returns
    -------
    fastrnn.Sequential or fastrnn.Functional

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    PermissionError
        If a file may not be read.
    TypeError
        If `path` or `weights` is no path.
    ModelFormatError
        If a file is damaged, is not Keras's, contradicts itself, or takes more than `max_bytes`. It is a ValueError.
    UnsupportedLayerError
        If a layer or one of its options is not supported; names the layer and where it stands.
    ValueError
        If `precision` is another one, or narrower than float32 and a recurrent layer is of float64; if `max_bytes` is
        not positive.
    """
    narrow = narrow_precision(precision)
    if max_bytes is not None:
        max_bytes = positive_integer(max_bytes, "max_bytes")
    with contextlib.ExitStack() as stack:
        stored = stack.enter_context(files.open_model(path, max_bytes))
        spec = read_model(stored.config, stored.version, _options(), custom_objects)
        root, file_bytes = stored.weights, stored.file_bytes
        if weights is not None:
            root = stack.enter_context(files.open_weights(weights, max_bytes))
            file_bytes += root.file_bytes
        if root is None:
            raise ValueError(f"{path} is an architecture without weights: give their file too")
        most = default_max_bytes(file_bytes) if max_bytes is None else max_bytes
        model = build(spec, most)
        if isinstance(root, hdf5.Group):
            root.let_arrays_share(weight_bytes(model))
        assign_stored(model, spec, root)
    model.set_precision(narrow)
    return model


def from_keras(
    obj: Any, custom_objects: Mapping[str, Any] | None = None, precision: str | None = None
) -> "Layer":
    """Take over a model or a single built layer from Keras, with its weights and current states.

    Parameters
    ----------
    obj : keras.Model or keras.layers.Layer
        Of Keras 3 or of ``tf_keras``: a Sequential or functional model, or a layer that was built.
    custom_objects : dict of str to object, optional
        Your own classes and functions over NumPy arrays, by the names of those that they stand for.
    precision : {"float32", "bfloat16", "int8"}, optional
        As for `load_model`.

    Returns
    -------
    fastrnn.Sequential, fastrnn.Functional or a layer of fastrnn.layers

    Raises
    ------
    TypeError
        If `obj` is neither.
    ValueError
        If it has not been built, or `precision` is none for it.
    UnsupportedLayerError
        If a layer or one of its options is not supported.
    """
    narrow = narrow_precision(precision)
    config, version = keras_objects.describe(obj)
    if not obj.built:
        raise ValueError(
            f"{type(obj).__name__} {obj.name!r} is not built: call it once, or build it"
        )
    spec = read_layer(config, version, _options(), custom_objects)
    built = build(spec)
    keras_objects.copy_weights(obj, built, spec)
    keras_objects.copy_states(obj, built)
    built.set_precision(narrow)
    return built


@functools.cache
def _options() -> dict[str, frozenset[str]]:
    from fastrnn.layers import LOADABLE

    # A model's input shape is read where it counts; the one of a layer inside may be stale. What
    # LoRA learned was merged into the stored kernel.
    left_out = {
        "input_shape",
        "batch_input_shape",
        "lora_rank",
        "lora_alpha",
        "quantization_config",
    }
    return {name: constructor_options(cls) - left_out for name, cls in LOADABLE.items()}
