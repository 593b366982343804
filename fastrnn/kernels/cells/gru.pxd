"""GRU with reset_after=True, whose gates are z, r, h in Keras's order."""
from fastrnn.kernels.activations cimport activated
from fastrnn.kernels.layers cimport H, CellTraits, State
from fastrnn.kernels.simd cimport add, load, real, store, vec


cdef inline CellTraits traits() noexcept nogil:
    cdef CellTraits cell
    cell.name = "gru"
    cell.n_states, cell.n_scratch, cell.activations, cell.n_phases = 1, 0, 3, 1
    cell.phases[0].gates, cell.phases[0].apart, cell.phases[0].factor = 3, True, H
    return cell


cdef inline void finish(
    int activation, int recurrent, const real* zx, const real* zh, Py_ssize_t gate, const State* state, Py_ssize_t at,
) noexcept nogil:
    """h' = z h + (1 - z) activation(xh + r hh)."""
    cdef vec update = activated(recurrent, add(load(zx), load(zh)))
    cdef vec reset = activated(recurrent, add(load(zx + gate), load(zh + gate)))
    cdef vec candidate = activated(activation, load(zx + 2 * gate) + reset * load(zh + 2 * gate))
    store(state.h_next + at, update * load(state.h + at) + (<real>1 - update) * candidate)
