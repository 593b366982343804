"""Operations that move bytes and compute nothing: the same for all builds."""
from libc.stdint cimport int32_t, int64_t
from libc.string cimport memcpy

from fastrnn.kernels.inference cimport set_mask_shape, set_shape
from fastrnn.kernels.layers cimport MAX_DIMS, Shape
from fastrnn.kernels.workspace cimport NPY_FLOAT32, NPY_INT32, NPY_INT64, index_at


cdef inline double cost_of_target(const void* pointer, const Shape* shapes) noexcept nogil:
    """A number read and written is worth a multiply-add. Every layer here starts with its target's buffer."""
    return <double>shapes[(<const int*>pointer)[0]].size


# -- Gathering rows of a table ------------------------------------------------------------------------------------

cdef struct Table:
    int y
    int x
    const char* rows
    Py_ssize_t width


cdef inline bint infer_lookup(const void* pointer, const Shape* number, Shape* shapes) noexcept nogil:
    cdef const Table* layer = <const Table*>pointer
    cdef const Shape* x = &shapes[layer.x]
    if x.ndim + 1 > MAX_DIMS:
        return False
    set_shape(number, &shapes[layer.y], x.ndim + 1, x.dims, layer.width)
    return True


cdef inline void run_lookup(
    const void* pointer, const Shape* shapes, char** data, Py_ssize_t rows, char* scratch, int n_threads,
) noexcept nogil:
    cdef const Table* layer = <const Table*>pointer
    cdef size_t size = layer.width * shapes[layer.y].item
    cdef Py_ssize_t i
    for i in range(rows * shapes[layer.x].size):
        memcpy(data[layer.y] + i * size, layer.rows + size * index_at(data[layer.x], shapes[layer.x].type, i), size)


# -- Masks of indices ---------------------------------------------------------------------------------------------

cdef struct Comparison:
    int y
    int x


cdef inline bint infer_not_zero(const void* pointer, const Shape* number, Shape* shapes) noexcept nogil:
    cdef const Comparison* layer = <const Comparison*>pointer
    cdef const Shape* x = &shapes[layer.x]
    set_mask_shape(&shapes[layer.y], x.ndim, x.dims)
    return True


cdef inline void run_not_zero(
    const void* pointer, const Shape* shapes, char** data, Py_ssize_t rows, char* scratch, int n_threads,
) noexcept nogil:
    cdef const Comparison* layer = <const Comparison*>pointer
    cdef const char* x = data[layer.x]
    cdef char* y = data[layer.y]
    cdef int type = shapes[layer.x].type
    cdef Py_ssize_t i, n = rows * shapes[layer.x].size
    if type == NPY_INT32:
        for i in range(n):
            y[i] = (<const int32_t*>x)[i] != 0
    elif type == NPY_INT64:
        for i in range(n):
            y[i] = (<const int64_t*>x)[i] != 0
    elif type == NPY_FLOAT32:
        for i in range(n):
            y[i] = (<const float*>x)[i] != 0
    else:
        for i in range(n):
            y[i] = (<const double*>x)[i] != 0


# -- Shapes --------------------------------------------------------------------------------------------------------

cdef struct Arrangement:
    int y
    int x
    int ndim
    Py_ssize_t dims[MAX_DIMS]


cdef inline bint infer_reshape(const void* pointer, const Shape* number, Shape* shapes) noexcept nogil:
    cdef const Arrangement* layer = <const Arrangement*>pointer
    cdef Shape* y = &shapes[layer.y]
    cdef Py_ssize_t size = shapes[layer.x].size, known = 1
    cdef int axis
    for axis in range(layer.ndim):
        if layer.dims[axis] == 0 or known > max(size, 1) // max(layer.dims[axis], 1):
            return False
        known *= max(layer.dims[axis], 1)
    y[0] = shapes[layer.x]
    y.ndim = layer.ndim
    y.size = 1
    for axis in range(layer.ndim):
        y.dims[axis] = size // known if layer.dims[axis] < 0 else layer.dims[axis]
        y.size *= y.dims[axis]
    return y.size == size


cdef inline void run_reshape(
    const void* pointer, const Shape* shapes, char** data, Py_ssize_t rows, char* scratch, int n_threads,
) noexcept nogil:
    cdef const Arrangement* layer = <const Arrangement*>pointer
    memcpy(data[layer.y], data[layer.x], rows * shapes[layer.x].size * shapes[layer.x].item)


