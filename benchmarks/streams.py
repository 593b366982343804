"""Streams: one step at a time, pools, and asyncio, against goals and ONNX Runtime: ``python -m benchmarks.streams``.

Every part is measured in a process of its own. ONNX Runtime gets its states from the caller, as it has no other way:
as arrays that the last step returned, or, for the one batch, as tensors that are bound once and swapped after every
step, which is its fastest.
"""

import asyncio
import gc
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks import subject
from benchmarks.bulk import MEBIBYTE, _status
from benchmarks.peers import ONNX_IR_VERSION, ONNX_OPSET, OnnxRuntime, onnx_weights

UNITS = 64
STREAMS = 10_000
ASYNC_STREAMS = 500
ASYNC_RATE = 5_000
"""Steps a second that all streams together ask for."""


def lstm(units: int, *above: Any) -> Any:
    """A model of one feature, with weights by a seed."""
    import fastrnn

    layers = fastrnn.layers
    recurrent = layers.LSTM(units)
    model = fastrnn.Sequential([fastrnn.Input((None, 1)), recurrent, *above])
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0, 0.2, weight.shape) for weight in model.weights])
    return model


def interleaved(calls: dict[str, Callable[[], object]], seconds: float) -> dict[str, list[float]]:
    """Seconds of calls that take turns."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(taken[next(iter(taken))]) < 5:
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - start)
    return taken


def step(quick: bool) -> Iterator[subject.Result]:
    """`stream.step` of LSTM 1->16 -> Dense 1: its latency, the tail of it, and memory."""
    import fastrnn

    fastrnn.set_num_threads(1)
    model = lstm(16, fastrnn.layers.Dense(1))
    stream, x, out = model.stream(), np.zeros(1, np.float32), np.zeros(1, np.float32)
    calls = 1000

    def many(**options: Any) -> None:
        for _ in range(calls):
            stream.step(x, **options)

    taken = interleaved({"": many, ", out=": lambda: many(out=out)}, 0.2 if quick else 3)
    for how, times in taken.items():
        yield {
            "name": f"stream.step{how}, LSTM 1->16 -> Dense 1",
            "microseconds": 1e6 * statistics.median(times) / calls,
            "goal": "<= 1.5 us",
        }
    count = 100_000 if quick else 1_000_000
    nanoseconds = np.full(count, -1)
    clock = time.perf_counter_ns
    gc.collect()
    before = _status("VmRSS")
    for i in range(count):
        start = clock()
        stream.step(x)
        nanoseconds[i] = clock() - start
    grown = _status("VmRSS") - before
    p50, p99, p999 = np.percentile(nanoseconds, [50, 99, 99.9])
    yield {
        "name": f"step latency over {count} steps, with the clock's own",
        "p50": p50 / 1e3,
        "p99": p99 / 1e3,
        "p99.9": p999 / 1e3,
        "ratio": p999 / p50,
        "grown": grown / MEBIBYTE,
        "goal": "p99.9 / p50 <= 3, no growth",
    }


def pool(quick: bool, threads: int) -> Iterator[subject.Result]:
    """A pool of LSTM-64 streams of 1 feature, all stepped, beside a plain batch of as many rows."""
    import fastrnn

    fastrnn.set_num_threads(threads)
    count = 1000 if quick else STREAMS
    rng = np.random.default_rng(0)
    model = lstm(UNITS)
    pool = model.stream_pool(count)
    ids = np.array([pool.open() for _ in range(count)])
    mixed = rng.permutation(ids)
    listed = mixed.tolist()
    batch = model.stream(batch_size=count)
    x = rng.normal(size=(count, 1)).astype(np.float32)
    layer = fastrnn.layers.LSTM(UNITS, return_state=True)
    layer.build((None, None, 1))
    layer.set_weights(model.get_weights())
    states = [np.zeros((count, UNITS), np.float32) for _ in range(2)]
    sequence = np.ascontiguousarray(x[:, np.newaxis])
    taken = interleaved(
        {
            "plain batch, stream.step": lambda: batch.step(x),
            "plain batch, layer(x, initial_state)": lambda: layer(sequence, initial_state=states),
            "pool.step, ids in order": lambda: pool.step(ids, x),
            "pool.step, ids mixed": lambda: pool.step(mixed, x),
            "pool.step, a list mixed": lambda: pool.step(listed, x),
        },
        0.2 if quick else 6,
    )
    medians = {name: statistics.median(times) for name, times in taken.items()}
    plain = min(seconds for name, seconds in medians.items() if name.startswith("plain"))
    for name, seconds in medians.items():
        yield {
            "name": f"{name}, {count} of LSTM 1->{UNITS}",
            "threads": threads,
            "milliseconds": 1e3 * seconds,
            "minimum": 1e3 * min(taken[name]),
            "of the plain batch": plain / seconds,
            "goal": ">= 0.85",
        }


def session(threads: int, weights: list[np.ndarray]) -> Any:
    """ONNX Runtime's session of one step, from x, h and c to the new h and c, of any batch."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    widths = {"x": 1, **dict.fromkeys(("h", "c", "h_next", "c_next"), UNITS)}
    values = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, "batch", width])
        for name, width in widths.items()
    }
    constants = [
        numpy_helper.from_array(array, name)
        for name, array in zip("wrb", onnx_weights("lstm", *weights), strict=True)
    ]
    inputs, outputs = ["x", "w", "r", "b", "", "h", "c"], ["", "h_next", "c_next"]
    graph = helper.make_graph(
        [helper.make_node("LSTM", inputs, outputs, hidden_size=UNITS)],
        "step",
        [values[name] for name in "xhc"],
        [values["h_next"], values["c_next"]],
        constants,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", ONNX_OPSET)], ir_version=ONNX_IR_VERSION
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def bound(made: Any, batch: int) -> Callable[[], None]:
    """What steps a batch whose tensors are bound once, with the states swapped after every step."""
    import onnxruntime

    def tensor(width: int) -> Any:
        return onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros((1, batch, width), np.float32))

    x, pairs = tensor(1), [[tensor(UNITS) for _ in range(2)] for _ in range(2)]
    bindings = []
    for before, after in (pairs, pairs[::-1]):
        binding = made.io_binding()
        binding.bind_ortvalue_input("x", x)
        for name, old, new in zip("hc", before, after, strict=True):
            binding.bind_ortvalue_input(name, old)
            binding.bind_ortvalue_output(f"{name}_next", new)
        bindings.append(binding)

    def step() -> None:
        made.run_with_iobinding(bindings[0])
        bindings.reverse()

    return step


