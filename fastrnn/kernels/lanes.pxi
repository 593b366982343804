# The recurrence with rows of the batch in the lanes of vectors, for layers of few units (columns.pxi).
#
# Everything is turned: a state is (units, rows), and the columns of a unit's gates take the places that rows have in a
# tile of recurrence.pxi. The cell works on vectors wherever they are and does not know the difference. A group of rows
# goes through the whole sequence before the next one starts.

cdef struct Group:
    # The workspace of a group of rows. What is turned has room for the rest of a last square.
    Py_ssize_t width       # rows, up to whole vectors
    Py_ssize_t x_size      # numbers of a row that x has at a step
    Py_ssize_t x_steps     # steps whose x is turned at once
    Py_ssize_t y_steps     # steps whose outputs are turned back at once; 2 or more: the one before and this one
    State state            # (units, width); h and h_next are two of `states`
    real* x                # (x_steps, x_size, width)
    real* states           # (y_steps, units, width)
    real* outputs          # the same memory, or with a mask (y_steps, units, width)
    real* c_before         # (units, width), LSTM's c before a step with a mask
    char* passes           # (width,), whether the mask lets a row through
    char* started          # (width,), whether it has done so up to now


cdef LaneCosts costs_of_recurrence(const Recurrence* layer) noexcept nogil:
    cdef const Cell* cell = &layer.cell
    cdef Py_ssize_t total = 0, features = 0 if layer.table != NULL else cell.features
    cdef int phase, gates = 0
    for phase in range(cell.n_phases):
        gates += cell.phases[phase].kernel.cut.gates
        total += cell.phases[phase].kernel.cut.total
    return lane_costs(cell.units, gates, gates + (1 if cell.kind == LSTM else 0), total, cell.units + features,
                      cell.units + (total if layer.table != NULL else features))


