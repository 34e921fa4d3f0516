// The loss of supervised fine-tuning, where d_logprob[e] = -weight[e] / total weight of the step.
//
// One block of 1,024 threads: a batch has some 10^3 to 10^5 edges, 8 bytes each.
#include "common.cuh"

enum { BLOCK = 1024 };

// sums[0] += sum_e d_logprob[e] * logprob[e] over the edges of the first `n_rows` rows, in f64.
extern "C" __global__ void __launch_bounds__(BLOCK) sft_loss(
    double* sums,                        // [8]
    const float* __restrict__ logprob,   // [n_edges]
    const float* __restrict__ d_logprob, // [n_edges]
    const u32* __restrict__ edge_start,  // [n_rows + 1]
    int n_rows) {
    __shared__ double partial[BLOCK / WARP];
    const u32 n_edges = edge_start[n_rows];
    double loss = 0.0;
    for (u32 e = threadIdx.x; e < n_edges; e += BLOCK) loss += (double)d_logprob[e] * logprob[e];
    loss = block_sum(loss, partial);
    if (threadIdx.x == 0) sums[0] += loss;
}
