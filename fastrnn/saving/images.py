"""Files within files: parts of an archive as binary files of their own, without copies."""

import io
import math
from typing import Protocol

import numpy as np


class SeekableFile(Protocol):
    """What is needed of an open file."""

    def seek(self, offset: int, whence: int = 0, /) -> int: ...
    def readinto(self, buffer: memoryview, /) -> int | None: ...


class _Content(io.RawIOBase):
    """A binary file to be read from anywhere, of which a subclass gives the bytes from one offset to another."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._place = 0

    def _fill(self, buffer: memoryview, offset: int) -> None:
        """Put the bytes from `offset` on into `buffer`, all of which are there."""
        raise NotImplementedError

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        starts = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self.size}
        self._place = max(0, starts[whence] + offset)
        return self._place

    def readinto(self, buffer: "memoryview | bytearray") -> int:  # type: ignore[override]
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self.size - self._place))
        self._fill(view[:count], self._place)
        self._place += count
        return count


class Window(_Content):
    """A part of an open file, which nobody else reads meanwhile."""

    def __init__(self, file: SeekableFile, start: int, size: int) -> None:
        super().__init__(size)
        self._file, self._start = file, start

    def _fill(self, buffer: memoryview, offset: int) -> None:
        self._file.seek(self._start + offset)
        filled = 0
        while filled < len(buffer):
            count = self._file.readinto(buffer[filled:])
            if not count:
                raise OSError("the file has become shorter")
            filled += count


class Image(_Content):
    """Bytes in memory of their own.

    Attributes
    ----------
    buffer : memoryview
        To be filled before anything is read.
    shared : bool
        Whether arrays may be parts of it, which keep all of it alive.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.buffer = memoryview(np.empty(size, np.uint8).data)
        self.shared = False

    def _fill(self, buffer: memoryview, offset: int) -> None:
        buffer[:] = self.buffer[offset : offset + len(buffer)]

    def array(self, offset: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Return the array that lies at `offset`, read-only; ValueError if it does not lie within the image."""
        array = np.frombuffer(self.buffer, dtype, math.prod(shape), offset).reshape(shape)
        array.flags.writeable = False
        return array
