"""Which build of the kernels runs here, and on how many threads: the one place where both are decided."""

import contextlib
import ctypes
import functools
import os
import platform
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fastrnn import _core, _machine

ISA_VARIABLE = "FASTRNN_ISA"
MOST_THREADS = 1024


@functools.cache
def isa() -> str:
    """Return the instruction set in use: "base", "v3" or "v4".

    It is the best one that was built and that the CPU has, or what the environment variable FASTRNN_ISA says.

    Raises
    ------
    ImportError
        If FASTRNN_ISA names one that was not built or that the CPU lacks.
    """
    available = list(dict.fromkeys(level for level, _ in _core.BUILDS))
    forced = os.environ.get(ISA_VARIABLE)
    if forced is None:
        return available[0]
    if forced not in available:
        raise ImportError(
            f"{ISA_VARIABLE}={forced}: expected one of {', '.join(available)} on this machine"
        )
    return forced


def build_for(dtype: DTypeLike | None) -> _core.Build:
    """Return the build of the kernels that computes in `dtype`, float32 or float64, here."""
    return _core.BUILDS[isa(), 8 * np.dtype(dtype).itemsize]


def _requested_threads() -> int | None:
    requested = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return int(requested) if requested.isdecimal() and int(requested) > 0 else None


_of_openmp = min(_requested_threads() or _machine.cpus(), MOST_THREADS)
_threads_here: ContextVar[int | None]


def _checked(n: int) -> int:
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
        raise ValueError(f"expected a positive integer as the number of threads; got {n!r}")
    if n > MOST_THREADS:
        raise ValueError(f"expected at most {MOST_THREADS} threads; got {n}")
    if n > 1 and _keeps_to_one:
        raise RuntimeError(
            f"expected one thread; got {n}: this process was forked, and the threads of the process before could not "
            "be ended, without which OpenMP hangs; start processes by multiprocessing's spawn or forkserver"
        )
    return int(n)


def set_num_threads(n: int) -> None:
    """Let every call of this process use at most `n` threads.

    The default is OMP_NUM_THREADS, or the number of CPUs that the process may run on, less in a container that may
    use less of their time: one thread for half a CPU. A forked process has the number of the one before. Small calls
    use one thread whatever `n` is, and calls that run at once, from several threads of Python, share the `n`.

    `num_threads` sets another number for a part of the program. Where something else has told OpenMP to use fewer
    threads than it began with, such as ``threadpoolctl.threadpool_limits``, that is a limit, too: OpenMP keeps it for
    the thread of Python that set it.

    Parameters
    ----------
    n : int
        At least 1.

    Raises
    ------
    ValueError
        If `n` is not an integer from 1 to MOST_THREADS.
    RuntimeError
        If this process was forked and OpenMP's threads before could not be ended: it can use one thread.
    """
    _core.set_num_threads(_checked(n))


@contextlib.contextmanager
def num_threads(n: int) -> Iterator[None]:
    """Let calls inside the ``with`` use at most `n` threads, in this thread of Python or asyncio task only.

    It goes before `set_num_threads`, whether `n` is less or more, and an inner one goes before an outer one. Threads
    that are started inside begin with the number of the process; asyncio's tasks and ``asyncio.to_thread`` begin with
    `n`.

    Parameters
    ----------
    n : int
        At least 1.

    Raises
    ------
    ValueError
        If `n` is not an integer from 1 to MOST_THREADS.
    RuntimeError
        If this process was forked and OpenMP's threads before could not be ended: it can use one thread.
    """
    here = _threads_here
    before = here.get()
    here.set(_checked(n))
    try:
        yield
    finally:
        here.set(before)


def get_num_threads() -> int:
    """Return the most threads that a call may use, here: in this thread of Python or asyncio task."""
    return _core.get_num_threads()


def _forget_contexts() -> None:
    global _threads_here
    _threads_here = ContextVar("fastrnn.num_threads", default=None)
    _core.use_limits(_threads_here, _of_openmp)


# GNU OpenMP hangs in a child that was forked after its parent had started threads (GCC bug 58378). Ended before the
# fork, they are started anew by the next call that needs them, in the parent and in the child.

_OMP_PAUSE_HARD = 2
_keeps_to_one = False
_threads_ended = False


def _end_threads() -> None:
    """Have OpenMP end the threads that this thread of Python has started."""
    global _threads_ended
    try:
        openmp = ctypes.CDLL(
            _core.__file__
        )  # the core's own symbols and those that it takes from OpenMP
        _threads_ended = openmp.omp_pause_resource_all(_OMP_PAUSE_HARD) == 0
    except (OSError, AttributeError):  # an OpenMP before 5.0
        _threads_ended = False


def _begin_in_child() -> None:
    """Keep to one thread, whatever `num_threads` said in the parent, if that is all that works.

    So it is too where a program in C forks and tells Python only after it.
    """
    global _keeps_to_one, _threads_ended
    if not _threads_ended:
        _keeps_to_one = True
        _forget_contexts()
        _core.set_num_threads(1)
    _threads_ended = False


_forget_contexts()
_core.set_num_threads(min(_requested_threads() or _machine.processors(), MOST_THREADS))
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_end_threads, after_in_child=_begin_in_child)


def show_config() -> dict[str, Any]:
    """Print what runs here: versions, instruction sets and threads.

    Returns
    -------
    dict
        The same as strings, numbers and lists.
    """
    import scipy

    from fastrnn import __version__

    config = {
        "fastrnn": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "machine": platform.machine(),
        "isa": isa(),
        "isa_built": _core.levels_built(),
        "vector_bytes": build_for(np.float32).vector_bytes,
        "dot_products": list(build_for(np.float32).dot_products),
        "threads": get_num_threads(),
    }
    for name, value in config.items():
        print(f"{name:13} {value}")
    return config
