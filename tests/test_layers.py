"""The contract of fastrnn.layers: configs, weights, inputs of any kind, and errors."""

import inspect
import json

import keras
import numpy as np
import pytest

import fastrnn
from fastrnn import activations, layers

RECURRENT = ["SimpleRNN", "LSTM", "GRU"]
CELLS = ["SimpleRNNCell", "LSTMCell", "GRUCell"]
L2 = {
    "module": "keras.regularizers",
    "class_name": "L2",
    "config": {"l2": 0.01},
    "registered_name": None,
}
MAX_NORM = {
    "module": "keras.constraints",
    "class_name": "MaxNorm",
    "config": {"max_value": 2, "axis": 0},
    "registered_name": None,
}
SEEDED = {
    "kernel_initializer": {"class_name": "HeNormal", "config": {"seed": 1}},
    "recurrent_initializer": {"class_name": "Orthogonal", "config": {"seed": 2}},
    "bias_initializer": {"class_name": "RandomNormal", "config": {"seed": 3}},
}
FLAGS = {
    "return_sequences": True,
    "return_state": True,
    "go_backwards": True,
    "stateful": True,
    "unroll": True,
    "zero_output_for_mask": True,
}
TRAINING_ONLY = {
    "kernel_regularizer": L2,
    "recurrent_regularizer": L2,
    "bias_regularizer": L2,
    "kernel_constraint": MAX_NORM,
    "recurrent_constraint": MAX_NORM,
    "bias_constraint": MAX_NORM,
    "dropout": 0.1,
    "recurrent_dropout": 0.2,
    "seed": 4,
}
LAYERS = [
    *[(name, {"units": 3}) for name in (*RECURRENT, *CELLS)],
    *[(name, {"units": 4, "use_bias": False, "activation": "relu"}) for name in RECURRENT],
    *[(name, {"units": 3, **SEEDED}) for name in (*RECURRENT, *CELLS)],
    *[(name, {"units": 3, **FLAGS}) for name in RECURRENT],
    *[(name, {"units": 3, **TRAINING_ONLY}) for name in (*RECURRENT, *CELLS)],
    *[(name, {"units": 2, "activity_regularizer": L2}) for name in (*RECURRENT, "Dense")],
    *[(name, {"units": 2, "dtype": "float64", "trainable": False}) for name in RECURRENT],
    ("LSTM", {"units": 3, "unit_forget_bias": False, "recurrent_activation": "hard_sigmoid"}),
    ("LSTM", {"units": 3, "unit_forget_bias": False, **SEEDED}),
    ("GRU", {"units": 3, "reset_after": False, "recurrent_activation": "hard_sigmoid"}),
    ("GRU", {"units": 3, "reset_after": False, "use_bias": False}),
    ("GRUCell", {"units": 3, "reset_after": False}),
    ("Dense", {"units": 3}),
    ("Dense", {"units": 3, "activation": "swish", "use_bias": False, "dtype": "float64"}),
    (
        "Dense",
        {
            "units": 3,
            "kernel_initializer": SEEDED["kernel_initializer"],
            "kernel_regularizer": L2,
            "bias_regularizer": L2,
            "kernel_constraint": MAX_NORM,
            "bias_constraint": MAX_NORM,
        },
    ),
    ("Activation", {"activation": "softmax"}),
    ("Dropout", {"rate": 0.5, "seed": 3}),
    ("Dropout", {"rate": 0.0, "noise_shape": [2, 3]}),
]


def build_shape(name):
    return (2, 4) if name in (*CELLS, "Dense") else (2, 5, 4)


def built(class_name, /, *arguments, **keywords):
    layer = getattr(layers, class_name)(*arguments, **keywords)
    layer.build(build_shape(class_name))
    return layer


def batch(rng, *shape):
    return rng.normal(size=shape).astype("float32")


def as_list(result):
    return list(result) if isinstance(result, tuple) else [result]


# Configs and weights


