# Streams: the program of one timestep, and the states it goes from and to, laid out once.
#
# A stream keeps its states in arrays of this object, a row a sequence. A step binds the caller's input and output, runs
# the operations and copies the new states over the old ones: it allocates nothing but the output. A pool is the same
# with rows picked by number: a tile of them is gathered, stepped and put back while it is in the cache.

from cpython.long cimport PyLong_AsLongLongAndOverflow
from cpython.mem cimport PyMem_Calloc

cdef extern from *:
    """
    /* Whether this thread is the first to enter; threads of Python without its lock may try at once. */
    static inline int fastrnn_enter(char *busy) { return !__atomic_exchange_n(busy, 1, __ATOMIC_ACQUIRE); }
    /* Ask for a row ahead of its use. */
    static inline void fastrnn_fetch(const char *row, size_t size) {
        for (size_t i = 0; i < size; i += 64) __builtin_prefetch(row + i);
    }
    static inline void fastrnn_leave(char *busy) { __atomic_store_n(busy, 0, __ATOMIC_RELEASE); }
    """
    bint enter "fastrnn_enter"(char* busy) nogil
    void leave "fastrnn_leave"(char* busy) nogil
    void fetch "fastrnn_fetch"(const char* row, size_t size) nogil


# -- Window --------------------------------------------------------------------------------------------------------

cdef struct Sight:
    int y
    int x
    int before
    int after
    Py_ssize_t taps
    Py_ssize_t dilation


cdef bint infer_window(const void* pointer, Shape* shapes) noexcept nogil:
    cdef const Sight* layer = <const Sight*>pointer
    cdef const Shape* x = &shapes[layer.x]
    cdef const Shape* before = &shapes[layer.before]
    if x.ndim != 2 or before.ndim != 2 or before.dims[1] != x.dims[1]:
        return False
    if before.dims[0] != (layer.taps - 1) * layer.dilation:
        return False
    set_shape(&shapes[layer.y], 2, x.dims, layer.taps * x.dims[1])
    shapes[layer.after] = before[0]
    return True


cdef void run_window(
    const void* pointer, const Shape* shapes, char** data, Py_ssize_t rows, char* scratch,
) noexcept nogil:
    cdef const Sight* layer = <const Sight*>pointer
    cdef Py_ssize_t steps = shapes[layer.x].dims[0], features = shapes[layer.x].dims[1]
    cdef Py_ssize_t kept = shapes[layer.before].dims[0], row, step, tap, seen
    cdef size_t size = features * sizeof(real)
    cdef real* y = <real*>data[layer.y]
    cdef const real* x
    cdef const real* before
    for row in range(rows):
        x = <const real*>data[layer.x] + row * steps * features
        before = <const real*>data[layer.before] + row * kept * features
        for step in range(steps):
            for tap in range(layer.taps):
                seen = step + tap * layer.dilation
                memcpy(y, before + seen * features if seen < kept else x + (seen - kept) * features, size)
                y += features
        for step in range(kept):
            seen = step + steps
            memcpy(<real*>data[layer.after] + (row * kept + step) * features,
                   before + seen * features if seen < kept else x + (seen - kept) * features, size)


cdef class Window(Step):
    """What each step of a causal convolution sees: (steps, taps * features) a row, the oldest tap first.

    x is (steps, features) a row, `before` the ((taps - 1) * dilation, features) before it, `after` those before the
    next x.
    """
    cdef Sight layer

    def __init__(self, taps, dilation, *, x, before, y, after):
        self.layer.taps, self.layer.dilation = taps, dilation
        self.layer.x, self.layer.before, self.layer.y, self.layer.after = x, before, y, after
        self.sources, self.targets = (x, before), (y, after)
        self.operation = Operation(&self.layer, infer_window, no_scratch, run_window, cost_of_target, NONE, 0)


# -- Hold ----------------------------------------------------------------------------------------------------------

cdef struct Holding:
    int y
    int x
    int mask
    int before
    int after
    bint sequence


