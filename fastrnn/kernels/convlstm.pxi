# ConvLSTM: the LSTM whose products are convolutions, over images of one, two or three space axes.
#
# Inside, an image has three space axes, of size 1 where Keras has none, and its channels last. A convolution is a
# product of pixels by taps that needs no matrix of patches: in an image with zeros around it the numbers that a row of
# taps reads for one pixel lie side by side, so the tile takes its depth in segments, one for each row of taps (for
# each tap where the kernel is dilated along that row). Both convolutions go into the same sums, and the pixels of a
# tile are to the cell what rows of a batch are to it elsewhere.
#
# Images of a batch are computed one after the other: a thread works on the memory of one image.

from openmp cimport omp_get_wtime, omp_in_parallel

cdef enum:
    SPACE = 3

cdef struct ConvRecurrence:
    Cell cell            # its units are the filters, its features the channels
    int rank             # space axes that arrays have
    bint channels_first
    bint same            # whether zeros around x keep its size, but for the strides
    Py_ssize_t taps[SPACE]
    Py_ssize_t strides[SPACE]
    Py_ssize_t dilation[SPACE]
    bint return_sequences
    bint go_backwards
    bint zero_output_for_mask
    # Numbers of buffers, NONE where there is none. Shapes of one row: x (steps, *image), mask (steps,) of bytes,
    # states (*image), y (steps, *image) or (*image), images of the layer's data format.
    int x
    int mask
    int initial[2]
    int y
    int final[2]
    Pace* pace

cdef struct View:
    # Where an image's numbers are: axes d, h, w and channels.
    real* first
    Py_ssize_t strides[SPACE + 1]

cdef struct Convolution:
    # What one convolution reads.
    Py_ssize_t channels
    Py_ssize_t before[SPACE]   # zeros in front
    Py_ssize_t sizes[SPACE]    # with the zeros around
    Py_ssize_t n_segments
    Py_ssize_t length          # numbers in a segment
    Py_ssize_t* segments       # where each starts, from where its pixel's first one does
    Py_ssize_t* pixels         # where the first segment of each pixel starts
    real* image                # (*sizes, channels)

cdef struct ImageWorkspace:
    Py_ssize_t sizes[SPACE]    # of the states
    Py_ssize_t n_pixels
    Convolution x
    Convolution h
    bint x_in_place            # whether x is read where the caller has it
    State state                # (n_pixels, stride); h is where the convolution has it


cdef void image_sizes(
    const ConvRecurrence* layer, const Py_ssize_t* dims, Py_ssize_t* sizes, Py_ssize_t* channels,
) noexcept nogil:
    """The sizes of an image whose shape is `dims`."""
    cdef int axis
    for axis in range(SPACE):
        sizes[axis] = 1
    for axis in range(layer.rank):
        sizes[SPACE - layer.rank + axis] = dims[axis + (1 if layer.channels_first else 0)]
    channels[0] = dims[0] if layer.channels_first else dims[layer.rank]


cdef void state_dims(const ConvRecurrence* layer, const Py_ssize_t* sizes, Py_ssize_t* dims) noexcept nogil:
    """The shape of an image of the states."""
    cdef int axis
    dims[0 if layer.channels_first else layer.rank] = layer.cell.units
    for axis in range(SPACE):
        if axis >= SPACE - layer.rank:
            dims[axis - SPACE + layer.rank + (1 if layer.channels_first else 0)] = sizes[axis]


cdef inline Py_ssize_t window_of(const ConvRecurrence* layer, int axis) noexcept nogil:
    return (layer.taps[axis] - 1) * layer.dilation[axis] + 1


cdef void output_sizes(const ConvRecurrence* layer, const Py_ssize_t* sizes, Py_ssize_t* out) noexcept nogil:
    """The sizes of the states for those of x, below 1 where x is too small."""
    cdef int axis
    for axis in range(SPACE):
        out[axis] = sizes[axis] if layer.same else sizes[axis] - window_of(layer, axis) + 1
        out[axis] = (out[axis] + layer.strides[axis] - 1) // layer.strides[axis]


cdef View view_of_array(
    const ConvRecurrence* layer, const Py_ssize_t* sizes, Py_ssize_t channels, real* first,
) noexcept nogil:
    """An image as the caller has it."""
    cdef View view
    cdef Py_ssize_t pixel = 1 if layer.channels_first else channels
    view.first = first
    view.strides[0] = sizes[1] * sizes[2] * pixel
    view.strides[1] = sizes[2] * pixel
    view.strides[2] = pixel
    view.strides[3] = sizes[0] * sizes[1] * sizes[2] if layer.channels_first else 1
    return view


