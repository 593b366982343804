"""Add to savedmodel_files.zip: models as TensorFlow's Keras 2 saved them, as SavedModel folders and as checkpoints.

Run in an environment of each version of TensorFlow (`tests/versions/README.md` tells how to make them):

    python tests/data/make_savedmodel_files.py

For every model NAME the archive holds the folder VERSION/NAME, the checkpoint VERSION/NAME.ckpt with the architecture
VERSION/NAME.json, and VERSION/NAME.npz with in0, in1, ... and, for two calls, one after the other, outR_0, outR_1, ...
Stateful models were called before they were saved, so that the folder holds states. VERSION/refused holds folders
without layers, or written by other functions than Keras's.

The graph is left out of all folders but 2.15.1/stacked: it is large, and never read. Written with TensorFlow 2.4.4,
2.8.4 and 2.15.1, and in 2.16.2, whose Keras is 3.0.5, what it exports.
"""

import os
import shutil
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import tensorflow as tf

ARCHIVE = Path(__file__).parent / "savedmodel_files.zip"
WITH_GRAPH = ("2.15.1", "stacked")
BATCH = 3
WORDS = np.array([[1, 2, 3, 0, 0], [0, 4, 1, 2, 0], [0, 0, 0, 0, 0]], "int32")
OTHER_WORDS = np.array([[2, 1, 0, 0, 0], [3, 3, 1, 2, 4], [1, 1, 1, 0, 2]], "int32")

keras = tf.keras
IS_KERAS_3 = hasattr(keras, "version")
layers = keras.layers


def some(*shape):
    return np.random.RandomState(len(shape)).randn(BATCH, *shape).astype("float32")


class Scale(layers.Layer):
    """A layer of the author's own, whose weights have other names than its attributes, and a layer inside."""

    def __init__(self, times=1.0, **kwargs):
        super().__init__(**kwargs)
        self.times = times
        self.shift = layers.Dense(2, name="inside")

    def build(self, input_shape):
        self.b = self.add_weight(name="first", shape=(input_shape[-1],))
        self.a = self.add_weight(name="second", shape=(input_shape[-1],))

    def call(self, x):
        return self.shift(self.times * self.a * x - self.b)

    def get_config(self):
        return dict(super().get_config(), times=self.times)


class Own(keras.Model):
    """A class that trains in a way of its own; the layers are connected as in any functional model."""


class Subclassed(keras.Model):
    """A model whose layers are connected by code."""

    def __init__(self):
        super().__init__()
        self.lstm = layers.LSTM(2)

    def call(self, inputs):
        return self.lstm(inputs)


def stacked():
    return keras.Sequential(
        [
            layers.LSTM(3, return_sequences=True, input_shape=(5, 2)),
            layers.GRU(2, return_sequences=True),
            layers.SimpleRNN(2),
            layers.Dense(2, activation="softmax"),
        ]
    ), [some(5, 2)]


def built_by_a_call():
    model = keras.Sequential([layers.LSTM(2, return_sequences=True), layers.Dense(1)])
    model(some(5, 2))
    return model, [some(5, 2)]


def masked():
    x = keras.Input((5,), dtype="int32")
    y = layers.Embedding(5, 3, mask_zero=True)(x)
    y = layers.Bidirectional(layers.GRU(2, return_sequences=True))(y)
    y = layers.Bidirectional(layers.LSTM(2), merge_mode="ave")(y)
    return keras.Model(x, y), [WORDS]


def translation():
    a, b = keras.Input((5,), dtype="int32"), keras.Input((5,), dtype="int32")
    _, *states = layers.LSTM(3, return_state=True)(layers.Embedding(5, 2, mask_zero=True)(a))
    y = layers.Embedding(5, 2, mask_zero=True)(b)
    y = layers.LSTM(3, return_sequences=True)(y, initial_state=states)
    return keras.Model([a, b], layers.Dense(2)(y)), [WORDS, OTHER_WORDS]


def nested():
    x = keras.Input((5, 2))
    first = layers.Dense(3, activation="tanh", input_shape=(5, 2))
    inner = keras.Sequential([first, layers.GRU(2, return_sequences=True)])
    a = keras.Input((5, 2))
    other = keras.Model(a, layers.SimpleRNN(2, return_sequences=True)(inner(a)))
    shared = layers.Dense(2)
    return keras.Model(x, shared(other(shared(x)))), [some(5, 2)]


def over_time():
    x = keras.Input((4, 5, 2))
    y = layers.TimeDistributed(layers.LSTM(2))(x)
    y = layers.TimeDistributed(keras.Sequential([layers.Dense(3), layers.Dense(2)]))(y)
    return keras.Model(x, layers.LSTM(2)(y)), [some(4, 5, 2)]


def cells():
    x = keras.Input((5, 2))
    y = layers.RNN([layers.LSTMCell(2), layers.GRUCell(3)], return_sequences=True)(x)
    return keras.Model(x, layers.RNN(layers.SimpleRNNCell(2))(y)), [some(5, 2)]


def images():
    x = keras.Input((3, 4, 4, 1))
    y = layers.ConvLSTM2D(2, 2, return_sequences=True)(x)
    y = layers.BatchNormalization()(y)
    return keras.Model(x, layers.Flatten()(layers.ConvLSTM2D(1, 2)(y))), [some(3, 4, 4, 1)]


