/* Products of float32 numbers whose rounding is fixed: every sum starts at zero and takes its terms in order, one fused
   multiply-add each. The sign of a sum near zero depends on that, and with it everything that a binary network computes
   after it. oneDNN sums in the same way where a convolution has few channels, so the signs are those that torch finds.

   Weights lie in blocks of BLOCK outputs: weight k of all outputs of a block, then weight k + 1. */

#include <stdint.h>
#include <string.h>

#include "threads.h"

#if defined(BITBAYES_PORTABLE)
#define BYTES 16
#elif defined(__AVX512F__)
#include <immintrin.h>
#define BYTES 64
#elif defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#define BYTES 32
#elif defined(__aarch64__)
#include <arm_neon.h>
#define BYTES 16
#else
#define BYTES 16
#endif

typedef float floats __attribute__((vector_size(BYTES), aligned(4)));
enum { BLOCK = 32, TILE = 6, LANES = BYTES / 4, VECTORS = BLOCK / LANES };

/* x w + sum, rounded once. */
static inline floats fused(float x, floats w, floats sum) {
#if BYTES == 64
    return (floats)_mm512_fmadd_ps(_mm512_set1_ps(x), (__m512)w, (__m512)sum);
#elif BYTES == 32
    return (floats)_mm256_fmadd_ps(_mm256_set1_ps(x), (__m256)w, (__m256)sum);
#elif defined(__aarch64__) && !defined(BITBAYES_PORTABLE)
    return (floats)vfmaq_n_f32((float32x4_t)sum, (float32x4_t)w, x);
#else /* The product is exact in double; only its sum may be rounded twice. */
    for (int i = 0; i < LANES; i++) sum[i] = (float)((double)x * w[i] + sum[i]);
    return sum;
#endif
}

/* `tile` rows of `count` numbers against one block; `tile` is a constant wherever this is inlined. */
static inline __attribute__((always_inline)) void products(const float *x, const float *weights, int64_t count, int tile,
                                                           float sums[TILE][BLOCK]) {
    floats found[TILE][VECTORS];
    for (int r = 0; r < tile; r++)
        for (int v = 0; v < VECTORS; v++) found[r][v] = (floats){0};
    for (int64_t k = 0; k < count; k++, weights += BLOCK)
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; v++) {
            floats w = *(const floats *)(weights + v * LANES);
#pragma GCC unroll 6
            for (int r = 0; r < tile; r++) found[r][v] = fused(x[r * count + k], w, found[r][v]);
        }
    for (int r = 0; r < tile; r++) memcpy(sums[r], found[r], sizeof sums[r]);
}

typedef struct {
    int64_t rows, count, outputs;
    const float *x, *weights, *scale, *shift;
    float *out;
} product;

static void some_tiles(const void *loop, int64_t part, int64_t parts) {
    const product *all = loop;
    const float *scale = all->scale, *shift = all->shift;
    int64_t rows = all->rows, count = all->count, outputs = all->outputs;
    int64_t blocks = (outputs + BLOCK - 1) / BLOCK, tiles = (rows + TILE - 1) / TILE;
    for (int64_t t = beginning(tiles, part, parts); t < beginning(tiles, part + 1, parts); t++) {
        const float *mine = all->x + t * TILE * count;
        int tile = rows - t * TILE < TILE ? (int)(rows - t * TILE) : TILE;
        for (int64_t b = 0; b < blocks; b++) {
            const float *weights = all->weights + b * count * BLOCK;
            float sums[TILE][BLOCK];
            if (tile == TILE)
                products(mine, weights, count, TILE, sums);
            else
                for (int r = 0; r < tile; r++) products(mine + r * count, weights, count, 1, sums + r);
            int64_t rest = outputs - b * BLOCK < BLOCK ? outputs - b * BLOCK : BLOCK;
            for (int r = 0; r < tile; r++) {
                float *to = all->out + (t * TILE + r) * outputs + b * BLOCK;
                for (int64_t i = 0; i < rest; i++)
                    to[i] = __builtin_fmaf(sums[r][i], scale[b * BLOCK + i], shift[b * BLOCK + i]);
            }
        }
    }
}

/* Rows (rows, count) times weights (blocks, count, BLOCK), then scale and shift, rounded once: (rows, outputs). */
void bitbayes_real(int64_t rows, int64_t count, int64_t outputs, int64_t threads, const float *x, const float *weights,
                   const float *scale, const float *shift, float *out) {
    product all = {rows, count, outputs, x, weights, scale, shift, out};
    in_parallel(some_tiles, &all, threads);
}
