/* What one build of the kernels fixes: the number type and the width of a vector.
 *
 * The Cython source is written once, for `real` and `vec`. setup.py compiles it for each instruction set
 * with FASTRNN_REAL_BITS 32 and 64. Vectors are the compilers' own (GCC and Clang vector extensions), so the
 * source holds no intrinsics; their width has to be the machine's, or the compiler spills every one of them.
 */
#ifndef FASTRNN_SIMD_H
#define FASTRNN_SIMD_H

#ifndef FASTRNN_REAL_BITS
/* `fastrnn._core` is no kernel: it knows where numbers are, not what they are. */
typedef struct fastrnn_real real;
#else

#include "unit.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if FASTRNN_REAL_BITS == 64
#define FASTRNN_INTRINSIC_TYPE pd
typedef double real;
typedef int64_t real_bits;
#define FASTRNN_MANTISSA_BITS 52
#else
#define FASTRNN_INTRINSIC_TYPE ps
typedef float real;
typedef int32_t real_bits;
#define FASTRNN_MANTISSA_BITS 23
#endif

/* TILE_ROWS x 4 accumulators and one row of weights fill the registers: 32 of them with AVX-512 and NEON, else 16. */
#if defined(__AVX512F__)
#define FASTRNN_VECTOR_BYTES 64
#define FASTRNN_INTRINSIC_BITS 512
#define FASTRNN_TILE_ROWS 6
#elif defined(__AVX2__)
#define FASTRNN_VECTOR_BYTES 32
#define FASTRNN_INTRINSIC_BITS 256
#define FASTRNN_TILE_ROWS 3
#elif defined(__aarch64__)
#define FASTRNN_VECTOR_BYTES 16
#define FASTRNN_TILE_ROWS 6
#else
#define FASTRNN_VECTOR_BYTES 16
#define FASTRNN_INTRINSIC_BITS
#define FASTRNN_TILE_ROWS 3
#endif
#define FASTRNN_TILE_VECTORS 4
/* Whether a multiply-add rounds once. */
#if defined(__FMA__) || defined(__aarch64__)
#define FASTRNN_FUSED 1
#else
#define FASTRNN_FUSED 0
#endif
/* Rows of a tile of fewer vectors. */
#define FASTRNN_MOST_ROWS (FASTRNN_TILE_ROWS == 6 ? 7 : FASTRNN_TILE_ROWS)
#define FASTRNN_LANES (FASTRNN_VECTOR_BYTES / (FASTRNN_REAL_BITS / 8))

/* Rows of a NumPy array start anywhere a number may, so the type promises no more alignment than that. */
typedef real vec __attribute__((vector_size(FASTRNN_VECTOR_BYTES), aligned(FASTRNN_REAL_BITS / 8), may_alias));
typedef real_bits vec_bits __attribute__((vector_size(FASTRNN_VECTOR_BYTES)));

/* The kernels' inline functions take constants that must reach the loops inside them, so inlining is no hint here. */
#undef CYTHON_INLINE
#define CYTHON_INLINE inline __attribute__((always_inline))
#define FASTRNN_INLINE static CYTHON_INLINE

FASTRNN_INLINE vec load(const real *address) { return *(const vec *)address; }
FASTRNN_INLINE void store(real *address, vec value) { *(vec *)address = value; }
FASTRNN_INLINE vec zero_vector(void) { return (vec){0}; }
FASTRNN_INLINE vec add(vec a, vec b) { return a + b; }
FASTRNN_INLINE vec divide(vec a, vec b) { return a / b; }
FASTRNN_INLINE vec reciprocal(vec a) { return 1 / a; }

/* A product that is rounded by itself, also where the compiler could fuse it with the sum that takes it. */
FASTRNN_INLINE vec multiply(real a, vec b) {
    vec product = a * b;
#if defined(__x86_64__)
    __asm__("" : "+v"(product));
#elif defined(__aarch64__)
    __asm__("" : "+w"(product));
#endif
    return product;
}
FASTRNN_INLINE vec multiply_add(real a, vec b, vec c) { return a * b + c; }

/* a < b ? b : a and its mirror, number by number; a NaN in `a` stays. gcc 12 takes apart a loop over the lanes, and makes
 * four instructions of what one of x86 does. */
