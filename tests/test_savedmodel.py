"""SavedModel folders and checkpoints of TensorFlow's Keras 2: `tests/data/make_savedmodel_files.py`."""

import json
import random
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

import fastrnn
from fastrnn._nested import flatten
from fastrnn.errors import ModelFormatError
from fastrnn.saving import crc32c
from tests import tensorflow_files as tf_files

ARCHIVE = Path(__file__).parent / "data" / "savedmodel_files.zip"

with zipfile.ZipFile(ARCHIVE) as _archive:
    NAMES = _archive.namelist()
MODELS = sorted(name.removesuffix(".npz") for name in NAMES if name.endswith(".npz"))
VERSIONS = sorted({name.split("/")[0] for name in MODELS})
WITH_CONFIGS = sorted({name.split("/")[0] for name in NAMES if name.endswith("keras_metadata.pb")})
"""The versions that write the configs into a file of their own, others write them beside the graph."""

NOT_BY_CONFIG = "of_the_authors_class"
"""Its `to_json` names the class, so that it has no architecture beside its checkpoint."""


class Scale(fastrnn.layers.Layer):
    """As in the script that wrote the files, but for the names of the weights, which are found by their order."""

    def __init__(self, times=1.0, **kwargs):
        super().__init__(**kwargs)
        self.times = times
        self.shift = fastrnn.layers.Dense(2, name="inside")

    def build(self, input_shape):
        self.b = self.add_weight(shape=(input_shape[-1],))
        self.a = self.add_weight(shape=(input_shape[-1],))

    def call(self, x):
        return self.shift(self.times * self.a * x - self.b)


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("savedmodels")
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(folder)
    return folder


def assert_computes(model, stored, prefix="out"):
    inputs = [stored[f"in{i}"] for i in range(sum(key.startswith("in") for key in stored))]
    for call in range(2):
        outputs = flatten(model(inputs if len(inputs) > 1 else inputs[0]))
        assert len(outputs) == sum(key.startswith(f"{prefix}{call}_") for key in stored)
        for i, output in enumerate(outputs):
            wanted = stored[f"{prefix}{call}_{i}"]
            np.testing.assert_allclose(output, wanted, atol=1e-5 * np.abs(wanted).max(), rtol=0)


def numbers_of(folder, name):
    with np.load(folder / f"{name}.npz") as file:
        return dict(file)


@pytest.mark.parametrize("name", MODELS)
def test_folders(unpacked, name):
    model = fastrnn.load_model(unpacked / name, custom_objects={"Scale": Scale})
    assert_computes(model, numbers_of(unpacked, name))


@pytest.mark.parametrize("name", [name for name in MODELS if NOT_BY_CONFIG not in name])
def test_checkpoints(unpacked, name):
    path = unpacked / name
    model = fastrnn.load_model(
        path.with_suffix(".json"),
        weights=path.with_suffix(".ckpt"),
        custom_objects={"Scale": Scale},
    )
    is_stateful = name.endswith("/stateful")
    assert_computes(model, numbers_of(unpacked, name), "fresh_out" if is_stateful else "out")


@pytest.fixture
def stacked(unpacked):
    return unpacked / VERSIONS[0] / "stacked"


def test_there_are_models_of_every_kind_of_metadata():
    assert WITH_CONFIGS
    assert set(VERSIONS) - set(WITH_CONFIGS)


@pytest.mark.parametrize("within", ["", "model/", "a/b/"])
def test_zipped(stacked, tmp_path, within):
    path = tmp_path / "m.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in stacked.rglob("*"):
            archive.write(file, within + str(file.relative_to(stacked)))
    stored = numbers_of(stacked.parent, "stacked")
    assert_computes(fastrnn.load_model(path), stored)
    assert_computes(fastrnn.load_model(stacked.with_suffix(".json"), weights=path), stored)


def test_two_in_one_zip(stacked, tmp_path):
    path = tmp_path / "m.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(stacked / "saved_model.pb", "a/saved_model.pb")
        archive.write(stacked / "saved_model.pb", "b/saved_model.pb")
    with pytest.raises(ModelFormatError, match=r"several folders \(a/, b/\)"):
        fastrnn.load_model(path)


