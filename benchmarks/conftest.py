"""What the pytest-benchmark cases share: the baseline file, and its yardstick held to one thread."""

import json
import os
from pathlib import Path

import pytest

BASELINE = Path(__file__).with_name("baseline.json")

# NumPy reads them when it is first imported, which is later.
for _variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"


class Baseline:
    """Ratios to the yardstick, by the name of a case: those of the file, and those measured."""

    def __init__(self, saving: bool) -> None:
        self.saving = saving
        self.measured: dict[str, float] = {}
        self.ratios = {} if saving else json.loads(BASELINE.read_text())

    def save(self) -> None:
        """Write what was measured to the file."""
        rounded = {name: float(f"{ratio:.4g}") for name, ratio in self.measured.items()}
        BASELINE.write_text(json.dumps(rounded, indent=1) + "\n")


def pytest_addoption(parser):
    """Add ``--save-baseline``."""
    parser.addoption(
        "--save-baseline", action="store_true", help=f"write {BASELINE.name} instead of comparing"
    )


@pytest.fixture(scope="session")
def baseline(request):
    """The baseline, saved at the end if that was asked for."""
    baseline = Baseline(request.config.getoption("--save-baseline"))
    yield baseline
    if baseline.saving:
        baseline.save()
