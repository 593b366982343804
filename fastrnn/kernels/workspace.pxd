"""A workspace in one block, and whole numbers of the caller's types."""
from libc.stdint cimport int32_t, int64_t

cdef extern from "numpy/ndarraytypes.h":
    enum:
        NPY_BOOL
        NPY_INT32
        NPY_INT64
        NPY_FLOAT32

cdef enum:
    CACHE_LINE = 64          # bytes

cdef struct Bump:
    # Hands out parts of a block, each on a cache line of its own; with no block it only counts.
    char* base
    size_t used


cdef inline size_t whole_lines(size_t size) noexcept nogil:
    return (size + CACHE_LINE - 1) // CACHE_LINE * CACHE_LINE


cdef inline void* cache_line(void* address) noexcept nogil:
    """The first cache line that starts there or behind."""
    return <void*>whole_lines(<size_t>address)


cdef inline void* take(Bump* bump, size_t size) noexcept nogil:
    cdef size_t start = bump.used
    bump.used += whole_lines(size)
    return bump.base + start if bump.base != NULL else NULL


cdef inline Py_ssize_t index_at(const char* data, int type, Py_ssize_t place) noexcept nogil:
    """The whole number at `place`, of whichever type the caller has; a fraction is cut off."""
    if type == NPY_INT32:
        return (<const int32_t*>data)[place]
    if type == NPY_INT64:
        return <Py_ssize_t>(<const int64_t*>data)[place]
    if type == NPY_FLOAT32:
        return <Py_ssize_t>(<const float*>data)[place]
    return <Py_ssize_t>(<const double*>data)[place]


cdef inline bint is_index(double number, Py_ssize_t limit) noexcept nogil:
    return -1 < number < limit


cdef inline bint all_are_indices(const char* data, int type, Py_ssize_t count, Py_ssize_t limit) noexcept nogil:
    """Whether `count` numbers are from 0 to limit - 1; NaN is not."""
    cdef Py_ssize_t i
    cdef bint fit = True
    if type == NPY_INT32:
        for i in range(count):
            fit &= 0 <= (<const int32_t*>data)[i] < limit
    elif type == NPY_INT64:
        for i in range(count):
            fit &= 0 <= (<const int64_t*>data)[i] < limit
    elif type == NPY_FLOAT32:
        for i in range(count):
            fit &= is_index((<const float*>data)[i], limit)
    else:
        for i in range(count):
            fit &= is_index((<const double*>data)[i], limit)
    return fit
