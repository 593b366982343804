"""Which build of the core runs, on how many threads, and what forks and threads do to it."""

import asyncio
import contextvars
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import fastrnn
from fastrnn import _core, _dispatch, layers
from tests.builds import LEVELS

pytestmark = pytest.mark.slow
ROOT = Path(fastrnn.__file__).parent.parent
# Enough work for two threads.
BIG = """
import os, numpy as np, fastrnn
model = fastrnn.Sequential([fastrnn.Input((20, 8)), fastrnn.layers.LSTM(128)])
model.set_weights([np.sin(np.arange(w.size)).reshape(w.shape) / 9 for w in model.weights])
x = np.cos(np.arange(192 * 20 * 8)).reshape(192, 20, 8).astype("float32")
"""
# How many threads of the system a call starts; those of a thread of Python stay for its next call. They are told by
# their numbers, since one that has ended may still be there, and BLAS, which starts some when NumPy likes, has none.
STARTED = (
    BIG
    + """
import threading, threadpoolctl
fastrnn.Sequential([fastrnn.Input((20, 8)), fastrnn.layers.LSTM(4)])(x[:1])
def started(call=lambda: model(x)):
    before = set(os.listdir('/proc/self/task'))
    call()
    return len(set(os.listdir('/proc/self/task')) - before)
"""
)


def run(code, **variables):
    """Run Python code in a new process; returns the finished process."""
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    environment.pop(_dispatch.ISA_VARIABLE, None)
    environment |= {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1", **variables}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=600
    )


def output_of(code, **variables):
    finished = run(code, **variables)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


# Instruction sets


def test_the_best_build_is_the_default():
    code = "import fastrnn._dispatch; print(fastrnn._dispatch.isa())"
    assert output_of(code).strip() == LEVELS[0]


@pytest.mark.parametrize("level", LEVELS)
def test_a_variable_forces_a_build(level):
    code = BIG + (
        "from fastrnn._dispatch import build_for, isa\n"
        "print(isa(), build_for('float32').name, build_for('float64').name)\n"
        "print(*model(x)[0])"
    )
    names, numbers = output_of(code, FASTRNN_ISA=level, OMP_NUM_THREADS="1").splitlines()
    assert names == f"{level} {level}_f32 {level}_f64"
    scope = {}
    exec(BIG, scope)
    expected = scope["model"](scope["x"][:1])[0]
    np.testing.assert_allclose(np.array(numbers.split(), float), expected, atol=1e-5)


@pytest.mark.parametrize("value", ["", "avx2", "V4", "v5", "base,v3", "../v4"])
def test_another_value_says_what_is_expected(value):
    finished = run("import fastrnn; fastrnn.show_config()", FASTRNN_ISA=value)
    assert finished.returncode == 1
    *_, last = finished.stderr.splitlines()
    told = f"ImportError: FASTRNN_ISA={value}: expected one of {', '.join(LEVELS)}"
    assert last.startswith(told)


# What is imported

MODEL = ROOT / "fastrnn" / "data" / "sunspots.keras"
LATE = (
    "h5py",
    "numpy.random",
    "scipy",
    "zipfile",
    "matplotlib",
    "keras",
    "ml_dtypes",
    "fastrnn.sunspots",
    "fastrnn.cli",
)
IN_PYTHON = (
    "fastrnn.Sequential([fastrnn.Input((3, 1)), fastrnn.layers.LSTM(4), fastrnn.layers.Dense(1)])"
)


@pytest.mark.parametrize(
    ("code", "needed"),
    [
        ("", set()),
        (f"{IN_PYTHON}(fastrnn.ops.np.ones((2, 3, 1)))", {"numpy.random"}),
        (f"fastrnn.load_model({str(MODEL)!r})", {"h5py", "zipfile"}),
    ],
    ids=["import", "model in Python", "model in a file"],
)
def test_only_what_is_needed_is_imported(code, needed):
    code = f"import sys, numpy\nbefore = set(sys.modules)\nimport fastrnn\n{code}"
    loaded = output_of(f"{code}\nprint(*set(sys.modules) - before)").split()
    assert "fastrnn.layers.lstm" in loaded
    assert set(LATE) & set(loaded) <= needed


def test_a_missing_core_says_what_to_do():
    code = "import sys; sys.modules['fastrnn._core'] = None; import fastrnn"
    finished = run(code)
    assert finished.returncode == 1
    assert "ImportError: fastrnn's compiled core is missing" in finished.stderr
    assert "make build" in finished.stderr


