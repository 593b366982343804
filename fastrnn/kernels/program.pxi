# A program: the compiled steps of a plan, run on tiles of the batch.
#
# Buffers are numbered. A tile of rows goes through all steps before the next tile starts, so what passes between
# layers stays in cache, memory does not grow with the batch, and threads share tiles and nothing else. Where there is
# one tile only, threads take steps that do not depend on each other instead: the two directions of a Bidirectional.

from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cython.parallel cimport parallel, prange, threadid
from libc.stdlib cimport free, malloc
from openmp cimport omp_get_wtime

cdef enum:
    MAX_DIMS = 8

cdef double MOST_BYTES = 2.0 ** 60

cdef struct Shape:
    # One row's shape in one buffer, without the batch axis.
    int ndim
    Py_ssize_t dims[MAX_DIMS]
    Py_ssize_t size
    Py_ssize_t item      # bytes of a number
    int type             # NumPy's name of what they are: REAL_TYPE but for masks and indices


ctypedef bint (*infer_t)(const void* layer, Shape* shapes) noexcept nogil
ctypedef size_t (*scratch_t)(const void* layer, const Shape* shapes, Py_ssize_t rows) noexcept nogil
ctypedef void (*run_t)(
    const void* layer, const Shape* shapes, char** data, Py_ssize_t rows, char* scratch) noexcept nogil
ctypedef double (*cost_t)(const void* layer, const Shape* shapes) noexcept nogil
ctypedef int (*members_t)(const void* layer, const Shape* shapes, Py_ssize_t rows, int n_threads) noexcept nogil
ctypedef void (*run_member_t)(
    const void* layer, const Shape* shapes, char** data, Py_ssize_t rows, char* scratch, Member* member) noexcept nogil

cdef struct Operation:
    const void* layer
    infer_t infer        # shapes of its targets from those of its sources
    scratch_t scratch    # bytes of workspace for a tile
    run_t run
    cost_t cost          # multiply-adds, or their worth in time, a row
    int indices          # an input that it reads as whole numbers, or NONE
    Py_ssize_t limit     # these are below it; 0: they may be any


cdef struct Sharing:
    # How threads share one step; NULLs where they cannot.
    members_t members    # how many are worth it
    run_member_t run


cdef class Step:
    """One compiled step: its operation, the buffers it reads and writes, and the arrays that keep its weights alive."""
    cdef Operation operation
    cdef Sharing sharing
    cdef readonly tuple sources
    cdef readonly tuple targets
    cdef object _alive


cdef inline void set_shape(Shape* shape, int ndim, const Py_ssize_t* dims, Py_ssize_t last) noexcept nogil:
    """shape = (*dims[:ndim - 1], last), of numbers."""
    cdef int axis
    shape.ndim = ndim
    shape.item = sizeof(real)
    shape.type = REAL_TYPE
    shape.size = last
    for axis in range(ndim - 1):
        shape.dims[axis] = dims[axis]
        shape.size *= dims[axis]
    shape.dims[ndim - 1] = last


cdef inline void set_mask_shape(Shape* shape, int ndim, const Py_ssize_t* dims) noexcept nogil:
    """shape = dims[:ndim], of bytes."""
    if ndim:
        set_shape(shape, ndim, dims, dims[ndim - 1])
    else:
        shape.ndim, shape.size = 0, 1
    shape.item = 1
    shape.type = cnp.NPY_BOOL


cdef size_t no_scratch(const void* pointer, const Shape* shapes, Py_ssize_t rows) noexcept nogil:
    return 0


# -- Recurrent -----------------------------------------------------------------------------------------------------

cdef bint infer_recurrence(const void* pointer, Shape* shapes) noexcept nogil:
    cdef const Recurrence* layer = <const Recurrence*>pointer
    cdef const Shape* x = &shapes[layer.x]
    cdef int number
    if x.ndim < 1 or x.dims[0] < 1:
        return False
    if x.ndim != 1 if layer.table != NULL else x.ndim != 2 or x.dims[1] != layer.cell.features:
        return False
    if layer.mask != NONE and (shapes[layer.mask].ndim != 1 or shapes[layer.mask].dims[0] != x.dims[0]):
        return False
    for number in range(2):
        if layer.initial[number] != NONE and (
                shapes[layer.initial[number]].ndim != 1 or shapes[layer.initial[number]].dims[0] != layer.cell.units):
            return False
        if layer.final[number] != NONE:
            set_shape(&shapes[layer.final[number]], 1, NULL, layer.cell.units)
    if layer.y != NONE:
        set_shape(&shapes[layer.y], 2 if layer.return_sequences else 1, x.dims, layer.cell.units)
    return True


