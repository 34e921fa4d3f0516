// Rounding modes and flushing of subnormal numbers: an instruction that wants them runs its handler with the processor
// set so.
#pragma once
#include "../program/assembler.h"

namespace emulator {

// For Instruction::environment.
uint16_t environment_bits(Rounding rounding, bool flush_to_zero);

void run_in_environment(Warp& warp, const Instruction& in, Mask lanes);

}  // namespace emulator
