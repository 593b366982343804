"""What the documents that fastrnn follows show, with `fastrnn` where they have `keras`.

Keras's SimpleRNN page, the usage of R's `layer_simple_rnn`, the RNN class's page, and the tutorial
"Understanding Simple Recurrent Neural Networks in Keras". Lines that the copies lost are written from the
prose around them.
"""

import ast
import inspect
import re

import keras
import numpy as np
import pytest

import fastrnn
from fastrnn import Input, Model, Sequential, ops
from fastrnn._nested import flatten
from fastrnn.layers import LSTM, RNN, Dense, Layer, SimpleRNN


def test_the_example_of_the_simple_rnn_page(rng):
    inputs = rng.random((32, 10, 8))
    simple_rnn = SimpleRNN(4)
    output = simple_rnn(inputs)
    assert output.shape == (32, 4)
    simple_rnn = SimpleRNN(4, return_sequences=True, return_state=True)
    whole_sequence_output, final_state = simple_rnn(inputs)
    assert whole_sequence_output.shape == (32, 10, 4)
    assert final_state.shape == (32, 4)
    np.testing.assert_array_equal(whole_sequence_output[:, -1], final_state)


def test_the_arguments_of_the_simple_rnn_page():
    documented = {
        "activation": "tanh",
        "use_bias": True,
        "kernel_initializer": "glorot_uniform",
        "recurrent_initializer": "orthogonal",
        "bias_initializer": "zeros",
        "kernel_regularizer": None,
        "recurrent_regularizer": None,
        "bias_regularizer": None,
        "activity_regularizer": None,
        "kernel_constraint": None,
        "recurrent_constraint": None,
        "bias_constraint": None,
        "dropout": 0.0,
        "recurrent_dropout": 0.0,
        "return_sequences": False,
        "return_state": False,
        "go_backwards": False,
        "stateful": False,
        "unroll": False,
        "seed": None,
    }
    by_name = SimpleRNN(4, **documented, name="same").get_config()
    assert SimpleRNN(4, *documented.values(), name="same").get_config() == by_name
    assert SimpleRNN(units=4, name="same").get_config() == by_name
    assert SimpleRNN(4, activation=None).get_config()["activation"] == "linear"


def test_the_usage_from_r(rng):
    # reticulate turns R's numbers to float64 and its arrays to Fortran order; whole numbers come as floats.
    inputs = np.asfortranarray(rng.random((32, 10, 8)))
    inputs.flags.writeable = False
    simple_rnn = SimpleRNN(units=4, return_sequences=True, return_state=True)
    whole_sequence_output, final_state = simple_rnn(inputs)
    assert whole_sequence_output.shape == (32, 10, 4)
    assert final_state.shape == (32, 4)
    same = simple_rnn(np.ascontiguousarray(inputs))
    np.testing.assert_array_equal(whole_sequence_output, same[0])
    model = Sequential([Input((10, 8)), SimpleRNN(units=4)])
    assert model.predict(inputs).shape == (32, 4)


def create_RNN(hidden_units, dense_units, input_shape, activation):
    model = Sequential()
    model.add(SimpleRNN(hidden_units, input_shape=input_shape, activation=activation[0]))
    model.add(Dense(units=dense_units, activation=activation[1]))
    return model


def keras_RNN(hidden_units, dense_units, input_shape, activation):
    return keras.Sequential(
        [
            keras.Input(input_shape),
            keras.layers.SimpleRNN(hidden_units, activation=activation[0]),
            keras.layers.Dense(dense_units, activation=activation[1]),
        ]
    )


@pytest.mark.parametrize(
    ("x", "activation"),
    [
        (np.array([1, 2, 3]).reshape(1, 3, 1), ["linear", "linear"]),
        (np.array([1, 0.1, 2, 0.2, 3, 0.3]).reshape(1, 3, 2), ["tanh", "linear"]),
    ],
    ids=["one feature, as in the tutorial", "two features, as asked below it"],
)
def test_the_tutorials_computation_step_by_step(x, activation):
    m = 2
    demo_model = create_RNN(m, 1, x.shape[1:], activation)
    wx, wh, bh, wy, by = demo_model.get_weights()
    assert [w.shape for w in (wx, wh, bh, wy, by)] == [(x.shape[2], m), (m, m), (m,), (m, 1), (1,)]
    np.testing.assert_array_equal(bh, 0)
    np.testing.assert_array_equal(by, 0)

    function = np.tanh if activation[0] == "tanh" else np.asarray
    h0 = np.zeros(m)
    h1 = function(np.dot(x[0, 0], wx) + np.dot(h0, wh) + bh)
    h2 = function(np.dot(x[0, 1], wx) + np.dot(h1, wh) + bh)
    h3 = function(np.dot(x[0, 2], wx) + np.dot(h2, wh) + bh)
    o3 = np.dot(h3, wy) + by
    y_pred_model = demo_model.predict(x)
    assert y_pred_model.shape == (1, 1)
    np.testing.assert_allclose(y_pred_model[0], o3, rtol=1e-5)

    states = SimpleRNN(m, activation=activation[0], return_sequences=True)
    states.build(x.shape)
    states.set_weights([wx, wh, bh])
    np.testing.assert_allclose(states(x)[0], [h1, h2, h3], rtol=1e-5)

    judge = keras_RNN(m, 1, x.shape[1:], activation)
    judge.set_weights(demo_model.get_weights())
    np.testing.assert_allclose(y_pred_model, judge.predict(x, verbose=0), rtol=1e-5)


