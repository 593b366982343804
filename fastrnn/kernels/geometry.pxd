"""Sizes of the images of a ConvLSTM. Inside, an image has three axes, of size 1 where Keras has none."""
from fastrnn.kernels.layers cimport SPACE, ConvRecurrence, Phase
from fastrnn.kernels.tuning cimport ACTIVATION_COST


cdef inline void image_sizes(
    const ConvRecurrence* layer, const Py_ssize_t* dims, Py_ssize_t* sizes, Py_ssize_t* channels,
) noexcept nogil:
    """The sizes of an image whose shape is `dims`."""
    cdef int axis
    for axis in range(SPACE):
        sizes[axis] = 1
    for axis in range(layer.rank):
        sizes[SPACE - layer.rank + axis] = dims[axis + (1 if layer.channels_first else 0)]
    channels[0] = dims[0] if layer.channels_first else dims[layer.rank]


cdef inline void state_dims(const ConvRecurrence* layer, const Py_ssize_t* sizes, Py_ssize_t* dims) noexcept nogil:
    """The shape of an image of the states."""
    cdef int axis
    dims[0 if layer.channels_first else layer.rank] = layer.cell.units
    for axis in range(SPACE):
        if axis >= SPACE - layer.rank:
            dims[axis - SPACE + layer.rank + (1 if layer.channels_first else 0)] = sizes[axis]


cdef inline Py_ssize_t window_of(const ConvRecurrence* layer, int axis) noexcept nogil:
    return (layer.taps[axis] - 1) * layer.dilation[axis] + 1


cdef inline void output_sizes(const ConvRecurrence* layer, const Py_ssize_t* sizes, Py_ssize_t* out) noexcept nogil:
    """The sizes of the states for those of x, below 1 where x is too small."""
    cdef int axis
    for axis in range(SPACE):
        out[axis] = sizes[axis] if layer.same else sizes[axis] - window_of(layer, axis) + 1
        out[axis] = (out[axis] + layer.strides[axis] - 1) // layer.strides[axis]


cdef inline double cost_of_image(const ConvRecurrence* layer, Py_ssize_t n_pixels) noexcept nogil:
    """Multiply-adds of one step, or their worth in time."""
    cdef const Phase* phase = &layer.cell.phases[0]
    return <double>n_pixels * 4 * layer.cell.units * (phase.kernel.depth + phase.recurrent.depth + ACTIVATION_COST)
