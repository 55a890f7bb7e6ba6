/* Heat bath over the signs of the weights of a dense network: one sweep visits every sign of every chain once.

   Each chain keeps, for all training points, what goes into the units (`pre`) and what comes out (`out`). A sign is
   tried by computing anew only what depends on its weight: one unit of its layer, and all layers above. Numbers of one
   unit for all points lie side by side, so loops over points are vectors. Points are padded to a multiple of LANES, and
   `valid` is 0 for those that are none. Activations are float32; losses are added up in double. */

#include <math.h>
#include <string.h>

#include "threads.h"

#pragma GCC diagnostic ignored "-Wpsabi" /* how functions pass vectors does not matter where all are inline */

enum { LANES = 16, MOST_LAYERS = 64, MOST_BITS = 1000 }; /* a double holds products below 2^1024 */
enum { BINARY, CLASSES, SQUARED };
enum { IDENTITY, TANH, RELU };

typedef struct {
    int64_t chains, layers, points, loss, weights, visits, room; /* the last three for each chain */
    double cold;  /* 1 / (2 T) */
    double gain;  /* factor of all outputs */
    double scale; /* factor of squared errors, 1 / (2 σ²) */
    const int64_t *width; /* of the inputs and of every layer, then the activation of every layer */
    const float *inputs, *targets, *valid;
    const int32_t *visit; /* layer, unit and input of every binary weight; input `width` is the bias */
    const float *noise;   /* ½ logit of a uniform number for every visit */
    float *weight;        /* of all layers: a row for every unit, then the biases */
    double *energy;       /* total loss of every chain, written at the end */
    float *space;
} sampler;

typedef struct {
    int64_t wide, units, kind;
    float *weight, *bias;
    const float *in;
    float *pre, *out, *new_pre, *new_out;
} layer;

/* Vectors of GCC and Clang. What chooses between numbers works on their bits, where a choice is no branch. */
typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t words __attribute__((vector_size(4 * LANES), aligned(4)));
typedef double doubles __attribute__((vector_size(8 * LANES), aligned(8)));

#define INLINE static inline __attribute__((always_inline))

INLINE lanes load(const float *x) { return *(const lanes *)x; }

INLINE lanes as_lanes(words x) { return (lanes)x; }

INLINE lanes positive_part(lanes x) { return as_lanes((words)x & ~((words)x >> 31)); }

INLINE lanes size_of(lanes x) { return as_lanes((words)x & INT32_MAX); }

/* The number nearer to 0 of ±most and x, with the sign of x. */
INLINE lanes bounded(lanes x, float most) {
    const words size = (words)size_of(x), end = (words)(most + (lanes){0}), within = size < end;
    return as_lanes((size & within) | (end & ~within) | ((words)x & INT32_MIN));
}

INLINE lanes larger(lanes x, lanes y) {
    const words first = x > y;
    return as_lanes(((words)x & first) | ((words)y & ~first));
}

/* x P(x²) / Q(x²) for |x| < 9, beyond which tanh rounds to ±1; minimax in the relative error, which is 2e-8 before
   rounding and 4e-7 after it. */
INLINE lanes tanh_of(lanes x) {
    x = bounded(x, 9.02f);
    const lanes s = x * x;
    lanes p = 1.331910033e-08f * s + 2.058350412e-05f;
    p = p * s + 3.494036053e-03f;
    p = p * s + 1.337971923e-01f;
    p = p * s + 9.999999790e-01f;
    lanes q = 7.762031760e-07f * s + 3.283095208e-04f;
    q = q * s + 2.587107899e-02f;
    q = q * s + 4.671303448e-01f;
    q = q * s + 1.0f;
    return x * p / q;
}

/* eˣ for x ≤ 0: 2ᵏ times a polynomial of the rest, which is at most ½ log 2. */
INLINE lanes exp_of(lanes x) {
    x = bounded(x, 87.0f);
    const words k = __builtin_convertvector(x * 1.44269504f - 0.5f, words);
    const lanes whole = __builtin_convertvector(k, lanes);
    const lanes r = (x - whole * 0.693359375f) + whole * 2.12194440e-4f; /* log 2 in two parts, the first exact */
    lanes p = r * (1.0f / 720) + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return p * as_lanes((k + 127) << 23);
}

static void activate(int64_t count, int64_t kind, float *y, const float *x) {
    if (kind == IDENTITY) memcpy(y, x, count * sizeof *y);
    for (int64_t i = 0; kind == TANH && i < count; i += LANES) *(lanes *)(y + i) = tanh_of(load(x + i));
    for (int64_t i = 0; kind == RELU && i < count; i += LANES) *(lanes *)(y + i) = positive_part(load(x + i));
}

