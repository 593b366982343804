"""Mean calls while other processes or threads want the CPUs too: ``python -m benchmarks.contention``.

Each is beside the mean call on one thread of a machine that does nothing else. One busy process a CPU makes a call
twice as long, whatever the engine does; waiting for threads that do not run is what adds to it.
"""

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

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


def mean_call(call: Callable[[], object], seconds: float) -> float:
    """Mean seconds of a call over at least `seconds`."""
    call()
    start = time.perf_counter()
    end = start + seconds
    calls = 0
    while (now := time.perf_counter()) < end:
        call()
        calls += 1
    return (time.perf_counter() - start) / calls if calls else now - start


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


def mean_call_of_threads(call: Callable[[], object], count: int, seconds: float) -> float:
    """Mean seconds of a call when `count` threads of Python call at once."""
    means: list[float] = []
    threads = [
        threading.Thread(target=lambda: means.append(mean_call(call, seconds)))
        for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(means) / count


def measure_one(configuration: Configuration, seconds: float) -> subject.Result:
    """The mean calls of a model, in microseconds."""
    cpus = len(os.sched_getaffinity(0))
    call = (
        Fastrnn(cpus)
        .prepare(configuration, configuration.parameters(), configuration.inputs())
        .call
    )
    means = {}
    fastrnn.set_num_threads(1)
    means["quiet, one thread"] = mean_call(call, seconds)
    fastrnn.set_num_threads(cpus)
    means["quiet"] = mean_call(call, seconds)
    with busy_processes(cpus):
        means["busy"] = mean_call(call, seconds)
    means["callers"] = mean_call_of_threads(call, cpus, seconds)
    microseconds = {name: 1e6 * mean for name, mean in means.items()}
    return {"name": configuration.name, "cpus": cpus, **microseconds}


def measure(quick: bool) -> Iterator[subject.Result]:
    """The mean calls of each model."""
    for configuration in CONFIGURATIONS:
        yield measure_one(configuration, QUICK_SECONDS if quick else SECONDS)


def line(result: subject.Result) -> str:
    """A result as text."""
    base, cpus = result["quiet, one thread"], result["cpus"]
    return (
        f"{result['name']}: mean call {base:.0f} us on one thread; with {cpus} threads "
        f"x {result['quiet'] / base:.2f}, beside {cpus} busy processes x {result['busy'] / base:.2f}, "
        f"from {cpus} threads of Python at once x {result['callers'] / base:.2f}"
    )


if __name__ == "__main__":
    subject.run("benchmarks.contention", __doc__, measure, line)
