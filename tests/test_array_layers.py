"""The layers that NumPy computes, against Keras: the numbers, shapes, configs and arguments."""

import inspect
import json

import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose

from fastrnn.layers import activation_layers, noise, pooling, reshaping

MODULES = (reshaping, pooling, activation_layers, noise)


def ours(name):
    (found,) = [getattr(module, name) for module in MODULES if _defines(module, name)]
    return found


def _defines(module, name):
    return getattr(getattr(module, name, None), "__module__", None) == module.__name__


FIRST = "channels_first"
SERIES, IMAGES, VOLUMES = (2, 7, 4), (2, 6, 5, 3), (2, 5, 4, 6, 3)
CASES = [
    ("Identity", {}, SERIES),
    *[("Flatten", {}, shape) for shape in ((3,), (3, 4), SERIES, IMAGES, (0, 2, 3), (2, 0, 3))],
    *[("Flatten", {"data_format": FIRST}, shape) for shape in ((3,), (3, 4), SERIES, IMAGES)],
    *[
        ("Reshape", {"target_shape": target}, SERIES)
        for target in ((28,), (4, 7), (-1,), (2, -1), (-1, 7, 2, 1), [14, 2], (7, 4))
    ],
    ("Reshape", {"target_shape": ()}, (3, 1)),
    ("Reshape", {"target_shape": (2, -1)}, (0, 4)),
    *[("Permute", {"dims": dims}, SERIES) for dims in ((1, 2), (2, 1), [2, 1])],
    ("Permute", {"dims": (3, 1, 2)}, IMAGES),
    *[("RepeatVector", {"n": n}, (2, 3)) for n in (1, 4)],
    *[("Cropping1D", {"cropping": c}, SERIES) for c in (0, 2, (1, 2), (0, 3), [4, 0])],
    ("Cropping1D", {}, SERIES),
    *[
        ("Cropping2D", {"cropping": c, "data_format": order}, IMAGES)
        for c in (0, 1, (1, 2), ((1, 0), (0, 2)), ((2, 3), 1))
        for order in (None, *([FIRST] if c in (0, 1) else []))
    ],
    ("Cropping2D", {"cropping": ((1, 2), (0, 1)), "data_format": FIRST}, (2, 3, 5, 4)),
    ("Cropping2D", {}, IMAGES),
    *[("Cropping3D", {"cropping": c}, VOLUMES) for c in (1, (2, 1, 0), ((0, 1), (1, 0), (2, 3)))],
    ("Cropping3D", {"data_format": FIRST}, (1, 2, 3, 4, 5)),
    *[
        ("ZeroPadding1D", {"padding": p, "data_format": order}, SERIES)
        for p in (0, 2, (1, 3))
        for order in (None, FIRST)
    ],
    *[
        ("ZeroPadding2D", {"padding": p, "data_format": order}, IMAGES)
        for p in (1, (1, 2), ((1, 0), (0, 2)))
        for order in (None, FIRST)
    ],
    *[
        ("ZeroPadding3D", {"padding": p, "data_format": order}, VOLUMES)
        for p in (1, (1, 0, 2), ((1, 0), (0, 2), (3, 1)))
        for order in (None, FIRST)
    ],
    *[(f"ZeroPadding{n}D", {}, shape) for n, shape in enumerate((SERIES, IMAGES, VOLUMES), 1)],
    *[(f"UpSampling{n}D", {}, shape) for n, shape in enumerate((SERIES, IMAGES, VOLUMES), 1)],
    *[("UpSampling1D", {"size": size}, SERIES) for size in (1, 3)],
    *[
        ("UpSampling2D", {"size": size, "interpolation": how, "data_format": order}, IMAGES)
        for size in (1, 3, (1, 2), [4, 1])
        for how in ("nearest", "bilinear")
        for order in (None, FIRST)
    ],
    ("UpSampling2D", {"interpolation": "bilinear"}, (1, 1, 1, 2)),
    *[("UpSampling3D", {"size": (1, 3, 2), "data_format": o}, VOLUMES) for o in (None, FIRST)],
    *[
        (f"{kind}Pooling{n}D", {"pool_size": size, **options}, shape)
        for kind in ("Max", "Average")
        for n, shape in enumerate((SERIES, IMAGES, VOLUMES), 1)
        for size in (2, 3)
        for options in (
            {},
            {"padding": "same"},
            {"strides": 1, "padding": "same"},
            {"strides": 3},
            {"strides": 4, "padding": "same"},
            {"strides": [2] * n, "padding": "same", "data_format": FIRST},
        )
        if FIRST not in options.values() or min(shape[2:]) >= size
    ],
    *[
        (f"{kind}Pooling2D", {"pool_size": (3, 1), "strides": (1, 2), "padding": how}, IMAGES)
        for kind in ("Max", "Average")
        for how in ("valid", "same")
    ],
    *[(f"MaxPooling{n}D", {}, shape) for n, shape in enumerate((SERIES, IMAGES, VOLUMES), 1)],
    ("MaxPooling1D", {"pool_size": 9, "padding": "same"}, SERIES),
    ("AveragePooling1D", {"pool_size": 9, "padding": "same", "strides": 2}, SERIES),
    *[
        (f"Global{kind}Pooling{n}D", {"keepdims": keep, "data_format": order}, shape)
        for kind in ("Max", "Average")
        for n, shape in enumerate((SERIES, IMAGES, VOLUMES), 1)
        for keep in (False, True)
        for order in (None, FIRST)
    ],
    *[
        ("ReLU", options, SERIES)
        for options in (
            {},
            {"max_value": 0.5},
            {"negative_slope": 0.1},
            {"threshold": 0.3},
            {"max_value": 1.0, "negative_slope": 0.2, "threshold": 0.4},
        )
    ],
    *[("LeakyReLU", options, SERIES) for options in ({}, {"negative_slope": 0.0})],
    *[("ELU", options, SERIES) for options in ({}, {"alpha": 0.4})],
    *[
        ("PReLU", {"alpha_initializer": "ones", "shared_axes": axes}, IMAGES)
        for axes in (None, 1, [1, 2], (3,), [])
    ],
    ("PReLU", {}, (2, 3)),
    *[("Softmax", {"axis": axis}, IMAGES) for axis in (-1, 1, [2], (1, 2), (-1, 1, 2))],
    ("Softmax", {}, (2, 3)),
    *[(f"SpatialDropout{n}D", {"rate": 0.5, "seed": 1}, s) for n, s in ((1, SERIES), (2, IMAGES))],
    ("SpatialDropout3D", {"rate": 0, "data_format": FIRST}, VOLUMES),
    ("GaussianNoise", {"stddev": 0.5, "seed": 2}, SERIES),
    ("GaussianDropout", {"rate": 0.5}, SERIES),
    ("AlphaDropout", {"rate": 0.5, "noise_shape": [2, 1]}, (2, 3)),
    ("ActivityRegularization", {"l1": 0.1, "l2": 0.2}, SERIES),
]
NAMES = sorted({name for name, _, _ in CASES})


