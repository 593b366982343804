"""Write keras2_files.zip: models as Keras 2 saves them, with inputs and its predictions.

Run where TensorFlow and tf_keras are installed (written with tf_keras 2.21.0 and TensorFlow 2.21.0):

    python tests/data/make_keras2_files.py

With Keras 2.12 (TensorFlow 2.12) instead, it writes keras212_files.zip: that version stored the
weights of ``.keras`` files under other names.

For every model NAME the archive holds NAME.h5, NAME.keras, NAME.json, NAME.weights.h5 (the newer
kind of weights file) and NAME_weights.h5 (the older), and NAME.npz with in0, in1, ... and for each
of the successive predictions outR_0, outR_1, ...
"""

import tempfile
import zipfile
from pathlib import Path

import numpy as np

try:
    import tf_keras as keras
except ImportError:
    from tensorflow import keras

layers = keras.layers
HERE = Path(__file__).parent
RUNS = 2


def simple_rnn():
    return keras.Sequential(
        [
            layers.SimpleRNN(3, activation="relu", input_shape=(None, 2), name="first"),
            layers.Dropout(0.5),
            layers.Dense(2, activation="softmax"),
        ]
    )


def lstm_hard_sigmoid():
    return keras.Sequential(
        [
            layers.InputLayer((4, 2)),
            layers.LSTM(3, recurrent_activation="hard_sigmoid", return_sequences=True),
            layers.LSTM(3, activation="hard_sigmoid", use_bias=False, unit_forget_bias=False),
            layers.Dense(2, activation="hard_sigmoid"),
            layers.Activation("hard_sigmoid"),
        ]
    )


def gru_both_ways():
    return keras.Sequential(
        [
            layers.InputLayer((4, 2)),
            layers.GRU(3, reset_after=False, go_backwards=True, return_sequences=True),
            layers.GRU(3, reset_after=True, recurrent_activation="hard_sigmoid"),
        ]
    )


def stateful():
    return keras.Sequential(
        [
            layers.LSTM(3, stateful=True, return_sequences=True, batch_input_shape=(2, 4, 2)),
            layers.GRU(2, stateful=True),
            layers.Dense(1),
        ]
    )


def encoder_decoder():
    source = keras.Input((None, 2), name="source")
    target = keras.Input((None, 3), name="target")
    _, h, c = layers.LSTM(3, return_state=True, name="encoder")(source)
    decoded = layers.LSTM(3, return_sequences=True, name="decoder")(target, initial_state=[h, c])
    shared = layers.Dense(2, name="shared")
    return keras.Model([target, source], [shared(decoded), shared(h)], name="translator")


def nested():
    frozen = layers.Dense(3, name="frozen")
    frozen.trainable = False
    inner = keras.Sequential(
        [layers.InputLayer((4, 2)), frozen, layers.GRU(3, name="trained")], name="inner"
    )
    first, second = keras.Input((4, 2), name="first"), keras.Input((4, 2), name="second")
    head_input = keras.Input((3,))
    head = keras.Model(head_input, layers.Dense(2)(head_input), name="head")
    return keras.Model([first, second], [head(inner(first)), head(inner(second))], name="outer")


MODELS = (simple_rnn, lstm_hard_sigmoid, gru_both_ways, stateful, encoder_decoder, nested)


def save(name, model, folder, rng):
    for weight in model.weights:
        weight.assign(rng.uniform(-1, 1, weight.shape))
    inputs = [
        rng.normal(size=(2, *(size or 4 for size in one.shape[1:]))).astype(np.float32)
        for one in model.inputs
    ]
    arrays = {f"in{i}": array for i, array in enumerate(inputs)}
    for run in range(RUNS):
        outputs = model.predict(inputs, verbose=0)
        for i, output in enumerate(outputs if isinstance(outputs, list) else [outputs]):
            arrays[f"out{run}_{i}"] = output
    np.savez(folder / f"{name}.npz", **arrays)
    if keras.__version__.startswith("2.12."):
        model.save(folder / f"{name}.keras", save_format="keras_v3")
        return
    model.save(folder / f"{name}.keras")
    model.save(folder / f"{name}.h5")
    model.save_weights(folder / f"{name}.weights.h5")
    model.save_weights(folder / f"{name}_weights.h5")
    (folder / f"{name}.json").write_text(model.to_json())


def main():
    rng = np.random.default_rng(1)
    old = keras.__version__.startswith("2.12.")
    target = HERE / ("keras212_files.zip" if old else "keras2_files.zip")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for make in MODELS:
            save(make.__name__, make(), folder, rng)
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for file in sorted(folder.iterdir()):
                archive.write(file, file.name)


if __name__ == "__main__":
    main()
