"""ConvLSTM: the LSTM whose products are convolutions, over images of one, two or three space axes.

Inside, an image has three space axes, of size 1 where Keras has none, and its channels last. An implicit product: in an
image with zeros around it the numbers that a row of taps reads for one pixel lie side by side, so the tile takes its
depth in segments, one for each row of taps (for each tap where the kernel is dilated along that row), and no matrix of
patches is made. Both convolutions go into the same sums, and the pixels of a tile are to the cell what rows of a batch
are to it elsewhere.

Images of a batch are computed one after the other: a thread works on the memory of one image.
"""
from cython.parallel cimport prange
from libc.string cimport memcpy, memset
from openmp cimport omp_get_wtime

from fastrnn.kernels.cells.registry cimport finish_tile
from fastrnn.kernels.geometry cimport cost_of_image, image_sizes, output_sizes, window_of
from fastrnn.kernels.layers cimport (
    SPACE, ConvRecurrence, Kernel, Kernels, Panels, Phase, Shape, State, panel_units, panel_width,
)
from fastrnn.kernels.loop cimport Now, run_sequence
from fastrnn.kernels.simd cimport LANES, TILE_ROWS, TILE_VECTORS, add, load, multiply_add, real, store, vec, zero_vector
from fastrnn.kernels.team cimport keep_pace
from fastrnn.kernels.tuning cimport CONVOLUTION_SUM, NONE, PIXELS_AT_ONCE, threads_for
from fastrnn.kernels.workspace cimport Bump, take

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


cdef void lay_out_images(
    const ConvRecurrence* layer, const Shape* x, Bump* bump, ImageWorkspace* work,
) noexcept nogil:
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
    work.state.carry = <real*>take(bump, size * sizeof(real))


cdef inline void flush_sums(const int vectors, vec* sums, real* out) noexcept nogil:
    """Add the sums to `out` and begin new ones."""
    cdef int r, v
    for r in range(TILE_ROWS):
        for v in range(vectors):
            store(out + (r * vectors + v) * LANES, add(load(out + (r * vectors + v) * LANES), sums[r * vectors + v]))
            sums[r * vectors + v] = zero_vector()


cdef inline void add_segments(
    const int vectors, vec* sums, const real** pixels, const Convolution* convolution, const real* panel, real* out,
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
    const int vectors, const real* start, const real** x, const Convolution* x_convolution, const real* x_panel,
    const real** h, const Convolution* h_convolution, const real* h_panel, real* out,
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
    Py_ssize_t width, const real* start, const real** x, const Convolution* x_convolution, const real* x_panel,
    const real** h, const Convolution* h_convolution, const real* h_panel, real* out,
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
    cdef const real* x[TILE_ROWS]
    cdef const real* h[TILE_ROWS]
    cdef const real* rows[TILE_ROWS]
    # A cell reads whole vectors from where a gate starts, so past the last gate of a narrow panel: numbers that nobody
    # uses, but that should not be denormal, whose arithmetic is slow.
    cdef real sums[(TILE_ROWS * TILE_VECTORS + TILE_VECTORS) * LANES]
    cdef Py_ssize_t pixel, offset, width
    cdef int panel, r
    memset(sums, 0, sizeof(sums))
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
                        panel * cut.units, rows, rows, &work.state)
            pixel += TILE_ROWS


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


# -- The stepper ---------------------------------------------------------------------------------------------------

cdef struct Images:
    const ConvRecurrence* layer
    ImageWorkspace work
    int n_threads              # that may share an image
    Py_ssize_t channels
    Py_ssize_t x_sizes[SPACE]
    Py_ssize_t x_size          # numbers of a step of x
    real* x                    # of this row, (steps, *image)
    real* y
    View x_inside
    View h_inside
    View h_next
    View carry


cdef void step_image(const ConvRecurrence* layer, const ImageWorkspace* work, int most_threads) noexcept nogil:
    """One step of all pixels, on as many threads as are worth it and may work on it."""
    cdef double cost = cost_of_image(layer, work.n_pixels), start
    cdef Py_ssize_t n_threads = threads_for(work.n_pixels, cost / work.n_pixels, most_threads)
    if n_threads > 1:
        start = omp_get_wtime()
        if start >= layer.pace.pause:
            step_blocks(layer, work, n_threads)
            keep_pace(layer.pace, start, omp_get_wtime(), cost, <int>n_threads)
            return
    step_blocks(layer, work, 1)


