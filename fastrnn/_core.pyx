"""The compiled core: arrays in, arrays out, and nothing of Keras but the order of its weights.

This module is compiled once. It knows bytes, shapes and where numbers are; the kernels (`kernels/`) know how to compute
with them, and come in a build for each instruction set and number type, as tables of functions. Operations over
numbered buffers, each prepared for one build, make a `Program`, which runs whole batches; `Streams` run one timestep of
it and keep the states. Both lay out their buffers and share them among threads in one way (`Frame`).
"""
from cpython.contextvars cimport get_value
from cpython.long cimport PyLong_AsLongLongAndOverflow
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc
from cython.parallel cimport parallel, prange, threadid
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from openmp cimport omp_get_max_threads, omp_get_wtime
cimport numpy as cnp

from fastrnn.kernels.inference cimport *
from fastrnn.kernels.layers cimport *
from fastrnn.kernels.moves cimport *
from fastrnn.kernels.team cimport Member, Pace, Team, add_to, found_team, join_team, keep_pace, signal_t
from fastrnn.kernels.tuning cimport *
from fastrnn.kernels.workspace cimport CACHE_LINE, all_are_indices, cache_line, whole_lines

import numpy as np

from fastrnn import packing

cnp.import_array()

cdef extern from "cpu.h" nogil:
    ctypedef struct build_t:
        const char* level
        int bits
        void (*fill)(void* kernels)
    const build_t* builds
    int number_of_builds()
    bint cpu_supports "cpu_has"(const char* level)
    bint cpu_has_dot_product(const char* precision)

cdef extern from *:
    """
    /* Whether this thread is the first to enter; threads of Python without its lock may try at once. */
    static inline int fastrnn_enter(char *busy) { return !__atomic_exchange_n(busy, 1, __ATOMIC_ACQUIRE); }
    static inline void fastrnn_leave(char *busy) { __atomic_store_n(busy, 0, __ATOMIC_RELEASE); }
    /* Ask for a row ahead of its use. */
    static inline void fastrnn_fetch(const char *row, size_t size) {
        for (size_t i = 0; i < size; i += 64) __builtin_prefetch(row + i);
    }
    """
    bint enter "fastrnn_enter"(char* busy) nogil
    void leave "fastrnn_leave"(char* busy) nogil
    void fetch "fastrnn_fetch"(const char* row, size_t size) nogil

ACTIVATIONS = {
    "linear": LINEAR, "tanh": TANH, "sigmoid": SIGMOID, "relu": RELU, "hard_sigmoid": HARD_SIGMOID,
    "hard_sigmoid_keras2": HARD_SIGMOID_KERAS2, "celu": CELU, "elu": ELU, "exponential": EXPONENTIAL, "gelu": GELU,
    "hard_shrink": HARD_SHRINK, "hard_silu": HARD_SILU, "hard_tanh": HARD_TANH, "leaky_relu": LEAKY_RELU,
    "log_sigmoid": LOG_SIGMOID, "mish": MISH, "relu6": RELU6, "selu": SELU, "silu": SILU, "soft_shrink": SOFT_SHRINK,
    "softplus": SOFTPLUS, "softsign": SOFTSIGN, "sparse_plus": SPARSE_PLUS, "sparse_sigmoid": SPARSE_SIGMOID,
    "squareplus": SQUAREPLUS, "tanh_shrink": TANH_SHRINK, "softmax": SOFTMAX, "log_softmax": LOG_SOFTMAX,
}
ROW_ACTIVATIONS = ("softmax", "log_softmax")
CELLS = {}
PRECISIONS = {None: FULL, "bfloat16": BFLOAT16, "int8": INT8}
MERGE_MODES = {"concat": CONCAT, "sum": SUM, "mul": MUL, "ave": AVE}
POOL_MODES = {"max": MAXIMUM, "average": AVERAGE}


# -- Builds --------------------------------------------------------------------------------------------------------

def cpu_has(level):
    """Return whether this CPU can run the build named `level`: "base", "v3" or "v4"."""
    return cpu_supports(level.encode())


cdef class Build:
    """One build of the kernels.

    Attributes
    ----------
    name, level : str
        "v4_f32" and "v4".
    dtype : dtype
        float32 or float64.
    vector_bytes : int
    dot_products : tuple of str
        The precisions whose dot products the CPU has and this build uses.
    """
    cdef Kernels kernels
    cdef Shape number    # one of its type
    cdef readonly str name
    cdef readonly str level
    cdef readonly object dtype
    cdef readonly int vector_bytes
    cdef readonly tuple dot_products

    def __repr__(self):
        return f"<Build {self.name}>"


cdef dict find_builds():
    cdef Build build
    cdef int number
    found = {}
    for number in range(number_of_builds()):
        if not cpu_supports(builds[number].level):
            continue
        build = Build()
        builds[number].fill(&build.kernels)
        build.level = builds[number].level.decode()
        build.name = f"{build.level}_f{builds[number].bits}"
        build.dtype = np.dtype(np.float64 if builds[number].bits == 64 else np.float32)
        build.number.item = build.dtype.itemsize
        build.number.type = build.dtype.num
        build.number.size = 1
        build.vector_bytes = build.kernels.lanes * build.dtype.itemsize
        build.dot_products = tuple(
            precision for precision in ("bfloat16", "int8")
            if build.kernels.dot_products and cpu_has_dot_product(precision.encode()))
        found[build.level, builds[number].bits] = build
        CELLS.update((build.kernels.traits_of(kind).name.decode(), kind) for kind in range(build.kernels.n_cells))
    return found


# Those that this CPU can run, best first, by (level, bits).
BUILDS = find_builds()


def levels_built():
    """Return the instruction sets that there are builds for, best first, whether or not this CPU has them."""
    return list(dict.fromkeys(builds[number].level.decode() for number in range(number_of_builds())))


# -- Threads -------------------------------------------------------------------------------------------------------

cdef int most_threads = 1          # of a call, unless `most_threads_here` says otherwise
cdef int threads_of_openmp = 1     # what OpenMP began with: fewer are a limit that somebody set
cdef object most_threads_here = None
# Calls that run at once, from several threads of Python, share the threads that one may use: each of these starts
# helpers of its own, and helpers that wait for a processor hold up those who wait for them.
cdef signal_t callers              # how many calls run that are worth several threads


def set_num_threads(int n):
    """Let a call use at most `n` threads; OverflowError beyond a C int."""
    global most_threads
    most_threads = n


def use_limits(here, int openmp):
    """Let `here`, a ContextVar of int or None, go before `set_num_threads`, and take less than `openmp` for a limit.

    It is a limit if OpenMP gives the calling thread fewer than `openmp` threads, what it began with.
    """
    global most_threads_here, threads_of_openmp
    most_threads_here, threads_of_openmp = here, openmp


cpdef int get_num_threads() except -1:
    """Return the most threads that a call from this thread and context may use."""
    here = None if most_threads_here is None else get_value(most_threads_here)
    cdef int n = most_threads if here is None else here
    cdef int openmp = omp_get_max_threads()
    return min(n, openmp) if openmp < threads_of_openmp else n


