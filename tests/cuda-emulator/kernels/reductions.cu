// Sums over a warp, a block and a grid.

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
    return x;
}

// The sum over a block, in every thread of it.
__device__ __forceinline__ float block_sum(float x) {
    __shared__ float partial[32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    x = warp_sum(x);
    __syncthreads();  // the partial sums of an earlier call are read until here
    if (lane == 0) partial[warp] = x;
    __syncthreads();
    return warp_sum(lane < blockDim.x / 32 ? partial[lane] : 0.0f);
}

// y = x / sqrt(mean(x^2) + eps), a block a row.
extern "C" __global__ void rms_norm(float* __restrict__ y,        // [rows, columns]
                                    const float* __restrict__ x,  // [rows, columns]
                                    int columns, float eps) {
    x += (size_t)blockIdx.x * columns;
    y += (size_t)blockIdx.x * columns;
    float squares = 0.0f;
    for (int i = threadIdx.x; i < columns; i += blockDim.x) squares += x[i] * x[i];
    const float rstd = rsqrtf(block_sum(squares) / columns + eps);
    for (int i = threadIdx.x; i < columns; i += blockDim.x) y[i] = x[i] * rstd;
}

// log(sum(exp(x))) of a row, a warp a row: shuffles and the fast exponential and logarithm.
extern "C" __global__ void log_sum_exp(float* __restrict__ out /* [rows] */,
                                       const float* __restrict__ x /* [rows, columns] */, int rows, int columns) {
    const int row = blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= rows) return;
    x += (size_t)row * columns;
    float highest = __int_as_float(0xff800000);
    for (int i = threadIdx.x; i < columns; i += 32) highest = fmaxf(highest, x[i]);
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2)
        highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, offset));
    float sum = 0.0f;
    for (int i = threadIdx.x; i < columns; i += 32) sum += __expf(x[i] - highest);
    sum = warp_sum(sum);
    if (threadIdx.x == 0) out[row] = highest + __logf(sum);
}

// The grid's sum by the block that is done last: each block publishes its partial sum, a fence makes it visible,
// and a counter tells the last block, which adds them all. `counter` is zero again at the end.
extern "C" __global__ void last_block_sum(float* __restrict__ sum,  // [1]
                                          float* partial,           // [blocks]
                                          unsigned* counter,        // [1]
                                          const float* __restrict__ x /* [n] */, int n) {
    __shared__ bool is_last;
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    const float mine = block_sum(i < n ? x[i] : 0.0f);
    if (threadIdx.x == 0) {
        partial[blockIdx.x] = mine;
        __threadfence();
        is_last = atomicAdd(counter, 1u) == gridDim.x - 1;
    }
    __syncthreads();
    if (!is_last) return;
    __threadfence();
    float total = 0.0f;
    for (int block = threadIdx.x; block < gridDim.x; block += blockDim.x) total += partial[block];
    total = block_sum(total);
    if (threadIdx.x == 0) {
        *sum = total;
        *counter = 0;
    }
}

// The same where every thread writes a part, fences it, and one thread counts for the block after the barrier.
extern "C" __global__ void last_block_columns(float* __restrict__ sums,  // [columns]
                                              float* partial,            // [blocks, columns]
                                              unsigned* counter,         // [1]
                                              const float* __restrict__ x /* [rows, columns] */, int rows,
                                              int columns) {
    __shared__ bool is_last;
    for (int column = threadIdx.x; column < columns; column += blockDim.x) {
        float sum = 0.0f;
        for (int row = blockIdx.x; row < rows; row += gridDim.x) sum += x[(size_t)row * columns + column];
        partial[(size_t)blockIdx.x * columns + column] = sum;
    }
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) is_last = atomicInc(counter, gridDim.x - 1) == gridDim.x - 1;
    __syncthreads();
    if (!is_last) return;
    __threadfence();
    for (int column = threadIdx.x; column < columns; column += blockDim.x) {
        float sum = 0.0f;
        for (int block = 0; block < gridDim.x; block++) sum += partial[(size_t)block * columns + column];
        sums[column] = sum;
    }
}
