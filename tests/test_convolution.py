"""Convolution layers against those of Keras."""

import inspect
import json

import keras
import numpy as np
import pytest

from fastrnn.layers import convolution

L2 = {
    "module": "keras.regularizers",
    "class_name": "L2",
    "config": {"l2": 0.01},
    "registered_name": None,
}
FIRST = {"data_format": "channels_first"}
SIZES = {"filters": 6, "kernel_size": 3}
CASES = [
    ("Conv1D", SIZES, (2, 9, 4)),
    ("Conv1D", {**SIZES, "padding": "same", "strides": 2, "activation": "tanh"}, (2, 9, 4)),
    ("Conv1D", {**SIZES, "padding": "SAME", "dilation_rate": 3, "use_bias": False}, (2, 9, 4)),
    ("Conv1D", {**SIZES, "padding": "causal", "dilation_rate": 2}, (2, 9, 4)),
    ("Conv1D", {**SIZES, "padding": "causal", "strides": 3}, (2, 9, 4)),
    ("Conv1D", {**SIZES, "groups": 2, "kernel_regularizer": L2}, (2, 9, 4)),
    ("Conv1D", {**SIZES, **FIRST, "padding": "causal", "activation": "softmax"}, (2, 4, 9)),
    ("Conv1D", {"filters": 2, "kernel_size": 1, "activity_regularizer": L2}, (2, 9, 4)),
    ("Conv1D", {**SIZES, "activation": "glu"}, (2, 9, 4)),
    ("Conv2D", {**SIZES}, (2, 6, 7, 4)),
    ("Conv2D", {"filters": 2, "kernel_size": (2, 3), "strides": [2, 1]}, (2, 6, 7, 4)),
    ("Conv2D", {**SIZES, **FIRST, "padding": "same", "dilation_rate": 2}, (2, 4, 6, 7)),
    ("Conv2D", {**SIZES, "padding": "same", "strides": (3, 2), "groups": 2}, (2, 6, 7, 4)),
    ("Conv3D", {"filters": 2, "kernel_size": 2, "activation": "relu"}, (2, 4, 5, 3, 2)),
    (
        "Conv3D",
        {"filters": 2, "kernel_size": (1, 2, 3), "padding": "same", "strides": 2},
        (1, 4, 5, 3, 2),
    ),
    ("Conv3D", {"filters": 4, "kernel_size": 2, **FIRST, "groups": 2}, (2, 2, 4, 5, 3)),
    ("DepthwiseConv1D", {"kernel_size": 3}, (2, 9, 4)),
    ("DepthwiseConv1D", {"kernel_size": 2, "depth_multiplier": 3, "padding": "same"}, (2, 9, 4)),
    ("DepthwiseConv1D", {"kernel_size": 3, **FIRST, "strides": 2, "use_bias": False}, (2, 4, 9)),
    ("DepthwiseConv1D", {"kernel_size": 3, "dilation_rate": 2, "activation": "elu"}, (2, 9, 4)),
    ("DepthwiseConv2D", {"kernel_size": (3, 2), "strides": 2, "padding": "same"}, (2, 6, 7, 4)),
    ("DepthwiseConv2D", {"kernel_size": 2, **FIRST, "depth_multiplier": 2}, (2, 4, 6, 7)),
    ("SeparableConv2D", {**SIZES, "depth_multiplier": 2, "dilation_rate": 2}, (2, 6, 7, 4)),
    ("SeparableConv2D", {**SIZES, **FIRST, "padding": "same", "use_bias": False}, (2, 4, 6, 7)),
    ("Conv3DTranspose", {**SIZES, "strides": (1, 2, 3), "padding": "same"}, (2, 3, 4, 2, 3)),
    ("Conv3DTranspose", {**SIZES, **FIRST, "strides": 2, "output_padding": 1}, (1, 2, 3, 4, 2)),
    ("SeparableConv1D", SIZES, (2, 9, 4)),
    (
        "SeparableConv1D",
        {**SIZES, "depth_multiplier": 2, "padding": "same", "strides": 2},
        (2, 9, 4),
    ),
    ("SeparableConv1D", {**SIZES, **FIRST, "dilation_rate": 2, "use_bias": False}, (2, 4, 9)),
    (
        "SeparableConv1D",
        {**SIZES, "activation": "sigmoid", "pointwise_constraint": None},
        (2, 9, 4),
    ),
    *[
        ("Conv1DTranspose", {"filters": 2, "kernel_size": k, "strides": s, "padding": p}, (2, 5, 4))
        for k in (1, 2, 3, 4)
        for s in (1, 2, 3)
        for p in ("valid", "same")
    ],
    *[
        (
            "Conv1DTranspose",
            {"filters": 2, "kernel_size": k, "strides": 3, "padding": p, "output_padding": o},
            (2, 5, 4),
        )
        for k in (2, 3)
        for p in ("valid", "same")
        for o in (0, 2)
    ],
    ("Conv1DTranspose", {**SIZES, **FIRST, "dilation_rate": 2, "activation": "tanh"}, (2, 4, 9)),
    ("Conv1DTranspose", {**SIZES, "padding": "same", "dilation_rate": 2}, (2, 9, 4)),
    ("Conv2DTranspose", {**SIZES, "use_bias": False}, (2, 3, 4, 5)),
    ("Conv2DTranspose", {**SIZES, "strides": (2, 3), "padding": "same"}, (2, 3, 4, 5)),
    (
        "Conv2DTranspose",
        {**SIZES, **FIRST, "strides": (2, 3), "output_padding": (1, 0)},
        (2, 3, 4, 5),
    ),
]
NAMES = list(dict.fromkeys(name for name, _, _ in CASES))


