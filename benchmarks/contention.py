"""Calls while other processes or threads want the CPUs too: ``python -m benchmarks.contention``.

The mean of each case is beside that of calls on one thread of a machine that does nothing else, times the number of
callers a CPU if there are more callers than CPUs. One busy process a CPU makes a call twice as long, whatever the
engine does; waiting for threads that do not run is what adds to it.
"""

import contextlib
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import fastrnn
from benchmarks import subject
from benchmarks.configurations import Configuration, single
from benchmarks.peers import Fastrnn

CONFIGURATIONS = (
    single("lstm", 64, 128, 1, 100),
    single("lstm", 256, 512, 1, 20),
    single("gru", 64, 128, 32, 100),
)
SECONDS = 5.0
QUICK_SECONDS = 0.3

Call = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """Threads of Python that call at once, each with a model of its own or all with one, beside busy processes.

    With `alone` each call takes one thread; otherwise as many as fastrnn chooses.
    """

    name: str
    callers: int = 1
    own_models: bool = False
    processes: int = 0
    alone: bool = False


def cases(cpus: int) -> list[Case]:
    """The cases to compare with calls on one thread."""
    return [
        Case("nothing else"),
        Case("busy processes, one thread", processes=cpus, alone=True),
        Case("busy processes", processes=cpus),
        Case("callers", callers=cpus),
        Case("callers of models of their own", callers=cpus, own_models=True),
        Case("four callers a CPU", callers=4 * cpus),
        Case("four callers a CPU of models of their own", callers=4 * cpus, own_models=True),
    ]


def durations(call: Call, seconds: float) -> list[float]:
    """Seconds of each call, one after the other, for at least `seconds`."""
    call()
    taken = []
    start = before = time.perf_counter()
    while not taken or before < start + seconds:
        call()
        now = time.perf_counter()
        taken.append(now - before)
        before = now
    return taken


def durations_of_threads(calls: Sequence[Call], seconds: float) -> list[float]:
    """Seconds of the calls of as many threads of Python, all at once."""
    taken: list[float] = []
    together = threading.Barrier(len(calls))

    def run(call: Call) -> None:
        together.wait()
        taken.extend(durations(call, seconds))

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return taken


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Keep `count` processes computing meanwhile."""
    busy = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(busy) for _ in range(count)]
    try:
        time.sleep(0.2)
        yield
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


def summary(taken: Sequence[float]) -> dict[str, float]:
    """Mean, median, 99th percentile and longest of calls, in microseconds."""
    ordered = sorted(1e6 * seconds for seconds in taken)
    return {
        "mean": statistics.fmean(ordered),
        "median": statistics.median(ordered),
        "p99": ordered[int(0.99 * (len(ordered) - 1))],
        "longest": ordered[-1],
    }


def measure_one(configuration: Configuration, seconds: float) -> Iterator[subject.Result]:
    """The calls of a model in each case."""
    cpus = len(os.sched_getaffinity(0))
    engine = Fastrnn(cpus)
    calls = [
        engine.prepare(configuration, configuration.parameters(), configuration.inputs()).call
        for _ in range(4 * cpus)
    ]
    fastrnn.set_num_threads(1)
    quiet = summary(durations(calls[0], seconds))
    yield {"name": configuration.name, "case": "one thread", "ratio": 1.0, **quiet}
    for case in cases(cpus):
        fastrnn.set_num_threads(1 if case.alone else cpus)
        called = calls[: case.callers] if case.own_models else case.callers * calls[:1]
        with busy_processes(case.processes):
            taken = summary(durations_of_threads(called, seconds))
        ratio = taken["mean"] / quiet["mean"] / max(1, case.callers / cpus)
        yield {"name": configuration.name, "case": case.name, "ratio": ratio, **taken}


def measure(quick: bool) -> Iterator[subject.Result]:
    """The calls of each model in each case."""
    for configuration in CONFIGURATIONS:
        yield from measure_one(configuration, QUICK_SECONDS if quick else SECONDS)


def line(result: subject.Result) -> str:
    """A result as text."""
    times = ", ".join(f"{name} {result[name]:.0f}" for name in ("median", "p99", "longest"))
    return (
        f"{result['name']}, {result['case']}: mean call {result['mean']:.0f} us, "
        f"x {result['ratio']:.2f} ({times})"
    )


if __name__ == "__main__":
    subject.run("benchmarks.contention", __doc__, measure, line)
