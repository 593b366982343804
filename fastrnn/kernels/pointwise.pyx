"""Dense, and what works number by number: activations, merges, scaling, masking of steps, pooling over time."""
from libc.math cimport INFINITY, erfc, exp, expm1, fabs, log, log1p, sqrt, tanh
from libc.string cimport memcpy, memset

from fastrnn.kernels.activations cimport activated
from fastrnn.kernels.layers cimport (
    AVERAGE, CELU, CONCAT, ELU, EXPONENTIAL, GELU, HARD_SHRINK, HARD_SILU, HARD_TANH, LEAKY_RELU, LINEAR,
    LOG_SIGMOID, MISH, MUL, RELU6, ROWS_IN_LANES, SELU, SILU, SOFTMAX, SOFTPLUS, SOFTSIGN, SOFT_SHRINK, SPARSE_PLUS,
    SPARSE_SIGMOID, SQUAREPLUS, SUM, Blanking, Elementwise, Kernel, Kernels, Merging, Pooling, Projection, Scaling,
    Shape, plain, takes_lanes,
)
from fastrnn.kernels.panels cimport project
from fastrnn.kernels.simd cimport LANES, TILE_VECTORS, load, real, store, zero_vector
from fastrnn.kernels.tuning cimport NONE, ROWS_OF_BLOCK

cdef extern from "exports.h" nogil:
    void multiply_rows_in_lanes "FASTRNN_LOCAL(multiply_rows_in_lanes)"(
        Py_ssize_t depth, Py_ssize_t columns, const real* weights, const real* bias, int activation, Py_ssize_t n_rows,
        const real* x, real* y, real* scratch)


# -- Activations ---------------------------------------------------------------------------------------------------

cdef double softplus_of(double x) noexcept nogil:
    return (x if x > 0 else 0) + log1p(exp(-fabs(x))) if x == x else x


cdef double elu_of(double x) noexcept nogil:
    return expm1(x) if x < 0 else x


cdef double rare_activation(int code, double x) noexcept nogil:
    """The activations that no default uses, by `keras.activations`'s definitions (Keras 3.15)."""
    if code == HARD_SHRINK:
        return x if fabs(x) > 0.5 else 0
    if code == SOFT_SHRINK:
        return x - 0.5 if x > 0.5 else (x + 0.5 if x < -0.5 else 0)
    if x != x:  # which these two alone make 0
        return x
    if code == CELU or code == ELU:
        return elu_of(x)
    if code == EXPONENTIAL:
        return exp(x)
    if code == GELU:
        return 0.5 * x * erfc(-x * 0.70710678118654752)
    if code == HARD_SILU:
        return x * min(max(x / 6 + 0.5, 0.0), 1.0)
    if code == HARD_TANH:
        return min(max(x, -1.0), 1.0)
    if code == LEAKY_RELU:
        return x if x > 0 else 0.2 * x
    if code == LOG_SIGMOID:
        return -softplus_of(-x)
    if code == MISH:
        return x * tanh(softplus_of(x))
    if code == RELU6:
        return min(max(x, 0.0), 6.0)
    if code == SELU:
        # Klambauer et al., 2017: the scale and slope that keep mean 0 and variance 1.
        return 1.0507009873554805 * (x if x > 0 else 1.6732632423543772 * expm1(x))
    if code == SILU:
        return x / (1 + exp(-x))
    if code == SOFTPLUS:
        return softplus_of(x)
    if code == SOFTSIGN:
        return x / (1 + fabs(x))
    if code == SPARSE_PLUS:
        return 0 if x <= -1 else (x if x >= 1 else 0.25 * (x + 1) * (x + 1))
    if code == SPARSE_SIGMOID:
        return min(max(0.5 * (x + 1), 0.0), 1.0)
    if code == SQUAREPLUS:
        return 0.5 * (x + sqrt(x * x + 4))
    return x - tanh(x)  # TANH_SHRINK, the last


cdef public void activate_rarely "FASTRNN_LOCAL(activate_rarely)"(int code, real* numbers) noexcept nogil:
    """The activations from CELU on, of LANES numbers in place."""
    cdef int i
    for i in range(LANES):
        numbers[i] = <real>rare_activation(code, numbers[i])


