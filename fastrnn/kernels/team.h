/* What the threads of a team tell each other: numbers that one thread writes and the others read, each on a cache
 * line of its own. */
#ifndef FASTRNN_TEAM_H
#define FASTRNN_TEAM_H

#include <sched.h>

typedef struct {
    long value;
    char rest_of_line[64 - sizeof(long)];
} signal_t;

static inline long heard(const signal_t *signal) { return __atomic_load_n(&signal->value, __ATOMIC_ACQUIRE); }

/* The value after adding to it; any thread may add. */
static inline long add_to(signal_t *signal, long value) {
    return __atomic_add_fetch(&signal->value, value, __ATOMIC_RELAXED);
}

static inline void tell(signal_t *signal, long value) { __atomic_store_n(&signal->value, value, __ATOMIC_RELEASE); }

/* One turn of a waiting loop; the `turns`-th. A thread that waits long lets others have its core. */
static inline void wait_a_little(long turns) {
    if (turns > 2000) {
        sched_yield();
        return;
    }
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

#endif