def get_XY(dat, time_steps):
    """Return non-overlapping windows and, of each, the value that follows."""
    Y_ind = np.arange(time_steps, len(dat), time_steps)
    X = dat[range(time_steps * len(Y_ind))]
    return np.reshape(X, (len(Y_ind), time_steps, 1)), dat[Y_ind]


def test_the_tutorials_forecast_and_a_second_simple_rnn(rng):
    trainX, trainY = get_XY(rng.random(240).astype("float32"), time_steps=12)
    assert trainX.shape == (19, 12, 1)
    assert trainY.shape == (19,)
    model = create_RNN(3, 1, (12, 1), activation=["tanh", "tanh"])
    judge = keras_RNN(3, 1, (12, 1), activation=["tanh", "tanh"])
    judge.set_weights(model.get_weights())
    expected = judge.predict(trainX, verbose=0)
    np.testing.assert_allclose(model.predict(trainX), expected, rtol=0, atol=1e-6)

    deep = Sequential([Input((12, 1)), SimpleRNN(5, return_sequences=True), SimpleRNN(3), Dense(1)])
    deep_judge = keras.Sequential(
        [
            keras.Input((12, 1)),
            keras.layers.SimpleRNN(5, return_sequences=True),
            keras.layers.SimpleRNN(3),
            keras.layers.Dense(1),
        ]
    )
    deep_judge.set_weights(deep.get_weights())
    expected = deep_judge.predict(trainX, verbose=0)
    np.testing.assert_allclose(deep.predict(trainX), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "first",
    [
        lambda: [Input(batch_shape=(4, 5, 2)), LSTM(3, stateful=True)],
        lambda: [LSTM(3, stateful=True, batch_input_shape=(4, 5, 2))],
    ],
    ids=["Input(batch_shape)", "batch_input_shape"],
)
def test_statefulness_of_the_rnn_page(first, rng):
    model = Sequential(first())
    layer = model.layers[-1]
    x = rng.random((4, 5, 2))
    once = model.predict(x)
    twice = model.predict(x)
    assert not np.array_equal(once, twice)
    layer.reset_states()
    np.testing.assert_array_equal(model.predict(x), once)
    np.testing.assert_array_equal(model.predict(x), twice)
    model.reset_states()
    np.testing.assert_array_equal(model.predict(x), once)

    states = [rng.random((4, 3)), rng.random((4, 3))]
    layer.reset_states(states=states)
    plain = LSTM(3)
    plain.build(x.shape)
    plain.set_weights(layer.get_weights())
    np.testing.assert_allclose(model.predict(x), plain(x, initial_state=states), rtol=0, atol=1e-6)


