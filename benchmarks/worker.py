"""An engine in a process of its own, which builds models and times calls on request.

Engines disturb each other in one process: they bring OpenMP runtimes and thread pools of their
own, and after a call their threads go on spinning (ONNX Runtime's for tens of milliseconds). So
each lives alone, pinned to as many CPUs as it may use threads, and answers a request only when
its threads have gone to sleep; whoever asks takes turns.
"""

import contextlib
import math
import multiprocessing
import os
import time
import traceback
from itertools import repeat

import numpy as np

from benchmarks.configurations import Configuration
from benchmarks.oracle import sample
from benchmarks.peers import ENGINES, Prepared

# A sample is long against the 50 ns that reading the clock takes.
SAMPLE_SECONDS = 20e-6
WARM_UP_SECONDS = 2e-3
ANSWER_SECONDS = 900


class WorkerError(RuntimeError):
    """The engine failed, or did not answer in time."""


class Worker:
    """The process of one engine, held to `threads` threads.

    The constructor returns at once, so that engines can load side by side; `describe` waits.
    """

    def __init__(self, engine: str, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.engine = engine
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, engine, threads), daemon=True)
        self._process.start()
        theirs.close()

    def describe(self) -> str:
        """Name and version of the engine's packages."""
        return self._ask("describe")

    def prepare(self, configuration: Configuration) -> np.ndarray:
        """Build the model, which later requests time, and return its output for `oracle.sample`'s sequences."""
        return self._ask("prepare", configuration)

    def measure(self, seconds: float, calls: int, cap: float) -> list[tuple[float, int]]:
        """Time calls for at least `seconds` and at least `calls` calls, or one call if that takes `cap` seconds.

        Returns
        -------
        list of (seconds a call, number of calls), one a sample
        """
        return self._ask("measure", seconds, calls, cap)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
        self._connection.close()

    def _ask(self, *request):
        try:
            self._connection.send(request)
            if not self._connection.poll(ANSWER_SECONDS):
                raise WorkerError(f"{self.engine} gave no answer for {ANSWER_SECONDS} s")
            failure, answer = self._connection.recv()
        except (EOFError, OSError) as error:
            self._process.join()
            code = self._process.exitcode
            raise WorkerError(f"{self.engine} ended with exit code {code}") from error
        if failure:
            raise WorkerError(f"{self.engine} failed:\n{failure}")
        return answer


def _serve(connection, engine_name: str, threads: int) -> None:
    cpus = sorted(os.sched_getaffinity(0))[:threads]
    os.sched_setaffinity(0, cpus)
    try:
        handlers = _handlers(engine_name, threads)
    except Exception:
        connection.send((traceback.format_exc(), None))
        return
    with contextlib.suppress(EOFError):
        while True:
            name, *arguments = connection.recv()
            try:
                answer = None, handlers[name](*arguments)
            except Exception:
                answer = traceback.format_exc(), None
            _wait_for_sleeping_threads()
            connection.send(answer)


def _handlers(engine_name: str, threads: int):
    engine = ENGINES[engine_name](threads)
    prepared: Prepared | None = None

    def prepare(configuration: Configuration) -> np.ndarray:
        nonlocal prepared
        prepared = engine.prepare(configuration, configuration.parameters(), configuration.inputs())
        return np.array(prepared.to_numpy(prepared.call())[sample(configuration.batch)])

    def measure(seconds: float, calls: int, cap: float) -> list[tuple[float, int]]:
        return time_calls(prepared.call, seconds, calls, cap)

    return {"describe": engine.describe, "prepare": prepare, "measure": measure}


def _wait_for_sleeping_threads() -> None:
    busy = math.inf
    deadline = time.perf_counter() + 1
    while busy > 2e-4 and time.perf_counter() < deadline:
        start = time.process_time()
        time.sleep(5e-3)
        busy = time.process_time() - start


def time_calls(call, seconds: float, calls: int, cap: float) -> list[tuple[float, int]]:
    """Time `call` after a warm-up, as described at `Worker.measure`."""
    clock = time.perf_counter
    warm_up_end = clock() + WARM_UP_SECONDS
    quickest = math.inf
    while True:
        start = clock()
        call()
        end = clock()
        quickest = min(quickest, end - start)
        if end > warm_up_end:
            break
    if quickest >= cap:
        return [(quickest, 1)]
    size = max(1, round(SAMPLE_SECONDS / quickest))
    samples = []
    total = 0.0
    while total < seconds or (len(samples) * size < calls and total < cap):
        start = clock()
        for _ in repeat(None, size):
            call()
        elapsed = clock() - start
        samples.append((elapsed / size, size))
        total += elapsed
    return samples
