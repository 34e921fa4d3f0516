// bar.sync, bar.red and bar.arrive: the sixteen barriers of a block.
#include "../checks/races.h"
#include "fault.h"

namespace emulator {
namespace {

// What a thread of a bar.red finds out: the predicates of all that arrived, as `Instruction::detail` says.
void write_result(Warp& warp, const Instruction& in, Mask lanes, const Block::Barrier& barrier) {
    switch ((Reduction)in.detail) {
        case Reduction::None: break;
        case Reduction::And: warp.store_predicate(in.slots[0], barrier.all ? ALL_LANES : 0, lanes); break;
        case Reduction::Or: warp.store_predicate(in.slots[0], barrier.any ? ALL_LANES : 0, lanes); break;
        case Reduction::Count:
            for (Mask rest = lanes; rest; rest &= rest - 1)
                warp.output<uint32_t>(in)[std::countr_zero(rest)] = barrier.count;
    }
}

}  // namespace

void Block::arrive(Warp& warp, const Instruction& in, Mask lanes, unsigned id, unsigned expected, Mask predicate,
                   bool waits) {
    if (lanes != warp.current().lanes) warp.split(warp.current().lanes & ~lanes).pc++;
    const int lane = std::countr_zero(lanes);
    if (id >= BARRIERS)
        fail(warp, in, lane, CUDA_ERROR_LAUNCH_FAILED, format("there is no barrier %u: they go from 0 to 15", id));

    Barrier& barrier = barriers[id];
    Fragment& fragment = warp.current();
    if (barrier.arrived == 0) {
        barrier = {.expected = expected, .pc = fragment.pc};
        if (races) races->open(id);
    } else if (barrier.expected != expected) {
        fail(warp, in, lane, CUDA_ERROR_LAUNCH_FAILED,
             format("barrier %u: this thread expects %u threads, another %u", id, expected, barrier.expected));
    } else if (expected == 0 && barrier.pc != fragment.pc) {
        fail(warp, in, lane, CUDA_ERROR_LAUNCH_FAILED,
             format("divergent barrier: this thread waits here, others of its block at %s",
                    program->place(program->code[barrier.pc].origin).c_str()));
    }

    barrier.arrived += std::popcount(lanes);
    // Barriers with a count of threads count whole warps, also of those lanes that do not exist.
    if (expected && lanes == warp.existing) barrier.arrived += LANES - std::popcount(lanes);
    barrier.count += std::popcount(lanes & predicate);
    barrier.any |= (lanes & predicate) != 0;
    barrier.all &= (lanes & ~predicate) == 0;
    if (races) races->arrive(warp, id);

    if (waits) {
        fragment.wait = Fragment::Wait::Barrier;
        fragment.barrier = id;
        warp.restructure();
    } else {
        fragment.pc++;
    }
    if (expected && barrier.arrived > expected)
        fail(warp, in, lane, CUDA_ERROR_LAUNCH_FAILED,
             format("barrier %u expects %u threads, but %u arrived", id, expected, barrier.arrived));
    if (barrier.arrived == (expected ? expected : live_threads())) release(id);
}

void Block::threads_left() {
    for (int id = 0; id < BARRIERS; id++)
        if (barriers[id].arrived && !barriers[id].expected && barriers[id].arrived == live_threads()) release(id);
}

void Block::release(unsigned id) {
    const Barrier& barrier = barriers[id];
    for (int i = 0; i < warp_count; i++) {
        Warp& warp = *warps[i];
        for (int j = 0; j < warp.fragment_count; j++) {
            Fragment& fragment = warp.fragments[j];
            if (fragment.wait != Fragment::Wait::Barrier || fragment.barrier != id) continue;
            write_result(warp, program->code[fragment.pc], fragment.lanes, barrier);
            if (races) races->leave(warp, id);
            fragment.wait = Fragment::Wait::Nothing;
            fragment.pc++;
        }
    }
    barriers[id] = {};
}

unsigned Block::live_threads() const {
    unsigned threads = 0;
    for (int i = 0; i < warp_count; i++) threads += std::popcount(warps[i]->existing & ~warps[i]->exited);
    return threads;
}

}  // namespace emulator
