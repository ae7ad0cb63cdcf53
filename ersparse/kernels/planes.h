// Few images: the pixels of one channel of one image lie one after the other, block_size numbers a channel.
#pragma once

#include <cstdint>

#include "operation.h"

namespace {

template <int SIDE, bool AVERAGE> void planes(const Op& op, const Part& p) {  // pool(relu(in + residual))
    const int64_t height = SIDE ? SIDE : op.pool_height, width = SIDE ? SIDE : op.pool_width;
    const int64_t column = op.in.step, row = op.in.columns * op.in.row_step;
    const real floor = lowest(op), ceiling = highest(op), share = real(1) / (height * width);
    auto clamp = [=](real v) { return v < floor ? floor : v > ceiling ? ceiling : v; };
    auto channel_of = [](const Tensor& t, int64_t c) { return static_cast<real*>(t.data) + c * t.block_size + t.origin; };
    for (int64_t c = p.begin; c < p.end; c++) {
        const real *in = channel_of(op.in, c), *residual = op.has_residual ? channel_of(op.residual, c) : nullptr;
        real* out = channel_of(op.out, c);
        for (int64_t i = 0; i < op.out.height; i++)
            for (int64_t j = 0; j < op.out.width; j++) {
                real total = 0;
                for (int64_t y = i * height; y < (i + 1) * height; y++)
                    for (int64_t x = j * width; x < (j + 1) * width; x++) {
                        real v = in[y * row + x * column];
                        if (residual) v += residual[y * op.residual.columns + x];
                        if (AVERAGE) total += clamp(v);
                        else total = (y == i * height && x == j * width) || v > total ? v : total;
                    }
                out[i * op.out.columns + j] = AVERAGE ? total * share : clamp(total);
            }
    }
}

}  // namespace
