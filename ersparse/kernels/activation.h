// What lies between convolutions: pool(activation(alpha * y + beta + residual)), recomputed on the way back.
//
// A Pooling computes one channel forward (activate) and visits all pixels of y with their gradients before the activation
// (route). The one in this file has windows that do not overlap, and activations that clamp.
#pragma once

#include <cstdint>

#include "operation.h"
#include "vectors.h"

namespace {

// One window of a pool: calls visit(numbers into y, numbers into the residual, is it the first) for each pixel.
struct Window {
    int64_t height, width, y_row, residual_row;
};

template <int SIDE> Window window(const Op& op) {
    return {SIDE ? SIDE : op.pool_rows.window, SIDE ? SIDE : op.pool_columns.window, op.in.columns * LANES,
            op.residual.columns * LANES};
}

template <bool RESIDUAL> struct Channel {  // the affine map of one channel
    const stored *y, *residual;
    Vector alpha, beta;
    Bounds bounds;
    Channel(const Op& op, const Part& p, int64_t c)
        : y(plane(op.in, p, c)), residual(RESIDUAL ? plane(op.residual, p, c) : nullptr),
          alpha(broadcast(op.norm.alpha[c])), beta(broadcast(op.norm.beta[c])), bounds(op) {}
    Vector before_relu(int64_t at_y, int64_t at_residual) const {
        const Vector v = alpha * load_in_order(y + at_y) + beta;
        return RESIDUAL ? v + load_in_order(residual + at_residual) : v;
    }
};

template <int SIDE, bool AVERAGE> struct Disjoint {
    template <bool RESIDUAL> static void activate(const Op& op, const Channel<RESIDUAL>& channel, stored* out) {
        const Window w = window<SIDE>(op);
        const Vector share = broadcast(real(1) / (w.height * w.width));
        for (int64_t i = 0; i < op.out.height; i++)
            for (int64_t j = 0; j < op.out.width; j++) {
                Vector total{};
                for (int64_t y = 0; y < w.height; y++)
                    for (int64_t x = 0; x < w.width; x++) {
                        const int64_t row = i * w.height + y, column = (j * w.width + x) * LANES;
                        const Vector v = channel.before_relu(row * w.y_row + column, row * w.residual_row + column);
                        if (AVERAGE) total += channel.bounds.clamp(v);
                        else total = !y && !x ? v : choose(v > total, v, total);
                    }
                store(out + (i * op.out.columns + j) * LANES, AVERAGE ? total * share : channel.bounds.clamp(total));
            }
    }

    // Calls visit(numbers into y, row, column, gradient before relu) for every pixel of y.
    template <bool RESIDUAL, typename Visit>
    static inline void route(const Op& op, const stored* gradient, const Channel<RESIDUAL>& channel, Visit visit) {
        const Window w = window<SIDE>(op);
        const Vector share = broadcast(real(1) / (w.height * w.width)), zero{};
        const int64_t pooled_rows = op.gradient.height * w.height, pooled_columns = op.gradient.width * w.width;
        for (int64_t i = 0; i < op.gradient.height; i++)
            for (int64_t j = 0; j < op.gradient.width; j++) {
                const Vector g = load_in_order(gradient + (i * op.gradient.columns + j) * LANES);
                Vector best{};
                if (!AVERAGE)
                    for (int64_t y = 0; y < w.height; y++)
                        for (int64_t x = 0; x < w.width; x++) {
                            const int64_t row = i * w.height + y, column = (j * w.width + x) * LANES;
                            const Vector v = channel.before_relu(row * w.y_row + column, row * w.residual_row + column);
                            best = !y && !x ? v : choose(v > best, v, best);
                        }
                Lanes open = channel.bounds.open(best);
                for (int64_t y = 0; y < w.height; y++)
                    for (int64_t x = 0; x < w.width; x++) {
                        const int64_t row = i * w.height + y, column = (j * w.width + x) * LANES;
                        const int64_t at = row * w.y_row + column, at_residual = row * w.residual_row + column;
                        Vector through;
                        if (SIDE == 1) through = choose(open, g, zero);
                        else {
                            const Vector v = channel.before_relu(at, at_residual);
                            const Lanes hit = AVERAGE ? channel.bounds.open(v) : (v == best) & open;  // first of equals
                            through = choose(hit, AVERAGE ? g * share : g, zero);
                            open = open & ~hit;
                        }
                        visit(at, row, j * w.width + x, through);
                    }
            }
        for (int64_t y = 0; y < op.in.height; y++)  // what no window covers
            for (int64_t x = y < pooled_rows ? pooled_columns : 0; x < op.in.width; x++)
                visit(y * w.y_row + x * LANES, y, x, zero);
    }
};

template <class Pooling, bool RESIDUAL> void activate(const Op& op, const Part& p) {
    for (int64_t c = p.begin; c < p.end; c++)
        Pooling::activate(op, Channel<RESIDUAL>(op, p, c), plane(op.out, p, c));
}

template <class Pooling, bool RESIDUAL> void activation_sums(const Op& op, const Part& p) {
    for (int64_t c = p.begin; c < p.end; c++) {
        const Channel<RESIDUAL> channel(op, p, c);
        const Vector mean = broadcast(op.norm.mean[c]);
        Vector gradients{}, products{};
        Pooling::route(op, plane(op.gradient, p, c), channel, [&](int64_t at, int64_t, int64_t, Vector g) {
            gradients += g;
            products += g * (load(channel.y + at) - mean);
        });
        double* partial = op.norm.partial + (p.block * op.channels + c) * 2;
        partial[0] = sum_of_first(gradients, p.images);
        partial[1] = sum_of_first(products, p.images) * op.norm.inverse_std[c];
    }
}

template <class Pooling, bool RESIDUAL> void activation_gradient(const Op& op, const Part& p) {
    const Lanes there = first(p.images);
    for (int64_t c = p.begin; c < p.end; c++) {
        const Channel<RESIDUAL> channel(op, p, c);
        const Norm& n = op.norm;
        // alpha (g - mean_gradient - yhat mean_product), as a line in g and y
        const real slope = -n.alpha[c] * n.inverse_std[c] * n.mean_product[c];
        const Vector of_y = broadcast(slope), constant = broadcast(-n.alpha[c] * n.mean_gradient[c] - slope * n.mean[c]);
        stored* out = plane(op.out, p, c);
        stored* residual = op.adds_residual >= 0 ? plane(op.residual_gradient, p, c) : nullptr;
        Pooling::route(op, plane(op.gradient, p, c), channel, [&](int64_t at, int64_t row, int64_t column, Vector g) {
            const Vector v = channel.alpha * g + (of_y * load(channel.y + at) + constant);
            stored* to = out + (row * op.out.columns * op.out.row_step + column * op.out.step) * LANES;
            const Vector kept = choose(there, v, Vector{});
            store(to, op.adds ? load(to) + kept : kept);
            if (residual) {
                stored* other = residual + (row * op.residual_gradient.columns + column) * LANES;
                store(other, op.adds_residual ? load(other) + g : g);
            }
        });
    }
}

// Mean and squared deviations of each channel in this block, about a value of its own so that nothing cancels.
void moments(const Op& op, const Part& p) {
    for (int64_t c = p.begin; c < p.end; c++) {
        const stored* y = plane(op.in, p, c);
        const real origin = Vectors<stored>::one(load(y));
        const Vector about = broadcast(origin);
        Vector total[2] = {}, square[2] = {};
        for (int64_t i = 0; i < op.in.height; i++)
            for (int64_t j = 0; j < op.in.width; j++) {
                const Vector d = load_in_order(y + (i * op.in.columns + j) * LANES) - about;
                total[j % 2] += d, square[j % 2] += d * d;
            }
        const double count = double(p.images) * op.in.height * op.in.width;
        const double mean = sum_of_first(total[0] + total[1], p.images) / count;
        double* partial = op.norm.partial + (p.block * op.channels + c) * 2;
        partial[0] = origin + mean;
        partial[1] = sum_of_first(square[0] + square[1], p.images) - count * mean * mean;
    }
}

}  // namespace
