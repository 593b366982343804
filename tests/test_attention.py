"""Attention layers against those of Keras: called, and in models from its files."""

import inspect

import keras
import numpy as np
import pytest
from keras import layers as theirs

import fastrnn
from fastrnn import layers as ours
from fastrnn.saving.building import build
from fastrnn.saving.config import read_layer

NAMES = ["Attention", "AdditiveAttention", "MultiHeadAttention", "EinsumDense"]


def arrays(rng, *shapes):
    return [rng.normal(size=shape).astype("float32") for shape in shapes]


def masks(rng, *shapes):
    found = [rng.random(shape) < 0.6 for shape in shapes]
    for mask in found:
        mask[:, 0] = True
    return found


def copy_of(layer):
    """fastrnn's layer with the config and the random weights of Keras's."""
    rng = np.random.default_rng(7)
    for weight in layer.weights:
        weight.assign(rng.normal(size=weight.shape))
    return fastrnn.from_keras(layer)


def assert_same(got, expected):
    assert isinstance(got, tuple) == isinstance(expected, tuple)
    pairs = zip(got, expected, strict=True) if isinstance(got, tuple) else [(got, expected)]
    for mine, wanted in pairs:
        wanted = np.asarray(wanted)
        assert (mine.dtype, mine.shape) == (wanted.dtype, wanted.shape)
        np.testing.assert_allclose(mine, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_arguments_are_those_of_keras(name):
    def arguments(module):
        parameters = inspect.signature(getattr(module, name)).parameters.values()
        return [(p.name, p.default) for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]

    assert arguments(ours) == arguments(theirs)


@pytest.mark.parametrize("scores", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("with_key", [False, True])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Attention", {}),
        ("Attention", {"use_scale": True, "dropout": 0.5, "seed": 3}),
        ("Attention", {"score_mode": "concat"}),
        ("Attention", {"score_mode": "concat", "use_scale": True}),
        ("AdditiveAttention", {}),
        ("AdditiveAttention", {"use_scale": False}),
    ],
)
def test_attention(name, options, with_key, causal, scores, rng):
    layer = getattr(theirs, name)(**options)
    x = arrays(rng, (2, 5, 4), (2, 6, 4), (2, 6, 4))[: 3 if with_key else 2]
    call = {"return_attention_scores": scores, "use_causal_mask": causal}
    layer.build([array.shape for array in x])
    mine = copy_of(layer)
    assert mine.get_config() == layer.get_config()
    assert_same(mine(x, **call), layer(x, **call))
    query_mask, value_mask = masks(rng, (2, 5), (2, 6))
    for given in ([query_mask, value_mask], [None, value_mask], [query_mask, None]):
        assert_same(mine(x, mask=given, **call), layer(x, mask=given, **call))


def test_attention_of_a_value_that_is_masked_everywhere(rng):
    x = arrays(rng, (2, 5, 4), (2, 6, 4))
    nothing = [None, np.zeros((2, 6), bool)]
    for causal in (False, True):
        expected = theirs.Attention()(x, mask=nothing, use_causal_mask=causal)
        got = ours.Attention()(x, mask=nothing, use_causal_mask=causal)
        np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "shapes"),
    [
        ({}, [(2, 5, 4), (2, 6, 3)]),
        ({"value_dim": 5, "use_bias": False}, [(2, 5, 4), (2, 6, 3), (2, 6, 7)]),
        ({"output_shape": 6, "dropout": 0.3}, [(2, 5, 4), (2, 5, 4)]),
        ({"output_shape": (2, 3), "use_gate": True}, [(2, 5, 4), (2, 5, 4)]),
        ({"sliding_window": 2}, [(2, 5, 4), (2, 6, 4)]),
        ({"attention_axes": 1}, [(2, 3, 5, 4), (2, 6, 5, 4)]),
        ({"attention_axes": (2,)}, [(2, 3, 5, 4), (2, 3, 6, 4)]),
        ({}, [(2, 3, 5, 4), (2, 6, 2, 4)]),
    ],
)
def test_multi_head_attention(options, shapes, rng):
    layer = theirs.MultiHeadAttention(num_heads=2, key_dim=3, **options)
    x = arrays(rng, *shapes)
    layer.build(*shapes)
    mine = copy_of(layer)
    expected_config = layer.get_config()
    config = mine.get_config()
    for key in ("attention_axes", "output_shape"):
        expected_config[key] = expected_config[key] and list(expected_config[key])
        config[key] = config[key] and list(config[key])
    assert config == expected_config
    calls = [{}, {"return_attention_scores": True}]
    if len(shapes[0]) == 3:
        allowed = rng.random((2, shapes[0][1], shapes[1][1])) < 0.6
        allowed[:, :, 0] = True
        calls += [{**call, "use_causal_mask": True} for call in calls]
        calls += [{**call, "attention_mask": allowed} for call in calls]
        calls += [
            {"attention_mask": allowed[:1, :, :]},
            {"attention_mask": allowed.astype("int32")},
        ]
        (value_mask,) = masks(rng, shapes[1][:2])
        calls += [{**call, "value_mask": value_mask} for call in calls]
        if len(shapes) == 3:
            calls += [{"key_mask": value_mask}]
    for call in calls:
        got, expected = mine(*x, **call), layer(*x, **call)
        assert_same(got, expected)
    shape = tuple(np.shape(expected[0] if isinstance(expected, tuple) else expected))
    assert mine.compute_output_shape(shapes[0]) == shape
    weights = [weight.shape for weight in layer.weights]
    assert [weight.shape for weight in mine.weights] == weights


