// From tokens to one embedding a text: the mean of its tokens (Reimers & Gurevych 2019), scaled to length 1 as torch's
// `F.normalize` does.
#include "columns.cuh"
#include "row.cuh"

enum { BLOCK = 256 };

// One over the tokens of a segment; of an empty one, a number.
__device__ __forceinline__ float share(u32 start, u32 end) { return 1.0f / max(end - start, 1u); }

// y[s] = the mean of rows offsets[s] to offsets[s + 1] of x; zero where there are none.
//
// grid = (ceil(width / 32), n_segments), block = 256: a block reads 64 rows of its segment at once (columns.cuh).
// 2 bytes and 1 FLOP a value of x.
extern "C" __global__ void __launch_bounds__(COLUMN_THREADS) mean_pool_forward(
    bf16* __restrict__ y, int ld_y,       // [n_segments, width]
    const bf16* __restrict__ x, int ld_x, // [n_tokens, width]
    const u32* __restrict__ offsets,      // [n_segments + 1], from 0, ascending
    int n_segments, int width) {
    const int segment = blockIdx.y;
    const u32 start = offsets[segment], end = offsets[segment + 1];
    float sums[8] = {};
    for (int first = start + row_lane(); first < end; first += ROW_BATCH * ROW_LANES)
        add_rows(sums, x, ld_x, width, first, ROW_LANES, end);
    const float total = column_total(sums);
    const int column = blockIdx.x * BLOCK_COLUMNS + threadIdx.x;
    if (threadIdx.x < BLOCK_COLUMNS && column < width)
        y[(size_t)segment * ld_y + column] = to_bf16(total * share(start, end));
}

// dx[t] = dy[s] / (rows of s) for the segment s of row t; zero past the last segment.
//
// block = 256, grid = ceil(n_tokens * ceil(width / 8) / 256). 2 bytes a value of dx; dy stays in L1 and L2.
extern "C" __global__ void __launch_bounds__(BLOCK) mean_pool_backward(
    bf16* __restrict__ dx, int ld_dx,       // [n_tokens, width]
    const bf16* __restrict__ dy, int ld_dy, // [n_segments, width]
    const u32* __restrict__ offsets,        // [n_segments + 1], from 0, ascending
    int n_segments, int n_tokens, int width) {
    const Octet at = octet_of_thread(n_tokens, width);
    // The first end past the token: segments without rows end before it.
    const int segment = first_not_below(offsets + 1, n_segments, at.row + 1);
    float d[8] = {};
    if (segment < n_segments) {
        unpack8(d, load8_part(dy + (size_t)segment * ld_dy + at.column, at.n));
        const float scale = share(offsets[segment], offsets[segment + 1]);
#pragma unroll
        for (int i = 0; i < 8; i++) d[i] *= scale;
    }
    at.store(dx, ld_dx, pack8(d));
}

// Shorter rows are divided by this.
#define SHORTEST 1e-12f

// norm = sqrt(sum(x^2)), y = x / max(norm, 1e-12). row.cuh has the launch; 4 bytes and 4 FLOPs a value.
extern "C" __global__ void __launch_bounds__(MAX_ROW_LANES) l2_normalize_forward(
    bf16* __restrict__ y, int ld_y,       // [n, width]
    float* __restrict__ norm,             // [n]
    const bf16* __restrict__ x, int ld_x, // [n, width]
    int n, int width) {
    const Row row(n, 1, width);
    bf16x8 x8[ROW_VECTORS];
    row.load(x8, x, ld_x);
    float squares = 0.0f;
#pragma unroll
    for (int i = 0; i < ROW_VECTORS; i++) {
        float v[8];
        unpack8(v, x8[i]);
#pragma unroll
        for (int j = 0; j < 8; j++) squares += v[j] * v[j];
    }
    const float length = sqrtf(row.sum(squares)), scale = 1.0f / fmaxf(length, SHORTEST);
#pragma unroll
    for (int i = 0; i < ROW_VECTORS; i++) {
        float v[8];
        unpack8(v, x8[i]);
#pragma unroll
        for (int j = 0; j < 8; j++) v[j] *= scale;
        store8_part(row.of(y, ld_y) + row.column(i), pack8(v), row.width - row.column(i));
    }
    if (row.is_first_lane()) norm[row.index] = length;
}

// dx = (dy - y * sum(dy * y)) / norm, or dy / 1e-12 where the norm was below that. row.cuh has the launch; 6 bytes and
// 5 FLOPs a value.
extern "C" __global__ void __launch_bounds__(MAX_ROW_LANES) l2_normalize_backward(
    bf16* __restrict__ dx, int ld_dx,       // [n, width]
    const bf16* __restrict__ dy, int ld_dy, // [n, width]
    const bf16* __restrict__ y, int ld_y,   // [n, width]
    const float* __restrict__ norm,         // [n]
    int n, int width) {
    const Row row(n, 1, width);
    bf16x8 y8[ROW_VECTORS], dy8[ROW_VECTORS];
    row.load(y8, y, ld_y);
    row.load(dy8, dy, ld_dy);
    const float length = row.width > 0 ? norm[row.index] : 0.0f, scale = 1.0f / fmaxf(length, SHORTEST);
    float along = 0.0f;
#pragma unroll
    for (int i = 0; i < ROW_VECTORS; i++) {
        float v[8], d[8];
        unpack8(v, y8[i]);
        unpack8(d, dy8[i]);
#pragma unroll
        for (int j = 0; j < 8; j++) along += d[j] * v[j];
    }
    along = row.sum(along);
    // Below the limit the length is a constant, and so has no gradient.
    if (length < SHORTEST) along = 0.0f;
#pragma unroll
    for (int i = 0; i < ROW_VECTORS; i++) {
        float v[8], d[8];
        unpack8(v, y8[i]);
        unpack8(d, dy8[i]);
#pragma unroll
        for (int j = 0; j < 8; j++) d[j] = (d[j] - v[j] * along) * scale;
        store8_part(row.of(dx, ld_dx) + row.column(i), pack8(d), row.width - row.column(i));
    }
}
