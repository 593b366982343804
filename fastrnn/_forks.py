"""What happens to locks when a process forks: the child has one thread, and none that would release them."""

import os
import threading
import time
import weakref
from typing import Protocol

SECONDS = 5.0
"""How long a fork waits for locks at most: a step takes less, and who forks within one would wait for itself."""


class Locked(Protocol):
    """What has a lock that is held for as long as its states are not whole."""

    _lock: threading.Lock


_known: "weakref.WeakSet[Locked]" = weakref.WeakSet()
_held: list[Locked] = []


def keep_whole(locked: Locked) -> None:
    """Let forks wait for the lock of an object, so that its states in the child are whole and its lock is free."""
    _known.add(locked)


def _hold() -> None:
    deadline = time.monotonic() + SECONDS
    for one in list(_known):
        if one._lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
            _held.append(one)


def _release() -> None:
    while _held:
        _held.pop()._lock.release()


def _renew() -> None:
    _held.clear()
    for one in list(_known):
        one._lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_renew)
