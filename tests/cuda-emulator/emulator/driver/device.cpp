// Initialisation, devices, contexts, error texts.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "api.h"

namespace emulator {
namespace {

std::atomic<bool> is_initialised{false};
thread_local Context* current = nullptr;

// CUDA_VISIBLE_DEVICES as the driver reads it: numbers up to the first that is no device.
int visible_devices() {
    const int devices = config().devices;
    const char* const list = getenv("CUDA_VISIBLE_DEVICES");
    if (!list) return devices;
    int count = 0;
    for (const char* at = list; *at;) {
        char* end;
        const long ordinal = strtol(at, &end, 10);
        if (end == at || ordinal < 0 || ordinal >= devices) break;
        count++;
        at = *end == ',' ? end + 1 : end;
    }
    return count;
}

void check_device(CUdevice device) {
    if (device < 0 || device >= visible_devices())
        throw Error(CUDA_ERROR_INVALID_DEVICE, format("there is no device %d", device));
}

// ---- attributes (CUdevice_attribute)

struct Attribute {
    int key, value;
};
constexpr Attribute ATTRIBUTES[] = {
    {1, 1024},        // MAX_THREADS_PER_BLOCK
    {2, 1024},        // MAX_BLOCK_DIM_X
    {3, 1024},        // MAX_BLOCK_DIM_Y
    {4, 64},          // MAX_BLOCK_DIM_Z
    {5, 2147483647},  // MAX_GRID_DIM_X
    {6, 65535},       // MAX_GRID_DIM_Y
    {7, 65535},       // MAX_GRID_DIM_Z
    {8, 48 * 1024},   // MAX_SHARED_MEMORY_PER_BLOCK
    {9, 64 * 1024},   // TOTAL_CONSTANT_MEMORY
    {10, 32},         // WARP_SIZE
    {12, 65536},      // MAX_REGISTERS_PER_BLOCK
    {13, 1'980'000},  // CLOCK_RATE, kHz
    {15, 1},          // GPU_OVERLAP
    {16, 4},          // MULTIPROCESSOR_COUNT
    {19, 1},          // CAN_MAP_HOST_MEMORY
    {31, 1},          // CONCURRENT_KERNELS
    {36, 2'619'000},  // MEMORY_CLOCK_RATE, kHz
    {37, 5120},       // GLOBAL_MEMORY_BUS_WIDTH
    {38, 50 << 20},   // L2_CACHE_SIZE
    {39, 2048},       // MAX_THREADS_PER_MULTIPROCESSOR
    {40, 1},          // ASYNC_ENGINE_COUNT
    {41, 1},          // UNIFIED_ADDRESSING
    {78, 1},          // STREAM_PRIORITIES_SUPPORTED
    {82, 65536},      // MAX_REGISTERS_PER_MULTIPROCESSOR
    {83, 1},          // MANAGED_MEMORY
    {106, 32},        // MAX_BLOCKS_PER_MULTIPROCESSOR
    {111, 1024},      // RESERVED_SHARED_MEMORY_PER_BLOCK
    {115, 1},         // MEMORY_POOLS_SUPPORTED
};

int attribute(int key) {
    switch (key) {
        case 75: return config().compute_capability / 10;
        case 76: return config().compute_capability % 10;
        case 81: return max_shared_bytes() + 1024;  // MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
        case 97: return max_shared_bytes();         // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
    }
    for (const Attribute& row : ATTRIBUTES)
        if (row.key == key) return row.value;
    return 0;
}

// ---- contexts

std::mutex mutex;
std::map<int, Context> primary;
std::vector<std::unique_ptr<Context>> others;
constexpr int LIMITS = 8;
size_t limits[LIMITS] = {1024, 1 << 20, 8 << 20};  // stack, printf, heap

size_t& limit(int key) {
    if (key < 0 || key >= LIMITS) throw Error(CUDA_ERROR_INVALID_VALUE, format("there is no limit %d", key));
    return limits[key];
}

}  // namespace

void require_initialised() {
    if (!is_initialised) throw Error(CUDA_ERROR_NOT_INITIALIZED, "cuInit was not called");
}

Context& current_context() {
    if (!current) throw Error(CUDA_ERROR_INVALID_CONTEXT, "the thread has no current context");
    return *current;
}

int max_shared_bytes() {
    const int capability = config().compute_capability;
    const int kib = capability >= 90                       ? 227
                    : capability == 80 || capability == 87 ? 163
                    : capability >= 80                     ? 99
                    : capability >= 75                     ? 64
                                                           : 96;
    return kib * 1024;
}

}  // namespace emulator

using namespace emulator;

