// GELU (Hendrycks & Gimpel 2016), exact: y = x Phi(x), Phi(x) = (1 + erf(x / sqrt(2))) / 2.
//
// One thread for eight neighbours: block = 256, grid = ceil(n_tokens * ceil(width / 8) / 256). Bytes per value (bf16):
// 4 forward, 6 backward, 8 with `y`; some 26 and 36 FLOPs.
#include "common.cuh"

enum { BLOCK = 256 };

// Phi(-|x|) as e^(-t Q(t)) / 2, t = |x|: the fit of src/cpu/gelu.rs, 6e-9 of Phi and 1.6e-4 relative at 5.5; further
// out, where Phi is below 2e-8, Q stays as it is there. Without the branches of erff, and with all digits where 1 + erf
// has lost them.
__device__ __forceinline__ float tail(float x) {
    const float t = fabsf(x), near = fminf(5.5f, t);
    float q = -2.0204085e-7f;
    q = fmaf(q, near, 4.4374375e-6f);
    q = fmaf(q, near, -3.9429484e-5f);
    q = fmaf(q, near, 1.599016e-4f);
    q = fmaf(q, near, 5.1141295e-5f);
    q = fmaf(q, near, -4.861218e-3f);
    q = fmaf(q, near, 3.6372926e-2f);
    q = fmaf(q, near, 3.183017e-1f);
    q = fmaf(q, near, 7.978852e-1f);
    return 0.5f * exp_approximate(-t * q);
}

// x (1 - Phi(-x)) where x > 0, x Phi(x) elsewhere; one expression for both passes.
__device__ __forceinline__ float gelu(float x, float tail) { return fmaf(-fabsf(x), tail, fmaxf(x, 0.0f)); }

// y = x Phi(x).
extern "C" __global__ void __launch_bounds__(BLOCK) gelu_forward(
    bf16* __restrict__ y, int ld_y,       // [n_tokens, width]
    const bf16* __restrict__ x, int ld_x, // [n_tokens, width]
    int n_tokens, int width) {
    const Octet at = octet_of_thread(n_tokens, width);
    float v[8];
    unpack8(v, at.load(x, ld_x));
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = gelu(v[i], tail(v[i]));
    at.store(y, ld_y, pack8(v));
}

// dx = dy * (Phi(x) + x phi(x)), phi(x) = e^(-x^2 / 2) / sqrt(2 pi).
extern "C" __global__ void __launch_bounds__(BLOCK) gelu_backward(
    bf16* __restrict__ dx, int ld_dx,       // [n_tokens, width]
    bf16* __restrict__ y, int ld_y,         // [n_tokens, width], forward's y again, bit-equal
    const bf16* __restrict__ dy, int ld_dy, // [n_tokens, width]
    const bf16* __restrict__ x, int ld_x,   // [n_tokens, width]
    int n_tokens, int width) {
    const Octet at = octet_of_thread(n_tokens, width);
    const bf16x8 xs = at.load(x, ld_x), dys = at.load(dy, ld_dy);
    float v[8], d[8];
    unpack8(v, xs);
    unpack8(d, dys);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const float rest = tail(v[i]), normal = v[i] > 0.0f ? 1.0f - rest : rest;
        const float density = 0.3989423f * exp_approximate(-0.5f * v[i] * v[i]);
        d[i] *= normal + v[i] * density;
        v[i] = gelu(v[i], rest);
    }
    at.store(dx, ld_dx, pack8(d));
    at.store(y, ld_y, pack8(v));
}