def test_a_build_that_the_cpu_lacks_is_not_taken(monkeypatch):
    monkeypatch.delenv(_dispatch.ISA_VARIABLE, raising=False)
    base = {key: build for key, build in _core.BUILDS.items() if build.level == "base"}
    monkeypatch.setattr(_core, "BUILDS", base)
    assert _dispatch.isa.__wrapped__() == "base"
    monkeypatch.setenv(_dispatch.ISA_VARIABLE, "v3")
    with pytest.raises(ImportError, match="FASTRNN_ISA=v3: expected one of base"):
        _dispatch.isa.__wrapped__()


def test_show_config(capsys):
    config = fastrnn.show_config()
    printed = capsys.readouterr().out
    assert config["isa"] == _dispatch.isa()
    assert config["isa_built"] == _core.levels_built()
    assert config["vector_bytes"] == _dispatch.build_for(np.float32).vector_bytes
    assert config["threads"] == fastrnn.get_num_threads()
    assert (config["fastrnn"], config["numpy"]) == (fastrnn.__version__, np.__version__)
    assert len(printed.splitlines()) == len(config)
    for name, value in json.loads(json.dumps(config)).items():
        assert name in printed
        assert str(value) in printed


# Threads


@pytest.mark.parametrize("n", [0, -1, 1.0, 2.5, "2", None, True, np.float64(2), [1]])
def test_the_number_of_threads_is_a_positive_integer(n, threads):
    before = fastrnn.get_num_threads()
    with pytest.raises(ValueError, match="positive integer"):
        fastrnn.set_num_threads(n)
    assert fastrnn.get_num_threads() == before


def test_set_num_threads(threads):
    for n in (1, 3, np.int64(2), _dispatch.MOST_THREADS):
        fastrnn.set_num_threads(n)
        assert fastrnn.get_num_threads() == n
        assert type(fastrnn.get_num_threads()) is int


def test_a_number_of_threads_beyond_the_cores_integers(threads):
    before = fastrnn.get_num_threads()
    _dispatch.build_for(np.float32)
    with pytest.raises((ValueError, OverflowError)):
        fastrnn.set_num_threads(2**70)
    assert fastrnn.get_num_threads() == before


@pytest.mark.parametrize(("value", "expected"), [("1", 1), ("3", 3), ("5,2", 5)])
def test_omp_num_threads_is_the_default(value, expected):
    code = "import fastrnn; print(fastrnn.get_num_threads())"
    assert output_of(code, OMP_NUM_THREADS=value).strip() == str(expected)


@pytest.mark.parametrize("value", ["", "0", "-2", "many", "2.5", "\u00b2"])
def test_without_a_usable_number_the_cpus_count(value):
    code = "import fastrnn; print(fastrnn.get_num_threads())"
    expected = len(os.sched_getaffinity(0))
    assert output_of(code, OMP_NUM_THREADS=value).strip() == str(expected)


@pytest.mark.parametrize("n", [1, 2])
def test_calls_start_no_more_threads_than_allowed(n):
    code = STARTED + "print(started())"
    assert output_of(code, OMP_NUM_THREADS=str(n)).strip() == str(n - 1)


def test_set_num_threads_may_ask_for_more_than_openmp_begins_with():
    code = STARTED + "fastrnn.set_num_threads(3); print(fastrnn.get_num_threads(), started())"
    assert output_of(code, OMP_NUM_THREADS="1").split() == ["3", "2"]


def test_calls_at_once_share_the_threads_of_one():
    code = STARTED + (
        "fastrnn.set_num_threads(2)\n"
        "x = np.tile(x, (30, 1, 1))\n"
        "ready, go = threading.Barrier(3), threading.Barrier(3)\n"
        "def call():\n"
        "    ready.wait(); go.wait(); model(x); ready.wait(); go.wait()\n"
        "callers = [threading.Thread(target=call) for _ in range(2)]\n"
        "for caller in callers: caller.start()\n"
        "ready.wait()\n"
        "print(started(lambda: (go.wait(), ready.wait())))\n"
        # Where that took long since the machine is busy, threads rest for some calls.
        "print(next(n for n in iter(started, None) if n))\n"
        "go.wait()"
    )
    assert output_of(code).split() == ["1", "1"]


# Threads of a part of the program


def test_num_threads_holds_inside_and_only_there(threads):
    fastrnn.set_num_threads(3)
    with fastrnn.num_threads(1):
        assert fastrnn.get_num_threads() == 1
        with fastrnn.num_threads(np.int64(5)):
            assert fastrnn.get_num_threads() == 5
            fastrnn.set_num_threads(2)
            assert fastrnn.get_num_threads() == 5
        assert fastrnn.get_num_threads() == 1
    assert fastrnn.get_num_threads() == 2
    with pytest.raises(KeyError), fastrnn.num_threads(4):
        raise KeyError
    assert fastrnn.get_num_threads() == 2


