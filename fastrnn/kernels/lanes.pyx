"""Rows of the batch in the lanes of vectors, for layers of few units: a stepper of the recurrence, and Dense.

In a panel product a vector holds columns of the weights, for one row. Where the columns are too few to fill vectors,
the rows of the batch do: a group of rows is transposed so that a vector holds one number of each, a state is
(units, rows), and the columns of a unit's gates take the places that rows have in a tile otherwise. Tile and cell work
on vectors wherever they are and do not know the difference. A group goes through the whole sequence before the next
one starts.
"""
from libc.string cimport memcpy, memset

from fastrnn.kernels.cells.registry cimport finish_tile
from fastrnn.kernels.layers cimport (
    Cell, Columns, Kernels, Panels, Phase, Recurrence, Shape, State, factor_of_phase, panel_units,
)
from fastrnn.kernels.loop cimport Now, run_sequence
from fastrnn.kernels.panels cimport multiply_tile, rows_of_tile
from fastrnn.kernels.simd cimport (
    LANES, TILE_ROWS, TILE_VECTORS, choose, lanes_that, load, real, store, transpose, vec, zero_vector,
)
from fastrnn.kernels.tuning cimport NONE, whole_vectors
from fastrnn.kernels.workspace cimport Bump, index_at, take

cdef extern from "exports.h" nogil:
    void activate_span "FASTRNN_LOCAL(activate_span)"(int activation, const real* x, real* y, Py_ssize_t n)

cdef enum:
    # Rows of a group at most: as many as a tile has lanes.
    GROUP_ROWS = TILE_VECTORS * LANES
    # Columns whose sums wait for the cell: some tiles, of whole units, in the first-level cache.
    COLUMNS_AT_ONCE = 12


# -- Transposing ---------------------------------------------------------------------------------------------------

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


# -- Products ------------------------------------------------------------------------------------------------------

