# Activations: functions of a whole vector, and the table that names them.
#
# They are written on `vec` and not as loops over numbers: gcc 12 left such loops scalar, at a third of the speed.
# Literals are cast to `real`, the type of a vector's elements. A NaN passes through all of them.

from libc.math cimport INFINITY, erfc, exp, expm1, fabs, log1p, sqrt, tanh

cdef enum Activation:
    LINEAR
    TANH
    SIGMOID
    RELU
    HARD_SIGMOID
    HARD_SIGMOID_KERAS2
    # From here on: less used, computed number by number in double precision.
    CELU
    ELU
    EXPONENTIAL
    GELU
    HARD_SHRINK
    HARD_SILU
    HARD_TANH
    LEAKY_RELU
    LOG_SIGMOID
    MISH
    RELU6
    SELU
    SILU
    SOFT_SHRINK
    SOFTPLUS
    SOFTSIGN
    SPARSE_PLUS
    SPARSE_SIGMOID
    SQUAREPLUS
    TANH_SHRINK
    # From here on: functions of a whole row, for `Activate` only.
    SOFTMAX
    LOG_SOFTMAX

ACTIVATIONS = {
    "linear": LINEAR, "tanh": TANH, "sigmoid": SIGMOID, "relu": RELU, "hard_sigmoid": HARD_SIGMOID,
    "hard_sigmoid_keras2": HARD_SIGMOID_KERAS2, "celu": CELU, "elu": ELU, "exponential": EXPONENTIAL, "gelu": GELU,
    "hard_shrink": HARD_SHRINK, "hard_silu": HARD_SILU, "hard_tanh": HARD_TANH, "leaky_relu": LEAKY_RELU,
    "log_sigmoid": LOG_SIGMOID, "mish": MISH, "relu6": RELU6, "selu": SELU, "silu": SILU, "soft_shrink": SOFT_SHRINK,
    "softplus": SOFTPLUS, "softsign": SOFTSIGN, "sparse_plus": SPARSE_PLUS, "sparse_sigmoid": SPARSE_SIGMOID,
    "squareplus": SQUAREPLUS, "tanh_shrink": TANH_SHRINK, "softmax": SOFTMAX, "log_softmax": LOG_SOFTMAX,
}
ROW_ACTIVATIONS = ("softmax", "log_softmax")


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


cdef double softplus_of(double x) noexcept nogil:
    return (x if x > 0 else 0) + log1p(exp(-fabs(x))) if x == x else x


cdef double elu_of(double x) noexcept nogil:
    return expm1(x) if x < 0 else x


cdef double rare_activation(int code, double x) noexcept nogil:
    """The activations that no default uses, by `keras.activations`'s definitions (Keras 3.15)."""
    if code == HARD_SHRINK:
        return x if fabs(x) > 0.5 else 0
    if code == SOFT_SHRINK:
        return x - 0.5 if x > 0.5 else (x + 0.5 if x < -0.5 else 0)
    if x != x:  # which these two alone make 0
        return x
    if code == CELU or code == ELU:
        return elu_of(x)
    if code == EXPONENTIAL:
        return exp(x)
    if code == GELU:
        return 0.5 * x * erfc(-x * 0.70710678118654752)
    if code == HARD_SILU:
        return x * min(max(x / 6 + 0.5, 0.0), 1.0)
    if code == HARD_TANH:
        return min(max(x, -1.0), 1.0)
    if code == LEAKY_RELU:
        return x if x > 0 else 0.2 * x
    if code == LOG_SIGMOID:
        return -softplus_of(-x)
    if code == MISH:
        return x * tanh(softplus_of(x))
    if code == RELU6:
        return min(max(x, 0.0), 6.0)
    if code == SELU:
        # Klambauer et al., 2017: the scale and slope that keep mean 0 and variance 1.
        return 1.0507009873554805 * (x if x > 0 else 1.6732632423543772 * expm1(x))
    if code == SILU:
        return x / (1 + exp(-x))
    if code == SOFTPLUS:
        return softplus_of(x)
    if code == SOFTSIGN:
        return x / (1 + fabs(x))
    if code == SPARSE_PLUS:
        return 0 if x <= -1 else (x if x >= 1 else 0.25 * (x + 1) * (x + 1))
    if code == SPARSE_SIGMOID:
        return min(max(0.5 * (x + 1), 0.0), 1.0)
    if code == SQUAREPLUS:
        return 0.5 * (x + sqrt(x * x + 4))
    return x - tanh(x)  # TANH_SHRINK, the last


cdef inline vec activated(int code, vec x) noexcept nogil:
    """activation(x); with a constant `code` only its own branch is left."""
    cdef real numbers[LANES]
    cdef int i
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
    for i in range(LANES):
        numbers[i] = <real>rare_activation(code, numbers[i])
    return load(numbers)


cdef void activate_span(int code, const real* x, real* y, Py_ssize_t n) noexcept nogil:
    """y = activation(x) for n numbers; x and y are the same array or do not meet."""
    cdef Py_ssize_t i = 0
    cdef real rest[LANES]
    if code == LINEAR:
        if x != y:
            memcpy(y, x, n * sizeof(real))
        return
    while i + LANES <= n:
        store(y + i, activated(code, load(x + i)))
        i += LANES
    if i < n:
        store(rest, zero_vector())
        memcpy(rest, x + i, (n - i) * sizeof(real))
        store(rest, activated(code, load(rest)))
        memcpy(y + i, rest, (n - i) * sizeof(real))


cdef void softmax_row(int code, const real* x, real* y, Py_ssize_t n) noexcept nogil:
    """softmax, or its logarithm, of n numbers; the largest is subtracted first so that nothing overflows."""
    cdef Py_ssize_t i
    cdef real largest = -INFINITY
    cdef double total = 0
    for i in range(n):
        largest = x[i] if x[i] > largest else largest
    for i in range(n):
        total += exp(x[i] - largest)
    if code == SOFTMAX:
        for i in range(n):
            y[i] = <real>(exp(x[i] - largest) / total)
    else:
        total = log(total)
        for i in range(n):
            y[i] = <real>((x[i] - largest) - total)
