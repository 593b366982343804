"""float16 and bfloat16 policies against Keras, which computes in them; fastrnn only returns them."""

import pickle
import sys

import keras
import ml_dtypes
import numpy as np
import pytest
from keras import layers as K

import fastrnn
from fastrnn import dtypes, layers, ops
from fastrnn._nested import flatten, map_structure

HALVES = {"float16": np.dtype("float16"), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
MIXED = ["mixed_float16", "mixed_bfloat16"]
POLICIES = [*HALVES, *MIXED]
# Keras keeps every intermediate number in the half type, with 11 and 8 bits.
TOLERANCE = {"float16": 0.01, "bfloat16": 0.08}
OURS_AND_KERAS = [(fastrnn, layers), (keras, K)]


def half_of(policy):
    return policy.removeprefix("mixed_")


def assert_alike(ours, theirs, policy):
    ours, theirs = flatten(ours), [np.asarray(leaf) for leaf in flatten(theirs)]
    assert [leaf.dtype for leaf in ours] == [leaf.dtype for leaf in theirs]
    for mine, wanted in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(
            mine.astype(np.float32),
            wanted.astype(np.float32),
            rtol=0,
            atol=TOLERANCE[half_of(policy)],
        )


# NumPy has no QR decomposition of half-precision numbers, which Keras's orthogonal initializer needs.
RECURRENT = {"recurrent_initializer": "glorot_uniform"}
LAYERS = {
    "SimpleRNN": lambda L, p: L.SimpleRNN(5, dtype=p, **RECURRENT),
    "LSTM": lambda L, p: L.LSTM(5, dtype=p, **RECURRENT),
    "GRU": lambda L, p: L.GRU(5, dtype=p, return_sequences=True, **RECURRENT),
    "LSTM with states": lambda L, p: L.LSTM(5, dtype=p, return_state=True, **RECURRENT),
    "stateful GRU": lambda L, p: L.GRU(5, dtype=p, return_state=True, stateful=True, **RECURRENT),
    "RNN": lambda L, p: L.RNN(L.LSTMCell(5, dtype=p, **RECURRENT), return_state=True, dtype=p),
    "RNN of a float32 cell": lambda L, p: L.RNN(L.LSTMCell(5), return_state=True, dtype=p),
    "float32 RNN of a cell": lambda L, p: L.RNN(
        L.LSTMCell(5, dtype=p, **RECURRENT), return_state=True
    ),
    "a stack": lambda L, p: L.RNN(
        [L.GRUCell(4, dtype=p, **RECURRENT), L.LSTMCell(3, dtype=p, **RECURRENT)], dtype=p
    ),
    "Bidirectional": lambda L, p: L.Bidirectional(
        L.LSTM(3, return_state=True, dtype=p, **RECURRENT), dtype=p
    ),
    "float32 Bidirectional": lambda L, p: L.Bidirectional(
        L.GRU(3, return_state=True, dtype=p, **RECURRENT)
    ),
    "Bidirectional of float32": lambda L, p: L.Bidirectional(
        L.GRU(3, return_state=True, return_sequences=True), merge_mode=None, dtype=p
    ),
    "TimeDistributed": lambda L, p: L.TimeDistributed(L.Dense(2, dtype=p), dtype=p),
    "TimeDistributed softmax": lambda L, p: L.TimeDistributed(L.Softmax(dtype=p), dtype=p),
    "Dense": lambda L, p: L.Dense(2, activation="tanh", dtype=p),
    "Dense softmax": lambda L, p: L.Dense(2, activation="softmax", dtype=p),
    "BatchNormalization": lambda L, p: L.BatchNormalization(dtype=p),
    "LayerNormalization": lambda L, p: L.LayerNormalization(dtype=p),
    "Conv1D": lambda L, p: L.Conv1D(3, 2, dtype=p),
    "Dropout": lambda L, p: L.Dropout(0.5, dtype=p),
    "Masking": lambda L, p: L.Masking(dtype=p),
    "Flatten": lambda L, p: L.Flatten(dtype=p),
    "Activation": lambda L, p: L.Activation("relu", dtype=p),
    "GlobalAveragePooling1D": lambda L, p: L.GlobalAveragePooling1D(dtype=p),
}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_layers_called_directly(make, policy, rng):
    x = rng.normal(size=(2, 4, 3)).astype(np.float32)
    theirs = make(K, policy)
    expected = theirs(x)
    ours = make(layers, policy)
    ours.build(x.shape)
    ours.set_weights(theirs.get_weights())
    assert_alike(ours(x), expected, policy)
    if not getattr(ours, "stateful", False):
        assert_alike(fastrnn.from_keras(theirs)(x), expected, policy)


@pytest.mark.parametrize("policy", POLICIES)
def test_embeddings(policy):
    x = np.array([[1, 2, 0]])
    theirs = K.Embedding(5, 4, mask_zero=True, dtype=policy)
    expected = theirs(x)
    ours = layers.Embedding(5, 4, mask_zero=True, dtype=policy)
    ours.build()
    ours.set_weights(theirs.get_weights())
    assert_alike(ours(x), expected, policy)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", ["SimpleRNNCell", "LSTMCell", "GRUCell"])
def test_cells(name, policy, rng):
    x = rng.normal(size=(2, 3)).astype(np.float32)
    theirs, ours = (getattr(L, name)(5, dtype=policy, **RECURRENT) for L in (K, layers))
    states = [np.zeros((2, 5), np.float32)] * (2 if name == "LSTMCell" else 1)
    expected = theirs(x, states)
    ours(x, states)
    ours.set_weights(theirs.get_weights())
    assert_alike(list(ours(x, states)), list(expected), policy)


# Models


def sequential(L, module, policy):
    return module.Sequential(
        [
            module.Input((4, 3)),
            L.LSTM(5, dtype=policy, return_sequences=True, **RECURRENT),
            L.Bidirectional(L.GRU(3, dtype=policy, **RECURRENT), dtype=policy),
            L.Dense(2, dtype=policy),
        ]
    )


def mixture(L, module, policy):
    x = module.Input((4, 3))
    half, whole = L.Dense(3, dtype=policy)(x), L.Dense(3)(x)
    inside = module.Input((4, 3))
    nested = module.Model(inside, [inside * 2, L.Dense(3, dtype=policy)(inside)], name="nested")
    return module.Model(
        x,
        {
            "half": half,
            "whole": whole,
            "layer": L.Add()([half, whole]),
            "half layer": L.Add(dtype=policy)([half, whole]),
            "float32 layer": L.Reshape((12,))(half),
            "sum": half + whole,
            "number": half * 2,
            "integer": half + module.ops.cast(whole > 0, "int32"),
            "joined": module.ops.concatenate([half, whole]),
            "same": module.ops.concatenate([half, half]),
            "comparison": half > 0,
            "cast": module.ops.cast(half, "float32"),
            "cast to half": module.ops.cast(whole, half_of(policy)) * 3,
            "softmax": module.ops.softmax(half),
            "item": half[:, 0],
            "after": L.LSTM(2, dtype=policy, return_state=True, **RECURRENT)(half + whole),
            "nested": nested(half),
            "input": x,
        },
    )


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("make", [sequential, mixture])
def test_models(make, policy, rng):
    x = rng.normal(size=(3, 4, 3)).astype(np.float32)
    theirs = make(K, keras, policy)
    expected = theirs(x)
    ours = make(layers, fastrnn, policy)
    ours.set_weights(theirs.get_weights())
    for model in (ours, fastrnn.from_keras(theirs)):
        for got in (model(x), model(x), model.predict(x), model.predict(x)):
            assert_alike(got, expected, policy)


def test_pickled_models_return_half_precision():
    x = np.zeros((2, 4, 3), np.float32)
    model = sequential(layers, fastrnn, "mixed_float16")
    model(x)
    assert pickle.loads(pickle.dumps(model))(x).dtype == np.float16


@pytest.mark.parametrize("policy", POLICIES)
def test_symbolic_tensors_know_their_dtype(policy):
    def dtypes_of(L, module):
        x = module.Input((4, 3), dtype=half_of(policy))
        half, whole = L.Dense(3, dtype=policy)(x), L.Dense(3)(x)
        made = [x, half, whole, half + whole, half * 2, x + 1, half > 0, L.Flatten()(half)]
        made += L.LSTM(2, dtype=policy, return_state=True, **RECURRENT)(whole)
        return [tensor.dtype for tensor in made]

    assert dtypes_of(layers, fastrnn) == dtypes_of(K, keras)


@pytest.mark.parametrize("dtype", HALVES)
def test_inputs_of_half_precision(dtype, rng):
    values = rng.normal(size=(2, 4, 3)).astype(np.float32)
    x = values.astype(HALVES[dtype])

    def make(L, module):
        given = module.Input((4, 3), dtype=dtype)
        outputs = [given, given * 2, L.Dense(2)(given), L.Dropout(0.5)(given)]
        return module.Model(given, outputs)

    theirs = make(K, keras)
    expected = theirs(x)
    ours = make(layers, fastrnn)
    ours.set_weights(theirs.get_weights())
    for given in (x, values, x.astype(np.float64)):
        assert_alike(ours(given), expected, dtype)
    one = fastrnn.Sequential([layers.Input((4, 3), dtype=dtype), layers.Dense(2)])
    np.testing.assert_array_equal(one(values), one(x))
    assert one(x).dtype == np.float32
    plain = fastrnn.Sequential([layers.Input((4, 3)), layers.Dense(2)])
    np.testing.assert_array_equal(plain(x), plain(x.astype(np.float32)))
    layer = plain.layers[0]
    np.testing.assert_array_equal(layer(x), layer(x.astype(np.float32)))


@pytest.mark.parametrize("policy", POLICIES)
def test_what_is_computed_is_float32(policy, rng):
    """A model of half precision is the float32 model of the same weights, in the end rounded once."""
    x = rng.normal(size=(3, 4, 3)).astype(np.float32)
    half, whole = (sequential(layers, fastrnn, name) for name in (policy, "float32"))
    half.set_weights(whole.get_weights())
    whole.set_weights(half.get_weights())
    np.testing.assert_array_equal(half(x), whole(x).astype(HALVES[half_of(policy)]))
    assert half._prepared.shortest.run(x) is not None


def test_nothing_is_cast_in_float32_models():
    model = sequential(layers, fastrnn, "float32")
    model(np.zeros((1, 4, 3), np.float32))
    executable, _ = model._executable((False,))
    assert model._prepared.shortest.run == executable.plan.program.run


@pytest.mark.parametrize("policy", POLICIES)
def test_what_does_not_fit_into_the_half_type(policy):
    layer = layers.Dense(1, kernel_initializer="ones", dtype=policy)
    model = fastrnn.Sequential([layers.Input((1,)), layer])
    expected = np.inf if "bfloat16" not in policy else 1e5
    for got in (layer([[1e5]]), model(np.float32([[1e5]])), model(np.float32([[1e5]]))):
        np.testing.assert_allclose(got.astype(np.float32), [[expected]], rtol=0.01)


def test_states_of_stateful_layers_stay_float32(rng):
    x = rng.normal(size=(2, 4, 3)).astype(np.float32)
    half = layers.LSTM(5, stateful=True, return_state=True, dtype="mixed_float16")
    output, *states = half(x)
    assert {array.dtype for array in (output, *states)} == {np.dtype("float16")}
    assert {state.dtype for state in half.states} == {np.dtype("float32")}
    np.testing.assert_array_equal(half.states[0].astype(np.float16), states[0])


def test_initial_states_of_half_precision(rng):
    x = rng.normal(size=(2, 4, 3)).astype(np.float32)
    state = rng.normal(size=(2, 5)).astype(ml_dtypes.bfloat16)
    layer = layers.GRU(5)
    given = layer(x, initial_state=state)
    np.testing.assert_array_equal(given, layer(x, initial_state=state.astype(np.float32)))


# Without ml_dtypes


def test_without_ml_dtypes_bfloat16_is_float32(monkeypatch, rng):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    x = rng.normal(size=(3, 4, 3)).astype(np.float32)
    model = mixture(layers, fastrnn, "mixed_bfloat16")
    kinds = map_structure(lambda leaf: leaf.dtype.name, model(x))
    assert set(flatten(kinds)) == {"float32", "bool"}
    assert layers.LSTM(2, dtype="bfloat16")(x).dtype == np.float32


# Policies and weights


def test_forms_of_a_policy():
    config = {
        "module": "keras",
        "class_name": "DTypePolicy",
        "config": {"name": "mixed_float16"},
        "registered_name": None,
    }
    old = {"class_name": "Policy", "config": {"name": "mixed_float16"}}
    for dtype in ("mixed_float16", config, old, keras.DTypePolicy("mixed_float16")):
        layer = layers.Dense(2, dtype=dtype)
        assert layer.dtype_policy == dtypes.DTypePolicy("mixed_float16")
        assert (layer.dtype, layer.variable_dtype) == ("float32", "float32")
        assert layer.get_config()["dtype"] == config
        assert layers.Dense.from_config(layer.get_config()).dtype_policy == layer.dtype_policy
    for dtype in (np.float16, np.dtype("float16"), "float16"):
        layer = layers.Dense(2, dtype=dtype)
        assert (layer.dtype_policy.name, layer.dtype) == ("float16", "float16")
    assert layers.Dense(2, dtype=ml_dtypes.bfloat16).dtype_policy.name == "bfloat16"
    assert layers.LSTM(2, dtype="float16").compute_dtype == np.float32
    assert layers.LSTM(2, dtype="float16").cell.dtype == "float16"


@pytest.mark.parametrize("dtype", ["int8", "mixed_float64", "int8_from_float32", np.int32])
def test_unknown_policies(dtype):
    with pytest.raises(fastrnn.UnsupportedLayerError, match=r"'named'.*float32.*got"):
        layers.Dense(3, dtype=dtype, name="named")
    with pytest.raises(fastrnn.UnsupportedLayerError, match="got"):
        layers.LSTM(3, dtype=dtype)


@pytest.mark.parametrize("dtype", HALVES)
def test_weights_are_rounded(dtype, rng):
    values = [rng.normal(size=(3, 4)).astype(np.float32), np.float32([1e6, -0.0, 1e-9, np.nan])]
    with np.errstate(over="ignore"):
        expected = [array.astype(HALVES[dtype]).astype(np.float32) for array in values]
    pure, mixed = (layers.Dense(4, dtype=p) for p in (dtype, f"mixed_{dtype}"))
    for layer in (pure, mixed):
        layer.build((None, 3))
        assert layer.kernel.dtype == np.float32
        kernel = layer.kernel.astype(HALVES[dtype]).astype(np.float32)
        assert np.array_equal(layer.kernel, kernel) == (layer is pure)
        layer.set_weights(values)
    for weight, rounded, given in zip(pure.weights, expected, mixed.weights, strict=True):
        np.testing.assert_array_equal(weight, rounded)
        assert not weight.flags.writeable
        assert given.dtype == np.float32
    np.testing.assert_array_equal(mixed.kernel, values[0])


def test_rounding_to_bfloat16(rng):
    halves = np.arange(2**16, dtype=np.uint32) << 16
    ties = halves + np.uint32(0x8000)
    any_bits = rng.integers(0, 2**32, 100_000, np.uint32)
    numbers = np.concatenate([halves, ties, any_bits]).view(np.float32)
    with np.errstate(all="ignore"):
        expected = numbers.astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(dtypes.rounded(numbers, "bfloat16"), expected)


def test_users_weights_and_layers(rng):
    class Scale(layers.Layer):
        def build(self, input_shape):
            self.factor = self.add_weight((3,), "ones", dtype="bfloat16")

        def call(self, inputs):
            return inputs * self.factor

    x = rng.normal(size=(2, 3)).astype(np.float32)
    third = np.full(3, 1 / 3)
    for policy, dtype in {"float16": "float16", None: "float32"}.items():
        layer = Scale(dtype=policy)
        assert layer(x).dtype == dtype
        layer.set_weights([third])
        np.testing.assert_array_equal(layer.factor, third.astype(ml_dtypes.bfloat16))
        assert fastrnn.Sequential([layers.Input((3,)), layer])(x).dtype == dtype


# Files


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("make", [sequential, mixture])
@pytest.mark.parametrize("ending", ["keras", "h5", "weights.h5"])
@pytest.mark.filterwarnings("ignore")
def test_files(make, ending, policy, tmp_path, rng):
    x = rng.normal(size=(3, 4, 3)).astype(np.float32)
    theirs = make(K, keras, policy)
    path = tmp_path / f"model.{ending}"
    if ending == "weights.h5":
        theirs.save_weights(path)
        described = tmp_path / "model.json"
        described.write_text(theirs.to_json())
        model = fastrnn.load_model(described, weights=path)
    else:
        theirs.save(path)
        model = fastrnn.load_model(path)
    assert_alike(model(x), theirs(x), policy)
    for ours, wanted in zip(model.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, np.asarray(wanted).astype(np.float32))


@pytest.mark.parametrize("policy", POLICIES)
def test_operations_on_numpy_arrays(policy):
    half = HALVES[half_of(policy)]
    assert ops.cast(np.ones(3, np.float32), half_of(policy)).dtype == half
