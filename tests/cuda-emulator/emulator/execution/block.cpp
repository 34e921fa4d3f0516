#include "block.h"

#include "../checks/races.h"
#include "../checks/shadow.h"
#include "fault.h"

namespace emulator {
namespace {

// What a block's shared memory takes at most: 227 KiB and the gaps between its variables.
constexpr size_t SHARED_BYTES = size_t(1) << 20;
// Between the local memories of two threads there are so many bytes or more; each begins at a multiple of it.
constexpr size_t LOCAL_GAP = 64;
// A warp that waits for another one in a loop lets that one run after so many instructions.
constexpr uint64_t SLICE = 100'000;

// Registers and memory without a value: NaN as a float, and far from any address.
constexpr int POISON = 0xff;

template <class T>
void fill(T* lanes, T value) {
    for (int lane = 0; lane < LANES; lane++) lanes[lane] = value;
}

std::string coordinates(uint64_t number, const Dim3& size) {
    return format("(%lu,%lu,%lu)", number % size.x, number / size.x % size.y, number / size.x / size.y);
}

}  // namespace

Block::Block() : shared_memory(SHARED_BYTES) {
    for (int i = 0; i < 32; i++) warps.push_back(std::make_unique<Warp>(*this, i));
}

Block::~Block() = default;

uint64_t Block::random() {  // xorshift64
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    return random_state ^= random_state << 17;
}

void Block::prepare(const Launch& next, const Regions& regions, uint32_t serial) {
    launch = &next;
    program = next.program.get();
    global_regions = &regions;
    first_serial = serial;
    work = {};
    order = config().order;
    random_state = config().seed * 0x9e3779b97f4a7c15 + 0x2545f4914f6cdd1d;
    check_initialised = config().check_initialised;
    checks = config().checks();
    if (checks && !shared_shadow) shared_shadow = std::make_unique<ShadowMemory>(SHARED_BYTES);
    if (!config().check_races)
        races = nullptr;
    else if (!races)
        races = std::make_unique<RaceChecker>(*this);
    if (races) races->start_launch(serial);

    const unsigned threads = next.block.count();
    warp_count = (threads + LANES - 1) / LANES;
    registers.grow(warp_count * program->register_bytes);
    constants.grow(program->constants.size());
    memcpy(constants.data(), program->constants.data(), program->constants.size());
    local_stride = (program->local_bytes / LOCAL_GAP + 2) * LOCAL_GAP;
    local_memory.grow(program->local_bytes ? warp_count * LANES * local_stride : 1);
    last_regions.assign(program->sites, nullptr);

    shared_regions.clear();
    const auto add = [&](const std::string& name, size_t offset, size_t bytes) {
        const uintptr_t begin = (uintptr_t)shared() + offset;
        shared_regions.add({begin, begin + bytes, name, (uintptr_t)shared(), shared_shadow.get()});
    };
    for (const SharedVariable& variable : program->shared)
        add(format("shared `%s` (%zu bytes)", variable.name.c_str(), variable.bytes), variable.offset, variable.bytes);
    if (next.dynamic_shared_bytes)
        add(format("dynamic shared memory (%zu bytes)", next.dynamic_shared_bytes), program->dynamic_shared_offset,
            next.dynamic_shared_bytes);
    shared_regions.sort();

    for (int i = 0; i < warp_count; i++) {
        const Mask lanes = threads - i * LANES >= LANES ? ALL_LANES : (Mask(1) << threads % LANES) - 1;
        warps[i]->prepare(registers.data() + i * program->register_bytes, constants.data(), lanes);
    }
    for (const auto& [special, slot] : program->specials) {
        if (special >= Special::CtaidX) continue;
        for (int i = 0; i < warp_count; i++) set_warp_special(*warps[i], special, slot);
    }
}

void Block::set_warp_special(Warp& warp, Special special, Slot slot) {
    uint32_t* const lanes = warp.lanes<uint32_t>(slot);
    for (int lane = 0; lane < LANES; lane++) {
        const unsigned thread = warp.index * LANES + lane;
        const Mask own = Mask(1) << lane;
        lanes[lane] = [&]() -> uint32_t {
            switch (special) {
                case Special::TidX: return thread % launch->block.x;
                case Special::TidY: return thread / launch->block.x % launch->block.y;
                case Special::TidZ: return thread / launch->block.x / launch->block.y;
                case Special::LaneId: return lane;
                case Special::WarpId: return warp.index;
                case Special::LanemaskEq: return own;
                case Special::LanemaskLt: return own - 1;
                case Special::LanemaskLe: return own | (own - 1);
                case Special::LanemaskGt: return ~(own | (own - 1));
                case Special::LanemaskGe: return ~(own - 1);
                default: return 0;
            }
        }();
    }
}

void Block::set_special(Special special, Slot slot) {
    fill((uint32_t*)(constants.data() + slot.offset()), [&]() -> uint32_t {
        switch (special) {
            case Special::CtaidX: return index.x;
            case Special::CtaidY: return index.y;
            case Special::CtaidZ: return index.z;
            case Special::NtidX: return launch->block.x;
            case Special::NtidY: return launch->block.y;
            case Special::NtidZ: return launch->block.z;
            case Special::NctaidX: return launch->grid.x;
            case Special::NctaidY: return launch->grid.y;
            case Special::NctaidZ: return launch->grid.z;
            case Special::NwarpId: return warp_count;
            case Special::DynamicSmemSize: return launch->dynamic_shared_bytes;
            case Special::TotalSmemSize: return launch->dynamic_shared_bytes + program->static_shared_bytes;
            case Special::NsmId: return 1;
            default: return 0;
        }
    }());
}

void Block::run(uint64_t number) {
    const Dim3& grid = launch->grid;
    number_in_grid = number;
    index = {unsigned(number % grid.x), unsigned(number / grid.x % grid.y), unsigned(number / grid.x / grid.y)};
    for (const auto& [special, slot] : program->specials)
        if (special >= Special::CtaidX) set_special(special, slot);

    const size_t shared_end = program->dynamic_shared_offset + launch->dynamic_shared_bytes;
    memset(shared(), POISON, shared_end);
    if (shared_shadow) memset(shared_shadow->state(), UNINITIALISED, shared_end);
    if (races) races->start_block(first_serial + number);

    for (Barrier& barrier : barriers) barrier = {};
    for (int i = 0; i < warp_count; i++) warps[i]->start();
    run_warps();
}

void Block::run_warps() {
    uint64_t left = config().budget;
    for (int live = warp_count; live > 0;) {
        live = 0;
        bool progress = false;
        const int start = order == Config::Order::Random ? random() % warp_count : 0;
        for (int i = 0; i < warp_count; i++) {
            const int next = order == Config::Order::Reverse ? warp_count - 1 - i : (start + i) % warp_count;
            Warp& warp = *warps[next];
            if (warp.can_run()) {
                const uint64_t slice = order == Config::Order::Random ? 1 + random() % 32 : SLICE;
                const uint64_t steps = warp.run(std::min(slice, left));
                left -= steps;
                progress = true;
            }
            live += !warp.is_done();
            if (left == 0 && !warp.is_done()) {
                const Fragment& fragment = warp.fragments[0];
                throw Fault{CUDA_ERROR_LAUNCH_TIMEOUT,
                            format("the block has run %lu instructions and is not done: does it loop for ever? "
                                   "(CUDA_EMULATOR_BUDGET sets the limit)",
                                   config().budget),
                            &warp, std::countr_zero(fragment.lanes), program->code[fragment.pc].origin};
            }
        }
        if (live && !progress) deadlock();
    }
}

void Block::deadlock() {
    unsigned exited = 0, at_barriers = 0, in_collectives = 0;
    const Warp* blocked = nullptr;
    const Fragment* fragment = nullptr;
    for (int i = 0; i < warp_count; i++) {
        const Warp& warp = *warps[i];
        exited += std::popcount(warp.exited);
        for (int j = 0; j < warp.fragment_count; j++) {
            const bool at_barrier = warp.fragments[j].wait == Fragment::Wait::Barrier;
            (at_barrier ? at_barriers : in_collectives) += std::popcount(warp.fragments[j].lanes);
            if (!blocked || !at_barrier) blocked = &warp, fragment = &warp.fragments[j];
        }
    }
    throw Fault{
        CUDA_ERROR_LAUNCH_TIMEOUT,
        format(
            "deadlock: no thread of the block can go on; %u wait at barriers, %u in warp collectives, %u have exited",
            at_barriers, in_collectives, exited),
        blocked, std::countr_zero(fragment->lanes), program->code[fragment->pc].origin};
}

std::string Block::thread_name(unsigned thread) const { return coordinates(thread, launch->block); }

std::string Block::block_name(uint64_t block) const { return coordinates(block, launch->grid); }

}  // namespace emulator
