// Attention, backward: FlashAttention-2, algorithm 2 (Dao 2023), in two kernels, so that every gradient is summed by one
// block in a fixed order and written once: no atomics, the same bytes each time. With P the weights and dP = d_o v^T:
//   dS = P * (dP - delta), delta = rowsum(d_o * o);   dq = scale dS k;   dk = scale dS^T q;   dv = P^T d_o
//
// For each visible pair of tokens and head 6 head_dim FLOPs in the first and 8 in the second kernel, which computes scores
// and dP again: seven products rather than five, for neither atomics on dq nor a matrix of scores. Bytes as in forward: the
// second kernel moves q and d_o once for each tile of keys and key head, and lse and delta with them.
#include "attention.cuh"

// ---------------------------------------------------------------- dq, by tiles of queries
//
// grid (ceil(n_tokens / 64), heads), block 128, dynamic shared memory 512 (D + 8) + 1024 bytes, all as forward: a warp for
// sixteen queries. Twelve warps on an SM up to D = 64, eight at D = 128.

enum { QUERY_THREADS = 128 };

// rowsum(d_o * o) of the two rows of a thread, from left operands.
template <int K>
__device__ __forceinline__ void row_products(float (&sum)[2], const u32 (&d_o)[K][4], const u32 (&o)[K][4]) {
    sum[0] = sum[1] = 0.0f;
#pragma unroll
    for (int k = 0; k < K; k++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            sum[i % 2] += low_of(d_o[k][i]) * low_of(o[k][i]) + high_of(d_o[k][i]) * high_of(o[k][i]);
    sum[0] = quad_sum(sum[0]);
    sum[1] = quad_sum(sum[1]);
}

template <int D>
__device__ __forceinline__ void attention_backward_query(
    bf16* dq, int ld_dq, float* delta, Head d_o, Head o, const float* lse, Head q, Head k, Head v, const Mask& mask,
    const Shape& shape, float scale) {
    extern __shared__ __align__(16) u8 shared[];
    KeyStage<D>* const stages = reinterpret_cast<KeyStage<D>*>(shared); // [2]

    // The last queries see the most keys: they start first.
    const int first_query = (gridDim.x - 1 - blockIdx.x) * TILE;
    const int warp_row = threadIdx.x / WARP * WARP_ROWS, lane = threadIdx.x % WARP, group = lane / 4, pair = lane % 4;
    const int warp_query = first_query + warp_row, query = warp_query + group; // and query + 8

    // Queries, d_o and o come in by way of the stages, before these hold keys.
    load_tile<QUERY_THREADS>(stages[1].k, q, first_query, shape);
    load_tile<QUERY_THREADS>(stages[1].v, d_o, first_query, shape);
    load_tile<QUERY_THREADS>(stages[0].k, o, first_query, shape);
    copy_commit();
    copy_wait<0>();
    __syncthreads();
    u32 queries[D / 16][4], d_outs[D / 16][4], outs[D / 16][4];
    load_operand(queries, stages[1].k, warp_row);
    load_operand(d_outs, stages[1].v, warp_row);
    load_operand(outs, stages[0].k, warp_row);
    float row_delta[2], row_lse[2]; // of `query` and `query + 8`; lse to base 2
    row_products(row_delta, d_outs, outs);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int token = query + 8 * half;
        const size_t at = (size_t)token * shape.heads + blockIdx.y;
        row_lse[half] = token < shape.n_tokens ? lse[at] * LOG2_E : 0.0f;
        if (pair == 0 && token < shape.n_tokens) delta[at] = row_delta[half];
    }
    __syncthreads(); // o is read

    VisibleTiles tiles{mask, (u32)first_query, (u32)first_query + TILE - 1, (shape.n_tokens + TILE - 1) / TILE};
    int tile = tiles.next();
    load_stage(stages[0], k, v, mask, tile, shape);

    float d_query[D / 8][4] = {};
    const float scale_log2 = scale * LOG2_E;
    for (int current = 0; tile < tiles.n_tiles; current ^= 1) {
        copy_wait<0>();
        __syncthreads(); // this stage is there, and nobody reads the other one any more
        tile = tiles.next();
        if (tile < tiles.n_tiles) load_stage(stages[current ^ 1], k, v, mask, tile, shape);
        KeyStage<D>& stage = stages[current];
        const Sight seen = stage.ranges.sight(lane, lane + WARP, warp_query, warp_query + WARP_ROWS - 1);
        if (seen == NOTHING) continue;

        float scores[TILE / 8][4], d_weights[TILE / 8][4]; // [16 queries, 64 keys]
        product_transposed(scores, queries, stage.k, 0);
        if (seen == PART)
            hide_scores(scores, [&](int row, int column) { return stage.ranges.seen(column, warp_query + row); });
        product_transposed(d_weights, d_outs, stage.v, 0);
#pragma unroll
        for (int n = 0; n < TILE / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float weight = exp2_approximate(fmaf(scores[n][i], scale_log2, -row_lse[i / 2]));
                d_weights[n][i] = weight * (d_weights[n][i] - row_delta[i / 2]);
            }
        u32 d_scores[TILE / 16][4];
        round_operand(d_scores, d_weights);
        add_product(d_query, d_scores, stage.k, 0);
    }

    scale_sums(d_query, scale);
    __syncthreads(); // the last stage is read
    store_rows(dq, ld_dq, d_query, stages[0].k, warp_row, first_query, shape);
}