@pytest.mark.parametrize("n", [0, -1, 1.0, "2", None, True, _dispatch.MOST_THREADS + 1, 2**70])
def test_num_threads_takes_what_set_num_threads_takes(n):
    before = fastrnn.get_num_threads()
    with pytest.raises(ValueError, match="threads; got"), fastrnn.num_threads(n):
        pass
    assert fastrnn.get_num_threads() == before


def test_num_threads_of_one_thread_is_not_that_of_others(threads):
    fastrnn.set_num_threads(3)
    seen = []
    with fastrnn.num_threads(1):
        other = threading.Thread(target=lambda: seen.append(fastrnn.get_num_threads()))
        other.start()
        other.join()
    assert seen == [3]


def test_num_threads_of_one_task_is_not_that_of_others(threads):
    fastrnn.set_num_threads(3)

    async def work(n, entered, proceed):
        with fastrnn.num_threads(n):
            entered.set()
            await proceed.wait()
            inside = await asyncio.to_thread(fastrnn.get_num_threads)
            return fastrnn.get_num_threads(), inside

    async def main():
        first, second = asyncio.Event(), asyncio.Event()
        tasks = [asyncio.create_task(work(1, first, second))]
        tasks.append(asyncio.create_task(work(2, second, first)))
        return fastrnn.get_num_threads(), await asyncio.gather(*tasks), fastrnn.get_num_threads()

    assert asyncio.run(main()) == (3, [(1, 1), (2, 2)], 3)


def test_a_generator_may_end_in_another_context(threads):
    fastrnn.set_num_threads(3)

    def generate():
        with fastrnn.num_threads(1):
            yield fastrnn.get_num_threads()

    generator = generate()
    assert contextvars.copy_context().run(next, generator) == 1
    assert fastrnn.get_num_threads() == 3
    generator.close()
    assert fastrnn.get_num_threads() == 3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_calls_inside_start_as_many_threads(dtype):
    code = STARTED.replace("LSTM(128)", f"LSTM(128, dtype={dtype!r})") + (
        f"x = x.astype({dtype!r})\n"
        "with fastrnn.num_threads(1): print(started())\n"
        "fastrnn.set_num_threads(1); print(started())\n"
        "with fastrnn.num_threads(2): print(started())"
    )
    assert output_of(code, OMP_NUM_THREADS="2").split() == ["0", "0", "1"]


def test_streams_use_as_many_threads():
    code = STARTED + (
        "stream, x = model.stream(192), x[:, 0].copy()\n"
        "with fastrnn.num_threads(1): print(started(lambda: stream.step(x)))\n"
        "print(started(lambda: stream.step(x)))"
    )
    assert output_of(code, OMP_NUM_THREADS="2").split() == ["0", "1"]


def test_threadpoolctl_limits_the_thread_that_asks_it_to():
    code = STARTED + (
        "numbers = []\n"
        "def note(): numbers.append(fastrnn.get_num_threads())\n"
        "with threadpoolctl.threadpool_limits(1):\n"
        "    note(); print(started())\n"
        "    with fastrnn.num_threads(2): note(); print(started())\n"
        "    other = threading.Thread(target=note); other.start(); other.join()\n"
        "with threadpoolctl.threadpool_limits(5): note()\n"
        "note(); print(started())\n"
        "print(*numbers)"
    )
    assert output_of(code, OMP_NUM_THREADS="2").split() == ["0", "0", "1", "1", "1", "2", "2", "2"]


@pytest.mark.parametrize("allowed", [1, 2])
def test_one_model_serves_many_threads(allowed, threads, rng):
    fastrnn.set_num_threads(allowed)
    model = fastrnn.Sequential(
        [
            layers.Input((None, 3)),
            layers.LSTM(32, return_sequences=True),
            layers.GRU(20),
            layers.Dense(4, activation="softmax"),
        ]
    )
    batches = [rng.normal(size=(n, 1 + n % 7, 3)).astype("float32") for n in (1, 2, 5, 60, 130)]
    expected = [model(x) for x in batches]
    wrong = []
    start = threading.Barrier(4)

    def work(first):
        start.wait()
        for i in range(first, first + 60):
            x, y = batches[i % 5], expected[i % 5]
            if not np.allclose(model(x), y, rtol=0, atol=1e-6):
                wrong.append(len(x))

    workers = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_threads_that_meet_a_model_first_compile_it_together(rng):
    x = rng.normal(size=(3, 5, 2)).astype("float32")
    for _ in range(10):
        model = fastrnn.Sequential([layers.Input((5, 2)), layers.GRU(8), layers.Dense(2)])
        results = [None] * 4
        start = threading.Barrier(4)

        def work(number, model=model, results=results, start=start):
            start.wait()
            results[number] = model(x)

        workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        for result in results:
            np.testing.assert_array_equal(result, results[0])
