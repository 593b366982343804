"""The sunspot forecast that fastrnn ships: its record, its windows, its model and its picture.

The record is R's ``datasets::sunspots``: monthly mean relative sunspot numbers from January 1749 to
December 1983. The model reads twelve months and forecasts the next one; ``examples/sunspots``
trains it.
"""

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

import fastrnn

TIME_STEPS = 12
TRAIN_SHARE = 0.8

_DATA = resources.files("fastrnn") / "data"


@dataclass(frozen=True)
class Record:
    """The monthly record and the range that scales it to 0..1.

    Attributes
    ----------
    months : ndarray of datetime64[M], shape (months,)
    sunspots : ndarray of float32, shape (months,)
        Monthly mean relative sunspot number.
    """

    months: np.ndarray
    sunspots: np.ndarray

    def scale(self) -> np.ndarray:
        """Sunspot numbers as float32, shape (months,): 0 at the least, 1 at the greatest."""
        low, high = self._range()
        return (self.sunspots - low) / (high - low)

    def unscale(self, scaled: np.ndarray) -> np.ndarray:
        """Scaled values of any shape back as sunspot numbers."""
        low, high = self._range()
        return scaled * (high - low) + low

    def _range(self) -> tuple[np.float32, np.float32]:
        return self.sunspots.min(), self.sunspots.max()


@dataclass(frozen=True)
class Part:
    """A stretch of the record, cut into what the model reads and what it should forecast.

    Attributes
    ----------
    months : ndarray of datetime64[M], shape (windows,)
        The month that each window's forecast is for.
    inputs : ndarray of float32, shape (windows, time_steps, 1)
        Scaled to 0..1.
    targets : ndarray of float32, shape (windows,)
        Scaled to 0..1.
    """

    months: np.ndarray
    inputs: np.ndarray
    targets: np.ndarray

    def rmse(self, forecast: np.ndarray) -> float:
        """Root mean square error of a forecast of shape (windows,), on the 0..1 scale."""
        return float(np.sqrt(np.mean(np.square(forecast - self.targets, dtype=np.float64))))


def read_record() -> Record:
    """Read the monthly record that ships with the package."""
    with (_DATA / "sunspots-monthly.csv").open(encoding="ascii") as file:
        columns = [("month", "datetime64[M]"), ("sunspots", np.float32)]
        table = np.loadtxt(file, dtype=columns, delimiter=",", skiprows=1)
    return Record(table["month"], table["sunspots"])


def cut(months: np.ndarray, series: np.ndarray, time_steps: int = TIME_STEPS) -> Part:
    """Cut a series into windows that do not overlap; the value after a window is its target.

    Parameters
    ----------
    months : ndarray of datetime64[M], shape (months,)
    series : ndarray of float32, shape (months,)
    time_steps : int
        Months in a window.
    """
    after = np.arange(time_steps, len(series), time_steps)
    inputs = series[: len(after) * time_steps].reshape(len(after), time_steps, 1)
    return Part(months[after], inputs, series[after])


def train_and_test(record: Record) -> tuple[Part, Part]:
    """Cut the first 80% of the record, which the model was trained on, and the rest."""
    border = int(len(record.months) * TRAIN_SHARE)
    scaled = record.scale()
    train = cut(record.months[:border], scaled[:border])
    test = cut(record.months[border:], scaled[border:])
    return train, test


def load_model() -> fastrnn.Model:
    """Load the trained model that ships with the package."""
    with resources.as_file(_DATA / "sunspots.keras") as path:
        return fastrnn.load_model(path)


def median_seconds(call: Callable[[], object], budget: float = 0.5) -> float:
    """Median time of a call, in seconds, of as many calls as the budget of seconds allows."""
    call()
    times: list[float] = []
    end = time.perf_counter() + budget
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def draw(
    path: Path, record: Record, parts: tuple[Part, Part], forecasts: tuple[np.ndarray, np.ndarray]
) -> None:
    """Draw actual and forecast sunspot numbers, with a red line between train and test.

    The picture appears under its name only when it is complete.

    Parameters
    ----------
    path : Path
        Where to write; the suffix tells the format, PNG without one.
    record : Record
    parts : (Part, Part)
        Train and test.
    forecasts : (ndarray, ndarray)
        One of shape (windows,) for each part, on the 0..1 scale.

    Raises
    ------
    ImportError
        Without matplotlib.
    ValueError
        When matplotlib writes no such format.
    OSError
        When the file cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MultipleLocator

    years = [1970 + part.months.astype(float) / 12 for part in parts]
    actual_years = np.concatenate(years)
    actual = record.unscale(np.concatenate([part.targets for part in parts]))
    predicted = [record.unscale(forecast) for forecast in forecasts]
    border = (years[0][-1] + years[1][0]) / 2

    figure = Figure(figsize=(12, 5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.fill_between(actual_years, actual, color="0.9")
    axes.plot(actual_years, actual, color="0.35", linewidth=1.2, label="actual")
    for part_years, values, label in zip(years, predicted, ("predicted", None), strict=True):
        axes.plot(part_years, values, color="tab:blue", linewidth=1.8, label=label)
    axes.axvline(border, color="red", linewidth=1.5)
    for name, side, points in (("train", "right", -8), ("test", "left", 8)):
        axes.annotate(
            name,
            xy=(border, 0.98),
            xycoords=("data", "axes fraction"),
            xytext=(points, 0),
            textcoords="offset points",
            horizontalalignment=side,
            verticalalignment="top",
        )

    axes.set_title("January sunspot numbers, each predicted from the twelve months before it")
    axes.set_xlabel("year")
    axes.set_ylabel("relative sunspot number (monthly mean)")
    axes.set_xlim(actual_years[0] - 2, actual_years[-1] + 2)
    axes.set_ylim(top=1.12 * actual.max())
    axes.xaxis.set_major_locator(MultipleLocator(20))
    axes.xaxis.set_minor_locator(MultipleLocator(5))
    axes.set_axisbelow(True)
    axes.grid(axis="y", color="0.85", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", ncols=2, frameon=False)

    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        figure.savefig(partial, format=path.suffix[1:] or "png")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
