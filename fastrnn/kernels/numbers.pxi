# The numbers that products are of: `real`, or words of two bfloat16 or four int8 in the place of one.

from libc.stdint cimport int32_t, uint8_t, uint16_t

cdef extern from "narrow.h" nogil:
    enum:
        DOT_PRODUCTS_COMPILED "FASTRNN_DOT_PRODUCTS"
    bint cpu_has_bfloat16()
    bint cpu_has_int8()
    vec dot_bfloat16(bint native, int32_t a, vec b, vec sum)
    vec dot_int8(bint native, int32_t a, vec b, vec sum)
    vec add_whole(vec a, vec b)
    vec from_whole(vec a)
    void round_to_bfloat16(const real* x, size_t n, uint16_t* out)
    real largest_magnitude(const real* x, size_t n)
    void quantise(const real* x, size_t n, real factor, uint8_t* out)

cdef enum Precision:
    FULL                 # `real`: no narrow weights
    BFLOAT16
    INT8

PRECISIONS = {None: FULL, "bfloat16": BFLOAT16, "int8": INT8}
DOT_PRODUCTS = (("bfloat16",) if cpu_has_bfloat16() else ()) + (("int8",) if cpu_has_int8() else ())


cdef inline vec add_product(
    const int precision, const bint native, const real* row, Py_ssize_t k, const real* weights, vec sum,
) noexcept nogil:
    """sum + row[k] * weights, in whole numbers for INT8; `native` takes the CPU's dot product."""
    if precision == INT8:
        return dot_int8(native, (<const int32_t*>row)[k], load(weights), sum)
    if precision == BFLOAT16:
        return dot_bfloat16(native, (<const int32_t*>row)[k], load(weights), sum)
    return multiply_add(row[k], load(weights), sum)


cdef inline vec first_product(
    const int precision, const bint native, const real* row, Py_ssize_t k, const real* weights,
) noexcept nogil:
    """`add_product` to a sum of 0. (Tiles of three rows take 8 % longer where sums of `real` begin with zeros.)"""
    if precision == FULL:
        return multiply(row[k], load(weights))
    return add_product(precision, native, row, k, weights, zero_vector())


cdef inline vec add_sums(const int precision, vec a, vec b) noexcept nogil:
    return add_whole(a, b) if precision == INT8 else add(a, b)
