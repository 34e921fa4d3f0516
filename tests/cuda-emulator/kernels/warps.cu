// What the lanes of a warp, the warps of a block and the blocks of a grid say to each other.

// Each lane's results are a column: [11, 32].
extern "C" __global__ void warp_exchange(unsigned* out, const unsigned* in /* [32] */) {
    const int lane = threadIdx.x;
    const unsigned x = in[lane], all = 0xffffffffu;
    out[0 * 32 + lane] = __shfl_sync(all, x, 5);
    out[1 * 32 + lane] = __shfl_up_sync(all, x, 3);
    out[2 * 32 + lane] = __shfl_down_sync(all, x, 3, 8);
    out[3 * 32 + lane] = __ballot_sync(all, x % 2);
    out[4 * 32 + lane] = __all_sync(all, x < 1000) + 2 * __any_sync(all, x == 0);
    out[5 * 32 + lane] = __match_any_sync(all, x % 4);
    out[6 * 32 + lane] = __reduce_add_sync(all, x);
    out[7 * 32 + lane] = __reduce_max_sync(all, x) - __reduce_min_sync(all, x);
    // In halves, and in a branch that some lanes take.
    const unsigned half = lane < 16 ? 0x0000ffffu : 0xffff0000u;
    out[8 * 32 + lane] = __shfl_xor_sync(half, x, 1);
    const unsigned third = __ballot_sync(all, lane % 3 == 0);
    unsigned y = 7;
    if (lane % 3 == 0) y = __shfl_sync(third, x, 3);
    out[9 * 32 + lane] = y;
    out[10 * 32 + lane] = __activemask() >> lane & 1;
}

// Lanes write for each other in shared memory, with __syncwarp between.
extern "C" __global__ void warp_reverse(float* x /* [n] */) {
    __shared__ float buffer[256];
    const int i = threadIdx.x, other = i / 32 * 32 + 31 - i % 32;
    buffer[i] = x[blockIdx.x * blockDim.x + i];
    __syncwarp();
    const float y = buffer[other];
    __syncwarp();
    buffer[i] = y + 1.0f;
    __syncwarp();
    x[blockIdx.x * blockDim.x + i] = buffer[i];
}

// Half of the block makes what the other half uses, twice, through a buffer that barriers 1 (full) and 2 (empty) guard.
extern "C" __global__ void producer_consumer(int* out /* [rounds, half] */, int rounds) {
    __shared__ int buffer[512];
    const int half = blockDim.x / 2, i = threadIdx.x % half;
    if (threadIdx.x < half) {
        for (int round = 0; round < rounds; round++) {
            if (round > 0) asm volatile("bar.sync 2, %0;" ::"r"(blockDim.x) : "memory");
            buffer[i] = round * 1000 + i;
            asm volatile("bar.arrive 1, %0;" ::"r"(blockDim.x) : "memory");
        }
    } else {
        for (int round = 0; round < rounds; round++) {
            asm volatile("bar.sync 1, %0;" ::"r"(blockDim.x) : "memory");
            out[round * half + i] = buffer[half - 1 - i];
            if (round + 1 < rounds) asm volatile("bar.arrive 2, %0;" ::"r"(blockDim.x) : "memory");
        }
    }
}

extern "C" __global__ void barrier_votes(int* out /* [3] */, const int* in) {
    const int positive = in[threadIdx.x] > 0;
    const int count = __syncthreads_count(positive);
    const int all = __syncthreads_and(positive), any = __syncthreads_or(positive);
    if (threadIdx.x == 0) out[0] = count, out[1] = all, out[2] = any;
}

// Warps that leave early are not waited for.
extern "C" __global__ void early_exit(int* out /* [n] */) {
    if (threadIdx.x >= 64) return;
    __shared__ int value;
    if (threadIdx.x == 0) value = 5;
    __syncthreads();
    out[threadIdx.x] = value;
}

extern "C" __global__ void atomics(unsigned* u /* [10] */, float* f /* [1] */, double* d /* [1] */,
                                   unsigned* pair /* [1] */, int* old /* [n] */) {
    __shared__ int count;
    if (threadIdx.x == 0) count = 0;
    __syncthreads();
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    atomicAdd(&u[0], i);
    atomicMax(&u[1], i);
    atomicMin(&u[2], i + 3);
    atomicOr(&u[3], 1u << (i % 32));
    atomicAnd(&u[4], ~(1u << (i % 16)));
    atomicXor(&u[5], i);
    atomicInc(&u[6], 99);
    atomicDec(&u[7], 99);
    atomicExch(&u[8], 7);
    for (unsigned seen = *(volatile unsigned*)&u[9], expected;;) {  // an addition by hand
        expected = seen;
        seen = atomicCAS(&u[9], expected, expected + 2);
        if (seen == expected) break;
    }
    atomicAdd(f, 0.5f);
    atomicAdd(d, 0.25);
    asm volatile("red.global.add.noftz.f16x2 [%0], %1;" ::"l"(pair), "r"(0x3c003c00) : "memory");
    old[i] = atomicAdd(&count, 1);
}

// In which order threads come.
extern "C" __global__ void arrivals(int* threads /* [n] */, int* count /* [1] */) {
    threads[atomicAdd(count, 1)] = blockIdx.x * blockDim.x + threadIdx.x;
}
