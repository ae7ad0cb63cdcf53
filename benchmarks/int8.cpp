// How fast kept weights multiply activations that are stored in float32, bfloat16 and int8, with sums in float32:
//
//     g++ -std=c++17 -O3 -march=native -o int8 benchmarks/int8.cpp && ./int8        (needs AVX-512; one thread)
//
// As in convolution.h, sixteen vectors of sums stay in registers while the weights of an output channel go by; each
// weight reads a place of its own in 54 pixels of 64 input channels, which are in the second-level cache.
#include <immintrin.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>

enum Stored { FLOAT32, BFLOAT16, INT8 };
constexpr int CHANNELS = 64, PIXELS = 54, BYTES = 64;  // BYTES: of a pixel of 16, 32 or 64 images
struct Weights {
    int per_channel;
    std::vector<int> place;
    std::vector<float> value;
};

template <Stored S> inline void add(__m512* sums, __m512 weight, const char* pixel) {
    if constexpr (S == FLOAT32) *sums = _mm512_fmadd_ps(weight, _mm512_loadu_ps(pixel), *sums);
    if constexpr (S == BFLOAT16) {
        const __m512i pair = _mm512_loadu_si512(pixel), high = _mm512_set1_epi32(int(0xffff0000));
        sums[0] = _mm512_fmadd_ps(weight, _mm512_castsi512_ps(_mm512_slli_epi32(pair, 16)), sums[0]);
        sums[1] = _mm512_fmadd_ps(weight, _mm512_castsi512_ps(_mm512_and_si512(pair, high)), sums[1]);
    }
    if constexpr (S == INT8)
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            const __m128i part = _mm_loadu_si128(reinterpret_cast<const __m128i*>(pixel + 16 * i));
            sums[i] = _mm512_fmadd_ps(weight, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(part)), sums[i]);
        }
}

template <Stored S> double products_per_second(const Weights& w, const std::vector<char>& in) {
    constexpr int VECTORS = S == FLOAT32 ? 1 : S == BFLOAT16 ? 2 : 4, TILE = 16 / VECTORS, TILES = 16;
    float sink = 0;
    double best = 1e9;
    for (int round = 0; round < 200; round++) {
        const auto start = std::chrono::steady_clock::now();
        for (int tile = 0; tile < TILES; tile++)
            for (int c = 0; c < CHANNELS; c++) {
                __m512 sums[16];
                for (auto& sum : sums) sum = _mm512_setzero_ps();
                for (int k = c * w.per_channel; k < (c + 1) * w.per_channel; k++) {
                    const char* pixel = in.data() + w.place[k] * BYTES;
#pragma GCC unroll 16
                    for (int t = 0; t < TILE; t++)
                        add<S>(sums + t * VECTORS, _mm512_set1_ps(w.value[k]), pixel + t * BYTES);
                }
                for (auto& sum : sums) sink += _mm512_reduce_add_ps(sum);
            }
        const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
        best = std::min(best, seconds.count());
    }
    if (sink == 0.5f) std::puts("");  // so that the sums are computed
    return double(TILES) * CHANNELS * w.per_channel * 16 * 16 / best;
}

int main() {
    const std::vector<char> in(CHANNELS * PIXELS * BYTES + 16 * BYTES);
    std::mt19937 random(0);
    for (double density : {0.05, 0.1, 0.3}) {
        Weights w{int(CHANNELS * 9 * density), {}, {}};
        for (int c = 0; c < CHANNELS; c++) {
            std::vector<int> places;  // the corners of a kernel of 3 x 3 in rows of 18 pixels
            for (int i = 0; i < CHANNELS * 9; i++) places.push_back(i / 9 * PIXELS + i % 9 / 3 * 18 + i % 3);
            std::shuffle(places.begin(), places.end(), random);
            std::sort(places.begin(), places.begin() + w.per_channel);
            w.place.insert(w.place.end(), places.begin(), places.begin() + w.per_channel);
        }
        w.value.assign(w.place.size(), 0.5f);
        std::printf(
            "density %.2f, thousand million products a second: float32 %.0f, bfloat16 %.0f, int8 %.0f\n", density,
            products_per_second<FLOAT32>(w, in) / 1e9, products_per_second<BFLOAT16>(w, in) / 1e9,
            products_per_second<INT8>(w, in) / 1e9);
    }
}
