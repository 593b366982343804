"""Loading, end to end: what Keras saved, in every format, predicts what Keras predicts."""

import json
import shutil
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from keras import layers

import fastrnn
from fastrnn.errors import ModelFormatError, UnsupportedLayerError
from fastrnn.saving import _options
from fastrnn.saving.building import build
from fastrnn.saving.config import read_model

DATA = Path(__file__).parent / "data"
PUBLISHED = Path(__file__).parent.parent.parent / "shared" / "models"
ATOL = 2e-6


# Models


def simple_rnn():
    return keras.Sequential(
        [
            keras.Input((12, 1)),
            layers.SimpleRNN(3, activation="tanh"),
            layers.Dense(1, activation="tanh"),
        ]
    )


def stack():
    return keras.Sequential(
        [
            keras.Input((None, 2), name="series"),
            layers.LSTM(3, return_sequences=True, recurrent_activation="hard_sigmoid"),
            layers.Dropout(0.3),
            layers.GRU(4, return_sequences=True, reset_after=False, go_backwards=True),
            layers.SimpleRNN(5, use_bias=False, activation="relu"),
            layers.Dense(2, activation="hard_sigmoid", name="last"),
            layers.Activation("softmax"),
        ]
    )


def with_cell():
    return keras.Sequential(
        [
            keras.Input((4, 2)),
            layers.RNN(layers.LSTMCell(3), return_sequences=True),
            layers.RNN(layers.GRUCell(3)),
        ]
    )


def float64():
    return keras.Sequential(
        [
            keras.Input((4, 2), dtype="float64"),
            layers.LSTM(3, dtype="float64"),
            layers.Dense(2, dtype="float64"),
        ]
    )


def stateful():
    return keras.Sequential(
        [
            keras.Input(batch_shape=(3, 4, 2)),
            layers.LSTM(3, stateful=True, return_sequences=True),
            layers.GRU(2, stateful=True),
        ]
    )


def encoder_decoder():
    source = keras.Input((None, 2), name="source")
    target = keras.Input((None, 3), name="target")
    _, h, c = layers.LSTM(3, return_state=True, name="encoder")(source)
    decoded = layers.LSTM(3, return_sequences=True)(target, initial_state=[h, c])
    again = layers.GRU(3)(decoded, h)
    shared = layers.Dense(2)
    return keras.Model([target, source], [shared(decoded), shared(again)])


def nested():
    frozen = layers.Dense(3)
    frozen.trainable = False
    inner = keras.Sequential([keras.Input((4, 2)), frozen, layers.GRU(3)], name="inner")
    first, second = keras.Input((4, 2), name="first"), keras.Input((4, 2), name="second")
    head_input = keras.Input((3,))
    head = keras.Model(head_input, layers.Dense(2)(head_input), name="head")
    return keras.Model([first, second], [head(inner(second)), head(inner(first))])


def dictionaries():
    one, two = keras.Input((4, 2), name="b"), keras.Input((4, 2), name="a")
    lstm = layers.LSTM(3)
    return keras.Model(
        {"b": one, "a": two}, {"y": lstm(one), "x": [lstm(two), layers.Dense(2)(two)]}
    )


MODELS = [simple_rnn, stack, with_cell, float64, stateful, encoder_decoder, nested, dictionaries]


def randomized(model, rng):
    model.set_weights([rng.uniform(-1, 1, weight.shape) for weight in model.get_weights()])
    return model


def inputs_for(model, rng):
    arrays = {
        one.name: rng.normal(size=(3, *(n or 5 for n in one.shape[1:]))) for one in model.inputs
    }
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    structure = getattr(model, "input", None)  # a Sequential has none before it is called
    if isinstance(structure, dict):
        return {key: arrays[tensor.name] for key, tensor in structure.items()}
    return list(arrays.values()) if len(arrays) > 1 else next(iter(arrays.values()))


def flat(outputs):
    if isinstance(outputs, dict):
        return [array for key in sorted(outputs) for array in flat(outputs[key])]
    if isinstance(outputs, list | tuple):
        return [array for part in outputs for array in flat(part)]
    return [np.asarray(outputs)]


