"""The bytes that states of streams are saved as: numbers with a description, and nothing that could run.

A snapshot is MAGIC, the length of the description and the CRC-32 of all that follows it, each 4 bytes, the lowest
first; then the description, JSON in UTF-8; then the arrays' numbers one after the other, C-contiguous, the lowest
byte first. The description has "batch_size", and "states" and "start", lists of [name, dtype, shape] in the order of
the numbers.
"""

import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

MAGIC = b"fastrnn stream 1\n"
MOST_DESCRIPTION_BYTES = 1 << 20
MOST_AXES = 32
DTYPES = {
    "bool": "|b1",
    **{f"float{8 * size}": f"<f{size}" for size in (4, 8)},
    **{f"int{8 * size}": f"<i{size}" for size in (1, 2, 4, 8)},
    **{f"uint{8 * size}": f"<u{size}" for size in (1, 2, 4, 8)},
}
"""The dtypes that states and inputs have, as they are written."""


@dataclass(frozen=True)
class Snapshot:
    """What a snapshot holds: for `batch_size` sequences their states, and what was given at the start, by name."""

    batch_size: int
    states: dict[str, np.ndarray]
    start: dict[str, np.ndarray]


def pack(
    batch_size: int, states: Mapping[str, np.ndarray], start: Mapping[str, np.ndarray]
) -> bytes:
    """Return the snapshot of states and of what was given at the start."""
    described: dict[str, Any] = {"batch_size": batch_size}
    numbers = []
    for part, arrays in (("states", states), ("start", start)):
        described[part] = [
            [name, array.dtype.name, list(array.shape)] for name, array in arrays.items()
        ]
        for array in arrays.values():
            numbers.append(np.asarray(array, DTYPES[array.dtype.name]).tobytes())
    description = json.dumps(described).encode()
    body = description + b"".join(numbers)
    lengths = len(description).to_bytes(4, "little") + zlib.crc32(body).to_bytes(4, "little")
    return MAGIC + lengths + body


def unpack(data: bytes) -> Snapshot:
    """Return what a snapshot holds, in memory of no more than its size.

    Raises
    ------
    ValueError
        If it is none, is damaged, or contradicts itself.
    """
    start = len(MAGIC) + 8
    if data[: len(MAGIC)] != MAGIC or len(data) < start:
        raise ValueError(f"snapshot: expected bytes that begin with {MAGIC!r}; got {data[:20]!r}")
    length = int.from_bytes(data[start - 8 : start - 4], "little")
    body = data[start:]
    if zlib.crc32(body) != int.from_bytes(data[start - 4 : start], "little"):
        raise ValueError(
            "snapshot: its bytes are damaged or cut off: their check sum is another one"
        )
    if length > min(MOST_DESCRIPTION_BYTES, len(body)):
        raise ValueError(f"snapshot: a description of {length} bytes in {len(body)}")
    try:
        described = json.loads(body[:length].decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"snapshot: its description is no JSON: {error}") from None
    if not isinstance(described, dict) or set(described) != {"batch_size", "states", "start"}:
        raise ValueError("snapshot: expected a description of batch_size, states and start")
    batch_size = described["batch_size"]
    if type(batch_size) is not int or not 0 < batch_size < 1 << 31:
        raise ValueError(f"snapshot: expected a batch size from 1 to 2**31 - 1; got {batch_size!r}")
    place = length
    parts: dict[str, dict[str, np.ndarray]] = {"states": {}, "start": {}}
    for part, arrays in parts.items():
        entries = described[part]
        for entry in entries if isinstance(entries, list) else [None]:
            name, dtype, shape = _checked(entry, part)
            if name in arrays or not shape or shape[0] != batch_size:
                raise ValueError(
                    f"snapshot: {name!r}: expected one array of {batch_size} rows; got shape {tuple(shape)}"
                )
            count = math.prod(shape)
            end = place + count * dtype.itemsize
            if end > len(body):
                raise ValueError(
                    f"snapshot: {name!r} of shape {tuple(shape)} is larger than its bytes"
                )
            read = np.frombuffer(body, dtype, count, place).reshape(shape)
            arrays[name] = read.astype(dtype.newbyteorder("="))
            place = end
    if place != len(body):
        raise ValueError(f"snapshot: {len(body) - place} bytes more than it describes")
    return Snapshot(batch_size, parts["states"], parts["start"])


def _checked(entry: Any, part: str) -> tuple[str, np.dtype, list[int]]:
    """The name, dtype and shape of an entry of a description."""
    if isinstance(entry, list) and len(entry) == 3:
        name, dtype, shape = entry
        known = isinstance(name, str) and isinstance(dtype, str) and dtype in DTYPES
        fits = isinstance(shape, list) and len(shape) <= MOST_AXES
        if known and fits and all(type(size) is int and 0 <= size < 1 << 40 for size in shape):
            return name, np.dtype(DTYPES[dtype]), shape
    raise ValueError(f"snapshot: expected {part} as [name, dtype, shape]; got {str(entry)[:80]}")
