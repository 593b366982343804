"""Run one target under atheris until a finding or the end: python -m tests.fuzz.run TARGET [libFuzzer's options]."""

import json
import os
import random
import sys
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["fastrnn"], enable_loader_override=False):
    from tests.fuzz import json_mutator, targets

COUNTS = "FASTRNN_FUZZ_COUNTS"
"""The environment variable with the name of the file for the counts of outcomes."""


def main() -> None:
    target = targets.TARGETS[sys.argv[1]]
    warnings.simplefilter("ignore")
    counts = Path(os.environ[COUNTS])
    runs = 0

    def test_one_input(data: bytes) -> None:
        nonlocal runs
        random.seed(0)
        target(data)
        runs += 1
        if runs % 200 == 0:
            counts.write_text(json.dumps({"inputs": runs, **targets.outcomes}))

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        return json_mutator.mutate(data, most, seed, atheris.Mutate)

    options = {"custom_mutator": mutate} if target is targets.architecture else {}
    atheris.Setup(sys.argv[1:], test_one_input, **options)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
