// Instructions that the lanes of a warp execute together: shuffles, votes, matrix products, __syncwarp.
#include "../checks/races.h"
#include "fault.h"

namespace emulator {

void Warp::collective(const Instruction& in, Mask lanes, const Mask* members) {
    if (lanes == 0) {
        current().pc++;
        return;
    }
    if (lanes != current().lanes) {
        // Those whose guard is false pass over it.
        split(current().lanes & ~lanes).pc++;
    }

    // Lanes with different masks are different groups, which do not wait for each other.
    const uint32_t pc = current().pc;
    for (Mask rest = lanes; rest;) {
        const Mask mask = members ? members[std::countr_zero(rest)] : ALL_LANES;
        Mask group = 0;
        for (Mask lane = rest; lane; lane &= lane - 1)
            if (!members || members[std::countr_zero(lane)] == mask) group |= lane & -lane;
        rest &= ~group;

        if (group & ~mask)
            fail(*this, in, std::countr_zero(group & ~mask), CUDA_ERROR_LAUNCH_FAILED,
                 format("the mask %08x of a warp collective lacks the thread's own lane", mask));
        if (mask & exited)
            fail(*this, in, std::countr_zero(group), CUDA_ERROR_LAUNCH_FAILED,
                 format("the mask %08x of a warp collective names lanes that have exited (%08x)", mask, mask & exited));

        const Mask needed = mask & existing;
        if (group == needed && group == current().lanes) {
            if (in.inner) in.inner(*this, in, group);
            if (block.races && !in.inner) block.races->warp_sync(*this, group);
            current().pc++;
            return;
        }
        Fragment& waiting = group == current().lanes ? current() : split(group);
        waiting.wait = Fragment::Wait::Lanes;
        waiting.members = mask;
        restructured = true;
        join(in, mask, pc);
    }
}

// Lets those go on who wait for `members` at this instruction, if all of them do.
void Warp::join(const Instruction& in, Mask members, uint32_t pc) {
    const Mask needed = members & existing;
    const bool only_syncs = !in.inner;
    const auto matches = [&](const Fragment& other) {
        // __syncwarp exchanges nothing, so that it may stand in several branches.
        return other.members == members && (other.pc == pc || (only_syncs && !block.program->code[other.pc].inner));
    };

    Mask arrived = 0;
    for (int i = 0; i < fragment_count; i++) {
        const Fragment& other = fragments[i];
        if (other.wait != Fragment::Wait::Lanes || !(other.lanes & needed)) continue;
        if (!matches(other))
            fail(*this, in, std::countr_zero(needed & ~other.lanes), CUDA_ERROR_LAUNCH_FAILED,
                 format("the lanes of a warp disagree: this one is in a collective with mask %08x, lane %d in one with "
                        "mask %08x at %s",
                        members, std::countr_zero(other.lanes), other.members, place(other).c_str()));
        arrived |= other.lanes;
    }
    if (arrived != needed) return;

    if (in.inner) in.inner(*this, in, arrived);
    if (block.races && !in.inner) block.races->warp_sync(*this, arrived);
    for (int i = 0; i < fragment_count; i++) {
        Fragment& other = fragments[i];
        if (other.wait != Fragment::Wait::Lanes || !(other.lanes & needed)) continue;
        other.wait = Fragment::Wait::Nothing;
        other.pc++;
    }
}

}  // namespace emulator
