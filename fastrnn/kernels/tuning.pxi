# The choices between ways of computing the same numbers, and what they were measured to buy.

from cpython.contextvars cimport get_value
from libc.math cimport ceil
from openmp cimport omp_get_max_threads

cdef enum:
    NONE = -1            # no buffer
    # Sums in flight that hide the latency of a multiply-add: 4 cycles, one or two started in each.
    SUMS_IN_FLIGHT = 8
    # Products of a block, which is two sums (panels.pxi). SimpleRNN(128) over 100 steps errs by 4.1e-7 of its largest
    # output with sums of 32 products, 7.2e-7 with 64, and 3.3e-7 with 16, which take many rows 3 to 6 % longer.
    SUM_BLOCK = 64
    # Sums that a tile can have: registers.
    MOST_SUMS = TILE_ROWS * TILE_VECTORS
    # Rows of weights that several tiles multiply before the next: they stay in the first-level cache.
    DEPTH_AT_ONCE = 128
    # Rows that go through one block of weights, and through the cell, before the next.
    ROWS_OF_BLOCK = 48
    # With so few features x @ kernel is fused into the step even for one row.
    FEATURES_TO_FUSE = 8
    # What x @ kernel + bias of the steps ahead may take up: it should stay in the second-level cache.
    PROJECTED_BYTES = 262144
    # An activation's worth in multiply-adds.
    ACTIVATION_COST = 16
    # Units up to which weights are kept for rows in lanes, too: beyond, one vector in nine at most has idle lanes.
    UNITS_FOR_LANES = 8 * LANES
    # Inputs up to which a Dense layer does: a group of rows that has been turned should stay in the second-level cache.
    DEPTH_IN_LANES = 1024
    # Multiply-adds that turning a number of x or y costs.
    TURNING_COST = 9
    # Multiply-adds a row that a step costs besides where rows are in the lanes.
    LANES_STEP_COST = 12
    # Rows of a batch that one tile of work takes at most; a multiple of every TILE_ROWS.
    ROWS_AT_ONCE = 96
    # What passes between the steps for one tile may take up, unless one row takes more: images over time are large.
    TILE_BYTES = 67108864
    # Products of a convolution that one sum takes before it is added to the others'.
    CONVOLUTION_SUM = 64
    # Pixels of an image that go through one panel of weights before the next: a multiple of every TILE_ROWS.
    PIXELS_AT_ONCE = 192
    # How many times as long as they took threads rest at most after they were slower than one thread.
    LONGEST_REST = 64
    # Multiply-adds below which a second thread costs more than it takes over.
    COST_OF_A_THREAD = 400000
    # Rows that cost as much as reading the weights of a tile: LSTM(256) takes 1200 us for 1, 1500 for 2, 2450 for 4.
    ROWS_FOR_WEIGHTS = 2
    # Multiply-adds of a step that a meeting of threads costs as much time as.
    COST_OF_A_MEETING = 16000
    # Rows beyond which threads share tiles rather than units, and do not fetch each other's states at every step:
    # LSTM(128) takes 3.8 ms shared for 32 rows and 3.4 in tiles, LSTM(512) 9.4 ms for 16 rows and 17.9 on one thread.
    ROWS_TO_SHARE = 16
    # Turns of a waiting loop after which a thread that is waited for must have lost its core.
    TURNS_TO_WAIT = 2000
    # Multiply-adds, about 5 us, below which a step of a stream keeps Python's lock: letting it go and taking it back
    # costs as much as a step of LSTM(16), and more where another thread wants it.
    COST_TO_LET_OTHERS_RUN = 200000
    # Rows that a pool asks for ahead of gathering them.
    ROWS_TO_FETCH = 8
    # Buffers that a call keeps on the stack.
    SMALL_BUFFERS = 16

cdef extern from *:
    """
    /* What the call may use that runs in this thread of the program; in the threads that it starts, 1. */
    static __thread int n_threads_allowed = 1;
    """
    int n_threads_allowed

cdef int most_threads = 1          # of a call, unless `most_threads_here` says otherwise
cdef int threads_of_openmp = 1     # what OpenMP began with: fewer are a limit that somebody set
cdef object most_threads_here = None


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


cdef Py_ssize_t threads_for(Py_ssize_t batch, double cost_of_row) noexcept nogil:
    """Threads for a call: none that would have less than COST_OF_A_THREAD to do, or no row."""
    cdef double worthwhile = batch * cost_of_row / COST_OF_A_THREAD
    return <Py_ssize_t>max(1.0, min(worthwhile, <double>min(<Py_ssize_t>n_threads_allowed, batch)))


