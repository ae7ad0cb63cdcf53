// Prediction in 8 bits: activations are bytes, kept weights are bytes with a scale for each output channel, sums are exact.
//
// An activation is [block][channel][row][column][64 images] of bytes q, which stand for (q - zero) * scale; its border
// holds `zero`. Scales, zeros and biases are folded into the numbers of an operation (ersparse/export/int8.py), so
// that a result is round(sums * scale + bias + ...), saturated to a byte.
#include <algorithm>
#include <cstdint>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "quads.h"

extern "C" {

struct Tensor {
    uint8_t* data;
    int64_t block_size;     // in bytes; there is one block for each thread, or fewer
    int64_t height, width;  // without border
    int64_t rows, columns;  // with it
    int64_t origin;         // pixels before the first one inside the border
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
    int64_t row_stride, stride, shift;          // in pixels
    int64_t has_residual, halves;               // halves: maxima of 2 x 2 pixels
    float in_scale, in_bias, residual_scale, residual_bias, out_zero;
    Windows pool_rows, pool_columns;
    float* batch;  // images that enter or logits that leave, [images][channels][pixels]
};

}  // extern "C"

namespace {

enum Kind { ENTER, CONVOLVE, ADD, MULTIPLY, LOOK_UP, MAXIMUM, AVERAGE, LOGITS, LEAVE };

struct Part {
    int64_t block, slot, begin, end, images;  // block: of the batch; slot: of a tensor; begin, end: channels
};

inline uint8_t* plane(const Tensor& t, const Part& p, int64_t channel) {
    return t.data + p.slot * t.block_size + (channel * t.rows * t.columns + t.origin) * IMAGES;
}
inline uint8_t* pixel(const Tensor& t, const Part& p, int64_t channel, int64_t y, int64_t x) {
    return plane(t, p, channel) + (y * t.columns + x) * IMAGES;
}

// Adds the products of all kept weights of a channel to the sums of a tile.
template <int ROWS, int COLUMNS>
inline void add_products(Sums (&sums)[ROWS][COLUMNS], const Op& op, int64_t channel, const uint8_t* in, int64_t row,
                         int64_t column) {
    for (int32_t g = op.groups[channel]; g < op.groups[channel + 1]; g++) {
        const int32_t *at = op.offsets + 4 * g, weights = op.weights[g];
        const uint8_t *a = in + at[0], *b = in + at[1], *c = in + at[2], *d = in + at[3];
#pragma GCC unroll 2
        for (int y = 0; y < ROWS; y++)
#pragma GCC unroll 4
            for (int x = 0; x < COLUMNS; x++) {
                const int64_t to = y * row + x * column;
                sums[y][x].add(a + to, b + to, c + to, d + to, weights);
            }
    }
}

// All channels of a tile before the next tile: they find what they read in the second-level cache.
template <int ROWS, int COLUMNS, int STRIDE> void tile(const Op& op, const Part& p, int64_t y, int64_t x) {
    const int64_t row = op.in.columns * op.row_stride * IMAGES, column = (STRIDE ? STRIDE : op.stride) * IMAGES;
    const uint8_t* in = plane(op.in, p, 0) + op.shift * IMAGES + y * row + x * column;
    for (int64_t c = p.begin; c < p.end; c++) {
        Sums sums[ROWS][COLUMNS];
        add_products(sums, op, c, in, row, column);
        Bytes results[ROWS][COLUMNS];
#pragma GCC unroll 2
        for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 4
            for (int j = 0; j < COLUMNS; j++) {
                Floats total(sums[i][j], op.scale[c], op.bias[c]);
                if (op.has_residual) total.add(Bytes::load(pixel(op.residual, p, c, y + i, x + j)), op.residual_scale);
                results[i][j] = total.rounded();
            }
        if constexpr (ROWS == 2 && COLUMNS == 2)
            if (op.halves) {
                const Bytes upper = results[0][0].max(results[0][1]), lower = results[1][0].max(results[1][1]);
                upper.max(lower).store(pixel(op.out, p, c, y / 2, x / 2));
                continue;
            }
#pragma GCC unroll 2
        for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 4
            for (int j = 0; j < COLUMNS; j++) results[i][j].store(pixel(op.out, p, c, y + i, x + j));
    }
}

template <int ROWS, int STRIDE> void rows_of_tiles(const Op& op, const Part& p, int64_t y) {
    const int64_t width = op.halves ? 2 * op.out.width : op.out.width;
    int64_t x = 0;
    for (; x + 2 <= width; x += 2) tile<ROWS, 2, STRIDE>(op, p, y, x);
    if (x < width) tile<ROWS, 1, STRIDE>(op, p, y, x);
}

template <int STRIDE> void convolve(const Op& op, const Part& p) {
    const int64_t height = op.halves ? 2 * op.out.height : op.out.height;
    int64_t y = 0;
    for (; y + 2 <= height; y += 2) rows_of_tiles<2, STRIDE>(op, p, y);
    if (y < height) rows_of_tiles<1, STRIDE>(op, p, y);
}

void logits(const Op& op, const Part& p) {  // of a last layer: not rounded
    const int64_t pixels = op.out.height * op.out.width;
    const int64_t row = op.in.columns * op.row_stride * IMAGES, column = op.stride * IMAGES;
    const uint8_t* in = plane(op.in, p, 0) + op.shift * IMAGES;
    for (int64_t c = p.begin; c < p.end; c++)
        for (int64_t n = 0; n < pixels; n++) {
            const uint8_t* from = in + n / op.out.width * row + n % op.out.width * column;
            Sums sums[1][1];
            add_products(sums, op, c, from, 0, 0);
            const Floats total(sums[0][0], op.scale[c], op.bias[c]);
            for (int64_t i = 0; i < p.images; i++)
                op.batch[((p.block * IMAGES + i) * op.channels + c) * pixels + n] = total[i];
        }
}

template <class Visit> void for_each_pixel(const Op& op, const Part& p, Visit visit) {
    for (int64_t c = p.begin; c < p.end; c++)
        for (int64_t y = 0; y < op.out.height; y++)
            for (int64_t x = 0; x < op.out.width; x++) visit(c, y, x).store(pixel(op.out, p, c, y, x));
}

inline Floats scaled(const uint8_t* bytes, float scale, float bias) {
    Floats total(bias);
    total.add(Bytes::load(bytes), scale);
    return total;
}

void add(const Op& op, const Part& p) {
    for_each_pixel(op, p, [&](int64_t c, int64_t y, int64_t x) {
        Floats total = scaled(pixel(op.in, p, c, y, x), op.in_scale, op.in_bias);
        if (op.has_residual) total.add(Bytes::load(pixel(op.residual, p, c, y, x)), op.residual_scale);
        return total.rounded();
    });
}

void multiply(const Op& op, const Part& p) {  // by as many factors, or by one for each channel; in_scale is that of the result
    const bool single = op.residual.height == 1 && op.residual.width == 1;
    const float zero = op.out_zero;
    for_each_pixel(op, p, [&](int64_t c, int64_t y, int64_t x) {
        const uint8_t* factor = pixel(op.residual, p, c, single ? 0 : y, single ? 0 : x);
        const Floats first = scaled(pixel(op.in, p, c, y, x), op.in_scale, op.in_bias);
        return first.times(scaled(factor, op.residual_scale, op.residual_bias), zero).rounded();
    });
}

void look_up(const Op& op, const Part& p) {
    for_each_pixel(op, p, [&](int64_t c, int64_t y, int64_t x) {
        uint8_t bytes[IMAGES];
        for (int i = 0; i < IMAGES; i++) bytes[i] = op.table[pixel(op.in, p, c, y, x)[i]];
        return Bytes::load(bytes);
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

void maximum(const Op& op, const Part& p) {
    for_each_pixel(op, p, [&](int64_t c, int64_t i, int64_t j) {
        const Span rows = span(op.pool_rows, i), columns = span(op.pool_columns, j);
        Bytes best = Bytes::load(pixel(op.in, p, c, rows.begin, columns.begin));
        for (int64_t y = rows.begin; y < rows.end; y++)
            for (int64_t x = columns.begin; x < columns.end; x++) best = best.max(Bytes::load(pixel(op.in, p, c, y, x)));
        return best;
    });
}

void average(const Op& op, const Part& p) {  // of the numbers in the window; padding that counts is 0
    for_each_pixel(op, p, [&](int64_t c, int64_t i, int64_t j) {
        const Span rows = span(op.pool_rows, i), columns = span(op.pool_columns, j);
        const float counted = rows.counted * columns.counted;
        const float share = (rows.end - rows.begin) * (columns.end - columns.begin) / counted;
        Floats total(op.in_bias * share + op.out_zero);
        for (int64_t y = rows.begin; y < rows.end; y++)
            for (int64_t x = columns.begin; x < columns.end; x++)
                total.add(Bytes::load(pixel(op.in, p, c, y, x)), op.in_scale / counted);
        return total.rounded();
    });
}

void enter(const Op& op, const Part& p) {
    constexpr int64_t RUN = 64;  // pixels
    const int64_t pixels = op.out.height * op.out.width;
    const float* batch = op.batch + p.block * IMAGES * op.channels * pixels;
    uint8_t bytes[IMAGES][RUN] = {};
    for (int64_t c = p.begin; c < p.end; c++)
        for (int64_t y = 0; y < op.out.height; y++)
            for (int64_t x = 0; x < op.out.width; x += RUN) {
                const int64_t run = std::min(RUN, op.out.width - x);
                for (int64_t i = 0; i < p.images; i++) {
                    const float* in = batch + (i * op.channels + c) * pixels + y * op.out.width + x;
                    for (int64_t n = 0; n < run; n++) bytes[i][n] = byte(std::fma(in[n], op.in_scale, op.in_bias));
                }
                uint8_t* out = pixel(op.out, p, c, y, x);
                for (int64_t n = 0; n < run; n++)
                    for (int64_t i = 0; i < IMAGES; i++) out[n * IMAGES + i] = bytes[i][n];
            }
}

void leave(const Op& op, const Part& p) {
    const int64_t pixels = op.in.height * op.in.width;
    for (int64_t c = p.begin; c < p.end; c++)
        for (int64_t y = 0; y < op.in.height; y++)
            for (int64_t x = 0; x < op.in.width; x++)
                for (int64_t i = 0; i < p.images; i++)
                    op.batch[((p.block * IMAGES + i) * op.channels + c) * pixels + y * op.in.width + x] =
                        std::fma(float(pixel(op.in, p, c, y, x)[i]), op.in_scale, op.in_bias);
}

void run_part(const Op& op, const Part& p) {
    switch (op.kind) {
        case ENTER: return enter(op, p);
        case CONVOLVE: return op.stride == 1 ? convolve<1>(op, p) : convolve<0>(op, p);
        case ADD: return add(op, p);
        case MULTIPLY: return multiply(op, p);
        case LOOK_UP: return look_up(op, p);
        case MAXIMUM: return maximum(op, p);
        case AVERAGE: return average(op, p);
        case LOGITS: return logits(op, p);
        case LEAVE: return leave(op, p);
    }
}

// Each thread takes its blocks of images through all operations, or all threads share the channels of each operation.
void work(const Op* ops, int64_t count, int64_t images, int64_t me, int64_t threads) {
    const int64_t blocks = (images + IMAGES - 1) / IMAGES;
    const auto in_block = [&](int64_t b) { return std::min<int64_t>(IMAGES, images - b * IMAGES); };
    if (blocks >= threads) {
        for (int64_t b = blocks * me / threads; b < blocks * (me + 1) / threads; b++)
            for (int64_t i = 0; i < count; i++) run_part(ops[i], {b, me, 0, ops[i].channels, in_block(b)});
        return;
    }
    for (int64_t i = 0; i < count; i++) {
        for (int64_t b = 0; b < blocks; b++) {
            const int64_t n = ops[i].channels;
            run_part(ops[i], {b, b, n * me / threads, n * (me + 1) / threads, in_block(b)});
        }
#ifdef _OPENMP
#pragma omp barrier
#endif
    }
}

}  // namespace

extern "C" {

int64_t size_of_op() { return sizeof(Op); }
int64_t lanes() { return IMAGES; }
int64_t is_fast() {
#ifdef __AVX512VNNI__
    return 1;
#else
    return 0;
#endif
}

void run(const Op* ops, int64_t count, int64_t images, int64_t threads) {
#ifdef _OPENMP
#pragma omp parallel num_threads(threads)
    work(ops, count, images, omp_get_thread_num(), omp_get_num_threads());
#else
    work(ops, count, images, 0, 1);
#endif
}
}
