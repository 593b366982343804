"""Models that Keras quantized, in every mode that Keras 3.15 has for the layers of a recurrent model."""

import json
import shutil
import zipfile

import keras
import ml_dtypes
import numpy as np
import pytest
from keras import layers, quantizers

import fastrnn
from fastrnn.errors import ModelFormatError, UnsupportedLayerError
from fastrnn.layers.quantized import as_float8

ATOL = 2e-6


def recurrent_model():
    ids = keras.Input((6,), dtype="int32")
    x = layers.Embedding(9, 5)(ids)
    x = layers.GRU(4, return_sequences=True)(x)
    x = layers.Dense(5, activation="tanh")(x)
    x = layers.EinsumDense("abc,cde->abde", output_shape=(None, 3, 2), bias_axes="de")(x)
    x = layers.EinsumDense("abde,def->abf", output_shape=(None, 7), bias_axes="f")(x)
    x = layers.LSTM(5)(x)
    return keras.Model(ids, layers.Dense(3, use_bias=False)(x))


def scrambled(model, rng):
    for weight in model.weights:
        if weight.dtype == "float32":
            weight.assign(rng.normal(size=weight.shape) / 2)
    return model


CONFIGS = {
    "int8": lambda: "int8",
    "int4": lambda: "int4",
    "float8": lambda: "float8",
    "int8, inputs as they are": lambda: quantizers.Int8QuantizationConfig(
        activation_quantizer=None
    ),
    "int8, narrower inputs": lambda: quantizers.Int8QuantizationConfig(
        activation_quantizer=quantizers.AbsMaxQuantizer(
            axis=-1, value_range=(-31, 31), epsilon=1e-3
        )
    ),
    "int4 in blocks of 2": lambda: quantizers.Int4QuantizationConfig(block_size=2),
    "int4 by channel": lambda: quantizers.Int4QuantizationConfig(block_size=-1),
    "int4 with rounded inputs": lambda: quantizers.Int4QuantizationConfig(
        block_size=-1, activation_quantizer=quantizers.AbsMaxQuantizer(axis=-1)
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_quantized_model(kind, tmp_path, rng):
    model, config = scrambled(recurrent_model(), rng), CONFIGS[kind]()
    numbers = rng.integers(0, 9, (20, 6))
    before = np.asarray(model(numbers))
    if isinstance(config, str):
        model.quantize(config)
    else:
        model.quantize(config=config)
    for weight in model.weights:
        if weight.name in ("inputs_scale", "kernel_scale") and weight.shape == ():
            weight.assign(0.013)
    wanted = np.asarray(model(numbers))
    assert np.abs(wanted - before).max() > 1e-4
    model.save(tmp_path / "model.keras")
    loaded = [fastrnn.load_model(tmp_path / "model.keras"), fastrnn.from_keras(model)]
    if kind != "float8":  # which Keras cannot load
        model.save(tmp_path / "model.h5")
        loaded.append(fastrnn.load_model(tmp_path / "model.h5"))
    for ours in loaded:
        np.testing.assert_allclose(ours(numbers), wanted, rtol=0, atol=ATOL)
        np.testing.assert_allclose(ours.predict(numbers), wanted, rtol=0, atol=ATOL)


DTYPES = [
    "int8_from_float32",
    "int4_from_float32",
    "int4/2_from_float32",
    "float8_from_float32",
    "int8_from_mixed_bfloat16",
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("trainable", [True, False])
def test_layers_that_are_quantized_from_the_start(dtype, trainable, tmp_path, rng):
    x = keras.Input((6, 5))
    y = layers.Dense(4, dtype=dtype, trainable=trainable)(layers.GRU(3, return_sequences=True)(x))
    model = keras.Model(x, layers.Dense(2, dtype=dtype)(layers.SimpleRNN(3)(y)))
    for weight in model.weights:
        if weight.dtype == "int8":
            weight.assign(rng.integers(-127, 128, weight.shape))
        elif weight.name != "g_idx":
            weight.assign(rng.random(weight.shape) + 0.1)
    numbers = rng.normal(size=(9, 6, 5)).astype("float32")
    wanted = np.asarray(model(numbers)).astype("float32")
    loaded = [fastrnn.from_keras(model)]
    for suffix in (".keras", ".h5"):
        model.save(tmp_path / f"model{suffix}")
        loaded.append(fastrnn.load_model(tmp_path / f"model{suffix}"))
    error = np.abs(wanted).max() * (2e-2 if "bfloat16" in dtype else 4e-6)
    for ours in loaded:
        np.testing.assert_allclose(np.asarray(ours(numbers), "float32"), wanted, rtol=0, atol=error)


def test_lora_beside_quantized_weights(tmp_path, rng):
    model = keras.Sequential([keras.Input((6, 3)), layers.GRU(4), layers.Dense(3)])
    dense = model.layers[-1]
    model.quantize("int8")
    dense.enable_lora(2)
    dense.lora_kernel_b.assign(rng.normal(size=(2, 3)))
    model.save(tmp_path / "model.keras")
    numbers = rng.normal(size=(20, 6, 3)).astype("float32")
    wanted = np.asarray(keras.models.load_model(tmp_path / "model.keras")(numbers))
    for ours in (fastrnn.load_model(tmp_path / "model.keras"), fastrnn.from_keras(model)):
        np.testing.assert_allclose(ours(numbers), wanted, rtol=0, atol=ATOL)


def test_float8_rounds_as_the_type_does(rng):
    x = np.concatenate(
        [
            rng.normal(size=1000) * 10.0 ** rng.integers(-4, 3, 1000),
            np.arange(-448, 449) / 2,
            np.arange(-64, 65) * 2.0**-10,
            [0.0, -0.0, 448, -448, np.nan],
        ]
    ).astype("float32")
    np.testing.assert_array_equal(as_float8(x), x.astype(ml_dtypes.float8_e4m3fn).astype("float32"))


def test_what_keras_itself_gets_wrong_is_refused(tmp_path, rng):
    x = keras.Input((6, 3))
    model = keras.Model(
        x, layers.TimeDistributed(layers.Dense(2))(layers.GRU(4, return_sequences=True)(x))
    )
    model.quantize("int8")
    model.save(tmp_path / "model.keras")
    with pytest.raises(UnsupportedLayerError, match=r"TimeDistributed.*Keras forgets its scales"):
        fastrnn.load_model(tmp_path / "model.keras")
    attention = layers.MultiHeadAttention(2, 3)
    attention(x, x)
    attention._query_dense.quantize("int8")
    with pytest.raises(UnsupportedLayerError, match="a layer inside is quantized"):
        fastrnn.from_keras(attention)


def test_a_quantized_layer_has_no_config(rng):
    model = scrambled(recurrent_model(), rng)
    model.quantize("int8")
    for layer in fastrnn.from_keras(model).layers:
        if type(layer).__name__ in ("Dense", "EinsumDense"):
            with pytest.raises(NotImplementedError, match="no config"):
                layer.get_config()


def damaged(path, damage):
    """Change the config of the last layer of an archive."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    damage(config["config"]["layers"][-1]["config"])
    members["config.json"] = json.dumps(config)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def set_policy(**options):
    return lambda config: config["dtype"]["config"].update(options)


def set_quantizer(**options):
    def damage(config):
        quantizer = config["quantization_config"]["config"]["activation_quantizer"]
        quantizer["config"].update(options)

    return damage


@pytest.fixture(scope="module")
def quantized_file(tmp_path_factory):
    model = scrambled(recurrent_model(), np.random.default_rng(20240229))
    model.quantize("int8")
    path = tmp_path_factory.mktemp("quantized") / "model.keras"
    model.save(path)
    return path


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (set_policy(mode="gptq/4/128"), UnsupportedLayerError, "'gptq/4/128' of a Dense"),
        (set_policy(mode="int4/0"), ModelFormatError, "block_size must be a positive"),
        (set_policy(mode="int4/x"), ModelFormatError, "block_size must be a positive"),
        (set_policy(mode="int4"), ModelFormatError, "takes arrays of the shapes"),
        (set_quantizer(value_range=[1]), ModelFormatError, "two whole numbers"),
        (set_quantizer(epsilon="x"), ModelFormatError, "a number as epsilon"),
        (lambda config: config.update(quantization_config=3), ModelFormatError, "as an object"),
    ],
)
def test_damaged_descriptions(damage, error, message, quantized_file, tmp_path):
    path = tmp_path / "model.keras"
    shutil.copy(quantized_file, path)
    damaged(path, damage)
    with pytest.raises(error, match=message):
        fastrnn.load_model(path)


def test_groups_that_there_are_not(tmp_path, rng):
    model = scrambled(recurrent_model(), rng)
    model.quantize("int4")
    model.layers[-1].g_idx.assign([0, 0, 0, 0, 7])
    model.save(tmp_path / "model.keras")
    with pytest.raises(ModelFormatError, match="expected groups below 1"):
        fastrnn.load_model(tmp_path / "model.keras")
