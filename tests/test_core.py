"""Every build of the core that this CPU can run, against the NumPy oracle in float64."""

import ast
import functools
import itertools
from pathlib import Path

import numpy as np
import pytest

import fastrnn
from fastrnn import _core, activations, reference
from tests.builds import LEVELS, core_of

ELEMENTWISE = [name for name in _core.ACTIVATIONS if name not in _core.ROW_ACTIVATIONS]
GATES = {"simple_rnn": 1, "lstm": 4, "gru": 3, "gru_reset_before": 3}
# With these, rounding errors do not grow from step to step.
CALM = ["tanh", "sigmoid", "hard_sigmoid", "hard_sigmoid_keras2", "softsign", "hard_tanh"]
CALM_GATES = ["sigmoid", "hard_sigmoid", "hard_sigmoid_keras2", "sparse_sigmoid"]


def rounding(core, scale=1.0):
    """Return the absolute error that sums of a hundred numbers may have."""
    return scale * (1e-12 if core.DTYPE.itemsize == 8 else 5e-6)


def assert_near(got, expected, core, scale=1.0):
    assert got.dtype == core.DTYPE
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=0, atol=rounding(core, scale))


def samples(count, seed, **options):
    """Return `count` seeded cases in which every value of every option occurs."""
    rng = np.random.default_rng(seed)
    columns = {
        name: [values[i] for i in rng.permutation(np.resize(np.arange(len(values)), count))]
        for name, values in options.items()
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def test_every_build_says_what_it_is(core):
    build = core.build
    assert build.name == f"{build.level}_f{8 * core.DTYPE.itemsize}"
    assert build.vector_bytes == {"base": 16, "v3": 32, "v4": 64}[build.level]
    assert core.cpu_has("base")
    assert not core.cpu_has("v5")
    assert set(core.CELLS) == set(GATES)


def test_the_stub_names_what_there_is():
    stub = ast.parse(Path(fastrnn.__file__).with_name("_core.pyi").read_text())
    classes = {node.name: node for node in stub.body if isinstance(node, ast.ClassDef)}
    names = {*classes, *(node.name for node in stub.body if isinstance(node, ast.FunctionDef))}
    names |= {node.target.id for node in stub.body if isinstance(node, ast.AnnAssign)}
    assert names == {name for name in dir(_core) if name[0] != "_"} - {"np", "packing", "Arena"}
    for name, node in classes.items():
        methods = {part.name for part in node.body if part.name[0] != "_"}
        assert methods == {name for name in vars(getattr(_core, name)) if name[0] != "_"}


# Recurrent layers


def masked(kind, batch, steps, rng):
    """Return a mask (batch, steps) of the pattern `kind`, or None."""
    if kind is None:
        return None
    lengths = rng.integers(0, steps + 1, (batch, 1))
    mask = {
        "right": np.arange(steps) < lengths,
        "left": np.arange(steps) >= lengths,
        "holes": rng.random((batch, steps)) < 0.6,
        "rows": np.repeat(rng.random((batch, 1)) < 0.5, steps, axis=1),
        "steps": np.repeat(rng.random((1, steps)) < 0.5, batch, axis=0),
        "none": np.zeros((batch, steps), bool),
        "all": np.ones((batch, steps), bool),
    }[kind]
    return mask


def weights_of(kind, features, units, rng, use_bias=True, strength=1.0):
    """Return the kernel, the recurrent kernel and the bias in Keras's shapes; float32 numbers."""
    columns = GATES[kind] * units
    bias_shape = (2, columns) if kind == "gru" else (columns,)
    made = [
        rng.normal(0, strength / np.sqrt(features), (features, columns)),
        rng.normal(0, strength / 2 / np.sqrt(units), (units, columns)),
        rng.normal(0, strength / 2, bias_shape) if use_bias else None,
    ]
    return [None if w is None else w.astype(np.float32) for w in made]


def cell_of(kind, weights, activation="tanh", recurrent_activation="sigmoid"):
    """Return the oracle's cell, in float64."""
    weights = [None if w is None else w.astype(np.float64) for w in weights]
    functions = [activations.get(activation), activations.get(recurrent_activation)]
    if kind == "simple_rnn":
        return reference.SimpleRNN(*weights, functions[0])
    if kind == "lstm":
        return reference.LSTM(*weights, *functions)
    return reference.GRU(*weights, *functions, kind == "gru")


def recurrent(core, kind, weights, activation="tanh", recurrent_activation="sigmoid", **options):
    """Return the compiled layer."""
    kernel, recurrent_kernel, bias = (None if w is None else w.astype(core.DTYPE) for w in weights)
    after = None
    if kind == "gru" and bias is not None:
        bias, after = bias
    return core.Recurrent(
        kind, kernel, recurrent_kernel, bias, after, activation, recurrent_activation, **options
    )


class Case:
    """A recurrent layer, what it is called with, and what the oracle says."""

    def __init__(self, kind, features, units, batch, steps, mask=None, seed=0, **options):
        rng = np.random.default_rng(seed)
        self.kind = kind
        of_weights = {key: options.pop(key) for key in ("use_bias", "strength") if key in options}
        self.weights = weights_of(kind, features, units, rng, **of_weights)
        functions = ("activation", "recurrent_activation")
        self.functions = {key: options.pop(key) for key in functions if key in options}
        cell = cell_of(kind, self.weights, **self.functions)
        n_states = 2 if kind == "lstm" else 1
        self.final = options.pop("final", True)
        self.x = rng.normal(size=(batch, steps, features)).astype(np.float32)
        self.mask = masked(mask, batch, steps, rng)
        given = rng.normal(0, 0.7, (n_states, batch, units)).astype(np.float32)
        self.states = list(given) if options.pop("initial", True) else []
        self.options = options
        start = self.states or np.zeros((n_states, batch, units))
        y, states = reference.recurrence(
            cell,
            self.x.astype(np.float64),
            tuple(np.asarray(state, np.float64) for state in start),
            self.mask,
            **options,
        )
        self.expected = (y, *states) if self.final else (y,)

    def program(self, core):
        """Buffers: 0 x, 1 the mask, 2 and 3 the initial states, 4 y, 5 and 6 the final states."""
        initial = tuple(range(2, 2 + len(self.states)))
        final = tuple(range(5, 4 + len(self.expected)))
        mask = None if self.mask is None else 1
        buffers = {"x": 0, "mask": mask, "initial": initial, "y": 4, "final": final}
        step = recurrent(core, self.kind, self.weights, **self.functions, **buffers, **self.options)
        assert set(step.sources) == {0, *([] if mask is None else [1]), *initial}
        assert set(step.targets) == {4, *final}
        return core.Program(7, [step], step.sources, step.targets, {1})

    def arrays(self, core):
        numbers = [self.x, *self.states]
        x, *states = (array.astype(core.DTYPE) for array in numbers)
        return (x, *([] if self.mask is None else [self.mask]), *states)

    def check(self, core, scale=1.0):
        """Run it; compare with the oracle."""
        results = self.program(core).run(self.arrays(core))
        results = results if isinstance(results, tuple) else (results,)
        for got, expected in zip(results, self.expected, strict=True):
            assert_near(got, expected, core, scale)


CALLS = {
    "activation": ["tanh", *CALM],
    "recurrent_activation": ["sigmoid", *CALM_GATES],
    "return_sequences": [False, True],
    "go_backwards": [False, True],
    "zero_output_for_mask": [False, True],
    "initial": [False, True],
    "final": [False, True],
    "use_bias": [True, True, False],
}
SWEEP = samples(
    140,
    seed=1,
    kind=list(GATES),
    units=range(1, 71),
    features=range(1, 41),
    batch=[*range(1, 14), 96, 97, 200],
    steps=range(1, 61),
    mask=[None, "right", "left", None, "holes", "rows", None, "steps", "none", "all"],
    **CALLS,
)


@functools.cache
def swept(number):
    return Case(**SWEEP[number], seed=number)


@pytest.mark.parametrize("number", range(len(SWEEP)))
def test_recurrent(number, core):
    swept(number).check(core)


# So few units that rows of the batch fill the lanes of vectors instead.
FEW_UNITS = samples(
    72,
    seed=3,
    kind=list(GATES),
    units=[1, 2, 3, 4, 5, 7, 9, 17, 18],
    features=[1, 2, 3, 5, 8, 17, 35],
    batch=[11, 16, 17, 31, 32, 33, 47, 64, 65, 96, 97, 128, 200],
    steps=[1, 2, 3, 15, 16, 17, 33, 70],
    mask=[None, "right", "left", "holes", "rows", "steps", None, "none", "all"],
    **CALLS,
)


@functools.cache
def of_few_units(number):
    return Case(**FEW_UNITS[number], seed=number)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("number", range(len(FEW_UNITS)))
def test_recurrent_of_few_units(number, threads, core):
    core.set_num_threads(threads)
    of_few_units(number).check(core)


@functools.cache
def usual(kind, units, batch, features):
    return Case(kind, features, units, batch, 5, return_sequences=True)


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("units", [3, 8, 16, 17, 33, 64])
def test_every_number_of_rows_and_ways_to_project(kind, units, core):
    for batch, features in itertools.product(range(1, 14), (1, 8, 9)):
        usual(kind, units, batch, features).check(core)


@functools.cache
def long(kind, go_backwards, mask):
    return Case(
        kind, 12, 130, 2, 400, mask, return_sequences=True, go_backwards=go_backwards
    )  # 2 * 400 * 130 numbers: twice what is projected ahead


@pytest.mark.parametrize("mask", [None, "holes"])
@pytest.mark.parametrize("go_backwards", [False, True])
@pytest.mark.parametrize("kind", GATES)
def test_projection_in_several_chunks(kind, go_backwards, mask, core):
    long(kind, go_backwards, mask).check(core)


@functools.cache
def with_activation(kind, name, place):
    for strength in (1, 0.5, 0.2, 0.1, 0.01):
        with np.errstate(all="ignore"):
            case = Case(kind, 3, 21, 5, 3, strength=strength, initial=False, **{place: name})
        if np.abs(case.expected).max() < 200:
            return case
    pytest.fail(f"{kind} with {name} explodes")


@pytest.mark.parametrize("place", ["activation", "recurrent_activation"])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_every_activation_in_every_cell(name, place, core):
    for kind in GATES:
        case = with_activation(kind, name, place)
        case.check(core, scale=max(1.0, np.abs(case.expected).max()))


@pytest.mark.parametrize("kind", GATES)
def test_a_mask_may_be_bytes(kind, core):
    case = Case(kind, 3, 9, 7, 6, "holes", return_sequences=True)
    program = case.program(core)
    x, mask, *states = case.arrays(core)
    of_bytes = program.run((x, mask * np.uint8(255), *states))
    for a, b in zip(of_bytes, program.run((x, mask, *states)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize(("units", "features", "batch"), [(5, 3, 11), (33, 20, 11), (2, 3, 40)])
def test_a_row_of_nan_stays_alone(kind, units, features, batch, core):
    case = Case(kind, features, units, batch, 8, "holes", return_sequences=True)
    program, arrays = case.program(core), case.arrays(core)
    before = program.run(arrays)
    for special in (np.nan, np.inf):
        spoiled = [array.copy() for array in arrays]
        for array in (spoiled[0], *spoiled[2:]):
            array[4] = special
        rest = np.arange(batch) != 4
        for a, b in zip(program.run(tuple(spoiled)), before, strict=True):
            np.testing.assert_array_equal(a[rest], b[rest])
    assert np.isnan(program.run((spoiled[0] * np.nan, *arrays[1:]))[0][case.mask]).all()


# Activations


def activate(core, name, x):
    return core.Program(2, [core.Activate(name, x=0, y=1)], [0], [1]).run(x)


def grid(core, limit, count):
    info = np.finfo(core.DTYPE)
    edges = [0.0, info.tiny, info.eps, 1e-20, 1e-4, 0.25, 0.5, 1, 3, 6, 20, 43, 44, 86, 87, 88, 89]
    far = np.array([*edges, 103, 709, 745, 1e4, 1e30, info.max])
    return np.concatenate([np.linspace(-limit, limit, count), far, -far])[None].astype(core.DTYPE)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_activation(name, core):
    x = grid(core, 12, 5001)
    with np.errstate(over="ignore"):
        expected = activations.get(name)(x.astype(np.float64)).astype(core.DTYPE)
    tolerance = 100 * np.finfo(core.DTYPE).eps
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(activate(core, name, x), expected, tolerance, tolerance)


@pytest.mark.parametrize("name", ["tanh", "sigmoid"])
def test_error_of_the_usual_activations(name, core):
    bound = 3e-16 if core.DTYPE.itemsize == 8 else 1e-7
    x = np.hstack([grid(core, limit, 100_001) for limit in (0.01, 1, 12, 100)])
    got = activate(core, name, x).astype(np.longdouble)
    exact = x.astype(np.longdouble)
    with np.errstate(over="ignore"):
        exact = np.tanh(exact) if name == "tanh" else 1 / (1 + np.exp(-exact))
    assert np.abs(got - exact).max() <= bound
    # Of small results too, down to where float32's exponentials end.
    small = (np.abs(exact) > 1e-36) & (x > -86)
    relative = np.abs(got - exact)[small] / np.abs(exact)[small]
    assert relative.max() <= 10 * np.finfo(core.DTYPE).eps


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_nan_and_infinity_in_every_lane(name, core):
    plain = np.linspace(-2, 2, 71)[None].astype(core.DTYPE)
    before = activate(core, name, plain)
    for special in (np.nan, np.inf, -np.inf):
        with np.errstate(all="ignore"):
            expected = activations.get(name)(np.array([special], np.float64))[0]
        for place in range(71):
            x = plain.copy()
            x[0, place] = special
            y = activate(core, name, x)
            np.testing.assert_allclose(y[0, place], expected, rtol=1e-6, atol=1e-37)
            y[0, place] = before[0, place]
            np.testing.assert_array_equal(y, before)


@pytest.mark.parametrize("width", [1, 2, 7, 16, 33, 100])
@pytest.mark.parametrize("name", _core.ROW_ACTIVATIONS)
def test_activations_of_rows(name, width, core, rng):
    x = rng.normal(0, 5, (9, 2, width)).astype(core.DTYPE)
    x[1] += 1000
    x[2, 0] = -1e30
    x[3, 1, 0] = 1e30
    expected = activations.get(name)(x.astype(np.float64))
    scale = np.finfo(core.DTYPE).eps * 8
    np.testing.assert_allclose(activate(core, name, x), expected, rtol=scale, atol=scale)


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", _core.ROW_ACTIVATIONS)
def test_rows_with_nan_and_infinity(name, special, core):
    x = np.linspace(-1, 1, 15).reshape(3, 5).astype(core.DTYPE)
    x[0, 2] = special
    x[1] = special
    np.testing.assert_allclose(
        activate(core, name, x), activations.get(name)(x), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("name", ["tanh", *_core.ROW_ACTIVATIONS])
@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (3, 0, 2), (3, 2, 0)])
def test_activations_of_nothing(name, shape, core):
    y = activate(core, name, np.empty(shape, core.DTYPE))
    assert y.shape == shape


# Dense


def dense(core, weights, activation="linear", x=0, y=1):
    kernel, bias = (None if w is None else w.astype(core.DTYPE) for w in weights)
    return core.Dense(kernel, bias, activation, x=x, y=y)


def dense_weights(features, units, rng, use_bias=True):
    kernel = rng.normal(0, 1 / np.sqrt(features), (features, units)).astype(np.float32)
    return kernel, rng.normal(size=units).astype(np.float32) if use_bias else None


DENSE = samples(
    70,
    seed=2,
    units=range(1, 71),
    features=[*range(1, 41), 95, 96, 97, 200, 300],
    shape=[
        *[(rows,) for rows in (1, 2, 3, 4, 5, 6, 7, 11, 31, 32, 33, 47, 48, 49, 95, 96, 97, 200)],
        (3, 5),
        (1, 49),
        (2, 3, 4),
        (97, 2),
        (1, 2, 1, 3, 1, 2, 1),
        (0,),
        (2, 0),
    ],
    activation=["linear", "tanh", "relu", "sigmoid", "silu"],
    use_bias=[True, False],
)


@pytest.mark.parametrize("number", range(len(DENSE)))
def test_dense(number, core):
    case = DENSE[number]
    rng = np.random.default_rng(number)
    weights = dense_weights(case["features"], case["units"], rng, case["use_bias"])
    x = rng.normal(size=(*case["shape"], case["features"])).astype(np.float32)
    kernel, bias = (None if w is None else w.astype(np.float64) for w in weights)
    expected = reference.dense(
        x.astype(np.float64), kernel, bias, activations.get(case["activation"])
    )
    program = core.Program(2, [dense(core, weights, case["activation"])], [0], [1])
    assert_near(program.run(x.astype(core.DTYPE)), expected, core)


@pytest.mark.parametrize("rows", [11, 16, 17, 63, 64, 65, 200])
@pytest.mark.parametrize("features", [1, 2, 7, 8, 17, 64, 1024, 1025])
@pytest.mark.parametrize("units", [1, 2, 5])
def test_dense_of_few_units(units, features, rows, core, rng):
    weights = dense_weights(features, units, rng)
    x = rng.normal(size=(rows, features)).astype(np.float32)
    kernel, bias = (w.astype(np.float64) for w in weights)
    expected = reference.dense(x.astype(np.float64), kernel, bias, activations.tanh)
    program = core.Program(2, [dense(core, weights, "tanh")], [0], [1])
    assert_near(program.run(x.astype(core.DTYPE)), expected, core)


# Programs


def chain(core, rng, hidden=12):
    """Return an LSTM, a GRU, a Dense and a softmax over 3 features, with what the oracle gives."""
    lstm, gru = weights_of("lstm", 3, hidden, rng), weights_of("gru", hidden, 7, rng)
    last = dense_weights(7, 5, rng)
    steps = [
        recurrent(core, "lstm", lstm, x=0, y=1, return_sequences=True),
        recurrent(core, "gru", gru, x=1, y=2, final=(3,)),
        dense(core, last, "relu", x=2, y=4),
        core.Activate("softmax", x=4, y=5),
    ]

    def oracle(x):
        values = [x.astype(np.float64)]
        for kind, weights, whole in (("lstm", lstm, True), ("gru", gru, False)):
            cell = cell_of(kind, weights)
            y, states = reference.recurrence(cell, values[-1], return_sequences=whole)
            values.append(y)
        kernel, bias = (w.astype(np.float64) for w in last)
        values.append(states[0])
        values.append(reference.dense(values[2], kernel, bias, activations.relu))
        return [*values, activations.softmax(values[-1])]

    return steps, oracle


@pytest.mark.parametrize("batch", [1, 2, 13, 96, 97, 200])
@pytest.mark.parametrize("outputs", [(5,), (1,), (2, 3), (5, 4, 3, 2, 1)])
def test_chain_gives_out_any_of_its_buffers(outputs, batch, core, rng):
    steps, oracle = chain(core, rng)
    x = rng.normal(size=(batch, 9, 3)).astype(core.DTYPE)
    results = core.Program(6, steps, [0], outputs).run(x)
    assert isinstance(results, tuple) == (len(outputs) > 1)
    expected = oracle(x)
    for got, number in zip(results if len(outputs) > 1 else [results], outputs, strict=True):
        assert_near(got, expected[number], core)


@pytest.mark.parametrize("n_buffers", [2, 16, 17, 100])
def test_buffers_that_no_step_touches_take_nothing(n_buffers, core, rng):
    weights = dense_weights(3, 2, rng)
    x = rng.normal(size=(5, 3)).astype(core.DTYPE)
    expected = core.Program(2, [dense(core, weights)], [0], [1]).run(x)
    step = dense(core, weights, y=n_buffers - 1)
    for _ in range(3):
        got = core.Program(n_buffers, [step], [0], [n_buffers - 1]).run(x)
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("length", [14, 15, 16, 17, 50])
def test_many_buffers(length, core, rng):
    all_weights = [dense_weights(5, 5, rng) for _ in range(length)]
    steps = [dense(core, w, "tanh", x=i, y=i + 1) for i, w in enumerate(all_weights)]
    x = rng.normal(size=(7, 5)).astype(core.DTYPE)
    expected = x.astype(np.float64)
    for weights in all_weights:
        kernel, bias = (w.astype(np.float64) for w in weights)
        expected = reference.dense(expected, kernel, bias, np.tanh)
    assert_near(core.Program(length + 1, steps, [0], [length]).run(x), expected, core)


def test_rows_of_a_tile_are_few_where_rows_are_large():
    core = core_of(LEVELS[0], 32)
    steps = [core.Activate("relu", x=i, y=i + 1) for i in range(9)]
    x = np.resize(np.arange(-9, 10, dtype=core.DTYPE), (5, 2**20))  # 4 MB a row and buffer
    y = core.Program(10, steps, [0], [9]).run(x)
    np.testing.assert_array_equal(y, np.maximum(x, 0))


@pytest.mark.parametrize("batch", [96, 97, 200, 500])
def test_threads_and_tiles_change_no_bit(batch, core, rng):
    steps, _ = chain(core, rng, hidden=64)
    program = core.Program(6, steps, [0], [5, 1])
    x = rng.normal(size=(batch, 12, 3)).astype(core.DTYPE)
    one = program.run(x)
    core.set_num_threads(2)
    for a, b in zip(one, program.run(x), strict=True):
        np.testing.assert_array_equal(a, b)
    core.set_num_threads(1)
    parts = [program.run(part) for part in np.array_split(x, 7)]
    for whole, *pieces in zip(one, *parts, strict=True):
        np.testing.assert_array_equal(whole, np.concatenate(pieces))


def directions(core, rng, units, count=2):
    """Return layers over the input that do not depend on each other, each followed by a Dense, and their outputs."""
    first, second = [], []
    for number in range(count):
        options = {"return_sequences": True, "go_backwards": bool(number % 2)}
        weights = weights_of(["lstm", "gru"][number % 2], 3, units, rng)
        kind = ["lstm", "gru"][number % 2]
        y, z = 1 + 2 * number, 2 + 2 * number
        first.append(recurrent(core, kind, weights, x=0, y=y, **options))
        second.append(dense(core, dense_weights(units, 4, rng), x=y, y=z))
    steps = [step for pair in zip(first, second, strict=True) for step in pair]
    return steps, [number for step in steps for number in step.targets]


@pytest.mark.parametrize("batch", [1, 2, 5, 90])
@pytest.mark.parametrize(("count", "units"), [(2, 3), (2, 64), (3, 64), (9, 40)])
def test_steps_side_by_side_change_no_bit(count, units, batch, core, rng):
    steps, outputs = directions(core, rng, units, count)
    program = core.Program(2 * count + 1, steps, [0], outputs)
    x = rng.normal(size=(batch, 40, 3)).astype(core.DTYPE)
    serial = program.run(x)
    for step, y, z in zip(steps[::2], serial[::2], serial[1::2], strict=True):
        alone = core.Program(2 * count + 1, [step], [0], step.targets).run(x)
        np.testing.assert_array_equal(y, alone)
        assert not np.array_equal(y[..., :3], z[..., :3])
    for threads in (2, 3, 16) if batch == 1 else (2,):
        core.set_num_threads(threads)
        for a, b in zip(program.run(x), serial, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("options", [{}, {"mask": "holes"}, {"go_backwards": True}], ids=str)
@pytest.mark.parametrize(("units", "batch", "features"), [(100, 1, 3), (130, 1, 40), (72, 4, 20)])
@pytest.mark.parametrize("kind", GATES)
def test_threads_that_share_a_layer(kind, units, batch, features, options, core):
    """Whether the others come late, stay, or are left behind is up to the system: so many calls."""
    case = Case(kind, features, units, batch, 90, return_sequences=True, **options)
    program, arrays = case.program(core), case.arrays(core)
    core.set_num_threads(1)
    alone = program.run(arrays)
    for threads in (2, 3):
        core.set_num_threads(threads)
        for _ in range(8):
            for a, b in zip(program.run(arrays), alone, strict=True):
                np.testing.assert_array_equal(a, b)


@functools.cache
def wide(kind, features, batch):
    return Case(kind, features, 70, batch, 60, "holes", return_sequences=True)


@pytest.mark.parametrize("batch", [7, 13, 25])
@pytest.mark.parametrize("kind", GATES)
def test_tiles_of_unequal_rows(kind, batch, core):
    """Fewer rows than others can have another way to compute, with a workspace of another size."""
    for features in (3, 12):
        case = wide(kind, features, batch)
        for allowed in (1, 2, 4, 64):
            core.set_num_threads(allowed)
            case.check(core)


def test_inputs_may_be_read_only_and_are_never_written(core):
    case = Case("lstm", 4, 10, 5, 6, "holes")
    arrays = case.arrays(core)
    copies = [array.copy() for array in arrays]
    for array in arrays:
        array.flags.writeable = False
    results = case.program(core).run(arrays)
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(array, copy)
    for result in results:
        assert result.flags.writeable
        assert result.flags.owndata
        assert not any(np.shares_memory(result, array) for array in arrays)


@pytest.mark.parametrize("kind", GATES)
def test_empty_batch(kind, core):
    case = Case(kind, 3, 4, 0, 6, "holes", return_sequences=True)
    case.check(core)


def unaligned(array):
    raw = np.zeros(array.nbytes + 1, np.uint8)
    moved = raw[1:].view(array.dtype).reshape(array.shape)
    moved[...] = array
    return moved


DAMAGES = {
    "another dtype": lambda x, mask, h: (x.astype("f8" if x.itemsize == 4 else "f4"), mask, h),
    "integers": lambda x, mask, h: (x.astype(f"i{x.itemsize}"), mask, h),
    "Fortran order": lambda x, mask, h: (np.asfortranarray(x), mask, h),
    "strided": lambda x, mask, h: (np.repeat(x, 2, axis=2)[..., ::2], mask, h),
    "reversed": lambda x, mask, h: (x[:, ::-1], mask, h),
    "unaligned": lambda x, mask, h: (unaligned(x), mask, h),
    "byte-swapped": lambda x, mask, h: (x.astype(x.dtype.newbyteorder()), mask, h),
    "list": lambda x, mask, h: (x.tolist(), mask, h),
    "None": lambda x, mask, h: (None, mask, h),
    "2 dimensions": lambda x, mask, h: (x[:, 0].copy(), mask, h),
    "4 dimensions": lambda x, mask, h: (x[:, None], mask, h),
    "0 dimensions": lambda x, mask, h: (x[0, 0, 0].copy(), mask, h),
    "too many dimensions": lambda x, mask, h: (x.reshape(*x.shape, *[1] * 20), mask, h),
    "no step": lambda x, mask, h: (x[:, :0].copy(), mask[:, :0].copy(), h),
    "more features": lambda x, mask, h: (np.repeat(x, 2, axis=2), mask, h),
    "another batch": lambda x, mask, h: (x[1:], mask, h),
    "batch of states": lambda x, mask, h: (x, mask, h[1:]),
    "units of states": lambda x, mask, h: (x, mask, h[:, 1:].copy()),
    "rank of states": lambda x, mask, h: (x, mask, h[:, None]),
    "dtype of states": lambda x, mask, h: (x, mask, h.astype("f2")),
    "steps of mask": lambda x, mask, h: (x, mask[:, 1:].copy(), h),
    "batch of mask": lambda x, mask, h: (x, mask[1:], h),
    "rank of mask": lambda x, mask, h: (x, mask[..., None], h),
    "integer mask": lambda x, mask, h: (x, mask.astype(np.int8), h),
    "wide mask": lambda x, mask, h: (x, mask.astype(np.int64), h),
    "mask of numbers": lambda x, mask, h: (x, mask.astype(x.dtype), h),
    "strided mask": lambda x, mask, h: (x, np.repeat(mask, 2, axis=1)[:, ::2], h),
    "bytes for numbers": lambda x, mask, h: (x.astype(bool), mask, h),
    "one too few": lambda x, mask, h: (x, mask),
    "one too many": lambda x, mask, h: (x, mask, h, h),
    "a bare array": lambda x, mask, h: x,
    "a list of arrays": lambda x, mask, h: [x, mask, h],
    "nothing": lambda x, mask, h: (),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_other_inputs_are_answered_with_none(damage, core):
    case = Case("gru", 3, 4, 5, 6, "holes")
    program, arrays = case.program(core), case.arrays(core)
    assert program.run(DAMAGES[damage](*arrays)) is None
    assert program.run(arrays) is not None


def test_expected_shapes(core, rng):
    program = core.Program(2, [dense(core, dense_weights(3, 2, rng))], [0], [1])
    program.expect([(None, 4, 3)])
    x = rng.normal(size=(2, 4, 3)).astype(core.DTYPE)
    assert program.run(x).shape == (2, 4, 2)
    assert program.run(x[:0]).shape == (0, 4, 2)
    for other in (x[:, :3].copy(), x[:, 0].copy(), x[None], x[..., :2].copy()):
        assert program.run(other) is None
    program.expect([(None, None, 3)])
    assert program.run(x[:, :3].copy()).shape == (2, 3, 2)
    program.expect([(None, *[1] * 30)])
    assert program.run(x) is None


@pytest.mark.parametrize("ndim", range(1, 12))
def test_dimensions(ndim, core):
    x = np.full((2, *[1] * (ndim - 1)), -1, core.DTYPE)
    y = activate(core, "relu", x)
    if y is None:
        assert ndim == 1 or ndim > 8
    else:
        np.testing.assert_array_equal(y, np.zeros_like(x))


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


@pytest.mark.slow
def test_memory_does_not_grow(core, rng):
    steps, _ = chain(core, rng, hidden=40)
    program = core.Program(6, steps, [0], [5, 1])
    inputs = [rng.normal(size=(batch, 8, 3)).astype(core.DTYPE) for batch in (1, 5, 150, 0)]

    def work(repeats):
        for _ in range(repeats):
            for x in inputs:
                program.run(x)
            program.run((inputs[0], inputs[0]))
            core.Program(6, steps, [0], [5]).run(inputs[1])
            chain(core, rng, hidden=40)

    work(20)
    before = resident_bytes()
    work(150)
    assert resident_bytes() - before < 1 << 20


# Small steps


def one_step(core, name, inputs, *arguments, masks=(), targets=(8,), **options):
    """Run a step whose inputs are the buffers 0, 1, ... as a program of its own."""
    step = getattr(core, name)(*arguments, x=0, y=8, **options)
    return core.Program(10, [step], range(len(inputs)), targets, masks).run(tuple(inputs))


INDEX_DTYPES = [np.int32, np.int64, np.float32, np.float64]


@pytest.mark.parametrize("dtype", INDEX_DTYPES)
@pytest.mark.parametrize("shape", [(3,), (2, 5), (200, 3), (2, 3, 4), (0, 3)])
def test_lookup_and_not_zero(dtype, shape, core, rng):
    table = rng.normal(size=(7, 3)).astype(core.DTYPE)
    x = rng.integers(0, 7, shape).astype(dtype)
    np.testing.assert_array_equal(one_step(core, "Lookup", [x], table), table[x.astype(int)])
    mask = one_step(core, "NotZero", [x])
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, x != 0)


@pytest.mark.parametrize("dtype", INDEX_DTYPES)
@pytest.mark.parametrize("wrong", [-1, 7, 2**31 - 1, -(2**31)])
def test_what_is_no_index_is_answered_with_none(dtype, wrong, core, rng):
    table = rng.normal(size=(7, 3)).astype(core.DTYPE)
    for place in range(5):
        x = np.arange(5, dtype=dtype)[None]
        x[0, place] = wrong
        assert one_step(core, "Lookup", [x], table) is None


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 1e30, -1.0, 7.0])
def test_fractions_are_cut_off_and_nan_is_no_index(wrong, core, rng):
    table = rng.normal(size=(7, 3)).astype(core.DTYPE)
    x = np.array([[6.9, -0.9, 0.5]])
    np.testing.assert_array_equal(one_step(core, "Lookup", [x], table), table[[[6, 0, 0]]])
    x[0, 1] = wrong
    assert one_step(core, "Lookup", [x], table) is None


def test_indices_are_nothing_else(core, rng):
    table = rng.normal(size=(7, 3)).astype(core.DTYPE)
    lookup, tanh = core.Lookup(table, x=0, y=1), core.Activate("tanh", x=0, y=2)
    with pytest.raises(ValueError, match="buffer 0"):
        core.Program(3, [lookup, tanh], [0], [1, 2])
    with pytest.raises(ValueError, match="buffer 0"):
        core.Program(3, [core.Activate("tanh", x=2, y=0), lookup], [2], [1])
    program = core.Program(2, [lookup], [0], [1])
    for other in (np.int16, np.uint8, bool, np.uint64, ">i4"):
        assert program.run(np.zeros((1, 2), other)) is None
    program.expect([(None, 2)], whole=True)
    assert program.run(np.zeros((1, 2))) is None
    assert program.run(np.zeros((1, 2), np.int64)) is not None


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize(
    ("units", "batch"), [(1, 1), (5, 3), (33, 1), (40, 200), (3, 70), (20, 64)]
)
def test_recurrence_over_a_table(kind, units, batch, core, rng):
    weights = weights_of(kind, 6, units, rng)
    table = rng.normal(size=(7, 6)).astype(core.DTYPE)
    numbers = rng.integers(0, 7, (batch, 9))
    mask = rng.random((batch, 9)) < 0.7
    options = {"mask": 1, "y": 2, "return_sequences": True, "go_backwards": True}
    of_numbers = recurrent(core, kind, weights, x=0, table=table, **options)
    of_rows = recurrent(core, kind, weights, x=0, **options)
    expected = core.Program(3, [of_rows], [0, 1], [2], {1}).run((table[numbers], mask))
    program = core.Program(3, [of_numbers], [0, 1], [2], {1})
    for dtype in INDEX_DTYPES:
        y = program.run((numbers.astype(dtype), mask))
        np.testing.assert_allclose(y, expected, rtol=0, atol=rounding(core))
    assert program.run((numbers + 7, mask)) is None


@pytest.mark.parametrize("shape", [(3, 4, 2), (200, 3), (2, 2, 3, 4)])
@pytest.mark.parametrize("value", [0.0, -1.5])
def test_blank(shape, value, core, rng):
    x = rng.normal(size=shape).astype(core.DTYPE)
    x[rng.random(shape[:-1]) < 0.5] = value
    x[0, ..., 0] = value
    y, mask = one_step(core, "Blank", [x], value, mask=9, targets=(8, 9))
    np.testing.assert_array_equal(mask, (x != value).any(-1))
    np.testing.assert_array_equal(y, np.where(mask[..., None], x, 0))


@pytest.mark.parametrize("shape", [(3, 5), (200, 17), (2, 3, 33), (0, 4)])
def test_affine(shape, core, rng):
    x = rng.normal(size=shape).astype(core.DTYPE)
    center, scale, shift = rng.normal(size=(3, shape[-1])).astype(core.DTYPE)
    expected = (x - center) * scale + shift
    np.testing.assert_allclose(
        one_step(core, "Affine", [x], center, scale, shift), expected, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("target", [(12,), (-1,), (3, 4), (-1, 2), (2, -1, 3), (1, 12, 1)])
@pytest.mark.parametrize("batch", [0, 1, 200])
def test_reshape(target, batch, core, rng):
    x = rng.normal(size=(batch, 2, 6)).astype(core.DTYPE)
    known = abs(int(np.prod(target)))
    shape = tuple(12 // known if size == -1 else size for size in target)
    np.testing.assert_array_equal(one_step(core, "Reshape", [x], target), x.reshape(batch, *shape))
    assert one_step(core, "Reshape", [x[:, :, :5].copy()], (3, 4)) is None
    assert one_step(core, "Reshape", [x], (-1, 7)) is None
    assert one_step(core, "Reshape", [x], (0, 12)) is None


def test_sizes_that_no_memory_holds(core):
    """Their products are no larger than 12 in 64 bits."""
    x = np.zeros((1, 12), core.DTYPE)
    for first in (5, 7, 2**32):
        second = 12 * pow(first, -1, 2**64) % 2**64 if first % 2 else 2**32
        shape = (first, min(second, 2**63 - 1))
        assert one_step(core, "Reshape", [x], shape) is None
    steps = [
        core.Repeat(2**31, x=0, y=1),
        core.Reshape((-1,), x=1, y=2),
        core.Repeat(2**32, x=2, y=3),
        core.Pool("max", x=3, y=4),
    ]
    for last in (3, 4):
        assert core.Program(5, steps[:last], [0], [last]).run(x) is None
    kernel = np.zeros((3, 3, 3, 1, 4), core.DTYPE)
    huge = core.ConvRecurrent(
        kernel,
        kernel,
        None,
        "tanh",
        "sigmoid",
        (1, 1, 1),
        (2**21, 2**21, 2**21),
        same=True,
        channels_first=False,
        x=0,
        y=1,
    )
    images = np.zeros((1, 1, 2, 2, 2, 1), core.DTYPE)
    assert core.Program(2, [huge], [0], [1]).run(images) is None


@pytest.mark.parametrize("batch", [1, 5, 200])
def test_repeat(batch, core, rng):
    x = rng.normal(size=(batch, 3)).astype(core.DTYPE)
    np.testing.assert_array_equal(one_step(core, "Repeat", [x], 4), np.repeat(x[:, None], 4, 1))
    assert one_step(core, "Repeat", [x[:, None]], 4) is None


@pytest.mark.parametrize("batch", [1, 5, 200])
def test_pool_over_all_steps(batch, core, rng):
    x = rng.normal(size=(batch, 6, 5)).astype(core.DTYPE)
    x[0, 3, 2] = np.nan
    np.testing.assert_array_equal(one_step(core, "Pool", [x], "max"), x.max(1))
    np.testing.assert_allclose(one_step(core, "Pool", [x], "average"), x.mean(1), rtol=0, atol=1e-6)
    mask = rng.random((batch, 6)) < 0.5
    mask[:, 0] = True
    mask[-1] = batch < 5
    sums = np.where(mask[..., None], x, 0).sum(1)
    with np.errstate(invalid="ignore"):
        expected = sums / mask.sum(1, keepdims=True)
    got = one_step(core, "Pool", [x, mask], "average", mask=1, masks={1})
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize(("window", "stride"), [(1, 1), (2, 2), (3, 1), (3, 2), (2, 5), (9, 4)])
def test_pool_over_windows(window, stride, same, core, rng):
    x = rng.normal(size=(3, 11, 5)).astype(core.DTYPE)
    options = {"window": window, "stride": stride, "same": same}
    count = (11 - (1 if same else window)) // stride + 1
    before = max((count - 1) * stride + window - 11, 0) // 2 if same else 0
    starts = [i * stride - before for i in range(count)]
    windows = [x[:, max(start, 0) : start + window] for start in starts]
    for mode, function in (("max", np.max), ("average", np.mean)):
        expected = np.stack([function(part, axis=1) for part in windows], axis=1)
        got = one_step(core, "Pool", [x], mode, **options)
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)
    if not same:
        assert one_step(core, "Pool", [x[:, : window - 1].copy()], "max", **options) is None
