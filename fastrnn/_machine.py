"""What this process may take of the machine: processors and memory, with the limits of a container."""

import functools
import os
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")
_NO_LIMIT = 1 << 60
"""Where version 1 of control groups says so many bytes or more, there is no limit."""


def cpus() -> int:
    """Return on how many CPUs the process may run: as many threads has OpenMP at first."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on every system
    return os.cpu_count() or 1 if affinity is None else len(affinity(0))


@functools.cache
def processors() -> int:
    """Return how many threads can run at once: as many as there are CPUs that the process may use, and time for.

    A control group's quota counts in whole CPUs, at least one: of half a CPU, two threads would get a quarter each.
    """
    quotas = [quota for quota in map(_quota, _folders("cpu")) if quota is not None]
    return max(1, min([cpus(), *(int(quota) for quota in quotas)]))


@functools.cache
def memory() -> int:
    """Return how many bytes of memory the process may take: the machine's, or less in a container."""
    limits = [limit for limit in map(_memory_limit, _folders("memory")) if limit is not None]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(limits, default=1 << 32)


def _folders(controller: str) -> list[Path]:
    """Return the folders of the control groups that the process is in, of either version, from its own to the root.

    In a container the own group's path may be that on the host, which is not there: its root is the own group then.
    """
    folders: dict[Path, None] = {}
    for line in (_read(_OWN_GROUPS) or "").splitlines():
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if number == "0" and not names:
            root = _GROUPS
        elif controller in names.split(","):
            root = _GROUPS / controller
        else:
            continue
        own = root / path.strip("/")
        folders.update(dict.fromkeys([own, *own.parents[: len(own.parts) - len(root.parts)]]))
    return list(folders)


def _quota(folder: Path) -> float | None:
    """Return how many CPUs' time the group may take, None for any."""
    limit, _, period = (_read(folder / "cpu.max") or "").strip().partition(" ")
    if not limit:
        limit = (_read(folder / "cpu.cfs_quota_us") or "").strip()
        period = (_read(folder / "cpu.cfs_period_us") or "").strip()
    if not (limit.isdecimal() and period.isdecimal() and int(period)):
        return None  # "max", "-1", or no such group
    return int(limit) / int(period)


def _memory_limit(folder: Path) -> int | None:
    for name in ("memory.max", "memory.limit_in_bytes"):
        limit = (_read(folder / name) or "").strip()
        if limit.isdecimal() and int(limit) < _NO_LIMIT:
            return int(limit)
    return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
