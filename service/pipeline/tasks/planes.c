/* The sum over planes of volume.py: the same arithmetic in the same order, and so the same probabilities, bit for bit.
 * C99, no Python: called through ctypes, which lets other threads run meanwhile. Built by compiled.py. */

#include <stdint.h>

enum { TILE = 64, MOST_SLICES = 16 };

/* Slices of one plane. Slice j is share[j] of the way from one[j] to other[j]. */
typedef struct {
    const float *one[MOST_SLICES], *other[MOST_SLICES]; /* planes x h x w each */
    const float *share;
} Slices;

/* Values of slice j from place `row` on: written to `to`. */
static void mix(const Slices *slices, int64_t j, int64_t row, int64_t w, float *restrict to)
{
    const float *restrict one = slices->one[j] + row, *restrict other = slices->other[j] + row, share = slices->share[j];
    for (int64_t x = 0; x < w; x++)
        to[x] = (other[x] - one[x]) * share + one[x];
}

/* Values with those that are there: in their place where they are the first; divided where they are the last. */
static void add(float *restrict to, const float *restrict values, int64_t step, int64_t count, int first, float divisor)
{
    if (first)
        for (int64_t i = 0; i < count; i++)
            to[i] = values[i * step];
    else
        for (int64_t i = 0; i < count; i++)
            to[i] += values[i * step];
    if (divisor != 1)
        for (int64_t i = 0; i < count; i++)
            to[i] /= divisor;
}

/* Add slices of one plane to a volume. ran: addresses of the slices that ran, planes x h x w each. Slice j, of MOST_SLICES at most, is
 * share[j] of the way from ran[from[j]] to ran[to[j]]. total: written; plane k, row y, column x of slice j is at k * of_plane +
 * y * of_row + x * of_column + j * of_slice, where of_column or of_slice is 1. first: whether this is the first sum. divisor: of the
 * sum; 1 leaves it. */
void fcn_add_slices(const uint64_t *ran, const int64_t *from, const int64_t *to, const float *share, int64_t count, int64_t planes,
                    int64_t h, int64_t w, float *total, int64_t of_plane, int64_t of_row, int64_t of_column, int64_t of_slice,
                    int64_t first, double divisor)
{
    Slices slices = {.share = share};
    float mixed[MOST_SLICES * (TILE + 1)]; /* one more: at a power of two, the slices would push each other out of the cache */
    for (int64_t j = 0; j < count; j++) {
        slices.one[j] = (const float *)(uintptr_t)ran[from[j]];
        slices.other[j] = (const float *)(uintptr_t)ran[to[j]];
    }
    for (int64_t k = 0; k < planes; k++)
        for (int64_t y = 0; y < h; y++)
            for (int64_t x = 0; x < w; x += TILE) {
                const int64_t pixels = w - x < TILE ? w - x : TILE;
                float *at = total + k * of_plane + y * of_row + x * of_column;
                for (int64_t j = 0; j < count; j++)
                    mix(&slices, j, (k * h + y) * w + x, pixels, mixed + j * (TILE + 1));
                if (of_slice == 1) /* the slices lie side by side: each piece of memory is visited once */
                    for (int64_t i = 0; i < pixels; i++)
                        add(at + i * of_column, mixed + i, TILE + 1, count, first != 0, (float)divisor);
                else
                    for (int64_t j = 0; j < count; j++)
                        add(at + j * of_slice, mixed + j * (TILE + 1), 1, pixels, first != 0, (float)divisor);
            }
}
