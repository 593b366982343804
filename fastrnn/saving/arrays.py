"""What the readers of stored arrays have in common."""

from typing import Protocol

import numpy as np
from numpy.typing import DTypeLike

from fastrnn.errors import ModelFormatError


class StoredArray(Protocol):
    """An array of a file that has been looked at and not read."""

    @property
    def place(self) -> str:
        """File and place in it, for messages."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The declared shape."""

    def read(self, dtype: DTypeLike) -> np.ndarray:
        """Return the data as a new array; the caller has compared `shape` with what it expects."""


def check_kind(
    stored: np.dtype, is_bfloat16: bool, shape: tuple[int, ...], wanted: np.dtype, place: str
) -> None:
    """Raise ModelFormatError unless numbers of one kind are there where that kind is wanted."""
    is_counter = shape == () and stored.kind in "iu"  # Normalization's, of what it adapted to
    if wanted.kind == "f" and stored.kind != "f" and not (is_bfloat16 or is_counter):
        raise ModelFormatError(f"{place} holds {stored}, expected {wanted}")
    if wanted.kind != "f" and stored.kind not in "iu":
        raise ModelFormatError(f"{place} holds {stored}, expected {wanted}")


def widened_bfloat16(data: np.ndarray) -> np.ndarray:
    """Return pairs of bytes that are bfloat16 as float32."""
    return (data.view("<u2").astype("<u4") << 16).view("<f4")


def converted(data: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return an array in another type, itself if it has it; what is too large for it becomes infinite."""
    with np.errstate(over="ignore"):
        return data.astype(dtype, copy=False)
