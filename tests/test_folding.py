"""Folding: that each rule fires where it may, does not where it must not, and changes no number beyond rounding."""

import numpy as np
import pytest

import fastrnn
from fastrnn import activations, folding, layers, plan, reference

F32, F64 = np.dtype(np.float32), np.dtype(np.float64)


def dense(source, target, rng, activation=activations.linear, use_bias=True, dtype=F32):
    kernel = rng.normal(size=(4, 4)).astype(dtype)
    bias = rng.normal(size=4).astype(dtype) if use_bias else None
    return plan.Dense((source,), (target,), dtype, kernel, bias, activation)


def affine(source, target, rng, center=0.0, dtype=F32):
    """A map whose mean is less than a deviation from `center`."""
    numbers = [center + rng.uniform(-0.35, 0.35, 4), rng.uniform(0.5, 2, 4), rng.normal(size=4)]
    return plan.Affine((source,), (target,), dtype, *(array.astype(dtype) for array in numbers))


def activate(source, target, activation=activations.tanh):
    return plan.Activate((source,), (target,), F32, activation)


def lookup(source, target, rng, rows=9):
    table = plan.Table(rng.normal(size=(rows, 4)).astype(F32), "e")
    return plan.Lookup((source,), (target,), F32, table)


def recurrence(source, target, rng, kind="lstm", others=(), **options):
    columns = {"simple_rnn": 3, "lstm": 12, "gru": 9, "gru_reset_before": 9}[kind]
    bias = (2, columns) if kind == "gru" else (columns,)
    weights = [
        rng.normal(0, 0.5, shape).astype(F32) for shape in ((4, columns), (3, columns), bias)
    ]
    if options.pop("use_bias", True) is False:
        weights[2] = None
    functions = [activations.tanh, activations.sigmoid]
    if kind == "simple_rnn":
        cell = reference.SimpleRNN(*weights, functions[0])
    elif kind == "lstm":
        cell = reference.LSTM(*weights, *functions)
    else:
        cell = reference.GRU(*weights, *functions, kind == "gru")
    return plan.Recurrence((source, *others), (target,), F32, cell, kind, **options)


def check(steps, kept, arrays, n_folded, masks=()):
    """Fold; compare the folded plan, compiled and in NumPy, with the steps one by one."""
    folded = folding.fold(steps, kept)
    assert len(folded) == n_folded
    values = dict(arrays)
    for step in steps:
        values.update(
            zip(step.targets, step.run([values[source] for source in step.sources]), strict=True)
        )
    made = plan.Plan(folded, arrays, kept, 20, masks)
    for compiled in (True, False):
        for got, number in zip(made.run(list(arrays.values()), compiled), kept, strict=True):
            np.testing.assert_allclose(got, values[number], rtol=1e-5, atol=1e-5)
    return folded


@pytest.fixture
def x(rng):
    return rng.normal(size=(3, 5, 4)).astype(F32)


@pytest.fixture
def numbers(rng):
    return rng.integers(0, 9, (3, 5))


# Dense and what follows


def test_dense_takes_its_activation(x, rng):
    (step,) = check([dense(0, 1, rng), activate(1, 2)], [2], {0: x}, 1)
    assert step.activation is activations.tanh


@pytest.mark.parametrize("use_bias", [True, False])
def test_dense_takes_the_map_of_its_columns(use_bias, x, rng):
    check([dense(0, 1, rng, use_bias=use_bias), affine(1, 2, rng, 50)], [2], {0: x}, 1)


def test_dense_takes_map_and_activation(x, rng):
    check([dense(0, 1, rng), affine(1, 2, rng), activate(2, 3)], [3], {0: x}, 1)


@pytest.mark.parametrize(
    "second", [lambda rng: activate(1, 2, activations.softmax), lambda rng: activate(1, 2, np.sin)]
)
def test_not_every_activation_is_a_part_of_a_dense(second, x, rng):
    check([dense(0, 1, rng), second(rng)], [2], {0: x}, 2)


@pytest.mark.parametrize("second", [activate, lambda a, b: affine(a, b, np.random.default_rng(1))])
def test_a_dense_with_an_activation_takes_nothing(second, x, rng):
    check([dense(0, 1, rng, activations.relu), second(1, 2)], [2], {0: x}, 2)


# Maps


@pytest.mark.parametrize("use_bias", [True, False])
def test_a_map_goes_into_the_dense_behind_it(use_bias, x, rng):
    second = dense(1, 2, rng, activations.relu, use_bias)
    check([affine(0, 1, rng), second], [2], {0: x}, 1)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("kind", ["simple_rnn", "lstm", "gru", "gru_reset_before"])
def test_a_map_goes_into_the_recurrence_behind_it(kind, use_bias, x, rng):
    second = recurrence(1, 2, rng, kind, use_bias=use_bias, return_sequences=True)
    check([affine(0, 1, rng), second], [2], {0: x}, 1)


