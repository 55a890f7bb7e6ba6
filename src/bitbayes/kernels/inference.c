/* Products of packed networks: signs with signs by xor and popcount, and signs with float32 numbers.

   Weights lie in blocks of BLOCK outputs: word k of all outputs of a block, then word k + 1. A word of an activation
   meets BLOCK weights at once, so nothing is summed across lanes. The vectors are GCC's and Clang's; what they cannot
   say, a popcount and a look-up in a register, has one function for each kind of processor. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "threads.h"

#if defined(__AVX512F__) && !defined(BITBAYES_PORTABLE)
#include <immintrin.h>
#define BYTES 64
#elif defined(__AVX2__) && !defined(BITBAYES_PORTABLE)
#include <immintrin.h>
#define BYTES 32
#else
#if defined(__ARM_NEON) && !defined(BITBAYES_PORTABLE)
#include <arm_neon.h>
#endif
#define BYTES 16
#endif

enum { BLOCK = 32, TILE = 4, ROWS = 32, INPUTS = 1024, AHEAD = 24 };

typedef uint64_t words __attribute__((vector_size(BYTES), aligned(8)));
typedef uint32_t halves __attribute__((vector_size(BYTES), aligned(4)));
typedef float floats __attribute__((vector_size(BYTES), aligned(4)));
enum { WIDE = BYTES / 8, VECTORS = BLOCK / WIDE, NARROW = BYTES / 4, HALVES = BLOCK / NARROW };

/* Which of the functions below are in use. */
const char *bitbayes_path(void) {
#if defined(BITBAYES_PORTABLE)
    return "portable";
#elif defined(__AVX512VPOPCNTDQ__)
    return "avx512-vpopcntdq";
#elif defined(__AVX512F__)
    return "avx512";
#elif defined(__AVX2__)
    return "avx2";
#elif defined(__ARM_NEON)
    return "neon";
#else
    return "portable";
#endif
}

static inline words popcount(words x) {
#if defined(__AVX512VPOPCNTDQ__) && !defined(BITBAYES_PORTABLE)
    return (words)_mm512_popcnt_epi64((__m512i)x);
#elif defined(__AVX512BW__) && !defined(BITBAYES_PORTABLE)
    const __m512i low = _mm512_set1_epi8(15);
    const __m512i counts = _mm512_set4_epi32(0x04030302, 0x03020201, 0x03020201, 0x02010100);
    __m512i right = _mm512_and_si512((__m512i)x, low);
    __m512i left = _mm512_and_si512(_mm512_srli_epi16((__m512i)x, 4), low);
    __m512i bytes = _mm512_add_epi8(_mm512_shuffle_epi8(counts, right), _mm512_shuffle_epi8(counts, left));
    return (words)_mm512_sad_epu8(bytes, _mm512_setzero_si512());
#elif defined(__AVX2__) && !defined(__AVX512F__) && !defined(BITBAYES_PORTABLE)
    const __m256i low = _mm256_set1_epi8(15);
    const __m256i counts = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1,
                                            2, 2, 3, 2, 3, 3, 4);
    __m256i right = _mm256_and_si256((__m256i)x, low);
    __m256i left = _mm256_and_si256(_mm256_srli_epi16((__m256i)x, 4), low);
    __m256i bytes = _mm256_add_epi8(_mm256_shuffle_epi8(counts, right), _mm256_shuffle_epi8(counts, left));
    return (words)_mm256_sad_epu8(bytes, _mm256_setzero_si256());
#elif defined(__ARM_NEON) && !defined(BITBAYES_PORTABLE)
    return (words)vpaddlq_u32(vpaddlq_u16(vpaddlq_u8(vcntq_u8((uint8x16_t)x))));
#else
    x -= (x >> 1) & 0x5555555555555555u;
    x = (x & 0x3333333333333333u) + ((x >> 2) & 0x3333333333333333u);
    x = (x + (x >> 4)) & 0x0F0F0F0F0F0F0F0Fu;
    x += x >> 8;
    x += x >> 16;
    x += x >> 32;
    return x & 0x7F;
#endif
}

/* Signs with signs. ----------------------------------------------------------------------------------------------- */

/* A convolution, or a linear layer as one with a single place; all that is int64 comes from Python as one array. */
typedef struct {
    int64_t sources;  /* S: activations of how many networks */
    int64_t networks; /* R: weights that each of them meets; S R networks in all */
    int64_t inputs;   /* N */
    int64_t height, width, channels; /* of an input: words a place */
    int64_t places_y, places_x;      /* of an output */
    int64_t kernel_y, kernel_x, stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x;
    int64_t outputs, blocks; /* blocks of BLOCK outputs */
    int64_t classes;         /* rows of the table for each network */
    int64_t bits;            /* whether bits come out, or sums */
    int64_t threads;
    int64_t weights_at, table_at, classes_at, scale_at, shift_at; /* here: fewer arguments take less time */
} shape;

