// SwiGLU (Shazeer 2020): y = silu(gate) * up, silu(g) = g / (1 + e^-g).
//
// One thread for eight neighbours; grid.y strides over tokens. Bytes per value: 6 forward, 12 backward (bf16).
#include "common.cuh"

// y = silu(gate) * up.
extern "C" __global__ void swiglu_forward(
    bf16* __restrict__ y, int ld_y,             // [n_tokens, width]
    const bf16* __restrict__ gate, int ld_gate, // [n_tokens, width]
    const bf16* __restrict__ up, int ld_up,     // [n_tokens, width]
    int n_tokens, int width) {
    const int column = (blockIdx.x * blockDim.x + threadIdx.x) * 8, token = blockIdx.y;
    if (column >= width || token >= n_tokens) return;
    const int n = width - column;
    float g[8], u[8];
    load_part(g, gate + (size_t)token * ld_gate + column, n);
    load_part(u, up + (size_t)token * ld_up + column, n);
#pragma unroll
    for (int i = 0; i < 8; i++) u[i] *= __fdividef(g[i], 1.0f + __expf(-g[i]));
    store_part(y + (size_t)token * ld_y + column, u, n);
}
