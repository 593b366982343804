"""Plans: which steps become programs of the core, and that this changes no number."""

import numpy as np
import pytest

import fastrnn
from fastrnn import activations, layers, plan, reference

F32, F64 = np.dtype(np.float32), np.dtype(np.float64)


def double(x):
    return 2 * x


def itself(x):
    return x


def wave(x):
    return np.sin(x)


def dense(source, target, rng, dtype=F32, activation=activations.tanh, units=4):
    kernel = rng.normal(size=(4, units)).astype(dtype)
    bias = rng.normal(size=units).astype(dtype)
    return plan.Dense((source,), (target,), dtype, kernel, bias, activation)


def lstm(sources, targets, rng, activation=activations.tanh, **options):
    weights = [rng.normal(0, 0.5, shape).astype(F32) for shape in ((4, 16), (4, 16), (16,))]
    cell = reference.LSTM(*weights, activation, activations.sigmoid)
    return plan.Recurrence(sources, targets, F32, cell, "lstm", **options)


def activate(source, target, activation, dtype=F32):
    return plan.Activate((source,), (target,), dtype, activation)


def both(made, arrays):
    """Run a plan compiled, which gives the result, and in NumPy, which must give the same."""
    copies = [array.copy() for array in arrays]
    results, expected = made.run(arrays), made.run(arrays, compiled=False)
    assert len(results) == len(expected) == len(made.outputs)
    for got, wanted in zip(results, expected, strict=True):
        assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
        assert not any(np.shares_memory(got, array) for array in arrays)
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(array, copy)
    return results


@pytest.fixture
def x(rng):
    return rng.normal(size=(6, 4)).astype(F32)


# Steps


@pytest.mark.parametrize("name", activations.NAMES)
def test_a_users_function_has_no_kernel_under_any_name(name):
    def imitation(x):
        return -x

    imitation.__name__ = name
    assert not plan.is_elementwise(imitation)
    assert activate(0, 1, imitation).compiled() is None


def test_which_activations_are_a_part_of_a_step():
    assert plan.is_elementwise(activations.tanh)
    assert not any(map(plan.is_elementwise, [activations.softmax, activations.glu, double]))
    assert activate(0, 1, activations.softmax).compiled() is not None
    assert activate(0, 1, activations.glu).compiled() is None


# Plans


def test_compiled_steps_alone_are_one_program(x, rng):
    made = plan.Plan([dense(0, 1, rng), dense(1, 2, rng)], [0], [2], 3)
    assert made.program is not None
    (y,) = both(made, [x])
    np.testing.assert_array_equal(made.program.run(x), y)


def test_several_inputs_and_outputs_keep_their_order(rng):
    x, h, c = (rng.normal(size=shape).astype(F32) for shape in ((3, 5, 4), (3, 4), (3, 4)))
    mask = rng.random((3, 5)) < 0.5
    step = lstm((4, 2, 0, 1), (6, 5, 3), rng, masked=True)
    made = plan.Plan([step], [2, 1, 4, 0], [3, 6, 5], 7, {2})
    assert made.program is not None
    results = both(made, [mask, c, x, h])
    for got, wanted in zip(results, np.roll(step.run([x, mask, h, c]), 1, axis=0), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-6)


@pytest.mark.parametrize("between", [double, activations.glu, activations.sparsemax])
def test_numpy_steps_between_compiled_ones(between, x, rng):
    width = 8 if between is activations.glu else 4
    steps = [dense(0, 1, rng, units=width), activate(1, 2, between)]
    steps += [dense(2, 3, rng), activate(3, 4, activations.softmax)]
    made = plan.Plan(steps, [0], [4], 5)
    assert made.program is None
    both(made, [x])


@pytest.mark.parametrize("n_buffers", [6, 16, 17, 60])
def test_programs_around_numpy_steps_and_any_number_of_buffers(n_buffers, x, rng):
    last = n_buffers - 1
    steps = [dense(0, 1, rng), activate(1, 2, wave), dense(2, 3, rng), activate(3, 4, wave)]
    both(plan.Plan([*steps, dense(4, last, rng)], [0], [last], n_buffers), [x])


@pytest.mark.parametrize("activation", [activations.softmax, activations.sparsemax, wave])
def test_a_cell_without_kernel_runs_in_numpy(activation, rng):
    x = rng.normal(size=(3, 5, 4)).astype(F32)
    mask = rng.random((3, 5)) < 0.6
    steps = [
        lstm((0,), (2,), rng, return_sequences=True),
        lstm((2, 1), (3, 4, 5), rng, activation, masked=True, return_sequences=True),
        lstm((3, 1, 4, 5), (6,), rng, masked=True),
    ]
    assert [step.compiled() is None for step in steps] == [False, True, False]
    made = plan.Plan(steps, [0, 1], [6, 5], 7, {1})
    assert made.program is None
    both(made, [x, mask])


