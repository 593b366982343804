"""The command line of a subject that is measured by itself: what it measures, line by line, and as JSON."""

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.compare import system

Result = dict[str, Any]


def run(
    module: str,
    description: str,
    measure: Callable[[bool], Iterable[Result]],
    line: Callable[[Result], str],
) -> None:
    """Measure, print a line a result as it comes, and write all with ``--json``.

    `measure` gets whether it should be quick.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    parser.add_argument("--quick", action="store_true", help="shorter and rougher")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write everything measured")
    options = parser.parse_args()
    results = []
    for result in measure(options.quick):
        results.append(result)
        print(line(result), flush=True)
    if options.json:
        everything = {"system": system(), "results": results}
        options.json.write_text(json.dumps(everything, indent=1) + "\n")
