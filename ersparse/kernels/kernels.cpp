// Sparse execution: the layers of a network over fixed masks, forward and backward.
//
// Images stand abreast, LANES of them: an activation is [block][channel][row][column][images], and a vector holds the
// same pixel of them. A kept weight is then one number times contiguous vectors, wherever it lies in its kernel: nothing
// is gathered. Padding is a border of zeros in memory.
//
// A program is a list of operations. Block operations touch one block of images and one range of channels, so that
// a thread takes a block through all operations up to the next reduction while the block is in its cache. Reductions
// (statistics of BatchNorm, sums of gradients over blocks) see all blocks, in their order: the bits of a result do not
// depend on the number of threads.
//
// Compiled once for each pair of number types: REAL computes, STORED is what activations and their gradients are kept
// as: the same, or bfloat16, with which half the bytes have to come from the cache.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <utility>
#ifdef _OPENMP
#include <omp.h>
#endif

namespace {

struct bfloat16 {
    uint16_t bits;
};
using real = REAL;
using stored = STORED;

constexpr bool PAIRS = std::is_same<stored, bfloat16>::value;
constexpr int HALF = 16, LANES = PAIRS ? 2 * HALF : HALF;
#ifdef __AVX512F__  // 32 registers that hold 16 floats each
constexpr int TILE = 16 * HALF / LANES, GROUP = HALF, SHARE = 2;
#else
constexpr int TILE = 4 * HALF / LANES, GROUP = 4, SHARE = 1;
#endif
constexpr int64_t CACHED = 768 << 10;  // bytes that stay in the second-level cache

// ---- vectors: a half has 16 images

typedef real Half __attribute__((vector_size(HALF * sizeof(real)), aligned(sizeof(real)), may_alias));
using HalfLanes = decltype(Half{} < Half{});  // all ones where true

inline Half load(const real* p) { return *reinterpret_cast<const Half*>(p); }
inline void store(real* p, Half v) { *reinterpret_cast<Half*>(p) = v; }
inline Half choose(HalfLanes where, Half a, Half b) { return where ? a : b; }
inline void add_product(Half& total, Half a, Half b) { total += a * b; }

template <int WIDTH> inline real sum(const real* p) {  // one half onto the other, in registers
    if constexpr (WIDTH == 2) return p[0] + p[1];
    else {
        typedef real Part __attribute__((vector_size(WIDTH / 2 * sizeof(real)), aligned(sizeof(real)), may_alias));
        const Part total = reinterpret_cast<const Part*>(p)[0] + reinterpret_cast<const Part*>(p)[1];
        return sum<WIDTH / 2>(reinterpret_cast<const real*>(&total));
    }
}
inline real sum(Half v) { return sum<HALF>(reinterpret_cast<const real*>(&v)); }
inline double sum_of_first(Half v, int images) {
    double total = 0;
    for (int i = 0; i < std::min(images, HALF); i++) total += v[i];
    return total;
}

#ifdef __has_builtin
#if __has_builtin(__builtin_shufflevector)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#endif
#endif
#ifndef SHUFFLE  // g++ before 12
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, HalfLanes{__VA_ARGS__})
#endif

// Exchanges the numbers whose row and column differ in the bit WIDTH between two rows that are WIDTH apart.
template <int WIDTH, int... J> inline void exchange(Half& a, Half& b, std::integer_sequence<int, J...>) {
    const Half upper = SHUFFLE(a, b, (J & WIDTH ? HALF + J - WIDTH : J)...);
    const Half lower = SHUFFLE(a, b, (J & WIDTH ? HALF + J : J + WIDTH)...);
    a = upper, b = lower;
}

// The sums of HALF vectors: half of the numbers of each are exchanged with another's, and added, until one is left.
template <int WIDTH> inline Half sums(Half (&m)[HALF]) {
    for (int i = 0; i < WIDTH; i++) {
        exchange<WIDTH>(m[i], m[i + WIDTH], std::make_integer_sequence<int, HALF>{});
        m[i] += m[i + WIDTH];
    }
    if constexpr (WIDTH > 1) return sums<WIDTH / 2>(m);
    else return m[0];
}

// Of bfloat16 a pixel is sixteen words: image i in the low half of word i, image 16 + i in its high half.
struct Pair {
    Half lo, hi;
};
struct PairLanes {
    HalfLanes lo, hi;
};

