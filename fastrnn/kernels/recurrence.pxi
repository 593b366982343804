# The loop over time, written once for every cell: direction, masks, initial and final states, sequences.

cdef struct Recurrence:
    Cell cell
    bint return_sequences
    bint go_backwards
    bint zero_output_for_mask
    LaneCosts costs
    const real* table    # (n, width), x @ kernel + bias of every x there is, or NULL
    # Numbers of buffers, NONE where there is none. Shapes of one row: x (steps, features) or, with a table, (steps,) of
    # its rows' numbers, mask (steps,) of bytes, states (units,), y (steps, units) or (units,).
    int x
    int mask
    int initial[2]
    int y
    int final[2]

cdef struct Workspace:
    # What the threads of a team share.
    State state
    real* projected      # (rows, hoisted steps, width), x @ kernel + bias for some steps ahead
    Py_ssize_t hoisted_steps
    Py_ssize_t projected_width
    char* started        # rows that the mask has let through so far; the leader of a team keeps it
    Operands x           # for narrow weights: rows of x, of the hoisted steps or of one
    Operands h           # and of what the recurrent product is of
    # A thread's own.
    const real** ahead   # each row's x @ kernel + bias at this step, where it is computed ahead
    real* zx             # (ROWS_OF_BLOCK, panel width), x @ kernel where it is apart
    real* zh             # (ROWS_OF_BLOCK, panel width), sums
    Py_ssize_t* active   # rows that the mask lets through, this step

cdef struct Share:
    # The part of a phase's panels that a thread computes, and the units of it.
    int first_panel
    int last_panel
    Py_ssize_t first_unit
    Py_ssize_t n_units


cdef Share share_of(const Panels* cut, const Member* member) noexcept nogil:
    cdef Share share
    share.first_panel, share.last_panel = 0, cut.n_panels
    if member.size > 1:
        share.first_panel = cut.n_panels * member.number // member.size
        share.last_panel = cut.n_panels * (member.number + 1) // member.size
    share.first_unit = share.first_panel * <Py_ssize_t>cut.units
    share.n_units = (share.last_panel - share.first_panel) * <Py_ssize_t>cut.units
    if share.last_panel == cut.n_panels:
        share.n_units += cut.last_units - cut.units
    return share


cdef inline void copy_numbers(real* out, const real* numbers, Py_ssize_t n) noexcept nogil:
    """out = numbers, which are few: sooner done than memcpy is called."""
    cdef Py_ssize_t i = 0
    while i + LANES <= n:
        store(out + i, load(numbers + i))
        i += LANES
    while i < n:
        out[i] = numbers[i]
        i += 1


cdef struct Bump:
    # Hands out parts of a block, each on a cache line of its own; with no block it only counts.
    char* base
    size_t used


