"""How the time of a call grows with timesteps, batch and units: ``python -m benchmarks.growth``.

Prints fastrnn, ONNX Runtime and the machine's limit, and writes growth.json and a chart, growth.svg or growth.png.
"""

import argparse
import dataclasses
import itertools
import json
import math
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks import compare, machine, oracle
from benchmarks.configurations import GATES, Configuration, Recurrent, single
from benchmarks.limits import FLOAT, limit
from benchmarks.machine import Machine
from benchmarks.worker import Worker

BASE = {"cell": "lstm", "features": 64, "units": 128, "batch": 1, "timesteps": 100}
AXES = {
    "timesteps": (10, 30, 100, 300, 1000, 3000, 10_000),
    "batch": (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096),
    "units": (8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1448, 2048),
}
ENGINES = "fastrnn", "ONNX Runtime"
COLORS = {"fastrnn": "tab:red", "ONNX Runtime": "tab:blue", "limit": "0.6"}


@dataclasses.dataclass(frozen=True)
class Point:
    """The row of one size of an axis."""

    axis: str
    size: int
    row: compare.Row

    def microseconds(self, what: str) -> float | None:
        """The median of an engine, or the machine's limit."""
        if what == "limit":
            return self.row.limit
        timing = self.row.timings.get(what)
        return timing and timing.median


def configurations(axis: str) -> dict[int, Configuration]:
    """The base configuration at each size of an axis."""
    return {size: single(**{**BASE, axis: size}) for size in AXES[axis]}


def weight_bytes(configuration: Configuration) -> int:
    """Bytes of the recurrent weights that every step reads."""
    (layer,) = configuration.layers
    assert isinstance(layer, Recurrent)
    return FLOAT * GATES[layer.cell] * layer.units**2


def sequence_bytes(configuration: Configuration) -> int:
    """Bytes of the input and the output that every call goes through."""
    rows = configuration.batch * configuration.timesteps
    return FLOAT * rows * (configuration.features + configuration.layers[-1].width)


# What grows with an axis until a cache cannot hold it, its bytes, and the power of the size that these grow with.
GROWING = {
    "timesteps": ("input and output", sequence_bytes, 1),
    "batch": ("input and output", sequence_bytes, 1),
    "units": ("recurrent weights", weight_bytes, 2),
}


def exponents(points: Sequence[Point], what: str) -> list[float]:
    """The power of its size that a time grows with, from each point of an axis to the next: 1 is linear."""
    times = [(point.size, point.microseconds(what)) for point in points]
    return [
        math.log(after / before) / math.log(larger / size)
        for (size, before), (larger, after) in itertools.pairwise(times)
    ]


def edges(points: Sequence[Point], limits: Machine) -> dict[str, float]:
    """The size of an axis from which what grows with it no longer fits a cache, by the cache's name."""
    first = points[0]
    _, grown_bytes, power = GROWING[first.axis]
    unit = grown_bytes(first.row.configuration) / first.size**power
    return {
        level.name: (level.size * limits.threads / unit) ** (1 / power)
        for level in limits.levels
        if level.size is not None
    }


def measure(axes: Sequence[str], limits: Machine, budget: compare.Budget) -> list[Point]:
    """Time the engines at each size, and print as it comes."""
    points = []
    with ExitStack() as stack:
        workers = [Worker(engine, limits.threads) for engine in ENGINES]
        for worker in workers:
            stack.callback(worker.close)
        for axis in axes:
            print(
                f"{axis:>10}  {'fastrnn us':>12}  {'peer us':>12}  {'limit us':>12}  ratio  of limit"
            )
            for size, configuration in configurations(axis).items():
                row = compare.measure_row(
                    workers,
                    configuration,
                    limits.threads,
                    budget,
                    oracle.expected(configuration),
                    limit(configuration, limits),
                )
                points.append(Point(axis, size, row))
                print(_line(points[-1]), *row.failures.values(), flush=True)
    return points