def test_weights_of_a_folder_in_another_model(stacked):
    model = fastrnn.load_model(stacked.with_suffix(".json"), weights=stacked)
    assert_computes(model, numbers_of(stacked.parent, "stacked"))


@pytest.mark.parametrize("name", ["cp-0001.ckpt", "checkpoint"])  # the latter is Keras Tuner's
@pytest.mark.parametrize("end", ["", ".index", None])
def test_ways_to_name_a_checkpoint(stacked, tmp_path, name, end):
    for file in stacked.parent.glob("stacked.ckpt.*"):
        shutil.copy(file, tmp_path / file.name.replace("stacked.ckpt", name))
    note = f'model_checkpoint_path: "{name}"\nall_model_checkpoint_paths: "{name}"\n'
    (tmp_path / "checkpoint").write_text(note)
    path = tmp_path if end is None else tmp_path / f"{name}{end}"
    model = fastrnn.load_model(stacked.with_suffix(".json"), weights=path)
    assert_computes(model, numbers_of(stacked.parent, "stacked"))


def test_a_checkpoint_is_no_model(stacked):
    with pytest.raises(ModelFormatError, match="give the architecture as the model"):
        fastrnn.load_model(stacked.with_suffix(".ckpt"))


def test_a_checkpoint_of_another_model(stacked):
    cells = stacked.parent / "cells.json"
    with pytest.raises(ModelFormatError, match="more layers than the model has"):
        fastrnn.load_model(cells, weights=stacked.with_suffix(".ckpt"))
    with pytest.raises(ModelFormatError, match="has no layer-"):
        fastrnn.load_model(stacked.with_suffix(".json"), weights=cells.with_suffix(".ckpt"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("module", r"model\.export write it: a graph, which is never run; load the model in"),
        ("exported", r"model\.export write it: a graph, which is never run; load the model in"),
    ],
)
def test_folders_of_functions(unpacked, name, message):
    folders = sorted(unpacked.glob(f"*/refused/{name}"))
    assert folders
    for folder in folders:
        with pytest.raises(ModelFormatError, match=message):
            fastrnn.load_model(folder)


def test_folders_by_tensorflow(unpacked):
    """Where they hold no configs, the message names a remedy that works."""
    for version in VERSIONS:
        folder = unpacked / version / "refused" / "by_tensorflow"
        if version in WITH_CONFIGS:
            with pytest.raises(ModelFormatError, match=r"give the JSON of model\.to_json\(\)"):
                fastrnn.load_model(folder)
        else:
            fastrnn.load_model(folder)
        fastrnn.load_model(unpacked / version / "stacked.json", weights=folder)


def test_models_whose_layers_are_connected_by_code(unpacked):
    for version in VERSIONS:
        with pytest.raises((ModelFormatError, NotImplementedError), match="Subclassed"):
            fastrnn.load_model(unpacked / version / "refused" / "subclassed")


# What no file here holds: written by hand


def load_written(folder, config, arrays, tree):
    """Load an architecture of Keras 2 with a checkpoint that is written here."""
    index, data = tf_files.checkpoint(arrays, tree)
    files = {"c.index": index, "c.data-00000-of-00001": data}
    architecture = {"keras_version": "2.15.0", **config}
    tf_files.write_folder(folder, {**files, "m.json": json.dumps(architecture).encode()})
    return fastrnn.load_model(folder / "m.json", weights=folder / "c")


def sequential(*layers):
    described = [{"class_name": name, "config": config} for name, config in layers]
    return {"class_name": "Sequential", "config": {"name": "m", "layers": described}}


def bfloat16(values):
    return (values.view(np.uint32) >> 16).astype(np.uint16)


