# Products on weights of fewer bits: bfloat16, and int8 with a scale for each column.
#
# They read half or a quarter of the bytes, and where the CPU has dot products of such numbers (AVX512_BF16 and
# AVX512_VNNI) take half or a quarter of the instructions. A lane of a panel holds a word: two or four numbers of a
# column, next to each other in depth. `narrow_tile` multiplies rows of such words as `tile` does numbers. What comes of
# it are `real` sums: everything else of a step is the same.

from libc.stdint cimport int32_t, uint8_t, uint16_t

cdef extern from "narrow.h" nogil:
    enum:
        DOT_PRODUCTS_COMPILED "FASTRNN_DOT_PRODUCTS"
    bint cpu_has_bfloat16()
    bint cpu_has_int8()
    vec dot_bfloat16(bint native, int32_t a, vec b, vec sum)
    vec dot_int8(bint native, int32_t a, vec b, vec sum)
    vec add_whole(vec a, vec b)
    vec from_whole(vec a)
    void round_to_bfloat16(const real* x, size_t n, uint16_t* out)
    real largest_magnitude(const real* x, size_t n)
    void quantise(const real* x, size_t n, real factor, uint8_t* out)

cdef enum Precision:
    FULL                 # `real`: no narrow weights
    BFLOAT16
    INT8

PRECISIONS = {None: FULL, "bfloat16": BFLOAT16, "int8": INT8}
DOT_PRODUCTS = (("bfloat16",) if cpu_has_bfloat16() else ()) + (("int8",) if cpu_has_int8() else ())

cdef struct Narrow:
    int precision
    bint native          # whether to use the CPU's dot product
    Py_ssize_t words     # in a column
    const real* panels   # packed, a word in the place of a number
    const real* scales   # INT8: (total,), what 1 stands for in each column
    const real* offsets  # INT8: (total,), the words that sums start from, for operands from 1 to 255 instead of +-127

cdef struct Operands:
    # Rows of words to multiply narrow weights with.
    char* words          # (rows, stride in bytes)
    Py_ssize_t stride
    real* scales         # INT8: (rows,), what 1 stands for


cdef inline int numbers_of_word(int precision) noexcept nogil:
    return 4 if precision == INT8 else 2