cdef public void activate_span "FASTRNN_LOCAL(activate_span)"(
    int code, const real* x, real* y, Py_ssize_t n,
) noexcept nogil:
    """y = activation(x) for n numbers; x and y are the same array or do not meet."""
    cdef Py_ssize_t i = 0
    cdef real rest[LANES]
    if code == LINEAR:
        if x != y:
            memcpy(y, x, n * sizeof(real))
        return
    while i + LANES <= n:
        store(y + i, activated(code, load(x + i)))
        i += LANES
    if i < n:
        store(rest, zero_vector())
        memcpy(rest, x + i, (n - i) * sizeof(real))
        store(rest, activated(code, load(rest)))
        memcpy(y + i, rest, (n - i) * sizeof(real))


cdef void softmax_row(int code, const real* x, real* y, Py_ssize_t n) noexcept nogil:
    """softmax, or its logarithm, of n numbers; the largest is subtracted first so that nothing overflows."""
    cdef Py_ssize_t i
    cdef real largest = -INFINITY
    cdef double total = 0
    for i in range(n):
        largest = x[i] if x[i] > largest else largest
    for i in range(n):
        total += exp(x[i] - largest)
    if code == SOFTMAX:
        for i in range(n):
            y[i] = <real>(exp(x[i] - largest) / total)
    else:
        total = log(total)
        for i in range(n):
            y[i] = <real>((x[i] - largest) - total)


