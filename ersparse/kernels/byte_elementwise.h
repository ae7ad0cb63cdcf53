// Operations of 8-bit prediction other than convolutions: IMAGES bytes are a pixel.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "byte_operation.h"

namespace {

// Calls visit(c, y, out) for each row of the result.
template <class Visit> inline void for_each_row(const Op& op, const Part& p, Visit visit) {
    for (int64_t c = p.begin; c < p.end; c++)
        for (int64_t y = 0; y < op.out.height; y++) visit(c, y, row(op.out, p, c, y));
}

template <int IMAGES> void add(const Op& op, const Part& p) {
    for_each_row(op, p, [&](int64_t c, int64_t y, uint8_t* out) {
        const uint8_t* in = row(op.in, p, c, y);
        const uint8_t* residual = op.has_residual ? row(op.residual, p, c, y) : in;
        const float scale = op.has_residual ? op.residual_scale : 0;
        for (int64_t i = 0; i < op.out.width * IMAGES; i++)
            out[i] = byte(std::fma(float(residual[i]), scale, std::fma(float(in[i]), op.in_scale, op.in_bias)));
    });
}

template <int IMAGES> void multiply(const Op& op, const Part& p) {  // by as many factors, or by one for each channel
    const bool single = op.residual.height == 1 && op.residual.width == 1;
    for_each_row(op, p, [&](int64_t c, int64_t y, uint8_t* out) {
        const uint8_t *in = row(op.in, p, c, y), *factor = row(op.residual, p, c, single ? 0 : y);
        for (int64_t x = 0; x < op.out.width; x++)
            for (int64_t i = 0; i < IMAGES; i++) {
                const float first = std::fma(float(in[x * IMAGES + i]), op.in_scale, op.in_bias);
                const float second = factor[(single ? 0 : x) * IMAGES + i];
                out[x * IMAGES + i] =
                    byte(std::fma(first, std::fma(second, op.residual_scale, op.residual_bias), op.out_zero));
            }
    });
}

template <int IMAGES> void look_up(const Op& op, const Part& p) {
    for_each_row(op, p, [&](int64_t c, int64_t y, uint8_t* out) {
        const uint8_t* in = row(op.in, p, c, y);
        for (int64_t i = 0; i < op.out.width * IMAGES; i++) out[i] = op.table[in[i]];
    });
}

// Copies the pixels that a strided convolution computes, of those that one without stride computes.
template <int IMAGES> void choose(const Op& op, const Part& p) {
    for_each_row(op, p, [&](int64_t c, int64_t y, uint8_t* out) {
        const uint8_t* in = row(op.in, p, c, y * op.row_stride);
        for (int64_t x = 0; x < op.out.width; x++)
            std::memcpy(out + x * IMAGES, in + x * op.stride * IMAGES, IMAGES);
    });
}

struct Span {
    int64_t begin, end, counted;
};
inline Span span(const Windows& w, int64_t i) {  // what a window reads, and how many numbers an average counts
    if (w.bins) {
        const int64_t begin = i * w.size / w.bins, end = ((i + 1) * w.size + w.bins - 1) / w.bins;
        return {begin, end, end - begin};
    }
    const int64_t begin = i * w.stride - w.padding, end = begin + w.window;
    const int64_t first = std::max(begin, -w.counted_padding), last = std::min(end, w.size + w.counted_padding);
    return {std::max<int64_t>(begin, 0), std::min(end, w.size), last - first};
}

template <int IMAGES> void halve(const Op& op, const Part& p) {  // maxima of 2 x 2 pixels
    for_each_row(op, p, [&](int64_t c, int64_t y, uint8_t* out) {
        const uint8_t *a = row(op.in, p, c, 2 * y), *b = row(op.in, p, c, 2 * y + 1);
        for (int64_t x = 0; x < op.out.width; x++)
            for (int64_t n = 0; n < IMAGES; n++) {
                const int64_t left = 2 * x * IMAGES + n, right = left + IMAGES;
                out[x * IMAGES + n] = std::max(std::max(a[left], a[right]), std::max(b[left], b[right]));
            }
    });
}

template <int IMAGES> void maximum(const Op& op, const Part& p) {
    if (op.halves) return halve<IMAGES>(op, p);
    for_each_row(op, p, [&](int64_t c, int64_t i, uint8_t* out) {
        const Span rows = span(op.pool_rows, i);
        for (int64_t j = 0; j < op.out.width; j++, out += IMAGES) {
            const Span columns = span(op.pool_columns, j);
            uint8_t best[IMAGES] = {};
            for (int64_t y = rows.begin; y < rows.end; y++)
                for (int64_t x = columns.begin; x < columns.end; x++) {
                    const uint8_t* in = row(op.in, p, c, y) + x * IMAGES;
                    for (int n = 0; n < IMAGES; n++) best[n] = std::max(best[n], in[n]);
                }
            std::memcpy(out, best, IMAGES);
        }
    });
}

template <int IMAGES> void average(const Op& op, const Part& p) {  // padding that counts is 0
    for_each_row(op, p, [&](int64_t c, int64_t i, uint8_t* out) {
        const Span rows = span(op.pool_rows, i);
        for (int64_t j = 0; j < op.out.width; j++, out += IMAGES) {
            const Span columns = span(op.pool_columns, j);
            int32_t total[IMAGES] = {};
            for (int64_t y = rows.begin; y < rows.end; y++)
                for (int64_t x = columns.begin; x < columns.end; x++) {
                    const uint8_t* in = row(op.in, p, c, y) + x * IMAGES;
                    for (int n = 0; n < IMAGES; n++) total[n] += in[n];
                }
            const float counted = float(rows.counted * columns.counted);
            const float share = float((rows.end - rows.begin) * (columns.end - columns.begin)) / counted;
            for (int n = 0; n < IMAGES; n++)
                out[n] = byte(std::fma(float(total[n]), op.in_scale / counted, std::fma(op.in_bias, share, op.out_zero)));
        }
    });
}

template <int IMAGES> void enter(const Op& op, const Part& p) {
    constexpr int64_t RUN = 64;  // pixels
    const int64_t pixels = op.out.height * op.out.width;
    uint8_t bytes[IMAGES][RUN] = {};
    for_each_row(op, p, [&](int64_t c, int64_t y, uint8_t* out) {
        for (int64_t x = 0; x < op.out.width; x += RUN) {
            const int64_t run = std::min(RUN, op.out.width - x);
            for (int64_t i = 0; i < p.images; i++) {
                const float* in =
                    op.batch + ((p.block * IMAGES + i) * op.channels + c) * pixels + y * op.out.width + x;
                for (int64_t n = 0; n < run; n++) bytes[i][n] = byte(std::fma(in[n], op.in_scale, op.in_bias));
            }
            for (int64_t n = 0; n < run; n++)
                for (int64_t i = 0; i < IMAGES; i++) out[(x + n) * IMAGES + i] = bytes[i][n];
        }
    });
}

template <int IMAGES> void leave(const Op& op, const Part& p) {
    const int64_t pixels = op.in.height * op.in.width;
    for (int64_t c = p.begin; c < p.end; c++)
        for (int64_t y = 0; y < op.in.height; y++)
            for (int64_t x = 0; x < op.in.width; x++)
                for (int64_t i = 0; i < p.images; i++)
                    op.batch[((p.block * IMAGES + i) * op.channels + c) * pixels + y * op.in.width + x] =
                        std::fma(float(row(op.in, p, c, y)[x * IMAGES + i]), op.in_scale, op.in_bias);
}

}  // namespace
