"""Padded batches beside the same batches without padding: ``python -m benchmarks.padding``.

A Masking layer finds the lengths, which are uniform over 1..T: half of the steps are valid, so twice as fast is all
that there is to gain.
"""

import os
from collections.abc import Iterator

import numpy as np

import fastrnn
from benchmarks import subject
from benchmarks.configurations import Configuration, single
from benchmarks.worker import time_calls

CONFIGURATIONS = (
    single("rnn", 32, 128, 32, 100),
    single("lstm", 13, 50, 32, 100),
    single("lstm", 64, 128, 32, 100),
    single("lstm", 64, 256, 64, 100),
    single("gru", 64, 128, 32, 100),
    single("gru", 40, 200, 256, 50),
)
ROUNDS = 5
SECONDS = 0.5
QUICK_SECONDS = 0.03


def padded(x: np.ndarray, seed: int = 2) -> np.ndarray:
    """A copy with zeros after each sequence's end, at lengths drawn from 1..T."""
    batch, timesteps, _ = x.shape
    lengths = np.random.default_rng(seed).integers(1, timesteps + 1, batch)
    return np.where(np.arange(timesteps)[:, np.newaxis] < lengths[:, np.newaxis, np.newaxis], x, 0)


def masked_model(configuration: Configuration) -> fastrnn.Sequential:
    """The configuration's layer behind a Masking layer."""
    (layer,) = configuration.layers
    kinds = fastrnn.layers
    kind = {"rnn": kinds.SimpleRNN, "lstm": kinds.LSTM, "gru": kinds.GRU}[layer.cell]
    recurrent = kind(layer.units, return_sequences=True)
    shape = configuration.input_shape
    model = fastrnn.Sequential([kinds.InputLayer(batch_shape=shape), kinds.Masking(), recurrent])
    recurrent.set_weights(configuration.parameters()[0])
    return model


def measure_one(configuration: Configuration, threads: int, seconds: float) -> subject.Result:
    """The shortest calls with and without padding, by turns, in microseconds."""
    fastrnn.set_num_threads(threads)
    model = masked_model(configuration)
    full = configuration.inputs()
    inputs = {"full": full, "padded": padded(full)}
    quickest = dict.fromkeys(inputs, np.inf)
    for _ in range(ROUNDS):
        for name, x in inputs.items():
            samples = time_calls(lambda x=x: model(x), seconds / ROUNDS, 1, seconds)
            quickest[name] = min(quickest[name], 1e6 * min(samples)[0])
    valid = float((inputs["padded"] != 0).any(-1).mean())
    return {"name": configuration.name, "threads": threads, "valid": valid, **quickest}


def measure(quick: bool) -> Iterator[subject.Result]:
    """Each configuration on one thread and on all."""
    for threads in sorted({1, len(os.sched_getaffinity(0))}):
        for configuration in CONFIGURATIONS:
            yield measure_one(configuration, threads, QUICK_SECONDS if quick else SECONDS)


def line(result: subject.Result) -> str:
    """A result as text."""
    return (
        f"{result['name']}, threads {result['threads']}: {result['full']:.0f} us full, {result['padded']:.0f} us "
        f"with {result['valid']:.0%} of its steps valid, x {result['full'] / result['padded']:.2f}"
    )


if __name__ == "__main__":
    subject.run("benchmarks.padding", __doc__, measure, line)
