# Matrix products on packed weights.
#
# A weight matrix (depth, gates * units) is cut into panels: a few units with the columns of all their gates side by
# side, stored depth-major, so that one pass over the depth reads one contiguous stream and ends with everything that
# those units need. `tile` multiplies up to TILE_ROWS rows by one panel with all sums held in registers.

from cpython.pycapsule cimport PyCapsule_GetName, PyCapsule_GetPointer

ctypedef void (*dgemm_t)(
    char* transposes_a, char* transposes_b, int* m, int* n, int* k, double* alpha, double* a, int* lda,
    double* b, int* ldb, double* beta, double* c, int* ldc) noexcept nogil

cdef dgemm_t dgemm = NULL

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


cdef inline void tile(
    const int rows, const int vectors, const int stride, const int splits, const real** start, Py_ssize_t start_at,
    real** x, Py_ssize_t x_depth, const real* x_panel,
    real** h, Py_ssize_t h_first, Py_ssize_t h_last, const real* h_panel, real* out, Py_ssize_t out_stride,
) noexcept nogil:
    """out[r] = start[r] + x[r] @ x_panel + h[r] @ h_panel for `rows` rows and `vectors` vectors of a panel of `stride`.

    Of h the numbers from `h_first` to `h_last` - 1 are taken; a start of NULL is what `out` holds. The four constants
    are known where this is inlined, so the loops over them vanish and `sums` is registers only. `splits` separate sums
    over the depth of h hide the latency of the multiply-adds where a tile has few of them.
    """
    cdef vec sums[TILE_ROWS * TILE_VECTORS]
    cdef const real* begin
    cdef int r, v, s
    cdef Py_ssize_t k = h_first, i, last
    while True:
        # Three nested loops: one over all sums is not unrolled, and they then live in memory.
        for s in range(splits):
            for r in range(rows):
                for v in range(vectors):
                    sums[(s * rows + r) * vectors + v] = zero_vector()
        for i in range(x_depth):
            for r in range(rows):
                for v in range(vectors):
                    sums[r * vectors + v] = multiply_add(x[r][i], load(x_panel + v * LANES), sums[r * vectors + v])
            x_panel += stride * LANES
        last = min(h_last, k + max(splits * SUM_DEPTH - x_depth, 0))
        x_depth = 0
        if rows > 2:
            # So that the rows' pointers have registers: GRU(128) takes 17 % less time for 5 rows, LSTM(128) 10 % for 4.
            keep_in_memory(start)
            keep_in_memory(start_at)
            keep_in_memory(out)
            keep_in_memory(out_stride)
            keep_in_memory(h_last)
            keep_in_memory(h_panel)
        while k + splits <= last:
            for s in range(splits):
                for r in range(rows):
                    for v in range(vectors):
                        sums[(s * rows + r) * vectors + v] = multiply_add(
                            h[r][k + s], load(h_panel + (s * stride + v) * LANES), sums[(s * rows + r) * vectors + v])
            h_panel += splits * stride * LANES
            k += splits
        while k < last:
            for r in range(rows):
                for v in range(vectors):
                    sums[r * vectors + v] = multiply_add(h[r][k], load(h_panel + v * LANES), sums[r * vectors + v])
            h_panel += stride * LANES
            k += 1
        for s in range(1, splits):
            for r in range(rows * vectors):
                sums[r] = add(sums[r], sums[s * rows * vectors + r])
        for r in range(rows):
            begin = <const real*>out + r * out_stride if start == NULL else start[r] + start_at
            for v in range(vectors):
                store(out + r * out_stride + v * LANES, add(sums[r * vectors + v], load(begin + v * LANES)))
        if k == h_last:
            return
        start = NULL


cdef inline void high_tile(
    const int vectors, const real** start, Py_ssize_t start_at,
    real** x, Py_ssize_t x_depth, const real* x_panel,
    real** h, Py_ssize_t h_first, Py_ssize_t h_last, const real* h_panel, real* out, Py_ssize_t out_stride,
) noexcept nogil:
    """`tile` for 7 rows: half a panel at a time where the sums of all of it would not fit the registers.

    As tiles of 4 and 3 rows, LSTM(512) took 9 % longer and GRU(1024) 20 %; 8 rows are as well off in two tiles of 4.
    """
    if vectors < 4:
        tile(7, vectors, vectors, 1, start, start_at, x, x_depth, x_panel, h, h_first, h_last, h_panel, out, out_stride)
        return
    tile(7, 2, 4, 1, start, start_at, x, x_depth, x_panel, h, h_first, h_last, h_panel, out, out_stride)
    tile(7, 2, 4, 1, start, start_at + 2 * LANES, x, x_depth, x_panel + 2 * LANES,
         h, h_first, h_last, h_panel + 2 * LANES, out + 2 * LANES, out_stride)