// ---------------------------------------------------------------- dk and dv, by tiles of keys
//
// grid (ceil(n_tokens / 64), kv_heads), block 256, dynamic shared memory 640 (D + 8) + 1024 bytes: 26,624, 47,104, 88,064.
// A warp has sixteen keys and one half of each tile of queries. Models with few key heads have few blocks (96 for 2,048
// tokens and 3 heads, on 132 SMs), and the first keys of a long text are seen by all tokens behind them: two warps share
// what one would need twice as long for.

enum { KEY_THREADS = 256, HALF = TILE / 2 };

template <int D>
struct QueryStage {
    HeadTile<D> q, d_o;
    float lse[TILE], delta[TILE];
};

// Sums on their way to the warp that adds them to its own.
template <int N>
struct Parcel {
    float4 values[N][WARP];

    __device__ __forceinline__ void put(const float (&sums)[N][4]) {
#pragma unroll
        for (int n = 0; n < N; n++)
            values[n][threadIdx.x % WARP] = make_float4(sums[n][0], sums[n][1], sums[n][2], sums[n][3]);
    }

    __device__ __forceinline__ void add_to(float (&sums)[N][4]) const {
#pragma unroll
        for (int n = 0; n < N; n++) {
            const float4 other = values[n][threadIdx.x % WARP];
            sums[n][0] += other.x, sums[n][1] += other.y, sums[n][2] += other.z, sums[n][3] += other.w;
        }
    }
};

