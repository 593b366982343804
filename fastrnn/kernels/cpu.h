/* What this CPU can run, and which builds of the kernels there are. */
#ifndef FASTRNN_CPU_H
#define FASTRNN_CPU_H

#include <stdbool.h>
#include <string.h>

/* Whether this CPU, and its operating system, can run the build that setup.py calls `level`. */
static inline bool cpu_has(const char *level) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
    if (strcmp(level, "v3") == 0) return v3;
    if (strcmp(level, "v4") == 0)
        return v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vl");
#endif
    return strcmp(level, "base") == 0;
}

/* Whether the CPU has dot products of numbers of this precision: "bfloat16" or "int8". */
static inline bool cpu_has_dot_product(const char *precision) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (strcmp(precision, "bfloat16") == 0) return __builtin_cpu_supports("avx512bf16");
    if (strcmp(precision, "int8") == 0) return __builtin_cpu_supports("avx512vnni");
#endif
    return false;
}

/* The builds that are linked in, best first: setup.py says which. Each unit of kernels enters its functions in a table. */
typedef struct {
    const char *level;
    int bits;
    void (*fill)(void *kernels);
} build_t;

#define FASTRNN_BUILD(level, bits)                         \
    void fill_products_##level##_f##bits(void *kernels);   \
    void fill_recurrence_##level##_f##bits(void *kernels); \
    void fill_lanes_##level##_f##bits(void *kernels);      \
    void fill_images_##level##_f##bits(void *kernels);     \
    void fill_pointwise_##level##_f##bits(void *kernels);  \
    static void fill_##level##_f##bits(void *kernels) {    \
        fill_products_##level##_f##bits(kernels);          \
        fill_recurrence_##level##_f##bits(kernels);        \
        fill_lanes_##level##_f##bits(kernels);             \
        fill_images_##level##_f##bits(kernels);            \
        fill_pointwise_##level##_f##bits(kernels);         \
    }
FASTRNN_BUILDS
#undef FASTRNN_BUILD

#define FASTRNN_BUILD(level, bits) {#level, bits, fill_##level##_f##bits},
static const build_t builds[] = {FASTRNN_BUILDS};
#undef FASTRNN_BUILD

static inline int number_of_builds(void) { return (int)(sizeof builds / sizeof *builds); }

#endif
