"""Products of any number of rows with the packed panels of a layer."""
from fastrnn.kernels.layers cimport Panels, Weights, panel_width
from fastrnn.kernels.simd cimport MOST_ROWS, TILE_ROWS, real
from fastrnn.kernels.tuning cimport DEPTH_AT_ONCE, ROWS_OF_BLOCK

cdef extern from "exports.h" nogil:
    void multiply_tile "FASTRNN_LOCAL(multiply_tile)"(
        int rows, Py_ssize_t width, const real** start, Py_ssize_t start_at,
        const real** x, Py_ssize_t x_depth, const real* x_panel,
        const real** h, Py_ssize_t h_first, Py_ssize_t h_last, const real* h_panel, real* out, Py_ssize_t out_stride)
    void multiply_blocks "FASTRNN_LOCAL(multiply_blocks)"(
        Py_ssize_t rows, Py_ssize_t width, const real** start, Py_ssize_t start_at,
        const real** x, Py_ssize_t x_depth, const real* x_panel,
        const real** h, Py_ssize_t h_depth, const real* h_panel, real* out, Py_ssize_t out_stride)


cdef inline int rows_of_tile(Py_ssize_t rows, Py_ssize_t first) noexcept nogil:
    """How many rows the tile that starts at `first` takes: the tiles of a block differ by one row at most."""
    cdef unsigned int tiles, small
    if rows <= TILE_ROWS:
        return <int>rows
    tiles = (<unsigned int>rows + TILE_ROWS - 1) // TILE_ROWS
    small = <unsigned int>rows // tiles
    return <int>(small + 1 if first < rows % tiles * (small + 1) else small)


cdef inline void multiply_rows(
    Py_ssize_t rows, Py_ssize_t width, const real** start, Py_ssize_t start_at,
    const real** x, Py_ssize_t x_depth, const real* x_panel, const real** h, Py_ssize_t h_depth, const real* h_panel,
    real* out, Py_ssize_t out_stride,
) noexcept nogil:
    """`multiply_blocks`, or one tile where that is all: a step of a small layer has time for little else."""
    if rows <= MOST_ROWS and x_depth <= DEPTH_AT_ONCE and h_depth:
        multiply_tile(<int>rows, width, start, start_at, x, x_depth, x_panel, h, 0, h_depth, h_panel, out, out_stride)
    else:
        multiply_blocks(rows, width, start, start_at, x, x_depth, x_panel, h, h_depth, h_panel, out, out_stride)


cdef inline void project(
    const Weights* weights, int first_panel, int last_panel, Py_ssize_t rows, const real* x, Py_ssize_t x_stride,
    real* out, Py_ssize_t out_stride,
) noexcept nogil:
    """out[r] = bias + x[r] @ weights in panel order, for the panels first_panel, ..., last_panel - 1."""
    cdef const Panels* cut = &weights.cut
    cdef const real* start[ROWS_OF_BLOCK]
    cdef const real* x_rows[ROWS_OF_BLOCK]
    cdef Py_ssize_t row, first = 0, count, offset
    cdef int panel
    while first < rows:
        count = min(rows - first, ROWS_OF_BLOCK)
        for row in range(count):
            start[row] = weights.bias
            x_rows[row] = x + (first + row) * x_stride
        for panel in range(first_panel, last_panel):
            offset = panel * cut.width
            multiply_rows(count, panel_width(cut, panel), start, offset, x_rows, 0, NULL,
                          x_rows, weights.depth, weights.panels + offset * weights.depth,
                          out + first * out_stride + offset, out_stride)
        first += count
