// D = activation(alpha op(A) op(B) + beta C + bias), column by column, with sums in f32.
#pragma once
#include <cstddef>
#include <cstdint>

namespace emulator {

enum class Element { F32, F16, BF16 };
size_t bytes(Element element);

struct Matrix {
    void* data = nullptr;
    Element element = Element::F32;
    size_t rows = 0, columns = 0;  // as stored
    size_t leading = 0;            // from a column to the next

    float load(size_t row, size_t column) const;
    void store(size_t row, size_t column, float value) const;
};

enum class Activation { None, Relu, Gelu };

struct Gemm {
    Matrix a, b, c, d;
    bool transpose_a = false, transpose_b = false;
    float alpha = 1, beta = 0;
    const void* bias = nullptr;  // [d.rows]
    Element bias_element = Element::F32;
    Activation activation = Activation::None;
    Matrix before_activation;  // written where it has data
};

// `threads` of the host each do some columns: the result does not depend on how many.
void multiply(const Gemm& gemm, unsigned threads);

}  // namespace emulator
