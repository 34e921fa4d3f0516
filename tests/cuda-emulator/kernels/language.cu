// What a kernel may be made of beside arithmetic: functions, structs, local arrays, tables, variables of the module.

struct Settings {
    float scale;
    int offset[3];
    double shift;
    const float* table;  // [4]
};

extern "C" __global__ void struct_parameter(float* out /* [n] */, Settings settings, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = settings.scale * settings.offset[i % 3] + (float)settings.shift + settings.table[i % 4];
}

__device__ __noinline__ float horner(const float* coefficients, int count, float x) {
    float sum = 0.0f;
    for (int i = count - 1; i >= 0; i--) sum = sum * x + coefficients[i];
    return sum;
}

__device__ __noinline__ void twice(float* x) { *x *= 2.0f; }

// A local array that is indexed at run time, by reference through functions that are not inlined.
extern "C" __global__ void device_functions(float* x /* [n] */, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    float coefficients[4] = {1.0f, 2.0f, 3.0f, (float)i};
    if (i >= n) return;
    coefficients[i % 4] += 1.0f;
    float y = horner(coefficients, 4, x[i]);
    if (i % 2) twice(&y);
    x[i] = y + horner(coefficients + 1, 2, y);
}

// A switch that becomes a jump table, with threads of a warp in each of its branches.
extern "C" __global__ void switch_table(int* x /* [n] */, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    int y = x[i];
    switch (i % 9) {
        case 0: y = y * 3 + 1; break;
        case 1: y = y - 7; break;
        case 2: y = y ^ 0x55; break;
        case 3: y = y << 3; break;
        case 4: y = y / 3; break;
        case 5: y = -y; break;
        case 6: y = y % 10; break;
        case 7: y = __popc(y); break;
        default: y = 99;
    }
    x[i] = y;
}

// The same as NVRTC would write it for newer targets: brx.idx.
extern "C" __global__ void jump_table(int* x /* [n] */) {
    int result;
    asm volatile(
        "{\n"
        "TARGETS: .branchtargets ONE, TWO, THREE;\n"
        "brx.idx %1, TARGETS;\n"
        "ONE: mov.u32 %0, 100; bra.uni END;\n"
        "TWO: mov.u32 %0, 200; bra.uni END;\n"
        "THREE: mov.u32 %0, 300;\n"
        "END:\n"
        "}"
        : "=r"(result)
        : "r"(x[threadIdx.x] % 3));
    x[threadIdx.x] += result;
}

// Each thread as often as its number says: the warp parts and meets again.
extern "C" __global__ void collatz(int* steps /* [n] */, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    int count = 0;
    for (unsigned x = i + 1; x != 1; count++) {
        if (x % 2)
            x = 3 * x + 1;
        else
            x /= 2;
        if (count > 200) break;
    }
    steps[i] = count;
}

__constant__ float weights[4] = {0.5f, 1.5f, 2.5f, 3.5f};
__device__ int calls = 40;
__device__ const int table[2][3] = {{1, 2, 3}, {4, 5, 6}};

extern "C" __global__ void module_variables(float* out /* [n] */, int n) {
    const int i = threadIdx.x;
    if (i < n) out[i] = weights[i % 4] * table[i % 2][i % 3];
    if (i == 0) calls += 2;
}

extern "C" __global__ void say(int n, double x) {
    if (threadIdx.x < 2) printf("thread %d of %d: %5.2f %s %llu%%\n", threadIdx.x, n, x, "and", 1ull << 40);
}

// Vectors of bytes and shorts, as quantised weights are read.
extern "C" __global__ void unpack_bytes(float* out /* [4 n] */, const uchar4* bytes /* [n] */,
                                        const short2* shorts /* [n] */, int n) {
    const int i = threadIdx.x;
    if (i >= n) return;
    const uchar4 b = bytes[i];
    const short2 s = shorts[i];
    out[4 * i] = b.x + s.x;
    out[4 * i + 1] = b.y - s.y;
    out[4 * i + 2] = (signed char)b.z;
    out[4 * i + 3] = b.w;
}
