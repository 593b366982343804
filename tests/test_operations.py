"""The operations that Keras's functional API records, loaded with the model around them."""

import keras
import numpy as np
import pytest
from keras import ops

import fastrnn
from fastrnn.layers.operations import OPERATIONS

USES = {
    "Abs": lambda h: abs(h),
    "Absolute": lambda h: ops.absolute(h),
    "Add": lambda h: 1 + h + h,
    "Divide": lambda h: ops.divide(h, 3),
    "Equal": lambda h: ops.where(ops.equal(h, h), 1.0, 0.0),
    "Exp": lambda h: ops.exp(h),
    "Log": lambda h: ops.log(h * h + 1),
    "Matmul": lambda h: ops.matmul(h, ops.transpose(h, (0, 2, 1))),
    "Maximum": lambda h: ops.maximum(h, 0.1),
    "Minimum": lambda h: ops.minimum(h, 0.1),
    "Multiply": lambda h: h * 2.5 * h,
    "Negative": lambda h: -h,
    "Power": lambda h: h**2,
    "Relu": lambda h: ops.relu(h),
    "Sigmoid": lambda h: ops.sigmoid(h),
    "Sqrt": lambda h: ops.sqrt(h * h),
    "Square": lambda h: ops.square(h),
    "Subtract": lambda h: 1 - h,
    "Tanh": lambda h: ops.tanh(h),
    "TrueDivide": lambda h: h / 2,
    "Max": lambda h: ops.max(h, axis=1),
    "Mean": lambda h: ops.mean(h, axis=(1, 2)),
    "Min": lambda h: ops.min(h, axis=-1, keepdims=True),
    "Sum": lambda h: ops.sum(h, axis=1, keepdims=True),
    "Concatenate": lambda h: ops.concatenate([h, h * 2], axis=-1),
    "ExpandDims": lambda h: ops.expand_dims(h, 1),
    "Flip": lambda h: ops.flip(h, axis=1),
    "GetItem": lambda h: h[:, -1, ::2] + h[:, 0, :2],
    "Reshape": lambda h: ops.reshape(h, (-1, 15)),
    "Softmax": lambda h: ops.softmax(h, axis=1),
    "Squeeze": lambda h: ops.squeeze(h[:, :1], axis=1),
    "Stack": lambda h: ops.stack([h, h], axis=2),
    "Transpose": lambda h: ops.transpose(h, (0, 2, 1)),
}
COMPARISONS = {"Equal", "Greater", "GreaterEqual", "Less", "LessEqual", "NotEqual"}
LOGICAL = {"LogicalAnd", "LogicalNot", "LogicalOr"}
del USES["Equal"]  # with the other comparisons


def test_every_operation_is_used_here():
    assert set(USES) | COMPARISONS | LOGICAL == set(OPERATIONS)


@pytest.fixture
def x(rng):
    return rng.normal(size=(4, 5, 2)).astype(np.float32)


def check(model, x, path):
    expected = model.predict(x, verbose=0)
    model.save(path)
    for ours in (fastrnn.from_keras(model), fastrnn.load_model(path)):
        got = ours.predict(x)
        assert got.dtype == expected.dtype
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", USES)
def test_operation(name, x, tmp_path):
    inputs = keras.Input((5, 2))
    h = keras.layers.GRU(3, return_sequences=True)(inputs)
    check(
        keras.Model(inputs, keras.layers.Activation("linear")(USES[name](h))),
        x,
        tmp_path / "m.keras",
    )


@pytest.mark.parametrize("name", sorted(COMPARISONS))
def test_comparisons_make_masks(name, x, tmp_path):
    compare = getattr(
        ops,
        {"NotEqual": "not_equal", "GreaterEqual": "greater_equal", "LessEqual": "less_equal"}.get(
            name, name.lower()
        ),
    )
    inputs = keras.Input((5, 2))
    mask = ops.logical_or(
        compare(inputs[:, :, 0], 0.2),
        ops.logical_not(ops.logical_and(inputs[:, :, 1] > 0, inputs[:, :, 0] > -9)),
    )
    check(
        keras.Model(inputs, keras.layers.LSTM(3)(inputs, mask=mask)),
        np.abs(x),
        tmp_path / "m.keras",
    )
