// The gradient of a bias: the sum over tokens.
//
// 2 bytes and 1 FLOP a value; columns.cuh has the launch.
#include "columns.cuh"

// out += sum over rows of x.
extern "C" __global__ void __launch_bounds__(COLUMN_THREADS) column_sum(
    float* out,                           // [width]
    const bf16* __restrict__ x, int ld_x, // [n_rows, width]
    float* partial,                       // [splits, width], scratch
    u32* counter,                         // [ceil(width / 32)], zero
    int n_rows, int width) {
    const int stride = ROW_LANES * gridDim.y;
    float sums[8] = {};
    for (int first = row_lane() + blockIdx.y * ROW_LANES; first < n_rows; first += ROW_BATCH * stride)
        add_rows(sums, x, ld_x, width, first, stride, n_rows);
    float* const outs[] = {out};
    float total[] = {column_total(sums)};
    add_totals(outs, total, partial, counter, width);
}