def test_heads_that_are_masked_everywhere(rng):
    x = arrays(rng, (2, 5, 4), (2, 6, 4))
    layer = theirs.MultiHeadAttention(2, 3)
    layer.build((2, 5, 4), (2, 6, 4))
    mine = copy_of(layer)
    nothing = np.zeros((2, 6), bool)
    for call in ({}, {"return_attention_scores": True}):
        assert_same(mine(*x, value_mask=nothing, **call), layer(*x, value_mask=nothing, **call))


@pytest.mark.parametrize(
    ("equation", "output_shape", "bias_axes", "shape"),
    [
        ("ab,bc->ac", 5, "c", (2, 3)),
        ("abc,cd->abd", (None, 5), "d", (2, 4, 3)),
        ("abc,cd->abd", (None, 5), None, (2, 4, 3)),
        ("...x,xy->...y", 5, "y", (2, 4, 3)),
        ("...bc,cde->...bde", (None, 5, 2), "de", (2, 4, 6, 3)),
        ("abc,bde->acde", (None, 5, 2), "e", (2, 4, 3)),
        ("abc,cd->abd", (4, 5), "bd", (2, 4, 3)),
        ("ab...,bc->ac...", 5, "c", (2, 3, 4)),
    ],
)
def test_einsum_dense(equation, output_shape, bias_axes, shape, rng):
    layer = theirs.EinsumDense(equation, output_shape, activation="tanh", bias_axes=bias_axes)
    layer.build(shape)
    mine = copy_of(layer)
    config, expected = mine.get_config(), layer.get_config()
    assert {**config, "kernel_initializer": 0} == {**expected, "kernel_initializer": 0}
    (x,) = arrays(rng, shape)
    assert_same(mine(x), layer(x))
    assert mine.compute_output_shape((None, *shape[1:]))[1:] == np.shape(layer(x))[1:]


def recurrent_model():
    source, target = keras.Input((6, 3), name="source"), keras.Input((5, 3), name="target")
    value = theirs.LSTM(4, return_sequences=True)(theirs.Masking()(source))
    query = theirs.GRU(4, return_sequences=True)(theirs.Masking()(target))
    # Keras's MultiHeadAttention takes the masks off its inputs, for other attention layers too.
    pairs = iter([[theirs.Activation("tanh")(x) for x in (query, value)] for _ in range(5)])
    heads, scores = theirs.MultiHeadAttention(2, 3, value_dim=5)(
        *next(pairs), return_attention_scores=True
    )
    gated_query, gated_value = next(pairs)
    only_query, _ = next(pairs)
    outputs = [
        theirs.LSTM(2)(theirs.Attention(use_scale=True, score_mode="concat")(next(pairs))),
        *theirs.AdditiveAttention()(next(pairs), return_attention_scores=True),
        theirs.LSTM(2)(
            theirs.MultiHeadAttention(1, 2)(only_query, only_query, use_causal_mask=True)
        ),
        theirs.Dense(2)(theirs.Add()([query, heads])),
        scores,
        theirs.MultiHeadAttention(2, 2, use_gate=True)(gated_query, gated_value, key=gated_value),
    ]
    return keras.Model([source, target], outputs)


