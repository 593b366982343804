# Matrix products on packed weights.
#
# A weight matrix (depth, gates * units) is cut into panels: a few units with the columns of all their gates side by
# side, stored depth-major, so that one pass over the depth reads one contiguous stream and ends with everything that
# those units need. `tile` multiplies up to TILE_ROWS rows by one panel with all sums held in registers.

cdef struct Panels:
    int gates            # columns a unit has
    int units            # units of a full panel; the last one may have fewer
    int n_panels
    int last_units
    Py_ssize_t width     # numbers in a full panel's row, a multiple of LANES
    Py_ssize_t last_width
    Py_ssize_t total     # numbers in a row of all panels


cdef Panels cut_panels(int gates, Py_ssize_t units) except *:
    """Panels as wide as a tile allows, for `units` units of `gates` columns each."""
    cdef Panels cut
    cut.gates = gates
    cut.units = LANES * (TILE_VECTORS // gates)
    cut.n_panels = <int>((units + cut.units - 1) // cut.units)
    cut.last_units = <int>(units - (cut.n_panels - 1) * <Py_ssize_t>cut.units)
    cut.width = gates * cut.units
    cut.last_width = (gates * cut.last_units + LANES - 1) // LANES * LANES
    cut.total = (cut.n_panels - 1) * cut.width + cut.last_width
    return cut


cdef inline int panel_units(const Panels* cut, int panel) noexcept nogil:
    return cut.units if panel + 1 < cut.n_panels else cut.last_units


cdef inline Py_ssize_t panel_width(const Panels* cut, int panel) noexcept nogil:
    return cut.width if panel + 1 < cut.n_panels else cut.last_width


cdef object aligned_zeros(Py_ssize_t size):
    """Zeros of this build's type, starting on a cache line."""
    raw = np.zeros(size + 64 // sizeof(real), dtype=DTYPE)
    start = (64 - <Py_ssize_t>raw.ctypes.data % 64) % 64 // <Py_ssize_t>sizeof(real)
    return raw[start:start + size]


cdef object to_panel_columns(const Panels* cut, object matrix):
    """The columns of `matrix` (depth, gates * units) in panel order, zeros in the padding: (depth, total)."""
    units = matrix.shape[1] // cut.gates
    by_gate = matrix.reshape(len(matrix), cut.gates, units)
    ordered = np.zeros((len(matrix), cut.total), dtype=DTYPE)
    for panel in range(cut.n_panels):
        first, count = panel * cut.units, panel_units(cut, panel)
        block = by_gate[:, :, first:first + count].reshape(len(matrix), cut.gates * count)
        ordered[:, panel * cut.width:panel * cut.width + block.shape[1]] = block
    return ordered


cdef object pack(const Panels* cut, object matrix):
    """`matrix` (depth, gates * units) as panels one after the other, each (depth, width)."""
    ordered = to_panel_columns(cut, matrix)
    packed = aligned_zeros(ordered.size)
    for panel in range(cut.n_panels):
        first, width = panel * cut.width, panel_width(cut, panel)
        packed[first * len(matrix):(first + width) * len(matrix)] = ordered[:, first:first + width].ravel()
    return packed


# The one order of sums
# ---------------------
# The product of a row and a column is cut into blocks of SUM_BLOCK numbers or words. Of a block the products with even
# and those with odd places are summed apart, and these sums added, one after the other, to what the result starts from.
# Every way of multiplying keeps to this, so that the bits of a result do not depend on which of them was taken. Short
# sums err little, and the two advance together where that hides the latency of a multiply-add.

cdef inline void add_in_registers(
    const int precision, const bint native, const int rows, const int vectors, const int stride,
    real** x, Py_ssize_t k, Py_ssize_t last, const real* panel, vec* totals,
) noexcept nogil:
    """totals += x[r][k:last] @ panel in the one order of sums, where all of them have registers.

    The two sums of a block, and of as many whole blocks as SUMS_IN_FLIGHT allows, advance together.
    """
    cdef vec sums[SUMS_IN_FLIGHT]
    cdef int together = SUMS_IN_FLIGHT // (2 * rows * vectors)
    cdef int r, v, s
    cdef Py_ssize_t end
    while together > 1 and k + together * SUM_BLOCK <= last:
        end = k + SUM_BLOCK
        for s in range(2 * together):
            for r in range(rows):
                for v in range(vectors):
                    sums[(s * rows + r) * vectors + v] = first_product(
                        precision, native, x[r], k + s // 2 * SUM_BLOCK + s % 2,
                        panel + ((s // 2 * SUM_BLOCK + s % 2) * stride + v) * LANES)
        panel += 2 * stride * LANES
        k += 2
        while k < end:
            for s in range(2 * together):
                for r in range(rows):
                    for v in range(vectors):
                        sums[(s * rows + r) * vectors + v] = add_product(
                            precision, native, x[r], k + s // 2 * SUM_BLOCK + s % 2,
                            panel + ((s // 2 * SUM_BLOCK + s % 2) * stride + v) * LANES,
                            sums[(s * rows + r) * vectors + v])
            panel += 2 * stride * LANES
            k += 2
        for s in range(2 * together):
            for r in range(rows):
                for v in range(vectors):
                    totals[r * vectors + v] = add_sums(
                        precision, totals[r * vectors + v], sums[(s * rows + r) * vectors + v])
        panel += (together - 1) * SUM_BLOCK * stride * LANES
        k += (together - 1) * SUM_BLOCK
    while k + 2 <= last:
        end = min(last, k + SUM_BLOCK)
        for s in range(2):
            for r in range(rows):
                for v in range(vectors):
                    sums[(s * rows + r) * vectors + v] = first_product(
                        precision, native, x[r], k + s, panel + (s * stride + v) * LANES)
        panel += 2 * stride * LANES
        k += 2
        while k + 2 <= end:
            for s in range(2):
                for r in range(rows):
                    for v in range(vectors):
                        sums[(s * rows + r) * vectors + v] = add_product(
                            precision, native, x[r], k + s, panel + (s * stride + v) * LANES,
                            sums[(s * rows + r) * vectors + v])
            panel += 2 * stride * LANES
            k += 2
        if k < end:
            for r in range(rows):
                for v in range(vectors):
                    sums[r * vectors + v] = add_product(
                        precision, native, x[r], k, panel + v * LANES, sums[r * vectors + v])
            panel += stride * LANES
            k += 1
        for s in range(2):
            for r in range(rows):
                for v in range(vectors):
                    totals[r * vectors + v] = add_sums(
                        precision, totals[r * vectors + v], sums[(s * rows + r) * vectors + v])
    if k < last:
        for r in range(rows):
            for v in range(vectors):
                totals[r * vectors + v] = add_sums(
                    precision, totals[r * vectors + v],
                    first_product(precision, native, x[r], k, panel + v * LANES))


cdef inline void add_through_memory(
    const int precision, const bint native, const int rows, const int vectors, const int stride,
    const real** start, Py_ssize_t start_at, real** x, Py_ssize_t k, Py_ssize_t last, const real* panel,
    real* out, Py_ssize_t out_stride,
) noexcept nogil:
    """out[r] = start[r] + x[r][k:last] @ panel in the one order of sums, where registers hold one sum for each number.

    A start of NULL is what `out` holds.
    """
    cdef vec sums[MOST_SUMS]
    cdef const real* begin
    cdef const real* weights
    cdef Py_ssize_t i, end
    cdef int r, v, s
    while k < last:
        end = min(last, k + SUM_BLOCK)
        s = 0
        while s < 2 and k + s < end:
            if rows > 2:
                # So that the rows' pointers have registers: GRU(128) takes 17 % less time for 5 rows, LSTM(128) 10 %
                # for 4.
                keep_in_memory(start)
                keep_in_memory(start_at)
                keep_in_memory(out)
                keep_in_memory(out_stride)
                keep_in_memory(last)
                keep_in_memory(panel)
            weights = panel + s * stride * LANES
            # Nested loops: one over all sums is not unrolled, and they then live in memory.
            for r in range(rows):
                for v in range(vectors):
                    sums[r * vectors + v] = first_product(precision, native, x[r], k + s, weights + v * LANES)
            i = k + s + 2
            while i < end:
                weights += 2 * stride * LANES
                for r in range(rows):
                    for v in range(vectors):
                        sums[r * vectors + v] = add_product(
                            precision, native, x[r], i, weights + v * LANES, sums[r * vectors + v])
                i += 2
            for r in range(rows):
                begin = <const real*>out + r * out_stride if start == NULL else start[r] + start_at
                for v in range(vectors):
                    store(out + r * out_stride + v * LANES,
                          add_sums(precision, load(begin + v * LANES), sums[r * vectors + v]))
            start = NULL
            s += 1
        panel += SUM_BLOCK * stride * LANES
        k = end


cdef inline void tile(
    const int precision, const bint native, const int rows, const int vectors, const int stride,
    const real** start, Py_ssize_t start_at, real** x, Py_ssize_t x_depth, const real* x_panel,
    real** h, Py_ssize_t h_first, Py_ssize_t h_last, const real* h_panel, real* out, Py_ssize_t out_stride,
) noexcept nogil:
    """out[r] = start[r] + x[r] @ x_panel + h[r] @ h_panel for `rows` rows and `vectors` vectors of a panel of `stride`.

    Of h the numbers from `h_first`, where a block starts, to `h_last` - 1 are taken, and one of the products takes
    some; a start of NULL is what `out` holds. The constants are known where this is inlined, so the loops over them
    vanish and sums are registers only.
    """
    cdef vec totals[MOST_SUMS]
    cdef const real* begin
    cdef int r, v
    if 2 * rows * vectors <= SUMS_IN_FLIGHT:
        for r in range(rows):
            begin = <const real*>out + r * out_stride if start == NULL else start[r] + start_at
            for v in range(vectors):
                totals[r * vectors + v] = load(begin + v * LANES)
        add_in_registers(precision, native, rows, vectors, stride, x, 0, x_depth, x_panel, totals)
        add_in_registers(precision, native, rows, vectors, stride, h, h_first, h_last, h_panel, totals)
        for r in range(rows):
            for v in range(vectors):
                store(out + r * out_stride + v * LANES, totals[r * vectors + v])
        return
    if x_depth:
        add_through_memory(
            precision, native, rows, vectors, stride, start, start_at, x, 0, x_depth, x_panel, out, out_stride)
        start = NULL
    add_through_memory(
        precision, native, rows, vectors, stride, start, start_at, h, h_first, h_last, h_panel, out, out_stride)


cdef inline void high_tile(
    const int vectors, const real** start, Py_ssize_t start_at,
    real** x, Py_ssize_t x_depth, const real* x_panel,
    real** h, Py_ssize_t h_first, Py_ssize_t h_last, const real* h_panel, real* out, Py_ssize_t out_stride,
) noexcept nogil:
    """`tile` for 7 rows: half a panel at a time where the sums of all of it would not fit the registers.

    As tiles of 4 and 3 rows, LSTM(512) took 9 % longer and GRU(1024) 20 %; 8 rows are as well off in two tiles of 4.
    """
    if vectors < 4:
        tile(FULL, False, 7, vectors, vectors, start, start_at, x, x_depth, x_panel,
             h, h_first, h_last, h_panel, out, out_stride)
        return
    tile(FULL, False, 7, 2, 4, start, start_at, x, x_depth, x_panel, h, h_first, h_last, h_panel, out, out_stride)
    tile(FULL, False, 7, 2, 4, start, start_at + 2 * LANES, x, x_depth, x_panel + 2 * LANES,
         h, h_first, h_last, h_panel + 2 * LANES, out + 2 * LANES, out_stride)


cdef inline void tile_of_width(
    const int precision, const bint native, int rows, const int vectors, const real** start, Py_ssize_t start_at,
    real** x, Py_ssize_t x_depth, const real* x_panel,
    real** h, Py_ssize_t h_first, Py_ssize_t h_last, const real* h_panel, real* out, Py_ssize_t out_stride,
) noexcept nogil:
    """`tile` for any number of rows: up to MOST_ROWS, or TILE_ROWS of narrow numbers.

    Without the CPU's dot products narrow numbers have two rows at most: unpacking takes the other registers, and more
    tiles would cost seconds of compilation.
    """
    cdef bint high = precision == FULL or native
    if rows == 1:
        tile(precision, native, 1, vectors, vectors, start, start_at, x, x_depth, x_panel,
             h, h_first, h_last, h_panel, out, out_stride)
    elif rows == 2:
        tile(precision, native, 2, vectors, vectors, start, start_at, x, x_depth, x_panel,
             h, h_first, h_last, h_panel, out, out_stride)
    elif high and rows == 3:
        tile(precision, native, 3, vectors, vectors, start, start_at, x, x_depth, x_panel,
             h, h_first, h_last, h_panel, out, out_stride)
    elif high and TILE_ROWS > 3 and rows == 4:
        tile(precision, native, 4, vectors, vectors, start, start_at, x, x_depth, x_panel,
             h, h_first, h_last, h_panel, out, out_stride)
    elif high and TILE_ROWS > 3 and rows == 5:
        tile(precision, native, 5, vectors, vectors, start, start_at, x, x_depth, x_panel,
             h, h_first, h_last, h_panel, out, out_stride)
    elif high and TILE_ROWS > 3 and rows == 6:
        tile(precision, native, 6, vectors, vectors, start, start_at, x, x_depth, x_panel,
             h, h_first, h_last, h_panel, out, out_stride)
    elif MOST_ROWS > 6 and precision == FULL:
        high_tile(vectors, start, start_at, x, x_depth, x_panel, h, h_first, h_last, h_panel, out, out_stride)


cdef inline void tile_of_any_width(
    const int precision, const bint native, int rows, Py_ssize_t width, const real** start, Py_ssize_t start_at,
    real** x, Py_ssize_t x_depth, const real* x_panel,
    real** h, Py_ssize_t h_first, Py_ssize_t h_last, const real* h_panel, real* out, Py_ssize_t out_stride,
) noexcept nogil:
    """`tile_of_width` for any panel width up to TILE_VECTORS vectors, and for products that take nothing."""
    cdef Py_ssize_t vectors = width // LANES
    cdef int r
    if x_depth == 0 and h_first == h_last:
        for r in range(rows if start != NULL else 0):
            memmove(out + r * out_stride, start[r] + start_at, width * sizeof(real))
    elif vectors == 4:
        tile_of_width(precision, native, rows, 4, start, start_at, x, x_depth, x_panel,
                      h, h_first, h_last, h_panel, out, out_stride)
    elif vectors == 3:
        tile_of_width(precision, native, rows, 3, start, start_at, x, x_depth, x_panel,
                      h, h_first, h_last, h_panel, out, out_stride)
    elif vectors == 2:
        tile_of_width(precision, native, rows, 2, start, start_at, x, x_depth, x_panel,
                      h, h_first, h_last, h_panel, out, out_stride)
    else:
        tile_of_width(precision, native, rows, 1, start, start_at, x, x_depth, x_panel,
                      h, h_first, h_last, h_panel, out, out_stride)


cdef void multiply_tile(
    int rows, Py_ssize_t width, const real** start, Py_ssize_t start_at,
    real** x, Py_ssize_t x_depth, const real* x_panel,
    real** h, Py_ssize_t h_first, Py_ssize_t h_last, const real* h_panel, real* out, Py_ssize_t out_stride,
) noexcept nogil:
    """`tile` of `real` for any number of rows up to MOST_ROWS and any panel width."""
    tile_of_any_width(FULL, False, rows, width, start, start_at, x, x_depth, x_panel,
                      h, h_first, h_last, h_panel, out, out_stride)


cdef inline int rows_of_tile(Py_ssize_t rows, Py_ssize_t first) noexcept nogil:
    """How many rows the tile that starts at `first` takes: the tiles of a block differ by one row at most."""
    cdef unsigned int tiles, small
    if rows <= TILE_ROWS:
        return <int>rows
    tiles = (<unsigned int>rows + TILE_ROWS - 1) // TILE_ROWS
    small = <unsigned int>rows // tiles
    return <int>(small + 1 if first < rows % tiles * (small + 1) else small)


cdef void multiply_blocks(
    Py_ssize_t rows, Py_ssize_t width, const real** start, Py_ssize_t start_at,
    real** x, Py_ssize_t x_depth, const real* x_panel, real** h, Py_ssize_t h_depth, const real* h_panel,
    real* out, Py_ssize_t out_stride,
) noexcept nogil:
    """`tile` for any number of rows and any depth: several tiles take one block of the weights before the next.

    Where x is deep, or alone, its product is a pass of its own.
    """
    cdef Py_ssize_t first, h_first = 0, h_last
    cdef int count
    if x_depth > DEPTH_AT_ONCE or (x_depth and not h_depth):
        multiply_blocks(rows, width, start, start_at, x, 0, NULL, x, x_depth, x_panel, out, out_stride)
        if not h_depth:
            return
        x_depth, start = 0, NULL
    while True:
        h_last = h_depth
        if rows > MOST_ROWS:
            h_last = min(h_depth, h_first + (DEPTH_AT_ONCE - x_depth) // SUM_BLOCK * SUM_BLOCK)
        first = 0
        while first < rows:
            count = <int>rows if rows <= MOST_ROWS else rows_of_tile(rows, first)
            multiply_tile(count, width, start + first if start != NULL else NULL, start_at,
                          x + first, x_depth, x_panel, h + first, h_first, h_last, h_panel,
                          out + first * out_stride, out_stride)
            first += count
        if h_last == h_depth:
            return
        h_panel += (h_last - h_first) * width
        x_depth, h_first, start = 0, h_last, NULL


cdef inline void multiply_rows(
    Py_ssize_t rows, Py_ssize_t width, const real** start, Py_ssize_t start_at,
    real** x, Py_ssize_t x_depth, const real* x_panel, real** h, Py_ssize_t h_depth, const real* h_panel,
    real* out, Py_ssize_t out_stride,
) noexcept nogil:
    """`multiply_blocks`, or one tile where that is all: a step of a small layer has time for little else."""
    if rows <= MOST_ROWS and x_depth <= DEPTH_AT_ONCE and h_depth:
        multiply_tile(<int>rows, width, start, start_at, x, x_depth, x_panel, h, 0, h_depth, h_panel, out, out_stride)
    else:
        multiply_blocks(rows, width, start, start_at, x, x_depth, x_panel, h, h_depth, h_panel, out, out_stride)


cdef struct Weights:
    Panels cut
    Py_ssize_t depth
    real* panels         # packed
    real* bias           # (total,) in panel order


cdef object prepare_weights(Weights* weights, object matrix, object bias, int gates):
    """Fill `weights` from (depth, gates * units) and (gates * units,) or None; returns the arrays to keep alive."""
    cdef real[::1] panels, start
    weights.depth = matrix.shape[0]
    weights.cut = cut_panels(gates, matrix.shape[1] // gates)
    panels = pack(&weights.cut, matrix)
    start = aligned_zeros(weights.cut.total)
    if bias is not None:
        np.asarray(start)[:] = to_panel_columns(&weights.cut, np.reshape(bias, (1, -1)))[0]
    weights.panels = &panels[0] if weights.depth else NULL
    weights.bias = &start[0]
    return panels, start


cdef void project(
    const Weights* weights, int first_panel, int last_panel, Py_ssize_t rows, real* x, Py_ssize_t x_stride,
    real* out, Py_ssize_t out_stride,
) noexcept nogil:
    """out[r] = bias + x[r] @ weights in panel order, for the panels first_panel, ..., last_panel - 1."""
    cdef const Panels* cut = &weights.cut
    cdef const real* start[ROWS_OF_BLOCK]
    cdef real* x_rows[ROWS_OF_BLOCK]
    cdef Py_ssize_t row, first = 0, count, offset
    cdef int panel
    while first < rows:
        count = min(rows - first, ROWS_OF_BLOCK)
        for row in range(count):
            start[row] = weights.bias
            x_rows[row] = x + (first + row) * x_stride
        for panel in range(first_panel, last_panel):
            offset = panel * cut.width
            multiply_rows(count, panel_width(cut, panel), start, offset, x_rows, 0, NULL,
                          x_rows, weights.depth, weights.panels + offset * weights.depth,
                          out + first * out_stride + offset, out_stride)
        first += count
