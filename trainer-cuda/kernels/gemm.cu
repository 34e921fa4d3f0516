// D = op(A) op(B) + C + bias, for machines without cuBLASLt: bf16 operands, f32 sums.
//
//   gemm_tn   A [m, k], B [n, k]   y = x W^T
//   gemm_nn   A [m, k], B [k, n]   dx = dy W
//   gemm_nt   A [k, m], B [k, n]   dW = dy^T x
//
// grid ceil(m / 128) * ceil(n / 128), block 256, dynamic shared memory 81,920 (tn), 75,776 (nn) or 69,632 (nt) bytes: two
// blocks on an SM of 164 KB or more, one where there are 100.
//
// A block makes 128 x 128 values of D in steps of 32 of k: 2 * 128 * 128 * 32 FLOPs for 16 KB, 64 a byte. Four stages of
// shared memory, three of them on their way (cp.async); eight warps with 64 x 32 values each, so that one ldmatrix feeds
// 2.7 products. Operands lie in shared memory as they do in global memory; ldmatrix transposes the ones that need it. In
// global memory 2 (m k ceil(n / 128) + n k ceil(m / 128)) bytes are asked for, most of them of the L2 cache.
#include "common.cuh"

enum { TILE = 128, TILE_K = 32, STAGES = 4, THREADS = 256 };
enum { WARP_M = 64, WARP_N = 32 }; // a warp's part of the tile: two by four warps

// 128 rows or columns of D by 32 of k.
template <bool K_CONTIGUOUS>
struct OperandTile {
    enum { ROWS = K_CONTIGUOUS ? TILE : TILE_K, COLUMNS = K_CONTIGUOUS ? TILE_K : TILE };
    enum { STRIDE = COLUMNS + 8 }; // stride / 8 is odd: no bank conflicts
    bf16 values[ROWS * STRIDE];

    __device__ __forceinline__ bf16* at(int row, int column) { return values + row * STRIDE + column; }

    // Starts to copy from `matrix` [rows, columns] what begins at (row, column); zeros beyond its end.
    __device__ __forceinline__ void load(const bf16* matrix, int ld, int row, int rows, int column, int columns) {
        constexpr int VECTORS = COLUMNS / 8, STEP = THREADS / VECTORS;
        const int r = threadIdx.x / VECTORS, c = threadIdx.x % VECTORS * 8;
        const bf16* const from = matrix + (size_t)(row + r) * ld + column + c;
        const int bytes = max(0, min(16, 2 * (columns - column - c)));
#pragma unroll
        for (int i = 0; i < ROWS; i += STEP)
            copy16(at(r + i, c), from + (size_t)i * ld, row + r + i < rows ? bytes : 0);
    }

    // The part that begins at row or column `first` of D, `k` of this step, as a left operand [16, 16].
    __device__ __forceinline__ void left(u32 (&a)[4], int first, int k) {
        if constexpr (K_CONTIGUOUS)
            load_a(a, at(first, k), STRIDE);
        else
            load_a_transposed(a, at(k, first), STRIDE);
    }

    // The same as the right operands of two products, [16, 8] each.
    __device__ __forceinline__ void right(u32 (&b)[4], int first, int k) {
        if constexpr (K_CONTIGUOUS)
            load_b(b, at(first, k), STRIDE);
        else
            load_b_transposed(b, at(k, first), STRIDE);
    }
};

template <bool A_K_CONTIGUOUS, bool B_K_CONTIGUOUS>
struct Stage {
    OperandTile<A_K_CONTIGUOUS> a;
    OperandTile<B_K_CONTIGUOUS> b;
};

// Which tile of D a block makes: eight rows of tiles at a time, so that the blocks at work share their operands in L2.
__device__ __forceinline__ void tile_of_block(int& row, int& column, int m, int n) {
    enum { GROUP = 8 };
    const int rows = (m + TILE - 1) / TILE, columns = (n + TILE - 1) / TILE;
    const int group = blockIdx.x / (GROUP * columns), within = blockIdx.x % (GROUP * columns);
    const int height = min((int)GROUP, rows - group * GROUP);
    row = (group * GROUP + within % height) * TILE;
    column = within / height * TILE;
}

// Eight neighbours of D, of which the first `n` count; bf16 in common.cuh.
__device__ __forceinline__ void store_part(float* to, const float (&values)[8], int n) {
    if (n >= 8 && is_aligned16(to)) {
        store4(to, {values[0], values[1], values[2], values[3]});
        store4(to + 4, {values[4], values[5], values[6], values[7]});
        return;
    }
#pragma unroll
    for (int i = 0; i < 8; i++)
        if (i < n) to[i] = values[i];
}

// Where the sums go. d and c may be the same.
template <typename T>
struct Result {
    T* d;             // [m, n]
    int ld_d;
    const T* c;       // [m, n] or null
    int ld_c;
    const bf16* bias; // [n] or null
    int m, n;

    // Eight neighbours, or those of them that exist.
    __device__ __forceinline__ void write(int row, int column, float (&values)[8]) const {
        const int count = n - column;
        if (row >= m || count <= 0) return;
        float other[8];
        if (bias) {
            unpack8(other, gather8(bias + column, count));
#pragma unroll
            for (int i = 0; i < 8; i++) values[i] += other[i];
        }
        if (c) {
            load_part(other, c + (size_t)row * ld_c + column, count);
#pragma unroll
            for (int i = 0; i < 8; i++) values[i] += other[i];
        }
        store_part(d + (size_t)row * ld_d + column, values, count);
    }
};

