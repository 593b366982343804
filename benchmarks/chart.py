"""The chart of a comparison: ``python -m benchmarks.chart results.json chart.svg``.

`results.json` is what ``python -m benchmarks.compare --json`` wrote.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.compare import FRACTION, RATIO

COLORS = "tab:blue", "tab:orange"
ROW_INCHES = 0.22


def draw(rows: Sequence[dict], file: Path) -> None:
    """Write the chart: a line a configuration, how often its time goes into the best peer's, and the limit into it.

    Dots of a color are those of a number of threads. Rows without fastrnn or without a peer are left out.
    """
    from matplotlib.figure import Figure

    rated = [row for row in rows if row["ratio"] is not None]
    names = list(dict.fromkeys(row["name"] for row in rated))
    figure = Figure(figsize=(11, 1.2 + ROW_INCHES * len(names)), layout="constrained")
    ratios, fractions = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    threads = sorted({row["threads"] for row in rated})
    for count, color in zip(threads, COLORS, strict=False):
        own = [row for row in rated if row["threads"] == count]
        places = [names.index(row["name"]) for row in own]
        label = "1 thread" if count == 1 else f"{count} threads"
        ratios.plot([row["ratio"] for row in own], places, "o", color=color, label=label)
        fractions.plot([100 * row["fraction"] for row in own], places, "o", color=color)
    ratios.axvline(1, color="0.5", linewidth=1)
    ratios.set(xscale="log", xlabel=RATIO, yticks=range(len(names)), yticklabels=names)
    ratios.set_ylim(len(names) - 0.5, -0.5)
    ratios.xaxis.set_major_formatter("{x:g}")
    ratios.xaxis.set_minor_formatter("{x:g}")
    fractions.axvline(100, color="0.5", linewidth=1)
    fractions.set(xlabel=f"% {FRACTION}")
    fractions.set_xlim(left=0)
    for picture in (ratios, fractions):
        picture.grid(axis="y", color="0.9")
        picture.set_axisbelow(True)
    figure.legend(*ratios.get_legend_handles_labels(), loc="outside upper right", ncols=2)
    figure.savefig(file)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the results and write the chart."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chart", description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("chart", type=Path, help="its ending says the format: .svg, .png, .pdf")
    options = parser.parse_args(arguments)
    draw(json.loads(options.results.read_text())["rows"], options.chart)


if __name__ == "__main__":
    main()
