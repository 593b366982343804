"""Stacks of cells and users' own cells, alone and in RNN, against real Keras and a loop written out."""

import warnings

import keras
import numpy as np
import pytest

import fastrnn
from fastrnn import layers
from fastrnn._nested import flatten

CELLS = {
    "simple": ("SimpleRNNCell", {}),
    "lstm": ("LSTMCell", {}),
    "gru": ("GRUCell", {}),
    "gru before": ("GRUCell", {"reset_after": False}),
}
STACKS = [
    ["lstm", "gru"],
    ["gru", "lstm"],
    ["simple", "lstm", "gru before"],
    ["gru", "gru"],
    ["lstm", "lstm", "lstm"],
]


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def stack(package, kinds, dtype="float32"):
    cells = []
    for number, kind in enumerate(kinds):
        name, options = CELLS[kind]
        cells.append(getattr(package, name)(3 + number, dtype=dtype, **options))
    return cells


def scrambled(layer, rng):
    """Give a Keras layer weights of which none is zero."""
    layer.set_weights([rng.normal(0, 0.5, w.shape) for w in layer.get_weights()])


def pair(kinds, rng, features=4, batch=3, **options):
    """Return a Keras RNN over a stack, and ours with its weights."""
    theirs = keras.layers.RNN(stack(keras.layers, kinds), **options)
    theirs.build((batch, 5, features))
    scrambled(theirs, rng)
    ours = layers.RNN(stack(layers, kinds), **options)
    ours.build((batch, 5, features))
    ours.set_weights(theirs.get_weights())
    return theirs, ours


def assert_same(got, expected, tolerance=1e-5):
    assert len(flatten(got)) == len(flatten(expected))
    for ours, theirs in zip(flatten(got), flatten(expected), strict=True):
        np.testing.assert_allclose(ours, np.asarray(theirs), rtol=0, atol=tolerance)


def shapes(structure):
    if isinstance(structure, (list, tuple)):
        return [shapes(part) for part in structure]
    return structure.shape


# -- stacks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("go_backwards", [False, True])
@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("kinds", STACKS, ids="-".join)
def test_a_stack_gives_what_keras_gives(kinds, return_sequences, go_backwards, masked, rng):
    theirs, ours = pair(
        kinds,
        rng,
        return_sequences=return_sequences,
        return_state=True,
        go_backwards=go_backwards,
        zero_output_for_mask=len(kinds) == 3,
    )
    x = rng.normal(size=(3, 5, 4)).astype("float32")
    mask = None
    if masked:
        mask = rng.random((3, 5)) < 0.6
        mask[:, [0, -1]] = True  # without a valid step before them Keras's backends disagree
    expected, got = theirs(x, mask=mask), ours(x, mask=mask)
    assert shapes(got) == shapes(expected)
    assert isinstance(got, tuple)
    assert_same(got, expected)
    states = [[rng.normal(size=s.shape).astype("float32") for s in entry] for entry in got[1:]]
    assert_same(
        ours(x, mask=mask, initial_state=states), theirs(x, mask=mask, initial_state=states)
    )


def test_a_stack_is_one_program(rng):
    _, ours = pair(["lstm", "gru", "simple"], rng, return_sequences=True)
    ours(np.zeros((3, 5, 4), "float32"))
    ((executable, _),) = ours._executables.values()
    assert executable.plan.program is not None


def test_a_masked_stack_equals_its_layers_one_by_one(rng):
    """Rows that start with masked steps, where Keras's NumPy backend differs from the others."""
    theirs, ours = pair(["lstm", "gru"], rng, go_backwards=True, return_sequences=True)
    x, mask = rng.normal(size=(4, 6, 4)), rng.random((4, 6)) < 0.5
    ours.flat_states = None
    below = layers.LSTM(3, return_sequences=True, go_backwards=True)
    above = layers.GRU(4, return_sequences=True)
    for layer, features in ((below, 4), (above, 3)):
        layer.build((None, None, features))
    below.set_weights(theirs.get_weights()[:3])
    above.set_weights(theirs.get_weights()[3:])
    expected = above(below(x, mask=mask), mask=mask[:, ::-1])
    np.testing.assert_array_equal(ours(x, mask=mask), expected)


@pytest.mark.parametrize("kinds", STACKS, ids="-".join)
def test_a_stateful_stack_goes_on(kinds, rng):
    theirs, ours = pair(kinds, rng, stateful=True, return_sequences=True)
    for _ in range(3):
        x = rng.normal(size=(3, 5, 4)).astype("float32")
        assert_same(ours(x), theirs(x))
        assert shapes(ours.states) == [[tuple(s.shape) for s in entry] for entry in theirs.states]
        assert_same(ours.states, [[np.asarray(s) for s in entry] for entry in theirs.states])
    ours.reset_states()
    assert not any(np.any(state) for state in flatten(ours.states))


