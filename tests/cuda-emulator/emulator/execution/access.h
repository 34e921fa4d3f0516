// An access of a warp to memory: where each lane's bytes are, and that they may be touched.
#pragma once
#include "block.h"

namespace emulator {

struct Access {
    enum Kind { Read, Write, Atomic };
    enum Pattern {
        Contiguous,  // all lanes, each behind the one before it
        Uniform,     // all lanes, the same bytes
        Scattered,
    };

    Access(Kind kind, size_t bytes) : kind(kind), bytes(bytes), strong(kind == Atomic) {}

    Kind kind;
    size_t bytes;                     // a lane
    size_t alignment = 0;             // 0 for that of `bytes`
    bool strong;                      // atomic, volatile, relaxed, acquire or release: it may meet its like
    size_t value_bytes = 0;           // a register's part of `bytes`, of what is written
    const std::byte* values[4] = {};  // the lane arrays of what is written
    bool arrives_later = false;       // the target of a cp.async

    bool stores_same_value(int lane, int other) const {
        for (size_t i = 0; i * value_bytes < bytes; i++)
            if (memcmp(values[i] + lane * value_bytes, values[i] + other * value_bytes, value_bytes)) return false;
        return true;
    }

    // Found by `resolve`: addresses of the host, and the region of all of them if it is one. Lanes that take no part
    // have the address of one that does.
    uint64_t address[LANES];
    Pattern pattern;
    const Region* region;
};

// Finds the addresses of an instruction's memory operand, whose base is its input `base_input`, and checks them:
// alignment, bounds, and what else is switched on. Throws Fault.
void resolve(Warp& warp, const Instruction& in, Mask lanes, int base_input, Access& access);

// The same where the addresses are known already.
void check(Warp& warp, const Instruction& in, Mask lanes, ptx::Space space, Access& access);

}  // namespace emulator