def surroundings():
    x = keras.Input((6, 4))
    y = layers.SeparableConv1D(4, 2, padding="same")(layers.Conv1D(4, 2, padding="same")(x))
    y = layers.PReLU(shared_axes=[1])(layers.LayerNormalization()(y))
    y = layers.Attention(use_scale=True)([y, x])
    y = layers.BatchNormalization()(y * 2.0 + x)
    if hasattr(layers, "MultiHeadAttention"):
        y = layers.MultiHeadAttention(2, 3)(y, y)
    return keras.Model(x, layers.LSTM(2)(y)), [some(6, 4)]


def stateful():
    x = keras.Input(batch_shape=(BATCH, 4, 2))
    y = layers.LSTM(2, stateful=True, return_sequences=True)(x)
    y = layers.RNN([layers.LSTMCell(2), layers.GRUCell(2)], stateful=True, return_sequences=True)(y)
    y = layers.Bidirectional(layers.GRU(2, stateful=True))(y)
    return keras.Model(x, y), [some(4, 2)]


def of_the_authors_layer():
    x = keras.Input((5, 3))
    return keras.Model(x, layers.LSTM(2)(Scale(2.0)(x))), [some(5, 3)]


def of_the_authors_class():
    x = keras.Input((5, 2))
    return Own(x, layers.LSTM(2)(x)), [some(5, 2)]


MODELS = (
    stacked,
    built_by_a_call,
    masked,
    translation,
    nested,
    over_time,
    cells,
    images,
    surroundings,
    stateful,
    of_the_authors_layer,
    of_the_authors_class,
)


def without_graph(folder):
    """Take what is never read out of a folder; the configs and the objects stay."""
    from tensorflow.core.protobuf import saved_model_pb2

    path = Path(folder) / "saved_model.pb"
    model = saved_model_pb2.SavedModel()
    model.ParseFromString(path.read_bytes())
    for graph in model.meta_graphs:
        graph.ClearField("graph_def")
        graph.ClearField("collection_def")
        graph.object_graph_def.ClearField("concrete_functions")
    path.write_bytes(model.SerializeToString())


def two_calls(model, arrays):
    outputs = {}
    for call in range(2):
        results = model(arrays if len(arrays) > 1 else arrays[0], training=False)
        results = results if isinstance(results, (list, tuple)) else [results]
        outputs.update((f"out{call}_{i}", one.numpy()) for i, one in enumerate(results))
    return outputs


def write_model(make, folder):
    keras.backend.clear_session()
    model, arrays = make()
    numbers = np.random.RandomState(1)
    model.set_weights([np.abs(0.7 * numbers.randn(*one.shape)) for one in model.get_weights()])
    name = make.__name__
    two_calls(model, arrays)
    path = str(folder / name)
    with open(path + ".json", "w") as file:
        file.write(model.to_json() if name != "of_the_authors_class" else "{}")
    model.save_weights(path + ".ckpt", save_format="tf")
    model.save(path, save_format="tf")
    loaded = keras.models.load_model(path, custom_objects={"Scale": Scale}, compile=False)
    outputs = two_calls(model, arrays)
    for key, array in two_calls(loaded, arrays).items():
        np.testing.assert_allclose(array, outputs[key], 1e-5, 1e-6)
    if name == "stateful":
        model.reset_states()  # a checkpoint holds none
        outputs.update((f"fresh_{key}", array) for key, array in two_calls(model, arrays).items())
    outputs.update((f"in{i}", array) for i, array in enumerate(arrays))
    np.savez(path + ".npz", **outputs)
    (folder / "checkpoint").unlink()
    if (tf.__version__, name) != WITH_GRAPH:
        without_graph(path)


def exported(folder):
    """What Keras 3 exports: functions."""
    model, arrays = stacked()
    model(arrays[0])
    model.export(folder)


def module(folder):
    """Functions and variables without layers."""
    one = tf.Module()
    one.weight = tf.Variable([1.0, 2.0])
    one.run = tf.function(lambda x: x * one.weight, input_signature=[tf.TensorSpec([2])])
    tf.saved_model.save(one, folder)


def by_tensorflow(folder):
    """Layers without their configs."""
    model, arrays = stacked()
    model(arrays[0])
    tf.saved_model.save(model, folder)


def subclassed(folder):
    model = Subclassed()
    model(some(5, 2))
    model.save(folder, save_format="tf")


def write_refused(make, folder):
    """Write a folder of which no layers can be made."""
    keras.backend.clear_session()
    path = folder / "refused" / make.__name__
    make(str(path))
    without_graph(path)


def main():
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        folder = root / tf.__version__
        tasks = [(write_refused, make) for make in (module, by_tensorflow, subclassed)]
        tasks += [(write_model, make) for make in MODELS]
        for write, make in [(write_refused, exported)] if IS_KERAS_3 else tasks:
            (folder / "refused").mkdir(parents=True)
            try:
                write(make, folder)
            except Exception as error:
                print(f"{folder.name} {make.__name__}: left out, {type(error).__name__} {error}")
            else:
                with zipfile.ZipFile(str(ARCHIVE), "a", zipfile.ZIP_DEFLATED) as archive:
                    for path in sorted(folder.rglob("*")):
                        if path.is_file():
                            archive.write(str(path), str(path.relative_to(root)))
            shutil.rmtree(str(folder))


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main()
