/* Whether the gradients of a step are finite: one read of all of them, before a belief may change. */

#include <stdint.h>

static inline uint32_t larger(uint32_t most, uint32_t bits) {
    bits &= 0x7fffffffu; /* of two magnitudes the larger has the larger bits; an infinity or NaN has the largest */
    return bits > most ? bits : most;
}

/* Four places are read at once: one stream of reads does not fill the way to memory. */
static uint32_t largest(const uint32_t *x, int64_t count) {
    enum { LANES = 16 };
    uint32_t most[LANES] = {0};
    int64_t part = count / 4 / LANES * LANES;
    for (int64_t i = 0; i < part; i += LANES)
        for (int place = 0; place < 4; place++)
            for (int j = 0; j < LANES; j++) most[j] = larger(most[j], x[place * part + i + j]);
    for (int64_t i = 4 * part; i < count; i++) most[0] = larger(most[0], x[i]);
    for (int j = 1; j < LANES; j++) most[0] = larger(most[0], most[j]);
    return most[0];
}

/* `tensors` has an address of float32 values and their number for each of `count` tensors. */
int bitbayes_finite(const int64_t *tensors, int count, int threads) {
    const int64_t chunk = 1 << 16;
    uint32_t most = 0;
    (void)threads;
    for (int t = 0; t < count; t++) {
        const uint32_t *x = (const uint32_t *)tensors[2 * t];
        int64_t size = tensors[2 * t + 1];
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1) reduction(max : most)
        for (int64_t start = 0; start < size; start += chunk)
            most = larger(most, largest(x + start, size - start < chunk ? size - start : chunk));
    }
    return most < 0x7f800000u;
}