@pytest.mark.parametrize(
    "name", [*RECURRENT, *CELLS, "Dense", "Activation", "Dropout", "InputLayer", "Input"]
)
def test_the_constructors_arguments_are_those_of_keras(name):
    def arguments(module):
        parameters = inspect.signature(getattr(module.layers, name)).parameters.values()
        return [(p.name, p.default) for p in parameters if p.kind is not p.VAR_KEYWORD]

    assert arguments(fastrnn) == arguments(keras)


def keras_config(name, arguments):
    config = getattr(keras.layers, name)(**arguments, name="mine").get_config()
    if name == "SimpleRNN":  # Keras forgets two of its arguments
        forgotten = ("seed", "activity_regularizer")
        config |= {argument: arguments.get(argument) for argument in forgotten}
    return json.loads(json.dumps(config))


@pytest.mark.parametrize(("name", "arguments"), LAYERS)
def test_config_is_that_of_keras(name, arguments):
    ours = getattr(layers, name)(**arguments, name="mine")
    assert ours.get_config() == keras_config(name, arguments)


@pytest.mark.parametrize(("name", "arguments"), LAYERS)
def test_config_round_trip(name, arguments):
    ours = getattr(layers, name)(**arguments)
    config = json.loads(json.dumps(ours.get_config()))
    before = repr(config)
    assert type(ours).from_config(config).get_config() == config
    assert repr(config) == before
    theirs = getattr(keras.layers, name).from_config(config)
    assert theirs.name == ours.name


@pytest.mark.parametrize(
    "arguments",
    [
        {"shape": (3, 2)},
        {"shape": (None, 2), "batch_size": 4},
        {"batch_shape": (4, 3, 2), "name": "mine"},
        {"shape": (3,), "dtype": "float64"},
        {"shape": (3,), "dtype": "int32"},
    ],
)
def test_input_layer_config(arguments):
    arguments = {"name": "mine"} | arguments
    config = layers.InputLayer(**arguments).get_config()
    assert config == keras.layers.InputLayer(**arguments).get_config()
    assert layers.InputLayer.from_config(config).get_config() == config
    assert layers.Input(**arguments).call.layer.get_config() == config


@pytest.mark.parametrize("name", [*RECURRENT, *CELLS, "Dense", "Activation", "Dropout"])
def test_names_are_numbered_as_in_keras(name):
    def make(module):
        argument = "relu" if name == "Activation" else 1
        return getattr(module.layers, name)(argument).name

    stem = make(keras).rstrip("_0123456789")
    names = [make(fastrnn) for _ in range(3)]
    numbers = [int(name.removeprefix(stem).strip("_") or 0) for name in names]
    assert numbers == list(range(numbers[0], numbers[0] + 3))


@pytest.mark.parametrize(("name", "arguments"), LAYERS)
def test_weights_are_those_of_keras(name, arguments):
    ours = getattr(layers, name)(**arguments)
    theirs = getattr(keras.layers, name)(**arguments)
    shape = build_shape(name)
    for layer in (ours, theirs):
        assert layer.get_weights() == []
        layer.build(shape)
        assert layer.built
    assert ours.count_params() == theirs.count_params()
    assert [w.shape for w in ours.weights] == [w.shape for w in theirs.weights]
    assert {w.dtype.name for w in ours.weights} <= {arguments.get("dtype", "float32")}
    if "kernel_initializer" in arguments:
        for got, expected in zip(ours.weights, theirs.get_weights(), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)
    weights = [np.full(w.shape, n + 0.5) for n, w in enumerate(ours.weights)]
    ours.set_weights(weights)
    theirs.set_weights(weights)
    for got, expected in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("unit_forget_bias", [False, True])
def test_unit_forget_bias(unit_forget_bias):
    bias = built("LSTM", 2, unit_forget_bias=unit_forget_bias).get_weights()[2]
    np.testing.assert_array_equal(bias, [0, 0, unit_forget_bias, unit_forget_bias, 0, 0, 0, 0])


def test_get_weights_gives_copies(rng):
    layer = built("LSTM", 3, return_sequences=True)
    x = batch(rng, 2, 5, 4)
    before = layer(x)
    for weight in layer.get_weights():
        weight[:] = 0
    np.testing.assert_array_equal(layer(x), before)
    weights = layer.get_weights()
    layer.set_weights(weights)
    for weight in weights:
        weight[:] = 0
    np.testing.assert_array_equal(layer(x), before)


