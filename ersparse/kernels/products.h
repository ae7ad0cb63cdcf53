// Products of two tensors; the second one, in `residual`, may have a single pixel, which multiplies a whole channel.
#pragma once

#include <cstdint>

#include "operation.h"
#include "vectors.h"

namespace {

struct Multiplier {
    bool single;
    int64_t row, column;  // numbers from one to the next
    Multiplier(const Tensor& t, const Tensor& in)
        : single(t.height == 1 && t.width == 1 && (in.height > 1 || in.width > 1)), row(single ? 0 : t.columns * LANES),
          column(single ? 0 : LANES) {}
};

void product(const Op& op, const Part& p) {
    const Multiplier f(op.residual, op.in);
    for (int64_t c = p.begin; c < p.end; c++) {
        const stored *in = plane(op.in, p, c), *factor = plane(op.residual, p, c);
        stored* out = plane(op.out, p, c);
        for (int64_t y = 0; y < op.in.height; y++)
            for (int64_t x = 0; x < op.in.width; x++)
                store(out + (y * op.out.columns + x) * LANES,
                      load(in + (y * op.in.columns + x) * LANES) * load(factor + y * f.row + x * f.column));
    }
}

inline void put(stored* to, Vector v, bool adds) { store(to, adds ? load(to) + v : v); }

void product_gradient(const Op& op, const Part& p) {
    const Multiplier f(op.residual, op.in), of_gradient(op.residual_gradient, op.in);
    for (int64_t c = p.begin; c < p.end; c++) {
        const stored *in = plane(op.in, p, c), *factor = plane(op.residual, p, c), *gradient = plane(op.gradient, p, c);
        stored* out = op.out.data ? plane(op.out, p, c) : nullptr;
        stored* other = op.adds_residual >= 0 ? plane(op.residual_gradient, p, c) : nullptr;
        Vector total{};
        for (int64_t y = 0; y < op.in.height; y++)
            for (int64_t x = 0; x < op.in.width; x++) {
                const Vector g = load(gradient + (y * op.gradient.columns + x) * LANES);
                const Vector of_factor = g * load(in + (y * op.in.columns + x) * LANES);
                if (out) put(out + (y * op.out.columns + x) * LANES, g * load(factor + y * f.row + x * f.column), op.adds);
                if (f.single) total += of_factor;
                else if (other) put(other + y * of_gradient.row + x * of_gradient.column, of_factor, op.adds_residual);
            }
        if (f.single && other) put(other, total, op.adds_residual);
    }
}

}  // namespace
