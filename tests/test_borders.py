"""Every choice between ways of computing the same numbers, against the oracle, on row counts across each border.

How many rows come together decides whether they fill the lanes of vectors, whether they are one tile or several, on how
many threads, and whether a step of a stream keeps Python's lock. Rows do not know of each other, so one call of the
oracle on the most rows judges them all.
"""

import functools

import numpy as np
import pytest

import fastrnn
from fastrnn import _core, activations, layers, reference
from tests.test_core import (
    GATES,
    assert_near,
    cell_of,
    dense,
    dense_weights,
    recurrent,
    weights_of,
)
from tests.test_precision import NARROW
from tests.test_streaming import MODELS, flat, inputs_for, sequential, with_random_weights

# Rows of a batch that a tile of work takes at most: ROWS_AT_ONCE of kernels/tuning.pxd. A tile of sums has 3 to 7.
TILE = 96
MOST_LANES = 16
# One more and one fewer than every number of lanes, and than one tile and two; threads share hundreds and thousands.
ROWS = sorted(
    {lanes + more for lanes in (2, 4, 8, MOST_LANES, 2 * MOST_LANES) for more in (-1, 0, 1)}
    | {6, 7}
    | {tiles * TILE + more for tiles in (1, 2) for more in (-1, 0, 1)}
    | {64, 300, 1025}
)
# Rows in lanes or units in lanes, in whole vectors or not, one panel of weights or several.
UNITS = (1, 2, 4, 8, 16, 17, 33, 64)
# Each with inputs whose products are fused into the step (up to 8) and hoisted out of it.
SIZES = [(units, (1, 8)[i % 2]) for i, units in enumerate(UNITS)]
SIZES += [(units, (9, 40)[i % 2]) for i, units in enumerate(UNITS)]
STEPS = 3
# Rows of a pool that are not stepped.
OTHERS = 5
# What a row and step of a narrow layer may err: it tells numbers from garbage, and test_precision.py the rest.
NARROW_ERROR = {"bfloat16": 0.05, "int8": 0.25}


@pytest.fixture(params=[1, 2])
def threads(request):
    before = fastrnn.get_num_threads()
    fastrnn.set_num_threads(request.param)
    yield request.param
    fastrnn.set_num_threads(before)


class Judged:
    """A recurrent layer, the most rows for it, and what the oracle makes of them in every way it is called."""

    def __init__(self, kind, units, features, masked=False):
        rng = np.random.default_rng([units, features])
        most = ROWS[-1]
        # Inputs are rows of a table, so that a layer over the table has the same ones; so have cells of other kinds.
        self.table = rng.normal(size=(11, features)).astype(np.float32)
        self.numbers = rng.integers(0, 11, (most, STEPS))
        self.x = self.table[self.numbers]
        self.mask = rng.random((most, STEPS)) < 0.7 if masked else None
        self.kind, self.weights = kind, weights_of(kind, features, units, rng)
        n_states = 2 if kind == "lstm" else 1
        self.states = rng.normal(0, 0.7, (n_states, most, units)).astype(np.float32)
        before = tuple(self.states.astype(np.float64))
        cell, x = cell_of(kind, self.weights), self.x.astype(np.float64)
        self.y, self.final = reference.recurrence(cell, x, before, self.mask, return_sequences=True)
        _, self.after_one = reference.recurrence(cell, x[:, :1], before)

    def step(self, core, narrow=None, **options):
        """Buffers: 0 x, 1 the mask, 2 and 3 the states before, 4 y, 5 and 6 the states after."""
        n_states = len(self.states)
        options.setdefault("x", 0)
        return recurrent(
            core, self.kind, self.weights, y=4, initial=tuple(range(2, 2 + n_states)),
            final=tuple(range(5, 5 + n_states)), return_sequences=True, precision=narrow, **options,
        )  # fmt: skip

    def program(self, core, **options):
        step = self.step(core, mask=None if self.mask is None else 1, **options)
        masks = [] if self.mask is None else [1]
        inputs = [0, *masks, *range(2, 2 + len(self.states))]
        return core.Program(7, [step], inputs, step.targets, masks)

    def check(self, got, rows, core, atol=None):
        """Assert that these are y and the states after all steps of the first rows."""
        assert len(got) == 1 + len(self.final)
        for part, expected in zip(got, (self.y, *self.final), strict=True):
            assert_rows(part, expected[:rows], core, atol)


def assert_rows(got, expected, core, atol=None):
    if atol is None:
        assert_near(got, expected, core)
    else:
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, rtol=0, atol=atol)


judged = functools.cache(Judged)


def first(arrays, rows, core):
    """The first rows of arrays, of the core's type unless they are a mask or numbers."""
    return tuple(np.array(a[:rows], core.DTYPE if a.dtype.kind == "f" else a.dtype) for a in arrays)


