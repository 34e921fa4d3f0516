// Log-softmax of a chunk of rows, scored at the labelled edges, and the gradient by the logits in their place.
//
// One block for a row: grid = n_rows, block = min(1024, 32 * ceil(vocab / 256)). The first pass keeps a running largest
// logit and sum (Milakov & Gimelshein 2018), so it reads a row once; the second reads it again, from L2: 132 rows of
// 152,064 are 40 MB of an H100's 50. More than 32 registers at 1,024 threads make that one block an SM: two would not
// fit L2. 2 bytes a logit from memory for scores, 4 with gradients; some 5 and 9 FLOPs.
//
// Sums are f32: 152 terms a thread at most, then a tree. With e^x of 2 ulp the error of lse is below 1e-6, relative to
// the sum.
#include "common.cuh"

enum { MAX_BLOCK = 1024, BATCH = 4 }; // 64 KB of loads in flight on an SM

// The largest logit, and the first place that has it.
struct Largest {
    float value;
    int index;
};

__device__ __forceinline__ Largest larger(Largest a, Largest b) {
    return b.value > a.value || (b.value == a.value && b.index < a.index) ? b : a;
}

__device__ __forceinline__ Largest warp_largest(Largest x) {
#pragma unroll
    for (int offset = WARP / 2; offset > 0; offset /= 2) {
        const float value = __shfl_xor_sync(ALL_LANES, x.value, offset);
        x = larger(x, {value, __shfl_xor_sync(ALL_LANES, x.index, offset)});
    }
    return x;
}

// As block_sum; once in a kernel.
__device__ __forceinline__ Largest block_largest(Largest x) {
    __shared__ Largest partial[MAX_BLOCK / WARP];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    x = warp_largest(x);
    if (lane == 0) partial[warp] = x;
    __syncthreads();
    return warp_largest(partial[lane < warps ? lane : 0]);
}

// What a thread has seen of its row.
struct Seen {
    Largest largest;
    float sum; // of e^(logit - largest)

    // Not minus infinity, of which the difference to itself is no number. Any index will do: every logit is larger.
    __device__ __forceinline__ Seen() : largest{-3.402823466e38f, 0}, sum(0.0f) {}

    // Adds eight neighbours; columns ascend, so that the first of equal ones stays.
    __device__ __forceinline__ void add(const float (&logits)[8], int column) {
        float top = logits[0];
#pragma unroll
        for (int i = 1; i < 8; i++) top = fmaxf(top, logits[i]);
        if (top > largest.value) {
            sum *= exp_approximate(largest.value - top);
            largest.value = top;
#pragma unroll
            for (int i = 7; i >= 0; i--)
                if (logits[i] == top) largest.index = column + i;
        }
#pragma unroll
        for (int i = 0; i < 8; i++) sum += exp_approximate(logits[i] - largest.value);
    }
};

// The column of a thread's vector `i` of those that the block reads at once from `first` on.
__device__ __forceinline__ int column_of(int first, int i) { return first + 8 * (i * blockDim.x + threadIdx.x); }

__device__ __forceinline__ Seen read_row(const bf16* logits, int vocab) {
    Seen seen;
    for (int first = 0; first < vocab; first += 8 * BATCH * blockDim.x) {
        bf16x8 x[BATCH];
#pragma unroll
        for (int i = 0; i < BATCH; i++) x[i] = load8_part(logits + column_of(first, i), vocab - column_of(first, i));
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            const int column = column_of(first, i);
            if (column >= vocab) break;
            float v[8];
            unpack8(v, x[i]);
            if (column + 8 > vocab) {
#pragma unroll
                for (int j = 0; j < 8; j++)
                    if (column + j >= vocab) v[j] = NEGATIVE_INFINITY;
            }
            seen.add(v, column);
        }
    }
    return seen;
}

// logits = scale * e^(logits - max).
__device__ __forceinline__ void write_softmax(bf16* logits, int vocab, float max, float scale) {
    for (int first = 0; first < vocab; first += 8 * BATCH * blockDim.x) {
        bf16x8 x[BATCH];
#pragma unroll
        for (int i = 0; i < BATCH; i++) x[i] = load8_part(logits + column_of(first, i), vocab - column_of(first, i));
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            float v[8];
            unpack8(v, x[i]);
#pragma unroll
            for (int j = 0; j < 8; j++) v[j] = scale * exp_approximate(v[j] - max);
            store8_part(logits + column_of(first, i), pack8(v), vocab - column_of(first, i));
        }
    }
}

__device__ __forceinline__ void write_zeros(bf16* logits, int vocab) {
    for (int column = 8 * threadIdx.x; column < vocab; column += 8 * blockDim.x)
        store8_part(logits + column, {}, vocab - column);
}

// logprob[e] = logit[target[e]] - lse and argmax, the first index of the largest logit, of rows first_row.. of the
// batch; with `d_logprob`, logits become d_logits = sum_e d_logprob[e] * (onehot(target[e]) - softmax), rounded once.
extern "C" __global__ void __launch_bounds__(MAX_BLOCK) cross_entropy(
    bf16* logits, int ld,                // [n_rows, vocab]
    float* logprob,                      // [n_edges]
    u32* __restrict__ argmax,            // [n_rows], of the chunk
    const u32* __restrict__ edge_start,  // [first_row + n_rows + 1], of the batch
    const u32* __restrict__ edge_target, // [n_edges]
    const float* __restrict__ d_logprob, // [n_edges] or null
    int first_row, int vocab) {
    __shared__ float partial[MAX_BLOCK / WARP];
    const int row = blockIdx.x;
    logits += (size_t)row * ld;
    const u32 first = edge_start[first_row + row], last = edge_start[first_row + row + 1];

    const Seen seen = read_row(logits, vocab);
    const Largest largest = block_largest(seen.largest);
    const float max = largest.value, sum = block_sum(seen.sum * exp_approximate(seen.largest.value - max), partial);
    const float log_sum = logf(sum);
    for (u32 e = first + threadIdx.x; e < last; e += blockDim.x)
        logprob[e] = to_f32(logits[edge_target[e]]) - max - log_sum;
    if (threadIdx.x == 0) argmax[row] = largest.index;
    if (!d_logprob) return;
    if (first == last) return write_zeros(logits, vocab);

    float total = 0.0f;
    for (u32 e = first; e < last; e++) total += d_logprob[e];
    __syncthreads(); // the logits of the targets are read
    write_softmax(logits, vocab, max, -total / sum);
    __syncthreads();
    // The targets again: with their own share before the rounding. e^logprob is their softmax.
    for (u32 e = first + threadIdx.x; e < last; e += blockDim.x) {
        const u32 target = edge_target[e];
        float own = 0.0f;
        bool is_first = true;
        for (u32 other = first; other < last; other++) {
            if (edge_target[other] != target) continue;
            own += d_logprob[other];
            is_first &= other >= e;
        }
        if (is_first) logits[target] = to_bf16(own - total * expf(logprob[e]));
    }
}