cdef inline void tile_of_width(
    int rows, const int vectors, const real** start, Py_ssize_t start_at,
    real** x, Py_ssize_t x_depth, const real* x_panel,
    real** h, Py_ssize_t h_first, Py_ssize_t h_last, const real* h_panel, real* out, Py_ssize_t out_stride,
) noexcept nogil:
    """`tile` for any number of rows up to MOST_ROWS, with SUMS_IN_FLIGHT separate sums or more where they fit."""
    if rows == 1:
        tile(1, vectors, vectors, (SUMS_IN_FLIGHT + vectors - 1) // vectors,
             start, start_at, x, x_depth, x_panel, h, h_first, h_last, h_panel, out, out_stride)
    elif rows == 2:
        tile(2, vectors, vectors, (SUMS_IN_FLIGHT // 2 + vectors - 1) // vectors,
             start, start_at, x, x_depth, x_panel, h, h_first, h_last, h_panel, out, out_stride)
    elif rows == 3:
        tile(3, vectors, vectors, (SUMS_IN_FLIGHT // 4 + vectors - 1) // vectors,
             start, start_at, x, x_depth, x_panel, h, h_first, h_last, h_panel, out, out_stride)
    elif TILE_ROWS > 3 and rows == 4:
        tile(4, vectors, vectors, (SUMS_IN_FLIGHT // 4 + vectors - 1) // vectors,
             start, start_at, x, x_depth, x_panel, h, h_first, h_last, h_panel, out, out_stride)
    elif TILE_ROWS > 3 and rows == 5:
        tile(5, vectors, vectors, 1, start, start_at, x, x_depth, x_panel, h, h_first, h_last, h_panel, out, out_stride)
    elif TILE_ROWS > 3 and rows == 6:
        tile(6, vectors, vectors, 1, start, start_at, x, x_depth, x_panel, h, h_first, h_last, h_panel, out, out_stride)
    elif MOST_ROWS > 6:
        high_tile(vectors, start, start_at, x, x_depth, x_panel, h, h_first, h_last, h_panel, out, out_stride)


cdef void multiply_tile(
    int rows, Py_ssize_t width, const real** start, Py_ssize_t start_at,
    real** x, Py_ssize_t x_depth, const real* x_panel,
    real** h, Py_ssize_t h_first, Py_ssize_t h_last, const real* h_panel, real* out, Py_ssize_t out_stride,
) noexcept nogil:
    """`tile` for any number of rows up to MOST_ROWS and any panel width up to TILE_VECTORS vectors."""
    cdef Py_ssize_t vectors = width // LANES
    if vectors == 4:
        tile_of_width(rows, 4, start, start_at, x, x_depth, x_panel, h, h_first, h_last, h_panel, out, out_stride)
    elif vectors == 3:
        tile_of_width(rows, 3, start, start_at, x, x_depth, x_panel, h, h_first, h_last, h_panel, out, out_stride)
    elif vectors == 2:
        tile_of_width(rows, 2, start, start_at, x, x_depth, x_panel, h, h_first, h_last, h_panel, out, out_stride)
    else:
        tile_of_width(rows, 1, start, start_at, x, x_depth, x_panel, h, h_first, h_last, h_panel, out, out_stride)


cdef inline int rows_of_tile(Py_ssize_t rows, Py_ssize_t first) noexcept nogil:
    """How many rows the tile that starts at `first` takes: the tiles of a block differ by one row at most."""
    cdef unsigned int tiles, small
    if rows <= TILE_ROWS:
        return <int>rows
    tiles = (<unsigned int>rows + TILE_ROWS - 1) // TILE_ROWS
    small = <unsigned int>rows // tiles
    return <int>(small + 1 if first < rows % tiles * (small + 1) else small)


cdef int find_blas() except -1:
    """Take dgemm from SciPy, when weights first need it: importing scipy.linalg takes longer than all of fastrnn."""
    global dgemm
    from scipy.linalg import cython_blas

    capsule = cython_blas.__pyx_capi__["dgemm"]
    signature = PyCapsule_GetName(capsule)
    if not signature.startswith(b"void (char *, char *, int *, int *, int *, "):
        raise ImportError(f"expected a dgemm of C integers in scipy.linalg.cython_blas; got {signature.decode()}")
    dgemm = <dgemm_t>PyCapsule_GetPointer(capsule, signature)
    return 0


cdef void multiply_blocks(
    Py_ssize_t rows, Py_ssize_t width, const real** start, Py_ssize_t start_at,
    real** x, Py_ssize_t x_depth, const real* x_panel, real** h, Py_ssize_t h_depth, const real* h_panel,
    real* out, Py_ssize_t out_stride,
) noexcept nogil:
    """`tile` for any number of rows and any depth: several tiles take one block of the weights before the next.

    Where x is deep, or alone, its product is a pass of its own, in which `tile` has separate sums.
    """
    cdef Py_ssize_t first, h_first = 0, h_last
    cdef int count
    if x_depth > DEPTH_AT_ONCE or (x_depth and not h_depth):
        multiply_blocks(rows, width, start, start_at, x, 0, NULL, x, x_depth, x_panel, out, out_stride)
        if not h_depth:
            return
        x_depth, start = 0, NULL
    while True:
        h_last = h_depth if rows <= MOST_ROWS else min(h_depth, h_first + DEPTH_AT_ONCE - x_depth)
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


cdef inline void gemm(
    int rows, int columns, int depth, real* a, int a_stride, real* b, int b_stride, real* out, int out_stride,
) noexcept nogil:
    """out += a @ b in float64, row-major: to BLAS, which is column-major, the same bytes are the transposes."""
    cdef double one = 1
    dgemm(b"N", b"N", &columns, &rows, &depth, &one, <double*>b, &b_stride, <double*>a, &a_stride,
          &one, <double*>out, &out_stride)


cdef void blas_multiply(
    Py_ssize_t rows, Py_ssize_t columns, Py_ssize_t depth,
    real* a, Py_ssize_t a_stride, real* b, Py_ssize_t b_stride, real* out, Py_ssize_t out_stride,
) noexcept nogil:
    """out += a @ b, all row-major, by BLAS in blocks below the size at which OpenBLAS starts threads of its own.

    OpenBLAS runs in the calling thread up to rows * columns * depth = 4 * 65536 (its interface/gemm.c).
    """
    cdef Py_ssize_t row = 0, column, k
    cdef int m, n, depth_of_block, lda = <int>a_stride, ldb = <int>b_stride, ldc = <int>out_stride
    while row < rows:
        m = <int>min(rows - row, BLAS_ROWS)
        k = 0
        while k < depth:
            depth_of_block = <int>min(depth - k, BLAS_DEPTH)
            column = 0
            while column < columns:
                n = <int>min(columns - column, BLAS_COLUMNS)
                gemm(m, n, depth_of_block, a + row * a_stride + k, lda, b + k * b_stride + column, ldb,
                     out + row * out_stride + column, ldc)
                column += n
            k += depth_of_block
        row += m


cdef struct Weights:
    Panels cut
    Py_ssize_t depth
    real* panels         # packed, or (depth, total) in panel order where BLAS multiplies
    real* bias           # (total,) in panel order


cdef object prepare_weights(Weights* weights, object matrix, object bias, int gates, bint blas):
    """Fill `weights` from (depth, gates * units) and (gates * units,) or None; returns the arrays to keep alive."""
    cdef real[::1] panels, start
    if blas:
        find_blas()
    weights.depth = matrix.shape[0]
    weights.cut = cut_panels(gates, matrix.shape[1] // gates)
    panels = to_panel_columns(&weights.cut, matrix).ravel() if blas else pack(&weights.cut, matrix)
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
    """out[r] = bias + x[r] @ weights in panel order, for the panels first_panel, ..., last_panel - 1.

    The weights were prepared with blas=BLAS_PROJECTS.
    """
    cdef const Panels* cut = &weights.cut
    cdef const real* start[ROWS_OF_BLOCK]
    cdef real* x_rows[ROWS_OF_BLOCK]
    cdef Py_ssize_t row, first = 0, count, offset = first_panel * cut.width, width
    cdef int panel
    if BLAS_PROJECTS:
        width = (cut.total if last_panel == cut.n_panels else last_panel * cut.width) - offset
        for row in range(rows):
            memcpy(out + row * out_stride + offset, weights.bias + offset, width * sizeof(real))
        blas_multiply(rows, width, weights.depth, x, x_stride, weights.panels + offset, cut.total,
                      out + offset, out_stride)
        return
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
