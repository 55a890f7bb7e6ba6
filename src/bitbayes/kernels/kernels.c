/* One pass over memory for a rule: the update of a belief and the next draw.

   A rule is a block function that does BLOCK weights at a time; `bitbayes_run` cuts a tensor into blocks, gives every
   block its random bits and its gradient in float32, and shares the blocks among threads. The last block is copied into
   full buffers, so that every weight passes through the same code: results do not depend on threads or on position.

   Plain IEEE operations in the order of the Python rules, and no contraction into fused multiply-adds: beliefs come out
   bit for bit as theirs, whatever the machine. Write loops that the compiler can vectorise: no branch but ?:, no call. */

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "threads.h"

enum { BLOCK = 128, MOST_ARRAYS = 128 };

typedef void block(void *const *belief, const float *restrict g, const int32_t *restrict bits, const float *restrict o,
                   int arrays, float *restrict w);
#define RULE(name)                                                                                                    \
    void name(void *const *belief, const float *restrict g, const int32_t *restrict bits, const float *restrict o,     \
              int arrays, float *restrict w)

typedef struct {
    int64_t address; /* 0 where a rule leaves an array out */
    int64_t size;    /* bytes an entry */
} array;

/* Draws. ------------------------------------------------------------------------------------------------------- */

static inline float sign(float x) { return x >= 0.0f ? 1.0f : -1.0f; }

/* 2^y for |y| <= 126: a polynomial on |f| <= 1/2 with f(0) = 1, to 9e-8 (fitted for this file by a weighted least
   squares iteration), then the whole part n added to the exponent. */
static inline float power_of_two(float y) {
    const float shift = 12582912.0f; /* 1.5 * 2^23: adding it rounds to whole numbers, kept in the low bits */
    union { float f; uint32_t u; } n = {y + shift}, power;
    float f = y - (n.f - shift);
    power.f = 1.326472731e-3f;
    power.f = power.f * f + 9.671512991e-3f;
    power.f = power.f * f + 5.550733581e-2f;
    power.f = power.f * f + 2.402224243e-1f;
    power.f = power.f * f + 6.931470037e-1f;
    power.f = power.f * f + 1.0f;
    power.u += n.u << 23;
    return power.f;
}

/* +1 with probability p = 1 / (1 + exp(-2 lambda)), as Noise.signs: u <= p, which is u (1 + exp(-2 lambda)) <= 1. */
static inline float hard_draw(float natural, int32_t bits) {
    float y = natural * -2.885390082f; /* -2 / ln 2 */
    y = y < -126.0f ? -126.0f : y;
    y = y > 126.0f ? 126.0f : y;
    float u = (float)bits * 0x1p-32f + 0.5f;
    return u * (1.0f + power_of_two(y)) <= 1.0f ? 1.0f : -1.0f;
}

RULE(bernoulli) {
    const float *restrict natural = belief[0];
    (void)g, (void)o, (void)arrays;
    for (int i = 0; i < BLOCK; i++) w[i] = hard_draw(natural[i], bits[i]);
}

/* BayesBiNN: natural, average, prior; gain, rate, momentum, 1 - momentum. ---------------------------------------- */

static inline void natural_step(void *const *belief, const float *restrict g, const float *restrict o) {
    float *restrict natural = belief[0], *restrict average = belief[1], change[BLOCK];
    const float *restrict prior = belief[2];
    for (int i = 0; i < BLOCK; i++) change[i] = o[0] * g[i] + natural[i];
    if (prior)
        for (int i = 0; i < BLOCK; i++) change[i] -= prior[i];
    if (average)
        for (int i = 0; i < BLOCK; i++) change[i] = average[i] = o[2] * average[i] + o[3] * change[i];
    for (int i = 0; i < BLOCK; i++) natural[i] -= o[1] * change[i];
}

RULE(bayesbinn) {
    natural_step(belief, g, o);
    bernoulli(belief, g, bits, o, arrays, w);
}

RULE(bayesbinn_point) {
    const float *restrict natural = belief[0];
    (void)bits, (void)arrays;
    natural_step(belief, g, o);
    for (int i = 0; i < BLOCK; i++) w[i] = sign(natural[i]);
}

/* STE: latent, moments; window, decay, rate, clip, then what the inner optimizer needs. ------------------------- */

static inline float ste_gradient(float g, float v, const float *o) {
    return g * (o[0] - fabsf(v) >= 0.0f ? 1.0f : 0.0f) + o[1] * v;
}

