"""What loading takes of memory: little more than the weights, and never more than the file lets one expect."""

import io
import json
import subprocess
import sys
import textwrap
import zipfile
import zlib

import h5py
import numpy as np
import pytest

import fastrnn
from fastrnn import _machine
from fastrnn.errors import ModelFormatError
from fastrnn.saving.memory import LEAST, default_max_bytes

UNITS = 1024
LAYERS = 4
WEIGHT_BYTES = LAYERS * (UNITS + 1) * UNITS * 4


def config_of(units, layers):
    shape = {"batch_shape": [None, units], "dtype": "float32", "name": "x"}
    denses = [
        {
            "module": "keras.layers",
            "class_name": "Dense",
            "config": {"name": f"d{i}", "units": units},
        }
        for i in range(layers)
    ]
    first = {"module": "keras.layers", "class_name": "InputLayer", "config": shape}
    config = {"name": "model", "layers": [first, *denses]}
    return {"module": "keras", "class_name": "Sequential", "config": config}


def write_archive(path, write, compression, config=None):
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        for i in range(LAYERS):
            write(file, f"layers/dense{f'_{i}' if i else ''}/vars")
    with zipfile.ZipFile(path, "w", compression, compresslevel=1) as archive:
        archive.writestr("config.json", json.dumps(config or config_of(UNITS, LAYERS)))
        archive.writestr("metadata.json", '{"keras_version": "3.15.1"}')
        archive.writestr("model.weights.h5", stream.getvalue())


def write_random(dtype="f4", **how):
    def write(file, place):
        numbers = np.random.default_rng(0).normal(size=(UNITS, UNITS)).astype(dtype)
        file.create_dataset(f"{place}/0", data=numbers, **how)
        file.create_dataset(f"{place}/1", data=np.arange(UNITS, dtype=dtype))

    return write


PEAK = """
    import resource, sys, tracemalloc
    import fastrnn
    small, large, measure = sys.argv[1:]
    fastrnn.load_model(small).predict  # what is imported and cached once
    if measure == "traced":
        tracemalloc.start()
        fastrnn.load_model(large)
        print(tracemalloc.get_traced_memory()[1])
    else:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        fastrnn.load_model(large)
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
    """


@pytest.mark.slow
@pytest.mark.parametrize("measure", ["traced", "resident"])
@pytest.mark.parametrize(
    ("write", "compression"),
    [
        (write_random(), zipfile.ZIP_STORED),
        (write_random(), zipfile.ZIP_DEFLATED),
        (write_random(chunks=(64, UNITS), compression="gzip"), zipfile.ZIP_STORED),
        (write_random("f2"), zipfile.ZIP_STORED),
        (write_random("f8"), zipfile.ZIP_STORED),
    ],
    ids=["stored", "deflated", "gzip", "float16", "float64"],
)
def test_peak(write, compression, measure, tmp_path):
    """At most 1.3 times the weights."""
    small, large = tmp_path / "small.keras", tmp_path / "large.keras"
    tiny = config_of(1, LAYERS)
    ones = np.ones((1, 1), np.float32)

    def write_tiny(file, place):
        file[f"{place}/0"], file[f"{place}/1"] = ones, ones[0]

    write_archive(small, write_tiny, compression, tiny)
    write_archive(large, write, compression)
    command = [sys.executable, "-c", textwrap.dedent(PEAK), small, large, measure]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    assert int(run.stdout) < 1.3 * WEIGHT_BYTES


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_values_are_those_of_the_file(compression, tmp_path):
    """Whether arrays are parts of what was unpacked or copies."""
    path = tmp_path / "m.keras"
    for dtype in ("f4", "f2", ">f4", "f8"):
        write_archive(path, write_random(dtype), compression)
        kernel, bias = fastrnn.load_model(path).layers[-1].get_weights()
        expected = np.random.default_rng(0).normal(size=(UNITS, UNITS)).astype(dtype)
        np.testing.assert_array_equal(kernel, expected.astype("f4"))
        np.testing.assert_array_equal(bias, np.arange(UNITS, dtype=dtype).astype("f4"))


