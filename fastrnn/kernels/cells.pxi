# The recurrent cells: what one step does with the sums that the products leave.
#
# To add a cell: give it a name in `CellKind` and CELLS, say in `prepare_cell` how many gates each of its phases has,
# write its `..._lanes` for one vector of units, and call that in `finish_lanes`. The loop over time, masks, directions
# and the products are the same for all cells (recurrence.pxi).
#
# A phase is one product of the whole layer: z = x @ kernel + h @ recurrent_kernel. A GRU with reset_after=False has
# two, since its candidate needs r * h of all units.

cdef enum CellKind:
    SIMPLE_RNN
    LSTM
    GRU                  # reset_after=True
    GRU_RESET_BEFORE

CELLS = {"simple_rnn": SIMPLE_RNN, "lstm": LSTM, "gru": GRU, "gru_reset_before": GRU_RESET_BEFORE}

cdef struct Phase:
    Weights kernel
    Weights recurrent
    Narrow narrow_kernel     # instead of the panels of the two, where it is there
    Narrow narrow_recurrent
    Columns kernel_columns   # beside the panels of the two, where units are few
    Columns recurrent_columns
    bint apart           # whether x @ kernel and h @ recurrent_kernel are kept apart
    bint of_reset_state  # whether the recurrent product is of r * h instead of h

cdef struct Cell:
    int kind
    int activation
    int recurrent_activation
    Py_ssize_t units
    Py_ssize_t features
    int n_phases
    Phase phases[2]

cdef struct State:
    # Each (rows, stride), stride a multiple of LANES: a cell may write a whole vector past its last unit.
    Py_ssize_t stride
    real* h              # the state a step starts from
    real* h_next         # the state it ends with
    real* c              # LSTM's carry, in place
    real* update         # GRU_RESET_BEFORE: z, and r * h, between its phases
    real* reset_h


cdef object prepare_phase(
    Phase* phase, object kernel, object recurrent_kernel, object bias, object recurrent_bias, int gates,
    bint apart, bint of_reset_state, int precision, bint portable,
):
    cdef int of_kernel = FULL if precision == FULL or len(kernel) <= FEATURES_TO_FUSE else BFLOAT16
    phase.apart = apart
    phase.of_reset_state = of_reset_state
    alive = (
        prepare_weights(&phase.kernel, kernel if of_kernel == FULL else kernel[:0], bias, gates),
        prepare_weights(&phase.recurrent, recurrent_kernel if precision == FULL else recurrent_kernel[:0],
                        recurrent_bias, gates),
    )
    if precision == FULL and len(recurrent_kernel) <= UNITS_FOR_LANES and len(kernel) <= DEPTH_AT_ONCE:
        alive = (*alive, prepare_columns(&phase.kernel_columns, kernel, bias, gates),
                 prepare_columns(&phase.recurrent_columns, recurrent_kernel, recurrent_bias, gates))
    return (*alive, prepare_narrow(&phase.narrow_kernel, &phase.kernel.cut, kernel, of_kernel, portable),
            prepare_narrow(&phase.narrow_recurrent, &phase.recurrent.cut, recurrent_kernel, precision, portable))


cdef object prepare_cell(
    Cell* cell, int kind, object kernel, object recurrent_kernel, object bias, object recurrent_bias,
    int activation, int recurrent_activation, int precision, bint portable,
):
    """Fill `cell` from weights in Keras's layout; returns what has to be kept alive for it.

    In a narrow `precision` the recurrent kernel has it, and the kernel is of bfloat16: inputs of a layer may be of any
    size beside each other, as int8 cannot be. With few features it stays as it is, and costs next to nothing.
    """
    cell.kind = kind
    cell.activation = activation
    cell.recurrent_activation = recurrent_activation
    cell.features = kernel.shape[0]
    cell.units = recurrent_kernel.shape[0]
    cell.n_phases = 2 if kind == GRU_RESET_BEFORE else 1
    if kind == GRU_RESET_BEFORE:
        split = 2 * cell.units
        bias = np.zeros(3 * cell.units, dtype=DTYPE) if bias is None else bias
        return (
            prepare_phase(&cell.phases[0], kernel[:, :split], recurrent_kernel[:, :split], bias[:split], None, 2,
                          False, False, precision, portable),
            prepare_phase(&cell.phases[1], kernel[:, split:], recurrent_kernel[:, split:], bias[split:], None, 1,
                          False, True, precision, portable),
        )
    gates = {SIMPLE_RNN: 1, LSTM: 4, GRU: 3}[kind]
    return prepare_phase(&cell.phases[0], kernel, recurrent_kernel, bias, recurrent_bias, gates, kind == GRU, False,
                         precision, portable)


# In the functions below z holds the sums of one row, gate by gate, `gate` numbers apart; with fewer units than a vector
# has lanes the lanes beyond them compute on their neighbours' numbers, and nothing reads what comes of it.

