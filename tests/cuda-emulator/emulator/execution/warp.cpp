#include "warp.h"

#include "block.h"
#include "fault.h"

namespace emulator {
namespace {

// A fragment that spins while others of its warp could go on yields to them after so many instructions.
constexpr uint64_t PATIENCE = 10'000;

}  // namespace

void Warp::prepare(std::byte* registers, std::byte* constants, Mask lanes) {
    bases[0] = registers;
    bases[1] = constants;
    existing = lanes;
}

void Warp::start() {
    exited = 0;
    copies.clear();
    memset(copy_group, 0, sizeof copy_group);
    fragment_count = 0;
    if (block.order != Config::Order::Reverse) {
        fragments[fragment_count++] = {existing, 0};
        return;
    }
    for (int lane = LANES - 1; lane >= 0; lane--)
        if (existing >> lane & 1) fragments[fragment_count++] = {Mask(1) << lane, 0};
}

bool Warp::can_run() const {
    for (int i = 0; i < fragment_count; i++)
        if (fragments[i].wait == Fragment::Wait::Nothing) return true;
    return false;
}

// Fragments that are at the same instruction become one.
void Warp::merge() {
    for (int i = 0; i < fragment_count; i++) {
        for (int j = i + 1; j < fragment_count;) {
            if (fragments[j].pc == fragments[i].pc && fragments[j].wait == Fragment::Wait::Nothing &&
                fragments[i].wait == Fragment::Wait::Nothing) {
                fragments[i].lanes |= fragments[j].lanes;
                fragments[j] = fragments[--fragment_count];
            } else {
                j++;
            }
        }
    }
}

// Chooses the fragment that goes on.
void Warp::pick() {
    const auto runs = [&](int i) { return fragments[i].wait == Fragment::Wait::Nothing; };
    switch (block.order) {
        case Config::Order::Natural:
            merge();
            running = -1;
            for (int i = 0; i < fragment_count; i++)
                if (runs(i) && (running < 0 || fragments[i].pc < fragments[running].pc)) running = i;
            return;
        case Config::Order::Reverse:
            // Each lane is a fragment of its own; the highest goes on.
            running = -1;
            for (int i = 0; i < fragment_count; i++)
                if (runs(i) && (running < 0 || fragments[i].lanes > fragments[running].lanes)) running = i;
            return;
        case Config::Order::Random:
            if (block.random() % 4 == 0) merge();
            do running = block.random() % fragment_count;
            while (!runs(running));
            if (block.random() % 8 == 0) {
                // The lanes that the rest leaves behind go on from the same place, at another time.
                const Mask some = current().lanes & Mask(block.random());
                if (some && some != current().lanes) {
                    fragments[fragment_count++] = {some, current().pc};
                    current().lanes &= ~some;
                }
            }
            return;
    }
}

// Where the running fragment meets the next one of the others, and stops to be merged with it.
uint32_t Warp::next_meeting() const {
    uint32_t meeting = UINT32_MAX;
    if (block.order != Config::Order::Natural) return meeting;
    for (int i = 0; i < fragment_count; i++)
        if (i != running && fragments[i].wait == Fragment::Wait::Nothing && fragments[i].pc > fragments[running].pc)
            meeting = std::min(meeting, fragments[i].pc);
    return meeting;
}

uint64_t Warp::run(uint64_t steps) {
    uint64_t done = 0;
    bool spins = false;
    while (done < steps && can_run()) {
        pick();
        if (spins) {
            do running = block.random() % fragment_count;
            while (current().wait != Fragment::Wait::Nothing);
        }
        const bool has_others = fragment_count > 1;
        const uint32_t meeting = spins ? UINT32_MAX : next_meeting();
        const uint64_t patience = has_others ? std::min(steps - done, PATIENCE) : steps - done;
        const uint64_t run = run_fragment(meeting, patience);
        done += run;
        spins = has_others && run == patience;
    }
    return done;
}

// Runs the current fragment until it comes to another one, or there are other fragments, or `limit` instructions are
// over.
uint64_t Warp::run_fragment(uint32_t meeting, uint64_t limit) {
    const Instruction* const code = block.program->code.data();
    Fragment& fragment = current();
    uint32_t pc = fragment.pc;
    const Mask all = fragment.lanes;
    uint64_t done = 0, flops = 0;
    for (restructured = false; pc < meeting && done < limit && !restructured; done++) {
        const Instruction& in = code[pc];
        Mask lanes = all;
        if (in.has_guard) lanes &= predicate(in.guard) ^ (in.guard_negated ? ALL_LANES : 0);
        if (in.is_control) {
            fragment.pc = pc;
            in.run(*this, in, lanes);
            pc = fragment.pc;
        } else {
            if (lanes) in.run(*this, in, lanes);
            flops += in.flops * std::popcount(lanes);
            pc++;
        }
    }
    // After a restructuring the place in `fragments` may be another's.
    if (!restructured) fragment.pc = pc;
    block.work.flops += flops;
    return done;
}

Fragment& Warp::split(Mask lanes) {
    fragments[fragment_count] = current();
    fragments[fragment_count].lanes = lanes;
    current().lanes &= ~lanes;
    restructured = true;
    return fragments[fragment_count++];
}

void Warp::branch(Mask taken, uint32_t target) {
    Fragment& fragment = current();
    if (taken == fragment.lanes) {
        fragment.pc = target;
    } else if (taken == 0) {
        fragment.pc++;
    } else {
        split(taken).pc = target;
        current().pc++;
    }
}

void Warp::exit(Mask leaving) {
    for (int i = 0; i < fragment_count; i++) {
        const Fragment& other = fragments[i];
        if (i != running && other.wait == Fragment::Wait::Lanes && (other.members & leaving)) {
            const int lane = std::countr_zero(other.members & leaving);
            throw Fault{CUDA_ERROR_LAUNCH_FAILED,
                        format("the thread exits while others of its warp wait for it at %s (mask %08x)",
                               place(other).c_str(), other.members),
                        this, lane, block.program->code[current().pc].origin};
        }
    }
    exited |= leaving;
    current().lanes &= ~leaving;
    current().pc++;
    if (current().lanes == 0) current() = fragments[--fragment_count];
    restructured = true;
    block.threads_left();
}

std::string Warp::place(const Fragment& fragment) const {
    return block.program->place(block.program->code[fragment.pc].origin);
}

}  // namespace emulator