def test_reset_states_takes_nested_flat_lists_and_tuples(rng):
    _, ours = pair(["lstm", "gru"], rng, stateful=True)
    h, c, g = (rng.normal(size=(3, n)).astype("float32") for n in (3, 3, 4))
    for given in ([[h, c], [g]], ((h, c), (g,)), [(h, c), g], [h, c, g], (h, c, g)):
        ours.reset_states()
        ours.reset_states(given)
        assert_same(ours.states, [[h, c], [g]], 0)
    with pytest.raises(ValueError, match="expected a list of 3"):
        ours.reset_states([h, c])
    with pytest.raises(ValueError, match=r"\(3, 4\)"):
        ours.reset_states([h, c, h])
    assert_same(ours.states, [[h, c], [g]], 0)


def test_reset_states_before_the_first_call_fixes_the_batch(rng):
    ours = layers.RNN([layers.LSTMCell(3), layers.GRUCell(4)], stateful=True)
    given = [rng.normal(size=(2, n)) for n in (3, 3, 4)]
    ours.reset_states(given)
    assert_same(ours.states, given, 1e-7)
    with pytest.raises(ValueError, match="batch of 2"):
        ours(np.zeros((3, 5, 4)))
    ours(np.zeros((2, 5, 4)))


def test_a_stack_of_one_cell_returns_one_entry(rng):
    x = rng.normal(size=(2, 5, 4))
    for name, n_states in (("LSTMCell", 2), ("GRUCell", 1)):
        cell = getattr(layers, name)(3)
        ours = layers.RNN([cell], return_state=True)
        output, entry = got = ours(x)
        expected = layers.RNN(cell, return_state=True)(x)
        assert isinstance(entry, list)
        assert len(entry) == n_states
        assert_same((output, *entry), expected, 0)
        for given in ([entry], entry):
            assert_same(ours(x, initial_state=given), ours(x, initial_state=got[1:]), 0)
        assert ours.compute_output_shape((2, 5, 4)) == ((2, 3), [(2, 3)] * n_states)
        both = layers.Bidirectional(layers.RNN([cell], return_state=True))(x)
        assert [isinstance(part, list) for part in both] == [False, True, True]
    theirs = keras.layers.RNN([keras.layers.LSTMCell(3)], return_state=True)
    assert theirs.compute_output_shape((2, 5, 4)) == ((2, 3), [(2, 3), (2, 3)])


def test_a_stack_called_by_itself(rng):
    theirs = keras.layers.StackedRNNCells(stack(keras.layers, ["lstm", "gru", "simple"]))
    theirs.build((2, 4))
    scrambled(theirs, rng)
    ours = fastrnn.from_keras(theirs)
    x = rng.normal(size=(2, 4)).astype("float32")
    h, c, g, s = (rng.normal(size=(2, n)).astype("float32") for n in (3, 3, 4, 5))
    for states in ([[h, c], [g], [s]], [(h, c), g, s], [[h, c], g, [s]]):
        expected, got = theirs(x, states), ours(x, states)
        assert shapes(got) == shapes(expected)
        assert_same(got, expected)
        assert_same(ours(x, initial_state=states), got, 0)


def test_one_cell_called_by_itself(rng):
    x, h, c = (rng.normal(size=(2, n)).astype("float32") for n in (4, 3, 3))
    for kind in CELLS:
        name, options = CELLS[kind]
        theirs = getattr(keras.layers, name)(3, **options)
        theirs.build((2, 4))
        scrambled(theirs, rng)
        ours = fastrnn.from_keras(theirs)
        forms = [[h, c], (h, c)] if kind == "lstm" else [[h], (h,), h]
        for states in forms:
            expected, got = theirs(x, states), ours(x, initial_state=states)
            assert shapes(got) == shapes(expected)
            assert_same(got, expected)
            assert isinstance(got[1], list) == isinstance(states, (list, tuple))
        with pytest.raises(TypeError, match="states"):
            ours(x)
        with pytest.raises(TypeError, match="states"):
            ours(x, h, initial_state=h)


def test_a_stack_of_one_called_by_itself_gives_that_entry(rng):
    x, h, c = (rng.normal(size=(2, n)) for n in (4, 3, 3))
    alone, stacked = layers.LSTMCell(3), layers.StackedRNNCells([layers.LSTMCell(3)])
    alone.build((2, 4))
    stacked.build((2, 4))
    stacked.set_weights(alone.get_weights())
    assert_same(stacked(x, [[h, c]]), alone(x, [h, c]), 0)
    gru = layers.StackedRNNCells([layers.GRUCell(3)])
    assert isinstance(gru(x, [[h]])[1], list)
    assert isinstance(gru(x, [h])[1], np.ndarray)


