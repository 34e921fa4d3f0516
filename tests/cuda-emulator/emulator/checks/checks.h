// What is checked beside bounds, where it is switched on: races, and bytes without a value.
#pragma once
#include "../execution/access.h"

namespace emulator {

// Checks an access of a warp and remembers it. Throws Fault.
void check_state(Warp& warp, const Instruction& in, Mask lanes, const Access& access);

// The bytes of a cp.async have arrived for a thread.
void mark_arrived(Warp& warp, const Instruction& in, int lane, uint64_t address, size_t bytes);

}  // namespace emulator
