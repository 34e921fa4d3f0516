// The optimiser: gradient norm and clipping, AdamW (Loshchilov & Hutter 2019, algorithm 2, as `torch.optim.AdamW`
// orders it), and the bf16 images of the weights that products read.
//
// All trained values are one flat range of f32: weight, gradient and both moments lie in the same order. Tensors start at
// multiples of four, with zeros in the gaps. Nothing here comes back to the host: a step is one launch of each, the same
// in every step.
#include "common.cuh"

enum { NORM_BLOCK = 256, NORM_BATCH = 4, BLOCK = 256 };

// scalars [5]: what changes from step to step.
enum { MAX_GRAD_NORM, LOG_ROW, DECAY, STEP_SIZE, ROOT_BIAS_CORRECTION2 };
// control [2]
enum { CLIP_SCALE, HALTED };

// The norm of all gradients, summed in f64 in a fixed order, and what follows from it, written by the last block: the
// factor that clips (torch's clip_grad_norm_: never above 1), whether the run is halted, and the step's row of the log:
// sums[0..7], norm. Clears `sums`.
//
// block = 256, grid = min(1024, ceil(n_values / 4096)), so that the order depends on the size only. 4 bytes and 2 f64
// FLOPs a value.
extern "C" __global__ void __launch_bounds__(NORM_BLOCK) grad_norm(
    double* sums,                      // [8], 0 is the loss
    float* control,                    // [2]
    double* log,                       // [log_rows, 8]
    const float* __restrict__ scalars, // [5]
    const float* __restrict__ grad,    // [n_values]
    size_t n_values,                   // a multiple of four
    double* partial, // [grid], scratch
    u32* counter) {  // [1], zero
    __shared__ double warps[NORM_BLOCK / WARP];
    const size_t thread = (size_t)blockIdx.x * NORM_BLOCK + threadIdx.x, threads = (size_t)gridDim.x * NORM_BLOCK;
    const size_t quads = n_values / 4;
    double squares = 0.0;
    for (size_t first = thread; first < quads; first += NORM_BATCH * threads) {
        f32x4 g[NORM_BATCH];
#pragma unroll
        for (int b = 0; b < NORM_BATCH; b++) {
            const size_t i = first + b * threads;
            g[b] = i < quads ? load4(grad + 4 * i) : f32x4{};
        }
#pragma unroll
        for (int b = 0; b < NORM_BATCH; b++)
#pragma unroll
            for (int j = 0; j < 4; j++) squares += (double)g[b].value[j] * g[b].value[j];
    }
    squares = block_sum(squares, warps);
    if (threadIdx.x == 0) partial[blockIdx.x] = squares;
    if (!is_last_block(counter, gridDim.x)) return;

    squares = 0.0;
    for (u32 i = threadIdx.x; i < gridDim.x; i += NORM_BLOCK) squares += partial[i];
    const double norm = sqrt(block_sum(squares, warps));
    if (threadIdx.x >= 8) return;
    double* row = log + 8 * (size_t)scalars[LOG_ROW];
    if (threadIdx.x == 0) {
        const float max_norm = scalars[MAX_GRAD_NORM];
        control[CLIP_SCALE] = max_norm > 0.0f ? fminf(1.0f, max_norm / ((float)norm + 1e-6f)) : 1.0f;
        // As an f32, which clipping computes with, it may be infinite where the f64 is not.
        if (!isfinite(sums[0]) || !isfinite((float)norm)) control[HALTED] = 1.0f;
    }
    row[threadIdx.x] = threadIdx.x == 7 ? norm : sums[threadIdx.x];
    sums[threadIdx.x] = 0.0;
}

// Where products read a tensor: value (r, c), times `scale`, in bf16, as it is and transposed.
struct Image {
    size_t start;        // the tensor's first value in the flat range
    bf16* to;            // null: nothing reads this tensor as bf16
    bf16* transposed_to; // may be null
    int rows, cols;
    int row_stride, transposed_row_stride;
    float scale;
};

struct Images {
    const Image* image; // [n], by start, the first at 0
    int n;
};

// The last image that starts at `value` or before it.
__device__ __forceinline__ const Image* image_of(Images images, size_t value) {
    int low = 0, high = images.n;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        (images.image[middle].start <= value ? low : high) = middle;
    }
    return images.image + low;
}