def _line(point: Point) -> str:
    times = (point.microseconds(what) for what in (*ENGINES, "limit"))
    texts = ("-" if time is None else f"{time:.1f}" for time in times)
    ratio, fraction = point.row.ratio(), point.row.fraction()
    return (
        f"{point.size:>10}  {'  '.join(text.rjust(12) for text in texts)}  "
        f"{'-' if ratio is None else format(ratio, '5.2f')}  {'-' if fraction is None else format(fraction, '8.0%')}"
    )


def draw(points: Sequence[Point], limits: Machine, file: Path) -> None:
    """Write the chart: an axis a picture, times on logarithmic scales, caches marked where weights outgrow them."""
    from matplotlib.figure import Figure

    axes = list(dict.fromkeys(point.axis for point in points))
    figure = Figure(figsize=(4.5 * len(axes), 4), layout="constrained")
    for picture, axis in zip(figure.subplots(1, len(axes), squeeze=False)[0], axes, strict=True):
        own = [point for point in points if point.axis == axis]
        for what, color in COLORS.items():
            known = [point for point in own if point.microseconds(what) is not None]
            picture.plot(
                [point.size for point in known],
                [point.microseconds(what) for point in known],
                color=color,
                marker="." if what in ENGINES else None,
                label=what,
            )
        picture.set(xscale="log", yscale="log", title=_title(axis))
        picture.set_xlabel(f"{axis} (dotted: {GROWING[axis][0]} fill a cache)")
        for name, size in edges(own, limits).items():
            if AXES[axis][0] <= size <= AXES[axis][-1]:
                picture.axvline(size, color="0.8", linestyle=":")
                picture.annotate(
                    name, (size, 1), xycoords=("data", "axes fraction"), ha="right", va="top"
                )
    figure.axes[0].set_ylabel("microseconds a call")
    figure.axes[0].legend(frameon=False)
    figure.savefig(file)


def _title(axis: str) -> str:
    parts = {name: "..." if name == axis else value for name, value in BASE.items()}
    return "{cell} {features}->{units}, {batch}, {timesteps}".format(**parts)


def report(points: Sequence[Point], limits: Machine) -> dict:
    """Everything measured, as JSON takes it; times in microseconds."""
    return {
        "system": compare.system(),
        "machine": dataclasses.asdict(limits),
        "base": BASE,
        "points": [
            {
                "axis": point.axis,
                "size": point.size,
                "limit": point.row.limit,
                "ratio": point.row.ratio(),
                "fraction": point.row.fraction(),
                "timings": {
                    name: dataclasses.asdict(one) for name, one in point.row.timings.items()
                },
            }
            for point in points
        ],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write what was measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--only", choices=list(AXES), help="one axis")
    parser.add_argument("--threads", type=int, default=1, help="by default 1")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--json", metavar="FILE", type=Path, default=Path("growth.json"))
    parser.add_argument("--chart", metavar="FILE", type=Path, default=Path("growth.svg"))
    options = parser.parse_args(arguments)
    if not 1 <= options.threads <= len(os.sched_getaffinity(0)):
        parser.error(f"expected from 1 to {len(os.sched_getaffinity(0))} threads")

    limits = machine.measure(options.threads)
    print("\n".join(limits.lines()))
    axes = [options.only] if options.only else list(AXES)
    points = measure(axes, limits, compare.QUICK if options.quick else compare.FULL)
    for axis in axes:
        own = [point for point in points if point.axis == axis]
        for engine in ENGINES:
            if all(point.microseconds(engine) for point in own):
                steps = " ".join(f"{power:.2f}" for power in exponents(own, engine))
                print(f"{engine} grows with {axis} to the power of {steps}")
        ends = (f"{name} at {size:.0f} {axis}" for name, size in edges(own, limits).items())
        print(f"{GROWING[axis][0]} outgrow {', '.join(ends)}")
    options.json.write_text(json.dumps(report(points, limits), indent=1) + "\n")
    draw(points, limits, options.chart)


if __name__ == "__main__":
    main()
