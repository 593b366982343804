"""The time of loading grows as the file does: four times as much of anything never takes sixteen times the time."""

import io
import json
import time
import zipfile

import h5py
import numpy as np
import pytest

import fastrnn
from fastrnn.errors import ModelFormatError
from tests.costs import calls_of

INPUT = {"name": "x", "batch_shape": [None, 4, 2], "dtype": "float32"}


def layer(class_name, name, *calls, **config):
    """A layer of a functional model, called with each of `calls`."""
    nodes = [{"args": [args], "kwargs": {}} for args in calls]
    described = {"module": "keras.layers", "class_name": class_name, "name": name}
    return {**described, "config": {"name": name, **config}, "inbound_nodes": nodes}


def tensor(name, call=0):
    return {"class_name": "__keras_tensor__", "config": {"keras_history": [name, call, 0]}}


def functional(outputs, *layers):
    x = {"module": "keras.layers", "class_name": "InputLayer", "config": INPUT, "name": "x"}
    config = {"name": "model", "layers": [{**x, "inbound_nodes": []}, *layers]}
    config |= {"input_layers": [["x", 0, 0]], "output_layers": outputs}
    return {"module": "keras", "class_name": "Functional", "config": config}


def relu(name, *calls):
    return layer("Activation", name, *calls, activation="relu")


def sequential_of(count):
    layers = [{"class_name": "InputLayer", "config": INPUT}, *(relu(f"a{i}") for i in range(count))]
    return {"class_name": "Sequential", "config": {"name": "model", "layers": layers}}


def chain_last_first(count):
    chain = [relu(f"a{i}", tensor(f"a{i - 1}" if i else "x")) for i in range(count)]
    return functional([[f"a{count - 1}", 0, 0]], *reversed(chain))


def one_layer_of_many_inputs(count):
    parts = [relu(f"a{i}", tensor("x")) for i in range(count)]
    whole = layer("Add", "sum", [tensor(f"a{i}") for i in range(count)])
    return functional([["sum", 0, 0]], *parts, whole)


def one_layer_called_often(count):
    calls = [tensor("x"), *(tensor("a", i) for i in range(count - 1))]
    return functional([["a", count - 1, 0]], relu("a", *calls))


def many_outputs(count):
    layers = [relu(f"a{i}", tensor("x")) for i in range(count)]
    return functional([[one["name"], 0, 0] for one in layers], *layers)


def every_layer_takes_two_before(count):
    layers = [relu("a0", tensor("x")), relu("a1", tensor("a0"))]
    for i in range(2, count):
        layers.append(layer("Add", f"a{i}", [tensor(f"a{i - 1}"), tensor(f"a{i - 2}")]))
    return functional([[f"a{count - 1}", 0, 0]], *layers)


def merged_models(count):
    """Of Keras 1."""

    def branch(i):
        config = {"name": f"d{i}", "activation": "relu", "batch_input_shape": [None, 4]}
        return {
            "class_name": "Sequential",
            "config": [{"class_name": "Activation", "config": config}],
        }

    models = [branch(i) for i in range(count)]
    merge = {"class_name": "Merge", "config": {"name": "m", "mode": "sum", "layers": models}}
    return {"class_name": "Sequential", "config": [merge]}


def archive_of(config, path, version="3.15.1"):
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file.create_group("layers")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", config if isinstance(config, str) else json.dumps(config))
        archive.writestr("metadata.json", json.dumps({"keras_version": version}))
        archive.writestr("model.weights.h5", stream.getvalue())
    return path


def weights_in_one_group(count, path):
    """A whole-model file whose one group has the weights of all layers of a model inside."""
    dense = {"units": 2, "activation": "linear"}
    layers = [{"class_name": "Dense", "config": {"name": f"d{i}", **dense}} for i in range(count)]
    layers[0]["config"]["batch_input_shape"] = [None, 2]
    inner = {"class_name": "Sequential", "config": {"name": "inner", "layers": layers}}
    config = {"class_name": "Sequential", "config": {"name": "model", "layers": [inner]}}
    with h5py.File(path, "w", libver="latest") as file:
        file.attrs["model_config"] = json.dumps(config)
        group = file.create_group("model_weights")
        for attributes in (file.attrs, group.attrs):
            attributes["keras_version"] = "2.15.0"
        group.attrs["layer_names"] = np.array([b"inner"])
        names = [f"d{i}/{name}" for i in range(count) for name in ("kernel:0", "bias:0")]
        inside = group.create_group("inner")
        inside.attrs["weight_names"] = np.array([name.encode() for name in names])
        for name in names:
            inside[name] = np.zeros((2, 2) if "kernel" in name else 2, np.float32)
    return path


def seconds_of(work):
    best = float("inf")
    for _ in range(2):
        start = time.thread_time()
        work()
        best = min(best, time.thread_time() - start)
    return best


def check_growth(work, few=250):
    """`work(count)` returns what is measured for `count` things."""
    small, large = work(few), work(4 * few)
    assert calls_of(large) < 5 * calls_of(small)
    assert seconds_of(large) < 10 * seconds_of(small)


@pytest.mark.slow
@pytest.mark.parametrize(
    "config_of",
    [
        sequential_of,
        chain_last_first,
        one_layer_of_many_inputs,
        one_layer_called_often,
        many_outputs,
        every_layer_takes_two_before,
        merged_models,
    ],
)
def test_layers_and_calls(config_of, tmp_path):
    version = "1.2.2" if config_of is merged_models else "3.15.1"

    def work(count):
        path = archive_of(config_of(count), tmp_path / f"{count}.keras", version)
        return lambda: fastrnn.load_model(path)

    check_growth(work, few=500)


@pytest.mark.slow
def test_weights(tmp_path):
    def work(count):
        path = weights_in_one_group(count, tmp_path / f"{count}.h5")
        return lambda: fastrnn.load_model(path)

    check_growth(work)


def test_keys_that_occur_twice(tmp_path):
    def work(count):
        keys = "".join(f'"{i:x}": 0, ' for i in range(count))
        path = archive_of("{" + keys + '"last": 0, "last": 0}', tmp_path / f"{count}.keras")

        def load():
            with pytest.raises(ModelFormatError, match="the key 'last' occurs twice"):
                fastrnn.load_model(path)

        return load

    check_growth(work, few=10_000)


@pytest.mark.slow
@pytest.mark.parametrize("config_of", [sequential_of, one_layer_of_many_inputs])
def test_first_calls(config_of, tmp_path):
    def work(count):
        path = archive_of(config_of(count), tmp_path / f"{count}.keras")

        def call():
            model = fastrnn.load_model(path)
            assert model.predict(np.ones((1, 4, 2), np.float32)).shape == (1, 4, 2)

        return call

    check_growth(work, few=500)
