#include "access.h"

#include "../checks/checks.h"
#include "../memory/memory.h"
#include "../program/assembler.h"
#include "fault.h"

namespace emulator {
namespace {

using ptx::Space;

template <class Base>
void find_addresses(Warp& warp, const Base* base, uint64_t offset, Space space, uint64_t* address) {
    uint64_t start = offset;
    if (space == Space::Shared) start += (uint64_t)warp.block.shared();
    if (space == Space::Param) start += (uint64_t)warp.block.launch->parameters.data();
    for (int lane = 0; lane < LANES; lane++) address[lane] = base[lane] + start;
    if (space == Space::Local)
        for (int lane = 0; lane < LANES; lane++) address[lane] += warp.block.local(warp, lane);
}

Access::Pattern pattern_of(const uint64_t* address, size_t bytes) {
    uint64_t from_uniform = 0, from_contiguous = 0;
    const int shift = std::countr_zero(bytes);
    for (uint64_t lane = 0; lane < LANES; lane++) {
        const uint64_t offset = address[lane] - address[0];
        from_uniform |= offset;
        from_contiguous |= offset ^ (lane << shift);
    }
    return !from_uniform ? Access::Uniform : !from_contiguous ? Access::Contiguous : Access::Scattered;
}

bool all_aligned(const uint64_t* address, uint64_t alignment) {
    uint64_t bits = 0;
    for (int lane = 0; lane < LANES; lane++) bits |= address[lane];
    return !(bits & (alignment - 1));
}

// Whether all lanes' bytes are in the region.
bool all_inside(const uint64_t* address, const Region& region, size_t bytes) {
    if (region.end - region.begin < bytes) return false;
    const uint64_t last = region.end - region.begin - bytes;  // the greatest offset
    // Both are below 2^63, so that a negative offset or rest has the highest bit.
    uint64_t signs = 0;
    for (int lane = 0; lane < LANES; lane++) {
        const uint64_t offset = address[lane] - region.begin;
        signs |= offset | (last - offset);
    }
    return !(signs >> 63);
}

// Whether all lanes' bytes are in their own local memory.
bool all_local(const Warp& warp, const uint64_t* address, size_t bytes) {
    const uint64_t size = warp.block.program->local_bytes;
    if (size < bytes) return false;
    const uint64_t first = warp.block.local(warp, 0), stride = warp.block.local(warp, 1) - first;
    uint64_t signs = 0, begin = first;
    for (int lane = 0; lane < LANES; lane++, begin += stride) {
        const uint64_t offset = address[lane] - begin;
        signs |= offset | (size - bytes - offset);
    }
    return !(signs >> 63);
}

const char* name_of(Access::Kind kind) {
    switch (kind) {
        case Access::Read: return "read";
        case Access::Write: return "write";
        default: return "atomic";
    }
}

// Where the bytes are that lie in no region. Shared variables are described by the block, which knows them.
std::string describe(const Block& block, uint64_t address) {
    if (block.in_local(address)) return "the thread's local memory";
    if (!block.in_shared(address)) return memory::describe(address);
    const Regions& regions = block.regions_of(address);
    const Region *before = regions.below(address), *after = regions.above(address);
    if (before && (!after || address - before->end <= after->begin - address))
        return format("byte %zu of %s", address - before->begin, before->name.c_str());
    if (after) return format("%zu bytes before %s", after->begin - address, after->name.c_str());
    return format("byte %zu of shared memory, of which the kernel has none", address - (uint64_t)block.shared());
}

[[noreturn]] void out_of_bounds(Warp& warp, const Instruction& in, int lane, const Access& access,
                                const std::string& where) {
    fail(warp, in, lane, CUDA_ERROR_ILLEGAL_ADDRESS,
         format("out-of-bounds %s of %zu bytes: %s", name_of(access.kind), access.bytes, where.c_str()));
}

// Local memory and parameters are no regions: the one is different for each lane, the others are only read.
void check_private(Warp& warp, const Instruction& in, int lane, uint64_t address, const Access& access) {
    const Block& block = warp.block;
    if (block.in_parameters(address)) {
        const size_t offset = address - (uint64_t)block.launch->parameters.data();
        if (access.kind != Access::Read || offset + access.bytes > block.program->parameter_bytes)
            out_of_bounds(warp, in, lane, access, format("byte %zu of the kernel's parameters", offset));
        return;
    }
    const uint64_t offset = address - block.local(warp, lane);
    if (offset >= block.program->local_bytes || offset + access.bytes > block.program->local_bytes)
        out_of_bounds(
            warp, in, lane, access,
            format("byte %ld of the thread's local memory (%zu bytes)", (long)offset, block.program->local_bytes));
}

void check_lane(Warp& warp, const Instruction& in, int lane, Space space, const Access& access) {
    Block& block = warp.block;
    const uint64_t address = access.address[lane];
    if (space == Space::Local || space == Space::Param) return check_private(warp, in, lane, address, access);
    if (const Region* region = block.regions_of(address).find(address, access.bytes))
        block.last_region(in.site) = region;
    else if (block.in_local(address) || block.in_parameters(address))
        check_private(warp, in, lane, address, access);
    else
        out_of_bounds(warp, in, lane, access, describe(block, address));
}

[[noreturn]] void misaligned(Warp& warp, const Instruction& in, Mask lanes, const Access& access, uint64_t alignment) {
    for (Mask rest = lanes;; rest &= rest - 1) {
        const int lane = std::countr_zero(rest);
        if (access.address[lane] & (alignment - 1))
            fail(warp, in, lane, CUDA_ERROR_MISALIGNED_ADDRESS,
                 format("misaligned %s of %zu bytes: %s", name_of(access.kind), access.bytes,
                        describe(warp.block, access.address[lane]).c_str()));
    }
}

void count(Block& block, Mask lanes, Space space, uint64_t some_address, const Access& access) {
    if (space == Space::Local || space == Space::Param) return;
    const uint64_t bytes = access.bytes * std::popcount(lanes);
    const bool is_shared = space == Space::Shared || block.in_shared(some_address);
    if (access.kind != Access::Write)
        (is_shared ? block.work.shared_read_bytes : block.work.global_read_bytes) += bytes;
    if (access.kind != Access::Read)
        (is_shared ? block.work.shared_written_bytes : block.work.global_written_bytes) += bytes;
}

}  // namespace

void check(Warp& warp, const Instruction& in, Mask lanes, Space space, Access& access) {
    Block& block = warp.block;
    if (space == Space::Local && lanes == ALL_LANES && all_aligned(access.address, access.bytes) &&
        all_local(warp, access.address, access.bytes)) {
        access.pattern = Access::Scattered;
        return;
    }
    // Lanes that take no part are where one is that does, so that all can be looked at together.
    const uint64_t first = access.address[std::countr_zero(lanes) % LANES];
    if (lanes != ALL_LANES)
        for (int lane = 0; lane < LANES; lane++)
            access.address[lane] = lanes >> lane & 1 ? access.address[lane] : first;
    access.pattern = lanes == ALL_LANES ? pattern_of(access.address, access.bytes) : Access::Scattered;

    const uint64_t alignment = access.alignment ? access.alignment : access.bytes;
    if (!all_aligned(access.address, alignment)) misaligned(warp, in, lanes, access, alignment);

    access.region = block.last_region(in.site);
    if (!access.region || !all_inside(access.address, *access.region, access.bytes)) {
        for (Mask rest = lanes; rest; rest &= rest - 1) check_lane(warp, in, std::countr_zero(rest), space, access);
        access.region = block.last_region(in.site);
        if (access.region && !all_inside(access.address, *access.region, access.bytes)) access.region = nullptr;
    }
    count(block, lanes, space, first, access);
    if (block.checks && space != Space::Local && space != Space::Param) check_state(warp, in, lanes, access);
}

void resolve(Warp& warp, const Instruction& in, Mask lanes, int base_input, Access& access) {
    const AddressMode mode = AddressMode::unpack(in.detail);
    access.strong |= mode.strong;
    if (mode.wide)
        find_addresses(warp, warp.input<uint64_t>(in, base_input), in.immediate, mode.space, access.address);
    else
        find_addresses(warp, warp.input<uint32_t>(in, base_input), in.immediate, mode.space, access.address);
    check(warp, in, lanes, mode.space, access);
}

}  // namespace emulator
