"""The checksum CRC-32C, by which TensorFlow's files are checked, in NumPy.

The register after a word is a linear function of register XOR word, so words that are n words apart can be
brought together by one function, "n words later", that is the same for all: the data is folded in halves until
one word is left. Four tables of 256 entries are such a function, and applied to themselves its square.
"""

from functools import cache

import numpy as np

_POLYNOMIAL = 0x82F63B78
_MASK_DELTA = 0xA282EAD8
_CHUNK_WORDS = 1 << 18

Operator = np.ndarray
"""A linear function of 32 bits as the tables of its four bytes: uint32, (4, 256)."""


@cache
def _byte_table() -> np.ndarray:
    """The register after a byte, by register XOR byte, for registers of one byte."""
    table: np.ndarray = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> 1) ^ (table & 1) * np.uint32(_POLYNOMIAL)
    return table


@cache
def _words_later(power: int) -> Operator:
    """The operator that takes a register 2 ** `power` words of zeros on."""
    if power:
        half = _words_later(power - 1)
        return np.stack([_apply(half, table) for table in half])
    bytes_at = (
        np.arange(256, dtype=np.uint32)[None, :] << (8 * np.arange(4, dtype=np.uint32))[:, None]
    )
    registers = bytes_at.astype(np.uint32)
    for _ in range(4):
        registers = _byte_table()[registers & 0xFF] ^ (registers >> 8)
    return registers


def _apply(operator: Operator, words: np.ndarray) -> np.ndarray:
    lanes = words.view(np.uint8).reshape(-1, 4)
    result: np.ndarray = operator[0].take(lanes[:, 0], mode="clip")  # no byte is, and it is faster
    for i in range(1, 4):
        result ^= operator[i].take(lanes[:, i], mode="clip")
    return result


def _after_words(register: int, words: np.ndarray) -> int:
    """The register after some words."""
    size = 1 << (len(words) - 1).bit_length()
    folded = np.zeros(size, "<u4")  # zeros before the first word leave a register of zeros as it is
    folded[size - len(words) :] = words
    folded[size - len(words)] ^= register
    while size > 1:
        size //= 2
        later = _words_later(size.bit_length() - 1)
        folded = _apply(later, folded[:size]) ^ folded[size:]
    return int(_apply(_words_later(0), folded)[0])


def crc32c(data: bytes | bytearray | memoryview, start: int = 0) -> int:
    """Return the checksum of `data` behind data whose checksum is `start`."""
    register = start ^ 0xFFFFFFFF
    odd = len(data) % 4
    for byte in data[:odd]:
        register = int(_byte_table()[(register ^ byte) & 0xFF]) ^ (register >> 8)
    words = np.frombuffer(data, "<u4", offset=odd) if len(data) > odd else np.empty(0, "<u4")
    for first in range(0, len(words), _CHUNK_WORDS):
        register = _after_words(register, words[first : first + _CHUNK_WORDS])
    return register ^ 0xFFFFFFFF


def masked(checksum: int) -> int:
    """Return a checksum as it is stored: rotated and moved, since it may stand in checked data itself."""
    return (((checksum >> 15) | (checksum << 17)) + _MASK_DELTA) & 0xFFFFFFFF
