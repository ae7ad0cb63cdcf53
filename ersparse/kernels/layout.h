// From images one after the other to images abreast, and back: 16 x 16 numbers at a time are transposed in registers.
#pragma once

#include <algorithm>
#include <cstdint>

#include "operation.h"
#include "vectors.h"

namespace {

template <int WIDTH> inline void transpose(Half (&m)[HALF]) {
    for (int i = 0; i < HALF; i++)
        if (!(i & WIDTH)) exchange<WIDTH>(m[i], m[i + WIDTH], std::make_integer_sequence<int, HALF>{});
    if constexpr (WIDTH > 1) transpose<WIDTH / 2>(m);
}

struct Cursor {  // goes through the pixels of a tensor, channel by channel
    const Tensor& t;
    const int64_t height, width;
    stored *channel, *row, *at;
    int64_t y = 0, x = 0;
    Cursor(const Op& op, const Tensor& t, const Part& p, int64_t vector)
        : t(t), height(op.count > 1 ? t.height : 1), width(op.count > 1 ? t.width : 1),
          channel(plane(t, p, p.begin) + vector * LANES), row(channel), at(channel) {}
    void next() {
        at += t.step * LANES;
        if (++x < width) return;
        x = 0, row += t.columns * t.row_step * LANES;
        if (++y == height) y = 0, channel += t.rows * t.columns * LANES, row = channel;
        at = row;
    }
};

// Calls visit(batch, size, images, numbers, cursor) for up to HALF numbers of up to LANES images at a time: the numbers of
// the first image begin at `batch`, those of the next one `size` behind them; the cursor is at the first number's pixel.
template <typename Visit> inline void for_each_square(const Op& op, const Tensor& t, const Part& p, Visit visit) {
    const int64_t size = op.channels * op.count, end = p.end * op.count;
    for (int64_t v = 0; v < op.abreast && v * LANES < p.images; v++) {
        real* images = op.batch + (p.block * op.abreast + v) * LANES * size;
        Cursor cursor(op, t, p, v);
        for (int64_t n = p.begin * op.count; n < end; n += HALF)
            visit(images + n, size, std::min<int64_t>(p.images - v * LANES, LANES),
                  std::min<int64_t>(end - n, HALF), cursor);
    }
}

void enter(const Op& op, const Part& p) {
    for_each_square(op, op.out, p, [](real* from, int64_t size, int64_t images, int64_t numbers, Cursor& cursor) {
        Vector pixels[HALF];
        for (int half = 0; half < LANES / HALF; half++) {
            Half m[HALF];
            for (int r = 0; r < HALF; r++) {
                const int64_t image = half * HALF + r;
                m[r] = image < images ? load_first(from + image * size, numbers) : Half{};
            }
            transpose<HALF / 2>(m);
            for (int j = 0; j < HALF; j++) set_half(pixels[j], half, m[j]);
        }
        for (int j = 0; j < numbers; j++, cursor.next()) store(cursor.at, pixels[j]);
    });
}

void leave(const Op& op, const Part& p) {
    for_each_square(op, op.in, p, [](real* to, int64_t size, int64_t images, int64_t numbers, Cursor& cursor) {
        Half m[LANES / HALF][HALF] = {};
        for (int j = 0; j < numbers; j++, cursor.next())
            for (int half = 0; half < LANES / HALF; half++) m[half][j] = half_of(load(cursor.at), half);
        for (int half = 0; half * HALF < images; half++) {
            transpose<HALF / 2>(m[half]);
            for (int r = 0; r < HALF && half * HALF + r < images; r++)
                store_first(to + (half * HALF + r) * size, m[half][r], numbers);
        }
    });
}

}  // namespace
