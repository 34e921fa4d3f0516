// A matrix product as cuBLASLt describes it: what its descriptors say, whether it makes sense, and the work of it.
#pragma once
#include <cstdint>
#include <string>

namespace emulator {

enum CublasStatus {
    CUBLAS_STATUS_SUCCESS = 0,
    CUBLAS_STATUS_NOT_INITIALIZED = 1,
    CUBLAS_STATUS_INVALID_VALUE = 7,
    CUBLAS_STATUS_EXECUTION_FAILED = 13,
    CUBLAS_STATUS_NOT_SUPPORTED = 15,
};

struct BlasError {
    CublasStatus status;
    std::string message;
};
[[noreturn]] inline void invalid(const std::string& message) { throw BlasError{CUBLAS_STATUS_INVALID_VALUE, message}; }
[[noreturn]] inline void unsupported(const std::string& message) {
    throw BlasError{CUBLAS_STATUS_NOT_SUPPORTED, message};
}

struct Layout {
    int type;
    uint64_t rows, columns;
    int64_t leading;
    int batches = 1;
    int64_t batch_stride = 0;
    int order = 0;
};

struct MatmulDescriptor {
    int compute, scale;
    int pointer_mode = 0;
    int transpose_a = 0, transpose_b = 0, transpose_c = 0;
    unsigned epilogue = 1;
    uintptr_t bias = 0, aux = 0;
    int64_t bias_stride = 0, aux_leading = 0, aux_stride = 0;
    int bias_type = -1, aux_type = -1;
};

struct Preference {
    int search_mode = 0;
    uint64_t max_workspace_bytes = 0;
    unsigned reductions = 7;  // how the parts of a split sum may be put together: see `rounds_parts`
    unsigned alignments[4] = {256, 256, 256, 256};  // of A, B, C, D
};

// What the heuristic decides, in the 64 bytes that a caller keeps for it.
struct Algorithm {
    uint64_t workspace_bytes;
    unsigned alignments[4];
    uint64_t rounds_parts;  // sums are split in two, and the first half is rounded to the result's type
    uint64_t reserved[4];
};
static_assert(sizeof(Algorithm) == 64);

struct Heuristic {
    Algorithm algorithm;
    size_t workspace_bytes;
    int status;
    float waves;
    int reserved[4];
};

// The operands of one call, by the caller's names.
struct Operands {
    const void* a;
    const Layout& a_layout;
    const void* b;
    const Layout& b_layout;
    const void* c;
    const Layout& c_layout;
    void* d;
    const Layout& d_layout;
};

// Throws BlasError where the shapes do not fit or something is not emulated.
void check_shapes(const MatmulDescriptor& descriptor, const Layout& a, const Layout& b, const Layout& c,
                  const Layout& d);

void submit_matmul(const MatmulDescriptor& descriptor, float alpha, float beta, const Operands& operands,
                   const Algorithm& algorithm, uintptr_t workspace, size_t workspace_bytes, void* stream);

}  // namespace emulator
