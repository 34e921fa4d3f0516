// What memory without a value holds: bytes of 0xff, which are NaN as any float.
#pragma once
#include <cstddef>
#include <cstdint>

namespace emulator::memory {

// Large ranges cost nothing until they are touched: their pages are copies of one that is poisoned already.
void poison(uintptr_t address, size_t bytes);

}  // namespace emulator::memory
