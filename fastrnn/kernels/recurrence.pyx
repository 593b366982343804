"""The recurrence with units in the lanes of vectors: the stepper of most layers, alone or in a team of threads."""
from libc.stdint cimport int32_t, uint8_t, uint16_t
from libc.string cimport memcpy, memset

from fastrnn.kernels.cells.registry cimport N_CELLS, finish_tile, traits_of
from fastrnn.kernels.layers cimport (
    ALWAYS, BFLOAT16, FROM_TABLE, FULL, HOISTED, IN_PLACE, INT8, MAX_STATES, NEVER, ROWS_IN_LANES, Cell, Kernel,
    Kernels, Narrow, Panels, Phase, Recurrence, Shape, State, Weights, factor_of_phase, panel_units, panel_width,
    takes_lanes,
)
from fastrnn.kernels.loop cimport Now, run_sequence
from fastrnn.kernels.panels cimport multiply_rows, multiply_tile, project, rows_of_tile
from fastrnn.kernels.simd cimport (
    LANES, REAL_BITS, TILE_ROWS, TILE_VECTORS, VECTOR_BYTES, from_whole, largest_magnitude, load, quantise, real,
    round_to_bfloat16, store,
)
from fastrnn.kernels.team cimport Member, await_start, dismiss, gather, join_team, meet
from fastrnn.kernels.tuning cimport FEATURES_TO_FUSE, NONE, PROJECTED_BYTES, ROWS_AT_ONCE, ROWS_OF_BLOCK
from fastrnn.kernels.workspace cimport CACHE_LINE, Bump, cache_line, index_at, take

cdef extern from "exports.h" nogil:
    void multiply_words "FASTRNN_LOCAL(multiply_words)"(
        int precision, bint native, int rows, Py_ssize_t width, const real** start,
        const real** x, Py_ssize_t x_words, const real* x_panel,
        const real** h, Py_ssize_t h_words, const real* h_panel, real* out, Py_ssize_t out_stride)
    # lanes.pyx
    size_t scratch_in_lanes "FASTRNN_LOCAL(scratch_in_lanes)"(const void* layer, const void* shapes, Py_ssize_t rows)
    void run_in_lanes "FASTRNN_LOCAL(run_in_lanes)"(
        const void* layer, const void* shapes, char** data, Py_ssize_t rows, char* scratch)

cdef struct Operands:
    # Rows of words to multiply narrow weights with.
    char* words          # (rows, stride in bytes)
    Py_ssize_t stride
    real* scales         # INT8: (rows,), what 1 stands for

cdef struct Workspace:
    # What the threads of a team share.
    State state
    real* projected      # (rows, hoisted steps, width), x @ kernel + bias for some steps ahead
    Py_ssize_t hoisted_steps
    Py_ssize_t projected_width
    Operands x           # for narrow weights: rows of x, of the hoisted steps or of one
    Operands h           # and of what the recurrent product is of

cdef struct Units:
    # The stepper: a thread's part of one layer's call.
    const Recurrence* layer
    Member* member
    Workspace work
    Py_ssize_t rows
    Py_ssize_t steps
    const char* x        # (rows, steps, features), or with a table (rows, steps) of numbers of its rows
    int x_type
    real* y
    # A thread's own.
    const real** ahead   # each row's x @ kernel + bias at this step, where it is computed ahead
    real* zx             # (ROWS_OF_BLOCK, panel width), x @ kernel where it is apart
    real* zh             # (ROWS_OF_BLOCK, panel width), sums
    Py_ssize_t* active   # rows that the mask lets through, this step
    Py_ssize_t n_active

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


# -- Workspace -----------------------------------------------------------------------------------------------------

