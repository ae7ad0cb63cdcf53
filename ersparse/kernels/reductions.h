// Reductions: over all blocks in their order, for a range of channels or weights.
#pragma once

#include <cmath>
#include <cstdint>

#include "operation.h"

namespace {

void affine(const Norm& n, int64_t c, double mean, double variance) {
    const double inverse = 1 / std::sqrt(variance + n.epsilon);
    n.mean[c] = mean, n.inverse_std[c] = inverse;
    n.alpha[c] = n.weight[c] * inverse, n.beta[c] = n.bias[c] - n.weight[c] * inverse * mean;
}

void statistics(const Op& op, const Range& r) {  // Chan, Golub & LeVeque 1979
    const Norm& n = op.norm;
    for (int64_t c = r.begin; c < r.end; c++) {
        double count = 0, mean = 0, squares = 0;
        for (int64_t b = 0; b < r.batch.blocks(); b++) {
            const double* part = n.partial + (b * op.channels + c) * 2;
            const double more = r.batch.in(b) * op.in.height * op.in.width, gap = part[0] - mean;
            squares += part[1] + gap * gap * count * more / (count + more);
            mean += gap * more / (count + more), count += more;
        }
        affine(n, c, mean, squares / count);
        n.running_mean[c] += n.momentum * (mean - n.running_mean[c]);
        n.running_var[c] += n.momentum * (squares / (count - 1) - n.running_var[c]);
    }
}

void evaluation(const Op& op, const Range& r) {
    for (int64_t c = r.begin; c < r.end; c++) affine(op.norm, c, op.norm.running_mean[c], op.norm.running_var[c]);
}

void norm_gradient(const Op& op, const Range& r) {
    const double count = double(r.batch.images) * op.in.height * op.in.width;
    for (int64_t c = r.begin; c < r.end; c++) {
        double gradient = 0, product = 0;
        for (int64_t b = 0; b < r.batch.blocks(); b++) {
            const double* part = op.norm.partial + (b * op.channels + c) * 2;
            gradient += part[0], product += part[1];
        }
        op.norm.bias_gradient[c] = gradient, op.norm.weight_gradient[c] = product;
        op.norm.mean_gradient[c] = gradient / count, op.norm.mean_product[c] = product / count;
    }
}

void sum_blocks(const Op& op, const Range& r) {
    for (int64_t k = r.begin; k < r.end; k++) op.result[k] = op.weight[k];
    for (int64_t b = 1; b < r.batch.blocks(); b++)
        for (int64_t k = r.begin; k < r.end; k++) op.result[k] += op.weight[b * op.count + k];
}

void gather(const Op& op, const Range& r) {
    for (int64_t k = r.begin; k < r.end; k++) op.result[k] = op.weight[op.order[k]];
}

}  // namespace
