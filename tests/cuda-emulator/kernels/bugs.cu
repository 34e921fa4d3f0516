// Kernels that are wrong, each in one way that a check must name.
#include "bf16.cuh"

extern "C" __global__ void writes_one_too_many(float* x /* [n] */, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i <= n) x[i] = 1.0f;
}

extern "C" __global__ void reads_before_its_buffer(float* y, const float* x) {
    y[threadIdx.x] = x[(int)threadIdx.x - 1];
}

extern "C" __global__ void overruns_shared(float* x /* [64] */) {
    __shared__ float tile[64];
    __shared__ float other[64];
    tile[threadIdx.x + 1] = 1.0f;
    other[threadIdx.x] = 2.0f;
    __syncthreads();
    x[threadIdx.x] = tile[threadIdx.x] + other[threadIdx.x];
}

extern "C" __global__ void overruns_dynamic_shared(float* x) {
    extern __shared__ float buffer[];  // [blockDim.x]
    buffer[threadIdx.x + 1] = x[threadIdx.x];
}

extern "C" __global__ void overruns_local(float* x, int n) {
    float values[4];
    for (int i = 0; i < n; i++) values[i] = i;
    x[threadIdx.x] = values[threadIdx.x % 4];
}

extern "C" __global__ void is_misaligned(float4* x) { *(float4*)((float*)x + 1) = make_float4(1.0f, 2.0f, 3.0f, 4.0f); }

extern "C" __global__ void reads_null(float* y, const float* x) { y[0] = x[threadIdx.x]; }

// ---- races

extern "C" __global__ void lacks_a_barrier(float* x /* [256] */) {
    __shared__ float tile[256];
    tile[threadIdx.x] = x[threadIdx.x];
    x[threadIdx.x] = tile[(threadIdx.x + 32) % 256];
}

// The barrier behind the reads of a round is missing: the next round overwrites what a slower warp still reads.
extern "C" __global__ void lacks_the_second_barrier(float* x /* [256] */) {
    __shared__ float tile[256];
    float sum = 0.0f;
    for (int round = 0; round < 3; round++) {
        tile[threadIdx.x] = x[threadIdx.x] + round;
        __syncthreads();
        sum += tile[255 - threadIdx.x];
    }
    x[threadIdx.x] = sum;
}

extern "C" __global__ void lacks_syncwarp(float* x /* [32] */) {
    __shared__ float tile[32];
    tile[threadIdx.x] = x[threadIdx.x];
    x[threadIdx.x] = tile[31 - threadIdx.x];
}

// A shuffle exchanges registers, it orders no memory.
extern "C" __global__ void takes_a_shuffle_for_syncwarp(float* x /* [32] */) {
    __shared__ float tile[32];
    tile[threadIdx.x] = __shfl_xor_sync(0xffffffffu, x[threadIdx.x], 1);
    const float y = __shfl_xor_sync(0xffffffffu, x[threadIdx.x], 2);
    x[threadIdx.x] = tile[31 - threadIdx.x] + y;
}

extern "C" __global__ void adds_without_atomics(float* x) { *x += 1.0f; }

extern "C" __global__ void blocks_share_a_sum(float* x) {
    if (threadIdx.x == 0) *x += 1.0f;
}

extern "C" __global__ void lanes_write_different_values(int* x) { *x = threadIdx.x; }

// All lanes of a warp write the same: which of them does it last makes no difference, and it is no race.
extern "C" __global__ void lanes_write_one_value(int* x) { *x = 7; }

// The sum by the last block, with what makes it right as switches.
template <bool RELEASES, bool COUNTS, bool ACQUIRES>
__device__ __forceinline__ void last_block(float* sum, float* partial, unsigned* counter) {
    __shared__ bool is_last;
    if (threadIdx.x == 0) {
        partial[blockIdx.x] = blockIdx.x;
        if (RELEASES) __threadfence();
        is_last = COUNTS ? atomicAdd(counter, 1u) == gridDim.x - 1 : blockIdx.x == gridDim.x - 1;
    }
    __syncthreads();
    if (!is_last) return;
    if (ACQUIRES) __threadfence();
    float total = 0.0f;
    for (int block = threadIdx.x; block < gridDim.x; block += blockDim.x) total += partial[block];
    atomicAdd(sum, total);
}

