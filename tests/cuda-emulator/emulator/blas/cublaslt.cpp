// The part of cuBLASLt that cudarc and Tunesmith call. libcublasLt.so is an empty library that needs this one.
#include <string.h>

#include <algorithm>

#include "../driver/api.h"
#include "matmul.h"

namespace emulator {
namespace {

template <class Body>
int blas_call(Body body) {
    try {
        body();
        return CUBLAS_STATUS_SUCCESS;
    } catch (const BlasError& error) {
        remember_refusal(Error(CUDA_ERROR_INVALID_VALUE, "cublasLt: " + error.message));
        return error.status;
    } catch (const Error& error) {
        remember_refusal(error);
        return error.code == CUDA_ERROR_INVALID_VALUE ? CUBLAS_STATUS_INVALID_VALUE : CUBLAS_STATUS_EXECUTION_FAILED;
    }
}

// Attributes by number: where each is kept, and in how many bytes.
struct Field {
    void* place;
    size_t bytes;
};
template <class T>
Field field(T& place) {
    return {&place, sizeof place};
}

Field field_of(Layout& layout, int attribute) {
    switch (attribute) {
        case 0: return field(layout.type);
        case 1: return field(layout.order);
        case 2: return field(layout.rows);
        case 3: return field(layout.columns);
        case 4: return field(layout.leading);
        case 5: return field(layout.batches);
        case 6: return field(layout.batch_stride);
        default: unsupported(format("there is no layout attribute %d here", attribute));
    }
}

Field field_of(MatmulDescriptor& descriptor, int attribute) {
    switch (attribute) {
        case 0: return field(descriptor.compute);
        case 1: return field(descriptor.scale);
        case 2: return field(descriptor.pointer_mode);
        case 3: return field(descriptor.transpose_a);
        case 4: return field(descriptor.transpose_b);
        case 5: return field(descriptor.transpose_c);
        case 7: return field(descriptor.epilogue);
        case 8: return field(descriptor.bias);
        case 10: return field(descriptor.bias_stride);
        case 11: return field(descriptor.aux);
        case 12: return field(descriptor.aux_leading);
        case 13: return field(descriptor.aux_stride);
        case 22: return field(descriptor.aux_type);
        case 26: return field(descriptor.bias_type);
        default: unsupported(format("there is no matmul attribute %d here", attribute));
    }
}

Field field_of(Preference& preference, int attribute) {
    switch (attribute) {
        case 0: return field(preference.search_mode);
        case 1: return field(preference.max_workspace_bytes);
        case 3: return field(preference.reductions);
        case 5: return field(preference.alignments[0]);
        case 6: return field(preference.alignments[1]);
        case 7: return field(preference.alignments[2]);
        case 8: return field(preference.alignments[3]);
        default: unsupported(format("there is no preference attribute %d here", attribute));
    }
}

template <class T>
int set_attribute(T* object, int attribute, const void* value, size_t bytes) {
    return blas_call([&] {
        const Field place = field_of(*object, attribute);
        if (bytes != place.bytes) invalid(format("attribute %d has %zu bytes, not %zu", attribute, place.bytes, bytes));
        memcpy(place.place, value, bytes);
    });
}

// What an algorithm asks for if it may: enough to show where a caller lends it none.
constexpr uint64_t WORKSPACE_BYTES = 64 * 1024;

}  // namespace
}  // namespace emulator

using namespace emulator;

CUDA_API int cublasLtCreate(void** handle) {
    return blas_call([&] {
        current_context();
        *handle = new int;
    });
}
CUDA_API int cublasLtDestroy(int* handle) {
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}
// There is no log.
CUDA_API int cublasLtLoggerSetLevel(int) { return CUBLAS_STATUS_SUCCESS; }
CUDA_API int cublasLtLoggerOpenFile(const char*) { return CUBLAS_STATUS_SUCCESS; }
CUDA_API size_t cublasLtGetVersion() { return 130000; }

CUDA_API int cublasLtMatrixLayoutCreate(Layout** layout, int type, uint64_t rows, uint64_t columns, int64_t leading) {
    *layout = new Layout{type, rows, columns, leading};
    return CUBLAS_STATUS_SUCCESS;
}
CUDA_API int cublasLtMatrixLayoutDestroy(Layout* layout) {
    delete layout;
    return CUBLAS_STATUS_SUCCESS;
}
CUDA_API int cublasLtMatrixLayoutSetAttribute(Layout* layout, int attribute, const void* value, size_t bytes) {
    return set_attribute(layout, attribute, value, bytes);
}

CUDA_API int cublasLtMatmulDescCreate(MatmulDescriptor** descriptor, int compute, int scale) {
    *descriptor = new MatmulDescriptor{compute, scale};
    return CUBLAS_STATUS_SUCCESS;
}
CUDA_API int cublasLtMatmulDescDestroy(MatmulDescriptor* descriptor) {
    delete descriptor;
    return CUBLAS_STATUS_SUCCESS;
}
CUDA_API int cublasLtMatmulDescSetAttribute(MatmulDescriptor* descriptor, int attribute, const void* value,
                                            size_t bytes) {
    return set_attribute(descriptor, attribute, value, bytes);
}

CUDA_API int cublasLtMatmulPreferenceCreate(Preference** preference) {
    *preference = new Preference;
    return CUBLAS_STATUS_SUCCESS;
}
CUDA_API int cublasLtMatmulPreferenceDestroy(Preference* preference) {
    delete preference;
    return CUBLAS_STATUS_SUCCESS;
}
CUDA_API int cublasLtMatmulPreferenceSetAttribute(Preference* preference, int attribute, const void* value,
                                                  size_t bytes) {
    return set_attribute(preference, attribute, value, bytes);
}

CUDA_API int cublasLtMatmulAlgoGetHeuristic(void*, MatmulDescriptor* descriptor, Layout* a, Layout* b, Layout* c,
                                            Layout* d, Preference* preference, int requested, Heuristic* results,
                                            int* count) {
    return blas_call([&] {
        *count = 0;
        check_shapes(*descriptor, *a, *b, *c, *d);
        if (requested < 1) invalid("no algorithm is asked for");
        results[0] = {};
        Algorithm& algorithm = results[0].algorithm;
        algorithm.workspace_bytes = std::min(preference->max_workspace_bytes, WORKSPACE_BYTES);
        memcpy(algorithm.alignments, preference->alignments, sizeof algorithm.alignments);
        // In place (1) or in the result's type (4): what may be chosen is chosen here.
        algorithm.rounds_parts = (preference->reductions & (1 | 4)) != 0;
        results[0].workspace_bytes = algorithm.workspace_bytes;
        results[0].waves = 1;
        *count = 1;
    });
}

CUDA_API int cublasLtMatmul(void*, MatmulDescriptor* descriptor, const float* alpha, const void* a, Layout* a_layout,
                            const void* b, Layout* b_layout, const float* beta, const void* c, Layout* c_layout,
                            void* d, Layout* d_layout, const Algorithm* algorithm, void* workspace,
                            size_t workspace_bytes, void* stream) {
    return blas_call([&] {
        if (device_error::code() != CUDA_SUCCESS)
            throw BlasError{CUBLAS_STATUS_EXECUTION_FAILED, "the device has failed before"};
        submit_matmul(*descriptor, *alpha, *beta, {a, *a_layout, b, *b_layout, c, *c_layout, d, *d_layout},
                      algorithm ? *algorithm : Algorithm{}, (uintptr_t)workspace, workspace_bytes, stream);
    });
}
