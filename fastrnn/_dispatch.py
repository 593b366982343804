"""Which build of the kernels runs here, and on how many threads: the one place where both are decided."""

import contextlib
import functools
import os
import platform
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fastrnn import _core

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


def _default_threads() -> int:
    requested = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if requested.isdecimal() and int(requested) > 0:
        return min(int(requested), MOST_THREADS)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_default = _default_threads()
_threads_here: ContextVar[int | None]


def _checked(n: int) -> int:
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
        raise ValueError(f"expected a positive integer as the number of threads; got {n!r}")
    if n > MOST_THREADS:
        raise ValueError(f"expected at most {MOST_THREADS} threads; got {n}")
    return int(n)


def set_num_threads(n: int) -> None:
    """Let every call of this process use at most `n` threads.

    The default is OMP_NUM_THREADS, or the number of CPUs that the process may run on. Small calls use one thread
    whatever `n` is, and calls that run at once, from several threads of Python, share the `n`.

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
    _core.use_limits(_threads_here, _default)


def _use_one_thread() -> None:
    """Let a forked child use one thread, whatever `num_threads` said in the parent.

    GNU OpenMP hangs in a child that was forked after its parent had started threads (GCC bug 58378).
    """
    _forget_contexts()
    _core.set_num_threads(1)


_forget_contexts()
_core.set_num_threads(_default)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_use_one_thread)


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