cdef View view_inside(const Convolution* convolution) noexcept nogil:
    """The image of a convolution without the zeros around it."""
    cdef View view
    cdef int axis
    view.strides[3] = 1
    view.strides[2] = convolution.channels
    view.strides[1] = convolution.sizes[2] * view.strides[2]
    view.strides[0] = convolution.sizes[1] * view.strides[1]
    view.first = convolution.image
    for axis in range(SPACE):
        view.first += convolution.before[axis] * view.strides[axis]
    return view


cdef View view_of_state(const ImageWorkspace* work, real* first) noexcept nogil:
    """One of `work.state`."""
    cdef View view
    view.first = first
    view.strides[3] = 1
    view.strides[2] = work.state.stride
    view.strides[1] = work.sizes[2] * work.state.stride
    view.strides[0] = work.sizes[1] * view.strides[1]
    return view


cdef void copy_image(
    const View* source, const View* target, const Py_ssize_t* sizes, Py_ssize_t channels,
) noexcept nogil:
    cdef bint channels_last = source.strides[3] == 1 and target.strides[3] == 1
    cdef bint whole_rows = channels_last and source.strides[2] == channels and target.strides[2] == channels
    cdef Py_ssize_t d, h, w, channel
    cdef const real* a
    cdef real* b
    for d in range(sizes[0]):
        for h in range(sizes[1]):
            a = source.first + d * source.strides[0] + h * source.strides[1]
            b = target.first + d * target.strides[0] + h * target.strides[1]
            if whole_rows:
                memcpy(b, a, sizes[2] * channels * sizeof(real))
            elif channels_last:
                for w in range(sizes[2]):
                    memcpy(b + w * target.strides[2], a + w * source.strides[2], channels * sizeof(real))
            else:
                for channel in range(channels):
                    for w in range(sizes[2]):
                        b[channel * target.strides[3] + w * target.strides[2]] = (
                            a[channel * source.strides[3] + w * source.strides[2]])


cdef void lay_out_convolution(
    Convolution* convolution, const Py_ssize_t* taps, const Py_ssize_t* strides, const Py_ssize_t* dilation,
    const Py_ssize_t* out, Bump* bump,
) noexcept nogil:
    """Say where segments and pixels start. `channels`, `sizes` and `before` are given."""
    cdef Py_ssize_t row = convolution.sizes[2] * convolution.channels, plane = convolution.sizes[1] * row
    cdef bint by_row = dilation[2] == 1
    cdef Py_ssize_t d, h, w, number = 0, in_row = 1 if by_row else taps[2]
    convolution.n_segments = taps[0] * taps[1] * in_row
    convolution.length = (taps[2] if by_row else 1) * convolution.channels
    convolution.segments = <Py_ssize_t*>take(bump, convolution.n_segments * sizeof(Py_ssize_t))
    convolution.pixels = <Py_ssize_t*>take(bump, out[0] * out[1] * out[2] * sizeof(Py_ssize_t))
    if bump.base == NULL:
        return
    for d in range(taps[0]):
        for h in range(taps[1]):
            for w in range(in_row):
                convolution.segments[number] = (
                    d * dilation[0] * plane + h * dilation[1] * row + w * dilation[2] * convolution.channels)
                number += 1
    number = 0
    for d in range(out[0]):
        for h in range(out[1]):
            for w in range(out[2]):
                convolution.pixels[number] = (
                    d * strides[0] * plane + h * strides[1] * row + w * strides[2] * convolution.channels)
                number += 1


