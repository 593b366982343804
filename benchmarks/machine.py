"""What this machine can do at most, measured: ``python -m benchmarks.machine``.

`machine.c` holds the loops; a C compiler (CC, by default cc) turns them into a library for this CPU at each use.
"""

import argparse
import ctypes
import dataclasses
import json
import os
import re
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

SOURCE = Path(__file__).with_name("machine.c")
FLAGS = [
    *("-O3", "-march=native", "-mprefer-vector-width=512", "-ffp-contract=fast"),
    *("-ffinite-math-only", "-fno-math-errno", "-fno-signed-zeros", "-fno-trapping-math"),
    *("-Wno-psabi", "-shared", "-fPIC"),
]
SECONDS = 0.003
REPEATS = 60
CACHES = "/sys/devices/system/cpu/cpu{}/cache"
MEMORY = "memory"


@dataclasses.dataclass(frozen=True)
class Level:
    """A level of memory: its name, bytes for each thread if it is a cache, and bytes a second that one thread reads."""

    name: str
    size: int | None
    bandwidth: float


@dataclasses.dataclass(frozen=True)
class Machine:
    """What each of `threads` threads that run at once can do; `levels` from the smallest cache to memory."""

    threads: int
    flops: float
    levels: tuple[Level, ...]
    tanh: float
    """Seconds for one number."""
    sigmoid: float

    def level(self, size: float) -> Level:
        """The first level that `size` bytes fit in."""
        return next(one for one in self.levels if one.size is None or size <= one.size)

    def lines(self) -> list[str]:
        """What was measured, as text."""
        bandwidths = (f"{level.name} {level.bandwidth / 1e9:.0f}" for level in self.levels)
        return [
            f"{self.threads} thread{'s' * (self.threads > 1)}, each: {self.flops / 1e9:.0f} GFLOP/s, "
            f"reads {', '.join(bandwidths)} GB/s, "
            f"tanh {1e12 * self.tanh:.0f} ps, sigmoid {1e12 * self.sigmoid:.0f} ps"
        ]


def cache_sizes(cpus: Sequence[int]) -> dict[str, int]:
    """Bytes of data that each of `cpus` has of each of the first one's caches, by name, the nearest first.

    What several of them share is divided among them.
    """
    sizes = {}
    for cache in Path(CACHES.format(cpus[0])).glob("index*"):
        if (cache / "type").read_text().strip() != "Instruction":
            size, unit = re.fullmatch(
                r"(\d+)([KMG])", (cache / "size").read_text().strip()
            ).groups()
            sharing = _numbers((cache / "shared_cpu_list").read_text())
            name = f"L{(cache / 'level').read_text().strip()}"
            whole = int(size) << {"K": 10, "M": 20, "G": 30}[unit]
            sizes[name] = whole // len(sharing.intersection(cpus))
    return dict(sorted(sizes.items()))


def _numbers(ranges: str) -> set[int]:
    """The numbers of a list such as 0-3,8."""
    ends = [[int(end) for end in part.split("-")] for part in ranges.strip().split(",")]
    return {number for part in ends for number in range(part[0], part[-1] + 1)}


def compiled(source: Path = SOURCE) -> ctypes.CDLL:
    """Compile the loops and load them."""
    compiler = os.environ.get("CC", "cc").split()
    with tempfile.TemporaryDirectory() as directory:
        library = Path(directory) / "machine.so"
        subprocess.run([*compiler, *FLAGS, "-o", library, source], check=True)
        loops = ctypes.CDLL(str(library))
    for name in ("time_fma", "time_read", "time_sigmoid", "time_tanh"):
        getattr(loops, name).restype = ctypes.c_double
    loops.length_of_sums.restype = ctypes.c_long
    return loops


def aligned(count: int) -> np.ndarray:
    """Ones of float32, `count` of them, from an address that is a multiple of 64."""
    numbers = np.ones(count + 16, np.float32)
    start = -numbers.ctypes.data % 64 // 4
    return numbers[start : start + count]


def measure(threads: int) -> Machine:
    """Measure on the first `threads` CPUs that this process may use, all at once; the best of 60 times each."""
    loops = compiled()
    cpus = sorted(os.sched_getaffinity(0))[:threads]
    sizes = cache_sizes(cpus)
    flops = together(cpus, lambda: _fma(loops))
    # A quarter of each cache, which is read the fastest: what is larger shares it with other data and other programs.
    levels = [
        Level(name, size, together(cpus, lambda size=size: _read(loops, size // 4)))
        for name, size in sizes.items()
    ]
    beyond = 4 * max(sizes.values(), default=1 << 25)
    levels.append(Level(MEMORY, None, together(cpus, lambda: _read(loops, beyond))))
    tanh, sigmoid = (
        1 / together(cpus, lambda function=function: _activation(function))
        for function in (loops.time_tanh, loops.time_sigmoid)
    )
    return Machine(threads, flops, tuple(levels), tanh, sigmoid)


Probe = Callable[[], tuple[Callable[[int], float], float]]


def together(cpus: Sequence[int], probe: Probe) -> float:
    """The rate of each thread, one a CPU, when all run at once: the best of several times' slowest thread.

    `probe` gives a function that runs so many rounds and returns its seconds, and what a round does.
    """
    barrier = threading.Barrier(len(cpus))
    rates = np.zeros((len(cpus), REPEATS))

    def run(index: int) -> None:
        os.sched_setaffinity(0, {cpus[index]})
        rounds, amount = probe()
        count = 1
        while (seconds := rounds(count)) < SECONDS / 4:
            count *= 2
        count = max(1, round(count * SECONDS / seconds))
        for repeat in range(REPEATS):
            barrier.wait()
            rates[index, repeat] = amount * count / rounds(count)

    runners = [threading.Thread(target=run, args=(index,)) for index in range(len(cpus))]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join()
    return float(rates.min(axis=0).max())


def pointer(numbers: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(numbers.ctypes.data)


def _fma(loops: ctypes.CDLL) -> tuple[Callable[[int], float], float]:
    sums = aligned(loops.length_of_sums())
    sums[:] = np.linspace(0.25, 0.75, len(sums))
    return (lambda rounds: loops.time_fma(pointer(sums), ctypes.c_long(rounds))), 2 * len(sums)


def _read(loops: ctypes.CDLL, size: int) -> tuple[Callable[[int], float], float]:
    numbers, sums = aligned(size // 512 * 128), aligned(128)
    count = ctypes.c_long(len(numbers))
    return (
        lambda rounds: loops.time_read(
            pointer(numbers), pointer(sums), count, ctypes.c_long(rounds)
        )
    ), numbers.nbytes


def _activation(function) -> tuple[Callable[[int], float], float]:
    # Side by side in one page: addresses that are a multiple of 4096 apart would make loads wait for stores.
    numbers, results = np.split(aligned(1024), 2)
    numbers[:] = np.linspace(-4, 4, len(numbers))
    count = ctypes.c_long(len(numbers))
    return (
        lambda rounds: function(pointer(numbers), pointer(results), count, ctypes.c_long(rounds))
    ), len(numbers)


def main() -> None:
    """Measure one thread and all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.machine", description=__doc__)
    parser.add_argument("--json", metavar="FILE", type=Path)
    options = parser.parse_args()
    machines = [measure(threads) for threads in sorted({1, len(os.sched_getaffinity(0))})]
    for machine in machines:
        print(*machine.lines(), sep="\n")
    if options.json:
        options.json.write_text(json.dumps([dataclasses.asdict(one) for one in machines], indent=1))


if __name__ == "__main__":
    main()