def pair(name, arguments, shape, rng):
    """Our layer and Keras's with the same random weights."""
    ours = getattr(convolution, name)(**arguments, name="mine")
    theirs = getattr(keras.layers, name)(**arguments, name="mine")
    channel_axis = 1 if arguments.get("data_format") == "channels_first" else len(shape) - 1
    known = tuple(size if i == channel_axis else None for i, size in enumerate(shape))
    for layer in (ours, theirs):
        layer.build(known)
    weights = [rng.normal(size=weight.shape) for weight in theirs.weights]
    for layer in (ours, theirs):
        layer.set_weights(weights)
    return ours, theirs


@pytest.mark.parametrize("name", NAMES)
def test_arguments_are_those_of_keras(name):
    def arguments(module):
        parameters = inspect.signature(getattr(module, name)).parameters.values()
        return [(p.name, one(p.default)) for p in parameters if p.kind is not p.VAR_KEYWORD]

    def one(default):
        """A number for all axes, which Keras's layers of several write out."""
        return 1 if isinstance(default, tuple) and set(default) == {1} else default

    mine, wanted = arguments(convolution), arguments(keras.layers)
    if name == "Conv3DTranspose":  # whose order differs from the other transposed ones'
        mine, wanted = sorted(mine, key=str), sorted(wanted, key=str)
    assert mine == wanted


@pytest.mark.parametrize(("name", "arguments", "shape"), CASES)
def test_output_is_that_of_keras(name, arguments, shape, rng):
    ours, theirs = pair(name, arguments, shape, rng)
    assert list(ours._weights) == [weight.name for weight in theirs.weights]
    assert [w.shape for w in ours.weights] == [w.shape for w in theirs.weights]
    assert ours.supports_masking == theirs.supports_masking
    x = rng.normal(size=shape).astype("float32")
    got, wanted = ours(x), np.asarray(theirs(x))
    assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    for batch in (2, None):
        given = (batch, *shape[1:])
        assert ours.compute_output_shape(given) == tuple(theirs.compute_output_shape(given))


@pytest.mark.parametrize(("name", "arguments", "shape"), CASES)
def test_config_is_that_of_keras(name, arguments, shape):
    ours = getattr(convolution, name)(**arguments, name="mine")
    theirs = getattr(keras.layers, name)(**arguments, name="mine")
    as_keras = json.loads(json.dumps(theirs.get_config()))
    config = json.loads(json.dumps(ours.get_config()))
    assert config == as_keras
    assert ours.kernel_size == theirs.kernel_size
    assert type(ours).from_config(config).get_config() == ours.get_config()


@pytest.mark.parametrize("name", NAMES)
def test_float64(name, rng):
    _, arguments, shape = next(case for case in CASES if case[0] == name)
    single = pair(name, arguments, shape, rng)[0]
    layer = getattr(convolution, name)(**arguments, dtype="float64")
    layer.build(shape)
    layer.set_weights(single.get_weights())
    x = rng.normal(size=shape)
    assert layer(x).dtype == np.float64
    np.testing.assert_allclose(layer(x), single(x), rtol=0, atol=1e-5)


