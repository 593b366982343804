"""Streams: the same numbers as the whole sequence gives, and everything that can be done with their states."""

import gc
import os
import pickle
import subprocess
import sys
import threading
import tracemalloc

import keras
import numpy as np
import pytest

import fastrnn
from fastrnn import layers as L
from fastrnn import streaming
from tests.backends import as_on_tensorflow

STEPS = 9


class DecayCell:
    """A user's cell whose states start from ones, with an output of its own size."""

    state_size = (3, 3)
    output_size = 4

    def get_initial_state(self, batch_size=None):
        return [np.ones((batch_size, 3)), np.ones((batch_size, 3))]

    def call(self, inputs, states):
        a, b = states
        a = 0.5 * a + inputs[:, :3]
        b = 0.9 * b + a
        return np.concatenate([a - b, b[:, :1]], axis=-1), [a, b]


def sequential(*layers, shape=(None, 4), **options):
    return fastrnn.Sequential([fastrnn.Input(shape, **options), *layers])


def branches():
    x = fastrnn.Input((None, 4), name="x")
    a, b = L.LSTM(4, return_sequences=True)(x), L.Dense(4, activation="tanh")(x)
    merged = [layer([a, b]) for layer in (L.Add(), L.Subtract(), L.Multiply(), L.Average())]
    merged += [L.Maximum()([a, x]), L.Minimum()([b, x])]
    return fastrnn.Model(x, L.GRU(3)(L.Concatenate()(merged)))


def masked_branches():
    x = fastrnn.Input((None, 4), name="x")
    a = L.Masking()(x)
    b = L.Masking(mask_value=1.0)(x)
    merged = [L.Add()([a, b]), L.Multiply()([a, b]), L.Maximum()([a, b]), L.Minimum()([a, x])]
    return fastrnn.Model(x, L.LSTM(3, return_sequences=True)(L.Concatenate()(merged)))


def two_outputs():
    x = fastrnn.Input((None, 4), name="x")
    y = L.GRU(5, return_sequences=True)(x)
    return fastrnn.Model(x, {"each": L.Dense(2)(y), "last": L.Dense(3)(L.LSTM(4)(y))})


def operations():
    x = fastrnn.Input((None, 4), name="x")
    y = fastrnn.ops.tanh(L.LSTM(4, return_sequences=True)(x) * 2.0 + x)
    return fastrnn.Model(x, L.Dense(2)(y[:, -1]) - 1.0)


def states_out():
    x = fastrnn.Input((None, 4), name="x")
    y, h, c = L.LSTM(3, return_state=True, return_sequences=True)(x)
    return fastrnn.Model(x, [y, L.Concatenate()([h, c])])


def nested():
    inner = sequential(L.LSTM(3, return_sequences=True, name="lstm"), L.Dense(4))
    x = fastrnn.Input((None, 4), name="x")
    return fastrnn.Model(x, inner(inner(x)))


def repeated():
    """A decoder over the last output, which is all that is known as of now."""
    return sequential(L.LSTM(3), L.RepeatVector(4), L.Bidirectional(L.GRU(2)), L.Dense(2))


