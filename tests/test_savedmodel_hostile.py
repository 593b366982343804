"""SavedModel folders and checkpoints made to do harm, or merely broken: refused with a clear error."""

import contextlib
import json
import os
import struct
import time
import zipfile

import numpy as np
import pytest

import fastrnn
from fastrnn.errors import ModelFormatError, UnsupportedLayerError
from fastrnn.saving import protobuf, sstable, tensor_bundle, weights
from fastrnn.saving.crc32c import crc32c, masked
from fastrnn.saving.object_graph import KEY
from tests import tensorflow_files as tf_files

FEATURES, UNITS = 2, 3
ARRAYS = {
    "k": np.ones((FEATURES, 4 * UNITS), np.float32),
    "r": np.ones((UNITS, 4 * UNITS), np.float32),
    "b": np.zeros((4 * UNITS,), np.float32),
}
CELL = {"kernel": "k", "recurrent_kernel": "r", "bias": "b"}
TREE = {"layer-0": {"cell": CELL}}
INDEX, DATA = "variables/variables.index", "variables/variables.data-00000-of-00001"


def metadata(*layers, **changes):
    config = {"name": "lstm", "units": UNITS, "batch_input_shape": [None, 4, FEATURES]}
    config = {"name": "model", "layers": list(layers) or [{"class_name": "LSTM", "config": config}]}
    told = {"class_name": "Sequential", "config": config, "keras_version": "2.15.0"}
    return {**told, "is_graph_network": True, **changes}


def members(arrays=None, tree=TREE, **options):
    index, data = tf_files.checkpoint(ARRAYS if arrays is None else arrays, tree, **options)
    return {
        "saved_model.pb": tf_files.saved_model("_tf_keras_sequential", ""),
        "keras_metadata.pb": tf_files.keras_metadata(metadata()),
        INDEX: index,
        DATA: data,
    }


@pytest.fixture
def load(tmp_path):
    """Returns a function that loads a good folder with changes."""

    def load(files=None, **options):
        good = members(**options)
        return fastrnn.load_model(tf_files.write_folder(tmp_path, {**good, **(files or {})}))

    return load


def entry(array, offset=0, checksum=None, **options):
    content = array.tobytes()
    checksum = masked(crc32c(content)) if checksum is None else checksum
    return tf_files.entry(1, array.shape, offset, len(content), checksum, **options)


def test_the_folder_that_is_changed_here_is_good(load):
    assert load().predict(np.ones((1, 4, FEATURES), np.float32)).shape == (1, UNITS)
    old = tf_files.saved_model("_tf_keras_sequential", json.dumps(metadata()))
    np.testing.assert_array_equal(
        load({"saved_model.pb": old, "keras_metadata.pb": None}).weights[0], ARRAYS["k"]
    )


# Protocol buffers


@pytest.mark.parametrize(
    "content",
    [
        b"\xff",  # a number that does not end
        b"\x08" + b"\xff" * 11,  # nor does this one
        b"\x08" + b"\xff" * 9 + b"\x7f",  # more than 64 bits
        b"\x0a\x05abc",  # a text that ends too early
        b"\x0a" + b"\xff" * 9 + b"\x01",  # a text of 2 ** 64 bytes
        b"\x0b\x0c",  # a group
        b"\x0f",  # a kind that is none
        b"\x0d\0\0",  # half a fixed number
        b"\x0a\x02\x0a\x7f",  # damage one level deeper
        tf_files.keras_metadata("{}")[:-1],
        tf_files.part(1, tf_files.part(4, b"\xff\xfe")),
    ],
)
@pytest.mark.parametrize("name", ["keras_metadata.pb", "saved_model.pb"])
def test_damaged_messages(load, name, content):
    others = {"saved_model.pb": {"keras_metadata.pb": None}}
    with pytest.raises(ModelFormatError):
        load({name: content, **others.get(name, {})})


def test_too_many_fields(monkeypatch):
    monkeypatch.setattr(protobuf, "MAX_FIELDS", 10)
    protobuf.Message(b"\x08\x01" * 10, "it")
    with pytest.raises(ModelFormatError, match="more than 10 fields"):
        protobuf.Message(b"\x08\x01" * 11, "it")


def test_messages_within_messages_cost_nothing():
    content = b""
    for _ in range(3000):
        content = tf_files.part(1, content)
    started = time.perf_counter()
    assert len(protobuf.Message(content, "it").parts(1)) == 1
    assert time.perf_counter() - started < 0.1


def test_numbers():
    content = tf_files.number(1, 300) + tf_files.number(2, -1) + tf_files.fixed32(3, 2**32 - 1)
    message = protobuf.Message(content + tf_files.number(1, 5), "it")
    assert [message.number(field) for field in (1, 2, 3, 4)] == [5, -1, 2**32 - 1, 0]


