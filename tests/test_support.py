"""Every layer that fastrnn registers: that it gives what Keras gives, and that the README lists it."""

import copy

import keras
import numpy as np
import pytest

import fastrnn
from fastrnn import layers
from fastrnn._nested import flatten
from fastrnn.layers import REGISTRY
from fastrnn.layers.rnn import KerasCell
from fastrnn.plan import Executable
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


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "bool"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in ("Add", "Multiply", "Maximum", "Minimum", "Concatenate")),
        *((name, {}) for name in ("ReLU", "UpSampling2D", "GlobalMaxPooling1D", "Subtract")),
        ("Activation", {"activation": "relu"}),
        ("Activation", {"activation": "relu6"}),
        ("Dot", {"axes": 2}),
        ("ReLU", {"max_value": 2}),
        ("ReLU", {"threshold": 1.5}),
        ("GlobalMaxPooling2D", {"keepdims": True, "data_format": "channels_first"}),
        *(("MaxPooling1D", {"padding": how, "strides": 1}) for how in ("valid", "same")),
    ],
)
def test_layers_that_keep_integers(name, options, dtype, rng):
    if dtype == "bool" and (name == "Subtract" or {"max_value", "threshold"}.intersection(options)):
        return  # which Keras refuses, or makes int32
    _, shapes = EXAMPLES[name]
    theirs, ours = (getattr(package.layers, name)(**options) for package in (keras, fastrnn))
    arguments = arguments_of(shapes, lambda shape: rng.integers(-3, 4, (3, *shape)).astype(dtype))
    expected = np.asarray(theirs(*arguments))
    symbols = arguments_of(shapes, lambda shape: fastrnn.Input(shape, dtype=dtype))
    model = fastrnn.Model(symbols[0], ours(*symbols))
    assert ours(*symbols).dtype == dtype
    assert expected.dtype in (dtype, "int32" if dtype == "int64" else dtype)
    for y in (ours(*arguments), model(*arguments)):
        assert y.dtype == dtype
        np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("name", ["Multiply", "Maximum"])
def test_integers_that_a_mask_hides(name, rng):
    x = rng.integers(-3, 4, (2, 6, 4)).astype("int32")
    mask = [MASK.astype(bool), MASK[::-1].astype(bool)]
    layer = getattr(layers, name)()
    y = layer([x, x + 1], mask=mask)
    assert y.dtype == np.int32
    np.testing.assert_array_equal(y, layer([x.astype("f4"), x + np.float32(1)], mask=mask))
    assert layer([x, x.astype("f4")]).dtype == np.float32


def altered(x):
    """What a call may bring instead of x, right or wrong."""
    for axis in range(x.ndim):
        for index in (slice(0), slice(1, None), [*range(x.shape[axis]), 0]):
            yield np.ascontiguousarray(x[(slice(None),) * axis + (index,)])
    for dtype in ("f8", "f2", "i4", "i8", "?", "c8"):
        yield x.astype(dtype)
    yield from (x[0], x[None], x[..., None], x[..., ::-1], np.asfortranarray(x))
    yield from ([x], (x,), [x, x], x.tolist(), None, "x")


def outcome(layer, *arguments, **others):
    try:
        return flatten(layer(*arguments, **others))
    except Exception as error:
        return repr(error)


def assert_same_outcome(got, expected):
    if isinstance(expected, str):
        assert got == expected
    else:
        for a, b in zip(got, expected, strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_call_that_reaches_the_core_directly_is_checked_as_others_are(name, rng, monkeypatch):
    make, shapes = EXAMPLES[name]
    if issubclass(REGISTRY[name], KerasCell):
        return
    layer = make(fastrnn)
    layer.name = "the_layer"
    arguments = arguments_of(shapes, lambda shape: rng.random((3, *shape)).astype("float32"))
    layer(*arguments)
    monkeypatch.setattr(Executable, "run_directly", lambda *_: None)
    twin = copy.deepcopy(layer)
    assert_same_outcome(outcome(layer, *arguments), outcome(twin, *arguments))
    x, *others = arguments
    for other in altered(x[0] if isinstance(x, list) else x):
        given = [other, *x[1:]] if isinstance(x, list) else other
        assert_same_outcome(outcome(layer, given, *others), outcome(twin, given, *others))
        assert not twin._prepared.direct


def test_the_readme_lists_the_layers_as_the_code_has_them():
    text = README.read_text()
    assert in_readme(text) == text, "run `python -m tests.support_table`"


MASK = np.array([[1, 0, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0]])
MASKS = [
    MASK.astype(bool),
    np.asfortranarray(MASK.astype(bool)),
    MASK.astype("u1"),
    MASK.astype("u1") * 2,
    MASK,
    MASK.astype("f4"),
    MASK.tolist(),
    MASK.astype(bool)[..., None],
    MASK.astype(bool)[:, :5],
    MASK.astype(bool)[:1],
    np.ones((2, 6, 2), bool),
    "mask",
]


@pytest.mark.parametrize("return_state", [False, True])
@pytest.mark.parametrize("name", ["RNN", "SimpleRNN", "LSTM", "GRU", "Bidirectional"])
def test_masks_and_states_that_reach_the_core_directly(name, return_state, rng, monkeypatch):
    options = {"return_sequences": True, "return_state": return_state, "name": "the_layer"}
    if name == "RNN":
        layer = layers.RNN([layers.LSTMCell(3), layers.GRUCell(3)], **options)
    elif name == "Bidirectional":
        layer = layers.Bidirectional(layers.LSTM(3, **options), name="the_layer")
    else:
        layer = getattr(layers, name)(3, **options)
    x = rng.random((2, 6, 4)).astype("float32")
    layer.build(x.shape)
    count = {"RNN": 3, "LSTM": 2, "Bidirectional": 4}.get(name, 1)
    states = [rng.random((2, 3)).astype("float32") for _ in range(count)]
    twin = copy.deepcopy(layer)
    both = {"initial_state": states, "mask": MASKS[0]}
    given = [
        *({"mask": mask} for mask in MASKS),
        *({"initial_state": some} for some in (states, tuple(states), states[0], states[:1], [])),
        {"initial_state": [state.astype("f8") for state in states]},
        {"initial_state": [state.tolist() for state in states]},
        {"initial_state": [state[:1] for state in states]},
        {"initial_state": [state[:, :2] for state in states]},
        {"initial_state": [states[:2], states[2]] if name == "RNN" else [states]},
        {"initial_state": np.stack(states)},
        both,
        {"initial_state": states, "mask": MASK.astype(bool)[:, :5]},
        {"initial_state": states, "constants": []},
        {"initial_state": states, "training": True},
    ]
    for others in ({}, {"mask": MASKS[0]}, {"initial_state": states}, both):
        layer(x, **others)
    assert len(layer._prepared.direct) == 4
    monkeypatch.setattr(Executable, "run_directly", lambda *_: None)
    for others in [{}, *given]:
        assert_same_outcome(outcome(layer, x, **others), outcome(twin, x, **others))
    layer.set_weights([0 * weight for weight in layer.get_weights()])
    assert not np.any(flatten(layer(x, initial_state=[0 * state for state in states]))[0])
