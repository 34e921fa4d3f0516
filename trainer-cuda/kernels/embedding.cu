// Token embeddings: rows of up to three tables (token, position and type for BERT), and the gradient of one.
#include "common.cuh"

enum { FORWARD_BLOCK = 256, BACKWARD_BLOCK = 128, BATCH = 4 };

// The tables of a model, and which row of each a token has.
struct Tables {
    const u32* ids[3];    // [n_tokens]
    const bf16* table[3]; // [rows, hidden]
    int ld[3];
    int n; // 1 to 3
};

// y = the sum of the looked-up rows, added in order in f32 and rounded once.
//
// One thread for eight neighbours: block = 256, grid = ceil(n_tokens * ceil(hidden / 8) / 256). 2 + 2 n bytes a value.
extern "C" __global__ void __launch_bounds__(FORWARD_BLOCK) embedding_forward(
    bf16* __restrict__ y, int ld_y, // [n_tokens, hidden]
    Tables tables, int n_tokens, int hidden) {
    const Octet at = octet_of_thread(n_tokens, hidden);
    if (at.n <= 0) return;
    u32 id[3];
#pragma unroll
    for (int i = 0; i < 3; i++) id[i] = i < tables.n ? tables.ids[i][at.row] : 0;
    bf16x8 x[3];
#pragma unroll
    for (int i = 0; i < 3; i++)
        x[i] = load8_part(tables.table[i] + (size_t)id[i] * tables.ld[i] + at.column, i < tables.n ? at.n : 0);
    float sum[8] = {};
#pragma unroll
    for (int i = 0; i < 3; i++) {
        float v[8];
        unpack8(v, x[i]);
#pragma unroll
        for (int j = 0; j < 8; j++) sum[j] += v[j];
    }
    at.store(y, ld_y, pack8(sum));
}

// d_table[token_ids[t]] += dy[t], the tokens of an id in their order.
//
// grid = (n_tokens, ceil(hidden / 1024)), block = 128: one block for a token and 1,024 columns. It works only where no
// earlier token has the same id, and then for all that have. Each block reads the ids, from L2: for 2,048 tokens
// sixteen a thread, a few microseconds in all. 2 bytes a value of dy, 8 a value of the rows of d_table that are met.
extern "C" __global__ void __launch_bounds__(BACKWARD_BLOCK) embedding_backward(
    float* __restrict__ d_table,            // [vocab, hidden]
    const bf16* __restrict__ dy, int ld_dy, // [n_tokens, hidden]
    const u32* __restrict__ token_ids,      // [n_tokens]
    int n_tokens, int hidden) {
    __shared__ u32 found[BACKWARD_BLOCK / WARP]; // a bit for each thread
    __shared__ int same[BACKWARD_BLOCK];         // tokens of this id, ascending
    const int token = blockIdx.x, column = 8 * (blockIdx.y * BACKWARD_BLOCK + threadIdx.x), n = hidden - column;
    const u32 id = token_ids[token];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;

    bool is_earlier = false;
    for (int t = threadIdx.x; t < token; t += BACKWARD_BLOCK) is_earlier |= token_ids[t] == id;
    if (__syncthreads_or(is_earlier)) return;

    float* row = d_table + (size_t)id * hidden + column;
    float sum[8];
    load_part(sum, row, n);
    for (int first = token; first < n_tokens; first += BACKWARD_BLOCK) {
        const int t = first + threadIdx.x;
        const bool is_same = t < n_tokens && token_ids[t] == id;
        const u32 bits = __ballot_sync(ALL_LANES, is_same);
        if (lane == 0) found[warp] = bits;
        __syncthreads();
        int n_same = 0, place = __popc(bits & ((1u << lane) - 1));
        for (int w = 0; w < BACKWARD_BLOCK / WARP; w++) {
            if (w < warp) place += __popc(found[w]);
            n_same += __popc(found[w]);
        }
        if (is_same) same[place] = t;
        __syncthreads();
        // Several rows are on their way at once: a frequent token has hundreds.
        for (int i = 0; i < n_same; i += BATCH) {
            bf16x8 x[BATCH];
#pragma unroll
            for (int b = 0; b < BATCH; b++) {
                const bool is_there = i + b < n_same;
                x[b] = load8_part(dy + (size_t)same[is_there ? i + b : 0] * ld_dy + column, is_there ? n : 0);
            }
#pragma unroll
            for (int b = 0; b < BATCH; b++) {
                float v[8];
                unpack8(v, x[b]);
#pragma unroll
                for (int j = 0; j < 8; j++) sum[j] += v[j];
            }
        }
    }
#pragma unroll
    for (int j = 0; j < 8; j++)
        if (j < n) row[j] = sum[j];
}