def assert_predicts_the_same(loaded, model, rng):
    for _ in range(2):
        x = inputs_for(model, rng)
        # Keras's predict starts the states anew on this backend; its call carries them.
        expected, got = flat(model(x)), flat(loaded.predict(x))
        assert len(got) == len(expected)
        for a, b in zip(got, expected, strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_allclose(a, b, atol=ATOL, rtol=0)


# Formats of Keras 3


def as_keras(model, folder):
    model.save(folder / "m.keras")
    return (folder / "m.keras",)


def as_h5(model, folder):
    model.save(folder / "m.h5")
    return (folder / "m.h5",)


def as_json(model, folder):
    (folder / "m.json").write_text(model.to_json())
    model.save_weights(folder / "m.weights.h5")
    return folder / "m.json", folder / "m.weights.h5"


def as_directory(model, folder):
    model.save(folder / "m.keras")
    with zipfile.ZipFile(folder / "m.keras") as archive:
        archive.extractall(folder / "unpacked")
    return (folder / "unpacked",)


def as_compressed(model, folder):
    """An archive zipped anew by hand, with its datasets gzipped."""
    (unpacked,) = as_directory(model, folder)
    weights = rewritten(
        unpacked / "model.weights.h5", compression="gzip", shuffle=True, fletcher32=True
    )
    with zipfile.ZipFile(folder / "new.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("config.json", "metadata.json"):
            archive.write(unpacked / name, name)
        archive.write(weights, "model.weights.h5")
    return (folder / "new.keras",)


def as_windows(model, folder):
    """Keras 2.15 on Windows joined the names of groups by backslashes."""
    source, weights = as_json(model, folder)
    target = folder / "windows.h5"
    with h5py.File(weights) as old, h5py.File(target, "w") as new:

        def copy(name, member):
            if isinstance(member, h5py.Dataset):
                group, _, index = name.rpartition("/vars/")
                new.require_group(group.replace("/", "\\") + "/vars")[index] = member[()]

        old.visititems(copy)
    return source, target


def as_big_endian_bytes(model, folder):
    """Arrays of the other byte order, attributes in bytes, the list of layers in parts."""
    (path,) = as_h5(model, folder)
    target = rewritten(path, dtype=">f8")
    with h5py.File(target, "r+") as file:
        file.attrs["model_config"] = np.bytes_(file.attrs["model_config"])
        group = file["model_weights"]
        names = [name.encode() for name in group.attrs.pop("layer_names")]
        for i, name in enumerate(names):
            group.attrs[f"layer_names{i}"] = [name]
    return (target,)


def rewritten(path, dtype=None, **options):
    """Copy an HDF5 file, every array created anew with these options."""
    target = path.with_name(f"rewritten_{path.name}")
    with h5py.File(path) as old, h5py.File(target, "w") as new:

        def copy(name, member):
            if isinstance(member, h5py.Dataset):
                copied = new.create_dataset(
                    name, data=member[()], dtype=dtype or member.dtype, **options
                )
            else:
                copied = new.require_group(name)
            copied.attrs.update(member.attrs)

        new.attrs.update(old.attrs)
        old.visititems(copy)
    return target


FORMATS = [as_keras, as_h5, as_json, as_directory, as_compressed, as_windows, as_big_endian_bytes]


@pytest.mark.parametrize("save", FORMATS, ids=lambda function: function.__name__)
@pytest.mark.parametrize("make", MODELS, ids=lambda function: function.__name__)
def test_formats_of_keras_3(make, save, tmp_path, rng):
    model = randomized(make(), rng)
    path, *weights = save(model, tmp_path)
    assert_predicts_the_same(fastrnn.load_model(path, *weights), model, rng)


@pytest.mark.parametrize("make", MODELS, ids=lambda function: function.__name__)
def test_models_in_memory(make, rng):
    model = randomized(make(), rng)
    model(inputs_for(model, rng))
    assert_predicts_the_same(fastrnn.from_keras(model), model, rng)


def test_names_and_shapes_survive(tmp_path, rng):
    model = stack()
    model.save(tmp_path / "m.keras")
    loaded = fastrnn.load_model(tmp_path / "m.keras")
    assert loaded.name == model.name
    assert [one.name for one in loaded.layers] == [one.name for one in model.layers]
    assert loaded.input_shape == model.input_shape
    assert loaded.output_shape == model.output_shape
    assert loaded.count_params() == model.count_params()
    for own, kerass in zip(loaded.layers, model.layers, strict=True):
        assert own.get_config()["name"] == kerass.get_config()["name"]
        for a, b in zip(own.get_weights(), kerass.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_initializers_of_the_file_stay_in_the_config(tmp_path):
    model = keras.Sequential(
        [keras.Input((4, 2)), layers.LSTM(3, recurrent_initializer="he_normal")]
    )
    model.save(tmp_path / "m.keras")
    config = fastrnn.load_model(tmp_path / "m.keras").layers[0].get_config()
    assert config["recurrent_initializer"]["class_name"] == "HeNormal"
    assert config["kernel_initializer"]["class_name"] == "GlorotUniform"


def test_content_tells_the_format_not_the_name(tmp_path, rng):
    model = randomized(simple_rnn(), rng)
    for save, name in ((as_keras, "really_an_archive.h5"), (as_h5, "really_hdf5.keras")):
        (path,) = save(model, tmp_path)
        assert_predicts_the_same(fastrnn.load_model(shutil.copy(path, tmp_path / name)), model, rng)


def test_weights_given_with_a_whole_model_replace_its_own(tmp_path, rng):
    model = simple_rnn()
    model.save(tmp_path / "m.keras")
    randomized(model, rng).save_weights(tmp_path / "m.weights.h5")
    for weights in (tmp_path / "m.weights.h5", *as_h5(model, tmp_path)):
        loaded = fastrnn.load_model(tmp_path / "m.keras", weights=weights)
        assert_predicts_the_same(loaded, model, rng)


def test_activation_of_the_callers_own(tmp_path, rng):
    def doubled(x):
        return 2 * x

    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, activation=doubled)])
    randomized(model, rng).save(tmp_path / "m.keras")
    with pytest.raises(UnsupportedLayerError, match=r"Dense.*doubled"):
        fastrnn.load_model(tmp_path / "m.keras")
    loaded = fastrnn.load_model(tmp_path / "m.keras", custom_objects={"doubled": doubled})
    assert_predicts_the_same(loaded, model, rng)


