# Products on weights of fewer bits: bfloat16, and int8 with a scale for each column.
#
# They read half or a quarter of the bytes, and where the CPU has dot products of such numbers (AVX512_BF16 and
# AVX512_VNNI) take half or a quarter of the instructions. A lane of a panel holds a word: two or four numbers of a
# column, next to each other in depth. `narrow_tile` multiplies rows of such words as `tile` does numbers. What comes of
# it are `real` sums: everything else of a step is the same.

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


cdef inline Factor no_factor() noexcept nogil:
    """A product that adds nothing."""
    cdef Factor factor
    memset(&factor, 0, sizeof(factor))
    return factor


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


cdef inline void narrow_tile(
    const int precision, const bint native, int rows, Py_ssize_t width,
    const real** start, const Factor* x, const Factor* h, real* out, Py_ssize_t out_stride,
) noexcept nogil:
    """`tile` of narrow numbers for up to TILE_ROWS rows: out[r] = start[r] + both products. INT8 has no x.

    Sums of INT8 are whole numbers until they are all there.
    """
    cdef vec whole[TILE_ROWS * TILE_VECTORS]
    cdef const real* offsets[TILE_ROWS]
    cdef int r
    cdef Py_ssize_t i
    if precision == BFLOAT16:
        tile_of_any_width(precision, native, rows, width, start, 0, <real**>x.rows, x.words, x.panel,
                          <real**>h.rows, 0, h.words, h.panel, out, out_stride)
        return
    for r in range(rows):
        offsets[r] = h.offsets
    tile_of_any_width(precision, native, rows, width, offsets, 0, NULL, 0, NULL,
                      <real**>h.rows, 0, h.words, h.panel, <real*>whole, width)
    for r in range(rows):
        i = 0
        while i < width:
            store(out + r * out_stride + i, load(start[r] + i) + from_whole(load(<real*>whole + r * width + i)) * (
                h.row_scales[r] * load(h.scales + i)))
            i += LANES


cdef void multiply_narrow(
    const Narrow* narrow, int rows, Py_ssize_t width,
    const real** start, Factor* x, Factor* h, real* out, Py_ssize_t out_stride,
) noexcept nogil:
    """`narrow_tile` as `narrow` says. Changes the factors."""
    cdef int first = 0, count, r
    if DOT_PRODUCTS_COMPILED and narrow.native:
        if narrow.precision == INT8:
            narrow_tile(INT8, True, rows, width, start, x, h, out, out_stride)
        else:
            narrow_tile(BFLOAT16, True, rows, width, start, x, h, out, out_stride)
        return
    while first < rows:
        count = min(rows - first, 2)
        if narrow.precision == INT8:
            narrow_tile(INT8, False, count, width, start + first, x, h, out + first * out_stride, out_stride)
        else:
            narrow_tile(BFLOAT16, False, count, width, start + first, x, h, out + first * out_stride, out_stride)
        first += count
        for r in range(first, min(first + 2, rows)):
            x.rows[r - first], h.rows[r - first] = x.rows[r], h.rows[r]
            h.row_scales[r - first] = h.row_scales[r]
