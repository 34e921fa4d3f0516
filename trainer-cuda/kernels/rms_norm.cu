// RMSNorm (Zhang & Sennrich 2019, eq. 4): y = x * rstd * weight, rstd = 1 / sqrt(mean(x^2) + eps).
//
// A row is a token or one of its `rows_per_token` heads (Qwen3). Forward and backward hold it in registers (row.cuh has
// the launch), so each value is moved once: 4 bytes forward, 8 backward, 10 with `normed`; some 4 and 12 FLOPs.
#include "columns.cuh"
#include "row.cuh"

// The normalised value is rounded before the weight, as transformers' LlamaRMSNorm does: losses are compared with it.
__device__ __forceinline__ float scaled(float x, float rstd, float weight) {
    return to_f32(to_bf16(x * rstd)) * weight;
}

// y = x * rstd * weight; keeps rstd for the backward pass.
extern "C" __global__ void __launch_bounds__(MAX_ROW_LANES) rms_norm_forward(
    bf16* __restrict__ y, int ld_y,       // [n_rows, width]
    float* __restrict__ rstd,             // [n_rows]
    const bf16* __restrict__ x, int ld_x, // [n_rows, width]
    const float* __restrict__ weight,     // [width]
    int n_rows, int rows_per_token, int width, float eps) {
    const Row row(n_rows, rows_per_token, width);
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
    const float r = rsqrtf(row.sum(squares) / width + eps);

#pragma unroll
    for (int i = 0; i < ROW_VECTORS; i++) {
        const int column = row.column(i), n = row.width - column;
        if (n <= 0) break;
        float v[8], w[8];
        unpack8(v, x8[i]);
        load_part(w, weight + column, n);
#pragma unroll
        for (int j = 0; j < 8; j++) v[j] = scaled(v[j], r, w[j]);
        store8_part(row.of(y, ld_y) + column, pack8(v), n);
    }
    if (row.is_first_lane()) rstd[row.index] = r;
}

// dx = residual + rstd * (weight * dy - x * rstd^2 * mean(weight * dy * x)). `dx` may be `residual`: a thread reads
// what it overwrites before it does.
extern "C" __global__ void __launch_bounds__(MAX_ROW_LANES) rms_norm_backward(
    bf16* dx, int ld_dx,                      // [n_rows, width]
    bf16* __restrict__ normed, int ld_normed, // [n_rows, width], y again, bit-equal to forward's; or null
    const bf16* __restrict__ dy, int ld_dy,   // [n_rows, width]
    const bf16* __restrict__ x, int ld_x,     // [n_rows, width]
    const float* __restrict__ rstd,           // [n_rows]
    const float* __restrict__ weight,         // [width]
    const bf16* residual, int ld_residual,    // [n_rows, width], the gradient that goes past the norm; or null
    int n_rows, int rows_per_token, int width) {
    const Row row(n_rows, rows_per_token, width);
    bf16x8 x8[ROW_VECTORS], dy8[ROW_VECTORS], residual8[ROW_VECTORS] = {};
    row.load(x8, x, ld_x);
    row.load(dy8, dy, ld_dy);
    if (residual) row.load(residual8, residual, ld_residual);
    const float r = row.width > 0 ? rstd[row.index] : 0.0f;

    float along = 0.0f;
#pragma unroll
    for (int i = 0; i < ROW_VECTORS; i++) {
        float v[8], d[8], w[8];
        unpack8(v, x8[i]);
        unpack8(d, dy8[i]);
        load_part(w, weight + row.column(i), row.width - row.column(i));
#pragma unroll
        for (int j = 0; j < 8; j++) along += w[j] * d[j] * v[j];
    }
    along = row.sum(along) / width * r * r;

#pragma unroll
    for (int i = 0; i < ROW_VECTORS; i++) {
        const int column = row.column(i), n = row.width - column;
        if (n <= 0) break;
        float v[8], d[8], w[8], past[8];
        unpack8(v, x8[i]);
        unpack8(d, dy8[i]);
        unpack8(past, residual8[i]);
        load_part(w, weight + column, n); // from L1: kept, it would take 32 registers
#pragma unroll
        for (int j = 0; j < 8; j++) {
            d[j] = past[j] + r * (w[j] * d[j] - v[j] * along);
            v[j] = scaled(v[j], r, w[j]);
        }
        store8_part(row.of(dx, ld_dx) + column, pack8(d), n);
        if (normed) store8_part(row.of(normed, ld_normed) + column, pack8(v), n);
    }
}

// d_weight += sum over rows of dy * x * rstd. 4 bytes a value; columns.cuh has the launch.
extern "C" __global__ void __launch_bounds__(COLUMN_THREADS) rms_norm_backward_weight(
    float* d_weight,                        // [width]
    const bf16* __restrict__ dy, int ld_dy, // [n_rows, width]
    const bf16* __restrict__ x, int ld_x,   // [n_rows, width]
    const float* __restrict__ rstd,         // [n_rows]
    float* partial,                         // [splits, width], scratch
    u32* counter,                           // [ceil(width / 32)], zero
    int n_rows, int rows_per_token, int width) {
    const int stride = ROW_LANES * gridDim.y;
    float sums[8] = {};
    for (int first = row_lane() + blockIdx.y * ROW_LANES; first < n_rows; first += ROW_BATCH * stride) {
        bf16x8 x8[ROW_BATCH], dy8[ROW_BATCH];
        load_rows(x8, x, ld_x, rows_per_token, width, first, stride, n_rows);
        load_rows(dy8, dy, ld_dy, rows_per_token, width, first, stride, n_rows);
#pragma unroll
        for (int b = 0; b < ROW_BATCH; b++) {
            const int row = first + b * stride;
            const float r = row < n_rows ? rstd[row] : 0.0f;
            float v[8], d[8];
            unpack8(v, x8[b]);
            unpack8(d, dy8[b]);
#pragma unroll
            for (int j = 0; j < 8; j++) sums[j] += d[j] * v[j] * r;
        }
    }
    float* const out[] = {d_weight};
    float total[] = {column_total(sums)};
    add_totals(out, total, partial, counter, width);
}
