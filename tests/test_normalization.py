"""Normalization layers against those of Keras."""

import inspect
import json

import keras
import numpy as np
import pytest

import fastrnn
from fastrnn.layers import normalization
from fastrnn.saving.config import constructor_options, read_layer

CASES = [
    ("BatchNormalization", {}, (2, 5, 4)),
    ("BatchNormalization", {"axis": 1, "epsilon": 0.1}, (2, 5, 4)),
    ("BatchNormalization", {"scale": False, "momentum": 0.5}, (3, 4)),
    ("BatchNormalization", {"center": False, "renorm": True}, (2, 3, 3, 4)),
    ("BatchNormalization", {"axis": 1, "center": False, "scale": False}, (2, 3, 2, 2, 4)),
    ("LayerNormalization", {}, (2, 5, 4)),
    ("LayerNormalization", {"axis": 1, "epsilon": 0.01}, (2, 5, 4)),
    ("LayerNormalization", {"axis": [1, 2], "center": False}, (2, 5, 4)),
    ("LayerNormalization", {"axis": [-1, -2], "scale": False}, (2, 3, 5, 4)),
    ("LayerNormalization", {"axis": (-1, 1)}, (2, 3, 5, 4)),
    ("LayerNormalization", {"rms_scaling": True, "scale": False}, (2, 5, 4)),
    ("GroupNormalization", {"groups": 2}, (2, 5, 4)),
    ("GroupNormalization", {"groups": -1, "scale": False}, (2, 5, 4)),
    ("GroupNormalization", {"groups": 3, "axis": 1, "center": False}, (2, 6, 5, 4)),
    ("GroupNormalization", {"groups": 2, "axis": -2, "epsilon": 0.1}, (2, 3, 4, 5)),
    ("GroupNormalization", {"groups": 1}, (2, 4)),
    ("UnitNormalization", {}, (2, 5, 4)),
    ("UnitNormalization", {"axis": 1}, (2, 5, 4)),
    ("UnitNormalization", {"axis": [1, 2]}, (2, 5, 4)),
    ("RMSNormalization", {}, (2, 5, 4)),
    ("RMSNormalization", {"epsilon": 0.1, "axis": [1, 2]}, (2, 5, 4)),
    ("RMSNormalization", {"axis": 1}, (2, 4, 4)),
    ("Normalization", {}, (2, 5, 4)),
    ("Normalization", {"axis": None, "invert": True}, (2, 5, 4)),
    ("Normalization", {"axis": (-1, 1)}, (2, 5, 4)),
    ("Normalization", {"mean": 2.0, "variance": 3.0}, (2, 4)),
    ("Normalization", {"mean": [1, 2, 3, 4], "variance": [4, 3, 2, 0.0]}, (2, 5, 4)),
    (
        "Normalization",
        {"axis": (1, 2), "mean": [1.0], "variance": [2.0], "invert": True},
        (2, 5, 4),
    ),
    ("Normalization", {"axis": 1, "mean": np.arange(5.0), "variance": np.ones(5)}, (2, 5, 4)),
    ("Rescaling", {"scale": 1 / 255}, (2, 5, 4)),
    ("Rescaling", {"scale": [1.0, 2.0, 3.0, 4.0], "offset": -1}, (2, 4)),
    ("Rescaling", {"scale": np.array([0.5, 2]), "offset": np.array(2)}, (3, 3, 2)),
]
NAMES = list(dict.fromkeys(name for name, _, _ in CASES))
pytestmark = pytest.mark.filterwarnings("ignore:You passed `rms_scaling")


def pair(name, arguments, shape, rng):
    """Our layer and Keras's with the same random weights."""
    ours = getattr(normalization, name)(**arguments, name="mine")
    theirs = getattr(keras.layers, name)(**arguments, name="mine")
    for layer in (ours, theirs):
        layer.build((None, *shape[1:]))
    weights = [rng.uniform(0.5, 2, weight.shape) for weight in theirs.weights]
    theirs.set_weights(weights)
    if name == "Normalization":
        theirs.finalize_state()
    ours.set_weights(weights)
    return ours, theirs


def as_json(layer):
    """Its config; Keras's NumPy backend takes arrays for tensors, the others do not."""
    return json.loads(json.dumps(layer.get_config()).replace("__tensor__", "__numpy__"))


@pytest.mark.parametrize("name", NAMES)
def test_arguments_are_those_of_keras(name):
    def arguments(module):
        parameters = inspect.signature(getattr(module, name)).parameters.values()
        return [(p.name, p.default) for p in parameters if p.kind is not p.VAR_KEYWORD]

    assert arguments(normalization) == arguments(keras.layers)


@pytest.mark.parametrize(("name", "arguments", "shape"), CASES)
def test_output_is_that_of_keras(name, arguments, shape, rng):
    ours, theirs = pair(name, arguments, shape, rng)
    x = rng.normal(size=shape).astype("float32")
    got, wanted = ours(x), np.asarray(theirs(x))
    assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    unknown = (None, *shape[1:])
    assert ours.compute_output_shape(unknown) == theirs.compute_output_shape(unknown)
    assert ours.supports_masking == theirs.supports_masking


