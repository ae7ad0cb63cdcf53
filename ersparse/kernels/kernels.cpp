// Sparse execution: the layers of a network over fixed masks, forward and backward.
//
// Images stand sixteen abreast: an activation is [block][channel][row][column][16 images], and one vector holds the
// same pixel of sixteen images. A kept weight is then one number times contiguous vectors, wherever it lies in its
// kernel: nothing is gathered. Padding is a border of zeros in memory.
//
// A program is a list of operations. Block operations touch one block of images and one range of channels, so that
// a thread takes a block through all operations up to the next reduction while the block is in its cache. Reductions
// (statistics of BatchNorm, sums of gradients over blocks) see all blocks, in their order: the bits of a result do not
// depend on the number of threads.
//
// Compiled once for each pair of number types: REAL computes, STORED is what outputs of convolutions and gradients of
// activations are kept as (the same, or bfloat16 to halve the traffic).
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#ifdef _OPENMP
#include <omp.h>
#endif

namespace {

constexpr int LANES = 16;
#ifdef __AVX512F__  // 32 registers that hold 16 floats each
constexpr int TILE = 16, GROUP = 12, SHARE = 4;
#else
constexpr int TILE = 4, GROUP = 4, SHARE = 2;
#endif

using real = REAL;
typedef real Vector __attribute__((vector_size(LANES * sizeof(real)), aligned(sizeof(real)), may_alias));
using Lanes = decltype(Vector{} < Vector{});  // all ones where true

struct bfloat16 {
    uint16_t bits;
};
using stored = STORED;

inline Vector load(const real* p) { return *reinterpret_cast<const Vector*>(p); }
inline void store(real* p, Vector v) { *reinterpret_cast<Vector*>(p) = v; }
inline Vector broadcast(real x) { return x - Vector{}; }  // x + 0 would lose the sign of -0.0

typedef uint16_t Halves __attribute__((vector_size(LANES * 2), aligned(2), may_alias));
typedef uint32_t Words __attribute__((vector_size(LANES * 4)));
typedef float Floats __attribute__((vector_size(LANES * 4)));

inline Vector load(const bfloat16* p) {
    const Words words = __builtin_convertvector(*reinterpret_cast<const Halves*>(p), Words) << 16;
    return __builtin_convertvector((Floats)words, Vector);
}
inline void store(bfloat16* p, Vector v) {  // to the nearest, ties to even
    Words words = (Words)__builtin_convertvector(v, Floats);
    words = (words + 0x7fff + ((words >> 16) & 1)) >> 16;
    *reinterpret_cast<Halves*>(p) = __builtin_convertvector(words, Halves);
}

template <int WIDTH> inline real sum(const real* p) {  // halves onto each other, in registers
    if constexpr (WIDTH == 2) return p[0] + p[1];
    else {
        typedef real Half __attribute__((vector_size(WIDTH / 2 * sizeof(real)), aligned(sizeof(real)), may_alias));
        const Half total = reinterpret_cast<const Half*>(p)[0] + reinterpret_cast<const Half*>(p)[1];
        return sum<WIDTH / 2>(reinterpret_cast<const real*>(&total));
    }
}
inline real sum(Vector v) { return sum<LANES>(reinterpret_cast<const real*>(&v)); }
inline double sum_of_first(Vector v, int images) {
    double total = 0;
    for (int i = 0; i < images; i++) total += v[i];
    return total;
}
inline Lanes first(int images) {
    Lanes lanes{};
    for (int i = 0; i < LANES; i++) lanes[i] = i < images ? -1 : 0;
    return lanes;
}

}  // namespace

