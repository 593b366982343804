"""What SavedModel folders and checkpoints take of memory: what `max_bytes` lets them, and little more than weights."""

import json
import tracemalloc
import zipfile

import numpy as np
import pytest

import fastrnn
from fastrnn.errors import ModelFormatError
from tests import tensorflow_files as tf_files

FEATURES, UNITS, STEPS = 2, 3, 4
ENOUGH = 20_000
"""Bytes that the small folder of `members` takes, with some to spare."""

ARRAYS = {
    "k": np.ones((FEATURES, UNITS), np.float32),
    "r": np.ones((UNITS, UNITS), np.float32),
    "b": np.zeros((UNITS,), np.float32),
    "s": np.full((1, UNITS), 0.5, np.float32),
}
CELL = {"kernel": "k", "recurrent_kernel": "r", "bias": "b"}


def with_states(*states):
    return {str(i): state for i, state in enumerate(states)}


def metadata(units=UNITS, features=FEATURES, stateful=True, **more):
    config = {
        "name": "rnn",
        "units": units,
        "stateful": stateful,
        "batch_input_shape": [1, STEPS, features],
        **more,
    }
    layers = [{"class_name": "SimpleRNN", "config": config}]
    told = {"class_name": "Sequential", "config": {"name": "model", "layers": layers}}
    return {**told, "keras_version": "2.15.0", "is_graph_network": True}


def members(arrays=None, states=("s",), told=None, graph=None, padding=b""):
    tree = {"layer-0": {"cell": CELL, "keras_api": {"states": with_states(*states)}}}
    index, data = tf_files.checkpoint(ARRAYS if arrays is None else arrays, tree, graph=graph)
    return {
        "saved_model.pb": tf_files.saved_model("_tf_keras_sequential", ""),
        "keras_metadata.pb": tf_files.keras_metadata(told or metadata()) + padding,
        "variables/variables.index": index,
        "variables/variables.data-00000-of-00001": data,
    }


def load(tmp_path, files, max_bytes=ENOUGH):
    return fastrnn.load_model(tf_files.write_folder(tmp_path, files), max_bytes=max_bytes)


def test_a_good_folder(tmp_path):
    model = load(tmp_path, members())
    np.testing.assert_array_equal(model.states[0], ARRAYS["s"])


def test_objects_by_the_thousand(tmp_path):
    """Two bytes each in the file, and a hundred times as many in memory."""
    tree = {"layer-0": {"cell": CELL}}
    graph = tf_files.object_graph(tree) + tf_files.part(1, b"") * 1000
    with pytest.raises(ModelFormatError, match=r"more than 100 fields; see max_bytes"):
        load(tmp_path, members(graph=graph))
    assert load(tmp_path, members(graph=graph), max_bytes=1 << 20)


def test_nodes_of_configs_by_the_thousand(tmp_path):
    files = members(padding=tf_files.part(1, b"") * 1000)
    with pytest.raises(ModelFormatError, match=r"more than 100 fields; see max_bytes"):
        load(tmp_path, files)
    assert load(tmp_path, files, max_bytes=1 << 20)


def test_entries_by_the_thousand(tmp_path):
    names = [f"a{i}" for i in range(1000)]
    files = members(ARRAYS | dict.fromkeys(names, np.zeros(0, np.float32)))
    most = 100_000
    assert len(files["variables/variables.index"]) < most
    with pytest.raises(ModelFormatError, match=r"more than 250 entries.*see max_bytes"):
        load(tmp_path, files, most)
    assert load(tmp_path, files, max_bytes=1 << 20)


def test_states_that_are_one_array(tmp_path):
    """Many states are named in the file, and one of them is there."""
    files = members(ARRAYS | {"s": np.zeros((1, 10_000), np.float32)}, ["s"] * 20)
    with pytest.raises(ModelFormatError, match=r"the states up to here.*see max_bytes"):
        load(tmp_path, files, max_bytes=20 * 10_000 * 8 - 1)
    with pytest.raises(ModelFormatError, match="expected"):
        load(tmp_path, files, max_bytes=20 * 10_000 * 8)


def test_long_configs(tmp_path):
    files = members(told=metadata(kernel_constraint="x" * 2000))
    with pytest.raises(ModelFormatError, match=r"larger than 1250 bytes of JSON; see max_bytes"):
        load(tmp_path, files)


