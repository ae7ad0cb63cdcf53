// Sixty-four bytes of an activation, and their sums of products with four kept weights at a time.
//
// A processor with AVX-512 VNNI multiplies four adjacent bytes by four others and adds them up. Four times 64 bytes, which
// four kept weights of an output channel read, are interleaved for it: that takes eight instructions and permutes
// the bytes, and packing the sums to bytes again undoes the permutation. Other processors multiply one by one, to the
// same integers.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#ifdef __AVX512VNNI__
#include <immintrin.h>
#endif

namespace {

constexpr int BYTES = 64;

inline uint8_t byte(float x) { return uint8_t(std::nearbyint(x > 0 ? std::min(x, 255.0f) : 0.0f)); }

#ifdef __AVX512VNNI__

struct Sums {
    __m512i quarters[4];
    Sums() {
        for (auto& quarter : quarters) quarter = _mm512_setzero_si512();
    }
    void add(const uint8_t* a, const uint8_t* b, const uint8_t* c, const uint8_t* d, int32_t weights) {
        const __m512i pa = once(a), pb = once(b), pc = once(c), pd = once(d), four = _mm512_set1_epi32(weights);
        const __m512i low_ab = _mm512_unpacklo_epi8(pa, pb), high_ab = _mm512_unpackhi_epi8(pa, pb);
        const __m512i low_cd = _mm512_unpacklo_epi8(pc, pd), high_cd = _mm512_unpackhi_epi8(pc, pd);
        add(quarters[0], _mm512_unpacklo_epi16(low_ab, low_cd), four);
        add(quarters[1], _mm512_unpackhi_epi16(low_ab, low_cd), four);
        add(quarters[2], _mm512_unpacklo_epi16(high_ab, high_cd), four);
        add(quarters[3], _mm512_unpackhi_epi16(high_ab, high_cd), four);
    }
    static __m512i once(const uint8_t* p) {  // otherwise each instruction that reads it loads it again
        __m512i bytes = _mm512_loadu_si512(p);
        asm("" : "+v"(bytes));
        return bytes;
    }
    static void add(__m512i& sum, __m512i bytes, __m512i weights) {
        asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(bytes), "v"(weights));  // the intrinsic copies the sum
    }
};

struct Bytes {
    __m512i all;
    static Bytes load(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
    void store(uint8_t* p) const { _mm512_storeu_si512(p, all); }
    Bytes max(Bytes other) const { return {_mm512_max_epu8(all, other.all)}; }
};

struct Floats {
    __m512 quarters[4];
    Floats(const Sums& sums, float scale, float bias) {  // sums * scale + bias
        for (int i = 0; i < 4; i++)
            quarters[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums.quarters[i]), _mm512_set1_ps(scale),
                                          _mm512_set1_ps(bias));
    }
    void add(Bytes bytes, float scale) {  // bytes * scale
        const __m512i zero = _mm512_setzero_si512();
        const __m512i low = _mm512_unpacklo_epi8(bytes.all, zero), high = _mm512_unpackhi_epi8(bytes.all, zero);
        const __m512i parts[4] = {_mm512_unpacklo_epi16(low, zero), _mm512_unpackhi_epi16(low, zero),
                                  _mm512_unpacklo_epi16(high, zero), _mm512_unpackhi_epi16(high, zero)};
        for (int i = 0; i < 4; i++)
            quarters[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(parts[i]), _mm512_set1_ps(scale), quarters[i]);
    }
    Bytes rounded() const {  // to the nearest of 0, 1, ..., 255, ties to even
        __m512i parts[4];
        const __m512 most = _mm512_set1_ps(255);  // beyond 2^31 the conversion returns a negative number, also for NaN
        for (int i = 0; i < 4; i++) parts[i] = _mm512_cvtps_epi32(_mm512_min_ps(most, quarters[i]));
        return {_mm512_packus_epi16(_mm512_packs_epi32(parts[0], parts[1]), _mm512_packs_epi32(parts[2], parts[3]))};
    }
    float operator[](int i) const {
        return reinterpret_cast<const float*>(&quarters[i % 16 / 4])[i / 16 * 4 + i % 4];
    }
};

#else

struct Sums {
    int32_t of[BYTES] = {};
    void add(const uint8_t* a, const uint8_t* b, const uint8_t* c, const uint8_t* d, int32_t weights) {
        int8_t w[4];
        std::memcpy(w, &weights, 4);
        for (int i = 0; i < BYTES; i++) of[i] += w[0] * a[i] + w[1] * b[i] + w[2] * c[i] + w[3] * d[i];
    }
};

struct Bytes {
    uint8_t at[BYTES];
    static Bytes load(const uint8_t* p) {
        Bytes bytes;
        std::memcpy(bytes.at, p, BYTES);
        return bytes;
    }
    void store(uint8_t* p) const { std::memcpy(p, at, BYTES); }
    Bytes max(Bytes other) const {
        for (int i = 0; i < BYTES; i++) other.at[i] = std::max(at[i], other.at[i]);
        return other;
    }
};

struct Floats {
    float at[BYTES];
    Floats(const Sums& sums, float scale, float bias) {
        for (int i = 0; i < BYTES; i++) at[i] = std::fma(float(sums.of[i]), scale, bias);
    }
    void add(const Bytes& bytes, float scale) {
        for (int i = 0; i < BYTES; i++) at[i] = std::fma(float(bytes.at[i]), scale, at[i]);
    }
    Bytes rounded() const {
        Bytes bytes;
        for (int i = 0; i < BYTES; i++) bytes.at[i] = byte(at[i]);
        return bytes;
    }
    float operator[](int i) const { return at[i]; }
};

#endif

}  // namespace