template <int D>
__device__ __forceinline__ void attention_backward_key(
    bf16* dk, int ld_dk, bf16* dv, int ld_dv, const float* delta, Head d_o, const float* lse, Head q, Head k, Head v,
    const Mask& mask, const Shape& shape, float scale) {
    extern __shared__ __align__(16) u8 shared[];
    QueryStage<D>* const stages = reinterpret_cast<QueryStage<D>*>(shared); // [2]
    // Values stay in shared memory: at D = 128 keys and the two sums leave no registers for them.
    HeadTile<D>& values = *reinterpret_cast<HeadTile<D>*>(stages + 2);
    __shared__ KeyRanges ranges;

    const int first_key = blockIdx.x * TILE;
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, group = lane / 4, pair = lane % 4;
    const int warp_row = warp % 4 * WARP_ROWS, half = warp / 4;
    const int key = warp_row + group; // of the tile; and key + 8

    load_tile<KEY_THREADS>(stages[1].q, k, first_key, shape); // before it holds queries
    load_tile<KEY_THREADS>(values, v, first_key, shape);
    if (threadIdx.x < 2 * TILE) ranges.load(mask, first_key, shape.n_tokens, threadIdx.x);
    copy_commit();
    copy_wait<0>();
    __syncthreads();
    u32 keys[D / 16][4];
    load_operand(keys, stages[1].q, warp_row);

    const auto load_stage = [&](QueryStage<D>& stage, int head /* of the group */, int tile) {
        const int i = threadIdx.x % TILE, query = tile * TILE + i;
        load_tile<KEY_THREADS>(stage.q, {q.values + head * shape.head_dim, q.ld}, tile * TILE, shape);
        load_tile<KEY_THREADS>(stage.d_o, {d_o.values + head * shape.head_dim, d_o.ld}, tile * TILE, shape);
        const size_t at = (size_t)query * shape.heads + blockIdx.y * shape.group() + head;
        if (threadIdx.x < TILE)
            copy4(&stage.lse[i], lse + at, query < shape.n_tokens);
        else if (threadIdx.x < 2 * TILE)
            copy4(&stage.delta[i], delta + at, query < shape.n_tokens);
        copy_commit();
    };

    // For each query head of the group, the tiles of queries that see one of the keys.
    const int first_tile = mask.tile_first[blockIdx.x] / TILE, end_tile = (mask.tile_end[blockIdx.x] + TILE - 1) / TILE;
    int head = 0, tile = first_tile;
    load_stage(stages[0], head, tile);

    float d_key[D / 8][4] = {}, d_value[D / 8][4] = {};
    const float scale_log2 = scale * LOG2_E;
    for (int current = 0; head < shape.group(); current ^= 1) {
        copy_wait<0>();
        __syncthreads(); // this stage is there, and nobody reads the other one any more
        const int first_query = tile * TILE;
        if (++tile == end_tile) tile = first_tile, head++;
        if (head < shape.group()) load_stage(stages[current ^ 1], head, tile);
        QueryStage<D>& stage = stages[current];

        const int half_row = half * HALF, query = first_query + half_row;
        const Sight seen = ranges.sight(key, key + 8, query, query + HALF - 1);
        if (seen == NOTHING) continue;

        float weights[HALF / 8][4], d_weights[HALF / 8][4]; // [16 keys, 32 queries]
        product_transposed(weights, keys, stage.q, half_row); // scores, so far
        if (seen == PART)
            hide_scores(weights, [&](int row, int column) { return ranges.seen(warp_row + row, query + column); });
        product_transposed(d_weights, values, warp_row, stage.d_o, half_row);
#pragma unroll
        for (int n = 0; n < HALF / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int column = half_row + 8 * n + 2 * pair + i % 2;
                weights[n][i] = exp2_approximate(fmaf(weights[n][i], scale_log2, -LOG2_E * stage.lse[column]));
                d_weights[n][i] = weights[n][i] * (d_weights[n][i] - stage.delta[column]);
            }
        u32 operand[HALF / 16][4];
        round_operand(operand, weights);
        add_product(d_value, operand, stage.d_o, half_row);
        round_operand(operand, d_weights); // gradients of the scores
        add_product(d_key, operand, stage.q, half_row);
    }

    // Half 0 ends up with dk, half 1 with dv: what a warp has of the other one it hands to its twin.
    static_assert(8 * sizeof(Parcel<D / 8>) <= 2 * sizeof(QueryStage<D>), "the parcels of all warps fit into the stages");
    Parcel<D / 8>* const parcels = reinterpret_cast<Parcel<D / 8>*>(shared); // [8]
    __syncthreads(); // the last stage is read
    if (half == 0)
        parcels[warp].put(d_value);
    else
        parcels[warp].put(d_key);
    __syncthreads();
    if (half == 0)
        parcels[warp + 4].add_to(d_key);
    else
        parcels[warp - 4].add_to(d_value);
    __syncthreads(); // the parcels are read
    if (half == 0) {
        scale_sums(d_key, scale);
        store_rows(dk, ld_dk, d_key, stages[0].q, warp_row, first_key, shape);
    } else {
        store_rows(dv, ld_dv, d_value, stages[0].d_o, warp_row, first_key, shape);
    }
}

