"""ConvLSTM: its kernel in every build against the oracle, and its layers against real Keras."""

import functools
import itertools

import keras
import numpy as np
import pytest

import fastrnn
from fastrnn import _core, activations, layers, plan, reference
from tests.backends import as_on_tensorflow
from tests.pairs import pairwise

MASKS = {
    None: None,
    "right": [[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 0, 0]],
    "left": [[0, 0, 1, 1], [0, 1, 1, 1], [0, 0, 0, 1]],
    "holes": [[1, 0, 1, 1], [0, 1, 0, 1], [1, 0, 0, 1]],
    "rows": [[0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]],
}


def masked(kind, batch, steps):
    """Return a mask (batch, steps) of the pattern `kind`, or None."""
    if kind is None:
        return None
    return np.resize(np.array(MASKS[kind], bool), (batch, 4))[:, :steps].copy()


# The kernel against the oracle in float64

KERNEL_OPTIONS = {
    "taps": [(1,), (3,), (4,), (1, 1), (3, 3), (2, 3), (1, 5), (4, 2), (2, 2, 2), (3, 1, 2)],
    "channels": [1, 2, 3, 5],
    "filters": [1, 3, 4, 8, 9, 16, 17, 33, 40],
    "space": [(5, 4, 3), (1, 6, 5), (4, 5, 13), (3, 7, 29)],
    "strides": [1, 2, (2, 1, 3)],
    "dilation": [1, 2, (2, 1, 2)],
    "padding": ["valid", "same"],
    "channels_first": [False, True],
    "batch": [1, 2, 5],
    "steps": [1, 2, 4],
    "mask": [*MASKS],
    "activation": ["tanh", "relu", "softsign"],
    "recurrent_activation": ["sigmoid", "hard_sigmoid"],
    **{
        flag: [False, True]
        for flag in (
            "use_bias",
            "initial",
            "final",
            "return_sequences",
            "go_backwards",
            "zero_output_for_mask",
        )
    },
}
KERNEL_CASES = pairwise(KERNEL_OPTIONS, seed=5)


def per_axis(value, rank):
    return (value,) * rank if isinstance(value, int) else value[-rank:]


class KernelCase:
    """A ConvLSTM as a step of the core, what it is called with, and what the oracle says."""

    def __init__(self, seed, **case):
        rng = np.random.default_rng(seed)
        rank = len(case["taps"])
        self.strides = per_axis(case["strides"], rank)
        self.dilation = per_axis(1 if max(self.strides) > 1 else case["dilation"], rank)
        self.padding, self.channels_first = case["padding"], case["channels_first"]
        self.names = case["activation"], case["recurrent_activation"]
        self.options = {
            flag: case[flag]
            for flag in ("return_sequences", "go_backwards", "zero_output_for_mask")
        }
        channels, filters, batch = case["channels"], case["filters"], case["batch"]
        reach = [(n - 1) * step + 1 for n, step in zip(case["taps"], self.dilation, strict=True)]
        space = [max(n, least) for n, least in zip(case["space"][-rank:], reach, strict=True)]
        image = (channels, *space) if self.channels_first else (*space, channels)
        area = np.prod(case["taps"])
        self.weights = [
            rng.normal(0, 1 / np.sqrt(area * channels), (*case["taps"], channels, 4 * filters)),
            rng.normal(0, 0.5 / np.sqrt(area * filters), (*case["taps"], filters, 4 * filters)),
            rng.normal(0, 0.5, 4 * filters) if case["use_bias"] else None,
        ]
        self.weights = [None if w is None else w.astype(np.float32) for w in self.weights]
        self.x = rng.normal(size=(batch, case["steps"], *image)).astype(np.float32)
        self.mask = masked(case["mask"], batch, case["steps"])
        x = self.x.astype(np.float64)
        cell = self.cell()
        zeros = cell.initial_states(x)
        self.states = []
        if case["initial"]:
            self.states = [rng.normal(0, 0.7, z.shape).astype(np.float32) for z in zeros]
        start = tuple(state.astype(np.float64) for state in self.states) or zeros
        y, states = reference.recurrence(cell, x, start, self.mask, **self.options)
        self.expected = [y, *states] if case["final"] else [y]

    def cell(self):
        """Return the oracle's cell, in float64."""
        return reference.ConvLSTM(
            *[None if w is None else w.astype(np.float64) for w in self.weights],
            *map(activations.get, self.names),
            strides=self.strides,
            dilation=self.dilation,
            padding=self.padding,
            channel_axis=1 if self.channels_first else -1,
        )

    def program(self, core):
        """Buffers: 0 x, 1 the mask, 2 and 3 the initial states, 4 y, 5 and 6 the final states."""
        initial = tuple(range(2, 2 + len(self.states)))
        final = tuple(range(5, 4 + len(self.expected)))
        step = core.ConvRecurrent(
            *[None if w is None else w.astype(core.DTYPE) for w in self.weights],
            *self.names,
            self.strides,
            self.dilation,
            same=self.padding == "same",
            channels_first=self.channels_first,
            x=0,
            mask=None if self.mask is None else 1,
            initial=initial,
            y=4,
            final=final,
            **self.options,
        )
        assert step.sources == (0, *([] if self.mask is None else [1]), *initial)
        assert step.targets == (4, *final)
        return core.Program(7, [step], step.sources, step.targets, {1})

    def arrays(self, core):
        x, *states = (array.astype(core.DTYPE) for array in (self.x, *self.states))
        return (x, *([] if self.mask is None else [self.mask]), *states)

    def check(self, core):
        results = self.program(core).run(self.arrays(core))
        results = results if isinstance(results, tuple) else (results,)
        tolerance = 1e-12 if core.DTYPE.itemsize == 8 else 5e-6
        for got, expected in zip(results, self.expected, strict=True):
            assert got.dtype == core.DTYPE
            assert got.shape == expected.shape
            np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance)


