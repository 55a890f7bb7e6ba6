/* Whether the gradients of a step are finite: one read of all of them, before a belief may change. */

#include <stdint.h>

#include "threads.h"

/* The largest magnitude, as bits: of two magnitudes the larger has the larger bits; an infinity or NaN has the largest.
   Four places are read at once: one stream of reads does not fill the way to memory. */
#define LARGEST(name, bits)                                                                                            \
    static inline bits name##_of_two(bits most, bits x) {                                                              \
        x &= (bits)~(bits)0 >> 1;                                                                                      \
        return x > most ? x : most;                                                                                    \
    }                                                                                                                  \
    static bits name(const bits *x, int64_t count) {                                                                   \
        enum { LANES = 64 / sizeof(bits) };                                                                            \
        bits most[LANES] = {0};                                                                                        \
        int64_t part = count / 4 / LANES * LANES;                                                                      \
        for (int64_t i = 0; i < part; i += LANES)                                                                      \
            for (int place = 0; place < 4; place++)                                                                    \
                for (int j = 0; j < LANES; j++) most[j] = name##_of_two(most[j], x[place * part + i + j]);             \
        for (int64_t i = 4 * part; i < count; i++) most[0] = name##_of_two(most[0], x[i]);                             \
        for (int j = 1; j < LANES; j++) most[0] = name##_of_two(most[0], most[j]);                                     \
        return most[0];                                                                                                \
    }

LARGEST(single, uint32_t)
LARGEST(brain, uint16_t)

typedef struct {
    int64_t address;
    int64_t count;
    int64_t size; /* bytes of a value: 4 of a float32, 2 of a bfloat16, which is the upper half of one */
} values;

typedef struct {
    const values *tensors;
    int count;
    int *infinite;
} reading;

static void some_values(const void *loop, int64_t part, int64_t parts) {
    const reading *all = loop;
    const int64_t chunk = 1 << 16;
    int infinite = 0;
    for (int t = 0; t < all->count; t++) {
        values x = all->tensors[t];
        int64_t chunks = (x.count + chunk - 1) / chunk, end = beginning(chunks, part + 1, parts);
        for (int64_t c = beginning(chunks, part, parts); c < end; c++) {
            int64_t start = c * chunk, some = x.count - start < chunk ? x.count - start : chunk;
            const char *from = (const char *)x.address + start * x.size;
            infinite |= x.size == 4 ? single((const uint32_t *)from, some) >= 0x7f800000u
                                    : brain((const uint16_t *)from, some) >= 0x7f80u;
        }
    }
    if (infinite) __atomic_store_n(all->infinite, 1, __ATOMIC_RELAXED);
}

int bitbayes_finite(const values *tensors, int count, int threads) {
    int infinite = 0;
    reading all = {tensors, count, &infinite};
    in_parallel(some_values, &all, threads);
    return !infinite;
}
