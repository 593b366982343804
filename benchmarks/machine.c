/* What the machine can do at most: one core's multiplications and additions, reads and activations a second.
   machine.py compiles it for the CPU at hand. The vectors are as long as that CPU's registers. */
#include <stdint.h>
#include <string.h>
#include <time.h>

#if defined(__AVX512F__)
#define BYTES 64
#define ACCUMULATORS 24
#elif defined(__AVX__)
#define BYTES 32
#define ACCUMULATORS 12
#else
#define BYTES 16
#define ACCUMULATORS 12
#endif
#define LANES (BYTES / 4)

typedef float vec __attribute__((vector_size(BYTES), may_alias));

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + 1e-9 * time.tv_nsec;
}

/* Seconds for `rounds` rounds of as many independent chains of fused multiply-adds as keep both units busy.
   `sums` holds the numbers they start from and end at, `length_of_sums()` of them. */
double time_fma(float *sums, long rounds)
{
    vec chains[ACCUMULATORS], factor = ((vec *)sums)[0];
#pragma GCC unroll 32
    for (int i = 0; i < ACCUMULATORS; i++)
        chains[i] = ((vec *)sums)[i];
    double start = now();
    for (long round = 0; round < rounds; round++) {
#pragma GCC unroll 32
        for (int i = 0; i < ACCUMULATORS; i++)
            chains[i] = chains[i] * factor + factor;
    }
#pragma GCC unroll 32
    for (int i = 0; i < ACCUMULATORS; i++)
        ((vec *)sums)[i] = chains[i];
    return now() - start;
}

/* Numbers that `time_fma` works on. */
long length_of_sums(void)
{
    return LANES * ACCUMULATORS;
}

/* Seconds to read `count` numbers, a multiple of 128, `rounds` times. Their sums go to `sums`, 128 numbers. */
double time_read(const float *numbers, float *sums, long count, long rounds)
{
    vec chains[8] = {{0}};
    double start = now();
    for (long round = 0; round < rounds; round++) {
        for (const vec *next = (const vec *)numbers; next < (const vec *)(numbers + count); next += 8) {
#pragma GCC unroll 8
            for (int i = 0; i < 8; i++)
                chains[i] += next[i];
        }
        __asm__ volatile("" : : : "memory");
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        ((vec *)sums)[i] = chains[i];
    return now() - start;
}

/* e**x for |x| < 80: 2**n by its bits, with n = round(x / ln 2), times a Taylor series of what is left. */
static inline float exponential(float x)
{
    const float rounder = 12582912.0f; /* 1.5 * 2**23: a sum of this size has no bits for a fraction */
    float shifted = x * 1.44269504f + rounder;
    float r = x - (shifted - rounder) * 0.69314718f;
    float series = r * (1.0f / 720) + 1.0f / 120;
    int32_t bits, power;
    series = series * r + 1.0f / 24;
    series = series * r + 1.0f / 6;
    series = series * r + 0.5f;
    series = series * r + 1.0f;
    series = series * r + 1.0f;
    memcpy(&bits, &series, 4);
    memcpy(&power, &shifted, 4);
    bits += (int32_t)((uint32_t)power << 23);
    memcpy(&series, &bits, 4);
    return series;
}

static inline float limited(float x, float limit)
{
    x = x < limit ? x : limit;
    return x > -limit ? x : -limit;
}

/* Seconds to compute `count` sigmoids `rounds` times. */
double time_sigmoid(const float *restrict from, float *restrict to, long count, long rounds)
{
    double start = now();
    for (long round = 0; round < rounds; round++) {
        for (long i = 0; i < count; i++)
            to[i] = 1.0f / (1.0f + exponential(limited(-from[i], 40.0f)));
        __asm__ volatile("" : : : "memory");
    }
    return now() - start;
}

/* Seconds to compute `count` hyperbolic tangents `rounds` times. */
double time_tanh(const float *restrict from, float *restrict to, long count, long rounds)
{
    double start = now();
    for (long round = 0; round < rounds; round++) {
        for (long i = 0; i < count; i++)
            to[i] = 1.0f - 2.0f / (1.0f + exponential(limited(2.0f * from[i], 40.0f)));
        __asm__ volatile("" : : : "memory");
    }
    return now() - start;
}