cdef size_t scratch_of_recurrence(const void* pointer, const Shape* shapes, Py_ssize_t rows) noexcept nogil:
    cdef const Recurrence* layer = <const Recurrence*>pointer
    cdef Bump bump = Bump(NULL, 0)
    cdef Bump of_group = Bump(NULL, 0)
    lay_out(layer, rows, shapes[layer.x].dims[0], &bump)
    if rows_beat_units(&layer.costs, rows, 1):
        lay_out_group(layer, rows, &of_group)
    return max(bump.used, of_group.used)


cdef double cost_of_recurrence(const void* pointer, const Shape* shapes) noexcept nogil:
    cdef const Recurrence* layer = <const Recurrence*>pointer
    cdef int phase, gates = 0
    for phase in range(layer.cell.n_phases):
        gates += layer.cell.phases[phase].kernel.cut.gates
    return <double>shapes[layer.x].dims[0] * layer.cell.units * gates * (
        layer.cell.units + (0 if layer.table != NULL else layer.cell.features) + ACTIVATION_COST)


cdef void run_recurrence_step(
    const void* pointer, const Shape* shapes, char** data, Py_ssize_t rows, char* scratch,
) noexcept nogil:
    cdef const Recurrence* layer = <const Recurrence*>pointer
    cdef Member alone = join_team(NULL, 0)
    if rows_beat_units(&layer.costs, rows, 1) and (layer.mask == NONE or rows_beat_units(
            &layer.costs, rows, share_of_ones(data[layer.mask], rows * shapes[layer.mask].size))):
        run_in_lanes(layer, shapes, data, rows, scratch)
    else:
        run_recurrence(layer, shapes, data, rows, scratch, &alone)


cdef int members_of_recurrence(
    const void* pointer, const Shape* shapes, Py_ssize_t rows, int n_threads,
) noexcept nogil:
    """As many as there are, if each saves more of a phase than a meeting costs."""
    cdef const Recurrence* layer = <const Recurrence*>pointer
    cdef const Panels* cut
    cdef double least = -1, cost
    cdef int phase, members = min(n_threads, <int>MAX_MEMBERS)
    for phase in range(layer.cell.n_phases):
        cut = &layer.cell.phases[phase].recurrent.cut
        members = min(members, cut.n_panels)
        cost = <double>rows * cut.total * (layer.cell.units + ACTIVATION_COST)
        least = cost if least < 0 else min(least, cost)
    if rows > ROWS_TO_SHARE or shapes[layer.x].dims[0] < 2:
        return 1
    if least * (members - 1) < <double>COST_OF_A_MEETING * members:
        return 1
    return members


cdef void run_member_of_recurrence(
    const void* pointer, const Shape* shapes, char** data, Py_ssize_t rows, char* scratch, Member* member,
) noexcept nogil:
    run_recurrence(<const Recurrence*>pointer, shapes, data, rows, scratch, member)


cdef class Recurrent(Step):
    """A recurrent layer.

    Parameters
    ----------
    cell : str
        A key of `CELLS`.
    kernel, recurrent_kernel : ndarray
        (features, gates * units) and (units, gates * units), gates in Keras's order.
    bias, recurrent_bias : ndarray or None
        (gates * units,) each; the second is of "gru" alone.
    activation, recurrent_activation : str
        Keys of `ACTIVATIONS`, not of `ROW_ACTIVATIONS`.
    x, mask, y : int or None
        Buffers: (steps, features), (steps,) of bytes, and (steps, units) or (units,) a row.
    initial, final : tuple of int or None
        Buffers of the states, (units,) a row; for "lstm" h and c.
    table : ndarray, optional
        (n, features): x then holds the numbers, (steps,), of rows of it, as `Lookup` takes them.
    precision : str or None
        A key of PRECISIONS: what weights are rounded to, and operands of products.
    portable : bool
        Do without the CPU's dot products of such numbers, for tests.
    """
    cdef Recurrence layer

    def __init__(
        self, cell, kernel, recurrent_kernel, bias, recurrent_bias, activation, recurrent_activation, *,
        x, y, mask=None, initial=(), final=(), return_sequences=False, go_backwards=False, zero_output_for_mask=False,
        table=None, precision=None, portable=False,
    ):
        cdef int number
        cdef real[::1] projected
        if precision is not None and REAL_BITS == 64:
            raise ValueError(f"precision {precision!r}: expected weights of float32; got float64")
        self._alive = prepare_cell(
            &self.layer.cell, CELLS[cell], kernel, recurrent_kernel, bias, recurrent_bias,
            ACTIVATIONS[activation], ACTIVATIONS[recurrent_activation], PRECISIONS[precision], portable)
        if table is not None:
            projected = project_table(&self.layer.cell, table, kernel, bias)
            self.layer.table = &projected[0]
            self._alive = (*self._alive, projected)
        if self.layer.cell.phases[0].recurrent_columns.weights != NULL:
            self.layer.costs = costs_of_recurrence(&self.layer)
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
            &self.layer, infer_recurrence, scratch_of_recurrence, run_recurrence_step, cost_of_recurrence,
            NONE if table is None else x, 0 if table is None else len(table))
        self.sharing = Sharing(members_of_recurrence, run_member_of_recurrence)


