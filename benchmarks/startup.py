"""Whole processes that import fastrnn and load a small model: ``python -m benchmarks.startup``.

They are beside processes that only import NumPy and scipy.linalg, and take turns with them. A model in a file needs
h5py, since every file that Keras writes keeps weights as HDF5; one that is made in Python does not.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import subject

MODEL = Path(__file__).parents[1] / "fastrnn" / "data" / "sunspots.keras"
PROGRAMS = {
    "nothing": "pass",
    "numpy and scipy.linalg": "import numpy, scipy.linalg",
    "fastrnn": "import fastrnn",
    "fastrnn and a model made in Python": """
from fastrnn import Input, Sequential
from fastrnn.layers import LSTM, Dense
Sequential([Input((12, 1)), LSTM(8), Dense(1)])
""",
    "fastrnn and a .keras file": "import sys, fastrnn; fastrnn.load_model(sys.argv[1])",
}
BASE = "numpy and scipy.linalg"
ROUNDS = 20
QUICK_ROUNDS = 3


def seconds(program: str, model: Path) -> float:
    """How long a process takes for `program`, with Python's files compiled, as an installation has them."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", program, model], env=environment, check=True)
    return time.perf_counter() - start


def measure(quick: bool) -> Iterator[subject.Result]:
    """Median and shortest milliseconds of each program."""
    taken: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    # The first round fills the caches of files and of compiled Python.
    for turn in range(1 + (QUICK_ROUNDS if quick else ROUNDS)):
        for name, program in PROGRAMS.items():
            once = seconds(program, MODEL)
            if turn:
                taken[name].append(1e3 * once)
    base = statistics.median(taken[BASE]), min(taken[BASE])
    for name, milliseconds in taken.items():
        median, minimum = statistics.median(milliseconds), min(milliseconds)
        yield {
            "name": name,
            "median": median,
            "minimum": minimum,
            "ratio": median / base[0],
            "minimum_ratio": minimum / base[1],
        }


def line(result: subject.Result) -> str:
    """A result as text."""
    return (
        f"{result['name']}: {result['median']:.0f} ms ({result['minimum']:.0f}), "
        f"x {result['ratio']:.2f} ({result['minimum_ratio']:.2f})"
    )


if __name__ == "__main__":
    subject.run("benchmarks.startup", __doc__, measure, line)
