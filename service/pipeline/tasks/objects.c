/* find_peaks and nearest_peaks of panoptic.py, the regions of regions.py: the same arithmetic in the same order, and so the same
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
    double reach;            /* of the peaks */
    uint16_t *nearest;       /* h * w: 1 + the nearest peak of each corner, 0 where it was not yet computed */
    double *lead, *scale;    /* h * w: how much farther the second nearest is, squared; the largest coordinate */
    int64_t *rivals;         /* count */
} Corners;

/* The largest coordinate of a peak, without its sign. */
static double reach_of(const double *peaks, int64_t count)
{
    double reach = 0;
    for (int64_t p = 0; p < 2 * count; p++)
        reach = larger(reach, fabs(peaks[p]));
    return reach;
}

static double squared(double y, double x, const double *peak)
{
    const double down = y - peak[0], right = x - peak[1];
    return down * down + right * right;
}

/* The nearest of some peaks, of equals the first. lead: written, how much farther the second nearest is, squared. */
static int64_t nearest_peak(const double *peaks, int64_t count, double y, double x, double *lead)
{
    double best = INFINITY, second = INFINITY;
    int64_t winner = 0;
    for (int64_t p = 0; p < count; p++) {
        const double distance = squared(y, x, peaks + 2 * p);
        if (distance < best) {
            second = best;
            best = distance;
            winner = p;
        } else if (distance < second)
            second = distance;
    }
    *lead = second - best;
    return winner;
}