cdef Group lay_out_group(const Recurrence* layer, Py_ssize_t rows, Bump* bump) noexcept nogil:
    cdef const Cell* cell = &layer.cell
    cdef bint masked = layer.mask != NONE
    cdef Group group
    cdef size_t row_size, state_size, states_size
    cdef int phase
    group.width = whole_vectors(min(rows, <Py_ssize_t>GROUP_ROWS))
    group.x_size, group.x_steps = cell.features, max(1, 2 * LANES // max(cell.features, 1))
    if layer.table != NULL:
        group.x_size, group.x_steps = 0, 1
        for phase in range(cell.n_phases):
            group.x_size += cell.phases[phase].kernel.cut.total
    group.y_steps = max(2, LANES // cell.units)
    row_size = group.width * sizeof(real)
    state_size = (cell.units + LANES) * row_size
    states_size = (group.y_steps * cell.units + LANES) * row_size
    group.state.stride = group.width
    group.state.h = group.state.h_next = NULL
    group.state.c = <real*>take(bump, state_size if cell.kind == LSTM else 0)
    group.state.update = <real*>take(bump, state_size if cell.kind == GRU_RESET_BEFORE else 0)
    group.state.reset_h = <real*>take(bump, state_size if cell.kind == GRU_RESET_BEFORE else 0)
    group.x = <real*>take(bump, (group.x_steps * group.x_size + LANES) * row_size)
    group.states = <real*>take(bump, states_size)
    group.outputs = <real*>take(bump, states_size) if masked else group.states
    group.c_before = <real*>take(bump, state_size if masked and cell.kind == LSTM else 0)
    group.passes = <char*>take(bump, group.width if masked else 0)
    group.started = <char*>take(bump, group.width if masked else 0)
    return group


cdef void step_group(
    const Cell* cell, const Group* group, real* x, bint from_table, bint from_zeros,
) noexcept nogil:
    """One step; x is (features, width) or, from a table, (panel columns, width) of x @ kernel + bias.

    The product with a state of zeros is left out.
    """
    cdef const Phase* phase
    cdef const Panels* cut
    cdef real* table_sums[COLUMNS_AT_ONCE]
    cdef real** start = table_sums if from_table else NULL
    cdef real* factor = NULL if from_table else x
    cdef real* zx[COLUMNS_AT_ONCE]
    cdef real* zh[COLUMNS_AT_ONCE]
    cdef vec x_sums[COLUMNS_AT_ONCE * TILE_VECTORS]
    cdef vec sums[COLUMNS_AT_ONCE * TILE_VECTORS]
    cdef Py_ssize_t units_here[COLUMNS_AT_ONCE]
    cdef Py_ssize_t unit, first, of_phase = 0, width = group.width
    cdef real* h
    cdef int p, u, g, gates, count
    for p in range(cell.n_phases):
        phase = &cell.phases[p]
        cut = &phase.kernel.cut
        gates = cut.gates
        h = group.state.reset_h if phase.of_reset_state else group.state.h
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
            if phase.apart:
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


cdef void read_x(
    const Recurrence* layer, const Group* group, char* x, int type, Py_ssize_t rows, Py_ssize_t steps,
    Py_ssize_t first, Py_ssize_t count,
) noexcept nogil:
    """Turn x, or its products from the table, of the steps first, ..., first + count - 1."""
    cdef real* places[GROUP_ROWS]
    cdef const real* end = <const real*>x + rows * steps * group.x_size
    cdef Py_ssize_t row
    if layer.table == NULL:
        find_rows(<real*>x + first * group.x_size, steps * group.x_size, rows, group.width, places)
    else:
        for row in range(group.width):
            places[row] = <real*>layer.table + group.x_size * index_at(x, type, min(row, rows - 1) * steps + first)
    rows_to_lanes(places, group.width, count * group.x_size, end, group.x)


cdef void read_state(const real* rows, Py_ssize_t n_rows, Py_ssize_t units, Py_ssize_t width, real* out) noexcept nogil:
    """An initial state, (n_rows, units), turned, or zeros."""
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
    const char* chosen, Py_ssize_t units, Py_ssize_t width, const real* these, const real* others, real* out,
) noexcept nogil:
    """out = these for the rows that are chosen and others, or zeros for NULL, for the rest; all (units, width)."""
    cdef Py_ssize_t row = 0, i
    cdef vec here
    while row < width:
        here = lanes_that(chosen + row)
        for i in range(units):
            store(out + i * width + row, choose(here, load(these + i * width + row),
                  zero_vector() if others == NULL else load(others + i * width + row)))
        row += LANES


cdef void step_masked_group(
    const Recurrence* layer, const Group* group, const char* mask, Py_ssize_t steps, Py_ssize_t rows, real* x,
    real* output, bint from_zeros,
) noexcept nogil:
    """One step, at which `mask` points, of which only the rows that it lets through get anything."""
    cdef const State* state = &group.state
    cdef Py_ssize_t row, n_passing = 0, units = layer.cell.units, size = units * group.width
    cdef bint keeps_c = layer.cell.kind == LSTM
    for row in range(rows):
        group.passes[row] = mask[row * steps] != 0
        group.started[row] |= group.passes[row]
        n_passing += group.passes[row]
    if n_passing:
        if keeps_c:
            memcpy(group.c_before, state.c, size * sizeof(real))
        step_group(&layer.cell, group, x, layer.table != NULL, from_zeros)
        choose_rows(group.passes, units, group.width, state.h_next, state.h, state.h_next)
        if keeps_c:
            choose_rows(group.passes, units, group.width, state.c, group.c_before, state.c)
    else:
        memcpy(state.h_next, state.h, size * sizeof(real))
    # Keras: a masked step repeats the output before it, and there is none before a row's first step.
    choose_rows(group.passes if layer.zero_output_for_mask else group.started, units, group.width,
                state.h_next, NULL, output)


cdef inline char* at_row(const Shape* shapes, char** data, int buffer, Py_ssize_t row) noexcept nogil:
    """Where a row of a buffer starts; NULL for NONE."""
    return NULL if buffer == NONE else data[buffer] + row * shapes[buffer].size * shapes[buffer].item


cdef void run_group(
    const Recurrence* layer, const Shape* shapes, char** data, Py_ssize_t first, Py_ssize_t rows, char* scratch,
) noexcept nogil:
    """The whole sequence of at most GROUP_ROWS rows, the first of which is `first`."""
    cdef Bump bump = Bump(scratch, 0)
    cdef Group group = lay_out_group(layer, rows, &bump)
    cdef State* state = &group.state
    cdef Py_ssize_t steps = shapes[layer.x].dims[0], units = layer.cell.units, width = group.width
    cdef char* x = at_row(shapes, data, layer.x, first)
    cdef char* mask = at_row(shapes, data, layer.mask, first)
    cdef real* y = <real*>at_row(shapes, data, layer.y, first)
    cdef Py_ssize_t step, t, slot, count, first_x = 0
    cdef real* x_now
    cdef bint from_zeros
    cdef real* output = group.outputs
    state.h = group.states + (group.y_steps - 1) * units * width
    read_state(<real*>at_row(shapes, data, layer.initial[0], first), rows, units, width, state.h)
    if layer.cell.kind == LSTM:
        read_state(<real*>at_row(shapes, data, layer.initial[1], first), rows, units, width, state.c)
    if mask != NULL:
        memset(group.passes, 0, width)
        memset(group.started, 0, width)
    for step in range(steps):
        t = steps - 1 - step if layer.go_backwards else step
        if step % group.x_steps == 0:
            count = min(group.x_steps, steps - step)
            first_x = t - count + 1 if layer.go_backwards else t
            read_x(layer, &group, x, shapes[layer.x].type, rows, steps, first_x, count)
        slot = step % group.y_steps
        state.h_next = group.states + slot * units * width
        output = group.outputs + slot * units * width
        x_now = group.x + (t - first_x) * group.x_size * width
        from_zeros = step == 0 and layer.initial[0] == NONE
        if mask == NULL:
            step_group(&layer.cell, &group, x_now, layer.table != NULL, from_zeros)
        else:
            step_masked_group(layer, &group, mask + t, steps, rows, x_now, output, from_zeros)
        state.h = state.h_next
        if y != NULL and layer.return_sequences and (slot == group.y_steps - 1 or step == steps - 1):
            write_rows(group.outputs, width, (slot + 1) * units, (steps - step + slot) * units,
                       y + (step - slot) * units, steps * units, rows)
    if not layer.return_sequences:
        write_rows(output, width, units, units, y, units, rows)
    write_rows(state.h, width, units, units, <real*>at_row(shapes, data, layer.final[0], first), units, rows)
    write_rows(state.c, width, units, units, <real*>at_row(shapes, data, layer.final[1], first), units, rows)


cdef void run_in_lanes(
    const Recurrence* layer, const Shape* shapes, char** data, Py_ssize_t rows, char* scratch,
) noexcept nogil:
    """The whole sequence, group by group."""
    cdef Py_ssize_t first = 0, count
    while first < rows:
        count = min(rows - first, <Py_ssize_t>GROUP_ROWS)
        run_group(layer, shapes, data, first, count, scratch)
        first += count
