// Rotary positions (Su et al. 2021, eq. 34) in Hugging Face's half-split order: element i of a head turns with i +
// head_dim / 2.
//
// One thread for eight pairs of a head, queries and keys in one launch: block = 256,
// grid = ceil(n_tokens * (heads + kv_heads) * ceil(head_dim / 16) / 256). 4 bytes and 3 FLOPs a value; the tables
// (8 bytes a pair and token) are read once from memory and by the other heads from L1.
#include "common.cuh"

enum { BLOCK = 256 };

// Rotates every head of q and k in place by its token's position, back where `sign` is -1: that is backward.
extern "C" __global__ void __launch_bounds__(BLOCK) rope(
    bf16* __restrict__ q, int ld_q,     // [n_tokens, heads, head_dim]
    bf16* __restrict__ k, int ld_k,     // [n_tokens, kv_heads, head_dim]
    const u32* __restrict__ position,   // [n_tokens]
    const float* __restrict__ cos,      // [max_position, head_dim / 2]
    const float* __restrict__ sin,      // [max_position, head_dim / 2]
    int n_tokens, int heads, int kv_heads, int head_dim, float sign) {
    // The first halves of a token's heads, one behind the other, are a row of `octets` threads each.
    const int half = head_dim / 2, octets = (half + 7) / 8;
    const auto [token, at, n_here] = octet_of_thread(n_tokens, (heads + kv_heads) * octets * 8);
    if (n_here <= 0) return;
    const int head = at / 8 / octets, i = 8 * (at / 8 % octets), n = half - i;
    bf16* first = head < heads ? q + (size_t)token * ld_q + head * head_dim + i
                               : k + (size_t)token * ld_k + (head - heads) * head_dim + i;
    bf16* second = first + half;
    const size_t angle = (size_t)position[token] * half + i;

    float a[8], b[8], c[8], s[8];
    const bf16x8 firsts = load8_part(first, n), seconds = load8_part(second, n);
    load_part(c, cos + angle, n);
    load_part(s, sin + angle, n);
    unpack8(a, firsts);
    unpack8(b, seconds);
#pragma unroll
    for (int j = 0; j < 8; j++) {
        const float x = a[j], y = b[j];
        a[j] = x * c[j] - y * (sign * s[j]);
        b[j] = y * c[j] + x * (sign * s[j]);
    }
    store8_part(first, pack8(a), n);
    store8_part(second, pack8(b), n);
}