typedef uint32_t Words __attribute__((vector_size(HALF * 4), aligned(4), may_alias));
typedef float Floats __attribute__((vector_size(HALF * 4)));

inline Half as_half(Words words) { return __builtin_convertvector((Floats)words, Half); }
inline Words rounded(Half v) {  // to the nearest, ties to even, in the high half
    const Words words = (Words)__builtin_convertvector(v, Floats);
    return words + 0x7fff + ((words >> 16) & 1);
}
inline Pair load(const bfloat16* p) {
    const Words words = *reinterpret_cast<const Words*>(p);
    return {as_half(words << 16), as_half(words & 0xffff0000)};
}
inline void store(bfloat16* p, Pair v) {
    *reinterpret_cast<Words*>(p) = rounded(v.lo) >> 16 | (rounded(v.hi) & 0xffff0000);
}

inline Pair operator+(Pair a, Pair b) { return {a.lo + b.lo, a.hi + b.hi}; }
inline Pair operator-(Pair a, Pair b) { return {a.lo - b.lo, a.hi - b.hi}; }
inline Pair operator*(Pair a, Pair b) { return {a.lo * b.lo, a.hi * b.hi}; }
inline void operator+=(Pair& a, Pair b) { a.lo += b.lo, a.hi += b.hi; }
inline PairLanes operator>(Pair a, Pair b) { return {a.lo > b.lo, a.hi > b.hi}; }
inline PairLanes operator==(Pair a, Pair b) { return {a.lo == b.lo, a.hi == b.hi}; }
inline PairLanes operator&(PairLanes a, PairLanes b) { return {a.lo & b.lo, a.hi & b.hi}; }
inline PairLanes operator~(PairLanes a) { return {~a.lo, ~a.hi}; }
inline Pair choose(PairLanes where, Pair a, Pair b) {
    return {choose(where.lo, a.lo, b.lo), choose(where.hi, a.hi, b.hi)};
}
inline void add_product(Half& total, Pair a, Pair b) { total += a.lo * b.lo, total += a.hi * b.hi; }
inline real sum(Pair v) { return sum(v.lo + v.hi); }
inline double sum_of_first(Pair v, int images) {
    return sum_of_first(v.lo, images) + sum_of_first(v.hi, std::max(images - HALF, 0));
}

// What the kernels work with.
template <typename S> struct Vectors {
    typedef Half Vector;
    typedef HalfLanes Lanes;
    static Half broadcast(real x) { return x - Half{}; }  // x + 0 would lose the sign of -0.0
    static HalfLanes first(int images) {
        HalfLanes lanes{};
        for (int i = 0; i < HALF; i++) lanes[i] = i < images ? -1 : 0;
        return lanes;
    }
    static real one(Half v) { return v[0]; }
};
template <> struct Vectors<bfloat16> {
    typedef Pair Vector;
    typedef PairLanes Lanes;
    static Pair broadcast(real x) { return {Vectors<real>::broadcast(x), Vectors<real>::broadcast(x)}; }
    static PairLanes first(int images) { return {Vectors<real>::first(images), Vectors<real>::first(images - HALF)}; }
    static real one(Pair v) { return v.lo[0]; }
};
using Vector = Vectors<stored>::Vector;
using Lanes = Vectors<stored>::Lanes;
inline Vector broadcast(real x) { return Vectors<stored>::broadcast(x); }
inline Lanes first(int images) { return Vectors<stored>::first(images); }

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
    int64_t adds, adds_residual, has_residual;
    int64_t relu, average, pool_height, pool_width;
    int64_t full;     // no weight is removed
    real* batch;      // the images or features that enter or leave, one after the other, as PyTorch stores them
    int64_t abreast;  // vectors of images in a row of pixels; a network without pixels has several, so that a kept
                      // weight multiplies more than one vector
    Norm norm;
};

}  // extern "C"