@pytest.mark.parametrize(("name", "options", "shape"), CASES)
def test_a_layer_is_that_of_keras(name, options, shape, rng):
    layer = ours(name)(**options, name="mine")
    theirs = getattr(keras.layers, name)(**options, name="mine")
    config = layer.get_config()
    assert config == theirs.get_config()
    read = json.loads(json.dumps(config))
    assert json.loads(json.dumps(type(layer).from_config(read).get_config())) == read
    assert layer.supports_masking == theirs.supports_masking

    x = rng.normal(size=shape).astype("float32")
    expected = np.asarray(theirs(x))
    y = layer(x)
    assert y.dtype == np.float32
    assert y.shape == expected.shape == layer.compute_output_shape(shape)
    assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    assert y.flags.c_contiguous
    assert not np.may_share_memory(x, y)
    if layer.weights:
        layer.set_weights([rng.normal(size=w.shape) for w in layer.weights])
        theirs.set_weights(layer.get_weights())
        assert_allclose(layer(x), theirs(x), rtol=1e-5, atol=1e-5)

    unknown = (None, *shape[1:])
    assert layer.compute_output_shape(unknown) == tuple(theirs.compute_output_shape(unknown))


@pytest.mark.parametrize("name", NAMES)
def test_float64_is_computed_in_float64(name, rng):
    options, shape = next((o, s) for n, o, s in CASES if n == name)
    x = rng.normal(size=shape)
    y = ours(name)(**options, dtype="float64")(x)
    expected = np.asarray(getattr(keras.layers, name)(**options, dtype="float64")(x))
    assert y.dtype == np.float64
    # Keras pools through JAX, whose numbers are float32 unless it is told otherwise.
    tolerance = 1e-6 if "Pooling" in name else 1e-12
    assert_allclose(y, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_the_constructors_arguments_and_names_are_those_of_keras(name):
    def arguments(cls):
        parameters = inspect.signature(cls).parameters.values()
        return [(p.name, p.default) for p in parameters if p.kind is not p.VAR_KEYWORD]

    cls, theirs = ours(name), getattr(keras.layers, name)
    # What the versions of Keras before did otherwise is an argument beside Keras's.
    for_old_files = {"reads_masks", "zeroes_masked_rows"}
    assert [one for one in arguments(cls) if one[0] not in for_old_files] == arguments(theirs)
    assert cls.__doc__
    options = next(o for n, o, _ in CASES if n == name)
    numbered = [layer(**options).name.rstrip("0123456789").rstrip("_") for layer in (cls, theirs)]
    assert numbered[0] == numbered[1]


SIZES_UNKNOWN = [
    ("Flatten", {}, (None, None, 3), (None, None)),
    ("Reshape", {"target_shape": (-1, 2)}, (None, None, 3), (None, None, 2)),
    ("Reshape", {"target_shape": (6, 2)}, (None, None, 3), (None, 6, 2)),
    ("Permute", {"dims": (2, 1)}, (None, None, 3), (None, 3, None)),
    ("RepeatVector", {"n": 2}, (None, None), (None, 2, None)),
    ("Cropping1D", {}, (None, None, 3), (None, None, 3)),
    ("Cropping2D", {"cropping": 1}, (None, None, 5, 3), (None, None, 3, 3)),
    ("Cropping3D", {"data_format": FIRST}, (None, 2, 5, None, 4), (None, 2, 3, None, 2)),
    ("ZeroPadding1D", {}, (None, None, 3), (None, None, 3)),
    ("ZeroPadding2D", {}, (2, None, 4, None), (2, None, 6, None)),
    ("UpSampling1D", {}, (None, None, 3), (None, None, 3)),
    ("UpSampling2D", {"data_format": FIRST}, (None, 3, None, 4), (None, 3, None, 8)),
    ("MaxPooling1D", {}, (None, None, 3), (None, None, 3)),
    ("MaxPooling1D", {"padding": "same"}, (None, None, 3), (None, None, 3)),
    ("AveragePooling2D", {"pool_size": 2, "data_format": FIRST}, (2, 3, 5, None), (2, 3, 2, None)),
    ("GlobalMaxPooling2D", {}, (None, None, None, 3), (None, 3)),
    ("GlobalAveragePooling1D", {"keepdims": True}, (None, None, 3), (None, 1, 3)),
    ("Softmax", {}, (None, None, 3), (None, None, 3)),
]


@pytest.mark.parametrize(("name", "options", "shape", "expected"), SIZES_UNKNOWN)
def test_unknown_sizes_stay_unknown(name, options, shape, expected):
    assert ours(name)(**options).compute_output_shape(shape) == expected


BAD_INPUTS = [
    ("Flatten", {}, ()),
    ("Reshape", {"target_shape": (5,)}, (2, 3)),
    ("Reshape", {"target_shape": (2, -1)}, (2, 3)),
    ("Reshape", {"target_shape": (0, -1)}, (2, 3)),
    ("Permute", {"dims": (2, 1)}, (2, 3)),
    ("RepeatVector", {"n": 2}, (2, 3, 4)),
    ("Cropping1D", {}, (2, 3)),
    ("Cropping1D", {}, (2, 2, 3)),
    ("Cropping2D", {"cropping": ((0, 0), (1, 2))}, (2, 4, 3, 1)),
    ("ZeroPadding1D", {}, (2, 3)),
    ("UpSampling2D", {}, (2, 3, 4)),
    ("MaxPooling1D", {}, (2, 1, 3)),
    ("MaxPooling2D", {}, (2, 4, 3)),
    ("MaxPooling1D", {"padding": "same"}, (2, 0, 3)),
    ("AveragePooling3D", {"pool_size": 3}, (2, 4, 2, 4, 3)),
    ("GlobalMaxPooling1D", {}, (2, 0, 3)),
    ("GlobalAveragePooling2D", {}, (2, 3, 3)),
    ("PReLU", {"shared_axes": 3}, (2, 3, 3)),
    ("PReLU", {"shared_axes": [0]}, (2, 3, 3)),
    ("Softmax", {"axis": 3}, (2, 3, 3)),
    ("Softmax", {"axis": [1, -4]}, (2, 3, 3)),
    ("SpatialDropout1D", {"rate": 0.5}, (2, 3)),
]


@pytest.mark.parametrize(("name", "options", "shape"), BAD_INPUTS)
def test_bad_inputs_are_refused_with_their_shape(name, options, shape):
    layer = ours(name)(**options, name="the_layer")
    with pytest.raises(ValueError, match=r"the_layer.*expected.*got") as caught:
        layer(np.zeros(shape))
    assert str(shape) in str(caught.value) or "axes" in str(caught.value)
    assert layer.weights == []


BAD_OPTIONS = [
    ("Flatten", {"data_format": "channels"}),
    ("Reshape", {"target_shape": (-1, -1)}),
    ("Reshape", {"target_shape": (-2,)}),
    ("Reshape", {"target_shape": (1.5,)}),
    ("Permute", {"dims": (0, 1)}),
    ("Permute", {"dims": (1, 1)}),
    ("RepeatVector", {"n": 0}),
    ("RepeatVector", {"n": 2.5}),
    ("Cropping1D", {"cropping": (1, 2, 3)}),
    ("Cropping1D", {"cropping": -1}),
    ("Cropping2D", {"cropping": (1, 2, 3)}),
    ("Cropping2D", {"cropping": ((1, 2), (3, -4))}),
    ("Cropping3D", {"cropping": "all"}),
    ("ZeroPadding1D", {"padding": None}),
    ("ZeroPadding2D", {"padding": (1, (2, 3, 4))}),
    ("UpSampling1D", {"size": 0}),
    ("UpSampling2D", {"size": (1, 2, 3)}),
    ("MaxPooling1D", {"pool_size": 0}),
    ("MaxPooling2D", {"pool_size": (2, 2, 2)}),
    ("MaxPooling2D", {"strides": 0}),
    ("MaxPooling1D", {"padding": "causal"}),
    ("AveragePooling1D", {"pool_size": 2, "data_format": "last"}),
    ("GlobalMaxPooling1D", {"data_format": "last"}),
    ("ReLU", {"max_value": -1}),
    ("ReLU", {"negative_slope": None}),
    ("LeakyReLU", {"negative_slope": -0.1}),
    ("SpatialDropout2D", {"rate": 0.5, "data_format": "last"}),
    ("SpatialDropout1D", {"rate": 2}),
    ("GaussianNoise", {"stddev": -1}),
]


@pytest.mark.parametrize(("name", "options"), BAD_OPTIONS)
def test_bad_options_are_refused(name, options):
    with pytest.raises(ValueError, match=r"the_layer.*expected.*got"):
        ours(name)(**options, name="the_layer")


@pytest.mark.parametrize("name", NAMES)
def test_unknown_options_are_refused(name):
    options = next(o for n, o, _ in CASES if n == name)
    with pytest.raises((TypeError, ValueError), match="nonsense"):
        ours(name)(**options, nonsense=1)