# -- Dense ---------------------------------------------------------------------------------------------------------

cdef struct Projection:
    Weights weights
    Columns columns
    LaneCosts costs
    Py_ssize_t units
    int activation
    int x
    int y


cdef bint infer_dense(const void* pointer, Shape* shapes) noexcept nogil:
    cdef const Projection* layer = <const Projection*>pointer
    cdef const Shape* x = &shapes[layer.x]
    if x.ndim < 1 or x.dims[x.ndim - 1] != layer.weights.depth:
        return False
    set_shape(&shapes[layer.y], x.ndim, x.dims, layer.units)
    return True


cdef size_t scratch_of_dense(const void* pointer, const Shape* shapes, Py_ssize_t rows) noexcept nogil:
    cdef const Projection* layer = <const Projection*>pointer
    cdef size_t in_panels = ROWS_OF_BLOCK * layer.weights.cut.total * sizeof(real)
    return max(in_panels, bytes_to_multiply_in_lanes(&layer.columns) if layer.costs.of_rows > 0 else 0)


cdef double cost_of_dense(const void* pointer, const Shape* shapes) noexcept nogil:
    cdef const Projection* layer = <const Projection*>pointer
    return <double>shapes[layer.y].size * (layer.weights.depth + ACTIVATION_COST)


cdef void run_dense(
    const void* pointer, const Shape* shapes, char** data, Py_ssize_t rows, char* scratch,
) noexcept nogil:
    cdef const Projection* layer = <const Projection*>pointer
    cdef Py_ssize_t units = layer.units, depth = layer.weights.depth, total = layer.weights.cut.total
    cdef Py_ssize_t first = 0, count, row, n = rows * (shapes[layer.y].size // units)
    cdef real* x = <real*>data[layer.x]
    cdef real* y = <real*>data[layer.y]
    cdef real* block
    if rows_beat_units(&layer.costs, n, 1):
        multiply_rows_in_lanes(&layer.columns, layer.activation, n, x, y, <real*>scratch)
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


cdef class Dense(Step):
    """activation(x @ kernel + bias) over the last axis; kernel (features, units), bias (units,) or None."""
    cdef Projection layer

    def __init__(self, kernel, bias, activation, *, x, y):
        features, units = kernel.shape
        self._alive = (prepare_weights(&self.layer.weights, kernel, bias, 1),)
        if units <= UNITS_FOR_LANES and 0 < features <= DEPTH_IN_LANES:
            self._alive += (prepare_columns(&self.layer.columns, kernel, bias, 1),)
            # Of y's few numbers a row there is no whole square to turn, which takes twice as long.
            self.layer.costs = lane_costs(units, 1, 1, self.layer.weights.cut.total, features, features + 2 * units)
        self.layer.units = units
        self.layer.activation = ACTIVATIONS[activation]
        self.layer.x, self.layer.y = x, y
        self.sources, self.targets = (x,), (y,)
        self.operation = Operation(&self.layer, infer_dense, scratch_of_dense, run_dense, cost_of_dense, NONE, 0)


# -- Activate ------------------------------------------------------------------------------------------------------

cdef struct Elementwise:
    int activation
    int x
    int y


cdef bint infer_activate(const void* pointer, Shape* shapes) noexcept nogil:
    cdef const Elementwise* layer = <const Elementwise*>pointer
    shapes[layer.y] = shapes[layer.x]
    return shapes[layer.x].ndim >= 1


cdef double cost_of_activate(const void* pointer, const Shape* shapes) noexcept nogil:
    return <double>shapes[(<const Elementwise*>pointer).x].size * ACTIVATION_COST


cdef void run_activate(
    const void* pointer, const Shape* shapes, char** data, Py_ssize_t rows, char* scratch,
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


cdef class Activate(Step):
    """activation(x), number by number or (softmax, log_softmax) over the last axis."""
    cdef Elementwise layer

    def __init__(self, activation, *, x, y):
        self.layer.activation = ACTIVATIONS[activation]
        self.layer.x, self.layer.y = x, y
        self.sources, self.targets = (x,), (y,)
        self.operation = Operation(
            &self.layer, infer_activate, no_scratch, run_activate, cost_of_activate, NONE, 0)


# -- Merge ---------------------------------------------------------------------------------------------------------

cdef enum MergeMode:
    CONCAT
    SUM
    MUL
    AVE

MERGE_MODES = {"concat": CONCAT, "sum": SUM, "mul": MUL, "ave": AVE}

cdef struct Merging:
    int mode
    bint backwards       # whether the steps of b come last first
    int a
    int b
    int y


cdef bint infer_merge(const void* pointer, Shape* shapes) noexcept nogil:
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
        set_shape(&shapes[layer.y], a.ndim, a.dims, a.dims[a.ndim - 1] + b.dims[a.ndim - 1])
        return True
    shapes[layer.y] = a[0]
    return a.dims[a.ndim - 1] == b.dims[a.ndim - 1]


cdef double cost_of_merge(const void* pointer, const Shape* shapes) noexcept nogil:
    return <double>shapes[(<const Merging*>pointer).y].size


cdef void run_merge(
    const void* pointer, const Shape* shapes, char** data, Py_ssize_t rows, char* scratch,
) noexcept nogil:
    cdef const Merging* layer = <const Merging*>pointer
    cdef const Shape* shape = &shapes[layer.a]
    cdef Py_ssize_t units = shape.dims[shape.ndim - 1], b_units = shapes[layer.b].dims[shape.ndim - 1]
    cdef Py_ssize_t steps = shape.dims[0] if layer.backwards else 1
    cdef Py_ssize_t places = 1, row, step, place, i
    cdef real* a = <real*>data[layer.a]
    cdef real* y = <real*>data[layer.y]
    cdef real* b
    for i in range(1 if layer.backwards else 0, shape.ndim - 1):
        places *= shape.dims[i]
    for row in range(rows * steps):
        step = row % steps
        b = <real*>data[layer.b] + (row + (steps - 1 - 2 * step if layer.backwards else 0)) * places * b_units
        for place in range(places):
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


cdef class Merge(Step):
    """a and b, (..., units) a row, merged as `mode`, a key of MERGE_MODES, says.

    With `backwards` the first axis is of steps, and those of b come last first, as a layer that went backwards gives
    them.
    """
    cdef Merging layer

    def __init__(self, mode, *, a, b, y, backwards=False):
        self.layer.mode, self.layer.backwards = MERGE_MODES[mode], backwards
        self.layer.a, self.layer.b, self.layer.y = a, b, y
        self.sources, self.targets = (a, b), (y,)
        self.operation = Operation(&self.layer, infer_merge, no_scratch, run_merge, cost_of_merge, NONE, 0)


# -- Program -------------------------------------------------------------------------------------------------------

cdef class Arena:
    """A block of memory on a cache line that a call borrows; it grows and is kept for the next call."""
    cdef char* raw
    cdef size_t size

    def __dealloc__(self):
        free(self.raw)

    cdef char* reserve(self, size_t size) except NULL:
        if self.raw == NULL or self.size < size:
            free(self.raw)
            self.size = 0
            self.raw = <char*>malloc(size + 64)
            if self.raw == NULL:
                raise MemoryError(f"no {size + 64} bytes for a workspace")
            self.size = size
        return <char*>((<size_t>self.raw + 63) // 64 * 64)


cdef struct Call:
    # What the tiles of one call share.
    Py_ssize_t batch
    Py_ssize_t tile
    Py_ssize_t n_tiles
    const Shape* shapes
    char** outside       # first rows of the buffers that come from or go to the caller, NULL for the others
    size_t* inside       # where the others start in a thread's part of the arena
    char** data          # (parts, buffers)
    char* arena          # (parts, part)
    size_t part
    char* workspaces     # (threads, workspace), for the steps
    size_t workspace
    int n_threads


cdef struct Input:
    int buffer
    bint mask
    bint indices         # whether steps read it as whole numbers
    bint whole           # whether these must come as integers
    int ndim             # with the batch; -1 for any
    Py_ssize_t dims[MAX_DIMS]  # without the batch; -1 for any


cdef tuple by_level(object steps):
    """Order steps so that those which do not depend on each other are neighbours.

    Returns
    -------
    list of Step
    list of int
        Where each level of them starts, and the number of steps.
    """
    depth = {}
    levels = []
    for step in steps:
        level = max([depth.get(source, 0) for source in step.sources], default=0)
        depth.update(dict.fromkeys(step.targets, level + 1))
        if level == len(levels):
            levels.append([])
        levels[level].append(step)
    ordered, starts = [], [0]
    for level in levels:
        ordered += level
        starts.append(len(ordered))
    return ordered, starts


cdef class Program:
    """Steps over numbered buffers, compiled; immutable, and safe to run from many threads at once.

    Parameters
    ----------
    n_buffers : int
    steps : sequence of Step
        In an order in which each reads only inputs and what came before it; no buffer is written twice.
    inputs, outputs : sequence of int
        Buffers that `run` takes and gives, in that order.
    masks : collection of int
        Those of the inputs that hold bytes instead of numbers.
    """
    cdef int n_buffers
    cdef int n_steps
    cdef int n_inputs
    cdef int n_levels
    cdef int widest_level
    cdef tuple steps
    cdef tuple outputs
    cdef Operation* operations
    cdef Sharing* sharings
    cdef int* levels     # (n_levels + 1,), where each level of steps that do not depend on each other starts
    cdef Input* inputs
    cdef Pace pace
    cdef list arenas     # free ones; append and pop are atomic, so no lock

    def __cinit__(self, int n_buffers, steps, inputs, outputs, masks=()):
        cdef Step step
        cdef int number
        self.n_buffers = n_buffers
        ordered, starts = by_level(steps)
        self.steps, self.outputs = tuple(ordered), tuple(outputs)
        self.n_levels = <int>len(starts) - 1
        self.n_steps, self.n_inputs = <int>len(self.steps), <int>len(inputs)
        self.arenas = []
        self.operations = <Operation*>PyMem_Malloc(max(1, self.n_steps) * sizeof(Operation))
        self.sharings = <Sharing*>PyMem_Malloc(max(1, self.n_steps) * sizeof(Sharing))
        self.inputs = <Input*>PyMem_Malloc(max(1, self.n_inputs) * sizeof(Input))
        self.levels = <int*>PyMem_Malloc(len(starts) * sizeof(int))
        if self.operations == NULL or self.sharings == NULL or self.inputs == NULL or self.levels == NULL:
            raise MemoryError
        for number in range(self.n_levels + 1):
            self.levels[number] = starts[number]
        for number in range(self.n_levels):
            self.widest_level = max(self.widest_level, self.levels[number + 1] - self.levels[number])
        for number in range(self.n_inputs):
            self.inputs[number].buffer = inputs[number]
            self.inputs[number].mask = inputs[number] in masks
            self.inputs[number].indices = self.inputs[number].whole = False
            self.inputs[number].ndim = -1
        for number in range(self.n_steps):
            step = self.steps[number]
            self.operations[number] = step.operation
            self.sharings[number] = step.sharing
            if step.operation.indices != NONE:
                self.take_indices(step.operation.indices)

    def __dealloc__(self):
        PyMem_Free(self.operations)
        PyMem_Free(self.sharings)
        PyMem_Free(self.inputs)
        PyMem_Free(self.levels)

    cdef int take_indices(self, int buffer) except -1:
        """Let an input hold indices, which nothing else may read as numbers."""
        cdef Step step
        cdef int number
        for step in self.steps:
            if buffer in step.sources and step.operation.indices != buffer:
                raise ValueError(f"buffer {buffer} holds indices: expected no step that reads it as numbers")
        for number in range(self.n_inputs):
            if self.inputs[number].buffer == buffer:
                self.inputs[number].indices = True
                return 0
        raise ValueError(f"buffer {buffer} holds indices: expected an input")

    def expect(self, shapes, whole=False):
        """Let `run` take inputs of these shapes only: tuples with the batch, None for an unknown size.

        With `whole` indices must come as integers.
        """
        cdef int number, axis
        for number in range(self.n_inputs):
            self.inputs[number].whole = whole
            self.inputs[number].ndim = <int>len(shapes[number])
            for axis in range(1, min(self.inputs[number].ndim, MAX_DIMS)):
                size = shapes[number][axis]
                self.inputs[number].dims[axis - 1] = -1 if size is None else size

    def run(self, arrays):
        """Run the steps.

        Parameters
        ----------
        arrays : ndarray or tuple of ndarray
            The inputs, (batch, ...) each, of this build's dtype (masks: bytes or booleans; indices: int32, int64,
            float32 or float64), C-contiguous and aligned. A bare array stands for a tuple of one.

        Returns
        -------
        ndarray or tuple of ndarray, or None
            The outputs, a bare array for one. None if the inputs are not of that form, or do not fit the steps, or an
            index is none: the caller then knows to convert them or to say what is wrong.
        """
        cdef Shape shapes_block[SMALL_BUFFERS]
        cdef char* outside_block[SMALL_BUFFERS]
        cdef Shape* shapes = shapes_block
        cdef char** outside = outside_block
        if self.n_buffers <= SMALL_BUFFERS:
            return self.run_with(arrays, shapes, outside)
        shapes = <Shape*>PyMem_Malloc(self.n_buffers * sizeof(Shape))
        outside = <char**>PyMem_Malloc(self.n_buffers * sizeof(char*))
        try:
            if shapes == NULL or outside == NULL:
                raise MemoryError
            return self.run_with(arrays, shapes, outside)
        finally:
            PyMem_Free(shapes)
            PyMem_Free(outside)

    cdef object run_with(self, object arrays, Shape* shapes, char** outside):
        cdef Py_ssize_t batch = -1
        cdef int number
        for number in range(self.n_buffers):
            outside[number] = NULL
            shapes[number].ndim = 0
            shapes[number].size = shapes[number].item = 0
        if not isinstance(arrays, tuple):
            arrays = (arrays,)
        if len(<tuple>arrays) != self.n_inputs:
            return None
        for number in range(self.n_inputs):
            array = (<tuple>arrays)[number]
            if not cnp.PyArray_Check(array):
                return None
            batch = self.bind(<cnp.ndarray>array, number, batch, shapes, outside)
            if batch < 0:
                return None
        for number in range(self.n_steps):
            if not self.operations[number].infer(self.operations[number].layer, shapes):
                return None
            if self.operations[number].limit and not self.indices_fit(
                    &self.operations[number], batch, shapes, outside):
                return None
        if not self.sizes_fit(batch, shapes):
            return None
        if len(self.outputs) == 1:
            results = self.allocate(self.outputs[0], batch, shapes, outside)
        else:
            results = tuple([self.allocate(buffer, batch, shapes, outside) for buffer in self.outputs])
        if batch:
            self.execute(batch, shapes, outside)
        return results

    cdef bint sizes_fit(self, Py_ssize_t batch, const Shape* shapes) noexcept nogil:
        """Whether the sizes of all buffers, which a model's options may make as large as they like, can be told."""
        cdef double total = 0, size
        cdef int number, axis
        for number in range(self.n_buffers):
            size = <double>batch * shapes[number].item
            for axis in range(shapes[number].ndim):
                size *= shapes[number].dims[axis]
            total += size
        return total < MOST_BYTES

    cdef bint indices_fit(
        self, const Operation* operation, Py_ssize_t batch, const Shape* shapes, char** outside,
    ) noexcept:
        cdef const Shape* shape = &shapes[operation.indices]
        return all_are_indices(outside[operation.indices], shape.type, batch * shape.size, operation.limit)

    cdef Py_ssize_t bind(
        self, cnp.ndarray array, int number, Py_ssize_t batch, Shape* shapes, char** outside,
    ) except -2:
        """Make `array` an input; returns the batch size, or -1 if the array is not of the form that `run` takes."""
        cdef Input* expected = &self.inputs[number]
        cdef int buffer = expected.buffer
        cdef int ndim = cnp.PyArray_NDIM(array), axis
        cdef int kind = cnp.PyArray_TYPE(array)
        cdef Py_ssize_t size
        cdef Shape* shape = &shapes[buffer]
        if ndim < 1 or ndim > MAX_DIMS or not cnp.PyArray_ISCARRAY_RO(array):
            return -1
        if expected.ndim >= 0 and ndim != expected.ndim:
            return -1
        if batch >= 0 and cnp.PyArray_DIM(array, 0) != batch:
            return -1
        if expected.mask:
            if kind != cnp.NPY_BOOL and kind != cnp.NPY_UINT8:
                return -1
            kind = cnp.NPY_BOOL
        elif expected.indices:
            if kind != cnp.NPY_INT32 and kind != cnp.NPY_INT64 and (
                    expected.whole or (kind != cnp.NPY_FLOAT32 and kind != cnp.NPY_FLOAT64)):
                return -1
        elif kind != REAL_TYPE:
            return -1
        shape.type = kind
        shape.item = cnp.PyArray_ITEMSIZE(array)
        shape.ndim = ndim - 1
        shape.size = 1
        for axis in range(1, ndim):
            size = cnp.PyArray_DIM(array, axis)
            if expected.ndim >= 0 and expected.dims[axis - 1] >= 0 and size != expected.dims[axis - 1]:
                return -1
            shape.dims[axis - 1] = size
            shape.size *= size
        outside[buffer] = cnp.PyArray_BYTES(array)
        return cnp.PyArray_DIM(array, 0)

    cdef object allocate(self, int buffer, Py_ssize_t batch, const Shape* shapes, char** outside):
        """A new array for an output."""
        cdef cnp.npy_intp dims[MAX_DIMS + 1]
        cdef const Shape* shape = &shapes[buffer]
        cdef cnp.ndarray array
        cdef int axis
        dims[0] = batch
        for axis in range(shape.ndim):
            dims[axis + 1] = shape.dims[axis]
        array = cnp.PyArray_EMPTY(shape.ndim + 1, dims, shape.type, 0)
        outside[buffer] = cnp.PyArray_BYTES(array)
        return array

    cdef double cost_beside(self, int level, Py_ssize_t batch, const Shape* shapes) noexcept nogil:
        """What other threads take over of a level, a row: all but its dearest step, or none if that is too little."""
        cdef double cost, all_steps = 0, dearest = 0
        cdef int number
        for number in range(self.levels[level], self.levels[level + 1]):
            cost = self.operations[number].cost(self.operations[number].layer, shapes)
            all_steps += cost
            dearest = max(dearest, cost)
        return all_steps - dearest if batch * (all_steps - dearest) >= COST_OF_A_THREAD else 0

    cdef int members_of(self, int number, Py_ssize_t batch, const Shape* shapes) noexcept nogil:
        """How many threads should share a step of one tile."""
        cdef const Operation* operation = &self.operations[number]
        if self.sharings[number].run == NULL or batch * operation.cost(operation.layer, shapes) < COST_OF_A_THREAD:
            return 1
        return self.sharings[number].members(operation.layer, shapes, batch, n_threads_allowed)

    cdef double cost_spread(self, Py_ssize_t batch, const Shape* shapes) noexcept nogil:
        """The time of a row where threads share one tile: its steps, side by side or each of them."""
        cdef double beside, cost = 0
        cdef int level, number
        for level in range(self.n_levels):
            beside = self.cost_beside(level, batch, shapes)
            cost -= beside
            for number in range(self.levels[level], self.levels[level + 1]):
                cost += self.operations[number].cost(self.operations[number].layer, shapes) / (
                    1 if beside > 0 else self.members_of(number, batch, shapes))
        return cost

    cdef int execute(self, Py_ssize_t batch, const Shape* shapes, char** outside) except -1:
        """Run the steps, on no more threads than this call may use while others run."""
        cdef double cost = 0
        cdef bint counted
        cdef int number
        for number in range(self.n_steps):
            cost += self.operations[number].cost(self.operations[number].layer, shapes)
        counted = begin_call(batch * cost)
        try:
            return self.execute_at(cost, batch, shapes, outside)
        finally:
            end_call(counted)

    cdef int execute_at(self, double cost, Py_ssize_t batch, const Shape* shapes, char** outside) except -1:
        """`execute`, of steps that cost so much a row."""
        cdef Call call
        cdef Arena arena
        cdef Py_ssize_t number, n_threads, n_parts, last_tile, most
        cdef size_t head, needed, bytes_of_row = 0
        cdef double spread, start = 0
        cdef bint one_tile = False, together
        n_threads = threads_for(batch, cost)
        for number in range(self.n_buffers):
            if outside[number] == NULL:
                bytes_of_row += shapes[number].size * shapes[number].item
        most = most_rows(bytes_of_row)
        if n_threads_allowed > 1 and batch * cost >= COST_OF_A_THREAD:
            spread = self.cost_spread(batch, shapes)
            one_tile = spread < cost and steps_beat_tiles(batch, n_threads, most, cost, spread)
        call.batch = batch
        call.tile = batch if one_tile else tile_rows_for(batch, n_threads, most)
        call.n_tiles = (batch + call.tile - 1) // call.tile
        n_parts = n_threads = min(n_threads, call.n_tiles)
        if one_tile:
            n_threads = min(n_threads_allowed, self.widest_level)
        call.n_threads = <int>n_threads
        call.shapes = shapes
        call.outside = outside
        # The arena's first part holds `inside` and `data`; then come the parts for tiles, then the workspaces.
        head = self.n_buffers * (sizeof(size_t) + n_parts * sizeof(char*))
        head = (head + 63) // 64 * 64
        call.part = 0
        for number in range(self.n_buffers):
            if outside[number] == NULL:
                call.part += (call.tile * shapes[number].size * shapes[number].item + 63) // 64 * 64
        call.workspace = 0
        last_tile = batch - (call.n_tiles - 1) * call.tile
        for number in range(self.n_steps):
            # Fewer rows may take more: a step can have another way for them.
            needed = self.operations[number].scratch(self.operations[number].layer, shapes, call.tile)
            call.workspace = max(call.workspace, needed)
            needed = self.operations[number].scratch(self.operations[number].layer, shapes, last_tile)
            call.workspace = max(call.workspace, needed)
        call.workspace = (call.workspace + 63) // 64 * 64
        try:
            arena = self.arenas.pop()
        except IndexError:
            arena = Arena()
        cdef char* block = arena.reserve(head + n_parts * call.part + n_threads * call.workspace)
        call.inside = <size_t*>block
        call.data = <char**>(block + self.n_buffers * sizeof(size_t))
        call.arena = block + head
        call.workspaces = call.arena + n_parts * call.part
        needed = 0
        for number in range(self.n_buffers):
            call.inside[number] = needed
            if outside[number] == NULL:
                needed += (call.tile * shapes[number].size * shapes[number].item + 63) // 64 * 64
        with nogil:
            together = one_tile or n_threads > 1
            if together:
                start = omp_get_wtime()
            if not together or start < self.pace.pause:
                for number in range(call.n_tiles):
                    self.run_tile(&call, number, 0)
            else:
                if one_tile:
                    self.run_levels(&call)
                else:
                    for number in prange(call.n_tiles, num_threads=call.n_threads, schedule="dynamic"):
                        self.run_tile(&call, number, threadid())
                keep_pace(&self.pace, start, omp_get_wtime(), cost * (batch + ROWS_FOR_WEIGHTS), n_threads_allowed)
        self.arenas.append(arena)
        return 0

    cdef char** place(self, const Call* call, Py_ssize_t tile, int part) noexcept nogil:
        """Where each buffer's rows of this tile are."""
        cdef char** data = call.data + part * self.n_buffers
        cdef int number
        for number in range(self.n_buffers):
            if call.outside[number] != NULL:
                data[number] = call.outside[number] + (
                    tile * call.tile * call.shapes[number].size * call.shapes[number].item)
            else:
                data[number] = call.arena + part * call.part + call.inside[number]
        return data

    cdef void run_step(
        self, const Call* call, int number, char** data, Py_ssize_t rows, int thread,
    ) noexcept nogil:
        self.operations[number].run(
            self.operations[number].layer, call.shapes, data, rows, call.workspaces + thread * call.workspace)

    cdef void run_tile(self, const Call* call, Py_ssize_t tile, int thread) noexcept nogil:
        cdef char** data = self.place(call, tile, thread)
        cdef int number
        for number in range(self.n_steps):
            self.run_step(call, number, data, min(call.tile, call.batch - tile * call.tile), thread)

    cdef void run_levels(self, const Call* call) noexcept nogil:
        """Run the one tile with threads that share its steps: side by side, or each of them, where that is worth it."""
        cdef char** data = self.place(call, 0, 0)
        cdef int level, number
        for level in range(self.n_levels):
            if self.cost_beside(level, call.batch, call.shapes) == 0:
                for number in range(self.levels[level], self.levels[level + 1]):
                    self.run_shared(call, number, data)
            else:
                for number in prange(
                    self.levels[level], self.levels[level + 1], num_threads=call.n_threads, schedule="dynamic",
                ):
                    self.run_step(call, number, data, call.batch, threadid())

    cdef void run_shared(self, const Call* call, int number, char** data) noexcept nogil:
        cdef int size = self.members_of(number, call.batch, call.shapes)
        cdef Team team
        cdef Member member
        if size == 1:
            self.run_step(call, number, data, call.batch, 0)
            return
        found_team(&team, size)
        with parallel(num_threads=size):
            member = join_team(&team, threadid())
            self.sharings[number].run(
                self.operations[number].layer, call.shapes, data, call.batch, call.workspaces, &member)