@pytest.mark.parametrize("name", RECURRENT)
def test_set_weights_takes_effect_after_a_call(name, rng):
    x = batch(rng, 2, 5, 4)
    one, other = built(name, 3), built(name, 3)
    assert not np.array_equal(one(x), other(x))
    other.set_weights(one.get_weights())
    np.testing.assert_array_equal(one(x), other(x))
    assert not np.any(one(x) == 0)
    one.cell.set_weights([np.zeros_like(w) for w in one.get_weights()])
    np.testing.assert_array_equal(one(x), 0)


@pytest.mark.parametrize("name", [*RECURRENT, "Dense"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda weights: weights[:-1],
        lambda weights: [*weights, weights[0]],
        lambda weights: [*weights[:-1], weights[-1][:-1]],
        lambda weights: [weights[0].T, *weights[1:]],
        lambda weights: [*weights[:-1], "a" * weights[-1].size],
    ],
)
def test_bad_weights_change_nothing(name, damage, rng):
    layer = built(name, 3)
    x = batch(rng, 2, 5, 4)
    before = layer(x)
    with pytest.raises((ValueError, TypeError), match=layer.name):
        layer.set_weights(damage([np.ones_like(w) for w in layer.get_weights()]))
    np.testing.assert_array_equal(layer(x), before)


def test_set_weights_before_build():
    layer = layers.Dense(2, name="early")
    with pytest.raises(ValueError, match="early"):
        layer.set_weights([np.ones((2, 2)), np.ones(2)])


def test_count_params_before_build():
    with pytest.raises(ValueError, match="built"):
        layers.LSTM(3).count_params()


@pytest.mark.parametrize("name", RECURRENT)
@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("return_state", [False, True])
@pytest.mark.parametrize("shape", [(2, 5, 4), (None, None, 4)])
def test_compute_output_shape(name, return_sequences, return_state, shape):
    options = {"return_sequences": return_sequences, "return_state": return_state}
    expected = getattr(keras.layers, name)(3, **options).compute_output_shape(shape)
    assert getattr(layers, name)(3, **options).compute_output_shape(shape) == expected


def test_the_registry_knows_the_layers():
    for name in (*RECURRENT, *CELLS, "Dense", "Activation", "Dropout", "InputLayer"):
        assert layers.REGISTRY[name] is getattr(layers, name)


# Calls


@pytest.mark.parametrize("name", [*RECURRENT, "Dense"])
def test_an_unbuilt_layer_builds_itself(name, rng):
    layer = getattr(layers, name)(3)
    output = layer(batch(rng, 2, 5, 4))
    assert layer.built
    assert output.shape == ((2, 5, 3) if name == "Dense" else (2, 3))
    assert layer.get_weights()[0].shape[0] == 4


@pytest.mark.parametrize("name", [*RECURRENT, "Dense"])
@pytest.mark.parametrize(
    "arrange",
    [
        np.asfortranarray,
        lambda x: np.repeat(x, 2, axis=2)[..., ::2],
        lambda x: x[::-1].copy()[::-1],
        lambda x: x.transpose(1, 0, 2).copy().transpose(1, 0, 2),
        lambda x: x.astype("float64"),
        lambda x: x.astype("float16"),
        lambda x: x.astype(">f4"),
        lambda x: x.astype("int8"),
        lambda x: x.astype("uint64"),
        lambda x: x > 3,
        lambda x: x.tolist(),
        lambda x: np.broadcast_to(x[:1, :1], x.shape),
    ],
)
def test_any_array_like_gives_the_same_and_stays_as_it_was(name, arrange, rng):
    layer = built(name, 3)
    x = arrange(np.rint(rng.uniform(0, 7, (2, 5, 4))).astype("float32"))
    before = np.array(x)
    if isinstance(x, np.ndarray):
        x.flags.writeable = False
    got = layer(x)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, layer(before.astype("float32")), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("name", RECURRENT)
