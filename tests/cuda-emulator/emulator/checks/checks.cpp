#include "checks.h"

#include "../execution/fault.h"
#include "races.h"
#include "shadow.h"

namespace emulator {
namespace {

std::string place(const Region& region, uint64_t address) {
    return format("byte %zu of %s", address - region.begin, region.name.c_str());
}

bool all_initialised(const uint8_t* states, size_t bytes) {
    bool all = true;
    for (size_t i = 0; i < bytes; i++) all &= states[i] == INITIALISED;
    return all;
}

void check_states(Warp& warp, const Instruction& in, int lane, const Region& region, const Access& access) {
    const uint64_t address = access.address[lane];
    uint8_t* const states = region.shadow->state() + (address - region.shadow_origin);
    if (!all_initialised(states, access.bytes)) {
        for (size_t i = 0; i < access.bytes; i++) {
            if (states[i] == ARRIVING)
                fail(warp, in, lane, CUDA_ERROR_LAUNCH_FAILED,
                     format("%s is touched while a cp.async to it is not waited for",
                            place(region, address + i).c_str()));
            if (access.kind != Access::Write && states[i] == UNINITIALISED && warp.block.check_initialised)
                fail(warp, in, lane, CUDA_ERROR_LAUNCH_FAILED,
                     format("read of uninitialised memory: %s", place(region, address + i).c_str()));
        }
    }
    if (access.kind != Access::Read) memset(states, access.arrives_later ? ARRIVING : INITIALISED, access.bytes);
}

void check_races(Warp& warp, const Instruction& in, Mask lanes, int lane, const Region& region, const Access& access) {
    RaceChecker& races = *warp.block.races;
    if (const auto conflict = races.touch(warp, lane, lanes, region, access)) {
        const char* const action = access.kind == Access::Read    ? "read"
                                   : access.kind == Access::Write ? "written"
                                                                  : "updated";
        fail(warp, in, lane, CUDA_ERROR_LAUNCH_FAILED,
             format("data race: %s is %s, and %s, with nothing between that orders them",
                    place(region, conflict->address).c_str(), action, conflict->with.c_str()));
    }
    if (access.strong && !warp.block.in_shared(access.address[lane]))
        races.atomic(warp, lane, access.address[lane], access.kind != Access::Write, access.kind != Access::Read);
}

}  // namespace

void check_state(Warp& warp, const Instruction& in, Mask lanes, const Access& access) {
    Block& block = warp.block;
    for (Mask rest = lanes; rest; rest &= rest - 1) {
        const int lane = std::countr_zero(rest);
        const uint64_t address = access.address[lane];
        const Region* region = access.region ? access.region : block.regions_of(address).find(address, access.bytes);
        if (!region || !region->shadow) continue;  // local memory, parameters and pinned host memory have none
        check_states(warp, in, lane, *region, access);
        if (block.races) check_races(warp, in, lanes, lane, *region, access);
    }
}

void mark_arrived(Warp& warp, const Instruction& in, int lane, uint64_t address, size_t bytes) {
    const Region* region = warp.block.regions_of(address).find(address, bytes);
    if (!region || !region->shadow) return;
    memset(region->shadow->state() + (address - region->shadow_origin), INITIALISED, bytes);
    Access arrival(Access::Write, bytes);
    arrival.address[lane] = address;
    if (warp.block.races) check_races(warp, in, 0, lane, *region, arrival);
}

}  // namespace emulator
