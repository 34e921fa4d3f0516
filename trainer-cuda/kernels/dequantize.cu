// GGUF element types to bf16: each value is the f32 of src/formats/gguf_blocks.rs, operation for operation (so without
// fused multiply-adds), rounded once.
//
// One thread for eight neighbours, of one block: block = 256, grid = ceil(rows * ceil(cols / 8) / 256). A warp reads
// neighbouring blocks and all of their bytes: 0.56 to 4 bytes a value, and writes 2.
#include "common.cuh"

enum { BLOCK = 256 };

// The numbers of ggml.h, `enum ggml_type`.
enum Type {
    F32 = 0,
    F16 = 1,
    Q4_0 = 2,
    Q4_1 = 3,
    Q5_0 = 6,
    Q5_1 = 7,
    Q8_0 = 8,
    Q4_K = 12,
    Q5_K = 13,
    Q6_K = 14,
    BF16 = 30,
};

// ---------------------------------------------------------------- bytes of a block

__device__ __forceinline__ u32 half_bits(const u8* from) { return *reinterpret_cast<const u16*>(from); }

__device__ __forceinline__ float f16_at(const u8* from) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"((u16)half_bits(from)));
    return x;
}

// Blocks are multiples of two bytes; there are none of whose parts more could be said in general.
__device__ __forceinline__ u32 word_at(const u8* from) { return half_bits(from) | half_bits(from + 2) << 16; }

// Eight bytes.
struct Bytes {
    u32 word[2];

    __device__ __forceinline__ Bytes(const u8* from) : word{word_at(from), word_at(from + 4)} {}

    __device__ __forceinline__ int unsigned_at(int i, int shift, int mask) const {
        return (int)(word[i / 4] >> (8 * (i % 4) + shift)) & mask;
    }
    __device__ __forceinline__ int signed_at(int i) const { return (signed char)(word[i / 4] >> (8 * (i % 4))); }
};

__device__ __forceinline__ float product_minus(float a, float b, float c) { return __fsub_rn(__fmul_rn(a, b), c); }
__device__ __forceinline__ float product_plus(float a, float b, float c) { return __fadd_rn(__fmul_rn(a, b), c); }

// ---------------------------------------------------------------- blocks of 32: the eight values from `at` on

// Nibble i of the block is the low half of byte i, then the high half of byte i - 16.
__device__ __forceinline__ int nibble(const Bytes& bytes, int at, int i) {
    return bytes.unsigned_at(i, at / 16 * 4, 15);
}

// d | 16 x 2 nibbles
__device__ __forceinline__ void q4_0(float (&y)[8], const u8* b, int at) {
    const float d = f16_at(b);
    const Bytes bytes(b + 2 + at % 16);
#pragma unroll
    for (int i = 0; i < 8; i++) y[i] = d * (float)(nibble(bytes, at, i) - 8);
}

// d | m | 16 x 2 nibbles
__device__ __forceinline__ void q4_1(float (&y)[8], const u8* b, int at) {
    const float d = f16_at(b), m = f16_at(b + 2);
    const Bytes bytes(b + 4 + at % 16);
#pragma unroll
    for (int i = 0; i < 8; i++) y[i] = product_plus(d, (float)nibble(bytes, at, i), m);
}

// d | 32 fifth bits | 16 x 2 nibbles
__device__ __forceinline__ void q5_0(float (&y)[8], const u8* b, int at) {
    const float d = f16_at(b);
    const u32 fifth = word_at(b + 2) >> at;
    const Bytes bytes(b + 6 + at % 16);
#pragma unroll
    for (int i = 0; i < 8; i++) y[i] = d * (float)((nibble(bytes, at, i) | (int)(fifth >> i & 1) << 4) - 16);
}

// d | m | 32 fifth bits | 16 x 2 nibbles
__device__ __forceinline__ void q5_1(float (&y)[8], const u8* b, int at) {
    const float d = f16_at(b), m = f16_at(b + 2);
    const u32 fifth = word_at(b + 4) >> at;
    const Bytes bytes(b + 8 + at % 16);
#pragma unroll
    for (int i = 0; i < 8; i++) y[i] = product_plus(d, (float)(nibble(bytes, at, i) | (int)(fifth >> i & 1) << 4), m);
}

// d | 32 x i8
__device__ __forceinline__ void q8_0(float (&y)[8], const u8* b, int at) {
    const float d = f16_at(b);
    const Bytes bytes(b + 2 + at);
#pragma unroll
    for (int i = 0; i < 8; i++) y[i] = (float)bytes.signed_at(i) * d;
}

// ---------------------------------------------------------------- blocks of 256: sub-block j = at / 32

// Scale and minimum of sub-block j, six bits each, packed into 12 bytes (ggml-quants.c, `get_scale_min_k4`).
struct ScaleMin {
    float scale, min;