@pytest.mark.parametrize(("name", "arguments", "shape"), CASES)
def test_config_and_weights_are_those_of_keras(name, arguments, shape, rng):
    ours = getattr(normalization, name)(**arguments, name="mine")
    theirs = getattr(keras.layers, name)(**arguments, name="mine")
    assert as_json(ours) == as_json(theirs)
    ours, theirs = pair(name, arguments, shape, rng)
    config = ours.get_config()
    assert as_json(ours) == as_json(theirs)
    again = type(ours).from_config(json.loads(json.dumps(config)))
    assert json.dumps(again.get_config()) == json.dumps(config)
    assert list(ours._weights) == [weight.name for weight in theirs.weights]
    assert [w.shape for w in ours.weights] == [w.shape for w in theirs.weights]
    initial = getattr(normalization, name)(**arguments)
    initial.build(shape)
    theirs = getattr(keras.layers, name)(**arguments)
    theirs.build(shape)
    for got, wanted in zip(initial.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("name", NAMES)
def test_float64(name, rng):
    _, arguments, shape = next(case for case in CASES if case[0] == name)
    layer = getattr(normalization, name)(**arguments, dtype="float64")
    single = getattr(normalization, name)(**arguments)
    x = rng.normal(size=shape)
    assert layer(x).dtype == np.float64
    np.testing.assert_allclose(layer(x), single(x), rtol=1e-5, atol=1e-5)


def test_rows_of_zeros_stay_zeros():
    x = np.zeros((2, 3), "float32")
    np.testing.assert_array_equal(normalization.UnitNormalization()(x), x)


@pytest.mark.parametrize(
    ("name", "arguments", "shape", "told"),
    [
        ("BatchNormalization", {"axis": 3}, (2, 5, 4), ["3", "(2, 5, 4)"]),
        ("LayerNormalization", {"axis": [1, 4]}, (2, 5, 4), ["4", "(2, 5, 4)"]),
        ("LayerNormalization", {}, (2, None), ["known", "(2, None)"]),
        ("GroupNormalization", {"groups": 3}, (2, 5, 4), ["3", "(2, 5, 4)"]),
        ("Normalization", {"axis": 2}, (2, 4), ["2", "(2, 4)"]),
        ("RMSNormalization", {"axis": -4}, (2, 5, 4), ["-4", "(2, 5, 4)"]),
    ],
)
def test_shapes_that_do_not_fit(name, arguments, shape, told):
    layer = getattr(normalization, name)(**arguments, name="the_layer")
    with pytest.raises(ValueError, match="the_layer") as caught:
        layer.build(shape)
    assert all(part in str(caught.value) for part in told)


@pytest.mark.parametrize(
    "name", ["BatchNormalization", "LayerNormalization", "RMSNormalization", "Normalization"]
)
def test_inputs_of_other_features(name):
    layer = getattr(normalization, name)(name="the_layer")
    layer.build((None, 5, 4))
    with pytest.raises(ValueError, match=r"the_layer.*\(4,\).*\(2, 5, 3\)"):
        layer(np.ones((2, 5, 3)))


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("LayerNormalization", {"axis": "last"}, "axis.*'last'"),
        ("UnitNormalization", {"axis": [1.5]}, "axis.*1.5"),
        ("GroupNormalization", {"groups": 0}, "groups.*0"),
        ("Normalization", {"mean": 1.0}, "both.*1.0.*None"),
        ("Normalization", {"mean": [1.0], "variance": [1.0, 2.0]}, r"\(1,\).*\(2,\)"),
        ("Normalization", {"mean": [[1.0]], "variance": [[1.0]]}, r"1 axes.*\(1, 1\)"),
        ("BatchNormalization", {"nonsense": 1}, "nonsense"),
    ],
)
def test_bad_arguments(name, arguments, told):
    with pytest.raises((TypeError, ValueError), match=told):
        getattr(normalization, name)(**arguments)


def test_batch_normalization_does_not_train():
    with pytest.raises(ValueError, match="training"):
        normalization.BatchNormalization()(np.ones((2, 3)), training=True)
    normalization.BatchNormalization(trainable=False)(np.ones((2, 3)), training=True)


def test_groups_of_one_feature_in_a_file():
    config = keras.layers.GroupNormalization(groups=-1, name="each").get_config()
    known = {"GroupNormalization": constructor_options(normalization.GroupNormalization)}
    spec = read_layer({"class_name": "GroupNormalization", "config": config}, (3, 15), known)
    assert spec.config["groups"] == -1


def test_weights_of_renormalization_are_not_trained(rng, tmp_path):
    inside = keras.Sequential(
        [keras.Input((4, 3)), keras.layers.BatchNormalization(renorm=True), keras.layers.Dense(2)]
    )
    model = keras.Sequential([keras.Input((4, 3)), inside, keras.layers.GRU(2)])
    model.set_weights([rng.uniform(0.5, 1, w.shape) for w in model.get_weights()])
    x = rng.normal(size=(2, 4, 3)).astype("float32")
    for name in ("m.h5", "m.keras"):
        model.save(tmp_path / name)
        got = fastrnn.load_model(tmp_path / name)(x)
        np.testing.assert_allclose(got, model(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "mask"), [((4, 3), (4,)), ((4, 5, 3), (4, 5)), ((5, 3, 3, 2), (5, 3, 3))]
)
def test_batch_normalization_takes_a_mask_for_each_vector(shape, mask, rng):
    theirs, x = keras.layers.BatchNormalization(), rng.normal(size=shape).astype("float32")
    wanted = theirs(x, mask=np.ones(mask, bool))
    ours = fastrnn.from_keras(theirs)
    np.testing.assert_allclose(ours(x, mask=np.ones(mask, bool)), wanted, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="expected a mask of shape"):
        ours(x, mask=np.ones(shape, bool))
