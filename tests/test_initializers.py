"""fastrnn.initializers against keras.initializers and against what they promise."""

import math
import random

import keras
import numpy as np
import pytest
from scipy import special

from fastrnn import initializers

ALIASES = ["normal", "one", "uniform", "zero"]
KERAS_NAMES = [
    name
    for name in dir(keras.initializers)
    if not name.startswith("_") and name not in ("get", "serialize", "deserialize", "Initializer")
]
SEEDED = [
    "GlorotNormal",
    "GlorotUniform",
    "HeNormal",
    "HeUniform",
    "LecunNormal",
    "LecunUniform",
    "Orthogonal",
    "RandomNormal",
    "RandomUniform",
    "TruncatedNormal",
    "VarianceScaling",
]
ARGUMENTS = [
    *[(name, {}) for name in ("Zeros", "Ones", "Constant", "Identity", "STFT")],
    *[(name, {"seed": seed}) for name in SEEDED for seed in (0, 7, 2**32 - 1)],
    ("Constant", {"value": -2.5}),
    ("Constant", {"value": 3}),
    ("Constant", {"value": np.float32(0.1)}),
    ("Constant", {"value": np.array([1.0, 2.0, 3.0])}),
    ("RandomNormal", {"mean": 1.0, "stddev": 0.3, "seed": 1}),
    ("TruncatedNormal", {"mean": -1.0, "stddev": 0.3, "seed": 1}),
    ("RandomUniform", {"minval": 2.0, "maxval": 5.0, "seed": 1}),
    ("Orthogonal", {"gain": 0.5, "seed": 1}),
    ("GlorotUniform", {"seed": 1, "input_axes": [0], "output_axes": [-1, 0]}),
    ("STFT", {"side": "imag", "window": "hamming", "scaling": "spectrum", "periodic": True}),
    ("STFT", {"window": None}),
    ("STFT", {"window": np.hanning(16), "scaling": None}),
    *[
        ("VarianceScaling", {"scale": 0.4, "mode": mode, "distribution": distribution, "seed": 3})
        for mode in ("fan_in", "fan_out", "fan_avg")
        for distribution in ("uniform", "normal", "Truncated_Normal", "untruncated_normal")
    ],
]


def shapes_for(name):
    if name == "STFT":
        return [(16, 1, 9)]
    if name == "Identity":
        return [(4, 4), (2, 3), (0, 3)]
    matrices = [(6, 3), (2, 3), (2, 2, 3), (3, 1, 4, 3)]
    return matrices if name == "Orthogonal" else [(3,), (0, 3), *matrices]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "arguments"), ARGUMENTS)
def test_values_and_config_are_those_of_keras(name, arguments, dtype):
    ours = getattr(initializers, name)(**arguments)
    theirs = getattr(keras.initializers, name)(**arguments)
    for shape in shapes_for(name):
        got = ours(shape, dtype)
        assert got.shape == shape
        assert got.dtype == dtype
        np.testing.assert_allclose(got, theirs(shape, dtype), rtol=1e-6, atol=3e-6)
    assert initializers.serialize(ours) == keras.initializers.serialize(theirs)
    again = initializers.get(keras.initializers.serialize(theirs))
    np.testing.assert_array_equal(again(shape, dtype), got)
    np.testing.assert_array_equal(ours.clone()(shape, dtype), got)


@pytest.mark.parametrize("name", KERAS_NAMES)
def test_every_name_means_what_it_means_in_keras(name):
    theirs = getattr(keras.initializers, name)
    assert getattr(initializers, name).__name__ == theirs.__name__
    for ours in (initializers.get(name), initializers.get({"class_name": name, "config": {}})):
        assert type(ours).__name__ == theirs.__name__
        assert ours.get_config() == theirs().get_config()


@pytest.mark.parametrize("name", ALIASES)
def test_aliases(name):
    assert type(initializers.get(name)).__name__ == type(keras.initializers.get(name)).__name__


def test_names():
    assert set(initializers.NAMES) == {*KERAS_NAMES, *ALIASES}


@pytest.mark.parametrize("name", SEEDED)
def test_seeds(name):
    make = getattr(initializers, name)
    shape = (20, 30)
    np.testing.assert_array_equal(make(seed=5)(shape), make(seed=5)(shape))
    assert not np.array_equal(make(seed=5)(shape), make(seed=6)(shape))
    unseeded = make()
    np.testing.assert_array_equal(unseeded(shape), unseeded(shape))
    assert not np.array_equal(unseeded(shape), make()(shape))
    state = random.getstate()
    repeated = make()(shape)
    random.setstate(state)
    np.testing.assert_array_equal(make()(shape), repeated)


