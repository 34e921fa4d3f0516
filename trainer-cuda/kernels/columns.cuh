// Sums over the rows of a matrix, column by column, in a fixed order.
//
// A block of 256 threads has 32 columns: thread t the eight from 8 (t % 4) of every 64th row, so that a row's part is
// 64 neighbouring bytes. grid = (ceil(width / 32), splits): with few columns the rows are split over blocks, whose sums
// meet in `partial`; the last block adds them in order.
//     splits = clamp(min(ceil(n_rows / 512), 264 / ceil(width / 32)), 1, ..)
// makes two blocks an SM where there are rows enough; it depends on the shape only, and so does the result.
#pragma once
#include "common.cuh"

enum { BLOCK_COLUMNS = 32, COLUMN_THREADS = 256, ROW_LANES = 64 };

// Rows that a thread loads before it uses the first: 64 KB in flight on an SM of 1,024 threads.
enum { ROW_BATCH = 4 };

// The thread's eight columns, and its row among the 64 that the block reads at once.
__device__ __forceinline__ int column_of_thread() { return blockIdx.x * BLOCK_COLUMNS + 8 * (threadIdx.x % 4); }
__device__ __forceinline__ int row_lane() { return threadIdx.x / 4; }

// This thread's eight columns of row `first` and those `stride` apart behind it, up to `end`.
__device__ __forceinline__ void load_rows(
    bf16x8 (&x)[ROW_BATCH], const bf16* matrix, int ld, int rows_per_token, int width, int first, int stride, int end) {
    const int column = column_of_thread();
#pragma unroll
    for (int b = 0; b < ROW_BATCH; b++) {
        const int row = first + b * stride;
        x[b] = load8_part(matrix + row_start(row, rows_per_token, ld, width) + column, row < end ? width - column : 0);
    }
}

// sums += those rows.
__device__ __forceinline__ void add_rows(
    float (&sums)[8], const bf16* matrix, int ld, int width, int first, int stride, int end) {
    bf16x8 x[ROW_BATCH];
    load_rows(x, matrix, ld, 1, width, first, stride, end);
#pragma unroll
    for (int b = 0; b < ROW_BATCH; b++) {
        float v[8];
        unpack8(v, x[b]);
#pragma unroll
        for (int j = 0; j < 8; j++) sums[j] += v[j];
    }
}

// Thread c < 32 gets the sum of the block's column c over all threads.
__device__ __forceinline__ float column_total(float (&sums)[8]) {
    __shared__ float partial[COLUMN_THREADS / WARP][BLOCK_COLUMNS];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        for (int offset = WARP / 2; offset >= 4; offset /= 2) sums[i] += __shfl_xor_sync(ALL_LANES, sums[i], offset);
        if (lane < 4) partial[warp][8 * lane + i] = sums[i];
    }
    __syncthreads();
    float total = 0.0f;
    if (warp == 0)
        for (int w = 0; w < COLUMN_THREADS / WARP; w++) total += partial[w][lane];
    __syncthreads();
    return total;
}

// out[n][column] += total[n] of all blocks of the column. `partial` [splits, N, width] and `counter` [gridDim.x] (zero)
// are not touched where splits is 1.
template <int N>
__device__ __forceinline__ void add_totals(
    float* const (&out)[N], float (&total)[N], float* partial, u32* counter, int width) {
    const int column = blockIdx.x * BLOCK_COLUMNS + threadIdx.x;
    const bool has_column = threadIdx.x < BLOCK_COLUMNS && column < width;
    if (gridDim.y > 1) {
        for (int n = 0; n < N && has_column; n++) partial[(size_t)(blockIdx.y * N + n) * width + column] = total[n];
        if (!is_last_block(counter + blockIdx.x, gridDim.y)) return;
        for (int n = 0; n < N && has_column; n++) {
            total[n] = 0.0f;
            for (int split = 0; split < gridDim.y; split++)
                total[n] += partial[(size_t)(split * N + n) * width + column];
        }
    }
    for (int n = 0; n < N && has_column; n++) out[n][column] += total[n];
}