def test_what_else_lies_in_a_compressed_file_is_not_kept(tmp_path):
    """An optimizer's states, for one."""
    path = tmp_path / "m.keras"

    def write(file, place):
        write_random()(file, place)
        file.create_dataset(f"optimizer/{place}", data=np.ones((UNITS, UNITS, 2), np.float32))

    write_archive(path, write, zipfile.ZIP_DEFLATED)
    for weight in fastrnn.load_model(path).weights:
        assert weight.base is None


def write_zeros(file, place):
    """Almost nothing in the file, many in memory."""
    units = 8192
    kernel = file.create_dataset(
        f"{place}/0", (units, units), "f4", chunks=(units, units), compression="gzip"
    )
    kernel.id.write_direct_chunk((0, 0), ZEROS)
    file[f"{place}/1"] = np.zeros(units, np.float32)


ZEROS = zlib.compress(bytes(8192 * 8192 * 4), 9)


@pytest.fixture
def bomb(tmp_path):
    path = tmp_path / "m.keras"
    write_archive(path, write_zeros, zipfile.ZIP_DEFLATED, config_of(8192, LAYERS))
    return path


def test_small_file_of_large_weights(bomb):
    assert bomb.stat().st_size < 100_000
    with pytest.raises(ModelFormatError, match=r"declares weights of \d+ bytes.*max_bytes"):
        fastrnn.load_model(bomb)


@pytest.mark.slow
def test_large_weights_of_a_file_that_is_trusted(bomb):
    model = fastrnn.load_model(bomb, max_bytes=5 << 28)
    assert model.count_params() == LAYERS * 8193 * 8192


def test_limit_of_the_caller(tmp_path):
    path = tmp_path / "m.keras"
    write_archive(path, write_random(), zipfile.ZIP_DEFLATED)
    assert fastrnn.load_model(path, max_bytes=2 * WEIGHT_BYTES).built
    with pytest.raises(ModelFormatError, match="larger than"):  # when it is unpacked
        fastrnn.load_model(path, max_bytes=WEIGHT_BYTES // 2)
    write_archive(path, write_random(), zipfile.ZIP_STORED)
    with pytest.raises(ModelFormatError, match="declares weights"):
        fastrnn.load_model(path, max_bytes=WEIGHT_BYTES - 1)
    assert fastrnn.load_model(path, max_bytes=WEIGHT_BYTES).built


@pytest.mark.parametrize("max_bytes", [0, -1, 1.5, True, "1"])
def test_limits_that_are_none(max_bytes, tmp_path):
    with pytest.raises(ValueError, match="max_bytes: expected a positive integer"):
        fastrnn.load_model(tmp_path / "m.keras", max_bytes=max_bytes)


def test_limit_of_what_is_parsed(tmp_path):
    """Small JSON objects take some twenty times their text."""
    path = tmp_path / "m.keras"
    write_archive(path, write_random(), zipfile.ZIP_DEFLATED, {"a": [[]] * 3_000_000})
    content = path.read_bytes()
    assert len(content) < 20 << 20
    with pytest.raises(ModelFormatError, match="larger than"):
        fastrnn.load_model(path, max_bytes=64 << 20)


def test_one_long_text_that_stands_for_many(tmp_path):
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(config_of(1, 1))
        group = file.create_group("model_weights")
        group.attrs.create("layer_names", ["x" * 60_000] * 900, dtype=h5py.string_dtype())
    with pytest.raises(ModelFormatError, match="900 texts of varying length"):
        fastrnn.load_model(path, max_bytes=64 << 20)


def test_default_limit(monkeypatch):
    monkeypatch.setattr(_machine, "memory", lambda: 16 << 30)
    assert default_max_bytes(0) == default_max_bytes(1000) == LEAST
    assert default_max_bytes(10 << 20) == 1000 << 20
    assert default_max_bytes(10 << 30) == 12 << 30
