"""Looking at what HDF5 would loop over without end: the heaps that hold texts of varying length.

The library goes from object to object of a heap by their sizes, and does not notice one that leads nowhere.
"""

import struct
from collections.abc import Iterator
from typing import BinaryIO

from fastrnn.errors import ModelFormatError

BLOCK_BYTES = 1 << 20

_START = b"GCOL\x01\x00\x00\x00"
"""Signature and version; numbers of weights that look so by chance are one in 2**64."""

_HEADER = struct.Struct("<8sQ")
"""Of a heap: `_START`, its size with the header."""

_OBJECT = struct.Struct("<HHIQ")
"""Before an object: its number, 0 for free space; references; nothing; its size."""


def check_heaps(file: BinaryIO, label: str) -> None:
    """Raise ModelFormatError unless every heap in an HDF5 file with sizes of 8 bytes can be walked through.

    Parameters
    ----------
    file : binary file
    label : str
        What messages call it.
    """
    for place in _places_of(_START, file):
        file.seek(place)
        size = _HEADER.unpack(file.read(_HEADER.size).ljust(_HEADER.size))[1]
        at = _HEADER.size
        while at + _OBJECT.size <= size:
            file.seek(place + at)
            described = file.read(_OBJECT.size)
            if len(described) < _OBJECT.size:
                raise ModelFormatError(f"{label}: a heap of texts is cut off")
            number, _, _, object_size = _OBJECT.unpack(described)
            padded = (object_size + 7) // 8 * 8
            taken = _OBJECT.size + padded if number else object_size
            if not _OBJECT.size <= taken <= size - at:
                raise ModelFormatError(f"{label}: a heap of texts is damaged")
            at += taken


def _places_of(signature: bytes, file: BinaryIO) -> Iterator[int]:
    """Yield where a file holds `signature`."""
    start, kept = 0, b""
    while True:
        file.seek(start)
        block = file.read(BLOCK_BYTES)
        if not block:
            return
        whole = kept + block
        found = whole.find(signature)
        while found >= 0:
            yield start - len(kept) + found
            found = whole.find(signature, found + 1)
        start += len(block)
        kept = whole[1 - len(signature) :]
