/* label_map of semantic.py, cell by cell: the same arithmetic in the same order, and so the same labels, bit for bit.
 * C99, no Python: called through ctypes, which lets other threads run meanwhile. Built by compiled.py. */

#include <stdint.h>
#include <string.h>

enum { MAX_CLASSES = 256, TOGETHER = 256 };

/* The class that leads at each score: of equals the lowest. leader: h * w. A few scores at a time go through all classes, with
 * classes as wide as scores are: compilers then compare a register of them at once, on any processor. */
static void find_leaders(const float *scores, int64_t classes, int64_t plane, uint8_t *restrict leader)
{
    float best[TOGETHER];
    int32_t first[TOGETHER];
    for (int64_t start = 0; start < plane; start += TOGETHER) {
        const int64_t count = plane - start < TOGETHER ? plane - start : TOGETHER;
        memcpy(best, scores + start, (size_t)count * sizeof(float));
        memset(first, 0, sizeof(first));
        for (int32_t k = 1; k < classes; k++) {
            const float *restrict score = scores + k * plane + start;
            for (int64_t i = 0; i < count; i++) {
                const int32_t ahead = score[i] > best[i] ? -1 : 0;
                first[i] = (k & ahead) | (first[i] & ~ahead);
                best[i] = best[i] > score[i] ? best[i] : score[i];
            }
        }
        for (int64_t i = 0; i < count; i++)
            leader[start + i] = (uint8_t)first[i];
    }
}

/* Who can win inside the cell whose corner in the upper left is `at`: those who are at least level, at one corner or more, with
 * the class that is strongest on the whole. lead: how far each is ahead of the first of them, at the four corners. */
static int find_rivals(const float *at, int64_t classes, int64_t plane, int64_t w, uint8_t *rivals, double (*lead)[4])
{
    const int64_t corner[4] = {0, 1, w, w + 1};
    const float *strongest = at;
    double most = 0;
    for (int64_t k = 0; k < classes; k++) {
        const float *score = at + k * plane;
        double sum = 0;
        for (int i = 0; i < 4; i++)
            sum += score[corner[i]];
        if (k == 0 || sum > most) {
            most = sum;
            strongest = score;
        }
    }
    int count = 0;
    for (int64_t k = 0; k < classes; k++) {
        const float *score = at + k * plane;
        if (score[0] < strongest[0] && score[1] < strongest[1] && score[w] < strongest[w] && score[w + 1] < strongest[w + 1])
            continue;
        for (int i = 0; i < 4; i++)
            lead[count][i] = score[corner[i]];
        rivals[count++] = (uint8_t)k;
    }
    for (int r = count - 1; r >= 0; r--)
        for (int i = 0; i < 4; i++)
            lead[r][i] -= lead[0][i];
    return count;
}

/* The pixels of a cell on one row of the image, `down` of the way between its corners: who is ahead, of equals the lowest. */
static void settle(const uint8_t *rivals, double (*lead)[4], int count, double down, const double *right, int64_t pixels,
                   uint8_t *restrict to)
{
    double west[MAX_CLASSES], slope[MAX_CLASSES];
    for (int r = 1; r < count; r++) {
        west[r] = lead[r][0] + down * (lead[r][2] - lead[r][0]);
        slope[r] = lead[r][1] + down * (lead[r][3] - lead[r][1]) - west[r];
    }
    for (int64_t i = 0; i < pixels; i++) {
        double most = 0;
        int first = 0;
        for (int r = 1; r < count; r++) {
            const double ahead = west[r] + right[i] * slope[r];
            first = ahead > most ? r : first;
            most = ahead > most ? ahead : most;
        }
        to[i] = rivals[first];
    }
}

/* How many cells of a row, from `x` on, have one class in the lead at all their corners, and the same. */
static int64_t count_settled(const uint8_t *above, const uint8_t *below, int64_t x, int64_t w)
{
    const uint8_t first = above[x];
    int64_t end = x;
    while (end < w - 1 && above[end] == first && above[end + 1] == first && below[end] == first && below[end + 1] == first)
        end++;
    return end - x;
}

/* scores: classes x h x w. Pixel rows first_row[i] up to first_row[i + 1] lie in row i of the cells, of which there are h - 1,
 * each row_fraction of the way down; columns alike. leader: scratch, h x w. labels: written, height x width. */
void fcn_label_map(const float *scores, int64_t classes, int64_t h, int64_t w, const int64_t *first_row,
                   const double *row_fraction, const int64_t *first_column, const double *column_fraction, uint8_t *leader,
                   uint8_t *labels, int64_t width)
{
    const int64_t plane = h * w;
    uint8_t rivals[MAX_CLASSES];
    double lead[MAX_CLASSES][4];

    find_leaders(scores, classes, plane, leader);
    for (int64_t y = 0; y < h - 1; y++) {
        const uint8_t *above = leader + y * w, *below = above + w;
        for (int64_t x = 0, cells; x < w - 1; x += cells) {
            const int64_t settled = count_settled(above, below, x, w);
            cells = settled ? settled : 1;
            const int64_t left = first_column[x], right = first_column[x + cells];
            const int count = settled ? 0 : find_rivals(scores + y * w + x, classes, plane, w, rivals, lead);
            for (int64_t row = first_row[y]; row < first_row[y + 1]; row++) {
                uint8_t *to = labels + row * width + left;
                if (settled)
                    memset(to, above[x], (size_t)(right - left));
                else
                    settle(rivals, lead, count, row_fraction[row], column_fraction + left, right - left, to);
            }
        }
    }
}