namespace {

enum Kind { CONVOLVE, ACTIVATE, MOMENTS, WEIGHT_GRADIENT, BIAS_GRADIENT, ACTIVATION_SUMS, ACTIVATION_GRADIENT, PLANES, ENTER,
            LEAVE };
enum Reduction { STATISTICS = 100, NORM_GRADIENT, SUM_BLOCKS, GATHER, EVALUATION };

struct Part {  // of a block operation
    int64_t block, slot, begin, end;  // channels
    int images;                       // in this block
};

inline stored* plane(const Tensor& t, const Part& p, int64_t channel) {
    const int64_t block = t.slotted ? p.slot : p.block;
    return static_cast<stored*>(t.data) + block * t.block_size + (channel * t.rows * t.columns + t.origin) * LANES;
}

enum Relu { NO_RELU, RELU, RELU6 };

inline real lowest(const Op& op) { return op.relu ? 0 : -std::numeric_limits<real>::infinity(); }
inline real highest(const Op& op) { return op.relu == RELU6 ? 6 : std::numeric_limits<real>::infinity(); }

struct Bounds {  // of what a ReLU returns; without one there are none
    Vector floor, ceiling;
    Bounds(const Op& op) : floor(broadcast(lowest(op))), ceiling(broadcast(highest(op))) {}
    Vector clamp(Vector v) const {  // NaN stays
        const Vector above = choose(floor > v, floor, v);
        return choose(above > ceiling, ceiling, above);
    }
    Lanes open(Vector v) const { return (v > floor) & (ceiling > v); }  // where the gradient passes
};

// ---- convolution: a tile of ROWS x COLUMNS pixels stays in registers while the kept weights of a channel go by

template <int STRIDE> struct Taps {  // what a tile reads
    const stored* in;
    int64_t row, column;  // numbers from one output pixel to the next
    Taps(const Op& op, const Part& p)
        : in(plane(op.in, p, 0) + op.shift * LANES), row(op.in.columns * op.stride * LANES),
          column(op.stride * LANES) {}
    int64_t across(int x) const { return STRIDE ? x * STRIDE * LANES : x * column; }
};

template <int ROWS, int COLUMNS, int STRIDE>
inline void tile(const Taps<STRIDE>& t, int64_t from, const Op& op, int64_t channel, stored* out) {
    const int64_t out_row = op.out.columns * LANES;
    const Bounds bounds(op);
    const Vector start = broadcast(op.bias ? op.bias[channel] : 0);
    Vector total[ROWS][COLUMNS];
    for (int y = 0; y < ROWS; y++)
        for (int x = 0; x < COLUMNS; x++) total[y][x] = op.adds ? load(out + y * out_row + x * LANES) : start;
    for (int32_t k = op.rows[channel]; k < op.rows[channel + 1]; k++) {
        const stored* in = t.in + from + op.offsets[k];
        const Vector weight = broadcast(op.weight[k]);
        for (int y = 0; y < ROWS; y++)
            for (int x = 0; x < COLUMNS; x++) total[y][x] += weight * load(in + y * t.row + t.across(x));
    }
    for (int y = 0; y < ROWS; y++)
        for (int x = 0; x < COLUMNS; x++) store(out + y * out_row + x * LANES, bounds.clamp(total[y][x]));
}

// All channels of a tile before the next tile: they find what they read in the cache.
template <int ROWS, int COLUMNS, int STRIDE>
inline void row_of_tiles(const Taps<STRIDE>& t, int64_t y, int64_t x, const Op& op, const Part& p) {
    for (; x + COLUMNS <= op.out.width; x += COLUMNS)
        for (int64_t c = p.begin; c < p.end; c++)
            tile<ROWS, COLUMNS, STRIDE>(t, y * t.row + x * t.column, op, c,
                                        plane(op.out, p, c) + (y * op.out.columns + x) * LANES);
    if constexpr (COLUMNS > 1) row_of_tiles<ROWS, COLUMNS / 2, STRIDE>(t, y, x, op, p);
}

template <int ROWS, int STRIDE> void convolve_rows(const Taps<STRIDE>& t, int64_t y, const Op& op, const Part& p) {
    for (; y + ROWS <= op.out.height; y += ROWS) row_of_tiles<ROWS, TILE / ROWS, STRIDE>(t, y, 0, op, p);
    if constexpr (ROWS > 1) convolve_rows<ROWS / 2, STRIDE>(t, y, op, p);
}

// As long as the image allows: vectors that follow each other come ahead of time.
template <int STRIDE> void convolve(const Op& op, const Part& p) {
    const Taps<STRIDE> t(op, p);
    if (op.out.width >= TILE) convolve_rows<1, STRIDE>(t, 0, op, p);
    else if (op.out.width >= TILE / 2) convolve_rows<2, STRIDE>(t, 0, op, p);
    else convolve_rows<(TILE >= 8 ? 4 : 2), STRIDE>(t, 0, op, p);
}

// ---- gradient of kept weights: the sums of COUNT weights stay in registers, and share each load of the gradient

struct Rows {  // of the image, a part that fits the cache together with the same rows of all other channels
    int64_t begin, end;
};

template <int COUNT, int COLUMNS, int STRIDE>
inline __attribute__((always_inline)) void add_rows(const Taps<STRIDE>& t, const Op& op, const int32_t* offsets,
                                                    const stored* gradient, Rows rows, Half (&total)[COUNT]) {
    const int64_t row = op.gradient.columns * op.gradient.step * LANES;
    for (int64_t y = rows.begin; y < rows.end; y++)
        for (int64_t x = 0; x < op.gradient.width; x += COLUMNS) {
            Vector g[COLUMNS];
#pragma GCC unroll 16
            for (int i = 0; i < COLUMNS; i++) g[i] = load(gradient + y * row + x * t.column + t.across(i));
#pragma GCC unroll 16  // or the sums would be in memory
            for (int k = 0; k < COUNT; k++) {
                const stored* in = t.in + offsets[k] + y * t.row + x * t.column;
#pragma GCC unroll 16
                for (int i = 0; i < COLUMNS; i++) add_product(total[k], g[i], load(in + t.across(i)));
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
    for (; k + COUNT <= op.rows[1]; k += COUNT) {
        Half total[CHANNELS][COUNT] = {};
        for (int64_t y = 0; y < op.gradient.height; y++)
            for (int64_t x = 0; x < op.gradient.width; x++) {
                const stored* in = t.in + y * t.row + x * t.column;
                Vector g[CHANNELS];
                for (int c = 0; c < CHANNELS; c++)
                    g[c] = load(gradient[c] + (y * op.gradient.columns + x) * op.gradient.step * LANES);
                for (int i = 0; i < COUNT; i++) {
                    const Vector read = load(in + op.offsets[k + i]);
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
    const int64_t row = op.in.block_size / op.in.rows * op.stride + op.gradient.block_size / op.gradient.rows;
    const int64_t enough = (HALF + op.gradient.width - 1) / op.gradient.width;  // products for each sum of a vector
    const int64_t at_once = std::max(enough, CACHED / int64_t(sizeof(stored)) / row);
    for (Rows rows{0, 0}; rows.begin < op.gradient.height; rows.begin = rows.end) {
        rows.end = std::min(rows.begin + at_once, op.gradient.height);
        for (int64_t c = begin; c < p.end; c++)
            dots<GROUP, STRIDE>(t, op, plane(op.gradient, p, c), rows, op.rows[c], op.rows[c + 1], result);
    }
}

void bias_gradient(const Op& op, const Part& p) {
    for (int64_t c = p.begin; c < p.end; c++) {
        const stored* g = plane(op.gradient, p, c);
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

template <bool RESIDUAL> struct Channel {  // the affine map of one channel
    const stored *y, *residual;
    Vector alpha, beta;
    Bounds bounds;
    Channel(const Op& op, const Part& p, int64_t c)
        : y(plane(op.in, p, c)), residual(RESIDUAL ? plane(op.residual, p, c) : nullptr),
          alpha(broadcast(op.norm.alpha[c])), beta(broadcast(op.norm.beta[c])), bounds(op) {}
    Vector before_relu(int64_t at_y, int64_t at_residual) const {
        const Vector v = alpha * load(y + at_y) + beta;
        return RESIDUAL ? v + load(residual + at_residual) : v;
    }
};

template <int SIDE, bool AVERAGE, bool RESIDUAL> void activate(const Op& op, const Part& p) {
    const Window w = window<SIDE>(op);
    const Vector share = broadcast(real(1) / (w.height * w.width));
    for (int64_t c = p.begin; c < p.end; c++) {
        const Channel<RESIDUAL> channel(op, p, c);
        stored* out = plane(op.out, p, c);
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
}

// Calls visit(numbers into y, numbers into the residual, row, column, gradient before relu) for every pixel of y.
template <int SIDE, bool AVERAGE, bool RESIDUAL, typename Visit>
inline void route(const Op& op, const Part& p, int64_t c, const Channel<RESIDUAL>& channel, Visit visit) {
    const Window w = window<SIDE>(op);
    const stored* gradient = plane(op.gradient, p, c);
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
                        const Lanes hit = AVERAGE ? channel.bounds.open(v) : (v == best) & open;  // the first of equals
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

template <int SIDE, bool AVERAGE, bool RESIDUAL> void activation_sums(const Op& op, const Part& p) {
    for (int64_t c = p.begin; c < p.end; c++) {
        const Channel<RESIDUAL> channel(op, p, c);
        const Vector mean = broadcast(op.norm.mean[c]);
        Vector gradients{}, products{};
        route<SIDE, AVERAGE, RESIDUAL>(op, p, c, channel, [&](int64_t at, int64_t, int64_t, Vector g) {
            gradients += g;
            products += g * (load(channel.y + at) - mean);
        });
        double* partial = op.norm.partial + (p.block * op.channels + c) * 2;
        partial[0] = sum_of_first(gradients, p.images);
        partial[1] = sum_of_first(products, p.images) * op.norm.inverse_std[c];
    }
}

template <int SIDE, bool AVERAGE, bool RESIDUAL>
void activation_gradient(const Op& op, const Part& p) {
    const Lanes there = first(p.images);
    for (int64_t c = p.begin; c < p.end; c++) {
        const Channel<RESIDUAL> channel(op, p, c);
        const Norm& n = op.norm;
        // alpha (g - mean_gradient - yhat mean_product), as a line in g and y
        const real slope = -n.alpha[c] * n.inverse_std[c] * n.mean_product[c];
        const Vector of_y = broadcast(slope), constant = broadcast(-n.alpha[c] * n.mean_gradient[c] - slope * n.mean[c]);
        stored* out = plane(op.out, p, c);
        stored* residual = op.adds_residual >= 0 ? plane(op.residual_gradient, p, c) : nullptr;
        route<SIDE, AVERAGE, RESIDUAL>(op, p, c, channel, [&](int64_t at, int64_t row, int64_t column, Vector g) {
            const Vector v = channel.alpha * g + (of_y * load(channel.y + at) + constant);
            stored* to = out + (row * op.out.columns + column) * op.out.step * LANES;
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
                const Vector d = load(y + (i * op.in.columns + j) * LANES) - about;
                total[j % 2] += d, square[j % 2] += d * d;
            }
        const double count = double(p.images) * op.in.height * op.in.width;
        const double mean = sum_of_first(total[0] + total[1], p.images) / count;
        double* partial = op.norm.partial + (p.block * op.channels + c) * 2;
        partial[0] = origin + mean;
        partial[1] = sum_of_first(square[0] + square[1], p.images) - count * mean * mean;
    }
}

// ---- from images one after the other to images abreast, and back: 16 x 16 numbers at a time are transposed in registers

template <int WIDTH> inline void transpose(Half (&m)[HALF]) {
    for (int i = 0; i < HALF; i++)
        if (!(i & WIDTH)) exchange<WIDTH>(m[i], m[i + WIDTH], std::make_integer_sequence<int, HALF>{});
    if constexpr (WIDTH > 1) transpose<WIDTH / 2>(m);
}

inline Half load_first(const real* p, int64_t count) {
    if (count >= HALF) return load(p);
    Half v{};
    for (int64_t i = 0; i < count; i++) v[i] = p[i];
    return v;
}
inline void store_first(real* p, Half v, int64_t count) {
    if (count >= HALF) return store(p, v);
    for (int64_t i = 0; i < count; i++) p[i] = v[i];
}

inline Half half_of(Half v, int) { return v; }
inline Half half_of(Pair v, int half) { return half ? v.hi : v.lo; }
inline void set_half(Half& v, int, Half part) { v = part; }
inline void set_half(Pair& v, int half, Half part) { (half ? v.hi : v.lo) = part; }

struct Run {  // numbers that follow each other in an image, for up to LANES images
    real* images;
    int64_t image, count, length;  // numbers from one image to the next, images, numbers
    stored* abreast;
    int64_t step;  // from one number to the next
};

// Calls visit(run) for everything that lies inside the borders of `t`.
template <typename Visit> inline void for_each_run(const Op& op, const Tensor& t, const Part& p, Visit visit) {
    const int64_t size = op.channels * op.count, first = p.block * op.abreast * LANES * size;  // op.count: pixels
    if (op.count == 1) {  // along the channels
        for (int64_t v = 0; v < op.abreast && v * LANES < p.images; v++)
            visit({op.batch + first + v * LANES * size + p.begin, size, std::min<int64_t>(p.images - v * LANES, LANES),
                   p.end - p.begin, plane(t, p, p.begin) + v * LANES, t.rows * t.columns * LANES});
        return;
    }
    for (int64_t c = p.begin; c < p.end; c++)
        for (int64_t y = 0; y < t.height; y++)
            visit({op.batch + first + c * op.count + y * t.width, size, p.images, t.width,
                   plane(t, p, c) + y * t.columns * t.step * LANES, t.step * LANES});
}

void enter(const Op& op, const Part& p) {
    for_each_run(op, op.out, p, [](const Run& run) {
        for (int64_t i = 0; i < run.length; i += HALF) {
            Vector pixels[HALF];
            for (int half = 0; half < LANES / HALF; half++) {
                Half m[HALF];
                for (int r = 0; r < HALF; r++) {
                    const int64_t image = half * HALF + r;
                    m[r] = image < run.count ? load_first(run.images + image * run.image + i, run.length - i) : Half{};
                }
                transpose<HALF / 2>(m);
                for (int j = 0; j < HALF; j++) set_half(pixels[j], half, m[j]);
            }
            for (int j = 0; j < std::min<int64_t>(HALF, run.length - i); j++)
                store(run.abreast + (i + j) * run.step, pixels[j]);
        }
    });
}

void leave(const Op& op, const Part& p) {
    for_each_run(op, op.in, p, [](const Run& run) {
        for (int64_t i = 0; i < run.length; i += HALF) {
            const int64_t numbers = std::min<int64_t>(HALF, run.length - i);
            for (int half = 0; half * HALF < std::min<int64_t>(LANES, run.count); half++) {
                Half m[HALF] = {};
                for (int j = 0; j < numbers; j++) m[j] = half_of(load(run.abreast + (i + j) * run.step), half);
                transpose<HALF / 2>(m);
                for (int r = 0; r < HALF && half * HALF + r < run.count; r++)
                    store_first(run.images + (half * HALF + r) * run.image + i, m[r], numbers);
            }
        }
    });
}

// ---- few images: the pixels of one channel of one image lie one after the other, block_size numbers a channel

template <int SIDE, bool AVERAGE> void planes(const Op& op, const Part& p) {  // pool(relu(in + residual))
    const int64_t height = SIDE ? SIDE : op.pool_height, width = SIDE ? SIDE : op.pool_width;
    const int64_t column = op.in.step, row = op.in.columns * column;
    const real floor = lowest(op), ceiling = highest(op), share = real(1) / (height * width);
    auto clamp = [=](real v) { return v < floor ? floor : v > ceiling ? ceiling : v; };
    auto channel_of = [](const Tensor& t, int64_t c) { return static_cast<real*>(t.data) + c * t.block_size + t.origin; };
    for (int64_t c = p.begin; c < p.end; c++) {
        const real *in = channel_of(op.in, c), *residual = op.has_residual ? channel_of(op.residual, c) : nullptr;
        real* out = channel_of(op.out, c);
        for (int64_t i = 0; i < op.out.height; i++)
            for (int64_t j = 0; j < op.out.width; j++) {
                real total = 0;
                for (int64_t y = i * height; y < (i + 1) * height; y++)
                    for (int64_t x = j * width; x < (j + 1) * width; x++) {
                        real v = in[y * row + x * column];
                        if (residual) v += residual[y * op.residual.columns + x];
                        if (AVERAGE) total += clamp(v);
                        else total = (y == i * height && x == j * width) || v > total ? v : total;
                    }
                out[i * op.out.columns + j] = AVERAGE ? total * share : clamp(total);
            }
    }
}

// ---- reductions: over all blocks in their order, for a range of channels or weights

struct Batch {
    int64_t images, size;  // size of a block
    int64_t blocks() const { return (images + size - 1) / size; }
    int64_t in(int64_t block) const { return std::min(size, images - block * size); }
};

struct Range {
    int64_t begin, end;
    Batch batch;
};

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

// ---- which function an operation is

template <template <int, bool, bool> class Run, int SIDE, bool AVERAGE> void with_residual(const Op& op, const Part& p) {
    op.has_residual ? Run<SIDE, AVERAGE, true>::run(op, p) : Run<SIDE, AVERAGE, false>::run(op, p);
}
template <template <int, bool, bool> class Run> void with_window(const Op& op, const Part& p) {
    const bool square = op.pool_height == op.pool_width;
    if (square && op.pool_height == 1) with_residual<Run, 1, false>(op, p);
    else if (op.average) with_residual<Run, 0, true>(op, p);
    else if (square && op.pool_height == 2) with_residual<Run, 2, false>(op, p);
    else with_residual<Run, 0, false>(op, p);
}

template <int SIDE, bool AVERAGE, bool RESIDUAL> struct Activate {
    static void run(const Op& op, const Part& p) { activate<SIDE, AVERAGE, RESIDUAL>(op, p); }
};
template <int SIDE, bool AVERAGE, bool RESIDUAL> struct Sums {
    static void run(const Op& op, const Part& p) { activation_sums<SIDE, AVERAGE, RESIDUAL>(op, p); }
};
template <int SIDE, bool AVERAGE, bool RESIDUAL> struct Gradient {
    static void run(const Op& op, const Part& p) { activation_gradient<SIDE, AVERAGE, RESIDUAL>(op, p); }
};

void run_block(const Op& op, const Part& p) {
    switch (op.kind) {
        case CONVOLVE: return op.stride == 1 ? convolve<1>(op, p) : op.stride == 2 ? convolve<2>(op, p) : convolve<0>(op, p);
        case WEIGHT_GRADIENT:
            return op.stride == 1   ? weight_gradient<1>(op, p)
                   : op.stride == 2 ? weight_gradient<2>(op, p)
                                    : weight_gradient<0>(op, p);
        case BIAS_GRADIENT: return bias_gradient(op, p);
        case MOMENTS: return moments(op, p);
        case ACTIVATE: return with_window<Activate>(op, p);
        case ACTIVATION_SUMS: return with_window<Sums>(op, p);
        case ACTIVATION_GRADIENT: return with_window<Gradient>(op, p);
        case ENTER: return enter(op, p);
        case LEAVE: return leave(op, p);
        case PLANES:
            return op.average                                           ? planes<0, true>(op, p)
                   : op.pool_height == 1 && op.pool_width == 1 ? planes<1, false>(op, p)
                   : op.pool_height == 2 && op.pool_width == 2 ? planes<2, false>(op, p)
                                                               : planes<0, false>(op, p);
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
void by_block(const Op* ops, int64_t count, Batch batch, Team team) {
    for (int64_t b = team.from(batch.blocks()); b < team.to(batch.blocks()); b++)
        for (int64_t i = 0; i < count; i++) run_block(ops[i], {b, team.me, 0, ops[i].channels, int(batch.in(b))});
}

// More threads than blocks: they share the channels of every block.
void by_channel(const Op& op, Batch batch, Team team) {
    const int64_t work = batch.blocks() * op.channels, from = team.from(work), to = team.to(work);
    for (int64_t b = 0; b < batch.blocks(); b++) {
        const int64_t begin = std::max<int64_t>(from - b * op.channels, 0);
        const int64_t end = std::min(to - b * op.channels, op.channels);
        if (begin < end) run_block(op, {b, b, begin, end, int(batch.in(b))});
    }
}

void barrier() {
#ifdef _OPENMP
#pragma omp barrier
#endif
}

void work(const Op* ops, int64_t count, Batch batch, Team team) {
    for (int64_t i = 0, next; i < count; i = next) {
        next = i + 1;
        if (reduces(ops[i])) {
            run_reduction(ops[i], {team.from(ops[i].count), team.to(ops[i].count), batch});
        } else if (batch.blocks() >= team.size) {
            while (next < count && !reduces(ops[next])) next++;
            by_block(ops + i, next - i, batch, team);
        } else {
            by_channel(ops[i], batch, team);
        }
        barrier();
    }
}

}  // namespace

extern "C" {

int64_t size_of_op() { return sizeof(Op); }
int64_t lanes() { return LANES; }

// Runs `count` operations on `images` images, in blocks of `abreast` vectors.
void run(const Op* ops, int64_t count, int64_t images, int64_t abreast, int64_t threads) {
    const Batch batch{images, abreast * LANES};
#ifdef _OPENMP
#pragma omp parallel num_threads(threads)
    work(ops, count, batch, {omp_get_thread_num(), omp_get_num_threads()});
#else
    work(ops, count, batch, {0, 1});
#endif
}
}
