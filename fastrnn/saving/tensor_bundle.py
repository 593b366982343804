"""Reading the arrays of TensorFlow's checkpoints: a table of what there is, and files that hold the numbers."""

import contextlib
import io
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import DTypeLike

from fastrnn.errors import ModelFormatError
from fastrnn.saving import arrays
from fastrnn.saving.crc32c import crc32c, masked
from fastrnn.saving.images import Image
from fastrnn.saving.members import LFS_POINTER
from fastrnn.saving.protobuf import Message, read_varint
from fastrnn.saving.sstable import read_table

if TYPE_CHECKING:
    from fastrnn.saving.archive import Archive

INDEX = ".index"
MAX_INDEX_BYTES = 64 << 20
MAX_SHARDS = 1000
MAX_STRING_BYTES = 256 << 20

_FORMAT_VERSION = 1
_STRING = 7
_BFLOAT16 = 14
_DTYPES = {
    1: "<f4",
    2: "<f8",
    3: "<i4",
    4: "<u1",
    5: "<i2",
    6: "<i1",
    9: "<i8",
    10: "?",
    _BFLOAT16: "<u2",
    17: "<u2",
    19: "<f2",
    22: "<u4",
    23: "<u8",
}
"""TensorFlow's numbers for types of numbers."""


@contextlib.contextmanager
def open_bundle(
    archive: "Archive", prefix: str, file_bytes: int, max_bytes: int
) -> "Iterator[TensorBundle]":
    """Open the files of one checkpoint.

    Parameters
    ----------
    archive : Archive
        Where they lie.
    prefix : str
        What their names start with: ``prefix.index``, ``prefix.data-00000-of-00001``.
    file_bytes : int
        Their size, or that of the file that they lie in.
    max_bytes : int
        What is unpacked of them, and the table of what they hold, may take so many bytes, each of the two.
    """
    with contextlib.ExitStack() as stack:
        yield TensorBundle(archive, prefix, file_bytes, max_bytes, stack)


class TensorBundle:
    """The arrays of a checkpoint, by their keys.

    Attributes
    ----------
    place : str
        The file with the table, for messages.
    file_bytes, max_bytes : int
        As for `open_bundle`.
    """

    def __init__(
        self,
        archive: "Archive",
        prefix: str,
        file_bytes: int,
        max_bytes: int,
        stack: contextlib.ExitStack,
    ) -> None:
        self.file_bytes = file_bytes
        self.max_bytes = max_bytes
        self._left_to_unpack = max_bytes
        self._archive = archive
        self._prefix = prefix
        self._stack = stack
        self._files: dict[int, io.BufferedIOBase | io.RawIOBase] = {}
        self.place = f"{archive.path}: {prefix}{INDEX}"
        index = archive.read(prefix + INDEX, min(MAX_INDEX_BYTES, max_bytes))
        if index is None:
            raise ModelFormatError(f"{archive.path} has no {prefix}{INDEX}")
        _refuse_pointer(index, self.place)
        self._entries = read_table(index, self.place, max_bytes)
        header = Message(self._entries.get(b"", b""), self.place)
        self._n_files = header.number(1)
        if not 1 <= self._n_files <= MAX_SHARDS:
            raise ModelFormatError(
                f"{self.place} tells of {self._n_files} files, expected 1 to {MAX_SHARDS}"
            )
        if header.number(2):
            raise ModelFormatError(f"{self.place} is of a big-endian machine, which is not read")
        if header.message(3).number(2) > _FORMAT_VERSION:
            raise ModelFormatError(f"{self.place} is of a newer format than is known")

    def array(self, key: str) -> "BundleArray | None":
        """Return an array, not read yet, or None if there is none."""
        entry = self._entry(key)
        return None if entry is None else BundleArray(self, entry)

    def string(self, key: str) -> bytes | None:
        """Return the bytes of an array that is one string, or None if there is none."""
        entry = self._entry(key)
        if entry is None:
            return None
        place = entry.place
        if entry.number(1) != _STRING or _shape(entry) != ():
            raise ModelFormatError(f"{place} is not one string")
        most = min(MAX_STRING_BYTES, self.max_bytes)
        if entry.number(5) > most:
            raise ModelFormatError(
                f"{place} is larger than {most} bytes; see max_bytes of load_model"
            )
        data = memoryview(self.read(entry))
        length, start = read_varint(data, 0, place)
        text = data[start + 4 :]
        if len(text) != length:
            raise ModelFormatError(f"{place} has {len(text)} bytes, {length} are declared")
        checked_length = length.to_bytes(4 if length < 1 << 32 else 8, "little")
        check = masked(crc32c(checked_length))
        checksum = crc32c(text, crc32c(check.to_bytes(4, "little"), crc32c(checked_length)))
        if check != int.from_bytes(data[start : start + 4], "little"):
            raise ModelFormatError(f"{place} is damaged: its length has another checksum")
        _compare_checksum(entry, checksum)
        return bytes(text)

    def _entry(self, key: str) -> Message | None:
        value = self._entries.get(key.encode())
        if not key or value is None:
            return None
        entry = Message(value, f"{self.place}, {key[:200]}")
        if entry.parts(7):
            raise ModelFormatError(f"{entry.place} is stored in slices, which are not read")
        return entry

    def read(self, entry: Message) -> bytearray:
        """Return the bytes that an entry of the table tells of; they are nobody else's."""
        file = self._file(entry.number(3))
        offset, size = entry.number(4), entry.number(5)
        held = file.seek(0, 2)
        if offset < 0 or size < 0 or offset + size > held:
            raise ModelFormatError(
                f"{entry.place} tells of bytes {offset} to {offset + size} of a file of {held}"
            )
        file.seek(offset)
        data = bytearray(size)
        count = file.readinto(data)
        if count != size:
            raise ModelFormatError(f"{entry.place} tells of {size} bytes, {count} can be read")
        return data

    def _file(self, number: int) -> io.BufferedIOBase | io.RawIOBase:
        if not 0 <= number < self._n_files:
            raise ModelFormatError(f"{self.place} tells of file {number} of {self._n_files} files")
        if number not in self._files:
            name = f"{self._prefix}.data-{number:05}-of-{self._n_files:05}"
            file = self._archive.stream(name, self._left_to_unpack)
            if file is None:
                raise ModelFormatError(f"{self._archive.path} has no {name}")
            if isinstance(file, Image):
                self._left_to_unpack -= file.size
            self._stack.enter_context(file)
            self._files[number] = file
            _refuse_pointer(file.read(len(LFS_POINTER)) or b"", f"{self._archive.path}: {name}")
        return self._files[number]


