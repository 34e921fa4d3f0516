// LayerNorm (Ba et al. 2016, eq. 4): y = z * weight + bias, z = (x - mean) * rstd, rstd = 1 / sqrt(mean((x - mean)^2) +
// eps).
//
// As rms_norm.cu: a row in registers (row.cuh has the launch), 4 bytes a value forward, 8 backward, 10 with `normed`.
#include "columns.cuh"
#include "row.cuh"

__device__ __forceinline__ float normalised(float x, float mean, float rstd) { return (x - mean) * rstd; }

// One expression for both passes: `normed` is bit-equal to y.
__device__ __forceinline__ float affine(float z, float weight, float bias) { return fmaf(z, weight, bias); }

// y = z * weight + bias; keeps mean and rstd for the backward pass.
extern "C" __global__ void __launch_bounds__(MAX_ROW_LANES) layer_norm_forward(
    bf16* __restrict__ y, int ld_y,       // [n_rows, width]
    float* __restrict__ mean,             // [n_rows]
    float* __restrict__ rstd,             // [n_rows]
    const bf16* __restrict__ x, int ld_x, // [n_rows, width]
    const float* __restrict__ weight,     // [width]
    const float* __restrict__ bias,       // [width]
    int n_rows, int width, float eps) {
    const Row row(n_rows, 1, width);
    bf16x8 x8[ROW_VECTORS];
    row.load(x8, x, ld_x);

    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < ROW_VECTORS; i++) {
        float v[8];
        unpack8(v, x8[i]);
#pragma unroll
        for (int j = 0; j < 8; j++) sum += v[j];
    }
    const float m = row.sum(sum) / width;

    // Of centred values: E(x^2) - E(x)^2 would lose all digits where the mean is large.
    float squares = 0.0f;
#pragma unroll
    for (int i = 0; i < ROW_VECTORS; i++) {
        float v[8];
        unpack8(v, x8[i]);
#pragma unroll
        for (int j = 0; j < 8; j++)
            if (row.column(i) + j < row.width) squares += (v[j] - m) * (v[j] - m);
    }
    const float r = rsqrtf(row.sum(squares) / width + eps);

#pragma unroll
    for (int i = 0; i < ROW_VECTORS; i++) {
        const int column = row.column(i), n = row.width - column;
        if (n <= 0) break;
        float v[8], w[8], b[8];
        unpack8(v, x8[i]);
        load_part(w, weight + column, n);
        load_part(b, bias + column, n);
#pragma unroll
        for (int j = 0; j < 8; j++) v[j] = affine(normalised(v[j], m, r), w[j], b[j]);
        store8_part(row.of(y, ld_y) + column, pack8(v), n);
    }
    if (row.is_first_lane()) {
        mean[row.index] = m;
        rstd[row.index] = r;
    }
}

// dx = rstd * (g - mean(g) - z * mean(g * z)), g = weight * dy.
extern "C" __global__ void __launch_bounds__(MAX_ROW_LANES) layer_norm_backward(
    bf16* __restrict__ dx, int ld_dx,         // [n_rows, width]
    bf16* __restrict__ normed, int ld_normed, // [n_rows, width], y again, bit-equal to forward's; or null
    const bf16* __restrict__ dy, int ld_dy,   // [n_rows, width]
    const bf16* __restrict__ x, int ld_x,     // [n_rows, width]
    const float* __restrict__ mean,           // [n_rows]
    const float* __restrict__ rstd,           // [n_rows]
    const float* __restrict__ weight,         // [width]
    const float* __restrict__ bias,           // [width], read for `normed` only
    int n_rows, int width) {
    const Row row(n_rows, 1, width);
    bf16x8 x8[ROW_VECTORS], dy8[ROW_VECTORS];
    row.load(x8, x, ld_x);
    row.load(dy8, dy, ld_dy);
    const float m = row.width > 0 ? mean[row.index] : 0.0f, r = row.width > 0 ? rstd[row.index] : 0.0f;

    float sum = 0.0f, along = 0.0f;
#pragma unroll
    for (int i = 0; i < ROW_VECTORS; i++) {
        float v[8], d[8], w[8];
        unpack8(v, x8[i]);
        unpack8(d, dy8[i]);
        load_part(w, weight + row.column(i), row.width - row.column(i));
#pragma unroll
        for (int j = 0; j < 8; j++) {
            const float g = w[j] * d[j];
            sum += g;
            along += g * normalised(v[j], m, r);
        }
    }
    sum = row.sum(sum) / width;
    along = row.sum(along) / width;

#pragma unroll
    for (int i = 0; i < ROW_VECTORS; i++) {
        const int column = row.column(i), n = row.width - column;
        if (n <= 0) break;
        float v[8], d[8], w[8];
        unpack8(v, x8[i]);
        unpack8(d, dy8[i]);
        load_part(w, weight + column, n); // from L1: kept, it would take 32 registers
#pragma unroll
        for (int j = 0; j < 8; j++) {
            v[j] = normalised(v[j], m, r);
            d[j] = r * (w[j] * d[j] - sum - v[j] * along);
        }
        store8_part(row.of(dx, ld_dx) + column, pack8(d), n);
        if (normed) {
            float b[8];
            load_part(b, bias + column, n);
#pragma unroll
            for (int j = 0; j < 8; j++) v[j] = affine(v[j], w[j], b[j]);
            store8_part(row.of(normed, ld_normed) + column, pack8(v), n);
        }
    }
}

// d_weight += sum over rows of dy * z, d_bias += sum of dy. 4 bytes a value; columns.cuh has the launch.
extern "C" __global__ void __launch_bounds__(COLUMN_THREADS) layer_norm_backward_weight(
    float* d_weight,                        // [width]
    float* d_bias,                          // [width]
    const bf16* __restrict__ dy, int ld_dy, // [n_rows, width]
    const bf16* __restrict__ x, int ld_x,   // [n_rows, width]
    const float* __restrict__ mean,         // [n_rows]
    const float* __restrict__ rstd,         // [n_rows]
    float* partial,                         // [splits, 2, width], scratch
    u32* counter,                           // [ceil(width / 32)], zero
    int n_rows, int width) {
    const int stride = ROW_LANES * gridDim.y;
    float weight_sums[8] = {}, bias_sums[8] = {};
    for (int first = row_lane() + blockIdx.y * ROW_LANES; first < n_rows; first += ROW_BATCH * stride) {
        bf16x8 x8[ROW_BATCH], dy8[ROW_BATCH];
        load_rows(x8, x, ld_x, 1, width, first, stride, n_rows);
        load_rows(dy8, dy, ld_dy, 1, width, first, stride, n_rows);
#pragma unroll
        for (int b = 0; b < ROW_BATCH; b++) {
            const int row = first + b * stride;
            const float m = row < n_rows ? mean[row] : 0.0f, r = row < n_rows ? rstd[row] : 0.0f;
            float v[8], d[8];
            unpack8(v, x8[b]);
            unpack8(d, dy8[b]);
#pragma unroll
            for (int j = 0; j < 8; j++) {
                weight_sums[j] += d[j] * normalised(v[j], m, r);
                bias_sums[j] += d[j];
            }
        }
    }
    float* const out[] = {d_weight, d_bias};
    float total[] = {column_total(weight_sums), column_total(bias_sums)};
    add_totals(out, total, partial, counter, width);
}
