// LoRA's skinny products (Hu et al. 2021, eq. 3): h = x A^T, its mirror d_h = dy (s B), and the gradients of A and B.
//
// The wide products have the update inside them: with W, A and s B in one matrix P [out + rank, in + rank] and h in the
// columns behind x, y = [x | h] [W | s B]^T and dx = [dy | d_h] [W ; A].
#include "common.cuh"

// ---------------------------------------------------------------- h = x factor^T
//
// grid (ceil(rank / (8 N)), ceil(n_tokens / (16 groups))), block (32, splits, groups), splits * groups <= 8; no shared
// memory to ask for. N of 1, 2, 3, 4, 6, 8: the least that holds the rank, else 8. A group of warps owns sixteen tokens
// and splits the width between them; what they have meets in shared memory, in a fixed order.
//
// Bound by memory: 2 n_tokens (width + 2 rank) bytes for 2 n_tokens width rank FLOPs. x goes from global memory straight
// into operands: a lane's sixteen bytes are its values of two products, because the order of k is free as long as both
// operands have the same one. `factor` is read by each block, mostly of L2: 2 rank width bytes per 16 groups tokens,
// rank / (16 groups) of what x takes. More groups share it by way of L1, fewer make more blocks: one group of eight splits
// below 4,096 tokens (128 blocks at 2,048), two of four below 8,192, four of two from there on.

enum { CHUNK = 32, PRODUCT_WARPS = 8, ROW_TILE = 16 };

// Sixteen bytes of a lane as operands of two products: product s of a chunk has k = 2 pair, 2 pair + 1, 2 pair + 8 and
// 2 pair + 9 of this lane at columns 8 pair + 4 s .. 8 pair + 4 s + 4 of the chunk.
__device__ __forceinline__ void multiply_add_chunk(float (&d)[4], const bf16x8& upper, const bf16x8& lower,
                                                   const bf16x8& b) {
#pragma unroll
    for (int s = 0; s < 2; s++) {
        const u32 a[4] = {upper.pair[2 * s], lower.pair[2 * s], upper.pair[2 * s + 1], lower.pair[2 * s + 1]};
        multiply_add(d, a, b.pair[2 * s], b.pair[2 * s + 1]);
    }
}

__device__ __forceinline__ bf16x8 keep_if(bool keep, bf16x8 x) {
#pragma unroll
    for (int i = 0; i < 4; i++) x.pair[i] = keep ? x.pair[i] : 0;
    return x;
}

// Row `row` of a matrix from this lane's columns on. Rows that do not exist are the last one: nothing of them is written.
__device__ __forceinline__ const bf16* lane_row(const bf16* matrix, int ld, int row, int rows) {
    return matrix + (size_t)min(row, rows - 1) * ld + threadIdx.x % 4 * 8;
}

template <int N>
__device__ __forceinline__ void low_rank_product(
    bf16* __restrict__ h, int ld_h, bf16* __restrict__ tail, int ld_tail, const bf16* __restrict__ x, int ld_x,
    const bf16* __restrict__ factor, int ld_factor, int n_tokens, int width, int rank) {
    // Chunks on their way at once: 2 KB of x a warp and more, 32 KB on an SM at 2,048 tokens.
    constexpr int BATCH = N <= 4 ? 4 : 2;
    __shared__ float partial[PRODUCT_WARPS][ROW_TILE][8 * N];
    const int lane = threadIdx.x, group = lane / 4, pair = lane % 4, split = threadIdx.y, splits = blockDim.y;
    const int first_column = blockIdx.x * 8 * N;
    const int first_token = (blockIdx.y * blockDim.z + threadIdx.z) * ROW_TILE;

    const bf16* const upper = lane_row(x, ld_x, first_token + group, n_tokens);
    const bf16* const lower = lane_row(x, ld_x, first_token + group + 8, n_tokens);
    const bf16* right[N];
#pragma unroll
    for (int n = 0; n < N; n++) right[n] = lane_row(factor, ld_factor, first_column + 8 * n + group, rank);

    float sums[N][4] = {};
    const int chunks = width / CHUNK;
    for (int first = split; first < chunks; first += BATCH * splits) {
        bf16x8 a[BATCH][2], b[BATCH][N];
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            // No branches here or below, which would keep the loads apart: past the end the last chunk is read, as zeros.
            const int chunk = first + i * splits, column = min(chunk, chunks - 1) * CHUNK;
            a[i][0] = keep_if(chunk < chunks, load8(upper + column));
            a[i][1] = keep_if(chunk < chunks, load8(lower + column));
#pragma unroll
            for (int n = 0; n < N; n++) b[i][n] = load8(right[n] + column);
        }
#pragma unroll
        for (int i = 0; i < BATCH; i++)
#pragma unroll
            for (int n = 0; n < N; n++) multiply_add_chunk(sums[n], a[i][0], a[i][1], b[i][n]);
    }
    if (width % CHUNK != 0 && split == chunks % splits) {
        const int column = chunks * CHUNK, left = width - column - pair * 8;
        const bf16x8 a0 = gather8(upper + column, left), a1 = gather8(lower + column, left);
#pragma unroll
        for (int n = 0; n < N; n++) multiply_add_chunk(sums[n], a0, a1, gather8(right[n] + column, left));
    }

    const int first_warp = threadIdx.z * splits;
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            partial[first_warp + split][group + i / 2 * 8][8 * n + 2 * pair + i % 2] = sums[n][i];
    __syncthreads();

    for (int i = split * WARP + lane; i < ROW_TILE * 8 * N; i += splits * WARP) {
        const int row = i / (8 * N), token = first_token + row, column = first_column + i % (8 * N);
        if (token >= n_tokens || column >= rank) continue;
        float sum = 0.0f;
        for (int s = 0; s < splits; s++) sum += partial[first_warp + s][row][i % (8 * N)];
        const bf16 value = to_bf16(sum);
        h[(size_t)token * ld_h + column] = value;
        tail[(size_t)token * ld_tail + column] = value;
    }
}

