// Vectors: the same pixel of several images.
//
// Compiled once for each pair of number types: REAL computes, STORED is what activations and their gradients are kept
// as: the same, or bfloat16, with which half the bytes have to come from the cache.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <utility>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace {

struct bfloat16 {
    uint16_t bits;
};
using real = REAL;
using stored = STORED;

constexpr bool PAIRS = std::is_same<stored, bfloat16>::value;
constexpr int HALF = 16, LANES = PAIRS ? 2 * HALF : HALF;
#ifdef __AVX512F__  // 32 registers of 64 bytes
constexpr int TILE = 64 / sizeof(real) * HALF / LANES, GROUP = HALF, SHARE = 2;
#else
constexpr int TILE = 16 / sizeof(real) * HALF / LANES, GROUP = 4, SHARE = 1;
#endif
constexpr int64_t CACHED = 768 << 10;  // bytes that stay in the second-level cache

// A half has 16 images.

typedef real Half __attribute__((vector_size(HALF * sizeof(real)), aligned(sizeof(real)), may_alias));
using HalfLanes = decltype(Half{} < Half{});  // all ones where true

inline Half load(const real* p) { return *reinterpret_cast<const Half*>(p); }
inline void store(real* p, Half v) { *reinterpret_cast<Half*>(p) = v; }
inline Half choose(HalfLanes where, Half a, Half b) { return where ? a : b; }

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

// A factor of a sum of products, as it is stored: for pairs, processors have an instruction that takes them whole.
inline Half load_factor(const real* p) { return load(p); }
inline Words load_factor(const bfloat16* p) { return *reinterpret_cast<const Words*>(p); }
inline void add_product(Half& total, Half a, Half b) { total += a * b; }
template <typename Sum> inline void add_product(Sum& total, Words a, Words b) {
#ifdef __AVX512BF16__
    if constexpr (sizeof(Sum) == sizeof(__m512)) {
        total = (Sum)_mm512_dpbf16_ps((__m512)total, (__m512bh)a, (__m512bh)b);
        return;
    }
#endif
    total += as_half(a & 0xffff0000) * as_half(b & 0xffff0000), total += as_half(a << 16) * as_half(b << 16);
}
inline real sum(Pair v) { return sum(v.lo + v.hi); }
inline double sum_of_first(Pair v, int images) {
    return sum_of_first(v.lo, images) + sum_of_first(v.hi, std::max(images - HALF, 0));
}

inline Half half_of(Half v, int) { return v; }
inline Half half_of(Pair v, int half) { return half ? v.hi : v.lo; }
inline void set_half(Half& v, int, Half part) { v = part; }
inline void set_half(Pair& v, int half, Half part) { (half ? v.hi : v.lo) = part; }

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
using Factor = decltype(load_factor(static_cast<const stored*>(nullptr)));
using Lanes = Vectors<stored>::Lanes;

// For tensors that are read once, from end to end: processors load ahead of time by themselves, but only to the end of a
// page of 4 KB, so that each page would begin with a wait for the memory.
inline Vector load_in_order(const stored* p) {
    __builtin_prefetch(p + (8 << 10) / sizeof(stored));
    return load(p);
}

inline Vector broadcast(real x) { return Vectors<stored>::broadcast(x); }
inline Lanes first(int images) { return Vectors<stored>::first(images); }

}  // namespace
