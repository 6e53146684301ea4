/* find_peaks and nearest_peaks of panoptic.py, move_pixels of regions.py: the same arithmetic in the same order, and so the same
 * objects, bit for bit. C99, no Python: called through ctypes, which lets other threads run meanwhile. Built by compiled.py. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Share of the squared coordinates by which a peak must be farther than another one at every corner of a cell, to be out of
 * question inside it. Rounding moves a squared distance by less than a thousandth of this. */
static const double MARGIN = 1e-11;

static double larger(double a, double b)
{
    return a > b ? a : b;
}

static int ascending(const void *a, const void *b)
{
    const uint64_t one = *(const uint64_t *)a, other = *(const uint64_t *)b;
    return (one > other) - (one < other);
}

/* Whether no value of the window around a cell is higher than the cell's own. */
static int is_highest(const float *heatmap, int64_t h, int64_t w, int64_t row, int64_t column, int64_t reach)
{
    const float own = heatmap[row * w + column];
    const int64_t top = row > reach ? row - reach : 0, bottom = row + reach < h ? row + reach : h - 1;
    const int64_t left = column > reach ? column - reach : 0, right = column + reach < w ? column + reach : w - 1;
    for (int64_t y = top; y <= bottom; y++)
        for (int64_t x = left; x <= right; x++)
            if (heatmap[y * w + x] > own)
                return 0;
    return 1;
}

/* heatmap: h x w. keys, taken: scratch, h * w each. peaks: written, most x 2, (row, column). Gives how many there are. */
int64_t fcn_find_peaks(const float *heatmap, int64_t h, int64_t w, double least, int64_t reach, int64_t most, uint64_t *keys,
                       uint8_t *taken, int64_t *peaks)
{
    const float lowest = (float)least;
    int64_t candidates = 0, count = 0;
    for (int64_t i = 0; i < h * w; i++)
        if (heatmap[i] >= lowest && is_highest(heatmap, h, w, i / w, i % w, reach)) {
            uint32_t bits; /* of positive floats these ascend as the floats do */
            memcpy(&bits, heatmap + i, sizeof bits);
            keys[candidates++] = (uint64_t)~bits << 32 | (uint64_t)i; /* highest first, of equals the first in reading order */
        }
    qsort(keys, (size_t)candidates, sizeof *keys, ascending);
    memset(taken, 0, (size_t)h * (size_t)w);
    for (int64_t c = 0; c < candidates && c < 4 * most && count < most; c++) {
        const int64_t at = (int64_t)(keys[c] & 0xffffffff), row = at / w, column = at % w;
        if (taken[at])
            continue;
        peaks[2 * count] = row;
        peaks[2 * count++ + 1] = column;
        const int64_t left = column > reach ? column - reach : 0, right = column + reach < w ? column + reach : w - 1;
        for (int64_t y = row > reach ? row - reach : 0; y <= row + reach && y < h; y++)
            memset(taken + y * w + left, 1, (size_t)(right - left + 1));
    }
    return count;
}

typedef struct {
    const double *y, *x;     /* where each corner points to: h x w */
    int64_t h, w;            /* corners */
    const double *peaks;     /* count x 2 */
    int64_t count;
    double reach;            /* largest coordinate of a peak, without its sign */
    uint16_t *nearest;       /* h * w: 1 + the nearest peak of each corner, 0 where it was not yet computed */
    double *lead, *scale;    /* h * w: how much farther the second nearest is, squared; the largest coordinate */
    int64_t *rivals;         /* count */
} Corners;

static double squared(double y, double x, const double *peak)
{
    const double down = y - peak[0], right = x - peak[1];
    return down * down + right * right;
}