@pytest.mark.parametrize("member", ["variables/variables.index", "keras_metadata.pb"])
def test_long_files(tmp_path, member):
    files = members()
    files[member] += bytes(ENOUGH)
    with pytest.raises(ModelFormatError, match="is larger than"):
        load(tmp_path, files)


def test_weights_that_are_declared(tmp_path):
    files = members(told=metadata(units=10_000, stateful=False))
    with pytest.raises(ModelFormatError, match="declares weights of"):
        load(tmp_path, files, max_bytes=1 << 20)


def zipped(tmp_path, files, compression):
    path = tmp_path / "m.zip"
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("weights", [False, True])
def test_what_is_unpacked_of_a_zip_file(tmp_path, weights):
    """What is stored lies where it lies; what is compressed counts, beside what is read of it."""
    files = members()
    files["variables/variables.data-00000-of-00001"] += bytes(2 * ENOUGH)
    stored = zipped(tmp_path, files, zipfile.ZIP_STORED)
    architecture = tmp_path / "m.json"
    told = metadata()
    architecture.write_text(json.dumps({key: told[key] for key in ("class_name", "config")}))

    def load_zip(path):
        if weights:
            return fastrnn.load_model(architecture, weights=path, max_bytes=ENOUGH)
        return fastrnn.load_model(path, max_bytes=ENOUGH)

    np.testing.assert_array_equal(load_zip(stored).get_weights()[0], ARRAYS["k"])
    with pytest.raises(ModelFormatError, match=r"is larger than 20000 bytes; see max_bytes"):
        load_zip(zipped(tmp_path, files, zipfile.ZIP_DEFLATED))


def test_shards_of_a_zip_file_count_together(tmp_path):
    """Each of them could be unpacked alone."""
    index, parts = {"": tf_files.header(files=4)}, {}
    names = ["k", "r", "b", "graph"]
    graph, checksum = tf_files.stored_string(tf_files.object_graph({"layer-0": {"cell": CELL}}))
    for shard, name in enumerate(names):
        content = graph if name == "graph" else ARRAYS[name].tobytes()
        parts[f"variables/variables.data-{shard:05}-of-00004"] = content + bytes(8000)
        if name == "graph":
            told = tf_files.entry(tf_files.STRING, (), 0, len(content), checksum, shard)
            index["_CHECKPOINTABLE_OBJECT_GRAPH"] = told
        else:
            crc = tf_files.masked(tf_files.crc32c(content))
            index[name] = tf_files.entry(
                tf_files.FLOAT, ARRAYS[name].shape, 0, len(content), crc, shard
            )
    entries = [(key.encode(), value) for key, value in sorted(index.items())]
    files = {
        "saved_model.pb": tf_files.saved_model("_tf_keras_sequential", ""),
        "keras_metadata.pb": tf_files.keras_metadata(metadata(stateful=False)),
        "variables/variables.index": tf_files.table([tf_files.block(entries)]),
        **parts,
    }
    path = zipped(tmp_path, files, zipfile.ZIP_DEFLATED)
    with pytest.raises(ModelFormatError, match="see max_bytes"):
        fastrnn.load_model(path, max_bytes=ENOUGH)
    assert fastrnn.load_model(path, max_bytes=2 * ENOUGH)


@pytest.mark.parametrize(
    ("compression", "times"), [(None, 1.3), (zipfile.ZIP_STORED, 1.3), (zipfile.ZIP_DEFLATED, 2.3)]
)
def test_peak(tmp_path, compression, times):
    """What is compressed in a zip file is there twice for a while."""
    units = 2048
    rng = np.random.default_rng(0)
    arrays = {
        "k": rng.standard_normal((FEATURES, units), np.float32),
        "r": rng.standard_normal((units, units), np.float32),
        "b": np.zeros((units,), np.float32),
    }
    files = members(arrays, (), metadata(units, stateful=False))
    path = tf_files.write_folder(tmp_path / "folder", files)
    if compression is not None:
        path = zipped(tmp_path, files, compression)
    small = tf_files.write_folder(tmp_path / "small", members())
    fastrnn.load_model(small)  # what is imported and cached once
    tracemalloc.start()
    try:
        model = fastrnn.load_model(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(model.get_weights()[1], arrays["r"])
    assert peak < times * sum(array.nbytes for array in arrays.values())
