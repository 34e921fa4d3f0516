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

// Eight neighbours as bits, of which the first `n` (any number) are read and the rest are zero; from any address.
__device__ __forceinline__ bf16x8 gather8(const bf16* from, int n) {
    bf16x8 x;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const u32 low = 2 * i < n ? from[2 * i].bits : 0, high = 2 * i + 1 < n ? from[2 * i + 1].bits : 0;
        x.pair[i] = low | high << 16;
    }
    return x;
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

// The same for what may start anywhere and be empty (`n` 0 or less): heads whose width is no multiple of eight, rows
// past the last. Bits stay as they are. The rare path is a loop, as unrolled it would be most of the code of a kernel
// that holds a row.
__device__ __forceinline__ bool is_aligned16(const void* p) { return ((u64)p & 15) == 0; }

__device__ __forceinline__ bf16x8 load8_part(const bf16* from, int n) {
    if (n >= 8 && is_aligned16(from)) return load8(from);
    bf16x8 x = {};
#pragma unroll 1
    for (int i = min(n, 8) - 1; i >= 0; i--) { // the last first: each pushes the others up
        for (int p = 3; p > 0; p--) x.pair[p] = __funnelshift_l(x.pair[p - 1], x.pair[p], 16);
        x.pair[0] = x.pair[0] << 16 | from[i].bits;
    }
    return x;
}

__device__ __forceinline__ void store8_part(bf16* to, bf16x8 x, int n) {
    if (n >= 8 && is_aligned16(to)) {
        store8(to, x);
        return;
    }
#pragma unroll 1
    for (int i = 0; i < min(n, 8); i++) {
        to[i].bits = (u16)x.pair[0];
        for (int p = 0; p < 3; p++) x.pair[p] = __funnelshift_r(x.pair[p], x.pair[p + 1], 16);
        x.pair[3] >>= 16;
    }
}

// The first `n` of eight neighbours as numbers; the others are zero. Of f32 too, below.
__device__ __forceinline__ void load_part(float (&values)[8], const bf16* from, int n) {
    unpack8(values, load8_part(from, n));
}

// Four f32 neighbours: the widest load there is.
struct __align__(16) f32x4 {
    float value[4];
};

__device__ __forceinline__ f32x4 load4(const float* from) { return *reinterpret_cast<const f32x4*>(from); }
__device__ __forceinline__ void store4(float* to, f32x4 x) { *reinterpret_cast<f32x4*>(to) = x; }

__device__ __forceinline__ void load_part(float (&values)[8], const float* from, int n) {
    if (n >= 8 && is_aligned16(from)) {
        const f32x4 low = load4(from), high = load4(from + 4);
#pragma unroll
        for (int i = 0; i < 8; i++) values[i] = i < 4 ? low.value[i] : high.value[i - 4];
        return;
    }
#pragma unroll
    for (int i = 0; i < 8; i++) values[i] = i < n ? from[i] : 0.0f;
}

// Where row `row` begins in a matrix whose tokens have `rows_per_token` rows of `width` one behind the other: heads.
__device__ __forceinline__ size_t row_start(int row, int rows_per_token, int ld, int width) {
    return (size_t)(row / rows_per_token) * ld + row % rows_per_token * width;
}

// ---------------------------------------------------------------- one thread, eight neighbours

// What a thread has of a matrix [n_rows, width] in kernels without sums: grid = ceil(n_rows * ceil(width / 8) / block),
// so that no thread idles whatever the width. One 16-byte load a thread and input keeps 32 KB of each input in flight
// on an SM of 2,048 threads; 3 TB/s take 16 KB.
struct Octet {
    int row, column; // of the first
    int n;           // how many of the eight are there; 0 or less: none, and nothing is loaded or stored

    // Loads stay packed: unpacked where it arrives, a value would be waited for before the next load is sent.
    __device__ __forceinline__ bf16x8 load(const bf16* matrix, int ld) const {
        return load8_part(matrix + (size_t)row * ld + column, n);
    }
    __device__ __forceinline__ void store(bf16* matrix, int ld, bf16x8 x) const {
        store8_part(matrix + (size_t)row * ld + column, x, n);
    }
};

__device__ __forceinline__ Octet octet_of_thread(int n_rows, int width) {
    // u32: 2^32 octets would be 64 GB.
    const u32 octets = (u32)(width + 7) / 8, i = blockIdx.x * blockDim.x + threadIdx.x;
    const int row = i / octets, column = 8 * (i % octets);
    return {row, column, row < n_rows ? width - column : 0};
}

#define LOG2_E 1.44269504088896340736f
#define LN_2 0.69314718055994530942f

// 2^x by the device's own instruction: relative error 2^-22, and 0 where the result would be subnormal.
__device__ __forceinline__ float exp2_approximate(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// e^x: relative error 2^-22 + |x| 2^-24.
__device__ __forceinline__ float exp_approximate(float x) { return exp2_approximate(1.44269504f * x); }

// The first of `n` ascending values that is not below `x`; `n` where there is none.
__device__ __forceinline__ int first_not_below(const u32* values, int n, u32 x) {
    int low = 0;
    while (low < n) {
        const int middle = (low + n) / 2;
        if (values[middle] < x)
            low = middle + 1;
        else
            n = middle;
    }
    return low;
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

// Over the four lanes that share a row of accumulators (multiply_add).
__device__ __forceinline__ float quad_sum(float x) {
    x += __shfl_xor_sync(ALL_LANES, x, 1);
    return x + __shfl_xor_sync(ALL_LANES, x, 2);
}

__device__ __forceinline__ float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 1));
    return fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 2));
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

// Four bytes to shared memory: read, or zero.
__device__ __forceinline__ void copy4(void* to /* shared */, const void* from /* global */, bool read) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to)), "l"(from), "r"(read ? 4 : 0)
                 : "memory");
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

// Operands of multiply_add from a tile in shared memory whose rows lie `stride` values apart. Lane l names row l % 8 of
// matrix l / 8; eight rows fall into different banks where stride / 8 is odd.

// a [16, 16]: a row of the tile is a row of a.
__device__ __forceinline__ void load_a(u32 (&a)[4], const bf16* tile, int stride) {
    const int lane = threadIdx.x % WARP;
    load_matrices(a, tile + lane % 16 * stride + lane / 16 * 8);
}

// a [16, 16]: a row of the tile is a column of a.
__device__ __forceinline__ void load_a_transposed(u32 (&a)[4], const bf16* tile, int stride) {
    const int lane = threadIdx.x % WARP;
    load_matrices_transposed(a, tile + (lane / 16 * 8 + lane % 8) * stride + lane / 8 % 2 * 8);
}

// b [16, 16], the right operands of two products (b[0], b[1] and b[2], b[3]): a row of the tile is a column of b.
__device__ __forceinline__ void load_b(u32 (&b)[4], const bf16* tile, int stride) {
    const int lane = threadIdx.x % WARP;
    load_matrices(b, tile + (lane / 16 * 8 + lane % 8) * stride + lane / 8 % 2 * 8);
}

// b [16, 16], the right operands of two products: a row of the tile is a row of b.
__device__ __forceinline__ void load_b_transposed(u32 (&b)[4], const bf16* tile, int stride) {
    const int lane = threadIdx.x % WARP;
    load_matrices_transposed(b, tile + lane % 16 * stride + lane / 16 * 8);
}
