"""Write keras1_files.zip: models as Keras 1 and early Keras 2 save them, with inputs and predictions.

Those versions are run from their unpacked source distributions, on the TensorFlow 1 interface of
TensorFlow 2.12, with stand-ins for what has since gone from Python and TensorFlow:

    python tests/data/make_keras1_files.py FOLDER

FOLDER holds Keras-1.0.8, Keras-1.1.2, Keras-1.2.2, Keras-2.0.9 and Keras-2.1.6. For every VERSION and
model NAME the archive holds VERSION/NAME.h5, and VERSION/NAME.npz with in0, in1, ... and out0, ...
"""

import collections
import importlib.abc
import importlib.machinery
import inspect
import os
import subprocess
import sys
import tempfile
import types
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

HERE = Path(__file__).parent
VERSIONS = ("1.0.8", "1.1.2", "1.2.2", "2.0.9", "2.1.6")


class ArgSpec(NamedTuple):
    args: list
    varargs: str | None
    keywords: str | None
    defaults: tuple


class Anything(types.ModuleType):
    """A module that is imported and not used."""

    __path__ = ()

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class Unused(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("yaml", "keras_applications", "keras_preprocessing"):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return Anything(spec.name)

    def exec_module(self, module):
        pass


def import_keras(source, version):
    """Import Keras from its source as if Python and TensorFlow were of its time."""
    import tensorflow
    import tensorflow.compat.v1 as tf
    from tensorflow.python.ops import control_flow_ops

    tf.disable_v2_behavior()
    tf.TensorArray.unpack, tf.TensorArray.pack = tf.TensorArray.unstack, tf.TensorArray.stack
    old = types.ModuleType("tensorflow")
    old.__dict__.update({name: getattr(tf, name) for name in dir(tf)})
    old.__path__, old.__version__ = tensorflow.__path__, "1.15.0"
    old.python = sys.modules["tensorflow.python"]
    old.python.control_flow_ops = control_flow_ops
    old.initialize_variables = tf.variables_initializer
    old.initialize_all_variables = tf.global_variables_initializer
    old.all_variables, old.mul, old.pack = tf.global_variables, tf.multiply, tf.stack
    old.unpack, old.select = tf.unstack, tf.where
    if version < "1.2":
        old.concat = lambda axis, values: tf.concat(values, axis)
        old.batch_matmul = lambda a, b, adj_x=False, adj_y=False: tf.matmul(
            a, b, adjoint_a=adj_x, adjoint_b=adj_y
        )
    sys.modules["tensorflow"] = old
    inspect.getargspec = lambda function: ArgSpec(*inspect.getfullargspec(function)[:4])
    collections.Iterable = collections.abc.Iterable
    for scalar in (bool, int, float):
        setattr(np, scalar.__name__, scalar)
    sys.meta_path.insert(0, Unused())
    sys.path.insert(0, str(source))
    for name in [name for name in sys.modules if name.split(".")[0] == "keras"]:
        del sys.modules[name]  # TensorFlow's
    import keras

    return keras


def models(keras, version):
    """Return the models to save, each as a function, by name."""
    layers, Sequential, Model = keras.layers, keras.models.Sequential, keras.models.Model

    def branch():
        return Sequential([layers.LSTM(4, input_shape=(5, 3))])

    def other():
        return Sequential([layers.GRU(4, input_shape=(4, 2))])

    def convolutions():
        return Sequential(
            [
                layers.Convolution1D(5, 3, border_mode="same", input_shape=(12, 3)),
                layers.MaxPooling1D(pool_length=2),
                layers.Convolution1D(4, 2, subsample_length=2, activation="relu"),
                layers.LSTM(4),
            ]
        )

    def convolutions_per_step():
        convolution = layers.Convolution2D(4, 3, 3, border_mode="same", subsample=(2, 2))
        return Sequential(
            [
                layers.TimeDistributed(convolution, input_shape=(4, 3, 7, 5)),
                layers.TimeDistributed(layers.Flatten()),
                layers.LSTM(4),
            ]
        )

    def memory():
        story = Sequential([layers.Embedding(12, 6, input_length=5), layers.Dropout(0.3)])
        again = Sequential([layers.Embedding(12, 4, input_length=5)])
        question = Sequential([layers.Embedding(12, 6, input_length=4, dropout=0.1)])
        match = Sequential([layers.Merge([story, question], mode="dot", dot_axes=[2, 2])])
        match.add(layers.Activation("softmax"))
        answer = Sequential([layers.Merge([match, again], mode="sum"), layers.Permute((2, 1))])
        merged = layers.Merge([answer, question], mode="concat", concat_axis=-1)
        return Sequential([merged, layers.LSTM(4), layers.Dense(3)])

    def merged():
        first = layers.Merge([branch(), other()], mode="mul")
        third = Sequential([layers.Dense(3, input_dim=2)])
        both = Sequential([first, layers.Dense(3)])
        return Sequential([layers.Merge([both, third], mode="ave"), layers.Dense(2)])

    def merged_inside():
        inner = Sequential([layers.Merge([branch(), other()], mode="concat"), layers.Dense(3)])
        return Sequential([inner, layers.Dense(2)])

    def names():
        layer = layers.Convolution3D(4, 2, 2, 2, input_shape=(4, 5, 6, 2), dim_ordering="tf")
        return Sequential([layer, layers.Reshape((3, -1)), layers.PReLU(), layers.GRU(3)])

    def images():
        options = {"border_mode": "same", "dim_ordering": "th"}
        return Sequential(
            [
                layers.Convolution2D(4, 3, 3, input_shape=(3, 6, 5), **options),
                layers.Reshape((4, 30)),
                layers.LSTM(3),
            ]
        )

    def graph():
        one, two = layers.Input((5, 3)), layers.Input((5, 2))
        x = layers.LSTM(4, return_sequences=True, consume_less="gpu")(one)
        y = layers.Bidirectional(layers.GRU(2, return_sequences=True))(two)
        merged = [layers.merge([x, y], mode=mode) for mode in ("concat", "sum", "max")]
        dotted = layers.merge([x, y], mode="dot", dot_axes=2)
        return Model([one, two], [*[layers.LSTM(2)(z) for z in merged], layers.GRU(2)(dotted)])

    def unnamed_models():
        inner = Sequential([layers.LSTM(4, return_sequences=True, input_shape=(5, 3))])
        return Sequential([inner, Sequential([layers.GRU(3, input_shape=(5, 4))]), layers.Dense(2)])

    def stack():
        cells = [layers.GRUCell(4), layers.LSTMCell(3)]
        return Sequential([layers.RNN(cells, input_shape=(5, 3)), layers.Dense(2)])

    by_version = {
        "1.0.8": [convolutions, convolutions_per_step],
        "1.1.2": [memory, convolutions],
        "1.2.2": [memory, merged, merged_inside, names, graph, images],
        "2.0.9": [unnamed_models],
        "2.1.6": [stack],
    }
    return {make.__name__: make for make in by_version[version]}


def save(source, version, folder):
    keras = import_keras(source, version)
    rng = np.random.RandomState(0)
    for name, make in models(keras, version).items():
        model = make()
        if not model.inputs:
            model.build()
        model.set_weights([rng.uniform(-0.7, 0.7, array.shape) for array in model.get_weights()])
        inputs = []
        for tensor in model.inputs:
            shape = (3, *keras.backend.int_shape(tensor)[1:])
            integers = name == "memory"
            array = rng.randint(0, 12, shape) if integers else rng.normal(size=shape)
            inputs.append(array.astype(np.float32))
        outputs = model.predict(inputs if len(inputs) > 1 else inputs[0])
        outputs = outputs if isinstance(outputs, list) else [outputs]
        model.save(str(folder / f"{name}.h5"))
        arrays = {f"in{i}": array for i, array in enumerate(inputs)}
        arrays.update({f"out{i}": array for i, array in enumerate(outputs)})
        np.savez_compressed(folder / f"{name}.npz", **arrays)


def main():
    if len(sys.argv) > 2:
        save(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
        return
    os.environ["KERAS_BACKEND"] = "tensorflow"
    with zipfile.ZipFile(HERE / "keras1_files.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for version in VERSIONS:
            source = Path(sys.argv[1]) / f"Keras-{version}"
            with tempfile.TemporaryDirectory() as folder:
                # Each version in a process of its own: they share a name.
                command = [sys.executable, __file__, str(source), version, folder]
                subprocess.run(command, check=True)
                for file in sorted(Path(folder).iterdir()):
                    archive.write(file, f"{version}/{file.name}")


if __name__ == "__main__":
    main()
