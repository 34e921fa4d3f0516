// How an instruction says that the kernel did something wrong.
#pragma once
#include "../error.h"
#include "block.h"

namespace emulator {

[[noreturn]] inline void fail(const Warp& warp, const Instruction& in, int lane, int code, std::string message) {
    throw Fault{code, std::move(message), &warp, lane, in.origin};
}

}  // namespace emulator
