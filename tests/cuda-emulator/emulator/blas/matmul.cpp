#include "matmul.h"

#include <string.h>

#include <array>
#include <memory>

#include "../counters.h"
#include "../driver/launch.h"
#include "../driver/stream.h"
#include "../memory/memory.h"
#include "gemm.h"

namespace emulator {
namespace {

Element element_of(int type) {
    switch (type) {
        case 0: return Element::F32;
        case 2: return Element::F16;
        case 14: return Element::BF16;
        default: unsupported(format("data type %d is not emulated: only f32 (0), f16 (2) and bf16 (14)", type));
    }
}

Matrix matrix(const Layout& layout, const void* data) {
    return {(void*)data, element_of(layout.type), layout.rows, layout.columns, (size_t)layout.leading};
}

// Terms `start..start + length` of every sum.
Gemm narrowed(Gemm gemm, size_t start, size_t length) {
    const auto narrow = [&](Matrix& matrix, bool terms_are_rows) {
        const size_t elements = terms_are_rows ? start : start * matrix.leading;
        matrix.data = (void*)((uintptr_t)matrix.data + elements * bytes(matrix.element));
        (terms_are_rows ? matrix.rows : matrix.columns) = length;
    };
    narrow(gemm.a, gemm.transpose_a);
    narrow(gemm.b, !gemm.transpose_b);
    return gemm;
}

// Two halves of the terms, one after the other: what the first gives is rounded to the result's type.
void multiply_halves(const Gemm& gemm, unsigned threads) {
    const size_t depth = gemm.transpose_a ? gemm.a.rows : gemm.a.columns, half = depth / 2;
    if (!half) return multiply(gemm, threads);
    Gemm first = narrowed(gemm, 0, half), second = narrowed(gemm, half, depth - half);
    first.bias = nullptr;
    first.activation = Activation::None;
    first.before_activation = {};
    second.c = gemm.d;
    second.beta = 1;
    multiply(first, threads);
    multiply(second, threads);
}

enum Epilogue { DEFAULT = 1, RELU = 2, BIAS = 4, GELU = 32, AUX = 128 };

class Matmul : public Operation {
public:
    Matmul(int device, const Gemm& gemm, std::array<int64_t, 6> strides, int batches, bool rounds_parts,
           uintptr_t workspace, size_t workspace_bytes)
        : device(device),
          gemm(gemm),
          strides(strides),
          batches(batches),
          rounds_parts(rounds_parts),
          workspace(workspace),
          workspace_bytes(workspace_bytes) {}

    void run(bool in_graph) const override {
        count_towards_failure();
        const uint64_t depth = gemm.transpose_a ? gemm.a.rows : gemm.a.columns;
        counters::count_blas(in_graph, 2 * gemm.d.rows * gemm.d.columns * depth * batches);
        const bool executes = config().execute;
        if (workspace_bytes) {
            check_range("workspace", workspace, workspace_bytes);
            // It may hold nothing that anyone still needs.
            if (executes) memset((void*)workspace, 0xff, workspace_bytes);
        }
        for (int batch = 0; batch < batches; batch++) {
            Gemm one = gemm;
            const std::array<Matrix*, 5> operands = {&one.a, &one.b, &one.c, &one.d, &one.before_activation};
            for (size_t i = 0; i < operands.size(); i++)
                if (operands[i]->data) advance(operands[i]->data, strides[i] * batch, operands[i]->element);
            if (one.bias) advance(one.bias, strides[5] * batch, one.bias_element);
            check(one, executes);
            if (!executes) continue;
            (rounds_parts ? multiply_halves : multiply)(one, config().threads);
            mark(one.d);
            if (one.before_activation.data) mark(one.before_activation);
        }
    }

private:
    const int device;
    const Gemm gemm;
    const std::array<int64_t, 6> strides;  // of A, B, C, D, the auxiliary output and the bias
    const int batches;
    const bool rounds_parts;
    const uintptr_t workspace;
    const size_t workspace_bytes;

    template <class T>
    static void advance(T*& pointer, int64_t elements, Element element) {
        pointer = (T*)((uintptr_t)pointer + elements * (int64_t)bytes(element));
    }

    void check_range(const char* name, uintptr_t address, size_t size) const {
        try {
            memory::check_range(device, address, size, format("matrix product: %s", name));
        } catch (const Error& error) {
            throw Error(CUDA_ERROR_ILLEGAL_ADDRESS, error.what());
        }
    }

    void check_matrix(const char* name, const Matrix& matrix, bool is_read) const {
        const size_t column_bytes = matrix.rows * bytes(matrix.element),
                     stride = matrix.leading * bytes(matrix.element);
        check_range(name, (uintptr_t)matrix.data, stride * (matrix.columns - 1) + column_bytes);
        for (size_t column = 0; is_read && column < matrix.columns; column++)
            if (const auto where = memory::find_uninitialised((uintptr_t)matrix.data + column * stride, column_bytes))
                throw Error(CUDA_ERROR_LAUNCH_FAILED,
                            format("matrix product: %s has no value at %s", name, memory::describe(*where).c_str()));
    }

    void check(const Gemm& one, bool executes) const {
        check_matrix("operand A", one.a, executes);
        check_matrix("operand B", one.b, executes);
        if (one.beta != 0) check_matrix("operand C", one.c, executes);
        check_matrix("the result D", one.d, false);
        if (one.before_activation.data) check_matrix("the auxiliary result", one.before_activation, false);
        if (one.bias)
            check_matrix("the bias", {(void*)one.bias, one.bias_element, one.d.rows, 1, one.d.rows}, executes);
    }

