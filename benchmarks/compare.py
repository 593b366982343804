"""Times fastrnn and its peers side by side: ``python -m benchmarks.compare --help``."""

import argparse
import dataclasses
import json
import os
import platform
import re
import shlex
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from benchmarks import machine, oracle
from benchmarks.configurations import DESIGN, MODELS, Configuration
from benchmarks.draw import DRAWN
from benchmarks.limits import limit
from benchmarks.machine import Machine
from benchmarks.peers import ENGINES, Fastrnn
from benchmarks.worker import Worker, WorkerError

TOLERANCE = 1e-5
REDUCED_TOLERANCE = 0.05
START, END = "<!-- bench:start -->", "<!-- bench:end -->"
RATIO = "best peer / fastrnn"
FRACTION = "of the limit"
ERROR = "error (peers')"
ROWS = {"design": DESIGN, "models": MODELS, "draw": DRAWN}
REDUCED = {name for name, engine in ENGINES.items() if engine.reduced}
# What the start of a run expects of a peer: seconds to build a model, and its time over the machine's limit.
BUILD_SECONDS = 1.5
TIMES_LIMIT = 4


@dataclasses.dataclass(frozen=True)
class Budget:
    """What an engine gets for a row: at least so many seconds and calls, spread over rounds.

    After `cap` seconds it has had enough, even if it had a single call.
    """

    seconds: float
    calls: int
    rounds: int
    cap: float

    def expected_seconds(self, call: float) -> float:
        """How long an engine takes for a row if a call takes `call` seconds, without building its model."""
        timed = max(call, self.seconds, min(self.cap, self.calls * call))
        # The first output and a warm-up a round.
        return timed + call * (
            1 + min(self.rounds, max(1, self.cap // call) if call else self.rounds)
        )


FULL = Budget(seconds=0.3, calls=20, rounds=5, cap=3)
QUICK = Budget(seconds=0.04, calls=4, rounds=2, cap=0.5)


@dataclasses.dataclass(frozen=True)
class Timing:
    """Times of a call in microseconds, and the largest error as a part of the largest output."""

    median: float
    minimum: float
    calls: int
    error: float


@dataclasses.dataclass(frozen=True)
class Row:
    """What the engines took for one configuration and number of threads; `limit` is the machine's, in microseconds."""

    configuration: Configuration
    threads: int
    timings: dict[str, Timing]
    failures: dict[str, str]
    limit: float

    @property
    def peers(self) -> list[str]:
        """The engines that fastrnn is compared with: those in float32."""
        return [name for name in self.timings if name != Fastrnn.name and name not in REDUCED]

    def best_peer(self, statistic: str = "median") -> str | None:
        """The peer with the lowest `statistic`, "median" or "minimum"."""
        return min(
            self.peers, key=lambda name: getattr(self.timings[name], statistic), default=None
        )

    def ratio(self, statistic: str = "median") -> float | None:
        """The best peer's `statistic` over fastrnn's; None when either is missing."""
        peer = self.best_peer(statistic)
        if peer is None or Fastrnn.name not in self.timings:
            return None
        peers, own = (getattr(self.timings[name], statistic) for name in (peer, Fastrnn.name))
        return peers / own

    def fraction(self, statistic: str = "median") -> float | None:
        """The machine's limit over fastrnn's `statistic`; None when fastrnn was not timed."""
        own = self.timings.get(Fastrnn.name)
        return self.limit / getattr(own, statistic) if own else None

    def least_error(self) -> float | None:
        """The smallest error of a peer."""
        return min((self.timings[name].error for name in self.peers), default=None)


def measure_row(
    workers: Sequence[Worker],
    configuration: Configuration,
    threads: int,
    budget: Budget,
    expected: np.ndarray,
    limit: float,
) -> Row:
    """Check the engines' outputs, then let them take turns.

    An engine that fails, or is further than 1e-5 of the largest output from what is `expected`, is not timed.
    """
    failures: dict[str, str] = {}
    errors: dict[str, float] = {}
    for worker in workers:
        try:
            y = worker.prepare(configuration)
        except WorkerError as error:
            failures[worker.engine] = str(error)
            continue
        if y.shape != expected.shape:
            failures[worker.engine] = f"{worker.engine} gives {y.shape}, not {expected.shape}"
            continue
        errors[worker.engine] = oracle.error(y, expected)
        tolerance = REDUCED_TOLERANCE if worker.engine in REDUCED else TOLERANCE
        if not errors[worker.engine] <= tolerance:
            failures[worker.engine] = (
                f"{worker.engine} is {errors[worker.engine]:.1e} of the output's scale off the oracle "
                f"in {configuration.name}"
            )

    samples: dict[str, list[tuple[float, int]]] = {}
    for turn in range(budget.rounds):
        first = turn % len(workers)
        for worker in (*workers[first:], *workers[:first]):
            own = samples.setdefault(worker.engine, [])
            spent = sum(seconds * calls for seconds, calls in own)
            if worker.engine in failures or spent >= budget.cap:
                continue
            try:
                own += worker.measure(
                    budget.seconds / budget.rounds,
                    -(-budget.calls // budget.rounds),
                    budget.cap / budget.rounds,
                )
            except WorkerError as error:
                failures[worker.engine] = str(error)
    timings = {
        worker.engine: _timing(samples[worker.engine], errors[worker.engine])
        for worker in workers
        if worker.engine not in failures
    }
    return Row(configuration, threads, timings, failures, 1e6 * limit)


def _timing(samples: list[tuple[float, int]], error: float) -> Timing:
    microseconds = [1e6 * seconds for seconds, _ in samples]
    return Timing(
        median=statistics.median(microseconds),
        minimum=min(microseconds),
        calls=sum(calls for _, calls in samples),
        error=error,
    )


def run(
    configurations: Sequence[Configuration],
    machines: Sequence[Machine],
    engines: Sequence[str],
    budget: Budget,
    versions: dict[str, str],
) -> Iterator[Row]:
    """Yield a row a configuration and machine, which says how many threads; fill `versions` with the engines'."""
    for limits in machines:
        count = limits.threads
        with ExitStack() as stack:
            workers = [Worker(engine, count) for engine in engines]
            for worker in workers:
                stack.callback(worker.close)
            versions.update({worker.engine: worker.describe() for worker in workers})
            for configuration in configurations:
                able = [one for one in workers if ENGINES[one.engine].runs(configuration)]
                yield measure_row(
                    able,
                    configuration,
                    count,
                    budget,
                    oracle.expected(configuration),
                    limit(configuration, limits),
                )


def expected_seconds(
    configurations: Sequence[Configuration],
    machines: Sequence[Machine],
    engines: Sequence[str],
    budget: Budget,
) -> float:
    """Roughly how long `run` will take."""
    able = [
        (configuration, sum(ENGINES[name].runs(configuration) for name in engines))
        for configuration in configurations
    ]
    return sum(
        count * (BUILD_SECONDS + budget.expected_seconds(TIMES_LIMIT * limit(configuration, one)))
        for configuration, count in able
        for one in machines
    )


def system() -> dict[str, str | int]:
    """The CPU's name, the CPUs this process may use, the kernel and Python's version."""
    names = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "cpu": names[0] if names else platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


class Table:
    """The rows as text: a line a row, columns aligned as they come, or Markdown."""

    def __init__(self, engines: Sequence[str], configurations: Sequence[Configuration]) -> None:
        self._engines = engines
        self.header = ["layers, batch, timesteps", "threads", *engines, RATIO, FRACTION, ERROR]
        longest = max(len(text) for text in (self.header[0], *(one.name for one in configurations)))
        times = (max(len(name), 15) for name in engines)
        self._widths = [longest, 7, *times, len(RATIO), len(FRACTION), 17]

    def cells(self, row: Row) -> list[str]:
        """Name, threads, median (minimum) of each engine, ratio of medians (of minima), and so on."""
        times = [
            f"{_digits(timing.median)} ({_digits(timing.minimum)})" if timing else "-"
            for timing in map(row.timings.get, self._engines)
        ]
        ratio = _pair("{:.2f}", row.ratio(), row.ratio("minimum"))
        fraction = _pair("{:.0%}", row.fraction(), row.fraction("minimum"))
        own = row.timings.get(Fastrnn.name)
        error = _pair("{:.1e}", own and own.error, row.least_error())
        return [row.configuration.name, str(row.threads), *times, ratio, fraction, error]

    def line(self, cells: Sequence[str]) -> str:
        """One line of the text table."""
        first, *rest = (text.rjust(width) for text, width in zip(cells, self._widths, strict=True))
        return "  ".join([first.strip().ljust(self._widths[0]), *rest])

    def markdown(self, rows: Sequence[Row]) -> str:
        """The whole table for a document."""
        lines = [self.header, ["---"] + ["---:"] * (len(self.header) - 1), *map(self.cells, rows)]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _pair(form: str, first: float | None, second: float | None) -> str:
    one, other = ("-" if number is None else form.format(number) for number in (first, second))
    return "-" if first is None else f"{one} ({other})"


def _digits(microseconds: float) -> str:
    decimals = 2 if microseconds < 10 else 1 if microseconds < 100 else 0
    return f"{microseconds:.{decimals}f}"


def summary(rows: Sequence[Row]) -> list[str]:
    """A line a number of threads: geometric means of the ratios and the lowest of them."""
    lines = []
    for threads in sorted({row.threads for row in rows}):
        rated = [row for row in rows if row.threads == threads and row.ratio() is not None]
        if rated:
            singles = [row for row in rated if row.configuration.batch == 1]
            mean = statistics.geometric_mean(row.ratio() for row in rated)
            of_singles = (
                f"{statistics.geometric_mean(row.ratio() for row in singles):.2f}"
                if singles
                else "-"
            )
            lowest = min(rated, key=Row.ratio)
            lines.append(
                f"{RATIO}, threads {threads}: geometric mean {mean:.2f}, of batch 1 {of_singles}, "
                f"lowest {lowest.ratio():.2f} ({lowest.configuration.name}, {lowest.best_peer()})"
            )
    return lines


def report(rows: Sequence[Row], machines: Sequence[Machine], versions: dict[str, str]) -> dict:
    """Everything measured, as JSON takes it; times in microseconds."""
    return {
        "system": system(),
        "machines": [dataclasses.asdict(one) for one in machines],
        "versions": versions,
        "rows": [
            {
                "name": row.configuration.name,
                **dataclasses.asdict(row),
                "best_peer": row.best_peer(),
                "ratio": row.ratio(),
                "minimum_ratio": row.ratio("minimum"),
                "fraction": row.fraction(),
                "minimum_fraction": row.fraction("minimum"),
            }
            for row in rows
        ],
    }


def write_table(document: Path, table: str, versions: dict[str, str], command: str) -> None:
    """Put `table` between the two markers of a document, with machine and command above it."""
    text = document.read_text()
    start, end = text.find(START), text.find(END)
    if not -1 < start < end:
        raise SystemExit(f"{document} lacks {START} followed by {END}")
    facts = system()
    preface = (
        f"Median (minimum) of a call in microseconds, float32, measured by `{command}` on "
        f"{facts['cpu']} ({facts['cpus']} CPUs), Python {facts['python']}; "
        f"{'; '.join(dict.fromkeys(versions.values()))}."
    )
    document.write_text(f"{text[:start]}{START}\n{preface}\n\n{table}\n{text[end:]}")


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    available = len(os.sched_getaffinity(0))

    def thread_counts(text: str) -> list[int]:
        counts = [int(part) for part in text.split(",")]
        if not all(1 <= count <= available for count in counts):
            raise argparse.ArgumentTypeError(f"expected counts from 1 to {available}, got {text}")
        return counts

    def engine_names(text: str) -> list[str]:
        names = [part.strip() for part in text.split(",")]
        unknown = [name for name in names if name not in ENGINES]
        if unknown:
            raise argparse.ArgumentTypeError(f"expected {', '.join(ENGINES)}, got {unknown}")
        return names

    def tables(text: str) -> list[str]:
        names = text.split(",")
        unknown = [name for name in names if name not in ROWS]
        if unknown:
            raise argparse.ArgumentTypeError(f"expected {', '.join(ROWS)}, got {unknown}")
        return names

    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument(
        "--only", metavar="PATTERN", type=re.compile, help="rows whose name matches this regex"
    )
    parser.add_argument(
        "--threads",
        metavar="COUNTS",
        type=thread_counts,
        default=sorted({1, available}),
        help="numbers of threads, by default one and all: 1,2",
    )
    parser.add_argument(
        "--engines",
        metavar="NAMES",
        type=engine_names,
        default=list(ENGINES),
        help=f"by default all that are installed: {','.join(ENGINES)}",
    )
    parser.add_argument(
        "--rows",
        type=tables,
        default=list(ROWS),
        help=f"tables, by default all: {','.join(ROWS)}",
    )
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write everything measured")
    parser.add_argument(
        "--document",
        metavar="FILE",
        type=Path,
        help=f"put the table into this file, between {START} and {END}",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison; 1 when an engine failed or gave another output than the others."""
    options = parse_arguments(arguments)
    configurations = [
        configuration
        for name in options.rows
        for configuration in ROWS[name]
        if options.only is None or options.only.search(configuration.name)
    ]
    if not configurations:
        raise SystemExit(f"no configuration matches {options.only.pattern!r}")
    engines = []
    for name in options.engines:
        missing = ENGINES[name].missing()
        if missing:
            print(f"{name} is left out: {', '.join(missing)} not installed")
        else:
            engines.append(name)
    if not engines:
        raise SystemExit("none of the engines is installed")

    budget = QUICK if options.quick else FULL
    machines = [machine.measure(count) for count in options.threads]
    print(", ".join(f"{key} {value}" for key, value in system().items()))
    print("\n".join(line for one in machines for line in one.lines()))
    minutes = expected_seconds(configurations, machines, engines, budget) / 60
    print(
        f"{len(configurations)} rows, {len(engines)} engines, threads {options.threads}: "
        f"some {max(1, minutes):.0f} minutes"
    )
    print("median (minimum) of a call in microseconds; each engine alone, by turns")
    table = Table(engines, configurations)
    print(table.line(table.header))
    versions: dict[str, str] = {}
    rows = []
    try:
        for row in run(configurations, machines, engines, budget, versions):
            rows.append(row)
            print(table.line(table.cells(row)), flush=True)
    except WorkerError as error:
        raise SystemExit(str(error)) from error
    print("\n".join(summary(rows)))
    print("\n".join(f"{name}: {version}" for name, version in versions.items()))
    failures = list(dict.fromkeys(text for row in rows for text in row.failures.values()))
    print("\n".join(failures), file=sys.stderr, end="\n" if failures else "")

    if options.json:
        options.json.write_text(json.dumps(report(rows, machines, versions), indent=1) + "\n")
    if options.document:
        command = f"python -m benchmarks.compare {shlex.join(arguments or sys.argv[1:])}"
        write_table(options.document, table.markdown(rows), versions, command)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
