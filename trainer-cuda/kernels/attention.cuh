// What the forward and the backward kernels of attention share: who sees whom, tiles of heads, products of tiles.
//
// One scheme for all of them. A tile is 64 tokens. A warp owns sixteen rows of its block's tile (queries; keys where dk
// and dv are summed): it keeps their operands and the sums in registers and walks over the tiles of the other side, which
// lie in shared memory in two stages: one is computed on while the next is on its way, with one barrier for each. Scores
// exist in registers only, in the layout of the next product's left operand.
#pragma once
#include "common.cuh"

enum { TILE = 64, WARP_ROWS = 16 };

struct Shape {
    int n_tokens, heads, kv_heads, head_dim;

    // Query head h reads key head h / group().
    __device__ __forceinline__ int group() const { return heads / kv_heads; }
};

// One head of all tokens: row t is at values + t * ld.
struct Head {
    const bf16* values;
    int ld;
};

// ---------------------------------------------------------------- who sees whom

// Query q sees key k iff first[k] <= q && q < end[k]. Forest: first[k] = k, end[k] = subtree_end[k]; a text [s, e) of an
// encoder's batch: first = s, end = e. Every query sees at least itself; padding sees nothing else.
struct Mask {
    const u32* first;      // [n_tokens], ascending
    const u32* end;        // [n_tokens]
    const u32* tile_first; // [ceil(n_tokens / 64)], the least `first` of each tile of keys
    const u32* tile_end;   // [ceil(n_tokens / 64)], the greatest `end`
};

// The key tiles that some query of first_query..=last_query sees, in order. A forest of many closed subtrees leaves few
// of them, so 32 are looked at at once.
struct VisibleTiles {
    const Mask& mask;
    const u32 first_query, last_query;
    const int n_tiles;
    int base = -WARP; // a bit of `left` for each of tiles base..base + 32 that is visible and was not given out yet
    u32 left = 0;

    // The next one, or n_tiles; all lanes of a warp must call it.
    __device__ __forceinline__ int next() {
        while (left == 0) {
            base += WARP;
            if (base >= n_tiles) return n_tiles;
            const int tile = base + threadIdx.x % WARP;
            left = __ballot_sync(ALL_LANES, tile < n_tiles && mask.tile_first[tile] <= last_query &&
                                                first_query < mask.tile_end[tile]);
        }
        const int tile = base + __ffs(left) - 1;
        left &= left - 1;
        return tile;
    }
};

// How much of a rectangle of scores its queries see.
enum Sight { NOTHING, PART, ALL };

// Who sees each key of a tile; nobody sees one past n_tokens.
struct KeyRanges {
    u32 first[TILE], end[TILE];

    // Starts to copy; for threads i of 0..128.
    __device__ __forceinline__ void load(const Mask& mask, int first_key, int n_tokens, int i) {
        const int key = first_key + i % TILE;
        if (i < TILE)
            copy4(&first[i], mask.first + key, key < n_tokens);
        else
            copy4(&end[i - TILE], mask.end + key, key < n_tokens);
    }

    __device__ __forceinline__ bool seen(int key, u32 query) const {
        return query - first[key] < end[key] - first[key]; // wraps where the query comes before
    }

    // How much the queries first_query..=last_query see of a warp's keys, of which each lane names two, a < b. `first`
    // ascends, but for keys past n_tokens, whose `end` is 0.
    __device__ __forceinline__ Sight sight(int a, int b, u32 first_query, u32 last_query) const {
        const bool nothing = last_query < first[a] || max(end[a], end[b]) <= first_query;
        const bool all = first[b] <= first_query && last_query < min(end[a], end[b]);
        if (__all_sync(ALL_LANES, nothing)) return NOTHING;
        return __all_sync(ALL_LANES, all) ? ALL : PART;
    }
};

// ---------------------------------------------------------------- tiles

