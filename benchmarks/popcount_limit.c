/* What xor, popcount and addition reach where no memory is read: the limit of every product of signs. */

#include <stdint.h>

#if defined(__AVX512VPOPCNTDQ__)
#include <immintrin.h>
enum { WIDE = 8 };
typedef __m512i words;
#define POPCOUNT _mm512_popcnt_epi64
#define SAME(x) __asm__ volatile("" : "+v"(x)) /* the compiler may not know its value */
#else
enum { WIDE = 1 };
typedef uint64_t words;
#define POPCOUNT __builtin_popcountll
#define SAME(x) __asm__ volatile("" : "+r"(x))
#endif

/* Products of signs that 24 xors of every turn stand for: eight rows that meet three weights. */
int64_t limit(int64_t turns) {
    words sums[8] = {0}, rows[8] = {0}, weights[3] = {0};
    for (int i = 0; i < 8; i++) SAME(rows[i]);
    for (int64_t turn = 0; turn < turns; turn++)
#pragma GCC unroll 3
        for (int w = 0; w < 3; w++) {
            SAME(weights[w]);
#pragma GCC unroll 8
            for (int i = 0; i < 8; i++) sums[i] += POPCOUNT(weights[w] ^ rows[i]);
        }
    for (int i = 0; i < 8; i++) SAME(sums[i]);
    return turns * 24 * WIDE * 64;
}