def test_mixed_dtypes(x, rng):
    steps = [dense(0, 1, rng), dense(1, 2, rng, F64), dense(2, 3, rng, F64), dense(3, 4, rng)]
    made = plan.Plan(steps, [0], [4, 2], 5)
    assert made.program is None
    y, middle = both(made, [x])
    assert (y.dtype, middle.dtype) == (F32, F64)


def test_an_input_of_another_form_is_converted(x, rng):
    made = plan.Plan([dense(0, 1, rng)], [0], [1], 2)
    (expected,) = made.run([x])
    for other in (x.astype(F64), np.asfortranarray(x), np.repeat(x, 2, axis=0)[::2]):
        np.testing.assert_array_equal(both(made, [other])[0], expected)
    np.testing.assert_array_equal(both(made, [x.astype(int)])[0], made.run([np.trunc(x)])[0])


def test_an_output_that_is_an_input_is_a_copy(x, rng):
    made = plan.Plan([dense(0, 1, rng)], [0], [0, 1, 0], 2)
    first, _, last = both(made, [x])
    np.testing.assert_array_equal(first, x)
    np.testing.assert_array_equal(last, x)


@pytest.mark.parametrize("steps", [1, 2])
def test_an_identity_of_the_users_gives_a_copy(steps, x):
    """What NumPy steps return may be what they were given."""
    made = plan.Plan([activate(i, i + 1, itself) for i in range(steps)], [0], [steps], 3)
    np.testing.assert_array_equal(both(made, [x])[0], x)


def test_nothing_but_an_input(x):
    np.testing.assert_array_equal(both(plan.Plan([], [0], [0], 1), [x])[0], x)


@pytest.mark.parametrize("step", [dense, lambda *args: activate(*args[:2], double)])
def test_a_buffer_given_out_twice_is_two_arrays(step, x, rng):
    made = plan.Plan([step(0, 1, rng)], [0], [1, 1], 2)
    first, second = both(made, [x])
    np.testing.assert_array_equal(first, second)
    assert not np.shares_memory(first, second)


def test_an_inner_buffer_is_given_out_too(x, rng):
    made = plan.Plan([dense(0, 1, rng), dense(1, 2, rng)], [0], [1, 2], 3)
    assert made.program is not None
    inner, last = both(made, [x])
    np.testing.assert_allclose(made.steps[1].run([inner])[0], last, atol=1e-6)


def test_an_input_that_no_step_reads(x, rng):
    mask = np.ones((6, 4), bool)
    for unused, masks in ((mask, {2}), (x[:, :1], ())):
        made = plan.Plan([dense(0, 1, rng)], [0, 2], [1], 3, masks)
        both(made, [x, unused])


def test_what_does_not_fit_is_an_error(x, rng):
    made = plan.Plan([dense(0, 1, rng)], [0], [1], 2)
    with pytest.raises(ValueError, match=r"\(6, 3\)"):
        made.run([x[:, :3]])


# Models


FUNCTIONS = ["tanh", "relu", "linear", "softmax", "sparsemax", "gelu", wave]


def random_stack(seed):
    """Return a model of random layers and an input for it."""
    rng = np.random.default_rng(seed)
    stack = [layers.Input((None, 3))]
    sequence = True
    for _ in range(rng.integers(1, 7)):
        dtype = str(rng.choice(["float32", "float32", "float64"]))
        function = FUNCTIONS[rng.integers(len(FUNCTIONS))]
        units = int(rng.integers(1, 20))
        kind = rng.choice(["rnn", "rnn", "Dense", "Activation", "Dropout"])
        if kind == "rnn" and sequence:
            options = {"return_sequences": bool(rng.integers(2)), "dtype": dtype}
            options["go_backwards"] = bool(rng.integers(2))
            sequence = options["return_sequences"]
            name = str(rng.choice(["SimpleRNN", "LSTM", "GRU"]))
            if name == "GRU":
                options["reset_after"] = bool(rng.integers(2))
            stack.append(getattr(layers, name)(units, activation=function, **options))
        elif kind == "Activation":
            stack.append(layers.Activation(function, dtype=dtype))
        elif kind == "Dropout":
            stack.append(layers.Dropout(0.5, dtype=dtype))
        else:
            stack.append(layers.Dense(units, activation=function, dtype=dtype))
    model = fastrnn.Sequential(stack)
    model.set_weights([rng.normal(0, 0.3, weight.shape) for weight in model.weights])
    return model, rng.normal(size=(rng.integers(1, 9), rng.integers(1, 7), 3)).astype(F32), rng


@pytest.mark.parametrize("seed", range(80))
def test_random_stacks(seed):
    model, x, rng = random_stack(seed)
    mask = rng.random(x.shape[:2]) < 0.7
    for masks in ([], [mask]):
        executable, _ = model._executable((bool(masks),))
        both(executable.plan, [x, *masks])
    y = model(x)
    np.testing.assert_array_equal(y, model.predict(x))
    assert len(y.shape) == len(model.output_shape)
    assert y.shape[-1] == model.output_shape[-1]