def test_loading_leaves_the_file_alone_and_closed(tmp_path, rng):
    for save in (as_keras, as_h5):
        (path,) = save(simple_rnn(), tmp_path)
        before = path.read_bytes()
        fastrnn.load_model(path)
        assert path.read_bytes() == before
        path.unlink()


# Formats of Keras 2


@pytest.fixture(scope="module")
def keras_2_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keras2")
    for name in ("keras2_files", "keras212_files"):
        with zipfile.ZipFile(DATA / f"{name}.zip") as archive:
            archive.extractall(folder / name)
    return folder


KERAS_2_MODELS = [
    "simple_rnn",
    "lstm_hard_sigmoid",
    "gru_both_ways",
    "stateful",
    "encoder_decoder",
    "nested",
]


@pytest.mark.parametrize("name", KERAS_2_MODELS)
@pytest.mark.parametrize(
    ("folder", "model", "weights"),
    [
        ("keras2_files", "{}.h5", None),
        ("keras2_files", "{}.keras", None),
        ("keras2_files", "{}.json", "{}.weights.h5"),
        ("keras2_files", "{}.json", "{}_weights.h5"),
        ("keras212_files", "{}.keras", None),
    ],
)
def test_formats_of_keras_2(name, folder, model, weights, keras_2_files):
    folder = keras_2_files / folder
    weights = weights and folder / weights.format(name)
    loaded = fastrnn.load_model(folder / model.format(name), weights=weights)
    with np.load(folder / f"{name}.npz") as arrays:
        inputs = [arrays[key] for key in sorted(arrays) if key.startswith("in")]
        for run in range(2):
            outputs = flat(loaded.predict(inputs if len(inputs) > 1 else inputs[0]))
            expected = [arrays[key] for key in sorted(arrays) if key.startswith(f"out{run}_")]
            for a, b in zip(outputs, expected, strict=True):
                np.testing.assert_allclose(a, b, atol=ATOL, rtol=0)


# Formats of Keras 1


def keras_1_files():
    with zipfile.ZipFile(DATA / "keras1_files.zip") as archive:
        return sorted(name[:-3] for name in archive.namelist() if name.endswith(".h5"))


