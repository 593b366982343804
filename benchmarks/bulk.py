"""``predict`` over a million sequences: its memory and throughput: ``python -m benchmarks.bulk``.

The model is 12 x 1 -> SimpleRNN 2 -> Dense 1. Peers run the same model over and over on one batch that already is in
their own form, of the size that suits them best.
"""

import multiprocessing
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import subject
from benchmarks.configurations import Configuration, Dense, Recurrent
from benchmarks.peers import ENGINES, Fastrnn
from benchmarks.worker import Worker, WorkerError

ROWS = 1_000_000
QUICK_ROWS = 100_000
BATCHES = 1024, 16_384, 262_144
REPEATS = 5
MEBIBYTE = 1 << 20


def configuration(batch: int) -> Configuration:
    """The model, for a batch."""
    return Configuration((Recurrent("rnn", 2, return_sequences=False), Dense(1)), 1, batch, 12)


def _status(key: str) -> int:
    """Bytes that Linux tells of this process."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[key].split()[0]) << 10


def _predict(connection, rows: int, threads: int) -> None:
    import fastrnn

    fastrnn.set_num_threads(threads)
    one = configuration(1)
    layers = fastrnn.layers
    recurrent, dense = layers.SimpleRNN(2), layers.Dense(1)
    model = fastrnn.Sequential([layers.InputLayer(shape=(12, 1)), recurrent, dense])
    for layer, weights in zip((recurrent, dense), one.parameters(), strict=True):
        layer.set_weights(weights)
    x = np.random.default_rng(1).uniform(-1, 1, (rows, 12, 1)).astype(np.float32)
    model.predict(x[:100])
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    y = model.predict(x)
    above = max(0, _status("VmHWM") - before - y.nbytes)
    taken = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        model.predict(x)
        taken.append(time.perf_counter() - start)
    connection.send((above, rows / min(taken)))


def predict(rows: int, threads: int) -> subject.Result:
    """Memory above input and output in MiB, and sequences a second, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_predict, args=(theirs, rows, threads))
    process.start()
    theirs.close()
    above, rate = ours.recv()
    process.join()
    return {
        "name": f"{Fastrnn.name} predict",
        "threads": threads,
        "rate": rate,
        "memory": above / MEBIBYTE,
    }


def peer(engine: str, threads: int, seconds: float) -> subject.Result:
    """Sequences a second at the best of several batches."""
    worker = Worker(engine, threads)
    rates = {}
    try:
        for batch in BATCHES:
            worker.prepare(configuration(batch))
            rates[batch] = batch / min(worker.measure(seconds, 3, 10 * seconds))[0]
    finally:
        worker.close()
    batch = max(rates, key=rates.get)
    return {"name": engine, "threads": threads, "rate": rates[batch], "batch": batch}


def measure(quick: bool) -> Iterator[subject.Result]:
    """fastrnn and the installed peers, on one thread and on all."""
    for threads in sorted({1, len(os.sched_getaffinity(0))}):
        yield predict(QUICK_ROWS if quick else ROWS, threads)
        for name, engine in ENGINES.items():
            if name != Fastrnn.name and not engine.reduced and not engine.missing():
                try:
                    yield peer(name, threads, 0.03 if quick else 0.3)
                except WorkerError as error:
                    print(error)


def line(result: subject.Result) -> str:
    """A result as text."""
    how = (
        f"batches of {result['batch']}"
        if "batch" in result
        else f"{result['memory']:.0f} MiB above input and output"
    )
    rate = f"{result['rate'] / 1e6:.2f} million sequences a second"
    return f"{result['name']}, threads {result['threads']}: {rate}, {how}"


if __name__ == "__main__":
    subject.run("benchmarks.bulk", __doc__, measure, line)