cdef bint infer_hold(const void* pointer, Shape* shapes) noexcept nogil:
    cdef const Holding* layer = <const Holding*>pointer
    cdef const Shape* x = &shapes[layer.x]
    cdef const Shape* mask = &shapes[layer.mask]
    shapes[layer.y] = x[0]
    shapes[layer.after] = shapes[layer.before]
    if mask.ndim != 1 or (layer.sequence and (x.ndim < 1 or x.dims[0] != mask.dims[0])):
        return False
    return x.size == shapes[layer.before].size * (mask.dims[0] if layer.sequence else 1)


cdef void run_hold(
    const void* pointer, const Shape* shapes, char** data, Py_ssize_t rows, char* scratch,
) noexcept nogil:
    cdef const Holding* layer = <const Holding*>pointer
    cdef Py_ssize_t steps = shapes[layer.mask].dims[0], width = shapes[layer.before].size, row, step
    cdef size_t size = width * sizeof(real)
    cdef const real* x = <const real*>data[layer.x]
    cdef const real* before
    cdef real* y = <real*>data[layer.y]
    cdef bint begun
    for row in range(rows):
        before = <const real*>data[layer.before] + row * width
        begun = False
        for step in range(steps):
            begun |= data[layer.mask][row * steps + step] != 0
            if layer.sequence or step == steps - 1:
                memcpy(y, x if begun else before, size)
                x += width
                y += width
        memcpy(<real*>data[layer.after] + row * width, y - width, size)


cdef class Hold(Step):
    """The outputs x of a recurrence whose sequence began earlier: until `mask` lets a step through, the one `before`.

    x and y are (steps, ...) a row or, without `sequence`, (...) of the last step; `before` and `after` are (...).
    """
    cdef Holding layer

    def __init__(self, *, x, mask, before, y, after, sequence):
        self.layer.x, self.layer.mask, self.layer.before = x, mask, before
        self.layer.y, self.layer.after, self.layer.sequence = y, after, sequence
        self.sources, self.targets = (x, mask, before), (y, after)
        self.operation = Operation(&self.layer, infer_hold, no_scratch, run_hold, cost_of_target, NONE, 0)


# -- Streams -------------------------------------------------------------------------------------------------------

cdef struct Kept:
    # An array with a row a sequence: a state, or what is the same at every step.
    char* rows
    size_t size          # bytes of a row
    int before           # the buffer it is read from
    int after            # the buffer with its new values, or NONE


