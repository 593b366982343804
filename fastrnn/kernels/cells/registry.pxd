"""The recurrent cells: what one step does with the sums that the products leave.

A cell is a file of this folder. It says what the loops have to know of it (`traits`), and what becomes of the sums `z`
of one row and one vector of units (`finish`): z holds them gate by gate, `gate` numbers apart, and `at` is where the
units stand in the arrays of the state. With fewer units than a vector has lanes the lanes beyond them compute on their
neighbours' numbers, and nothing reads what comes of it. To add a cell, write its file and enter it below, in the five
places that end in "# each cell". Loops, masks, directions and products are the same for all cells.
"""
from fastrnn.kernels.cells cimport gru, gru_reset_before, lstm, simple_rnn  # each cell
from fastrnn.kernels.layers cimport SIGMOID, TANH, Cell, CellTraits, State
from fastrnn.kernels.simd cimport LANES, real

cdef enum CellKind:
    SIMPLE_RNN
    LSTM
    GRU
    GRU_RESET_BEFORE
    N_CELLS              # each cell, before this one


cdef inline CellTraits traits_of(int kind) noexcept nogil:
    if kind == SIMPLE_RNN:
        return simple_rnn.traits()
    if kind == LSTM:
        return lstm.traits()
    if kind == GRU:
        return gru.traits()
    return gru_reset_before.traits()  # each cell


cdef inline void finish(
    int kind, int phase, int activation, int recurrent, const real* zx, const real* zh, Py_ssize_t gate,
    const State* state, Py_ssize_t at,
) noexcept nogil:
    """A cell's part of a step; `zx` holds x @ kernel of a phase that keeps it apart."""
    if kind == SIMPLE_RNN:
        simple_rnn.finish(activation, zh, state, at)
    elif kind == LSTM:
        lstm.finish(activation, recurrent, zh, gate, state, at)
    elif kind == GRU:
        gru.finish(activation, recurrent, zx, zh, gate, state, at)
    elif phase == 0:
        gru_reset_before.finish_gates(recurrent, zh, gate, state, at)
    else:
        gru_reset_before.finish_candidate(activation, zh, state, at)  # each cell


cdef inline void finish_rows(
    int kind, int phase, int activation, int recurrent, int rows, const Py_ssize_t* row_numbers, int units,
    Py_ssize_t first_unit, const real** zx, const real** zh, const State* state,
) noexcept nogil:
    """`finish` for `rows` rows and `units` units; with constants in front only one cell's arithmetic is left."""
    cdef int r, u
    for r in range(rows):
        u = 0
        while u < units:
            finish(kind, phase, activation, recurrent, zx[r] + u, zh[r] + u, units, state,
                   row_numbers[r] * state.stride + first_unit + u)
            u += LANES


cdef inline void finish_tile(
    const Cell* cell, int phase, int rows, const Py_ssize_t* row_numbers, int units, Py_ssize_t first_unit,
    const real** zx, const real** zh, const State* state,
) noexcept nogil:
    """The cell's part of a step. Keras's default activations are compiled in; others are chosen inside the loops."""
    cdef int kind = cell.kind
    if cell.activation != TANH or (cell.recurrent_activation != SIGMOID and kind != SIMPLE_RNN):
        finish_rows(kind, phase, cell.activation, cell.recurrent_activation, rows, row_numbers, units, first_unit,
                    zx, zh, state)
    elif kind == LSTM:  # each cell, also below
        finish_rows(LSTM, 0, TANH, SIGMOID, rows, row_numbers, units, first_unit, zx, zh, state)
    elif kind == GRU:
        finish_rows(GRU, 0, TANH, SIGMOID, rows, row_numbers, units, first_unit, zx, zh, state)
    elif kind == SIMPLE_RNN:
        finish_rows(SIMPLE_RNN, 0, TANH, SIGMOID, rows, row_numbers, units, first_unit, zx, zh, state)
    elif phase == 0:
        finish_rows(GRU_RESET_BEFORE, 0, TANH, SIGMOID, rows, row_numbers, units, first_unit, zx, zh, state)
    else:
        finish_rows(GRU_RESET_BEFORE, 1, TANH, SIGMOID, rows, row_numbers, units, first_unit, zx, zh, state)
