"""The compiled core: arrays in, arrays out, and nothing of Keras but the order of its weights.

setup.py builds this one source for each instruction set and number type; `fastrnn._dispatch` imports the one that
fits. The parts, each of which knows only those above it: activations, numbers, panels (products on packed weights),
narrow (the same on fewer bits), columns (the same with rows in lanes), cells, indices, team, recurrence (the loop over
time), lanes (the same with rows in lanes), program (what Python sees), small_steps, streams.
"""
from libc.math cimport log
from libc.string cimport memcpy, memmove, memset
cimport numpy as cnp

import numpy as np

cnp.import_array()

cdef extern from "vector.h" nogil:
    ctypedef float real
    ctypedef float vec
    enum:
        LANES "FASTRNN_LANES"
        TILE_ROWS "FASTRNN_TILE_ROWS"
        MOST_ROWS "FASTRNN_MOST_ROWS"
        TILE_VECTORS "FASTRNN_TILE_VECTORS"
        REAL_BITS "FASTRNN_REAL_BITS"
        FUSED "FASTRNN_FUSED"
    int VECTOR_SIZE "FASTRNN_VECTOR_BYTES"
    bint cpu_supports "cpu_has"(const char* level)
    real ROUNDER "FASTRNN_ROUNDER"
    vec load(const real* address)
    void store(real* address, vec value)
    vec zero_vector()
    vec add(vec a, vec b)
    vec divide(vec a, vec b)
    vec reciprocal(vec a)
    vec multiply(real a, vec b)
    vec multiply_add(real a, vec b, vec c)
    vec at_least(vec a, real b)
    vec at_most(vec a, real b)
    vec magnitude(vec a)
    vec with_sign_of(vec a, vec b)
    vec where_beyond(vec a, real b, real then)
    vec power_of_two(vec rounded)
    void keep_in_memory(...)
    vec lanes_that(const char* chosen)
    vec choose(vec bits, vec a, vec b)
    void transpose(vec* rows)

cdef int REAL_TYPE = cnp.NPY_FLOAT64 if REAL_BITS == 64 else cnp.NPY_FLOAT32
DTYPE = np.dtype(np.float64 if REAL_BITS == 64 else np.float32)
VECTOR_BYTES = VECTOR_SIZE


def cpu_has(level):
    """Return whether this CPU can run the build named `level`: "base", "v3" or "v4"."""
    return cpu_supports(level.encode())


include "kernels/tuning.pxi"
include "kernels/activations.pxi"
include "kernels/numbers.pxi"
include "kernels/panels.pxi"
include "kernels/narrow.pxi"
include "kernels/columns.pxi"
include "kernels/cells.pxi"
include "kernels/indices.pxi"
include "kernels/team.pxi"
include "kernels/recurrence.pxi"
include "kernels/lanes.pxi"
include "kernels/program.pxi"
include "kernels/convlstm.pxi"
include "kernels/small_steps.pxi"
include "kernels/streams.pxi"
