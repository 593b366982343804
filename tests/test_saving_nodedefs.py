"""Operations of TensorFlow's graphs, in the form in which tf.keras of 1.13 to 2.3 wrote them."""

import json

import numpy as np
import pytest

from fastrnn.errors import ModelFormatError, UnsupportedLayerError
from fastrnn.saving import _options
from fastrnn.saving.building import build
from fastrnn.saving.config import read_model

SHAPE = (5, 4)


def operation(op, *, tensors=1, constants=None, attr=None, as_text=False, name="op"):
    """A model of one operation, on one or two inputs."""
    attr = {"T": {"type": "DT_FLOAT"}, **(attr or {})}
    node = {"name": name, "op": op, "input": ["a", "b"], "attr": attr}
    config = {"name": name, "trainable": True, "dtype": "float32"}
    config["node_def"] = json.dumps(node) if as_text else node
    config["constants"] = constants or {}
    names = ["a", "b"][:tensors]
    layers = [
        {
            "class_name": "InputLayer",
            "name": one,
            "config": {"name": one, "batch_input_shape": [None, *SHAPE], "dtype": "float32"},
            "inbound_nodes": [],
        }
        for one in names
    ]
    inbound = [[one, 0, 0, {}] for one in names]
    layer = {"class_name": "TensorFlowOpLayer", "name": f"tf_op_layer_{name}", "config": config}
    layers.append({**layer, "inbound_nodes": [inbound]})
    graph = {
        "name": "model",
        "layers": layers,
        "input_layers": [[one, 0, 0] for one in names],
        "output_layers": [[f"tf_op_layer_{name}", 0, 0]],
    }
    return {"class_name": "Model", "config": graph}


def load(config):
    return build(read_model(config, (2, 2, 4), _options()))


def strided_slice(*parts, **masks):
    attr = {f"{name}_mask": {"i": str(mask)} for name, mask in masks.items()}
    return {"constants": dict(zip("123", parts, strict=True)), "attr": attr}


OPERATIONS = {
    "one tensor": ("Tanh", {}, np.tanh),
    "constant behind": ("AddV2", {"constants": {"1": 2.5}}, lambda a: a + 2.5),
    "constant before": ("Sub", {"constants": {"0": 1.0}}, lambda a: 1 - a),
    "two tensors": ("Mul", {"tensors": 2}, lambda a, b: a * b),
    "text": ("Neg", {"as_text": True}, lambda a: -a),
    "reduction": (
        "Mean",
        {"constants": {"1": 1}, "attr": {"keep_dims": {"b": False}}},
        lambda a: a.mean(axis=1),
    ),
    "kept axis": (
        "Sum",
        {"constants": {"1": [1]}, "attr": {"keep_dims": {"b": True}}},
        lambda a: a.sum(axis=1, keepdims=True),
    ),
    "concat": (
        "ConcatV2",
        {"tensors": 2, "constants": {"2": -1}},
        lambda a, b: np.concatenate([a, b], axis=-1),
    ),
    "pack": (
        "Pack",
        {"tensors": 2, "attr": {"axis": {"i": "1"}}},
        lambda a, b: np.stack([a, b], axis=1),
    ),
    "expand": ("ExpandDims", {"constants": {"1": -1}}, lambda a: a[..., None]),
    "reshape": ("Reshape", {"constants": {"1": [-1, 20]}}, lambda a: a.reshape(-1, 20)),
    "transpose": (
        "Transpose",
        {"constants": {"1": [0, 2, 1]}},
        lambda a: a.transpose(0, 2, 1),
    ),
    "matmul": (
        "BatchMatMulV2",
        {"tensors": 2, "attr": {"adj_x": {"b": False}, "adj_y": {"b": True}}},
        lambda a, b: a @ b.transpose(0, 2, 1),
    ),
    "gather": ("GatherV2", {"constants": {"1": [2, 0], "2": 1}}, lambda a: a[:, [2, 0]]),
    "leaky": (
        "LeakyRelu",
        {"attr": {"alpha": {"f": 0.25}}},
        lambda a: np.where(a > 0, a, 0.25 * a),
    ),
    "last step": (
        "StridedSlice",
        strided_slice([0, -1, 0], [0, 0, 0], [1, 1, 1], shrink_axis=2, begin=5, end=5),
        lambda a: a[:, -1, :],
    ),
    "slice": (
        "StridedSlice",
        strided_slice([0, 1, 0], [0, 4, 0], [1, 2, 1], begin=5, end=5),
        lambda a: a[:, 1:4:2],
    ),
    "ellipsis and new axis": (
        "StridedSlice",
        strided_slice([0, 0, 1], [0, 0, 3], [1, 1, 1], ellipsis=1, new_axis=2),
        lambda a: a[..., None, 1:3],
    ),
}


@pytest.mark.parametrize(("op", "options", "expected"), OPERATIONS.values(), ids=OPERATIONS)
def test_operations(op, options, expected, rng):
    arrays = [
        rng.normal(size=(3, *SHAPE)).astype(np.float32) for _ in range(options.get("tensors", 1))
    ]
    y = load(operation(op, **options)).predict(arrays if len(arrays) > 1 else arrays[0])
    np.testing.assert_allclose(y, expected(*arrays), atol=1e-6)


def test_squeezed_axes(rng):
    config = operation("Squeeze", attr={"squeeze_dims": {"list": {"i": ["-1"]}}})
    config["config"]["layers"][0]["config"]["batch_input_shape"] = [None, 5, 1]
    x = rng.normal(size=(3, 5, 1)).astype(np.float32)
    np.testing.assert_array_equal(load(config).predict(x), x[..., 0])


def test_operation_that_is_not_known():
    with pytest.raises(UnsupportedLayerError, match=r"tf_op_layer_op.*'ReadFile'"):
        load(operation("ReadFile"))


@pytest.mark.parametrize(
    ("op", "options"),
    [
        ("StridedSlice", {}),
        ("StridedSlice", {"constants": {"1": [0], "2": [0, 1], "3": [1]}}),
        ("LeakyRelu", {}),
        ("AddV2", {"constants": {"x": 1}}),
        ("Sum", {"constants": {"1": 1}, "attr": {"keep_dims": 1}}),
        ("Tanh", {"constants": {"1": 1.0}}),
        ("Reshape", {"constants": {"1": "ab"}}),
        (["Tanh"], {}),
    ],
)
def test_damaged_nodes(op, options):
    with pytest.raises((ModelFormatError, UnsupportedLayerError)):
        load(operation(op, **options))


def test_attributes_that_are_none():
    config = operation("Squeeze")
    config["config"]["layers"][-1]["config"]["node_def"]["attr"] = 3
    with pytest.raises(ModelFormatError, match=r"tf_op_layer_op.*damaged"):
        load(config)


@pytest.mark.parametrize("node", [None, "{", "3", []])
def test_what_is_no_node(node):
    config = operation("Tanh")
    config["config"]["layers"][-1]["config"]["node_def"] = node
    with pytest.raises(ModelFormatError, match="tf_op_layer_op"):
        load(config)
