"""Long work in parts, between which Python looks at signals: Ctrl-C is not heard within a call of the core."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

SECONDS = 0.2
"""What a part is to take: short beside a second, and long beside what a part costs beyond its work."""

LEAST_OPERATIONS = 2e9
"""Multiply-adds a second that any machine does, and NumPy too: the first part's size is told from that."""

MOST_GROWTH = 8
"""Times that a part may be larger than the one before, from whose time its own is told."""


class Pace:
    """How many things, rows or timesteps, to take at a time.

    Parameters
    ----------
    operations : float
        Multiply-adds of what a thing's size counts, about; more if anything.
    """

    def __init__(self, operations: float) -> None:
        self._sizes = SECONDS * LEAST_OPERATIONS / max(operations, 1.0)

    def fitting(self, size: int) -> int:
        """Return how many things of this size a part has."""
        return max(1, int(self._sizes / size))

    def parts(self, count: int, most: int, size: int = 1) -> Iterator[slice]:
        """Yield what to take next until `count` things are taken, at most `most` at once and each of this size.

        It learns from how long it takes until more is asked for.
        """
        start = 0
        while start < count:
            wanted = self.fitting(size)
            stop = min(count, start + min(wanted, most))
            before = time.perf_counter()
            yield slice(start, stop)
            seconds = max(time.perf_counter() - before, 1e-9)
            taken = (stop - start) * size
            right = taken * SECONDS / seconds
            if right < self._sizes:
                self._sizes = right
            elif stop - start == wanted:
                self._sizes = min(right, MOST_GROWTH * taken)
            start = stop


class Joined:
    """Arrays for the whole of what comes in parts, without the parts' own memory beside them.

    Parameters
    ----------
    count : int
        How many things there will be along the axis.
    axis : int
    """

    def __init__(self, count: int, axis: int) -> None:
        self._count, self._axis = count, axis
        self._wholes: list[np.ndarray] = []

    def put(self, part: slice, arrays: list[np.ndarray]) -> None:
        """Take the arrays of a part; those of a part that is all there is, as they are."""
        if part == slice(0, self._count):
            self._wholes = arrays
            return
        axis = self._axis
        if not self._wholes:
            self._wholes = [
                np.empty((*a.shape[:axis], self._count, *a.shape[axis + 1 :]), a.dtype)
                for a in arrays
            ]
        for whole, array in zip(self._wholes, arrays, strict=True):
            whole[(slice(None),) * axis + (part,)] = array

    @property
    def arrays(self) -> list[np.ndarray]:
        """list of ndarray: the wholes."""
        return self._wholes


def uninterrupted(function: Callable[..., Any], *iterables: Iterable[Any]) -> None:
    """Call a function in C for the items of `iterables`, like `map`: for all of them, whatever signal comes.

    Python runs the handlers of signals between the steps of its own code, of which there are none here.
    """
    deque(map(function, *iterables), maxlen=0)
