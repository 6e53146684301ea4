/* The sum over planes of volume.py: the same arithmetic in the same order, and so the same probabilities, bit for bit.
 * C99, no Python: called through ctypes, which lets other threads run meanwhile. Built by compiled.py. */

#include <stdint.h>

enum { TILE = 64, MOST_SLICES = 16 };

/* Slices of one plane. Slice j is share[j] of the way from one[j] to other[j]. */
typedef struct {
    const float *one[MOST_SLICES], *other[MOST_SLICES]; /* planes x h x w each */
    const float *share;
} Slices;

/* Values of slice j from place `row` on, in units of 1 / scale, rounded: written to `to`. */
static void mix(const Slices *slices, int64_t j, int64_t row, int64_t w, float scale, uint16_t *restrict to)
{
    const float *restrict one = slices->one[j] + row, *restrict other = slices->other[j] + row, share = slices->share[j];
    for (int64_t x = 0; x < w; x++)
        to[x] = (uint16_t)(int32_t)(((other[x] - one[x]) * share + one[x]) * scale + 0.5f);
}

/* Values with those that are there; in their place where they are the first. */
static void add(uint16_t *restrict to, const uint16_t *restrict values, int64_t step, int64_t count, int first)
{
    if (first)
        for (int64_t i = 0; i < count; i++)
            to[i] = values[i * step];
    else
        for (int64_t i = 0; i < count; i++)
            to[i] = (uint16_t)(to[i] + values[i * step]);
}

/* Add slices of one plane to a volume. ran: addresses of the slices that ran, planes x h x w each, 0..1. Slice j, of MOST_SLICES at
 * most, is share[j] of the way from ran[from[j]] to ran[to[j]]. scale: what a probability of 1 adds. total: written; plane k, row y,
 * column x of slice j is at k * of_plane + y * of_row + x * of_column + j * of_slice, where of_column or of_slice is 1. first:
 * whether this is the first plane. */
void fcn_add_slices(const uint64_t *ran, const int64_t *from, const int64_t *to, const float *share, int64_t count, int64_t planes,
                    int64_t h, int64_t w, double scale, uint16_t *total, int64_t of_plane, int64_t of_row, int64_t of_column,
                    int64_t of_slice, int64_t first)
{
    Slices slices = {.share = share};
    uint16_t mixed[MOST_SLICES * (TILE + 2)]; /* more: at a power of two, the slices would push each other out of the cache */
    for (int64_t j = 0; j < count; j++) {
        slices.one[j] = (const float *)(uintptr_t)ran[from[j]];
        slices.other[j] = (const float *)(uintptr_t)ran[to[j]];
    }
    for (int64_t k = 0; k < planes; k++)
        for (int64_t y = 0; y < h; y++)
            for (int64_t x = 0; x < w; x += TILE) {
                const int64_t pixels = w - x < TILE ? w - x : TILE;
                uint16_t *at = total + k * of_plane + y * of_row + x * of_column;
                for (int64_t j = 0; j < count; j++)
                    mix(&slices, j, (k * h + y) * w + x, pixels, (float)scale, mixed + j * (TILE + 2));
                if (of_slice == 1) /* the slices lie side by side: each piece of memory is visited once */
                    for (int64_t i = 0; i < pixels; i++)
                        add(at + i * of_column, mixed + i, TILE + 2, count, first != 0);
                else
                    for (int64_t j = 0; j < count; j++)
                        add(at + j * of_slice, mixed + j * (TILE + 2), 1, pixels, first != 0);
            }
}