RECURRENT = {
    "rnn": lambda **options: L.SimpleRNN(5, **options),
    "lstm": lambda **options: L.LSTM(5, **options),
    "gru": lambda **options: L.GRU(5, **options),
    "gru reset before": lambda **options: L.GRU(5, reset_after=False, **options),
    "lstm elu": lambda **options: L.LSTM(5, activation="elu", **options),
    "gru own": lambda **options: L.GRU(5, activation=lambda x: np.tanh(x / 2), **options),
    "stack": lambda **options: L.RNN([L.LSTMCell(3), L.GRUCell(5)], **options),
    "own": lambda **options: L.RNN(DecayCell(), **options),
    "own stack": lambda **options: L.RNN([L.GRUCell(4), DecayCell()], **options),
}
MODELS = {
    **{name: lambda make=make: sequential(make()) for name, make in RECURRENT.items()},
    **{
        f"{name} sequences": lambda make=make: sequential(make(return_sequences=True), L.Dense(2))
        for name, make in RECURRENT.items()
    },
    "deep": lambda: sequential(
        L.LSTM(6, return_sequences=True),
        L.GRU(5, return_sequences=True),
        L.SimpleRNN(4),
        L.Dense(2),
    ),
    "wide": lambda: sequential(L.LSTM(70, return_sequences=True), L.LSTM(33)),
    "float64": lambda: sequential(L.LSTM(5, dtype="float64"), L.Dense(2, dtype="float64")),
    "float16": lambda: sequential(L.LSTM(5, dtype="mixed_float16"), L.Dense(2, dtype="float16")),
    "conv": lambda: sequential(L.Conv1D(3, 4, padding="causal", activation="relu"), L.LSTM(4)),
    "conv dilated": lambda: sequential(
        L.Conv1D(3, 2, padding="causal"),
        L.Conv1D(4, 3, padding="causal", dilation_rate=4, use_bias=False),
        L.Conv1D(2, 1),
    ),
    "conv groups": lambda: sequential(L.Conv1D(6, 3, padding="causal", groups=2)),
    "conv_lstm": lambda: sequential(L.ConvLSTM1D(2, 3, return_sequences=True), shape=(None, 5, 2)),
    "conv_lstm2d": lambda: sequential(L.ConvLSTM2D(2, 2), L.Flatten(), shape=(None, 4, 3, 2)),
    "time distributed": lambda: sequential(
        L.TimeDistributed(L.Conv2D(3, 2)),
        L.TimeDistributed(L.MaxPooling2D(2)),
        L.TimeDistributed(L.Flatten()),
        L.LSTM(3),
        shape=(None, 5, 4, 2),
    ),
    "embedding": lambda: sequential(
        L.Embedding(3, 4), L.LSTM(3), L.Dense(2), shape=(None,), dtype="int32"
    ),
    "normalization": lambda: sequential(
        L.BatchNormalization(),
        L.LayerNormalization(),
        L.RMSNormalization(),
        L.UnitNormalization(),
        L.Normalization(mean=0.5, variance=2.0),
        L.Rescaling([0.5, 1, 2, 3], 0.1),
        L.GRU(3, return_sequences=True),
        L.BatchNormalization(),
    ),
    "activations": lambda: sequential(
        L.Activation("softmax"),
        L.Activation(lambda x: x * 2),
        L.ReLU(),
        L.LeakyReLU(),
        L.ELU(),
        L.PReLU(shared_axes=[1]),
        L.Softmax(),
        L.Dense(4, activation="log_softmax"),
    ),
    "noise": lambda: sequential(
        L.Dropout(0.2), L.GaussianNoise(0.1), L.SpatialDropout1D(0.3), L.Identity(), L.LSTM(3)
    ),
    "einsum": lambda: sequential(L.EinsumDense("abc,cd->abd", (None, 3)), L.GRU(3)),
    "shapes": lambda: sequential(
        L.Reshape((-1, 2, 2)), L.Permute((1, 3, 2)), L.TimeDistributed(L.Flatten()), L.LSTM(3)
    ),
    "attention over the last output": lambda: sequential(L.LSTM(3), L.Dense(4), L.Reshape((2, 2))),
    "lambda": lambda: sequential(L.Lambda(lambda x: x[:, :, :2] * 3), L.LSTM(3)),
    "branches": branches,
    "two outputs": two_outputs,
    "operations": operations,
    "states out": states_out,
    "nested": nested,
    "repeated": repeated,
}
MASKED = {
    **{
        f"{name} {end}": lambda make=make, options=options: sequential(L.Masking(), make(**options))
        for name, make in RECURRENT.items()
        for end, options in {
            "last": {},
            "sequences": {"return_sequences": True},
            "zeros": {"return_sequences": True, "zero_output_for_mask": True},
            "last zeros": {"zero_output_for_mask": True},
        }.items()
    },
    "deep": lambda: sequential(
        L.Masking(),
        L.LSTM(6, return_sequences=True),
        L.GRU(5, return_sequences=True),
        L.SimpleRNN(4),
    ),
    "conv_lstm": lambda: sequential(
        L.TimeDistributed(L.Dense(2)),
        L.Lambda(lambda x: x, mask=lambda x, mask: np.abs(x).sum((2, 3)) > 0.5),
        L.ConvLSTM1D(2, 3, return_sequences=True),
        shape=(None, 5, 2),
    ),
    "embedding": lambda: sequential(
        L.Embedding(3, 4, mask_zero=True), L.LSTM(3), L.Dense(2), shape=(None,), dtype="int32"
    ),
    "time distributed": lambda: sequential(
        L.Masking(), L.TimeDistributed(L.Dense(3)), L.GRU(3, return_sequences=True)
    ),
    "branches": masked_branches,
}


def with_random_weights(model, rng):
    """The model with weights for which no number is a corner case."""
    signs = [rng.choice([-1, 1], w.shape) if w.ndim > 1 else 1 for w in model.weights]
    sizes = [rng.uniform(0.1, 0.6, w.shape) for w in model.weights]
    model.set_weights([sign * size for sign, size in zip(signs, sizes, strict=True)])
    return model


def inputs_for(model, batch, rng, steps=STEPS):
    (layer,) = model._inputs
    shape = (batch, steps, *layer.batch_shape[2:])
    if layer.input_dtype == "int32":
        return rng.integers(0, 3, shape).astype("int32")
    return rng.normal(size=shape).astype("float32")


