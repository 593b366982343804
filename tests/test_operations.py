"""The operations that Keras's functional API records, loaded with the model around them."""

import pickle
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

import fastrnn
from fastrnn import plan
from fastrnn.layers.operations import OPERATIONS
from fastrnn.saving.config import read_layer
from tests.operation_calls import CALLS

NOT_RECORDED = {"Arange", "Norm"}  # which Keras's NumPy backend cannot run in a model
WITHOUT_THE_RIGHT_SHAPE = {"Kron", "Slogdet"}  # in Keras, before there are numbers
AT_ONCE = 8
NAMES = sorted(set(CALLS) - NOT_RECORDED)


@pytest.fixture
def x(rng):
    return rng.normal(size=(4, 5, 2)).astype(np.float32)


def check(model, x, path):
    with np.errstate(all="ignore"):
        expected = model(x)
    model.save(path)
    for ours in (fastrnn.from_keras(model), fastrnn.load_model(path)):
        got = ours(x)
        assert isinstance(got, list) == isinstance(expected, list)
        pairs = zip(got, expected, strict=True) if isinstance(got, list) else [(got, expected)]
        for mine, theirs in pairs:
            theirs = np.asarray(theirs)
            assert mine.shape == theirs.shape
            assert mine.dtype == theirs.dtype or theirs.dtype == np.float64  # which is Keras's slip
            np.testing.assert_allclose(mine, theirs, rtol=2e-5, atol=1e-5)
    return ours


@pytest.mark.parametrize("names", [NAMES[i : i + AT_ONCE] for i in range(0, len(NAMES), AT_ONCE)])
def test_operations_in_a_model(names, x, tmp_path):
    inputs = keras.Input((5, 2))
    h = keras.layers.GRU(3, return_sequences=True)(inputs)
    outputs = []
    for name in names:
        made = CALLS[name](ops, h)
        outputs += made if isinstance(made, (list, tuple)) else [made]
    ours = check(keras.Model(inputs, outputs), x, tmp_path / "m.keras")
    if not WITHOUT_THE_RIGHT_SHAPE.intersection(names):
        shapes = ours.output_shape if len(outputs) > 1 else [ours.output_shape]
        assert shapes == [tuple(output.shape) for output in outputs]


def test_comparisons_make_masks(x, tmp_path):
    inputs = keras.Input((5, 2))
    mask = ops.logical_or(inputs[:, :, 0] > 0.2, ops.logical_not(inputs[:, :, 1] > 0))
    model = keras.Model(inputs, keras.layers.LSTM(3)(inputs, mask=mask))
    check(model, np.abs(x), tmp_path / "m.keras")


def test_sizes_that_are_not_known(rng, tmp_path):
    sequence, weights = keras.Input((None, 3)), keras.Input((5,))
    weighted = ops.multiply(sequence, ops.expand_dims(weights, -1))
    rows = ops.reshape(sequence, (-1, 3))
    model = keras.Model([sequence, weights], [weighted, ops.sum(weighted, axis=1), rows])
    arrays = [rng.normal(size=shape).astype("float32") for shape in ((4, 5, 3), (4, 5))]
    ours = check(model, arrays, tmp_path / "m.keras")
    assert ours.output_shape == [(None, 5, 3), (None, 3), (None, 3)]


def numbers(*shape):
    return np.random.default_rng(3).normal(size=shape).astype("float32")


OF_ONE_LENGTH = {
    "reshape twice": (
        lambda x: ops.reshape(keras.layers.Dense(4)(ops.reshape(x, (-1, 3))), (-1, 6, 4)),
        (2, 6, 3),
    ),
    "a layer behind": (lambda x: keras.layers.GRU(3)(ops.reshape(x, (-1, 2, 9))), (2, 6, 3)),
    "multiples of 5": (lambda x: ops.reshape(x, (-1, 5, 3)), (5, 7, 3)),
    "multiples of 11": (
        lambda x: ops.reshape(ops.transpose(x, (1, 0, 2)), (-1, 11, 3)),
        (11, 6, 3),
    ),
    "all sizes": (lambda x: ops.reshape(x, (2, 6, 3)), (2, 6, 3)),
    "one size": (lambda x: ops.reshape(x, (36,)), (2, 6, 3)),
    "other sizes": (lambda x: ops.reshape(x, (4, 9)), (2, 6, 3)),
    "parts of a batch": (lambda x: ops.split(ops.reshape(x, (-1, 3)), 7, axis=0), (7, 6, 3)),
    "parts": (lambda x: ops.split(x, 5, axis=1), (2, 10, 3)),
    "constant steps": (lambda x: ops.add(x, numbers(6, 3)), (2, 6, 3)),
    "constant batch": (lambda x: ops.add(x, numbers(2, 1, 3)), (2, 6, 3)),
    "constant batch and steps": (lambda x: ops.add(x, numbers(2, 6, 3)), (2, 6, 3)),
    "product over steps": (lambda x: ops.matmul(numbers(2, 5, 6), x), (2, 6, 3)),
    "einsum over steps": (lambda x: ops.einsum("btf,ts->bsf", x, numbers(6, 4)), (2, 6, 3)),
    "joined": (lambda x: ops.concatenate([x, numbers(2, 6, 1)], axis=-1), (2, 6, 3)),
    "a mask": (
        lambda x: keras.layers.GRU(3)(x, mask=ops.logical_and(numbers(6) > 0, x[:, :, 0] > 0)),
        (2, 6, 3),
    ),
    "a far step": (lambda x: x[:, 20], (2, 21, 3)),
    "a farther step": (lambda x: x[:, 1000], (2, 1001, 3)),
    "a step from the end": (lambda x: x[:, -100], (2, 101, 3)),
    "a row": (lambda x: x[5], (8, 7, 3)),
    "far steps": (lambda x: ops.take(x, [0, 20], axis=1), (2, 21, 3)),
    "a late slice": (lambda x: ops.slice(x, (0, 30, 0), (2, 3, 3)), (2, 40, 3)),
    "best of many": (lambda x: ops.top_k(x[:, :, 0], 15)[0], (2, 20, 3)),
}
"""Operations that only take some lengths, and an array that they take."""


