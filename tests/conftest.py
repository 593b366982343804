"""What all tests share: Keras on its NumPy backend, strict warnings, seeded randomness."""

import os
import random

os.environ["KERAS_BACKEND"] = "numpy"

import keras  # noqa: F401
import numpy as np
import pytest
from keras.src.backend.common import dtypes

# Off TensorFlow, Keras computes some float64 operations in float32. With TensorFlow's rule its
# NumPy backend is a judge for float64 too.
dtypes.BIT64_TO_BIT32_DTYPE["float64"] = "float64"


def pytest_configure(config):
    config.addinivalue_line("filterwarnings", "error:::fastrnn")
    config.addinivalue_line("filterwarnings", "ignore::DeprecationWarning:keras")


@pytest.fixture(autouse=True)
def _seeded_weights():
    random.seed(20240229)  # where initializers without a seed take theirs from


@pytest.fixture
def rng():
    return np.random.default_rng(20240229)


def pytest_terminal_summary(terminalreporter):
    """Print how many cases the sweeps against Keras had, and how many failed."""
    stats = terminalreporter.stats
    counts = {
        outcome: sum("test_sweep" in report.nodeid for report in stats.get(outcome, []))
        for outcome in ("passed", "failed")
    }
    if any(counts.values()):
        total = sum(counts.values())
        terminalreporter.write_line(f"sweeps: {total} cases, {counts['failed']} failures")
