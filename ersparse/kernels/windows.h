// Pooling over windows that may overlap, and may reach into padding, which nothing is read from.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "activation.h"
#include "operation.h"
#include "vectors.h"

namespace {

struct Span {  // rows or columns
    int64_t begin, end;
};

inline Span span(const Windows& w, int64_t i) {  // what window i covers of the image
    if (w.bins) return {i * w.size / w.bins, ((i + 1) * w.size + w.bins - 1) / w.bins};
    const int64_t begin = i * w.stride - w.padding;
    return {std::max<int64_t>(begin, 0), std::min(begin + w.window, w.size)};
}

inline int64_t counted(const Windows& w, int64_t i) {  // by how many an average is divided
    const Span inside = span(w, i);
    if (w.bins) return inside.end - inside.begin;
    const int64_t begin = i * w.stride - w.padding;
    return std::min(begin + w.window, w.size + w.counted_padding) - std::max(begin, -w.counted_padding);
}

// Gradients of the rows that windows still add to, as a ring.
struct LiveRows {
    const int64_t height, width;
    Vector* const data;
    LiveRows(const Op& op) : height(op.pool_rows.window), width(op.in.width), data(new Vector[height * width]()) {}
    ~LiveRows() { delete[] data; }
    LiveRows(const LiveRows&) = delete;
    Vector& at(int64_t y, int64_t x) const { return data[y % height * width + x]; }
};

template <bool AVERAGE> struct Overlapping {
    template <bool RESIDUAL> static void activate(const Op& op, const Channel<RESIDUAL>& channel, stored* out) {
        for (int64_t i = 0; i < op.out.height; i++)
            for (int64_t j = 0; j < op.out.width; j++) {
                const Span rows = span(op.pool_rows, i), columns = span(op.pool_columns, j);
                Vector total{};
                if (AVERAGE)
                    for_each(op, channel, rows, columns, [&](int64_t, int64_t, Vector v) {
                        total += channel.bounds.clamp(v);
                    });
                else total = maximum(op, channel, rows, columns);
                store(out + (i * op.out.columns + j) * LANES,
                      AVERAGE ? total * share(op, i, j) : channel.bounds.clamp(total));
            }
    }

    template <bool RESIDUAL, typename Visit>
    static inline void route(const Op& op, const stored* gradient, const Channel<RESIDUAL>& channel, Visit visit) {
        const LiveRows live(op);
        int64_t done = 0;
        auto visit_until = [&](int64_t end) {
            for (; done < end; done++)
                for (int64_t x = 0; x < op.in.width; x++) {
                    Vector& total = live.at(done, x);
                    const int64_t at = (done * op.in.columns + x) * LANES;
                    const Vector v = channel.before_relu(at, (done * op.residual.columns + x) * LANES);
                    visit(at, done, x, choose(channel.bounds.open(v), total, Vector{}));
                    total = Vector{};
                }
        };
        for (int64_t i = 0; i < op.gradient.height; i++) {
            const Span rows = span(op.pool_rows, i);
            visit_until(std::min(rows.begin, op.in.height));
            for (int64_t j = 0; j < op.gradient.width; j++) {
                const Span columns = span(op.pool_columns, j);
                const Vector g = load_in_order(gradient + (i * op.gradient.columns + j) * LANES);
                if (AVERAGE) {
                    const Vector part = g * share(op, i, j);
                    for (int64_t y = rows.begin; y < rows.end; y++)
                        for (int64_t x = columns.begin; x < columns.end; x++) live.at(y, x) += part;
                    continue;
                }
                const Vector best = maximum(op, channel, rows, columns);
                Lanes wanted = best == best;
                for_each(op, channel, rows, columns, [&](int64_t y, int64_t x, Vector v) {
                    const Lanes hit = (v == best) & wanted;  // the first of equals
                    live.at(y, x) += choose(hit, g, Vector{});
                    wanted = wanted & ~hit;
                });
            }
        }
        visit_until(op.in.height);
    }

  private:
    static Vector share(const Op& op, int64_t i, int64_t j) {
        return broadcast(real(1) / (counted(op.pool_rows, i) * counted(op.pool_columns, j)));
    }

    template <bool RESIDUAL, typename See>
    static inline void for_each(const Op& op, const Channel<RESIDUAL>& channel, Span rows, Span columns, See see) {
        for (int64_t y = rows.begin; y < rows.end; y++)
            for (int64_t x = columns.begin; x < columns.end; x++)
                see(y, x, channel.before_relu((y * op.in.columns + x) * LANES, (y * op.residual.columns + x) * LANES));
    }

    template <bool RESIDUAL>
    static inline Vector maximum(const Op& op, const Channel<RESIDUAL>& channel, Span rows, Span columns) {
        Vector best = broadcast(-std::numeric_limits<real>::infinity());
        for_each(op, channel, rows, columns, [&](int64_t, int64_t, Vector v) {  // NaN stays
            best = choose(~(v > best) & (v == v), best, v);
        });
        return best;
    }
};

}  // namespace
