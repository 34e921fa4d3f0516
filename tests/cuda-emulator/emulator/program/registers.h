// Virtual registers get places in a warp's register memory, of which those that are not needed at the same time share.
// NVRTC writes each register once: without this a large kernel's warp would need megabytes, and the caches would hold
// nothing.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace emulator {

struct VirtualRegister {
    size_t bytes;
    bool pinned;  // has a value before the first instruction, and keeps it
};

// What one instruction does to registers, and where it leads.
struct RegisterUse {
    std::vector<uint32_t> defines, reads;
    bool conditional = false;  // may leave what it defines as it was
    std::vector<uint32_t> targets;
    bool continues = true;
};

struct RegisterPlaces {
    std::vector<uint32_t> offsets;
    size_t bytes = 0;
};

RegisterPlaces place_registers(const std::vector<VirtualRegister>& registers, const std::vector<RegisterUse>& code);

}  // namespace emulator
