"""Run one target until a finding or the end: under atheris, or on inputs changed at random where there is none."""

import argparse
import contextlib
import hashlib
import json
import random
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

try:
    import atheris
except ImportError:  # not made for every system and Python
    atheris = None

watching = (
    contextlib.nullcontext()
    if atheris is None
    else atheris.instrument_imports(include=["fastrnn"], enable_loader_override=False)
)
with watching:
    from tests.fuzz import json_mutator, targets

SECONDS_OF_AN_INPUT = 30
MEGABYTES = 3072
MOST_BYTES = 65_536
DICTIONARY = Path(__file__).parent / "keras.dict"


def changed(data: bytes, most: int) -> bytes:
    """Return bytes with some of them changed, left out or doubled."""
    content = bytearray(data)
    for _ in range(1 + int(random.expovariate(0.5))):
        place = random.randrange(len(content) + 1)
        length = random.choice([1, 1, 2, 4, 8, 64])
        kind = random.randrange(3)
        if kind == 0:
            content[place : place + length] = random.randbytes(length)
        elif kind == 1:
            del content[place : place + length]
        else:
            content[place:place] = content[place : place + length]
    return bytes(content[:most])


def fuzz_at_random(
    target: Callable[[bytes], None], seeds: Path, seconds: float, findings: str
) -> None:
    """Call the target with changed seeds; what is found is written, and ends the program."""
    inputs = [path.read_bytes() for path in sorted(seeds.iterdir())]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        data = random.choice(inputs)
        if target is targets.architecture:
            data = json_mutator.mutate(data, MOST_BYTES, random.randrange(1 << 30), changed)
        else:
            data = changed(data, MOST_BYTES)
        try:
            target(data)
        except BaseException:
            name = hashlib.sha1(data, usedforsecurity=False).hexdigest()
            Path(f"{findings}crash-{name}").write_bytes(data)
            raise


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run")
    parser.add_argument("target", choices=targets.TARGETS)
    parser.add_argument("--seconds", type=int, required=True)
    parser.add_argument("--seeds", type=Path, required=True, help="a folder to read")
    parser.add_argument("--met", type=Path, required=True, help="a folder for inputs of new code")
    parser.add_argument("--findings", required=True, help="how the names of files begin")
    parser.add_argument("--counts", type=Path, required=True, help="a file for the counts")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    target, runs = targets.TARGETS[options.target], 0

    def counted(data: bytes) -> None:
        nonlocal runs
        target(data)
        runs += 1
        if runs % 100 == 0:
            options.counts.write_text(json.dumps({"inputs": runs, **targets.outcomes}))

    if atheris is None:
        fuzz_at_random(counted, options.seeds, options.seconds, options.findings)
        return

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        return json_mutator.mutate(data, most, seed, atheris.Mutate)

    mutator = {"custom_mutator": mutate} if target is targets.architecture else {}
    limits = [f"-timeout={SECONDS_OF_AN_INPUT}", f"-rss_limit_mb={MEGABYTES}"]
    limits += [f"-max_total_time={options.seconds}", f"-max_len={MOST_BYTES}"]
    files = [f"-dict={DICTIONARY}", f"-artifact_prefix={options.findings}"]
    folders = [str(options.met), str(options.seeds)]
    atheris.Setup([sys.argv[0], *folders, *limits, *files, "-verbosity=0"], counted, **mutator)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