#define LOW_RANK_PRODUCT(N)                                                                                          \
    extern "C" __global__ void __launch_bounds__(PRODUCT_WARPS* WARP, 1) low_rank_product_##N(                       \
        bf16* __restrict__ h, int ld_h,                 /* [n_tokens, rank] */                                       \
        bf16* __restrict__ tail, int ld_tail,           /* [n_tokens, rank], the same values once more */            \
        const bf16* __restrict__ x, int ld_x,           /* [n_tokens, width] */                                      \
        const bf16* __restrict__ factor, int ld_factor, /* [rank, width] */                                          \
        int n_tokens, int width, int rank) {                                                                         \
        low_rank_product<N>(h, ld_h, tail, ld_tail, x, ld_x, factor, ld_factor, n_tokens, width, rank);              \
    }

LOW_RANK_PRODUCT(1)
LOW_RANK_PRODUCT(2)
LOW_RANK_PRODUCT(3)
LOW_RANK_PRODUCT(4)
LOW_RANK_PRODUCT(6)
LOW_RANK_PRODUCT(8)

// ---------------------------------------------------------------- gradients of A and B
//
// out += scale p^T q for up to sixteen pairs in one launch: all of a layer. grid (column tiles of all problems, splits),
// block 256; no shared memory to ask for.
//   column tiles of a problem  ceil(width / 128); problem i's begin at first_block, the sum of those before it
//   partial                    column tiles * splits * ceil(greatest rank / 8) * 4,096 bytes
//   counters                   a u32 for each column tile, 0 before the first launch and again after each
//
// A block owns 128 columns of q and a split of the tokens, which are k: a warp's sixteen columns are the left operand's
// rows, the ranks are the right operand's columns, so that a rank of 8 costs one product. Its sums go to `partial` as they
// lie in registers; the last block of a column tile adds them up, in the order of the splits.
// Bound by memory: q is read once for ranks up to 64 and once more, out of L2, for each further 64; p once for each column
// tile, rank / 128 of what q takes. Two or three blocks for each SM keep 50 KB on their way: splits = ceil(300 / column
// tiles), but no more than there are steps of 32 tokens.

struct Problem {
    const bf16* p;   // [n_tokens, rank]
    int ld_p;
    const bf16* q;   // [n_tokens, width]
    int ld_q;
    float* out;      // [rank, width] (dA = d_h^T x), or transposed [width, rank] (dB = s dy^T h); +=
    int rank, width, transposed;
    float scale;
    int first_block;
};

struct Problems {
    Problem problem[16];
    int n;
};

enum { GRADIENT_THREADS = 256, COLUMNS = 128, RANKS = 64, TOKENS = 32, STAGES = 3 };

struct TokenStage {
    enum { Q_STRIDE = COLUMNS + 8, P_STRIDE = RANKS + 8 }; // stride / 8 is odd: no bank conflicts
    bf16 q[TOKENS * Q_STRIDE];
    bf16 p[TOKENS * P_STRIDE];
};

// Starts to copy rows first.. of `matrix`, columns column..column + 8 VECTORS; zeros past `rows` and `columns`.
template <int VECTORS, int STRIDE>
__device__ __forceinline__ void load_rows(bf16* tile, const bf16* matrix, int ld, int first, int rows, int column,
                                          int columns) {
    constexpr int STEP = GRADIENT_THREADS / VECTORS;
    const int row = threadIdx.x / VECTORS, c = threadIdx.x % VECTORS * 8;
    const bf16* const from = matrix + (size_t)(first + row) * ld + column + c;
    const int bytes = max(0, min(16, 2 * (columns - column - c)));
#pragma unroll
    for (int i = 0; i < TOKENS; i += STEP)
        copy16(tile + (row + i) * STRIDE + c, from + (size_t)i * ld, first + row + i < rows ? bytes : 0);
}