def masked_inputs(model, pattern, rng):
    """A batch of five whose steps are masked by zeros (and, for the second Masking, ones)."""
    x = inputs_for(model, 5, rng)
    masked = {
        "right": np.arange(STEPS) >= rng.integers(1, STEPS, (5, 1)),
        "left": np.arange(STEPS) < rng.integers(1, STEPS, (5, 1)),
        "holes": rng.random((5, STEPS)) < 0.5,
        "all": np.ones((5, STEPS), bool),
        "none": np.zeros((5, STEPS), bool),
        "rows": np.repeat([[True], [False], [True], [False], [True]], STEPS, axis=1),
    }[pattern]
    x[masked] = 0
    if x.dtype == np.float32 and pattern == "holes":
        x[rng.random((5, STEPS)) < 0.2] = 1
    return x


def expected_outputs(model, x):
    """What the whole sequences up to every timestep give there, a flat list of (batch, steps, ...)."""
    parts = [flat(model(x[:, : t + 1])) for t in range(x.shape[1])]
    # Of the models here, those are sequences that have an axis of unknown size.
    timed = [shape[1:2] == (None,) for shape in flat(model.output_shape)]
    return [
        np.stack([part[i][:, -1] if time else part[i] for part in parts], axis=1)
        for i, time in enumerate(timed)
    ]


def flat(outputs):
    if isinstance(outputs, dict):
        return [outputs[key] for key in sorted(outputs)]
    return outputs if isinstance(outputs, list) else [outputs]


def assert_close(got, expected, float32=2e-6):
    """Within 2e-6 in float32 and 1e-12 in float64, of the largest number if that is above 1; shapes and dtypes too."""
    for a, b in zip(got, expected, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        tolerance = {"float64": 1e-12, "float32": float32, "float16": 2e-3}[b.dtype.name]
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1, np.abs(b).max()))


def assert_streams(model, x):
    expected = expected_outputs(model, x)
    stream = model.stream(batch_size=len(x))
    steps = [flat(stream.step(x[:, t])) for t in range(x.shape[1])]
    stepped = [np.stack(each, axis=1) for each in zip(*steps, strict=True)]
    assert_close(stepped, expected)
    final = stream.state

    stream.reset()
    parts = [flat(stream.feed(part)) for part in (x[:, :4], x[:, 4:5], x[:, 5:])]
    assert_close([np.concatenate(each, axis=1) for each in zip(*parts, strict=True)], stepped, 1e-6)
    assert_close(stream.state.values(), final.values())

    # One after the other, each alone and without a batch.
    alone = model.stream()
    for row in range(min(len(x), 2)):
        alone.reset()
        for t in range(x.shape[1]):
            got = flat(alone.step(x[row, t]))
            assert_close(got, [one[row, t] for one in expected])

    saved = model.stream(state=stream.save())
    more = x[:, ::-1]
    assert_close(flat(saved.feed(more)), flat(stream.feed(more)))


@pytest.mark.parametrize("name", MODELS)
def test_streams_give_what_the_whole_sequence_gives(name, rng):
    model = with_random_weights(MODELS[name](), rng)
    assert_streams(model, inputs_for(model, 3, rng))


@pytest.mark.parametrize("pattern", ["right", "left", "holes", "all", "none", "rows"])
@pytest.mark.parametrize("name", MASKED)
def test_streams_with_masks_give_what_the_whole_sequence_gives(name, pattern, rng):
    model = with_random_weights(MASKED[name](), rng)
    assert_streams(model, masked_inputs(model, pattern, rng))


def keras_model(*layers, shape=(None, 4), dtype="float32"):
    return keras.Sequential([keras.Input(shape, dtype=dtype), *layers])


K = keras.layers
KERAS_MODELS = {
    "stack": lambda: keras_model(
        K.LSTM(5, return_sequences=True),
        K.GRU(4, return_sequences=True),
        K.SimpleRNN(3),
        K.Dense(2),
    ),
    "conv": lambda: keras_model(
        K.Conv1D(4, 3, padding="causal", dilation_rate=2, activation="tanh"),
        K.BatchNormalization(),
        K.LSTM(5, return_sequences=True),
        K.TimeDistributed(K.Dense(2)),
    ),
    "masking": lambda: keras_model(K.Masking(), K.LSTM(4), K.Dense(2, activation="softmax")),
    "conv_lstm": lambda: keras_model(K.ConvLSTM1D(3, 2, return_sequences=True), shape=(None, 5, 2)),
    "embedding": lambda: keras_model(
        K.Embedding(7, 3),
        K.GRU(4, return_sequences=True),
        K.LayerNormalization(),
        shape=(None,),
        dtype="int32",
    ),
}