static void find_nearest(const Corners *corners, int64_t at)
{
    const double y = corners->y[at], x = corners->x[at];
    double best = INFINITY, second = INFINITY;
    int64_t winner = 0;
    for (int64_t p = 0; p < corners->count; p++) {
        const double distance = squared(y, x, corners->peaks + 2 * p);
        if (distance < best) {
            second = best;
            best = distance;
            winner = p;
        } else if (distance < second)
            second = distance;
    }
    corners->nearest[at] = (uint16_t)(winner + 1);
    corners->lead[at] = second - best;
    corners->scale[at] = larger(larger(fabs(y), fabs(x)), corners->reach);
}

/* The margin of a cell. */
static double margin(const Corners *corners, const int64_t *corner)
{
    double largest = 0;
    for (int i = 0; i < 4; i++)
        largest = larger(largest, corners->scale[corner[i]]);
    return MARGIN * (largest * largest);
}

/* Gives 1 + the peak that all pixels of a cell belong to, or 0 if they must be computed one by one. */
static uint16_t owner_of(const Corners *corners, const int64_t *corner)
{
    for (int i = 0; i < 4; i++)
        if (!corners->nearest[corner[i]])
            find_nearest(corners, corner[i]);
    const uint16_t first = corners->nearest[corner[0]];
    double least = INFINITY;
    for (int i = 0; i < 4; i++) {
        if (corners->nearest[corner[i]] != first)
            return 0;
        least = corners->lead[corner[i]] < least ? corners->lead[corner[i]] : least;
    }
    return least > margin(corners, corner) ? first : 0;
}

/* The peaks that can be nearest inside a cell: those that the one nearest on the whole does not beat at all four corners. The
 * difference of squared distances to two peaks is linear in the point. Gives how many there are. */
static int64_t find_rivals(const Corners *corners, const int64_t *corner)
{
    double most = INFINITY, nearest[4] = {0, 0, 0, 0};
    for (int64_t p = 0; p < corners->count; p++) {
        double distance[4], sum = 0;
        for (int i = 0; i < 4; i++)
            sum += distance[i] = squared(corners->y[corner[i]], corners->x[corner[i]], corners->peaks + 2 * p);
        if (sum < most) {
            most = sum;
            memcpy(nearest, distance, sizeof nearest);
        }
    }
    const double allowed = margin(corners, corner);
    int64_t count = 0;
    for (int64_t p = 0; p < corners->count; p++)
        for (int i = 0; i < 4; i++)
            if (squared(corners->y[corner[i]], corners->x[corner[i]], corners->peaks + 2 * p) <= nearest[i] + allowed) {
                corners->rivals[count++] = p;
                break;
            }
    return count;
}

/* The nearest of the rivals, of equals the first. */
static int64_t nearest_rival(const Corners *corners, int64_t rivals, double y, double x)
{
    double best = INFINITY;
    int64_t winner = 0;
    for (int64_t r = 0; r < rivals; r++) {
        const double distance = squared(y, x, corners->peaks + 2 * corners->rivals[r]);
        if (distance < best) {
            best = distance;
            winner = corners->rivals[r];
        }
    }
    return winner;
}

/* Which cells of a row of cells have a pixel of a countable class. any: scratch, width. used: written, cells. */
static void find_used(const uint8_t *labels, int64_t width, int64_t first, int64_t end, const uint8_t *countable, int64_t kinds,
                      const int64_t *first_column, int64_t cells, uint8_t *restrict any, uint8_t *used)
{
    memset(any, 0, (size_t)width);
    for (int64_t row = first; row < end; row++) {
        const uint8_t *restrict label = labels + row * width;
        for (int64_t k = 0; k < kinds; k++) {
            const uint8_t kind = countable[k];
            for (int64_t x = 0; x < width; x++)
                any[x] |= label[x] == kind;
        }
    }
    for (int64_t x = 0; x < cells; x++) {
        uint8_t found = 0;
        for (int64_t column = first_column[x]; column < first_column[x + 1]; column++)
            found |= any[column];
        used[x] = found;
    }
}