@pytest.mark.parametrize("name", keras_1_files())
def test_formats_of_keras_1(name, tmp_path):
    """Models that Keras 1.0 to 2.1 saved: merged models, kernels of every layout, unnamed models."""
    with zipfile.ZipFile(DATA / "keras1_files.zip") as archive:
        archive.extract(f"{name}.h5", tmp_path)
        archive.extract(f"{name}.npz", tmp_path)
    loaded = fastrnn.load_model(tmp_path / f"{name}.h5")
    with np.load(tmp_path / f"{name}.npz") as arrays:
        inputs = [arrays[key] for key in sorted(arrays) if key.startswith("in")]
        outputs = flat(loaded.predict(inputs if len(inputs) > 1 else inputs[0]))
        assert len(outputs) == len(arrays) - len(inputs)
        for i, output in enumerate(outputs):
            np.testing.assert_allclose(output, arrays[f"out{i}"], atol=ATOL, rtol=0)


def test_keras_1_kernels_of_equal_sizes_are_read_by_their_era(tmp_path, rng):
    """(3, 3, 3, 3) says nothing of the axes' order; the version and data_format do."""
    kernel = rng.uniform(-1, 1, (3, 3, 3, 3)).astype(np.float32)
    config = {"name": "c", "bias": False, "batch_input_shape": [None, 3, 3, 3]}
    config |= {"nb_filter": 3, "nb_row": 3, "nb_col": 3, "dim_ordering": "th"}
    stored = []
    for version in ("1.2.2", "2.0.9"):
        layer = {"class_name": "Convolution2D", "config": config}
        if version == "2.0.9":
            layer = {
                "class_name": "Conv2D",
                "config": {
                    "name": "c",
                    "use_bias": False,
                    "batch_input_shape": [None, 3, 3, 3],
                    "filters": 3,
                    "kernel_size": [3, 3],
                    "data_format": "channels_first",
                },
            }
        old_file(tmp_path / "m.h5", layer, [kernel], version)
        stored += fastrnn.load_model(tmp_path / "m.h5").get_weights()
    np.testing.assert_array_equal(stored[0], kernel.transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(stored[1], kernel)


# Weights in several files


def test_sharded_weights(tmp_path, rng):
    model = randomized(stack(), rng)
    (tmp_path / "m.json").write_text(model.to_json())
    model.save_weights(tmp_path / "m.weights.json", max_shard_size=3e-7)
    assert len(list(tmp_path.glob("*.h5"))) > 1
    loaded = fastrnn.load_model(tmp_path / "m.json", weights=tmp_path / "m.weights.json")
    assert_predicts_the_same(loaded, model, rng)
    with pytest.raises(ModelFormatError, match="weights without a model"):
        fastrnn.load_model(tmp_path / "m.weights.json")


def test_layer_in_two_shards(tmp_path, rng):
    model = randomized(simple_rnn(), rng)
    source, weights = as_json(model, tmp_path)
    with h5py.File(weights, "r+") as file, h5py.File(tmp_path / "b.h5", "w") as other:
        other["layers/dense/vars/1"] = file["layers/dense/vars/1"][()]
        del file["layers/dense/vars/1"]
    shards = {"/layers/dense/vars": [weights.name, "b.h5"], "/layers/simple_rnn": weights.name}
    (tmp_path / "w.json").write_text(json.dumps({"weight_map": shards}))
    loaded = fastrnn.load_model(source, weights=tmp_path / "w.json")
    assert_predicts_the_same(loaded, model, rng)


# Layers with arrays of their own kind


def test_normalization_counts_in_whole_numbers(tmp_path, rng):
    normalization = layers.Normalization()
    normalization.adapt(rng.normal(size=(20, 4, 2)) * 3 + 1)
    model = keras.Sequential([keras.Input((4, 2)), normalization, layers.LSTM(3)])
    for save in (as_keras, as_h5):
        assert_predicts_the_same(fastrnn.load_model(*save(model, tmp_path)), model, rng)


def test_lora_is_merged_in_archives(tmp_path, rng):
    model = keras.Sequential([keras.Input((4, 2)), layers.GRU(3), layers.Dense(2)])
    model.layers[1].enable_lora(1)
    randomized(model, rng)
    loaded = fastrnn.load_model(*as_keras(model, tmp_path))
    assert_predicts_the_same(loaded, model, rng)


@pytest.mark.parametrize("alpha", [None, 5])
@pytest.mark.parametrize("frozen", [False, True])
def test_lora_of_every_layer_that_can_learn_it(frozen, alpha, tmp_path, rng):
    ids = keras.Input((6,), dtype="int32")
    several = [
        layers.Embedding(9, 5),
        layers.Conv1D(4, 2),
        layers.TimeDistributed(layers.Dense(4)),
        layers.GRU(4, return_sequences=True),
        layers.EinsumDense("abc,cd->abd", output_shape=(None, 3), bias_axes="d"),
        layers.Dense(2, use_bias=False),
    ]
    x = ids
    for layer in several:
        x = layer(x)
    model = keras.Model(ids, x)
    for layer in several:
        layer = getattr(layer, "layer", layer)
        if hasattr(layer, "enable_lora"):
            layer.enable_lora(2, lora_alpha=alpha)
            for weight in layer.weights:
                weight.assign(rng.normal(size=weight.shape) / 3)
    if frozen:
        several[0].trainable = several[2].trainable = several[-1].trainable = False
    numbers = rng.integers(0, 9, (3, 6))
    # Keras 3.15.1 forgets alpha when it loads .h5, so the judge is the model that was saved.
    wanted = np.asarray(model(numbers))
    for suffix in (".keras", ".h5"):
        model.save(tmp_path / f"lora{suffix}")
        loaded = fastrnn.load_model(tmp_path / f"lora{suffix}")
        np.testing.assert_allclose(loaded(numbers), wanted, rtol=0, atol=ATOL)
    np.testing.assert_allclose(fastrnn.from_keras(model)(numbers), wanted, rtol=0, atol=ATOL)


def test_lora_within_a_layer_in_memory(rng):
    layer, x = layers.MultiHeadAttention(2, 3), rng.normal(size=(2, 4, 5)).astype("float32")
    layer(x, x)
    layer._query_dense.enable_lora(2)
    for weight in layer.weights:
        weight.assign(rng.normal(size=weight.shape) / 3)
    np.testing.assert_allclose(fastrnn.from_keras(layer)(x, x), layer(x, x), rtol=0, atol=ATOL)


# training=True within a model


IN_TRAINING = {
    "Dropout": lambda x: layers.Dropout(0.5)(x, training=True),
    "GaussianNoise": lambda x: layers.GaussianNoise(0.5)(x, training=True),
    "BatchNormalization": lambda x: layers.BatchNormalization()(x, training=True),
    "LSTM": lambda x: layers.LSTM(3, dropout=0.5)(x, training=True),
    "GRU": lambda x: layers.GRU(3, recurrent_dropout=0.5)(x, training=True),
    "Bidirectional": lambda x: layers.Bidirectional(layers.GRU(3, dropout=0.5))(x, training=True),
    "MultiHeadAttention": lambda x: layers.MultiHeadAttention(2, 3, dropout=0.5)(
        x, x, training=True
    ),
    "TimeDistributed": lambda x: layers.TimeDistributed(layers.Dropout(0.5))(x, training=True),
    "model": lambda x: keras.Sequential([keras.Input((6, 3)), layers.Dropout(0.5)])(
        x, training=True
    ),
}


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("kind", IN_TRAINING)
def test_predict_goes_before_training_within_a_model_of_keras_3(kind, suffix, tmp_path, rng):
    x = keras.Input((6, 3))
    model = keras.Model(x, IN_TRAINING[kind](x))
    for weight in model.weights:
        if weight.dtype == "float32":
            weight.assign(weight + rng.random(weight.shape) / 4)
    model.save(tmp_path / f"model{suffix}")
    numbers = rng.normal(size=(4, 6, 3)).astype("float32")
    wanted = model.predict(numbers, verbose=0)
    for ours in (fastrnn.load_model(tmp_path / f"model{suffix}"), fastrnn.from_keras(model)):
        np.testing.assert_allclose(ours.predict(numbers), wanted, rtol=0, atol=ATOL)
        np.testing.assert_allclose(ours(numbers), wanted, rtol=0, atol=ATOL)


@pytest.mark.parametrize(
    ("described", "matters"),
    [
        ({"class_name": "Dropout", "config": {"name": "a", "rate": 0.5}}, True),
        ({"class_name": "Dropout", "config": {"name": "a", "rate": 0.0}}, False),
        ({"class_name": "GaussianNoise", "config": {"name": "a", "stddev": 0.5}}, True),
        ({"class_name": "BatchNormalization", "config": {"name": "a"}}, True),
        ({"class_name": "LSTM", "config": {"name": "a", "units": 2, "dropout": 0.5}}, True),
        ({"class_name": "LSTM", "config": {"name": "a", "units": 2}}, False),
    ],
)
def test_training_within_a_model_of_keras_2_is_refused(described, matters):
    shape = {"name": "in", "batch_input_shape": [None, 6, 3]}
    config = {
        "name": "m",
        "layers": [
            {"class_name": "InputLayer", "name": "in", "config": shape, "inbound_nodes": []},
            {**described, "name": "a", "inbound_nodes": [[["in", 0, 0, {"training": True}]]]},
        ],
        "input_layers": [["in", 0, 0]],
        "output_layers": [["a", 0, 0]],
    }
    spec = read_model({"class_name": "Functional", "config": config}, (2, 15), _options())
    if not matters:
        build(spec)
        return
    with pytest.raises(UnsupportedLayerError, match=r"layer 'a'.*without training=True.*save it"):
        build(spec)


# Older layouts of weights


def old_file(path, layer, arrays, version):
    """Write a model of one layer as Keras 1 and early Keras 2 did."""
    names = [f"{layer['config']['name']}_{i}" for i in range(len(arrays))]
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(
            {"class_name": "Sequential", "config": [layer]}
        ).encode()
        file.attrs["keras_version"] = version.encode()
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [layer["config"]["name"].encode()]
        layer_group = group.create_group(layer["config"]["name"])
        layer_group.attrs["weight_names"] = [name.encode() for name in names]
        for name, array in zip(names, arrays, strict=True):
            layer_group[name] = array


def gates(array, count):
    return np.split(array, count, axis=-1)


@pytest.mark.parametrize(("cls", "count"), [("LSTM", 4), ("GRU", 3)])
def test_cudnn_weights(cls, count, tmp_path, rng):
    units, features = 3, 2
    options = {"reset_after": True} if cls == "GRU" else {}
    expected = getattr(fastrnn.layers, cls)(units, **options)
    expected.build((None, 5, features))
    kernel = rng.uniform(-1, 1, (features, count * units))
    recurrent = rng.uniform(-1, 1, (units, count * units))
    biases = rng.uniform(-1, 1, (2, count * units))
    expected.set_weights([kernel, recurrent, biases if cls == "GRU" else biases.sum(axis=0)])
    stored = [
        np.hstack([gate.reshape((units, features), order="F").T for gate in gates(kernel, count)]),
        np.hstack([gate.T for gate in gates(recurrent, count)]),
        biases.ravel(),
    ]
    config = {
        "name": "cu",
        "units": units,
        "batch_input_shape": [None, 5, features],
        "trainable": True,
    }
    old_file(tmp_path / "m.h5", {"class_name": f"CuDNN{cls}", "config": config}, stored, "2.2.4")
    x = rng.normal(size=(3, 5, features))
    y = fastrnn.load_model(tmp_path / "m.h5").predict(x)
    np.testing.assert_allclose(y, expected(x), atol=ATOL, rtol=0)


@pytest.mark.parametrize(
    ("cls", "file_order", "order"), [("LSTM", "icfo", "ifco"), ("GRU", "zrh", "zrh")]
)
@pytest.mark.parametrize("consume_less", ["cpu", "gpu"])
def test_keras_1_weights(cls, file_order, order, consume_less, tmp_path, rng):
    units, features, count = 3, 2, len(order)
    options = {"reset_after": False} if cls == "GRU" else {}
    expected = getattr(fastrnn.layers, cls)(
        units, recurrent_activation="hard_sigmoid_keras2", **options
    )
    expected.build((None, 5, features))
    weights = [rng.uniform(-1, 1, weight.shape) for weight in expected.get_weights()]
    expected.set_weights(weights)
    by_gate = {
        gate: [gates(weight, count)[order.index(gate)] for weight in weights] for gate in order
    }
    per_gate = [array for gate in file_order for array in by_gate[gate]]
    config = {
        "name": "old",
        "output_dim": units,
        "inner_activation": "hard_sigmoid",
        "activation": "tanh",
        "consume_less": consume_less,
        "batch_input_shape": [None, 5, features],
        "input_dim": features,
    }
    stored = weights if consume_less == "gpu" else per_gate
    old_file(tmp_path / "m.h5", {"class_name": cls, "config": config}, stored, "1.2.2")
    x = rng.normal(size=(3, 5, features))
    y = fastrnn.load_model(tmp_path / "m.h5").predict(x)
    np.testing.assert_allclose(y, expected(x), atol=ATOL, rtol=0)


def test_keras_1_conv_lstm(tmp_path, rng):
    filters = 3
    expected = fastrnn.layers.ConvLSTM2D(
        filters, (2, 3), padding="same", recurrent_activation="hard_sigmoid_keras2"
    )
    expected.build((None, 4, 5, 6, 2))
    weights = [rng.uniform(-1, 1, weight.shape) for weight in expected.get_weights()]
    expected.set_weights(weights)
    per_gate = [gates(weight, 4)["ifco".index(gate)] for gate in "icfo" for weight in weights]
    config = {
        "name": "old",
        "nb_filter": filters,
        "nb_row": 2,
        "nb_col": 3,
        "border_mode": "same",
        "subsample": [1, 1],
        "dim_ordering": "tf",
        "inner_activation": "hard_sigmoid",
        "forget_bias_init": "one",
        "batch_input_shape": [None, 4, 5, 6, 2],
    }
    old_file(tmp_path / "m.h5", {"class_name": "ConvLSTM2D", "config": config}, per_gate, "1.2.2")
    x = rng.normal(size=(3, 4, 5, 6, 2))
    y = fastrnn.load_model(tmp_path / "m.h5").predict(x)
    np.testing.assert_allclose(y, expected(x), atol=ATOL, rtol=0)


# Layers in memory


LAYERS = {
    "simple_rnn": lambda: layers.SimpleRNN(3, return_sequences=True, go_backwards=True),
    "lstm": lambda: layers.LSTM(3, return_state=True, unit_forget_bias=False),
    "gru": lambda: layers.GRU(3, reset_after=False, recurrent_activation="hard_sigmoid"),
    "gru_without_bias": lambda: layers.GRU(3, use_bias=False),
    "rnn": lambda: layers.RNN(layers.GRUCell(3)),
    "dense": lambda: layers.Dense(4, activation="gelu"),
    "activation": lambda: layers.Activation("hard_sigmoid"),
    "dropout": lambda: layers.Dropout(0.5),
}


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_single_layers_in_memory(make, rng):
    layer = make()
    x = rng.normal(size=(3, 5, 2)).astype(np.float32)
    layer(x)
    own = fastrnn.from_keras(randomized(layer, rng))
    assert own.name == layer.name
    for a, b in zip(flat(own(x)), flat(layer(x)), strict=True):
        np.testing.assert_allclose(a, b, atol=ATOL, rtol=0)


def test_layer_built_with_an_initial_state(rng):
    x = rng.normal(size=(3, 5, 2)).astype(np.float32)
    state = rng.normal(size=(3, 4)).astype(np.float32)
    layer = layers.GRU(4)
    layer(x, initial_state=state)
    own = fastrnn.from_keras(layer)
    np.testing.assert_allclose(
        own(x, initial_state=state), layer(x, initial_state=state), atol=ATOL
    )


def test_bare_cell(rng):
    cell = layers.LSTMCell(4)
    cell.build((None, 2))
    x, h, c = rng.normal(size=(3, 2)), rng.normal(size=(3, 4)), rng.normal(size=(3, 4))
    own = fastrnn.from_keras(cell)
    for a, b in zip(flat(own(x, [h, c])), flat(cell(x, [h, c])), strict=True):
        np.testing.assert_allclose(a, b, atol=ATOL, rtol=0)


def test_states_in_memory_come_along(rng):
    layer = layers.LSTM(3, stateful=True)
    x = rng.normal(size=(2, 5, 2)).astype(np.float32)
    layer(x)
    own = fastrnn.from_keras(layer)
    for _ in range(2):
        np.testing.assert_allclose(own(x), layer(x), atol=ATOL, rtol=0)


def test_what_is_not_of_keras():
    for thing in (3, None, object(), keras, {"class_name": "LSTM"}):
        with pytest.raises(TypeError, match="of Keras"):
            fastrnn.from_keras(thing)


def test_what_is_not_built():
    for thing in (layers.LSTM(3), keras.Sequential([layers.LSTM(3)])):
        with pytest.raises(ValueError, match="not built"):
            fastrnn.from_keras(thing)


def test_models_of_ones_own_class_are_refused():
    class Mine(keras.Model):
        def call(self, x):
            return x

    class MyLSTM(layers.LSTM):
        pass

    mine, layer = Mine(), MyLSTM(3)
    x = np.zeros((2, 4, 2), np.float32)
    mine(x)
    layer(x)
    for thing, name in ((mine, "Mine"), (layer, "MyLSTM")):
        with pytest.raises(UnsupportedLayerError, match=name):
            fastrnn.from_keras(thing)


# What does not fit


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        fastrnn.load_model(tmp_path / "nowhere.keras")


def test_architecture_alone(tmp_path):
    (tmp_path / "m.json").write_text(simple_rnn().to_json())
    with pytest.raises(ValueError, match="without weights"):
        fastrnn.load_model(tmp_path / "m.json")
    with pytest.raises(ModelFormatError, match="expected a file with weights"):
        fastrnn.load_model(tmp_path / "m.json", weights=tmp_path / "m.json")


def test_weights_alone(tmp_path):
    simple_rnn().save_weights(tmp_path / "m.weights.h5")
    with pytest.raises(ModelFormatError, match="weights without a model"):
        fastrnn.load_model(tmp_path / "m.weights.h5")


def test_weights_of_another_model(tmp_path, rng):
    source, _ = as_json(simple_rnn(), tmp_path)
    (tmp_path / "other").mkdir()
    for make, message in ((stack, "takes arrays of the shapes"), (with_cell, "has no layers/")):
        _, newer = as_json(make(), tmp_path / "other")
        with pytest.raises(ModelFormatError, match=message):
            fastrnn.load_model(source, weights=newer)
    (older,) = as_h5(stack(), tmp_path / "other")
    with pytest.raises(ModelFormatError, match=r"weights for 4 layers .*the model has 2"):
        fastrnn.load_model(source, weights=older)


def test_missing_and_surplus_weights(tmp_path):
    source, weights = as_json(simple_rnn(), tmp_path)
    with h5py.File(weights, "r+") as file:
        file["layers/dense/vars/2"] = np.zeros(1, np.float32)
    with pytest.raises(ModelFormatError, match="1 arrays more"):
        fastrnn.load_model(source, weights=weights)
    with h5py.File(weights, "r+") as file:
        del file["layers/dense/vars/2"], file["layers/dense/vars/1"]
    with pytest.raises(
        ModelFormatError,
        match=r"Dense.*takes arrays of the shapes \(3, 1\), \(1,\).*holds \(3, 1\)",
    ):
        fastrnn.load_model(source, weights=weights)
    with h5py.File(weights, "r+") as file:
        del file["layers/dense"]
    with pytest.raises(ModelFormatError, match=r"no layers/dense/vars for .*Dense"):
        fastrnn.load_model(source, weights=weights)


def test_reset_after_that_contradicts_the_bias(tmp_path):
    model = keras.Sequential([keras.Input((4, 2)), layers.GRU(3)])
    source, weights = as_json(model, tmp_path)
    source.write_text(source.read_text().replace('"reset_after": true', '"reset_after": false'))
    with pytest.raises(ModelFormatError, match=r"GRU.*\(9,\).*\(2, 9\)"):
        fastrnn.load_model(source, weights=weights)


# Models that others published


REQUIRED = {"dtln_core1_stateful", "mt_seq2seq", "lstm_chem"}


def published_cases():
    cases = PUBLISHED / "cases.json"
    return json.loads(cases.read_text()) if cases.exists() else [None]


@pytest.mark.parametrize("case", published_cases(), ids=lambda case: case and case["name"])
def test_published_models(case):
    if case is None:
        pytest.skip(f"the published models are not at {PUBLISHED}")
    folder = PUBLISHED / case["dir"]
    if (folder / case["file"] / "saved_model.pb").exists():
        pytest.skip("SavedModel folders are not read")
    try:
        model = fastrnn.load_model(folder / case["file"])
    except UnsupportedLayerError as error:
        assert case["name"] not in REQUIRED
        pytest.skip(str(error))
    with np.load(folder / "expected.npz") as arrays:
        for run in range(case["n_runs"]):
            inputs = [arrays[f"r{run}_in{i}"] for i in range(case["n_in"])]
            outputs = flat(model.predict(inputs if len(inputs) > 1 else inputs[0]))
            assert len(outputs) == case["n_out"]
            for i, output in enumerate(outputs):
                expected = arrays[f"r{run}_out{i}"]
                scale = np.abs(expected).max()
                np.testing.assert_allclose(output, expected, atol=case["tol"] * scale, rtol=0)