@pytest.mark.parametrize("kind", OF_ONE_LENGTH)
def test_lengths_that_the_model_does_not_fix(kind, tmp_path):
    make, shape = OF_ONE_LENGTH[kind]
    inputs = keras.Input((None, 3))
    outputs = make(inputs)
    ours = check(keras.Model(inputs, outputs), numbers(*shape), tmp_path / "m.keras")
    for mine, theirs in zip(
        np.atleast_2d(np.array(ours.output_shape, object)), keras.tree.flatten(outputs), strict=True
    ):
        told = zip(mine, theirs.shape, strict=True)
        assert all(b is None or a == b for a, b in told), (ours.output_shape, outputs)


def test_numbers_without_axes(x, tmp_path):
    inputs = keras.Input((5, 2))
    total = ops.sum(inputs)
    check(keras.Model(inputs, [ops.sqrt(total * total), inputs / total]), x, tmp_path / "m.keras")


def test_files_without_modules_hold_them_too(x, tmp_path):
    inputs = keras.Input((5, 2))
    first, second = ops.split(keras.layers.LSTM(4, return_sequences=True)(inputs), 2, axis=-1)
    model = keras.Model(inputs, ops.concatenate([first, ops.clip(second, 0, 0.1)], axis=1))
    check(model, x, tmp_path / "m.h5")


def test_a_norm_of_a_file(x):
    inputs = keras.Input((5, 2))
    model = keras.Model(inputs, ops.norm(inputs, axis=(1, 2)))
    got = fastrnn.from_keras(model)(x)
    np.testing.assert_allclose(got, np.linalg.norm(x, axis=(1, 2)), rtol=1e-6)


def test_every_class_of_keras_can_be_named():
    from keras.src.ops import core, linalg, math, nn, numpy

    names = {name for module in (core, linalg, math, nn, numpy) for name in vars(module)}
    assert set(OPERATIONS) - names == {"Conj"} - names


def test_arguments_that_do_not_fit(x):
    clip = OPERATIONS["Clip"](x_min=0, x_max=1)
    with pytest.raises(ValueError, match="too many"):
        clip._arguments([1, 2], {})


@pytest.mark.parametrize(
    "name",
    [
        "arithmetic",
        "shapes",
        "reductions",
        "activations",
        "choices",
        "attention",
        "attention_archive",
    ],
)
def test_models_of_keras_2(name, tmp_path):
    with zipfile.ZipFile(Path(__file__).parent / "data" / "keras2_operations.zip") as archive:
        (model,) = [one for one in archive.namelist() if one in (f"{name}.h5", f"{name}.keras")]
        path = archive.extract(model, tmp_path)
        arrays = np.load(archive.extract(f"{name}.npz", tmp_path))
    got = fastrnn.load_model(path)([arrays["in0"], arrays["in1"]])
    assert len(got) == len(arrays) - 2
    for i, mine in enumerate(got):
        theirs = arrays[f"out{i}"]
        assert mine.dtype == theirs.dtype
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5, err_msg=str(i))


def test_a_function_of_tensorflow_that_is_not_known(tmp_path):
    config = {"name": "resize", "function": "image.resize"}
    with pytest.raises(fastrnn.UnsupportedLayerError, match=r"'tf\.image\.resize' is not supp"):
        read_layer({"class_name": "TFOpLambda", "config": config}, (2, 12), {})


def test_giant_arrays_are_not_tried_out():
    builder = plan.Builder()
    with pytest.raises(ValueError, match=r"shape \(2, 1073741824\).*at most \d+ numbers"):
        OPERATIONS["Exp"]().lower_call(builder, [builder.value((None, 1 << 30))], {})


def test_a_model_with_operations_is_pickled():
    x = fastrnn.Input((3,))
    model = fastrnn.Model(x, [x * 2.0 + 1.0, fastrnn.ops.mean(x, axis=-1)])
    array = np.ones((2, 3), "float32")
    for got, expected in zip(pickle.loads(pickle.dumps(model))(array), model(array), strict=True):
        np.testing.assert_array_equal(got, expected)