cdef object to_words(object numbers, int count):
    """(depth, columns) of 16 or 8 bits as (words, columns) of `count` numbers each, zeros in the padding."""
    depth, columns = numbers.shape
    padded = np.zeros((-(-depth // count) * count, columns), numbers.dtype)
    padded[:depth] = numbers
    return np.ascontiguousarray(padded.reshape(-1, count, columns).swapaxes(1, 2)).view(DTYPE)[..., 0]


cdef object prepare_narrow(Narrow* narrow, const Panels* cut, object matrix, int precision, bint portable):
    """Fill `narrow` from (depth, columns); returns the arrays to keep alive.

    An int8 column's largest magnitude becomes 127. `portable` leaves the CPU's dot product alone.
    """
    cdef const real[:, ::1] rows = np.ascontiguousarray(matrix, DTYPE)
    cdef uint16_t[:, ::1] halves
    cdef const real[::1] panels, scales, offsets
    narrow.precision = precision
    narrow.words = (rows.shape[0] + numbers_of_word(precision) - 1) // numbers_of_word(precision)
    if precision == FULL:
        return None
    if precision == BFLOAT16:
        narrow.native = cpu_has_bfloat16() and not portable
        halves = np.empty(matrix.shape, np.uint16)
        if halves.size:
            round_to_bfloat16(&rows[0, 0], halves.size, &halves[0, 0])
        panels = pack(cut, to_words(np.asarray(halves), 2))
        narrow.panels = &panels[0]
        return panels
    narrow.native = cpu_has_int8() and not portable
    with np.errstate(all="ignore"):
        largest = np.abs(matrix).max(axis=0, keepdims=True) / DTYPE.type(127)
        whole = np.nan_to_num(np.rint(matrix / largest), nan=0, posinf=0, neginf=0).astype(np.int8)
    panels = pack(cut, to_words(whole, 4))
    scales = to_panel_columns(cut, largest)[0]
    offsets = to_panel_columns(cut, (-128 * whole.sum(axis=0, keepdims=True, dtype=np.int32)).view(DTYPE))[0]
    narrow.panels, narrow.scales, narrow.offsets = &panels[0], &scales[0], &offsets[0]
    return panels, scales, offsets


cdef void narrow_row(
    int precision, const real* row, Py_ssize_t depth, Py_ssize_t first, Py_ssize_t count, Operands* operands,
    Py_ssize_t to, bint write_scale,
) noexcept nogil:
    """The numbers first, ..., first + count - 1 of a row of `depth` as those of the row `to` of `operands`.

    `first` starts a word. An int8 row's largest magnitude becomes 127.
    """
    cdef char* words = operands.words + to * operands.stride
    cdef uint16_t* halves = <uint16_t*>words
    cdef real largest
    if precision == BFLOAT16:
        round_to_bfloat16(row + first, count, halves + first)
        if first + count == depth and depth % 2:
            halves[depth] = 0
        return
    largest = largest_magnitude(row, depth)
    quantise(row + first, count, 127 / largest if largest > 0 else 0, <uint8_t*>words + first)
    if write_scale:
        operands.scales[to] = largest / 127


cdef struct Factor:
    # One of the products in a tile: rows of words, and a panel of as many words.
    const int32_t* rows[TILE_ROWS]
    Py_ssize_t words
    const real* panel
    # INT8: what 1 stands for in each row and column, and the words that sums start from.
    real row_scales[TILE_ROWS]
    const real* scales
    const real* offsets


cdef inline vec dot(const int precision, const bint native, int32_t word, const real* weights, vec sum) noexcept nogil:
    if precision == INT8:
        return dot_int8(native, word, load(weights), sum)
    return dot_bfloat16(native, word, load(weights), sum)


cdef inline void narrow_tile(
    const int precision, const bint native, const int rows, const int vectors, const int splits,
    const real** start, const Factor* factors, int n_factors, real* out, Py_ssize_t out_stride,
) noexcept nogil:
    """out[r] = start[r] + the factors' products for `rows` rows and one panel of `vectors` vectors, as in `tile`.

    Several factors share their sums, which those of INT8 cannot: there is one.
    """
    cdef vec sums[TILE_ROWS * TILE_VECTORS]
    cdef const int32_t* x[TILE_ROWS]
    cdef const real* panel
    cdef int r, v, s, f
    cdef Py_ssize_t k, words
    for r in range(rows):
        for v in range(vectors):
            sums[r * vectors + v] = load(
                factors[0].offsets + v * LANES if precision == INT8 else start[r] + v * LANES)
    for s in range(rows * vectors, splits * rows * vectors):
        sums[s] = zero_vector()
    for f in range(n_factors):
        for r in range(rows):
            x[r] = factors[f].rows[r]
        panel = factors[f].panel
        words = factors[f].words
        k = 0
        while k + splits <= words:
            for s in range(splits):
                for v in range(vectors):
                    for r in range(rows):
                        sums[(s * rows + r) * vectors + v] = dot(
                            precision, native, x[r][k + s], panel + (s * vectors + v) * LANES,
                            sums[(s * rows + r) * vectors + v])
            panel += splits * vectors * LANES
            k += splits
        while splits > 1 and k < words:
            for v in range(vectors):
                for r in range(rows):
                    sums[r * vectors + v] = dot(precision, native, x[r][k], panel + v * LANES, sums[r * vectors + v])
            panel += vectors * LANES
            k += 1
    for s in range(1, splits):
        for r in range(rows * vectors):
            if precision == INT8:
                sums[r] = add_whole(sums[r], sums[s * rows * vectors + r])
            else:
                sums[r] = add(sums[r], sums[s * rows * vectors + r])
    for r in range(rows):
        for v in range(vectors):
            if precision == INT8:
                sums[r * vectors + v] = from_whole(sums[r * vectors + v]) * (
                    factors[0].row_scales[r] * load(factors[0].scales + v * LANES)) + load(start[r] + v * LANES)
            store(out + r * out_stride + v * LANES, sums[r * vectors + v])


cdef inline void narrow_tile_of_width(
    const int precision, const bint native, int rows, const int vectors,
    const real** start, const Factor* factors, int n_factors, real* out, Py_ssize_t out_stride,
) noexcept nogil:
    """`narrow_tile` for any number of rows up to TILE_ROWS, with separate sums as in `tile_of_width`.

    Without the CPU's dot products a tile has two rows at most: unpacked numbers need the other registers, and more
    tiles would cost seconds of compilation.
    """
    if rows == 1:
        narrow_tile(precision, native, 1, vectors, (SUMS_IN_FLIGHT + vectors - 1) // vectors,
                    start, factors, n_factors, out, out_stride)
    elif rows == 2:
        narrow_tile(precision, native, 2, vectors, (SUMS_IN_FLIGHT // 2 + vectors - 1) // vectors,
                    start, factors, n_factors, out, out_stride)
    elif TILE_ROWS > 3 and native and rows == 3:
        narrow_tile(precision, native, 3, vectors, (SUMS_IN_FLIGHT // 4 + vectors - 1) // vectors,
                    start, factors, n_factors, out, out_stride)
    elif TILE_ROWS > 3 and native and rows == 4:
        narrow_tile(precision, native, 4, vectors, (SUMS_IN_FLIGHT // 4 + vectors - 1) // vectors,
                    start, factors, n_factors, out, out_stride)
    elif TILE_ROWS > 3 and native and rows == 5:
        narrow_tile(precision, native, 5, vectors, 1, start, factors, n_factors, out, out_stride)
    elif TILE_ROWS > 3 and native:
        narrow_tile(precision, native, 6, vectors, 1, start, factors, n_factors, out, out_stride)


cdef inline void narrow_tile_of_any_width(
    const int precision, const bint native, int rows, Py_ssize_t vectors,
    const real** start, const Factor* factors, int n_factors, real* out, Py_ssize_t out_stride,
) noexcept nogil:
    """`narrow_tile_of_width` for any panel width up to TILE_VECTORS vectors."""
    if vectors == 4:
        narrow_tile_of_width(precision, native, rows, 4, start, factors, n_factors, out, out_stride)
    elif vectors == 3:
        narrow_tile_of_width(precision, native, rows, 3, start, factors, n_factors, out, out_stride)
    elif vectors == 2:
        narrow_tile_of_width(precision, native, rows, 2, start, factors, n_factors, out, out_stride)
    else:
        narrow_tile_of_width(precision, native, rows, 1, start, factors, n_factors, out, out_stride)


cdef void multiply_unpacked(
    int precision, int rows, Py_ssize_t vectors,
    const real** start, Factor* factors, int n_factors, real* out, Py_ssize_t out_stride,
) noexcept nogil:
    """`multiply_narrow` without the CPU's dot products. Changes the factors."""
    cdef int first = 0, count, f, r
    while first < rows:
        count = min(rows - first, 2)
        if precision == INT8:
            narrow_tile_of_any_width(INT8, False, count, vectors, start + first, factors, n_factors,
                                     out + first * out_stride, out_stride)
        else:
            narrow_tile_of_any_width(BFLOAT16, False, count, vectors, start + first, factors, n_factors,
                                     out + first * out_stride, out_stride)
        first += count
        for f in range(n_factors):
            for r in range(first, min(first + 2, rows)):
                factors[f].rows[r - first] = factors[f].rows[r]
                factors[f].row_scales[r - first] = factors[f].row_scales[r]


cdef inline Factor factor_of(
    const Narrow* narrow, const Panels* cut, int panel, const Operands* operands, int rows,
    const Py_ssize_t* row_numbers,
) noexcept nogil:
    """What one panel is multiplied with: the rows row_numbers[0], ..., row_numbers[rows - 1] of the operands."""
    cdef Factor factor
    cdef Py_ssize_t offset = panel * cut.width
    cdef int r
    factor.words = narrow.words
    factor.panel = narrow.panels + offset * narrow.words
    for r in range(rows):
        factor.rows[r] = <const int32_t*>(operands.words + row_numbers[r] * operands.stride)
    if narrow.precision == INT8:
        factor.scales, factor.offsets = narrow.scales + offset, narrow.offsets + offset
        for r in range(rows):
            factor.row_scales[r] = operands.scales[row_numbers[r]]
    return factor


cdef void multiply_narrow(
    const Narrow* narrow, int rows, Py_ssize_t width,
    const real** start, Factor* factors, int n_factors, real* out, Py_ssize_t out_stride,
) noexcept nogil:
    """`narrow_tile` for any number of rows up to TILE_ROWS and any width; all factors are as `narrow` says."""
    if not DOT_PRODUCTS_COMPILED or not narrow.native:
        multiply_unpacked(narrow.precision, rows, width // LANES, start, factors, n_factors, out, out_stride)
    elif narrow.precision == INT8:
        narrow_tile_of_any_width(INT8, True, rows, width // LANES, start, factors, n_factors, out, out_stride)
    else:
        narrow_tile_of_any_width(BFLOAT16, True, rows, width // LANES, start, factors, n_factors, out, out_stride)
