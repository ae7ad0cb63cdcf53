// A Pooling without windows, after an activation that does more than clamp: several pixels at a time.
#pragma once

#include <algorithm>
#include <cstdint>

#include "activation.h"
#include "functions.h"
#include "operation.h"
#include "vectors.h"

namespace {

struct Elementwise {
    template <bool RESIDUAL> static void activate(const Op& op, const Channel<RESIDUAL>& channel, stored* out) {
        for_each(op, channel, apply, [&](int64_t y, int64_t x, Vector v) {
            store(out + (y * op.out.columns + x) * LANES, v);
        });
    }

    template <bool RESIDUAL, typename Visit>
    static inline void route(const Op& op, const stored* gradient, const Channel<RESIDUAL>& channel, Visit visit) {
        for_each(op, channel, differentiate, [&](int64_t y, int64_t x, Vector slope) {
            const Vector g = load_in_order(gradient + (y * op.gradient.columns + x) * LANES);
            visit((y * op.in.columns + x) * LANES, y, x, g * slope);
        });
    }

  private:
    static constexpr int HALVES = LANES / HALF, PIXELS = 16 / HALVES;

    template <bool RESIDUAL, typename Function, typename See>
    static inline void for_each(const Op& op, const Channel<RESIDUAL>& channel, Function function, See see) {
        Half halves[PIXELS * HALVES];
        for (int64_t y = 0; y < op.in.height; y++)
            for (int64_t begin = 0; begin < op.in.width; begin += PIXELS) {
                const int count = std::min<int64_t>(PIXELS, op.in.width - begin);
                for (int i = 0; i < count; i++) {
                    const int64_t x = begin + i;
                    const Vector v =
                        channel.before_relu((y * op.in.columns + x) * LANES, (y * op.residual.columns + x) * LANES);
                    for (int h = 0; h < HALVES; h++) halves[i * HALVES + h] = half_of(v, h);
                }
                function(op, halves, count * HALVES);
                for (int i = 0; i < count; i++) {
                    Vector v{};
                    for (int h = 0; h < HALVES; h++) set_half(v, h, halves[i * HALVES + h]);
                    see(y, begin + i, v);
                }
            }
    }
};

}  // namespace