cdef int begin_call(double cost, bint* counted) except -1:
    """Settle how many threads a call of so many multiply-adds may use; `end_call` takes `counted`."""
    counted[0] = cost >= COST_OF_A_THREAD
    if not counted[0]:
        return 1
    cdef int allowed = get_num_threads()
    return max(<int>(allowed // add_to(&callers, 1)), 1)


cdef inline void end_call(bint counted) noexcept nogil:
    if counted:
        add_to(&callers, -1)


# -- Operations ----------------------------------------------------------------------------------------------------

ctypedef bint (*infer_t)(const void* layer, const Shape* number, Shape* shapes) noexcept nogil
ctypedef double (*cost_t)(const void* layer, const Shape* shapes) noexcept nogil
ctypedef int (*members_t)(const void* layer, const Shape* shapes, Py_ssize_t rows, int n_threads) noexcept nogil

cdef struct Operation:
    const void* layer
    infer_t infer        # shapes of its targets from those of its sources
    cost_t cost          # multiply-adds, or their worth in time, a row
    Kernel kernel
    members_t members    # how many threads should share it; NULL where they cannot
    int indices          # an input that it reads as whole numbers, or NONE
    Py_ssize_t limit     # these are below it; 0: they may be any


cdef class Step:
    """One operation: its kernel, the buffers it reads and writes, and the arrays that keep its weights alive.

    The first argument of every operation is the `Build` that computes it; buffers are numbers.
    """
    cdef Operation operation
    cdef readonly Build build
    cdef readonly tuple sources
    cdef readonly tuple targets
    cdef list alive

    def __cinit__(self, Build build not None, *args, **kwargs):
        self.build, self.alive = build, []

    cdef const real* keep(self, array) except? NULL:
        """Where the numbers of an array are, which stays alive with this object; NULL if it has none."""
        if array.dtype != self.build.dtype:
            raise ValueError(f"expected weights of {self.build.dtype}; got {array.dtype}")
        array = np.ascontiguousarray(array)
        self.alive.append(array)
        return <const real*>cnp.PyArray_DATA(<cnp.ndarray>array) if array.size else NULL

    cdef object set_weights(self, Weights* weights, matrix, bias, int gates):
        """Fill `weights` from (depth, gates * units) and (gates * units,) or None; return the cut."""
        kernels = &self.build.kernels
        cut = packing.cut(gates, matrix.shape[1] // gates, kernels.lanes, kernels.tile_vectors)
        weights.cut = Panels(cut.gates, cut.units, cut.n_panels, cut.last_units, cut.width, cut.last_width, cut.total)
        weights.depth = matrix.shape[0]
        weights.panels = self.keep(packing.pack(cut, matrix))
        weights.bias = self.keep(packing.pack_bias(cut, bias, self.build.dtype))
        return cut

    cdef int set_columns(self, Columns* columns, matrix, bias, int gates) except -1:
        weights, start = packing.pack_columns(matrix, bias, gates, self.build.kernels.group_rows)
        columns.depth, columns.count = matrix.shape
        columns.weights, columns.bias = self.keep(weights), self.keep(start)
        return 0

    cdef int set_narrow(self, Narrow* narrow, cut, matrix, int precision, bint portable) except -1:
        """Fill `narrow` from (depth, columns). `portable` leaves the CPU's dot product alone."""
        cdef Py_ssize_t numbers = 4 if precision == INT8 else 2  # of a word
        name = {FULL: None, BFLOAT16: "bfloat16", INT8: "int8"}[precision]
        narrow.precision = precision
        narrow.native = name in self.build.dot_products and not portable
        narrow.words = (len(matrix) + numbers - 1) // numbers
        if precision == BFLOAT16:
            narrow.panels = self.keep(packing.pack(cut, packing.to_words(packing.to_bfloat16(matrix), 2)))
        elif precision == INT8:
            whole, largest = packing.to_int8(matrix)
            # Operands are from 1 to 255: 128 more than the numbers they stand for.
            offsets = (-128 * whole.sum(axis=0, keepdims=True, dtype=np.int32)).view(np.float32)
            narrow.panels = self.keep(packing.pack(cut, packing.to_words(whole, 4)))
            narrow.scales = self.keep(packing.panel_columns(cut, largest)[0])
            narrow.offsets = self.keep(packing.panel_columns(cut, offsets)[0])
        return 0

    cdef int set_sequence(
        self, Sequence* sequence, x, mask, y, initial, final, return_sequences, go_backwards, zero_output_for_mask,
    ) except -1:
        cdef int number
        sequence.return_sequences, sequence.go_backwards = return_sequences, go_backwards
        sequence.zero_output_for_mask = zero_output_for_mask
        sequence.x = x
        sequence.mask = NONE if mask is None else mask
        sequence.y = NONE if y is None else y
        for number in range(MAX_STATES):
            sequence.initial[number] = initial[number] if number < len(initial) else NONE
            sequence.final[number] = final[number] if number < len(final) else NONE
        self.sources = tuple(number for number in (x, mask, *initial) if number is not None)
        self.targets = tuple(number for number in (y, *final) if number is not None)
        return 0

    cdef int set_operation(
        self, const void* layer, infer_t infer, cost_t cost, Kernel kernel, members_t members=NULL, int indices=NONE,
        Py_ssize_t limit=0,
    ) except -1:
        self.operation = Operation(layer, infer, cost, kernel, members, indices, limit)
        return 0


# Ways that `force` has chosen by hand.
cdef Forced forced
_CHOICES = {"auto": AUTO, "never": NEVER, "always": ALWAYS}


def force(*, rows_in_lanes="auto", hoisting="auto"):
    """Choose ways of computing by hand: "auto", "never" or "always" each, for all programs of the process.

    `rows_in_lanes` is taken only by layers that are small enough to be prepared for it.
    """
    forced.rows_in_lanes, forced.hoisting = _CHOICES[rows_in_lanes], _CHOICES[hoisting]


_WAYS = (
    (ROWS_IN_LANES, "rows in lanes"), (HOISTED, "projection ahead"), (FROM_TABLE, "projection from a table"),
    (IN_PLACE, "in place"),
)


cdef class Recurrent(Step):
    """A recurrent layer.

    Parameters
    ----------
    cell : str
        A key of `CELLS`.
    kernel, recurrent_kernel : ndarray
        (features, gates * units) and (units, gates * units), gates in Keras's order.
    bias, recurrent_bias : ndarray or None
        (gates * units,) each; the second is of cells that keep their two products apart ("gru").
    activation, recurrent_activation : str
        Keys of `ACTIVATIONS`, not of `ROW_ACTIVATIONS`.
    x, mask, y : int or None
        Buffers: (steps, features), (steps,) of bytes, and (steps, units) or (units,) a row.
    initial, final : tuple of int or None
        Buffers of the states, (units,) a row; for "lstm" h and c.
    table : ndarray, optional
        (n, features): x then holds the numbers, (steps,), of rows of it, as `Lookup` takes them.
    precision : str or None
        A key of PRECISIONS: what weights are rounded to, and operands of products. The recurrent kernel has it, and the
        kernel is of bfloat16: inputs of a layer may be of any size beside each other, as int8 cannot be. With few
        features the kernel stays as it is, and costs next to nothing.
    portable : bool
        Do without the CPU's dot products of such numbers, for tests.
    """
    cdef Recurrence layer

    def __init__(
        self, build, cell, kernel, recurrent_kernel, bias, recurrent_bias, activation, recurrent_activation, *,
        x, y, mask=None, initial=(), final=(), return_sequences=False, go_backwards=False, zero_output_for_mask=False,
        table=None, precision=None, portable=False,
    ):
        cdef Cell* made = &self.layer.cell
        cdef int p, gates, first = 0
        if precision is not None and self.build.dtype.itemsize != 4:
            raise ValueError(f"precision {precision!r}: expected weights of float32; got {self.build.dtype}")
        made.kind = CELLS[cell]
        made.traits = self.build.kernels.traits_of(made.kind)
        made.activation, made.recurrent_activation = ACTIVATIONS[activation], ACTIVATIONS[recurrent_activation]
        made.features, made.units = kernel.shape[0], recurrent_kernel.shape[0]
        cuts, parts = [], []
        for p in range(made.traits.n_phases):
            gates = made.traits.phases[p].gates
            part = slice(first * made.units, (first + gates) * made.units)
            cuts.append(self.set_phase(
                p, kernel[:, part], recurrent_kernel[:, part], None if bias is None else bias[part],
                None if recurrent_bias is None else recurrent_bias[part], PRECISIONS[precision], portable))
            parts.append(part)
            first += gates
        if table is not None:
            self.layer.table = self.keep(projected_table(cuts, parts, table, kernel, bias, self.build.dtype))
        if made.phases[0].recurrent_columns.weights != NULL:
            self.layer.costs = costs_of_recurrence(&self.layer, self.build.kernels.lanes)
        self.layer.forced = &forced
        self.layer.in_place = self.rows_are_vectors(initial, final)
        self.set_sequence(&self.layer.sequence, x, mask, y, initial, final, return_sequences, go_backwards,
                          zero_output_for_mask)
        self.set_operation(&self.layer, infer_recurrence, cost_of_recurrence, self.build.kernels.recurrence,
                           members_of_recurrence, NONE if table is None else x, 0 if table is None else len(table))

    cdef object set_phase(
        self, int p, kernel, recurrent_kernel, bias, recurrent_bias, int precision, bint portable,
    ):
        """Prepare the weights of one phase, and return the cut of their panels."""
        cdef Phase* phase = &self.layer.cell.phases[p]
        cdef int gates = self.layer.cell.traits.phases[p].gates
        cdef int of_kernel = FULL if precision == FULL or len(kernel) <= FEATURES_TO_FUSE else BFLOAT16
        cut = self.set_weights(&phase.kernel, kernel if of_kernel == FULL else kernel[:0], bias, gates)
        self.set_weights(&phase.recurrent, recurrent_kernel if precision == FULL else recurrent_kernel[:0],
                         recurrent_bias, gates)
        if precision == FULL and len(recurrent_kernel) <= VECTORS_FOR_LANES * self.build.kernels.lanes and (
                len(kernel) <= DEPTH_AT_ONCE):
            self.set_columns(&phase.kernel_columns, kernel, bias, gates)
            self.set_columns(&phase.recurrent_columns, recurrent_kernel, recurrent_bias, gates)
        self.set_narrow(&phase.narrow_kernel, cut, kernel, of_kernel, portable)
        self.set_narrow(&phase.narrow_recurrent, cut, recurrent_kernel, precision, portable)
        return cut

    cdef bint rows_are_vectors(self, initial, final):
        """Whether one step can go from the buffers of the initial states to those of the final ones.

        It saves a tenth: 10,000 streams of LSTM(64) take 5.26 ms and not 5.84.
        """
        cdef int n_states = self.layer.cell.traits.n_states
        given = [*initial[:n_states], *final[:n_states]]
        return len(given) == 2 * n_states and None not in given and (
            self.layer.cell.units % self.build.kernels.lanes == 0)


cdef object projected_table(cuts, parts, table, kernel, bias, dtype):
    """table @ kernel + bias in panel order, phase beside phase, with room for reading past the last gate."""
    product = table.astype(np.float64) @ kernel.astype(np.float64)
    if bias is not None:
        product += bias
    product = product.astype(dtype)
    columns = [packing.panel_columns(cut, product[:, part]) for cut, part in zip(cuts, parts, strict=True)]
    width = sum(part.shape[1] for part in columns)
    projected = packing.aligned_zeros(len(table) * width + cuts[0].gates * cuts[0].units, dtype)
    projected[:len(table) * width] = np.concatenate(columns, axis=1).ravel()
    return projected


cdef LaneCosts costs_of_recurrence(const Recurrence* layer, int lanes) noexcept:
    cdef const Cell* cell = &layer.cell
    cdef Py_ssize_t total = 0, features = 0 if layer.table != NULL else cell.features
    cdef int phase, gates = 0
    for phase in range(cell.traits.n_phases):
        gates += cell.phases[phase].kernel.cut.gates
        total += cell.phases[phase].kernel.cut.total
    return lane_costs(lanes, cell.units, gates, cell.traits.activations, total, cell.units + features,
                      cell.units + (total if layer.table != NULL else features))


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
        self, build, kernel, recurrent_kernel, bias, activation, recurrent_activation, strides, dilation, *, same,
        channels_first, x, y, mask=None, initial=(), final=(), return_sequences=False, go_backwards=False,
        zero_output_for_mask=False,
    ):
        cdef int number, axis
        cdef Cell* cell = &self.layer.cell
        *taps, channels, columns = kernel.shape
        cell.kind = CELLS["lstm"]
        cell.traits = self.build.kernels.traits_of(cell.kind)
        cell.activation, cell.recurrent_activation = ACTIVATIONS[activation], ACTIVATIONS[recurrent_activation]
        cell.features, cell.units = channels, columns // 4
        self.set_weights(&cell.phases[0].kernel, kernel.reshape(-1, columns), bias, 4)
        self.set_weights(&cell.phases[0].recurrent, recurrent_kernel.reshape(-1, columns), None, 4)
        self.layer.rank = <int>len(taps)
        for axis in range(SPACE):
            number = axis - SPACE + self.layer.rank
            self.layer.taps[axis] = taps[number] if number >= 0 else 1
            self.layer.strides[axis] = strides[number] if number >= 0 else 1
            self.layer.dilation[axis] = dilation[number] if number >= 0 else 1
        self.layer.pace = &self.pace
        self.layer.same, self.layer.channels_first = same, channels_first
        self.set_sequence(&self.layer.sequence, x, mask, y, initial, final, return_sequences, go_backwards,
                          zero_output_for_mask)
        self.set_operation(&self.layer, infer_conv_recurrence, cost_of_conv_recurrence,
                           self.build.kernels.conv_recurrence)


cdef class Dense(Step):
    """activation(x @ kernel + bias) over the last axis; kernel (features, units), bias (units,) or None."""
    cdef Projection layer

    def __init__(self, build, kernel, bias, activation, *, x, y):
        features, units = kernel.shape
        cdef int lanes = self.build.kernels.lanes
        self.set_weights(&self.layer.weights, kernel, bias, 1)
        if units <= VECTORS_FOR_LANES * lanes and 0 < features <= DEPTH_IN_LANES:
            self.set_columns(&self.layer.columns, kernel, bias, 1)
            # Of y's few numbers a row there is no whole square to transpose, which takes twice as long.
            self.layer.costs = lane_costs(
                lanes, units, 1, 1, self.layer.weights.cut.total, features, features + 2 * units)
        self.layer.forced = &forced
        self.layer.units, self.layer.activation = units, ACTIVATIONS[activation]
        self.layer.x, self.layer.y = x, y
        self.sources, self.targets = (x,), (y,)
        self.set_operation(&self.layer, infer_dense, cost_of_dense, self.build.kernels.dense)


cdef class Activate(Step):
    """activation(x), number by number or (softmax, log_softmax) over the last axis."""
    cdef Elementwise layer

    def __init__(self, build, activation, *, x, y):
        self.layer = Elementwise(y, x, ACTIVATIONS[activation])
        self.sources, self.targets = (x,), (y,)
        self.set_operation(&self.layer, infer_activate, cost_of_activate, self.build.kernels.activate)


cdef class Merge(Step):
    """a and b, (..., units) a row, merged as `mode`, a key of MERGE_MODES, says.

    With `backwards` the first axis is of steps, and those of b come last first, as a layer that went backwards gives
    them.
    """
    cdef Merging layer

    def __init__(self, build, mode, *, a, b, y, backwards=False):
        self.layer = Merging(y, a, b, MERGE_MODES[mode], backwards)
        self.sources, self.targets = (a, b), (y,)
        self.set_operation(&self.layer, infer_merge, cost_of_target, self.build.kernels.merge)


cdef class Lookup(Step):
    """The rows of `table`, (n, width), that x, an input of the program, numbers from 0: (...) to (..., width)."""
    cdef Table layer

    def __init__(self, build, table, *, x, y):
        self.layer = Table(y, x, <const char*>self.keep(table), table.shape[1])
        self.sources, self.targets = (x,), (y,)
        self.set_operation(&self.layer, infer_lookup, cost_of_target, plain(run_lookup), NULL, x,
                           len(table))


cdef class NotZero(Step):
    """The mask y of bytes that says where x, indices as for `Lookup`, is not 0."""
    cdef Comparison layer

    def __init__(self, build, *, x, y):
        self.layer = Comparison(y, x)
        self.sources, self.targets = (x,), (y,)
        self.set_operation(&self.layer, infer_not_zero, cost_of_target, plain(run_not_zero), NULL, x)


cdef class Blank(Step):
    """x, (..., features) a row, with zeros for the steps whose features all equal `value`; `mask` says which do not."""
    cdef Blanking layer

    def __init__(self, build, value, *, x, y, mask):
        self.layer = Blanking(y, x, mask, value)
        self.sources, self.targets = (x,), (y, mask)
        self.set_operation(&self.layer, infer_blank, cost_of_target, self.build.kernels.blank)


cdef class Affine(Step):
    """(x - center) scale + shift over the last axis; each of the three (features,)."""
    cdef Scaling layer

    def __init__(self, build, center, scale, shift, *, x, y):
        self.layer = Scaling(y, x, len(center), self.keep(center), self.keep(scale), self.keep(shift))
        self.sources, self.targets = (x,), (y,)
        self.set_operation(&self.layer, infer_affine, cost_of_target, self.build.kernels.affine)


cdef class Reshape(Step):
    """The numbers of a row in the shape `shape`, in which one size may be -1: what is left."""
    cdef Arrangement layer

    def __init__(self, build, shape, *, x, y):
        cdef int axis
        if len(shape) > MAX_DIMS:
            raise ValueError(f"expected at most {MAX_DIMS} axes; got the shape {shape}")
        self.layer.ndim = <int>len(shape)
        for axis in range(self.layer.ndim):
            self.layer.dims[axis] = shape[axis]
        self.layer.x, self.layer.y = x, y
        self.sources, self.targets = (x,), (y,)
        self.set_operation(&self.layer, infer_reshape, cost_of_target, plain(run_reshape))


cdef class Repeat(Step):
    """x, (features,) a row, `n` times: (n, features)."""
    cdef Arrangement layer

    def __init__(self, build, n, *, x, y):
        self.layer.dims[0] = n
        self.layer.x, self.layer.y = x, y
        self.sources, self.targets = (x,), (y,)
        self.set_operation(&self.layer, infer_repeat, cost_of_target, plain(run_repeat))


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

    def __init__(self, build, mode, *, x, y, mask=None, window=0, stride=1, same=False):
        self.layer = Pooling(y, x, NONE if mask is None else mask, POOL_MODES[mode], window, stride, same)
        self.sources, self.targets = ((x,) if mask is None else (x, mask)), (y,)
        self.set_operation(&self.layer, infer_pool, cost_of_pool, self.build.kernels.pool)


cdef class Window(Step):
    """What each step of a causal convolution sees: (steps, taps * features) a row, the oldest tap first.

    x is (steps, features) a row, `before` the ((taps - 1) * dilation, features) before it, `after` those before the
    next x.
    """
    cdef Sight layer

    def __init__(self, build, taps, dilation, *, x, before, y, after):
        self.layer = Sight(y, x, before, after, taps, dilation)
        self.sources, self.targets = (x, before), (y, after)
        self.set_operation(&self.layer, infer_window, cost_of_target, plain(run_window))


cdef class Hold(Step):
    """The outputs x of a recurrence whose sequence began earlier: until `mask` lets a step through, the one `before`.

    x and y are (steps, ...) a row or, without `sequence`, (...) of the last step; `before` and `after` are (...).
    """
    cdef Holding layer

    def __init__(self, build, *, x, mask, before, y, after, sequence):
        self.layer = Holding(y, x, mask, before, after, sequence)
        self.sources, self.targets = (x, mask, before), (y, after)
        self.set_operation(&self.layer, infer_hold, cost_of_target, plain(run_hold))


# -- Tiles and threads ---------------------------------------------------------------------------------------------

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
            self.raw = <char*>malloc(size + CACHE_LINE)
            if self.raw == NULL:
                raise MemoryError(f"no {size + CACHE_LINE} bytes for a workspace")
            self.size = size
        return <char*>cache_line(self.raw)


cdef struct Kept:
    # An array with a row a sequence: a state, or what is the same at every step.
    char* rows
    size_t size          # bytes of a row
    int before           # the buffer it is read from
    int after            # the buffer with its new values, or NONE


cdef struct Frame:
    # One run of a program: who computes which rows, and where every buffer is.
    Py_ssize_t batch
    Py_ssize_t tile          # rows of a tile
    Py_ssize_t n_tiles
    int most_threads         # that the call may use
    int n_threads            # that it does, on tiles or, in one tile, on its operations
    int n_parts              # tiles that are in memory at once
    bint one_tile            # whether threads share operations instead of tiles
    double cost              # of a row
    const Shape* shapes
    char** outside           # first rows of the buffers that come from or go to the caller, NULL for the others
    const Kept* kept         # what lasts from run to run
    int n_kept
    const int64_t* slots     # its rows that the batch picks; NULL: it has the rows of the batch
    char** data              # (parts, buffers)
    char* workspaces         # (threads, workspace)
    size_t workspace


cdef Py_ssize_t most_rows(size_t bytes_of_row) noexcept nogil:
    """Rows that a tile may have: ROWS_AT_ONCE, or as many as stay within TILE_BYTES, but always one."""
    cdef size_t most = ROWS_AT_ONCE
    if bytes_of_row:
        most = min(most, TILE_BYTES // bytes_of_row)
    return max(<Py_ssize_t>most, 1)


cdef Py_ssize_t tile_rows_for(Py_ssize_t batch, Py_ssize_t n_threads, Py_ssize_t most, int lanes) noexcept nogil:
    """Rows of a tile: as many tiles for each thread, none above `most`; one thread takes whole vectors of rows.

    256 rows on two threads are four tiles of 64 and not three of 86, which would keep a thread waiting for a third of
    the time, and on one thread two of 96 and one of 64 and not three of 86, in which 30 lanes would be idle.
    """
    cdef Py_ssize_t tiles = max(n_threads, (batch + most - 1) // most), rows
    tiles = (tiles + n_threads - 1) // n_threads * n_threads
    rows = (batch + tiles - 1) // tiles
    return rows if n_threads > 1 else min(whole_vectors(rows, lanes), most, batch)


cdef bint operations_beat_tiles(
    Py_ssize_t batch, Py_ssize_t n_threads, Py_ssize_t most, double cost_of_row, double cost_side_by_side,
) noexcept nogil:
    """Whether threads should share the operations that do not depend on each other rather than tiles of the batch.

    Side by side each thread reads half of the weights for all rows, with tiles all weights for half of the rows.
    Bidirectional(LSTM(128)) on two threads: 1.9 times as fast as on one for 1 row, for 2 rows 1.9 and not 1.3.
    """
    cdef Py_ssize_t tile = (batch + n_threads - 1) // n_threads
    return batch <= most and cost_side_by_side * (batch + ROWS_FOR_WEIGHTS) < (
        cost_of_row * (tile + ROWS_FOR_WEIGHTS))


cdef inline size_t bytes_of(const Shape* shape) noexcept nogil:
    return shape.size * shape.item


cdef inline object allocate(const Shape* shape, Py_ssize_t batch, int skipped, bint bare, char** first):
    """A new array for an output, without its first `skipped` axes and `bare` of the batch; sets `first`."""
    cdef cnp.npy_intp dims[MAX_DIMS + 1]
    cdef int axis, ndim = 0
    cdef cnp.ndarray array
    if not bare:
        dims[0] = batch
        ndim = 1
    for axis in range(skipped, shape.ndim):
        dims[ndim] = shape.dims[axis]
        ndim += 1
    array = cnp.PyArray_EMPTY(ndim, dims, shape.type, 0)
    first[0] = cnp.PyArray_BYTES(array)
    return array


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
    build : Build
        Of all steps.
    n_buffers : int
    steps : sequence of Step
        In an order in which each reads only inputs and what came before it; no buffer is written twice.
    inputs, outputs : sequence of int
        Buffers that `run` takes and gives, in that order.
    masks : collection of int
        Those of the inputs that hold bytes instead of numbers.
    """
    cdef readonly Build build
    cdef int n_buffers
    cdef int n_steps
    cdef int n_inputs
    cdef int n_levels
    cdef int widest_level
    cdef tuple steps
    cdef int* outputs
    cdef int n_outputs
    cdef Operation* operations
    cdef int* levels     # (n_levels + 1,), where each level of steps that do not depend on each other starts
    cdef Input* inputs
    cdef Pace pace
    cdef list arenas     # free ones; append and pop are atomic, so no lock

    def __cinit__(self, Build build not None, int n_buffers, steps, inputs, outputs, masks=()):
        cdef Step step
        cdef int number
        self.build, self.n_buffers = build, n_buffers
        ordered, starts = by_level(steps)
        self.steps = tuple(ordered)
        self.n_levels = <int>len(starts) - 1
        self.n_steps, self.n_inputs, self.n_outputs = <int>len(self.steps), <int>len(inputs), <int>len(outputs)
        self.arenas = []
        self.operations = <Operation*>PyMem_Malloc(max(1, self.n_steps) * sizeof(Operation))
        self.inputs = <Input*>PyMem_Malloc(max(1, self.n_inputs) * sizeof(Input))
        self.outputs = <int*>PyMem_Malloc(max(1, self.n_outputs) * sizeof(int))
        self.levels = <int*>PyMem_Malloc(len(starts) * sizeof(int))
        if self.operations == NULL or self.inputs == NULL or self.outputs == NULL or (
                self.levels == NULL):
            raise MemoryError
        for number in range(self.n_outputs):
            self.outputs[number] = outputs[number]
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
            if step.build is not build:
                raise ValueError(f"expected operations of {build!r}; got one of {step.build!r}")
            self.operations[number] = step.operation
            if step.operation.indices != NONE:
                self.take_indices(step.operation.indices)

    def __dealloc__(self):
        PyMem_Free(self.operations)
        PyMem_Free(self.inputs)
        PyMem_Free(self.outputs)
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
        cdef Frame frame
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
        if not self.infer(batch, shapes, &frame.cost) or not self.indices_fit(batch, shapes, outside):
            return None
        if self.n_outputs == 1:
            results = self.allocate_output(0, batch, shapes, outside)
        else:
            results = tuple([
                self.allocate_output(number, batch, shapes, outside) for number in range(self.n_outputs)])
        if batch:
            frame.batch, frame.shapes, frame.outside = batch, shapes, outside
            frame.kept, frame.n_kept, frame.slots = NULL, 0, NULL
            self.execute(&frame)
        return results

    cdef object allocate_output(self, int number, Py_ssize_t batch, const Shape* shapes, char** outside):
        cdef int buffer = self.outputs[number]
        return allocate(&shapes[buffer], batch, 0, False, &outside[buffer])

    cdef bint infer(self, Py_ssize_t batch, Shape* shapes, double* cost) noexcept nogil:
        """Fill in the shapes that follow from the inputs', and the cost of a row; False where they do not fit.

        A model's options may make sizes as large as they like: they fit only where all of them can be told.
        """
        cdef const Operation* operation
        cdef double total = 0, size
        cdef int number, axis
        cost[0] = 0
        for number in range(self.n_steps):
            operation = &self.operations[number]
            if not operation.infer(operation.layer, &self.build.number, shapes):
                return False
            cost[0] += operation.cost(operation.layer, shapes)
        for number in range(self.n_buffers):
            size = <double>batch * shapes[number].item
            for axis in range(shapes[number].ndim):
                size *= shapes[number].dims[axis]
            total += size
        return total < MOST_BYTES

    cdef bint indices_fit(self, Py_ssize_t batch, const Shape* shapes, char** outside) noexcept nogil:
        cdef const Operation* operation
        cdef const Shape* shape
        cdef int number
        for number in range(self.n_steps):
            operation = &self.operations[number]
            if operation.limit:
                shape = &shapes[operation.indices]
                if not all_are_indices(outside[operation.indices], shape.type, batch * shape.size, operation.limit):
                    return False
        return True

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
        elif kind != self.build.number.type:
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

    def explain(self, shapes):
        """Tell how `run` would compute, as if masks let everything through.

        Parameters
        ----------
        shapes : sequence of tuple of int
            The inputs', with the batch.

        Returns
        -------
        dict
            "threads", "tile_rows" and "tiles" of the call, what the "threads" share ("tiles", "operations" or nothing),
            whether Python's lock is kept, and "operations", in their order: a dict each of "operation", "ways",
            "threads", "cost" (multiply-adds, or their worth in time) and "weight_bytes".

        Raises
        ------
        ValueError
            If the shapes do not fit.
        """
        cdef cnp.ndarray places = np.zeros(self.n_buffers * sizeof(Shape), np.uint8)
        cdef Shape* made = <Shape*>cnp.PyArray_DATA(places)
        cdef cnp.ndarray pointers = np.zeros(self.n_buffers, np.intp)
        cdef Frame frame
        cdef Step step
        cdef const Operation* operation
        cdef Shape* shape
        cdef int number, axis
        frame.batch = shapes[0][0]
        for number in range(self.n_inputs):
            if not 1 <= len(shapes[number]) <= MAX_DIMS or shapes[number][0] != frame.batch:
                raise ValueError(f"expected shapes of one batch with at most {MAX_DIMS} axes; got {shapes}")
            shape = &made[self.inputs[number].buffer]
            shape[0] = self.build.number
            if self.inputs[number].mask or self.inputs[number].indices:
                shape.type = cnp.NPY_BOOL if self.inputs[number].mask else cnp.NPY_INT64
                shape.item = 1 if self.inputs[number].mask else 8
            shape.ndim, shape.size = <int>len(shapes[number]) - 1, 1
            for axis in range(shape.ndim):
                shape.dims[axis] = shapes[number][axis + 1]
                shape.size *= shape.dims[axis]
            pointers[self.inputs[number].buffer] = 1
        for number in range(self.n_outputs):
            pointers[self.outputs[number]] = 1
        if not self.infer(frame.batch, made, &frame.cost):
            raise ValueError(f"inputs of shapes {shapes} do not fit the operations they are given to")
        frame.shapes, frame.outside = made, <char**>cnp.PyArray_DATA(pointers)
        frame.most_threads = get_num_threads() if frame.batch * frame.cost >= COST_OF_A_THREAD else 1
        self.plan_frame(&frame)
        operations = []
        for number in range(self.n_steps):
            step, operation = self.steps[number], &self.operations[number]
            way = operation.kernel.way(operation.layer, frame.shapes, frame.tile) if operation.kernel.way != NULL else 0
            operations.append({
                "operation": type(step).__name__,
                "ways": [name for bit, name in _WAYS if way & bit],
                "threads": self.members_of(&frame, number) if frame.one_tile else 1,
                "cost": frame.batch * operation.cost(operation.layer, frame.shapes),
                "weight_bytes": sum(array.nbytes for array in step.alive),
            })
        return {
            "build": self.build.name,
            "threads": frame.n_threads,
            "shared": "operations" if frame.one_tile else "tiles" if frame.n_threads > 1 else None,
            "tile_rows": frame.tile,
            "tiles": frame.n_tiles,
            "keeps_lock": frame.batch * frame.cost < COST_TO_LET_OTHERS_RUN,
            "operations": operations,
        }

    # How a frame is run. Streams do the same with a frame of their own.

    cdef int execute(self, Frame* frame) except -1:
        """Run the operations, on no more threads than this call may use while others run."""
        cdef bint counted
        cdef Arena arena
        frame.most_threads = begin_call(frame.batch * frame.cost, &counted)
        try:
            self.plan_frame(frame)
            try:
                arena = self.arenas.pop()
            except IndexError:
                arena = Arena()
            self.lay_out(frame, arena)
            self.run_frame(frame, &self.pace)
            self.arenas.append(arena)
        finally:
            end_call(counted)
        return 0

    cdef void plan_frame(self, Frame* frame) noexcept nogil:
        """Choose tiles and threads."""
        cdef double batch = frame.batch, spread
        cdef Py_ssize_t n_threads, most
        cdef size_t bytes_of_row = 0
        cdef int number
        n_threads = threads_for(frame.batch, frame.cost, frame.most_threads)
        for number in range(self.n_buffers):
            if frame.outside[number] == NULL:
                bytes_of_row += bytes_of(&frame.shapes[number])
        most = most_rows(bytes_of_row)
        frame.one_tile = False
        if frame.most_threads > 1 and batch * frame.cost >= COST_OF_A_THREAD:
            spread = self.cost_spread(frame)
            frame.one_tile = spread < frame.cost and operations_beat_tiles(
                frame.batch, n_threads, most, frame.cost, spread)
        frame.tile = frame.batch if frame.one_tile else tile_rows_for(
            frame.batch, n_threads, most, self.build.kernels.lanes)
        frame.n_tiles = (frame.batch + frame.tile - 1) // frame.tile
        frame.n_parts = <int>min(n_threads, frame.n_tiles)
        frame.n_threads = min(frame.most_threads, self.widest_level) if frame.one_tile else frame.n_parts

    cdef int lay_out(self, Frame* frame, Arena arena) except -1:
        """Give every buffer and workspace its place in memory."""
        cdef size_t head = whole_lines(frame.n_parts * self.n_buffers * sizeof(char*)), part = 0
        cdef Py_ssize_t last_tile = frame.batch - (frame.n_tiles - 1) * frame.tile
        cdef const Operation* operation
        cdef int number, place
        cdef char* block
        for number in range(self.n_buffers):
            if frame.outside[number] == NULL:
                part += whole_lines(frame.tile * bytes_of(&frame.shapes[number]))
        frame.workspace = 0
        for number in range(self.n_steps):
            operation = &self.operations[number]
            if operation.kernel.scratch != NULL:
                # Fewer rows may take more: a kernel can have another way for them.
                frame.workspace = max(
                    frame.workspace, operation.kernel.scratch(operation.layer, frame.shapes, frame.tile),
                    operation.kernel.scratch(operation.layer, frame.shapes, last_tile))
        frame.workspace = whole_lines(frame.workspace)
        block = arena.reserve(head + frame.n_parts * part + frame.n_threads * frame.workspace)
        frame.data = <char**>block
        block += head
        for place in range(frame.n_parts):
            for number in range(self.n_buffers):
                if frame.outside[number] == NULL:
                    frame.data[place * self.n_buffers + number] = block
                    block += whole_lines(frame.tile * bytes_of(&frame.shapes[number]))
        frame.workspaces = block
        return 0

    cdef int run_frame(self, const Frame* frame, Pace* pace) except -1:
        """Let other threads of Python run meanwhile, unless it is too short for that."""
        if frame.batch * frame.cost < COST_TO_LET_OTHERS_RUN:
            self.run_tiles(frame, pace)
        else:
            with nogil:
                self.run_tiles(frame, pace)
        return 0

    cdef void run_tiles(self, const Frame* frame, Pace* pace) noexcept nogil:
        cdef bint together = frame.one_tile or frame.n_threads > 1
        cdef double start = omp_get_wtime() if together else 0
        cdef Py_ssize_t tile
        if not together or start < pace.pause:
            for tile in range(frame.n_tiles):
                self.run_tile(frame, tile, 0, frame.most_threads)
            return
        if frame.one_tile:
            self.run_levels(frame)
        else:
            for tile in prange(frame.n_tiles, num_threads=frame.n_threads, schedule="dynamic"):
                self.run_tile(frame, tile, threadid(), 1)
        keep_pace(pace, start, omp_get_wtime(), frame.cost * (frame.batch + ROWS_FOR_WEIGHTS), frame.most_threads)

    cdef void run_tile(self, const Frame* frame, Py_ssize_t tile, int part, int n_threads) noexcept nogil:
        cdef Py_ssize_t first = tile * frame.tile, rows = min(frame.tile, frame.batch - first)
        cdef char** data = self.enter_tile(frame, first, rows, part)
        cdef int number
        for number in range(self.n_steps):
            self.run_step(frame, number, data, rows, part, n_threads)
        self.leave_tile(frame, first, rows, data)

    cdef char** enter_tile(self, const Frame* frame, Py_ssize_t first, Py_ssize_t rows, int part) noexcept nogil:
        """Where each buffer's rows of this tile are, once the states that the caller picks have been gathered."""
        cdef char** data = frame.data + part * self.n_buffers
        cdef const Kept* kept
        cdef Py_ssize_t row
        cdef int number
        for number in range(self.n_buffers):
            if frame.outside[number] != NULL:
                data[number] = frame.outside[number] + first * bytes_of(&frame.shapes[number])
        for number in range(frame.n_kept if frame.slots != NULL else 0):
            kept = &frame.kept[number]
            for row in range(rows):
                if row + ROWS_TO_FETCH < rows:
                    fetch(kept.rows + frame.slots[first + row + ROWS_TO_FETCH] * kept.size, kept.size)
                memcpy(data[kept.before] + row * kept.size, kept.rows + frame.slots[first + row] * kept.size, kept.size)
        return data

    cdef void leave_tile(self, const Frame* frame, Py_ssize_t first, Py_ssize_t rows, char** data) noexcept nogil:
        """Keep the new states of a tile."""
        cdef const Kept* kept
        cdef Py_ssize_t row
        cdef int number
        for number in range(frame.n_kept):
            kept = &frame.kept[number]
            if kept.after == NONE:
                continue
            if frame.slots == NULL:
                memcpy(data[kept.before], data[kept.after], rows * kept.size)
            else:
                for row in range(rows):
                    memcpy(kept.rows + frame.slots[first + row] * kept.size, data[kept.after] + row * kept.size,
                           kept.size)

    cdef inline void run_step(
        self, const Frame* frame, int number, char** data, Py_ssize_t rows, int thread, int n_threads,
    ) noexcept nogil:
        self.operations[number].kernel.run(
            self.operations[number].layer, frame.shapes, data, rows, frame.workspaces + thread * frame.workspace,
            n_threads)

    cdef void run_levels(self, const Frame* frame) noexcept nogil:
        """Run the one tile with threads that share its operations: side by side, or each, where that is worth it."""
        cdef char** data = self.enter_tile(frame, 0, frame.batch, 0)
        cdef int level, number
        for level in range(self.n_levels):
            if self.cost_beside(frame, level) == 0:
                for number in range(self.levels[level], self.levels[level + 1]):
                    self.run_shared(frame, number, data)
            else:
                for number in prange(
                    self.levels[level], self.levels[level + 1], num_threads=frame.n_threads, schedule="dynamic",
                ):
                    self.run_step(frame, number, data, frame.batch, threadid(), 1)
        self.leave_tile(frame, 0, frame.batch, data)

    cdef void run_shared(self, const Frame* frame, int number, char** data) noexcept nogil:
        cdef const Operation* operation = &self.operations[number]
        cdef int size = self.members_of(frame, number)
        cdef Team team
        cdef Member member
        if size == 1:
            self.run_step(frame, number, data, frame.batch, 0, frame.most_threads)
            return
        found_team(&team, size)
        with parallel(num_threads=size):
            member = join_team(&team, threadid())
            operation.kernel.run_member(operation.layer, frame.shapes, data, frame.batch, frame.workspaces, &member)

    cdef double cost_beside(self, const Frame* frame, int level) noexcept nogil:
        """What other threads take over of a level, a row: all but its dearest step, or none if that is too little."""
        cdef double cost, all_steps = 0, dearest = 0
        cdef int number
        for number in range(self.levels[level], self.levels[level + 1]):
            cost = self.operations[number].cost(self.operations[number].layer, frame.shapes)
            all_steps += cost
            dearest = max(dearest, cost)
        return all_steps - dearest if frame.batch * (all_steps - dearest) >= COST_OF_A_THREAD else 0

    cdef int members_of(self, const Frame* frame, int number) noexcept nogil:
        """How many threads should share an operation of one tile."""
        cdef const Operation* operation = &self.operations[number]
        if operation.members == NULL or (
                frame.batch * operation.cost(operation.layer, frame.shapes) < COST_OF_A_THREAD):
            return 1
        return operation.members(operation.layer, frame.shapes, frame.batch, frame.most_threads)

    cdef double cost_spread(self, const Frame* frame) noexcept nogil:
        """The time of a row where threads share one tile: its operations, side by side or each of them."""
        cdef double beside, cost = 0
        cdef int level, number
        for level in range(self.n_levels):
            beside = self.cost_beside(frame, level)
            cost -= beside
            for number in range(self.levels[level], self.levels[level + 1]):
                cost += self.operations[number].cost(self.operations[number].layer, frame.shapes) / (
                    1 if beside > 0 else self.members_of(frame, number))
        return cost


# -- Streams -------------------------------------------------------------------------------------------------------

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
    cdef Frame frame         # laid out for what the last step was like
    cdef Py_ssize_t rows     # of the arrays; -1 where there is none
    cdef int n_x, n_y, n_kept
    cdef Shape* shapes
    cdef char** outside
    cdef Kept* kept
    cdef bint* timed
    cdef bint picked
    cdef char busy

    def __cinit__(self, Program program not None, inputs, timed, states, constants, bint picked=False):
        cdef int number
        cdef cnp.ndarray array
        cdef Kept* kept
        self.program, self.picked = program, picked
        self.arrays = (*states, *constants)
        self.arena = Arena()
        self.n_x, self.n_y, self.n_kept = <int>len(inputs), <int>len(timed), <int>len(self.arrays)
        if self.n_x + self.n_kept != program.n_inputs or self.n_y + len(states) != program.n_outputs:
            raise ValueError("expected a program from inputs, states and constants to outputs and states")
        self.shapes = <Shape*>PyMem_Calloc(program.n_buffers + 1, sizeof(Shape))
        self.outside = <char**>PyMem_Calloc(program.n_buffers + 1, sizeof(char*))
        self.kept = <Kept*>PyMem_Calloc(self.n_kept + 1, sizeof(Kept))
        self.timed = <bint*>PyMem_Calloc(self.n_y + 1, sizeof(bint))
        if self.shapes == NULL or self.outside == NULL or self.kept == NULL or self.timed == NULL:
            raise MemoryError
        for number in range(self.n_y):
            self.timed[number] = timed[number]
        for number in range(self.n_x):
            self.describe(&program.inputs[number], inputs[number],
                          cnp.NPY_INT64 if program.inputs[number].indices else program.build.number.type)
        self.rows = len(self.arrays[0]) if self.arrays else -1
        for number in range(self.n_kept):
            array = self.arrays[number]
            if not cnp.PyArray_ISCARRAY(array) or cnp.PyArray_DIM(array, 0) != self.rows:
                raise ValueError("expected states and constants as contiguous arrays of as many rows")
            self.describe(&program.inputs[self.n_x + number], np.shape(array)[1:], cnp.PyArray_TYPE(array))
            kept = &self.kept[number]
            kept.rows = cnp.PyArray_BYTES(array)
            kept.before = program.inputs[self.n_x + number].buffer
            kept.size = bytes_of(&self.shapes[kept.before])
            kept.after = program.outputs[self.n_y + number] if number < len(states) else NONE
            if not picked:
                self.outside[kept.before] = kept.rows
        self.frame.shapes, self.frame.outside, self.frame.kept = self.shapes, self.outside, self.kept
        self.frame.n_kept = self.n_kept
        if not program.infer(1, self.shapes, &self.frame.cost):
            raise ValueError("the states and inputs do not fit the layers they are given to")
        for number in range(self.n_kept):
            kept = &self.kept[number]
            if kept.after != NONE and bytes_of(&self.shapes[kept.after]) != kept.size:
                raise ValueError("expected states of the same shape before and after a step")

    def __dealloc__(self):
        PyMem_Free(self.shapes)
        PyMem_Free(self.outside)
        PyMem_Free(self.kept)
        PyMem_Free(self.timed)

    cdef int describe(self, const Input* source, object sizes, int type) except -1:
        cdef Shape* shape = &self.shapes[source.buffer]
        cdef const Shape* number = &self.program.build.number
        cdef int axis
        if len(sizes) > MAX_DIMS:
            raise ValueError(f"expected at most {MAX_DIMS} axes; got {len(sizes)}")
        if type != number.type and not (source.mask if type == cnp.NPY_BOOL else source.indices):
            raise ValueError("expected states and constants of the program's type")
        shape.ndim, shape.size, shape.type = <int>len(sizes), 1, type
        shape.item = 1 if type == cnp.NPY_BOOL else 8 if type == cnp.NPY_INT64 else number.item
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
        cdef Program program = self.program
        cdef Py_ssize_t rows = self.rows if slots is None else cnp.PyArray_DIM(slots, 0), found
        cdef int number
        cdef bint bare = False
        if self.picked != (slots is not None):
            return None
        if isinstance(inputs, tuple):
            if len(<tuple>inputs) != self.n_x:
                return None
            for number in range(self.n_x):
                array = (<tuple>inputs)[number]
                found = self.bind(array, number, False) if cnp.PyArray_Check(array) else -1
                if found < 0 or (rows >= 0 and found != rows):
                    return None
                rows = found
        else:
            if self.n_x != 1 or not cnp.PyArray_Check(inputs):
                return None
            bare = cnp.PyArray_NDIM(<cnp.ndarray>inputs) == self.shapes[program.inputs[0].buffer].ndim - 1
            found = self.bind(<cnp.ndarray>inputs, 0, bare)
            if found < 0 or (rows >= 0 and found != rows) or (bare and slots is not None):
                return None
            rows = found
        if not program.indices_fit(rows, self.shapes, self.outside):
            return None
        if out is not None:
            if self.n_y != 1 or not self.takes(out, rows, bare):
                return None
            self.outside[program.outputs[0]] = cnp.PyArray_BYTES(<cnp.ndarray>out)
            results = out
        elif self.n_y == 1:
            results = self.allocate_output(0, rows, bare)
        else:
            results = tuple([self.allocate_output(number, rows, bare) for number in range(self.n_y)])
        if rows:
            self.compute(rows, <const int64_t*>cnp.PyArray_DATA(slots) if slots is not None else NULL)
        return results

    cdef object allocate_output(self, int number, Py_ssize_t rows, bint bare):
        cdef int buffer = self.program.outputs[number]
        return allocate(&self.shapes[buffer], rows, 1 if self.timed[number] else 0, bare, &self.outside[buffer])

    cdef Py_ssize_t bind(self, cnp.ndarray array, int number, bint bare) except -2:
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
        elif kind != self.program.build.number.type:
            return -1
        self.outside[source.buffer] = cnp.PyArray_BYTES(array)
        return cnp.PyArray_DIM(array, 0) if batched else 1

    cdef bint takes(self, object out, Py_ssize_t rows, bint bare) except -1:
        """Whether `out` has the form of the one output and overlaps with no input."""
        cdef const Shape* shape = &self.shapes[self.program.outputs[0]]
        cdef int axis, number, buffer, skipped = 1 if self.timed[0] else 0, batched = 0 if bare else 1
        cdef cnp.ndarray array
        cdef char* first
        cdef char* last
        if not cnp.PyArray_Check(out):
            return False
        array = <cnp.ndarray>out
        if cnp.PyArray_TYPE(array) != shape.type or not cnp.PyArray_ISCARRAY(array):
            return False
        if cnp.PyArray_NDIM(array) != shape.ndim - skipped + batched or (
                batched and cnp.PyArray_DIM(array, 0) != rows):
            return False
        for axis in range(skipped, shape.ndim):
            if cnp.PyArray_DIM(array, axis - skipped + batched) != shape.dims[axis]:
                return False
        first = cnp.PyArray_BYTES(array)
        last = first + cnp.PyArray_NBYTES(array)
        for number in range(self.n_x):
            buffer = self.program.inputs[number].buffer
            if first < self.outside[buffer] + rows * bytes_of(&self.shapes[buffer]) and self.outside[buffer] < last:
                return False
        return True

    cdef int compute(self, Py_ssize_t rows, const int64_t* slots) except -1:
        cdef Frame* frame = &self.frame
        cdef bint counted
        cdef int allowed = begin_call(rows * frame.cost, &counted)
        try:
            frame.slots = slots
            if rows != frame.batch or allowed != frame.most_threads:
                frame.batch, frame.most_threads = rows, allowed
                self.program.plan_frame(frame)
                self.program.lay_out(frame, self.arena)
            self.program.run_frame(frame, &self.pace)
        except BaseException:
            frame.batch = 0  # not laid out
            raise
        finally:
            end_call(counted)
        return 0


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
