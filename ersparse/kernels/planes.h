// Few images: the pixels of one channel of one image lie one after the other, block_size numbers a channel.
#pragma once

#include <cstdint>
#include <limits>

#include "functions.h"
#include "operation.h"
#include "windows.h"

namespace {

inline real* plane_of(const Tensor& t, int64_t c) { return static_cast<real*>(t.data) + c * t.block_size + t.origin; }

struct PlaneSum {  // in + residual, of one channel
    const real *in, *residual;
    int64_t row, column, residual_row;
    PlaneSum(const Op& op, int64_t c)
        : in(plane_of(op.in, c)), residual(op.has_residual ? plane_of(op.residual, c) : nullptr),
          row(op.in.columns * op.in.row_step), column(op.in.step), residual_row(op.residual.columns) {}
    real operator()(int64_t y, int64_t x) const {
        const real v = in[y * row + x * column];
        return residual ? v + residual[y * residual_row + x] : v;
    }
};

void product_of_planes(const Op& op, const Part& p) {  // by one number, if the residual has a single pixel
    const bool single = op.residual.height == 1 && op.residual.width == 1;
    for (int64_t c = p.begin; c < p.end; c++) {
        const real *in = plane_of(op.in, c), *factor = plane_of(op.residual, c);
        real* out = plane_of(op.out, c);
        for (int64_t y = 0; y < op.out.height; y++)
            for (int64_t x = 0; x < op.out.width; x++)
                out[y * op.out.columns + x] =
                    in[y * op.in.columns + x] * factor[single ? 0 : y * op.residual.columns + x];
    }
}

struct RealBounds {
    real floor, ceiling;
    RealBounds(const Op& op) : floor(lowest(op)), ceiling(highest(op)) {}
    real clamp(real v) const { return v < floor ? floor : v > ceiling ? ceiling : v; }
};

template <int SIDE, bool AVERAGE> void disjoint_planes(const Op& op, const Part& p) {
    const int64_t height = SIDE ? SIDE : op.pool_rows.window, width = SIDE ? SIDE : op.pool_columns.window;
    const RealBounds bounds(op);
    const real share = real(1) / (height * width);
    for (int64_t c = p.begin; c < p.end; c++) {
        const PlaneSum sum(op, c);
        real* out = plane_of(op.out, c);
        for (int64_t i = 0; i < op.out.height; i++)
            for (int64_t j = 0; j < op.out.width; j++) {
                real total = 0;
                for (int64_t y = i * height; y < (i + 1) * height; y++)
                    for (int64_t x = j * width; x < (j + 1) * width; x++) {
                        const real v = sum(y, x);
                        if (AVERAGE) total += bounds.clamp(v);
                        else total = (y == i * height && x == j * width) || v > total ? v : total;
                    }
                out[i * op.out.columns + j] = AVERAGE ? total * share : bounds.clamp(total);
            }
    }
}

template <bool AVERAGE> void overlapping_planes(const Op& op, const Part& p) {
    const RealBounds bounds(op);
    for (int64_t c = p.begin; c < p.end; c++) {
        const PlaneSum sum(op, c);
        real* out = plane_of(op.out, c);
        for (int64_t i = 0; i < op.out.height; i++)
            for (int64_t j = 0; j < op.out.width; j++) {
                const Span rows = span(op.pool_rows, i), columns = span(op.pool_columns, j);
                real total = AVERAGE ? 0 : -std::numeric_limits<real>::infinity();
                for (int64_t y = rows.begin; y < rows.end; y++)
                    for (int64_t x = columns.begin; x < columns.end; x++) {
                        const real v = sum(y, x);
                        if (AVERAGE) total += bounds.clamp(v);
                        else total = v > total || v != v ? v : total;
                    }
                const real share = real(1) / (counted(op.pool_rows, i) * counted(op.pool_columns, j));
                out[i * op.out.columns + j] = AVERAGE ? total * share : bounds.clamp(total);
            }
    }
}

void apply_to_planes(const Op& op, const Part& p) {
    for (int64_t c = p.begin; c < p.end; c++)
        for (int64_t i = 0; i < op.out.height; i++)
            for (int64_t j = 0; j < op.out.width; j += HALF) {
                real* out = plane_of(op.out, c) + i * op.out.columns + j;
                Half v = load_first(out, op.out.width - j);
                apply(op, &v, 1);
                store_first(out, v, op.out.width - j);
            }
}

void planes(const Op& op, const Part& p) {  // pool(activation(in + residual))
    const int64_t height = op.pool_rows.window, width = op.pool_columns.window;
    if (op.multiplies) return product_of_planes(op, p);
    if (!op.pool_rows.disjoint || !op.pool_columns.disjoint)
        op.average ? overlapping_planes<true>(op, p) : overlapping_planes<false>(op, p);
    else if (op.average) disjoint_planes<0, true>(op, p);
    else if (height == 1 && width == 1) disjoint_planes<1, false>(op, p);
    else if (height == 2 && width == 2) disjoint_planes<2, false>(op, p);
    else disjoint_planes<0, false>(op, p);
    if (!clamps(op)) apply_to_planes(op, p);
}

}  // namespace
