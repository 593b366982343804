"""Activations: functions of a whole vector.

They are written on `vec` and not as loops over numbers: gcc 12 left such loops scalar, at a third of the speed.
Literals are cast to `real`, the type of a vector's elements. A NaN passes through all of them.
"""
from fastrnn.kernels.layers cimport HARD_SIGMOID, HARD_SIGMOID_KERAS2, LINEAR, RELU, SIGMOID, TANH
from fastrnn.kernels.simd cimport (
    FUSED, LANES, REAL_BITS, ROUNDER, at_least, at_most, divide, load, magnitude, power_of_two, real, reciprocal, store,
    vec, where_beyond, with_sign_of,
)

cdef extern from "exports.h" nogil:
    # The activations from CELU on, of LANES numbers in place (pointwise.pyx).
    void activate_rarely "FASTRNN_LOCAL(activate_rarely)"(int activation, real* numbers)


cdef inline vec exp_parts(vec x, vec* scale) noexcept nogil:
    """`scale` and what is returned, s, are such that e**x = scale (1 + s), to about one unit in the last place.

    With n = round(x / ln 2) and r = x - n ln 2, scale is 2**n and s is e**r - 1 by its Taylor series, which for
    |r| <= ln(2) / 2 reaches float32's precision at r**7 / 7! and float64's at r**13 / 13!. ln 2 comes in two parts, of
    which n times the first is exact (Cody and Waite; the parts of fdlibm's e_exp.c and Cephes's expf.c): with one part
    the sigmoid's tail was off by 13 units in the last place, and by 68 where a multiply-add rounds its product. Where
    it does not, one part does for float32: 4 units, for two multiply-adds less to wait for in a step.
    """
    cdef vec rounded = x * <real>1.4426950408889634 + ROUNDER
    cdef vec n = rounded - ROUNDER
    cdef vec r
    cdef vec square
    cdef vec series
    if FUSED and REAL_BITS == 32:
        r = x - n * <real>0.6931471805599453
    elif REAL_BITS == 32:
        r = (x - n * <real>0.693359375) + n * <real>2.12194440054690583e-4
    else:
        r = (x - n * <real>6.93147180369123816490e-01) - n * <real>1.90821492927058770002e-10
    square = r * r
    scale[0] = power_of_two(rounded)
    if REAL_BITS == 32:
        # In pairs: a third less latency, and a step of one sequence waits for little else.
        series = square * (r * <real>(1.0 / 5040.0) + <real>(1.0 / 720.0)) + (
            r * <real>(1.0 / 120.0) + <real>(1.0 / 24.0))
        series = square * series + (r * <real>(1.0 / 6.0) + <real>0.5)
    else:
        series = r * <real>(1.0 / 6227020800.0) + <real>(1.0 / 479001600.0)
        series = series * r + <real>(1.0 / 39916800.0)
        series = series * r + <real>(1.0 / 3628800.0)
        series = series * r + <real>(1.0 / 362880.0)
        series = series * r + <real>(1.0 / 40320.0)
        series = series * r + <real>(1.0 / 5040.0)
        series = series * r + <real>(1.0 / 720.0)
        series = series * r + <real>(1.0 / 120.0)
        series = series * r + <real>(1.0 / 24.0)
        series = series * r + <real>(1.0 / 6.0)
        series = series * r + <real>0.5
    return series * square + r


cdef inline vec tanh_of(vec x) noexcept nogil:
    """tanh |x| = (e**2|x| - 1) / (e**2|x| + 1), or where that is over a half 1 - 2 / (e**2|x| + 1), with the sign of x.

    Near 1 the first would round three times what the second rounds once: 1.5e-7, and not 8e-8. Beyond |x| = 20 it is 1
    in either precision.
    """
    cdef vec size = magnitude(x)
    cdef vec scale
    cdef vec series = exp_parts(at_most(size + size, <real>40), &scale)
    cdef vec below = scale * series + (scale - <real>1)
    cdef vec above = scale * series + (scale + <real>1)
    return with_sign_of(where_beyond(below, <real>2, <real>1) - divide(at_most(below, <real>2), above), x)


cdef inline vec sigmoid_of(vec x) noexcept nogil:
    """1 / (1 + e**-x). At the upper limit of -x the scale is 2**128 or 2**1024, infinity, and the result 0 as it is."""
    cdef vec scale
    cdef vec limited = at_most(at_least(-x, <real>(-87 if REAL_BITS == 32 else -708)),
                               <real>(88.8 if REAL_BITS == 32 else 709.9))
    cdef vec series = exp_parts(limited, &scale)
    return reciprocal(scale * (series + <real>1) + <real>1)


cdef inline vec activated(int code, vec x) noexcept nogil:
    """activation(x); with a constant `code` only its own branch is left."""
    cdef real numbers[LANES]
    if code == LINEAR:
        return x
    if code == TANH:
        return tanh_of(x)
    if code == SIGMOID:
        return sigmoid_of(x)
    if code == RELU:
        return at_least(x, <real>0)
    if code == HARD_SIGMOID:
        return at_most(at_least(x * <real>(1.0 / 6.0) + <real>0.5, <real>0), <real>1)
    if code == HARD_SIGMOID_KERAS2:
        return at_most(at_least(x * <real>0.2 + <real>0.5, <real>0), <real>1)
    store(numbers, x)
    activate_rarely(code, numbers)
    return load(numbers)
