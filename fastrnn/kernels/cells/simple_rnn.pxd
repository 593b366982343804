"""SimpleRNN."""
from fastrnn.kernels.activations cimport activated
from fastrnn.kernels.layers cimport H, CellTraits, State
from fastrnn.kernels.simd cimport load, real, store


cdef inline CellTraits traits() noexcept nogil:
    cdef CellTraits cell
    cell.name = "simple_rnn"
    cell.n_states, cell.n_scratch, cell.activations, cell.n_phases = 1, 0, 1, 1
    cell.phases[0].gates, cell.phases[0].apart, cell.phases[0].factor = 1, False, H
    return cell


cdef inline void finish(
    int activation, const real* z, const State* state, Py_ssize_t at,
) noexcept nogil:
    """h' = activation(z)."""
    store(state.h_next + at, activated(activation, load(z)))