@pytest.mark.parametrize("merge_mode", ["concat", "sum", None])
def test_a_stack_in_both_directions(merge_mode, rng):
    theirs = keras.layers.Bidirectional(
        keras.layers.RNN(
            stack(keras.layers, ["lstm", "gru"]), return_sequences=True, return_state=True
        ),
        merge_mode=merge_mode,
    )
    theirs.build((2, 5, 4))
    scrambled(theirs, rng)
    ours = layers.Bidirectional(
        layers.RNN(stack(layers, ["lstm", "gru"]), return_sequences=True, return_state=True),
        merge_mode=merge_mode,
    )
    ours.build((2, 5, 4))
    ours.set_weights(theirs.get_weights())
    x = rng.normal(size=(2, 5, 4)).astype("float32")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = theirs(x)
    got = ours(x)
    assert_same(got, expected)
    n_outputs = 2 if merge_mode is None else 1
    assert shapes(got[n_outputs:]) == [[(2, 3), (2, 3)], [(2, 4)]] * 2
    states = [rng.normal(size=s.shape) for s in flatten(list(got[n_outputs:]))]
    nested = [states[:2], states[2:3], states[3:5], states[5:]]
    assert_same(ours(x, initial_state=nested), theirs(x, initial_state=nested))
    assert_same(ours(x, initial_state=states), ours(x, initial_state=nested), 0)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_saved_stack_loads(suffix, rng, tmp_path):
    model = keras.Sequential(
        [
            keras.Input((5, 4)),
            keras.layers.RNN(stack(keras.layers, ["lstm", "lstm", "gru"]), return_sequences=True),
            keras.layers.Bidirectional(keras.layers.RNN(stack(keras.layers, ["gru", "simple"]))),
        ]
    )
    scrambled(model, rng)
    path = tmp_path / f"model{suffix}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(path)
    x = rng.normal(size=(3, 5, 4)).astype("float32")
    loaded = fastrnn.load_model(path)
    assert_same(loaded(x), model(x))
    assert loaded._executable((False,))[0].plan.program is not None
    copied = layers.RNN.from_config(loaded.layers[0].get_config())
    copied.build((None, 5, 4))
    assert [w.shape for w in copied.weights] == [w.shape for w in loaded.layers[0].weights]


# -- users' own cells ------------------------------------------------------------------------------------------------


class Leaky:
    """h' = tanh(x W + h R); a plain object, with the least that RNN asks for."""

    def __init__(self, units, features, rng):
        self.state_size = units
        self.kernel = rng.normal(size=(features, units)).astype("float32")
        self.recurrent = rng.normal(0, 0.5, (units, units)).astype("float32")

    def call(self, inputs, states):
        h = np.tanh(inputs @ self.kernel + states[0] @ self.recurrent)
        return h, [h]


class KerasLeaky(keras.layers.Layer):
    """The same in Keras."""

    def __init__(self, cell, **kwargs):
        super().__init__(**kwargs)
        self.cell, self.state_size = cell, cell.state_size

    def call(self, inputs, states):
        h = keras.ops.tanh(inputs @ self.cell.kernel + states[0] @ self.cell.recurrent)
        return h, [h]


class Nested:
    """Three states in two entries, one of them a matrix, that do not start from zeros; an output of its own."""

    state_size = [[3, 2], 4]  # noqa: RUF012  # as users write it
    output_size = 5

    def get_initial_state(self, batch_size=None):
        return [[np.ones((batch_size, 3)), np.zeros((batch_size, 2, 2))], np.ones((batch_size, 4))]

    def call(self, inputs, states):
        (a, b), c = states
        a = a / 2 + inputs[:, :3]
        b = b + np.einsum("bi,bj->bij", inputs[:, :2], inputs[:, 2:4])
        c = np.tanh(c + inputs)
        return np.concatenate([a, b[:, 0]], axis=-1), [[a, b], c]


def unrolled(cell, x, states, mask=None, reverse=False):
    """The outputs and last states of a user's cell, row by row and step by step."""
    outputs, lasts = [], []
    for row in range(len(x)):
        now = _row(states, row)
        last = None
        given = []
        for t in range(x.shape[1])[:: -1 if reverse else 1]:
            if mask is None or mask[row, t]:
                last, now = cell.call(x[row : row + 1, t], now)
            given.append(last)
        blank = next(np.zeros_like(one) for one in given if one is not None)
        outputs.append(np.stack([blank if one is None else one for one in given], 1))
        lasts.append(flatten(now))
    return np.concatenate(outputs), [np.concatenate(parts) for parts in zip(*lasts, strict=True)]


