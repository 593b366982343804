"""What `fastrnn._core` and the kernels tell each other: shapes of buffers, prepared layers, the table of kernels."""
from libc.stdint cimport int32_t

from fastrnn.kernels.simd cimport real
from fastrnn.kernels.tuning cimport LaneCosts, rows_beat_units
from fastrnn.kernels.team cimport Member, Pace

cdef enum:
    MAX_DIMS = 8
    MAX_PHASES = 2
    MAX_STATES = 2
    SPACE = 3            # axes of an image

cdef struct Shape:
    # One row's shape in one buffer, without the batch axis.
    int ndim
    Py_ssize_t dims[MAX_DIMS]
    Py_ssize_t size
    Py_ssize_t item      # bytes of a number
    int type             # NumPy's name of what they are


# -- Weights -------------------------------------------------------------------------------------------------------

cdef struct Panels:
    # How a matrix (depth, gates * units) is cut: a few units with the columns of all their gates side by side, stored
    # depth-major, so that one pass over the depth reads one contiguous stream and ends with everything that those units
    # need. `fastrnn.packing` packs them.
    int gates            # columns a unit has
    int units            # units of a full panel; the last one may have fewer
    int n_panels
    int last_units
    Py_ssize_t width     # numbers in a full panel's row, a multiple of LANES
    Py_ssize_t last_width
    Py_ssize_t total     # numbers in a row of all panels

cdef struct Weights:
    Panels cut
    Py_ssize_t depth
    const real* panels   # packed
    const real* bias     # (total,) in panel order

cdef enum Precision:
    FULL                 # `real`: no narrow weights
    BFLOAT16
    INT8

cdef struct Narrow:
    # Weights of fewer bits: a lane of a panel holds a word, two or four numbers of a column that follow each other.
    int precision
    bint native          # whether to use the CPU's dot product
    Py_ssize_t words     # in a column
    const real* panels   # packed, a word in the place of a number
    const real* scales   # INT8: (total,), what 1 stands for in each column
    const real* offsets  # INT8: (total,), the words that sums start from, for operands from 1 to 255 instead of +-127

cdef struct Columns:
    # Weights for rows of the batch in the lanes of vectors.
    Py_ssize_t depth
    Py_ssize_t count
    const real* weights  # (columns, depth), those of a unit's gates side by side; NULL where panels always do better
    const real* bias     # (columns, GROUP_ROWS), each number for a whole group

cdef inline int panel_units(const Panels* cut, int panel) noexcept nogil:
    return cut.units if panel + 1 < cut.n_panels else cut.last_units

cdef inline Py_ssize_t panel_width(const Panels* cut, int panel) noexcept nogil:
    return cut.width if panel + 1 < cut.n_panels else cut.last_width


cdef enum Activation:
    LINEAR
    TANH
    SIGMOID
    RELU
    HARD_SIGMOID
    HARD_SIGMOID_KERAS2
    # From here on: less used, computed number by number in double precision.
    CELU
    ELU
    EXPONENTIAL
    GELU
    HARD_SHRINK
    HARD_SILU
    HARD_TANH
    LEAKY_RELU
    LOG_SIGMOID
    MISH
    RELU6
    SELU
    SILU
    SOFT_SHRINK
    SOFTPLUS
    SOFTSIGN
    SPARSE_PLUS
    SPARSE_SIGMOID
    SQUAREPLUS
    TANH_SHRINK
    # From here on: functions of a whole row, for `Elementwise` only.
    SOFTMAX
    LOG_SOFTMAX


# -- Recurrent layers ----------------------------------------------------------------------------------------------

cdef struct PhaseTraits:
    # One product of a step: z = x @ kernel + factor @ recurrent_kernel, of so many of a unit's gates, in Keras's order.
    int gates
    bint apart           # whether x @ kernel and h @ recurrent_kernel are kept apart
    int factor           # what the recurrent kernel multiplies: H or a scratch of the cell

cdef enum:
    H = -1               # the state h, as a factor

cdef struct CellTraits:
    # What the loops have to know of a cell (cells/).
    const char* name
    int n_states         # h, and what else passes from step to step
    int n_scratch        # (units,) a row that its phases leave for each other
    int n_phases
    int activations      # of a unit
    PhaseTraits phases[MAX_PHASES]

cdef struct Phase:
    Weights kernel
    Weights recurrent
    Narrow narrow_kernel     # instead of the panels of the two, where it is there
    Narrow narrow_recurrent
    Columns kernel_columns   # beside the panels of the two, where units are few
    Columns recurrent_columns

cdef struct Cell:
    int kind                 # a CellKind
    CellTraits traits
    int activation
    int recurrent_activation
    Py_ssize_t units
    Py_ssize_t features
    Phase phases[MAX_PHASES]

cdef struct State:
    # What a cell works on, each (rows, stride), stride a multiple of LANES: it may write a whole vector past its last
    # unit. With rows in the lanes (units, stride).
    Py_ssize_t stride
    real* h                  # the state a step starts from
    real* h_next             # the state it ends with
    real* carry              # the second state, in place, where the cell has one
    real* scratch[2]

