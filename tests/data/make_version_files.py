"""Add to version_files.zip: small models whose meaning depends on the version of Keras that saved them.

Run in the environment of each version (`tests/versions/README.md` tells how to make them):

    KERAS_BACKEND=tensorflow python tests/data/make_version_files.py [--keras tf_keras]

For every model NAME that the version can have, the archive holds VERSION/NAME.keras, or NAME.h5 before
Keras 3, and VERSION/NAME.npz with in0, in1, ... and for two calls, one after the other, outR_0, outR_1, ...
Written with Keras 2.1.6, 2.2.4 and 2.3.1 (TensorFlow 1.15), 2.2.4-tf (TensorFlow 2.0), 2.8.0, tf_keras 2.20.1, and
Keras 3.3.3, 3.7.0, 3.9.2, 3.10.0 and 3.15.1 (TensorFlow 2.16 and 2.20).
"""

import argparse
import importlib
import os
import tempfile
import zipfile
from pathlib import Path

import numpy as np

ARCHIVE = Path(__file__).parent / "version_files.zip"
# Not as many rows as steps: Attention of Keras 3.0 to 3.10 takes one for the other in a mask, and fails otherwise.
IDS = np.array(
    [
        [1, 2, 3, 0, 0],
        [0, 0, 4, 1, 2],
        [0, 3, 0, 4, 0],
        [0, 0, 0, 0, 0],
        [4, 3, 2, 1, 1],
        [1, 1, 0, 2, 0],
    ]
)
OTHER_IDS = np.array(
    [
        [2, 1, 0, 0, 0],
        [3, 3, 1, 2, 0],
        [0, 1, 1, 0, 2],
        [1, 0, 0, 0, 0],
        [0, 0, 0, 0, 1],
        [3, 0, 0, 1, 1],
    ]
)


