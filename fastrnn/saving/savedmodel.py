"""Reading the configs in SavedModel folders, which Keras 2 on TensorFlow wrote.

The graph in such a folder is never run, nor looked at: since TensorFlow 2.5 the configs have a file of their own, and
before they stood beside the graph, as texts of JSON.
"""

import re
from typing import TYPE_CHECKING

from fastrnn._types import Config
from fastrnn.errors import ModelFormatError
from fastrnn.saving.config import parse_json, parse_version
from fastrnn.saving.object_graph import TrackedObject
from fastrnn.saving.protobuf import Message

if TYPE_CHECKING:
    from fastrnn.saving.archive import Archive

GRAPH = "saved_model.pb"
CONFIGS = "keras_metadata.pb"
VARIABLES = "variables/variables"
MAX_CONFIGS_BYTES = 256 << 20
MAX_GRAPH_BYTES = 256 << 20

_SEQUENTIAL = "_tf_keras_sequential"
_MODELS = (_SEQUENTIAL, "_tf_keras_network", "_tf_keras_model")
_LAYER = re.compile(r"layer-\d+")


def read_config(
    archive: "Archive", folder: str, max_bytes: int, most_json: int
) -> tuple[Config, tuple[int, ...]] | None:
    """Return the config of the model in a folder, and the version of the Keras that wrote it.

    Parameters
    ----------
    archive : Archive
    folder : str
        Where ``saved_model.pb`` lies in it: empty, or ending with a slash.
    max_bytes : int
        What may be read of it, at most, and how much memory what was read may take besides.
    most_json : int
        The largest JSON that may be parsed.

    Returns
    -------
    (dict, tuple of int) or None
        None if there are no configs, as `tf.saved_model.save` and Keras 3's `export` write none.

    Raises
    ------
    ModelFormatError
        If the folder is damaged or holds something else than a model.
    """
    configs = archive.read(folder + CONFIGS, min(MAX_CONFIGS_BYTES, max_bytes))
    if configs is None:
        place = f"{archive.path}: {folder}{GRAPH}"
        graph = archive.read(folder + GRAPH, min(MAX_GRAPH_BYTES, max_bytes))
        root = _root_in_graph(Message(graph or b"", place, max_bytes))
    else:
        place = f"{archive.path}: {folder}{CONFIGS}"
        root = _root_in_configs(Message(configs, place, max_bytes))
    identifier, text = root
    if not text or identifier not in _MODELS:
        return None
    described = parse_json(text, f"{place}: the model's metadata", most_json)
    version = parse_version(described.get("keras_version"))
    return _model_config(described, identifier), version


def _root_in_configs(content: Message) -> tuple[str, str]:
    """Return what kind of object the root is, and its metadata; empty texts if it is not Keras's."""
    for node in content.messages(1):
        if node.number(2) == 0:
            return node.text(4), node.text(5)
    return "", ""


def _root_in_graph(content: Message) -> tuple[str, str]:
    meta_graph = content.message(2)
    objects = meta_graph.message(7).parts(1)
    user_object = Message(objects[0] if objects else b"", content.place).message(4)
    return user_object.text(1), user_object.text(3)


def _model_config(described: Config, identifier: str) -> Config:
    """Return the config as other files have it."""
    class_name, config = described.get("class_name"), described.get("config")
    if described.get("is_graph_network"):
        # Of a class of the author's own, too, Keras takes the layers as they are connected.
        class_name = "Sequential" if identifier == _SEQUENTIAL else "Functional"
    if isinstance(config, dict) and class_name == "Sequential":
        config = {"build_input_shape": described.get("build_input_shape"), **config}
    return {"class_name": class_name, "config": config}


def without_configs(place: str, root: TrackedObject) -> ModelFormatError:
    """Return the error for a folder that tells what a model computes and not what it is made of."""
    remedy = (
        "load the model in the Keras that wrote it, and save it by model.save, as .keras or .h5"
    )
    if any(_LAYER.fullmatch(name) for name in root.names()):
        remedy = (
            "give the JSON of model.to_json() as the model and this folder as weights, or " + remedy
        )
    return ModelFormatError(
        f"{place} is a TensorFlow SavedModel without the configs of layers, as tf.saved_model.save and "
        f"model.export write it: a graph, which is never run; {remedy}"
    )
