"""Of each operation that a kernel computes: the shapes of its targets, and its cost.

`number` is a shape of one number of the program. A cost is in multiply-adds, or their worth in time, a row. An
inference is False where the shapes do not fit.
"""
from fastrnn.kernels.geometry cimport cost_of_image, image_sizes, output_sizes, state_dims, window_of
from fastrnn.kernels.layers cimport (
    CONCAT, MAX_STATES, SPACE, Blanking, ConvRecurrence, Elementwise, Merging, Panels, Pooling, Projection, Recurrence,
    Scaling, Sequence, Shape,
)
from fastrnn.kernels.team cimport MAX_MEMBERS
from fastrnn.kernels.tuning cimport ACTIVATION_COST, COST_OF_A_MEETING, MOST_BYTES, NONE, ROWS_TO_SHARE
from fastrnn.kernels.workspace cimport NPY_BOOL


cdef inline void set_shape(
    const Shape* number, Shape* shape, int ndim, const Py_ssize_t* dims, Py_ssize_t last,
) noexcept nogil:
    """shape = (*dims[:ndim - 1], last), of numbers like `number`."""
    cdef int axis
    shape.ndim, shape.item, shape.type, shape.size = ndim, number.item, number.type, last
    for axis in range(ndim - 1):
        shape.dims[axis] = dims[axis]
        shape.size *= dims[axis]
    shape.dims[ndim - 1] = last


cdef inline void set_mask_shape(Shape* shape, int ndim, const Py_ssize_t* dims) noexcept nogil:
    """shape = dims[:ndim], of bytes."""
    cdef int axis
    shape.ndim, shape.item, shape.type, shape.size = ndim, 1, NPY_BOOL, 1
    for axis in range(ndim):
        shape.dims[axis] = dims[axis]
        shape.size *= dims[axis]


cdef inline bint mask_fits(const Sequence* sequence, const Shape* shapes) noexcept nogil:
    """Whether the mask, if there is one, is of the steps that x has."""
    cdef const Shape* x = &shapes[sequence.x]
    return sequence.mask == NONE or (shapes[sequence.mask].ndim == 1 and shapes[sequence.mask].dims[0] == x.dims[0])


cdef inline bint infer_recurrence(const void* pointer, const Shape* number, Shape* shapes) noexcept nogil:
    cdef const Recurrence* layer = <const Recurrence*>pointer
    cdef const Shape* x = &shapes[layer.sequence.x]
    cdef int state
    if x.ndim < 1 or x.dims[0] < 1:
        return False
    if x.ndim != 1 if layer.table != NULL else x.ndim != 2 or x.dims[1] != layer.cell.features:
        return False
    if not mask_fits(&layer.sequence, shapes):
        return False
    for state in range(MAX_STATES):
        if layer.sequence.initial[state] != NONE and (
                shapes[layer.sequence.initial[state]].ndim != 1 or (
                    shapes[layer.sequence.initial[state]].dims[0] != layer.cell.units)):
            return False
        if layer.sequence.final[state] != NONE:
            set_shape(number, &shapes[layer.sequence.final[state]], 1, NULL, layer.cell.units)
    if layer.sequence.y != NONE:
        set_shape(number, &shapes[layer.sequence.y], 2 if layer.sequence.return_sequences else 1, x.dims,
                  layer.cell.units)
    return True


cdef inline double cost_of_recurrence(const void* pointer, const Shape* shapes) noexcept nogil:
    cdef const Recurrence* layer = <const Recurrence*>pointer
    cdef int phase, gates = 0
    for phase in range(layer.cell.traits.n_phases):
        gates += layer.cell.phases[phase].kernel.cut.gates
    return <double>shapes[layer.sequence.x].dims[0] * layer.cell.units * gates * (
        layer.cell.units + (0 if layer.table != NULL else layer.cell.features) + ACTIVATION_COST)


cdef inline int members_of_recurrence(
    const void* pointer, const Shape* shapes, Py_ssize_t rows, int n_threads,
) noexcept nogil:
    """As many as there are, if each saves more of a phase than a meeting costs."""
    cdef const Recurrence* layer = <const Recurrence*>pointer
    cdef const Panels* cut
    cdef double least = -1, cost
    cdef int phase, members = min(n_threads, <int>MAX_MEMBERS)
    for phase in range(layer.cell.traits.n_phases):
        cut = &layer.cell.phases[phase].recurrent.cut
        members = min(members, cut.n_panels)
        cost = <double>rows * cut.total * (layer.cell.units + ACTIVATION_COST)
        least = cost if least < 0 else min(least, cost)
    if rows > ROWS_TO_SHARE or shapes[layer.sequence.x].dims[0] < 2:
        return 1
    if least * (members - 1) < <double>COST_OF_A_MEETING * members:
        return 1
    return members


