// Convolution: a tile of ROWS x COLUMNS pixels stays in registers while the kept weights of a channel go by.
#pragma once

#include <cstdint>

#include "operation.h"
#include "vectors.h"

namespace {

template <int STRIDE> struct Taps {  // what a tile reads
    const stored* in;
    int64_t row, column;  // numbers from one output pixel to the next
    Taps(const Op& op, const Part& p)
        : in(plane(op.in, p, 0) + op.shift * LANES), row(op.in.columns * op.row_stride * LANES),
          column(op.stride * LANES) {}
    int64_t across(int x) const { return STRIDE ? x * STRIDE * LANES : x * column; }
};

template <int ROWS, int COLUMNS, int STRIDE>
inline void tile(const Taps<STRIDE>& t, int64_t from, const Op& op, int64_t channel, stored* out) {
    const int64_t out_row = op.out.columns * LANES;
    const Bounds bounds(op);
    const Vector start = broadcast(op.bias ? op.bias[channel] : 0);
    Vector total[ROWS][COLUMNS];
    for (int y = 0; y < ROWS; y++)
        for (int x = 0; x < COLUMNS; x++) total[y][x] = op.adds ? load(out + y * out_row + x * LANES) : start;
    for (int32_t k = op.rows[channel]; k < op.rows[channel + 1]; k++) {
        const stored* in = t.in + from + op.offsets[k];
        const Vector weight = broadcast(op.weight[k]);
        for (int y = 0; y < ROWS; y++)
            for (int x = 0; x < COLUMNS; x++) total[y][x] += weight * load(in + y * t.row + t.across(x));
    }
    for (int y = 0; y < ROWS; y++)
        for (int x = 0; x < COLUMNS; x++) store(out + y * out_row + x * LANES, bounds.clamp(total[y][x]));
}

// All channels of a tile before the next tile: they find what they read in the cache.
template <int ROWS, int COLUMNS, int STRIDE>
inline void row_of_tiles(const Taps<STRIDE>& t, int64_t y, int64_t x, const Op& op, const Part& p) {
    for (; x + COLUMNS <= op.out.width; x += COLUMNS)
        for (int64_t c = p.begin; c < p.end; c++)
            tile<ROWS, COLUMNS, STRIDE>(t, y * t.row + x * t.column, op, c,
                                        plane(op.out, p, c) + (y * op.out.columns + x) * LANES);
    if constexpr (COLUMNS > 1) row_of_tiles<ROWS, COLUMNS / 2, STRIDE>(t, y, x, op, p);
}

template <int ROWS, int STRIDE> void convolve_rows(const Taps<STRIDE>& t, int64_t y, const Op& op, const Part& p) {
    for (; y + ROWS <= op.out.height; y += ROWS) row_of_tiles<ROWS, TILE / ROWS, STRIDE>(t, y, 0, op, p);
    if constexpr (ROWS > 1) convolve_rows<ROWS / 2, STRIDE>(t, y, op, p);
}

// As long as the image allows: vectors that follow each other come ahead of time.
template <int STRIDE> void convolve(const Op& op, const Part& p) {
    const Taps<STRIDE> t(op, p);
    if (op.out.width >= TILE) convolve_rows<1, STRIDE>(t, 0, op, p);
    else if (op.out.width >= TILE / 2) convolve_rows<2, STRIDE>(t, 0, op, p);
    else convolve_rows<(TILE >= 8 ? 4 : 2), STRIDE>(t, 0, op, p);
}

}  // namespace
