"""Reading the sorted tables, of LevelDB's kind, that list what TensorFlow's checkpoints hold."""

from collections.abc import Iterator

from fastrnn.errors import ModelFormatError
from fastrnn.saving.crc32c import crc32c, masked
from fastrnn.saving.protobuf import read_varint

MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")
MAX_ENTRIES = 1_000_000
MAX_KEYS_BYTES = 64 << 20
ENTRY_BYTES = 400
"""What Python takes for an entry, of four bytes or more, beside its key."""

_FOOTER_BYTES = 48
_TRAILER_BYTES = 5
_COMPRESSIONS = {1: "Snappy"}

Handle = tuple[int, int]
"""Where a block starts, and its size."""


def read_table(data: bytes, place: str, max_bytes: int) -> dict[bytes, memoryview]:
    """Return the values of a table by their keys, which together take at most `max_bytes` of memory.

    Raises
    ------
    ModelFormatError
        If it is damaged, or compressed.
    """
    if len(data) < _FOOTER_BYTES or not data.endswith(MAGIC):
        raise ModelFormatError(f"{place} is no table of TensorFlow's, or not all of it")
    content = memoryview(data)
    footer = content[-_FOOTER_BYTES:]
    _, position = _read_handle(footer, 0, place)  # of a block about blocks
    index, _ = _read_handle(footer, position, place)
    table: dict[bytes, memoryview] = {}
    keys_bytes = 0
    most_entries = min(MAX_ENTRIES, max_bytes // ENTRY_BYTES)
    most_keys_bytes = min(MAX_KEYS_BYTES, max_bytes)
    last_key: bytes | None = None
    for _, value in _entries(_block(content, index, place), place):
        handle, _ = _read_handle(value, 0, place)
        for key, entry in _entries(_block(content, handle, place), place):
            if last_key is not None and key <= last_key:
                raise ModelFormatError(f"{place} is damaged: its keys are not in order")
            last_key = key
            keys_bytes += len(key)
            if len(table) >= most_entries or keys_bytes > most_keys_bytes:
                raise ModelFormatError(
                    f"{place} has more than {most_entries} entries, or keys of more than {most_keys_bytes} bytes; "
                    "see max_bytes of load_model"
                )
            table[key] = entry
    return table


def _read_handle(data: memoryview, position: int, place: str) -> tuple[Handle, int]:
    start, position = read_varint(data, position, place)
    size, position = read_varint(data, position, place)
    return (start, size), position


def _block(content: memoryview, handle: Handle, place: str) -> memoryview:
    start, size = handle
    end = start + size
    if end + _TRAILER_BYTES > len(content) - _FOOTER_BYTES:
        raise ModelFormatError(f"{place} is damaged: a block ends at byte {end}, behind its end")
    compression = content[end]
    if compression:
        kind = _COMPRESSIONS.get(compression, f"the method {compression}")
        raise ModelFormatError(
            f"{place} is compressed by {kind}, which TensorFlow's own writer never does; "
            "load the weights in TensorFlow and save them again"
        )
    stored = int.from_bytes(content[end + 1 : end + _TRAILER_BYTES], "little")
    if masked(crc32c(content[start : end + 1])) != stored:
        raise ModelFormatError(f"{place} is damaged: a block has another checksum")
    return content[start:end]


def _entries(block: memoryview, place: str) -> Iterator[tuple[bytes, memoryview]]:
    """Yield keys and values; of a key only what differs from the one before it is stored."""
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 * (restarts + 1)
    if len(block) < 4 or end < 0:
        raise ModelFormatError(f"{place} is damaged: a block of {len(block)} bytes")
    position, key = 0, b""
    while position < end:
        shared, position = read_varint(block, position, place)
        unshared, position = read_varint(block, position, place)
        value_size, position = read_varint(block, position, place)
        value_start = position + unshared
        if shared > len(key) or value_start + value_size > end:
            raise ModelFormatError(f"{place} is damaged: an entry at byte {position} of a block")
        key = key[:shared] + bytes(block[position:value_start])
        position = value_start + value_size
        yield key, block[value_start:position]