# Programs


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("units", "features"), SIZES)
@pytest.mark.parametrize("kind", GATES)
def test_recurrence(kind, units, features, masked, n_threads, core):
    core.set_num_threads(n_threads)
    case = judged(kind, units, features, masked)
    program = case.program(core)
    mask = [] if case.mask is None else [case.mask]
    for rows in ROWS:
        case.check(program.run(first((case.x, *mask, *case.states), rows, core)), rows, core)


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize(("units", "features"), SIZES)
@pytest.mark.parametrize("kind", GATES)
def test_one_step(kind, units, features, n_threads, core):
    """T = 1."""
    core.set_num_threads(n_threads)
    case = judged(kind, units, features)
    program = case.program(core)
    for rows in ROWS:
        y, *states = program.run(first((case.x[:, :1], *case.states), rows, core))
        assert_near(y, case.after_one[0][:rows, np.newaxis], core)
        for got, expected in zip(states, case.after_one, strict=True):
            assert_near(got, expected[:rows], core)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize("kind", GATES)
def test_recurrence_over_a_table(kind, units, dtype, core):
    case = judged(kind, units, 9)
    program = case.program(core, table=case.table.astype(core.DTYPE))
    for rows in ROWS:
        _, *states = first((case.x, *case.states), rows, core)
        case.check(program.run((case.numbers[:rows].astype(dtype), *states)), rows, core)


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("narrow", NARROW)
@pytest.mark.parametrize(("units", "features"), SIZES)
@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize(
    "core", [build for build in _core.BUILDS.values() if build.dtype == np.float32], indirect=True
)
def test_narrow_recurrence(kind, units, features, narrow, n_threads, core):
    core.set_num_threads(n_threads)
    case = judged(kind, units, features)
    program = case.program(core, narrow=narrow)
    for rows in ROWS:
        got = program.run(first((case.x, *case.states), rows, core))
        case.check(got, rows, core, NARROW_ERROR[narrow])


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("features", [1, 7, 64, 1024, 1025])
@pytest.mark.parametrize("units", [1, 2, 5, 16, 40])
def test_dense(units, features, n_threads, core):
    core.set_num_threads(n_threads)
    weights, x, expected = judged_dense(units, features)
    program = core.Program(2, [dense(core, weights, "tanh")], [0], [1])
    for rows in ROWS:
        assert_near(program.run(x[:rows].astype(core.DTYPE)), expected[:rows], core)


@functools.cache
def judged_dense(units, features):
    rng = np.random.default_rng([units, features])
    weights = dense_weights(features, units, rng)
    x = rng.normal(size=(ROWS[-1], features)).astype(np.float32)
    kernel, bias = (w.astype(np.float64) for w in weights)
    return weights, x, reference.dense(x.astype(np.float64), kernel, bias, activations.tanh)


@pytest.mark.parametrize("n_threads", [1, 2, 3])
@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize("kinds", [("lstm", "gru"), ("simple_rnn", "gru_reset_before")])
def test_two_layers_side_by_side(kinds, units, n_threads, core):
    """Threads share the layers, or tiles of the rows, or the units."""
    core.set_num_threads(n_threads)
    cases = [judged(kind, units, 9) for kind in kinds]
    steps = [
        recurrent(core, case.kind, case.weights, x=0, y=1 + i, return_sequences=True)
        for i, case in enumerate(cases)
    ]
    program = core.Program(3, steps, [0], [1, 2])
    x = cases[0].x
    expected = [from_zeros(kind, units, 9)[0] for kind in kinds]
    for rows in ROWS:
        for got, wanted in zip(program.run(x[:rows].astype(core.DTYPE)), expected, strict=True):
            assert_near(got, wanted[:rows], core)


@functools.cache
def from_zeros(kind, units, features):
    case = judged(kind, units, features)
    start = tuple(np.zeros(case.states.shape))
    cell = cell_of(kind, case.weights)
    return reference.recurrence(cell, case.x.astype(float), start, return_sequences=True)


# Streams of the core


def streamed(core, case, rows, narrow=None, picked=False, table=False):
    """The core's streams from the case's states, more of them than `rows` where they are picked, and these states."""
    n_states = len(case.states)
    options = {"table": case.table.astype(core.DTYPE)} if table else {}
    step = case.step(core, narrow=narrow, **options)
    program = core.Program(7, [step], [0, *range(2, 2 + n_states)], step.targets)
    states = [np.array(state[:rows], core.DTYPE) for state in case.states]
    if picked:  # rows that are not stepped lie among those that are
        others = np.full((OTHERS, case.y.shape[-1]), 0.5, core.DTYPE)
        states = [np.concatenate([others, state]) for state in states]
    shape = (1,) if table else (1, case.x.shape[-1])
    return core.Streams(program, [shape], [True], states, [], picked), states


