# Products with rows of the batch in the lanes of vectors.
#
# In a panel product a vector holds columns of the weights, for one row. Where the columns are too few to fill vectors,
# the rows of the batch do: a group of rows is turned so that a vector holds one number of each, and `tile` multiplies
# the columns of the weights, one after the other, by the numbers of the group.

cdef enum:
    # Rows of a group at most: as many as a tile has lanes.
    GROUP_ROWS = TILE_VECTORS * LANES
    # Columns whose sums wait for the cell: some tiles, of whole units, in the first-level cache.
    COLUMNS_AT_ONCE = 12

cdef struct Columns:
    Py_ssize_t depth
    Py_ssize_t count
    real* weights        # (columns, depth), those of a unit's gates side by side; NULL where panels always do better
    real* bias           # (columns, GROUP_ROWS), each number for a whole group


cdef inline Py_ssize_t column_in_panels(const Panels* cut, Py_ssize_t unit, int gate) noexcept nogil:
    """Where panels have the column of a unit's gate."""
    cdef int panel = <int>(unit // cut.units)
    return panel * cut.width + gate * panel_units(cut, panel) + unit % cut.units


cdef object prepare_columns(Columns* columns, object matrix, object bias, int gates):
    """Fill `columns` from (depth, gates * units) and (gates * units,) or None; returns the arrays to keep alive."""
    cdef real[::1] weights, start
    units = matrix.shape[1] // gates
    by_unit = np.arange(gates * units).reshape(gates, units).T.ravel()
    weights = aligned_zeros(matrix.size)
    np.asarray(weights)[:] = matrix.T[by_unit].ravel()
    start = aligned_zeros(gates * units * GROUP_ROWS)
    if bias is not None:
        np.asarray(start)[:] = np.repeat(bias[by_unit], GROUP_ROWS)
    columns.depth, columns.count = matrix.shape[0], gates * units
    columns.weights = &weights[0] if columns.depth else NULL
    columns.bias = &start[0]
    return weights, start


cdef void multiply_columns(
    Py_ssize_t first, Py_ssize_t count, Py_ssize_t width, real** start,
    const Columns* kernel, real* x, const Columns* recurrent, real* h, real* out,
) noexcept nogil:
    """out[c] = start[c] + kernel[first + c] @ x + recurrent[first + c] @ h for `count` columns and `width` rows.

    x and h are (depth, width), out is (count, width); a product with NULL is left out. A start of NULL is the bias of
    `kernel`.
    """
    cdef const real* start_here[TILE_ROWS]
    cdef real* of_x[TILE_ROWS]
    cdef real* of_h[TILE_ROWS]
    cdef Py_ssize_t x_depth = kernel.depth if x != NULL else 0, h_depth = recurrent.depth if h != NULL else 0
    cdef Py_ssize_t done = 0, column
    cdef int here, c
    while done < count:
        here = rows_of_tile(count, done)
        for c in range(here):
            column = first + done + c
            start_here[c] = kernel.bias + column * GROUP_ROWS if start == NULL else start[done + c]
            of_x[c] = kernel.weights + column * x_depth if x_depth else NULL
            of_h[c] = recurrent.weights + column * h_depth if h_depth else NULL
        multiply_tile(here, width, start_here, 0, of_x, x_depth, x, of_h, 0, h_depth, h, out + done * width, width)
        done += here


cdef void find_rows(
    real* first, Py_ssize_t stride, Py_ssize_t n_rows, Py_ssize_t width, real** rows,
) noexcept nogil:
    """Where `n_rows` rows are that lie `stride` numbers apart; the last one stands in for the rest of `width`."""
    cdef Py_ssize_t row
    for row in range(width):
        rows[row] = first + min(row, n_rows - 1) * stride


cdef void rows_to_lanes(
    real** rows, Py_ssize_t width, Py_ssize_t count, const real* end, real* out,
) noexcept nogil:
    """out[k, r] = rows[r][k] for `count` numbers of each of `width` rows; `out` has room for LANES - 1 more of each.

    Rows come in the order of memory, and what follows their numbers may be read up to `end`. Squares of LANES numbers
    are turned in registers.
    """
    cdef vec square[LANES]
    cdef Py_ssize_t row = 0, k, j
    cdef int i
    while row < width:
        k = 0
        while k + LANES <= count or (2 * (count - k) >= LANES and rows[row + LANES - 1] + k + LANES <= end):
            for i in range(LANES):
                square[i] = load(rows[row + i] + k)
            transpose(square)
            for i in range(LANES):
                store(out + (k + i) * width + row, square[i])
            k += LANES
        for i in range(LANES):
            for j in range(k, count):
                out[j * width + row + i] = rows[row + i][j]
        row += LANES


cdef void lanes_to_rows(
    const real* lanes, Py_ssize_t width, Py_ssize_t n_rows, Py_ssize_t count, Py_ssize_t room, real** rows,
) noexcept nogil:
    """rows[r][k] = lanes[k, r] for `count` numbers of each of the first `n_rows` of `width` rows.

    `lanes` can be read for LANES - 1 numbers more, and what follows a row's numbers may be written if it has `room`.
    """
    cdef vec square[LANES]
    cdef Py_ssize_t row = 0, k, j
    cdef int i, here
    while row < n_rows:
        here = <int>min(n_rows - row, LANES)
        k = 0
        while here == LANES and k + LANES <= room and 2 * (count - k) >= LANES:
            for i in range(LANES):
                square[i] = load(lanes + (k + i) * width + row)
            transpose(square)
            for i in range(LANES):
                store(rows[row + i] + k, square[i])
            k += LANES
        for i in range(here):
            for j in range(k, count):
                rows[row + i][j] = lanes[j * width + row + i]
        row += LANES


cdef size_t bytes_to_multiply_in_lanes(const Columns* columns) noexcept nogil:
    return (columns.depth + columns.count + 2 * LANES) * GROUP_ROWS * sizeof(real)


cdef void multiply_rows_in_lanes(
    const Columns* columns, int activation, Py_ssize_t n_rows, real* x, real* y, real* scratch,
) noexcept nogil:
    """y = activation(x @ weights + bias) for x, (n_rows, depth), and y, (n_rows, columns)."""
    cdef Py_ssize_t depth = columns.depth, n = columns.count, first = 0, count, width
    cdef real* places[GROUP_ROWS]
    cdef real* turned = scratch
    cdef real* sums = scratch + (depth + LANES) * GROUP_ROWS
    while first < n_rows:
        count = min(n_rows - first, <Py_ssize_t>GROUP_ROWS)
        width = whole_vectors(count)
        find_rows(x + first * depth, depth, count, width, places)
        rows_to_lanes(places, width, depth, x + n_rows * depth, turned)
        multiply_columns(0, n, width, NULL, columns, NULL, columns, turned, sums)
        activate_span(activation, sums, sums, n * width)
        find_rows(y + first * n, n, count, count, places)
        lanes_to_rows(sums, width, count, n, n, places)
        first += count