@pytest.mark.parametrize(
    ("as_stored", "tolerance"),
    [
        (lambda values: values, 0),
        (lambda values: values.astype(np.float64), 0),
        (lambda values: values.astype(np.float16), 1e-3),
        (bfloat16, 1e-2),
    ],
)
def test_types_of_numbers(tmp_path, as_stored, tolerance):
    kernel = np.linspace(-1, 1, 6, dtype=np.float32).reshape(3, 2)
    config = sequential(("Dense", {"name": "d", "units": 2, "batch_input_shape": [None, 3]}))
    arrays = {"k": as_stored(kernel), "b": as_stored(np.ones(2, np.float32))}
    model = load_written(tmp_path, config, arrays, {"layer-0": {"kernel": "k", "bias": "b"}})
    np.testing.assert_allclose(model.layers[0].weights[0], kernel, atol=tolerance)


@pytest.mark.parametrize("container", ["model", "net"])
def test_the_root_may_hold_the_model(tmp_path, container):
    config = sequential(("Dense", {"name": "d", "units": 2, "batch_input_shape": [None, 3]}))
    arrays = {"k": np.eye(3, 2, dtype=np.float32), "b": np.ones(2, np.float32)}
    tree = {"save_counter": {}, container: {"layer-0": {"kernel": "k", "bias": "b"}}}
    model = load_written(tmp_path, config, arrays, tree)
    np.testing.assert_array_equal(model.layers[0].weights[0], arrays["k"])


def test_layers_of_cudnn_have_no_cell(tmp_path):
    config = {"name": "l", "units": 2, "batch_input_shape": [None, 4, 3]}
    arrays = {
        "k": np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32),
        "r": np.random.default_rng(1).normal(size=(2, 8)).astype(np.float32),
        "b": np.arange(16, dtype=np.float32),
    }
    tree = {"layer-0": {"kernel": "k", "recurrent_kernel": "r", "bias": "b"}}
    model = load_written(tmp_path, sequential(("CuDNNLSTM", config)), arrays, tree)
    bias = model.layers[0].weights[2]
    np.testing.assert_array_equal(bias, arrays["b"].reshape(2, 8).sum(axis=0))


def test_a_sequential_whose_first_layer_has_several_inputs(tmp_path):
    """Its input layers are none of its own, and are not counted."""
    inputs = [
        {"class_name": "InputLayer", "name": name, "inbound_nodes": [],
         "config": {"name": name, "batch_input_shape": [None, 2]}}
        for name in "ab"
    ]  # fmt: skip
    add = {"class_name": "Add", "name": "s", "config": {"name": "s"}}
    add["inbound_nodes"] = [[["a", 0, 0, {}], ["b", 0, 0, {}]]]
    graph = {"name": "f", "layers": [*inputs, add], "output_layers": [["s", 0, 0]]}
    graph["input_layers"] = [["a", 0, 0], ["b", 0, 0]]
    config = sequential(("Functional", graph), ("Dense", {"name": "d", "units": 1}))
    arrays = {"k": np.full((2, 1), 3, np.float32), "b": np.zeros(1, np.float32)}
    model = load_written(
        tmp_path, config, arrays, {"layer-0": {}, "layer-1": {"kernel": "k", "bias": "b"}}
    )
    ones = np.ones((1, 2), np.float32)
    np.testing.assert_array_equal(model([ones, ones]), [[12]])


# Checksums


def bit_by_bit(data):
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


def test_the_known_checksum():
    assert crc32c.crc32c(b"123456789") == 0xE3069283


@pytest.mark.parametrize("size", [*range(18), 63, 64, 65, 1000, 4099])
def test_checksums(size):
    data = random.Random(size).randbytes(size)
    assert crc32c.crc32c(data) == bit_by_bit(data)
    half = size // 3
    assert crc32c.crc32c(data[half:], crc32c.crc32c(data[:half])) == bit_by_bit(data)


def test_checksums_of_more_than_a_chunk(monkeypatch):
    data = random.Random(0).randbytes(1003)
    monkeypatch.setattr(crc32c, "_CHUNK_WORDS", 16)
    assert crc32c.crc32c(data) == bit_by_bit(data)