static inline float ste_latent(float v, float direction, const float *o) {
    v -= o[2] * direction;
    v = v < -o[3] ? -o[3] : v;
    return v > o[3] ? o[3] : v;
}

/* 1 - beta1, 1 - beta2, and both bias corrections. */
RULE(ste_adam) {
    float *restrict v = belief[0], *restrict first = belief[1], *restrict second = belief[2];
    (void)bits, (void)arrays;
    for (int i = 0; i < BLOCK; i++) {
        float d = ste_gradient(g[i], v[i], o);
        first[i] += o[4] * (d - first[i]);
        float square = d * d < FLT_MAX ? d * d : FLT_MAX;
        second[i] += o[5] * (square - second[i]);
        float root = sqrtf(second[i] / o[7]) + 1e-8f;
        v[i] = ste_latent(v[i], first[i] / o[6] / root, o);
        w[i] = sign(v[i]);
    }
}

/* Momentum. */
RULE(ste_sgd) {
    float *restrict v = belief[0], *restrict momentum = belief[1];
    (void)bits, (void)arrays;
    for (int i = 0; i < BLOCK; i++) {
        momentum[i] = o[4] * momentum[i] + ste_gradient(g[i], v[i], o);
        v[i] = ste_latent(v[i], momentum[i], o);
        w[i] = sign(v[i]);
    }
}

/* Bop: average, sign; gamma, threshold. -------------------------------------------------------------------------- */

RULE(bop) {
    float *restrict average = belief[0];
    int8_t *restrict signs = belief[1];
    (void)bits, (void)arrays;
    for (int i = 0; i < BLOCK; i++) {
        float s = signs[i];
        average[i] += o[0] * (g[i] - average[i]);
        w[i] = s * sign(o[1] - s * average[i]);
    }
    for (int i = 0; i < BLOCK; i++) signs[i] = (int8_t)w[i];
}

/* VISPA: rows of the latent, then rows of the momentum; rate, momentum, decay, divisor, whether to project, then for
   every row its factor of the gradient, then for every row its factor in the draw. ------------------------------- */

static inline void add_row(const float *restrict row, float factor, float *restrict sum) {
    for (int i = 0; i < BLOCK; i++) sum[i] += factor * row[i];
}

static inline void project(void *const *belief, int rows, float divisor) {
    const float *center = belief[0];
    float root[BLOCK] = {0};
    for (int k = 1; k < rows; k++) {
        const float *row = belief[k];
        for (int i = 0; i < BLOCK; i++) root[i] += row[i] * row[i];
    }
    for (int i = 0; i < BLOCK; i++) {
        float moment = center[i] * center[i] + root[i] / divisor;
        root[i] = sqrtf(moment < 1e-30f ? 1e-30f : moment);
    }
    for (int k = 0; k < rows; k++) {
        float *restrict row = belief[k];
        for (int i = 0; i < BLOCK; i++) row[i] /= root[i];
    }
}

/* Rows, and for every row its factor. */
RULE(low_rank) {
    float sum[BLOCK] = {0};
    (void)g, (void)bits;
    for (int k = 0; k < arrays; k++) add_row(belief[k], o[k], sum);
    for (int i = 0; i < BLOCK; i++) w[i] = sign(sum[i]);
}

RULE(vispa) {
    int rows = arrays / 2;
    for (int k = 0; k < rows; k++) {
        float *restrict row = belief[k], *restrict momentum = belief[rows + k], factor = o[5 + k];
        for (int i = 0; i < BLOCK; i++) {
            momentum[i] = o[1] * momentum[i] + (factor * g[i] + o[2] * row[i]);
            row[i] -= o[0] * momentum[i];
        }
    }
    if (o[4] != 0.0f) project(belief, rows, o[3]);
    low_rank(belief, g, bits, o + 5 + rows, rows, w);
}

/* The driver. ---------------------------------------------------------------------------------------------------- */

/* SplitMix64's output at key + j * golden: each word serves two weights. See bitbayes/noise.py. */
static inline uint64_t hash(uint64_t counter) {
    uint64_t word = (counter ^ (counter >> 30)) * 0xBF58476D1CE4E5B9u;
    word = (word ^ (word >> 27)) * 0x94D049BB133111EBu;
    return word ^ (word >> 31);
}

static inline void hash_block(uint64_t counter, uint64_t *words) {
    for (int j = 0; j < BLOCK / 2; j++, counter += 0x9E3779B97F4A7C15u) words[j] = hash(counter);
}