def test_masks_of_the_simple_rnn_page(rng):
    x = rng.random((2, 4, 3))
    simple_rnn = SimpleRNN(4)
    output = simple_rnn(x, mask=np.array([[True, True, False, False], [False, True, False, True]]))
    np.testing.assert_allclose(output[0], simple_rnn(x[:1, :2])[0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(output[1], simple_rnn(x[1:, 1::2])[0], rtol=0, atol=1e-6)


class MinimalRNNCell(Layer):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.state_size = units

    def build(self, input_shape):
        self.kernel = self.add_weight(
            shape=(input_shape[-1], self.units), initializer="uniform", name="kernel"
        )
        self.recurrent_kernel = self.add_weight(
            shape=(self.units, self.units), initializer="uniform", name="recurrent_kernel"
        )
        self.built = True

    def call(self, inputs, states):
        prev_output = states[0]
        h = ops.matmul(inputs, self.kernel)
        output = h + ops.matmul(prev_output, self.recurrent_kernel)
        return output, [output]


@pytest.mark.parametrize("sizes", [[32], [32, 64]])
def test_the_cells_of_the_rnn_page(sizes, rng):
    cells = [MinimalRNNCell(size) for size in sizes]
    x = Input((None, 5))
    layer = RNN(cells[0] if len(cells) == 1 else cells)
    y = layer(x)
    assert y.shape == (None, sizes[-1])
    model = Model(x, y)
    array = rng.normal(size=(2, 7, 5))
    sequence = array
    for cell in cells:
        state, outputs = np.zeros((2, cell.units)), []
        for step in np.moveaxis(sequence, 1, 0):
            state = step @ cell.kernel + state @ cell.recurrent_kernel
            outputs.append(state)
        sequence = np.stack(outputs, axis=1)
    np.testing.assert_allclose(model.predict(array), sequence[:, -1], rtol=1e-4, atol=1e-5)


# -- the examples of every class on the page "Recurrent layers", from the docstrings that the page is made of ----------

DOCUMENTED = (
    *("SimpleRNN", "LSTM", "GRU", "SimpleRNNCell", "LSTMCell", "GRUCell", "RNN", "StackedRNNCells"),
    *("Bidirectional", "TimeDistributed", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D"),
    *("Embedding", "Masking"),
)


def examples_of(name):
    """The code in a docstring of Keras: its blocks, and its lines after `>>>`."""
    text = inspect.getdoc(getattr(keras.layers, name))
    blocks = re.findall(r"```(?:python)?\n(.*?)```", text, flags=re.DOTALL)
    prompted = re.findall(r"^\s*(?:>>>|\.\.\.) ?(.*)$", text, flags=re.MULTILINE)
    # Bidirectional's example lacks a parenthesis.
    code = "\n".join([*blocks, *prompted]).replace(
        "return_sequences=True),\n    Bidirectional", "return_sequences=True)),\n    Bidirectional"
    )
    return ast.parse(code).body


def run_with(package, statements):
    """Run statements with `package` where they have `keras`; return the names they set and the errors they raise."""
    names = {"keras": package, "np": np, "layers": package.layers, "Sequential": package.Sequential}
    names |= {name: getattr(package.layers, name) for name in (*DOCUMENTED, "Dense", "Input")}
    names["ops"] = package.ops
    errors = []
    for statement in statements:
        if isinstance(statement, ast.ImportFrom):
            continue
        try:
            exec(compile(ast.Module([statement], []), "docstring", "exec"), names)
        except Exception as error:
            errors.append((statement.lineno, type(error)))
    return names, errors


@pytest.mark.slow
@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_examples_of_the_recurrent_layers_page(name):
    statements = examples_of(name)
    theirs, their_errors = run_with(keras, statements)
    ours, our_errors = run_with(fastrnn, statements)
    # LSTMCell's example takes two of three results.
    assert our_errors == their_errors, name
    inputs = [names for names in ("inputs", "x", "input_array") if names in ours]
    for key, value in theirs.items():
        if isinstance(value, keras.layers.Layer) and not inspect.isclass(value) and value.built:
            layer = ours[key]
            assert [w.shape for w in layer.get_weights()] == [
                tuple(w.shape) for w in value.weights if "seed" not in w.name
            ]
            layer.set_weights(value.get_weights())
            given = next((theirs[i] for i in inputs if isinstance(theirs[i], np.ndarray)), None)
            if given is not None and not hasattr(layer, "check_states"):  # a cell needs states
                for a, b in zip(flatten(layer(given)), flatten(value(given)), strict=True):
                    np.testing.assert_allclose(a, np.asarray(b), rtol=0, atol=1e-5)
        elif hasattr(value, "shape") and not inspect.ismodule(value):
            assert tuple(ours[key].shape) == tuple(value.shape), key


def test_the_cells_of_the_rnn_page_compute(rng):
    """What the page's cell computes, alone and stacked, against the same loop in NumPy."""
    names, errors = run_with(fastrnn, examples_of("RNN"))
    assert not errors
    x = rng.normal(size=(3, 4, 5)).astype("float32")
    cells = [names["MinimalRNNCell"](6), names["MinimalRNNCell"](2)]
    inputs = fastrnn.Input((None, 5))
    model = fastrnn.Model(inputs, fastrnn.layers.RNN(cells)(inputs))
    h, g = np.zeros((3, 6)), np.zeros((3, 2))
    for t in range(4):
        h = x[:, t] @ cells[0].kernel + h @ cells[0].recurrent_kernel
        g = h @ cells[1].kernel + g @ cells[1].recurrent_kernel
    np.testing.assert_allclose(model(x), g, rtol=0, atol=1e-6)
    assert [w.shape for w in model.weights] == [(5, 6), (6, 6), (6, 2), (2, 2)]