# Configs


@pytest.mark.parametrize(
    "text", ["[]", "{", "nothing", '{"class_name": "Sequential", "class_name": "Sequential"}']
)
def test_configs_that_are_no_objects(load, text):
    with pytest.raises(ModelFormatError, match="metadata"):
        load({"keras_metadata.pb": tf_files.keras_metadata(text)})


@pytest.mark.parametrize("changed", [{"config": None}, {"class_name": 3}, {"keras_version": "x"}])
def test_configs_that_are_none(load, changed):
    changed = {"is_graph_network": False, **changed}
    with pytest.raises(ModelFormatError):
        load({"keras_metadata.pb": tf_files.keras_metadata(metadata(**changed))})


def test_code_is_refused(load):
    layer = {"class_name": "Lambda", "config": {"name": "f", "function": ["gANjb3M=", None, None]}}
    with pytest.raises(UnsupportedLayerError, match="'f'"):
        load({"keras_metadata.pb": tf_files.keras_metadata(metadata(layer))})


def test_a_model_that_is_not_the_root(load):
    content = tf_files.part(1, tf_files.number(2, 7) + tf_files.part(5, json.dumps(metadata())))
    with pytest.raises(ModelFormatError, match="without the configs of layers"):
        load({"keras_metadata.pb": content})


# The table


def test_no_table(load):
    for content in (b"", b"\0" * 100, members()[INDEX][:-1], members()[INDEX][:40]):
        with pytest.raises(ModelFormatError, match=r"no table|damaged"):
            load({INDEX: content})


@pytest.mark.parametrize("compression", [1, 2, 255])
def test_compressed_tables(load, compression):
    block = tf_files.block([(b"", tf_files.header())], compression)
    with pytest.raises(ModelFormatError, match="compressed by"):
        load({INDEX: tf_files.table([block])})


def test_checksum_of_a_block(load):
    block = bytearray(tf_files.block([(b"", tf_files.header())]))
    block[3] ^= 1
    with pytest.raises(ModelFormatError, match="a block has another checksum"):
        load({INDEX: tf_files.table([bytes(block)])})


@pytest.mark.parametrize(
    "content",
    [
        b"",  # not even a count of restarts
        struct.pack("<I", 2**32 - 1),  # more restarts than bytes
        tf_files.varint(1) + b"\1\1ab" + struct.pack("<II", 0, 1),  # shares a key that is not there
        b"\0"
        + tf_files.varint(200)
        + b"\1ab"
        + struct.pack("<II", 0, 1),  # a key that ends outside
        b"\0\1" + tf_files.varint(2**60) + b"ab" + struct.pack("<II", 0, 1),
        b"\0\1" + b"\xff" * 12 + struct.pack("<II", 0, 1),
    ],
)
def test_damaged_blocks(load, content):
    with pytest.raises(ModelFormatError):
        load({INDEX: tf_files.table([tf_files.closed(content)])})


@pytest.mark.parametrize("place", [(2**63, 5), (10, 2**63), (0, 10**6)])
def test_blocks_that_lie_elsewhere(load, place):
    content = tf_files.block([(b"x", b"".join(map(tf_files.varint, place)))])
    footer = (tf_files.handle(0, content) * 2).ljust(40, b"\0")
    with pytest.raises(ModelFormatError, match="behind its end"):
        load({INDEX: content + footer + sstable.MAGIC})


def test_a_block_that_is_listed_twice(load):
    """What would let a small file have a giant table."""
    block = tf_files.block([(b"", tf_files.header())])
    place = tf_files.handle(0, block)
    index = tf_files.block([(b"%d" % i, place) for i in range(1000)])
    footer = (tf_files.handle(len(block), index) * 2).ljust(40, b"\0")
    with pytest.raises(ModelFormatError, match="not in order"):
        load({INDEX: block + index + footer + sstable.MAGIC})


def test_keys_that_grow(load, monkeypatch):
    """Each key is all of the one before and a byte: the square of the file's size."""
    monkeypatch.setattr(sstable, "MAX_KEYS_BYTES", 10_000)
    entries = [b"\0\1\0a"]
    entries += [tf_files.varint(i) + b"\1\0a" for i in range(1, 1000)]
    block = tf_files.closed(b"".join(entries) + struct.pack("<II", 0, 1))
    with pytest.raises(ModelFormatError, match="or keys of more than 10000 bytes"):
        load({INDEX: tf_files.table([block])})


