// Direct preference optimisation (Rafailov et al. 2023, eq. 7): for each pair, with rewards beta * (log pi - log ref),
//     loss = -log sigmoid(margin), margin = chosen reward - rejected reward,
// and its derivative by the log-probability of every edge of the forest.
//
// block = 1024, grid = ceil(n_edges / 1024), dynamic shared = 32 bytes for each pair that a batch may have (8 KB for
// 256). Every block scores all pairs, so that no block waits for another: 8 bytes a label from L2, of which 10^5 take
// some 20 us on all SMs at once (5 TB/s), and a usual batch's 5,000 no time. An edge finds its sequences by looking
// through all of them. The edges of a sequence ascend, so its first and last exclude most (a forest is in depth-first
// order: other prompts have other ranges), and a binary search decides about the rest. These are 512 comparisons for
// 256 pairs, and take neither a list of sequences for each edge from the host nor scratch memory.
#include "common.cuh"

enum { BLOCK = 1024 };

// A sequence of a pair.
struct Side {
    double value;    // its log-probability, then the derivative of the loss by it
    u32 first, last; // its first and last edge; none: first > last
};

// sums += (loss, right order, chosen reward, rejected reward) / n_step over the pairs; d_logprob = the derivative of
// loss / n_step.
extern "C" __global__ void __launch_bounds__(BLOCK) dpo_loss(
    double* sums,                           // [8]
    float* __restrict__ d_logprob,          // [n_edges]
    const float* __restrict__ logprob,      // [n_edges]
    const u32* __restrict__ example_start,  // [2 n_pairs + 1], chosen and rejected of a pair follow each other
    const u32* __restrict__ example_edges,  // [sum of labels], ascending for each example
    const double* __restrict__ reference,   // [2 n_pairs], log-probabilities under the base
    const float* __restrict__ n_step,       // [1], pairs of the whole step, of which these are a part
    const u32* __restrict__ n_pairs,        // [1]
    const u32* __restrict__ edge_start,     // [n_rows + 1]
    int n_rows, float beta) {
    extern __shared__ Side sides[]; // [2 n_pairs]
    __shared__ double partial[BLOCK / WARP];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const u32 n_sides = 2 * *n_pairs;

    // A warp for a sequence.
    for (u32 s = warp; s < n_sides; s += BLOCK / WARP) {
        const u32 start = example_start[s], end = example_start[s + 1];
        double sum = 0.0;
        for (u32 i = start + lane; i < end; i += WARP) sum += logprob[example_edges[i]];
        sum = warp_sum(sum);
        const bool has_edges = start < end;
        if (lane == 0) sides[s] = {sum, has_edges ? example_edges[start] : 1, has_edges ? example_edges[end - 1] : 0};
    }
    __syncthreads();

    // A thread for a pair.
    double loss = 0.0, right = 0.0, chosen_reward = 0.0, rejected_reward = 0.0;
    for (u32 s = 2 * threadIdx.x; s < n_sides; s += 2 * BLOCK) {
        const double chosen = beta * (sides[s].value - reference[s]);
        const double rejected = beta * (sides[s + 1].value - reference[s + 1]);
        const double margin = chosen - rejected;
        // -log sigmoid(m) = log(1 + e^-m), which stays finite for any m; a NaN stays too.
        loss += (margin < 0.0 ? -margin : 0.0) + log1p(exp(-fabs(margin)));
        right += margin > 0.0;
        chosen_reward += chosen;
        rejected_reward += rejected;
        sides[s].value = -beta / (1.0 + exp(margin)) / *n_step;
        sides[s + 1].value = -sides[s].value;
    }
    if (blockIdx.x == 0) {
        const double totals[] = {loss, right, chosen_reward, rejected_reward};
        for (int i = 0; i < 4; i++) {
            const double total = block_sum(totals[i], partial);
            if (threadIdx.x == 0) sums[i] += total / *n_step;
        }
    }
    __syncthreads();

    const u32 e = blockIdx.x * BLOCK + threadIdx.x;
    if (e >= edge_start[n_rows]) return;
    double sum = 0.0;
    for (u32 s = 0; s < n_sides; s++) {
        const Side side = sides[s];
        if (e < side.first || e > side.last) continue;
        const u32 start = example_start[s], n = example_start[s + 1] - start;
        // Not past its end: the last one is not below e.
        if (example_edges[start + first_not_below(example_edges + start, n, e)] == e) sum += side.value;
    }
    d_logprob[e] = (float)sum;
}
