#pragma once
#include <cstddef>

namespace emulator {

constexpr size_t round_up(size_t value, size_t multiple) { return (value + multiple - 1) / multiple * multiple; }

}  // namespace emulator
