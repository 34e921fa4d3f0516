// Attention of new tokens over a cache of keys and values (inference): query i sees rows 0..=n_past + i.
//
// grid (n_new, heads), block 256. The eight warps take turns at 32 keys: a lane scores one of them, then all lanes add
// 32 values, each to its own columns. What they have is brought to one maximum and added at the end (Dao et al. 2022, 3.1).
// Reads 4 head_dim bytes per key, which is what it costs: a token has 2 FLOPs for each of them.
#include "common.cuh"

enum { WARPS = 8, WIDEST = 256, LANE_COLUMNS = WIDEST / WARP };

// query . key, `query` in shared memory.
__device__ __forceinline__ float dot(const float* query, const bf16* key, int head_dim) {
    float sum = 0.0f;
    if (head_dim % 8 == 0) {
        for (int column = 0; column < head_dim; column += 8) {
            float x[8];
            unpack8(x, load8(key + column));
#pragma unroll
            for (int i = 0; i < 8; i++) sum = fmaf(query[column + i], x[i], sum);
        }
    } else { // rows of heads are not aligned
        for (int column = 0; column < head_dim; column++) sum = fmaf(query[column], to_f32(key[column]), sum);
    }
    return sum;
}

extern "C" __global__ void __launch_bounds__(WARPS* WARP) attention_cached(
    bf16* __restrict__ o, int ld_o,             // [n_new, heads, head_dim]
    const bf16* __restrict__ q, int ld_q,       // [n_new, heads, head_dim]
    const bf16* __restrict__ k_cache, int ld_k, // [n_past + n_new, kv_heads, head_dim]
    const bf16* __restrict__ v_cache, int ld_v, // [n_past + n_new, kv_heads, head_dim]
    int n_new, int n_past, int heads, int kv_heads, int head_dim, float scale) {
    __shared__ float query[WIDEST], out[WARPS][WIDEST], largest[WARPS], sum[WARPS];
    const int token = blockIdx.x, head = blockIdx.y, kv_head = head / (heads / kv_heads);
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, n_keys = n_past + token + 1;
    k_cache += kv_head * head_dim;
    v_cache += kv_head * head_dim;

    // Scores to base 2: exp2 is one instruction.
    if (threadIdx.x < head_dim)
        query[threadIdx.x] = to_f32(q[(size_t)token * ld_q + head * head_dim + threadIdx.x]) * (scale * LOG2_E);
    __syncthreads();

    float warp_largest = NEGATIVE_INFINITY, lane_sum = 0.0f, columns[LANE_COLUMNS] = {}; // lane, lane + 32, ..
    for (int first = warp * WARP; first < n_keys; first += WARPS * WARP) {
        const int key = first + lane;
        const float score = key < n_keys ? dot(query, k_cache + (size_t)key * ld_k, head_dim) : NEGATIVE_INFINITY;
        const float risen = fmaxf(warp_largest, warp_max(score)); // finite: key `first` is there
        const float shrink = exp2_approximate(warp_largest - risen), weight = exp2_approximate(score - risen);
        warp_largest = risen;
        lane_sum = lane_sum * shrink + weight;
#pragma unroll
        for (int i = 0; i < LANE_COLUMNS; i++) columns[i] *= shrink;
        for (int j = 0; j < min(WARP, n_keys - first); j++) {
            const float key_weight = __shfl_sync(ALL_LANES, weight, j);
            const bf16* const value = v_cache + (size_t)(first + j) * ld_v;
#pragma unroll
            for (int i = 0; i < LANE_COLUMNS; i++)
                if (lane + i * WARP < head_dim) columns[i] = fmaf(key_weight, to_f32(value[lane + i * WARP]), columns[i]);
        }
    }
    const float warp_total = warp_sum(lane_sum);
    if (lane == 0) largest[warp] = warp_largest, sum[warp] = warp_total;
#pragma unroll
    for (int i = 0; i < LANE_COLUMNS; i++) out[warp][lane + i * WARP] = columns[i];
    __syncthreads();

    if (threadIdx.x >= head_dim) return;
    float top = largest[0], total = 0.0f, value = 0.0f;
    for (int w = 1; w < WARPS; w++) top = fmaxf(top, largest[w]);
    for (int w = 0; w < WARPS; w++) {
        const float share = exp2_approximate(largest[w] - top); // 0 for a warp without keys
        total += share * sum[w];
        value += share * out[w][threadIdx.x];
    }
    o[(size_t)token * ld_o + head * head_dim + threadIdx.x] = to_bf16(value / total);
}
