// An operation and its operands, as abi.py lays them out, and the part of one that is computed at a time.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "vectors.h"

extern "C" {

struct Tensor {
    void* data;
    int64_t block_size;     // in numbers
    int64_t slotted;        // scratch: one block for each thread
    int64_t height, width;  // without border
    int64_t rows, columns;  // with it
    int64_t origin;         // pixels before the first one inside the border
    int64_t row_step, step;  // from one row, and one pixel of a row, to the next: more than 1 spreads the gradient of a
                             // strided convolution
};

struct Norm {  // one number a channel; identities where nothing is normalised
    real *alpha, *beta, *mean, *inverse_std, *mean_gradient, *mean_product;
    const real *weight, *bias;
    real *running_mean, *running_var, *weight_gradient, *bias_gradient;
    double* partial;  // [block][channel][2]
    double epsilon, momentum;
};

struct Windows {  // of a pooling, along rows or columns
    int64_t size;                    // of the image
    int64_t window, stride, padding;
    int64_t counted_padding;         // which averages count as zeros
    int64_t bins;                    // of adaptive pooling: how many windows share the image; otherwise 0
    int64_t disjoint;                // no window reads what another reads, or padding
};

struct Op {
    int64_t kind, channels;
    Tensor in, out, gradient, residual, residual_gradient;
    const int32_t *rows, *offsets;  // as in CSR: kept weights of an output channel, where each reads in its input
    const int32_t* segments;  // [input_blocks + 1][channels]: where the weights that read a block of input channels begin
    const real *weight, *bias;
    real* result;
    const int64_t* order;
    int64_t count, row_stride, stride, shift, input_blocks;
    int64_t adds, adds_residual, has_residual, multiplies;  // by the residual, rather than adds it
    int64_t activation, average;
    int64_t full;  // no weight is removed
    Windows pool_rows, pool_columns;
    real* batch;      // the images or features that enter or leave, one after the other, as PyTorch stores them
    int64_t abreast;  // vectors of images in a row of pixels; a network without pixels has several, so that a kept
                      // weight multiplies more than one vector
    double slope;     // of the activation
    Norm norm;
};

}  // extern "C"

namespace {

enum Kind { CONVOLVE, ACTIVATE, MOMENTS, WEIGHT_GRADIENT, BIAS_GRADIENT, ACTIVATION_SUMS, ACTIVATION_GRADIENT, PLANES, ENTER,
            LEAVE, PRODUCT, PRODUCT_GRADIENT };
enum Reduction { STATISTICS = 100, NORM_GRADIENT, SUM_BLOCKS, GATHER, EVALUATION };

struct Rows {
    int64_t begin, end;
};

struct Part {  // of a block operation
    int64_t block, slot, begin, end;  // channels
    int images;                       // in this block
    Rows rows;                        // of a convolution's result; other operations compute all
};

inline stored* plane(const Tensor& t, const Part& p, int64_t channel) {
    const int64_t block = t.slotted ? p.slot : p.block;
    return static_cast<stored*>(t.data) + block * t.block_size + (channel * t.rows * t.columns + t.origin) * LANES;
}

enum Activation { NONE, RELU, RELU6, LEAKY_RELU, SILU, GELU, GELU_TANH, HARDSWISH, SIGMOID, HARDSIGMOID, TANH, ELU };

inline bool clamps(const Op& op) { return op.activation <= RELU6; }
inline real lowest(const Op& op) {
    return op.activation == RELU || op.activation == RELU6 ? 0 : -std::numeric_limits<real>::infinity();
}
inline real highest(const Op& op) { return op.activation == RELU6 ? 6 : std::numeric_limits<real>::infinity(); }

struct Bounds {  // of what a ReLU returns; without one there are none
    Vector floor, ceiling;
    Bounds(const Op& op) : floor(broadcast(lowest(op))), ceiling(broadcast(highest(op))) {}
    Vector clamp(Vector v) const {  // NaN stays
        const Vector above = choose(floor > v, floor, v);
        return choose(above > ceiling, ceiling, above);
    }
    Lanes open(Vector v) const { return (v > floor) & (ceiling > v); }  // where the gradient passes
};

struct Batch {
    int64_t images, size;  // size of a block
    int64_t blocks() const { return (images + size - 1) / size; }
    int64_t in(int64_t block) const { return std::min(size, images - block * size); }
};

struct Range {
    int64_t begin, end;
    Batch batch;
};

}  // namespace