def test_states_and_masks_of_any_kind(name, rng):
    layer = built(name, 3, return_sequences=True, return_state=True)
    x = batch(rng, 2, 5, 4)
    states = [np.rint(3 * s) for s in batch(rng, len(layer(x)) - 1, 2, 3)]
    mask = rng.random((2, 5)) < 0.5
    expected = layer(x, mask=mask, initial_state=states)
    for kind in (np.asfortranarray, lambda a: a.astype(int), lambda a: a.tolist()):
        got = layer(x, mask=kind(mask), initial_state=[kind(s) for s in states])
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", RECURRENT)
def test_results_are_new_arrays(name, rng):
    layer = built(name, 3, return_state=True)
    x = batch(rng, 2, 5, 4)
    states = list(batch(rng, len(layer(x)) - 1, 2, 3))
    kept = [s.copy() for s in states]
    all_masked = np.zeros((2, 5), bool)
    for result in layer(x, initial_state=states, mask=all_masked):
        result[:] = 7
    first = layer(x)
    copies = [a.copy() for a in first]
    layer(2 * x)
    for a, b in zip([*first, *states], [*copies, *kept], strict=True):
        np.testing.assert_array_equal(a, b)
    for identity in (layers.Activation("linear"), layers.Dropout(0.5)):
        identity(x)[:] = 7
    assert not np.any(x == 7)