/* labels: height x width. countable: kinds class ids. pointed: 2 x h x w, (y, x) where each corner of a cell points to. Pixel
 * rows first_row[i] up to first_row[i + 1] lie in row i of the cells, of which there are h - 1, each row_fraction of the way
 * down; columns alike. peaks: count x 2, 65535 at the most. nearest, zeros, and lead, scale: scratch, h * w each. any, rivals:
 * scratch, width and count. ids: zeros, written, height x width: 1 + the peak. used: written, (h - 1) x (w - 1): whether a cell
 * has a pixel of these classes. votes: zeros, written, count x 256: pixels of each class. */
void fcn_nearest_peaks(const uint8_t *labels, int64_t width, const uint8_t *countable, int64_t kinds, const double *pointed,
                       int64_t h, int64_t w, const int64_t *first_row, const double *row_fraction, const int64_t *first_column,
                       const double *column_fraction, const double *peaks, int64_t count, uint16_t *nearest, double *lead,
                       double *scale, uint8_t *any, int64_t *rivals, uint16_t *ids, uint8_t *used, int64_t *votes)
{
    Corners corners = {pointed, pointed + h * w, h, w, peaks, count, 0, nearest, lead, scale, rivals};
    uint8_t counted[256] = {0};
    for (int64_t p = 0; p < 2 * count; p++)
        corners.reach = larger(corners.reach, fabs(peaks[p]));
    for (int64_t k = 0; k < kinds; k++)
        counted[countable[k]] = 1;
    for (int64_t y = 0; y < h - 1; y++) {
        uint8_t *used_here = used + y * (w - 1);
        find_used(labels, width, first_row[y], first_row[y + 1], countable, kinds, first_column, w - 1, any, used_here);
        for (int64_t x = 0; x < w - 1; x++) {
            if (!used_here[x])
                continue;
            const int64_t at = y * w + x, corner[4] = {at, at + 1, at + w, at + w + 1};
            const uint16_t owner = owner_of(&corners, corner);
            const int64_t of = owner ? 0 : find_rivals(&corners, corner);
            for (int64_t row = first_row[y]; row < first_row[y + 1]; row++) {
                const uint8_t *label = labels + row * width;
                uint16_t *id = ids + row * width;
                if (owner) {
                    int64_t *vote = votes + (owner - 1) * 256;
                    for (int64_t column = first_column[x]; column < first_column[x + 1]; column++)
                        if (counted[label[column]]) {
                            id[column] = owner;
                            vote[label[column]]++;
                        }
                    continue;
                }
                const double *place_y = corners.y, *place_x = corners.x, down = row_fraction[row];
                const double west_y = place_y[corner[0]] + down * (place_y[corner[2]] - place_y[corner[0]]);
                const double west_x = place_x[corner[0]] + down * (place_x[corner[2]] - place_x[corner[0]]);
                const double east_y = place_y[corner[1]] + down * (place_y[corner[3]] - place_y[corner[1]]);
                const double east_x = place_x[corner[1]] + down * (place_x[corner[3]] - place_x[corner[1]]);
                for (int64_t column = first_column[x]; column < first_column[x + 1]; column++)
                    if (counted[label[column]]) {
                        const double right = column_fraction[column];
                        const int64_t winner = nearest_rival(&corners, of, west_y + right * (east_y - west_y),
                                                             west_x + right * (east_x - west_x));
                        id[column] = (uint16_t)(winner + 1);
                        votes[winner * 256 + label[column]]++;
                    }
            }
        }
    }
}

/* Give each pixel of a region to the objects of that region. regions: height x width, 0 where there is none. own: of each region,
 * the object that all its pixels go to, 0 for none. home: of each peak, the region that holds it. inside: the peaks in order of
 * their regions, those of region r from inside[starts[r]] up to inside[starts[r + 1]]. A pixel of a region with peaks, whose peak
 * is another region's, goes to the nearest of them, of equals the first. pointed: 2 x h x w, as above; pixel (row, column) lies
 * in the cell (cell_row[row], cell_column[column]), row_fraction and column_fraction of the way through it. ids, votes: changed. */