// 64 rows of a head in shared memory, sixteen bytes longer than the head: stride / 8 is odd, so no bank conflicts.
template <int D>
struct HeadTile {
    enum { STRIDE = D + 8, VECTORS = D / 8 };
    bf16 values[TILE * STRIDE];

    __device__ __forceinline__ bf16* row(int i) { return values + i * STRIDE; }
};

// Starts to copy tokens first.. of a head; rows past n_tokens and columns past head_dim become zero. Heads whose width is
// no multiple of eight are not aligned: they are read value by value.
template <int THREADS, int D>
__device__ __forceinline__ void load_tile(HeadTile<D>& tile, Head head, int first, const Shape& shape) {
    constexpr int STEP = THREADS / HeadTile<D>::VECTORS;
    const int row = threadIdx.x / HeadTile<D>::VECTORS, column = threadIdx.x % HeadTile<D>::VECTORS * 8;
    const int rows = shape.n_tokens - first - row, columns = shape.head_dim - column;
    const bf16* const from = head.values + (size_t)(first + row) * head.ld + column;
    if (shape.head_dim % 8 == 0) {
#pragma unroll
        for (int i = 0; i < TILE; i += STEP)
            copy16(tile.row(row + i) + column, from + (size_t)i * head.ld, i < rows && columns > 0 ? 16 : 0);
    } else {
#pragma unroll 1
        for (int i = 0; i < TILE; i += STEP)
            store8(tile.row(row + i) + column, gather8(from + (size_t)i * head.ld, i < rows ? columns : 0));
    }
}

// Writes a warp's sixteen rows of sums, which are rows warp_row.. of tokens first..: as bf16 to rows of its own in `tile`,
// and from there whole rows of `head` (whose first token is 0).
template <int D>
__device__ __forceinline__ void store_rows(bf16* head, int ld, const float (&sums)[D / 8][4], HeadTile<D>& tile,
                                           int warp_row, int first, const Shape& shape) {
    const int lane = threadIdx.x % WARP, row = warp_row + lane / 4, column = lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < D / 8; n++) {
        *reinterpret_cast<u32*>(tile.row(row) + 8 * n + column) = pack2(sums[n][0], sums[n][1]);
        *reinterpret_cast<u32*>(tile.row(row + 8) + 8 * n + column) = pack2(sums[n][2], sums[n][3]);
    }
    __syncwarp();
    for (int i = lane; i < WARP_ROWS * HeadTile<D>::VECTORS; i += WARP) {
        const int r = warp_row + i / HeadTile<D>::VECTORS, c = i % HeadTile<D>::VECTORS * 8, token = first + r;
        if (token >= shape.n_tokens || c >= shape.head_dim) continue;
        bf16* const to = head + (size_t)token * ld + c;
        if (shape.head_dim % 8 == 0) {
            store8(to, load8(tile.row(r) + c));
        } else {
#pragma unroll 1
            for (int j = 0; j < min(8, shape.head_dim - c); j++) to[j] = tile.row(r)[c + j];
        }
    }
}

// A tile of keys with its values.
template <int D>
struct KeyStage {
    HeadTile<D> k, v;
    KeyRanges ranges;
};

// Starts to load a stage, with 128 threads: a bound of a key for each.
template <int D>
__device__ __forceinline__ void load_stage(KeyStage<D>& stage, Head k, Head v, const Mask& mask, int tile,
                                           const Shape& shape) {
    load_tile<2 * TILE>(stage.k, k, tile * TILE, shape);
    load_tile<2 * TILE>(stage.v, v, tile * TILE, shape);
    stage.ranges.load(mask, tile * TILE, shape.n_tokens, threadIdx.x);
    copy_commit();
}

// ---------------------------------------------------------------- products of a warp's sixteen rows

template <int N>
__device__ __forceinline__ void clear_sums(float (&d)[N][4]) {
#pragma unroll
    for (int n = 0; n < N; n++) d[n][0] = d[n][1] = d[n][2] = d[n][3] = 0.0f;
}

