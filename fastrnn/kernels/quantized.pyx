"""Products of rows and packed panels of fewer bits: words of two bfloat16 or four int8 in the place of a number.

They read half or a quarter of the bytes, and where the CPU has dot products of such numbers (AVX512_BF16 and
AVX512_VNNI) take half or a quarter of the instructions.
"""
from fastrnn.kernels.ladder cimport tile_of_any_width
from fastrnn.kernels.layers cimport BFLOAT16, INT8
from fastrnn.kernels.simd cimport DOT_PRODUCTS_COMPILED, real

cdef extern from "exports.h":
    pass


cdef public void multiply_words "FASTRNN_LOCAL(multiply_words)"(
    int precision, bint native, int rows, Py_ssize_t width, const real** start,
    const real** x, Py_ssize_t x_words, const real* x_panel,
    const real** h, Py_ssize_t h_words, const real* h_panel, real* out, Py_ssize_t out_stride,
) noexcept nogil:
    """out[r] = start[r] + both products, whole numbers for INT8, for TILE_ROWS rows at most, or 2 if not `native`."""
    if DOT_PRODUCTS_COMPILED and native:
        if precision == INT8:
            tile_of_any_width(INT8, True, rows, width, start, 0, x, x_words, x_panel, h, 0, h_words, h_panel,
                              out, out_stride)
        else:
            tile_of_any_width(BFLOAT16, True, rows, width, start, 0, x, x_words, x_panel, h, 0, h_words, h_panel,
                              out, out_stride)
    elif precision == INT8:
        tile_of_any_width(INT8, False, rows, width, start, 0, x, x_words, x_panel, h, 0, h_words, h_panel,
                          out, out_stride)
    else:
        tile_of_any_width(BFLOAT16, False, rows, width, start, 0, x, x_words, x_panel, h, 0, h_words, h_panel,
                          out, out_stride)
