"""Every layer that fastrnn registers: that it gives what Keras gives, and that the README lists it."""

import keras
import numpy as np
import pytest

import fastrnn
from fastrnn._nested import flatten
from fastrnn.layers import REGISTRY
from fastrnn.layers.rnn import KerasCell
from tests.layer_examples import EXAMPLES, arguments_of
from tests.support_table import README, in_readme


def test_every_layer_has_an_example():
    assert set(EXAMPLES) == set(REGISTRY) - {"InputLayer"}


@pytest.mark.parametrize("name", EXAMPLES)
def test_sweep_of_examples(name, rng):
    make, shapes = EXAMPLES[name]
    theirs, ours = make(keras), make(fastrnn)
    arguments = arguments_of(shapes, lambda shape: rng.random((3, *shape)).astype("float32"))
    if issubclass(REGISTRY[name], KerasCell):
        theirs.build(arguments[0].shape)
        states = keras.tree.map_structure(np.asarray, theirs.get_initial_state(batch_size=3))
        arguments.append(states)
    theirs(*arguments)
    ours(*arguments)
    weights = [rng.random(weight.shape) for weight in theirs.get_weights()]
    theirs.set_weights(weights)
    ours.set_weights(weights)
    expected = theirs(*arguments)
    for layer in (ours, fastrnn.from_keras(theirs)):
        for a, b in zip(flatten(layer(*arguments)), flatten(expected), strict=True):
            np.testing.assert_allclose(a, np.asarray(b), rtol=1e-5, atol=1e-5)


def test_the_readme_lists_the_layers_as_the_code_has_them():
    text = README.read_text()
    assert in_readme(text) == text, "run `python -m tests.support_table`"