def test_a_map_goes_into_all_that_read_it(x, rng):
    mask = rng.random((3, 5)) < 0.6
    steps = [
        affine(0, 2, rng),
        recurrence(2, 3, rng, others=(1,), masked=True),
        recurrence(2, 4, rng, "gru", others=(1,), masked=True, go_backwards=True),
        dense(2, 5, rng),
    ]
    check(steps, [3, 4, 5], {0: x, 1: mask}, 3, {1})


def test_a_map_stays_where_something_else_reads_it(x, rng):
    check([affine(0, 1, rng), dense(1, 2, rng), activate(1, 3)], [2, 3], {0: x}, 3)


def test_a_map_that_is_an_initial_state_stays(rng):
    h = rng.normal(size=(3, 3)).astype(F32)
    x = rng.normal(size=(3, 5, 4)).astype(F32)
    narrow = plan.Affine((1,), (2,), F32, *(np.full(3, 2, F32) for _ in range(3)))
    check([narrow, recurrence(0, 3, rng, "gru", others=(2,))], [3], {0: x, 1: h}, 2)


def test_a_map_far_from_zero_stays(rng):
    """Of a price of 50000 +- 1 a folded mean would leave one digit."""
    price = rng.normal(50000, 1, (3, 5, 4)).astype(F32)
    steps = [plan.Affine((0,), (1,), F32, *np.array([[50000] * 4, [1] * 4, [0] * 4], F32))]
    check([*steps, dense(1, 2, rng)], [2], {0: price}, 2)


@pytest.mark.parametrize("deviations", [0, 0.5, 0.74, 0.76, 2, 5, 7.5, 20])
@pytest.mark.parametrize("second", [dense, recurrence])
def test_a_map_is_folded_only_where_that_costs_no_digits(second, deviations, rng):
    means, kernel = np.full(32, deviations * 0.7), rng.normal(size=(32, 48)) / 6
    numbers = [array.astype(F32) for array in (means, np.full(32, 1 / 0.7), np.zeros(32))]
    first = plan.Affine((0,), (1,), F32, *numbers)
    if second is dense:
        last = plan.Dense((1,), (2,), F32, kernel.astype(F32), None, activations.linear)
    else:
        recurrent_kernel = rng.normal(0, 0.02, (48, 48)).astype(F32)
        cell = reference.SimpleRNN(kernel.astype(F32), recurrent_kernel, None, np.tanh)
        last = plan.Recurrence((1,), (2,), F32, cell, "simple_rnn", return_sequences=True)
    x = rng.normal(means, 0.7, (40, 5, 32)).astype(F32)
    folded = folding.fold([first, last], [2])
    assert len(folded) == (1 if deviations < 0.75 else 2)
    exact = (x.astype(np.float64) - numbers[0]) * numbers[1].astype(np.float64)
    (exact,) = last.run([exact])
    (together,) = plan.Plan(folded, [0], [2], 3).run([x])
    alone = plan.Plan([last], [1], [2], 3).run([(x - numbers[0]) * numbers[1]])[0]

    def error(y):
        return np.sqrt(np.mean((y - exact) ** 2))

    assert exact.dtype == np.float64
    assert error(together) <= 1.5 * error(alone)


def test_a_map_before_a_convolution_or_a_users_cell_stays(x, rng):
    own = plan.Recurrence((1,), (2,), F32, recurrence(1, 2, rng).cell, None)
    convolution = plan.ConvRecurrence((1,), (2,), F32, own.cell, "conv_lstm")
    for second in (own, convolution):
        steps = [affine(0, 1, rng), second]
        assert folding.fold(steps, [2]) == steps


def test_maps_become_one(x, rng):
    check([affine(0, 1, rng), affine(1, 2, rng), affine(2, 3, rng)], [3], {0: x}, 1)


@pytest.mark.parametrize("value", [np.inf, np.nan, 3e38])
def test_numbers_that_would_not_be_finite_stay(value, x, rng):
    scale = np.array([1, value, 1, 1], F32)
    wide = plan.Affine((0,), (1,), F32, np.zeros(4, F32), scale, np.zeros(4, F32))
    last = plan.Affine((1,), (2,), F32, np.zeros(4, F32), scale, np.zeros(4, F32))
    for steps in ([wide, dense(1, 2, rng)], [dense(0, 1, rng), last], [wide, last]):
        big = [step for step in steps if isinstance(step, plan.Dense)]
        for step in big:
            step.kernel[:] *= 4
        assert folding.fold(steps, [2]) == steps


# Tables


def test_a_table_takes_the_map_of_its_columns(numbers, rng):
    check([lookup(0, 1, rng), affine(1, 2, rng, 50)], [2], {0: numbers}, 1)


