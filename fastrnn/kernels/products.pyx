"""Products of rows and packed panels of `real`."""
from fastrnn.kernels.ladder cimport tile_of_any_width
from fastrnn.kernels.layers cimport FULL, Kernels
from fastrnn.kernels.panels cimport rows_of_tile
from fastrnn.kernels.simd cimport DOT_PRODUCTS_COMPILED, LANES, MOST_ROWS, REAL_BITS, TILE_VECTORS, real
from fastrnn.kernels.tuning cimport DEPTH_AT_ONCE, SUM_BLOCK

cdef extern from "exports.h":
    pass


cdef public void multiply_tile "FASTRNN_LOCAL(multiply_tile)"(
    int rows, Py_ssize_t width, const real** start, Py_ssize_t start_at,
    const real** x, Py_ssize_t x_depth, const real* x_panel,
    const real** h, Py_ssize_t h_first, Py_ssize_t h_last, const real* h_panel, real* out, Py_ssize_t out_stride,
) noexcept nogil:
    """out[r] = start[r] + x[r] @ x_panel + h[r] @ h_panel for up to MOST_ROWS rows and any panel width."""
    tile_of_any_width(FULL, False, rows, width, start, start_at, x, x_depth, x_panel,
                      h, h_first, h_last, h_panel, out, out_stride)


cdef public void multiply_blocks "FASTRNN_LOCAL(multiply_blocks)"(
    Py_ssize_t rows, Py_ssize_t width, const real** start, Py_ssize_t start_at,
    const real** x, Py_ssize_t x_depth, const real* x_panel, const real** h, Py_ssize_t h_depth, const real* h_panel,
    real* out, Py_ssize_t out_stride,
) noexcept nogil:
    """`tile` for any number of rows and any depth: several tiles take one block of the weights before the next.

    Where x is deep, or alone, its product is a pass of its own.
    """
    cdef Py_ssize_t first, h_first = 0, h_last
    cdef int count
    if x_depth > DEPTH_AT_ONCE or (x_depth and not h_depth):
        multiply_blocks(rows, width, start, start_at, x, 0, NULL, x, x_depth, x_panel, out, out_stride)
        if not h_depth:
            return
        x_depth, start = 0, NULL
    while True:
        h_last = h_depth
        if rows > MOST_ROWS:
            h_last = min(h_depth, h_first + (DEPTH_AT_ONCE - x_depth) // SUM_BLOCK * SUM_BLOCK)
        first = 0
        while first < rows:
            count = <int>rows if rows <= MOST_ROWS else rows_of_tile(rows, first)
            multiply_tile(count, width, start + first if start != NULL else NULL, start_at,
                          x + first, x_depth, x_panel, h + first, h_first, h_last, h_panel,
                          out + first * out_stride, out_stride)
            first += count
        if h_last == h_depth:
            return
        h_panel += (h_last - h_first) * width
        x_depth, h_first, start = 0, h_last, NULL


cdef public void fill "FASTRNN_LOCAL(fill_products)"(void* table) noexcept nogil:
    cdef Kernels* kernels = <Kernels*>table
    kernels.real_bits, kernels.lanes, kernels.tile_vectors = REAL_BITS, LANES, TILE_VECTORS
    kernels.dot_products = DOT_PRODUCTS_COMPILED