def fed(made: Any, batch: int, count: int) -> Callable[[], None]:
    """What steps `count` batches one after the other, each fed the states that its last step returned."""
    x = np.zeros((1, batch, 1), np.float32)
    states = [[np.zeros((1, batch, UNITS), np.float32)] * 2 for _ in range(count)]

    def step() -> None:
        for i, (h, c) in enumerate(states):
            states[i] = made.run(None, {"x": x, "h": h, "c": c})

    return step


def onnx_runtime(quick: bool, threads: int) -> Iterator[subject.Result]:
    """The same by ONNX Runtime: one batch of all, and a call a stream."""
    if OnnxRuntime.missing():
        return
    count = 1000 if quick else STREAMS
    made = session(threads, lstm(UNITS).get_weights())
    calls = {
        "one batch, bound once": (bound(made, count), ">= 1.5"),
        "one batch": (fed(made, count, 1), ">= 1.5"),
        "one call a stream": (fed(made, 1, count), ">= 20"),
    }
    for name, (call, goal) in calls.items():
        taken = interleaved({"": call}, 0.2 if quick else 3)[""]
        yield {
            "name": f"ONNX Runtime, {name}, {count} of LSTM 1->{UNITS}",
            "threads": threads,
            "milliseconds": 1e3 * statistics.median(taken),
            "goal": goal,
        }


def coroutines(quick: bool) -> Iterator[subject.Result]:
    """Coroutines that submit steps of their streams at random times, as many as are offered."""
    pool = lstm(UNITS).stream_pool(ASYNC_STREAMS)
    seconds = 1 if quick else 10
    latencies: list[float] = []

    async def client(number: int, end: float) -> None:
        rng = np.random.default_rng(number)
        id, mean = pool.open(), ASYNC_STREAMS / ASYNC_RATE
        x = np.zeros(1, np.float32)
        due = time.perf_counter() + rng.random() * mean
        while due < end:
            await asyncio.sleep(due - time.perf_counter())
            start = time.perf_counter()
            await pool.submit(id, x)
            latencies.append(time.perf_counter() - start)
            due += rng.exponential(mean)

    async def main() -> float:
        start = time.perf_counter()
        async with pool:
            await asyncio.gather(*(client(i, start + seconds) for i in range(ASYNC_STREAMS)))
        return time.perf_counter() - start

    processor = time.process_time()
    wall = asyncio.run(main())
    processor = time.process_time() - processor
    p50, p99, p999 = np.percentile(latencies, [50, 99, 99.9])
    yield {
        "name": f"asyncio, {len(latencies) / wall:.0f} steps/s over {ASYNC_STREAMS} streams",
        "p50": 1e6 * p50,
        "p99": 1e6 * p99,
        "p99.9": 1e6 * p999,
        "busy": processor / wall,
        "goal": "p99 < 2000 us",
    }


def _send(connection: Any, part: Callable[..., Iterator[subject.Result]], arguments: Any) -> None:
    if part in (pool, onnx_runtime):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments[1]])
    connection.send(list(part(*arguments)))


def alone(part: Callable[..., Iterator[subject.Result]], *arguments: Any) -> list[subject.Result]:
    """The results of a part, from a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_send, args=(theirs, part, arguments))
    process.start()
    theirs.close()
    results = ours.recv()
    process.join()
    return results


def measure(quick: bool) -> Iterator[subject.Result]:
    """All lines; those of ONNX Runtime with how many times as fast the pool is."""
    yield from alone(step, quick)
    for threads in sorted({1, len(os.sched_getaffinity(0))}):
        ours = alone(pool, quick, threads)
        yield from ours
        mixed = next(result for result in ours if "ids mixed" in result["name"])
        for result in alone(onnx_runtime, quick, threads):
            times = result["milliseconds"] / mixed["milliseconds"]
            yield {**result, "the pool is faster by": times}
    yield from alone(coroutines, quick)


def line(result: subject.Result) -> str:
    """A result as text."""
    values = [
        f"{key} {value:.3g}" for key, value in result.items() if isinstance(value, (int, float))
    ]
    goal = f" (goal: {result['goal']})" if "goal" in result else ""
    return f"{result['name']}: {', '.join(values)}{goal}"


if __name__ == "__main__":
    subject.run("benchmarks.streams", __doc__, measure, line)
