// Attention, forward: FlashAttention-2, algorithm 1 (Dao 2023): softmax over the visible keys without a matrix of scores.
//
// grid (ceil(n_tokens / 64), heads), block 128, dynamic shared memory 512 (D + 8) + 1024 bytes: 21,504, 37,888 and 70,656.
// D is the least of 32, 64 and 128 that holds head_dim.
// 4 head_dim FLOPs for each visible pair of tokens and head, computed by rectangles of 16 x 64. q and o are moved once, k
// and v once for each tile of queries that sees them: 256 head_dim bytes, mostly of L2, for 64 x 64 pairs, 64 FLOPs a byte.
//
// 64 queries rather than 128: 2,048 tokens of a small model (9 heads) are then 288 blocks for 132 SMs. A warp has sixteen
// of them so that scores, sums and queries stay in registers: 12 warps on an SM at D = 64, 8 at D = 128.
#include "attention.cuh"

enum { THREADS = 128 };

template <int D>
__device__ __forceinline__ void attention_forward(
    bf16* o, int ld_o, float* lse, Head q, Head k, Head v, const Mask& mask, const Shape& shape, float scale) {
    extern __shared__ __align__(16) u8 shared[];
    KeyStage<D>* const stages = reinterpret_cast<KeyStage<D>*>(shared); // [2]

    // The last queries see the most keys: they start first.
    const int first_query = (gridDim.x - 1 - blockIdx.x) * TILE;
    const int warp_row = threadIdx.x / WARP * WARP_ROWS, lane = threadIdx.x % WARP, group = lane / 4, pair = lane % 4;
    const int warp_query = first_query + warp_row, query = warp_query + group; // and query + 8

    VisibleTiles tiles{mask, (u32)first_query, (u32)first_query + TILE - 1, (shape.n_tokens + TILE - 1) / TILE};
    int tile = tiles.next();
    load_tile<THREADS>(stages[1].k, q, first_query, shape); // before it holds keys
    load_stage(stages[0], k, v, mask, tile, shape);
    copy_wait<0>();
    __syncthreads();
    u32 queries[D / 16][4];
    load_operand(queries, stages[1].k, warp_row);

    // Of `query` and `query + 8`: the largest score so far, to base 2, and this thread's part of the sum of weights.
    float largest[2] = {NEGATIVE_INFINITY, NEGATIVE_INFINITY}, sum[2] = {0.0f, 0.0f}, out[D / 8][4] = {};
    const float scale_log2 = scale * LOG2_E;

    for (int current = 0; tile < tiles.n_tiles; current ^= 1) {
        copy_wait<0>();
        __syncthreads(); // this stage is there, and nobody reads the other one any more
        tile = tiles.next();
        if (tile < tiles.n_tiles) load_stage(stages[current ^ 1], k, v, mask, tile, shape);
        KeyStage<D>& stage = stages[current];
        const Sight seen = stage.ranges.sight(lane, lane + WARP, warp_query, warp_query + WARP_ROWS - 1);
        if (seen == NOTHING) continue;

        float scores[TILE / 8][4]; // [16 queries, 64 keys]
        product_transposed(scores, queries, stage.k, 0);
        if (seen == PART)
            hide_scores(scores, [&](int row, int column) { return stage.ranges.seen(column, warp_query + row); });

#pragma unroll
        for (int half = 0; half < 2; half++) {
            float risen = NEGATIVE_INFINITY;
#pragma unroll
            for (int n = 0; n < TILE / 8; n++) risen = fmaxf(risen, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
            risen = fmaxf(largest[half], quad_max(risen) * scale_log2);
            // Of a row that saw no key yet any finite base gives exp2(-inf) = 0, and not exp2(-inf + inf).
            const float base = risen == NEGATIVE_INFINITY ? 0.0f : risen;
            const float shrink = exp2_approximate(largest[half] - base);
            largest[half] = risen;
            sum[half] *= shrink;
#pragma unroll
            for (int n = 0; n < D / 8; n++) {
                out[n][2 * half] *= shrink;
                out[n][2 * half + 1] *= shrink;
            }
#pragma unroll
            for (int n = 0; n < TILE / 8; n++)
#pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; i++) {
                    scores[n][i] = exp2_approximate(fmaf(scores[n][i], scale_log2, -base));
                    sum[half] += scores[n][i];
                }
        }
        u32 weights[TILE / 16][4];
        round_operand(weights, scores);
        add_product(out, weights, stage.v, 0);
    }

#pragma unroll
    for (int half = 0; half < 2; half++) {
        const float total = quad_sum(sum[half]), inverse = 1.0f / total;
        const int token = query + 8 * half;
        if (pair == 0 && token < shape.n_tokens)
            lse[(size_t)token * shape.heads + blockIdx.y] = (largest[half] + log2f(total)) * LN_2;
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
            out[n][2 * half] *= inverse;
            out[n][2 * half + 1] *= inverse;
        }
    }
    __syncthreads(); // the last stage is read
    store_rows(o, ld_o, out, stages[0].k, warp_row, first_query, shape);
}

#define ATTENTION_FORWARD(D, BLOCKS)                                                                           \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) attention_forward_##D(                       \
        bf16* __restrict__ o, int ld_o,       /* [n_tokens, heads, head_dim] */                                \
        float* __restrict__ lse,              /* [n_tokens, heads], ln of the sum of exp(scale * score) */     \
        const bf16* __restrict__ q, int ld_q, /* [n_tokens, heads, head_dim] */                                \
        const bf16* __restrict__ k, int ld_k, /* [n_tokens, kv_heads, head_dim] */                             \
        const bf16* __restrict__ v, int ld_v, /* [n_tokens, kv_heads, head_dim] */                             \
        Mask mask, int n_tokens, int heads, int kv_heads, int head_dim, float scale) {                         \
        const Shape shape{n_tokens, heads, kv_heads, head_dim};                                                \
        const int column = blockIdx.y * head_dim, kv_column = blockIdx.y / shape.group() * head_dim;           \
        attention_forward<D>(o + column, ld_o, lse, {q + column, ld_q}, {k + kv_column, ld_k},                 \
                             {v + kv_column, ld_v}, mask, shape, scale);                                       \
    }

// Blocks on an SM: as many as registers allow without spills.
ATTENTION_FORWARD(32, 4)
ATTENTION_FORWARD(64, 3)
ATTENTION_FORWARD(128, 2)