extern "C" {

struct Tensor {
    void* data;
    int64_t block_size;     // in numbers
    int64_t slotted;        // scratch: one block for each thread
    int64_t height, width;  // without border
    int64_t rows, columns;  // with it
    int64_t origin;         // pixels before the first one inside the border
    int64_t step;           // pixels from one to the next: more than 1 spreads the gradient of a strided convolution
};

struct Norm {  // one number a channel; identities where nothing is normalised
    real *alpha, *beta, *mean, *inverse_std, *mean_gradient, *mean_product;
    const real *weight, *bias;
    real *running_mean, *running_var, *weight_gradient, *bias_gradient;
    double* partial;  // [block][channel][2]
    double epsilon, momentum;
};

struct Op {
    int64_t kind, channels;
    Tensor in, out, gradient, residual, residual_gradient;
    const int32_t *rows, *offsets;  // as in CSR: kept weights of an output channel, where each reads in its input
    const real *weight, *bias;
    real* result;
    const int64_t* order;
    int64_t count, stride, shift;
    int64_t adds, adds_residual, in_is_real, out_is_real, has_residual;
    int64_t relu, average, pool_height, pool_width;
    int64_t full;  // no weight is removed
    Norm norm;
};

}  // extern "C"

namespace {

enum Kind { CONVOLVE, ACTIVATE, MOMENTS, WEIGHT_GRADIENT, BIAS_GRADIENT, ACTIVATION_SUMS, ACTIVATION_GRADIENT };
enum Reduction { STATISTICS = 100, NORM_GRADIENT, SUM_BLOCKS, GATHER, EVALUATION };

struct Part {  // of a block operation
    int64_t block, slot, begin, end;  // channels
    int images;                       // in this block
};

template <typename S> inline S* plane(const Tensor& t, const Part& p, int64_t channel) {
    const int64_t block = t.slotted ? p.slot : p.block;
    return static_cast<S*>(t.data) + block * t.block_size + (channel * t.rows * t.columns + t.origin) * LANES;
}

inline Vector floor_of(const Op& op) { return broadcast(op.relu ? 0 : -std::numeric_limits<real>::infinity()); }
inline Vector relu(Vector v, Vector floor) { return v < floor ? floor : v; }  // NaN stays

// ---- convolution: a tile of ROWS x COLUMNS pixels stays in registers while the kept weights of a channel go by

template <int STRIDE> struct Taps {  // what a tile reads
    const real* in;
    int64_t row, column;  // numbers from one output pixel to the next
    const int32_t* offsets;
    const real* weight;
    int32_t begin, end;
    int64_t across(int x) const { return STRIDE ? x * STRIDE * LANES : x * column; }
};

template <int ROWS, int COLUMNS, int STRIDE>
inline void tile(const Taps<STRIDE>& t, int64_t from, real start, const Op& op, stored* out, int64_t out_row) {
    const Vector floor = floor_of(op);
    Vector total[ROWS][COLUMNS];
    for (int y = 0; y < ROWS; y++)
        for (int x = 0; x < COLUMNS; x++)
            total[y][x] = op.adds ? load(out + y * out_row + x * LANES) : broadcast(start);
    for (int32_t k = t.begin; k < t.end; k++) {
        const real* in = t.in + from + t.offsets[k];
        const Vector weight = broadcast(t.weight[k]);
        for (int y = 0; y < ROWS; y++)
            for (int x = 0; x < COLUMNS; x++) total[y][x] += weight * load(in + y * t.row + t.across(x));
    }
    for (int y = 0; y < ROWS; y++)
        for (int x = 0; x < COLUMNS; x++) store(out + y * out_row + x * LANES, relu(total[y][x], floor));
}

template <int ROWS, int COLUMNS, int STRIDE>
inline void row_of_tiles(const Taps<STRIDE>& t, int64_t y, int64_t x, real start, const Op& op, stored* out) {
    const int64_t out_row = op.out.columns * LANES;
    for (; x + COLUMNS <= op.out.width; x += COLUMNS)
        tile<ROWS, COLUMNS, STRIDE>(t, y * t.row + x * t.column, start, op, out + y * out_row + x * LANES, out_row);
    if constexpr (COLUMNS > 1) row_of_tiles<ROWS, COLUMNS / 2, STRIDE>(t, y, x, start, op, out);
}

// A layer that keeps all its weights: its channels read the same, and CHANNELS of them share each load.
template <int CHANNELS, int COLUMNS, int STRIDE>
inline void row_of_full(const Taps<STRIDE>& t, int64_t y, int64_t x, const Op& op, const Part& p, int64_t channel) {
    const Vector floor = floor_of(op);
    const real* weight[CHANNELS];
    stored* out[CHANNELS];
    for (int c = 0; c < CHANNELS; c++) {
        weight[c] = op.weight + op.rows[channel + c];
        out[c] = plane<stored>(op.out, p, channel + c) + y * op.out.columns * LANES;
    }
    for (; x + COLUMNS <= op.out.width; x += COLUMNS) {
        Vector total[CHANNELS][COLUMNS];
        for (int c = 0; c < CHANNELS; c++)
            for (int i = 0; i < COLUMNS; i++)
                total[c][i] = op.adds ? load(out[c] + (x + i) * LANES) : broadcast(op.bias ? op.bias[channel + c] : 0);
        for (int32_t k = 0; k < t.end; k++) {
            const real* in = t.in + y * t.row + x * t.column + op.offsets[k];
            Vector read[COLUMNS];
            for (int i = 0; i < COLUMNS; i++) read[i] = load(in + t.across(i));
            for (int c = 0; c < CHANNELS; c++)
                for (int i = 0; i < COLUMNS; i++) total[c][i] += weight[c][k] * read[i];
        }
        for (int c = 0; c < CHANNELS; c++)
            for (int i = 0; i < COLUMNS; i++) store(out[c] + (x + i) * LANES, relu(total[c][i], floor));
    }
    if constexpr (COLUMNS > 1) row_of_full<CHANNELS, COLUMNS / 2, STRIDE>(t, y, x, op, p, channel);
}

template <int STRIDE> void convolve_full(Taps<STRIDE>& t, const Op& op, const Part& p) {
    t.end = op.rows[1];
    for (int64_t y = 0; y < op.out.height; y++) {
        int64_t channel = p.begin;
        for (; channel + SHARE <= p.end; channel += SHARE) row_of_full<SHARE, SHARE, STRIDE>(t, y, 0, op, p, channel);
        for (; channel < p.end; channel++) row_of_full<1, TILE, STRIDE>(t, y, 0, op, p, channel);
    }
}

template <int STRIDE> void convolve(const Op& op, const Part& p) {
    Taps<STRIDE> t{plane<const real>(op.in, p, 0) + op.shift * LANES, op.in.columns * op.stride * LANES,
                   op.stride * LANES, op.offsets, op.weight, 0, 0};
    if (op.full) return convolve_full<STRIDE>(t, op, p);
    const int64_t width = std::min<int64_t>(op.out.width, TILE);
    for (int64_t y = 0, tall; y < op.out.height; y += tall) {
        const int64_t left = op.out.height - y;
        tall = width <= TILE / 4 && left >= 4 ? 4 : width <= TILE / 2 && left >= 2 ? 2 : 1;
        for (int64_t channel = p.begin; channel < p.end; channel++) {
            t.begin = op.rows[channel], t.end = op.rows[channel + 1];
            const real start = op.bias ? op.bias[channel] : 0;
            stored* out = plane<stored>(op.out, p, channel);
            if (tall == 4) row_of_tiles<4, TILE / 4, STRIDE>(t, y, 0, start, op, out);
            else if (tall == 2) row_of_tiles<2, TILE / 2, STRIDE>(t, y, 0, start, op, out);
            else row_of_tiles<1, TILE, STRIDE>(t, y, 0, start, op, out);
        }
    }
}

// ---- gradient of kept weights: the sums of COUNT weights stay in registers, and share each load of the gradient

template <int COUNT, int COLUMNS, int STRIDE>
inline void dot_row(const Taps<STRIDE>& t, const real* gradient, int64_t y, int64_t x, int64_t width, Vector* total) {
    for (; x + COLUMNS <= width; x += COLUMNS) {
        Vector g[COLUMNS];
        for (int i = 0; i < COLUMNS; i++) g[i] = load(gradient + x * t.column + t.across(i));
        for (int k = 0; k < COUNT; k++) {
            const real* in = t.in + t.offsets[k] + y * t.row + x * t.column;
            for (int i = 0; i < COLUMNS; i++) total[k] += g[i] * load(in + t.across(i));
        }
    }
    if constexpr (COLUMNS > 1) dot_row<COUNT, COLUMNS / 2, STRIDE>(t, gradient, y, x, width, total);
}

template <int COUNT, int STRIDE>
inline void dots(Taps<STRIDE>& t, const Op& op, const real* gradient, int32_t k, int32_t end, real* result) {
    for (; k + COUNT <= end; k += COUNT) {
        Vector total[COUNT] = {};
        t.offsets = op.offsets + k;
        for (int64_t y = 0; y < op.gradient.height; y++)
            dot_row<COUNT, 4, STRIDE>(t, gradient + y * op.gradient.columns * op.gradient.step * LANES, y, 0,
                                      op.gradient.width, total);
        for (int i = 0; i < COUNT; i++) result[k + i] = sum(total[i]);
    }
    if constexpr (COUNT > 1) dots<(COUNT > 4 ? 4 : COUNT / 2), STRIDE>(t, op, gradient, k, end, result);
}

// A full layer: CHANNELS of them share each load of the input too.
template <int CHANNELS, int COUNT, int STRIDE>
inline void dots_of_full(const Taps<STRIDE>& t, const Op& op, const Part& p, int64_t channel, int32_t k, real* result) {
    const real* gradient[CHANNELS];
    for (int c = 0; c < CHANNELS; c++) gradient[c] = plane<const real>(op.gradient, p, channel + c);
    for (; k + COUNT <= t.end; k += COUNT) {
        Vector total[CHANNELS][COUNT] = {};
        for (int64_t y = 0; y < op.gradient.height; y++)
            for (int64_t x = 0; x < op.gradient.width; x++) {
                const real* in = t.in + y * t.row + x * t.column;
                Vector g[CHANNELS];
                for (int c = 0; c < CHANNELS; c++)
                    g[c] = load(gradient[c] + (y * op.gradient.columns + x) * op.gradient.step * LANES);
                for (int i = 0; i < COUNT; i++) {
                    const Vector read = load(in + op.offsets[k + i]);
                    for (int c = 0; c < CHANNELS; c++) total[c][i] += g[c] * read;
                }
            }
        for (int c = 0; c < CHANNELS; c++)
            for (int i = 0; i < COUNT; i++) result[op.rows[channel + c] + k + i] = sum(total[c][i]);
    }
    if constexpr (COUNT > 1) dots_of_full<CHANNELS, COUNT / 2, STRIDE>(t, op, p, channel, k, result);
}

template <int STRIDE> void weight_gradient_of_full(Taps<STRIDE>& t, const Op& op, const Part& p, real* result) {
    constexpr int CHANNELS = SHARE - 1, COUNT = 2 * SHARE;
    t.end = op.rows[1];
    int64_t c = p.begin;
    for (; c + CHANNELS <= p.end; c += CHANNELS) dots_of_full<CHANNELS, COUNT, STRIDE>(t, op, p, c, 0, result);
    for (; c < p.end; c++) dots_of_full<1, COUNT, STRIDE>(t, op, p, c, 0, result);
}

template <int STRIDE> void weight_gradient(const Op& op, const Part& p) {
    Taps<STRIDE> t{plane<const real>(op.in, p, 0) + op.shift * LANES, op.in.columns * op.stride * LANES,
                   op.stride * LANES, nullptr, nullptr, 0, 0};
    real* result = op.result + p.block * op.count;
    if (op.full) return weight_gradient_of_full<STRIDE>(t, op, p, result);
    for (int64_t c = p.begin; c < p.end; c++)
        dots<GROUP, STRIDE>(t, op, plane<const real>(op.gradient, p, c), op.rows[c], op.rows[c + 1], result);
}

void bias_gradient(const Op& op, const Part& p) {
    for (int64_t c = p.begin; c < p.end; c++) {
        const real* g = plane<const real>(op.gradient, p, c);
        Vector total{};
        for (int64_t y = 0; y < op.gradient.height; y++)
            for (int64_t x = 0; x < op.gradient.width; x++)
                total += load(g + (y * op.gradient.columns + x) * op.gradient.step * LANES);
        op.result[p.block * op.count + c] = sum(total);
    }
}

// ---- what lies between convolutions: pool(relu(alpha * y + beta + residual)), recomputed on the way back

// One window of a pool: calls visit(numbers into y, numbers into the residual, is it the first) for each pixel.
struct Window {
    int64_t height, width, y_row, residual_row;
};

template <int SIDE> Window window(const Op& op) {
    return {SIDE ? SIDE : op.pool_height, SIDE ? SIDE : op.pool_width, op.in.columns * LANES,
            op.residual.columns * LANES};
}

template <typename S, bool RESIDUAL> struct Channel {  // the affine map of one channel
    const S* y;
    const real* residual;
    Vector alpha, beta, floor;
    Channel(const Op& op, const Part& p, int64_t c)
        : y(plane<const S>(op.in, p, c)), residual(RESIDUAL ? plane<const real>(op.residual, p, c) : nullptr),
          alpha(broadcast(op.norm.alpha[c])), beta(broadcast(op.norm.beta[c])), floor(floor_of(op)) {}
    Vector before_relu(int64_t at_y, int64_t at_residual) const {
        const Vector v = alpha * load(y + at_y) + beta;
        return RESIDUAL ? v + load(residual + at_residual) : v;
    }
};

template <typename S, int SIDE, bool AVERAGE, bool RESIDUAL> void activate(const Op& op, const Part& p) {
    const Window w = window<SIDE>(op);
    const Vector share = broadcast(real(1) / (w.height * w.width));
    for (int64_t c = p.begin; c < p.end; c++) {
        const Channel<S, RESIDUAL> channel(op, p, c);
        real* out = plane<real>(op.out, p, c);
        for (int64_t i = 0; i < op.out.height; i++)
            for (int64_t j = 0; j < op.out.width; j++) {
                Vector total{};
                for (int64_t y = 0; y < w.height; y++)
                    for (int64_t x = 0; x < w.width; x++) {
                        const int64_t row = i * w.height + y, column = (j * w.width + x) * LANES;
                        const Vector v = channel.before_relu(row * w.y_row + column, row * w.residual_row + column);
                        if (AVERAGE) total += relu(v, channel.floor);
                        else total = (!y && !x) || v > total ? v : total;
                    }
                store(out + (i * op.out.columns + j) * LANES, AVERAGE ? total * share : relu(total, channel.floor));
            }
    }
}

// Calls visit(numbers into y, numbers into the residual, row, column, gradient before relu) for every pixel of y.
template <typename S, int SIDE, bool AVERAGE, bool RESIDUAL, typename Visit>
inline void route(const Op& op, const Part& p, int64_t c, const Channel<S, RESIDUAL>& channel, Visit visit) {
    const Window w = window<SIDE>(op);
    const stored* gradient = plane<const stored>(op.gradient, p, c);
    const Vector share = broadcast(real(1) / (w.height * w.width)), zero{};
    const int64_t pooled_rows = op.gradient.height * w.height, pooled_columns = op.gradient.width * w.width;
    for (int64_t i = 0; i < op.gradient.height; i++)
        for (int64_t j = 0; j < op.gradient.width; j++) {
            const Vector g = load(gradient + (i * op.gradient.columns + j) * LANES);
            Vector best{};
            if (!AVERAGE)
                for (int64_t y = 0; y < w.height; y++)
                    for (int64_t x = 0; x < w.width; x++) {
                        const int64_t row = i * w.height + y, column = (j * w.width + x) * LANES;
                        const Vector v = channel.before_relu(row * w.y_row + column, row * w.residual_row + column);
                        best = (!y && !x) || v > best ? v : best;
                    }
            Lanes open = best > channel.floor;
            for (int64_t y = 0; y < w.height; y++)
                for (int64_t x = 0; x < w.width; x++) {
                    const int64_t row = i * w.height + y, column = (j * w.width + x) * LANES;
                    const int64_t at = row * w.y_row + column, at_residual = row * w.residual_row + column;
                    Vector through;
                    if (SIDE == 1) through = open ? g : zero;
                    else {
                        const Vector v = channel.before_relu(at, at_residual);
                        const Lanes hit = AVERAGE ? v > channel.floor : (v == best) & open;  // the first of equals
                        through = hit ? (AVERAGE ? g * share : g) : zero;
                        open &= ~hit;
                    }
                    visit(at, row, j * w.width + x, through);
                }
        }
    for (int64_t y = 0; y < op.in.height; y++)  // what no window covers
        for (int64_t x = y < pooled_rows ? pooled_columns : 0; x < op.in.width; x++)
            visit(y * w.y_row + x * LANES, y, x, zero);
}

template <typename S, int SIDE, bool AVERAGE, bool RESIDUAL> void activation_sums(const Op& op, const Part& p) {
    for (int64_t c = p.begin; c < p.end; c++) {
        const Channel<S, RESIDUAL> channel(op, p, c);
        const Vector mean = broadcast(op.norm.mean[c]);
        Vector gradients{}, products{};
        route<S, SIDE, AVERAGE, RESIDUAL>(op, p, c, channel, [&](int64_t at, int64_t, int64_t, Vector g) {
            gradients += g;
            products += g * (load(channel.y + at) - mean);
        });
        double* partial = op.norm.partial + (p.block * op.channels + c) * 2;
        partial[0] = sum_of_first(gradients, p.images);
        partial[1] = sum_of_first(products, p.images) * op.norm.inverse_std[c];
    }
}

template <typename S, typename Out, int SIDE, bool AVERAGE, bool RESIDUAL>
void activation_gradient(const Op& op, const Part& p) {
    const Lanes there = first(p.images);
    for (int64_t c = p.begin; c < p.end; c++) {
        const Channel<S, RESIDUAL> channel(op, p, c);
        const Norm& n = op.norm;
        // alpha (g - mean_gradient - yhat mean_product), as a line in g and y
        const real slope = -n.alpha[c] * n.inverse_std[c] * n.mean_product[c];
        const Vector of_y = broadcast(slope), constant = broadcast(-n.alpha[c] * n.mean_gradient[c] - slope * n.mean[c]);
        Out* out = plane<Out>(op.out, p, c);
        stored* residual = op.adds_residual >= 0 ? plane<stored>(op.residual_gradient, p, c) : nullptr;
        route<S, SIDE, AVERAGE, RESIDUAL>(op, p, c, channel, [&](int64_t at, int64_t row, int64_t column, Vector g) {
            const Vector v = channel.alpha * g + (of_y * load(channel.y + at) + constant);
            Out* to = out + (row * op.out.columns + column) * op.out.step * LANES;
            const Vector kept = there ? v : Vector{};
            store(to, op.adds ? load(to) + kept : kept);
            if (residual) {
                stored* other = residual + (row * op.residual_gradient.columns + column) * LANES;
                store(other, op.adds_residual ? load(other) + g : g);
            }
        });
    }
}

// Mean and squared deviations of each channel in this block, about a value of its own so that nothing cancels.
template <typename S> void moments(const Op& op, const Part& p) {
    for (int64_t c = p.begin; c < p.end; c++) {
        const S* y = plane<const S>(op.in, p, c);
        const real origin = load(y)[0];
        Vector total[2] = {}, square[2] = {};
        for (int64_t i = 0; i < op.in.height; i++)
            for (int64_t j = 0; j < op.in.width; j++) {
                const Vector d = load(y + (i * op.in.columns + j) * LANES) - origin;
                total[j % 2] += d, square[j % 2] += d * d;
            }
        const double count = double(p.images) * op.in.height * op.in.width;
        const double mean = sum_of_first(total[0] + total[1], p.images) / count;
        double* partial = op.norm.partial + (p.block * op.channels + c) * 2;
        partial[0] = origin + mean;
        partial[1] = sum_of_first(square[0] + square[1], p.images) - count * mean * mean;
    }
}

// ---- reductions: over all blocks in their order, for a range of channels or weights

struct Range {
    int64_t begin, end, blocks, images;
};

inline int64_t images_of(int64_t block, int64_t images) { return std::min<int64_t>(LANES, images - block * LANES); }

void affine(const Norm& n, int64_t c, double mean, double variance) {
    const double inverse = 1 / std::sqrt(variance + n.epsilon);
    n.mean[c] = mean, n.inverse_std[c] = inverse;
    n.alpha[c] = n.weight[c] * inverse, n.beta[c] = n.bias[c] - n.weight[c] * inverse * mean;
}

void statistics(const Op& op, const Range& r) {  // Chan, Golub & LeVeque 1979
    const Norm& n = op.norm;
    for (int64_t c = r.begin; c < r.end; c++) {
        double count = 0, mean = 0, squares = 0;
        for (int64_t b = 0; b < r.blocks; b++) {
            const double* part = n.partial + (b * op.channels + c) * 2;
            const double more = images_of(b, r.images) * op.in.height * op.in.width, gap = part[0] - mean;
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
    const double count = double(r.images) * op.in.height * op.in.width;
    for (int64_t c = r.begin; c < r.end; c++) {
        double gradient = 0, product = 0;
        for (int64_t b = 0; b < r.blocks; b++) {
            const double* part = op.norm.partial + (b * op.channels + c) * 2;
            gradient += part[0], product += part[1];
        }
        op.norm.bias_gradient[c] = gradient, op.norm.weight_gradient[c] = product;
        op.norm.mean_gradient[c] = gradient / count, op.norm.mean_product[c] = product / count;
    }
}

void sum_blocks(const Op& op, const Range& r) {
    for (int64_t k = r.begin; k < r.end; k++) op.result[k] = op.weight[k];
    for (int64_t b = 1; b < r.blocks; b++)
        for (int64_t k = r.begin; k < r.end; k++) op.result[k] += op.weight[b * op.count + k];
}

void gather(const Op& op, const Range& r) {
    for (int64_t k = r.begin; k < r.end; k++) op.result[k] = op.weight[op.order[k]];
}

// ---- which function an operation is

template <template <typename, int, bool, bool> class Run, typename S, int SIDE, bool AVERAGE>
void with_residual(const Op& op, const Part& p) {
    op.has_residual ? Run<S, SIDE, AVERAGE, true>::run(op, p) : Run<S, SIDE, AVERAGE, false>::run(op, p);
}
template <template <typename, int, bool, bool> class Run, typename S> void with_window(const Op& op, const Part& p) {
    const bool square = op.pool_height == op.pool_width;
    if (square && op.pool_height == 1) with_residual<Run, S, 1, false>(op, p);
    else if (op.average) with_residual<Run, S, 0, true>(op, p);
    else if (square && op.pool_height == 2) with_residual<Run, S, 2, false>(op, p);
    else with_residual<Run, S, 0, false>(op, p);
}
template <template <typename, int, bool, bool> class Run> void with_input(const Op& op, const Part& p) {
    op.in_is_real ? with_window<Run, real>(op, p) : with_window<Run, stored>(op, p);
}

template <typename S, int SIDE, bool AVERAGE, bool RESIDUAL> struct Activate {
    static void run(const Op& op, const Part& p) { activate<S, SIDE, AVERAGE, RESIDUAL>(op, p); }
};
template <typename S, int SIDE, bool AVERAGE, bool RESIDUAL> struct Sums {
    static void run(const Op& op, const Part& p) { activation_sums<S, SIDE, AVERAGE, RESIDUAL>(op, p); }
};
template <typename S, int SIDE, bool AVERAGE, bool RESIDUAL> struct Gradient {
    static void run(const Op& op, const Part& p) {
        op.out_is_real ? activation_gradient<S, real, SIDE, AVERAGE, RESIDUAL>(op, p)
                       : activation_gradient<S, stored, SIDE, AVERAGE, RESIDUAL>(op, p);
    }
};

void run_block(const Op& op, const Part& p) {
    switch (op.kind) {
        case CONVOLVE: return op.stride == 1 ? convolve<1>(op, p) : op.stride == 2 ? convolve<2>(op, p) : convolve<0>(op, p);
        case WEIGHT_GRADIENT:
            return op.stride == 1   ? weight_gradient<1>(op, p)
                   : op.stride == 2 ? weight_gradient<2>(op, p)
                                    : weight_gradient<0>(op, p);
        case BIAS_GRADIENT: return bias_gradient(op, p);
        case MOMENTS: return op.in_is_real ? moments<real>(op, p) : moments<stored>(op, p);
        case ACTIVATE: return with_input<Activate>(op, p);
        case ACTIVATION_SUMS: return with_input<Sums>(op, p);
        case ACTIVATION_GRADIENT: return with_input<Gradient>(op, p);
    }
}

void run_reduction(const Op& op, const Range& r) {
    switch (op.kind) {
        case STATISTICS: return statistics(op, r);
        case NORM_GRADIENT: return norm_gradient(op, r);
        case SUM_BLOCKS: return sum_blocks(op, r);
        case GATHER: return gather(op, r);
        case EVALUATION: return evaluation(op, r);
    }
}

bool reduces(const Op& op) { return op.kind >= STATISTICS; }

struct Team {
    int64_t me, size;
    int64_t from(int64_t work) const { return work * me / size; }
    int64_t to(int64_t work) const { return work * (me + 1) / size; }
};

// Each thread takes its blocks through all operations.
void by_block(const Op* ops, int64_t count, int64_t images, int64_t blocks, Team team) {
    for (int64_t b = team.from(blocks); b < team.to(blocks); b++)
        for (int64_t i = 0; i < count; i++)
            run_block(ops[i], {b, team.me, 0, ops[i].channels, int(images_of(b, images))});
}

// More threads than blocks: they share the channels of every block.
void by_channel(const Op& op, int64_t images, int64_t blocks, Team team) {
    const int64_t from = team.from(blocks * op.channels), to = team.to(blocks * op.channels);
    for (int64_t b = 0; b < blocks; b++) {
        const int64_t begin = std::max<int64_t>(from - b * op.channels, 0);
        const int64_t end = std::min(to - b * op.channels, op.channels);
        if (begin < end) run_block(op, {b, b, begin, end, int(images_of(b, images))});
    }
}

void barrier() {
#ifdef _OPENMP
#pragma omp barrier
#endif
}

void work(const Op* ops, int64_t count, int64_t images, Team team) {
    const int64_t blocks = (images + LANES - 1) / LANES;
    for (int64_t i = 0, next; i < count; i = next) {
        next = i + 1;
        if (reduces(ops[i])) {
            run_reduction(ops[i], {team.from(ops[i].count), team.to(ops[i].count), blocks, images});
        } else if (blocks >= team.size) {
            while (next < count && !reduces(ops[next])) next++;
            by_block(ops + i, next - i, images, blocks, team);
        } else {
            by_channel(ops[i], images, blocks, team);
        }
        barrier();
    }
}

}  // namespace

extern "C" {

int64_t size_of_op() { return sizeof(Op); }

// Runs `count` operations on `images` images.
void run(const Op* ops, int64_t count, int64_t images, int64_t threads) {
#ifdef _OPENMP
#pragma omp parallel num_threads(threads)
    work(ops, count, images, {omp_get_thread_num(), omp_get_num_threads()});
#else
    work(ops, count, images, {0, 1});
#endif
}
}