    static void mark(const Matrix& matrix) {
        for (size_t column = 0; column < matrix.columns; column++)
            memory::mark_initialised((uintptr_t)matrix.data + column * matrix.leading * bytes(matrix.element),
                                     matrix.rows * bytes(matrix.element));
    }
};

}  // namespace

void check_shapes(const MatmulDescriptor& descriptor, const Layout& a, const Layout& b, const Layout& c,
                  const Layout& d) {
    const uint64_t rows = descriptor.transpose_a ? a.columns : a.rows, k = descriptor.transpose_a ? a.rows : a.columns;
    const uint64_t other_k = descriptor.transpose_b ? b.columns : b.rows,
                   columns = descriptor.transpose_b ? b.rows : b.columns;
    if (k != other_k || rows != d.rows || columns != d.columns || c.rows != d.rows || c.columns != d.columns)
        invalid(format("shapes do not fit: op(A) is %lux%lu, op(B) %lux%lu, C %lux%lu, D %lux%lu", rows, k, other_k,
                       columns, c.rows, c.columns, d.rows, d.columns));
    for (const Layout* layout : {&a, &b, &c, &d}) {
        if (layout->leading < (int64_t)layout->rows)
            invalid(format("a leading dimension of %ld is less than %lu rows", layout->leading, layout->rows));
        if (layout->batches != d.batches) invalid("the layouts have different numbers of batches");
        if (layout->order != 0) unsupported("only column-major matrices are emulated");
        element_of(layout->type);
    }
    if (descriptor.scale != 0) unsupported("only scales in f32 are emulated");
    if (descriptor.pointer_mode != 0) unsupported("only alpha and beta in host memory are emulated");
    if (descriptor.transpose_c) unsupported("a transposed C is not supported, also not by cuBLASLt");
    if (descriptor.compute != 68 && descriptor.compute != 69 && descriptor.compute != 74 && descriptor.compute != 75 &&
        descriptor.compute != 77)
        unsupported("only computation in f32 is emulated");
    const unsigned epilogue = descriptor.epilogue;
    if (epilogue & ~(DEFAULT | RELU | BIAS | GELU | AUX) || (epilogue & RELU && epilogue & AUX))
        unsupported(format("epilogue %u is not emulated", epilogue));
    if (epilogue & BIAS && !descriptor.bias) invalid("an epilogue with a bias, but no bias");
    if (epilogue & AUX && !descriptor.aux) invalid("an epilogue with an auxiliary output, but none is given");
}

void submit_matmul(const MatmulDescriptor& descriptor, float alpha, float beta, const Operands& operands,
                   const Algorithm& algorithm, uintptr_t workspace, size_t workspace_bytes, void* stream) {
    const auto& [a, a_layout, b, b_layout, c, c_layout, d, d_layout] = operands;
    check_shapes(descriptor, a_layout, b_layout, c_layout, d_layout);
    if (workspace_bytes < algorithm.workspace_bytes)
        invalid(format("the algorithm needs %lu bytes of workspace, but has %zu", algorithm.workspace_bytes,
                       workspace_bytes));
    const std::array<const void*, 4> pointers = {a, b, c, d};
    for (size_t i = 0; i < pointers.size(); i++)
        if (algorithm.alignments[i] && (uintptr_t)pointers[i] % algorithm.alignments[i])
            unsupported(format("operand %c is not aligned to %u bytes, as the heuristic was told", char('A' + i),
                               algorithm.alignments[i]));
    if (d_layout.rows == 0 || d_layout.columns == 0 || a_layout.rows == 0 || a_layout.columns == 0) return;

    Gemm gemm;
    gemm.a = matrix(a_layout, a);
    gemm.b = matrix(b_layout, b);
    gemm.c = matrix(c_layout, c);
    gemm.d = matrix(d_layout, d);
    gemm.transpose_a = descriptor.transpose_a;
    gemm.transpose_b = descriptor.transpose_b;
    gemm.alpha = alpha;
    gemm.beta = beta;
    if (descriptor.epilogue & BIAS) {
        gemm.bias = (const void*)descriptor.bias;
        gemm.bias_element = descriptor.bias_type < 0 ? gemm.d.element : element_of(descriptor.bias_type);
    }
    if (descriptor.epilogue & RELU) gemm.activation = Activation::Relu;
    if (descriptor.epilogue & GELU) gemm.activation = Activation::Gelu;
    if (descriptor.epilogue & AUX) {
        gemm.before_activation = gemm.d;
        gemm.before_activation.data = (void*)descriptor.aux;
        gemm.before_activation.leading = descriptor.aux_leading;
        if (descriptor.aux_type >= 0) gemm.before_activation.element = element_of(descriptor.aux_type);
    }
    const std::array<int64_t, 6> strides = {a_layout.batch_stride, b_layout.batch_stride, c_layout.batch_stride,
                                            d_layout.batch_stride, descriptor.aux_stride, descriptor.bias_stride};
    submit(stream, std::make_shared<Matmul>(current_context().device, gemm, strides, d_layout.batches,
                                            algorithm.rounds_parts && gemm.d.element != Element::F32, workspace,
                                            std::min(workspace_bytes, algorithm.workspace_bytes)));
}

}  // namespace emulator
