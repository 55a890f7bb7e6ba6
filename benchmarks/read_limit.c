/* Reading memory and nothing else: the limit of a product of many weights with one input. */

#include <stdint.h>

typedef uint64_t words __attribute__((vector_size(64), aligned(8)));

/* Exclusive or of all bytes, a multiple of 512 of them, which no compiler can leave out. */
uint64_t read_all(const words *from, int64_t bytes) {
    words sums[8] = {{0}};
    for (int64_t i = 0; i < bytes / 64; i += 8)
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) sums[j] ^= from[i + j];
    uint64_t all = 0;
    for (int j = 0; j < 8; j++)
        for (int k = 0; k < 8; k++) all ^= sums[j][k];
    return all;
}
