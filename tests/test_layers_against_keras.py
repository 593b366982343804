"""The layers against real Keras, in every pair of options, sizes and activations."""

import itertools
import pickle
import warnings

import keras
import numpy as np
import pytest

import fastrnn
from fastrnn import activations, reference
from tests.backends import as_on_tensorflow
from tests.builds import LEVELS
from tests.pairs import pairwise

KERAS_ACTIVATIONS = [name for name in activations.NAMES if name != "hard_sigmoid_keras2"]
# glu halves the width, so a state cannot feed back; threshold needs arguments a name cannot give.
UNIT_WISE = [name for name in KERAS_ACTIVATIONS if name not in ("glu", "threshold")]
FLAGS = [
    "return_sequences",
    "return_state",
    "go_backwards",
    "use_bias",
    "zero_output_for_mask",
    "unroll",
    "stateful",
]
OPTIONS = {
    "layer": ["SimpleRNN", "LSTM", "GRU", "GRU reset before"],
    "units": range(1, 41),
    "features": range(1, 21),
    "batch": [0, 1, 2, 5, 7, 13, 33],
    "steps": range(1, 21),
    "activation": UNIT_WISE,
    "recurrent_activation": UNIT_WISE,
    "mask": [None, "right", "left", "holes", "rows", "all", "integers", "column"],
    "initial_state": [None, "list", "tuple", "bare"],
    "input": ["C", "F", "strided", "read-only", "float64", "integers"],
    "dtype": ["float32", "float64"],
    **{flag: [False, True] for flag in FLAGS},
}


# The usual activations stay calm over long sequences and large layers.
USUAL = {
    "units": [1, 2, 5, 8, 13, 16, 20, 31, 32, 33, 48, 63, 64, 70, 100, 130],
    "features": [1, 2, 7, 16, 33, 70, 128],
    "batch": [1, 2, 3, 4, 6, 8, 11, 32, 65],
    "steps": [1, 2, 5, 12, 31, 64],
    "activation": ["tanh", "relu", "sigmoid", "linear", "hard_sigmoid"],
    "recurrent_activation": ["sigmoid", "hard_sigmoid", "tanh"],
}


def arranged(array, kind):
    """Return the same numbers in another memory layout or type."""
    if kind == "F":
        return np.asfortranarray(array)
    if kind == "strided":
        wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
        wide[..., ::2] = array
        return wide[..., ::2]
    if kind == "float64":
        return array.astype("float64")
    if kind == "integers":
        return np.rint(array).astype("int64")
    array = array.copy()
    array.flags.writeable = kind != "read-only"
    return array


def masked(kind, batch, steps, rng):
    """Return a mask of the pattern `kind`, True where a step counts."""
    lengths = rng.integers(0, steps + 1, (batch, 1))
    mask = rng.random((batch, steps)) < 0.6
    if kind == "right":
        mask = np.arange(steps) < lengths
    elif kind == "left":
        mask = np.arange(steps) >= lengths
    elif kind == "rows":
        mask[::2] = False
    elif kind == "all":
        mask[:] = False
    elif kind == "integers":
        mask = mask.astype("int32")
    elif kind == "column":
        mask = mask[:, :, None]
    return mask


def keras_results(layer, calls):
    """Return the corrected results of Keras's `layer` for successive calls, a flat list each."""
    results = []
    for x, mask, initial_state in calls:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = layer(x, mask=mask, initial_state=initial_state)
        output, *states = result if layer.return_state else [result]
        results.append([as_on_tensorflow(output, mask, layer), *states])
    return results


def layer_arguments(case):
    arguments = {name: case[name] for name in ("units", "activation", "dtype", *FLAGS)}
    if case["layer"] != "SimpleRNN":
        arguments["recurrent_activation"] = case["recurrent_activation"]
    name, *reset_before = case["layer"].split(maxsplit=1)
    if reset_before:
        arguments["reset_after"] = False
    return name, arguments


def random_weights(like, rng, strength=1.0):
    scales = (strength / np.sqrt(w.shape[0]) if w.ndim > 1 else 0.3 for w in like)
    return [
        rng.normal(0, scale, w.shape).astype("float32")
        for scale, w in zip(scales, like, strict=True)
    ]


