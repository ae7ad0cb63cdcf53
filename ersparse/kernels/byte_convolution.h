// Convolution in 8 bits: a tile of up to 2 x 2 or 1 x 4 times 64 bytes stays in registers while the kept weights of a
// channel go by.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "byte_operation.h"
#include "quads.h"

namespace {

// Adds the products of all kept weights of a channel to the sums of a tile.
template <int ROWS, int COLUMNS>
inline void add_products(Sums (&sums)[ROWS][COLUMNS], const Op& op, int64_t channel, const uint8_t* in, int64_t row,
                         int64_t column) {
    for (int32_t g = op.groups[channel]; g < op.groups[channel + 1]; g++) {
        const int32_t *at = op.offsets + 4 * g, weights = op.weights[g];
        const uint8_t *a = in + at[0], *b = in + at[1], *c = in + at[2], *d = in + at[3];
#pragma GCC unroll 2
        for (int y = 0; y < ROWS; y++)
#pragma GCC unroll 4
            for (int x = 0; x < COLUMNS; x++) {
                const int64_t to = y * row + x * column;
                sums[y][x].add(a + to, b + to, c + to, d + to, weights);
            }
    }
}

// All channels of a tile before the next tile: they find what they read in the second-level cache.
template <int ROWS, int COLUMNS, int STRIDE> void tile(const Op& op, const Part& p, int64_t y, int64_t x) {
    const int64_t down = op.in.row_size * op.row_stride, across = (STRIDE ? STRIDE : op.stride) * BYTES;
    const uint8_t* in = plane(op.in, p, 0) + op.shift + y * down + x * across;
    for (int64_t c = p.begin; c < p.end; c++) {
        Sums sums[ROWS][COLUMNS];
        add_products(sums, op, c, in, down, across);
        Bytes results[ROWS][COLUMNS];
#pragma GCC unroll 2
        for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 4
            for (int j = 0; j < COLUMNS; j++) {
                Floats total(sums[i][j], op.scale[c], op.bias[c]);
                if (op.has_residual) {
                    const uint8_t* residual = row(op.residual, p, c, y + i) + (x + j) * BYTES;
                    total.add(Bytes::load(residual), op.residual_scale);
                }
                results[i][j] = total.rounded();
            }
        if constexpr (ROWS == 2 && COLUMNS == 2)
            if (op.halves) {
                const Bytes upper = results[0][0].max(results[0][1]), lower = results[1][0].max(results[1][1]);
                upper.max(lower).store(row(op.out, p, c, y / 2) + x / 2 * BYTES);
                continue;
            }
#pragma GCC unroll 2
        for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 4
            for (int j = 0; j < COLUMNS; j++) results[i][j].store(row(op.out, p, c, y + i) + (x + j) * BYTES);
    }
}

template <int ROWS, int STRIDE> void rows_of_tiles(const Op& op, const Part& p, int64_t y, int64_t x, int64_t end) {
    if constexpr (ROWS == 1)
        for (; x + 4 <= end; x += 4) tile<1, 4, STRIDE>(op, p, y, x);
    for (; x + 2 <= end; x += 2) tile<ROWS, 2, STRIDE>(op, p, y, x);
    if (x < end) tile<ROWS, 1, STRIDE>(op, p, y, x);
}

// Sixty-four images: a pixel is 64 bytes.
template <int STRIDE> void convolve_pixels(const Op& op, const Part& p) {
    const int64_t times = op.halves ? 2 : 1, end = times * p.to, width = times * op.out.width;
    int64_t y = times * p.from;
    for (; y + 2 <= end; y += 2) rows_of_tiles<2, STRIDE>(op, p, y, 0, width);
    if (y < end) rows_of_tiles<1, STRIDE>(op, p, y, 0, width);
}

// What lies between the rows of a channel, and behind the last one, as far as these vectors have been written to it.
void restore_border(const Op& op, const Part& p, int64_t bytes_per_row) {
    for (int64_t c = p.begin; c < p.end; c++)
        for (int64_t y = 0; y < op.out.height; y++) {
            const int64_t begin = std::max(y * op.out.row_size + bytes_per_row, p.from * BYTES);
            const int64_t end = y + 1 < op.out.height ? std::min((y + 1) * op.out.row_size, p.to * BYTES) : p.to * BYTES;
            if (begin < end) std::memset(plane(op.out, p, c) + begin, int(op.out_zero), end - begin);
        }
}

// Fewer images: 64 bytes are several pixels of a channel, which lies in memory from end to end.
template <int IMAGES> void convolve(const Op& op, const Part& p) {
    if (op.vectors) {
        rows_of_tiles<1, 1>(op, p, 0, p.from, p.to);
        if (op.border) restore_border(op, p, op.out.width * IMAGES);
    } else if constexpr (IMAGES == BYTES) {
        op.stride == 1 ? convolve_pixels<1>(op, p) : convolve_pixels<0>(op, p);
    }
}

// The last layer, whose result is not rounded.
template <int IMAGES> void logits(const Op& op, const Part& p) {
    const int64_t pixels = op.out.height * op.out.width;
    const int64_t down = op.in.row_size * op.row_stride, across = op.stride * IMAGES;
    const uint8_t* in = plane(op.in, p, 0) + op.shift;
    for (int64_t c = p.begin; c < p.end; c++)
        for (int64_t n = 0; n < pixels; n++) {
            const uint8_t* from = in + n / op.out.width * down + n % op.out.width * across;
            Sums sums[1][1];
            add_products(sums, op, c, from, 0, 0);
            const Floats total(sums[0][0], op.scale[c], op.bias[c]);
            for (int64_t i = 0; i < p.images; i++)
                op.batch[((p.block * IMAGES + i) * op.channels + c) * pixels + n] = total[int(i)];
        }
}

}  // namespace
