// A launch: a kernel with its arguments and its grid.
#pragma once
#include <memory>

#include "../memory/regions.h"
#include "../program/program.h"

namespace emulator {

struct Dim3 {
    unsigned x = 1, y = 1, z = 1;
    uint64_t count() const { return uint64_t(x) * y * z; }
};

struct Launch {
    std::shared_ptr<const Program> program;
    Dim3 grid, block;
    size_t dynamic_shared_bytes = 0;
    std::vector<uint8_t> parameters;  // as the kernel's parameter space has them
    int device = 0;
};

// What a kernel has done, summed over its threads.
struct Work {
    uint64_t flops = 0;
    uint64_t global_read_bytes = 0, global_written_bytes = 0;
    uint64_t shared_read_bytes = 0, shared_written_bytes = 0;

    void operator+=(const Work& other) {
        flops += other.flops;
        global_read_bytes += other.global_read_bytes;
        global_written_bytes += other.global_written_bytes;
        shared_read_bytes += other.shared_read_bytes;
        shared_written_bytes += other.shared_written_bytes;
    }
};

// Runs all blocks. Throws Error for what a kernel does wrong, with its place.
Work run(const Launch& launch);

}  // namespace emulator