@pytest.mark.parametrize("kind", ["simple_rnn", "lstm", "gru", "gru_reset_before"])
@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.float32, np.float64, np.uint8])
def test_recurrences_look_their_projections_up(kind, dtype, numbers, rng):
    steps = [
        lookup(0, 1, rng),
        recurrence(1, 2, rng, kind, return_sequences=True),
        recurrence(1, 3, rng, kind, go_backwards=True, use_bias=False),
    ]
    folded = check(steps, [2, 3], {0: numbers.astype(dtype)}, 2)
    assert plan.Plan(folded, [0], [2, 3], 4).program is not None


def test_a_table_that_a_dense_reads_stays(numbers, rng):
    steps = [lookup(0, 1, rng), recurrence(1, 2, rng), dense(1, 3, rng)]
    check(steps, [2, 3], {0: numbers}, 3)


def test_a_table_that_would_grow_too_large_stays(monkeypatch, numbers, rng):
    steps = [lookup(0, 1, rng), recurrence(1, 2, rng)]
    monkeypatch.setattr(folding, "MOST_TABLE_BYTES", 9 * 12 * 4 - 1)
    check(steps, [2], {0: numbers}, 2)
    monkeypatch.setattr(folding, "MOST_TABLE_BYTES", 9 * 12 * 4)
    check(steps, [2], {0: numbers}, 1)


# What is needed as it is


@pytest.mark.parametrize("first", [dense, affine])
def test_an_output_stays(first, x, rng):
    steps = [first(0, 1, rng), affine(1, 2, rng), dense(2, 3, rng)]
    check(steps, [3, 1, 2], {0: x}, 3)
    check(steps, [3, 1], {0: x}, 2)


@pytest.mark.parametrize(("first", "second"), [(dense, affine), (affine, affine), (affine, dense)])
def test_steps_of_two_dtypes_stay(first, second, x, rng):
    check([first(0, 1, rng), second(1, 2, rng, dtype=F64)], [2], {0: x}, 2)


# Models


def model_of(*stack, rng):
    model = fastrnn.Sequential(stack)
    model.set_weights([rng.uniform(0.1, 0.9, weight.shape) for weight in model.weights])
    return model


STACKS = {
    "normalized between": lambda L: (
        L.Input((6, 3)),
        L.LSTM(4, return_sequences=True),
        L.BatchNormalization(),
        L.LSTM(4),
        L.Dense(2),
        L.ReLU(),
    ),
    "normalized before": lambda L: (
        L.Input((6, 3)),
        L.Rescaling(0.5, 0.1),
        L.Normalization(mean=[1, 2, 3], variance=[1, 4, 9]),
        L.Bidirectional(L.GRU(4)),
        L.Dense(2, use_bias=False),
        L.BatchNormalization(),
        L.Activation("tanh"),
    ),
    "tokens": lambda L: (
        L.Input((6,), dtype="int32"),
        L.Embedding(20, 3),
        L.BatchNormalization(),
        L.LSTM(4),
        L.Dense(2, activation="softmax"),
    ),
    "padded tokens": lambda L: (
        L.Input((6,)),
        L.Embedding(20, 3, mask_zero=True),
        L.Bidirectional(L.LSTM(4, return_sequences=True)),
        L.GlobalAveragePooling1D(),
        L.Dense(1, activation="sigmoid"),
    ),
}


@pytest.mark.parametrize(("name", "steps"), [*zip(STACKS, (3, 4, 3, 6), strict=True)])
def test_models_become_one_program(name, steps, rng):
    model = model_of(*STACKS[name](layers), rng=rng)
    tokens = "tokens" in name
    x = rng.integers(0, 20, (5, 6)) if tokens else rng.normal(size=(5, 6, 3))
    y = model(x)
    executable, _ = model._executable((False,))
    assert executable.plan.program is not None
    assert len(executable.plan.steps) == steps
    assert model._prepared.shortest.run(x.astype("i4" if tokens else "f4")) is not None
    builder = plan.Builder()
    values = model._input_values(builder)
    output = model._lower_graph(builder, values)
    whole = plan.Plan(builder.steps, [values[0].buffer], [output.buffer], builder.n_buffers)
    (expected,) = whole.run([x if tokens else x.astype(F32)], compiled=False)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5)


def test_the_plan_of_every_step_is_folded(rng):
    inner = (layers.Input((6,)), layers.Embedding(20, 3), layers.BatchNormalization())
    every = layers.TimeDistributed(fastrnn.Sequential(inner))
    model = model_of(layers.Input((4, 6)), every, rng=rng)
    (every_step,) = model._executable((False,))[0].plan.steps
    assert isinstance(every_step, plan.EveryStep)
    assert [type(step) for step in every_step.plan.steps] == [plan.Lookup]
    x = rng.integers(0, 20, (2, 4, 6))
    rows = every.layer(x.reshape(8, 6))
    np.testing.assert_array_equal(model(x), rows.reshape(2, 4, 6, 3))
