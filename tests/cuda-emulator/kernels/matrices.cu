// Matrix products: in registers, and on the tensor cores with tiles that arrive while the last ones are used.
#include "bf16.cuh"

constexpr int TILE = 16;

// C = A B in f32, a thread an element.
extern "C" __global__ void matmul_tiled(float* __restrict__ c,        // [m, n]
                                        const float* __restrict__ a,  // [m, k]
                                        const float* __restrict__ b,  // [k, n]
                                        int m, int n, int k) {
    __shared__ float a_tile[TILE][TILE + 1];
    __shared__ float b_tile[TILE][TILE + 1];
    const int row = blockIdx.y * TILE + threadIdx.y, column = blockIdx.x * TILE + threadIdx.x;
    float sum = 0.0f;
    for (int start = 0; start < k; start += TILE) {
        const int a_column = start + threadIdx.x, b_row = start + threadIdx.y;
        a_tile[threadIdx.y][threadIdx.x] = row < m && a_column < k ? a[row * k + a_column] : 0.0f;
        b_tile[threadIdx.y][threadIdx.x] = column < n && b_row < k ? b[b_row * n + column] : 0.0f;
        __syncthreads();
#pragma unroll
        for (int i = 0; i < TILE; i++) sum += a_tile[threadIdx.y][i] * b_tile[i][threadIdx.x];
        __syncthreads();
    }
    if (row < m && column < n) c[row * n + column] = sum;
}

constexpr int BLOCK_M = 64, BLOCK_N = 32, BLOCK_K = 32, PAD = 8;

// 16 bytes to shared memory while the thread goes on; zeros where the source ends.
__device__ __forceinline__ void copy_async(void* shared, const void* global, bool inside) {
    const int bytes = inside ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(bytes)
                 : "memory");
}

// y = x, padded with zeros to whole quadruples, in pieces of 16 bytes of which the last is read in part.
extern "C" __global__ void pad_to_quadruples(float4* __restrict__ y /* [quads] */, const float* __restrict__ x /* [n] */,
                                             int n, int quads) {
    __shared__ float4 tile[64];
    const int quad = blockIdx.x * blockDim.x + threadIdx.x;
    if (quad >= quads) return;
    const int bytes = 4 * max(0, min(4, n - 4 * quad));
    asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(&tile[threadIdx.x])),
                 "l"(x + 4 * quad), "r"(bytes)
                 : "memory");
    asm volatile("cp.async.wait_all;" ::: "memory");
    y[quad] = tile[threadIdx.x];
}

// D = A B + D for a 16x16 tile of A, row-major, and a 16x8 one of B.
template <bool IS_BF16>
__device__ __forceinline__ void mma_16x8x16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    if constexpr (IS_BF16)
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    else
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four warps, each 16 rows of a 64x32 tile; two stages of cp.async. Any m and n; k is a multiple of 8.
template <bool IS_BF16>
__device__ __forceinline__ void matmul_tensor(float* c, const bf16* a, const bf16* b, int m, int n, int k) {
    __shared__ __align__(16) bf16 a_tile[2][BLOCK_M][BLOCK_K + PAD];
    __shared__ __align__(16) bf16 b_tile[2][BLOCK_K][BLOCK_N + PAD];
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    const int first_row = blockIdx.y * BLOCK_M, first_column = blockIdx.x * BLOCK_N;

    auto load = [&](int stage, int start) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int row = (thread + 128 * i) / 4, column = thread % 4 * 8;
            const bool inside = first_row + row < m && start + column < k;
            copy_async(&a_tile[stage][row][column], inside ? a + (size_t)(first_row + row) * k + start + column : a,
                       inside);
        }
        const int row = thread / 4, column = thread % 4 * 8;
        const bool inside = start + row < k && first_column + column < n;
        copy_async(&b_tile[stage][row][column], inside ? b + (size_t)(start + row) * n + first_column + column : b,
                   inside);
        asm volatile("cp.async.commit_group;" ::: "memory");
    };

    float sum[4][4] = {};
    load(0, 0);
    for (int start = 0, stage = 0; start < k; start += BLOCK_K, stage ^= 1) {
        if (start + BLOCK_K < k) {
            load(stage ^ 1, start + BLOCK_K);
            asm volatile("cp.async.wait_group 1;" ::: "memory");
        } else {
            asm volatile("cp.async.wait_group 0;" ::: "memory");
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < BLOCK_K; i += 16) {
            unsigned a_part[4];
            asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                         : "=r"(a_part[0]), "=r"(a_part[1]), "=r"(a_part[2]), "=r"(a_part[3])
                         : "r"(shared_address(&a_tile[stage][warp * 16 + lane % 16][i + lane / 16 * 8]))
                         : "memory");
#pragma unroll
            for (int j = 0; j < 4; j++) {
                unsigned b_part[2];
                asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                             : "=r"(b_part[0]), "=r"(b_part[1])
                             : "r"(shared_address(&b_tile[stage][i + lane % 16][j * 8]))
                             : "memory");
                mma_16x8x16<IS_BF16>(sum[j], a_part, b_part);
            }
        }
        __syncthreads();  // the next load overwrites what this step read
    }
    const int row = first_row + warp * 16 + lane / 4;
#pragma unroll
    for (int j = 0; j < 4; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int r = row + i / 2 * 8, column = first_column + j * 8 + lane % 4 * 2 + i % 2;
            if (r < m && column < n) c[(size_t)r * n + column] = sum[j][i];
        }
}

extern "C" __global__ void __launch_bounds__(128) matmul_bf16(float* __restrict__ c,       // [m, n]
                                                              const bf16* __restrict__ a,  // [m, k]
                                                              const bf16* __restrict__ b,  // [k, n]
                                                              int m, int n, int k) {
    matmul_tensor<true>(c, a, b, m, n, k);
}

extern "C" __global__ void __launch_bounds__(128)
    matmul_f16(float* __restrict__ c,       // [m, n]
               const bf16* __restrict__ a,  // [m, k], the bits of f16 numbers
               const bf16* __restrict__ b,  // [k, n], likewise
               int m, int n, int k) {
    matmul_tensor<false>(c, a, b, m, n, k);
}

// One warp, one tile: C = A B for 16x8x8, the fragments laid out by hand.
extern "C" __global__ void mma_16x8x8(float* __restrict__ c,           // [16, 8]
                                      const unsigned* __restrict__ a,  // [16, 4], two bf16 each
                                      const bf16* __restrict__ b /* [8, 8] */) {
    const int row = threadIdx.x / 4, pair = threadIdx.x % 4;
    const unsigned a0 = a[row * 4 + pair], a1 = a[(row + 8) * 4 + pair];
    const unsigned b0 = b[pair * 2 * 8 + row].bits | (unsigned)b[(pair * 2 + 1) * 8 + row].bits << 16;
    float d[4] = {};
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a0), "r"(a1), "r"(b0));
    for (int i = 0; i < 4; i++) c[(row + i / 2 * 8) * 8 + pair * 2 + i % 2] = d[i];
}