# `scipy.stats` has all of these, and takes a second to import.

# The standard deviation of the normal distribution that is cut at -2 and 2.
CUT_STDDEV = 0.87962566103423978


def normal(x, stddev):
    return special.ndtr(x / stddev)


def truncated(x, stddev):
    within = np.clip(x * CUT_STDDEV / stddev, -2, 2)
    return (special.ndtr(within) - special.ndtr(-2)) / (special.ndtr(2) - special.ndtr(-2))


def even(x, stddev):
    limit = stddev * math.sqrt(3)
    return np.clip((x + limit) / (2 * limit), 0, 1)


def p_value(values, cdf):
    """How likely values of this distribution are to be as far from it: the test of Kolmogorov and Smirnov."""
    at, places = cdf(np.sort(values)), np.arange(len(values) + 1) / len(values)
    farthest = max((places[1:] - at).max(), (at - places[:-1]).max())
    return special.kolmogorov(math.sqrt(len(values)) * farthest)


@pytest.mark.parametrize(
    ("name", "arguments", "variance", "cdf"),
    [
        ("glorot_uniform", {}, 2 / 300, even),
        ("glorot_normal", {}, 2 / 300, truncated),
        ("he_uniform", {}, 2 / 100, even),
        ("he_normal", {}, 2 / 100, truncated),
        ("lecun_uniform", {}, 1 / 100, even),
        ("lecun_normal", {}, 1 / 100, truncated),
        ("variance_scaling", {"scale": 3.0, "mode": "fan_out"}, 3 / 200, truncated),
        (
            "variance_scaling",
            {"distribution": "untruncated_normal"},
            1 / 100,
            normal,
        ),
        ("random_uniform", {}, 0.1**2 / 12, even),
        ("random_normal", {}, 0.05**2, normal),
        ("truncated_normal", {}, (0.05 * CUT_STDDEV) ** 2, truncated),
    ],
)
def test_distributions(name, arguments, variance, cdf):
    values = getattr(initializers, name)(seed=11, **arguments)((100, 200)).ravel()
    np.testing.assert_allclose(values.var(), variance, rtol=0.05)
    stddev = math.sqrt(variance)
    assert p_value(values, lambda x: cdf(x, stddev)) > 1e-3


@pytest.mark.parametrize(
    ("shape", "fan_in"), [((), 1), ((50,), 50), ((50, 9), 50), ((3, 5, 50, 9), 750)]
)
def test_fan_in_of_a_shape(shape, fan_in):
    values = initializers.LecunUniform(seed=2)(shape)
    limit = math.sqrt(3 / fan_in)
    assert np.abs(values).max() <= limit
    if values.size > 40:
        assert np.abs(values).max() > 0.9 * limit


@pytest.mark.parametrize("shape", [(8, 8), (5, 9), (9, 5), (3, 2, 4), (1, 6)])
def test_orthogonal_is_orthogonal(shape):
    matrix = initializers.Orthogonal(gain=1.5, seed=3)(shape, "float64").reshape(-1, shape[-1])
    rows, columns = matrix.shape
    gram = matrix @ matrix.T if rows < columns else matrix.T @ matrix
    np.testing.assert_allclose(gram, 2.25 * np.eye(min(rows, columns)), atol=1e-12)


def test_identity_keeps_its_gain():
    described = initializers.serialize(initializers.Identity(gain=2.0))
    np.testing.assert_array_equal(initializers.get(described)((2, 2)), 2 * np.eye(2))


def test_dtype_defaults_to_float32():
    for initializer in map(initializers.get, ("zeros", "constant", "orthogonal", "he_normal")):
        assert initializer((2, 2)).dtype == np.float32
        assert initializer((2, 2), None).dtype == np.float32


@pytest.mark.parametrize(
    "description",
    [
        {"class_name": "Constant", "config": {"value": 2.0}},
        {"class_name": "constant", "config": {"value": 2.0, "dtype": "float32"}},
        {"class_name": "Constant", "config": {"value": 2.0}, "shared_object_id": 4},
        {
            "module": "keras.initializers",
            "class_name": "Constant",
            "config": {"value": 2.0},
            "registered_name": None,
        },
    ],
)
def test_config_forms(description):
    before = repr(description)
    np.testing.assert_array_equal(initializers.get(description)((2,)), [2, 2])
    assert repr(description) == before


