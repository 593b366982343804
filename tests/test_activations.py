"""fastrnn.activations against keras.activations."""

import inspect
import re
import warnings

import keras
import numpy as np
import pytest

from fastrnn import activations

DTYPES = ["float32", "float64"]
ALONG_AN_AXIS = ["softmax", "log_softmax", "sparsemax", "glu"]
KERAS_NAMES = [
    name
    for name in dir(keras.activations)
    if not name.startswith("_") and name not in ("get", "serialize", "deserialize")
]
ELEMENTWISE = [name for name in KERAS_NAMES if name not in (*ALONG_AN_AXIS, "threshold")]
OPTIONS = [
    ("relu", {"negative_slope": 0.3}),
    ("relu", {"max_value": 6}),
    ("relu", {"max_value": 1.5, "negative_slope": 0.1}),
    ("relu", {"threshold": 1.5}),
    ("relu", {"threshold": -0.5, "max_value": 2.0, "negative_slope": 0.2}),
    ("leaky_relu", {"negative_slope": 0.7}),
    ("elu", {"alpha": 0.4}),
    ("celu", {"alpha": 2.5}),
    ("squareplus", {"b": 0.5}),
    ("gelu", {"approximate": True}),
    ("soft_shrink", {"threshold": 1.25}),
    ("hard_shrink", {"threshold": 0.1}),
    ("threshold", {"threshold": 0.2, "default_value": -7.0}),
]


def grid(dtype):
    """Values near, far and at the format's edges (Keras's gelu overflows above half its range)."""
    info = np.finfo(dtype)
    edges = [0.0, info.smallest_subnormal, info.tiny, info.eps, info.max / 2, np.inf, np.nan]
    kinks = [0.5, 1.0, 1.5, 2.5, 3.0, 6.0, 10.0, 50.0, 90.0, 105.0, 700.0, 750.0, 1e10, 1e30]
    positive = np.array(edges + kinks + list(np.geomspace(1e-8, 30, 60)), dtype)
    return np.concatenate([positive, -positive, np.linspace(-12, 12, 241, dtype=dtype)])


def assert_as_keras(name, x, **arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = getattr(keras.activations, name)(x, **arguments)
    before = x.copy()
    got = getattr(activations, name)(x, **arguments)
    np.testing.assert_array_equal(x, before)
    assert got.dtype == x.dtype
    assert got.shape == expected.shape
    eps = np.finfo(x.dtype).eps
    np.testing.assert_allclose(got, expected, rtol=8 * eps, atol=8 * eps)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise(name, dtype):
    assert_as_keras(name, grid(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "arguments"), OPTIONS)
def test_options(name, arguments, dtype):
    assert_as_keras(name, grid(dtype), **arguments)


@pytest.mark.parametrize("shape", [(), (1,), (0, 3), (2, 3), (2, 1, 4), (2, 3, 2, 2)])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_every_rank(name, shape, rng):
    assert_as_keras(name, np.asarray(rng.normal(size=shape), "float32"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(4,), (0, 2), (3, 8), (2, 3, 6), (2, 3, 4, 10)])
@pytest.mark.parametrize("name", ALONG_AN_AXIS)
def test_along_the_last_axis(name, shape, dtype, rng):
    for scale in (1e-3, 1.0, 30.0, 3000.0):
        assert_as_keras(name, (rng.normal(size=shape) * scale).astype(dtype))


@pytest.mark.parametrize("axis", [0, 1, -2])
@pytest.mark.parametrize("name", ALONG_AN_AXIS)
def test_along_another_axis(name, axis, rng):
    assert_as_keras(name, rng.normal(size=(4, 6, 3)), axis=axis)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_along_two_axes(name, rng):
    x = rng.normal(size=(2, 3, 4))
    flat = getattr(activations, name)(x.reshape(2, 12)).reshape(x.shape)
    np.testing.assert_allclose(getattr(activations, name)(x, axis=(1, 2)), flat, rtol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ALONG_AN_AXIS)
def test_rows_with_infinities_and_nan(name, dtype):
    edges = [np.inf, -np.inf, np.nan, 1.0, -1.0, np.finfo(dtype).max]
    rows = np.array(np.meshgrid(edges, edges, edges, [0.5])).reshape(4, -1).T
    assert_as_keras(name, rows.astype(dtype))


def test_equal_and_single_values():
    for name in ("softmax", "log_softmax", "sparsemax"):
        assert_as_keras(name, np.zeros((3, 5)))
        assert_as_keras(name, np.full((3, 1), 2.0))


def test_sparsemax_keeps_a_lone_maximum():
    np.testing.assert_array_equal(activations.sparsemax([3.0, 1.0, 0.5]), [1, 0, 0])


def test_hard_sigmoid_of_keras_2():
    x = np.float32([-np.inf, -3, -2.5, -1, 0, 1, 2.5, 3, np.inf, np.nan])
    expected = np.float32([0, 0, 0, 0.3, 0.5, 0.7, 1, 1, 1, np.nan])
    np.testing.assert_allclose(activations.hard_sigmoid_keras2(x), expected, rtol=1e-6)


def test_glu_needs_an_even_axis():
    with pytest.raises(ValueError, match=r"even; got an array of shape \(2, 3\)"):
        activations.glu(np.ones((2, 3)))


@pytest.mark.parametrize("x", [[1, -2, 3, 4], np.array([1, -2, 3, 4]), [True, False]])
@pytest.mark.parametrize("name", [name for name in KERAS_NAMES if name != "threshold"])
def test_what_is_not_floating_is_computed_in_float32(name, x):
    function = getattr(activations, name)
    got = function(x)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, function(np.array(x, "float32")))


@pytest.mark.parametrize("name", KERAS_NAMES)
def test_signature_name_and_serialization_are_those_of_keras(name):
    def arguments(function):
        parameters = inspect.signature(function).parameters.values()
        return [(p.name, p.kind, p.default) for p in parameters]

    ours, theirs = getattr(activations, name), getattr(keras.activations, name)
    assert arguments(ours) == arguments(theirs)
    assert ours.__name__ == theirs.__name__
    assert activations.get(name) is ours
    assert activations.serialize(ours) == keras.activations.serialize(theirs)
    assert activations.get(keras.saving.serialize_keras_object(theirs)) is ours


def test_names():
    assert set(activations.NAMES) == {*KERAS_NAMES, "hard_sigmoid_keras2"}


def test_get_none_and_callables():
    assert activations.get(None) is activations.linear
    assert activations.get(np.sin) is np.sin
    assert activations.get({"class_name": "function", "config": "tanh"}) is activations.tanh


@pytest.mark.parametrize(
    "identifier",
    [
        "nope",
        "ReLU",
        "",
        3,
        ["tanh"],
        {},
        {"class_name": "function", "config": "nope"},
        {"class_name": "function", "config": ["tanh"]},
        {"class_name": "function", "config": "relu", "registered_name": "mine>relu"},
        {"class_name": "Layer", "config": {"name": "relu"}},
    ],
)
def test_get_refuses_the_unknown_and_lists_the_known(identifier):
    with pytest.raises(ValueError, match=f"{re.escape(repr(identifier))}.*relu.*tanh"):
        activations.get(identifier)


def test_serialize_a_users_function():
    def mine(x):
        return x

    assert activations.serialize(mine) == keras.activations.serialize(mine)


@pytest.mark.parametrize("function", [lambda x: x, object(), None, "tanh"])
def test_serialize_refuses_what_has_no_name(function):
    with pytest.raises(ValueError, match="only a named function"):
        activations.serialize(function)
