"""The choices between ways of computing the same numbers, and what they were measured to buy."""

cdef enum:
    NONE = -1            # no buffer
    # Sums in flight that hide the latency of a multiply-add: 4 cycles, one or two started in each.
    SUMS_IN_FLIGHT = 8
    # Products of a block, which is two sums (ladder.pxd). SimpleRNN(128) over 100 steps errs by 4.1e-7 of its largest
    # output with sums of 32 products, 7.2e-7 with 64, and 3.3e-7 with 16, which take many rows 3 to 6 % longer.
    SUM_BLOCK = 64
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
    # Vectors of units up to which weights are kept for rows in lanes, too: beyond, one in nine at most has idle lanes.
    VECTORS_FOR_LANES = 8
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
    /* More than any array has: sizes that a model's options make larger are refused before they overflow. */
    #define FASTRNN_MOST_BYTES 0x1p60
    """
    double MOST_BYTES "FASTRNN_MOST_BYTES"


cdef inline Py_ssize_t threads_for(Py_ssize_t parts, double cost_of_part, int most) noexcept nogil:
    """Threads for some work: none that would have less than COST_OF_A_THREAD to do, or no part of it."""
    cdef double worthwhile = parts * cost_of_part / COST_OF_A_THREAD
    return <Py_ssize_t>max(1.0, min(worthwhile, <double>min(<Py_ssize_t>most, parts)))


cdef inline Py_ssize_t whole_vectors(Py_ssize_t numbers, int lanes) noexcept nogil:
    return (numbers + lanes - 1) // lanes * lanes


cdef struct LaneCosts:
    # The time that a row and step of a layer takes, in multiply-adds, idle lanes included.
    double of_units      # where the lanes of vectors are units
    double of_rows       # where they are rows of the batch and none of them is idle; 0 if that is not prepared for
    double of_products   # of that, what multiplying takes


cdef inline LaneCosts lane_costs(
    int lanes, Py_ssize_t units, int gates, int activations, Py_ssize_t panel_columns, Py_ssize_t depth,
    Py_ssize_t turned,
) noexcept nogil:
    """What a layer of `gates` columns and `activations` a unit takes.

    `panel_columns` includes those of padding, `depth` is what each is multiplied by, and `turned` counts the numbers of
    x and y.
    """
    cdef LaneCosts costs
    costs.of_units = panel_columns * depth + <double>whole_vectors(units, lanes) * activations * ACTIVATION_COST
    costs.of_products = <double>units * gates * depth
    costs.of_rows = costs.of_products + units * activations * ACTIVATION_COST + turned * TURNING_COST + LANES_STEP_COST
    return costs


cdef inline bint rows_beat_units(const LaneCosts* costs, int lanes, Py_ssize_t rows, double share) noexcept nogil:
    """Whether the lanes should be rows, where a mask lets a `share` of all rows and steps through.

    With units in the lanes what a mask skips takes no time. With rows the lanes beyond the last row do, and a tile of
    few rows multiplies slowly. For 64 rows on AVX-512 LSTM(2) takes 1/6 of the time with rows, LSTM(8) 1/1.7, LSTM(16)
    as long, LSTM(20) 1/1.3 and LSTM(50) 1/1.1; for 8 rows LSTM(8) takes 1.3 times as long, for 16 LSTM(50) 1.15 times.
    """
    return costs.of_rows > 0 and whole_vectors(rows, lanes) * costs.of_rows + lanes / 4 * costs.of_products < (
        rows * share * costs.of_units)
