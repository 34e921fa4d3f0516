// Allocations, copies and memsets.
#include "../memory/memory.h"

#include <string.h>

#include <vector>

#include "../counters.h"
#include "stream.h"

namespace emulator {
namespace {

using counters::Copy;

const char* name_of(Copy direction) {
    switch (direction) {
        case Copy::HostToDevice: return "copy from the host";
        case Copy::DeviceToHost: return "copy to the host";
        default: return "copy on the device";
    }
}

class CopyOperation : public Operation {
public:
    // The devices are those of each end; the host's memory is on none.
    CopyOperation(Copy direction, int to_device, uintptr_t to, int from_device, uintptr_t from, size_t bytes)
        : direction(direction), to_device(to_device), to(to), from_device(from_device), from(from), bytes(bytes) {
        check();
    }
    // From pageable memory of the host, which the caller may change as soon as the call returns.
    CopyOperation(int to_device, uintptr_t to, std::vector<char> staged)
        : direction(Copy::HostToDevice), to_device(to_device), to(to), bytes(staged.size()), staged(std::move(staged)) {
        from = (uintptr_t)this->staged.data();
        check();
    }

    void run(bool) const override {
        check();
        counters::count_copy(direction, bytes);
        if (!config().execute) {
            // There is nothing to be read; zeros are better than what the host's memory happens to hold.
            if (direction == Copy::DeviceToHost) memset((void*)to, 0, bytes);
            return;
        }
        memmove((void*)to, (const void*)from, bytes);
        if (direction == Copy::HostToDevice) memory::mark_initialised(to, bytes);
        if (direction == Copy::DeviceToDevice) memory::copy_state(to, from, bytes);
    }

private:
    const Copy direction;
    const int to_device;
    const uintptr_t to;
    const int from_device = 0;
    uintptr_t from = 0;
    const size_t bytes;
    const std::vector<char> staged;

    void check() const {
        if (direction != Copy::HostToDevice) memory::check_range(from_device, from, bytes, name_of(direction));
        if (direction != Copy::DeviceToHost) memory::check_range(to_device, to, bytes, name_of(direction));
    }
};

class MemsetOperation : public Operation {
public:
    MemsetOperation(int device, uintptr_t to, std::vector<unsigned char> pattern, size_t count)
        : device(device), to(to), pattern(std::move(pattern)), count(count) {
        check();
    }
    void run(bool) const override {
        check();
        const size_t bytes = count * pattern.size();
        counters::count_memset(bytes);
        if (!config().execute) return;
        for (size_t i = 0; pattern.size() > 1 && i < count; i++)
            memcpy((char*)to + i * pattern.size(), pattern.data(), pattern.size());
        if (pattern.size() == 1) memset((void*)to, pattern[0], bytes);
        memory::mark_initialised(to, bytes);
    }

private:
    const int device;
    const uintptr_t to;
    const std::vector<unsigned char> pattern;
    const size_t count;

