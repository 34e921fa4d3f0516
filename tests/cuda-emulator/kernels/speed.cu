// What the emulated device is timed on, beside the matrix products of matrices.cu: see examples/speed.rs.

extern "C" __global__ void barriers(float* x /* [n] */, int rounds) {
    __shared__ float tile[256];
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    float y = x[i];
    for (int round = 0; round < rounds; round++) {
        tile[threadIdx.x] = y;
        __syncthreads();
        y += tile[255 - threadIdx.x];
        __syncthreads();
    }
    x[i] = y;
}

extern "C" __global__ void shuffles(float* x /* [n] */, int rounds) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    float y = x[i];
    for (int round = 0; round < rounds; round++) y += __shfl_xor_sync(0xffffffffu, y, 1 << round % 5);
    x[i] = y;
}

extern "C" __global__ void arithmetic(float* x /* [n] */, int rounds) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    float y = x[i], z = 0.5f;
    for (int round = 0; round < rounds; round++) {
        z = z * y + 1.0f;
        y = y * z - 0.5f;
    }
    x[i] = y + z;
}

extern "C" __global__ void elementwise(float* __restrict__ y, const float* __restrict__ x, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = x[i] / (1.0f + __expf(-x[i]));
}
