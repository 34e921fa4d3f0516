// One thread an element, or a row through shared memory: the first things that must work.

extern "C" __global__ void vector_add(float* __restrict__ sum,      // [n]
                                      const float* __restrict__ a,  // [n]
                                      const float* __restrict__ b,  // [n]
                                      int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) sum[i] = a[i] + b[i];
}

// Two-dimensional grid and 16-byte loads.
extern "C" __global__ void outer_product(float4* __restrict__ product,  // [rows, columns / 4]
                                         const float* __restrict__ a,   // [rows]
                                         const float4* __restrict__ b,  // [columns / 4]
                                         int rows, int quads) {
    const int quad = blockIdx.x * blockDim.x + threadIdx.x;
    const int row = blockIdx.y * blockDim.y + threadIdx.y;
    if (row >= rows || quad >= quads) return;
    const float4 v = __ldg(&b[quad]);
    const float s = a[row];
    product[(size_t)row * quads + quad] = make_float4(v.x * s, v.y * s, v.z * s, v.w * s);
}

// Through dynamic shared memory, which may be larger than 48 KiB.
extern "C" __global__ void reverse_rows(float* x /* [rows, columns] */, int columns) {
    extern __shared__ __align__(16) float row_copy[];  // [columns]
    float* row = x + (size_t)blockIdx.x * columns;
    for (int i = threadIdx.x; i < columns; i += blockDim.x) row_copy[i] = row[i];
    __syncthreads();
    for (int i = threadIdx.x; i < columns; i += blockDim.x) row[i] = row_copy[columns - 1 - i];
}

extern "C" __global__ void __launch_bounds__(128) scale(float* x /* [n] */, float factor, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] *= factor;
}

// What every instruction of a thread's coordinates says.
extern "C" __global__ void coordinates(int* out /* [threads, 8] */) {
    const int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    const int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    int lane, warp;
    asm("mov.u32 %0, %%laneid;" : "=r"(lane));
    asm("mov.u32 %0, %%warpid;" : "=r"(warp));
    int* row = out + (size_t)(block * blockDim.x * blockDim.y * blockDim.z + thread) * 8;
    row[0] = threadIdx.x, row[1] = threadIdx.y, row[2] = threadIdx.z;
    row[3] = blockIdx.x, row[4] = blockIdx.y, row[5] = blockIdx.z;
    row[6] = lane, row[7] = warp;
}