// A block's sums on their way to whole rows. Eight values of padding: a warp's stores meet no bank conflicts.
struct SumTile {
    float values[TILE][TILE + 8];
};

template <bool A_K_CONTIGUOUS, bool B_K_CONTIGUOUS, typename T>
__device__ __forceinline__ void gemm(const bf16* a, int ld_a, const bf16* b, int ld_b, const Result<T>& result, int k) {
    extern __shared__ __align__(16) u8 shared[];
    typedef Stage<A_K_CONTIGUOUS, B_K_CONTIGUOUS> Stage;
    Stage* const stages = reinterpret_cast<Stage*>(shared); // [STAGES]
    int row, column;
    tile_of_block(row, column, result.m, result.n);
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int warp_row = warp / 4 * WARP_M, warp_column = warp % 4 * WARP_N;

    const int steps = (k + TILE_K - 1) / TILE_K;
    const auto load_stage = [&](int step) {
        if (step < steps) {
            Stage& stage = stages[step % STAGES];
            if constexpr (A_K_CONTIGUOUS)
                stage.a.load(a, ld_a, row, result.m, step * TILE_K, k);
            else
                stage.a.load(a, ld_a, step * TILE_K, k, row, result.m);
            if constexpr (B_K_CONTIGUOUS)
                stage.b.load(b, ld_b, column, result.n, step * TILE_K, k);
            else
                stage.b.load(b, ld_b, step * TILE_K, k, column, result.n);
        }
        copy_commit(); // also at the end, where it is empty: the stages are counted
    };
#pragma unroll
    for (int step = 0; step < STAGES - 1; step++) load_stage(step);

    float sums[WARP_M / 16][WARP_N / 8][4] = {};
    for (int step = 0; step < steps; step++) {
        copy_wait<STAGES - 2>();
        __syncthreads(); // this stage is there, and nobody reads the one before it any more
        load_stage(step + STAGES - 1);
        Stage& stage = stages[step % STAGES];
#pragma unroll
        for (int kk = 0; kk < TILE_K; kk += 16) {
            u32 left[WARP_M / 16][4], right[WARP_N / 16][4];
#pragma unroll
            for (int i = 0; i < WARP_M / 16; i++) stage.a.left(left[i], warp_row + 16 * i, kk);
#pragma unroll
            for (int j = 0; j < WARP_N / 16; j++) stage.b.right(right[j], warp_column + 16 * j, kk);
#pragma unroll
            for (int i = 0; i < WARP_M / 16; i++)
#pragma unroll
                for (int j = 0; j < WARP_N / 8; j++)
                    multiply_add(sums[i][j], left[i], right[j / 2][j % 2 * 2], right[j / 2][j % 2 * 2 + 1]);
        }
    }

    // From the layout of tensor cores to rows of D, by way of the stages.
    static_assert(sizeof(SumTile) <= STAGES * sizeof(Stage), "the sums fit into the stages");
    SumTile& tile = *reinterpret_cast<SumTile*>(shared);
    __syncthreads(); // the last stage is read
#pragma unroll
    for (int i = 0; i < WARP_M / 16; i++)
#pragma unroll
        for (int j = 0; j < WARP_N / 8; j++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float* const to = &tile.values[warp_row + 16 * i + 8 * half + lane / 4][warp_column + 8 * j + lane % 4 * 2];
                *reinterpret_cast<float2*>(to) = make_float2(sums[i][j][2 * half], sums[i][j][2 * half + 1]);
            }
    __syncthreads();
#pragma unroll 1
    for (int i = threadIdx.x; i < TILE * TILE / 8; i += THREADS) {
        const int r = i / (TILE / 8), c = i % (TILE / 8) * 8;
        float values[8];
#pragma unroll
        for (int j = 0; j < 8; j++) values[j] = tile.values[r][c + j];
        result.write(row + r, column + c, values);
    }
}

#define GEMM(NAME, T, A_K_CONTIGUOUS, B_K_CONTIGUOUS)                                           \
    extern "C" __global__ void __launch_bounds__(THREADS, 2) NAME(                              \
        T* d, int ld_d,                       /* [m, n] */                                      \
        const bf16* __restrict__ a, int ld_a, /* [m, k]; nt: [k, m] */                          \
        const bf16* __restrict__ b, int ld_b, /* tn: [n, k]; nn, nt: [k, n] */                  \
        const T* c, int ld_c,                 /* [m, n], d itself, or null */                   \
        const bf16* __restrict__ bias,        /* [n] or null */                                 \
        int m, int n, int k) {                                                                  \
        const Result<T> result{d, ld_d, c, ld_c, bias, m, n};                                   \
        gemm<A_K_CONTIGUOUS, B_K_CONTIGUOUS>(a, ld_a, b, ld_b, result, k);                      \
    }

GEMM(gemm_tn_bf16, bf16, true, true)
GEMM(gemm_nn_bf16, bf16, true, false)
GEMM(gemm_nt_f32, float, false, false)