cdef class Streams:
    """Sequences that a program takes one timestep on at a time, and their states.

    Parameters
    ----------
    program : Program
        From inputs, states and constants, in this order, to outputs and states.
    inputs : sequence of tuple of int
        The inputs' shapes without the batch.
    timed : sequence of bool
        For each output whether its first axis after the batch is the one timestep: it is left out.
    states, constants : sequence of ndarray
        (rows, ...) each, C-contiguous, which this object writes to (the states) and reads.
    picked : bool
        Whether steps are of some rows, which they name, rather than of all.
    """
    cdef Program program
    cdef tuple arrays
    cdef Arena arena
    cdef Pace pace
    cdef Py_ssize_t rows
    cdef int n_x, n_y, n_kept
    cdef Shape* shapes
    cdef Kept* kept
    cdef bint* timed
    cdef int* y_buffers
    cdef bint picked
    cdef double cost     # of a row
    cdef size_t bytes_of_row
    cdef char busy
    # The arena, laid out for these.
    cdef Py_ssize_t tile, last_tile, n_threads
    cdef char** data     # (threads, buffers)
    cdef char* workspaces
    cdef size_t workspace

    def __cinit__(self, Program program, inputs, timed, states, constants, bint picked=False):
        cdef int number
        cdef cnp.ndarray array
        self.program, self.picked = program, picked
        self.arrays = (*states, *constants)
        self.arena = Arena()
        self.n_x, self.n_y, self.n_kept = <int>len(inputs), <int>len(timed), <int>len(self.arrays)
        if self.n_x + self.n_kept != program.n_inputs or self.n_y + len(states) != len(program.outputs):
            raise ValueError("expected a program from inputs, states and constants to outputs and states")
        self.shapes = <Shape*>PyMem_Calloc(program.n_buffers + 1, sizeof(Shape))
        self.kept = <Kept*>PyMem_Calloc(self.n_kept + 1, sizeof(Kept))
        self.timed = <bint*>PyMem_Calloc(self.n_y + 1, sizeof(bint))
        self.y_buffers = <int*>PyMem_Calloc(self.n_y + 1, sizeof(int))
        if self.shapes == NULL or self.kept == NULL or self.timed == NULL or self.y_buffers == NULL:
            raise MemoryError
        for number in range(self.n_y):
            self.timed[number] = timed[number]
            self.y_buffers[number] = program.outputs[number]
        for number in range(self.n_x):
            self.describe(&program.inputs[number], inputs[number],
                          cnp.NPY_INT64 if program.inputs[number].indices else REAL_TYPE)
        self.rows = len(self.arrays[0]) if self.arrays else -1
        for number in range(self.n_kept):
            array = self.arrays[number]
            if not cnp.PyArray_ISCARRAY(array) or cnp.PyArray_DIM(array, 0) != self.rows:
                raise ValueError("expected states and constants as contiguous arrays of as many rows")
            self.describe(&program.inputs[self.n_x + number], np.shape(array)[1:], cnp.PyArray_TYPE(array))
            self.kept[number].rows = cnp.PyArray_BYTES(array)
            self.kept[number].before = program.inputs[self.n_x + number].buffer
            self.kept[number].size = self.bytes_of(self.kept[number].before)
            self.kept[number].after = program.outputs[self.n_y + number] if number < len(states) else NONE
        for number in range(program.n_steps):
            if not program.operations[number].infer(program.operations[number].layer, self.shapes):
                raise ValueError("the states and inputs do not fit the layers they are given to")
            self.cost += program.operations[number].cost(program.operations[number].layer, self.shapes)
        for number in range(program.n_buffers):
            self.bytes_of_row += self.bytes_of(number)
        for number in range(self.n_kept):
            axis = self.kept[number].after
            if axis != NONE and self.bytes_of(axis) != self.kept[number].size:
                raise ValueError("expected states of the same shape before and after a step")

    def __dealloc__(self):
        PyMem_Free(self.shapes)
        PyMem_Free(self.kept)
        PyMem_Free(self.timed)
        PyMem_Free(self.y_buffers)

    cdef size_t bytes_of(self, int buffer) noexcept nogil:
        return self.shapes[buffer].size * self.shapes[buffer].item

    cdef int describe(self, const Input* source, object sizes, int type) except -1:
        cdef Shape* shape = &self.shapes[source.buffer]
        cdef int axis
        if len(sizes) > MAX_DIMS:
            raise ValueError(f"expected at most {MAX_DIMS} axes; got {len(sizes)}")
        if type != REAL_TYPE and not (source.mask if type == cnp.NPY_BOOL else source.indices):
            raise ValueError("expected states and constants of the program's type")
        shape.ndim, shape.size, shape.type = <int>len(sizes), 1, type
        shape.item = 1 if type == cnp.NPY_BOOL else 8 if type == cnp.NPY_INT64 else sizeof(real)
        for axis in range(shape.ndim):
            shape.dims[axis] = sizes[axis]
            shape.size *= shape.dims[axis]
        return 0

    def acquire(self):
        """Keep other threads out until `release`; whether that was possible at once."""
        return enter(&self.busy)

    def release(self):
        """Let others in again."""
        leave(&self.busy)

    def step(self, inputs, out=None, cnp.ndarray slots=None):
        """Take rows one timestep on.

        Parameters
        ----------
        inputs : ndarray or tuple of ndarray
            (rows, ...) each without an axis for the one timestep, C-contiguous and of this build's dtype (or indices);
            for one row and one input (...) too, and then the output is without the batch.
        out : ndarray, optional
            Takes the one output; it does not overlap with what else is given.
        slots : ndarray of int64, optional
            Numbers of rows, valid and no two equal; by default they are all rows in their order.

        Returns
        -------
        ndarray or tuple of ndarray, or None
            The outputs, a bare array for one. None if something is not of that form: nothing has happened then.

        Raises
        ------
        RuntimeError
            If another thread is in this object.
        """
        if not enter(&self.busy):
            raise RuntimeError("the stream is in use by another thread")
        try:
            return self.step_alone(inputs, out, slots)
        finally:
            leave(&self.busy)

    cdef object step_alone(self, object inputs, object out, cnp.ndarray slots):
        cdef char* x[SMALL_BUFFERS]
        cdef char* y[SMALL_BUFFERS]
        cdef Py_ssize_t rows = self.rows if slots is None else cnp.PyArray_DIM(slots, 0), found
        cdef int number
        cdef bint bare = False, counted
        cdef object results
        if self.n_x > SMALL_BUFFERS or self.n_y > SMALL_BUFFERS or self.picked != (slots is not None):
            return None
        if isinstance(inputs, tuple):
            if len(<tuple>inputs) != self.n_x:
                return None
            for number in range(self.n_x):
                array = (<tuple>inputs)[number]
                found = self.bind(array, number, False, x) if cnp.PyArray_Check(array) else -1
                if found < 0 or (rows >= 0 and found != rows):
                    return None
                rows = found
        else:
            if self.n_x != 1 or not cnp.PyArray_Check(inputs):
                return None
            bare = cnp.PyArray_NDIM(<cnp.ndarray>inputs) == self.shapes[self.program.inputs[0].buffer].ndim - 1
            found = self.bind(<cnp.ndarray>inputs, 0, bare, x)
            if found < 0 or (rows >= 0 and found != rows) or (bare and slots is not None):
                return None
            rows = found
        if not self.indices_fit(x, rows):
            return None
        if self.n_y == 1:
            results = self.allocate(0, rows, bare, y) if out is None else self.take_out(out, rows, bare, x, y)
            if results is None:
                return None
        elif out is not None:
            return None
        else:
            results = tuple([self.allocate(number, rows, bare, y) for number in range(self.n_y)])
        if rows:
            counted = begin_call(rows * self.cost)
            try:
                self.compute(rows, <const int64_t*>cnp.PyArray_DATA(slots) if slots is not None else NULL, x, y)
            finally:
                end_call(counted)
        return results

    cdef Py_ssize_t bind(self, cnp.ndarray array, int number, bint bare, char** x) except -2:
        """Make `array`, `bare` of the batch, an input; returns its rows, or -1 if it is not as `step` takes it."""
        cdef const Input* source = &self.program.inputs[number]
        cdef Shape* shape = &self.shapes[source.buffer]
        cdef int axis, kind = cnp.PyArray_TYPE(array), batched = 0 if bare else 1
        # The one timestep has no axis here.
        if cnp.PyArray_NDIM(array) != shape.ndim - 1 + batched or not cnp.PyArray_ISCARRAY_RO(array):
            return -1
        for axis in range(1, shape.ndim):
            if cnp.PyArray_DIM(array, batched + axis - 1) != shape.dims[axis]:
                return -1
        if source.indices:
            if kind != cnp.NPY_INT32 and kind != cnp.NPY_INT64:
                return -1
            shape.type = kind
            shape.item = cnp.PyArray_ITEMSIZE(array)
        elif kind != REAL_TYPE:
            return -1
        x[number] = cnp.PyArray_BYTES(array)
        return cnp.PyArray_DIM(array, 0) if batched else 1

    cdef bint indices_fit(self, char** x, Py_ssize_t rows) noexcept nogil:
        cdef const Operation* operation
        cdef int number, source
        for number in range(self.program.n_steps):
            operation = &self.program.operations[number]
            if operation.limit:
                for source in range(self.n_x):
                    if self.program.inputs[source].buffer == operation.indices and not all_are_indices(
                            x[source], self.shapes[operation.indices].type,
                            rows * self.shapes[operation.indices].size, operation.limit):
                        return False
        return True

    cdef object allocate(self, int number, Py_ssize_t rows, bint bare, char** y):
        """A new array for an output."""
        cdef cnp.npy_intp dims[MAX_DIMS + 1]
        cdef const Shape* shape = &self.shapes[self.y_buffers[number]]
        cdef int axis, skipped = 1 if self.timed[number] else 0, ndim = 0
        cdef cnp.ndarray array
        if not bare:
            dims[0] = rows
            ndim = 1
        for axis in range(skipped, shape.ndim):
            dims[ndim] = shape.dims[axis]
            ndim += 1
        array = cnp.PyArray_EMPTY(ndim, dims, shape.type, 0)
        y[number] = cnp.PyArray_BYTES(array)
        return array

    cdef object take_out(self, object out, Py_ssize_t rows, bint bare, char** x, char** y):
        """`out` as the one output, or None if it is not of its form or overlaps with an input or a state."""
        cdef const Shape* shape = &self.shapes[self.y_buffers[0]]
        cdef int axis, number, skipped = 1 if self.timed[0] else 0, batched = 0 if bare else 1
        cdef cnp.ndarray array
        cdef size_t size
        cdef char* first
        cdef char* last
        if not cnp.PyArray_Check(out):
            return None
        array = <cnp.ndarray>out
        if cnp.PyArray_TYPE(array) != shape.type or not cnp.PyArray_ISCARRAY(array):
            return None
        if cnp.PyArray_NDIM(array) != shape.ndim - skipped + batched or (
                batched and cnp.PyArray_DIM(array, 0) != rows):
            return None
        for axis in range(skipped, shape.ndim):
            if cnp.PyArray_DIM(array, axis - skipped + batched) != shape.dims[axis]:
                return None
        first = cnp.PyArray_BYTES(array)
        last = first + cnp.PyArray_NBYTES(array)
        for number in range(self.n_x):
            size = rows * self.bytes_of(self.program.inputs[number].buffer)
            if first < x[number] + size and x[number] < last:
                return None
        y[0] = first
        return array

    cdef int compute(self, Py_ssize_t rows, const int64_t* slots, char** x, char** y) except -1:
        cdef Py_ssize_t most = most_rows(self.bytes_of_row), n_threads = threads_for(rows, self.cost), tile, n_tiles
        cdef int number
        cdef double start
        tile = tile_rows_for(rows, n_threads, most)
        n_tiles = (rows + tile - 1) // tile
        n_threads = min(n_threads, n_tiles)
        self.lay_out(tile, rows - (n_tiles - 1) * tile, n_threads)
        if rows * self.cost < COST_TO_LET_OTHERS_RUN:
            for number in range(n_tiles):
                self.run_tile(number, 0, rows, slots, x, y)
            return 0
        with nogil:
            start = omp_get_wtime() if n_threads > 1 else 0
            if n_threads == 1 or start < self.pace.pause:
                for number in range(n_tiles):
                    self.run_tile(number, 0, rows, slots, x, y)
            else:
                for number in prange(n_tiles, num_threads=n_threads, schedule="dynamic"):
                    self.run_tile(number, threadid(), rows, slots, x, y)
                keep_pace(
                    &self.pace, start, omp_get_wtime(), self.cost * (rows + ROWS_FOR_WEIGHTS), <int>n_threads)
        return 0

    cdef int lay_out(self, Py_ssize_t tile, Py_ssize_t last_tile, Py_ssize_t n_threads) except -1:
        """Give every buffer of every thread its place for tiles of so many rows."""
        cdef size_t part = 0, needed, head
        cdef Py_ssize_t thread
        cdef int number, n_buffers = self.program.n_buffers
        cdef const Operation* operations = self.program.operations
        cdef char* block
        if tile == self.tile and last_tile == self.last_tile and n_threads == self.n_threads:
            return 0
        self.tile = 0
        for number in range(n_buffers):
            part += (tile * self.bytes_of(number) + 63) // 64 * 64
        self.workspace = 0
        for number in range(self.program.n_steps):
            # Fewer rows may take more: a step can have another way for them.
            needed = operations[number].scratch(operations[number].layer, self.shapes, tile)
            self.workspace = max(self.workspace, needed)
            needed = operations[number].scratch(operations[number].layer, self.shapes, last_tile)
            self.workspace = max(self.workspace, needed)
        self.workspace = (self.workspace + 63) // 64 * 64
        head = (n_threads * n_buffers * sizeof(char*) + 63) // 64 * 64
        block = self.arena.reserve(head + n_threads * (part + self.workspace))
        self.data = <char**>block
        self.workspaces = block + head + n_threads * part
        block += head
        for thread in range(n_threads):
            for number in range(n_buffers):
                self.data[thread * n_buffers + number] = block
                block += (tile * self.bytes_of(number) + 63) // 64 * 64
        self.tile, self.last_tile, self.n_threads = tile, last_tile, n_threads
        return 0

    cdef void run_tile(
        self, Py_ssize_t tile, int thread, Py_ssize_t rows, const int64_t* slots, char** x, char** y,
    ) noexcept nogil:
        cdef char** data = self.data + thread * self.program.n_buffers
        cdef Py_ssize_t first = tile * self.tile, row
        cdef const Operation* operations = self.program.operations
        cdef const Kept* kept
        cdef int number, buffer
        rows = min(self.tile, rows - first)
        for number in range(self.n_x):
            buffer = self.program.inputs[number].buffer
            data[buffer] = x[number] + first * self.bytes_of(buffer)
        for number in range(self.n_y):
            buffer = self.y_buffers[number]
            data[buffer] = y[number] + first * self.bytes_of(buffer)
        for number in range(self.n_kept):
            kept = &self.kept[number]
            if not self.picked:
                data[kept.before] = kept.rows + first * kept.size
            else:
                for row in range(rows):
                    if row + ROWS_TO_FETCH < rows:
                        fetch(kept.rows + slots[first + row + ROWS_TO_FETCH] * kept.size, kept.size)
                    memcpy(data[kept.before] + row * kept.size, kept.rows + slots[first + row] * kept.size, kept.size)
        for number in range(self.program.n_steps):
            operations[number].run(
                operations[number].layer, self.shapes, data, rows, self.workspaces + thread * self.workspace)
        for number in range(self.n_kept):
            kept = &self.kept[number]
            if kept.after == NONE:
                continue
            if not self.picked:
                memcpy(data[kept.before], data[kept.after], rows * kept.size)
            else:
                for row in range(rows):
                    memcpy(kept.rows + slots[first + row] * kept.size, data[kept.after] + row * kept.size, kept.size)