static void widen(const uint16_t *from, float *to) {
    union { uint32_t u; float f; } wide;
    for (int i = 0; i < BLOCK; i++) wide.u = (uint32_t)from[i] << 16, to[i] = wide.f;
}

/* +1 and -1 are exact in bfloat16: its bits are the upper half of theirs. */
static void narrow(const float *from, uint16_t *to) {
    union { float f; uint32_t u; } wide;
    for (int i = 0; i < BLOCK; i++) wide.f = from[i], to[i] = (uint16_t)(wide.u >> 16);
}

typedef struct {
    block *rule;
    const array *belief;
    int arrays;
    array gradient, weights; /* float32 or bfloat16 */
    const float *o;
    uint64_t key;
    int noisy; /* 2 where the first weight takes the second half of the first word, as a shard of a tensor may */
} job;

static void full_block(const job *a, void *const *belief, const void *gradient, void *weights, int64_t start) {
    union { uint64_t words[BLOCK / 2 + 1]; int32_t bits[BLOCK + 2]; } noise;
    float g[BLOCK], w[BLOCK];
    int half = a->weights.size == 2;
    uint64_t counter = a->key + (uint64_t)start / 2 * 0x9E3779B97F4A7C15u;
    if (a->noisy) hash_block(counter, noise.words);
    if (a->noisy > 1) noise.words[BLOCK / 2] = hash(counter + BLOCK / 2 * 0x9E3779B97F4A7C15u);
    if (a->gradient.size == 2) widen(gradient, g), gradient = g;
    a->rule(belief, gradient, noise.bits + (a->noisy > 1), a->o, a->arrays, half ? w : weights);
    if (half) narrow(w, weights);
}

static void *at(array a, int64_t start) { return a.address ? (char *)a.address + start * a.size : NULL; }

static void one_block(const job *a, int64_t start, int64_t length) {
    void *belief[MOST_ARRAYS];
    for (int k = 0; k < a->arrays; k++) belief[k] = at(a->belief[k], start);
    void *gradient = at(a->gradient, start), *weights = at(a->weights, start);
    if (length == BLOCK) {
        full_block(a, belief, gradient, weights, start);
        return;
    }
    float rows[a->arrays + 2][BLOCK];
    void *place[MOST_ARRAYS];
    memset(rows, 0, sizeof rows);
    for (int k = 0; k < a->arrays; k++) {
        place[k] = belief[k] ? (void *)rows[k] : NULL;
        if (belief[k]) memcpy(place[k], belief[k], length * a->belief[k].size);
    }
    if (gradient) memcpy(rows[a->arrays], gradient, length * a->gradient.size);
    full_block(a, place, gradient ? rows[a->arrays] : NULL, rows[a->arrays + 1], start);
    for (int k = 0; k < a->arrays; k++)
        if (belief[k]) memcpy(belief[k], place[k], length * a->belief[k].size);
    memcpy(weights, rows[a->arrays + 1], length * a->weights.size);
}

typedef struct {
    int64_t rule, count, arrays, numbers, key, noisy; /* the gradient, the weights and the belief follow as arrays */
} header;

typedef struct {
    const int64_t *jobs;
    int count;
    const float *o;
} list;

static void some_blocks(const void *loop, int64_t part, int64_t parts) {
    list all = *(const list *)loop;
    for (int j = 0; j < all.count; j++) {
        const header *h = (const header *)all.jobs;
        const array *tensors = (const array *)(h + 1);
        job a = {(block *)h->rule, tensors + 2, h->arrays, tensors[0], tensors[1], all.o, h->key, h->noisy};
        int64_t blocks = (h->count + BLOCK - 1) / BLOCK, end = beginning(blocks, part + 1, parts);
        for (int64_t b = beginning(blocks, part, parts); b < end; b++) {
            int64_t start = b * BLOCK, rest = h->count - start;
            one_block(&a, start, rest < BLOCK ? rest : BLOCK);
        }
        all.jobs = (const int64_t *)(tensors + 2 + h->arrays);
        all.o += h->numbers;
    }
}

/* Runs jobs on tensors that have nothing in common, in one go: each is a header and its arrays; `o` has the numbers of
   all. A thread does not wait for the others between tensors. */
void bitbayes_run(const int64_t *jobs, int count, const float *o, int threads) {
    list all = {jobs, count, o};
    in_parallel(some_blocks, &all, threads);
}
