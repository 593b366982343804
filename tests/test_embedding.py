"""Embedding, Masking and the masks that flow through models, against Keras."""

import keras
import numpy as np
import pytest
from keras import layers as K

import fastrnn
from fastrnn import layers


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8, np.float32, np.float64])
def test_embedding(dtype, rng):
    theirs = K.Embedding(9, 4)
    x = rng.integers(0, 9, (3, 5)).astype(dtype)
    expected = theirs(x)
    np.testing.assert_array_equal(fastrnn.from_keras(theirs)(x), expected)


@pytest.mark.parametrize("number", [-1, 9, 1e6])
def test_a_number_outside_the_table_is_refused(number):
    with pytest.raises(ValueError, match="integers from 0 to 8"):
        layers.Embedding(9, 4)(np.array([[1, number]]))


def test_embedding_takes_its_table(rng):
    table = rng.normal(size=(9, 4)).astype(np.float32)
    np.testing.assert_array_equal(layers.Embedding(9, 4, weights=table)(np.arange(9)), table)


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_masking(value, rng):
    x = rng.normal(size=(3, 5, 2)).astype(np.float32)
    x[0, 2:] = value
    x[1, 1, 0] = value
    np.testing.assert_array_equal(layers.Masking(value)(x), np.asarray(K.Masking(value)(x)))


def padded(rng, rows=6, steps=7):
    x = rng.integers(1, 20, (rows, steps))
    for row, length in enumerate(rng.integers(1, steps + 1, rows)):
        x[row, length:] = 0
    return x


def sequential(*rest):
    return keras.Sequential([keras.Input((7,)), K.Embedding(20, 4, mask_zero=True), *rest])


MODELS = {
    "last": lambda: sequential(K.LSTM(3), K.Dense(2)),
    "sequence": lambda: sequential(K.GRU(3, return_sequences=True), K.SimpleRNN(4)),
    "bidirectional": lambda: sequential(
        K.Bidirectional(K.LSTM(3, return_sequences=True)), K.TimeDistributed(K.Dense(2, "softmax"))
    ),
    "passed on": lambda: sequential(K.Dropout(0.3), K.Dense(5), K.Activation("tanh"), K.GRU(3)),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("functional", [False, True])
def test_masks_flow(name, functional, rng):
    theirs = MODELS[name]()
    if functional:
        theirs = keras.Model(theirs.inputs, theirs.outputs[0])
    x = padded(rng)
    expected = theirs.predict(x, verbose=0)
    ours = fastrnn.from_keras(theirs)
    np.testing.assert_allclose(ours.predict(x), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("layer", [K.Embedding(5, 3, name="e"), K.Masking(2.0, name="m")])
def test_configs_are_those_of_keras(layer):
    ours = getattr(layers, type(layer).__name__).from_config(layer.get_config())
    assert ours.get_config() == layer.get_config()
