"""The verbs of one vector of numbers, of the width and type that a build fixes (simd.h)."""
from libc.stdint cimport int32_t, uint8_t, uint16_t

cdef extern from "simd.h" nogil:
    ctypedef float real
    ctypedef float vec
    enum:
        LANES "FASTRNN_LANES"
        TILE_ROWS "FASTRNN_TILE_ROWS"
        MOST_ROWS "FASTRNN_MOST_ROWS"
        TILE_VECTORS "FASTRNN_TILE_VECTORS"
        REAL_BITS "FASTRNN_REAL_BITS"
        VECTOR_BYTES "FASTRNN_VECTOR_BYTES"
        FUSED "FASTRNN_FUSED"
    real ROUNDER "FASTRNN_ROUNDER"
    vec load(const real* address)
    void store(real* address, vec value)
    vec zero_vector()
    vec add(vec a, vec b)
    vec divide(vec a, vec b)
    vec reciprocal(vec a)
    vec multiply(real a, vec b)
    vec multiply_add(real a, vec b, vec c)
    vec at_least(vec a, real b)
    vec at_most(vec a, real b)
    vec magnitude(vec a)
    vec with_sign_of(vec a, vec b)
    vec where_beyond(vec a, real b, real then)
    vec power_of_two(vec rounded)
    void keep_in_memory(...)
    vec lanes_that(const char* chosen)
    vec choose(vec bits, vec a, vec b)
    void transpose(vec* rows)

# Words of two bfloat16 or four int8 in the place of a number.
cdef extern from "narrow.h" nogil:
    enum:
        DOT_PRODUCTS_COMPILED "FASTRNN_DOT_PRODUCTS"
    vec dot_bfloat16(bint native, int32_t a, vec b, vec sum)
    vec dot_int8(bint native, int32_t a, vec b, vec sum)
    vec add_whole(vec a, vec b)
    vec from_whole(vec a)
    void round_to_bfloat16(const real* x, size_t n, uint16_t* out)
    real largest_magnitude(const real* x, size_t n)
    void quantise(const real* x, size_t n, real factor, uint8_t* out)