CUDA_API CUresult cuInit(unsigned flags) {
    return call(Needs::Nothing, [&] {
        if (flags) throw Error(CUDA_ERROR_INVALID_VALUE, "cuInit takes no flags");
        if (visible_devices() == 0) throw Error(CUDA_ERROR_NO_DEVICE, "CUDA_VISIBLE_DEVICES names no device");
        is_initialised = true;
    });
}

CUDA_API CUresult cuDriverGetVersion(int* version) {
    return call(Needs::Nothing, [&] { *version = config().driver_version; });
}

CUDA_API CUresult cuGetErrorName(CUresult code, const char** name) {
    *name = status_text(code).name;
    return CUDA_SUCCESS;
}

CUDA_API CUresult cuGetErrorString(CUresult code, const char** text) {
    *text = error_message(code);
    return CUDA_SUCCESS;
}

CUDA_API CUresult cuDeviceGetCount(int* count) {
    return call(Needs::Initialised, [&] { *count = visible_devices(); });
}

CUDA_API CUresult cuDeviceGet(CUdevice* device, int ordinal) {
    return call(Needs::Initialised, [&] {
        check_device(ordinal);
        *device = ordinal;
    });
}

CUDA_API CUresult cuDeviceTotalMem_v2(size_t* bytes, CUdevice device) {
    return call(Needs::Initialised, [&] {
        check_device(device);
        *bytes = config().memory;
    });
}

CUDA_API CUresult cuDeviceGetName(char* name, int size, CUdevice device) {
    return call(Needs::Initialised, [&] {
        check_device(device);
        snprintf(name, size, "emulated CUDA device");
    });
}

CUDA_API CUresult cuDeviceGetUuid_v2(char* uuid, CUdevice device) {
    return call(Needs::Initialised, [&] {
        check_device(device);
        memset(uuid, 0xe0 + device, 16);
    });
}

CUDA_API CUresult cuDeviceGetAttribute(int* value, int key, CUdevice device) {
    return call(Needs::Initialised, [&] {
        check_device(device);
        *value = attribute(key);
    });
}

CUDA_API CUresult cuDevicePrimaryCtxRetain(Context** context, CUdevice device) {
    return call(Needs::Initialised, [&] {
        check_device(device);
        std::lock_guard lock(mutex);
        *context = &primary.try_emplace(device, Context{device}).first->second;
    });
}

// The primary context stays: its device's memory outlives it in tests that only count.
CUDA_API CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
    return call(Needs::Initialised, [&] { check_device(device); });
}

CUDA_API CUresult cuCtxCreate_v4(Context** context, void*, unsigned, CUdevice device) {
    return call(Needs::Initialised, [&] {
        check_device(device);
        std::lock_guard lock(mutex);
        others.push_back(std::make_unique<Context>(Context{device}));
        *context = current = others.back().get();
    });
}

CUDA_API CUresult cuCtxDestroy_v2(Context* context) {
    return call(Needs::Initialised, [&] {
        if (current == context) current = nullptr;
        std::lock_guard lock(mutex);
        std::erase_if(others, [&](const auto& other) { return other.get() == context; });
    });
}

CUDA_API CUresult cuCtxSetCurrent(Context* context) {
    return call(Needs::Initialised, [&] { current = context; });
}

CUDA_API CUresult cuCtxGetCurrent(Context** context) {
    return call(Needs::Initialised, [&] { *context = current; });
}

CUDA_API CUresult cuCtxGetDevice(CUdevice* device) {
    return call(Needs::Initialised, [&] { *device = current_context().device; });
}

CUDA_API CUresult cuCtxSetFlags(unsigned) {
    return call(Needs::Context, [] {});
}

CUDA_API CUresult cuCtxGetLimit(size_t* value, int key) {
    return call(Needs::Context, [&] { *value = limit(key); });
}

CUDA_API CUresult cuCtxSetLimit(int key, size_t value) {
    return call(Needs::Context, [&] { limit(key) = value; });
}

// How L1 and shared memory share their bytes makes no difference here.
CUDA_API CUresult cuCtxGetCacheConfig(int* value) {
    return call(Needs::Context, [&] { *value = 0; });
}

CUDA_API CUresult cuCtxSetCacheConfig(int) {
    return call(Needs::Context, [] {});
}

CUDA_API CUresult cuCtxGetStreamPriorityRange(int* least, int* greatest) {
    return call(Needs::Context, [&] {
        *least = 0;
        *greatest = -5;
    });
}

CUDA_API CUresult cuProfilerStart() {
    return call(Needs::Context, [] {});
}

CUDA_API CUresult cuProfilerStop() {
    return call(Needs::Context, [] {});
}
