# The steps around the recurrences that are no products: tables, masks, shapes, scaling, pooling.

cdef double cost_of_target(const void* pointer, const Shape* shapes) noexcept nogil:
    """A number read and written is worth a multiply-add. Every layer here starts with its target's buffer."""
    return <double>shapes[(<const int*>pointer)[0]].size


cdef inline Py_ssize_t last_axis(const Shape* shape) noexcept nogil:
    return shape.dims[shape.ndim - 1]


# -- Lookup --------------------------------------------------------------------------------------------------------

cdef struct Table:
    int y
    int x
    const real* rows
    Py_ssize_t width


cdef bint infer_lookup(const void* pointer, Shape* shapes) noexcept nogil:
    cdef const Table* layer = <const Table*>pointer
    cdef const Shape* x = &shapes[layer.x]
    if x.ndim + 1 > MAX_DIMS:
        return False
    set_shape(&shapes[layer.y], x.ndim + 1, x.dims, layer.width)
    return True


cdef void run_lookup(
    const void* pointer, const Shape* shapes, char** data, Py_ssize_t rows, char* scratch,
) noexcept nogil:
    cdef const Table* layer = <const Table*>pointer
    cdef real* y = <real*>data[layer.y]
    cdef Py_ssize_t i
    for i in range(rows * shapes[layer.x].size):
        memcpy(y + i * layer.width, layer.rows + layer.width * index_at(data[layer.x], shapes[layer.x].type, i),
               layer.width * sizeof(real))


cdef class Lookup(Step):
    """The rows of `table`, (n, width), that x, an input of the program, numbers from 0: (...) to (..., width)."""
    cdef Table layer

    def __init__(self, table, *, x, y):
        cdef const real[:, ::1] rows = table
        self._alive = rows
        self.layer.rows = &rows[0, 0]
        self.layer.width = rows.shape[1]
        self.layer.x, self.layer.y = x, y
        self.sources, self.targets = (x,), (y,)
        self.operation = Operation(
            &self.layer, infer_lookup, no_scratch, run_lookup, cost_of_target, x, rows.shape[0])


# -- NotZero -------------------------------------------------------------------------------------------------------

cdef struct Comparison:
    int y
    int x


cdef bint infer_not_zero(const void* pointer, Shape* shapes) noexcept nogil:
    cdef const Comparison* layer = <const Comparison*>pointer
    cdef const Shape* x = &shapes[layer.x]
    set_mask_shape(&shapes[layer.y], x.ndim, x.dims)
    return True


cdef void run_not_zero(
    const void* pointer, const Shape* shapes, char** data, Py_ssize_t rows, char* scratch,
) noexcept nogil:
    cdef const Comparison* layer = <const Comparison*>pointer
    cdef const char* x = data[layer.x]
    cdef char* y = data[layer.y]
    cdef int type = shapes[layer.x].type
    cdef Py_ssize_t i, n = rows * shapes[layer.x].size
    if type == cnp.NPY_INT32:
        for i in range(n):
            y[i] = (<const int32_t*>x)[i] != 0
    elif type == cnp.NPY_INT64:
        for i in range(n):
            y[i] = (<const int64_t*>x)[i] != 0
    elif type == cnp.NPY_FLOAT32:
        for i in range(n):
            y[i] = (<const float*>x)[i] != 0
    else:
        for i in range(n):
            y[i] = (<const double*>x)[i] != 0


cdef class NotZero(Step):
    """The mask y of bytes that says where x, indices as for `Lookup`, is not 0."""
    cdef Comparison layer

    def __init__(self, *, x, y):
        self.layer.x, self.layer.y = x, y
        self.sources, self.targets = (x,), (y,)
        self.operation = Operation(&self.layer, infer_not_zero, no_scratch, run_not_zero, cost_of_target, x, 0)


# -- Blank ---------------------------------------------------------------------------------------------------------

cdef struct Blanking:
    int y
    int x
    int mask
    real value


cdef bint infer_blank(const void* pointer, Shape* shapes) noexcept nogil:
    cdef const Blanking* layer = <const Blanking*>pointer
    cdef const Shape* x = &shapes[layer.x]
    if x.ndim < 1:
        return False
    shapes[layer.y] = x[0]
    set_mask_shape(&shapes[layer.mask], x.ndim - 1, x.dims)
    return True


cdef void run_blank(
    const void* pointer, const Shape* shapes, char** data, Py_ssize_t rows, char* scratch,
) noexcept nogil:
    cdef const Blanking* layer = <const Blanking*>pointer
    cdef Py_ssize_t width = last_axis(&shapes[layer.x]), step, i
    cdef real* x = <real*>data[layer.x]
    cdef real* y = <real*>data[layer.y]
    cdef char* mask = data[layer.mask]
    cdef bint counts
    for step in range(rows * shapes[layer.mask].size):
        counts = False
        for i in range(width):
            counts |= x[step * width + i] != layer.value
        mask[step] = counts
        if counts:
            memcpy(y + step * width, x + step * width, width * sizeof(real))
        else:
            memset(y + step * width, 0, width * sizeof(real))


