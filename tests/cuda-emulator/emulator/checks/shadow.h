// What is remembered about each byte of memory while checks are on.
#pragma once
#include <bit>

#include "../memory/lazy_bytes.h"

namespace emulator {

enum ByteState : uint8_t {
    UNINITIALISED = 0,
    INITIALISED = 1,
    ARRIVING = 2,  // the target of a cp.async that is not waited for yet
};

// A thread that touched memory, and when. Zero stands for nobody.
struct Stamp {
    uint64_t time : 24;    // of the block's clock, see RaceChecker
    uint64_t block : 24;   // a number that no other block of the process has had since the shadow was last cleared
    uint64_t thread : 10;  // in its block
    uint64_t bytes : 2;    // of the cell
    uint64_t atomic : 1;   // also a volatile or relaxed access: one that may meet its like
    uint64_t lanes : 1;    // a read by several lanes of the thread's warp
    uint64_t warps : 1;    // a read by several warps of the block, see Cell::readers
    uint64_t blocks : 1;   // a read by several blocks

    bool operator==(const Stamp& other) const {
        return std::bit_cast<uint64_t>(*this) == std::bit_cast<uint64_t>(other);
    }
};
static_assert(sizeof(Stamp) == 8);

constexpr size_t CELL_BYTES = 2;  // a bf16: neighbours are often written by different threads
constexpr uint64_t MAX_BLOCKS = (1 << 24) - 1, MAX_TIME = (1 << 24) - 1;

struct Cell {
    Stamp write, read;
    uint32_t readers;  // if `read.warps`, which entry of RaceChecker says when each warp read
};

// The shadow of an allocation, or of a block's shared memory.
class ShadowMemory {
public:
    explicit ShadowMemory(size_t bytes) : states(bytes), cells((bytes / CELL_BYTES + 1) * sizeof(Cell)) {}

    uint8_t* state() const { return (uint8_t*)states.data(); }
    Cell* cell() const { return (Cell*)cells.data(); }
    void forget_cells() { cells = LazyBytes(cells.size()); }
    void forget_states(size_t offset, size_t bytes) {  // UNINITIALISED is zero
        states.clear(offset, bytes);
    }

private:
    LazyBytes states, cells;
};

}  // namespace emulator