cdef ImageWorkspace lay_out_images(const ConvRecurrence* layer, const Shape* x, Bump* bump) noexcept nogil:
    cdef ImageWorkspace work
    cdef Py_ssize_t sizes[SPACE]
    cdef Py_ssize_t ones[SPACE]
    cdef Py_ssize_t zeros, size = 1
    cdef int axis
    image_sizes(layer, x.dims + 1, sizes, &work.x.channels)
    output_sizes(layer, sizes, work.sizes)
    work.h.channels = layer.cell.units
    work.x_in_place = not layer.channels_first
    for axis in range(SPACE):
        ones[axis] = 1
        zeros = (work.sizes[axis] - 1) * layer.strides[axis] + window_of(layer, axis) - sizes[axis]
        zeros = max(zeros, 0) if layer.same else 0
        work.x.before[axis] = zeros // 2
        work.x.sizes[axis] = sizes[axis] + zeros
        work.x_in_place &= zeros == 0
        work.h.before[axis] = (layer.taps[axis] - 1) // 2
        work.h.sizes[axis] = work.sizes[axis] + layer.taps[axis] - 1
    work.n_pixels = work.sizes[0] * work.sizes[1] * work.sizes[2]
    lay_out_convolution(&work.x, layer.taps, layer.strides, layer.dilation, work.sizes, bump)
    lay_out_convolution(&work.h, layer.taps, ones, ones, work.sizes, bump)
    size = work.x.sizes[0] * work.x.sizes[1] * work.x.sizes[2] * work.x.channels
    work.x.image = <real*>take(bump, 0 if work.x_in_place else size * sizeof(real))
    size = work.h.sizes[0] * work.h.sizes[1] * work.h.sizes[2] * work.h.channels
    work.h.image = <real*>take(bump, size * sizeof(real))
    work.state.stride = (layer.cell.units + LANES - 1) // LANES * LANES
    size = work.n_pixels * work.state.stride
    work.state.h = NULL
    work.state.h_next = <real*>take(bump, size * sizeof(real))
    work.state.c = <real*>take(bump, size * sizeof(real))
    return work


cdef inline void flush_sums(const int vectors, vec* sums, real* out) noexcept nogil:
    """Add the sums to `out` and begin new ones."""
    cdef int r, v
    for r in range(TILE_ROWS):
        for v in range(vectors):
            store(out + (r * vectors + v) * LANES, add(load(out + (r * vectors + v) * LANES), sums[r * vectors + v]))
            sums[r * vectors + v] = zero_vector()


cdef inline void add_segments(
    const int vectors, vec* sums, real** pixels, const Convolution* convolution, const real* panel, real* out,
) noexcept nogil:
    """Add to `out`, or to sums that are still to be added to it, what the segments contribute to TILE_ROWS pixels."""
    cdef const real* at[TILE_ROWS]
    cdef Py_ssize_t segment, k, last, depth = 0
    cdef int r, v
    for segment in range(convolution.n_segments):
        for r in range(TILE_ROWS):
            at[r] = pixels[r] + convolution.segments[segment]
        k = 0
        while k < convolution.length:
            last = min(convolution.length, k + CONVOLUTION_SUM - depth)
            depth += last - k
            while k < last:
                for r in range(TILE_ROWS):
                    for v in range(vectors):
                        sums[r * vectors + v] = multiply_add(at[r][k], load(panel + v * LANES), sums[r * vectors + v])
                panel += vectors * LANES
                k += 1
            if depth == CONVOLUTION_SUM:
                flush_sums(vectors, sums, out)
                depth = 0


cdef inline void convolution_tile(
    const int vectors, const real* start, real** x, const Convolution* x_convolution, const real* x_panel,
    real** h, const Convolution* h_convolution, const real* h_panel, real* out,
) noexcept nogil:
    """out[r] = start + both convolutions at the pixels x[r] and h[r], for TILE_ROWS pixels and one panel."""
    cdef vec sums[TILE_ROWS * TILE_VECTORS]
    cdef int r, v
    for r in range(TILE_ROWS):
        for v in range(vectors):
            store(out + (r * vectors + v) * LANES, load(start + v * LANES))
            sums[r * vectors + v] = zero_vector()
    add_segments(vectors, sums, x, x_convolution, x_panel, out)
    add_segments(vectors, sums, h, h_convolution, h_panel, out)
    flush_sums(vectors, sums, out)


cdef void convolve_tile(
    Py_ssize_t width, const real* start, real** x, const Convolution* x_convolution, const real* x_panel,
    real** h, const Convolution* h_convolution, const real* h_panel, real* out,
) noexcept nogil:
    """`convolution_tile` for any panel width up to TILE_VECTORS vectors."""
    cdef Py_ssize_t vectors = width // LANES
    if vectors == 4:
        convolution_tile(4, start, x, x_convolution, x_panel, h, h_convolution, h_panel, out)
    elif vectors == 3:
        convolution_tile(3, start, x, x_convolution, x_panel, h, h_convolution, h_panel, out)
    elif vectors == 2:
        convolution_tile(2, start, x, x_convolution, x_panel, h, h_convolution, h_panel, out)
    else:
        convolution_tile(1, start, x, x_convolution, x_panel, h, h_convolution, h_panel, out)