@pytest.mark.parametrize("name", RECURRENT)
def test_rows_do_not_depend_on_their_batch(name, rng):
    layer = built(name, 19, return_sequences=True)
    x = batch(rng, 37, 5, 4)
    whole = layer(x)
    for n in (0, 17, 36):
        np.testing.assert_allclose(layer(x[n : n + 1])[0], whole[n], rtol=0, atol=1e-6)


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "relu", "linear", "hard_sigmoid", "elu"])
@pytest.mark.parametrize("name", [*RECURRENT, "Dense"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nan_and_infinity_propagate_as_in_keras(name, dtype, activation, special, rng):
    arguments = {"activation": activation, "dtype": dtype}
    if name != "Dense":
        arguments["return_sequences"] = True
    ours = built(name, 3, **arguments)
    theirs = getattr(keras.layers, name)(3, **arguments)
    theirs.build(build_shape(name))
    theirs.set_weights(ours.get_weights())
    x = batch(rng, 3, 5, 4)
    x[0, 2, 1] = special
    x[1, 0] = special
    with np.errstate(all="ignore"):
        expected = theirs(x)
    np.testing.assert_allclose(ours(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", RECURRENT)
def test_what_is_masked_does_not_matter(name, rng):
    layer = built(name, 3, return_sequences=True, return_state=True)
    x = batch(rng, 2, 5, 4)
    mask = np.array([[True, False, True, False, False], [False, True, False, True, True]])
    expected = layer(x, mask=mask)
    x[~mask] = np.nan
    for got, wanted in zip(layer(x, mask=mask), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("name", RECURRENT)
def test_empty_batch(name):
    layer = built(name, 3, return_sequences=True, return_state=True)
    x = np.zeros((0, 5, 4))
    for mask in (None, np.zeros((0, 5), bool)):
        output, *states = layer(x, mask=mask)
        assert output.shape == (0, 5, 3)
        assert {s.shape for s in states} == {(0, 3)}


@pytest.mark.parametrize("name", RECURRENT)
def test_a_users_activation(name, rng):
    def cubed(x):
        return np.tanh(x) ** 3

    weights = built(name, 3).get_weights()
    x = batch(rng, 2, 5, 4)
    outputs = []
    for activation in (cubed, lambda x: np.tanh(x) * np.tanh(x) * np.tanh(x)):
        layer = built(name, 3, activation=activation)
        layer.set_weights(weights)
        outputs.append(layer(x))
    assert outputs[0].dtype == np.float32
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=0, atol=1e-6)


def test_the_hard_sigmoid_of_keras_2(rng):
    layer = built("LSTM", 3, recurrent_activation="hard_sigmoid_keras2")
    same = built("LSTM", 3, recurrent_activation=lambda x: np.clip(0.2 * x + 0.5, 0, 1))
    same.set_weights(layer.get_weights())
    x = 3 * batch(rng, 2, 5, 4)
    np.testing.assert_allclose(layer(x), same(x), rtol=0, atol=1e-6)
    assert layer.get_config()["recurrent_activation"] == "hard_sigmoid_keras2"


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("use_bias", [False, True])
def test_a_cell_by_itself(name, use_bias, rng):
    ours = built(name, 3, use_bias=use_bias)
    theirs = getattr(keras.layers, name)(3, use_bias=use_bias)
    theirs.build((2, 4))
    theirs.set_weights(ours.get_weights())
    x = batch(rng, 2, 4)
    states = list(batch(rng, 2 if name == "LSTMCell" else 1, 2, 3))
    (output, new), (expected, expected_new) = ours(x, states), theirs(x, states)
    assert isinstance(new, list)
    for a, b in zip([output, *new], [expected, *expected_new], strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
    assert ours.state_size == theirs.state_size
    assert ours.output_size == theirs.output_size


@pytest.mark.parametrize("name", RECURRENT)
def test_the_cell_holds_the_weights(name):
    layer = built(name, 3)
    assert [child for child, _ in layer._children()] == ["cell"]
    assert type(layer.cell).__name__ == f"{name}Cell"
    assert layer.cell.name == getattr(keras.layers, name)(3).cell.name
    for a, b in zip(layer.get_weights(), layer.cell.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


# State


@pytest.mark.parametrize("name", RECURRENT)
def test_stateful_continues_where_it_stopped(name, rng):
    whole = built(name, 3, return_sequences=True)
    layer = built(name, 3, return_sequences=True, stateful=True)
    layer.set_weights(whole.get_weights())
    x = batch(rng, 2, 11, 4)
    parts = np.concatenate([layer(x[:, :4]), layer(x[:, 4:5]), layer(x[:, 5:])], axis=1)
    np.testing.assert_allclose(parts, whole(x), rtol=0, atol=1e-6)
    layer.reset_states()
    np.testing.assert_allclose(layer(x), whole(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", RECURRENT)
def test_reset_states_to_given_ones(name, rng):
    layer = built(name, 3, stateful=True)
    plain = built(name, 3)
    plain.set_weights(layer.get_weights())
    x = batch(rng, 2, 5, 4)
    states = list(batch(rng, 2 if name == "LSTM" else 1, 2, 3))
    layer(x)
    for given in (states, tuple(states), *([states[0]] if len(states) == 1 else [])):
        layer.reset_states(states=given)
        expected = plain(x, initial_state=given)
        np.testing.assert_allclose(layer(x), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", RECURRENT)
def test_a_stateless_layer_remembers_nothing(name, rng):
    layer = built(name, 3)
    x = batch(rng, 2, 5, 4)
    first = layer(x)
    layer(x, initial_state=list(batch(rng, 2 if name == "LSTM" else 1, 2, 3)))
    layer(x, mask=np.zeros((2, 5), bool))
    np.testing.assert_array_equal(layer(x), first)


BAD_CALLS = [
    ("rank 2", {"x": (2, 4)}, ["(2, 4)"]),
    ("rank 4", {"x": (2, 5, 4, 1)}, ["(2, 5, 4, 1)"]),
    ("features", {"x": (2, 5, 7)}, ["4", "(2, 5, 7)"]),
    ("no steps", {"x": (2, 0, 4)}, ["(2, 0, 4)"]),
    ("mask of fewer steps", {"mask": (2, 4)}, ["(2, 5)", "(2, 4)"]),
    ("mask of more steps", {"mask": (2, 6)}, ["(2, 5)", "(2, 6)"]),
    ("mask of another batch", {"mask": (3, 5)}, ["(2, 5)", "(3, 5)"]),
    ("mask of one row", {"mask": (1, 5)}, ["(2, 5)", "(1, 5)"]),
    ("mask of rank 1", {"mask": (5,)}, ["(2, 5)", "(5,)"]),
    ("mask with features", {"mask": (2, 5, 4)}, ["(2, 5)", "(2, 5, 4)"]),
    ("state of other units", {"states": (2, 4)}, ["(2, 3)", "(2, 4)"]),
    ("state of another batch", {"states": (3, 3)}, ["(2, 3)", "(3, 3)"]),
    ("state of one row", {"states": (1, 3)}, ["(2, 3)", "(1, 3)"]),
    ("state of rank 1", {"states": (3,)}, ["(2, 3)", "(3,)"]),
    ("state of rank 3", {"states": (2, 1, 3)}, ["(2, 3)", "(2, 1, 3)"]),
    ("no states", {"count": 0}, []),
    ("too many states", {"count": 3}, ["3"]),
]


def call_with(layer, x=(2, 5, 4), mask=None, states=None, count=None):
    mask = None if mask is None else np.ones(mask, bool)
    usual = 2 if "LSTM" in type(layer).__name__ else 1
    if states is not None or count is not None:
        states = [np.ones(states or (2, 3))] * (usual if count is None else count)
    return layer(np.ones(x), mask=mask, initial_state=states)


@pytest.mark.parametrize("stateful", [False, True])
@pytest.mark.parametrize("name", RECURRENT)
@pytest.mark.parametrize(
    ("arguments", "told"), [case[1:] for case in BAD_CALLS], ids=[c[0] for c in BAD_CALLS]
)
def test_bad_calls_say_what_came_and_change_nothing(name, stateful, arguments, told, rng):
    layer = built(name, 3, stateful=stateful, name="the_layer")
    twin = built(name, 3, stateful=stateful)
    twin.set_weights(layer.get_weights())
    x = batch(rng, 2, 5, 4)
    np.testing.assert_array_equal(layer(x), twin(x))
    with pytest.raises(ValueError, match="the_layer") as caught:
        call_with(layer, **arguments)
    for part in told:
        assert part in str(caught.value)
    np.testing.assert_array_equal(layer(x), twin(x))


@pytest.mark.parametrize("name", [*RECURRENT, "Dense"])
@pytest.mark.parametrize(
    "x",
    [
        np.full((2, 5, 4), "a"),
        np.full((2, 5, 4), None),
        np.ones((2, 5, 4), complex),
        np.full((2, 5, 4), np.datetime64("2024-01-01")),
        [[[1.0], [1.0, 2.0]]],
        "text",
    ],
)
def test_what_is_no_numbers_is_refused(name, x):
    with pytest.raises((TypeError, ValueError)):
        built(name, 3)(x)


@pytest.mark.parametrize("name", RECURRENT)
def test_masks_and_states_that_are_no_numbers_are_refused(name):
    layer = built(name, 3)
    with pytest.raises((TypeError, ValueError)):
        layer(np.ones((2, 5, 4)), mask=np.full((2, 5), "a"))
    with pytest.raises((TypeError, ValueError)):
        layer(np.ones((2, 5, 4)), initial_state=[np.full((2, 3), "a")] * (1 + (name == "LSTM")))


@pytest.mark.parametrize("name", RECURRENT)
def test_an_unbuilt_layer_that_refuses_stays_unbuilt(name):
    layer = getattr(layers, name)(3)
    for arguments in ({"x": (2, 4)}, {"x": (2, 0, 4)}, {"mask": (3, 5)}, {"states": (2, 9)}):
        with pytest.raises(ValueError, match=layer.name):
            call_with(layer, **arguments)
        assert layer.get_weights() == []
    assert layer(np.ones((2, 5, 6))).shape == (2, 3)


def test_lstm_needs_both_states():
    for states in (np.ones((2, 3)), [np.ones((2, 3))], np.ones((2, 2, 3))[:1]):
        with pytest.raises(ValueError, match="2"):
            built("LSTM", 3)(np.ones((2, 5, 4)), initial_state=states)


@pytest.mark.parametrize("name", RECURRENT)
def test_stateful_keeps_its_batch(name, rng):
    layer = built(name, 3, stateful=True, name="the_layer")
    twin = built(name, 3, stateful=True)
    twin.set_weights(layer.get_weights())
    x = batch(rng, 2, 5, 4)
    np.testing.assert_array_equal(layer(x), twin(x))
    for size in (0, 1, 3):
        with pytest.raises(ValueError, match=f"the_layer.*2.*{size}"):
            layer(np.ones((size, 5, 4)))
    count = 2 if name == "LSTM" else 1
    for states in ([np.ones((3, 3))] * count, [np.ones((2, 4))] * count, [np.ones((2, 3))] * 3):
        with pytest.raises(ValueError, match="the_layer"):
            layer.reset_states(states=states)
    np.testing.assert_array_equal(layer(x), twin(x))


@pytest.mark.parametrize("name", RECURRENT)
def test_stateful_needs_to_know_its_batch(name):
    with pytest.raises(ValueError, match="batch"):
        getattr(layers, name)(3, stateful=True).build((None, 5, 4))


@pytest.mark.parametrize("name", RECURRENT)
@pytest.mark.parametrize("arguments", [{"dropout": 0.1}, {"recurrent_dropout": 0.1}])
def test_training_with_dropout_is_refused(name, arguments):
    layer = built(name, 3, **arguments)
    with pytest.raises(ValueError, match="training"):
        layer(np.ones((2, 5, 4)), training=True)
    np.testing.assert_array_equal(
        built(name, 3)(np.ones((2, 5, 4)), training=True).shape,
        layer(np.ones((2, 5, 4)), training=False).shape,
    )


def test_dropout(rng):
    x = batch(rng, 2, 3)
    np.testing.assert_array_equal(layers.Dropout(0.5)(x), x)
    np.testing.assert_array_equal(layers.Dropout(0.0)(x, training=True), x)
    with pytest.raises(ValueError, match="training"):
        layers.Dropout(0.5)(x, training=True)
    for rate in (-0.1, 1.1):
        with pytest.raises(ValueError, match=str(rate)):
            layers.Dropout(rate)


@pytest.mark.parametrize("name", [*RECURRENT, *CELLS, "Dense"])
@pytest.mark.parametrize("units", [0, -1, 2.5, "3", None, True])
def test_units_must_be_a_positive_integer(name, units):
    with pytest.raises((ValueError, TypeError), match="units"):
        getattr(layers, name)(units)


@pytest.mark.parametrize("name", [*RECURRENT, *CELLS, "Dense"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"activation": "nope"}, "nope.*tanh"),
        ({"kernel_initializer": "nope"}, "nope.*glorot_uniform"),
        ({"nonsense": 1}, "nonsense"),
        ({"dtype": "nonsense"}, "nonsense"),
    ],
)
def test_bad_arguments(name, arguments, message):
    with pytest.raises((ValueError, TypeError, NotImplementedError), match=message):
        getattr(layers, name)(3, **arguments)


@pytest.mark.parametrize("name", RECURRENT)
@pytest.mark.parametrize("activation", ["glu", "threshold"])
def test_activations_that_cannot_recur_are_refused(name, activation):
    with pytest.raises((ValueError, TypeError), match=activation):
        built(name, 4, activation=activation)(np.ones((2, 5, 4)))


def test_dense_refuses():
    layer = built("Dense", 3, name="the_layer")
    for shape in ((4,), (), (2, 3), (2, 2, 5)):
        with pytest.raises(ValueError, match="the_layer") as caught:
            layer(np.ones(shape))
        assert str(shape) in str(caught.value)


def test_dense_of_no_features_or_an_empty_axis():
    assert built("Dense", 3)(np.ones((2, 0, 4))).shape == (2, 0, 3)
    assert layers.Dense(3)(np.ones((2, 0))).shape == (2, 3)


def test_every_name_of_an_activation_makes_a_layer():
    for name in activations.NAMES:
        assert layers.Activation(name).get_config()["activation"] == (
            activations.serialize(activations.get(name))
        )


def test_other_names_of_layers_are_those_of_keras():
    names: dict[type, set[str]] = {}
    for name, layer in vars(keras.layers).items():
        if isinstance(layer, type):
            names.setdefault(layer, set()).add(name)
    for theirs, aliases in names.items():
        known = [getattr(layers, name) for name in aliases if hasattr(layers, name)]
        if known:
            assert known == [layers.REGISTRY.get(theirs.__name__, known[0])] * len(aliases), aliases
            assert aliases <= set(layers.__all__)