def built(module, case, dtype=None):
    name, arguments = layer_arguments(case)
    layer = getattr(module.layers, name)(**arguments | {"dtype": dtype or case["dtype"]})
    layer.build((case["batch"], case["steps"], case["features"]))
    return layer


def calls_for(case, rng):
    """Return the arguments of one call, or of three for a stateful layer."""
    calls = []
    for number in range(3 if case["stateful"] else 1):
        x = rng.normal(size=(case["batch"], case["steps"], case["features"])).astype("float32")
        mask = case["mask"] and masked(case["mask"], case["batch"], case["steps"], rng)
        state = None
        if case["initial_state"] and number == 0:
            count = 2 if case["layer"] == "LSTM" else 1
            state = list(rng.normal(size=(count, case["batch"], case["units"])).astype("float32"))
            if case["initial_state"] == "bare" and count == 1:
                state = state[0]
            elif case["initial_state"] != "list":
                state = tuple(state)
        calls.append((arranged(x, case["input"]), mask, state))
    return calls


def largest(arrays):
    return np.max([np.abs(array).max(initial=0) for array in arrays])


def oracle_results(case, weights, calls):
    """Return the outputs and states that fastrnn.reference gives in float64, a flat list a call."""
    name, arguments = layer_arguments(case)
    options = [
        activations.get(arguments[key])
        for key in ("activation", "recurrent_activation")
        if key in arguments
    ]
    if name == "GRU":
        options.append(arguments.get("reset_after", True))
    kernels = [w.astype("float64") for w in weights] + [None] * (3 - len(weights))
    cell = getattr(reference, name)(*kernels, *options)
    states = tuple(np.zeros((2 if name == "LSTM" else 1, case["batch"], case["units"])))
    results = []
    for x, mask, initial_state in calls:
        if initial_state is not None:
            several = isinstance(initial_state, (list, tuple))
            states = tuple(np.asarray(initial_state if several else [initial_state], "float64"))
        mask = None if mask is None else mask.reshape(mask.shape[:2]).astype(bool)
        # Unrolled, sequences are zeroed by the mask in the order of the input.
        by_input = case["unroll"] and case["return_sequences"] and case["zero_output_for_mask"]
        output, states = reference.recurrence(
            cell,
            x.astype("float64"),
            states,
            mask,
            return_sequences=case["return_sequences"],
            go_backwards=case["go_backwards"],
            zero_output_for_mask=case["zero_output_for_mask"] and not by_input,
        )
        if by_input and mask is not None:
            output = np.where(mask[..., np.newaxis], output, 0)
        results.append([output, *states])
    return results


CASES = pairwise(OPTIONS, seed=2) + pairwise(OPTIONS | USUAL, seed=3)


def prepared(number):
    """Return a case, weights, calls and the oracle's results.

    Where an activation makes the numbers grow, the sequence is shorter and the weights are smaller.
    """
    case, rng = dict(CASES[number]), np.random.default_rng(number)
    shapes = built(fastrnn, case).weights
    for strength in 0.7 ** np.arange(20):
        weights = random_weights(shapes, rng, strength)
        calls = calls_for(case, rng)
        with np.errstate(all="ignore"):
            results = oracle_results(case, weights, calls)
        if np.max([largest(result) for result in results]) < 4:
            break
        case["steps"] = max(1, case["steps"] // 2)
    return case, weights, calls, results


def assert_results(got, expected, dtype, case):
    """Assert equal shapes, equal values and the dtype; without return_state the states are left out."""
    expected = expected[: len(got)]
    assert [a.shape for a in got] == [a.shape for a in expected], case
    assert {a.dtype for a in got} == {np.dtype(dtype)}, case
    tolerance = max(1, largest(expected)) * (1e-10 if dtype == "float64" else 1e-5)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance, err_msg=str(case))


def assert_layer_gives(results, case, weights, calls):
    layer = built(fastrnn, case)
    layer.set_weights(weights)
    before = pickle.dumps(calls)
    for (x, mask, state), expected in zip(calls, results, strict=True):
        result = layer(x, mask=mask, initial_state=state)
        assert isinstance(result, tuple if case["return_state"] else np.ndarray)
        got = list(result) if case["return_state"] else [result]
        assert_results(got, expected, case["dtype"], case)
    assert pickle.dumps(calls) == before


