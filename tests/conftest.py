"""What all tests share: Keras on its NumPy backend, strict warnings, seeded randomness."""

import contextlib
import gc
import os
import random

os.environ["KERAS_BACKEND"] = "numpy"
# Threads that spin while they wait cost CPU time and find nothing: BLAS's, called for small matrices by Keras and by
# orthogonal weights, and the core's. Either variable set outside holds.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import keras  # noqa: F401
import numpy as np
import pytest
from keras.src.backend.common import dtypes

import fastrnn
from fastrnn import _core, _dispatch
from tests.builds import Core
from tests.sampling import LEVELS, sampled

# Off TensorFlow, Keras computes some float64 operations in float32. With TensorFlow's rule its
# NumPy backend is a judge for float64 too.
dtypes.BIT64_TO_BIT32_DTYPE["float64"] = "float64"


SEED_VARIABLE = "FASTRNN_SWEEP_SEED"


def pytest_addoption(parser):
    group = parser.getgroup("sweeps")
    group.addoption(
        "--sweep",
        choices=["all", *LEVELS],
        default="all",
        help="which cases of parametrized tests run; see tests/sampling.py (default: all)",
    )
    group.addoption(
        "--sweep-seed",
        default=os.environ.get(SEED_VARIABLE, "0"),
        help=f"what draws a sample, any text (default: ${SEED_VARIABLE} or 0)",
    )


def pytest_report_header(config):
    level, seed = config.option.sweep, config.option.sweep_seed
    return "sweeps: all cases" if level == "all" else f"sweeps: --sweep={level} --sweep-seed={seed}"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    kept = sampled(items, config.option.sweep, config.option.sweep_seed)
    chosen = set(map(id, kept))
    config.hook.pytest_deselected(items=[item for item in items if id(item) not in chosen])
    items[:] = kept


def pytest_collection_finish():
    # Keras collects garbage on many calls. What thousands of items hold is none, and takes seconds to look through.
    gc.collect()
    gc.freeze()


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: starts programs or trains; not part of --sweep=quick")
    config.addinivalue_line("filterwarnings", "error:::fastrnn")
    config.addinivalue_line("filterwarnings", "ignore::DeprecationWarning:keras")


@pytest.fixture(autouse=True)
def _seeded_weights():
    random.seed(20240229)  # where initializers without a seed take theirs from


@pytest.fixture(params=_core.BUILDS.values(), ids=lambda build: build.name)
def core(request):
    """The core with one of its builds, on one thread."""
    before = _core.get_num_threads()
    _core.set_num_threads(1)
    yield Core(request.param)
    _core.set_num_threads(before)


@pytest.fixture
def threads():
    """Let a test change the number of threads."""
    before = fastrnn.get_num_threads()
    yield
    fastrnn.set_num_threads(before)


@contextlib.contextmanager
def _build_in_use(level):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(_dispatch, "isa", lambda: level)
        yield


@pytest.fixture
def build_in_use():
    """Let fastrnn compute by another build of the kernels inside a ``with``, what is compiled there."""
    return _build_in_use


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
