"""Snapshots: what they hold, and bytes that are none; copies of streams."""

import copy
import json
import pickle
import zlib

import numpy as np
import pytest

import fastrnn
from fastrnn import layers, snapshots

STATES = {"a/h": np.arange(6, dtype="float32").reshape(2, 3), "b": np.ones((2, 2, 2), "float64")}
START = {"tokens": np.array([[1, 2], [3, 4]]), "pixels": np.array([[7], [255]], "uint8")}


def test_a_snapshot_gives_back_what_it_was_made_of():
    data = snapshots.pack(2, STATES, START)
    saved = snapshots.unpack(data)
    assert saved.batch_size == 2
    for got, expected in ((saved.states, STATES), (saved.start, START)):
        assert list(got) == list(expected)
        for name, array in expected.items():
            assert got[name].dtype == array.dtype
            np.testing.assert_array_equal(got[name], array)
    assert b"pickle" not in data
    assert len(data) < sum(array.nbytes for array in [*STATES.values(), *START.values()]) + 300


@pytest.mark.parametrize("place", [0, 5, 17, 20, 21, 24, 25, 40, 120, 200, -1])
def test_a_damaged_byte_is_noticed(place):
    data = bytearray(snapshots.pack(2, STATES, START))
    data[place] ^= 1
    with pytest.raises(ValueError, match="snapshot"):
        snapshots.unpack(bytes(data))


def test_every_cut_is_noticed():
    data = snapshots.pack(2, STATES, START)
    for end in range(len(data)):
        with pytest.raises(ValueError, match="snapshot"):
            snapshots.unpack(data[:end])
    with pytest.raises(ValueError, match="snapshot"):
        snapshots.unpack(data + b"\0")


def forged(description, numbers=b"", length=None):
    """Bytes with a check sum that is right."""
    text = description if isinstance(description, bytes) else json.dumps(description).encode()
    body = text + numbers
    length = len(text) if length is None else length
    lengths = length.to_bytes(4, "little") + zlib.crc32(body).to_bytes(4, "little")
    return snapshots.MAGIC + lengths + body


def described(states, batch_size=2, start=(), **more):
    return {"batch_size": batch_size, "states": list(states), "start": list(start), **more}


HOSTILE = {
    "other bytes": b"PK\x03\x04" + bytes(100),
    "pickle": b"\x80\x04\x95",
    "no JSON": forged(b"{"),
    "no UTF-8": forged(b"\xff\xfe"),
    "deep": forged(b"[" * 500_000),
    "a long number": forged(b'{"batch_size": ' + b"1" * 10_000 + b"}"),
    "a length beyond the end": forged(described([]), length=1 << 31),
    "a long description": forged(b" " * (1 << 21)),
    "a list": forged([]),
    "a key too few": forged({"batch_size": 2, "states": []}),
    "a key too many": forged(described([], more=1)),
    "no batch": forged(described([], 0)),
    "a negative batch": forged(described([], -1)),
    "a bool batch": forged(described([], True)),
    "a batch of 2**60": forged(described([], 1 << 60)),
    "states that are a dict": forged({"batch_size": 2, "states": {"a": 1}, "start": []}),
    "a short entry": forged(described([["a", "float32"]])),
    "a name that is a number": forged(described([[1, "float32", [2, 1]]]), bytes(8)),
    "an unhashable dtype": forged(described([["a", [], [2, 1]]]), bytes(8)),
    "objects": forged(described([["a", "object", [2, 1]]]), bytes(16)),
    "strings": forged(described([["a", "<U1000", [2, 1]]]), bytes(16)),
    "a size that is a float": forged(described([["a", "float32", [2, 1.0]]]), bytes(8)),
    "a negative size": forged(described([["a", "float32", [2, -1]]]), bytes(8)),
    "a huge size": forged(described([["a", "float32", [2, 1 << 39]]]), bytes(8)),
    "sizes whose product overflows": forged(described([["a", "float32", [2, *[1 << 33] * 9]]])),
    "many axes": forged(described([["a", "float32", [2, *[1] * 100]]]), bytes(8)),
    "no axes": forged(described([["a", "float32", []]]), bytes(4)),
    "another batch": forged(described([["a", "float32", [3, 1]]]), bytes(12)),
    "a name twice": forged(described([["a", "float32", [2]]] * 2), bytes(16)),
    "fewer numbers": forged(described([["a", "float32", [2, 3]]]), bytes(20)),
    "more numbers": forged(described([["a", "float32", [2, 3]]]), bytes(28)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_are_refused(name):
    with pytest.raises(ValueError, match="snapshot"):
        snapshots.unpack(HOSTILE[name])


@pytest.fixture(params=["core", "numpy", "start"])
def stream(request, rng):
    """A stream in the midst of its sequence; what one step takes."""
    x = fastrnn.Input((None, 3), name="x")
    if request.param == "start":
        h = fastrnn.Input((4,), name="h")
        y = layers.GRU(4)(x, initial_state=h)
        stream = fastrnn.Model([x, h], y).stream(start={"h": rng.normal(size=(2, 4))})
    else:
        function = [layers.Lambda(np.negative)] if request.param == "numpy" else []
        stream = fastrnn.Sequential([x, layers.LSTM(4), *function]).stream(2)
    stream.step(rng.normal(size=(2, 3)))
    return stream


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda stream: pickle.loads(pickle.dumps(stream))]
)
def test_copies_of_streams_go_on_alone(copied, stream, rng):
    one, x = copied(stream), rng.normal(size=(2, 3)).astype(np.float32)
    before = stream.state
    found = [one.step(x) for _ in range(3)]
    for name, state in stream.state.items():
        np.testing.assert_array_equal(state, before[name])
    np.testing.assert_array_equal(found, [stream.step(x) for _ in range(3)])
    one.reset()
    stream.reset()
    np.testing.assert_array_equal(one.step(x), stream.step(x))
    assert one._lock is not stream._lock


def test_streams_of_a_model_that_was_changed_are_copied_and_not_pickled(stream, rng):
    model, x = stream._steps.model, rng.normal(size=(2, 3)).astype(np.float32)
    model.set_weights([weight + 1 for weight in model.get_weights()])
    np.testing.assert_array_equal(copy.deepcopy(stream).step(x), stream.step(x))
    with pytest.raises(TypeError, match="the model has been changed"):
        pickle.dumps(stream)


def test_a_small_snapshot_of_a_large_batch_takes_no_memory():
    model = fastrnn.Sequential([fastrnn.Input((None, 3)), layers.LSTM(4)])
    data = snapshots.pack(2**31 - 1, {}, {})
    assert len(data) < 100
    for restore in (lambda: model.stream(state=data), lambda: model.stream_pool(3).restore(data)):
        with pytest.raises(ValueError, match=r"expected the states lstm.*got none"):
            restore()
