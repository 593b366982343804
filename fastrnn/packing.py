"""Weights in the order in which the kernels read them.

A matrix (depth, gates * units), gates in Keras's order, is cut into panels of a few units with the columns of all their
gates side by side. `lanes` and `tile_vectors`, which a build of the kernels fixes, say how wide they are.
"""

from typing import Any, NamedTuple

import numpy as np

CACHE_LINE = 64

Matrix = np.ndarray[Any, np.dtype[Any]]


class Cut(NamedTuple):
    """How a matrix is cut into panels."""

    gates: int
    """Columns of a unit."""
    units: int
    """Units of a full panel; the last one may have fewer."""
    n_panels: int
    last_units: int
    width: int
    """Numbers in a row of a full panel, a multiple of the lanes."""
    last_width: int
    total: int
    """Numbers in a row of all panels."""

    def panel(self, number: int) -> tuple[int, int]:
        """Return the units and the width of a panel."""
        last = number == self.n_panels - 1
        return (self.last_units, self.last_width) if last else (self.units, self.width)


def cut(gates: int, units: int, lanes: int, tile_vectors: int) -> Cut:
    """Return panels as wide as a tile allows, for `units` units of `gates` columns each."""
    of_panel = lanes * (tile_vectors // gates)
    n_panels = -(-units // of_panel)
    last_units = units - (n_panels - 1) * of_panel
    width, last_width = gates * of_panel, -(-gates * last_units // lanes) * lanes
    total = (n_panels - 1) * width + last_width
    return Cut(gates, of_panel, n_panels, last_units, width, last_width, total)


def aligned_zeros(size: int, dtype: np.dtype[Any]) -> Matrix:
    """Return `size` zeros that start on a cache line."""
    raw = np.zeros(size + CACHE_LINE // dtype.itemsize, dtype)
    start = -raw.ctypes.data % CACHE_LINE // dtype.itemsize
    return raw[start : start + size]


def panel_columns(panels: Cut, matrix: Matrix) -> Matrix:
    """Return the columns of `matrix`, (depth, gates * units), in panel order, zeros in the padding: (depth, total)."""
    depth, columns = matrix.shape
    by_gate = matrix.reshape(depth, panels.gates, columns // panels.gates)
    ordered = np.zeros((depth, panels.total), matrix.dtype)
    for number in range(panels.n_panels):
        first, (count, _) = number * panels.units, panels.panel(number)
        block = by_gate[:, :, first : first + count].reshape(depth, panels.gates * count)
        start = number * panels.width
        ordered[:, start : start + block.shape[1]] = block
    return ordered


def pack(panels: Cut, matrix: Matrix) -> Matrix:
    """Return `matrix`, (depth, gates * units), as panels one after the other, each (depth, width)."""
    depth = len(matrix)
    ordered = panel_columns(panels, matrix)
    packed = aligned_zeros(ordered.size, ordered.dtype)
    for number in range(panels.n_panels):
        first, (_, width) = number * panels.width, panels.panel(number)
        packed[first * depth : (first + width) * depth] = ordered[:, first : first + width].ravel()
    return packed


def pack_bias(panels: Cut, bias: Matrix | None, dtype: np.dtype[Any]) -> Matrix:
    """Return a bias, (gates * units,), in panel order; zeros for None."""
    packed = aligned_zeros(panels.total, dtype)
    if bias is not None:
        packed[:] = panel_columns(panels, np.reshape(bias, (1, -1)))[0]
    return packed


def pack_columns(
    matrix: Matrix, bias: Matrix | None, gates: int, group_rows: int
) -> tuple[Matrix, Matrix]:
    """Return the columns and biases for rows of the batch in the lanes of vectors.

    The columns are (columns, depth), those of a unit's gates side by side, and each bias stands there `group_rows`
    times.
    """
    units = matrix.shape[1] // gates
    by_unit = np.arange(gates * units).reshape(gates, units).T.ravel()
    weights = aligned_zeros(matrix.size, matrix.dtype)
    weights[:] = matrix.T[by_unit].ravel()
    start = aligned_zeros(gates * units * group_rows, matrix.dtype)
    if bias is not None:
        start[:] = np.repeat(bias[by_unit], group_rows)
    return weights, start


def to_words(numbers: Matrix, count: int) -> Matrix:
    """Return (depth, columns) of 16 or 8 bits as float32 words, (words, columns), of `count` numbers each.

    The numbers of a word are next to each other in depth, zeros in the padding.
    """
    depth, columns = numbers.shape
    padded = np.zeros((-(-depth // count) * count, columns), numbers.dtype)
    padded[:depth] = numbers
    words = np.ascontiguousarray(padded.reshape(-1, count, columns).swapaxes(1, 2))
    return words.view(np.float32)[..., 0]


def to_bfloat16(matrix: Matrix) -> Matrix:
    """Return float32 numbers as the bits of the nearest bfloat16, an even one halfway between two; a NaN stays one."""
    bits = np.ascontiguousarray(matrix, np.float32).view(np.uint32)
    rounded = (bits.astype(np.uint64) + 0x7FFF + ((bits >> 16) & 1) >> 16).astype(np.uint16)
    return np.where(np.isnan(matrix), np.uint16(0x7FC0), rounded)


def to_int8(matrix: Matrix) -> tuple[Matrix, Matrix]:
    """Return (depth, columns) as int8 numbers and what 1 stands for in each column, (1, columns).

    The largest magnitude of a column becomes 127; what is not finite becomes 0.
    """
    with np.errstate(all="ignore"):
        largest = np.abs(matrix).max(axis=0, keepdims=True) / matrix.dtype.type(127)
        whole = np.nan_to_num(np.rint(matrix / largest), nan=0, posinf=0, neginf=0)
    return whole.astype(np.int8), largest