cdef Py_ssize_t steps_to_hoist(
    const Recurrence* layer, Py_ssize_t rows, Py_ssize_t steps, Py_ssize_t width,
) noexcept nogil:
    """For how many steps at a time x @ kernel is computed ahead of the recurrence; 0: inside each step's own tiles.

    Ahead, a panel of the kernel is read once for TILE_ROWS steps. Inside a step it is read once for TILE_ROWS rows
    of the batch, and the product passes through no memory: better as soon as the batch fills a tile, or when there
    are so few features that the kernel is a few rows on top of the recurrent one.
    """
    cdef const Cell* cell = &layer.cell
    cdef bint fuses = rows >= TILE_ROWS or cell.features <= FEATURES_TO_FUSE or steps == 1
    if layer.table != NULL or cell.features == 0 or layer.forced.hoisting == NEVER:
        return 0
    if fuses and layer.forced.hoisting != ALWAYS:
        return 0
    cdef Py_ssize_t affordable = PROJECTED_BYTES // (
        rows * (width * <Py_ssize_t>sizeof(real) + cell.phases[0].narrow_kernel.words * 4))
    return min(steps, max(affordable // TILE_ROWS * TILE_ROWS, 4 * TILE_ROWS))


cdef void lay_out_operands(Operands* operands, const Narrow* narrow, Py_ssize_t rows, Bump* bump) noexcept nogil:
    cdef bint unused = narrow.precision == FULL
    operands.stride = narrow.words * sizeof(int32_t)
    operands.words = <char*>take(bump, 0 if unused else rows * operands.stride)
    operands.scales = <real*>take(bump, rows * sizeof(real) if narrow.precision == INT8 else 0)


cdef void lay_out(
    const Recurrence* layer, Py_ssize_t rows, Py_ssize_t steps, Bump* bump, Workspace* work,
) noexcept nogil:
    cdef const Cell* cell = &layer.cell
    cdef size_t state_size
    cdef int number
    work.state.stride = (cell.units + LANES - 1) // LANES * LANES
    state_size = rows * work.state.stride * sizeof(real)
    work.state.h = <real*>take(bump, state_size)
    work.state.h_next = <real*>take(bump, state_size)
    work.state.carry = <real*>take(bump, state_size if cell.traits.n_states > 1 else 0)
    for number in range(2):
        work.state.scratch[number] = <real*>take(bump, state_size if number < cell.traits.n_scratch else 0)
    work.projected_width = 0
    for number in range(cell.traits.n_phases):
        work.projected_width += cell.phases[number].kernel.cut.total
    work.hoisted_steps = steps_to_hoist(layer, rows, steps, work.projected_width)
    work.projected = <real*>take(
        bump, (rows * work.hoisted_steps * work.projected_width + TILE_VECTORS * LANES) * sizeof(real))
    lay_out_operands(&work.x, &cell.phases[0].narrow_kernel, rows * max(work.hoisted_steps, 1), bump)
    lay_out_operands(&work.h, &cell.phases[0].narrow_recurrent, rows, bump)


cdef void load_states(const Recurrence* layer, char** data, Py_ssize_t rows, State* state) noexcept nogil:
    """The initial states, or zeros."""
    cdef Py_ssize_t row, units = layer.cell.units
    cdef int number
    cdef real* target
    for number in range(layer.cell.traits.n_states):
        target = state.h if number == 0 else state.carry
        memset(target, 0, rows * state.stride * sizeof(real))
        if layer.sequence.initial[number] != NONE:
            for row in range(rows):
                memcpy(target + row * state.stride, <real*>data[layer.sequence.initial[number]] + row * units,
                       units * sizeof(real))


# -- Narrow weights ------------------------------------------------------------------------------------------------

cdef struct Factor:
    # One of the products in a tile: rows of words, and a panel of as many words.
    const real* rows[TILE_ROWS]
    Py_ssize_t words
    const real* panel
    # INT8: what 1 stands for in each row and column, and the words that sums start from.
    real row_scales[TILE_ROWS]
    const real* scales
    const real* offsets


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


cdef inline void find_factor(
    const Narrow* narrow, const Panels* cut, int panel, const Operands* operands, int rows,
    const Py_ssize_t* row_numbers, Factor* factor,
) noexcept nogil:
    """What one panel is multiplied with: the rows row_numbers[0], ..., row_numbers[rows - 1] of the operands."""
    cdef Py_ssize_t offset = panel * cut.width
    cdef int r
    factor.words = narrow.words
    factor.panel = narrow.panels + offset * narrow.words
    for r in range(rows):
        factor.rows[r] = <const real*>(operands.words + row_numbers[r] * operands.stride)
    if narrow.precision == INT8:
        factor.scales, factor.offsets = narrow.scales + offset, narrow.offsets + offset
        for r in range(rows):
            factor.row_scales[r] = operands.scales[row_numbers[r]]


cdef void multiply_narrow(
    const Narrow* narrow, int rows, Py_ssize_t width, const real** start, const Factor* x, const Factor* h, real* out,
    Py_ssize_t out_stride,
) noexcept nogil:
    """out[r] = start[r] + both products for up to TILE_ROWS rows. INT8 has no x; its sums are whole numbers at first.

    Without the CPU's dot products narrow numbers have two rows at most: unpacking takes the other registers.
    """
    cdef real whole[TILE_ROWS * TILE_VECTORS * LANES]
    cdef const real* offsets[TILE_ROWS]
    cdef int first = 0, count, r
    cdef Py_ssize_t i
    while first < rows:
        count = rows if narrow.native else min(rows - first, 2)
        if narrow.precision == BFLOAT16:
            multiply_words(BFLOAT16, narrow.native, count, width, start + first,
                           <const real**>x.rows + first, x.words, x.panel,
                           <const real**>h.rows + first, h.words, h.panel, out + first * out_stride,
                           out_stride)
        else:
            for r in range(count):
                offsets[r] = h.offsets
            multiply_words(INT8, narrow.native, count, width, offsets, NULL, 0, NULL,
                           <const real**>h.rows + first, h.words, h.panel, whole, width)
            for r in range(count):
                i = 0
                while i < width:
                    store(out + (first + r) * out_stride + i,
                          load(start[first + r] + i) + from_whole(load(whole + r * width + i)) * (
                              h.row_scales[first + r] * load(h.scales + i)))
                    i += LANES
        first += count


cdef void project_narrow_ahead(Units* units, Py_ssize_t first, Py_ssize_t count) noexcept nogil:
    """`project_ahead` by narrow kernels. Threads share the rounding of x, and meet before they multiply."""
    cdef const Cell* cell = &units.layer.cell
    cdef Workspace* work = &units.work
    cdef Member* member = units.member
    cdef const real* x = <const real*>units.x
    cdef const Weights* kernel
    cdef const Panels* cut
    cdef const real* start[TILE_ROWS]
    cdef Py_ssize_t row_numbers[TILE_ROWS]
    cdef Py_ssize_t row, i, offset = 0, width = work.projected_width
    cdef int p, panel, n, r
    cdef Share share
    cdef Factor factor, none
    memset(&none, 0, sizeof(none))
    for row in range(units.rows):
        i = member.number
        while i < count:
            narrow_row(cell.phases[0].narrow_kernel.precision, x + (row * units.steps + first + i) * cell.features,
                       cell.features, 0, cell.features, &work.x, row * work.hoisted_steps + i, True)
            i += member.size
    meet(member)
    for p in range(cell.traits.n_phases if member.size else 0):
        kernel = &cell.phases[p].kernel
        cut = &kernel.cut
        share = share_of(cut, member)
        for panel in range(share.first_panel, share.last_panel):
            for r in range(TILE_ROWS):
                start[r] = kernel.bias + panel * cut.width
            for row in range(units.rows):
                i = 0
                while i < count:
                    n = rows_of_tile(count, i)
                    for r in range(n):
                        row_numbers[r] = row * work.hoisted_steps + i + r
                    find_factor(&cell.phases[p].narrow_kernel, cut, panel, &work.x, n, row_numbers, &factor)
                    multiply_narrow(&cell.phases[p].narrow_kernel, n, panel_width(cut, panel), start, &none, &factor,
                                    work.projected + row_numbers[0] * width + offset + panel * cut.width, width)
                    i += n
        offset += cut.total


cdef void narrow_operands(Units* units, int p, const real* x, Py_ssize_t x_stride, bint ahead) noexcept nogil:
    """A thread's share of what the products of a phase are of, for narrow weights: once a step, and not for each panel.

    It takes the units of the state that it computes, and the rows of x in turn.
    """
    cdef const Cell* cell = &units.layer.cell
    cdef const Phase* phase = &cell.phases[p]
    cdef Workspace* work = &units.work
    cdef const Member* member = units.member
    cdef Share share = share_of(&phase.recurrent.cut, member)
    cdef const real* h = factor_of_phase(cell, p, &work.state)
    cdef Py_ssize_t i, row
    for i in range(units.n_active):
        row = units.active[i]
        narrow_row(phase.narrow_recurrent.precision, h + row * work.state.stride, cell.units, share.first_unit,
                   share.n_units, &work.h, row, member.number == 0)
        if p == 0 and not ahead and phase.narrow_kernel.precision != FULL and i % member.size == member.number:
            narrow_row(phase.narrow_kernel.precision, x + row * x_stride, cell.features, 0, cell.features, &work.x,
                       row, True)


cdef void multiply_narrow_rows(
    const Units* units, int p, int panel, Py_ssize_t rows, const Py_ssize_t* row_numbers,
    const real** start, const real** recurrent_start, const real** x, Py_ssize_t x_depth, Py_ssize_t h_depth,
) noexcept nogil:
    """The products of one panel that `step_cell` needs, by narrow weights; a depth of 0 leaves one out."""
    cdef const Phase* phase = &units.layer.cell.phases[p]
    cdef const Workspace* work = &units.work
    cdef const Panels* cut = &phase.recurrent.cut
    cdef Py_ssize_t offset = panel * cut.width, width = panel_width(cut, panel), first = 0
    cdef bint apart = units.layer.cell.traits.phases[p].apart
    cdef bint x_is_narrow = x_depth and phase.narrow_kernel.precision != FULL
    cdef bint together = x_is_narrow and phase.narrow_kernel.precision == phase.narrow_recurrent.precision and not apart
    cdef const real* begin[TILE_ROWS]
    cdef Factor of_x, of_h, none
    cdef real* x_out
    cdef int r, count
    memset(&none, 0, sizeof(none))
    memset(&of_x, 0, sizeof(of_x))
    while first < rows:
        count = rows_of_tile(rows, first)
        x_out = (units.zx if apart else units.zh) + first * width
        find_factor(&phase.narrow_recurrent, cut, panel, &work.h, count, row_numbers + first, &of_h)
        if h_depth == 0:
            of_h.words = 0
        for r in range(count):
            begin[r] = start[first + r] + offset
        if x_is_narrow:
            find_factor(&phase.narrow_kernel, cut, panel, &work.x, count, row_numbers + first, &of_x)
            if not together:
                multiply_narrow(&phase.narrow_kernel, count, width, begin, &none, &of_x, x_out, width)
        elif x_depth:
            multiply_tile(count, width, begin, 0, x + first, 0, NULL, x + first, 0, x_depth,
                          phase.kernel.panels + offset * x_depth, x_out, width)
        for r in range(count):
            if apart:
                begin[r] = recurrent_start[first + r] + offset
            elif x_depth and not together:
                begin[r] = x_out + r * width
        multiply_narrow(&phase.narrow_recurrent, count, width, begin, &of_x if together else &none, &of_h,
                        units.zh + first * width, width)
        first += count


# -- Steps ---------------------------------------------------------------------------------------------------------

cdef void project_ahead(Units* units, Py_ssize_t first, Py_ssize_t count) noexcept nogil:
    """x @ kernel + bias of the steps first, ..., first + count - 1 of every row, phase beside phase."""
    cdef const Cell* cell = &units.layer.cell
    cdef Workspace* work = &units.work
    cdef Py_ssize_t row, offset
    cdef Share share
    cdef int p
    if REAL_BITS == 32 and cell.phases[0].narrow_kernel.precision != FULL:
        project_narrow_ahead(units, first, count)
        return
    for row in range(units.rows):
        offset = 0
        for p in range(cell.traits.n_phases):
            share = share_of(&cell.phases[p].kernel.cut, units.member)
            project(&cell.phases[p].kernel, share.first_panel, share.last_panel, count,
                    <const real*>units.x + (row * units.steps + first) * cell.features, cell.features,
                    work.projected + row * work.hoisted_steps * work.projected_width + offset, work.projected_width)
            offset += cell.phases[p].kernel.cut.total


cdef void step_cell(
    Units* units, const real* x, Py_ssize_t x_stride, bint ahead, bint from_zeros, bint from_last_panel,
) noexcept nogil:
    """One step of the active rows, a thread's share of it: all of it for a thread that works alone.

    x points at this step of row 0, or, with `ahead`, units.ahead holds its product. The product with a state of zeros
    is left out: LSTM(650) over one step takes a quarter of the time. Steps that start from the first and from the last
    panel in turn find the panels read last still in the cache.
    """
    cdef const Cell* cell = &units.layer.cell
    cdef Member* member = units.member
    cdef const State* state = &units.work.state
    cdef const Phase* phase
    cdef const Panels* cut
    cdef const real* start[ROWS_OF_BLOCK]
    cdef const real* recurrent_start[ROWS_OF_BLOCK]
    cdef const real* x_rows[ROWS_OF_BLOCK]
    cdef const real* h_rows[ROWS_OF_BLOCK]
    cdef const real* zx[ROWS_OF_BLOCK]
    cdef const real* zh[ROWS_OF_BLOCK]
    cdef const real* h
    cdef const real* x_panel
    cdef const real* h_panel
    cdef Py_ssize_t x_depth = 0 if ahead else cell.features, h_depth = 0 if from_zeros else cell.units
    cdef Py_ssize_t first, count, offset, width, row, r, of_phase = 0
    cdef int p, i, panel
    cdef bint narrow, apart
    cdef Share share
    for p in range(cell.traits.n_phases):
        if p > 0:
            meet(member)
            if member.size == 0:
                return
        phase = &cell.phases[p]
        cut = &phase.recurrent.cut
        apart = cell.traits.phases[p].apart
        narrow = REAL_BITS == 32 and phase.narrow_recurrent.precision != FULL
        h = factor_of_phase(cell, p, state)
        if narrow:
            narrow_operands(units, p, x, x_stride, ahead)
            meet(member)
            if member.size == 0:
                return
        share = share_of(cut, member)
        first = 0
        while first < units.n_active:
            count = min(units.n_active - first, ROWS_OF_BLOCK)
            for r in range(count):
                row = units.active[first + r]
                start[r] = units.ahead[row] + of_phase if ahead else phase.kernel.bias
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
                    zx[r] = start[r] + offset if ahead else units.zx + r * width
                    zh[r] = units.zh + r * width
                if narrow:
                    multiply_narrow_rows(units, p, panel, count, units.active + first, start, recurrent_start,
                                         x_rows, x_depth, h_depth)
                elif not apart:
                    multiply_rows(count, width, start, offset, x_rows, x_depth, x_panel, h_rows, h_depth, h_panel,
                                  units.zh, width)
                else:
                    multiply_rows(count, width, recurrent_start, offset, x_rows, 0, NULL, h_rows, h_depth, h_panel,
                                  units.zh, width)
                    if not ahead:
                        multiply_rows(count, width, start, offset, x_rows, 0, NULL, x_rows, x_depth, x_panel,
                                      units.zx, width)
                finish_tile(cell, p, <int>count, units.active + first, panel_units(cut, panel), panel * cut.units,
                            zx, zh, state)
            first += count
        of_phase += phase.kernel.cut.total


cdef inline bint find_ahead(Units* units, const Now* now) noexcept nogil:
    """Find each row's x @ kernel + bias of this step, which was computed ahead or stands in a table; False if not."""
    cdef const Recurrence* layer = units.layer
    cdef Workspace* work = &units.work
    cdef Py_ssize_t row, first_step, count, first
    if layer.table != NULL:
        for row in range(units.rows):
            units.ahead[row] = layer.table + work.projected_width * index_at(
                units.x, units.x_type, row * units.steps + now.t)
        return True
    if work.hoisted_steps == 0:
        return False
    first_step = now.step - now.step % work.hoisted_steps
    count = min(work.hoisted_steps, units.steps - first_step)
    first = units.steps - first_step - count if layer.sequence.go_backwards else first_step
    if now.step == first_step:
        project_ahead(units, first, count)
    for row in range(units.rows):
        units.ahead[row] = work.projected + (row * work.hoisted_steps + now.t - first) * work.projected_width
    return True


cdef inline void copy_numbers(real* out, const real* numbers, Py_ssize_t n) noexcept nogil:
    """out = numbers, which are few: sooner done than memcpy is called."""
    cdef Py_ssize_t i = 0
    while i + LANES <= n:
        store(out + i, load(numbers + i))
        i += LANES
    while i < n:
        out[i] = numbers[i]
        i += 1


cdef bint make_step(void* stepper, const Now* now) noexcept nogil:
    cdef Units* units = <Units*>stepper
    cdef const Recurrence* layer = units.layer
    cdef Member* member = units.member
    cdef State* state = &units.work.state
    cdef Py_ssize_t row
    cdef bint ahead
    cdef Share share
    if member.number == 0:
        gather(member, now.step)
    ahead = find_ahead(units, now)
    if member.size == 0:
        return False
    if now.passes != NULL:
        units.n_active = 0
        for row in range(units.rows):
            if now.passes[row]:
                units.active[units.n_active] = row
                units.n_active += 1
    step_cell(units, <const real*>units.x + now.t * layer.cell.features, units.steps * layer.cell.features, ahead,
              now.step == 0 and layer.sequence.initial[0] == NONE, now.step & 1)
    if member.size == 0:
        return False
    if units.n_active < units.rows:
        share = share_of(&layer.cell.phases[layer.cell.traits.n_phases - 1].recurrent.cut, member)
        for row in range(units.rows):
            if not now.passes[row]:
                memcpy(state.h_next + row * state.stride + share.first_unit,
                       state.h + row * state.stride + share.first_unit, share.n_units * sizeof(real))
    state.h, state.h_next = state.h_next, state.h
    if member.size > 1:
        meet(member)
    return member.size > 0


cdef void write(void* stepper, const Now* now) noexcept nogil:
    """A thread's share of the outputs."""
    cdef Units* units = <Units*>stepper
    cdef const Recurrence* layer = units.layer
    cdef const State* state = &units.work.state
    cdef Py_ssize_t row, first_unit = 0, n_units = layer.cell.units
    cdef Share share
    cdef real* out
    if units.y == NULL:
        return
    if units.member.size > 1:
        share = share_of(&layer.cell.phases[layer.cell.traits.n_phases - 1].recurrent.cut, units.member)
        first_unit, n_units = share.first_unit, share.n_units
    for row in range(units.rows):
        out = units.y + (row * units.steps + now.step if layer.sequence.return_sequences else row) * layer.cell.units
        if now.shows == NULL or now.shows[row]:
            copy_numbers(out + first_unit, state.h + row * state.stride + first_unit, n_units)
        else:
            memset(out + first_unit, 0, n_units * sizeof(real))


cdef void run_units(
    const Recurrence* layer, const Shape* shapes, char** data, Py_ssize_t rows, char* scratch, Member* member,
) noexcept nogil:
    """The whole sequence; `member` says which part of each step is this thread's."""
    cdef Py_ssize_t steps = shapes[layer.sequence.x].dims[0], n_units = layer.cell.units, row, first_step = 0, sums
    cdef Bump bump = Bump(scratch, 0)
    cdef Units units
    cdef State* state = &units.work.state
    cdef bint in_place = layer.in_place and steps == 1
    cdef int number
    cdef real* final
    # On cache lines. A cell reads whole vectors from where a gate starts, so past the last gate of a narrow panel. What
    # it makes of that nobody reads, but it should be no number whose arithmetic is slow: GRU(2) took 1.6 us or 10 us
    # for 12 steps, by whether the stack held halves of addresses there, which are denormal numbers.
    cdef char zx[(ROWS_OF_BLOCK + 1) * TILE_VECTORS * VECTOR_BYTES + CACHE_LINE]
    cdef char zh[(ROWS_OF_BLOCK + 1) * TILE_VECTORS * VECTOR_BYTES + CACHE_LINE]
    cdef const real* ahead[ROWS_AT_ONCE]
    cdef Py_ssize_t active[ROWS_AT_ONCE]
    cdef char marks[3 * ROWS_AT_ONCE]
    lay_out(layer, rows, steps, &bump, &units.work)
    units.layer, units.member, units.rows, units.steps = layer, member, rows, steps
    units.x, units.x_type = data[layer.sequence.x], shapes[layer.sequence.x].type
    units.y = <real*>data[layer.sequence.y] if layer.sequence.y != NONE else NULL
    units.zx, units.zh = <real*>cache_line(zx), <real*>cache_line(zh)
    sums = min(rows, <Py_ssize_t>ROWS_OF_BLOCK) * layer.cell.phases[0].recurrent.cut.width + TILE_VECTORS * LANES
    memset(units.zx, 0, sums * sizeof(real))
    memset(units.zh, 0, sums * sizeof(real))
    units.ahead, units.active, units.n_active = ahead, active, rows
    for row in range(rows):
        active[row] = row
    if member.number == 0:
        if in_place:
            state.h = <real*>data[layer.sequence.initial[0]]
            state.h_next = <real*>data[layer.sequence.final[0]]
            if layer.cell.traits.n_states > 1:
                state.carry = <real*>data[layer.sequence.final[1]]
                memcpy(state.carry, data[layer.sequence.initial[1]], rows * n_units * sizeof(real))
        else:
            load_states(layer, data, rows, state)
    else:
        first_step = await_start(member)
        if first_step < 0:
            return
        if first_step & 1:
            state.h, state.h_next = state.h_next, state.h
    run_sequence(&layer.sequence, rows, steps, first_step,
                 data[layer.sequence.mask] if layer.sequence.mask != NONE else NULL, marks, &units, make_step, write)
    if member.number > 0:
        return
    dismiss(member)
    for number in range(0 if in_place else MAX_STATES):
        if layer.sequence.final[number] != NONE:
            final = <real*>data[layer.sequence.final[number]]
            for row in range(rows):
                memcpy(final + row * n_units, (state.h if number == 0 else state.carry) + row * state.stride,
                       n_units * sizeof(real))


# -- What the table has --------------------------------------------------------------------------------------------

cdef double share_of_ones(const char* mask, Py_ssize_t count) noexcept nogil:
    """Which part of the bytes of a mask are not 0."""
    cdef Py_ssize_t i, ones = 0
    for i in range(count):
        ones += mask[i] != 0
    return ones / <double>max(count, 1)


cdef bint rows_take_lanes(const Recurrence* layer, Py_ssize_t rows, double share) noexcept nogil:
    return takes_lanes(&layer.costs, layer.forced, LANES, rows, share)


cdef size_t scratch_of_recurrence(const void* pointer, const Shape* shapes, Py_ssize_t rows) noexcept nogil:
    cdef const Recurrence* layer = <const Recurrence*>pointer
    cdef Bump bump = Bump(NULL, 0)
    cdef Workspace work
    lay_out(layer, rows, shapes[layer.sequence.x].dims[0], &bump, &work)
    return max(bump.used, scratch_in_lanes(pointer, shapes, rows) if rows_take_lanes(layer, rows, 1) else 0)


cdef void run_recurrence(
    const void* pointer, const Shape* shapes, char** data, Py_ssize_t rows, char* scratch, int n_threads,
) noexcept nogil:
    cdef const Recurrence* layer = <const Recurrence*>pointer
    cdef int mask = layer.sequence.mask
    cdef Member alone
    if rows_take_lanes(layer, rows, 1) and (
            mask == NONE or rows_take_lanes(layer, rows, share_of_ones(data[mask], rows * shapes[mask].size))):
        run_in_lanes(layer, shapes, data, rows, scratch)
        return
    alone = join_team(NULL, 0)
    run_units(layer, shapes, data, rows, scratch, &alone)


cdef void run_member(
    const void* pointer, const Shape* shapes, char** data, Py_ssize_t rows, char* scratch, Member* member,
) noexcept nogil:
    run_units(<const Recurrence*>pointer, shapes, data, rows, scratch, member)


cdef int way_of_recurrence(const void* pointer, const Shape* shapes, Py_ssize_t rows) noexcept nogil:
    """As if no mask came."""
    cdef const Recurrence* layer = <const Recurrence*>pointer
    cdef Py_ssize_t steps = shapes[layer.sequence.x].dims[0]
    cdef int way = 0
    if layer.table != NULL:
        way |= FROM_TABLE
    if rows_take_lanes(layer, rows, 1):
        return way | ROWS_IN_LANES
    if layer.in_place and steps == 1:
        way |= IN_PLACE
    return way | (HOISTED if steps_to_hoist(layer, rows, steps, 1) else 0)


cdef public void fill "FASTRNN_LOCAL(fill_recurrence)"(void* table) noexcept nogil:
    cdef Kernels* kernels = <Kernels*>table
    kernels.n_cells, kernels.traits_of = N_CELLS, traits_of
    kernels.recurrence = Kernel(run_recurrence, scratch_of_recurrence, run_member, way_of_recurrence)