cdef inline bint infer_repeat(const void* pointer, const Shape* number, Shape* shapes) noexcept nogil:
    cdef const Arrangement* layer = <const Arrangement*>pointer
    if shapes[layer.x].ndim != 1:
        return False
    set_shape(number, &shapes[layer.y], 2, layer.dims, shapes[layer.x].dims[0])
    return True


cdef inline void run_repeat(
    const void* pointer, const Shape* shapes, char** data, Py_ssize_t rows, char* scratch, int n_threads,
) noexcept nogil:
    cdef const Arrangement* layer = <const Arrangement*>pointer
    cdef size_t size = shapes[layer.x].size * shapes[layer.x].item
    cdef Py_ssize_t i
    for i in range(rows * layer.dims[0]):
        memcpy(data[layer.y] + i * size, data[layer.x] + i // layer.dims[0] * size, size)


# -- What a stream keeps -------------------------------------------------------------------------------------------

cdef struct Sight:
    int y
    int x
    int before
    int after
    Py_ssize_t taps
    Py_ssize_t dilation


cdef inline bint infer_window(const void* pointer, const Shape* number, Shape* shapes) noexcept nogil:
    cdef const Sight* layer = <const Sight*>pointer
    cdef const Shape* x = &shapes[layer.x]
    cdef const Shape* before = &shapes[layer.before]
    if x.ndim != 2 or before.ndim != 2 or before.dims[1] != x.dims[1]:
        return False
    if before.dims[0] != (layer.taps - 1) * layer.dilation:
        return False
    set_shape(number, &shapes[layer.y], 2, x.dims, layer.taps * x.dims[1])
    shapes[layer.after] = before[0]
    return True


cdef inline void run_window(
    const void* pointer, const Shape* shapes, char** data, Py_ssize_t rows, char* scratch, int n_threads,
) noexcept nogil:
    cdef const Sight* layer = <const Sight*>pointer
    cdef Py_ssize_t steps = shapes[layer.x].dims[0], features = shapes[layer.x].dims[1]
    cdef Py_ssize_t kept = shapes[layer.before].dims[0], row, step, tap, seen
    cdef size_t size = features * shapes[layer.x].item
    cdef char* y = data[layer.y]
    cdef const char* x
    cdef const char* before
    for row in range(rows):
        x = data[layer.x] + row * steps * size
        before = data[layer.before] + row * kept * size
        for step in range(steps):
            for tap in range(layer.taps):
                seen = step + tap * layer.dilation
                memcpy(y, before + seen * size if seen < kept else x + (seen - kept) * size, size)
                y += size
        for step in range(kept):
            seen = step + steps
            memcpy(data[layer.after] + (row * kept + step) * size,
                   before + seen * size if seen < kept else x + (seen - kept) * size, size)


cdef struct Holding:
    int y
    int x
    int mask
    int before
    int after
    bint sequence


cdef inline bint infer_hold(const void* pointer, const Shape* number, Shape* shapes) noexcept nogil:
    cdef const Holding* layer = <const Holding*>pointer
    cdef const Shape* x = &shapes[layer.x]
    cdef const Shape* mask = &shapes[layer.mask]
    shapes[layer.y] = x[0]
    shapes[layer.after] = shapes[layer.before]
    if mask.ndim != 1 or (layer.sequence and (x.ndim < 1 or x.dims[0] != mask.dims[0])):
        return False
    return x.size == shapes[layer.before].size * (mask.dims[0] if layer.sequence else 1)


cdef inline void run_hold(
    const void* pointer, const Shape* shapes, char** data, Py_ssize_t rows, char* scratch, int n_threads,
) noexcept nogil:
    cdef const Holding* layer = <const Holding*>pointer
    cdef Py_ssize_t steps = shapes[layer.mask].dims[0], row, step
    cdef size_t size = shapes[layer.before].size * shapes[layer.before].item
    cdef const char* x = data[layer.x]
    cdef const char* before
    cdef char* y = data[layer.y]
    cdef bint begun
    for row in range(rows):
        before = data[layer.before] + row * size
        begun = False
        for step in range(steps):
            begun |= data[layer.mask][row * steps + step] != 0
            if layer.sequence or step == steps - 1:
                memcpy(y, x if begun else before, size)
                x += size
                y += size
        memcpy(data[layer.after] + row * size, y - size, size)