@pytest.mark.parametrize("number", range(len(CASES)))
def test_sweep(number, threads, build_in_use):
    case, weights, calls, results = prepared(number)
    judge = built(keras, case, "float64")
    judge.set_weights(weights)
    for judged, expected in zip(keras_results(judge, calls), results, strict=True):
        assert len(judged) == (len(expected) if case["return_state"] else 1)
        assert_results(judged, expected, "float64", case)
    for level, allowed in itertools.product(LEVELS, (1, 2)):
        fastrnn.set_num_threads(allowed)
        with build_in_use(level):
            assert_layer_gives(results, case, weights, calls)


@pytest.mark.parametrize("name", ["SimpleRNN", "LSTM", "GRU"])
@pytest.mark.parametrize("return_state", [False, True])
def test_reset_state_starts_anew(name, return_state, rng):
    arguments = {"units": 9, "stateful": True, "return_state": return_state}
    layers = [getattr(module.layers, name)(**arguments) for module in (keras, fastrnn)]
    for layer in layers:
        layer.build((3, 5, 2))
    layers[1].set_weights(layers[0].get_weights())
    x = rng.normal(size=(6, 3, 5, 2)).astype("float32")
    for n, reset in enumerate([None, "reset_state", None, "reset_states", None, None]):
        if reset:
            for layer in layers:
                getattr(layer, reset)()
        expected, got = (layer(x[n]) for layer in layers)
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", [name for name in KERAS_ACTIVATIONS if name != "threshold"])
def test_activation_layer(name, dtype, rng):
    layer = fastrnn.layers.Activation(name, dtype=dtype)
    judge = keras.layers.Activation(name, dtype=dtype)
    for shape in [(0, 4), (1, 2), (3, 6), (2, 5, 4), (2, 3, 2, 8)]:
        x = (3 * rng.normal(size=shape)).astype(dtype)
        assert_results([layer(x)], [judge(x)], dtype, shape)


DENSE = {
    "units": [2, 4, 6, 8, 14, 16, 18, 32, 34, 100],
    "features": [1, 2, 3, 7, 8, 16, 17, 40],
    "leading": [(0,), (1,), (2,), (13,), (64,), (3, 5), (2, 1, 4)],
    "activation": [None, *(name for name in KERAS_ACTIVATIONS if name != "threshold")],
    "use_bias": [False, True],
    "input": OPTIONS["input"],
    "dtype": OPTIONS["dtype"],
}
DENSE_CASES = pairwise(DENSE, seed=4)


@pytest.mark.parametrize("number", range(len(DENSE_CASES)))
def test_dense(number):
    case = DENSE_CASES[number]
    rng = np.random.default_rng(number)
    arguments = {name: case[name] for name in ("units", "activation", "use_bias")}
    judge = keras.layers.Dense(**arguments, dtype="float64")
    layer = fastrnn.layers.Dense(**arguments, dtype=case["dtype"])
    for each in (judge, layer):
        each.build((None, case["features"]))
    weights = random_weights(layer.weights, rng)
    judge.set_weights(weights)
    layer.set_weights(weights)
    x = rng.normal(size=(*case["leading"], case["features"])).astype("float32")
    x = arranged(x, case["input"])
    before = x.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = judge(x)
    assert_results([layer(x)], [expected], case["dtype"], case)
    np.testing.assert_array_equal(x, before)


# What the documents of Keras promise, without Keras.

RECURRENT = ["SimpleRNN", "LSTM", "GRU"]


def sequence_layer(name, **arguments):
    layer = getattr(fastrnn.layers, name)(3, return_state=True, **arguments)
    layer.build((2, 4, 2))
    return layer


@pytest.fixture
def x(rng):
    return rng.normal(size=(2, 4, 2)).astype("float32")


@pytest.mark.parametrize("unroll", [False, True])
@pytest.mark.parametrize("name", RECURRENT)
def test_masked_steps_repeat_the_output_and_zeros_where_there_is_none(name, unroll, x, rng):
    layer = sequence_layer(name, return_sequences=True, unroll=unroll)
    mask = np.array([[False, True, False, True], [False, False, False, False]])
    states = list(rng.normal(size=(len(layer(x)) - 1, 2, 3)).astype("float32"))
    output, *final = layer(x, mask=mask, initial_state=states)
    short, *short_final = layer(x[:, 1::2], initial_state=states)
    np.testing.assert_array_equal(output[0, 0], 0)
    np.testing.assert_allclose(output[0, 1:], short[0, [0, 0, 1]], atol=1e-6)
    np.testing.assert_array_equal(output[1], 0)
    for ours, expected, initial in zip(final, short_final, states, strict=True):
        np.testing.assert_allclose(ours[0], expected[0], atol=1e-6)
        np.testing.assert_array_equal(ours[1], initial[1])