# -- Slots ---------------------------------------------------------------------------------------------------------

cdef class Slots:
    """Who has which of `capacity` places: a number is given out once and never again.

    The low bits of a number are the place, the others count how often it was given.
    """
    cdef readonly Py_ssize_t capacity
    cdef int64_t mask
    cdef int64_t* owners     # who has each place, or the one who will, less than 0: -1 - the next number
    cdef int64_t* seen       # the last call that named each place
    cdef Py_ssize_t* free    # a ring of free places: the longest free one is given first
    cdef Py_ssize_t first_free, n_free
    cdef int64_t call

    def __cinit__(self, Py_ssize_t capacity):
        cdef Py_ssize_t place
        self.capacity = self.n_free = capacity
        self.mask = 1
        while self.mask < capacity:
            self.mask *= 2
        self.owners = <int64_t*>PyMem_Malloc(capacity * sizeof(int64_t))
        self.seen = <int64_t*>PyMem_Calloc(capacity, sizeof(int64_t))
        self.free = <Py_ssize_t*>PyMem_Malloc(capacity * sizeof(Py_ssize_t))
        if self.owners == NULL or self.seen == NULL or self.free == NULL:
            raise MemoryError
        for place in range(capacity):
            self.free[place] = place
            self.owners[place] = -1 - (place + self.mask)
        self.mask -= 1

    def __dealloc__(self):
        PyMem_Free(self.owners)
        PyMem_Free(self.seen)
        PyMem_Free(self.free)

    @property
    def n_open(self):
        """int: how many numbers have a place."""
        return self.capacity - self.n_free

    def open(self):
        """Return a new number; RuntimeError if all places are taken."""
        cdef Py_ssize_t place
        if self.n_free == 0:
            raise RuntimeError(f"all {self.capacity} streams of the pool are open")
        place = self.free[self.first_free]
        self.first_free = (self.first_free + 1) % self.capacity
        self.n_free -= 1
        self.owners[place] = -1 - self.owners[place]
        return self.owners[place]

    def close(self, number):
        """Free the place of a number; KeyError if it has none."""
        cdef Py_ssize_t place = self.place_of(number)
        # The last number that fits would be followed by one below 0: its place is not given again.
        if self.owners[place] <= (<int64_t>1 << 62):
            self.free[(self.first_free + self.n_free) % self.capacity] = place
            self.n_free += 1
        self.owners[place] = -1 - (self.owners[place] + self.mask + 1)

    def has(self, number):
        """Return whether a number has a place."""
        cdef int64_t value
        cdef int overflow = 0
        if not isinstance(number, int):
            return False
        value = PyLong_AsLongLongAndOverflow(number, &overflow)
        return not overflow and self.find(value) >= 0

    cdef Py_ssize_t find(self, int64_t value) noexcept nogil:
        """The place of a number, or -1."""
        cdef Py_ssize_t place = value & self.mask
        return place if value >= 0 and place < self.capacity and self.owners[place] == value else -1

    cdef Py_ssize_t place_of(self, object number) except -1:
        cdef int overflow = 0
        cdef int64_t value = PyLong_AsLongLongAndOverflow(number, &overflow)
        cdef Py_ssize_t place = -1 if overflow else self.find(value)
        if place < 0:
            raise KeyError(f"no stream {number} is open")
        return place

    def places_of(self, numbers):
        """Return the places of numbers, a list or a vector of integers, as a vector of int64.

        Raises
        ------
        KeyError
            If one has no place.
        TypeError, ValueError
            If they are no integers, or one is given twice.
        """
        cdef Py_ssize_t count, i, place
        cdef cnp.npy_intp dims[1]
        cdef cnp.ndarray places, given
        cdef int64_t* found
        cdef const int64_t* values = NULL
        cdef list listed
        if isinstance(numbers, (list, tuple)):
            listed = list(numbers)
            count = len(listed)
        else:
            given = np.asarray(numbers)
            if given.dtype.kind not in "iu":
                raise TypeError(f"expected ids as a list or an array of integers; got dtype {given.dtype}")
            if cnp.PyArray_NDIM(given) != 1:
                raise ValueError(f"expected ids as a list or a vector; got shape {np.shape(given)}")
            given = np.ascontiguousarray(given, np.int64)
            values = <const int64_t*>cnp.PyArray_DATA(given)
            count = cnp.PyArray_DIM(given, 0)
        dims[0] = count
        places = cnp.PyArray_EMPTY(1, dims, cnp.NPY_INT64, 0)
        found = <int64_t*>cnp.PyArray_DATA(places)
        self.call += 1
        for i in range(count):
            place = self.place_of(listed[i]) if values == NULL else self.find(values[i])
            if place < 0:
                raise KeyError(f"no stream {values[i]} is open")
            if self.seen[place] == self.call:
                raise ValueError(f"stream {self.owners[place]} is given twice")
            self.seen[place] = self.call
            found[i] = place
        return places