cdef bint make_step(void* stepper, const Now* now) noexcept nogil:
    cdef Images* images = <Images*>stepper
    cdef real* x = images.x + now.t * images.x_size
    cdef View source
    if now.n_passing == 0:
        return True
    if images.work.x_in_place:
        images.work.x.image = x
    else:
        source = view_of_array(images.layer, images.x_sizes, images.channels, x)
        copy_image(&source, &images.x_inside, images.x_sizes, images.channels)
    step_image(images.layer, &images.work, images.n_threads)
    copy_image(&images.h_next, &images.h_inside, images.work.sizes, images.layer.cell.units)
    return True


cdef void write(void* stepper, const Now* now) noexcept nogil:
    cdef Images* images = <Images*>stepper
    cdef const ConvRecurrence* layer = images.layer
    cdef Py_ssize_t size = images.work.n_pixels * layer.cell.units
    cdef real* out = images.y + (now.step * size if layer.sequence.return_sequences else 0)
    cdef View target
    if images.y == NULL:
        return
    if now.shows == NULL or now.shows[0]:
        target = view_of_array(layer, images.work.sizes, layer.cell.units, out)
        copy_image(&images.h_inside, &target, images.work.sizes, layer.cell.units)
    else:
        memset(out, 0, size * sizeof(real))


cdef void run_conv_recurrence(
    const void* pointer, const Shape* shapes, char** data, Py_ssize_t rows, char* scratch, int n_threads,
) noexcept nogil:
    cdef const ConvRecurrence* layer = <const ConvRecurrence*>pointer
    cdef const Shape* shape = &shapes[layer.sequence.x]
    cdef Bump bump = Bump(scratch, 0)
    cdef Images images
    cdef ImageWorkspace* work = &images.work
    cdef Py_ssize_t steps = shape.dims[0], units = layer.cell.units, row, state_size, y_size
    cdef const char* mask = NULL
    cdef char marks[3]
    cdef View view
    cdef int number
    lay_out_images(layer, shape, &bump, work)
    state_size = work.n_pixels * units
    y_size = state_size * (steps if layer.sequence.return_sequences else 1)
    images.layer, images.n_threads, images.x_size, images.y = layer, n_threads, shape.size // steps, NULL
    image_sizes(layer, shape.dims + 1, images.x_sizes, &images.channels)
    if not work.x_in_place:
        memset(work.x.image, 0,
               work.x.sizes[0] * work.x.sizes[1] * work.x.sizes[2] * images.channels * sizeof(real))
        images.x_inside = view_inside(&work.x)
    images.h_inside = view_inside(&work.h)
    images.h_next = view_of_state(work, work.state.h_next)
    images.carry = view_of_state(work, work.state.carry)
    for row in range(rows):
        memset(work.h.image, 0, work.h.sizes[0] * work.h.sizes[1] * work.h.sizes[2] * units * sizeof(real))
        memset(work.state.carry, 0, work.n_pixels * work.state.stride * sizeof(real))
        for number in range(2):
            if layer.sequence.initial[number] != NONE:
                view = view_of_array(
                    layer, work.sizes, units, <real*>data[layer.sequence.initial[number]] + row * state_size)
                copy_image(&view, &images.h_inside if number == 0 else &images.carry, work.sizes, units)
        images.x = <real*>data[layer.sequence.x] + row * shape.size
        if layer.sequence.y != NONE:
            images.y = <real*>data[layer.sequence.y] + row * y_size
        if layer.sequence.mask != NONE:
            mask = data[layer.sequence.mask] + row * steps
        run_sequence(&layer.sequence, 1, steps, 0, mask, marks, &images, make_step, write)
        for number in range(2):
            if layer.sequence.final[number] != NONE:
                view = view_of_array(
                    layer, work.sizes, units, <real*>data[layer.sequence.final[number]] + row * state_size)
                copy_image(&images.h_inside if number == 0 else &images.carry, &view, work.sizes, units)


cdef size_t scratch_of_conv_recurrence(const void* pointer, const Shape* shapes, Py_ssize_t rows) noexcept nogil:
    cdef const ConvRecurrence* layer = <const ConvRecurrence*>pointer
    cdef Bump bump = Bump(NULL, 0)
    cdef ImageWorkspace work
    lay_out_images(layer, &shapes[layer.sequence.x], &bump, &work)
    return bump.used


cdef public void fill "FASTRNN_LOCAL(fill_images)"(void* table) noexcept nogil:
    cdef Kernels* kernels = <Kernels*>table
    kernels.conv_recurrence = Kernel(run_conv_recurrence, scratch_of_conv_recurrence, NULL, NULL)
