"""Write keras2_operations.zip: functional models of Keras 2 with TensorFlow's functions, and with attention.

Run where TensorFlow and its Keras 2 are installed (written with TensorFlow 2.12.0):

    python tests/data/make_operation_files.py

For every model NAME the archive holds NAME.h5 or NAME.keras, and NAME.npz with in0, in1, ... and out0, out1, ...
"""

import tempfile
import zipfile
from pathlib import Path

import numpy as np
import tensorflow as tf

keras = tf.keras
layers = keras.layers
TARGET = Path(__file__).parent / "keras2_operations.zip"


def arithmetic(x, z):
    return [
        1.0 - (x + z) * 2.0,
        x / 2.0 - z,
        2.0 / (abs(x) + 1.0),
        (-x) ** 2,
        x // 0.5 + z % 0.3,
        tf.math.add(x, z),
        tf.maximum(x, 0.1) + tf.minimum(z, 0.0),
        tf.exp(x) + tf.math.log1p(tf.abs(z)) + tf.sqrt(tf.square(x) + 1.0),
        tf.math.divide_no_nan(x, tf.nn.relu(z)),
        tf.math.squared_difference(x, z) + tf.add_n([x, z, x]),
        tf.clip_by_value(x, -0.1, 0.2) + tf.sign(z) + tf.round(x * 4.0) + tf.floor(x),
    ]


def shapes(x, z):
    return [
        x[:, -1],
        x[:, 1:3, ::2],
        x[..., tf.newaxis, 0],
        tf.concat([x, z], axis=-1),
        tf.stack([x, z], axis=1),
        tf.expand_dims(x, 1),
        tf.squeeze(x[:, :1], axis=1),
        tf.reshape(x, [-1, 20]),
        tf.transpose(x, perm=[0, 2, 1]),
        tf.tile(x, [1, 2, 1]),
        tf.repeat(x, 2, axis=1),
        tf.reverse(x, axis=[1]),
        tf.roll(x, 1, 1),
        tf.pad(x, [[0, 0], [1, 1], [0, 0]]),
        tf.gather(x, [3, 1], axis=1),
        tf.slice(x, [0, 1, 0], [-1, 2, -1]),
        *tf.split(x, 2, axis=-1),
        *tf.split(x, [1, 4], axis=1),
        *tf.unstack(x, axis=1)[:2],
    ]


def reductions(x, z):
    return [
        tf.reduce_sum(x, axis=1),
        tf.reduce_mean(x, axis=[1, 2], keepdims=True),
        tf.reduce_max(x, axis=-1) + tf.reduce_min(z, axis=-1),
        tf.reduce_prod(x, 1),
        tf.math.reduce_std(x, 1),
        tf.math.reduce_variance(x, 1),
        tf.reduce_logsumexp(x, 1),
        tf.norm(x, axis=-1),
        tf.cumsum(x, 1),
        tf.cumsum(x, axis=1, exclusive=True, reverse=True),
        tf.math.top_k(x, 2)[0],
        tf.cast(tf.argmax(x, -1), tf.float32),
        keras.backend.mean(x, axis=1),
        keras.backend.batch_dot(x, z, axes=2),
        tf.linalg.matmul(x, z, transpose_b=True),
        tf.matmul(x, tf.transpose(z, [0, 2, 1])),
        tf.tensordot(x, tf.constant(np.linspace(-1, 1, 8).reshape(4, 2), tf.float32), axes=1),
        tf.nn.l2_normalize(x, axis=-1),
    ]


def activations(x, z):
    return [
        tf.nn.relu(x),
        tf.nn.softmax(x),
        tf.nn.softmax(x, axis=1),
        tf.nn.log_softmax(x),
        tf.sigmoid(x),
        tf.tanh(x),
        tf.nn.leaky_relu(x),
        tf.nn.gelu(x),
        tf.nn.elu(x),
        tf.math.softplus(x),
        tf.nn.swish(x),
    ]


def choices(x, z):
    return [
        tf.where(x > 0, x, z),
        tf.where(tf.logical_and(x >= 0, tf.logical_not(z < 0)), 1.0, float("-inf")),
        tf.one_hot(tf.cast(x[:, :, 0] + 2.0, tf.int32), 4),
        tf.one_hot(tf.cast(x[:, 0, 0] + 2.0, tf.int32), 3, on_value=2.0, off_value=-1.0),
        tf.cast(tf.reduce_any(x > 0.5, axis=1), tf.float32),
        tf.zeros_like(x) + tf.ones_like(z),
        tf.identity(x),
    ]


def attention(x, z):
    x, z = layers.Masking(0.25)(x), layers.Masking()(z)
    heads = layers.MultiHeadAttention(2, 3, value_dim=5)
    return [
        layers.Attention(use_scale=True, score_mode="concat")([x, z]),
        layers.AdditiveAttention()([x, z], use_causal_mask=True),
        *heads(x, z, return_attention_scores=True),
        layers.GlobalAveragePooling1D()(layers.Add()([x, layers.MultiHeadAttention(2, 2)(x, x)])),
        layers.EinsumDense("abc,cd->abd", output_shape=(None, 2), bias_axes="d")(z),
    ]


MODELS = {
    "arithmetic": (arithmetic, "h5"),
    "shapes": (shapes, "h5"),
    "reductions": (reductions, "h5"),
    "activations": (activations, "keras"),
    "choices": (choices, "h5"),
    "attention": (attention, "h5"),
    "attention_archive": (attention, "keras"),
}


def main():
    rng = np.random.default_rng(1)
    with zipfile.ZipFile(TARGET, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, (make, ending) in MODELS.items():
            inputs = [keras.Input((5, 3)), keras.Input((5, 4))]
            states = layers.GRU(4, return_sequences=True)(inputs[0])
            model = keras.Model(inputs, make(states, inputs[1]), name=name)
            for weight in model.weights:
                weight.assign(rng.uniform(-1, 1, weight.shape))
            arrays = [rng.normal(size=(3, 5, n)).astype(np.float32) for n in (3, 4)]
            if "attention" in name:
                arrays[1][:, 3:] = 0
                arrays[1][0, 2:] = 0
            outputs = model.predict(arrays, verbose=0)
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"{name}.{ending}"
                options = {"save_format": "keras_v3"} if ending == "keras" else {}
                model.save(path, **options)
                archive.write(path, path.name)
                path = path.with_suffix(".npz")
                np.savez_compressed(
                    path,
                    **{f"in{i}": array for i, array in enumerate(arrays)},
                    **{f"out{i}": array for i, array in enumerate(outputs)},
                )
                archive.write(path, path.name)


if __name__ == "__main__":
    main()
