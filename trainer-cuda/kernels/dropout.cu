// Dropout (Srivastava et al. 2014, inverted) whose mask is computed again rather than stored: that of `Dropout` in
// src/device.rs, to the bit.
//
// One thread for eight neighbours: block = 256, grid = ceil(n_tokens * ceil(width / 8) / 256). 4 bytes a value forward,
// 6 backward; some 12 integer operations a value, a third of what an SM does in the time that the bytes take.
#include "common.cuh"

enum { BLOCK = 256 };

// The finaliser of SplitMix64 (Steele et al. 2014).
__device__ __forceinline__ u64 mix(u64 z) {
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

// Factors of the activations `index` to `index + 7`, 0 or 1 / (1 - probability). Activations 2 i and 2 i + 1 share a
// hash, and a row of an odd width may start on the second of a pair: five hashes hold them.
__device__ __forceinline__ void factors(
    float (&factor)[8], const u32* seed /* low, high */, float probability, u64 index) {
    const u64 key = mix((u64)seed[1] << 32 | seed[0]);
    const u32 threshold = (u32)(probability * 4294967296.0f); // exact but for the fraction: a power of two
    const float scale = 1.0f / (1.0f - probability);
    u32 halves[10];
#pragma unroll
    for (int i = 0; i < 5; i++) {
        const u64 bits = mix(key + (index / 2 + i) * 0x9e3779b97f4a7c15);
        halves[2 * i] = (u32)bits;
        halves[2 * i + 1] = (u32)(bits >> 32);
    }
#pragma unroll
    for (int i = 0; i < 8; i++) factor[i] = (index % 2 ? halves[i + 1] : halves[i]) < threshold ? 0.0f : scale;
}

// y = x / (1 - probability) where the activation is kept, else 0.
extern "C" __global__ void __launch_bounds__(BLOCK) dropout_forward(
    bf16* __restrict__ y, int ld_y,       // [n_tokens, width]
    const bf16* __restrict__ x, int ld_x, // [n_tokens, width]
    const u32* __restrict__ seeds,        // [n_modules, 2], low and high half
    int module, float probability, int n_tokens, int width) {
    const Octet at = octet_of_thread(n_tokens, width);
    const bf16x8 xs = at.load(x, ld_x);
    float v[8], factor[8];
    factors(factor, seeds + 2 * module, probability, (u64)at.row * width + at.column);
    unpack8(v, xs);
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] *= factor[i];
    at.store(y, ld_y, pack8(v));
}

// dx += dy / (1 - probability) where the activation was kept.
extern "C" __global__ void __launch_bounds__(BLOCK) dropout_backward(
    bf16* __restrict__ dx, int ld_dx,       // [n_tokens, width]
    const bf16* __restrict__ dy, int ld_dy, // [n_tokens, width]
    const u32* __restrict__ seeds,          // [n_modules, 2], low and high half
    int module, float probability, int n_tokens, int width) {
    const Octet at = octet_of_thread(n_tokens, width);
    const bf16x8 dxs = at.load(dx, ld_dx), dys = at.load(dy, ld_dy);
    float sum[8], d[8], factor[8];
    factors(factor, seeds + 2 * module, probability, (u64)at.row * width + at.column);
    unpack8(sum, dxs);
    unpack8(d, dys);
#pragma unroll
    for (int i = 0; i < 8; i++) sum[i] += d[i] * factor[i];
    at.store(dx, ld_dx, pack8(sum));
}
