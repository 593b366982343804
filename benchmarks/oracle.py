"""What a configuration's output should be: the mathematics in NumPy, in float64."""

import numpy as np

from benchmarks.configurations import Configuration, ConvLSTM, Dense, Embedding, Layer, Recurrent
from benchmarks.peers import directions
from fastrnn import reference

SEQUENCES = 8


def sample(batch: int) -> np.ndarray:
    """Numbers of at most 8 sequences of a batch, evenly spaced, the first and the last among them."""
    return np.unique(np.linspace(0, batch - 1, SEQUENCES).astype(int))


def expected(configuration: Configuration) -> np.ndarray:
    """Compute the output of the sequences of `sample` in float64, batch first."""
    y = configuration.inputs()[sample(configuration.batch)]
    if not configuration.of_indices:
        y = y.astype(np.float64)
    for layer, weights in zip(configuration.layers, configuration.parameters(), strict=True):
        y = _apply(layer, [weight.astype(np.float64) for weight in weights], y)
    return y


def error(y: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, as a part of the largest expected number."""
    return float(np.abs(y - expected).max() / np.abs(expected).max())


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _linear(x: np.ndarray) -> np.ndarray:
    return x


def _apply(layer: Layer, weights: list[np.ndarray], x: np.ndarray) -> np.ndarray:
    if isinstance(layer, Embedding):
        return weights[0][x]
    if isinstance(layer, Dense):
        return reference.dense(x, *weights, {"linear": _linear, "tanh": np.tanh}[layer.activation])
    if isinstance(layer, ConvLSTM):
        cell = reference.ConvLSTM(
            *weights, np.tanh, _sigmoid, strides=(1, 1), dilation=(1, 1), padding="same"
        )
        return reference.recurrence(cell, x, return_sequences=True)[0]
    parts = []
    for backwards, part in enumerate(directions(weights)):
        y, _ = reference.recurrence(
            _cell(layer, part),
            x,
            return_sequences=layer.return_sequences,
            go_backwards=bool(backwards),
        )
        parts.append(np.flip(y, 1) if backwards and layer.return_sequences else y)
    return np.concatenate(parts, axis=-1)


def _cell(layer: Recurrent, weights: list[np.ndarray]) -> reference.Cell:
    if layer.cell == "rnn":
        return reference.SimpleRNN(*weights, np.tanh)
    if layer.cell == "lstm":
        return reference.LSTM(*weights, np.tanh, _sigmoid)
    return reference.GRU(*weights, np.tanh, _sigmoid, reset_after=True)