@pytest.mark.parametrize("ending", ["keras", "h5", "object"])
def test_models(ending, rng, tmp_path):
    model = recurrent_model()
    weights = np.random.default_rng(3)
    model.set_weights([weights.normal(size=w.shape) for w in model.get_weights()])
    source, target = arrays(rng, (3, 6, 3), (3, 5, 3))
    source[0, 4:], target[0, 3:], target[1, 2:] = 0, 0, 0
    path = tmp_path / f"m.{ending}"
    if ending == "object":
        mine = fastrnn.from_keras(model)
    else:
        model.save(path)
        mine = fastrnn.load_model(path)
    for got, expected in zip(mine([source, target]), model([source, target]), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    assert mine.output_shape[0] == (None, 2)


def test_explicit_masks_in_models(rng, tmp_path):
    query, value = keras.Input((5, 4)), keras.Input((6, 4))
    steps = keras.Input((6,), dtype="bool")
    outputs = [
        theirs.Attention()([query, value], mask=[None, steps]),
        theirs.MultiHeadAttention(2, 3)(query, value, value_mask=steps),
        theirs.MultiHeadAttention(2, 3)(query, value, attention_mask=steps[:, None]),
    ]
    model = keras.Model([query, value, steps], outputs)
    model.save(tmp_path / "m.keras")
    given = [*arrays(rng, (2, 5, 4), (2, 6, 4)), *masks(rng, (2, 6))]
    mine = fastrnn.load_model(tmp_path / "m.keras")(given)
    for got, expected in zip(mine, model(given), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_configs_of_keras_2(rng):
    config = {"name": "a", "trainable": True, "dtype": "float32", "causal": True, "dropout": 0.0}
    spec = read_layer({"class_name": "Attention", "config": config}, (2, 4), options("Attention"))
    x = arrays(rng, (2, 5, 4), (2, 5, 4))
    np.testing.assert_allclose(
        build(spec)(x), theirs.Attention()(x, use_causal_mask=True), atol=1e-5
    )
    shape = [None, 5, 4]
    config = {"name": "m", "num_heads": 2, "key_dim": 3, "value_dim": 3, "dropout": 0.0}
    shapes = {f"{part}_shape": shape for part in ("query", "key", "value")}
    described = {"class_name": "MultiHeadAttention", "config": {**config, **shapes}}
    spec = read_layer(described, (2, 12), options("MultiHeadAttention"))
    assert spec.config == {
        **config,
        "takes_masks": False,
        "zeroes_masked_rows": False,
        "lowers_scores": True,
    }


def test_einsum_dense_in_a_model(rng, tmp_path):
    inputs = keras.Input((5, 3))
    x = theirs.EinsumDense("abc,cd->abd", output_shape=(None, 4), bias_axes="d")(inputs)
    model = keras.Model(inputs, theirs.GRU(2)(x))
    model.save(tmp_path / "m.keras")
    (x,) = arrays(rng, (2, 5, 3))
    got = fastrnn.load_model(tmp_path / "m.keras")(x)
    np.testing.assert_allclose(got, model(x), rtol=1e-5, atol=1e-6)


def options(name):
    from fastrnn.saving.config import constructor_options

    return {name: constructor_options(getattr(ours, name))}


def test_what_does_not_fit_is_refused(rng):
    x, y, z = arrays(rng, (2, 5, 4), (2, 6, 3), (2, 7, 4))
    for layer in (ours.Attention(), ours.AdditiveAttention()):
        with pytest.raises(ValueError, match="expected a list"):
            layer(x)
        with pytest.raises(ValueError, match="as many features"):
            layer([x, y])
        with pytest.raises(ValueError, match="as many steps"):
            layer([x, y, z])
    with pytest.raises(ValueError, match="score_mode"):
        ours.Attention(score_mode="sum")
    with pytest.raises(ValueError, match="inference only"):
        ours.Attention(dropout=0.5)([x, x], training=True)
    heads = ours.MultiHeadAttention(2, 3)
    with pytest.raises(ValueError, match="as many steps"):
        heads(x, y, z)
    heads(x, y)
    with pytest.raises(ValueError, match="3 features of the value"):
        heads(x, z)
    with pytest.raises(ValueError, match="positive integer"):
        ours.MultiHeadAttention(0, 3)
    with pytest.raises(ValueError, match="equation"):
        ours.EinsumDense("ab->c", 3)
    with pytest.raises(ValueError, match="fits the equation"):
        ours.EinsumDense("abc,cd->abd", (None, 3))(x[0])


def test_float64(rng):
    x = [array.astype("float64") for array in arrays(rng, (2, 5, 4), (2, 6, 4))]
    assert ours.Attention(dtype="float64")(x).dtype == np.float64
    heads = ours.MultiHeadAttention(2, 3, dtype="float64")
    assert heads(*x).dtype == np.float64


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("AdditiveAttention", {"use_scale": False}),
        ("AdditiveAttention", {}),
        ("Attention", {"score_mode": "concat", "use_scale": True}),
    ],
)
@pytest.mark.parametrize("features", [(7, 1), (1, 7), (7, 7)])
def test_scores_of_sums_spread_one_feature(name, options, features, rng):
    query, key = (rng.normal(size=(3, 2, n)).astype("float32") for n in features)
    value = rng.normal(size=(3, 2, 5)).astype("float32")
    theirs = getattr(keras.layers, name)(**options)
    wanted = theirs([query, value, key])
    for weight in theirs.weights:
        weight.assign(rng.normal(size=weight.shape))
    wanted = theirs([query, value, key])
    ours = fastrnn.from_keras(theirs)
    np.testing.assert_allclose(ours([query, value, key]), wanted, rtol=0, atol=1e-6)
