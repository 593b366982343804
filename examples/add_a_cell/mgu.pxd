"""Minimal gated unit (Zhou et al., 2016, doi:10.1007/s11633-016-1006-2): one gate f, then the candidate, from f h."""
from fastrnn.kernels.activations cimport activated
from fastrnn.kernels.layers cimport H, CellTraits, State
from fastrnn.kernels.simd cimport load, real, store, vec

cdef enum:
    # What the first phase leaves for the second.
    FORGET = 0
    FORGET_H = 1


cdef inline CellTraits traits() noexcept nogil:
    cdef CellTraits cell
    cell.name = "mgu"
    cell.n_states, cell.n_scratch, cell.activations, cell.n_phases = 1, 2, 2, 2
    cell.phases[0].gates, cell.phases[0].apart, cell.phases[0].factor = 1, False, H
    cell.phases[1].gates, cell.phases[1].apart, cell.phases[1].factor = 1, False, FORGET_H
    return cell


cdef inline void finish_gate(int recurrent, const real* z, const State* state, Py_ssize_t at) noexcept nogil:
    """The gate f, and f h."""
    cdef vec forget = activated(recurrent, load(z))
    store(state.scratch[FORGET] + at, forget)
    store(state.scratch[FORGET_H] + at, forget * load(state.h + at))


cdef inline void finish_candidate(int activation, const real* z, const State* state, Py_ssize_t at) noexcept nogil:
    """h' = (1 - f) h + f activation(candidate)."""
    cdef vec forget = load(state.scratch[FORGET] + at)
    cdef vec candidate = activated(activation, load(z))
    store(state.h_next + at, (<real>1 - forget) * load(state.h + at) + forget * candidate)