@functools.cache
def kernel_case(number):
    return KernelCase(number, **KERNEL_CASES[number])


def test_kernel_in_every_pair_of_options(core):
    for number in range(len(KERNEL_CASES)):
        kernel_case(number).check(core)


@functools.cache
def large_case():
    """One image of more pixels than a block of work, each worth a thread."""
    case = {name: values[-1] for name, values in KERNEL_OPTIONS.items()}
    return KernelCase(0, **case | {"taps": (3, 3), "space": (21, 29), "strides": 1, "batch": 1})


def test_threads_change_nothing(core):
    case = large_case()
    alone = case.program(core).run(case.arrays(core))
    core.set_num_threads(3)
    together = case.program(core).run(case.arrays(core))
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "shapes",
    [
        [(2, 3, 5, 5), (2, 2, 2, 4), (2, 2, 2, 4)],
        [(2, 3, 5, 5, 2), (2, 2, 2, 4), (2, 2, 2, 4)],
        [(2, 3, 3, 5, 3), (2, 2, 2, 4), (2, 2, 2, 4)],
        [(2, 0, 5, 5, 3), (2, 2, 2, 4), (2, 2, 2, 4)],
        [(2, 3, 5, 5, 3), (2, 2, 2, 3), (2, 2, 2, 4)],
        [(2, 3, 5, 5, 3), (2, 2, 2, 4), (2, 2, 4)],
    ],
)
def test_kernel_refuses_arrays_that_do_not_fit(shapes, core):
    step = core.ConvRecurrent(
        np.zeros((4, 4, 3, 16), core.DTYPE),
        np.zeros((4, 4, 4, 16), core.DTYPE),
        None,
        "tanh",
        "sigmoid",
        [1, 1],
        [1, 1],
        same=False,
        channels_first=False,
        x=0,
        initial=(1, 2),
        y=3,
    )
    program = core.Program(4, [step], [0, 1, 2], [3])
    fitting = [(2, 3, 5, 5, 3), (2, 2, 2, 4), (2, 2, 2, 4)]
    assert program.run(tuple(np.zeros(shape, core.DTYPE) for shape in fitting)).shape == (
        2,
        2,
        2,
        4,
    )
    assert program.run(tuple(np.zeros(shape, core.DTYPE) for shape in shapes)) is None


def test_directions_merge_step_by_step_whatever_a_step_is(core):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 3, 4, 5, 6, 2)).astype(core.DTYPE)
    for mode, backwards in itertools.product(core.MERGE_MODES, [False, True]):
        step = core.Merge(mode, a=0, b=1, y=2, backwards=backwards)
        got = core.Program(3, [step], [0, 1], [2]).run((a, b))
        expected = reference.merge(a, b[:, ::-1] if backwards else b, mode)
        np.testing.assert_array_equal(got, expected)


# The layers against real Keras