class Models:
    """The models by name; each function returns inputs, outputs and arrays for the inputs."""

    def __init__(self, keras):
        self.keras, self.layers = keras, keras.layers

    def words(self, batch=None, mask_zero=True, **options):
        """An input of words and their embeddings, which carry a mask or not."""
        if batch:
            x = self.layers.Input(batch_shape=(batch, 5), dtype="int32")
        else:
            x = self.layers.Input((5,), dtype="int32")
        return x, self.layers.Embedding(5, 3, mask_zero=mask_zero, **options)(x)

    def old_defaults(self):
        x, embedded = self.words()
        y = self.layers.GRU(2, return_sequences=True)(embedded)
        y = self.layers.LSTM(2, activation="hard_sigmoid")(y)
        return [x], [y], [IDS]

    def masked_decoder(self):
        a, source = self.words()
        b, target = self.words()
        outputs = []
        for name in ("SimpleRNN", "GRU", "LSTM"):
            layer = getattr(self.layers, name)
            states = layer(2, return_state=True)(source)[1:]
            outputs.append(layer(2, return_sequences=True)(target, initial_state=states))
        both = self.layers.Bidirectional(self.layers.GRU(2, return_state=True))(source)
        outputs.append(
            self.layers.Bidirectional(self.layers.GRU(2))(target, initial_state=both[1:])
        )
        return [a, b], outputs, [IDS, OTHER_IDS]

    def merged(self):
        a, x = self.words()
        b, y = self.words()
        outputs = []
        for name in ("Add", "Multiply", "Maximum", "Concatenate"):
            outputs.append(self.layers.SimpleRNN(2)(getattr(self.layers, name)()([x, y])))
        joined = self.layers.Concatenate(axis=1)([x, y])
        outputs.append(self.layers.SimpleRNN(2)(joined))
        return [a, b], outputs, [IDS, OTHER_IDS]

    def attention(self):
        a, x = self.words()
        b, y = self.words()
        outputs = [
            self.layers.SimpleRNN(2)(getattr(self.layers, name)()([x, y], use_causal_mask=True))
            for name in ("Attention", "AdditiveAttention")
        ]
        return [a, b], outputs, [IDS, OTHER_IDS]

    def heads(self):
        a, x = self.words()
        b, y = self.words()
        outputs = [
            self.layers.MultiHeadAttention(1, 2, dropout=0.1)(x, y),
            self.layers.MultiHeadAttention(1, 2)(x, y),
        ]
        outputs += self.layers.MultiHeadAttention(1, 2)(x, y, return_attention_scores=True)
        return [a, b], outputs, [IDS, OTHER_IDS]

    def heads_of_float64(self):
        a, x = self.words(dtype="float64")
        b, y = self.words(dtype="float64")
        outputs = [
            self.layers.MultiHeadAttention(1, 2, dropout=0.1, dtype="float64")(x, y),
            self.layers.MultiHeadAttention(1, 2, dtype="float64")(x, y),
        ]
        return [a, b], outputs, [IDS, OTHER_IDS]

    def residual(self):
        x, embedded = self.words()
        attended = self.layers.MultiHeadAttention(1, 2)(embedded, embedded)
        added = self.layers.Add()([embedded, attended])
        outputs = [
            self.layers.SimpleRNN(2)(attended),
            self.layers.SimpleRNN(2)(added),
            self.layers.GlobalAveragePooling1D()(embedded),
        ]
        return [x], outputs, [IDS]

    def given_mask(self):
        x, embedded = self.words(mask_zero=False)
        given = self.layers.Input((5,), dtype="bool")
        y = self.layers.SimpleRNN(2, return_sequences=True)(embedded, mask=given)
        outputs = [y, self.layers.SimpleRNN(2)(y)]
        return [x, given], outputs, [IDS, OTHER_IDS.astype(bool)]

    def normalized(self):
        x, embedded = self.words()
        layers = [
            self.layers.Normalization(mean=0.3, variance=2.0),
            self.layers.Rescaling(0.5),
        ]
        return [x], [self.layers.SimpleRNN(2)(layer(embedded)) for layer in layers], [IDS]

    def bidirectional(self):
        x, embedded = self.words()
        outputs = [
            self.layers.Bidirectional(self.layers.SimpleRNN(2, return_sequences=True))(embedded)
        ]
        return [x], outputs, [IDS]

    def bidirectional_backwards(self):
        x, embedded = self.words()
        layers = [
            self.layers.SimpleRNN(2, go_backwards=True, return_sequences=True),
            self.layers.GRU(2, go_backwards=True),
        ]
        return [x], [self.layers.Bidirectional(layer)(embedded) for layer in layers], [IDS]

    def unrolled(self):
        x, embedded = self.words()
        options = {"unroll": True, "return_sequences": True}
        layers = [
            self.layers.Bidirectional(self.layers.SimpleRNN(2, **options)),
            self.layers.Bidirectional(self.layers.GRU(2, **options), merge_mode="sum"),
            self.layers.LSTM(2, go_backwards=True, zero_output_for_mask=True, **options),
        ]
        return [x], [layer(embedded) for layer in layers], [IDS]

    def stacked(self):
        x, embedded = self.words()
        layers = []
        for options in ({"return_sequences": True}, {"go_backwards": True}):
            cells = [self.layers.SimpleRNNCell(2), self.layers.GRUCell(2)]
            layers.append(self.layers.RNN(cells, **options))
        return [x], [layer(embedded) for layer in layers], [IDS]

    def softmax(self):
        # A mask of six rows and steps, where a version reads it, counts for six rows of the last two axes.
        x = self.layers.Input((6,), dtype="int32")
        embedded = self.layers.Embedding(5, 6, mask_zero=True)(x)
        words = np.concatenate([IDS, IDS[:, :1]], axis=1)
        return [x], [self.layers.SimpleRNN(2)(self.layers.Softmax()(embedded))], [words]

    def sentences(self):
        x = self.layers.Input((5, 3), dtype="int32")
        embedded = self.layers.Embedding(5, 3, mask_zero=True)(x)
        y = self.layers.TimeDistributed(self.layers.GRU(2))(embedded)
        words = np.stack([IDS, OTHER_IDS, IDS[::-1]], -1)
        return [x], [self.layers.Dense(2)(y)], [words]

    def kept_by_both(self):
        x, embedded = self.words(batch=len(IDS))
        layer = self.layers.Bidirectional(self.layers.GRU(2, stateful=True))
        return [x], [layer(embedded)], [IDS]

    def images(self):
        x = self.layers.Input((5, 3, 1))
        given = self.layers.Input((5,), dtype="bool")
        layer = self.layers.ConvLSTM1D(2, 2, return_sequences=True, zero_output_for_mask=True)
        both = self.layers.Bidirectional(self.layers.ConvLSTM1D(2, 2, return_sequences=True))
        arrays = [np.linspace(-1, 1, 90).reshape(6, 5, 3, 1).astype("float32"), IDS.astype(bool)]
        return [x, given], [layer(x, mask=given), both(x, mask=given)], arrays

    def stateful(self):
        x, embedded = self.words(batch=len(IDS))
        state = self.layers.Input(batch_shape=(len(IDS), 2))
        given = np.linspace(-0.5, 0.5, 12).reshape(6, 2).astype("float32")
        outputs = [
            self.layers.SimpleRNN(2, stateful=True)(embedded, initial_state=state),
            self.layers.Bidirectional(self.layers.GRU(2, stateful=True))(
                embedded, initial_state=[state, state]
            ),
        ]
        return [x, state], outputs, [IDS, given]

    def names(self):
        """The models whose files this version can hold and load."""
        version = tuple(int(part) for part in self.keras.__version__.split("-")[0].split(".")[:2])
        left_out = set()
        if version < (2, 4):
            left_out.add("given_mask")  # its files do not hold the mask
        return [name for name in self.NAMES if name not in left_out]

    NAMES = (
        "old_defaults",
        "masked_decoder",
        "merged",
        "attention",
        "heads",
        "heads_of_float64",
        "residual",
        "given_mask",
        "normalized",
        "bidirectional",
        "bidirectional_backwards",
        "unrolled",
        "stacked",
        "softmax",
        "sentences",
        "kept_by_both",
        "images",
        "stateful",
    )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--keras", default="keras")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    options = parser.parse_args()
    keras = importlib.import_module(options.keras)
    version = keras.__version__
    extension = ".keras" if version.startswith("3.") else ".h5"
    held = set(zipfile.ZipFile(str(ARCHIVE)).namelist()) if ARCHIVE.exists() else set()
    with tempfile.TemporaryDirectory() as folder:
        for name in Models(keras).names():
            if f"{version}/{name}{extension}" in held:
                continue
            path = str(Path(folder) / name)
            try:
                inputs, outputs, arrays = getattr(Models(keras), name)()
                model = keras.models.Model(inputs, outputs)
                numbers = np.random.RandomState(0)
                for layer in model.layers:
                    weights = [0.8 * numbers.randn(*one.shape) for one in layer.get_weights()]
                    if type(layer).__name__ != "Normalization":
                        layer.set_weights(weights)
                stored = {f"in{i}": array for i, array in enumerate(arrays)}
                for call in range(2):
                    results = model.predict(arrays, batch_size=len(IDS), verbose=0)
                    results = results if isinstance(results, (list, tuple)) else [results]
                    for i, array in enumerate(results):
                        stored[f"out{call}_{i}"] = array
                model.save(path + extension)
            except Exception as error:
                print(f"{version} {name}: left out, {str(error).strip().splitlines()[0][:100]}")
                continue
            np.savez(path + ".npz", **stored)
            with zipfile.ZipFile(str(ARCHIVE), "a", zipfile.ZIP_DEFLATED) as archive:
                for end in (extension, ".npz"):
                    archive.write(path + end, f"{version}/{name}{end}")


if __name__ == "__main__":
    main()