def _row(states, row):
    if isinstance(states, list):
        return [_row(state, row) for state in states]
    return states[row : row + 1]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_a_plain_object_is_a_cell(masked, reverse, rng):
    cell = Leaky(3, 4, rng)
    x = rng.normal(size=(3, 6, 4)).astype("float32")
    mask = np.array([[1, 1, 0, 1, 0, 1], [0, 0, 1, 0, 1, 0], [1] * 6], bool) if masked else None
    layer = layers.RNN(cell, return_sequences=True, return_state=True, go_backwards=reverse)
    y, h = layer(x, mask=mask)
    expected, (state,) = unrolled(cell, x, [np.zeros((3, 3))], mask, reverse)
    assert_same((y, h), (expected, state))
    if not masked:
        theirs = keras.layers.RNN(
            KerasLeaky(cell), return_sequences=True, return_state=True, go_backwards=reverse
        )
        assert_same((y, h), theirs(x))


def test_states_of_any_nesting_and_shape(rng):
    cell = Nested()
    x = rng.normal(size=(2, 5, 4)).astype("float32")
    layer = layers.RNN(cell, return_sequences=True, return_state=True)
    mask = np.array([[1, 0, 1, 1, 0], [0, 1, 1, 0, 1]], bool)
    for given in (None, mask):
        y, *states = layer(x, mask=given)
        expected, last = unrolled(cell, x, cell.get_initial_state(2), given)
        assert shapes(states) == [[(2, 3), (2, 2, 2)], (2, 4)]
        assert_same([y, states], [expected, last])
    assert layer.compute_output_shape((2, 5, 4)) == (
        (2, 5, 5),
        [(2, 3), (2, 2, 2)],
        (2, 4),
    )
    first, rest = layer(x[:, :2]), layer(x[:, 2:], initial_state=layer(x[:, :2])[1:])
    assert_same(rest[1:], layer(x)[1:])
    assert_same(np.concatenate([first[0], rest[0]], 1), layer(x)[0])
    with pytest.raises(ValueError, match=r"\(2, 2, 2\)"):
        layer(x, initial_state=[[np.ones((2, 3)), np.ones((2, 3))], np.ones((2, 4))])


def test_steps_ask_a_users_cell_for_no_example_of_its_states(rng):
    class Counting(Nested):
        asked = 0

        def get_initial_state(self, batch_size=None):
            self.asked += 1
            return super().get_initial_state(batch_size)

    asked = []
    for steps in (3, 30):
        layer = layers.RNN(Counting())
        layer(rng.normal(size=(2, steps, 4)).astype("float32"))
        asked.append(layer.cell.asked)
    assert asked[0] == asked[1]


def test_states_of_a_users_cell_that_knows_their_sizes_once_built(rng):
    class Own(fastrnn.Layer):
        state_size = 1

        def build(self, input_shape):
            self.state_size = input_shape[-1]

        def get_initial_state(self, batch_size=None):
            return [np.ones((batch_size, self.state_size))]

        def call(self, inputs, states):
            return inputs + states[0], [states[0] + 1]

    layer = layers.RNN(Own(), return_state=True)
    assert layer.compute_output_shape((2, 5, 3)) == ((2, 1), (2, 1))
    y, h = layer(np.zeros((2, 5, 3), "float32"))
    assert_same([y, h], [np.full((2, 3), 5), np.full((2, 3), 6)])


def test_a_stateful_layer_over_a_users_cell(rng):
    cell = Nested()
    layer = layers.RNN(cell, stateful=True, return_sequences=True)
    x = rng.normal(size=(2, 6, 4)).astype("float32")
    parts = [layer(x[:, :2]), layer(x[:, 2:])]
    assert_same(np.concatenate(parts, 1), layers.RNN(cell, return_sequences=True)(x))
    assert shapes(layer.states) == [[(2, 3), (2, 2, 2)], (2, 4)]
    layer.reset_states()
    assert not any(np.any(state) for state in flatten(layer.states))


def test_an_error_in_a_users_cell_leaves_the_states_alone(rng):
    class Fails(Leaky):
        fail = False

        def call(self, inputs, states):
            if self.fail:
                raise RuntimeError("no more")
            return super().call(inputs, states)

    cell = Fails(3, 4, rng)
    model = fastrnn.Sequential(
        [
            fastrnn.Input(batch_shape=(2, 5, 4)),
            layers.LSTM(4, stateful=True, return_sequences=True),
            layers.RNN(cell, stateful=True),
        ]
    )
    x = rng.normal(size=(2, 5, 4))
    model(x)
    before = [state.copy() for state in flatten(model.states)]
    cell.fail = True
    with pytest.raises(RuntimeError, match="no more"):
        model(x)
    assert_same(model.states, before, 0)


