"""The promise of docs/architecture.md: the bits of a row depend on the row, the weights and the precision alone.

Neither on threads, nor on calls that run at once, nor on the rows beside it, its place among them, their number, or
whether a sequence comes whole or step by step.
"""

import itertools
import threading

import numpy as np
import pytest

import fastrnn
from fastrnn import layers
from tests.builds import LEVELS, core_of
from tests.test_core import (
    GATES,
    dense,
    dense_weights,
    masked,
    recurrent,
    weights_of,
)

# Around the borders of vectors (4 to 16 lanes), tiles (3, 6 and 7 rows), groups (16 to 64 rows) and tiles of work (96).
ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65, 95, 96, 97, 193, 250)
# Units in lanes or rows in lanes, one panel or several, whole vectors or not; and depths around a block of a sum.
UNITS = (1, 2, 5, 8, 16, 20, 33, 64, 65, 100, 130)
FEATURES = (1, 8, 9, 40, 130)


def program_of(core, kind, features, units, rng, mask=False, **options):
    """A recurrence from x, a mask and states to its sequence and last states, then Dense layers of 3 and 40 units."""
    weights = weights_of(kind, features, units, rng)
    n_states = 2 if kind == "lstm" else 1
    initial, final = tuple(range(2, 2 + n_states)), tuple(range(6, 6 + n_states))
    first = recurrent(
        core, kind, weights, x=0, mask=1 if mask else None, y=5, initial=initial, final=final,
        return_sequences=True, **options,
    )  # fmt: skip
    few, many = (
        dense(core, dense_weights(units, n, rng), "tanh", x=5, y=8 + (n > 9)) for n in (3, 40)
    )
    inputs = [0, *([1] if mask else []), *initial]
    return core.Program(10, [first, few, many], inputs, [5, *final, 8, 9], {1})


def inputs_of(core, kind, features, units, rows, steps, rng, mask=None):
    x = rng.normal(size=(rows, steps, features)).astype(core.DTYPE)
    states = rng.normal(0, 0.5, (2 if kind == "lstm" else 1, rows, units)).astype(core.DTYPE)
    return (x, *([] if mask is None else [masked(mask, rows, steps, rng)]), *states)


def assert_same(got, expected):
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def part(arrays, rows):
    return tuple(np.ascontiguousarray(array[rows]) for array in arrays)


@pytest.mark.parametrize("mask", [None, "holes"])
@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize("kind", GATES)
def test_rows_beside_a_row_and_its_place(kind, units, mask, core, rng):
    for features in FEATURES:
        program = program_of(core, kind, features, units, rng, mask is not None)
        arrays = inputs_of(core, kind, features, units, max(ROWS), 3, rng, mask)
        whole = program.run(arrays)
        for rows in ROWS[:-1]:
            first = int(rng.integers(0, max(ROWS) - rows))
            here = slice(first, first + rows)
            assert_same(program.run(part(arrays, here)), part(whole, here))
        order = rng.permutation(max(ROWS))
        assert_same(program.run(part(arrays, order)), part(whole, order))


@pytest.mark.parametrize("mask", [None, "right"])
@pytest.mark.parametrize(("units", "features"), [(5, 3), (33, 40), (130, 12), (300, 9)])
@pytest.mark.parametrize("kind", GATES)
def test_threads(kind, units, features, mask, core, rng):
    program = program_of(core, kind, features, units, rng, mask is not None)
    for rows in (1, 2, 7, 40, 200):
        arrays = inputs_of(core, kind, features, units, rows, 20, rng, mask)
        core.set_num_threads(1)
        alone = program.run(arrays)
        for allowed, _ in itertools.product((2, 3), range(2)):
            core.set_num_threads(allowed)
            assert_same(program.run(arrays), alone)


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("kind", GATES)
def test_one_step_after_the_other(kind, features, core, rng):
    """A lone step fuses the projection that a sequence computes ahead, and steps in place where it can."""
    for units in (5, 16, 33, 64):
        program = program_of(core, kind, features, units, rng)
        n_states = 2 if kind == "lstm" else 1
        for rows in (1, 5, 40):
            x, *states = inputs_of(core, kind, features, units, rows, 11, rng)
            whole = program.run((x, *states))
            for t in range(11):
                y, *rest = program.run((np.ascontiguousarray(x[:, t : t + 1]), *states))
                states = rest[:n_states]
                np.testing.assert_array_equal(y[:, 0], whole[0][:, t])
            assert_same(states, whole[1 : 1 + n_states])


