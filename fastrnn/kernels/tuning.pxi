# The choices between ways of computing the same numbers, and what they were measured to buy.

from libc.math cimport ceil

cdef enum:
    NONE = -1            # no buffer
    # Sums in flight that hide the latency of a multiply-add: 4 cycles, one or two started in each.
    SUMS_IN_FLIGHT = 8
    # float64 multiplies inputs by BLAS. float32 does not: from 30x128x512 to 960x512x2048 the tile ran 1.1 to 1.6 times
    # faster than OpenBLAS 0.3.30 on one AVX-512 core (104 to 113 GFLOP/s of 117).
    BLAS_PROJECTS = REAL_BITS == 64
    # Blocks of a BLAS call: 32 * 64 * 96 multiply-adds, below OpenBLAS's threshold for threads of 4 * 65536.
    BLAS_ROWS = 32
    BLAS_COLUMNS = 64
    BLAS_DEPTH = 96
    # Rows of a Dense block: its results are activated while they are in the first-level cache.
    DENSE_ROWS = 48
    # With so few features x @ kernel is fused into the step even for one row.
    FEATURES_TO_FUSE = 8
    # What x @ kernel + bias of the steps ahead may take up: it should stay in the second-level cache.
    PROJECTED_BYTES = 262144
    # An activation's worth in multiply-adds.
    ACTIVATION_COST = 16
    # Rows of a batch that one tile of work takes at most; a multiple of every TILE_ROWS.
    ROWS_AT_ONCE = 96
    # What passes between the steps for one tile may take up, unless one row takes more: images over time are large.
    TILE_BYTES = 67108864
    # Pixels of an image that go through one panel of weights before the next: a multiple of every TILE_ROWS.
    PIXELS_AT_ONCE = 192
    # How much longer than they took threads that share an image rest where one is faster: little is lost by trying.
    PAUSE = 20
    # Multiply-adds below which a second thread costs more than it takes over.
    COST_OF_A_THREAD = 400000
    # Rows that cost as much as reading the weights of a tile: LSTM(256) takes 1200 us for 1, 1500 for 2, 2450 for 4.
    ROWS_FOR_WEIGHTS = 2
    # Multiply-adds a second and lane that a thread reaches at least, by far: 1.4e9 to 3.4e9 were measured.
    SLOWEST_LANE = 200000000
    # Calls that do without threads after one that they slowed down; twice as many each time it happens again.
    FEWEST_CALLS_ALONE = 16
    MOST_CALLS_ALONE = 4096
    # Buffers that a call keeps on the stack.
    SMALL_BUFFERS = 16

cdef int n_threads_allowed = 1
# Threads may read and write these at once: whatever comes of it, the numbers of a call do not depend on them.
cdef int calls_alone = 0       # that are still to do without threads
cdef int calls_alone_next = 0  # after the next call that threads slow down


def set_num_threads(int n):
    """Let a call use at most `n` threads; OverflowError beyond a C int."""
    global n_threads_allowed, calls_alone, calls_alone_next
    n_threads_allowed = n
    calls_alone = calls_alone_next = 0


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
    """Rows of a tile: equal ones, a tile or more for each thread, none above `most`."""
    cdef Py_ssize_t tiles = max(n_threads, (batch + most - 1) // most)
    return (batch + tiles - 1) // tiles


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


cdef bint threads_are_free() noexcept nogil:
    """Whether this call should start threads.

    Where other programs keep the CPUs busy a call waits for its threads to be scheduled: 36000 us for one of 160 us.
    """
    global calls_alone
    if calls_alone > 0:
        calls_alone -= 1
        return False
    return True


cdef void judge_threads(double seconds, double cost) noexcept nogil:
    """Learn from how long a call took whose threads had at most `cost` to do."""
    global calls_alone, calls_alone_next
    if seconds > 50e-6 + cost / (<double>LANES * SLOWEST_LANE):
        calls_alone_next = min(max(2 * calls_alone_next, FEWEST_CALLS_ALONE), MOST_CALLS_ALONE)
        calls_alone = calls_alone_next
    else:
        calls_alone_next //= 2
