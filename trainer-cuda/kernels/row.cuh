// A row in the registers of the threads that share it: read once, however often it is used.
//
// block = (lanes, rows): the lanes of a row are a power of two up to 32, with several rows in a block, or a multiple of
// 32 with one row in a block. A lane holds up to four vectors of eight:
//     lanes = width <= 1024 ? the power of two from ceil(width / 32) up : 32 * ceil(width / 1024)
//     rows  = lanes <= 32 ? 128 / lanes : 1
//     grid  = ceil(n_rows / rows)
// 2,048 rows of 576 are 512 blocks (3.9 for each of 132 SMs, of which sixteen fit at once), heads of 128 take four
// lanes. Up to 16,384 columns (512 lanes).
#pragma once
#include "common.cuh"

enum { ROW_VECTORS = 4, MAX_ROW_LANES = 512 };

struct Row {
    int index, width; // past the last row the width is 0: its lanes touch nothing, but take part in sums
    int rows_per_token;

    __device__ __forceinline__ Row(int n_rows, int rows_per_token, int width) : rows_per_token(rows_per_token) {
        index = blockIdx.x * blockDim.y + threadIdx.y;
        this->width = index < n_rows ? width : 0;
    }

    // Where the row begins in a matrix; nowhere past the last one.
    template <typename T>
    __device__ __forceinline__ T* of(T* matrix, int ld) const {
        return matrix + row_start(index, rows_per_token, ld, width);
    }

    // The first column of this lane's vector `i`. Neighbouring lanes have neighbouring vectors.
    __device__ __forceinline__ int column(int i) const { return 8 * (threadIdx.x + i * blockDim.x); }

    // All loads of a row of whole vectors are under way before the first has arrived: no branch stands between them.
    __device__ __forceinline__ void load(bf16x8 (&x)[ROW_VECTORS], const bf16* matrix, int ld) const {
        const bf16* row = of(matrix, ld);
        if (width % 8 == 0 && is_aligned16(row)) {
#pragma unroll
            for (int i = 0; i < ROW_VECTORS; i++) x[i] = column(i) < width ? load8(row + column(i)) : bf16x8{};
        } else {
#pragma unroll
            for (int i = 0; i < ROW_VECTORS; i++) x[i] = load8_part(row + column(i), width - column(i));
        }
    }

    // The sum over the row's lanes, in each of them; all threads of the block call it.
    __device__ __forceinline__ float sum(float x) const {
        __shared__ float partial[MAX_ROW_LANES / WARP];
        if (blockDim.x > WARP) return block_sum(x, partial);
        for (int offset = blockDim.x / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(ALL_LANES, x, offset);
        return x;
    }

    __device__ __forceinline__ bool is_first_lane() const { return threadIdx.x == 0 && width > 0; }
};
