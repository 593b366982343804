"""Fuzz every target in turn, anew after each finding, and print what was done: python -m tests.fuzz --seconds 600."""

import argparse
import collections
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.targets import TARGETS

HERE = Path(__file__).parent
IN_MEMORY = Path("/dev/shm")


def fuzz(target: str, seconds: float, findings: Path) -> dict[str, int]:
    """Fuzz a target for some seconds; returns how many inputs came to what."""
    total: collections.Counter[str] = collections.Counter()
    end = time.monotonic() + seconds
    folder = IN_MEMORY if IN_MEMORY.is_dir() else None  # where the target writes files
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        while (left := end - time.monotonic()) > 1:
            counts = Path(scratch) / "counts.json"
            counts.write_text("{}")
            corpus = Path(scratch) / "corpus"
            corpus.mkdir(exist_ok=True)
            command = [sys.executable, "-m", "tests.fuzz.run", target, "--seconds", str(int(left))]
            command += ["--seeds", HERE / "corpus" / target, "--met", corpus]
            command += ["--findings", f"{findings}/{target}-", "--counts", counts]
            environment = {**os.environ, "TMPDIR": scratch}
            run = subprocess.run(command, env=environment, capture_output=True, text=True)
            total.update(json.loads(counts.read_text()))
            if run.returncode:
                total["findings"] += 1
                report = findings / f"{target}-{total['findings']}.txt"
                report.write_text(run.stdout[-20_000:] + run.stderr[-20_000:])
    return dict(total)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="in all (default: 60)")
    parser.add_argument("--targets", default=",".join(TARGETS), help="which, comma-separated")
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"))
    options = parser.parse_args()
    options.findings.mkdir(exist_ok=True)
    chosen = options.targets.split(",")
    n_findings = 0
    for target in chosen:
        counts = fuzz(target, options.seconds / len(chosen), options.findings)
        print(f"{target:13}", *(f"{what} {count}" for what, count in counts.items()), flush=True)
        n_findings += counts.get("findings", 0)
    if n_findings:
        sys.exit(f"{n_findings} findings in {options.findings}")


if __name__ == "__main__":
    main()