OPTIONS = {
    "rank": [1, 2, 3],
    "filters": [1, 2, 5],
    "kernel_size": [1, 2, 3, (3, 1, 2)],
    "strides": [1, 2, (1, 2, 3)],
    "dilation_rate": [1, 2, (2, 1, 1)],
    "padding": ["valid", "same", "SAME"],
    "data_format": [None, "channels_last", "channels_first"],
    "channels": [1, 3],
    "batch": [1, 3],
    "steps": [1, 2, 4],
    "mask": [*MASKS],
    "initial_state": [False, True],
    "activation": ["tanh", "relu", "softsign", "linear"],
    "recurrent_activation": ["sigmoid", "hard_sigmoid", "tanh"],
    "dtype": ["float32", "float64"],
    **{
        flag: [False, True]
        for flag in (
            "use_bias",
            "return_sequences",
            "return_state",
            "go_backwards",
            "stateful",
            "unroll",
            "zero_output_for_mask",
        )
    },
}
CASES = pairwise(OPTIONS, seed=7)
NOT_ARGUMENTS = ("rank", "channels", "batch", "steps", "mask", "initial_state")


def built(module, case, batch):
    """Return the case's layer for images of which its kernel fits into just one to three times a side."""
    arguments = {name: value for name, value in case.items() if name not in NOT_ARGUMENTS}
    for name in ("kernel_size", "strides", "dilation_rate"):
        arguments[name] = per_axis(arguments[name], case["rank"])
    if max(arguments["strides"]) > 1:
        arguments["dilation_rate"] = 1
    layer = getattr(module.layers, f"ConvLSTM{case['rank']}D")(**arguments)
    space, channels = (5, 6, 7)[-case["rank"] :], case["channels"]
    first = case["data_format"] == "channels_first"
    image = (channels, *space) if first else (*space, channels)
    layer.build((batch, case["steps"], *image))
    return layer, image


def keras_results(case, weights, calls):
    """Return what Keras gives for successive calls, a flat list each.

    Row by row: its NumPy backend multiplies images by masks of another shape.
    """
    rows = []
    for row in range(case["batch"]):
        layer, _ = built(keras, case, 1)
        layer.set_weights(weights)
        of_row = []
        for x, mask, states in calls:
            part = slice(row, row + 1)
            given = None if mask is None else mask[part]
            start = None if states is None else [state[part] for state in states]
            result = layer(x[part], mask=given, initial_state=start)
            output, *final = result if case["return_state"] else [result]
            of_row.append([as_on_tensorflow(np.asarray(output), given, layer), *final])
        rows.append(of_row)
    return [
        [np.concatenate(parts) for parts in zip(*call, strict=True)]
        for call in zip(*rows, strict=True)
    ]


def results_of(layer, calls):
    results = [layer(x, mask=mask, initial_state=states) for x, mask, states in calls]
    return [list(one) if isinstance(one, tuple) else [one] for one in results]


def assert_same(got, expected, tolerance):
    for ours, theirs in zip(got, expected, strict=True):
        assert [a.shape for a in ours] == [a.shape for a in theirs]
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


@pytest.mark.parametrize("number", range(len(CASES)))
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_layer_is_that_of_keras_and_the_oracle(number, monkeypatch):
    case, rng = CASES[number], np.random.default_rng(number)
    layer, image = built(fastrnn, case, case["batch"])
    weights = [
        rng.normal(0, 0.4 / np.sqrt(np.prod(w.shape[:-1])), w.shape).astype("float32")
        for w in layer.weights
    ]
    shape = (case["batch"], case["steps"], *image)
    calls = []
    for call in range(2 if case["stateful"] else 1):
        states = None
        if case["initial_state"] and not call:
            like = layer._cell.state_shapes(image)
            states = [rng.normal(0, 0.5, (case["batch"], *one)).astype("float32") for one in like]
        mask = masked(case["mask"], case["batch"], case["steps"])
        calls.append((rng.normal(size=shape).astype("float32"), mask, states))
    layer.set_weights(weights)
    results = results_of(layer, calls)
    assert {array.dtype for result in results for array in result} == {np.dtype(case["dtype"])}
    expected = keras_results(case, weights, calls)
    largest = max(1, np.max([np.abs(array).max() for result in expected for array in result]))
    assert_same(results, expected, 1e-5 * largest)
    monkeypatch.setattr(plan.ConvRecurrence, "compiled", lambda step: None)
    layer, _ = built(fastrnn, case, case["batch"])
    layer.set_weights(weights)
    oracle = results_of(layer, calls)
    assert_same(results, oracle, largest * (1e-10 if case["dtype"] == "float64" else 1e-5))


