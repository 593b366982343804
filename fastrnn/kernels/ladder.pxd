"""The ladder of micro-kernels: up to TILE_ROWS rows by one packed panel, all accumulators in registers.

One source for `real` and for words of bfloat16 or int8 numbers. `products` and `quantized` instantiate it.
"""
from libc.stdint cimport int32_t
from libc.string cimport memmove

from fastrnn.kernels.layers cimport BFLOAT16, FULL, INT8
from fastrnn.kernels.simd cimport (
    LANES, MOST_ROWS, TILE_ROWS, TILE_VECTORS, add, add_whole, dot_bfloat16, dot_int8, keep_in_memory, load, multiply,
    multiply_add, real, store, vec, zero_vector,
)
from fastrnn.kernels.tuning cimport SUM_BLOCK, SUMS_IN_FLIGHT

cdef enum:
    # Sums that a tile can have: registers.
    MOST_SUMS = TILE_ROWS * TILE_VECTORS


cdef inline vec add_product(
    const int precision, const bint native, const real* row, Py_ssize_t k, const real* weights, vec sum,
) noexcept nogil:
    """sum + row[k] * weights, in whole numbers for INT8; `native` takes the CPU's dot product."""
    if precision == INT8:
        return dot_int8(native, (<const int32_t*>row)[k], load(weights), sum)
    if precision == BFLOAT16:
        return dot_bfloat16(native, (<const int32_t*>row)[k], load(weights), sum)
    return multiply_add(row[k], load(weights), sum)


cdef inline vec first_product(
    const int precision, const bint native, const real* row, Py_ssize_t k, const real* weights,
) noexcept nogil:
    """`add_product` to a sum of 0. (Tiles of three rows take 8 % longer where sums of `real` begin with zeros.)"""
    if precision == FULL:
        return multiply(row[k], load(weights))
    return add_product(precision, native, row, k, weights, zero_vector())


cdef inline vec add_sums(const int precision, vec a, vec b) noexcept nogil:
    return add_whole(a, b) if precision == INT8 else add(a, b)


# The one order of sums
# ---------------------
# The product of a row and a column is cut into blocks of SUM_BLOCK numbers or words. Of a block the products with even
# and those with odd places are summed apart, and these sums added, one after the other, to what the result starts from.
# Every way of multiplying keeps to this, so that the bits of a result do not depend on which of them was taken. Short
# sums err little, and the two advance together where that hides the latency of a multiply-add.

cdef inline void add_in_registers(
    const int precision, const bint native, const int rows, const int vectors, const int stride,
    const real** x, Py_ssize_t k, Py_ssize_t last, const real* panel, vec* totals,
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
    const real** start, Py_ssize_t start_at, const real** x, Py_ssize_t k, Py_ssize_t last, const real* panel,
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
    const real** start, Py_ssize_t start_at, const real** x, Py_ssize_t x_depth, const real* x_panel,
    const real** h, Py_ssize_t h_first, Py_ssize_t h_last, const real* h_panel, real* out, Py_ssize_t out_stride,
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
    const real** x, Py_ssize_t x_depth, const real* x_panel,
    const real** h, Py_ssize_t h_first, Py_ssize_t h_last, const real* h_panel, real* out, Py_ssize_t out_stride,
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
    const real** x, Py_ssize_t x_depth, const real* x_panel,
    const real** h, Py_ssize_t h_first, Py_ssize_t h_last, const real* h_panel, real* out, Py_ssize_t out_stride,
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
    const real** x, Py_ssize_t x_depth, const real* x_panel,
    const real** h, Py_ssize_t h_first, Py_ssize_t h_last, const real* h_panel, real* out, Py_ssize_t out_stride,
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