cdef inline bint infer_conv_recurrence(const void* pointer, const Shape* number, Shape* shapes) noexcept nogil:
    cdef const ConvRecurrence* layer = <const ConvRecurrence*>pointer
    cdef const Shape* x = &shapes[layer.sequence.x]
    cdef const Shape* state
    cdef Py_ssize_t sizes[SPACE]
    cdef Py_ssize_t out[SPACE]
    cdef Py_ssize_t dims[SPACE + 2]      # of y with the steps; from the second on, of a state
    cdef Py_ssize_t channels
    cdef int which, axis, ndim = layer.rank + 1
    cdef double bytes_inside
    if x.ndim != ndim + 1 or x.dims[0] < 1:
        return False
    image_sizes(layer, x.dims + 1, sizes, &channels)
    output_sizes(layer, sizes, out)
    if channels != layer.cell.features or out[0] < 1 or out[1] < 1 or out[2] < 1:
        return False
    bytes_inside = <double>channels * number.item
    for axis in range(SPACE):
        bytes_inside *= (out[axis] - 1) * layer.strides[axis] + window_of(layer, axis)
    if bytes_inside > MOST_BYTES:
        return False
    if not mask_fits(&layer.sequence, shapes):
        return False
    dims[0] = x.dims[0]
    state_dims(layer, out, dims + 1)
    for which in range(MAX_STATES):
        if layer.sequence.initial[which] != NONE:
            state = &shapes[layer.sequence.initial[which]]
            if state.ndim != ndim:
                return False
            for axis in range(ndim):
                if state.dims[axis] != dims[axis + 1]:
                    return False
        if layer.sequence.final[which] != NONE:
            set_shape(number, &shapes[layer.sequence.final[which]], ndim, dims + 1, dims[ndim])
    if layer.sequence.y != NONE:
        if layer.sequence.return_sequences:
            set_shape(number, &shapes[layer.sequence.y], ndim + 1, dims, dims[ndim])
        else:
            set_shape(number, &shapes[layer.sequence.y], ndim, dims + 1, dims[ndim])
    return True


cdef inline double cost_of_conv_recurrence(const void* pointer, const Shape* shapes) noexcept nogil:
    cdef const ConvRecurrence* layer = <const ConvRecurrence*>pointer
    cdef Py_ssize_t sizes[SPACE]
    cdef Py_ssize_t out[SPACE]
    cdef Py_ssize_t channels
    image_sizes(layer, shapes[layer.sequence.x].dims + 1, sizes, &channels)
    output_sizes(layer, sizes, out)
    return shapes[layer.sequence.x].dims[0] * cost_of_image(layer, out[0] * out[1] * out[2])


cdef inline bint infer_dense(const void* pointer, const Shape* number, Shape* shapes) noexcept nogil:
    cdef const Projection* layer = <const Projection*>pointer
    cdef const Shape* x = &shapes[layer.x]
    if x.ndim < 1 or x.dims[x.ndim - 1] != layer.weights.depth:
        return False
    set_shape(number, &shapes[layer.y], x.ndim, x.dims, layer.units)
    return True


cdef inline double cost_of_dense(const void* pointer, const Shape* shapes) noexcept nogil:
    cdef const Projection* layer = <const Projection*>pointer
    return <double>shapes[layer.y].size * (layer.weights.depth + ACTIVATION_COST)


cdef inline bint infer_activate(const void* pointer, const Shape* number, Shape* shapes) noexcept nogil:
    cdef const Elementwise* layer = <const Elementwise*>pointer
    shapes[layer.y] = shapes[layer.x]
    return shapes[layer.x].ndim >= 1


cdef inline double cost_of_activate(const void* pointer, const Shape* shapes) noexcept nogil:
    return <double>shapes[(<const Elementwise*>pointer).x].size * ACTIVATION_COST


cdef inline bint infer_merge(const void* pointer, const Shape* number, Shape* shapes) noexcept nogil:
    cdef const Merging* layer = <const Merging*>pointer
    cdef const Shape* a = &shapes[layer.a]
    cdef const Shape* b = &shapes[layer.b]
    cdef int axis
    if a.ndim < 1 or a.ndim != b.ndim:
        return False
    for axis in range(a.ndim - 1):
        if a.dims[axis] != b.dims[axis]:
            return False
    if layer.mode == CONCAT:
        set_shape(number, &shapes[layer.y], a.ndim, a.dims, a.dims[a.ndim - 1] + b.dims[a.ndim - 1])
        return True
    shapes[layer.y] = a[0]
    return a.dims[a.ndim - 1] == b.dims[a.ndim - 1]


cdef inline bint infer_blank(const void* pointer, const Shape* number, Shape* shapes) noexcept nogil:
    cdef const Blanking* layer = <const Blanking*>pointer
    cdef const Shape* x = &shapes[layer.x]
    if x.ndim < 1:
        return False
    shapes[layer.y] = x[0]
    set_mask_shape(&shapes[layer.mask], x.ndim - 1, x.dims)
    return True


cdef inline bint infer_affine(const void* pointer, const Shape* number, Shape* shapes) noexcept nogil:
    cdef const Scaling* layer = <const Scaling*>pointer
    cdef const Shape* x = &shapes[layer.x]
    shapes[layer.y] = x[0]
    return x.ndim >= 1 and x.dims[x.ndim - 1] == layer.features


cdef inline bint infer_pool(const void* pointer, const Shape* number, Shape* shapes) noexcept nogil:
    cdef const Pooling* layer = <const Pooling*>pointer
    cdef const Shape* x = &shapes[layer.x]
    cdef Py_ssize_t dims[2]
    if x.ndim != 2 or x.dims[0] < max(1, 0 if layer.same else layer.window):
        return False
    if layer.mask != NONE and (shapes[layer.mask].ndim != 1 or shapes[layer.mask].dims[0] != x.dims[0]):
        return False
    if layer.window == 0:
        set_shape(number, &shapes[layer.y], 1, NULL, x.dims[1])
    else:
        dims[0] = (x.dims[0] - (1 if layer.same else layer.window)) // layer.stride + 1
        dims[1] = x.dims[1]
        set_shape(number, &shapes[layer.y], 2, dims, x.dims[1])
    return True


cdef inline double cost_of_pool(const void* pointer, const Shape* shapes) noexcept nogil:
    return <double>shapes[(<const Pooling*>pointer).x].size
