"""What is particular to the reshaping and noise layers."""

import keras
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


MOVING = {
    "Flatten": ({}, (3, 2)),
    "Reshape": ({"target_shape": (2, 3)}, (3, 2)),
    "Permute": ({"dims": (2, 1)}, (3, 2)),
    "RepeatVector": ({"n": 2}, (3,)),
    "Cropping1D": ({}, (3, 2)),
    "ZeroPadding1D": ({}, (3, 2)),
    "UpSampling1D": ({}, (3, 2)),
    "UpSampling3D": ({}, (2, 1, 2, 1)),
}


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "bool", "float32", "float64"])
@pytest.mark.parametrize("name", MOVING)
def test_integers_stay_integers(name, dtype, rng):
    arguments, shape = MOVING[name]
    x = rng.integers(0, 2, (2, *shape)).astype(dtype)
    ours, theirs = (getattr(module.layers, name)(**arguments) for module in (fastrnn, keras))
    expected = np.asarray(theirs(x))
    as_floats = ours(x.astype(np.float32))
    for got in (ours(x), ours(x)):
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)
    assert as_floats.dtype == ours(x.astype(np.float32)).dtype == np.float32
    models = []
    for module in (fastrnn, keras):
        given = module.Input(shape, dtype=dtype)
        moved = getattr(module.layers, name)(**arguments)(given)
        models.append(module.Model(given, moved))
        assert module is keras or moved.dtype == expected.dtype
    got, wanted = models[0](x), np.asarray(models[1](x))
    assert got.dtype == wanted.dtype
    np.testing.assert_array_equal(got, wanted)
