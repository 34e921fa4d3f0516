// A warp: the registers of 32 threads, and where each of them is in the program.
//
// The threads of a warp run together for as long as they are at the same instruction. Where a branch parts them, the
// warp becomes several fragments, and the one that is furthest behind goes on first, so that they meet again. Nothing
// relies on that: a fragment waits by itself at a barrier or a collective instruction, as independent thread scheduling
// has it.
#pragma once
#include <bit>
#include <cstring>

#include "../program/program.h"

namespace emulator {

class Block;

struct Fragment {
    enum class Wait : uint8_t { Nothing, Lanes, Barrier };
    Mask lanes = 0;
    uint32_t pc = 0;
    Wait wait = Wait::Nothing;
    Mask members = 0;     // the lanes that a collective waits for
    uint8_t barrier = 0;  // the barrier that it waits at
};

// A cp.async that is not waited for.
struct AsyncCopy {
    uint64_t to, from;
    uint8_t bytes, read_bytes;
    uint8_t lane;
    uint32_t group;  // of its lane
};

class Warp {
public:
    Warp(Block& block, int index) : block(block), index(index) {}

    Block& block;
    const int index;
    Mask existing = 0, exited = 0;
    Fragment fragments[LANES];
    int fragment_count = 0;
    std::vector<AsyncCopy> copies;
    uint32_t copy_group[LANES];  // the group of copies that is open

    // The lanes' values in a slot.
    template <class T>
    T* lanes(Slot slot) {
        return (T*)(bases[slot.is_constant()] + slot.offset());
    }
    Mask& predicate(Slot slot) { return *lanes<Mask>(slot); }

    template <class T>
    T* output(const Instruction& in, int i = 0) {
        return lanes<T>(in.slots[i]);
    }
    template <class T>
    const T* input(const Instruction& in, int i = 0) {
        return lanes<T>(in.slots[in.outputs + i]);
    }

    // Gives the lanes in `mask` their new values.
    template <class T>
    static void store(T* destination, const T* values, Mask mask) {
        if (mask == ALL_LANES) {
            memcpy(destination, values, LANES * sizeof(T));
        } else {
            for (int lane = 0; lane < LANES; lane++)
                destination[lane] = mask >> lane & 1 ? values[lane] : destination[lane];
        }
    }
    void store_predicate(Slot slot, Mask values, Mask mask) {
        Mask& old = predicate(slot);
        old = (old & ~mask) | (values & mask);
    }

    // Gives the warp its registers and lanes, for all blocks of a launch; then begins one of them.
    void prepare(std::byte* registers, std::byte* constants, Mask lanes);
    void start();
    bool is_done() const { return exited == existing; }
    bool can_run() const;

    // Runs until nothing can go on or `steps` instructions are over; returns how many were run.
    uint64_t run(uint64_t steps);

    // ---- for instructions that move the program counter; they work on `current()`

    Fragment& current() { return fragments[running]; }
    void branch(Mask taken, uint32_t target);
    void exit(Mask leaving);
    // Takes `lanes` out of the current fragment into one of their own, which is at the same instruction.
    Fragment& split(Mask lanes);
    // To be told by what lets fragments wait or go on.
    void restructure() { restructured = true; }
    // A collective instruction: runs `in.inner` once all lanes that a lane's `members` name are here. Null stands for
    // all lanes.
    void collective(const Instruction& in, Mask lanes, const Mask* members);

    std::string place(const Fragment& fragment) const;

private:
    std::byte* bases[2] = {};
    int running = 0;
    bool restructured = false;  // there are other fragments now, or other ones can run

    uint64_t run_fragment(uint32_t meeting, uint64_t limit);
    void join(const Instruction& in, Mask members, uint32_t pc);
    void pick();
    void merge();
    uint32_t next_meeting() const;
};

}  // namespace emulator