cdef void step_pixels(
    const ConvRecurrence* layer, const ImageWorkspace* work, Py_ssize_t first, Py_ssize_t last,
) noexcept nogil:
    """One step of the pixels first, ..., last - 1. The last tile repeats a pixel where it has too few."""
    cdef const Phase* phase = &layer.cell.phases[0]
    cdef const Panels* cut = &phase.recurrent.cut
    cdef Py_ssize_t numbers[TILE_ROWS]
    cdef real* x[TILE_ROWS]
    cdef real* h[TILE_ROWS]
    cdef real* rows[TILE_ROWS]
    # A cell reads whole vectors from where a gate starts, so past the last gate of a narrow panel.
    cdef real sums[(TILE_ROWS * TILE_VECTORS + TILE_VECTORS) * LANES]
    cdef Py_ssize_t pixel, offset, width
    cdef int panel, r
    for panel in range(cut.n_panels):
        offset = panel * cut.width
        width = panel_width(cut, panel)
        for r in range(TILE_ROWS):
            rows[r] = sums + r * width
        pixel = first
        while pixel < last:
            for r in range(TILE_ROWS):
                numbers[r] = min(pixel + r, last - 1)
                x[r] = work.x.image + work.x.pixels[numbers[r]]
                h[r] = work.h.image + work.h.pixels[numbers[r]]
            convolve_tile(width, phase.kernel.bias + offset,
                          x, &work.x, phase.kernel.panels + offset * phase.kernel.depth,
                          h, &work.h, phase.recurrent.panels + offset * phase.recurrent.depth, sums)
            finish_tile(&layer.cell, 0, <int>min(TILE_ROWS, last - pixel), numbers, panel_units(cut, panel),
                        panel * cut.units, NULL, rows, &work.state)
            pixel += TILE_ROWS


cdef double cost_of_image(const ConvRecurrence* layer, Py_ssize_t n_pixels) noexcept nogil:
    """Multiply-adds of one step, or their worth in time."""
    cdef const Phase* phase = &layer.cell.phases[0]
    return <double>n_pixels * 4 * layer.cell.units * (phase.kernel.depth + phase.recurrent.depth + ACTIVATION_COST)


