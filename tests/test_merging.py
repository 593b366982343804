"""Merging layers against those of Keras."""

import inspect

import keras
import numpy as np
import pytest
from keras.src import backend

from fastrnn import plan
from fastrnn.layers import merging

ELEMENTWISE = ["Add", "Multiply", "Average", "Maximum", "Minimum"]
NAMES = [*ELEMENTWISE, "Subtract", "Concatenate", "Dot"]
SAME = [(2, 5, 4), (2, 5, 4)]
CASES = [
    *[(name, {}, SAME) for name in (*ELEMENTWISE, "Subtract")],
    *[(name, {}, [(2, 5, 4), (2, 1, 4), (2, 5, 1)]) for name in ELEMENTWISE],
    *[(name, {}, [(2, 4), (2, 3, 5, 4), (2, 5, 4)]) for name in ELEMENTWISE],
    *[(name, {}, [(2, 4)]) for name in ELEMENTWISE],
    ("Subtract", {}, [(2, 4), (2, 5, 4)]),
    ("Concatenate", {}, [(2, 5, 4), (2, 5, 3), (2, 5, 1)]),
    ("Concatenate", {"axis": 1}, [(2, 5, 4), (2, 2, 4)]),
    ("Concatenate", {"axis": -3}, [(2, 5, 3, 4), (2, 1, 3, 4)]),
    ("Concatenate", {"axis": 0}, SAME),
    ("Dot", {"axes": 1}, [(2, 4), (2, 4)]),
    ("Dot", {"axes": 1}, SAME),
    ("Dot", {"axes": -1, "normalize": True}, [(2, 5, 4), (2, 3, 4)]),
    ("Dot", {"axes": (1, 2)}, [(2, 5, 4), (2, 3, 5)]),
    ("Dot", {"axes": [2, 1], "normalize": True}, [(2, 5, 4), (2, 4)]),
    ("Dot", {"axes": (1, -2)}, [(2, 4), (2, 4, 3)]),
    ("Dot", {"axes": (2, 3)}, [(2, 3, 5, 4), (2, 6, 3, 5)]),
]


def batches(rng, shapes):
    return [rng.normal(size=shape).astype("float32") for shape in shapes]


@pytest.mark.parametrize("name", NAMES)
def test_arguments_are_those_of_keras(name):
    def arguments(module):
        parameters = inspect.signature(getattr(module, name)).parameters.values()
        return [(p.name, p.default) for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]

    assert arguments(merging) == arguments(keras.layers)


@pytest.mark.parametrize(("name", "arguments", "shapes"), CASES)
def test_output_is_that_of_keras(name, arguments, shapes, rng):
    ours = getattr(merging, name)(**arguments, name="mine")
    theirs = getattr(keras.layers, name)(**arguments, name="mine")
    assert ours.get_config() == theirs.get_config()
    assert type(ours).from_config(ours.get_config()).get_config() == ours.get_config()
    assert ours.supports_masking == theirs.supports_masking
    x = batches(rng, shapes)
    got, wanted = ours(x), np.asarray(theirs(x))
    assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    for first_call in (ours, getattr(merging, name)(**arguments)):
        np.testing.assert_array_equal(first_call(tuple(x)), got)
    for first in (2, None):
        given = [(first, *shape[1:]) for shape in shapes]
        wanted = theirs.compute_output_shape(given)
        if name == "Concatenate" and arguments.get("axis") == 0 and first is None:
            wanted = (None, *wanted[1:])
        assert ours.compute_output_shape(given) == tuple(wanted)


MASKED = [
    *[(name, {}, SAME) for name in (*ELEMENTWISE, "Subtract")],
    *[(name, {}, [*SAME, (2, 5, 4)]) for name in ELEMENTWISE],
    *[(name, {}, [(2, 5, 4), (2, 4)]) for name in ELEMENTWISE],
    ("Concatenate", {}, [(2, 5, 4), (2, 5, 3)]),
    ("Concatenate", {"axis": 1}, [(2, 5, 4), (2, 3, 4)]),
    ("Concatenate", {"axis": 0}, SAME),
    ("Dot", {"axes": 2}, SAME),
]


@pytest.mark.parametrize("which", [[True, True, True], [True, False, True], [False, True, True]])
@pytest.mark.parametrize(("name", "arguments", "shapes"), MASKED)
def test_masks_are_those_of_keras(name, arguments, shapes, which, rng):
    arrays = batches(rng, shapes)
    masks = [
        rng.random(shape[:2]) < 0.5 if given and len(shape) > 2 else None
        for shape, given in zip(shapes, which, strict=False)
    ]
    for array, mask in zip(arrays, masks, strict=True):
        if mask is not None:
            backend.set_keras_mask(array, mask)
    theirs = getattr(keras.layers, name)(**arguments)
    wanted = theirs(arrays)
    wanted_mask = backend.get_keras_mask(wanted)
    ours = getattr(merging, name)(**arguments)
    np.testing.assert_allclose(ours(arrays, mask=masks), wanted, rtol=1e-5, atol=1e-5)

    builder = plan.Builder()
    buffers = [None if mask is None else builder.mask() for mask in masks]
    values = [builder.value(s, mask) for s, mask in zip(shapes, buffers, strict=True)]
    mask = ours.lower(builder, values).mask
    if mask is None:
        assert wanted_mask is None or wanted_mask.all()
        return
    inputs = [value.buffer for value in values] + [b for b in buffers if b is not None]
    run = plan.Executable(builder, inputs, [plan.Value(mask, ())])
    (got,) = run([*arrays, *(mask for mask in masks if mask is not None)])
    assert got.dtype == np.bool_
    np.testing.assert_array_equal(got, wanted_mask)


