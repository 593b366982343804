"""LSTM, whose gates are i, f, g, o in Keras's order."""
from fastrnn.kernels.activations cimport activated
from fastrnn.kernels.layers cimport H, CellTraits, State
from fastrnn.kernels.simd cimport load, real, store, vec


cdef inline CellTraits traits() noexcept nogil:
    cdef CellTraits cell
    cell.name = "lstm"
    cell.n_states, cell.n_scratch, cell.activations, cell.n_phases = 2, 0, 5, 1
    cell.phases[0].gates, cell.phases[0].apart, cell.phases[0].factor = 4, False, H
    return cell


cdef inline void finish(
    int activation, int recurrent, const real* z, Py_ssize_t gate, const State* state, Py_ssize_t at,
) noexcept nogil:
    """c' = f c + i g and h' = o activation(c')."""
    cdef real* c = state.carry + at
    cdef real* h_next = state.h_next + at
    cdef vec input_gate = activated(recurrent, load(z))
    cdef vec forget_gate = activated(recurrent, load(z + gate))
    cdef vec candidate = activated(activation, load(z + 2 * gate))
    cdef vec output_gate = activated(recurrent, load(z + 3 * gate))
    cdef vec carry = forget_gate * load(c) + input_gate * candidate
    store(c, carry)
    store(h_next, output_gate * activated(activation, carry))