cdef inline void simple_rnn_lanes(int activation, const real* z, real* h_next) noexcept nogil:
    """h' = activation(z)."""
    store(h_next, activated(activation, load(z)))


cdef inline void lstm_lanes(
    int activation, int recurrent, const real* z, Py_ssize_t gate, real* c, real* h_next,
) noexcept nogil:
    """c' = f c + i g and h' = o activation(c'), with the gates i, f, g, o in Keras's order."""
    cdef vec input_gate = activated(recurrent, load(z))
    cdef vec forget_gate = activated(recurrent, load(z + gate))
    cdef vec candidate = activated(activation, load(z + 2 * gate))
    cdef vec output_gate = activated(recurrent, load(z + 3 * gate))
    cdef vec carry = forget_gate * load(c) + input_gate * candidate
    store(c, carry)
    store(h_next, output_gate * activated(activation, carry))


cdef inline void gru_lanes(
    int activation, int recurrent, const real* zx, const real* zh, Py_ssize_t gate, const real* h, real* h_next,
) noexcept nogil:
    """h' = z h + (1 - z) activation(xh + r hh), with the gates z, r, h in Keras's order, reset_after=True."""
    cdef vec update = activated(recurrent, add(load(zx), load(zh)))
    cdef vec reset = activated(recurrent, add(load(zx + gate), load(zh + gate)))
    cdef vec candidate = activated(activation, load(zx + 2 * gate) + reset * load(zh + 2 * gate))
    store(h_next, update * load(h) + (<real>1 - update) * candidate)


cdef inline void gru_gates_lanes(
    int recurrent, const real* z, Py_ssize_t gate, const real* h, real* update, real* reset_h,
) noexcept nogil:
    """The gates z and r h of a GRU with reset_after=False."""
    store(update, activated(recurrent, load(z)))
    store(reset_h, activated(recurrent, load(z + gate)) * load(h))


cdef inline void gru_candidate_lanes(
    int activation, const real* z, const real* h, const real* update, real* h_next,
) noexcept nogil:
    """h' = z h + (1 - z) activation(candidate) of a GRU with reset_after=False."""
    cdef vec candidate = activated(activation, load(z))
    store(h_next, load(update) * load(h) + (<real>1 - load(update)) * candidate)


cdef inline void finish_lanes(
    int kind, int phase, int activation, int recurrent, int rows, const Py_ssize_t* row_numbers, int units,
    Py_ssize_t first_unit, real** zx, real** zh, const State* state,
) noexcept nogil:
    """One cell's part of a step on the sums of `rows` rows and `units` units; `kind` and `phase` are constants."""
    cdef int r, u
    cdef Py_ssize_t at
    for r in range(rows):
        u = 0
        while u < units:
            at = row_numbers[r] * state.stride + first_unit + u
            if kind == SIMPLE_RNN:
                simple_rnn_lanes(activation, zh[r] + u, state.h_next + at)
            elif kind == LSTM:
                lstm_lanes(activation, recurrent, zh[r] + u, units, state.c + at, state.h_next + at)
            elif kind == GRU:
                gru_lanes(activation, recurrent, zx[r] + u, zh[r] + u, units, state.h + at, state.h_next + at)
            elif phase == 0:
                gru_gates_lanes(recurrent, zh[r] + u, units, state.h + at, state.update + at, state.reset_h + at)
            else:
                gru_candidate_lanes(activation, zh[r] + u, state.h + at, state.update + at, state.h_next + at)
            u += LANES


cdef inline void finish_tile(
    const Cell* cell, int phase, int rows, const Py_ssize_t* row_numbers, int units, Py_ssize_t first_unit,
    real** zx, real** zh, const State* state,
) noexcept nogil:
    """The cell's part of a step. Keras's default activations are compiled in; others are chosen inside the loops."""
    cdef int activation = cell.activation, recurrent = cell.recurrent_activation
    if activation == TANH and (recurrent == SIGMOID or cell.kind == SIMPLE_RNN):
        if cell.kind == LSTM:
            finish_lanes(LSTM, 0, TANH, SIGMOID, rows, row_numbers, units, first_unit, zx, zh, state)
        elif cell.kind == GRU:
            finish_lanes(GRU, 0, TANH, SIGMOID, rows, row_numbers, units, first_unit, zx, zh, state)
        elif cell.kind == SIMPLE_RNN:
            finish_lanes(SIMPLE_RNN, 0, TANH, SIGMOID, rows, row_numbers, units, first_unit, zx, zh, state)
        elif phase == 0:
            finish_lanes(GRU_RESET_BEFORE, 0, TANH, SIGMOID, rows, row_numbers, units, first_unit, zx, zh, state)
        else:
            finish_lanes(GRU_RESET_BEFORE, 1, TANH, SIGMOID, rows, row_numbers, units, first_unit, zx, zh, state)
    else:
        finish_lanes(cell.kind, phase, activation, recurrent, rows, row_numbers, units, first_unit, zx, zh, state)