@pytest.mark.parametrize("units", [3, 20, 64])
@pytest.mark.parametrize("kind", GATES)
def test_a_table_looks_up_the_same_in_every_row(kind, units, core, rng):
    table = rng.normal(size=(9, 6)).astype(core.DTYPE)
    weights = weights_of(kind, 6, units, rng)
    step = recurrent(core, kind, weights, x=0, y=1, table=table, return_sequences=True)
    program = core.Program(2, [step], [0], [1])
    numbers = rng.integers(0, 9, (250, 4))
    whole = program.run(numbers)
    for rows in ROWS[:-1]:
        np.testing.assert_array_equal(program.run(numbers[:rows].copy()), whole[:rows])


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
@pytest.mark.parametrize("level", LEVELS)
def test_narrow_products(level, precision, rng):
    core = core_of(level, 32)
    for kind, units, features in itertools.product(GATES, (5, 64, 150), (5, 40, 150)):
        program = program_of(core, kind, features, units, rng, precision=precision)
        arrays = inputs_of(core, kind, features, units, 100, 6, rng)
        core.set_num_threads(1)
        whole = program.run(arrays)
        for rows in (1, 2, 3, 4, 5, 6, 7, 33, 97):
            for allowed in (1, 2):
                core.set_num_threads(allowed)
                assert_same(
                    program.run(part(arrays, slice(3, 3 + rows))), part(whole, slice(3, 3 + rows))
                )
        core.set_num_threads(fastrnn.get_num_threads())


@pytest.mark.parametrize("bits", [32, 64])
def test_instruction_sets_with_fused_products_agree(bits, rng):
    fused = [core_of(level, bits) for level in LEVELS if level != "base"]
    if len(fused) < 2:
        pytest.skip("this CPU runs one of them")
    for kind, units, features, rows in itertools.product(GATES, (3, 20, 64), (1, 40), (1, 5, 97)):
        results = []
        for core in fused:
            here = np.random.default_rng(1)
            program = program_of(core, kind, features, units, here)
            results.append(program.run(inputs_of(core, kind, features, units, rows, 5, here)))
        assert_same(*results)


# Layers and models


def model_of(cell, units):
    return fastrnn.Sequential(
        [
            layers.Input((None, 10)),
            layers.Bidirectional(getattr(layers, cell)(units, return_sequences=True))
            if cell == "GRU"
            else getattr(layers, cell)(units, return_sequences=True),
            layers.LSTM(12, return_sequences=True),
            layers.Dense(5, activation="softmax"),
        ]
    )


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["SimpleRNN", "LSTM", "GRU"])
def test_calls_that_run_at_once(cell, threads, rng):
    fastrnn.set_num_threads(2)
    model = model_of(cell, 100)
    batches = [rng.normal(size=(rows, 12, 10)).astype("f4") for rows in (1, 6, 100, 300)]
    expected = [model(x) for x in batches]
    different = []

    def call():
        for _ in range(5):
            different.extend((model(x) != y).any() for x, y in zip(batches, expected, strict=True))

    callers = [threading.Thread(target=call) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(different) == 60
    assert not any(different)


@pytest.mark.parametrize("units", [4, 16, 50, 100])
@pytest.mark.parametrize("cell", ["SimpleRNN", "LSTM"])
def test_streams_and_pools(cell, units, threads, rng):
    model = model_of(cell, units)
    x = rng.normal(size=(250, 5, 10)).astype("f4")
    fastrnn.set_num_threads(1)
    whole = model(x)
    for rows, allowed in itertools.product((1, 7, 97, 250), (1, 2)):
        fastrnn.set_num_threads(allowed)
        stream, pool = model.stream(batch_size=rows), model.stream_pool(rows)
        ids = [pool.open() for _ in range(rows)]
        for t in range(5):
            at = np.ascontiguousarray(x[:rows, t])
            np.testing.assert_array_equal(stream.step(at), whole[:rows, t])
            np.testing.assert_array_equal(pool.step(ids, at), whole[:rows, t])
        fed = model.stream(batch_size=rows).feed(x[:rows])
        np.testing.assert_array_equal(fed, whole[:rows])


def test_predict_in_groups(threads, rng):
    model = model_of("GRU", 33)
    x = rng.normal(size=(130, 7, 10)).astype("f4")
    whole = model(x)
    for batch_size in (1, 32, 64, 1000):
        np.testing.assert_array_equal(model.predict(x, batch_size=batch_size), whole)