void fcn_move_pixels(const int32_t *regions, int64_t height, int64_t width, const uint8_t *labels, const uint16_t *own,
                     const int64_t *home, const int64_t *inside, const int64_t *starts, const double *pointed, int64_t h,
                     int64_t w, const int64_t *cell_row, const double *row_fraction, const int64_t *cell_column,
                     const double *column_fraction, const double *peaks, uint16_t *ids, int64_t *votes)
{
    const double *place_y = pointed, *place_x = pointed + h * w;
    for (int64_t row = 0; row < height; row++)
        for (int64_t column = 0; column < width; column++) {
            const int64_t pixel = row * width + column, region = regions[pixel];
            if (!region)
                continue;
            const int64_t id = ids[pixel];
            int64_t to = own[region];
            if (!to) {
                if (starts[region] == starts[region + 1] || (id && home[id - 1] == region))
                    continue;
                const int64_t at = cell_row[row] * w + cell_column[column];
                const double down = row_fraction[row], right = column_fraction[column];
                const double west_y = place_y[at] + down * (place_y[at + w] - place_y[at]);
                const double west_x = place_x[at] + down * (place_x[at + w] - place_x[at]);
                const double east_y = place_y[at + 1] + down * (place_y[at + w + 1] - place_y[at + 1]);
                const double east_x = place_x[at + 1] + down * (place_x[at + w + 1] - place_x[at + 1]);
                const double y = west_y + right * (east_y - west_y), x = west_x + right * (east_x - west_x);
                double best = INFINITY;
                to = inside[starts[region]] + 1;
                for (int64_t i = starts[region]; i < starts[region + 1]; i++) {
                    const double distance = squared(y, x, peaks + 2 * inside[i]);
                    if (distance < best) {
                        best = distance;
                        to = inside[i] + 1;
                    }
                }
            }
            if (id)
                votes[(id - 1) * 256 + labels[pixel]]--;
            votes[(to - 1) * 256 + labels[pixel]]++;
            ids[pixel] = (uint16_t)to;
        }
}

/* Put renamed[id] in the place of every id of the used cells; arguments as above. */
void fcn_rename(uint16_t *ids, int64_t width, const uint8_t *used, int64_t h, int64_t w, const int64_t *first_row,
                const int64_t *first_column, const uint16_t *renamed)
{
    for (int64_t y = 0; y < h - 1; y++)
        for (int64_t x = 0; x < w - 1; x++)
            if (used[y * (w - 1) + x])
                for (int64_t row = first_row[y]; row < first_row[y + 1]; row++)
                    for (int64_t column = first_column[x]; column < first_column[x + 1]; column++)
                        ids[row * width + column] = renamed[ids[row * width + column]];
}

/* scores: classes x h x w, one value at pixel (at_row[i], at_column[j]) each. winners: the class of each peak. sums, counts: zeros,
 * written: the sum of that class's probabilities over the peak's values, and how many these are. */
void fcn_add_probabilities(const float *scores, int64_t classes, int64_t h, int64_t w, const uint16_t *ids, int64_t width,
                           const int64_t *at_row, const int64_t *at_column, const int64_t *winners, double *sums,
                           int64_t *counts)
{
    for (int64_t i = 0; i < h; i++)
        for (int64_t j = 0; j < w; j++) {
            const uint16_t id = ids[at_row[i] * width + at_column[j]];
            if (!id)
                continue;
            const float *score = scores + i * w + j;
            double most = score[0], sum = 0;
            for (int64_t k = 1; k < classes; k++)
                most = larger(most, score[k * h * w]);
            for (int64_t k = 0; k < classes; k++)
                sum += exp(score[k * h * w] - most);
            sums[id - 1] += exp(score[winners[id - 1] * h * w] - most) / sum;
            counts[id - 1]++;
        }
}
