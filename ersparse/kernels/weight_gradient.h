// Gradient of kept weights: the sums of COUNT weights stay in registers, and share each load of the gradient.
#pragma once

#include <algorithm>
#include <cstdint>

#include "convolution.h"
#include "operation.h"
#include "vectors.h"

namespace {

template <int COUNT, int COLUMNS, int STRIDE>
inline __attribute__((always_inline)) void add_rows(const Taps<STRIDE>& t, const Op& op, const int32_t* offsets,
                                                    const stored* gradient, Rows rows, Half (&total)[COUNT]) {
    const int64_t row = op.gradient.columns * op.gradient.row_step * LANES;
    for (int64_t y = rows.begin; y < rows.end; y++)
        for (int64_t x = 0; x < op.gradient.width; x += COLUMNS) {
            Factor g[COLUMNS];
#pragma GCC unroll 16
            for (int i = 0; i < COLUMNS; i++) g[i] = load_factor(gradient + y * row + x * t.column + t.across(i));
#pragma GCC unroll 16  // or the sums would be in memory
            for (int k = 0; k < COUNT; k++) {
                const stored* in = t.in + offsets[k] + y * t.row + x * t.column;
#pragma GCC unroll 16
                for (int i = 0; i < COLUMNS; i++) add_product(total[k], g[i], load_factor(in + t.across(i)));
            }
        }
}

template <int COUNT, int STRIDE>
inline void dots(const Taps<STRIDE>& t, const Op& op, const stored* gradient, Rows rows, int32_t k, int32_t end,
                 real* result) {
    for (; k + COUNT <= end; k += COUNT) {
        Half total[COUNT] = {};
        if (op.gradient.width % 2) add_rows<COUNT, 1, STRIDE>(t, op, op.offsets + k, gradient, rows, total);
        else if (op.gradient.width % 4) add_rows<COUNT, 2, STRIDE>(t, op, op.offsets + k, gradient, rows, total);
        else add_rows<COUNT, 4, STRIDE>(t, op, op.offsets + k, gradient, rows, total);
        if constexpr (COUNT == HALF) store(result + k, (rows.begin ? load(result + k) : Half{}) + sums<HALF / 2>(total));
        else
            for (int i = 0; i < COUNT; i++) result[k + i] = (rows.begin ? result[k + i] : 0) + sum(total[i]);
    }
    if constexpr (COUNT > 1) dots<COUNT / 2, STRIDE>(t, op, gradient, rows, k, end, result);
}

// A layer that keeps all its weights: its channels read the same, and CHANNELS of them share each load of the input.
template <int CHANNELS, int COUNT, int STRIDE>
inline void dots_of_full(const Taps<STRIDE>& t, const Op& op, const Part& p, int64_t channel, int32_t k, real* result) {
    const stored* gradient[CHANNELS];
    for (int c = 0; c < CHANNELS; c++) gradient[c] = plane(op.gradient, p, channel + c);
    const int64_t row = op.gradient.columns * op.gradient.row_step * LANES;
    for (; k + COUNT <= op.rows[1]; k += COUNT) {
        Half total[CHANNELS][COUNT] = {};
        for (int64_t y = 0; y < op.gradient.height; y++)
            for (int64_t x = 0; x < op.gradient.width; x++) {
                const stored* in = t.in + y * t.row + x * t.column;
                Factor g[CHANNELS];
                for (int c = 0; c < CHANNELS; c++)
                    g[c] = load_factor(gradient[c] + y * row + x * op.gradient.step * LANES);
                for (int i = 0; i < COUNT; i++) {
                    const Factor read = load_factor(in + op.offsets[k + i]);
                    for (int c = 0; c < CHANNELS; c++) add_product(total[c][i], g[c], read);
                }
            }
        for (int c = 0; c < CHANNELS; c++)
            for (int i = 0; i < COUNT; i++) result[op.rows[channel + c] + k + i] = sum(total[c][i]);
    }
    if constexpr (COUNT > 1) dots_of_full<CHANNELS, COUNT / 2, STRIDE>(t, op, p, channel, k, result);
}

template <int STRIDE> void weight_gradient(const Op& op, const Part& p) {
    const Taps<STRIDE> t(op, p);
    real* result = op.result + p.block * op.count;
    int64_t begin = p.begin;
    if (PAIRS && op.full)  // of floats, loads are cheaper than those of pairs, which are taken apart
        for (; begin + SHARE <= p.end; begin += SHARE) dots_of_full<SHARE, 8, STRIDE>(t, op, p, begin, 0, result);
    const int64_t row = op.in.block_size / op.in.rows * op.row_stride + op.gradient.block_size / op.gradient.rows;
    const int64_t enough = (HALF + op.gradient.width - 1) / op.gradient.width;  // products for each sum of a vector
    const int64_t at_once = std::max(enough, CACHED / int64_t(sizeof(stored)) / row);
    // At a time as many rows as fit the cache together with the same rows of all other channels.
    for (Rows rows{0, 0}; rows.begin < op.gradient.height; rows.begin = rows.end) {
        rows.end = std::min(rows.begin + at_once, op.gradient.height);
        for (int64_t c = begin; c < p.end; c++)
            dots<GROUP, STRIDE>(t, op, plane(op.gradient, p, c), rows, op.rows[c], op.rows[c + 1], result);
    }
}

void bias_gradient(const Op& op, const Part& p) {
    const int64_t row = op.gradient.columns * op.gradient.row_step * LANES;
    for (int64_t c = p.begin; c < p.end; c++) {
        const stored* g = plane(op.gradient, p, c);
        Vector total{};
        for (int64_t y = 0; y < op.gradient.height; y++)
            for (int64_t x = 0; x < op.gradient.width; x++)
                total += load(g + y * row + x * op.gradient.step * LANES);
        op.result[p.block * op.count + c] = sum(total);
    }
}

}  // namespace