@pytest.mark.parametrize("name", KERAS_MODELS)
def test_streams_give_what_keras_gives(name, rng):
    theirs = KERAS_MODELS[name]()
    theirs.set_weights([rng.uniform(0.1, 0.5, w.shape) for w in theirs.get_weights()])
    model = fastrnn.from_keras(theirs)
    x = inputs_for(model, 2, rng)
    if name == "masking":
        x[0, 1:6:2] = x[1, 4:] = 0
    stream = model.stream(batch_size=2)
    for t in range(STEPS):
        expected = np.asarray(theirs(x[:, : t + 1]))
        expected = expected if theirs.output_shape[1:2] != (None,) else expected[:, -1]
        np.testing.assert_allclose(stream.step(x[:, t]), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("zero", [False, True])
def test_masked_steps_give_what_keras_gives(zero, rng):
    layer = keras.layers.GRU(3, return_sequences=True, zero_output_for_mask=zero)
    theirs = keras_model(keras.layers.Masking(), layer)
    stream = fastrnn.from_keras(theirs).stream(batch_size=4)
    x = rng.normal(size=(4, STEPS, 4)).astype("float32")
    mask = rng.random((4, STEPS)) < 0.5
    mask[0], mask[1, :4] = False, False
    x[~mask] = 0
    expected = as_on_tensorflow(np.asarray(theirs(x)), mask, layer)
    got = np.stack([stream.step(x[:, t]) for t in range(STEPS)], axis=1)
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6)


def test_a_stateful_model_streams_from_states_of_its_own(rng):
    model = fastrnn.Sequential(
        [fastrnn.Input(batch_shape=(2, None, 4)), L.LSTM(3, stateful=True, name="lstm"), L.Dense(2)]
    )
    x = rng.normal(size=(2, STEPS, 4)).astype("float32")
    expected = model(x)
    before = [state.copy() for state in model.states]
    stream = model.stream(batch_size=2)
    assert not any(state.any() for state in stream.state.values())
    np.testing.assert_allclose(stream.feed(x)[:, -1], expected, rtol=0, atol=2e-6)
    for ours, theirs in zip(model.states, before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_states_within_time_distributed_are_carried(rng):
    inner = L.LSTM(3, stateful=True, name="inner")
    model = fastrnn.Sequential(
        [fastrnn.Input(batch_shape=(2, None, 5, 4)), L.TimeDistributed(inner), L.Dense(2)]
    )
    x = rng.normal(size=(2, STEPS, 5, 4)).astype("float32")
    expected = model(x)
    stream = model.stream(batch_size=2)
    assert set(stream.state) == {"inner/h", "inner/c"}
    got = np.stack([stream.step(x[:, t]) for t in range(STEPS)], axis=1)
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", ["conv dilated", "masked", "masked last"])
def test_kernels_give_what_numpy_gives(name, rng):
    models = {
        "conv dilated": MODELS["conv dilated"],
        "masked": MASKED["lstm sequences"],
        "masked last": MASKED["gru last"],
    }
    model = with_random_weights(models[name](), rng)
    steps = streaming.steps_of(model, [])
    for form, time in ((steps.step, 1), (steps.chunk, 6)):
        x = inputs_for(model, 3, rng, time)
        x[rng.random((3, time)) < 0.5] = 0
        states = [rng.normal(size=(3, *state.shape)).astype("float32") for state in form.carried]
        assert form.plan.program is not None
        compiled, numpy = (form.plan.run([x, *states], compiled=flag) for flag in (True, False))
        assert_close(compiled, numpy)


# What is given at the start.


def decoder(attends=False):
    x, h = fastrnn.Input((None, 4), name="x"), fastrnn.Input((5,), name="h")
    memory = fastrnn.Input((None, 4), name="memory")
    context = L.Bidirectional(L.GRU(2, return_sequences=True))(memory)
    y = L.GRU(5, return_sequences=True, name="gru")(x, initial_state=L.Dense(5)(h))
    y = L.Concatenate()([L.Attention()([L.Dense(4)(y), context]), y])
    return fastrnn.Model([x, h, memory], L.LSTM(3)(L.Add()([L.Dense(5)(y), h])))


def test_inputs_of_an_encoder_are_given_at_the_start(rng):
    model = decoder()
    x, h, memory = (
        rng.normal(size=shape).astype("float32") for shape in [(2, STEPS, 4), (2, 5), (2, 6, 4)]
    )
    start = {"h": h, "memory": memory}
    expected = np.stack([model([x[:, : t + 1], h, memory]) for t in range(STEPS)], axis=1)
    stream = model.stream(start=start)
    assert stream.batch_size == 2
    got = np.stack([stream.step(x[:, t]) for t in range(STEPS)], axis=1)
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6)
    stream.reset()
    np.testing.assert_allclose(stream.feed(x), expected, rtol=0, atol=2e-6)
    resumed = model.stream(state=stream.save())
    np.testing.assert_array_equal(resumed.step(x[:, 0]), stream.step(x[:, 0]))
    resumed.reset()
    np.testing.assert_allclose(resumed.feed(x), expected, rtol=0, atol=2e-6)