extern "C" __global__ void last_block_is_right(float* sum, float* partial, unsigned* counter) {
    last_block<true, true, true>(sum, partial, counter);
}
extern "C" __global__ void last_block_does_not_release(float* sum, float* partial, unsigned* counter) {
    last_block<false, true, true>(sum, partial, counter);
}
extern "C" __global__ void last_block_does_not_count(float* sum, float* partial, unsigned* counter) {
    last_block<true, false, true>(sum, partial, counter);
}
extern "C" __global__ void last_block_does_not_acquire(float* sum, float* partial, unsigned* counter) {
    last_block<true, true, false>(sum, partial, counter);
}

// ---- cp.async

template <bool WAITS, bool SYNCHRONISES>
__device__ __forceinline__ void copy(float4* y, const float4* x) {
    __shared__ float4 tile[64];
    const unsigned to = shared_address(&tile[threadIdx.x]);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(x + threadIdx.x) : "memory");
    asm volatile("cp.async.commit_group;" ::: "memory");
    if (WAITS) asm volatile("cp.async.wait_group 0;" ::: "memory");
    if (SYNCHRONISES) __syncthreads();
    y[threadIdx.x] = tile[63 - threadIdx.x];
}

extern "C" __global__ void copies_rightly(float4* y, const float4* x) { copy<true, true>(y, x); }
extern "C" __global__ void does_not_wait_for_a_copy(float4* y, const float4* x) { copy<false, true>(y, x); }
extern "C" __global__ void waits_but_lacks_a_barrier(float4* y, const float4* x) { copy<true, false>(y, x); }

// ---- values that are not there

extern "C" __global__ void reads_unset_shared(float* x /* [64] */) {
    __shared__ float tile[64];
    if (threadIdx.x < 60) tile[threadIdx.x] = 1.0f;
    __syncthreads();
    x[threadIdx.x] = tile[threadIdx.x];
}

// ---- barriers and warps

extern "C" __global__ void parts_at_a_barrier(float* x /* [64] */) {
    if (threadIdx.x < 32) {
        x[threadIdx.x] = 1.0f;
        __syncthreads();
    } else {
        x[threadIdx.x] = 2.0f;
        __syncthreads();
    }
}

extern "C" __global__ void does_not_come_to_the_barrier(int* x) {
    if (threadIdx.x < 32)
        __syncthreads();
    else
        asm volatile("bar.sync 1, 96;" ::: "memory");
    x[threadIdx.x] = 1;
}

extern "C" __global__ void shuffles_with_lanes_that_left(float* x /* [32] */) {
    if (threadIdx.x >= 16) return;
    x[threadIdx.x] = __shfl_down_sync(0xffffffffu, x[threadIdx.x], 1);
}

extern "C" __global__ void shuffles_without_itself(float* x /* [32] */) {
    x[threadIdx.x] = __shfl_xor_sync(0x0000ffffu, x[threadIdx.x], 1);
}

extern "C" __global__ void shuffles_in_two_branches(float* x /* [32] */) {
    if (threadIdx.x % 2)
        x[threadIdx.x] = __shfl_xor_sync(0xffffffffu, x[threadIdx.x], 2);
    else
        x[threadIdx.x] = __shfl_xor_sync(0xffffffffu, x[threadIdx.x], 4) + 1.0f;
}

extern "C" __global__ void loops_for_ever(volatile int* x) {
    while (*x == 0) {
    }
}

// ---- what a kernel finds out by itself

extern "C" __global__ void asserts(const int* x) { assert(x[threadIdx.x] < 10); }
extern "C" __global__ void traps(const int* x) {
    if (x[threadIdx.x] > 10) asm volatile("trap;");
}