template <int N>
__device__ __forceinline__ void scale_sums(float (&d)[N][4], float factor) {
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) d[n][i] *= factor;
}

// Rows first_row.. of a tile as a left operand.
template <int D>
__device__ __forceinline__ void load_operand(u32 (&a)[D / 16][4], HeadTile<D>& tile, int first_row) {
#pragma unroll
    for (int k = 0; k < D / 16; k++) load_a(a[k], tile.row(first_row) + 16 * k, HeadTile<D>::STRIDE);
}

// Sums, rounded to bf16, as the left operand of the next product: the layouts are the same.
template <int N>
__device__ __forceinline__ void round_operand(u32 (&a)[N / 2][4], const float (&sums)[N][4]) {
#pragma unroll
    for (int k = 0; k < N / 2; k++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float(&pair)[4] = sums[2 * k + i / 2];
            a[k][i] = pack2(pair[i % 2 * 2], pair[i % 2 * 2 + 1]);
        }
}

// Scores [16, 8 N] of which `visible(row, column)` is false become minus infinity. That costs half of what their product
// does: only for rectangles that are seen in part.
template <int N, typename Visible>
__device__ __forceinline__ void hide_scores(float (&scores)[N][4], Visible visible) {
    const int row = threadIdx.x % WARP / 4, column = threadIdx.x % 4 * 2;
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (!visible(row + i / 2 * 8, 8 * n + column + i % 2)) scores[n][i] = NEGATIVE_INFINITY;
}

// d [16, 8 N] += a [16, 16] tile^T, of the tile's 8 N rows from first_row on and sixteen columns from `column` on.
template <int N, int D>
__device__ __forceinline__ void add_transposed(float (&d)[N][4], const u32 (&a)[4], HeadTile<D>& tile, int first_row,
                                               int column) {
#pragma unroll
    for (int n = 0; n < N; n += 2) {
        u32 b[4];
        load_b(b, tile.row(first_row + 8 * n) + column, HeadTile<D>::STRIDE);
        multiply_add(d[n], a, b[0], b[1]);
        multiply_add(d[n + 1], a, b[2], b[3]);
    }
}

// d [16, 8 N] = a [16, D] tile^T, of the tile's 8 N rows from first_row on.
template <int N, int D>
__device__ __forceinline__ void product_transposed(float (&d)[N][4], const u32 (&a)[D / 16][4], HeadTile<D>& tile,
                                                   int first_row) {
    clear_sums(d);
#pragma unroll
    for (int k = 0; k < D / 16; k++) add_transposed(d, a[k], tile, first_row, 16 * k);
}

// The same, of sixteen rows of a tile that lies in shared memory.
template <int N, int D>
__device__ __forceinline__ void product_transposed(float (&d)[N][4], HeadTile<D>& left, int left_row, HeadTile<D>& tile,
                                                   int first_row) {
    clear_sums(d);
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        u32 a[4];
        load_a(a, left.row(left_row) + 16 * k, HeadTile<D>::STRIDE);
        add_transposed(d, a, tile, first_row, 16 * k);
    }
}

// d [16, D] += a [16, 16 K] tile, of the tile's 16 K rows from first_row on.
template <int K, int D>
__device__ __forceinline__ void add_product(float (&d)[D / 8][4], const u32 (&a)[K][4], HeadTile<D>& tile, int first_row) {
#pragma unroll
    for (int k = 0; k < K; k++)
#pragma unroll
        for (int n = 0; n < D / 8; n += 2) {
            u32 b[4];
            load_b_transposed(b, tile.row(first_row + 16 * k) + 8 * n, HeadTile<D>::STRIDE);
            multiply_add(d[n], a[k], b[0], b[1]);
            multiply_add(d[n + 1], a[k], b[2], b[3]);
        }
}