def test_an_initial_state_that_is_streamed_is_refused_and_says_what_to_do(rng):
    x, h = fastrnn.Input((None, 4), name="x"), fastrnn.Input((5,), name="h")
    model = fastrnn.Model([x, h], L.GRU(5, name="gru")(x, initial_state=h))
    with pytest.raises(fastrnn.NotStreamableError, match=r"'gru' .* not given at the start"):
        model.stream()
    x, h = rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 5))
    got = model.stream(start={"h": h}).feed(x)[:, -1]
    np.testing.assert_allclose(got, model([x, h]), rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ({"other": np.zeros((1, 5))}, "'other'"),
        ({"h": np.zeros((1, 4)), "memory": np.zeros((1, 3, 4))}, "input 'h'"),
        (
            {"h": np.zeros((1, 5)), "memory": np.zeros((1, 3, 4)), "x": np.zeros((1, 2, 4))},
            "not given",
        ),
    ],
)
def test_a_start_that_does_not_fit_is_refused(start, message):
    with pytest.raises(ValueError, match=message):
        decoder().stream(start=start)


# What cannot run in a stream.


def function_over_time(x):
    return x - np.mean(x, axis=1, keepdims=True)


def merged(layer):
    def make():
        x = fastrnn.Input((6, 4), name="x")
        return fastrnn.Model(x, layer([x, L.Dense(4)(x)]))

    return make


def sequence_and_last():
    x = fastrnn.Input((6, 4), name="x")
    return fastrnn.Model(x, L.Add(name="refused")([x, L.LSTM(4)(x)]))


def state_of_another_sequence():
    x = fastrnn.Input((6, 4), name="x")
    _, h = L.GRU(4, return_state=True)(x)
    return fastrnn.Model(x, L.GRU(4, name="refused")(x, initial_state=h))