def test_one_mask_for_all_inputs_stays_it():
    builder = plan.Builder()
    mask = builder.mask()
    values = [builder.value((None, 5, 4), mask) for _ in range(2)]
    for layer in (merging.Add(), merging.Maximum(), merging.Concatenate()):
        assert layer.lower(builder, values).mask == mask


@pytest.mark.parametrize("name", NAMES)
def test_float64(name, rng):
    layer = getattr(merging, name)(**({"axes": 2} if name == "Dot" else {}), dtype="float64")
    x = [rng.normal(size=(2, 5, 4)) for _ in range(2)]
    mask = [np.arange(10).reshape(2, 5) % 2, None]
    assert layer(x).dtype == layer(x, mask=mask).dtype == np.float64


@pytest.mark.parametrize(
    ("name", "arguments", "shapes", "told"),
    [
        ("Add", {}, [(2, 5, 4), (2, 5, 3)], ["(2, 5, 4)", "(2, 5, 3)"]),
        ("Add", {}, [(2, 4), (3, 4)], ["batch", "(3, 4)"]),
        ("Multiply", {}, [], ["at least 1", "0"]),
        ("Subtract", {}, [(2, 4)], ["2 inputs", "(2, 4)"]),
        ("Subtract", {}, [(2, 4)] * 3, ["2 inputs", "3"]),
        ("Concatenate", {}, [(2, 4, 3), (2, 5, 3)], ["axis -1", "(2, 5, 3)"]),
        ("Concatenate", {"axis": 3}, [(2, 4, 3), (2, 4, 3)], ["axis 3"]),
        ("Concatenate", {}, [(2, 4, 3), (2, 3)], ["(2, 3)"]),
        ("Dot", {"axes": 1}, [(2, 4), (2, 5)], ["1", "(2, 5)"]),
        ("Dot", {"axes": 0}, [(2, 4), (2, 4)], ["0"]),
        ("Dot", {"axes": 2}, [(2, 4), (2, 4)], ["2"]),
    ],
)
def test_inputs_that_do_not_fit(name, arguments, shapes, told):
    layer = getattr(merging, name)(**arguments, name="the_layer")
    with pytest.raises(ValueError, match="the_layer") as caught:
        layer([np.ones(shape) for shape in shapes])
    assert all(part in str(caught.value) for part in told)
    assert not layer.built


def test_what_is_no_list_of_inputs_is_refused():
    with pytest.raises(ValueError, match=r"list.*ndarray"):
        merging.Add()(np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"list.*\(2, 3\)"):
        merging.Add().build((2, 3))
    with pytest.raises(ValueError, match="2 masks"):
        merging.Add()([np.ones((2, 3))] * 2, mask=[None])
    for axes in ("1", (1, 2, 3), [1.5, 1]):
        with pytest.raises(ValueError, match="axes"):
            merging.Dot(axes)


def test_masks_of_keras_2_are_joined_where_all_count(rng):
    """As Keras 2's _Merge.compute_mask and Concatenate.compute_mask did; its files mean that."""
    x = rng.normal(size=(2, 3, 5, 4)).astype(np.float32)
    masks = rng.random((2, 3, 5)) > 0.3
    for layer in (
        merging.Concatenate(mask_rule="all"),
        merging.Multiply(mask_rule="all"),
        merging.Add(mask_rule="all"),
    ):
        builder = plan.Builder()
        values = [builder.value((None, 5, 4), builder.mask()) for _ in x]
        y = layer.lower(builder, values)
        inputs = [value.buffer for value in values] + [value.mask for value in values]
        run = plan.Executable(builder, inputs, [y, plan.Value(y.mask, ())])
        output, mask = run([*x, *masks])
        np.testing.assert_array_equal(mask, masks[0] & masks[1])
        np.testing.assert_array_equal(output, layer(list(x)))


def test_a_layer_called_again_with_inputs_that_are_broadcast(rng):
    layer = merging.Add()
    x = rng.normal(size=(2, 4)).astype("float32")
    for y in (x, x[:, :1], x[:, :1], x):
        np.testing.assert_array_equal(layer([x, y]), x + y)


def test_a_layer_that_derives_from_one(rng):
    class Twice(merging.Add):
        def call(self, xs):
            return 2 * super().call(xs)

    layer = Twice()
    x = rng.normal(size=(2, 4)).astype("float32")
    for _ in range(2):
        np.testing.assert_array_equal(layer([x, x]), 4 * x)