# The arrays


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (None, "0 files"),
        (tf_files.header(0), "0 files"),
        (tf_files.header(10**9), "files, expected 1 to"),
        (tf_files.header(-1), "files, expected 1 to"),
        (tf_files.header(extra=tf_files.number(2, 1)), "big-endian"),
        (tf_files.number(1, 1) + tf_files.part(3, tf_files.number(2, 9)), "newer format"),
    ],
)
def test_headers(load, header, message):
    with pytest.raises(ModelFormatError, match=message):
        load(changes={"": header})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (entry(ARRAYS["k"], offset=10**12), "of a file of"),
        (entry(ARRAYS["k"], offset=-8), "of a file of"),
        (entry(ARRAYS["k"], checksum=1), "its data has another checksum"),
        (entry(ARRAYS["k"], shard=1), "file 1 of 1 files"),
        (entry(ARRAYS["k"], shard=-1), "file -1 of 1 files"),
        (entry(ARRAYS["k"], extra=tf_files.part(7, b"")), "in slices"),
        (entry(np.ones((FEATURES, 4 * UNITS - 1), np.float32)), "takes arrays of the shapes"),
        (tf_files.entry(1, (FEATURES, 4 * UNITS), 0, 8, 0), "takes 96 bytes, 8 are declared"),
        (tf_files.entry(1, (FEATURES, 4 * UNITS), 0, -1, 0), "takes 96 bytes, -1 are declared"),
        (tf_files.entry(1, (2**40, 2**40), 0, 2**82 % 2**63, 0), "are declared"),
        (tf_files.entry(1, (2**30, 2**10), 0, 2**42, 0), "takes arrays of the shapes"),
        (tf_files.entry(1, (-2, -12), 0, 96, 0), "no shape"),
        (tf_files.entry(1, (1,) * 33, 0, 4, 0), "no shape"),
        (tf_files.entry(3, (FEATURES, 4 * UNITS), 0, 96, 0), "holds int32, expected float32"),
        (tf_files.entry(8, (FEATURES, 4 * UNITS), 0, 96, 0), "TensorFlow's type 8"),
        (tf_files.entry(7, (FEATURES, 4 * UNITS), 0, 96, 0), "TensorFlow's type 7"),
        (b"\x0a", "damaged"),
        (None, "there is no array 'k'"),
    ],
)
def test_entries(load, changed, message):
    with pytest.raises(ModelFormatError, match=message):
        load(changes={"k": changed})


def test_a_missing_file(load):
    with pytest.raises(ModelFormatError, match=r"has no variables/variables\.index"):
        load({INDEX: None})


def test_a_missing_file_of_data(load):
    with pytest.raises(ModelFormatError, match=r"has no variables/variables\.data-00000-of-00001"):
        load({DATA: None})


@pytest.mark.parametrize("name", [INDEX, DATA])
def test_pointers_to_a_file(load, name):
    with pytest.raises(ModelFormatError, match="is a Git LFS pointer"):
        load({name: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"})


def test_a_file_of_data_that_was_cut_off(load):
    with pytest.raises(ModelFormatError, match="of a file of"):
        load({DATA: members()[DATA][:100]})


def test_data_that_was_changed(load):
    data = bytearray(members()[DATA])
    data[5] ^= 1
    with pytest.raises(ModelFormatError, match="its data has another checksum"):
        load({DATA: bytes(data)})


# The objects


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (b"", "tells of 0 objects"),
        (b"\xff", "damaged"),
        (tf_files.part(1, tf_files.part(1, tf_files.number(1, 5))), "tells of object 5 of 1"),
        (tf_files.part(1, tf_files.part(1, tf_files.number(1, -1))), "tells of object -1 of 1"),
        (tf_files.object_graph({}), "tells of no Sequential or functional model"),
        (tf_files.object_graph({"layer-0": {}}), "has no layer-0/cell for"),
        (tf_files.object_graph({**TREE, "layer-1": {}}), "more layers than the model has"),
        (tf_files.object_graph({"a": TREE, "b": TREE}), "holds the models a, b"),
    ],
)
def test_objects(load, graph, message):
    with pytest.raises(ModelFormatError, match=message):
        load(graph=graph)


def test_a_checkpoint_of_names(load):
    with pytest.raises(ModelFormatError, match="tells of no layers"):
        load(changes={KEY: None})


@pytest.mark.parametrize("kind", [tf_files.FLOAT, tf_files.STRING])
def test_objects_that_are_no_string(load, kind):
    with pytest.raises(ModelFormatError, match="is not one string"):
        load(changes={KEY: tf_files.entry(kind, (2,), 0, 8, 0)})


