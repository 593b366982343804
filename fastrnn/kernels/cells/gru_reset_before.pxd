"""GRU with reset_after=False: its candidate needs r h of all units, so it has a phase of its own."""
from fastrnn.kernels.activations cimport activated
from fastrnn.kernels.layers cimport H, CellTraits, State
from fastrnn.kernels.simd cimport load, real, store, vec

cdef enum:
    # What the first phase leaves for the second.
    UPDATE = 0
    RESET_H = 1


cdef inline CellTraits traits() noexcept nogil:
    cdef CellTraits cell
    cell.name = "gru_reset_before"
    cell.n_states, cell.n_scratch, cell.activations, cell.n_phases = 1, 2, 3, 2
    cell.phases[0].gates, cell.phases[0].apart, cell.phases[0].factor = 2, False, H
    cell.phases[1].gates, cell.phases[1].apart, cell.phases[1].factor = 1, False, RESET_H
    return cell


cdef inline void finish_gates(
    int recurrent, const real* z, Py_ssize_t gate, const State* state, Py_ssize_t at,
) noexcept nogil:
    """The gates z and r h."""
    store(state.scratch[UPDATE] + at, activated(recurrent, load(z)))
    store(state.scratch[RESET_H] + at, activated(recurrent, load(z + gate)) * load(state.h + at))


cdef inline void finish_candidate(int activation, const real* z, const State* state, Py_ssize_t at) noexcept nogil:
    """h' = z h + (1 - z) activation(candidate)."""
    cdef vec candidate = activated(activation, load(z))
    cdef vec update = load(state.scratch[UPDATE] + at)
    store(state.h_next + at, update * load(state.h + at) + (<real>1 - update) * candidate)