#define ATTENTION_BACKWARD(D, QUERY_BLOCKS, KEY_BLOCKS)                                                               \
    extern "C" __global__ void __launch_bounds__(QUERY_THREADS, QUERY_BLOCKS) attention_backward_query_##D(           \
        bf16* __restrict__ dq, int ld_dq,         /* [n_tokens, heads, head_dim] */                                   \
        float* __restrict__ delta,                /* [n_tokens, heads], rowsum(d_o * o) */                            \
        const bf16* __restrict__ d_o, int ld_d_o, /* [n_tokens, heads, head_dim] */                                   \
        const bf16* __restrict__ o, int ld_o,     /* [n_tokens, heads, head_dim] */                                   \
        const float* __restrict__ lse,            /* [n_tokens, heads] */                                             \
        const bf16* __restrict__ q, int ld_q,     /* [n_tokens, heads, head_dim] */                                   \
        const bf16* __restrict__ k, int ld_k,     /* [n_tokens, kv_heads, head_dim] */                                \
        const bf16* __restrict__ v, int ld_v,     /* [n_tokens, kv_heads, head_dim] */                                \
        Mask mask, int n_tokens, int heads, int kv_heads, int head_dim, float scale) {                                \
        const Shape shape{n_tokens, heads, kv_heads, head_dim};                                                       \
        const int column = blockIdx.y * head_dim, kv_column = blockIdx.y / shape.group() * head_dim;                  \
        attention_backward_query<D>(dq + column, ld_dq, delta, {d_o + column, ld_d_o}, {o + column, ld_o}, lse,       \
                                    {q + column, ld_q}, {k + kv_column, ld_k}, {v + kv_column, ld_v}, mask, shape,    \
                                    scale);                                                                           \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(KEY_THREADS, KEY_BLOCKS) attention_backward_key_##D(                 \
        bf16* __restrict__ dk, int ld_dk,         /* [n_tokens, kv_heads, head_dim] */                                \
        bf16* __restrict__ dv, int ld_dv,         /* [n_tokens, kv_heads, head_dim] */                                \
        const float* __restrict__ delta,          /* [n_tokens, heads], of attention_backward_query */                \
        const bf16* __restrict__ d_o, int ld_d_o, /* [n_tokens, heads, head_dim] */                                   \
        const float* __restrict__ lse,            /* [n_tokens, heads] */                                             \
        const bf16* __restrict__ q, int ld_q,     /* [n_tokens, heads, head_dim] */                                   \
        const bf16* __restrict__ k, int ld_k,     /* [n_tokens, kv_heads, head_dim] */                                \
        const bf16* __restrict__ v, int ld_v,     /* [n_tokens, kv_heads, head_dim] */                                \
        Mask mask, int n_tokens, int heads, int kv_heads, int head_dim, float scale) {                                \
        const Shape shape{n_tokens, heads, kv_heads, head_dim};                                                       \
        const int kv_column = blockIdx.y * head_dim, column = kv_column * shape.group();                              \
        attention_backward_key<D>(dk + kv_column, ld_dk, dv + kv_column, ld_dv, delta, {d_o + column, ld_d_o}, lse,   \
                                  {q + column, ld_q}, {k + kv_column, ld_k}, {v + kv_column, ld_v}, mask, shape,      \
                                  scale);                                                                             \
    }

// Blocks on an SM: as many as registers allow without spills.
ATTENTION_BACKWARD(32, 3, 2)
ATTENTION_BACKWARD(64, 3, 1)
ATTENTION_BACKWARD(128, 2, 1)
