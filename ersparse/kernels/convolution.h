// Convolution: a tile of ROWS x COLUMNS pixels stays in registers while the kept weights of a channel go by.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "operation.h"
#include "vectors.h"

namespace {

constexpr int64_t TOGETHER = 64;  // output channels whose sums wait while others read a block of input channels
constexpr int64_t AHEAD = 8;      // output channels by which weights are loaded ahead of time

inline bool pools(const Op& op) { return op.pool_rows.window == 2; }
inline int64_t before_pool(const Op& op, int64_t size) { return pools(op) ? 2 * size : size; }

struct Pixel {
    int64_t y, x;
};
inline stored* pixel(const Tensor& t, const Part& p, int64_t channel, Pixel at) {
    return plane(t, p, channel) + (at.y * t.columns + at.x) * LANES;
}

template <int STRIDE> struct Taps {  // what a tile reads
    const stored* in;
    int64_t row, column;  // numbers from one output pixel to the next
    Taps(const Op& op, const Part& p)
        : in(plane(op.in, p, 0) + op.shift * LANES), row(op.in.columns * op.row_stride * LANES),
          column(op.stride * LANES) {}
    int64_t across(int x) const { return STRIDE ? x * STRIDE * LANES : x * column; }
};

// What becomes of the sums of a tile: pool(clamp(sums + residual)), where a pool takes maxima of 2 x 2.
template <int ROWS, int COLUMNS>
inline void finish(const Op& op, const Part& p, Pixel at, int64_t channel, Vector (&total)[ROWS][COLUMNS]) {
    const Bounds bounds(op);
    stored* out = plane(op.out, p, channel);
    const auto put = [&](int64_t y, int64_t x, int columns, Vector v) {
        stored* to = out + (y * op.out.columns + x) * LANES;
        __builtin_prefetch(to + columns * LANES, 1);  // of the next tile
        store(to, bounds.clamp(v));
    };
    if (op.has_residual) {
        const stored* residual = pixel(op.residual, p, channel, at);
        for (int y = 0; y < ROWS; y++)
            for (int x = 0; x < COLUMNS; x++) total[y][x] += load(residual + (y * op.residual.columns + x) * LANES);
    }
    if (!pools(op)) {
        for (int y = 0; y < ROWS; y++)
            for (int x = 0; x < COLUMNS; x++) put(at.y + y, at.x + x, COLUMNS, total[y][x]);
    } else if constexpr (ROWS > 1 && COLUMNS > 1) {
        for (int y = 0; y < ROWS; y += 2)
            for (int x = 0; x < COLUMNS; x += 2) {
                Vector best = total[y][x];
                for (const Vector& v : {total[y][x + 1], total[y + 1][x], total[y + 1][x + 1]})
                    best = choose(v > best, v, best);
                put((at.y + y) / 2, (at.x + x) / 2, COLUMNS / 2, best);
            }
    }
}

// Adds the products of the kept weights from k to end, which read one block of input channels: the FIRST, the LAST, both
// or neither. Between the blocks the sums of a channel wait in `sums`, and are not rounded.
template <int ROWS, int COLUMNS, int STRIDE, bool FIRST, bool LAST>
inline void add_products(const Taps<STRIDE>& t, Pixel at, const Op& op, const Part& p, int64_t channel, int32_t k,
                         int32_t end, Vector* sums) {
    const int64_t from = at.y * t.row + at.x * t.column, out_row = op.out.columns * LANES;
    const stored* out = pixel(op.out, p, channel, at);
    const Vector start = broadcast(FIRST && op.bias ? op.bias[channel] : 0);
    Vector total[ROWS][COLUMNS];
    for (int y = 0; y < ROWS; y++)
        for (int x = 0; x < COLUMNS; x++)
            if constexpr (FIRST) total[y][x] = op.adds ? load(out + y * out_row + x * LANES) : start;
            else total[y][x] = sums[y * COLUMNS + x];
    for (; k < end; k++) {
        const stored* in = t.in + from + op.offsets[k];
        const Vector weight = broadcast(op.weight[k]);
        for (int y = 0; y < ROWS; y++)
            for (int x = 0; x < COLUMNS; x++) total[y][x] += weight * load(in + y * t.row + t.across(x));
    }
    if constexpr (LAST) finish(op, p, at, channel, total);
    else
        for (int y = 0; y < ROWS; y++)
            for (int x = 0; x < COLUMNS; x++) sums[y * COLUMNS + x] = total[y][x];
}

// A segment does not follow the one before it in memory, so that the processor does not load it ahead of time.
inline void fetch(const Op& op, int32_t begin, int32_t end) {
    for (int32_t k = begin; k < end; k += 16) __builtin_prefetch(op.weight + k), __builtin_prefetch(op.offsets + k);
}

template <int ROWS, int COLUMNS> inline void fetch_residual(const Op& op, const Part& p, Pixel at, int64_t channel) {
    const stored* residual = pixel(op.residual, p, channel, at);
    for (int y = 0; y < ROWS; y++)
        for (int x = 0; x < COLUMNS; x++) __builtin_prefetch(residual + (y * op.residual.columns + x) * LANES);
}

// All channels of a tile before the next tile: they find what they read in the second-level cache, and those that read one
// block of input channels find it in the first-level cache.
template <int ROWS, int COLUMNS, int STRIDE>
inline void tile(const Taps<STRIDE>& t, Pixel at, const Op& op, const Part& p) {
    Vector sums[TOGETHER][ROWS * COLUMNS];
    const auto add_block = [&](auto first, auto last, int64_t block, int64_t begin) {
        const int32_t *starts = op.segments + block * op.channels, *ends = starts + op.channels;
        for (int64_t c = begin; c < std::min(begin + TOGETHER, p.end); c++) {
            if (last && op.has_residual && c + AHEAD < p.end) fetch_residual<ROWS, COLUMNS>(op, p, at, c + AHEAD);
            if (!(first && last) && c + AHEAD < p.end) fetch(op, starts[c + AHEAD], ends[c + AHEAD]);
            if (first || last || starts[c] < ends[c])
                add_products<ROWS, COLUMNS, STRIDE, first, last>(t, at, op, p, c, starts[c], ends[c], sums[c - begin]);
        }
    };
    const std::true_type yes;
    const std::false_type no;
    for (int64_t begin = p.begin; begin < p.end; begin += TOGETHER)
        if (op.input_blocks == 1) add_block(yes, yes, 0, begin);
        else {
            add_block(yes, no, 0, begin);
            for (int64_t block = 1; block + 1 < op.input_blocks; block++) add_block(no, no, block, begin);
            add_block(no, yes, op.input_blocks - 1, begin);
        }
}

template <int ROWS, int COLUMNS, int STRIDE>
inline void row_of_tiles(const Taps<STRIDE>& t, int64_t y, int64_t x, const Op& op, const Part& p) {
    const int64_t width = before_pool(op, op.out.width);
    for (; x + COLUMNS <= width; x += COLUMNS) tile<ROWS, COLUMNS, STRIDE>(t, {y, x}, op, p);
    if constexpr (COLUMNS > 1) row_of_tiles<ROWS, COLUMNS / 2, STRIDE>(t, y, x, op, p);
}

template <int ROWS, int COLUMNS, int STRIDE>
void convolve_rows(const Taps<STRIDE>& t, int64_t y, const Op& op, const Part& p) {
    const int64_t end = before_pool(op, p.rows.end);
    for (; y + ROWS <= end; y += ROWS) row_of_tiles<ROWS, COLUMNS, STRIDE>(t, y, 0, op, p);
    if constexpr (ROWS > 1) convolve_rows<ROWS / 2, COLUMNS * 2, STRIDE>(t, y, op, p);
}

// Tiles of two rows read less of the input than tiles of one, 4 x 10 pixels rather than 3 x 18 for a kernel of 3 x 3, so
// that more channels fit the first-level cache. From the second-level cache, vectors that follow each other are faster.
template <int STRIDE> void convolve(const Op& op, const Part& p) {
    const Taps<STRIDE> t(op, p);
    const int64_t width = before_pool(op, op.out.width), begin = before_pool(op, p.rows.begin);
    const bool from_second_level = op.input_blocks == 1 && width >= (PAIRS ? 4 * TILE : TILE);
    constexpr int TALL = TILE >= 8 ? 4 : 2;
    if (pools(op) && TILE < 4) convolve_rows<2, 2, STRIDE>(t, begin, op, p);  // no smaller tile has a maximum
    else if (from_second_level && !pools(op)) convolve_rows<1, TILE, STRIDE>(t, begin, op, p);
    else if (width >= TILE / 2) convolve_rows<2, TILE / 2, STRIDE>(t, begin, op, p);
    else convolve_rows<TALL, TILE / TALL, STRIDE>(t, begin, op, p);
}

}  // namespace
