"""Streams: the same numbers as the whole sequence gives, and everything that can be done with their states."""

import gc
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
from fastrnn import snapshots
from tests.backends import as_on_tensorflow

STEPS = 9


class DecayCell:
    """A user's cell whose states start from ones, with an output of its own size."""

    state_size = [3, 3]
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
    ranks = [len(shape) for shape in shapes_of(model)]
    return [
        np.stack([part[i][:, -1] if time else part[i] for part in parts], axis=1)
        for i, time in enumerate(has_time(model, ranks))
    ]


def shapes_of(model):
    shape = model.output_shape
    return (
        shape
        if isinstance(shape, list)
        else list(shape.values())
        if isinstance(shape, dict)
        else [shape]
    )


def has_time(model, ranks):
    """Whether each output is a sequence: those of models here with an axis of unknown size."""
    return [shape[1:2] == (None,) for shape in shapes_of(model)]


def flat(outputs):
    if isinstance(outputs, dict):
        return [outputs[key] for key in sorted(outputs)]
    return outputs if isinstance(outputs, list) else [outputs]


def assert_close(got, expected):
    """Within 1e-6 in float32 and 1e-12 in float64, of the largest number if that is above 1; shapes and dtypes too."""
    for a, b in zip(got, expected, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        tolerance = {"float64": 1e-12, "float32": 2e-6, "float16": 2e-3}[b.dtype.name]
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
    assert_close([np.concatenate(each, axis=1) for each in zip(*parts, strict=True)], expected)
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
