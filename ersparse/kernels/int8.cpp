// Prediction in 8 bits: activations are bytes, kept weights are bytes with a scale for each output channel, sums are exact.
//
// An activation is [block][channel][row][column][images] of bytes q, which stand for (q - zero) * scale; its border holds
// `zero`. Sixty-four, sixteen or one image stand side by side. Scales, zeros and biases are folded into the numbers
// of an operation (ersparse/export/int8_program.py), so that a result is round(sums * scale + bias + ...), from 0 to 255.
#include <algorithm>
#include <cstdint>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "byte_convolution.h"
#include "byte_elementwise.h"
#include "byte_operation.h"

namespace {

enum Kind { ENTER, CONVOLVE, ADD, MULTIPLY, LOOK_UP, CHOOSE, MAXIMUM, AVERAGE, LOGITS, LEAVE };

template <int IMAGES> void run_part(const Op& op, const Part& p) {
    switch (op.kind) {
        case ENTER: return enter<IMAGES>(op, p);
        case CONVOLVE: return convolve<IMAGES>(op, p);
        case ADD: return add<IMAGES>(op, p);
        case MULTIPLY: return multiply<IMAGES>(op, p);
        case LOOK_UP: return look_up<IMAGES>(op, p);
        case CHOOSE: return choose<IMAGES>(op, p);
        case MAXIMUM: return maximum<IMAGES>(op, p);
        case AVERAGE: return average<IMAGES>(op, p);
        case LOGITS: return logits<IMAGES>(op, p);
        case LEAVE: return leave<IMAGES>(op, p);
    }
}

// A thread's part of an operation on a block that all threads share: rows of a large convolution, of which it finds most of
// what it reads in its own cache, and otherwise channels.
Part share(const Op& op, int64_t block, int64_t images, int64_t me, int64_t threads) {
    const int64_t all = extent(op), enough = op.vectors ? 16 : 4;
    const bool by_row = op.kind == CONVOLVE && all >= enough * threads;
    const auto part = [&](int64_t of, int64_t number) { return of * number / threads; };
    if (by_row) return {block, 0, 0, op.channels, images, part(all, me), part(all, me + 1)};
    return {block, 0, part(op.channels, me), part(op.channels, me + 1), images, 0, all};
}

// All threads take one block of images after the other through all operations, so that no more than a block is in the
// caches. Where there is memory for a block of each thread, each takes its own blocks.
template <int IMAGES>
void work(const Op* ops, int64_t count, int64_t images, bool own_blocks, int64_t me, int64_t threads) {
    const int64_t blocks = (images + IMAGES - 1) / IMAGES;
    const int64_t from = own_blocks ? blocks * me / threads : 0, to = own_blocks ? blocks * (me + 1) / threads : blocks;
    for (int64_t b = from; b < to; b++) {
        const int64_t in_block = std::min<int64_t>(IMAGES, images - b * IMAGES);
        for (int64_t i = 0; i < count; i++) {
            if (own_blocks) {
                run_part<IMAGES>(ops[i], {b, me, 0, ops[i].channels, in_block, 0, extent(ops[i])});
                continue;
            }
            run_part<IMAGES>(ops[i], share(ops[i], b, in_block, me, threads));
#ifdef _OPENMP
#pragma omp barrier
#endif
        }
    }
}

template <int IMAGES> void run_all(const Op* ops, int64_t count, int64_t images, bool own_blocks, int64_t threads) {
#ifdef _OPENMP
#pragma omp parallel num_threads(threads)
    work<IMAGES>(ops, count, images, own_blocks, omp_get_thread_num(), omp_get_num_threads());
#else
    work<IMAGES>(ops, count, images, own_blocks, 0, 1);
#endif
}

}  // namespace

extern "C" {

int64_t size_of_op() { return sizeof(Op); }
int64_t is_fast() {
#ifdef __AVX512VNNI__
    return 1;
#else
    return 0;
#endif
}

// Runs `count` operations on `images` images, of which `abreast` (1, 16 or 64) stand side by side, with memory for `slots`
// blocks: one, or one for each thread.
void run(const Op* ops, int64_t count, int64_t images, int64_t abreast, int64_t slots, int64_t threads) {
    const bool own_blocks = slots > 1;
    if (abreast == 64) run_all<64>(ops, count, images, own_blocks, threads);
    else if (abreast == 16) run_all<16>(ops, count, images, own_blocks, threads);
    else run_all<1>(ops, count, images, own_blocks, threads);
}
}