def check_streams(core, case, narrow=None, picked=False, table=False, by_out=False):
    atol = None if narrow is None else NARROW_ERROR[narrow]
    for rows in ROWS:
        streams, states = streamed(core, case, rows, narrow, picked, table)
        order = np.random.default_rng(rows).permutation(rows) if picked else np.arange(rows)
        slots = (order + OTHERS,) if picked else ()
        whole = case.numbers[:rows].astype(np.int64) if table else case.x[:rows].astype(core.DTYPE)
        for t in range(STEPS):
            x = np.ascontiguousarray(whole[order, t])
            out = np.full((rows, case.y.shape[-1]), np.nan, core.DTYPE) if by_out else None
            y = streams.step(x, out, *slots)
            assert y is out or not by_out
            assert_rows(y, case.y[order, t], core, atol)
        for state, expected in zip(states, case.final, strict=True):
            assert_rows(state[OTHERS if picked else 0 :], expected[:rows], core, atol)
            assert not picked or (state[:OTHERS] == 0.5).all()


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("picked", [False, True])
@pytest.mark.parametrize("by_out", [False, True])
@pytest.mark.parametrize(("units", "features"), SIZES)
@pytest.mark.parametrize("kind", GATES)
def test_streams(kind, units, features, by_out, picked, n_threads, core):
    core.set_num_threads(n_threads)
    check_streams(core, judged(kind, units, features), picked=picked, by_out=by_out)


@pytest.mark.parametrize("picked", [False, True])
@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize("kind", GATES)
def test_streams_over_a_table(kind, units, picked, core):
    check_streams(core, judged(kind, units, 9), picked=picked, table=True)


@pytest.mark.parametrize("narrow", NARROW)
@pytest.mark.parametrize("picked", [False, True])
@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize(
    "core", [build for build in _core.BUILDS.values() if build.dtype == np.float32], indirect=True
)
def test_narrow_streams(kind, units, picked, narrow, core):
    check_streams(core, judged(kind, units, 40), narrow=narrow, picked=picked)


# What users call

LAYERS = {
    "simple_rnn": layers.SimpleRNN,
    "lstm": layers.LSTM,
    "gru": layers.GRU,
    "gru_reset_before": functools.partial(layers.GRU, reset_after=False),
}


def model_of(kind, units, features, dtype):
    """A layer with the weights of its case."""
    layer = LAYERS[kind](units, return_sequences=True, dtype=dtype)
    model = sequential(layer, shape=(None, features), dtype=dtype)
    model.set_weights(judged(kind, units, features).weights)
    return model


def near(got, expected, dtype):
    assert got.dtype == dtype
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12 if dtype == "float64" else 5e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("units", "features"), SIZES)
@pytest.mark.parametrize("kind", GATES)
def test_models_and_their_streams_and_pools(kind, units, features, dtype, threads):
    model = model_of(kind, units, features, dtype)
    expected, states = from_zeros(kind, units, features)
    near(model.predict(judged(kind, units, features).x), expected, dtype)
    pool = model.stream_pool(ROWS[-1])
    ids = np.array([pool.open() for _ in range(ROWS[-1])])
    for rows in ROWS:
        x = judged(kind, units, features).x[:rows].astype(dtype)
        near(model(x), expected[:rows], dtype)
        near(model.stream(batch_size=rows).feed(x), expected[:rows], dtype)
        stream = model.stream(batch_size=rows)
        order = np.random.default_rng(rows).permutation(rows)
        chosen = ids[-rows:][order]
        pool.reset(chosen)
        for t in range(STEPS):
            near(stream.step(x[:, t]), expected[:rows, t], dtype)
            near(pool.step(chosen.tolist(), x[order, t]), expected[order, t], dtype)
        for kept, after in zip(stream.state.values(), states, strict=True):
            near(kept, after[:rows], dtype)
        for kept, after in zip(pool.state(chosen).values(), states, strict=True):
            near(kept, after[order], dtype)


@pytest.mark.parametrize("name", MODELS)
def test_rows_of_every_kind_of_model_are_what_they_are_alone(name, threads):
    rng = np.random.default_rng(3)
    model = with_random_weights(MODELS[name](), rng)
    for rows in (TILE + 1, 2 * TILE + 1):
        x = inputs_for(model, rows, rng, STEPS)
        stream, pool = model.stream(batch_size=rows), model.stream_pool(rows)
        ids = [pool.open() for _ in range(rows)]
        steps = [(flat(stream.step(x[:, t])), flat(pool.step(ids, x[:, t]))) for t in range(STEPS)]
        for row in (0, TILE - 1, TILE, rows - 1):
            alone = model.stream()
            for t in range(STEPS):
                lone = flat(alone.step(x[row, t]))
                for got in steps[t]:
                    for part, expected in zip(got, lone, strict=True):
                        size = np.abs(expected).max(initial=1)
                        atol = (2e-3 if expected.dtype == np.float16 else 5e-6) * size
                        np.testing.assert_allclose(part[row], expected, rtol=0, atol=atol)