    void check() const { memory::check_range(device, to, count * pattern.size(), "memset"); }
};

int device() { return current_context().device; }

CUdeviceptr allocate(size_t bytes) {
    const CUdeviceptr address = memory::allocate(device(), bytes);
    counters::count_allocation(bytes, memory::used_bytes(device()));
    return address;
}

template <class T>
CUresult memset_call(CUdeviceptr to, T value, size_t count, void* stream) {
    return call(Needs::Context, [&] {
        std::vector<unsigned char> pattern(sizeof value);
        memcpy(pattern.data(), &value, sizeof value);
        submit(stream, std::make_shared<MemsetOperation>(device(), to, std::move(pattern), count));
    });
}

template <class T>
CUresult memset_now(CUdeviceptr to, T value, size_t count) {
    const CUresult status = call(Needs::Context, [] { refuse_in_capture("a memset that is not asynchronous"); });
    return status == CUDA_SUCCESS ? memset_call(to, value, count, nullptr) : status;
}

void copy_from_host(CUdeviceptr to, const void* from, size_t bytes, void* stream) {
    if (config().lazy_streams && !stream_of(stream)->capture && !memory::is_pinned(from)) {
        std::vector<char> staged((const char*)from, (const char*)from + bytes);
        submit(stream, std::make_shared<CopyOperation>(device(), to, std::move(staged)));
    } else {
        submit(stream, std::make_shared<CopyOperation>(Copy::HostToDevice, device(), to, 0, (uintptr_t)from, bytes));
    }
}

void copy_to_host(void* to, CUdeviceptr from, size_t bytes, void* stream) {
    submit(stream, std::make_shared<CopyOperation>(Copy::DeviceToHost, 0, (uintptr_t)to, device(), from, bytes));
    // Into pageable memory a copy is done when the call returns.
    const StreamPtr target = stream_of(stream);
    if (!target->capture && !memory::is_pinned(to)) flush(*target);
}

void copy_on_device(CUdeviceptr to, CUdeviceptr from, size_t bytes, void* stream) {
    submit(stream, std::make_shared<CopyOperation>(Copy::DeviceToDevice, device(), to, device(), from, bytes));
}

template <class Body>
CUresult copy_now(Body body) {
    return call_and_wait([&] {
        refuse_in_capture("a copy that is not asynchronous");
        body();
        flush(*stream_of(nullptr));
    });
}

class FreeOperation : public Operation {
public:
    explicit FreeOperation(CUdeviceptr address) : address(address) {}
    void run(bool) const override { memory::release(address); }

private:
    const CUdeviceptr address;
};

int pool;  // the only one: pools are not emulated beyond their existence

}  // namespace
}  // namespace emulator

using namespace emulator;

// ---- device memory

CUDA_API CUresult cuMemAlloc_v2(CUdeviceptr* address, size_t bytes) {
    return call(Needs::Context, [&] {
        refuse_in_capture("an allocation");
        *address = allocate(bytes);
    });
}

CUDA_API CUresult cuMemAllocManaged(CUdeviceptr* address, size_t bytes, unsigned) {
    return cuMemAlloc_v2(address, bytes);
}

// Graphs with nodes that allocate are not emulated.
CUDA_API CUresult cuMemAllocAsync(CUdeviceptr* address, size_t bytes, void* stream) {
    return call(Needs::Context, [&] {
        refuse_on_captured(*stream_of(stream), "an allocation");
        *address = allocate(bytes);
    });
}

CUDA_API CUresult cuMemAllocFromPoolAsync(CUdeviceptr* address, size_t bytes, void*, void* stream) {
    return cuMemAllocAsync(address, bytes, stream);
}

CUDA_API CUresult cuMemFree_v2(CUdeviceptr address) {
    return call(Needs::Context, [&] {
        refuse_in_capture("a free");
        flush_all();
        if (address) memory::release(address);
    });
}

CUDA_API CUresult cuMemFreeAsync(CUdeviceptr address, void* stream) {
    return call(Needs::Context, [&] {
        refuse_on_captured(*stream_of(stream), "a free");
        if (address) submit(stream, std::make_shared<FreeOperation>(address));
    });
}

CUDA_API CUresult cuMemGetInfo_v2(size_t* free_bytes, size_t* total_bytes) {
    return call(Needs::Context, [&] {
        *total_bytes = config().memory;
        *free_bytes = config().memory - memory::used_bytes(device());
    });
}

CUDA_API CUresult cuMemAdvise_v2(CUdeviceptr, size_t, int, uint64_t) {
    return call(Needs::Context, [] {});
}

CUDA_API CUresult cuMemPrefetchAsync_v2(CUdeviceptr, size_t, uint64_t, unsigned, void*) {
    return call(Needs::Context, [] {});
}

// ---- pinned memory of the host

CUDA_API CUresult cuMemHostAlloc(void** address, size_t bytes, unsigned) {
    return call(Needs::Context, [&] {
        refuse_in_capture("an allocation of pinned memory");
        *address = memory::allocate_host(bytes);
        counters::count_host_allocation(bytes);
    });
}

CUDA_API CUresult cuMemFreeHost(void* address) {
    return call(Needs::Context, [&] {
        refuse_in_capture("a free of pinned memory");
        flush_all();
        memory::release_host(address);
    });
}

// ---- memsets and copies

