/* Numbers of 16 and 8 bits: rounding to them, and the dot products of two or four of them in each lane of a vector.
 *
 * The instructions for these products are no part of x86-64-v4, and few CPUs have all of them, so that they are named
 * as assembly and taken at run time where the CPU has them: a build of its own would double what there is to compile.
 */
#ifndef FASTRNN_NARROW_H
#define FASTRNN_NARROW_H

#include "simd.h"

#ifdef FASTRNN_REAL_BITS

/* Whether this build can use the dot products of pairs of bfloat16 and of quads of bytes. */
#if defined(__AVX512F__) && FASTRNN_REAL_BITS == 32
#define FASTRNN_DOT_PRODUCTS 1
#else
#define FASTRNN_DOT_PRODUCTS 0
#endif

typedef int16_t vec_halves __attribute__((vector_size(FASTRNN_VECTOR_BYTES)));

/* sum + a[0] b[0] + a[1] b[1] for the pair of bfloat16 `a` and those in each lane of `b`; the first has the low bits. */
FASTRNN_INLINE vec dot_bfloat16(bool native, int32_t a, vec b, vec sum) {
#if FASTRNN_REAL_BITS == 32
    const vec_bits pair = a - (vec_bits){0}, weights = (vec_bits)b;
#if FASTRNN_DOT_PRODUCTS
    if (native) {
        __asm__("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(pair), "v"(weights));
        return sum;
    }
#endif
    sum += (vec)(pair << 16) * (vec)(weights << 16);
    sum += (vec)(pair & -65536) * (vec)(weights & -65536);
#endif
    return sum;
}

/* sum + a[0] b[0] + ... + a[3] b[3] in whole numbers, for four bytes `a` from 0 to 255 and four from -128 to 127 in each
 * lane of `b`; the lanes of `sum` and of the result hold the bits of whole numbers. */
FASTRNN_INLINE vec dot_int8(bool native, int32_t a, vec b, vec sum) {
#if FASTRNN_REAL_BITS == 32
#if FASTRNN_DOT_PRODUCTS
    if (native) {
        const vec_bits quad = a - (vec_bits){0};
        __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(quad), "v"(b));
        return sum;
    }
#endif
    const vec_bits even = (a & 0xff00ff) - (vec_bits){0}, odd = ((a >> 8) & 0xff00ff) - (vec_bits){0};
    const vec_halves even_weights = (vec_halves)b << 8 >> 8, odd_weights = (vec_halves)b >> 8;
#if defined(__AVX__)
    vec_bits evens, odds;
    __asm__("vpmaddwd %2, %1, %0" : "=v"(evens) : "v"(even), "v"(even_weights));
    __asm__("vpmaddwd %2, %1, %0" : "=v"(odds) : "v"(odd), "v"(odd_weights));
#elif defined(__SSE2__)
    vec_bits evens = even, odds = odd;
    __asm__("pmaddwd %1, %0" : "+x"(evens) : "x"(even_weights));
    __asm__("pmaddwd %1, %0" : "+x"(odds) : "x"(odd_weights));
#else
    const vec_bits evens = (even & 0xffff) * ((vec_bits)even_weights << 16 >> 16) +
                           (even >> 16) * ((vec_bits)even_weights >> 16);
    const vec_bits odds = (odd & 0xffff) * ((vec_bits)odd_weights << 16 >> 16) +
                          (odd >> 16) * ((vec_bits)odd_weights >> 16);
#endif
    sum = (vec)((vec_bits)sum + evens + odds);
#endif
    return sum;
}

/* Sums, and numbers, of the whole numbers whose bits the lanes hold. */
FASTRNN_INLINE vec add_whole(vec a, vec b) { return (vec)((vec_bits)a + (vec_bits)b); }
FASTRNN_INLINE vec from_whole(vec a) { return __builtin_convertvector((vec_bits)a, vec); }

FASTRNN_INLINE uint32_t bits_of(real number) {
    const float single = (float)number;
    uint32_t bits;
    memcpy(&bits, &single, sizeof bits);
    return bits;
}

/* The nearest bfloat16, an even one halfway between two; a NaN stays one. */
static inline void round_to_bfloat16(const real *x, size_t n, uint16_t *restrict out) {
    for (size_t i = 0; i < n; i++) {
        const uint32_t bits = bits_of(x[i]);
        const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
        out[i] = (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
    }
}

/* The largest magnitude; infinity or NaN if there is one. (Their bits, as whole numbers, are in the same order, and gcc
 * vectorises that.) */
static inline real largest_magnitude(const real *x, size_t n) {
    int32_t largest = 0;
    float magnitude;
    for (size_t i = 0; i < n; i++) {
        const int32_t bits = (int32_t)(bits_of(x[i]) & 0x7fffffff);
        largest = bits > largest ? bits : largest;
    }
    memcpy(&magnitude, &largest, sizeof magnitude);
    return (real)magnitude;
}

/* x * factor, from -127 to 127, rounded to a whole number (an even one halfway between two), plus 128. */
static inline void quantise(const real *x, size_t n, real factor, uint8_t *restrict out) {
    for (size_t i = 0; i < n; i++) out[i] = (uint8_t)(bits_of(x[i] * factor + (real)12582912) + 128);
}

#endif
#endif