def test_objects_whose_bytes_were_changed(load):
    for place in (1, 4, 60):
        index, data = tf_files.checkpoint(ARRAYS, TREE)
        start = sum(array.nbytes for array in ARRAYS.values())
        damaged = bytearray(data)
        damaged[start + place] ^= 1
        with pytest.raises(ModelFormatError, match=r"checksum|are declared"):
            load({INDEX: index, DATA: bytes(damaged)})


def test_objects_that_are_too_large(load, monkeypatch):
    monkeypatch.setattr(tensor_bundle, "MAX_STRING_BYTES", 10)
    with pytest.raises(ModelFormatError, match="larger than 10 bytes"):
        load()


def test_an_object_that_holds_itself(load):
    """Objects are followed only as far as the model goes."""
    own = tf_files.part(1, tf_files.number(1, 0) + tf_files.part(2, "layer-0"))
    own += tf_files.part(1, tf_files.number(1, 0) + tf_files.part(2, "cell"))
    with pytest.raises(ModelFormatError, match="takes arrays of the shapes"):
        load(graph=tf_files.part(1, own))


def test_lists_of_lists_of_states(load, monkeypatch):
    """Objects that hold the next one twice are 2 ** n in n steps."""
    monkeypatch.setattr(weights, "MAX_STATES", 1000)
    states = {}
    for _ in range(12):
        states = {"0": states, "1": states}
    tree = {"layer-0": {"cell": CELL, "keras_api": {"states": states}}}
    config = {"units": UNITS, "stateful": True, "batch_input_shape": [1, 4, FEATURES]}
    layer = {"class_name": "LSTM", "config": {"name": "lstm", **config}}
    stateful = {"keras_metadata.pb": tf_files.keras_metadata(metadata(layer))}
    with pytest.raises(ModelFormatError, match="more than 1000 states"):
        load(stateful, tree=tree)
    arrays = {**ARRAYS, "h": np.ones((1, 7), np.float32)}
    tree["layer-0"]["keras_api"]["states"] = {"0": "h", "1": "h"}
    with pytest.raises(ModelFormatError, match="states"):
        load(stateful, tree=tree, arrays=arrays)


# Giants, paths and links


def test_more_is_declared_than_is_there(load):
    config = {"name": "lstm", "units": 2**10, "batch_input_shape": [None, 4, FEATURES]}
    giant = metadata({"class_name": "LSTM", "config": config})
    with pytest.raises(ModelFormatError, match="takes arrays of the shapes"):
        load({"keras_metadata.pb": tf_files.keras_metadata(giant)})


@pytest.mark.parametrize("name", ["variables", INDEX, DATA, "keras_metadata.pb", "saved_model.pb"])
def test_links_are_not_followed(tmp_path, name):
    folder = tf_files.write_folder(tmp_path / "m", members())
    outside = tmp_path / "outside"
    os.rename(folder / name, outside)
    os.symlink(outside, folder / name)
    with pytest.raises(ModelFormatError, match=r"is not a (regular file|folder)"):
        fastrnn.load_model(folder)


@pytest.mark.parametrize("name", ["../x/saved_model.pb", "/x/saved_model.pb", "C:/saved_model.pb"])
def test_zips_that_point_outside(tmp_path, name):
    path = tmp_path / "m.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, b"")
    with pytest.raises(ModelFormatError, match="points outside"):
        fastrnn.load_model(path)


def test_a_zip_with_a_link(tmp_path):
    path = tmp_path / "m.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members().items():
            info = zipfile.ZipInfo(name)
            if name == DATA:
                info.external_attr = 0o120777 << 16
                content = b"/etc/passwd"
            archive.writestr(info, content)
    with pytest.raises(ModelFormatError, match="is a link"):
        fastrnn.load_model(path)


@pytest.mark.parametrize("name", ["../ckpt", "/etc/ckpt", "a\\\\b", "", "x" * 300])
def test_notes_that_name_a_checkpoint_elsewhere(tmp_path, name):
    (tmp_path / "checkpoint").write_text(f'model_checkpoint_path: "{name}"\n')
    with pytest.raises(ModelFormatError, match="does not name a checkpoint beside it"):
        fastrnn.load_model(tmp_path)


def test_random_damage(load):
    """Whatever bytes change, there is an error of the format or the same model, and at once."""
    generator = np.random.default_rng(0)
    good = members()
    for i in range(120):
        name = [INDEX, DATA, "keras_metadata.pb"][i % 3]
        content = bytearray(good[name])
        for place in generator.integers(len(content), size=1 + i % 4):
            content[place] = generator.integers(256)
        started = time.perf_counter()
        with contextlib.suppress(ModelFormatError, UnsupportedLayerError):
            load({name: bytes(content)})
        assert time.perf_counter() - started < 5
