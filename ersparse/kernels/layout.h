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

struct Run {  // numbers that follow each other in an image, for up to LANES images
    real* images;
    int64_t image, count, length;  // numbers from one image to the next, images, numbers
    stored* abreast;
    int64_t step;  // from one number to the next
};

// Calls visit(run) for everything that lies inside the borders of `t`.
template <typename Visit> inline void for_each_run(const Op& op, const Tensor& t, const Part& p, Visit visit) {
    const int64_t size = op.channels * op.count, first = p.block * op.abreast * LANES * size;  // op.count: pixels
    if (op.count == 1) {  // along the channels
        for (int64_t v = 0; v < op.abreast && v * LANES < p.images; v++)
            visit({op.batch + first + v * LANES * size + p.begin, size, std::min<int64_t>(p.images - v * LANES, LANES),
                   p.end - p.begin, plane(t, p, p.begin) + v * LANES, t.rows * t.columns * LANES});
        return;
    }
    for (int64_t c = p.begin; c < p.end; c++)
        for (int64_t y = 0; y < t.height; y++)
            visit({op.batch + first + c * op.count + y * t.width, size, p.images, t.width,
                   plane(t, p, c) + y * t.columns * t.row_step * LANES, t.step * LANES});
}

void enter(const Op& op, const Part& p) {
    for_each_run(op, op.out, p, [](const Run& run) {
        for (int64_t i = 0; i < run.length; i += HALF) {
            Vector pixels[HALF];
            for (int half = 0; half < LANES / HALF; half++) {
                Half m[HALF];
                for (int r = 0; r < HALF; r++) {
                    const int64_t image = half * HALF + r;
                    m[r] = image < run.count ? load_first(run.images + image * run.image + i, run.length - i) : Half{};
                }
                transpose<HALF / 2>(m);
                for (int j = 0; j < HALF; j++) set_half(pixels[j], half, m[j]);
            }
            for (int j = 0; j < std::min<int64_t>(HALF, run.length - i); j++)
                store(run.abreast + (i + j) * run.step, pixels[j]);
        }
    });
}

void leave(const Op& op, const Part& p) {
    for_each_run(op, op.in, p, [](const Run& run) {
        for (int64_t i = 0; i < run.length; i += HALF) {
            const int64_t numbers = std::min<int64_t>(HALF, run.length - i);
            for (int half = 0; half * HALF < std::min<int64_t>(LANES, run.count); half++) {
                Half m[HALF] = {};
                for (int j = 0; j < numbers; j++) m[j] = half_of(load(run.abreast + (i + j) * run.step), half);
                transpose<HALF / 2>(m);
                for (int r = 0; r < HALF && half * HALF + r < run.count; r++)
                    store_first(run.images + (half * HALF + r) * run.image + i, m[r], numbers);
            }
        }
    });
}

}  // namespace
