// Rows that have labels, out of and back into all rows; and plain copies.
//
// One thread for eight neighbours: block = 256, grid = ceil(rows written * ceil(width / 8) / 256). 4 bytes a value
// copied, 2 a zero.
#include "common.cuh"

enum { BLOCK = 256 };

// y[r] = x[rows[r]], zero where rows[r] >= n_tokens: padding.
extern "C" __global__ void __launch_bounds__(BLOCK) gather_rows(
    bf16* __restrict__ y, int ld_y,       // [n_rows, width]
    const bf16* __restrict__ x, int ld_x, // [n_tokens, width]
    const u32* __restrict__ rows,         // [n_rows]
    int n_rows, int n_tokens, int width) {
    const Octet at = octet_of_thread(n_rows, width);
    if (at.n <= 0) return;
    const u32 token = rows[at.row];
    at.store(y, ld_y, load8_part(x + (size_t)token * ld_x + at.column, token < n_tokens ? at.n : 0));
}

// dx[rows[r]] = dy[r], all other rows of dx are zero.
extern "C" __global__ void __launch_bounds__(BLOCK) scatter_rows(
    bf16* __restrict__ dx, int ld_dx,       // [n_tokens, width]
    const bf16* __restrict__ dy, int ld_dy, // [n_rows, width]
    const u32* __restrict__ rows,           // [n_rows], strictly ascending, then padding: n_tokens
    int n_rows, int n_tokens, int width) {
    const Octet at = octet_of_thread(n_tokens, width);
    // Eleven reads from L1 for 2,048 rows: cheaper than a second kernel that writes zeros first.
    const int r = first_not_below(rows, n_rows, at.row);
    const bool has_row = r < n_rows && rows[r] == at.row;
    at.store(dx, ld_dx, load8_part(dy + (size_t)r * ld_dy + at.column, has_row ? at.n : 0));
}

// to = from.
extern "C" __global__ void __launch_bounds__(BLOCK) copy_rows(
    bf16* __restrict__ to, int ld_to,           // [n_rows, width]
    const bf16* __restrict__ from, int ld_from, // [n_rows, width]
    int n_rows, int width) {
    const Octet at = octet_of_thread(n_rows, width);
    at.store(to, ld_to, at.load(from, ld_from));
}
