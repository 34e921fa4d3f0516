// What every kernel builds on: bf16, vectors of eight values, warp and block sums, asynchronous copies, tensor cores.
//
// No CUDA header is included: NVRTC compiles these files with nothing but this folder at hand.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

// Macros and an enum: NVRTC would emit constants as global variables of every module.
enum { WARP = 32 };
#define ALL_LANES 0xffffffffu
#define NEGATIVE_INFINITY __int_as_float(0xff800000)

// ---------------------------------------------------------------- bf16

// A bf16 value as its bits.
struct __align__(2) bf16 {
    u16 bits;
};

__device__ __forceinline__ float to_f32(bf16 x) { return __uint_as_float((u32)x.bits << 16); }

// Rounds to the nearest, ties to even, as torch does.
__device__ __forceinline__ bf16 to_bf16(float x) {
    bf16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}

// Two values in a register, the first in the low half: what tensor cores read.
__device__ __forceinline__ u32 pack2(float low, float high) {
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

__device__ __forceinline__ float low_of(u32 pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high_of(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }

// Eight neighbours: the widest load there is. Rows of activations start on a multiple of eight values.
struct __align__(16) bf16x8 {
    u32 pair[4];
};

__device__ __forceinline__ bf16x8 load8(const bf16* from) { return *reinterpret_cast<const bf16x8*>(from); }
__device__ __forceinline__ void store8(bf16* to, bf16x8 x) { *reinterpret_cast<bf16x8*>(to) = x; }

__device__ __forceinline__ void unpack8(float (&values)[8], bf16x8 x) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        values[2 * i] = low_of(x.pair[i]);
        values[2 * i + 1] = high_of(x.pair[i]);
    }
}

__device__ __forceinline__ bf16x8 pack8(const float (&values)[8]) {
    bf16x8 x;
#pragma unroll
    for (int i = 0; i < 4; i++) x.pair[i] = pack2(values[2 * i], values[2 * i + 1]);
    return x;
}

// The first `n` (1 to 8) of eight neighbours; the others are zero. What lies behind them is not read.
__device__ __forceinline__ void load_part(float (&values)[8], const bf16* from, int n) {
    if (n >= 8) {
        unpack8(values, load8(from));
        return;
    }
#pragma unroll
    for (int i = 0; i < 8; i++) values[i] = i < n ? to_f32(from[i]) : 0.0f;
}

// Writes the first `n` (1 to 8) of eight values.
__device__ __forceinline__ void store_part(bf16* to, const float (&values)[8], int n) {
    if (n >= 8) {
        store8(to, pack8(values));
        return;
    }
#pragma unroll
    for (int i = 0; i < 8; i++)
        if (i < n) to[i] = to_bf16(values[i]);
}

// ---------------------------------------------------------------- sums

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int offset = WARP / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(ALL_LANES, x, offset);
    return x;
}

__device__ __forceinline__ double warp_sum(double x) {
#pragma unroll
    for (int offset = WARP / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(ALL_LANES, x, offset);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int offset = WARP / 2; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, offset));
    return x;
}

// The sum over all threads of a block, in every thread. `partial` has a place for each warp and may be used again after
// the call; all threads must call it, and blockDim.x is a multiple of 32.
template <typename T>
__device__ __forceinline__ T block_sum(T x, T* partial /* [warps], shared */) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    x = warp_sum(x);
    if (lane == 0) partial[warp] = x;
    __syncthreads();
    // Every warp adds up the same numbers in the same order.
    x = warp_sum(lane < warps ? partial[lane] : T(0));
    __syncthreads();
    return x;
}

// True in every thread of the block that finishes last of `n_blocks` which count on `counter`; it then sees what all of
// them wrote before. The counter is 0 again afterwards.
__device__ __forceinline__ bool is_last_block(u32* counter, u32 n_blocks) {
    __shared__ bool last;
    __threadfence();
    __syncthreads();
    // Wraps to 0 at the last: ready for the next launch, with nothing to reset between replays of a graph.
    if (threadIdx.x == 0) last = atomicInc(counter, n_blocks - 1) == n_blocks - 1;
    __syncthreads();
    __threadfence();
    return last;
}

// ---------------------------------------------------------------- asynchronous copies and tensor cores (sm_80)

__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

// Sixteen bytes to shared memory, of which the first `bytes` are read and the rest become zero.
__device__ __forceinline__ void copy16(void* to /* shared */, const void* from /* global */, int bytes = 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes) : "memory");
}

__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most `PENDING` of the last groups are not there yet.
template <int PENDING>
__device__ __forceinline__ void copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// Four 8x8 matrices of bf16; lane l gives the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ void load_matrices(u32 (&r)[4], const bf16* row /* shared */) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// The same, each matrix transposed.
__device__ __forceinline__ void load_matrices_transposed(u32 (&r)[4], const bf16* row /* shared */) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// d += a b, a [16, 16] row-major, b [16, 8] column-major, sums in f32 (PTX ISA, mma.m16n8k16). With group = lane / 4 and
// pair = lane % 4:  a: rows group and group + 8, columns 2 pair (+ 8);  b: rows 2 pair (+ 8), column group;
// d: rows group (d[0], d[1]) and group + 8 (d[2], d[3]), columns 2 pair and 2 pair + 1.
__device__ __forceinline__ void multiply_add(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
