"""The one loop over time: directions, masks, which outputs are written.

What makes a step of it is a stepper: `recurrence` has units in the lanes of vectors, `lanes` rows of the batch, and
`images` works on images. The functions of a stepper are constants where the loop is inlined, so they cost no call.
"""
from libc.string cimport memset

from fastrnn.kernels.layers cimport Sequence

cdef struct Now:
    # The step that a loop is at.
    Py_ssize_t steps         # of the sequence
    Py_ssize_t step          # how many came before
    Py_ssize_t t             # which of the input it reads
    bint last
    # What the mask says of the rows; NULL where there is none, and all of them pass.
    char* passes             # (rows,), whether the row takes this step, or keeps its state
    char* shows              # (rows,), whether its output is its state, or zeros
    char* started            # (rows,), whether it has taken a step
    Py_ssize_t n_passing

# One step of the rows that pass; False from a thread that is not needed any more.
ctypedef bint (*step_t)(void* stepper, const Now* now) noexcept nogil
# Write the outputs of this step.
ctypedef void (*write_t)(void* stepper, const Now* now) noexcept nogil


cdef inline void follow_mask(const Sequence* sequence, const char* mask, Py_ssize_t rows, Now* now) noexcept nogil:
    """Keras's rule: a masked step keeps the states and repeats the output before it, which is zeros before the first.

    With `zero_output_for_mask` its output is zeros, wherever it comes.
    """
    cdef Py_ssize_t row
    cdef bint passes
    now.n_passing = 0
    for row in range(rows):
        passes = mask[row * now.steps + now.t] != 0
        now.n_passing += passes
        now.started[row] |= passes
        now.passes[row] = passes
        now.shows[row] = passes or (now.started[row] and not sequence.zero_output_for_mask)


cdef inline void run_sequence(
    const Sequence* sequence, Py_ssize_t rows, Py_ssize_t steps, Py_ssize_t first_step, const char* mask,
    char* marks, void* stepper, step_t make_step, write_t write,
) noexcept nogil:
    """Take rows through the steps from `first_step` on; `mask` is (rows, steps), `marks` has room for 3 * rows."""
    cdef Now now
    cdef Py_ssize_t step
    now.steps = steps
    now.passes = now.shows = now.started = NULL
    now.n_passing = rows
    if mask != NULL:
        now.passes, now.shows, now.started = marks, marks + rows, marks + 2 * rows
        memset(now.started, 0, <size_t>rows)
        for step in range(first_step):
            now.t = steps - 1 - step if sequence.go_backwards else step
            follow_mask(sequence, mask, rows, &now)
    for step in range(first_step, steps):
        now.step = step
        now.t = steps - 1 - step if sequence.go_backwards else step
        now.last = step == steps - 1
        if mask != NULL:
            follow_mask(sequence, mask, rows, &now)
        if not make_step(stepper, &now):
            return
        if sequence.return_sequences or now.last:
            write(stepper, &now)