REFUSED = {
    "bidirectional": L.Bidirectional(L.LSTM(3), name="refused"),
    "go_backwards": L.LSTM(3, go_backwards=True, name="refused"),
    "pooling": L.MaxPooling1D(2, name="refused"),
    "average": L.AveragePooling1D(2, name="refused"),
    "global": L.GlobalMaxPooling1D(name="refused"),
    "global average": L.GlobalAveragePooling1D(name="refused"),
    "softmax": L.Softmax(axis=1, name="refused"),
    "function": L.Activation(function_over_time, name="refused"),
    "softmax of steps": L.Dense(
        4, activation=lambda x: np.exp(x) / np.exp(x).sum(1, keepdims=True), name="refused"
    ),
    "layer norm": L.LayerNormalization(axis=1, name="refused"),
    "layer norm of all": L.LayerNormalization(axis=[1, 2], name="refused"),
    "batch norm": L.BatchNormalization(axis=1, name="refused"),
    "group norm": L.GroupNormalization(2, name="refused"),
    "unit norm": L.UnitNormalization(axis=1, name="refused"),
    "flatten": L.Flatten(name="refused"),
    "reshape": L.Reshape((4, 6), name="refused"),
    "reshape of steps": L.Reshape((-1, 2), name="refused"),
    "permute": L.Permute((2, 1), name="refused"),
    "zero padding": L.ZeroPadding1D(1, name="refused"),
    "cropping": L.Cropping1D(1, name="refused"),
    "up": L.UpSampling1D(2, name="refused"),
    "conv": L.Conv1D(3, 2, name="refused"),
    "same": L.Conv1D(3, 3, padding="same", name="refused"),
    "strides": L.Conv1D(3, 2, strides=2, padding="causal", name="refused"),
    "channels first": L.Conv1D(3, 2, padding="valid", data_format="channels_first", name="refused"),
    "transposed": L.Conv1DTranspose(3, 2, name="refused"),
    "depthwise": L.DepthwiseConv1D(2, name="refused"),
    "separable": L.SeparableConv1D(3, 2, name="refused"),
    "prelu": L.PReLU(name="refused"),
    "rescaling": L.Rescaling(np.ones((6, 4)), name="refused"),
    "lambda": L.Lambda(function_over_time, name="refused"),
    "einsum": L.EinsumDense("abc,bd->adc", (3, 4), name="refused"),
    "concatenate": merged(L.Concatenate(axis=1, name="refused")),
    "dot": merged(L.Dot(axes=2, name="refused")),
    "attention": merged(L.Attention(name="refused")),
    "sequence and last": sequence_and_last,
    "state of another": state_of_another_sequence,
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_needs_other_timesteps_is_refused_by_name(name):
    given = REFUSED[name]
    layers = [fastrnn.Input((6, 4)), given]
    model = (
        given()
        if callable(given) and not isinstance(given, L.Layer)
        else fastrnn.Sequential(layers)
    )
    for make in (model.stream, lambda: model.stream_pool(3)):
        with pytest.raises(
            fastrnn.NotStreamableError, match=r"layer 'refused' \(\w+\) cannot run in a stream: "
        ):
            make()


def test_a_refusal_is_a_value_error_and_an_unsupported_layer():
    assert issubclass(fastrnn.NotStreamableError, ValueError)
    assert issubclass(fastrnn.NotStreamableError, fastrnn.UnsupportedLayerError)


def test_operations_over_time_are_refused_by_name():
    x = fastrnn.Input((None, 4), name="x")
    model = fastrnn.Model(x, fastrnn.ops.mean(x, axis=1))
    with pytest.raises(fastrnn.NotStreamableError, match=r"'mean\w*' \(Mean\)"):
        model.stream()


def test_a_model_without_time_is_refused():
    with pytest.raises(fastrnn.NotStreamableError, match="timesteps"):
        fastrnn.Sequential([fastrnn.Input((4,)), L.Dense(2)]).stream()
    with pytest.raises(ValueError, match="not built"):
        fastrnn.Sequential([L.LSTM(2)]).stream()


# Calls.


@pytest.fixture
def model(rng):
    return with_random_weights(sequential(L.LSTM(6, name="lstm"), L.Dense(2)), rng)


def test_shapes_of_steps(model, rng):
    x = rng.normal(size=(3, 4)).astype("float32")
    assert model.stream().step(x[0]).shape == (2,)
    assert model.stream().step(x[:1]).shape == (1, 2)
    assert model.stream(batch_size=3).step(x).shape == (3, 2)
    assert model.stream().feed(x[np.newaxis]).shape == (1, 3, 2)


@pytest.mark.parametrize("kind", ["list", "float64", "strided", "fortran", "read-only"])
def test_steps_take_numbers_of_every_form(kind, model, rng):
    x = rng.normal(size=(3, 4)).astype("float32")
    given = {
        "list": x.tolist(),
        "float64": x.astype("float64"),
        "strided": np.repeat(x, 2, axis=1)[:, ::2],
        "fortran": np.asfortranarray(x),
        "read-only": x.copy(),
    }[kind]
    if kind == "read-only":
        given.flags.writeable = False
    stream = model.stream(batch_size=3)
    np.testing.assert_array_equal(stream.step(given), model.stream(batch_size=3).step(x))


@pytest.mark.parametrize("name", ["fast", "in NumPy"])
def test_wrong_inputs_change_nothing(name, model, rng):
    if name == "in NumPy":
        model = sequential(L.RNN(DecayCell()), L.Dense(2))
    stream = model.stream(batch_size=3)
    stream.step(rng.normal(size=(3, 4)))
    before = stream.save()
    wrong = [np.zeros((2, 4)), np.zeros(4), np.zeros((3, 5)), np.zeros((3, 1, 4)), [], 1.0]
    for x in wrong:
        with pytest.raises(ValueError, match="expected"):
            stream.step(x)
    with pytest.raises(TypeError, match="real numbers"):
        stream.step([["a"] * 4] * 3)
    x = np.zeros((3, 4), "float32")
    outs = [np.zeros((3, 3), "float32"), np.zeros((3, 2)), np.zeros((2, 3), "float32").T, [0]]
    for out in outs:
        with pytest.raises(ValueError, match="`out`"):
            stream.step(x, out=out)
    for chunk in (x, np.zeros((2, 5, 4)), np.zeros((3, 0, 4))):
        with pytest.raises(ValueError, match="expected"):
            stream.feed(chunk)
    assert stream.save() == before


@pytest.mark.parametrize("name", ["fast", "in NumPy"])
def test_out_takes_the_output(name, model, rng):
    if name == "in NumPy":
        model = sequential(L.RNN(DecayCell()), L.Dense(2))
    x = rng.normal(size=(5, 3, 4)).astype("float32")
    stream, other = model.stream(batch_size=3), model.stream(batch_size=3)
    out = np.zeros((3, 2), "float32")
    for part in x:
        assert stream.step(part, out=out) is out
        np.testing.assert_allclose(out, other.step(part), rtol=0, atol=1e-6)
    assert stream.step(x[0].astype("float64"), out=out) is out
    row = np.zeros(2, "float32")
    assert model.stream().step(x[0, 0], out=row) is row
    np.testing.assert_allclose(row, model(x[:1, :1])[0], rtol=0, atol=1e-6)


def test_out_may_overlap_with_the_input(rng):
    model = sequential(L.LSTM(4, return_sequences=True), L.Dense(4))
    x = rng.normal(size=(2, 4)).astype("float32")
    expected = model.stream(batch_size=2).step(x)
    np.testing.assert_array_equal(model.stream(batch_size=2).step(x, out=x), expected)


def test_a_token_that_is_none_is_refused_and_changes_nothing():
    model = sequential(L.Embedding(3, 4, name="words"), L.LSTM(3), shape=(None,), dtype="int32")
    stream = model.stream()
    stream.step(np.array([1], "int32"))
    before = stream.save()
    for token in (3, -1):
        with pytest.raises(ValueError, match=r"'words'.*from 0 to 2"):
            stream.step(np.array([token], "int32"))
    assert stream.save() == before
    assert stream.step(2).shape == (3,)


def test_weights_that_change_later_change_no_stream(model, rng):
    x = rng.normal(size=(1, 4)).astype("float32")
    stream, expected = model.stream(), model.stream().step(x)
    model.set_weights([w * 0 for w in model.get_weights()])
    np.testing.assert_array_equal(stream.step(x), expected)
    assert not model.stream().step(x).any()


def test_several_inputs_are_a_list_or_a_dict(rng):
    a, b = fastrnn.Input((None, 2), name="a"), fastrnn.Input((None, 3), name="b")
    model = fastrnn.Model([a, b], L.GRU(4)(L.Concatenate()([a, b])))
    x = [rng.normal(size=(2, STEPS, n)).astype("float32") for n in (2, 3)]
    expected = model(x)
    stream = model.stream(batch_size=2)
    for t in range(STEPS):
        parts = [part[:, t] for part in x]
        got = stream.step(parts if t % 2 else dict(zip("ab", parts, strict=True)))
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6)
    stream.reset()
    np.testing.assert_allclose(stream.feed(x)[:, -1], expected, rtol=0, atol=2e-6)
    assert model.stream().step([x[0][0, 0], x[1][0, 0]]).shape == (4,)
    for wrong in (x[0][:, 0], [x[0][:, 0]], {"a": x[0][:, 0]}, [x[0][:, 0], x[1][:1, 0]]):
        with pytest.raises(ValueError, match="expected"):
            stream.step(wrong)


