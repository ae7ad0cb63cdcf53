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
// This file chooses the function of an operation and shares the work among threads; the headers hold one idea each.
#include <algorithm>
#include <cstdint>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "activation.h"
#include "convolution.h"
#include "elementwise.h"
#include "layout.h"
#include "operation.h"
#include "planes.h"
#include "products.h"
#include "reductions.h"
#include "vectors.h"
#include "weight_gradient.h"
#include "windows.h"

namespace {

// Which function an operation is.

template <template <class, bool> class Run, class Pooling> void with_residual(const Op& op, const Part& p) {
    op.has_residual ? Run<Pooling, true>::run(op, p) : Run<Pooling, false>::run(op, p);
}
template <template <class, bool> class Run> void with_pooling(const Op& op, const Part& p) {
    const int64_t height = op.pool_rows.window;
    const bool square = height == op.pool_columns.window;
    if (!clamps(op)) with_residual<Run, Elementwise>(op, p);
    else if (!op.pool_rows.disjoint || !op.pool_columns.disjoint)
        op.average ? with_residual<Run, Overlapping<true>>(op, p) : with_residual<Run, Overlapping<false>>(op, p);
    else if (square && height == 1) with_residual<Run, Disjoint<1, false>>(op, p);
    else if (op.average) with_residual<Run, Disjoint<0, true>>(op, p);
    else if (square && height == 2) with_residual<Run, Disjoint<2, false>>(op, p);
    else with_residual<Run, Disjoint<0, false>>(op, p);
}

template <class Pooling, bool RESIDUAL> struct Activate {
    static void run(const Op& op, const Part& p) { activate<Pooling, RESIDUAL>(op, p); }
};
template <class Pooling, bool RESIDUAL> struct Sums {
    static void run(const Op& op, const Part& p) { activation_sums<Pooling, RESIDUAL>(op, p); }
};
template <class Pooling, bool RESIDUAL> struct Gradient {
    static void run(const Op& op, const Part& p) { activation_gradient<Pooling, RESIDUAL>(op, p); }
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
        case ACTIVATE: return with_pooling<Activate>(op, p);
        case ACTIVATION_SUMS: return with_pooling<Sums>(op, p);
        case ACTIVATION_GRADIENT: return with_pooling<Gradient>(op, p);
        case ENTER: return enter(op, p);
        case LEAVE: return leave(op, p);
        case PRODUCT: return product(op, p);
        case PRODUCT_GRADIENT: return product_gradient(op, p);
        case PLANES: return planes(op, p);
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

Part whole(const Op& op, int64_t block, int64_t slot, Batch batch) {
    return {block, slot, 0, op.channels, int(batch.in(block)), {0, op.out.height}};
}

// Each thread takes its blocks through all operations.
void by_block(const Op* ops, int64_t count, Batch batch, Team team) {
    for (int64_t b = team.from(batch.blocks()); b < team.to(batch.blocks()); b++)
        for (int64_t i = 0; i < count; i++) run_block(ops[i], whole(ops[i], b, team.me, batch));
}

// More threads than blocks: they share every block. By rows, a thread finds most of what it reads in its own cache; by
// channels, it loads no more than its weights.
void by_row(const Op& op, Batch batch, Team team) {
    for (int64_t b = 0; b < batch.blocks(); b++) {
        Part part = whole(op, b, b, batch);
        part.rows = {team.from(op.out.height), team.to(op.out.height)};
        run_block(op, part);
    }
}

void by_channel(const Op& op, Batch batch, Team team) {
    const int64_t work = batch.blocks() * op.channels, from = team.from(work), to = team.to(work);
    for (int64_t b = 0; b < batch.blocks(); b++) {
        Part part = whole(op, b, b, batch);
        part.begin = std::max<int64_t>(from - b * op.channels, 0);
        part.end = std::min(to - b * op.channels, op.channels);
        if (part.begin < part.end) run_block(op, part);
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
        } else if (ops[i].kind == CONVOLVE && ops[i].out.height >= 4 * team.size) {
            by_row(ops[i], batch, team);
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
