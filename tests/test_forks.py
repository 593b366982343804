"""Processes made from a process that has used threads: they work at full threads, or say that they cannot."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import fastrnn
from fastrnn import _machine

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork"),
]

PREPARE = """
import contextlib, ctypes, os, signal, sys, threading, time
import numpy as np
import fastrnn
from fastrnn import layers
fastrnn.set_num_threads(2)
model = fastrnn.Sequential([fastrnn.Input((20, 8)), layers.LSTM(128)])  # enough work for two threads
model.set_weights([np.sin(np.arange(w.size)).reshape(w.shape) / 9 for w in model.weights])
x = np.cos(np.arange(192 * 20 * 8)).reshape(192, 20, 8).astype("float32")
expected = model(x)

def threads():
    return len(os.listdir("/proc/self/task"))

def in_child(work, fork=os.fork):
    sys.stdout.flush()
    child = fork()
    if child:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return print("child", os.waitstatus_to_exitcode(status), flush=True)
            time.sleep(0.01)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return print("child hangs", flush=True)
    try:
        work()
        sys.stdout.flush()
        os._exit(0)
    except BaseException as error:
        print(type(error).__name__, error, flush=True)
        os._exit(1)

def predict():
    assert np.array_equal(model(x), expected)
"""


def output_of(code):
    code = PREPARE + textwrap.dedent(code)
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


@pytest.mark.parametrize("around", ["contextlib.nullcontext()", "fastrnn.num_threads(2)"])
def test_a_child_works_at_full_threads(around):
    """So do its own children, and the parent."""
    code = f"""
    def work():
        assert fastrnn.get_num_threads() == 2
        alone = threads()
        fastrnn.set_num_threads(2)
        predict()
        assert threads() == alone + 1 == 2, threads()
        in_child(predict)
    with {around}:
        in_child(work)
        in_child(work)
    predict()
    assert threads() == 2
    """
    assert output_of(code) == ["child 0"] * 4


def test_forks_in_any_thread_while_others_compute():
    code = """
    stop = threading.Event()
    def compute():
        while not stop.is_set():
            predict()
    def work():
        fastrnn.set_num_threads(2)
        for _ in range(5):
            predict()
    others = [threading.Thread(target=compute) for _ in range(2)]
    for other in others:
        other.start()
    for _ in range(20):
        in_child(work)
    forking = threading.Thread(target=lambda: (predict(), in_child(work)))
    forking.start()
    forking.join()
    stop.set()
    for other in others:
        other.join()
    """
    assert output_of(code) == ["child 0"] * 21


def test_a_pool_that_is_in_use_is_whole_in_the_child():
    """The child finds it between two steps, and its lock free."""
    code = """
    stream = fastrnn.Sequential([fastrnn.Input((None, 8)), layers.LSTM(256), layers.Dense(4)])
    pool = stream.stream_pool(500)
    ids = [pool.open() for _ in range(500)]
    rows, stop = np.ones((500, 8), np.float32), threading.Event()
    def compute():
        while not stop.is_set():
            pool.step(ids, rows)
    def work():
        for state in pool.state(ids).values():
            assert np.array_equal(state, np.broadcast_to(state[:1], state.shape))  # all as far as one
        pool.step(ids, rows)
        pool.close(ids[0])
        pool.open()
    other = threading.Thread(target=compute)
    other.start()
    for _ in range(30):
        in_child(work)
    stop.set()
    other.join()
    pool.step(ids, rows)
    """
    assert output_of(code) == ["child 0"] * 30


def test_a_fork_within_a_step_does_not_wait_for_itself():
    code = """
    from fastrnn import _forks
    _forks.SECONDS = 0.1
    def fork_once(x):
        if os.getpid() == parent and not done:
            done.append(in_child(lambda: pool.step([pool.open()], rows[:1])))
        return x
    parent, done, rows = os.getpid(), [], np.ones((1, 8), np.float32)
    stream = fastrnn.Sequential([fastrnn.Input((None, 8)), layers.LSTM(4), layers.Lambda(fork_once)])
    pool = stream.stream_pool(3)
    done.clear()
    pool.step([pool.open()], rows)
    """
    assert output_of(code)[-1] == "child 0"


def test_a_fork_that_python_is_told_of_afterwards_keeps_to_one_thread():
    """As servers in C fork: OpenMP's threads could not be ended before."""
    code = """
    def fork():
        child = ctypes.PyDLL(None).fork()
        if not child:
            ctypes.pythonapi.PyOS_AfterFork_Child()
        return child
    def work():
        assert fastrnn.get_num_threads() == 1
        predict()
        for change in (fastrnn.set_num_threads, lambda n: fastrnn.num_threads(n).__enter__()):
            try:
                change(2)
                raise AssertionError
            except RuntimeError as error:
                assert "was forked" in str(error)
        predict()
        fastrnn.set_num_threads(1)
    in_child(work, fork)
    predict()
    assert fastrnn.get_num_threads() == 2
    """
    assert output_of(code) == ["child 0"]