/* A sum of numbers and of logarithms. Instead of the logarithms, the product of their arguments is kept, because one
   logarithm costs as much as dozens of factors; it is taken before the product can overflow. */
typedef struct {
    doubles numbers, product;
    double logarithms;
    int64_t steps, most;
} sum;

INLINE sum begin(int64_t largest) {
    const double bits = largest > 2 ? log2((double)largest) : 1.0;
    return (sum){.product = 1.0 + (doubles){0}, .most = (int64_t)(MOST_BITS / (LANES * bits))};
}

INLINE void take_logarithm(sum *to) {
    double product = 1.0;
    for (int j = 0; j < LANES; j++) product *= to->product[j];
    to->logarithms += log(product);
    to->product = 1.0 + (doubles){0};
    to->steps = 0;
}

/* Adds numbers, and logarithms of factors that are given less 1: a sure network has factors that float32 cannot tell
   from 1. */
INLINE void add(sum *to, lanes numbers, lanes less_one) {
    to->numbers += __builtin_convertvector(numbers, doubles);
    to->product *= 1.0 + __builtin_convertvector(less_one, doubles);
    if (++to->steps >= to->most) take_logarithm(to);
}

INLINE double total(sum *of) {
    double all = 0.0;
    for (int j = 0; j < LANES; j++) all += of->numbers[j];
    take_logarithm(of);
    return all + of->logarithms;
}

/* log(1 + eᶻ) − y z = max(z, 0) − y z + log(1 + e^−|z|) */
static double binary_loss(const sampler *o, const float *outputs, int64_t count) {
    sum all = begin(2);
    for (int64_t k = 0, i = 0; k < count; k++)
        for (int64_t n = 0; n < o->points; n += LANES, i += LANES) {
            const lanes z = (float)o->gain * load(outputs + i), valid = load(o->valid + n);
            add(&all, valid * (positive_part(z) - load(o->targets + i) * z), valid * exp_of(-size_of(z)));
        }
    return total(&all);
}

/* log Σ e^(z_k − z_max) + z_max − z_y; `targets` has a 1 for the class of each point */
static double class_loss(const sampler *o, const float *outputs, int64_t count) {
    sum all = begin(count);
    const int64_t points = o->points;
    for (int64_t i = 0; i < points; i += LANES) {
        const float gain = (float)o->gain, *z = outputs + i, *y = o->targets + i;
        lanes most = gain * load(z), right = {0}, exponentials = {0};
        for (int64_t k = 1; k < count; k++) most = larger(most, gain * load(z + k * points));
        for (int64_t k = 0; k < count; k++) {
            const lanes below = gain * load(z + k * points) - most;
            right += load(y + k * points) * below;
            exponentials += exp_of(below);
        }
        const lanes valid = load(o->valid + i);
        add(&all, -valid * right, valid * (exponentials - 1.0f));
    }
    return total(&all);
}

static double squared_loss(const sampler *o, const float *outputs, int64_t count) {
    sum all = begin(1);
    for (int64_t k = 0, i = 0; k < count; k++)
        for (int64_t n = 0; n < o->points; n += LANES, i += LANES) {
            const lanes error = (float)o->gain * load(outputs + i) - load(o->targets + i);
            add(&all, load(o->valid + n) * error * error, (lanes){0});
        }
    return o->scale * total(&all);
}

static double loss_of(const sampler *o, const float *z, int64_t outputs) {
    if (o->loss == BINARY) return binary_loss(o, z, outputs);
    if (o->loss == CLASSES) return class_loss(o, z, outputs);
    return squared_loss(o, z, outputs);
}

/* Computes a layer from its inputs, so that rounding does not add up from sweep to sweep. */
static void compute(int64_t points, layer *at) {
    for (int64_t k = 0; k < at->units; k++) {
        float *restrict pre = at->pre + k * points;
        for (int64_t n = 0; n < points; n++) pre[n] = at->bias[k];
        for (int64_t j = 0; j < at->wide; j++) {
            const float w = at->weight[k * at->wide + j], *restrict in = at->in + j * points;
            for (int64_t n = 0; n < points; n++) pre[n] += w * in[n];
        }
    }
    activate(at->units * points, at->kind, at->out, at->pre);
}