static void gather(const shape *s, const uint64_t *x, int64_t place, uint64_t *row) {
    int64_t top = place / s->places_x * s->stride_y - s->padding_y, left = place % s->places_x * s->stride_x - s->padding_x;
    for (int64_t i = 0; i < s->kernel_y; i++)
        for (int64_t j = 0; j < s->kernel_x; j++, row += s->channels) {
            int64_t y = top + i * s->dilation_y, z = left + j * s->dilation_x;
            if (y < 0 || z < 0 || y >= s->height || z >= s->width)
                memset(row, 0, s->channels * sizeof *row);
            else
                memcpy(row, x + (y * s->width + z) * s->channels, s->channels * sizeof *row);
        }
}

/* Words of `tile` rows against one block: how many bits differ. `tile` is a constant wherever this is inlined. */
static inline __attribute__((always_inline)) void differences(const uint64_t *rows, const uint64_t *weights,
                                                              int64_t count, int tile, words found[TILE][VECTORS]) {
    words sums[TILE][VECTORS];
    memset(sums, 0, sizeof sums);
    for (int64_t k = 0; k < count; k++, weights += BLOCK)
#pragma GCC unroll 16
        for (int v = 0; v < VECTORS; v++) {
            words w = *(const words *)(weights + v * WIDE);
#pragma GCC unroll 4
            for (int r = 0; r < tile; r++) sums[r][v] += popcount(w ^ rows[r * count + k]);
        }
    memcpy(found, sums, tile * sizeof *sums);
}

/* A bit is one where at most `limits` bits differ. */
static inline uint32_t few(const words *found, const int64_t *limits) {
    const int64_t *counts = (const int64_t *)found;
    uint32_t result = 0;
#if defined(__AVX512F__) && !defined(BITBAYES_PORTABLE)
    for (int v = 0; v < VECTORS; v++)
        result |= (uint32_t)_mm512_cmple_epi64_mask(_mm512_loadu_si512(counts + v * WIDE),
                                                    _mm512_loadu_si512(limits + v * WIDE))
                  << (v * WIDE);
#else
    for (int i = 0; i < BLOCK; i++) result |= (uint32_t)(counts[i] <= limits[i]) << i;
#endif
    return result;
}

static void store(const shape *s, int64_t row, int64_t block, const words *found, const int64_t *table,
                  const float *scale, const float *shift, void *out) {
    if (s->bits) {
        ((uint32_t *)out)[row * ((s->blocks + 1) & ~1) + block] = few(found, table);
        return;
    }
    const int64_t *counts = (const int64_t *)found;
    float sums[BLOCK];
    for (int i = 0; i < BLOCK; i++) sums[i] = __builtin_fmaf((float)(table[i] - 2 * counts[i]), scale[i], shift[i]);
    int64_t rest = s->outputs - block * BLOCK;
    memcpy((float *)out + row * s->outputs + block * BLOCK, sums, (rest < BLOCK ? rest : BLOCK) * sizeof *sums);
}

/* Some rows of outputs, a row an input and place, from `first` on, for all weights that they meet. */
static void some_rows(const shape *s, const uint64_t *x, int64_t source, int64_t first, int64_t count,
                      const int64_t *blocks, const uint64_t *weights, const int64_t *table, const int32_t *classes,
                      const float *scale, const float *shift, uint64_t *rows, void *out) {
    int64_t length = s->kernel_y * s->kernel_x * s->channels, places = s->places_y * s->places_x;
    int64_t of_input = s->height * s->width * s->channels, padded = s->blocks * BLOCK;
    for (int64_t r = 0; r < count; r++)
        gather(s, x + (source * s->inputs + (first + r) / places) * of_input, (first + r) % places, rows + r * length);
    for (int64_t b = blocks[0]; b < blocks[1]; b++) {
        int64_t network = source * s->networks + b / s->blocks, block = b % s->blocks;
        const uint64_t *mine = weights + (network * s->blocks + block) * length * BLOCK;
        for (int64_t r = 0; r < count; r += TILE) {
            words found[TILE][VECTORS];
            int tile = count - r < TILE ? (int)(count - r) : TILE;
            if (tile == TILE)
                differences(rows + r * length, mine, length, TILE, found);
            else
                for (int i = 0; i < tile; i++) differences(rows + (r + i) * length, mine, length, 1, found + i);
            for (int i = 0; i < tile; i++) {
                int64_t row = first + r + i, at = network * padded + block * BLOCK;
                const int64_t *entry = table + (network * s->classes + classes[row % places]) * padded + block * BLOCK;
                store(s, network * s->inputs * places + row, block, found[i], entry, scale + at, shift + at, out);
            }
        }
    }
}