@pytest.mark.parametrize("batch", [1, 7, 300])
def test_large_batches_use_threads_and_tiles(batch, rng):
    model = with_random_weights(sequential(L.LSTM(64, return_sequences=True), L.GRU(33)), rng)
    x = rng.normal(size=(batch, 3, 4)).astype("float32")
    stream = model.stream(batch_size=batch)
    for t in range(3):
        got = stream.step(x[:, t])
    np.testing.assert_allclose(got, model(x), rtol=0, atol=5e-6)


@pytest.mark.slow
def test_steps_do_not_grow_memory(model):
    stream = model.stream()
    x, out = np.zeros(4, "float32"), np.zeros(2, "float32")
    for _ in range(100):
        stream.step(x, out=out)
        stream.step(x)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.take_snapshot()
        for _ in range(2000):
            stream.step(x, out=out)
        after = tracemalloc.take_snapshot()
        with_result = tracemalloc.get_traced_memory()[0]
        for _ in range(2000):
            stream.step(x)
        grown = tracemalloc.get_traced_memory()[0] - with_result
    finally:
        tracemalloc.stop()
    inside = [tracemalloc.Filter(True, "*fastrnn*"), tracemalloc.Filter(True, __file__)]
    changes = after.filter_traces(inside).compare_to(before.filter_traces(inside), "filename")
    assert sum(change.size_diff for change in changes) < 1000
    assert grown < 1000


@pytest.mark.slow
def test_threads_that_share_a_stream_are_told(rng):
    model = sequential(L.LSTM(512, return_sequences=True), L.LSTM(512))
    stream = model.stream(batch_size=64)
    x = rng.normal(size=(64, 4)).astype("float32")
    errors = []

    def run():
        for _ in range(1000):
            try:
                stream.step(x)
            except RuntimeError as error:
                errors.append(str(error))
            if errors:
                break

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors
    assert all("another thread" in error for error in errors)
    stream.step(x)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("units", [16, 64, 20])
