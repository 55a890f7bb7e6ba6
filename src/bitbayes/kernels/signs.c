/* Weights of ±s as bits: one read of the float32 numbers, for every weight of every network that is packed. */

#include <math.h>
#include <stdint.h>
#include <string.h>

enum { PIECE = 256 };

/* Whether all numbers are ±size, and one bit for each: bit i % 8 of byte i / 8 is 1 where it is positive. */
static int piece(const float *x, float size, uint8_t *bits) {
    uint8_t positive[PIECE];
    uint32_t others = 0;
    for (int i = 0; i < PIECE; i++) others |= fabsf(x[i]) != size;
    for (int i = 0; i < PIECE; i++) positive[i] = x[i] > 0.0f;
    for (int i = 0; i < PIECE / 8; i++) {
        uint64_t eight; /* bytes of 0 or 1; the product moves the one at place j to bit 56 + j */
        memcpy(&eight, positive + 8 * i, sizeof eight);
        bits[i] = (uint8_t)(eight * 0x0102040810204080u >> 56);
    }
    return !others;
}

/* Bits of rows of `count` numbers, which begin at a new byte; returns 0 unless every row is ±its scale, above 0. */
int bitbayes_signs_of(int64_t rows, int64_t count, const float *x, const float *scale, uint8_t *bits) {
    int64_t bytes = (count + 7) / 8, whole = count / PIECE * PIECE, rest = count - whole;
    for (int64_t r = 0; r < rows; r++, x += count, bits += bytes) {
        float size = scale[r];
        int good = size > 0.0f;
        for (int64_t i = 0; i < whole; i += PIECE) good &= piece(x + i, size, bits + i / 8);
        if (rest) {
            float last[PIECE];
            uint8_t packed[PIECE / 8];
            for (int i = 0; i < PIECE; i++) last[i] = -size; /* bits that are left over are 0 */
            memcpy(last, x + whole, rest * sizeof *last);
            good &= piece(last, size, packed);
            memcpy(bits + whole / 8, packed, bytes - whole / 8);
        }
        if (!good) return 0;
    }
    return 1;
}