// Four neighbours, in one store where they are aligned to it.
__device__ __forceinline__ void put4(bf16* to, const float (&values)[4]) {
    if (((u64)to & 7) == 0) {
        *reinterpret_cast<u64*>(to) = pack2(values[0], values[1]) | (u64)pack2(values[2], values[3]) << 32;
        return;
    }
#pragma unroll
    for (int i = 0; i < 4; i++) to[i] = to_bf16(values[i]);
}

// Writes what products read of the four values from `first` on. They may be the end of a row and the begin of others, or
// lie behind the last.
__device__ __forceinline__ void write_image(Image image, size_t first, const f32x4& weight) {
    if (!image.to) return;
    size_t row = (first - image.start) / image.cols, col = (first - image.start) % image.cols;
    float scaled[4];
#pragma unroll
    for (int i = 0; i < 4; i++) scaled[i] = image.scale * weight.value[i];
    if (col + 4 <= image.cols) { // nearly always
        put4(image.to + row * image.row_stride + col, scaled);
        if (!image.transposed_to) return;
#pragma unroll
        for (int i = 0; i < 4; i++) image.transposed_to[(col + i) * image.transposed_row_stride + row] = to_bf16(scaled[i]);
        return;
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (row >= image.rows) return;
        const bf16 value = to_bf16(scaled[i]);
        image.to[row * image.row_stride + col] = value;
        if (image.transposed_to) image.transposed_to[col * image.transposed_row_stride + row] = value;
        if (++col == image.cols) {
            col = 0;
            row++;
        }
    }
}

__device__ __forceinline__ size_t first_of_thread() { return 4 * ((size_t)blockIdx.x * BLOCK + threadIdx.x); }

// w *= decay; m += (1 - beta1) (g - m); v = beta2 v + (1 - beta2) g^2; w -= step_size * m / (sqrt(v) / root + epsilon),
// with g the clipped gradient; then the images. Does nothing where the run is halted: weights and moments stay those of
// the last good step.
//
// block = 256, grid = ceil(n_values / 1024): four values a thread. 28 bytes a value, 2 for each image; some 14 FLOPs.
// Finding the tensor (ten reads from L1 for 1,000 of them) hides behind the four loads.
extern "C" __global__ void __launch_bounds__(BLOCK) adamw(
    float* __restrict__ weight,        // [n_values]
    float* __restrict__ exp_avg,       // [n_values]
    float* __restrict__ exp_avg_sq,    // [n_values]
    const float* __restrict__ grad,    // [n_values]
    const float* __restrict__ control, // [2]
    const float* __restrict__ scalars, // [5]
    Images images, size_t n_values, float beta1, float beta2, float epsilon) {
    const size_t first = first_of_thread();
    if (first >= n_values || control[HALTED] != 0.0f) return;
    f32x4 w = load4(weight + first), m = load4(exp_avg + first);
    f32x4 v = load4(exp_avg_sq + first), g = load4(grad + first);
    const Image* const image = image_of(images, first);

    const float clip = control[CLIP_SCALE], decay = scalars[DECAY], step_size = scalars[STEP_SIZE];
    const float root = scalars[ROOT_BIAS_CORRECTION2];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float d = g.value[i] * clip;
        w.value[i] *= decay;
        m.value[i] += (1.0f - beta1) * (d - m.value[i]);
        v.value[i] = v.value[i] * beta2 + (1.0f - beta2) * d * d;
        w.value[i] -= step_size * (m.value[i] / (sqrtf(v.value[i]) / root + epsilon));
    }
    store4(weight + first, w);
    store4(exp_avg + first, m);
    store4(exp_avg_sq + first, v);
    write_image(*image, first, w);
}

// The images alone: after weights were loaded or restored. block = 256, grid = ceil(n_values / 1024), 4 bytes a value,
// 2 for each image.
extern "C" __global__ void __launch_bounds__(BLOCK) refresh_images(
    const float* __restrict__ weight, // [n_values]
    Images images, size_t n_values) {
    const size_t first = first_of_thread();
    if (first < n_values) write_image(*image_of(images, first), first, load4(weight + first));
}
