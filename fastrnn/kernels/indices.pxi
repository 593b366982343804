# Whole numbers and masks that come from the caller, in whichever type he has them.

from libc.stdint cimport int32_t, int64_t


cdef inline Py_ssize_t index_at(const char* data, int type, Py_ssize_t place) noexcept nogil:
    """The number at `place`; a fraction is cut off."""
    if type == cnp.NPY_INT32:
        return (<const int32_t*>data)[place]
    if type == cnp.NPY_INT64:
        return <Py_ssize_t>(<const int64_t*>data)[place]
    if type == cnp.NPY_FLOAT32:
        return <Py_ssize_t>(<const float*>data)[place]
    return <Py_ssize_t>(<const double*>data)[place]


cdef double share_of_ones(const char* mask, Py_ssize_t count) noexcept nogil:
    """Which part of the bytes of a mask are not 0."""
    cdef Py_ssize_t i, ones = 0
    for i in range(count):
        ones += mask[i] != 0
    return ones / <double>max(count, 1)


cdef inline bint is_index(double number, Py_ssize_t limit) noexcept nogil:
    return -1 < number < limit


cdef bint all_are_indices(const char* data, int type, Py_ssize_t count, Py_ssize_t limit) noexcept nogil:
    """Whether `count` numbers are from 0 to limit - 1; NaN is not."""
    cdef Py_ssize_t i
    cdef bint fit = True
    if type == cnp.NPY_INT32:
        for i in range(count):
            fit &= 0 <= (<const int32_t*>data)[i] < limit
    elif type == cnp.NPY_INT64:
        for i in range(count):
            fit &= 0 <= (<const int64_t*>data)[i] < limit
    elif type == cnp.NPY_FLOAT32:
        for i in range(count):
            fit &= is_index((<const float*>data)[i], limit)
    else:
        for i in range(count):
            fit &= is_index((<const double*>data)[i], limit)
    return fit
