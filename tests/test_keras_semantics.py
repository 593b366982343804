"""The corners of Keras that docs/keras-semantics.md tells of: those that no other file tests, and the list itself."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest

import fastrnn
from fastrnn import layers

TESTS = Path(__file__).parent
DOCUMENT = TESTS.parent / "docs" / "keras-semantics.md"


def test_the_document_names_tests_that_there_are():
    named = re.findall(r"`(test_\w+\.py)(?:::(\w+))?` \|$", DOCUMENT.read_text(), re.MULTILINE)
    corners = [line for line in DOCUMENT.read_text().splitlines() if line.endswith("` |")]
    assert len(named) == len(corners) > 25
    for file, test in named:
        assert f"def {test or 'test_'}" in (TESTS / file).read_text(), (file, test)


def test_the_mask_after_a_layer_that_goes_backwards_is_not_reversed(rng):
    x = rng.normal(size=(2, 5, 3)).astype("float32")
    x[0, 3:] = x[1, 1:] = 0
    make = [
        ("Masking", {}),
        ("LSTM", {"go_backwards": True, "return_sequences": True}),
        ("GRU", {}),
    ]
    units = {"LSTM": (4,), "GRU": (2,), "Masking": ()}
    theirs = keras.Sequential(
        [keras.Input((5, 3)), *(getattr(keras.layers, n)(*units[n], **o) for n, o in make)]
    )
    ours = fastrnn.from_keras(theirs)
    np.testing.assert_allclose(ours(x), theirs(x), rtol=0, atol=1e-6)
    _masking, lstm, gru = ours.layers
    mask = np.any(x != 0, axis=-1)
    np.testing.assert_allclose(ours(x), gru(lstm(x, mask=mask), mask=mask), rtol=0, atol=1e-6)
    assert np.abs(ours(x) - gru(lstm(x, mask=mask), mask=mask[:, ::-1])).max() > 1e-3


def test_a_carried_mask_is_dropped_beside_an_initial_state(rng):
    tokens, state = keras.Input((5,)), keras.Input((4,))
    embedded = keras.layers.Embedding(6, 3, mask_zero=True)(tokens)
    decoder = keras.layers.GRU(4)
    theirs = keras.Model(
        [tokens, state], [decoder(embedded, initial_state=state), decoder(embedded)]
    )
    ours = fastrnn.from_keras(theirs)
    inputs = [np.array([[1, 2, 0, 0, 0], [3, 0, 5, 0, 0]]), np.zeros((2, 4), "float32")]
    unmasked, masked = ours(inputs)
    for got, expected in zip((unmasked, masked), theirs(inputs), strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)
    assert np.abs(unmasked - masked).max() > 1e-3


@pytest.mark.parametrize("return_sequences", [False, True])
def test_bidirectional_decides_on_zeros_for_masked_steps(return_sequences, rng):
    inner = [
        layers.GRU(2, return_sequences=return_sequences, zero_output_for_mask=not return_sequences),
        layers.GRU(2, return_sequences=return_sequences, go_backwards=True),
    ]
    layer = layers.Bidirectional(inner[0], backward_layer=inner[1])
    assert layer.backward_layer is inner[1]
    assert layer.forward_layer.zero_output_for_mask is return_sequences
    assert inner[1].zero_output_for_mask is return_sequences
    mask = np.array([[True, True, False]])
    y = layer(rng.normal(size=(1, 3, 4)), mask=mask)
    assert np.all(y[:, -1] == 0) == return_sequences


@pytest.mark.parametrize("name", ["SimpleRNN", "LSTM", "GRU"])
def test_an_initial_state_goes_before_kept_ones(name, rng):
    theirs = getattr(keras.layers, name)(3, stateful=True)
    x = rng.normal(size=(2, 5, 4)).astype("float32")
    theirs(x)
    ours = fastrnn.from_keras(theirs)
    states = [rng.normal(size=(2, 3)).astype("float32") for _ in ours.states]
    for given in (states, None, states):
        expected = theirs(x, initial_state=given)
        np.testing.assert_allclose(ours(x, initial_state=given), expected, rtol=0, atol=1e-6)
        for state, judged in zip(ours.states, theirs.states, strict=True):
            np.testing.assert_allclose(state, np.asarray(judged), rtol=0, atol=1e-6)


def test_the_two_slopes_of_leaky_relu():
    x = np.array([[-1.0, 2.0]], "float32")
    for package in (keras.layers, layers):
        np.testing.assert_allclose(package.LeakyReLU()(x), [[-0.3, 2]], rtol=1e-6)
        np.testing.assert_allclose(package.Activation("leaky_relu")(x), [[-0.2, 2]], rtol=1e-6)
