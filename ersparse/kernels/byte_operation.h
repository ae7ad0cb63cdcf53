// An operation of 8-bit prediction and its operands, as int8_abi.py lays them out, and the part that is computed at a time.
#pragma once

#include <algorithm>
#include <cstdint>

#include "quads.h"

extern "C" {

struct Tensor {
    uint8_t* data;
    int64_t block_size, channel_size, row_size, origin;  // in bytes; one block, or one for each thread
    int64_t height, width;                               // without border
};

struct Windows {  // of a pooling, along rows or columns: as in operation.h
    int64_t size, window, stride, padding, counted_padding, bins, disjoint;
};

struct Op {
    int64_t kind, channels;
    Tensor in, out, residual;
    const int32_t *groups, *offsets, *weights;  // [channels + 1]; [groups][4] in bytes; [groups] of four bytes each
    const float *scale, *bias;                  // of an output channel
    const uint8_t* table;                       // [256]: what a function makes of each byte
    int64_t row_stride, stride, shift;          // strides in pixels; shift in bytes, from the first pixel to what it reads
    int64_t has_residual;
    int64_t halves;   // maxima of 2 x 2 pixels
    int64_t vectors;  // of a channel that is computed from end to end, its border included; 0: pixel by pixel
    int64_t border;   // whether the border is to be restored
    float in_scale, in_bias, residual_scale, residual_bias, out_zero;
    Windows pool_rows, pool_columns;
    float* batch;  // images that enter or logits that leave, [images][channels][pixels]
};

}  // extern "C"

namespace {

struct Part {
    int64_t block, slot, begin, end, images;  // block: of the batch; slot: of a tensor; begin, end: channels
    int64_t from, to;                         // of a convolution's rows, or vectors; other operations compute all
};

inline int64_t extent(const Op& op) { return op.vectors ? op.vectors : op.out.height; }

inline uint8_t* plane(const Tensor& t, const Part& p, int64_t channel) {
    return t.data + p.slot * t.block_size + channel * t.channel_size + t.origin;
}
inline uint8_t* row(const Tensor& t, const Part& p, int64_t channel, int64_t y) {
    return plane(t, p, channel) + y * t.row_size;
}

}  // namespace
