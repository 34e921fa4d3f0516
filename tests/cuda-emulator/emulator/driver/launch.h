// What launches of kernels and matrix products share.
#pragma once

namespace emulator {

// FAIL_LAUNCH: throws Error if it is this launch's turn to fail.
void count_towards_failure();

}  // namespace emulator