cdef void step_blocks(const ConvRecurrence* layer, const ImageWorkspace* work, Py_ssize_t n_threads) noexcept nogil:
    cdef Py_ssize_t size = min((work.n_pixels + n_threads - 1) // n_threads, <Py_ssize_t>PIXELS_AT_ONCE)
    size = (size + TILE_ROWS - 1) // TILE_ROWS * TILE_ROWS
    cdef Py_ssize_t block, n_blocks = (work.n_pixels + size - 1) // size
    if n_threads == 1:
        for block in range(n_blocks):
            step_pixels(layer, work, block * size, min((block + 1) * size, work.n_pixels))
    else:
        for block in prange(n_blocks, num_threads=n_threads, schedule="dynamic"):
            step_pixels(layer, work, block * size, min((block + 1) * size, work.n_pixels))


cdef void step_image(const ConvRecurrence* layer, const ImageWorkspace* work) noexcept nogil:
    """One step of all pixels. Threads share them where the batch has not given each thread images of its own."""
    cdef double cost = cost_of_image(layer, work.n_pixels), start
    cdef Py_ssize_t n_threads = threads_for(work.n_pixels, cost / work.n_pixels)
    if n_threads > 1 and not omp_in_parallel():
        start = omp_get_wtime()
        if start >= layer.pace.pause:
            step_blocks(layer, work, n_threads)
            keep_pace(layer.pace, start, omp_get_wtime(), cost, <int>n_threads)
            return
    step_blocks(layer, work, 1)


cdef void run_conv_recurrence(
    const void* pointer, const Shape* shapes, char** data, Py_ssize_t rows, char* scratch,
) noexcept nogil:
    cdef const ConvRecurrence* layer = <const ConvRecurrence*>pointer
    cdef const Shape* shape = &shapes[layer.x]
    cdef Bump bump = Bump(scratch, 0)
    cdef ImageWorkspace work = lay_out_images(layer, shape, &bump)
    cdef Py_ssize_t steps = shape.dims[0], x_size = shape.size // steps
    cdef Py_ssize_t units = layer.cell.units, state_size = work.n_pixels * units
    cdef char* mask = data[layer.mask] if layer.mask != NONE else NULL
    cdef Py_ssize_t row, step, t
    cdef bint started, passed
    cdef Py_ssize_t x_sizes[SPACE]
    cdef Py_ssize_t channels
    cdef real* out
    cdef real* x
    cdef View source, x_inside, h_inside, h_next, c, target
    cdef size_t h_bytes = work.h.sizes[0] * work.h.sizes[1] * work.h.sizes[2] * units * sizeof(real)
    image_sizes(layer, shape.dims + 1, x_sizes, &channels)
    if not work.x_in_place:
        memset(work.x.image, 0, work.x.sizes[0] * work.x.sizes[1] * work.x.sizes[2] * channels * sizeof(real))
        x_inside = view_inside(&work.x)
    h_inside = view_inside(&work.h)
    h_next = view_of_state(&work, work.state.h_next)
    c = view_of_state(&work, work.state.c)
    for row in range(rows):
        memset(work.h.image, 0, h_bytes)
        memset(work.state.c, 0, work.n_pixels * work.state.stride * sizeof(real))
        if layer.initial[0] != NONE:
            source = view_of_array(layer, work.sizes, units, <real*>data[layer.initial[0]] + row * state_size)
            copy_image(&source, &h_inside, work.sizes, units)
            source = view_of_array(layer, work.sizes, units, <real*>data[layer.initial[1]] + row * state_size)
            copy_image(&source, &c, work.sizes, units)
        started = False
        for step in range(steps):
            t = steps - 1 - step if layer.go_backwards else step
            passed = mask == NULL or mask[row * steps + t]
            if passed:
                started = True
                x = <real*>data[layer.x] + (row * steps + t) * x_size
                if work.x_in_place:
                    work.x.image = x
                else:
                    source = view_of_array(layer, x_sizes, channels, x)
                    copy_image(&source, &x_inside, x_sizes, channels)
                step_image(layer, &work)
                copy_image(&h_next, &h_inside, work.sizes, units)
            if layer.y != NONE and (layer.return_sequences or step == steps - 1):
                out = <real*>data[layer.y] + (row * steps + step if layer.return_sequences else row) * state_size
                # Keras: a masked step repeats the output before it, and there is none before a row's first step.
                if passed or (started and not layer.zero_output_for_mask):
                    target = view_of_array(layer, work.sizes, units, out)
                    copy_image(&h_inside, &target, work.sizes, units)
                else:
                    memset(out, 0, state_size * sizeof(real))
        if layer.final[0] != NONE:
            target = view_of_array(layer, work.sizes, units, <real*>data[layer.final[0]] + row * state_size)
            copy_image(&h_inside, &target, work.sizes, units)
        if layer.final[1] != NONE:
            target = view_of_array(layer, work.sizes, units, <real*>data[layer.final[1]] + row * state_size)
            copy_image(&c, &target, work.sizes, units)


cdef bint infer_conv_recurrence(const void* pointer, Shape* shapes) noexcept nogil:
    cdef const ConvRecurrence* layer = <const ConvRecurrence*>pointer
    cdef const Shape* x = &shapes[layer.x]
    cdef const Shape* state
    cdef Py_ssize_t sizes[SPACE]
    cdef Py_ssize_t out[SPACE]
    cdef Py_ssize_t dims[SPACE + 2]      # of y with the steps; from the second on, of a state
    cdef Py_ssize_t channels
    cdef int number, axis, ndim = layer.rank + 1
    cdef double bytes_inside
    if x.ndim != ndim + 1 or x.dims[0] < 1:
        return False
    image_sizes(layer, x.dims + 1, sizes, &channels)
    output_sizes(layer, sizes, out)
    if channels != layer.cell.features or out[0] < 1 or out[1] < 1 or out[2] < 1:
        return False
    bytes_inside = <double>channels * sizeof(real)
    for axis in range(SPACE):
        bytes_inside *= (out[axis] - 1) * layer.strides[axis] + window_of(layer, axis)
    if bytes_inside > MOST_BYTES:
        return False
    if layer.mask != NONE and (shapes[layer.mask].ndim != 1 or shapes[layer.mask].dims[0] != x.dims[0]):
        return False
    dims[0] = x.dims[0]
    state_dims(layer, out, dims + 1)
    for number in range(2):
        if layer.initial[number] != NONE:
            state = &shapes[layer.initial[number]]
            if state.ndim != ndim:
                return False
            for axis in range(ndim):
                if state.dims[axis] != dims[axis + 1]:
                    return False
        if layer.final[number] != NONE:
            set_shape(&shapes[layer.final[number]], ndim, dims + 1, dims[ndim])
    if layer.y != NONE:
        if layer.return_sequences:
            set_shape(&shapes[layer.y], ndim + 1, dims, dims[ndim])
        else:
            set_shape(&shapes[layer.y], ndim, dims + 1, dims[ndim])
    return True


cdef size_t scratch_of_conv_recurrence(const void* pointer, const Shape* shapes, Py_ssize_t rows) noexcept nogil:
    cdef const ConvRecurrence* layer = <const ConvRecurrence*>pointer
    cdef Bump bump = Bump(NULL, 0)
    lay_out_images(layer, &shapes[layer.x], &bump)
    return bump.used


cdef double cost_of_conv_recurrence(const void* pointer, const Shape* shapes) noexcept nogil:
    cdef const ConvRecurrence* layer = <const ConvRecurrence*>pointer
    cdef Py_ssize_t sizes[SPACE]
    cdef Py_ssize_t out[SPACE]
    cdef Py_ssize_t channels
    image_sizes(layer, shapes[layer.x].dims + 1, sizes, &channels)
    output_sizes(layer, sizes, out)
    return shapes[layer.x].dims[0] * cost_of_image(layer, out[0] * out[1] * out[2])


cdef class ConvRecurrent(Step):
    """A ConvLSTM layer.

    Parameters
    ----------
    kernel, recurrent_kernel : ndarray
        (*taps, channels, 4 * filters) and (*taps, filters, 4 * filters), gates in Keras's order; one to three axes of
        taps.
    bias : ndarray or None
        (4 * filters,).
    activation, recurrent_activation : str
        Keys of `ACTIVATIONS`, not of `ROW_ACTIVATIONS`.
    strides, dilation : sequence of int
        Of the input's convolution, one for each axis of taps; the recurrent one has none.
    same : bool
        Whether zeros around x keep its size, but for the strides.
    channels_first : bool
        Whether images are (channels, *space) instead of (*space, channels).
    x, mask, y : int or None
        Buffers: (steps, *image), (steps,) of bytes, and (steps, *image) or (*image) a row.
    initial, final : tuple of int
        Buffers of h and c, (*image) a row, or none.
    """
    cdef ConvRecurrence layer
    cdef Pace pace

    def __init__(
        self, kernel, recurrent_kernel, bias, activation, recurrent_activation, strides, dilation, *, same,
        channels_first, x, y, mask=None, initial=(), final=(), return_sequences=False, go_backwards=False,
        zero_output_for_mask=False,
    ):
        cdef int number, axis
        cdef Cell* cell = &self.layer.cell
        *taps, channels, columns = kernel.shape
        cell.kind = LSTM
        cell.activation, cell.recurrent_activation = ACTIVATIONS[activation], ACTIVATIONS[recurrent_activation]
        cell.features, cell.units = channels, columns // 4
        cell.n_phases = 1
        self._alive = (
            prepare_weights(&cell.phases[0].kernel, kernel.reshape(-1, columns), bias, 4),
            prepare_weights(&cell.phases[0].recurrent, recurrent_kernel.reshape(-1, columns), None, 4))
        self.layer.rank = <int>len(taps)
        for axis in range(SPACE):
            number = axis - SPACE + self.layer.rank
            self.layer.taps[axis] = taps[number] if number >= 0 else 1
            self.layer.strides[axis] = strides[number] if number >= 0 else 1
            self.layer.dilation[axis] = dilation[number] if number >= 0 else 1
        self.layer.pace = &self.pace
        self.layer.same, self.layer.channels_first = same, channels_first
        self.layer.return_sequences = return_sequences
        self.layer.go_backwards = go_backwards
        self.layer.zero_output_for_mask = zero_output_for_mask
        self.layer.x = x
        self.layer.mask = NONE if mask is None else mask
        self.layer.y = NONE if y is None else y
        for number in range(2):
            self.layer.initial[number] = initial[number] if number < len(initial) else NONE
            self.layer.final[number] = final[number] if number < len(final) else NONE
        self.sources = tuple(number for number in (x, mask, *initial) if number is not None)
        self.targets = tuple(number for number in (y, *final) if number is not None)
        self.operation = Operation(
            &self.layer, infer_conv_recurrence, scratch_of_conv_recurrence, run_conv_recurrence,
            cost_of_conv_recurrence, NONE, 0)
