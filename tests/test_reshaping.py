"""What is particular to the reshaping and noise layers."""

import numpy as np
import pytest

import fastrnn
from fastrnn.layers import noise, reshaping


@pytest.mark.parametrize("interpolation", ["bicubic", "lanczos3", "lanczos5", "nothing"])
def test_other_interpolations_are_refused(interpolation):
    with pytest.raises(fastrnn.UnsupportedLayerError, match=f"bilinear.*{interpolation}"):
        reshaping.UpSampling2D(interpolation=interpolation)


def test_a_reshape_to_an_unknown_size_in_a_files_form():
    layer = reshaping.Reshape((None, 2))
    assert layer(np.ones((3, 8))).shape == (3, 4, 2)
    assert layer.get_config()["target_shape"] == (None, 2)


@pytest.mark.parametrize("name", ["AlphaDropout", "GaussianDropout", "GaussianNoise"])
def test_noise_is_for_training(name):
    cls, x = getattr(noise, name), np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(cls(0.0)(x, training=True), x)
    with pytest.raises(ValueError, match="training"):
        cls(0.5)(x, training=True)


def test_activity_regularization_is_the_same_in_training():
    x = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(noise.ActivityRegularization(l1=1)(x, training=True), x)