/* What follows in layer `at` and above from a change of one unit below: `change` of the output of that unit. */
static void propagate(int64_t points, layer *at, layer *last, int64_t unit, const float *restrict change) {
    for (int64_t k = 0; k < at->units; k++) {
        const float w = at->weight[k * at->wide + unit], *restrict pre = at->pre + k * points;
        float *restrict new_pre = at->new_pre + k * points;
        for (int64_t n = 0; n < points; n++) new_pre[n] = pre[n] + w * change[n];
    }
    for (; at < last; at++) {
        activate(at->units * points, at->kind, at->new_out, at->new_pre);
        layer *next = at + 1;
        memcpy(next->new_pre, next->pre, next->units * points * sizeof *next->pre);
        for (int64_t k = 0; k < next->units; k++)
            for (int64_t j = 0; j < next->wide; j++) {
                const float w = next->weight[k * next->wide + j];
                const float *restrict now = at->new_out + j * points, *restrict old = at->out + j * points;
                float *restrict pre = next->new_pre + k * points;
                for (int64_t n = 0; n < points; n++) pre[n] += w * (now[n] - old[n]);
            }
    }
}

static void swap(float **a, float **b) {
    float *kept = *a;
    *a = *b, *b = kept;
}

static void sweep(const sampler *o, int64_t chain) {
    const int64_t points = o->points;
    layer layers[MOST_LAYERS], *last = layers + o->layers - 1;
    float *weight = o->weight + chain * o->weights, *space = o->space + chain * o->room;
    const float *in = o->inputs, *noise = o->noise + chain * o->visits;
    float *new_pre = space, *new_out = space + points, *change = space + 2 * points; /* of one unit */
    space += 3 * points;
    for (layer *at = layers; at <= last; at++) {
        const int64_t place = at - layers, size = o->width[place + 1] * points;
        *at = (layer){.wide = o->width[place], .units = o->width[place + 1], .in = in};
        at->kind = o->width[o->layers + 1 + place];
        at->weight = weight, at->bias = weight + at->wide * at->units, weight = at->bias + at->units;
        at->pre = space, at->out = space + size, at->new_pre = space + 2 * size, at->new_out = space + 3 * size;
        in = at->out, space += 4 * size;
        compute(points, at);
    }
    double energy = loss_of(o, last->pre, last->units);
    for (int64_t v = 0; v < o->visits; v++) {
        layer *at = layers + o->visit[3 * v];
        const int64_t unit = o->visit[3 * v + 1], input = o->visit[3 * v + 2];
        const int is_bias = input == at->wide;
        float *w = is_bias ? at->bias + unit : at->weight + unit * at->wide + input;
        float *pre = at->pre + unit * points, *out = at->out + unit * points;
        /* The output of the layer below may have been swapped. */
        const float *x = at == layers ? o->inputs : (at - 1)->out, step = -2.0f * *w;
        if (is_bias)
            for (int64_t n = 0; n < points; n++) new_pre[n] = pre[n] + step;
        else
            for (int64_t n = 0; n < points; n++) new_pre[n] = pre[n] + step * x[input * points + n];
        double other;
        if (at == last) {
            memcpy(change, pre, points * sizeof *pre);
            memcpy(pre, new_pre, points * sizeof *pre);
            other = loss_of(o, last->pre, last->units);
            memcpy(pre, change, points * sizeof *pre);
        } else {
            activate(points, at->kind, new_out, new_pre);
            for (int64_t n = 0; n < points; n++) change[n] = new_out[n] - out[n];
            propagate(points, at + 1, last, unit, change);
            other = loss_of(o, last->new_pre, last->units);
        }
        /* P[+1] = σ(2 λ), and λ is (loss at −1 minus loss at +1) / (2 T). */
        const int positive = *w > 0.0f;
        const double natural = (positive ? other - energy : energy - other) * o->cold;
        if ((natural + (double)noise[v] > 0.0) == positive) continue;
        *w = -*w, energy = other;
        memcpy(pre, new_pre, points * sizeof *pre);
        if (at == last) continue;
        memcpy(out, new_out, points * sizeof *out);
        for (layer *above = at + 1; above <= last; above++) {
            swap(&above->pre, &above->new_pre);
            if (above < last) swap(&above->out, &above->new_out);
        }
    }
    o->energy[chain] = energy;
}

static void sweeps(const void *loop, int64_t part, int64_t parts) {
    const sampler *o = loop;
    for (int64_t c = beginning(o->chains, part, parts); c < beginning(o->chains, part + 1, parts); c++) sweep(o, c);
}

/* One sweep of every chain: changes `weight`, writes `energy`. */
void bitbayes_gibbs(const sampler *o, int threads) { in_parallel(sweeps, o, threads); }
