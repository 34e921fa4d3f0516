// Triplet loss (Schroff et al. 2015; sentence-transformers' `TripletLoss`): max(0, margin + d(a, p) - d(a, n)), d the
// euclidean distance or 1 - cosine, and its derivative by the embeddings.
//
// block = 256, grid = (n_segments, ceil(hidden / 2048)): a block for a segment and 2,048 of its columns. It walks the
// triplets, eight at a time, a warp each, and computes the distances of those that its segment is in; block (0, 0)
// computes all, for the sums. So gradients of a segment that several triplets share add up in their order, and no block
// waits for another. Embeddings stay in L1 and L2: 6 bytes a value and triplet from there, 10 FLOPs.
#include "common.cuh"

// Four blocks fit an SM with 64 registers; for a fifth ptxas would spill.
enum { WARPS = 8, BLOCK = WARPS * WARP, BLOCKS_OF_SM = 4 };

// The square of 1e-12: a shorter vector is scaled by 1e12 (torch's `F.normalize`), and has no term of its own length.
#define SHORTEST_SQUARED 1e-24f

// d(a, b), and its gradient: by a it is along_other * b + along_a * a, by b along_other * a + along_b * b.
struct Distance {
    float value, along_other, along_a, along_b;
};

__device__ __forceinline__ Distance euclidean_distance(float squares) {
    // Equal points have no direction; torch takes the subgradient 0 too.
    const float slope = squares > 0.0f ? rsqrtf(squares) : 0.0f;
    return {squares * slope, -slope, slope, slope};
}

__device__ __forceinline__ Distance cosine_distance(float aa, float bb, float ab) {
    const float scale_a = rsqrtf(fmaxf(aa, SHORTEST_SQUARED)), scale_b = rsqrtf(fmaxf(bb, SHORTEST_SQUARED));
    const float cos = ab * scale_a * scale_b;
    return {1.0f - cos, -scale_a * scale_b, aa > SHORTEST_SQUARED ? cos * scale_a * scale_a : 0.0f,
            bb > SHORTEST_SQUARED ? cos * scale_b * scale_b : 0.0f};
}

// All lanes of a warp call it and have the result.
__device__ __forceinline__ Distance distance(const bf16* a, const bf16* b, int hidden, bool euclidean) {
    float squares = 0.0f, aa = 0.0f, bb = 0.0f, ab = 0.0f;
    for (int column = 8 * (threadIdx.x % WARP); column < hidden; column += 8 * WARP) {
        const bf16x8 as = load8_part(a + column, hidden - column), bs = load8_part(b + column, hidden - column);
        float x[8], y[8];
        unpack8(x, as);
        unpack8(y, bs);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            squares += (x[i] - y[i]) * (x[i] - y[i]);
            aa += x[i] * x[i];
            bb += y[i] * y[i];
            ab += x[i] * y[i];
        }
    }
    if (euclidean) return euclidean_distance(warp_sum(squares));
    return cosine_distance(warp_sum(aa), warp_sum(bb), warp_sum(ab));
}

// A term of the gradient by a segment: along_other * other + along_own * the segment.
struct Pull {
    int other; // below 0: none
    float along_other, along_own;
};

// What scale * d(a, b) gives to `segment`. Anchor and other may be one text: its embedding is one point, and the
// gradient 0.
__device__ __forceinline__ Pull pull(int segment, int a, int b, Distance d, float scale) {
    if (a == b || (segment != a && segment != b)) return {-1, 0.0f, 0.0f};
    return segment == a ? Pull{b, scale * d.along_other, scale * d.along_a}
                        : Pull{a, scale * d.along_other, scale * d.along_b};
}

// sums += (loss, positive is nearer, positive distance, negative distance) / n_step over the triplets; d_embeddings =
// the derivative of loss / n_step, zero for segments that are in none.
extern "C" __global__ void __launch_bounds__(BLOCK, BLOCKS_OF_SM) triplet_loss(
    double* sums,                                           // [8]
    bf16* __restrict__ d_embeddings, int ld_d_embeddings,   // [n_segments, hidden]
    const bf16* __restrict__ embeddings, int ld_embeddings, // [n_segments, hidden]
    const u32* __restrict__ triplets,                       // [n_triplets, 3], segments: anchor, positive, negative
    const u32* __restrict__ n_triplets,                     // [1]
    const float* __restrict__ n_step,                       // [1], triplets of the whole step, of which these are a part
    int hidden, int euclidean, float margin) {
    __shared__ Pull pulls[WARPS][2];
    __shared__ double partial[WARPS];
    const int segment = blockIdx.x, column = 8 * (blockIdx.y * BLOCK + threadIdx.x);
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const bool is_summing = blockIdx.x == 0 && blockIdx.y == 0;
    const auto embedding = [=](int segment) { return embeddings + (size_t)segment * ld_embeddings; };

    double totals[4] = {}; // of the warp's triplets, in its first lane
    float gradient[8] = {}, along_own = 0.0f;
    for (u32 first = 0; first < *n_triplets; first += WARPS) {
        const u32 t = first + warp;
        Pull positive_pull = {-1}, negative_pull = {-1};
        if (t < *n_triplets) {
            const int a = triplets[3 * t], p = triplets[3 * t + 1], n = triplets[3 * t + 2];
            const bool is_mine = segment == a || segment == p || segment == n;
            if (is_mine || is_summing) {
                const Distance positive = distance(embedding(a), embedding(p), hidden, euclidean);
                const Distance negative = distance(embedding(a), embedding(n), hidden, euclidean);
                // Not fmaxf, which would turn a NaN into 0.
                const float slack = margin + positive.value - negative.value, loss = slack < 0.0f ? 0.0f : slack;
                if (lane == 0) {
                    totals[0] += loss;
                    totals[1] += positive.value < negative.value;
                    totals[2] += positive.value;
                    totals[3] += negative.value;
                }
                if (loss > 0.0f) {
                    positive_pull = pull(segment, a, p, positive, 1.0f / *n_step);
                    negative_pull = pull(segment, a, n, negative, -1.0f / *n_step);
                }
            }
        }
        if (lane == 0) pulls[warp][0] = positive_pull, pulls[warp][1] = negative_pull;
        __syncthreads();
        for (int i = 0; i < 2 * WARPS; i++) {
            const Pull term = pulls[i / 2][i % 2];
            if (term.other < 0) continue;
            float v[8];
            unpack8(v, load8_part(embedding(term.other) + column, hidden - column));
#pragma unroll
            for (int j = 0; j < 8; j++) gradient[j] += term.along_other * v[j];
            along_own += term.along_own;
        }
        __syncthreads();
    }

    float own[8];
    unpack8(own, load8_part(embedding(segment) + column, hidden - column));
#pragma unroll
    for (int j = 0; j < 8; j++) gradient[j] += along_own * own[j];
    store8_part(d_embeddings + (size_t)segment * ld_d_embeddings + column, pack8(gradient), hidden - column);
    if (!is_summing) return;
    for (int i = 0; i < 4; i++) {
        const double total = block_sum(totals[i], partial);
        if (threadIdx.x == 0) sums[i] += total / *n_step;
    }
}