typedef struct {
    const shape *s;
    const uint64_t *x;
    void *out;
    int64_t groups, cuts; /* tasks are groups of rows, or where these are few, groups of blocks */
    int *failed;
} sign_product;

static void some_signs(const void *loop, int64_t part, int64_t parts) {
    const sign_product *all = loop;
    const shape *s = all->s;
    const void *weights = (void *)(intptr_t)s->weights_at, *table = (void *)(intptr_t)s->table_at;
    const void *classes = (void *)(intptr_t)s->classes_at;
    const void *scale = (void *)(intptr_t)s->scale_at, *shift = (void *)(intptr_t)s->shift_at;
    int64_t length = s->kernel_y * s->kernel_x * s->channels, rows = s->inputs * s->places_y * s->places_x;
    int64_t cuts = all->cuts, groups = all->groups, every = s->networks * s->blocks, tasks = groups * s->sources * cuts;
    uint64_t *gathered = malloc(ROWS * length * sizeof *gathered);
    if (gathered == NULL) {
        __atomic_store_n(all->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    for (int64_t task = beginning(tasks, part, parts); task < beginning(tasks, part + 1, parts); task++) {
        int64_t cut = task % cuts, group = task / cuts % groups, source = task / cuts / groups;
        int64_t first = group * ROWS, count = rows - first < ROWS ? rows - first : ROWS;
        int64_t blocks[2] = {every * cut / cuts, every * (cut + 1) / cuts};
        some_rows(s, all->x, source, first, count, blocks, weights, table, classes, scale, shift, gathered, all->out);
    }
    free(gathered);
}

/* All products; nothing depends on the tasks or threads. Returns 0, or 1 without memory. */
int bitbayes_signs(const shape *s, const uint64_t *x, void *out) {
    int64_t groups = (s->inputs * s->places_y * s->places_x + ROWS - 1) / ROWS, every = s->networks * s->blocks;
    int64_t cuts = groups * s->sources < s->threads ? (every < s->threads ? every : s->threads) : 1;
    int failed = 0;
    sign_product all = {s, x, out, groups, cuts, &failed};
    in_parallel(some_signs, &all, s->threads);
    return failed;
}

/* Signs with numbers. --------------------------------------------------------------------------------------------- */

/* sums[i] += the products of 32 inputs, whose tables or numbers are `at`, with weights of a block: one word each. */
#if defined(__AVX512F__) && !defined(BITBAYES_PORTABLE)
/* Four inputs have sixteen sums, which fit into a register; a weight's four bits choose one. */
enum { TABLES = 8 }; /* vectors for 32 inputs */

static void prepare(const float *x, floats *tables) {
    halves flips[4];
    for (int bit = 0; bit < 4; bit++)
        for (int i = 0; i < NARROW; i++) flips[bit][i] = i >> bit & 1 ? 0 : 0x80000000u;
    for (int group = 0; group < 8; group++, x += 4) {
        floats part[4];
        for (int bit = 0; bit < 4; bit++) {
            floats one = x[bit] - (floats){0};
            part[bit] = (floats)((halves)one ^ flips[bit]);
        }
        tables[group] = (part[0] + part[1]) + (part[2] + part[3]);
    }
}

static inline void accumulate(const floats *tables, const uint32_t *weights, floats sums[4][HALVES]) {
    halves w[HALVES];
    for (int v = 0; v < HALVES; v++) w[v] = *(const halves *)(weights + v * NARROW);
#pragma GCC unroll 8
    for (int group = 0; group < 8; group++)
        for (int v = 0; v < HALVES; v++) {
            sums[group % 4][v] += (floats)_mm512_permutexvar_ps((__m512i)w[v], (__m512)tables[group]);
            w[v] >>= 4;
        }
}
#else
enum { TABLES = 32 / NARROW };

static void prepare(const float *x, floats *numbers) { memcpy(numbers, x, 32 * sizeof *x); }

/* A weight's bit, moved to where a float has its sign, turns the input round where it is 0. */
static inline void accumulate(const floats *numbers, const uint32_t *weights, floats sums[4][HALVES]) {
    const float *x = (const float *)numbers;
    halves w[HALVES];
    for (int v = 0; v < HALVES; v++) w[v] = ~*(const halves *)(weights + v * NARROW);
#pragma GCC unroll 4
    for (int i = 0; i < 32; i++)
        for (int v = 0; v < HALVES; v++) {
            halves one = (halves)(x[i] - (floats){0});
            sums[i % 4][v] += (floats)(one ^ ((w[v] << (31 - i)) & 0x80000000u));
        }
}
#endif

/* One row of numbers with the weights of some blocks, a piece of the inputs at a time. */
static void one_row(const float *x, int64_t words32, int64_t blocks, const uint32_t *weights, floats *prepared,
                    float *sums) {
    enum { PIECE = INPUTS / 32 };
    memset(sums, 0, blocks * BLOCK * sizeof *sums);
    for (int64_t begin = 0; begin < words32; begin += PIECE) {
        int64_t count = words32 - begin < PIECE ? words32 - begin : PIECE;
        for (int64_t k = 0; k < count; k++) prepare(x + (begin + k) * 32, prepared + k * TABLES);
        for (int64_t b = 0; b < blocks; b++) {
            const uint32_t *mine = weights + (b * words32 + begin) * BLOCK;
            floats found[4][HALVES];
            memset(found, 0, sizeof found);
            for (int64_t k = 0; k < count; k++) {
                const uint32_t *later = mine + (k + AHEAD < count ? k + AHEAD : words32 + k + AHEAD - count) * BLOCK;
                __builtin_prefetch(later);
                __builtin_prefetch(later + BLOCK / 2);
                accumulate(prepared + k * TABLES, mine + k * BLOCK, found);
            }
            for (int v = 0; v < HALVES; v++) {
                floats all = (found[0][v] + found[1][v]) + (found[2][v] + found[3][v]);
                *(floats *)(sums + b * BLOCK + v * NARROW) += all;
            }
        }
    }
}

typedef struct {
    int64_t sources, networks, rows, count, outputs, blocks, cuts; /* tasks are rows, or where these are few, blocks */
    const float *x, *scale, *shift;
    const uint32_t *weights;
    float *out;
    int *failed;
} number_product;

static void some_numbers(const void *loop, int64_t part, int64_t parts) {
    const number_product *n = loop;
    int64_t blocks = n->blocks, all = n->networks * blocks, tasks = n->sources * n->rows * n->cuts;
    float *sums = malloc(all * BLOCK * sizeof *sums);
    floats *prepared = malloc(INPUTS / 32 * TABLES * sizeof *prepared);
    if (sums == NULL || prepared == NULL) {
        __atomic_store_n(n->failed, 1, __ATOMIC_RELAXED);
        tasks = 0;
    }
    for (int64_t task = beginning(tasks, part, parts); task < beginning(tasks, part + 1, parts); task++) {
        int64_t cut = task % n->cuts, row = task / n->cuts % n->rows, source = task / n->cuts / n->rows;
        int64_t first = all * cut / n->cuts, last = all * (cut + 1) / n->cuts;
        one_row(n->x + (source * n->rows + row) * n->count * 32, n->count, last - first,
                n->weights + (source * all + first) * n->count * BLOCK, prepared, sums);
        for (int64_t b = first; b < last; b++) {
            int64_t network = source * n->networks + b / blocks, at = b % blocks * BLOCK, rest = n->outputs - at;
            float *to = n->out + (network * n->rows + row) * n->outputs + at, *from = sums + (b - first) * BLOCK;
            const float *a = n->scale + network * blocks * BLOCK + at, *c = n->shift + network * blocks * BLOCK + at;
            for (int64_t i = 0; i < (rest < BLOCK ? rest : BLOCK); i++) to[i] = __builtin_fmaf(from[i], a[i], c[i]);
        }
    }
    free(prepared);
    free(sums);
}

/* All products; returns as `bitbayes_signs` does. */
int bitbayes_numbers(int64_t sources, int64_t networks, int64_t rows, int64_t count, int64_t outputs, int64_t blocks,
                     int64_t threads, const float *x, const uint32_t *weights, const float *scale, const float *shift,
                     float *out) {
    int64_t all = networks * blocks, cuts = rows * sources < threads ? (all < threads ? all : threads) : 1;
    int failed = 0;
    number_product n = {sources, networks, rows, count, outputs, blocks, cuts, x, scale, shift, weights, out, &failed};
    in_parallel(some_numbers, &n, threads);
    return failed;
}
