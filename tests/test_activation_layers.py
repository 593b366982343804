"""What is particular to the activation layers."""

import keras
import numpy as np
import pytest

from fastrnn.layers import activation_layers


@pytest.mark.parametrize("axis", [-1, (0, 1)])
def test_softmax_over_what_a_mask_leaves(axis, rng):
    x = rng.normal(size=(3, 4)).astype("float32")
    mask = np.array([[1, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1]], bool)
    y = activation_layers.Softmax(axis)(x, mask=mask)
    expected = keras.layers.Softmax(axis)(x, mask=mask)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


def test_softmax_over_a_list_of_axes_as_files_have_it(rng):
    x = rng.normal(size=(3, 4, 2)).astype("float32")
    expected = activation_layers.Softmax((1, 2))(x)
    np.testing.assert_array_equal(activation_layers.Softmax([1, 2])(x), expected)


def test_softmax_refuses_a_mask_of_other_axes():
    with pytest.raises(ValueError, match=r"\(2, 4, 3\).*\(2, 4\)"):
        activation_layers.Softmax()(np.ones((2, 4, 3)), mask=np.ones((2, 4), bool))


def test_prelu_keeps_to_its_weights_shape(rng):
    layer = activation_layers.PReLU(shared_axes=[1], name="the_layer")
    layer.build((None, None, 3))
    assert [w.shape for w in layer.weights] == [(1, 3)]
    for steps in (5, 7):
        assert layer(np.ones((2, steps, 3))).shape == (2, steps, 3)
    for shape in ((2, 5, 4), (2, 3)):
        with pytest.raises(ValueError, match=r"the_layer.*\(1, 3\)"):
            layer(np.ones(shape))
    with pytest.raises(ValueError, match="known sizes"):
        activation_layers.PReLU().build((None, None, 3))


def test_the_old_name_of_the_slope():
    assert activation_layers.LeakyReLU(alpha=0.2).negative_slope == 0.2


@pytest.mark.parametrize("shape", [(2, 5, 4), (4,), (5, 1), (2, 1, 4), (1, 5, 4)])
@pytest.mark.parametrize("dtype", [bool, "float32"])
def test_masks_of_softmax(shape, dtype, rng):
    x = rng.normal(size=(2, 5, 4)).astype("float32")
    mask = (rng.random(shape) < 0.7).astype(dtype)
    expected = keras.layers.Softmax()(x, mask=mask)
    got = activation_layers.Softmax()(x, mask=mask)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_a_mask_that_does_not_fit_softmax(rng):
    with pytest.raises(ValueError, match="fits the last axes"):
        activation_layers.Softmax()(rng.normal(size=(2, 5, 4)), mask=np.ones((2, 5), bool))