@pytest.mark.parametrize("name", sorted(_core.ACTIVATIONS.keys() - {"hard_sigmoid_keras2"}))
def test_every_activation(name, rng):
    x = images(1, rng)
    arguments = {"filters": 2, "kernel_size": 2, "return_sequences": True, "use_bias": False}
    for place in ("activation", "recurrent_activation"):
        theirs, ours = (m.layers.ConvLSTM1D(**arguments, **{place: name}) for m in (keras, fastrnn))
        expected = theirs(x)
        ours.build(x.shape)
        ours.set_weights(theirs.get_weights())
        np.testing.assert_allclose(ours(x), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_softmax_is_over_the_last_axis_whatever_it_is(name, data_format, rng):
    x = rng.normal(size=(2, 3, 4, 5, 6)).astype("float32")
    arguments = {"filters": 3, "kernel_size": 2, "activation": name, "data_format": data_format}
    theirs, ours = (m.layers.ConvLSTM2D(**arguments) for m in (keras, fastrnn))
    expected = theirs(x)
    ours.build(x.shape)
    ours.set_weights(theirs.get_weights())
    np.testing.assert_allclose(ours(x), expected, rtol=0, atol=1e-5)


def images(rank, rng, batch=2, steps=3):
    return rng.normal(size=(batch, steps, *(6, 5, 4)[:rank], 2)).astype("float32")


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_files(rank, suffix, tmp_path, rng):
    name = f"ConvLSTM{rank}D"
    conv_lstm = getattr(keras.layers, name)
    x = images(rank, rng)
    model = keras.Sequential(
        [
            keras.Input(x.shape[1:]),
            conv_lstm(3, 2, padding="same", return_sequences=True, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Bidirectional(conv_lstm(2, 3, recurrent_activation="hard_sigmoid")),
            keras.layers.Flatten(),
            keras.layers.Dense(2),
        ]
    )
    model.save(tmp_path / f"model{suffix}")
    loaded = fastrnn.load_model(tmp_path / f"model{suffix}")
    np.testing.assert_allclose(loaded.predict(x), model(x), rtol=0, atol=1e-5)
    assert type(loaded.layers[0]) is getattr(layers, name)
    copied = fastrnn.from_keras(model)
    np.testing.assert_array_equal(copied(x), loaded(x))


@pytest.mark.parametrize("merge_mode", ["concat", "sum", "mul", "ave", None])
@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_bidirectional(merge_mode, return_sequences, data_format, rng):
    x = images(2, rng)
    options = {"return_sequences": return_sequences, "data_format": data_format}

    def made(module):
        layer = module.layers.ConvLSTM2D(3, 2, padding="same", return_state=True, **options)
        return module.layers.Bidirectional(layer, merge_mode=merge_mode)

    theirs, ours = made(keras), made(fastrnn)
    expected = theirs(x)
    ours.build(x.shape)
    ours.set_weights(theirs.get_weights())
    for a, b in zip(ours(x), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


def test_time_distributed(rng):
    x = rng.normal(size=(2, 3, 4, 5, 6, 2)).astype("float32")
    theirs, ours = (
        m.layers.TimeDistributed(m.layers.ConvLSTM2D(3, 2, strides=2)) for m in (keras, fastrnn)
    )
    expected = theirs(x)
    ours.build(x.shape)
    ours.set_weights(theirs.get_weights())
    np.testing.assert_allclose(ours(x), expected, rtol=0, atol=1e-5)


def test_states_of_one_layer_start_another(rng):
    x = images(2, rng)

    def made(module):
        inputs = module.Input(x.shape[1:])
        encoder = module.layers.ConvLSTM2D(3, 2, padding="same", return_state=True)
        decoder = module.layers.ConvLSTM2D(3, 3, padding="same", return_sequences=True)
        _, *states = encoder(inputs)
        return module.Model(inputs, decoder(inputs, initial_state=states))

    model = made(keras)
    np.testing.assert_allclose(fastrnn.from_keras(model)(x), model(x), rtol=0, atol=1e-5)


def test_cell_alone_and_in_a_stack(rng):
    x = images(2, rng)
    layer = layers.ConvLSTM2D(3, 2, padding="same", return_sequences=True, return_state=True)
    y, h, c = layer(x)
    states = layer.cell.get_initial_state(2)
    for t in range(3):
        output, states = layer.cell(x[:, t], states)
        np.testing.assert_allclose(output, y[:, t], rtol=0, atol=1e-6)
    np.testing.assert_allclose(states, [h, c], rtol=0, atol=1e-6)
    above = layers.ConvLSTM2D(2, 3)
    expected = above(y)
    stack = layers.RNN([layer.cell, above.cell])
    np.testing.assert_array_equal(stack(x), expected)
    copy = layers.RNN.from_config(stack.get_config())
    copy.build(x.shape)
    copy.set_weights(stack.get_weights())
    np.testing.assert_array_equal(copy(x), expected)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_config_is_that_of_keras(rank):
    arguments = {
        "filters": 3,
        "kernel_size": 2,
        "padding": "same",
        "strides": 2,
        "recurrent_activation": "hard_sigmoid",
        "unit_forget_bias": False,
        "go_backwards": True,
        "name": "layer",
    }
    name = f"ConvLSTM{rank}D"
    config = getattr(layers, name)(**arguments).get_config()
    theirs = getattr(keras.layers, name)(**arguments).get_config()
    assert config.keys() == theirs.keys()
    for key in ("filters", "kernel_size", "strides", "dilation_rate", "data_format", "padding"):
        assert config[key] == theirs[key]
    again = getattr(layers, name).from_config(theirs).get_config()
    assert {**again, "seed": None} == {**config, "seed": None}


def test_initial_weights_are_those_of_lstm(rng):
    layer = layers.ConvLSTM2D(3, 2)
    layer.build((None, 4, 5, 5, 2))
    assert [w.shape for w in layer.weights] == [(2, 2, 2, 12), (2, 2, 3, 12), (12,)]
    np.testing.assert_array_equal(layer.weights[2], np.repeat([0, 1, 0, 0], 3))


def test_size_of_images_may_be_unknown(rng):
    layer = layers.ConvLSTM2D(3, 2)
    model = fastrnn.Sequential([fastrnn.Input((None, None, None, 2)), layer])
    assert model.output_shape == (None, None, None, 3)
    for size in (5, 7):
        x = rng.normal(size=(2, 3, size, 6, 2)).astype("float32")
        np.testing.assert_array_equal(model(x), layer(x))


def test_no_rows_give_no_rows(rng):
    assert layers.ConvLSTM1D(3, 2)(np.zeros((0, 4, 5, 2))).shape == (0, 4, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strides": 2, "dilation_rate": 2}, "strides or dilation_rate to be 1"),
        ({"padding": "causal"}, "padding 'valid' or 'same'"),
        ({"data_format": "first"}, "data_format 'channels_last' or 'channels_first'"),
        ({"kernel_size": (2, 2, 2)}, "kernel_size: expected an integer, or 2 of them"),
        ({"kernel_size": 0}, "kernel_size: expected an integer, or 2 of them"),
        ({"filters": 0}, "units"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        layers.ConvLSTM2D(**{"filters": 3, "kernel_size": 2} | arguments)


def test_wrong_inputs(rng):
    layer = layers.ConvLSTM2D(3, 4)
    with pytest.raises(ValueError, match="that a kernel of size"):
        layer(np.zeros((2, 3, 3, 5, 2)))
    with pytest.raises(ValueError, match="ndim=5"):
        layer(np.zeros((2, 3, 5, 5)))
    x = np.zeros((2, 3, 5, 6, 2))
    layer(x)
    with pytest.raises(ValueError, match="expected steps of shape"):
        layer(np.zeros((2, 3, 5, 6, 1)))
    with pytest.raises(ValueError, match="expected shape"):
        layer(x, initial_state=[np.zeros((2, 2, 3, 3)), np.zeros((2, 2, 2, 3))])
    with pytest.raises(ValueError, match="rank of 1, 2 or 3"):
        layers.ConvLSTMCell(4, 3, 2)
    stateful = layers.ConvLSTM1D(3, 2, stateful=True)
    with pytest.raises(ValueError, match="images of known size"):
        stateful.build((2, 3, None, 2))


def test_a_failing_call_leaves_states_alone(rng):
    layer = layers.ConvLSTM1D(3, 2, stateful=True)
    x = images(1, rng)
    layer(x)
    before = [state.copy() for state in layer.states]
    with pytest.raises(ValueError, match="stateful with a batch of 2"):
        layer(np.concatenate([x, x]))
    np.testing.assert_array_equal(layer.states, before)
    layer.reset_states()
    np.testing.assert_array_equal(layer.states, np.zeros_like(before))
