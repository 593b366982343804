"""What is particular to the pooling layers."""

import keras
import numpy as np
import pytest

from fastrnn.layers import pooling


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_averages_over_the_steps_of_a_mask(keepdims, dtype, rng):
    x = rng.normal(size=(4, 5, 3)).astype(dtype)
    x[1, 2] = np.nan
    mask = rng.random((4, 5)) < 0.6
    mask[0], mask[1, 2], mask[2] = True, False, False
    theirs = keras.layers.GlobalAveragePooling1D(keepdims=keepdims, dtype=dtype)
    y = pooling.GlobalAveragePooling1D(keepdims=keepdims, dtype=dtype)(x, mask=mask)
    with np.errstate(invalid="ignore"):
        expected = np.asarray(theirs(x, mask=mask))
    assert y.dtype == dtype
    assert np.isnan(y[2]).all()
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("name", ["MaxPooling1D", "AveragePooling1D"])
def test_what_is_no_number_stays_in_its_windows(name, padding):
    x = np.array([1, 2, np.nan, 4, np.inf, -np.inf, 7, -np.inf], np.float32).reshape(1, 8, 1)
    options = {"pool_size": 2, "strides": 1, "padding": padding}
    y = getattr(pooling, name)(**options)(x)
    np.testing.assert_array_equal(y, getattr(keras.layers, name)(**options)(x))


def test_an_empty_batch():
    assert pooling.MaxPooling2D(2, padding="same")(np.ones((0, 3, 3, 2))).shape == (0, 2, 2, 2)
    assert pooling.GlobalAveragePooling1D()(np.ones((0, 3, 2))).shape == (0, 2)


def test_the_mask_of_steps_that_come_last(rng):
    x = rng.normal(size=(2, 3, 5)).astype("float32")
    mask = np.array([[1, 1, 0, 1, 0], [1, 0, 0, 0, 0]], bool)
    options = {"data_format": "channels_first"}
    expected = keras.layers.GlobalAveragePooling1D(**options)(x, mask=mask)
    got = pooling.GlobalAveragePooling1D(**options)(x, mask=mask)
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match=r"mask of shape \(2, 5\)"):
        pooling.GlobalAveragePooling1D(**options)(x, mask=mask[:, :3])


@pytest.mark.parametrize("name", ["MaxPooling1D", "GlobalMaxPooling1D"])
def test_shapes_of_other_ranks(name):
    layer = getattr(pooling, name)(name="the_layer")
    for shape in [(2, 4), (2, 9, 4, 1)]:
        with pytest.raises(ValueError, match=r"the_layer.*3 axes"):
            layer.compute_output_shape(shape)


@pytest.mark.parametrize("data_format", ["Channels_First", "CHANNELS_LAST", "other"])
def test_case_of_the_data_format(data_format):
    made = []
    for package in (keras.layers, pooling):
        try:
            made.append(package.MaxPooling2D(data_format=data_format).data_format)
        except ValueError:
            made.append(ValueError)
    assert made[0] == made[1]