// sums [16 columns of the warp, RANKS] = q^T p over tokens begin..end, of ranks first_rank.. and columns first_column..
__device__ __forceinline__ void sum_tokens(float (&sums)[RANKS / 8][4], const Problem& problem, int first_rank,
                                           int first_column, int begin, int end) {
    __shared__ __align__(16) TokenStage stages[STAGES];
    const int warp = threadIdx.x / WARP, ranks = problem.rank - first_rank;
    const int steps = (end - begin + TOKENS - 1) / TOKENS;
    const auto load_stage = [&](int step) {
        if (step < steps) {
            TokenStage& stage = stages[step % STAGES];
            const int token = begin + step * TOKENS;
            load_rows<COLUMNS / 8, TokenStage::Q_STRIDE>(stage.q, problem.q, problem.ld_q, token, end, first_column,
                                                         problem.width);
            load_rows<RANKS / 8, TokenStage::P_STRIDE>(stage.p, problem.p, problem.ld_p, token, end, first_rank,
                                                       problem.rank);
        }
        copy_commit(); // also at the end, where it is empty: the stages are counted
    };
    __syncthreads(); // the ranks before these are done with
#pragma unroll
    for (int step = 0; step < STAGES - 1; step++) load_stage(step);

#pragma unroll
    for (int n = 0; n < RANKS / 8; n++) sums[n][0] = sums[n][1] = sums[n][2] = sums[n][3] = 0.0f;
    for (int step = 0; step < steps; step++) {
        copy_wait<STAGES - 2>();
        __syncthreads(); // this stage is there, and nobody reads the one before it any more
        load_stage(step + STAGES - 1);
        TokenStage& stage = stages[step % STAGES];
#pragma unroll
        for (int k = 0; k < TOKENS; k += 16) {
            u32 a[4], b[4];
            load_a_transposed(a, stage.q + k * TokenStage::Q_STRIDE + warp * 16, TokenStage::Q_STRIDE);
#pragma unroll
            for (int n = 0; n < RANKS / 8; n += 2) {
                if (8 * n >= ranks) break;
                load_b_transposed(b, stage.p + k * TokenStage::P_STRIDE + 8 * n, TokenStage::P_STRIDE);
                multiply_add(sums[n], a, b[0], b[1]);
                multiply_add(sums[n + 1], a, b[2], b[3]);
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(GRADIENT_THREADS, 3) low_rank_gradients(
    Problems problems,
    float4* partial, // [column tiles, splits, ceil(greatest rank / 8), 256]
    u32* counters,   // [column tiles]
    int n_tokens) {
    int index = 0, greatest_rank = 0;
    for (int i = 0; i < problems.n; i++) {
        if (problems.problem[i].first_block <= blockIdx.x) index = i;
        greatest_rank = max(greatest_rank, problems.problem[i].rank);
    }
    const Problem& problem = problems.problem[index];
    const int first_column = (blockIdx.x - problem.first_block) * COLUMNS;
    const int split = blockIdx.y, splits = gridDim.y;
    const int rank_tiles = (problem.rank + 7) / 8;
    const size_t split_size = (greatest_rank + 7) / 8 * GRADIENT_THREADS; // in values of `partial`
    partial += blockIdx.x * splits * split_size + threadIdx.x;

    const int steps = (n_tokens + TOKENS - 1) / TOKENS, steps_per_split = (steps + splits - 1) / splits;
    const int begin = split * steps_per_split * TOKENS, end = min(n_tokens, begin + steps_per_split * TOKENS);
    for (int first_rank = 0; first_rank < problem.rank; first_rank += RANKS) {
        float sums[RANKS / 8][4];
        sum_tokens(sums, problem, first_rank, first_column, begin, end);
#pragma unroll
        for (int n = 0; n < RANKS / 8; n++) {
            const int tile = first_rank / 8 + n;
            float4* const to = partial + split * split_size + tile * GRADIENT_THREADS;
            if (tile < rank_tiles) *to = make_float4(sums[n][0], sums[n][1], sums[n][2], sums[n][3]);
        }
    }
    if (!is_last_block(&counters[blockIdx.x], splits)) return;

    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    for (int tile = 0; tile < rank_tiles; tile++) {
        float sum[4] = {};
        for (int s = 0; s < splits; s++) {
            const float4 part = partial[s * split_size + tile * GRADIENT_THREADS];
            sum[0] += part.x, sum[1] += part.y, sum[2] += part.z, sum[3] += part.w;
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int column = first_column + warp * 16 + lane / 4 + i / 2 * 8, rank = 8 * tile + lane % 4 * 2 + i % 2;
            if (column >= problem.width || rank >= problem.rank) continue;
            const size_t at = problem.transposed ? (size_t)column * problem.rank + rank //
                                                 : (size_t)rank * problem.width + column;
            problem.out[at] += problem.scale * sum[i];
        }
    }
}
