// The usual blocked product (Goto and van de Geijn 2008): panels of A and B, packed as f32 so that the inner loop runs
// over memory, and a tile of sums in registers.
#include "gemm.h"

#include <algorithm>
#include <cmath>
#include <thread>
#include <vector>

#include "../instructions/numbers.h"
#include "../size.h"

namespace emulator {
namespace {

constexpr size_t TILE_ROWS = 16, TILE_COLUMNS = 6;  // sums that fit in 12 registers of AVX2, or in 6 of AVX-512
constexpr size_t BLOCK_K = 256, BLOCK_ROWS = 128;   // a block of A is 128 KiB, half of an L2 cache or less

using Vector = float __attribute__((vector_size(TILE_ROWS * sizeof(float)), aligned(4)));

// sums += a b for a panel of each: a is [k][TILE_ROWS], b is [k][TILE_COLUMNS].
__attribute__((target_clones("avx512f", "default"), optimize("fp-contract=fast"))) void multiply_tile(
    const float* a, const float* b, size_t k, float* sums, size_t leading) {
    Vector sum[TILE_COLUMNS] = {};
    for (size_t i = 0; i < k; i++) {
        const Vector column = *(const Vector*)(a + i * TILE_ROWS);
#pragma GCC unroll 6
        for (size_t j = 0; j < TILE_COLUMNS; j++) sum[j] += column * b[i * TILE_COLUMNS + j];
    }
    for (size_t j = 0; j < TILE_COLUMNS; j++) *(Vector*)(sums + j * leading) += sum[j];
}

float element(const Matrix& matrix, bool transpose, size_t row, size_t column) {
    return transpose ? matrix.load(column, row) : matrix.load(row, column);
}

// Panels of so many rows of op(A), one behind another, each k after k; zeros where there are no rows left.
void pack_rows(const Matrix& a, bool transpose, size_t first_row, size_t rows, size_t first_k, size_t k, float* to) {
    for (size_t panel = 0; panel < rows; panel += TILE_ROWS)
        for (size_t i = 0; i < k; i++)
            for (size_t row = panel; row < panel + TILE_ROWS; row++)
                *to++ = row < rows ? element(a, transpose, first_row + row, first_k + i) : 0.0f;
}

void pack_columns(const Matrix& b, bool transpose, size_t first_column, size_t columns, size_t first_k, size_t k,
                  float* to) {
    for (size_t panel = 0; panel < columns; panel += TILE_COLUMNS)
        for (size_t i = 0; i < k; i++)
            for (size_t column = panel; column < panel + TILE_COLUMNS; column++)
                *to++ = column < columns ? element(b, transpose, first_k + i, first_column + column) : 0.0f;
}

float gelu(float x) {  // the approximation that cuBLAS uses
    return 0.5f * x * (1.0f + std::tanh(0.7978845608f * (x + 0.044715f * x * x * x)));
}

void finish(const Gemm& gemm, size_t row, size_t column, float sum) {
    float value = gemm.alpha * sum;
    if (gemm.beta != 0) value += gemm.beta * gemm.c.load(row, column);
    if (gemm.bias) value += Matrix{(void*)gemm.bias, gemm.bias_element, gemm.d.rows, 1, gemm.d.rows}.load(row, 0);
    if (gemm.before_activation.data) gemm.before_activation.store(row, column, value);
    if (gemm.activation == Activation::Relu) value = std::max(value, 0.0f);
    if (gemm.activation == Activation::Gelu) value = gelu(value);
    gemm.d.store(row, column, value);
}

void multiply_columns(const Gemm& gemm, size_t first, size_t columns) {
    const size_t rows = gemm.d.rows, depth = gemm.transpose_a ? gemm.a.rows : gemm.a.columns;
    const size_t leading = round_up(rows, TILE_ROWS);
    std::vector<float> sums(leading * round_up(columns, TILE_COLUMNS));
    std::vector<float> b_panels(BLOCK_K * round_up(columns, TILE_COLUMNS)), a_panels(BLOCK_K * BLOCK_ROWS);
    for (size_t k = 0; k < depth; k += BLOCK_K) {
        const size_t some_k = std::min(BLOCK_K, depth - k);
        pack_columns(gemm.b, gemm.transpose_b, first, columns, k, some_k, b_panels.data());
        for (size_t row = 0; row < rows; row += BLOCK_ROWS) {
            const size_t some_rows = std::min(BLOCK_ROWS, rows - row);
            pack_rows(gemm.a, gemm.transpose_a, row, some_rows, k, some_k, a_panels.data());
            for (size_t column = 0; column < columns; column += TILE_COLUMNS)
                for (size_t tile = 0; tile < some_rows; tile += TILE_ROWS)
                    multiply_tile(&a_panels[tile * some_k], &b_panels[column * some_k], some_k,
                                  &sums[column * leading + row + tile], leading);
        }
    }
    for (size_t column = 0; column < columns; column++)
        for (size_t row = 0; row < rows; row++) finish(gemm, row, first + column, sums[column * leading + row]);
}

}  // namespace

size_t bytes(Element element) { return element == Element::F32 ? 4 : 2; }

float Matrix::load(size_t row, size_t column) const {
    const size_t i = row + column * leading;
    switch (element) {
        case Element::F32: return ((const float*)data)[i];
        case Element::F16: return ((const F16*)data)[i];
        default: return ((const BF16*)data)[i];
    }
}

void Matrix::store(size_t row, size_t column, float value) const {
    const size_t i = row + column * leading;
    switch (element) {
        case Element::F32: ((float*)data)[i] = value; break;
        case Element::F16: ((F16*)data)[i] = F16(value); break;
        case Element::BF16: ((BF16*)data)[i] = BF16(value); break;
    }
}

void multiply(const Gemm& gemm, unsigned threads) {
    const size_t columns = gemm.d.columns, share = round_up((columns + threads - 1) / threads, TILE_COLUMNS);
    std::vector<std::thread> others;
    for (size_t first = share; first < columns; first += share)
        others.emplace_back(
            [&gemm, first, some = std::min(share, columns - first)] { multiply_columns(gemm, first, some); });
    multiply_columns(gemm, 0, std::min(share, columns));
    for (std::thread& other : others) other.join();
}

}  // namespace emulator