#if defined(__x86_64__)
#define FASTRNN_JOIN(bits, name, type) _mm##bits##_##name##_##type
#define FASTRNN_INTRINSIC(bits, name, type) FASTRNN_JOIN(bits, name, type)
FASTRNN_INLINE vec at_least(vec a, real b) {
    return (vec)FASTRNN_INTRINSIC(FASTRNN_INTRINSIC_BITS, max, FASTRNN_INTRINSIC_TYPE)(b + zero_vector(), a);
}
FASTRNN_INLINE vec at_most(vec a, real b) {
    return (vec)FASTRNN_INTRINSIC(FASTRNN_INTRINSIC_BITS, min, FASTRNN_INTRINSIC_TYPE)(b + zero_vector(), a);
}
#else
FASTRNN_INLINE vec at_least(vec a, real b) {
    const vec_bits below = a < b;
    return (vec)(((vec_bits)(b + zero_vector()) & below) | ((vec_bits)a & ~below));
}
FASTRNN_INLINE vec at_most(vec a, real b) {
    const vec_bits above = a > b;
    return (vec)(((vec_bits)(b + zero_vector()) & above) | ((vec_bits)a & ~above));
}
#endif

/* Has a variable live in memory from here on. Where general registers are scarce gcc 12 keeps pointers in vector registers
 * and moves them over at every use, on the ports that multiply. */
#define keep_in_memory(variable) __asm__("" : "+m"(variable))

/* The magnitudes of a, bare and with the signs of b. */
#define FASTRNN_SIGNS ((vec_bits)(-(real)0 - (vec){0}))
FASTRNN_INLINE vec magnitude(vec a) { return (vec)((vec_bits)a & ~FASTRNN_SIGNS); }
FASTRNN_INLINE vec with_sign_of(vec a, vec b) {
    return (vec)(((vec_bits)a & ~FASTRNN_SIGNS) | ((vec_bits)b & FASTRNN_SIGNS));
}

/* `then` in the lanes where a > b, and 0 in the others. */
FASTRNN_INLINE vec where_beyond(vec a, real b, real then) {
    return (vec)((vec_bits)(a > b) & (vec_bits)(then + zero_vector()));
}

/* All bits of a lane where `chosen` is not 0, and none where it is. */
FASTRNN_INLINE vec lanes_that(const char *chosen) {
    vec_bits bits;
    for (int i = 0; i < FASTRNN_LANES; i++) bits[i] = chosen[i];
    return (vec)(bits != 0);
}

/* The lanes of a where all bits are set, those of b where none is. */
FASTRNN_INLINE vec choose(vec bits, vec a, vec b) {
    return (vec)(((vec_bits)a & (vec_bits)bits) | ((vec_bits)b & ~(vec_bits)bits));
}

/* The lanes of a and b by turns: of their lower halves, and of their upper halves. */
#if FASTRNN_LANES == 16
#define FASTRNN_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define FASTRNN_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif FASTRNN_LANES == 8
#define FASTRNN_LOW 0, 8, 1, 9, 2, 10, 3, 11
#define FASTRNN_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#elif FASTRNN_LANES == 4
#define FASTRNN_LOW 0, 4, 1, 5
#define FASTRNN_HIGH 2, 6, 3, 7
#else
#define FASTRNN_LOW 0, 2
#define FASTRNN_HIGH 1, 3
#endif

/* A square of numbers with its rows and columns exchanged: after each round of turns one more bit of a number's row has
 * become one of its lane. */
FASTRNN_INLINE void transpose(vec *rows) {
    vec turned[FASTRNN_LANES];
#pragma GCC unroll 4
    for (int round = 1; round < FASTRNN_LANES; round *= 2) {
#pragma GCC unroll 16
        for (int i = 0; i < FASTRNN_LANES; i++) turned[i] = rows[i];
#pragma GCC unroll 8
        for (int i = 0; i < FASTRNN_LANES / 2; i++) {
            rows[2 * i] = __builtin_shufflevector(turned[i], turned[i + FASTRNN_LANES / 2], FASTRNN_LOW);
            rows[2 * i + 1] = __builtin_shufflevector(turned[i], turned[i + FASTRNN_LANES / 2], FASTRNN_HIGH);
        }
    }
}

/* Adding 1.5 * 2**MANTISSA_BITS rounds a number to an integer and leaves that integer in the low bits of the sum. */
#define FASTRNN_ROUNDER ((real)1.5 * (real)((real_bits)1 << FASTRNN_MANTISSA_BITS))

/* 2**n, where `rounded` is n + FASTRNN_ROUNDER and n is in the range of normal exponents; infinity one above it. */
FASTRNN_INLINE vec power_of_two(vec rounded) {
    return (vec)(((vec_bits)rounded << FASTRNN_MANTISSA_BITS) + (vec_bits)((real)1 + zero_vector()));
}

#endif
#endif
