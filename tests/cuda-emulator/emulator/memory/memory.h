// The memory of the devices: allocations, the buffers that are carved from them, pinned host memory.
#pragma once
#include <memory>
#include <optional>
#include <string>

#include "regions.h"

namespace emulator::memory {

// Addresses are never used again, so that a freed allocation stays known as such.
uintptr_t allocate(int device, size_t bytes, const std::string& name = "");
void release(uintptr_t address);
size_t used_bytes(int device);

void* allocate_host(size_t bytes);
void release_host(void* address);
bool is_pinned(const void* address);

// Makes a part of an allocation a buffer of its own. From the first carved buffer on, only carved buffers of the
// allocation may be touched; what lies between them is out of bounds.
void carve(uintptr_t address, size_t bytes, const std::string& name);
void uncarve_all(uintptr_t allocation);

// What kernels on a device may touch now.
std::shared_ptr<const Regions> regions(int device);
// Throws Error(CUDA_ERROR_INVALID_VALUE) where the bytes are not inside of one buffer. `what` begins the message.
void check_range(int device, uintptr_t address, size_t bytes, const std::string& what);
// Whether a kernel could be given this address: of device memory, freed or not, or of pinned memory.
bool is_device_address(uintptr_t address);
// "byte 4096 of `weights` (4096 bytes)"
std::string describe(uintptr_t address);

// ---- which bytes have a value, while checks are on

void mark_initialised(uintptr_t address, size_t bytes);
void copy_state(uintptr_t destination, uintptr_t source, size_t bytes);
// The first byte of the range that has no value.
std::optional<uintptr_t> find_uninitialised(uintptr_t address, size_t bytes);

// Numbers for the blocks of a launch, by which RaceChecker knows them; returns the first.
uint32_t number_blocks(uint64_t blocks);

}  // namespace emulator::memory