@pytest.mark.parametrize("name", ["SimpleRNN", "LSTM", "GRU", "GRU reset before"])
def test_one_step_from_states_leaves_them_as_they_were(name, units, dtype, rng):
    options = {"reset_after": False} if "before" in name else {}
    layer = getattr(L, name.split()[0])(units, return_state=True, dtype=dtype, **options)
    layer.build((None, None, 3))
    x = rng.normal(size=(5, 1, 3)).astype(dtype)
    states = [rng.normal(size=(5, units)).astype(dtype) for _ in range(layer.n_states)]
    given = [state.copy() for state in states]
    mask = np.array([[True], [False], [True], [True], [False]])
    for options in ({}, {"mask": mask}):
        output, *final = layer(x, initial_state=given, **options)
        expected, stepped = layer.cell.recurrence()[0].step(x[:, 0], tuple(states))
        rows = mask[:, 0] if options else slice(None)
        np.testing.assert_allclose(output[rows], expected[rows], rtol=0, atol=2e-6)
        for got, new, old in zip(final, stepped, states, strict=True):
            np.testing.assert_allclose(got[rows], new[rows], rtol=0, atol=2e-6)
            if options:
                np.testing.assert_array_equal(got[~rows], old[~rows])
        for got, state in zip(given, states, strict=True):
            np.testing.assert_array_equal(got, state)


# States and snapshots.


def test_state_is_a_dict_of_named_copies(model, rng):
    stream = model.stream(batch_size=2)
    stream.step(rng.normal(size=(2, 4)))
    state = stream.state
    assert {name: array.shape for name, array in state.items()} == {
        "lstm/h": (2, 6),
        "lstm/c": (2, 6),
    }
    for array in state.values():
        array[:] = 7
    assert not any((array == 7).any() for array in stream.state.values())
    stream.state = state
    assert all((array == 7).all() for array in stream.state.values())
    resumed = model.stream(state=state)
    assert resumed.batch_size == 2
    stream.reset()
    assert not any(array.any() for array in stream.state.values())


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"lstm/h": np.zeros((2, 6))},
        {"lstm/h": np.zeros((2, 6)), "lstm/c": np.zeros((2, 5))},
        {"lstm/h": np.zeros((3, 6)), "lstm/c": np.zeros((3, 6))},
        {"lstm/h": np.zeros((2, 6)), "other/c": np.zeros((2, 6))},
        {"lstm/h": np.zeros((2, 6)), "lstm/c": np.zeros((2, 6)), "more": np.zeros((2, 6))},
    ],
)
def test_states_of_another_model_are_refused(state, model):
    stream = model.stream(batch_size=2)
    stream.step(np.ones((2, 4)))
    before = stream.save()
    with pytest.raises(ValueError, match="expected"):
        stream.state = state
    with pytest.raises(ValueError, match="expected"):
        model.stream(batch_size=2, state=state)
    assert stream.save() == before


def test_a_snapshot_knows_its_batch_size(model):
    saved = model.stream(batch_size=3).save()
    assert type(saved) is bytes
    assert model.stream(state=saved).batch_size == 3
    assert model.stream(batch_size=3, state=saved).batch_size == 3
    with pytest.raises(ValueError, match="one batch size"):
        model.stream(batch_size=2, state=saved)
    for wrong in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="batch_size"):
            model.stream(batch_size=wrong)


def test_a_snapshot_of_another_model_is_refused(model):
    saved = model.stream().save()
    others = [
        sequential(L.LSTM(5, name="lstm")),
        sequential(L.LSTM(6, name="other")),
        sequential(L.GRU(6, name="lstm")),
    ]
    for other in others:
        with pytest.raises(ValueError, match=r"the snapshot.*expected"):
            other.stream(state=saved)


@pytest.mark.slow
def test_a_stream_goes_on_in_another_process(tmp_path, rng):
    theirs = keras_model(
        keras.layers.Masking(), keras.layers.LSTM(5, return_sequences=True), keras.layers.GRU(3)
    )
    theirs.save(tmp_path / "model.keras")
    model = fastrnn.load_model(tmp_path / "model.keras")
    x = rng.normal(size=(2, 8, 4)).astype("float32")
    x[0, 3:6] = 0
    stream = model.stream(batch_size=2)
    stream.feed(x[:, :4])
    (tmp_path / "state").write_bytes(stream.save())
    np.save(tmp_path / "x.npy", x[:, 4:])
    script = (
        "import sys, numpy as np, fastrnn; from pathlib import Path; folder = Path(sys.argv[1]);"
        "stream = fastrnn.load_model(folder / 'model.keras').stream(state=(folder / 'state').read_bytes());"
        "x = np.load(folder / 'x.npy');"
        "np.save(folder / 'y.npy', np.stack([stream.step(x[:, t]) for t in range(4)], axis=1))"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, env=ENVIRONMENT)
    np.testing.assert_allclose(
        np.load(tmp_path / "y.npy"), stream.feed(x[:, 4:]), rtol=0, atol=1e-6
    )
    np.testing.assert_allclose(np.load(tmp_path / "y.npy")[:, -1], model(x), rtol=0, atol=2e-6)


ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}


def test_models_that_streamed_can_be_pickled(model, rng):
    x = rng.normal(size=(1, 4)).astype("float32")
    expected = model.stream().step(x)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).stream().step(x), expected)