    __device__ __forceinline__ ScaleMin(const u8* packed, int j) {
        if (j < 4) {
            scale = packed[j] & 63;
            min = packed[j + 4] & 63;
        } else {
            scale = (packed[j + 4] & 15) | (packed[j - 4] >> 2 & 48);
            min = packed[j + 4] >> 4 | (packed[j] >> 2 & 48);
        }
    }
};

// d | dmin | 8 x (scale, min) | 128 x 2 nibbles; 32 bytes hold sub-blocks 2 g (low) and 2 g + 1 (high)
__device__ __forceinline__ void q4_k(float (&y)[8], const u8* b, int at) {
    const int j = at / 32;
    const ScaleMin packed(b + 4, j);
    const float scale = f16_at(b) * packed.scale, min = f16_at(b + 2) * packed.min;
    const Bytes bytes(b + 16 + j / 2 * 32 + at % 32);
#pragma unroll
    for (int i = 0; i < 8; i++) y[i] = product_minus(scale, (float)bytes.unsigned_at(i, 4 * (j % 2), 15), min);
}

// d | dmin | 8 x (scale, min) | 32 x 8 fifth bits | 128 x 2 nibbles; bit j of the fifth bits is that of sub-block j
__device__ __forceinline__ void q5_k(float (&y)[8], const u8* b, int at) {
    const int j = at / 32;
    const ScaleMin packed(b + 4, j);
    const float scale = f16_at(b) * packed.scale, min = f16_at(b + 2) * packed.min;
    const Bytes fifth(b + 16 + at % 32), bytes(b + 48 + j / 2 * 32 + at % 32);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const int q = bytes.unsigned_at(i, 4 * (j % 2), 15) | fifth.unsigned_at(i, j, 1) << 4;
        y[i] = product_minus(scale, (float)q, min);
    }
}

// 128 x 2 nibbles | 64 x 4 bit pairs | 16 x i8 scale | d; a scale serves 16 values. Half h of the block has 64 bytes of
// nibbles, 32 of pairs; sub-block j is row r of its four rows of 32 values.
__device__ __forceinline__ void q6_k(float (&y)[8], const u8* b, int at) {
    const int j = at / 32, h = j / 4, r = j % 4;
    const Bytes low(b + 64 * h + 32 * (r % 2) + at % 32), high(b + 128 + 32 * h + at % 32);
    const float scale = f16_at(b + 208) * (float)(signed char)b[192 + at / 16];
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const int q = low.unsigned_at(i, r / 2 * 4, 15) | high.unsigned_at(i, 2 * r, 3) << 4;
        y[i] = scale * (float)(q - 32);
    }
}

// ---------------------------------------------------------------- the kernel

// Values of their own, of a row of any length: what the load needs is checked.
__device__ __forceinline__ bf16x8 f16s_to_bf16(bf16x8 halves) {
    float y[8];
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const u16 bits = (u16)(halves.pair[i / 2] >> (16 * (i % 2)));
        asm("cvt.f32.f16 %0, %1;" : "=f"(y[i]) : "h"(bits));
    }
    return pack8(y);
}

template <int VALUES, int BYTES>
__device__ __forceinline__ bf16x8 decode(
    void (&octet)(float (&)[8], const u8*, int), const u8* blocks, size_t index /* of the first value */) {
    float y[8];
    octet(y, blocks + index / VALUES * BYTES, (int)(index % VALUES));
    return pack8(y);
}

// to[r, c] = value r * cols + c of the blocks. A NaN becomes the canonical one, but for BF16, whose bits are kept.
extern "C" __global__ void __launch_bounds__(BLOCK) dequantize(
    bf16* __restrict__ to, int ld_to, // [rows, cols]
    const u8* __restrict__ blocks,    // [rows, bytes of a row], whole blocks; 16-byte aligned
    int type, int rows, int cols) {
    const Octet at = octet_of_thread(rows, cols);
    if (at.n <= 0) return;
    const size_t index = (size_t)at.row * cols + at.column;
    const bf16* halves = reinterpret_cast<const bf16*>(blocks) + index;
    bf16x8 y = {};
    switch (type) {
        case F32: {
            float v[8];
            load_part(v, reinterpret_cast<const float*>(blocks) + index, at.n);
            y = pack8(v);
            break;
        }
        case F16: y = f16s_to_bf16(load8_part(halves, at.n)); break;
        case BF16: y = load8_part(halves, at.n); break;
        case Q4_0: y = decode<32, 18>(q4_0, blocks, index); break;
        case Q4_1: y = decode<32, 20>(q4_1, blocks, index); break;
        case Q5_0: y = decode<32, 22>(q5_0, blocks, index); break;
        case Q5_1: y = decode<32, 24>(q5_1, blocks, index); break;
        case Q8_0: y = decode<32, 34>(q8_0, blocks, index); break;
        case Q4_K: y = decode<256, 144>(q4_k, blocks, index); break;
        case Q5_K: y = decode<256, 176>(q5_k, blocks, index); break;
        case Q6_K: y = decode<256, 210>(q6_k, blocks, index); break;
    }
    at.store(to, ld_to, y);
}
