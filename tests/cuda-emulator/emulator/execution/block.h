// A block that runs: its warps, its shared memory, its barriers. One object runs many blocks after another.
#pragma once
#include <memory>
#include <vector>

#include "../config.h"
#include "../memory/lazy_bytes.h"
#include "launch.h"
#include "warp.h"

namespace emulator {

class RaceChecker;
class ShadowMemory;

// What a kernel did wrong, and in which lane of which warp.
struct Fault {
    int code;
    std::string message;
    const Warp* warp;
    int lane;
    ptx::Origin origin;
};

// What a bar.red tells all threads about their predicates: `Instruction::detail` of a barrier.
enum class Reduction : uint16_t { None, And, Or, Count };

class Block {
public:
    Block();
    ~Block();

    // Makes ready for the blocks of a launch.
    void prepare(const Launch& launch, const Regions& regions, uint32_t first_serial);
    // Runs the block of this index in the grid. Throws Fault.
    void run(uint64_t index);

    // Coordinates: "(3,0,0)"
    std::string thread_name(unsigned thread) const;
    std::string block_name(uint64_t block) const;

    const Launch* launch = nullptr;
    const Program* program = nullptr;
    Dim3 index;
    uint64_t number_in_grid = 0;
    Work work;
    std::unique_ptr<RaceChecker> races;  // null where races are not checked
    bool check_initialised = false;
    bool checks = false;  // any of the two
    Config::Order order = Config::Order::Natural;

    uint64_t random();

    // ---- memory

    std::byte* shared() const { return shared_memory.data(); }
    uintptr_t local(const Warp& warp, int lane) const {
        return (uintptr_t)local_memory.data() + (size_t(warp.index) * LANES + lane) * local_stride;
    }
    // Address ranges by number, for what is not global memory: generic addresses lead to all of it.
    bool in_shared(uintptr_t address) const { return address - (uintptr_t)shared() < shared_memory.size(); }
    bool in_local(uintptr_t address) const { return address - (uintptr_t)local_memory.data() < local_memory.size(); }
    bool in_parameters(uintptr_t address) const {
        return address - (uintptr_t)launch->parameters.data() < launch->parameters.size();
    }

    const Regions& regions_of(uintptr_t address) const { return in_shared(address) ? shared_regions : *global_regions; }
    // The region that the memory access `site` last met: nearly always it meets it again.
    const Region*& last_region(uint32_t site) { return last_regions[site]; }

    // ---- barriers

    struct Barrier {
        unsigned arrived = 0;   // threads
        unsigned expected = 0;  // 0 for all of the block
        uint32_t pc = 0;        // of the first to arrive
        bool any = false, all = true;
        unsigned count = 0;  // of the predicates that are true
    };
    static constexpr int BARRIERS = 16;

    // The current fragment of `warp` arrives, and waits if `waits`. `expected` is 0 for all threads of the block.
    void arrive(Warp& warp, const Instruction& in, Mask lanes, unsigned barrier, unsigned expected, Mask predicate,
                bool waits);
    // Threads have left, which others may have waited for at a barrier of the whole block.
    void threads_left();

private:
    std::vector<std::unique_ptr<Warp>> warps;
    int warp_count = 0;
    Barrier barriers[BARRIERS];
    LazyBytes registers, constants, shared_memory, local_memory;
    size_t local_stride = 0;
    std::unique_ptr<ShadowMemory> shared_shadow;
    Regions shared_regions;
    const Regions* global_regions = nullptr;
    std::vector<const Region*> last_regions;
    uint32_t first_serial = 0;
    uint64_t random_state = 1;

    void set_special(Special special, Slot slot);
    void set_warp_special(Warp& warp, Special special, Slot slot);
    void release(unsigned barrier);
    void run_warps();
    [[noreturn]] void deadlock();
    unsigned live_threads() const;
};

}  // namespace emulator
