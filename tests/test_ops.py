"""The functions of `fastrnn.ops` against those of `keras.ops`."""

import inspect

import keras
import numpy as np
import pytest

import fastrnn
from fastrnn import ops
from fastrnn._nested import flatten
from fastrnn._operation import OPERATIONS
from tests.operation_calls import CALLS, REDUCTIONS, UNARY, camel

FUNCTIONS = [
    name
    for name, value in vars(ops).items()
    if inspect.isfunction(value) and not name.startswith("_") and value.__module__ == ops.__name__
]


def test_every_operation_is_called_here():
    assert set(CALLS) | {"Conj"} == set(OPERATIONS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_arguments_are_those_of_keras(name):
    def arguments(module):
        parameters = inspect.signature(getattr(module, name)).parameters.values()
        return [(p.name, p.default) for p in parameters if p.kind is not p.VAR_KEYWORD]

    ours, theirs = arguments(ops), arguments(keras.ops)
    assert [one for one in ours if one[0] != "rms_scaling"] == theirs


WHOLE_NUMBERS = sorted(
    set(CALLS)
    # where Keras's NumPy backend computes whole numbers as such, or as float64, and TensorFlow refuses them
    - set(map(camel, UNARY[UNARY.index("erf") : UNARY.index("ravel")]))
    - {
        "Arange",
        "BatchNorm",
        "CDist",
        "DotProductAttention",
        "FFT",
        "FFT2",
        "Glu",
        "LayerNorm",
        "Logsumexp",
    }
    - {"Moments", "Normalize", "RFFT", "RMSNorm", "Reciprocal", "Rsqrt", "Threshold", "TopK"}
)
CASES = [
    *[(name, dtype) for name in CALLS for dtype in ("float32", "float64")],
    *[(name, "int32") for name in WHOLE_NUMBERS],
    *[
        (camel(name), "bool")
        for name in ("add", "multiply", "logical_not", "where", *REDUCTIONS[:-1])
    ],
]


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_function_is_that_of_keras(name, dtype, rng):
    x = (rng.normal(size=(3, 5, 3)) * 2).astype(dtype)
    try:
        with np.errstate(all="ignore"):
            expected = CALLS[name](keras.ops, x)
    except (TypeError, ValueError, np.exceptions.DTypePromotionError):
        assert dtype in ("bool", "int32")  # which some functions do not take
        return
    with np.errstate(all="ignore"):
        got = CALLS[name](ops, x)
    several = isinstance(expected, (list, tuple))
    assert isinstance(got, (list, tuple)) == several
    pairs = zip(got, expected, strict=True) if several else [(got, expected)]
    for mine, theirs in pairs:
        mine, theirs = np.asarray(mine), np.asarray(theirs)
        if (name, dtype) not in {("Sparsemax", "float32"), ("FFT", "float64"), ("FFT2", "float64")}:
            assert mine.dtype == theirs.dtype
        assert mine.shape == theirs.shape
        np.testing.assert_allclose(mine, theirs, rtol=2e-5, atol=1e-5)


def test_new_arrays_are_those_of_keras():
    for name, args in {
        "zeros": ((2, 3),),
        "ones": ((2,), "int32"),
        "full": ((2,), 3),
        "eye": (3, 4, 1),
        "identity": (3,),
        "tri": (3, 4, -1),
        "arange": (1, 7, 2),
        "linspace": (0, 1, 5),
        "one_hot": ([0, 2, -1], 3),
        "convert_to_tensor": ([1.5, 2.0],),
        "array": ([1, 2],),
    }.items():
        mine, theirs = getattr(ops, name)(*args), np.asarray(getattr(keras.ops, name)(*args))
        assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape), name
        np.testing.assert_array_equal(mine, theirs)
    assert ops.empty((2, 3), dtype="int64").dtype == np.int64


def test_facts_about_arrays():
    x = np.zeros((2, 3), np.float32)
    assert (ops.shape(x), ops.ndim(x), ops.size(x), ops.dtype(x)) == ((2, 3), 2, 6, "float32")
    assert ops.is_tensor(x)
    assert not ops.is_tensor([0.0])
    assert ops.convert_to_numpy([1.0]).dtype == np.float32


def test_control_flow_is_that_of_keras():
    for o in (ops, keras.ops):
        assert o.cond(np.bool_(True), lambda: 1, lambda: 2) == 1
        assert o.switch(1, [lambda x: x, lambda x: -x], 3) == -3
        assert o.fori_loop(0, 4, lambda i, value: value + i, 1) == 7
        assert o.while_loop(lambda i: i < 5, lambda i: i + 2, 0) == 6
        assert tuple(
            o.while_loop(
                lambda i, j: i < 5, lambda i, j: (i + 2, j * 2), (0, 1), maximum_iterations=2
            )
        ) == (4, 4)


def test_loops_are_those_of_keras(rng):
    x = rng.normal(size=(4, 3)).astype("float32")

    def step(carry, part):
        return carry + part, {"twice": part * 2, "carry": carry}

    for reverse in (False, True):
        (carry, made), (wanted, theirs) = (
            o.scan(step, np.zeros(3, "float32"), x, reverse=reverse) for o in (ops, keras.ops)
        )
        np.testing.assert_allclose(carry, wanted, rtol=1e-6)
        for key, value in theirs.items():
            np.testing.assert_allclose(made[key], value, rtol=1e-6)
    assert ops.scan(lambda carry, _: (carry + 1, None), 0, length=3) == (3, None)
    for name in ("map", "vectorized_map"):
        got = getattr(ops, name)(lambda row: row @ x.T, x)
        np.testing.assert_allclose(got, getattr(keras.ops, name)(lambda row: row @ x.T, x))


def test_other_places_of_the_functions():
    assert ops.nn.relu is ops.relu
    assert ops.numpy.mean is ops.mean
    assert ops.linalg.norm is ops.norm


def test_python_numbers_do_not_widen():
    x = np.ones(3, np.float32)
    assert ops.add(x, 2.5).dtype == np.float32
    assert ops.multiply([1.0, 2.0], 2).dtype == np.float32
    assert ops.add(1, 2).dtype == np.int32
    assert ops.cumsum(x, dtype="float64").dtype == np.float64
    assert ops.cast(x, "int64").dtype == np.int64


@pytest.mark.parametrize("name", CALLS)
def test_a_model_computes_what_was_recorded(name, rng):
    x = rng.normal(size=(3, 5, 3)).astype("float32")
    with np.errstate(all="ignore"):
        expected = CALLS[name](ops, x)
    inputs = fastrnn.Input((5, 3))
    made = CALLS[name](ops, inputs)
    assert isinstance(made, (list, tuple)) == isinstance(expected, (list, tuple))
    got = flatten(fastrnn.Model(inputs, flatten(made))(x))
    for mine, wanted in zip(got, flatten(expected), strict=True):
        assert (mine.dtype, mine.shape) == (wanted.dtype, wanted.shape)
        np.testing.assert_allclose(mine, wanted, rtol=1e-6, atol=1e-6)


def test_facts_about_symbolic_tensors():
    x = fastrnn.Input((5, 3))
    assert ops.shape(x) == (None, 5, 3)
    assert ops.ndim(x) == 3
    assert ops.dtype(x) == "float32"