cdef Py_ssize_t most_rows(size_t bytes_of_row) noexcept nogil:
    """Rows that a tile may have: ROWS_AT_ONCE, or as many as stay within TILE_BYTES, but always one."""
    cdef size_t most = ROWS_AT_ONCE
    if bytes_of_row:
        most = min(most, TILE_BYTES // bytes_of_row)
    return max(<Py_ssize_t>most, 1)


cdef Py_ssize_t tile_rows_for(Py_ssize_t batch, Py_ssize_t n_threads, Py_ssize_t most) noexcept nogil:
    """Rows of a tile: as many tiles for each thread, none above `most`; one thread takes whole vectors of rows.

    256 rows on two threads are four tiles of 64 and not three of 86, which would keep a thread waiting for a third of
    the time, and on one thread two of 96 and one of 64 and not three of 86, in which 30 lanes would be idle.
    """
    cdef Py_ssize_t tiles = max(n_threads, (batch + most - 1) // most), rows
    tiles = (tiles + n_threads - 1) // n_threads * n_threads
    rows = (batch + tiles - 1) // tiles
    return rows if n_threads > 1 else min(whole_vectors(rows), most, batch)


cdef inline Py_ssize_t whole_vectors(Py_ssize_t numbers) noexcept nogil:
    return (numbers + LANES - 1) // LANES * LANES


cdef struct LaneCosts:
    # The time that a row and step of a layer takes, in multiply-adds, idle lanes included.
    double of_units      # where the lanes of vectors are units
    double of_rows       # where they are rows of the batch and none of them is idle; 0 if that is not prepared for
    double of_products   # of that, what multiplying takes


cdef LaneCosts lane_costs(
    Py_ssize_t units, int gates, int activations, Py_ssize_t panel_columns, Py_ssize_t depth, Py_ssize_t turned,
) noexcept nogil:
    """What a layer of `gates` columns and `activations` a unit takes.

    `panel_columns` includes those of padding, `depth` is what each is multiplied by, and `turned` counts the numbers of
    x and y.
    """
    cdef LaneCosts costs
    costs.of_units = panel_columns * depth + <double>whole_vectors(units) * activations * ACTIVATION_COST
    costs.of_products = <double>units * gates * depth
    costs.of_rows = costs.of_products + units * activations * ACTIVATION_COST + turned * TURNING_COST + LANES_STEP_COST
    return costs


cdef inline bint rows_beat_units(const LaneCosts* costs, Py_ssize_t rows, double share) noexcept nogil:
    """Whether the lanes should be rows, where a mask lets a `share` of all rows and steps through.

    With units in the lanes what a mask skips takes no time. With rows the lanes beyond the last row do, and a tile of
    few rows multiplies slowly. For 64 rows on AVX-512 LSTM(2) takes 1/6 of the time with rows, LSTM(8) 1/1.7, LSTM(16)
    as long, LSTM(20) 1/1.3 and LSTM(50) 1/1.1; for 8 rows LSTM(8) takes 1.3 times as long, for 16 LSTM(50) 1.15 times.
    """
    return costs.of_rows > 0 and whole_vectors(rows) * costs.of_rows + LANES / 4 * costs.of_products < (
        rows * share * costs.of_units)


cdef bint steps_beat_tiles(
    Py_ssize_t batch, Py_ssize_t n_threads, Py_ssize_t most, double cost_of_row, double cost_side_by_side,
) noexcept nogil:
    """Whether threads should share the steps that do not depend on each other rather than tiles of the batch.

    Side by side each thread reads half of the weights for all rows, with tiles all weights for half of the rows.
    Bidirectional(LSTM(128)) on two threads: 1.9 times as fast as on one for 1 row, for 2 rows 1.9 and not 1.3.
    """
    cdef Py_ssize_t tile = (batch + n_threads - 1) // n_threads
    return batch <= most and cost_side_by_side * (batch + ROWS_FOR_WEIGHTS) < (
        cost_of_row * (tile + ROWS_FOR_WEIGHTS))


# Seconds that a multiply-add takes at most on one thread of a machine that fastrnn runs on: what is not known to be
# slow must not be taken for the machine's pace when the first call happens to wait.
cdef double SLOWEST_UNIT = 2e-9


# The part of its time beyond which a leader who waits for threads that lost their cores goes on alone. When it did so
# after the first such wait, LSTM(512) over 7 sequences of 1000 steps took as long as on one thread.
cdef double WAITING_TO_PART = 0.25


cdef struct Pace:
    # What was seen of threads that share some work. Calls that meet here may lose a measurement, and nothing else.
    double alone         # seconds that its unit takes one thread at most, as far as is known; 0 before any call
    double pause         # the time before which threads rest
    double rest          # how many times as long as they took they rested last, less for each good call since


cdef void keep_pace(Pace* pace, double start, double end, double cost, int n_threads) noexcept nogil:
    """Learn from work of `cost` units that `n_threads` threads shared from `start` to `end`, in seconds.

    Where other programs keep the processors busy, a call waits for its threads to be scheduled: 36000 us for one of
    160 us was seen. After work that took half as long again as on one thread they rest as long as it took, and four
    times as long as before when it happens again: a thread that was only asleep, or a cold cache, costs little, a busy
    machine little more. One thread takes no longer than all of them together.
    """
    cdef double seconds = end - start
    if pace.alone == 0:
        pace.alone = SLOWEST_UNIT
    if n_threads * seconds < pace.alone * cost:
        pace.alone = n_threads * seconds / cost
    elif seconds > 1.5 * pace.alone * cost:
        pace.rest = min(max(4 * pace.rest, 1.0), <double>LONGEST_REST)
        pace.pause = end + pace.rest * seconds
    else:
        pace.rest /= 2