CUDA_API CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t count, void* stream) {
    return memset_call(to, value, count, stream);
}
CUDA_API CUresult cuMemsetD16Async(CUdeviceptr to, unsigned short value, size_t count, void* stream) {
    return memset_call(to, value, count, stream);
}
CUDA_API CUresult cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t count, void* stream) {
    return memset_call(to, value, count, stream);
}
CUDA_API CUresult cuMemsetD8_v2(CUdeviceptr to, unsigned char value, size_t count) {
    return memset_now(to, value, count);
}
CUDA_API CUresult cuMemsetD16_v2(CUdeviceptr to, unsigned short value, size_t count) {
    return memset_now(to, value, count);
}
CUDA_API CUresult cuMemsetD32_v2(CUdeviceptr to, unsigned value, size_t count) { return memset_now(to, value, count); }

CUDA_API CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t bytes, void* stream) {
    return call(Needs::Context, [&] { copy_from_host(to, from, bytes, stream); });
}

CUDA_API CUresult cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t bytes, void* stream) {
    return call(Needs::Context, [&] { copy_to_host(to, from, bytes, stream); });
}

CUDA_API CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, void* stream) {
    return call(Needs::Context, [&] { copy_on_device(to, from, bytes, stream); });
}

CUDA_API CUresult cuMemcpyPeerAsync(CUdeviceptr to, Context* to_context, CUdeviceptr from, Context* from_context,
                                    size_t bytes, void* stream) {
    return call(Needs::Context, [&] {
        const int to_device = to_context->device, from_device = from_context->device;
        submit(stream, std::make_shared<CopyOperation>(Copy::DeviceToDevice, to_device, to, from_device, from, bytes));
    });
}

CUDA_API CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, size_t bytes) {
    return copy_now([&] { copy_from_host(to, from, bytes, nullptr); });
}

CUDA_API CUresult cuMemcpyDtoH_v2(void* to, CUdeviceptr from, size_t bytes) {
    return copy_now([&] { copy_to_host(to, from, bytes, nullptr); });
}

CUDA_API CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    return copy_now([&] { copy_on_device(to, from, bytes, nullptr); });
}

// ---- pools

CUDA_API CUresult cuDeviceGetDefaultMemPool(void** handle, CUdevice) {
    return call(Needs::Initialised, [&] { *handle = &pool; });
}

CUDA_API CUresult cuDeviceGetMemPool(void** handle, CUdevice) {
    return call(Needs::Initialised, [&] { *handle = &pool; });
}

CUDA_API CUresult cuDeviceSetMemPool(CUdevice, void*) {
    return call(Needs::Initialised, [] {});
}

CUDA_API CUresult cuMemPoolTrimTo(void*, size_t) {
    return call(Needs::Initialised, [] {});
}

CUDA_API CUresult cuMemPoolSetAttribute(void*, int, void*) {
    return call(Needs::Initialised, [] {});
}

CUDA_API CUresult cuMemPoolGetAttribute(void*, int, uint64_t* value) {
    return call(Needs::Initialised, [&] { *value = 0; });
}

CUDA_API CUresult cuMemPoolCreate(void**, const void*) {
    return call(Needs::Initialised,
                [] { throw Error(CUDA_ERROR_NOT_SUPPORTED, "memory pools beside the default one are not emulated"); });
}

CUDA_API CUresult cuMemPoolDestroy(void*) {
    return call(Needs::Initialised,
                [] { throw Error(CUDA_ERROR_NOT_SUPPORTED, "memory pools beside the default one are not emulated"); });
}

// ---- memory of other programs

CUDA_API CUresult cuImportExternalMemory(void**, const void*) {
    return call(Needs::Context, [] { throw Error(CUDA_ERROR_NOT_SUPPORTED, "external memory is not emulated"); });
}

CUDA_API CUresult cuExternalMemoryGetMappedBuffer(CUdeviceptr*, void*, const void*) {
    return call(Needs::Context, [] { throw Error(CUDA_ERROR_NOT_SUPPORTED, "external memory is not emulated"); });
}

CUDA_API CUresult cuDestroyExternalMemory(void*) {
    return call(Needs::Context, [] { throw Error(CUDA_ERROR_NOT_SUPPORTED, "external memory is not emulated"); });
}