def test_a_seed_generator_in_a_config_gives_its_seed():
    theirs = keras.initializers.GlorotUniform(seed=keras.random.SeedGenerator(9))
    description = keras.initializers.serialize(theirs)
    ours = initializers.get(description)
    assert initializers.serialize(ours) == description
    np.testing.assert_array_equal(ours((3, 4)), theirs((3, 4)))


def test_arrays():
    values = np.arange(6.0).reshape(2, 3)
    initializer = initializers.get(values)
    got = initializer((2, 3))
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, values)
    values[:] = 0
    got[:] = 0
    assert initializer((2, 3), "float64")[1, 2] == 5
    with pytest.raises(ValueError, match=r"has shape \(2, 3\).*weight has shape \(3, 2\)"):
        initializer((3, 2))


def test_callables_classes_and_none():
    def mine(shape, dtype=None):
        return np.ones(shape, dtype)

    assert initializers.get(mine) is mine
    assert isinstance(initializers.get(initializers.Ones), initializers.Ones)
    assert initializers.get(None) is None
    assert initializers.serialize(mine) == keras.initializers.serialize(mine)
    assert initializers.serialize(None) is None
    assert initializers.serialize("zeros") == "zeros"


def test_a_users_class():
    class Mine(initializers.Initializer):
        pass

    class KerasMine(keras.initializers.Initializer):
        pass

    KerasMine.__name__ = "Mine"
    described = initializers.serialize(Mine())
    assert described == keras.initializers.serialize(KerasMine())
    with pytest.raises(ValueError, match=r"unknown initializer.*Mine"):
        initializers.get(described)
    with pytest.raises(NotImplementedError, match="Mine does not say"):
        Mine()((2,))


@pytest.mark.parametrize(
    ("identifier", "message"),
    [
        ("nope", "unknown initializer 'nope'.*glorot_uniform"),
        ("Zeros ", "unknown initializer 'Zeros '"),
        (3, "cannot interpret the initializer 3"),
        ([1.0], "cannot interpret"),
        ({}, "unknown initializer None"),
        ({"class_name": ["Zeros"]}, "unknown initializer"),
        ({"class_name": "Zeros", "module": "mine"}, "unknown initializer.*mine"),
        ({"class_name": "Zeros", "registered_name": "mine>Zeros"}, "unknown initializer.*mine>"),
        ({"class_name": "Zeros", "config": {"gain": 2}}, "Zeros cannot be made from.*gain"),
    ],
)
def test_get_refuses(identifier, message):
    with pytest.raises(ValueError, match=message):
        initializers.get(identifier)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("GlorotUniform", {"seed": "a"}, "seed must be an integer or None, got 'a'"),
        ("GlorotUniform", {"seed": 1.5}, "seed must be an integer"),
        ("GlorotUniform", {"seed": -1}, "seed must be between 0 and"),
        ("RandomNormal", {"stddev": math.nan}, "stddev must be finite"),
        ("RandomUniform", {"maxval": math.inf}, "maxval must be finite"),
        ("TruncatedNormal", {"mean": math.nan}, "mean must be finite"),
        ("VarianceScaling", {"scale": 0.0}, "scale must be positive"),
        ("VarianceScaling", {"scale": math.inf}, "scale must be finite"),
        ("VarianceScaling", {"mode": "fan"}, "mode must be one of 'fan_in'.*got 'fan'"),
        ("VarianceScaling", {"distribution": "cauchy"}, "distribution must be one of"),
        ("STFT", {"side": "left"}, "side must be one of 'real', 'imag'"),
        ("STFT", {"scaling": "loud"}, "scaling must be one of"),
        ("STFT", {"window": "nope"}, "window"),
    ],
)
def test_constructors_refuse(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        getattr(initializers, name)(**arguments)


@pytest.mark.parametrize(
    ("initializer", "shape", "message"),
    [
        (initializers.Identity(), (3,), r"2 numbers, got \(3,\)"),
        (initializers.Orthogonal(), (3,), r"at least 2 dimensions, got \(3,\)"),
        (initializers.STFT(window=np.ones(4)), (5, 1, 3), r"window of shape \(5,\).*\(4,\)"),
    ],
)
def test_impossible_shapes(initializer, shape, message):
    with pytest.raises(ValueError, match=message):
        initializer(shape)