class BundleArray:
    """An array that has been looked at and not read.

    Attributes
    ----------
    place : str
        File and key, for messages.
    shape : tuple of int
    """

    def __init__(self, bundle: TensorBundle, entry: Message) -> None:
        self._bundle = bundle
        self._entry = entry
        self.place = entry.place
        self.shape = _shape(entry)
        kind = entry.number(1)
        if kind not in _DTYPES:
            raise ModelFormatError(f"{self.place} holds TensorFlow's type {kind}, expected numbers")
        self._is_bfloat16 = kind == _BFLOAT16
        self._dtype = np.dtype(_DTYPES[kind])
        size = math.prod(self.shape) * self._dtype.itemsize
        if entry.number(5) != size:
            raise ModelFormatError(
                f"{self.place} of shape {self.shape} takes {size} bytes, {entry.number(5)} are declared"
            )

    def read(self, dtype: DTypeLike) -> np.ndarray:
        """Return the data as a new array of `dtype`; floating types are converted to one another.

        The caller has compared ``shape`` with what it expects.
        """
        dtype = np.dtype(dtype)
        arrays.check_kind(self._dtype, self._is_bfloat16, self.shape, dtype, self.place)
        content = self._bundle.read(self._entry)
        _compare_checksum(self._entry, crc32c(content))
        data = np.frombuffer(content, self._dtype).reshape(self.shape)
        if self._is_bfloat16:
            data = arrays.widened_bfloat16(data)
        return arrays.converted(data, dtype)


def _refuse_pointer(start: bytes, place: str) -> None:
    if start.startswith(LFS_POINTER):
        raise ModelFormatError(f"{place} is a Git LFS pointer, not the file it stands for")


def _shape(entry: Message) -> tuple[int, ...]:
    shape = tuple(size.number(1) for size in entry.message(2).messages(2))
    if len(shape) > 32 or any(size < 0 for size in shape) or entry.message(2).number(3):
        raise ModelFormatError(f"{entry.place} has no shape that an array can have")
    return shape


def _compare_checksum(entry: Message, checksum: int) -> None:
    if entry.number(6) != masked(checksum):
        raise ModelFormatError(f"{entry.place} is damaged: its data has another checksum")