cdef class Blank(Step):
    """x, (..., features) a row, with zeros for the steps whose features all equal `value`; `mask` says which do not."""
    cdef Blanking layer

    def __init__(self, value, *, x, y, mask):
        self.layer.value = value
        self.layer.x, self.layer.y, self.layer.mask = x, y, mask
        self.sources, self.targets = (x,), (y, mask)
        self.operation = Operation(&self.layer, infer_blank, no_scratch, run_blank, cost_of_target, NONE, 0)


# -- Affine --------------------------------------------------------------------------------------------------------

cdef struct Scaling:
    int y
    int x
    Py_ssize_t features
    const real* center
    const real* scale
    const real* shift


cdef bint infer_affine(const void* pointer, Shape* shapes) noexcept nogil:
    cdef const Scaling* layer = <const Scaling*>pointer
    cdef const Shape* x = &shapes[layer.x]
    shapes[layer.y] = x[0]
    return x.ndim >= 1 and last_axis(x) == layer.features


cdef void run_affine(
    const void* pointer, const Shape* shapes, char** data, Py_ssize_t rows, char* scratch,
) noexcept nogil:
    cdef const Scaling* layer = <const Scaling*>pointer
    cdef Py_ssize_t features = layer.features, row, i
    cdef real* x = <real*>data[layer.x]
    cdef real* y = <real*>data[layer.y]
    for row in range(rows * shapes[layer.x].size // features):
        for i in range(features):
            y[row * features + i] = (x[row * features + i] - layer.center[i]) * layer.scale[i] + layer.shift[i]


cdef class Affine(Step):
    """(x - center) scale + shift over the last axis; each of the three (features,)."""
    cdef Scaling layer

    def __init__(self, center, scale, shift, *, x, y):
        cdef const real[::1] centers = center, scales = scale, shifts = shift
        self._alive = centers, scales, shifts
        self.layer.features = centers.shape[0]
        self.layer.center, self.layer.scale, self.layer.shift = &centers[0], &scales[0], &shifts[0]
        self.layer.x, self.layer.y = x, y
        self.sources, self.targets = (x,), (y,)
        self.operation = Operation(&self.layer, infer_affine, no_scratch, run_affine, cost_of_target, NONE, 0)


# -- Reshape, Repeat -----------------------------------------------------------------------------------------------

cdef struct Arrangement:
    int y
    int x
    int ndim
    Py_ssize_t dims[MAX_DIMS]


cdef bint infer_reshape(const void* pointer, Shape* shapes) noexcept nogil:
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


cdef void run_reshape(
    const void* pointer, const Shape* shapes, char** data, Py_ssize_t rows, char* scratch,
) noexcept nogil:
    cdef const Arrangement* layer = <const Arrangement*>pointer
    memcpy(data[layer.y], data[layer.x], rows * shapes[layer.x].size * sizeof(real))


cdef class Reshape(Step):
    """The numbers of a row in the shape `shape`, in which one size may be -1: what is left."""
    cdef Arrangement layer

    def __init__(self, shape, *, x, y):
        cdef int axis
        if len(shape) > MAX_DIMS:
            raise ValueError(f"expected at most {MAX_DIMS} axes; got the shape {shape}")
        self.layer.ndim = <int>len(shape)
        for axis in range(self.layer.ndim):
            self.layer.dims[axis] = shape[axis]
        self.layer.x, self.layer.y = x, y
        self.sources, self.targets = (x,), (y,)
        self.operation = Operation(&self.layer, infer_reshape, no_scratch, run_reshape, cost_of_target, NONE, 0)


cdef bint infer_repeat(const void* pointer, Shape* shapes) noexcept nogil:
    cdef const Arrangement* layer = <const Arrangement*>pointer
    if shapes[layer.x].ndim != 1:
        return False
    set_shape(&shapes[layer.y], 2, layer.dims, shapes[layer.x].dims[0])
    return True


cdef void run_repeat(
    const void* pointer, const Shape* shapes, char** data, Py_ssize_t rows, char* scratch,
) noexcept nogil:
    cdef const Arrangement* layer = <const Arrangement*>pointer
    cdef size_t size = shapes[layer.x].size * sizeof(real)
    cdef Py_ssize_t i
    for i in range(rows * layer.dims[0]):
        memcpy(data[layer.y] + i * size, data[layer.x] + i // layer.dims[0] * size, size)


cdef class Repeat(Step):
    """x, (features,) a row, `n` times: (n, features)."""
    cdef Arrangement layer

    def __init__(self, n, *, x, y):
        self.layer.dims[0] = n
        self.layer.x, self.layer.y = x, y
        self.sources, self.targets = (x,), (y,)
        self.operation = Operation(&self.layer, infer_repeat, no_scratch, run_repeat, cost_of_target, NONE, 0)


# -- Pool ----------------------------------------------------------------------------------------------------------

cdef enum PoolMode:
    MAXIMUM
    AVERAGE

POOL_MODES = {"max": MAXIMUM, "average": AVERAGE}

cdef struct Pooling:
    int y
    int x
    int mask             # of all steps, for AVERAGE; or NONE
    int mode
    Py_ssize_t window    # 0: all steps at once, and y without their axis
    Py_ssize_t stride
    bint same            # whether windows reach over the edges


cdef bint infer_pool(const void* pointer, Shape* shapes) noexcept nogil:
    cdef const Pooling* layer = <const Pooling*>pointer
    cdef const Shape* x = &shapes[layer.x]
    cdef Py_ssize_t dims[2]
    if x.ndim != 2 or x.dims[0] < max(1, 0 if layer.same else layer.window):
        return False
    if layer.mask != NONE and (shapes[layer.mask].ndim != 1 or shapes[layer.mask].dims[0] != x.dims[0]):
        return False
    if layer.window == 0:
        set_shape(&shapes[layer.y], 1, NULL, x.dims[1])
    else:
        dims[0] = (x.dims[0] - (1 if layer.same else layer.window)) // layer.stride + 1
        dims[1] = x.dims[1]
        set_shape(&shapes[layer.y], 2, dims, x.dims[1])
    return True


cdef double cost_of_pool(const void* pointer, const Shape* shapes) noexcept nogil:
    return <double>shapes[(<const Pooling*>pointer).x].size


cdef enum:
    # Channels whose averages are summed together, in double precision: a sum of 1000 steps in float32 errs 1.1e-6.
    POOLED_AT_ONCE = 16


cdef void average_window(
    const real* x, const char* mask, Py_ssize_t steps, Py_ssize_t channels, real* y,
) noexcept nogil:
    """y = the average of the steps that the mask lets through; NaN where there is none."""
    cdef double sums[POOLED_AT_ONCE]
    cdef Py_ssize_t first = 0, step, i, count, here
    while first < channels:
        here = min(channels - first, <Py_ssize_t>POOLED_AT_ONCE)
        for i in range(here):
            sums[i] = 0
        count = 0
        for step in range(steps):
            if mask == NULL or mask[step]:
                count += 1
                for i in range(here):
                    sums[i] += x[step * channels + first + i]
        for i in range(here):
            y[first + i] = <real>(sums[i] / count)
        first += here


cdef void largest_of_window(const real* x, Py_ssize_t steps, Py_ssize_t channels, real* y) noexcept nogil:
    """y = the maximum of the steps. A NaN stays, wherever it is."""
    cdef Py_ssize_t step, i
    memcpy(y, x, channels * sizeof(real))
    for step in range(1, steps):
        for i in range(channels):
            y[i] = y[i] if y[i] >= x[step * channels + i] or y[i] != y[i] else x[step * channels + i]


cdef void run_pool(
    const void* pointer, const Shape* shapes, char** data, Py_ssize_t rows, char* scratch,
) noexcept nogil:
    cdef const Pooling* layer = <const Pooling*>pointer
    cdef Py_ssize_t steps = shapes[layer.x].dims[0], channels = shapes[layer.x].dims[1]
    cdef Py_ssize_t count = 1, window = steps, before = 0, row, i, first, last
    cdef real* x = <real*>data[layer.x]
    cdef real* y = <real*>data[layer.y]
    cdef char* mask
    if layer.window:
        count, window = shapes[layer.y].dims[0], layer.window
        if layer.same:
            before = max((count - 1) * layer.stride + window - steps, 0) // 2
    for row in range(rows):
        mask = data[layer.mask] + row * steps if layer.mask != NONE else NULL
        for i in range(count):
            first = max(i * layer.stride - before, 0)
            last = min(i * layer.stride - before + window, steps)
            if layer.mode == AVERAGE:
                average_window(x + (row * steps + first) * channels, mask, last - first, channels,
                               y + (row * count + i) * channels)
            else:
                largest_of_window(x + (row * steps + first) * channels, last - first, channels,
                                  y + (row * count + i) * channels)


cdef class Pool(Step):
    """Windows of x, (steps, channels) a row, as their maxima or averages: `mode` is a key of POOL_MODES.

    Parameters
    ----------
    window : int
        0 for all steps at once: y is (channels,), and `mask`, a buffer, may say which count.
    stride : int
    same : bool
        Windows reach over the edges, where only what is inside counts.
    """
    cdef Pooling layer

    def __init__(self, mode, *, x, y, mask=None, window=0, stride=1, same=False):
        self.layer.mode, self.layer.same = POOL_MODES[mode], same
        self.layer.window, self.layer.stride = window, stride
        self.layer.x, self.layer.y = x, y
        self.layer.mask = NONE if mask is None else mask
        self.sources, self.targets = ((x,) if mask is None else (x, mask)), (y,)
        self.operation = Operation(&self.layer, infer_pool, no_scratch, run_pool, cost_of_pool, NONE, 0)