cdef inline void* cache_line(void* address) noexcept nogil:
    return <void*>((<size_t>address + 63) // 64 * 64)


cdef void* take(Bump* bump, size_t size) noexcept nogil:
    cdef size_t start = bump.used
    bump.used += (size + 63) // 64 * 64
    return bump.base + start if bump.base != NULL else NULL


cdef Py_ssize_t steps_to_hoist(const Cell* cell, Py_ssize_t rows, Py_ssize_t steps, Py_ssize_t width) noexcept nogil:
    """For how many steps at a time x @ kernel is computed ahead of the recurrence; 0: inside each step's own tiles.

    Ahead, a panel of the kernel is read once for TILE_ROWS steps. Inside a step it is read once for TILE_ROWS rows
    of the batch, and the product passes through no memory: better as soon as the batch fills a tile, or when there
    are so few features that the kernel is a few rows on top of the recurrent one.
    """
    if rows >= TILE_ROWS or cell.features <= FEATURES_TO_FUSE or steps == 1:
        return 0
    cdef Py_ssize_t affordable = PROJECTED_BYTES // (
        rows * (width * <Py_ssize_t>sizeof(real) + cell.phases[0].narrow_kernel.words * 4))
    return min(steps, max(affordable // TILE_ROWS * TILE_ROWS, 4 * TILE_ROWS))


cdef void lay_out_operands(Operands* operands, const Narrow* narrow, Py_ssize_t rows, Bump* bump) noexcept nogil:
    cdef bint unused = narrow.precision == FULL
    operands.stride = narrow.words * sizeof(int32_t)
    operands.words = <char*>take(bump, 0 if unused else rows * operands.stride)
    operands.scales = <real*>take(bump, rows * sizeof(real) if narrow.precision == INT8 else 0)


cdef Workspace lay_out(const Recurrence* layer, Py_ssize_t rows, Py_ssize_t steps, Bump* bump) noexcept nogil:
    cdef const Cell* cell = &layer.cell
    cdef Workspace work
    cdef size_t state_size
    cdef int phase
    work.state.stride = (cell.units + LANES - 1) // LANES * LANES
    state_size = rows * work.state.stride * sizeof(real)
    work.state.h = <real*>take(bump, state_size)
    work.state.h_next = <real*>take(bump, state_size)
    work.state.c = <real*>take(bump, state_size if cell.kind == LSTM else 0)
    work.state.update = <real*>take(bump, state_size if cell.kind == GRU_RESET_BEFORE else 0)
    work.state.reset_h = <real*>take(bump, state_size if cell.kind == GRU_RESET_BEFORE else 0)
    work.ahead, work.zx, work.zh, work.active = NULL, NULL, NULL, NULL
    work.projected_width = 0
    for phase in range(cell.n_phases):
        work.projected_width += cell.phases[phase].kernel.cut.total
    work.hoisted_steps = 0 if layer.table != NULL else steps_to_hoist(cell, rows, steps, work.projected_width)
    work.projected = <real*>take(
        bump, (rows * work.hoisted_steps * work.projected_width + TILE_VECTORS * LANES) * sizeof(real))
    work.started = <char*>take(bump, rows if layer.mask != NONE else 0)
    lay_out_operands(&work.x, &cell.phases[0].narrow_kernel, rows * max(work.hoisted_steps, 1), bump)
    lay_out_operands(&work.h, &cell.phases[0].narrow_recurrent, rows, bump)
    return work


cdef void project_ahead(
    const Cell* cell, Workspace* work, Member* member, Py_ssize_t rows, real* x, Py_ssize_t steps,
    Py_ssize_t first, Py_ssize_t count,
) noexcept nogil:
    """x @ kernel + bias of the steps first, ..., first + count - 1 of every row, phase beside phase."""
    cdef Py_ssize_t row, offset
    cdef Share share
    cdef int phase
    if cell.phases[0].narrow_kernel.precision != FULL:
        project_narrow_ahead(cell, work, member, rows, x, steps, first, count)
        return
    for row in range(rows):
        offset = 0
        for phase in range(cell.n_phases):
            share = share_of(&cell.phases[phase].kernel.cut, member)
            project(&cell.phases[phase].kernel, share.first_panel, share.last_panel, count,
                    x + (row * steps + first) * cell.features, cell.features,
                    work.projected + row * work.hoisted_steps * work.projected_width + offset, work.projected_width)
            offset += cell.phases[phase].kernel.cut.total


cdef void project_narrow_ahead(
    const Cell* cell, Workspace* work, Member* member, Py_ssize_t rows, real* x, Py_ssize_t steps,
    Py_ssize_t first, Py_ssize_t count,
) noexcept nogil:
    """`project_ahead` by narrow kernels. Threads share the rounding of x, and meet before they multiply."""
    cdef const Phase* phase
    cdef const Panels* cut
    cdef const real* start[TILE_ROWS]
    cdef Py_ssize_t row_numbers[TILE_ROWS]
    cdef Py_ssize_t row, i, offset = 0, width = work.projected_width
    cdef int p, panel, n, r
    cdef Share share
    cdef Factor factor, none = no_factor()
    for row in range(rows):
        i = member.number
        while i < count:
            narrow_row(cell.phases[0].narrow_kernel.precision, x + (row * steps + first + i) * cell.features,
                       cell.features, 0, cell.features, &work.x, row * work.hoisted_steps + i, True)
            i += member.size
    meet(member)
    for p in range(cell.n_phases if member.size else 0):
        phase = &cell.phases[p]
        cut = &phase.kernel.cut
        share = share_of(cut, member)
        for panel in range(share.first_panel, share.last_panel):
            for r in range(TILE_ROWS):
                start[r] = phase.kernel.bias + panel * cut.width
            for row in range(rows):
                i = 0
                while i < count:
                    n = rows_of_tile(count, i)
                    for r in range(n):
                        row_numbers[r] = row * work.hoisted_steps + i + r
                    factor = factor_of(&phase.narrow_kernel, cut, panel, &work.x, n, row_numbers)
                    multiply_narrow(&phase.narrow_kernel, n, panel_width(cut, panel), start, &none, &factor,
                                    work.projected + row_numbers[0] * width + offset + panel * cut.width, width)
                    i += n
        offset += cut.total


cdef void narrow_operands(
    const Cell* cell, int p, Workspace* work, const Member* member, Py_ssize_t n_active, real* x, Py_ssize_t x_stride,
    bint ahead,
) noexcept nogil:
    """A thread's share of what the products of a phase are of, for narrow weights: once a step, and not for each panel.

    It takes the units of the state that it computes, and the rows of x in turn.
    """
    cdef const Phase* phase = &cell.phases[p]
    cdef Share share = share_of(&phase.recurrent.cut, member)
    cdef real* h = work.state.reset_h if phase.of_reset_state else work.state.h
    cdef Py_ssize_t i, row
    for i in range(n_active):
        row = work.active[i]
        narrow_row(phase.narrow_recurrent.precision, h + row * work.state.stride, cell.units, share.first_unit,
                   share.n_units, &work.h, row, member.number == 0)
        if p == 0 and not ahead and phase.narrow_kernel.precision != FULL and i % member.size == member.number:
            narrow_row(phase.narrow_kernel.precision, x + row * x_stride, cell.features, 0, cell.features, &work.x,
                       row, True)


cdef void multiply_narrow_rows(
    const Phase* phase, const Workspace* work, int panel, Py_ssize_t rows, const Py_ssize_t* row_numbers,
    const real** start, const real** recurrent_start, real** x, Py_ssize_t x_depth, Py_ssize_t h_depth,
) noexcept nogil:
    """The products of one panel that `step_cell` needs, by narrow weights; a depth of 0 leaves one out."""
    cdef const Panels* cut = &phase.recurrent.cut
    cdef Py_ssize_t offset = panel * cut.width, width = panel_width(cut, panel), first = 0
    cdef bint x_is_narrow = x_depth and phase.narrow_kernel.precision != FULL
    cdef bint together = x_is_narrow and phase.narrow_kernel.precision == phase.narrow_recurrent.precision and (
        not phase.apart)
    cdef const real* begin[TILE_ROWS]
    cdef Factor of_x = no_factor(), of_h, none = no_factor()
    cdef real* x_out
    cdef int r, count
    while first < rows:
        count = rows_of_tile(rows, first)
        x_out = (work.zx if phase.apart else work.zh) + first * width
        of_h = factor_of(&phase.narrow_recurrent, cut, panel, &work.h, count, row_numbers + first)
        if h_depth == 0:
            of_h.words = 0
        for r in range(count):
            begin[r] = start[first + r] + offset
        if x_is_narrow:
            of_x = factor_of(&phase.narrow_kernel, cut, panel, &work.x, count, row_numbers + first)
            if not together:
                multiply_narrow(&phase.narrow_kernel, count, width, begin, &none, &of_x, x_out, width)
        elif x_depth:
            multiply_tile(count, width, begin, 0, x + first, 0, NULL, x + first, 0, x_depth,
                          phase.kernel.panels + offset * x_depth, x_out, width)
        for r in range(count):
            if phase.apart:
                begin[r] = recurrent_start[first + r] + offset
            elif x_depth and not together:
                begin[r] = x_out + r * width
        multiply_narrow(&phase.narrow_recurrent, count, width, begin, &of_x if together else &none, &of_h,
                        work.zh + first * width, width)
        first += count


cdef inline void step_cell(
    const Cell* cell, Workspace* work, Member* member, Py_ssize_t n_active, real* x, Py_ssize_t x_stride,
    bint ahead, bint from_zeros, bint from_last_panel,
) noexcept nogil:
    """One step of the active rows, a thread's share of it: all of it for a thread that works alone.

    x points at this step of row 0, or, with `ahead`, work.ahead holds its product. The product with a state of zeros is
    left out: LSTM(650) over one step takes a quarter of the time. Steps that start from the first and from the last
    panel in turn find the panels read last still in the cache.
    """
    cdef const Phase* phase
    cdef const Panels* cut
    cdef const State* state = &work.state
    cdef const real* start[ROWS_OF_BLOCK]
    cdef const real* recurrent_start[ROWS_OF_BLOCK]
    cdef real* x_rows[ROWS_OF_BLOCK]
    cdef real* h_rows[ROWS_OF_BLOCK]
    cdef real* zx[ROWS_OF_BLOCK]
    cdef real* zh[ROWS_OF_BLOCK]
    cdef real* h
    cdef real* x_panel
    cdef real* h_panel
    cdef Py_ssize_t x_depth = 0 if ahead else cell.features, h_depth = 0 if from_zeros else cell.units
    cdef Py_ssize_t first, count, offset, width, row, r, of_phase = 0
    cdef int p, i, panel
    cdef Share share
    for p in range(cell.n_phases):
        if p > 0:
            meet(member)
            if member.size == 0:
                return
        phase = &cell.phases[p]
        cut = &phase.recurrent.cut
        h = state.reset_h if phase.of_reset_state else state.h
        if phase.narrow_recurrent.precision != FULL:
            narrow_operands(cell, p, work, member, n_active, x, x_stride, ahead)
            meet(member)
            if member.size == 0:
                return
        share = share_of(cut, member)
        first = 0
        while first < n_active:
            count = min(n_active - first, ROWS_OF_BLOCK)
            for r in range(count):
                row = work.active[first + r]
                start[r] = work.ahead[row] + of_phase if ahead else phase.kernel.bias
                recurrent_start[r] = phase.recurrent.bias
                x_rows[r] = x + row * x_stride
                h_rows[r] = h + row * state.stride
            for i in range(share.last_panel - share.first_panel):
                panel = share.last_panel - 1 - i if from_last_panel else share.first_panel + i
                offset = panel * cut.width
                width = panel_width(cut, panel)
                x_panel = phase.kernel.panels + offset * cell.features
                h_panel = phase.recurrent.panels + offset * cell.units
                for r in range(count):
                    zx[r] = <real*>start[r] + offset if ahead else work.zx + r * width
                    zh[r] = work.zh + r * width
                if phase.narrow_recurrent.precision != FULL:
                    multiply_narrow_rows(phase, work, panel, count, work.active + first, start, recurrent_start,
                                         x_rows, x_depth, h_depth)
                elif not phase.apart:
                    multiply_rows(count, width, start, offset, x_rows, x_depth, x_panel, h_rows, h_depth, h_panel,
                                  work.zh, width)
                else:
                    multiply_rows(count, width, recurrent_start, offset, x_rows, 0, NULL, h_rows, h_depth, h_panel,
                                  work.zh, width)
                    if not ahead:
                        multiply_rows(count, width, start, offset, x_rows, 0, NULL, x_rows, x_depth, x_panel,
                                      work.zx, width)
                finish_tile(cell, p, <int>count, work.active + first, panel_units(cut, panel), panel * cut.units,
                            zx, zh, state)
            first += count
        of_phase += phase.kernel.cut.total


cdef bint steps_in_place(const Recurrence* layer) noexcept nogil:
    """Whether one step can go from the buffers of the initial states to those of the final ones, past the workspace.

    Rows of whole vectors can. It saves a tenth: 10,000 streams of LSTM(64) take 5.26 ms and not 5.84.
    """
    cdef int number
    for number in range(2 if layer.cell.kind == LSTM else 1):
        if layer.initial[number] == NONE or layer.final[number] == NONE:
            return False
    return layer.cell.units % LANES == 0


cdef void run_recurrence(
    const Recurrence* layer, const Shape* shapes, char** data, Py_ssize_t rows, char* scratch, Member* member,
) noexcept nogil:
    """The whole sequence; `member` says which part of each step is this thread's."""
    cdef const Cell* cell = &layer.cell
    cdef const Panels* last_cut = &cell.phases[cell.n_phases - 1].recurrent.cut
    cdef Py_ssize_t steps = shapes[layer.x].dims[0], units = cell.units, features = cell.features
    cdef Bump bump = Bump(scratch, 0)
    cdef Workspace work = lay_out(layer, rows, steps, &bump)
    cdef State* state = &work.state
    cdef real* x = <real*>data[layer.x]
    cdef real* y = <real*>data[layer.y] if layer.y != NONE else NULL
    cdef char* mask = data[layer.mask] if layer.mask != NONE else NULL
    cdef Py_ssize_t step = 0, t, row, n_active = rows, first_hoisted
    cdef size_t part_of_row
    cdef bint passed, in_place = steps == 1 and steps_in_place(layer)
    cdef real* out
    cdef Share share
    # On cache lines. A cell reads whole vectors from where a gate starts, so past the last gate of a narrow panel.
    cdef vec zx[ROWS_OF_BLOCK * TILE_VECTORS + TILE_VECTORS + 1]
    cdef vec zh[ROWS_OF_BLOCK * TILE_VECTORS + TILE_VECTORS + 1]
    cdef const real* ahead[ROWS_AT_ONCE]
    cdef Py_ssize_t active[ROWS_AT_ONCE]
    work.zx, work.zh = <real*>cache_line(zx), <real*>cache_line(zh)
    work.ahead, work.active = ahead, active

    for row in range(rows):
        work.active[row] = row
    if member.number == 0:
        if in_place:
            state.h, state.h_next = <real*>data[layer.initial[0]], <real*>data[layer.final[0]]
            if cell.kind == LSTM:
                state.c = <real*>data[layer.final[1]]
                memcpy(state.c, data[layer.initial[1]], rows * units * sizeof(real))
        else:
            load_states(layer, data, rows, state)
        if mask != NULL:
            memset(work.started, 0, <size_t>rows)
    else:
        step = await_start(member)
        if step < 0:
            return
        if step & 1:
            state.h, state.h_next = state.h_next, state.h
    while step < steps:
        if member.number == 0:
            gather(member, step)
        t = steps - 1 - step if layer.go_backwards else step
        if work.hoisted_steps:
            first_hoisted = step - step % work.hoisted_steps
            if layer.go_backwards:
                first_hoisted = max(steps - first_hoisted - work.hoisted_steps, 0)
            if step % work.hoisted_steps == 0:
                project_ahead(cell, &work, member, rows, x, steps, first_hoisted,
                              min(work.hoisted_steps, steps - step))
                if member.size == 0:
                    return
            for row in range(rows):
                work.ahead[row] = work.projected + (
                    row * work.hoisted_steps + t - first_hoisted) * work.projected_width
        elif layer.table != NULL:
            for row in range(rows):
                work.ahead[row] = layer.table + work.projected_width * index_at(
                    data[layer.x], shapes[layer.x].type, row * steps + t)
        if mask != NULL:
            n_active = 0
            for row in range(rows):
                if mask[row * steps + t]:
                    work.active[n_active] = row
                    n_active += 1
        step_cell(cell, &work, member, n_active, x + t * features, steps * features,
                  layer.table != NULL or work.hoisted_steps > 0,
                  step == 0 and layer.initial[0] == NONE, step & 1)
        if member.size == 0:
            return
        share = share_of(last_cut, member)
        part_of_row = share.n_units * sizeof(real)
        if mask != NULL:
            for row in range(rows):
                if not mask[row * steps + t]:
                    memcpy(state.h_next + row * state.stride + share.first_unit,
                           state.h + row * state.stride + share.first_unit, part_of_row)
                elif member.number == 0:
                    work.started[row] = 1
        state.h, state.h_next = state.h_next, state.h
        if y != NULL and (layer.return_sequences or step == steps - 1):
            for row in range(rows):
                out = y + (row * steps + step if layer.return_sequences else row) * units + share.first_unit
                # Keras: a masked step repeats the output before it, and there is none before a row's first step.
                passed = mask == NULL or mask[row * steps + t] or (
                    work.started[row] and not layer.zero_output_for_mask)
                if passed:
                    copy_numbers(out, state.h + row * state.stride + share.first_unit, share.n_units)
                else:
                    memset(out, 0, part_of_row)
        if member.size > 1:
            meet(member)
            if member.size == 0:
                return
        step += 1
    if member.number > 0:
        return
    dismiss(member)
    for row in range(0 if in_place else rows):
        if layer.final[0] != NONE:
            memcpy(<real*>data[layer.final[0]] + row * units, state.h + row * state.stride, units * sizeof(real))
        if layer.final[1] != NONE:
            memcpy(<real*>data[layer.final[1]] + row * units, state.c + row * state.stride, units * sizeof(real))


cdef object project_table(const Cell* cell, object table, object kernel, object bias):
    """table @ kernel + bias in panel order, phase beside phase, with room for reading past the last gate."""
    split = [0, 2 * cell.units, 3 * cell.units] if cell.kind == GRU_RESET_BEFORE else [0, kernel.shape[1]]
    product = table.astype(np.float64) @ kernel.astype(np.float64)
    if bias is not None:
        product += bias
    columns = [to_panel_columns(&cell.phases[phase].kernel.cut, product[:, split[phase]:split[phase + 1]])
               for phase in range(cell.n_phases)]
    width = sum(part.shape[1] for part in columns)
    projected = aligned_zeros(len(table) * width + TILE_VECTORS * LANES)
    projected[:len(table) * width] = np.concatenate(columns, axis=1).ravel()
    return projected


cdef void load_states(const Recurrence* layer, char** data, Py_ssize_t rows, State* state) noexcept nogil:
    """The initial states, or zeros."""
    cdef Py_ssize_t row, units = layer.cell.units
    cdef int number
    cdef real* target
    for number in range(2 if layer.cell.kind == LSTM else 1):
        target = state.h if number == 0 else state.c
        memset(target, 0, rows * state.stride * sizeof(real))
        if layer.initial[number] != NONE:
            for row in range(rows):
                memcpy(target + row * state.stride, <real*>data[layer.initial[number]] + row * units,
                       units * sizeof(real))