cdef struct Sequence:
    # A layer's way over time. Numbers of buffers, NONE where there is none: x (steps, ...) a row, mask (steps,) of
    # bytes, states (...), y (steps, ...) or (...).
    bint return_sequences
    bint go_backwards
    bint zero_output_for_mask
    int x
    int mask
    int y
    int initial[MAX_STATES]
    int final[MAX_STATES]

cdef struct Forced:
    # Ways of computing that tests and tuning choose by hand: AUTO, or NEVER or ALWAYS.
    int rows_in_lanes
    int hoisting

cdef enum Choice:
    AUTO
    NEVER
    ALWAYS

cdef inline bint takes_lanes(
    const LaneCosts* costs, const Forced* forced, int lanes, Py_ssize_t rows, double share,
) noexcept nogil:
    """Whether the lanes of vectors are rows of the batch, where a mask lets a `share` of rows and steps through."""
    if costs.of_rows == 0 or forced.rows_in_lanes == NEVER:
        return False
    return forced.rows_in_lanes == ALWAYS or rows_beat_units(costs, lanes, rows, share)

cdef inline const real* factor_of_phase(const Cell* cell, int phase, const State* state) noexcept nogil:
    """What the recurrent kernel of a phase multiplies."""
    cdef int factor = cell.traits.phases[phase].factor
    return state.h if factor == H else state.scratch[factor]

cdef struct Recurrence:
    Sequence sequence
    Cell cell
    LaneCosts costs
    const Forced* forced
    const real* table        # (n, width), x @ kernel + bias of every x there is, whose numbers x then holds; or NULL
    bint in_place            # whether one step may go from the initial states' buffers to the final ones'

cdef struct ConvRecurrence:
    Sequence sequence
    Cell cell                # its units are the filters, its features the channels
    int rank                 # space axes that arrays have
    bint channels_first
    bint same                # whether zeros around x keep its size, but for the strides
    Py_ssize_t taps[SPACE]
    Py_ssize_t strides[SPACE]
    Py_ssize_t dilation[SPACE]
    Pace* pace


# -- Other layers --------------------------------------------------------------------------------------------------

cdef struct Projection:
    int y
    int x
    int activation
    Py_ssize_t units
    Weights weights
    Columns columns
    LaneCosts costs
    const Forced* forced

cdef struct Elementwise:
    int y
    int x
    int activation

cdef enum MergeMode:
    CONCAT
    SUM
    MUL
    AVE

cdef struct Merging:
    int y
    int a
    int b
    int mode
    bint backwards           # whether the steps of b come last first

cdef struct Blanking:
    int y
    int x
    int mask
    double value

cdef struct Scaling:
    int y
    int x
    Py_ssize_t features
    const real* center
    const real* scale
    const real* shift

cdef enum PoolMode:
    MAXIMUM
    AVERAGE

cdef struct Pooling:
    int y
    int x
    int mask                 # of all steps, for AVERAGE; or NONE
    int mode
    Py_ssize_t window        # 0: all steps at once, and y without their axis
    Py_ssize_t stride
    bint same                # whether windows reach over the edges


# -- The table -----------------------------------------------------------------------------------------------------

ctypedef size_t (*scratch_t)(const void* layer, const Shape* shapes, Py_ssize_t rows) noexcept nogil
ctypedef void (*run_t)(
    const void* layer, const Shape* shapes, char** data, Py_ssize_t rows, char* scratch, int n_threads) noexcept nogil
ctypedef void (*run_member_t)(
    const void* layer, const Shape* shapes, char** data, Py_ssize_t rows, char* scratch, Member* member) noexcept nogil

ctypedef int (*way_t)(const void* layer, const Shape* shapes, Py_ssize_t rows) noexcept nogil

cdef enum Way:
    # How a kernel computes; several may be set.
    ROWS_IN_LANES = 1        # rather than units
    HOISTED = 2              # x @ kernel ahead of the recurrence, for some steps at once
    FROM_TABLE = 4           # x @ kernel looked up
    IN_PLACE = 8             # from the buffers of the initial states to those of the final ones

cdef struct Kernel:
    run_t run
    scratch_t scratch        # bytes of workspace for a tile of rows; NULL for none
    run_member_t run_member  # a thread's share of it; NULL where threads cannot share it
    way_t way                # Way, for `fastrnn.explain`; NULL where there is one

ctypedef CellTraits (*traits_t)(int kind) noexcept nogil

cdef inline Kernel plain(run_t run) noexcept nogil:
    """A kernel that needs no workspace, has one way and is not shared."""
    return Kernel(run, NULL, NULL, NULL)

cdef struct Kernels:
    # What one build offers.
    int real_bits
    int lanes
    int tile_vectors
    int group_rows           # rows of the batch that lanes take at once
    bint dot_products        # whether it can use the CPU's dot products of narrow numbers
    int n_cells
    traits_t traits_of       # of the cell that is so numbered
    Kernel recurrence
    Kernel conv_recurrence
    Kernel dense
    Kernel activate
    Kernel merge
    Kernel blank
    Kernel affine
    Kernel pool