cdef void run_activate(
    const void* pointer, const Shape* shapes, char** data, Py_ssize_t rows, char* scratch, int n_threads,
) noexcept nogil:
    cdef const Elementwise* layer = <const Elementwise*>pointer
    cdef const Shape* shape = &shapes[layer.x]
    cdef real* x = <real*>data[layer.x]
    cdef real* y = <real*>data[layer.y]
    cdef Py_ssize_t i, n = rows * shape.size, width = shape.dims[shape.ndim - 1]
    if layer.activation < SOFTMAX:
        activate_span(layer.activation, x, y, n)
    elif n:
        for i in range(n // width):
            softmax_row(layer.activation, x + i * width, y + i * width, width)


# -- Dense ---------------------------------------------------------------------------------------------------------

cdef size_t scratch_of_dense(const void* pointer, const Shape* shapes, Py_ssize_t rows) noexcept nogil:
    cdef const Projection* layer = <const Projection*>pointer
    cdef size_t in_panels = ROWS_OF_BLOCK * layer.weights.cut.total * sizeof(real)
    cdef size_t in_lanes = (layer.columns.depth + layer.columns.count + 2 * LANES) * LANES * TILE_VECTORS * sizeof(real)
    return max(in_panels, in_lanes if layer.costs.of_rows > 0 else 0)


cdef void run_dense(
    const void* pointer, const Shape* shapes, char** data, Py_ssize_t rows, char* scratch, int n_threads,
) noexcept nogil:
    cdef const Projection* layer = <const Projection*>pointer
    cdef Py_ssize_t units = layer.units, depth = layer.weights.depth, total = layer.weights.cut.total
    cdef Py_ssize_t first = 0, count, row, n = rows * (shapes[layer.y].size // units)
    cdef real* x = <real*>data[layer.x]
    cdef real* y = <real*>data[layer.y]
    cdef real* block
    if takes_lanes(&layer.costs, layer.forced, LANES, n, 1):
        multiply_rows_in_lanes(depth, layer.columns.count, layer.columns.weights, layer.columns.bias, layer.activation,
                               n, x, y, <real*>scratch)
        return
    while first < n:
        count = min(n - first, ROWS_OF_BLOCK)
        block = y + first * units if total == units else <real*>scratch
        project(&layer.weights, 0, layer.weights.cut.n_panels, count, x + first * depth, depth, block, total)
        if total == units:
            activate_span(layer.activation, block, block, count * units)
        else:
            for row in range(count):
                activate_span(layer.activation, block + row * total, y + (first + row) * units, units)
        first += count


cdef int way_of_dense(const void* pointer, const Shape* shapes, Py_ssize_t rows) noexcept nogil:
    cdef const Projection* layer = <const Projection*>pointer
    cdef Py_ssize_t n = rows * (shapes[layer.y].size // layer.units)
    return ROWS_IN_LANES if takes_lanes(&layer.costs, layer.forced, LANES, n, 1) else 0


# -- Merge ---------------------------------------------------------------------------------------------------------

cdef void run_merge(
    const void* pointer, const Shape* shapes, char** data, Py_ssize_t rows, char* scratch, int n_threads,
) noexcept nogil:
    cdef const Merging* layer = <const Merging*>pointer
    cdef const Shape* shape = &shapes[layer.a]
    cdef Py_ssize_t units = shape.dims[shape.ndim - 1], b_units = shapes[layer.b].dims[shape.ndim - 1]
    cdef Py_ssize_t steps = shape.dims[0] if layer.backwards else 1
    cdef Py_ssize_t places = 1, row, step, i, _
    cdef real* a = <real*>data[layer.a]
    cdef real* y = <real*>data[layer.y]
    cdef real* b
    for i in range(1 if layer.backwards else 0, shape.ndim - 1):
        places *= shape.dims[i]
    for row in range(rows * steps):
        step = row % steps
        b = <real*>data[layer.b] + (row + (steps - 1 - 2 * step if layer.backwards else 0)) * places * b_units
        for _ in range(places):
            if layer.mode == CONCAT:
                memcpy(y, a, units * sizeof(real))
                memcpy(y + units, b, b_units * sizeof(real))
                y += b_units
            elif layer.mode == MUL:
                for i in range(units):
                    y[i] = a[i] * b[i]
            elif layer.mode == SUM:
                for i in range(units):
                    y[i] = a[i] + b[i]
            else:
                for i in range(units):
                    y[i] = (a[i] + b[i]) * <real>0.5
            a += units
            b += b_units
            y += units


# -- Masking, scaling ----------------------------------------------------------------------------------------------

cdef inline Py_ssize_t last_axis(const Shape* shape) noexcept nogil:
    return shape.dims[shape.ndim - 1]


cdef void run_blank(
    const void* pointer, const Shape* shapes, char** data, Py_ssize_t rows, char* scratch, int n_threads,
) noexcept nogil:
    cdef const Blanking* layer = <const Blanking*>pointer
    cdef Py_ssize_t width = last_axis(&shapes[layer.x]), step, i
    cdef real* x = <real*>data[layer.x]
    cdef real* y = <real*>data[layer.y]
    cdef char* mask = data[layer.mask]
    cdef real value = <real>layer.value
    cdef bint counts
    for step in range(rows * shapes[layer.mask].size):
        counts = False
        for i in range(width):
            counts |= x[step * width + i] != value
        mask[step] = counts
        if counts:
            memcpy(y + step * width, x + step * width, width * sizeof(real))
        else:
            memset(y + step * width, 0, width * sizeof(real))


cdef void run_affine(
    const void* pointer, const Shape* shapes, char** data, Py_ssize_t rows, char* scratch, int n_threads,
) noexcept nogil:
    cdef const Scaling* layer = <const Scaling*>pointer
    cdef Py_ssize_t features = layer.features, row, i
    cdef real* x = <real*>data[layer.x]
    cdef real* y = <real*>data[layer.y]
    for row in range(rows * shapes[layer.x].size // features):
        for i in range(features):
            y[row * features + i] = (x[row * features + i] - layer.center[i]) * layer.scale[i] + layer.shift[i]


# -- Pooling -------------------------------------------------------------------------------------------------------

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
    const void* pointer, const Shape* shapes, char** data, Py_ssize_t rows, char* scratch, int n_threads,
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


cdef public void fill "FASTRNN_LOCAL(fill_pointwise)"(void* table) noexcept nogil:
    cdef Kernels* kernels = <Kernels*>table
    kernels.dense = Kernel(run_dense, scratch_of_dense, NULL, way_of_dense)
    kernels.activate = plain(run_activate)
    kernels.merge = plain(run_merge)
    kernels.blank = plain(run_blank)
    kernels.affine = plain(run_affine)
    kernels.pool = plain(run_pool)
