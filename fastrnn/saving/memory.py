"""How much memory loading may take where the caller does not say."""

from fastrnn import _machine

LEAST = 64 << 20
"""Bytes that any file may take, however small."""

TIMES_FILE = 100
"""Bytes that may be taken for one byte of a file: what is compressed takes more than the file, float16 and int4 too."""

SHARE_OF_MEMORY = 0.75

TIMES_JSON = 16
"""Bytes that Python's objects take for a byte of JSON."""


def default_max_bytes(file_bytes: int) -> int:
    """Return how many bytes the weights in files of so many bytes may take."""
    return int(min(max(LEAST, TIMES_FILE * file_bytes), SHARE_OF_MEMORY * _machine.memory()))