SERVER = """
import concurrent.futures, multiprocessing, sys
import numpy as np
import fastrnn
from fastrnn import layers

model = fastrnn.Sequential([fastrnn.Input((20, 8)), layers.LSTM(128)])
model.set_weights([np.sin(np.arange(w.size)).reshape(w.shape) / 9 for w in model.weights])

def sums(x):
    fastrnn.set_num_threads(2)
    return model(x).sum()

if __name__ == "__main__":
    fastrnn.set_num_threads(2)
    x = np.ones((192, 20, 8), np.float32)
    expected = sums(x)
    context = multiprocessing.get_context(sys.argv[1])
    with concurrent.futures.ProcessPoolExecutor(2, context) as executor:
        assert list(executor.map(sums, [x] * 6, timeout=120)) == [expected] * 6
    with context.Pool(2) as pool:
        assert pool.map_async(sums, [x] * 6).get(120) == [expected] * 6
    assert sums(x) == expected
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(method, tmp_path):
    (tmp_path / "server.py").write_text(SERVER)
    path = os.pathsep.join([str(Path(fastrnn.__file__).parent.parent), *sys.path])
    subprocess.run(
        [sys.executable, tmp_path / "server.py", method],
        env={**os.environ, "PYTHONPATH": path},
        check=True,
        timeout=300,
    )


# What a process may take of the machine


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Write control groups' files, and have them read."""

    def write(own, **files):
        root = tmp_path / "cgroup"
        for name, content in files.items():
            path = root / name.replace("__", "/").replace("_dot_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        (tmp_path / "own").write_text(own)
        monkeypatch.setattr(_machine, "_GROUPS", root)
        monkeypatch.setattr(_machine, "_OWN_GROUPS", tmp_path / "own")
        monkeypatch.setattr(
            _machine.os, "sched_getaffinity", lambda process: set(range(8)), raising=False
        )
        return _machine.processors.__wrapped__(), _machine.memory.__wrapped__()

    return write


@pytest.mark.parametrize(
    ("quota", "threads"),
    [
        ("max 100000", 8),
        ("50000 100000", 1),
        ("150000 100000", 1),
        ("200000 100000", 2),
        ("399999 100000", 3),
        ("10000000 100000", 8),
        ("", 8),
        ("junk", 8),
        ("100000 0", 8),
    ],
)
def test_threads_of_a_container(quota, threads, groups):
    assert groups("0::/a/b\n", a__b__cpu_dot_max=quota)[0] == threads
    assert groups("0::/a/b/c\n", a__b__cpu_dot_max=quota)[0] == threads  # of the group around
    assert groups("0::/\n", cpu_dot_max=quota)[0] == threads
    assert groups("0::/not/there\n", cpu_dot_max=quota)[0] == threads  # the path on the host


def test_threads_of_a_container_of_version_1(groups):
    files = {"cpu__a__cpu_dot_cfs_quota_us": "-1\n", "cpu__cpu_dot_cfs_period_us": "100000\n"}
    assert groups("4:cpu:/a\n", **files)[0] == 8
    files = {"cpu__a__cpu_dot_cfs_quota_us": "50000", "cpu__a__cpu_dot_cfs_period_us": "100000"}
    assert groups("3:memory:/m\n4:cpu:/a\n0::/\n", **files)[0] == 1


def test_memory_of_a_container(groups):
    machine = groups("")[1]
    assert machine > 1 << 28
    assert groups("0::/a\n", a__memory_dot_max="max\n")[1] == machine
    assert groups("0::/a\n", a__memory_dot_max="1000000\n")[1] == 1_000_000
    limit = {"memory__a__memory_dot_limit_in_bytes": "2000000\n"}
    assert groups("7:memory:/a\n", **limit)[1] == 2_000_000


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="a system without cpusets")
def test_cpus_that_the_process_may_run_on():
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); import fastrnn; "
    command = [sys.executable, "-c", code + "print(fastrnn.get_num_threads())"]
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "1"


def test_limits_of_others_count_in_a_container_too():
    """A quota is no limit that somebody set: OpenMP begins with more threads."""
    code = """
import pathlib
read = pathlib.Path.read_text
files = {"cgroup": "0::/\\n", "cpu.max": "100000 100000\\n"}
pathlib.Path.read_text = lambda path, **how: files.get(path.name) or read(path, **how)
import fastrnn, threadpoolctl
print(fastrnn.get_num_threads())
fastrnn.set_num_threads(2)
with threadpoolctl.threadpool_limits(1):
    print(fastrnn.get_num_threads())
print(fastrnn.get_num_threads())
"""
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.split() == (["1", "1", "2"] if (os.cpu_count() or 1) > 1 else ["1"] * 3)
