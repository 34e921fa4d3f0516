// Which accesses of a block's threads are ordered, and which race.
//
// A block has a clock that moves on with every synchronisation of its threads. For each warp it is known up to which
// time it has seen what each other warp did (a vector clock), and within a warp, up to which time its lanes have seen
// each other. An access is ordered behind an earlier one if the thread has seen the time of that one. Shuffles and
// votes order nothing.
//
// Between the blocks of a launch only one thing orders: a fence and an atomic by a thread of the one block, then an
// atomic on the same address and a fence by a thread of the other. Blocks run one after another while races are
// checked, so that the earlier one is always the one that released.
#pragma once
#include <array>
#include <optional>
#include <unordered_map>
#include <vector>

#include "../execution/access.h"
#include "shadow.h"

namespace emulator {

class RaceChecker {
public:
    explicit RaceChecker(const Block& block) : block(block) {}

    void start_launch(uint32_t first_serial);
    void start_block(uint32_t serial);

    // ---- what orders

    void warp_sync(const Warp& warp, Mask lanes);     // __syncwarp
    void open(unsigned barrier);                      // before the first arrival
    void arrive(const Warp& warp, unsigned barrier);  // offers what the warp has seen to those who leave the barrier
    void leave(const Warp& warp, unsigned barrier);
    void fence(const Warp& warp, Mask lanes);  // __threadfence
    // An atomic, or another access that may order blocks: one that reads acquires, one that writes releases.
    void atomic(const Warp& warp, int lane, uintptr_t address, bool reads, bool writes);

    // ---- accesses

    struct Conflict {
        uint64_t address;
        std::string with;  // "thread (3,0,0) wrote it"
    };
    // Remembers an access by a lane to `access.address[lane]`, which is in `region`. `lanes` are those of the
    // instruction.
    std::optional<Conflict> touch(const Warp& warp, int lane, Mask lanes, const Region& region, const Access& access);

private:
    static constexpr int WARPS = 32;
    using Times = std::array<uint32_t, WARPS>;

    // A thread's last fence: when it was, and what the thread had seen of the others by then.
    struct Fence {
        uint32_t time = 0;
        Times seen{};
    };
    // An atomic behind a fence: it publishes what the thread had seen.
    struct Release {
        unsigned thread;
        uint32_t time;
        Times seen;
        Fence fence;
        std::shared_ptr<const std::vector<uint32_t>> fences;  // the time of each thread's last fence
    };
    // An atomic on an address on which earlier blocks have released.
    struct Acquire {
        uintptr_t address;
        unsigned thread;
        uint32_t time;
    };

    const Block& block;
    uint32_t first_serial = 0;

    uint32_t serial = 0;
    uint32_t started_blocks = 0;  // of this launch, this one too
    uint32_t now = 1;
    // seen[w][v]: warp w has seen what warp v did before this time. For v = w it holds for all its lanes.
    std::array<Times, WARPS> seen{};
    // The same between single lanes, of those warps where a __syncwarp had a partial mask.
    std::unordered_map<unsigned, std::array<std::array<uint32_t, LANES>, LANES>> lanes_seen;
    std::array<Times, Block::BARRIERS> offered{};
    std::array<Fence, 1024> fences{};
    bool has_fences = false;
    std::shared_ptr<const std::vector<uint32_t>> fence_times;  // of `fences`, null where it has changed
    std::vector<Acquire> acquires;
    // For an address, what each block of the launch released there.
    std::unordered_map<uintptr_t, std::unordered_map<uint32_t, Release>> releases;

    // When each warp of the block last read a cell that several have read.
    std::vector<Times> readers;
    std::vector<uint32_t> free_readers;

    uint32_t new_readers();
    bool is_remembered(const Cell& cell, const Stamp& me) const;
    void remember_read(const Warp& warp, int lane, Cell& cell, Stamp me);
    // What an access to a cell races with: what the cell says of the last write, or of the last reads.
    enum class Race { None, WithWrite, WithRead };
    Race touch_cell(const Warp& warp, int lane, Mask lanes, Cell& cell, const Stamp& me, const Access& access);
    void tick() { now += now < MAX_TIME; }
    uint32_t seen_by(const Warp& warp, int lane, unsigned thread) const;
    bool ordered(const Warp& warp, int lane, const Stamp& stamp, uint32_t readers_entry) const;
    bool ordered_across_blocks(const Warp& warp, int lane, const Stamp& stamp) const;
    bool has_acquired(const Warp& warp, int lane, const Acquire& acquire) const;
    static bool covers(const Release& release, const Stamp& stamp);
    std::string describe(const Stamp& stamp, const char* what) const;
};

}  // namespace emulator