static void find_nearest(const Corners *corners, int64_t at)
{
    const double y = corners->y[at], x = corners->x[at];
    corners->nearest[at] = (uint16_t)(nearest_peak(corners->peaks, corners->count, y, x, corners->lead + at) + 1);
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

/* any: width, changed: 1 where a row has a pixel of a countable class, as it was elsewhere. */
static void add_countable(const uint8_t *restrict label, int64_t width, const uint8_t *countable, int64_t kinds,
                          uint8_t *restrict any)
{
    for (int64_t k = 0; k < kinds; k++) {
        const uint8_t kind = countable[k];
        for (int64_t x = 0; x < width; x++)
            any[x] |= label[x] == kind;
    }
}

/* Which cells of a row of cells have a pixel of a countable class. any: scratch, width. used: written, cells. */
static void find_used(const uint8_t *labels, int64_t width, int64_t first, int64_t end, const uint8_t *countable, int64_t kinds,
                      const int64_t *first_column, int64_t cells, uint8_t *any, uint8_t *used)
{
    memset(any, 0, (size_t)width);
    for (int64_t row = first; row < end; row++)
        add_countable(labels + row * width, width, countable, kinds, any);
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
    corners.reach = reach_of(peaks, count);
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

/* labels: height x width. A run is a row's pixels of one countable class side by side. any: scratch, width. first: written,
 * height + 1: runs first[row] up to first[row + 1] are that row's, from left to right. runs: written, most x 2: (first pixel, pixel
 * after the last). Gives how many there are; those beyond the most are counted alone. */
int64_t fcn_find_runs(const uint8_t *labels, int64_t height, int64_t width, const uint8_t *countable, int64_t kinds, int64_t most,
                      uint8_t *any, int64_t *first, int64_t *runs)
{
    int64_t count = 0;
    for (int64_t row = 0; row < height; row++) {
        const uint8_t *label = labels + row * width;
        first[row] = count;
        memset(any, 0, (size_t)width);
        add_countable(label, width, countable, kinds, any);
        for (int64_t x = 0; x < width;) {
            uint64_t eight;
            while (x + 8 <= width && (memcpy(&eight, any + x, 8), !eight))
                x += 8;
            while (x < width && !any[x])
                x++;
            const int64_t start = x;
            while (x < width && any[x] && label[x] == label[start])
                x++;
            if (x == start)
                break;
            if (count < most) {
                runs[2 * count] = start;
                runs[2 * count + 1] = x;
            }
            count++;
        }
    }
    first[height] = count;
    return count;
}

static int64_t root_of(int64_t *parents, int64_t run)
{
    while (parents[run] != run)
        run = parents[run] = parents[parents[run]];
    return run;
}

/* first, runs: as above. regions: written, one a run: 1, 2, ... in reading order of their first pixels; runs of one class that touch
 * by a side or a corner are of one region. Gives how many regions there are. */
int64_t fcn_join_runs(const uint8_t *labels, int64_t height, int64_t width, const int64_t *first, const int64_t *runs,
                      int64_t *regions)
{
    for (int64_t row = 0; row < height; row++) {
        int64_t above = row ? first[row - 1] : 0;
        const uint8_t *label = labels + row * width;
        for (int64_t run = first[row]; run < first[row + 1]; run++) {
            const int64_t start = runs[2 * run], end = runs[2 * run + 1];
            regions[run] = run; /* a parent: of a region the first run */
            while (above < first[row] && runs[2 * above + 1] < start)
                above++;
            for (int64_t other = above; row && other < first[row] && runs[2 * other] <= end; other++)
                if (label[runs[2 * other] - width] == label[start]) {
                    const int64_t one = root_of(regions, run), two = root_of(regions, other);
                    regions[one > two ? one : two] = one > two ? two : one;
                }
        }
    }
    int64_t count = 0;
    for (int64_t run = 0; run < first[height]; run++)
        regions[run] = regions[run] == run ? ++count : regions[regions[run]]; /* a parent comes before */
    return count;
}

/* found: zeros, written, h x w: the region of each pixel (at_row[i], at_column[j]), 0 for none. at_column ascends. */
void fcn_find_regions(const int64_t *first, const int64_t *runs, const int64_t *regions, const int64_t *at_row, int64_t h,
                      const int64_t *at_column, int64_t w, int64_t *found)
{
    for (int64_t i = 0; i < h; i++) {
        int64_t run = first[at_row[i]];
        const int64_t end = first[at_row[i] + 1];
        for (int64_t j = 0; j < w && run < end; j++) {
            while (run < end && runs[2 * run + 1] <= at_column[j])
                run++;
            if (run < end && runs[2 * run] <= at_column[j])
                found[i * w + j] = regions[run];
        }
    }
}

/* regions: h x w, of each cell. holds: of each region, whether it is left out. pointed: 2 x (h + 2) x (w + 2), as above. cells,
 * away: zeros, written: of each region, its cells, and the sum of the distances between where they point to and the nearest peak. */
void fcn_add_distances(const int64_t *regions, int64_t h, int64_t w, const uint8_t *holds, const double *pointed,
                       const double *peaks, int64_t count, int64_t *cells, double *away)
{
    const double *place_y = pointed, *place_x = pointed + (h + 2) * (w + 2);
    for (int64_t i = 0; i < h; i++)
        for (int64_t j = 0; j < w; j++) {
            const int64_t region = regions[i * w + j], corner = (i + 1) * (w + 2) + j + 1;
            if (!region || holds[region])
                continue;
            double least = INFINITY;
            for (int64_t p = 0; p < count; p++) {
                const double distance = squared(place_y[corner], place_x[corner], peaks + 2 * p);
                least = distance < least ? distance : least;
            }
            cells[region]++;
            away[region] += sqrt(least);
        }
}

typedef struct {
    const double *y, *x; /* where each corner of a cell points to */
    int64_t w;           /* corners in a row */
    const int64_t *cell_row;
    const double *row_fraction;
    const int64_t *cell_column;
    const double *column_fraction;
} Places;

/* Which of some peaks all pixels of a cell belong to; -1 if they must be computed one by one. */
static int64_t owner_in_cell(const Places *place, int64_t at, const double *peaks, int64_t count, double reach)
{
    const int64_t corner[4] = {at, at + 1, at + place->w, at + place->w + 1};
    double least = INFINITY, largest = reach, lead;
    int64_t owner = 0;
    for (int i = 0; i < 4; i++) {
        const double y = place->y[corner[i]], x = place->x[corner[i]];
        const int64_t winner = nearest_peak(peaks, count, y, x, &lead);
        if (i && winner != owner)
            return -1;
        owner = winner;
        least = lead < least ? lead : least;
        largest = larger(largest, larger(fabs(y), fabs(x)));
    }
    return least > MARGIN * (largest * largest) ? owner : -1;
}

/* Which of some peaks is nearest to where a pixel points to, of equals the first. */
static int64_t owner_of_pixel(const Places *place, int64_t row, int64_t column, const double *peaks, int64_t count)
{
    const int64_t at = place->cell_row[row] * place->w + place->cell_column[column], below = at + place->w;
    const double *y = place->y, *x = place->x, down = place->row_fraction[row], right = place->column_fraction[column];
    const double west_y = y[at] + down * (y[below] - y[at]), east_y = y[at + 1] + down * (y[below + 1] - y[at + 1]);
    const double west_x = x[at] + down * (x[below] - x[at]), east_x = x[at + 1] + down * (x[below + 1] - x[at + 1]);
    double lead;
    return nearest_peak(peaks, count, west_y + right * (east_y - west_y), west_x + right * (east_x - west_x), &lead);
}

/* Give each pixel of a region to the objects of that region. first, runs, regions: as above. own: of each region, the object that
 * all its pixels go to, 0 for none. home: of each peak, the region that holds it. inside, peaks: the peaks in order of their regions
 * and their places, those of region r from starts[r] up to starts[r + 1]. A pixel of a region with peaks, whose peak is another
 * region's, goes to the nearest of them, of equals the first. pointed: 2 x h x w, as above; pixel (row, column) lies in the cell
 * (cell_row[row], cell_column[column]), row_fraction and column_fraction of the way through it. known, owners: scratch, w each.
 * ids, votes: changed. */
void fcn_move_pixels(const uint8_t *labels, int64_t height, int64_t width, const int64_t *first, const int64_t *runs,
                     const int64_t *regions, const uint16_t *own, const int64_t *home, const int64_t *inside,
                     const double *peaks, int64_t count, const int64_t *starts, const double *pointed, int64_t h, int64_t w,
                     const int64_t *cell_row, const double *row_fraction, const int64_t *cell_column,
                     const double *column_fraction, int64_t *known, int64_t *owners, uint16_t *ids, int64_t *votes)
{
    const Places place = {pointed, pointed + h * w, w, cell_row, row_fraction, cell_column, column_fraction};
    const double reach = reach_of(peaks, count);
    for (int64_t row = 0; row < height; row++) {
        if (!row || cell_row[row] != cell_row[row - 1])
            memset(known, 0, (size_t)w * sizeof *known); /* of each cell of the row, the region that owners tells of */
        for (int64_t run = first[row]; run < first[row + 1]; run++) {
            const int64_t region = regions[run], some = starts[region], own_peaks = starts[region + 1] - some;
            if (!own[region] && !own_peaks)
                continue;
            uint16_t *id = ids + row * width;
            int64_t *vote = votes + labels[row * width + runs[2 * run]];
            for (int64_t column = runs[2 * run]; column < runs[2 * run + 1]; column++) {
                const int64_t from = id[column], cell = cell_column[column];
                int64_t to = own[region];
                if (!to) {
                    if (from && home[from - 1] == region)
                        continue;
                    if (known[cell] != region) {
                        known[cell] = region;
                        owners[cell] = owner_in_cell(&place, cell_row[row] * w + cell, peaks + 2 * some, own_peaks, reach);
                    }
                    to = owners[cell] < 0 ? owner_of_pixel(&place, row, column, peaks + 2 * some, own_peaks) : owners[cell];
                    to = inside[some + to] + 1;
                }
                if (from)
                    vote[(from - 1) * 256]--;
                vote[(to - 1) * 256]++;
                id[column] = (uint16_t)to;
            }
        }
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