@pytest.mark.parametrize("unroll", [False, True])
@pytest.mark.parametrize("name", RECURRENT)
def test_zero_output_for_mask_zeroes_outputs_and_not_states(name, unroll, x):
    mask = np.array([[True, False, True, False], [True, True, True, False]])
    options = {"zero_output_for_mask": True, "unroll": unroll}
    layer = sequence_layer(name, return_sequences=True, **options)
    last = sequence_layer(name, **options)
    last.set_weights(layer.get_weights())
    output, *states = layer(x, mask=mask)
    np.testing.assert_array_equal(output[~mask], 0)
    assert np.all(output[mask] != 0)
    last_output, *last_states = last(x, mask=mask)
    np.testing.assert_array_equal(last_output, 0)
    assert all(np.all(state != 0) for state in states)
    np.testing.assert_array_equal(last_states, states)


@pytest.mark.parametrize("name", RECURRENT)
def test_unrolled_backwards_is_zeroed_by_the_unreversed_mask(name, x):
    options = {"return_sequences": True, "go_backwards": True}
    repeating = sequence_layer(name, **options)
    unrolled = sequence_layer(name, unroll=True, zero_output_for_mask=True, **options)
    unrolled.set_weights(repeating.get_weights())
    mask = np.array([[True, True, False, True], [False, False, True, True]])
    expected = np.where(mask[..., np.newaxis], repeating(x, mask=mask)[0], 0)
    np.testing.assert_allclose(unrolled(x, mask=mask)[0], expected, atol=1e-6)


@pytest.mark.parametrize("name", RECURRENT)
def test_go_backwards_is_the_reversed_input(name, x):
    layer = sequence_layer(name, return_sequences=True, go_backwards=True)
    forwards = sequence_layer(name, return_sequences=True)
    forwards.set_weights(layer.get_weights())
    mask = np.array([[True, True, False, True], [False, True, True, True]])
    for got, expected in zip(
        layer(x, mask=mask), forwards(x[:, ::-1], mask=mask[:, ::-1]), strict=True
    ):
        np.testing.assert_array_equal(got, expected)


OF_NUMBERS = {
    "Activation": {"activation": "tanh"},
    "BatchNormalization": {},
    "Dropout": {"rate": 0.3},
    "ELU": {},
    "EinsumDense": {"equation": "a,b->ab", "output_shape": 3},
    "Embedding": {"input_dim": 5, "output_dim": 2},
    "Flatten": {},
    "LayerNormalization": {},
    "LeakyReLU": {},
    "Masking": {},
    "Normalization": {"mean": 1.0, "variance": 2.0, "axis": None},
    "PReLU": {},
    "RMSNormalization": {},
    "ReLU": {},
    "Rescaling": {"scale": 2.0},
    "Reshape": {"target_shape": (1,)},
    "Softmax": {},
    "UnitNormalization": {},
}
"""Layers that Keras runs on a batch of numbers, (batch,)."""


@pytest.mark.parametrize("name", OF_NUMBERS)
def test_a_batch_of_numbers(name):
    x = np.arange(5, dtype="float32") - (0 if name == "Embedding" else 2)
    theirs = getattr(keras.layers, name)(**OF_NUMBERS[name])
    wanted = np.asarray(theirs(x))
    ours = fastrnn.from_keras(theirs)
    got = ours(x)
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-6)


def test_a_model_of_a_batch_of_numbers():
    number = keras.Input(())
    several = [keras.layers.ReLU()(number), keras.layers.Add()([number, number])]
    theirs = keras.Model(number, [*several, keras.layers.Reshape((1,))(number)])
    ours, x = fastrnn.from_keras(theirs), np.arange(5, dtype="float32") - 2
    for got, wanted in zip(ours(x), theirs(x), strict=True):
        np.testing.assert_array_equal(got, wanted)
