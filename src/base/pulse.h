/* A sign that this process makes progress. Loops that may take long count here, and the watch of a job
 * (parallel/watch.h) looks whether the number changes. There is one counter for each process, because a process is what
 * hangs; any thread may count. */
#ifndef LP_BASE_PULSE_H
#define LP_BASE_PULSE_H

#include <stdatomic.h>
#include <stdint.h>

extern _Atomic uint64_t lp_pulse_counter;

static inline void lp_pulse(void) {
    atomic_fetch_add_explicit(&lp_pulse_counter, 1, memory_order_relaxed);
}

static inline uint64_t lp_pulses(void) {
    return atomic_load_explicit(&lp_pulse_counter, memory_order_relaxed);
}

/* The process also counts the row-layers (one position through one block) that it has begun, for the display of its
 * progress. Any thread may read. */
extern _Atomic uint64_t lp_row_layer_counter;

static inline void lp_count_row_layers(uint64_t n) {
    atomic_fetch_add_explicit(&lp_row_layer_counter, n, memory_order_relaxed);
}

static inline uint64_t lp_row_layers(void) {
    return atomic_load_explicit(&lp_row_layer_counter, memory_order_relaxed);
}

#endif
