// SwiGLU (Shazeer 2020): y = silu(gate) * up, silu(g) = g / (1 + e^-g).
//
// One thread for eight neighbours: block = 256, grid = ceil(n_tokens * ceil(width / 8) / 256). Bytes per value (bf16):
// 6 forward, 10 backward, 12 with `y`; some 6 and 14 FLOPs.
#include "common.cuh"

enum { BLOCK = 256 };

__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.0f, 1.0f + exp_approximate(-x)); }

// One expression for both passes: the `y` of backward is bit-equal to that of forward.
__device__ __forceinline__ float product(float gate, float up, float sigmoid) { return gate * sigmoid * up; }

// y = silu(gate) * up.
extern "C" __global__ void __launch_bounds__(BLOCK) swiglu_forward(
    bf16* __restrict__ y, int ld_y,             // [n_tokens, width]
    const bf16* __restrict__ gate, int ld_gate, // [n_tokens, width]
    const bf16* __restrict__ up, int ld_up,     // [n_tokens, width]
    int n_tokens, int width) {
    const Octet at = octet_of_thread(n_tokens, width);
    const bf16x8 gates = at.load(gate, ld_gate), ups = at.load(up, ld_up);
    float g[8], u[8];
    unpack8(g, gates);
    unpack8(u, ups);
#pragma unroll
    for (int i = 0; i < 8; i++) u[i] = product(g[i], u[i], sigmoid(g[i]));
    at.store(y, ld_y, pack8(u));
}

// d_up = dy * silu(gate), d_gate = dy * up * silu'(gate), silu'(g) = s * (1 + g * (1 - s)) with s the sigmoid of g.
extern "C" __global__ void __launch_bounds__(BLOCK) swiglu_backward(
    bf16* __restrict__ d_gate, int ld_d_gate,   // [n_tokens, width]
    bf16* __restrict__ d_up, int ld_d_up,       // [n_tokens, width]
    bf16* __restrict__ y, int ld_y,             // [n_tokens, width], the product again
    const bf16* __restrict__ dy, int ld_dy,     // [n_tokens, width]
    const bf16* __restrict__ gate, int ld_gate, // [n_tokens, width]
    const bf16* __restrict__ up, int ld_up,     // [n_tokens, width]
    int n_tokens, int width) {
    const Octet at = octet_of_thread(n_tokens, width);
    const bf16x8 gates = at.load(gate, ld_gate), ups = at.load(up, ld_up), dys = at.load(dy, ld_dy);
    float g[8], u[8], d[8], p[8];
    unpack8(g, gates);
    unpack8(u, ups);
    unpack8(d, dys);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const float s = sigmoid(g[i]);
        p[i] = product(g[i], u[i], s);
        const float slope = s * (1.0f + g[i] * (1.0f - s));
        u[i] *= d[i] * slope;
        d[i] *= g[i] * s;
    }
    at.store(d_gate, ld_d_gate, pack8(u));
    at.store(d_up, ld_d_up, pack8(d));
    at.store(y, ld_y, pack8(p));
}