def test_a_users_cell_cannot_change_what_it_is_given(rng):
    class Writes(Leaky):
        def call(self, inputs, states):
            states[0][:] = 0
            return super().call(inputs, states)

    with pytest.raises(ValueError, match="read-only"):
        layers.RNN(Writes(3, 4, rng))(np.zeros((2, 5, 4)))


def test_a_cell_that_returns_other_states_is_refused(rng):
    class Forgets(Leaky):
        def call(self, inputs, states):
            return super().call(inputs, states)[0], []

    with pytest.raises(ValueError, match="return 1 states; got 0"):
        layers.RNN(Forgets(3, 4, rng))(np.zeros((2, 5, 4)))


def test_what_is_no_cell_is_refused():
    class Stateless:
        def call(self, inputs, states):
            return inputs, states

    class Silent:
        state_size = 3

    for cell, words in ((Stateless(), "state_size"), (Silent(), "call"), ("lstm", "call")):
        with pytest.raises(ValueError, match=words):
            layers.RNN(cell)
    with pytest.raises(ValueError, match="at least one cell"):
        layers.RNN([])


@pytest.mark.parametrize("order", ["built-in first", "built-in last"])
def test_a_stack_mixes_kernels_and_users_cells(order, rng):
    features = 4 if order == "built-in last" else 3
    own = Leaky(3 if order == "built-in last" else 5, features, rng)
    lstm = layers.LSTMCell(3)
    cells = [own, lstm] if order == "built-in last" else [lstm, own]
    x = rng.normal(size=(2, 5, 4)).astype("float32")
    mask = np.array([[1, 1, 0, 1, 1], [0, 1, 1, 0, 1]], bool)
    layer = layers.RNN(cells, return_sequences=True, return_state=True)
    for given in (None, mask):
        y, *states = layer(x, mask=given)
        value = x
        for cell in cells:
            value, *last = layers.RNN(cell, return_sequences=True, return_state=True)(
                value, mask=given
            )
            assert_same(states.pop(0), last)
        assert_same(y, value)
    h, c = np.zeros((2, 2, 3), "float32")
    start = [[np.zeros((2, own.state_size))], [h, c]][:: 1 if order == "built-in last" else -1]
    output, new = layers.StackedRNNCells(cells)(x[:, 0], start)
    assert_same(output, layer(x[:, :1])[0][:, 0])
    assert_same(new, layer(x[:, :1])[1:])


class WithConstants(Leaky):
    def call(self, inputs, states, constants):
        (bias,) = constants
        h = np.tanh(inputs @ self.kernel + states[0] @ self.recurrent + bias)
        return h, [h]


def test_constants_reach_the_cells_that_take_them(rng):
    cell = WithConstants(3, 4, rng)
    x, bias = rng.normal(size=(2, 5, 4)).astype("float32"), rng.normal(size=(2, 3))
    y = layers.RNN(cell, return_sequences=True)(x, constants=[bias])
    h = np.zeros((2, 3))
    for t in range(5):
        h, _ = cell.call(x[:, t], [h], [bias])
        np.testing.assert_allclose(y[:, t], h, atol=1e-6)
    plain = Leaky(2, 3, rng)
    stacked = layers.RNN([cell, plain], return_sequences=True)(x, constants=[bias])
    assert_same(stacked, layers.RNN(plain, return_sequences=True)(y))
    with pytest.raises(ValueError, match="takes no constants"):
        layers.RNN(plain)(x[..., :3], constants=[bias])


def test_a_users_cell_in_both_directions_and_in_a_model(rng):
    cell = Leaky(3, 4, rng)
    x = rng.normal(size=(2, 5, 4)).astype("float32")
    layer = layers.Bidirectional(layers.RNN(cell, return_sequences=True), name="both")
    forward, _ = unrolled(cell, x, [np.zeros((2, 3))])
    backward, _ = unrolled(cell, x, [np.zeros((2, 3))], reverse=True)
    expected = np.concatenate([forward, backward[:, ::-1]], -1)
    assert_same(layer(x), expected)
    model = fastrnn.Sequential([fastrnn.Input((5, 4)), layer, layers.Dense(2)])
    kernel, bias = model.layers[1].get_weights()
    assert_same(model(x), expected @ kernel + bias)