def test_an_empty_batch():
    for name, arguments, shape in CASES:
        layer = getattr(convolution, name)(**arguments)
        expected = layer.compute_output_shape((0, *shape[1:]))
        if arguments.get("activation") != "glu":
            assert layer(np.zeros((0, *shape[1:]))).shape == expected


@pytest.mark.parametrize(
    ("name", "shape", "told"),
    [
        ("Conv1D", (2, 4), ["3 axes", "(2, 4)"]),
        ("Conv1D", (2, 9, 4, 1), ["3 axes", "(2, 9, 4, 1)"]),
        ("Conv1D", (2, 2, 4), ["(3,)", "(2, 2, 4)"]),
        ("Conv1D", (2, 9, None), ["channels", "(2, 9, None)"]),
        ("Conv2D", (2, 9, 4), ["4 axes", "(2, 9, 4)"]),
        ("DepthwiseConv1D", (2, 1, 4), ["(3,)", "(2, 1, 4)"]),
        ("SeparableConv1D", (2, 4), ["3 axes", "(2, 4)"]),
        ("Conv2DTranspose", (2, 4), ["4 axes", "(2, 4)"]),
    ],
)
def test_shapes_that_do_not_fit(name, shape, told):
    arguments = {"kernel_size": 3} | ({} if name == "DepthwiseConv1D" else {"filters": 2})
    layer = getattr(convolution, name)(**arguments, name="the_layer")
    with pytest.raises(ValueError, match="the_layer") as caught:
        layer.build(shape)
    assert all(part in str(caught.value) for part in told)


@pytest.mark.parametrize("name", NAMES)
def test_inputs_of_other_channels(name):
    _, arguments, shape = next(case for case in CASES if case[0] == name)
    layer = getattr(convolution, name)(**arguments, name="the_layer")
    layer.build(shape)
    other = (*shape[:-1], 11)
    with pytest.raises(ValueError, match="the_layer") as caught:
        layer(np.ones(other))
    assert f"{shape[-1]} channels" in str(caught.value)
    assert str(other) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("Conv1D", {"filters": 0}, "filters.*0"),
        ("Conv1D", {"kernel_size": 0}, "kernel_size.*0"),
        ("Conv1D", {"kernel_size": (3, 3)}, r"kernel_size.*\(3, 3\)"),
        ("Conv2D", {"strides": (1, 1.5)}, "strides.*1.5"),
        ("Conv2D", {"strides": 2, "dilation_rate": 2}, r"strides.*\(2, 2\)"),
        ("Conv1D", {"groups": 4}, "4.*6"),
        ("Conv2D", {"padding": "causal"}, "'valid' or 'same'.*causal"),
        ("Conv1D", {"padding": None}, "padding.*None"),
        ("Conv1D", {"data_format": "NCW"}, "channels_last.*NCW"),
        ("Conv1DTranspose", {"padding": "causal"}, "'valid' or 'same'.*causal"),
        ("Conv1DTranspose", {"strides": 2, "output_padding": 2}, "output_padding.*2"),
        ("Conv2DTranspose", {"strides": 2, "output_padding": (1,)}, "output_padding.*1"),
        ("SeparableConv1D", {"depth_multiplier": 0}, "depth_multiplier.*0"),
    ],
)
def test_bad_arguments(name, arguments, told):
    with pytest.raises(ValueError, match=told):
        getattr(convolution, name)(**{**SIZES, **arguments})


def test_channels_that_no_groups_divide():
    with pytest.raises(ValueError, match=r"multiple of 3 channels.*\(2, 9, 4\)"):
        convolution.Conv1D(6, 3, groups=3).build((2, 9, 4))


@pytest.mark.parametrize("name", NAMES)
def test_a_large_batch_goes_through_in_blocks(name, monkeypatch, rng):
    _, arguments, shape = next(case for case in CASES if case[0] == name)
    x = rng.normal(size=(7, *shape[1:])).astype("float32")
    layer = getattr(convolution, name)(**arguments)
    whole = layer(x)
    sizes = []
    in_one = layer.convolution
    monkeypatch.setattr(layer, "convolution", lambda part: sizes.append(len(part)) or in_one(part))
    numbers = np.prod(layer.kernel_size) * x[0].size
    monkeypatch.setattr(convolution, "_NUMBERS_AT_ONCE", 3 * int(numbers))
    np.testing.assert_allclose(layer(x), whole, rtol=1e-6, atol=1e-6)
    assert sizes == [3, 3, 1]