cdef inline Py_ssize_t column_in_panels(const Panels* cut, Py_ssize_t unit, int gate) noexcept nogil:
    """Where panels have the column of a unit's gate."""
    cdef int panel = <int>(unit // cut.units)
    return panel * cut.width + gate * panel_units(cut, panel) + unit % cut.units


cdef void multiply_columns(
    Py_ssize_t first, Py_ssize_t count, Py_ssize_t width, const real** start,
    const Columns* kernel, const real* x, const Columns* recurrent, const real* h, real* out,
) noexcept nogil:
    """out[c] = start[c] + kernel[first + c] @ x + recurrent[first + c] @ h for `count` columns and `width` rows.

    x and h are (depth, width), out is (count, width); a product with NULL is left out. A start of NULL is the bias of
    `kernel`.
    """
    cdef const real* start_here[TILE_ROWS]
    cdef const real* of_x[TILE_ROWS]
    cdef const real* of_h[TILE_ROWS]
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


cdef public void multiply_rows_in_lanes "FASTRNN_LOCAL(multiply_rows_in_lanes)"(
    Py_ssize_t depth, Py_ssize_t n_columns, const real* weights, const real* bias, int activation, Py_ssize_t n_rows,
    const real* x, real* y, real* scratch,
) noexcept nogil:
    """y = activation(x @ weights + bias) for x, (n_rows, depth), and y, (n_rows, columns), weights as in `Columns`.

    `scratch` has room for (depth + columns + 2 * LANES) * GROUP_ROWS numbers.
    """
    cdef Columns columns = Columns(depth, n_columns, weights, bias)
    cdef Py_ssize_t first = 0, count, width
    cdef real* places[GROUP_ROWS]
    cdef real* transposed = scratch
    cdef real* sums = scratch + (depth + LANES) * GROUP_ROWS
    while first < n_rows:
        count = min(n_rows - first, <Py_ssize_t>GROUP_ROWS)
        width = whole_vectors(count, LANES)
        find_rows(<real*>x + first * depth, depth, count, width, places)
        rows_to_lanes(places, width, depth, x + n_rows * depth, transposed)
        multiply_columns(0, n_columns, width, NULL, &columns, NULL, &columns, transposed, sums)
        activate_span(activation, sums, sums, n_columns * width)
        find_rows(y + first * n_columns, n_columns, count, count, places)
        lanes_to_rows(sums, width, count, n_columns, n_columns, places)
        first += count


# -- The stepper ----------------------------------------------------------------------------------------------------


cdef struct Group:
    # A group of rows on its way over time. What is transposed has room for the rest of a last square.
    const Recurrence* layer
    Py_ssize_t rows
    Py_ssize_t steps
    char* x_rows           # of the caller, (rows, steps, ...)
    int x_type
    real* y_rows
    Py_ssize_t width       # rows, up to whole vectors
    Py_ssize_t x_size      # numbers of a row that x has at a step
    Py_ssize_t x_steps     # steps whose x is transposed at once
    Py_ssize_t y_steps     # steps whose outputs are transposed back at once; 2 or more: the one before and this one
    Py_ssize_t first_x     # the first of the steps whose x is transposed
    State state            # (units, width); h and h_next are two of `states`
    real* x                # (x_steps, x_size, width)
    real* states           # (y_steps, units, width)
    real* outputs          # the same memory, or with a mask (y_steps, units, width)
    real* carry_before     # (units, width), the carry before a step with a mask
    char* marks            # (3 * width,), for the loop over time


cdef void lay_out_group(const Recurrence* layer, Py_ssize_t rows, Bump* bump, Group* group) noexcept nogil:
    cdef const Cell* cell = &layer.cell
    cdef bint masked = layer.sequence.mask != NONE
    cdef size_t row_size, state_size, states_size
    cdef int number
    group.width = whole_vectors(min(rows, <Py_ssize_t>GROUP_ROWS), LANES)
    group.x_size, group.x_steps = cell.features, max(1, 2 * LANES // max(cell.features, 1))
    if layer.table != NULL:
        group.x_size, group.x_steps = 0, 1
        for number in range(cell.traits.n_phases):
            group.x_size += cell.phases[number].kernel.cut.total
    group.y_steps = max(2, LANES // cell.units)
    row_size = group.width * sizeof(real)
    state_size = (cell.units + LANES) * row_size
    states_size = (group.y_steps * cell.units + LANES) * row_size
    group.state.stride = group.width
    group.state.h = group.state.h_next = NULL
    group.state.carry = <real*>take(bump, state_size if cell.traits.n_states > 1 else 0)
    for number in range(2):
        group.state.scratch[number] = <real*>take(bump, state_size if number < cell.traits.n_scratch else 0)
    group.x = <real*>take(bump, (group.x_steps * group.x_size + LANES) * row_size)
    group.states = <real*>take(bump, states_size)
    group.outputs = <real*>take(bump, states_size) if masked else group.states
    group.carry_before = <real*>take(bump, state_size if masked and cell.traits.n_states > 1 else 0)
    group.marks = <char*>take(bump, 3 * group.width if masked else 0)


cdef void step_group(const Cell* cell, const Group* group, const real* x, bint from_zeros) noexcept nogil:
    """One step; x is (features, width) or, from a table, (panel columns, width) of x @ kernel + bias.

    The product with a state of zeros is left out.
    """
    cdef const Phase* phase
    cdef const Panels* cut
    cdef bint from_table = group.layer.table != NULL
    cdef const real* table_sums[COLUMNS_AT_ONCE]
    cdef const real** start = NULL
    cdef const real* factor = NULL
    cdef const real* zx[COLUMNS_AT_ONCE]
    cdef const real* zh[COLUMNS_AT_ONCE]
    cdef vec x_sums[COLUMNS_AT_ONCE * TILE_VECTORS]
    cdef vec sums[COLUMNS_AT_ONCE * TILE_VECTORS]
    cdef Py_ssize_t units_here[COLUMNS_AT_ONCE]
    cdef Py_ssize_t unit, first, of_phase = 0, width = group.width
    cdef const real* h
    cdef int p, u, g, gates, count
    if from_table:
        start = table_sums
    else:
        factor = x
    for p in range(cell.traits.n_phases):
        phase = &cell.phases[p]
        cut = &phase.kernel.cut
        gates = cut.gates
        h = factor_of_phase(cell, p, &group.state)
        if from_zeros:
            h = NULL
        unit = 0
        while unit < cell.units:
            count = <int>min(cell.units - unit, <Py_ssize_t>(COLUMNS_AT_ONCE // gates))
            first = unit * gates
            for u in range(count):
                units_here[u] = unit + u
                zx[u] = <real*>x_sums + u * gates * width
                zh[u] = <real*>sums + u * gates * width
                for g in range(gates if from_table else 0):
                    table_sums[u * gates + g] = x + (of_phase + column_in_panels(cut, unit + u, g)) * width
            if cell.traits.phases[p].apart:
                multiply_columns(first, count * gates, width, start, &phase.kernel_columns, factor,
                                 NULL, NULL, <real*>x_sums)
                multiply_columns(first, count * gates, width, NULL, &phase.recurrent_columns, NULL,
                                 &phase.recurrent_columns, h, <real*>sums)
            else:
                multiply_columns(first, count * gates, width, start, &phase.kernel_columns, factor,
                                 &phase.recurrent_columns, h, <real*>sums)
            finish_tile(cell, p, count, units_here, <int>width, 0, zx, zh, &group.state)
            unit += count
        of_phase += cut.total


cdef void read_x(Group* group, Py_ssize_t count) noexcept nogil:
    """Transpose x, or its products from the table, of `count` steps from `first_x` on."""
    cdef real* places[GROUP_ROWS]
    cdef const real* end = <const real*>group.x_rows + group.rows * group.steps * group.x_size
    cdef Py_ssize_t row
    if group.layer.table == NULL:
        find_rows(<real*>group.x_rows + group.first_x * group.x_size, group.steps * group.x_size, group.rows,
                  group.width, places)
    else:
        for row in range(group.width):
            places[row] = <real*>group.layer.table + group.x_size * index_at(
                group.x_rows, group.x_type, min(row, group.rows - 1) * group.steps + group.first_x)
    rows_to_lanes(places, group.width, count * group.x_size, end, group.x)


cdef void read_state(const real* rows, Py_ssize_t n_rows, Py_ssize_t units, Py_ssize_t width, real* out) noexcept nogil:
    """An initial state, (n_rows, units), transposed, or zeros."""
    cdef real* places[GROUP_ROWS]
    if rows == NULL:
        memset(out, 0, units * width * sizeof(real))
    else:
        find_rows(<real*>rows, units, n_rows, width, places)
        rows_to_lanes(places, width, units, rows + n_rows * units, out)


cdef void write_rows(
    const real* lanes, Py_ssize_t width, Py_ssize_t count, Py_ssize_t room, real* rows, Py_ssize_t stride,
    Py_ssize_t n_rows,
) noexcept nogil:
    """`lanes_to_rows` for rows that lie `stride` numbers apart, none for NULL."""
    cdef real* places[GROUP_ROWS]
    if rows != NULL:
        find_rows(rows, stride, n_rows, n_rows, places)
        lanes_to_rows(lanes, width, n_rows, count, room, places)


cdef void choose_rows(
    const char* chosen, Py_ssize_t rows, Py_ssize_t units, Py_ssize_t width, const real* these, const real* others,
    real* out,
) noexcept nogil:
    """out = these for the rows that are chosen and others, or zeros for NULL, for the rest; all (units, width)."""
    cdef char lanes_chosen[LANES]
    cdef Py_ssize_t row = 0, i
    cdef vec here
    while row < width:
        memset(lanes_chosen, 0, LANES)
        memcpy(lanes_chosen, chosen + row, min(rows - row, <Py_ssize_t>LANES))
        here = lanes_that(lanes_chosen)
        for i in range(units):
            store(out + i * width + row, choose(here, load(these + i * width + row),
                  zero_vector() if others == NULL else load(others + i * width + row)))
        row += LANES


cdef bint make_step(void* stepper, const Now* now) noexcept nogil:
    cdef Group* group = <Group*>stepper
    cdef const Recurrence* layer = group.layer
    cdef State* state = &group.state
    cdef Py_ssize_t units = layer.cell.units, size = units * group.width, count
    cdef bint carries = layer.cell.traits.n_states > 1, some_wait = now.n_passing < group.rows
    if now.step % group.x_steps == 0:
        count = min(group.x_steps, now.steps - now.step)
        group.first_x = now.t - count + 1 if layer.sequence.go_backwards else now.t
        read_x(group, count)
    state.h_next = group.states + now.step % group.y_steps * size
    if now.n_passing:
        if some_wait and carries:
            memcpy(group.carry_before, state.carry, size * sizeof(real))
        step_group(&layer.cell, group, group.x + (now.t - group.first_x) * group.x_size * group.width,
                   now.step == 0 and layer.sequence.initial[0] == NONE)
        if some_wait:
            choose_rows(now.passes, group.rows, units, group.width, state.h_next, state.h, state.h_next)
            if carries:
                choose_rows(now.passes, group.rows, units, group.width, state.carry, group.carry_before, state.carry)
    else:
        memcpy(state.h_next, state.h, size * sizeof(real))
    state.h = state.h_next
    return True


cdef void write(void* stepper, const Now* now) noexcept nogil:
    """Outputs of some steps together, once they are all there."""
    cdef Group* group = <Group*>stepper
    cdef Py_ssize_t units = group.layer.cell.units, width = group.width
    cdef Py_ssize_t slot = now.step % group.y_steps
    cdef real* output = group.outputs + slot * units * width
    if group.y_rows == NULL:
        return
    if now.shows != NULL:
        choose_rows(now.shows, group.rows, units, width, group.state.h, NULL, output)
    if not group.layer.sequence.return_sequences:
        write_rows(output, width, units, units, group.y_rows, units, group.rows)
    elif now.last or slot == group.y_steps - 1:
        write_rows(group.outputs, width, (slot + 1) * units, (now.steps - now.step + slot) * units,
                   group.y_rows + (now.step - slot) * units, now.steps * units, group.rows)


cdef inline char* at_row(const Shape* shapes, char** data, int buffer, Py_ssize_t row) noexcept nogil:
    """Where a row of a buffer starts; NULL for NONE."""
    return NULL if buffer == NONE else data[buffer] + row * shapes[buffer].size * shapes[buffer].item


cdef void run_group(
    const Recurrence* layer, const Shape* shapes, char** data, Py_ssize_t first, Py_ssize_t rows, char* scratch,
) noexcept nogil:
    """The whole sequence of at most GROUP_ROWS rows, the first of which is `first`."""
    cdef Bump bump = Bump(scratch, 0)
    cdef Group group
    cdef State* state = &group.state
    cdef Py_ssize_t units = layer.cell.units, width
    cdef bint carries = layer.cell.traits.n_states > 1
    lay_out_group(layer, rows, &bump, &group)
    width = group.width
    group.layer, group.rows, group.steps = layer, rows, shapes[layer.sequence.x].dims[0]
    group.x_rows, group.x_type = at_row(shapes, data, layer.sequence.x, first), shapes[layer.sequence.x].type
    group.y_rows = <real*>at_row(shapes, data, layer.sequence.y, first)
    group.first_x = 0
    state.h = group.states + (group.y_steps - 1) * units * width
    read_state(<real*>at_row(shapes, data, layer.sequence.initial[0], first), rows, units, width, state.h)
    if carries:
        read_state(<real*>at_row(shapes, data, layer.sequence.initial[1], first), rows, units, width, state.carry)
    run_sequence(&layer.sequence, rows, group.steps, 0, at_row(shapes, data, layer.sequence.mask, first), group.marks,
                 &group, make_step, write)
    write_rows(state.h, width, units, units, <real*>at_row(shapes, data, layer.sequence.final[0], first), units, rows)
    if carries:
        write_rows(state.carry, width, units, units, <real*>at_row(shapes, data, layer.sequence.final[1], first), units,
                   rows)


cdef public size_t scratch_in_lanes "FASTRNN_LOCAL(scratch_in_lanes)"(
    const void* layer, const void* shapes, Py_ssize_t rows,
) noexcept nogil:
    cdef Bump bump = Bump(NULL, 0)
    cdef Group group
    lay_out_group(<const Recurrence*>layer, rows, &bump, &group)
    return bump.used


cdef public void run_in_lanes "FASTRNN_LOCAL(run_in_lanes)"(
    const void* layer, const void* shapes, char** data, Py_ssize_t rows, char* scratch,
) noexcept nogil:
    """The whole sequence, group by group."""
    cdef Py_ssize_t first = 0, count
    while first < rows:
        count = min(rows - first, <Py_ssize_t>GROUP_ROWS)
        run_group(<const Recurrence*>layer, <const Shape*>shapes, data, first, count, scratch)
        first += count


cdef public void fill "FASTRNN_LOCAL(fill_lanes)"(void* table) noexcept nogil:
    (<Kernels*>table).group_rows = GROUP_ROWS
