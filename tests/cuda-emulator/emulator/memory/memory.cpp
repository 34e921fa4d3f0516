#include "memory.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <map>
#include <mutex>
#include <vector>

#include "../checks/shadow.h"
#include "../config.h"
#include "../error.h"
#include "../size.h"
#include "poison.h"

namespace emulator::memory {
namespace {

// Address space, of which pages are taken as they are touched.
constexpr size_t ADDRESS_SPACE = size_t(1) << 44;
constexpr size_t PAGE = 4096;
// What cuMemAlloc promises is 256; drivers give 512.
constexpr size_t ALIGNMENT = 512;
// How far from a buffer an address is still said to belong to it.
constexpr size_t NEAR = size_t(1) << 20;

struct Buffer {
    size_t offset, bytes;
    std::string name;
};

struct Allocation {
    uintptr_t begin = 0;
    size_t bytes = 0;
    int device = 0;
    std::string name;
    std::vector<Buffer> carved;
    std::unique_ptr<ShadowMemory> shadow;

    uintptr_t end() const { return begin + bytes; }
};

struct State {
    std::mutex mutex;
    uintptr_t space = 0, next = 0;
    int unnamed = 0;
    std::map<uintptr_t, Allocation> live, freed;
    std::map<uintptr_t, size_t> pinned;
    std::map<int, size_t> used;
    std::map<int, std::shared_ptr<const Regions>> snapshots;  // without those that have changed
    uint64_t next_block = 1;
};

State& state() {
    static State* const instance = new State;  // never destroyed: others may end later
    return *instance;
}

std::string label(const std::string& name, size_t bytes) { return format("%s (%zu bytes)", name.c_str(), bytes); }

// The allocation that begins at or below the address.
template <class Map>
auto* below(Map& map, uintptr_t address) {
    auto after = map.upper_bound(address);
    return after == map.begin() ? nullptr : &std::prev(after)->second;
}

Allocation* containing(State& s, uintptr_t address) {
    Allocation* allocation = below(s.live, address);
    return allocation && address < allocation->end() ? allocation : nullptr;
}

std::shared_ptr<const Regions> snapshot(State& s, int device) {
    std::shared_ptr<const Regions>& kept = s.snapshots[device];
    if (kept) return kept;
    auto result = std::make_shared<Regions>();
    for (const auto& [begin, allocation] : s.live) {
        if (allocation.device != device) continue;
        ShadowMemory* const shadow = allocation.shadow.get();
        if (allocation.carved.empty())
            result->add({begin, begin + allocation.bytes, label(allocation.name, allocation.bytes), begin, shadow});
        for (const Buffer& buffer : allocation.carved) {
            const uintptr_t start = begin + buffer.offset;
            result->add({start, start + buffer.bytes, label(buffer.name, buffer.bytes), begin, shadow});
        }
    }
    for (const auto& [begin, bytes] : s.pinned) result->add({begin, begin + bytes, label("pinned host memory", bytes)});
    result->sort();
    return kept = result;
}

template <class F>
void for_states(uintptr_t address, size_t bytes, F use) {
    State& s = state();
    std::lock_guard lock(s.mutex);
    Allocation* allocation = containing(s, address);
    if (allocation && allocation->shadow) use(allocation->shadow->state() + (address - allocation->begin), bytes);
}

}  // namespace

uintptr_t allocate(int device, size_t bytes, const std::string& name) {
    State& s = state();
    std::lock_guard lock(s.mutex);
    if (bytes == 0) throw Error(CUDA_ERROR_INVALID_VALUE, "allocation of no bytes");
    if (bytes > config().memory - s.used[device])
        throw Error(CUDA_ERROR_OUT_OF_MEMORY, format("allocation of %zu bytes, but only %zu of %zu are free", bytes,
                                                     config().memory - s.used[device], config().memory));
    if (!s.space) {
        void* space = mmap(nullptr, ADDRESS_SPACE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (space == MAP_FAILED) throw Error(CUDA_ERROR_OUT_OF_MEMORY, "no address space for the emulated memory");
        madvise(space, ADDRESS_SPACE, MADV_HUGEPAGE);  // a page fault for 2 MB, not for 4 KB: half of a short test's time
        s.space = (uintptr_t)space;
        s.next = s.space + PAGE;
    }
    const size_t mapped = round_up(bytes, PAGE);
    if (s.next + mapped + PAGE > s.space + ADDRESS_SPACE)
        throw Error(CUDA_ERROR_OUT_OF_MEMORY, "the process has used up the addresses of the emulated memory");
    Allocation allocation;
    allocation.begin = s.next;
    allocation.bytes = bytes;
    allocation.device = device;
    allocation.name = name.empty() ? format("allocation #%d", s.unnamed++) : name;
    if (mprotect((void*)allocation.begin, mapped, PROT_READ | PROT_WRITE))
        throw Error(CUDA_ERROR_OUT_OF_MEMORY, format("the host has no %zu bytes for the emulated memory", bytes));
    if (config().checks() && config().execute) allocation.shadow = std::make_unique<ShadowMemory>(bytes);
    if (config().execute) poison(allocation.begin, bytes);

    static_assert(PAGE % ALIGNMENT == 0);
    s.next += mapped + PAGE;
    s.used[device] += bytes;
    s.snapshots.clear();
    const uintptr_t address = allocation.begin;
    s.live[address] = std::move(allocation);
    return address;
}

void release(uintptr_t address) {
    State& s = state();
    std::lock_guard lock(s.mutex);
    const auto found = s.live.find(address);
    if (found == s.live.end())
        throw Error(CUDA_ERROR_INVALID_VALUE, format("0x%lx is freed, but is the start of no allocation", address));
    Allocation allocation = std::move(found->second);
    s.live.erase(found);
    s.used[allocation.device] -= allocation.bytes;
    s.snapshots.clear();
    // The pages go back, the addresses do not.
    mmap((void*)address, round_up(allocation.bytes, PAGE), PROT_NONE,
         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    allocation.shadow = nullptr;
    s.freed[address] = std::move(allocation);
}

size_t used_bytes(int device) {
    State& s = state();
    std::lock_guard lock(s.mutex);
    return s.used[device];
}

void* allocate_host(size_t bytes) {
    void* address;
    if (bytes == 0) throw Error(CUDA_ERROR_INVALID_VALUE, "allocation of no bytes");
    if (posix_memalign(&address, PAGE, bytes))
        throw Error(CUDA_ERROR_OUT_OF_MEMORY, format("the host has no %zu bytes of pinned memory", bytes));
    State& s = state();
    std::lock_guard lock(s.mutex);
    s.pinned[(uintptr_t)address] = bytes;
    s.snapshots.clear();
    return address;
}

void release_host(void* address) {
    State& s = state();
    std::lock_guard lock(s.mutex);
    if (!s.pinned.erase((uintptr_t)address))
        throw Error(CUDA_ERROR_INVALID_VALUE, format("%p is freed, but is no pinned memory", address));
    s.snapshots.clear();
    free(address);
}

bool is_pinned(const void* address) {
    State& s = state();
    std::lock_guard lock(s.mutex);
    auto after = s.pinned.upper_bound((uintptr_t)address);
    return after != s.pinned.begin() && (uintptr_t)address < std::prev(after)->first + std::prev(after)->second;
}

void carve(uintptr_t address, size_t bytes, const std::string& name) {
    State& s = state();
    std::lock_guard lock(s.mutex);
    Allocation* allocation = containing(s, address);
    if (!allocation || bytes > allocation->end() - address)
        throw Error(CUDA_ERROR_INVALID_VALUE, format("`%s` is carved from memory that is not allocated", name.c_str()));
    const size_t offset = address - allocation->begin;
    for (const Buffer& other : allocation->carved)
        if (offset < other.offset + other.bytes && other.offset < offset + bytes)
            throw Error(CUDA_ERROR_INVALID_VALUE,
                        format("`%s` is carved from bytes that belong to %s", name.c_str(), other.name.c_str()));
    allocation->carved.push_back({offset, bytes, format("`%s`", name.c_str())});
    if (config().execute) poison(address, bytes);
    if (allocation->shadow) allocation->shadow->forget_states(offset, bytes);
    s.snapshots.clear();
}

void uncarve_all(uintptr_t address) {
    State& s = state();
    std::lock_guard lock(s.mutex);
    Allocation* allocation = containing(s, address);
    if (!allocation) throw Error(CUDA_ERROR_INVALID_VALUE, "what is to be uncarved is no allocation");
    allocation->carved.clear();
    s.snapshots.clear();
}

std::shared_ptr<const Regions> regions(int device) {
    State& s = state();
    std::lock_guard lock(s.mutex);
    return snapshot(s, device);
}

void check_range(int device, uintptr_t address, size_t bytes, const std::string& what) {
    if (bytes == 0 || regions(device)->find(address, bytes)) return;
    throw Error(CUDA_ERROR_INVALID_VALUE,
                format("%s: %zu bytes at %s are out of bounds", what.c_str(), bytes, describe(address).c_str()));
}

bool is_device_address(uintptr_t address) {
    if (is_pinned((const void*)address)) return true;
    State& s = state();
    std::lock_guard lock(s.mutex);
    return s.space && address - s.space < ADDRESS_SPACE;
}

std::string describe(uintptr_t address) {
    State& s = state();
    std::lock_guard lock(s.mutex);
    if (address < PAGE) return "a null pointer";
    if (Allocation* allocation = below(s.freed, address); allocation && address < allocation->end())
        return format("byte %zu of freed %s", address - allocation->begin,
                      label(allocation->name, allocation->bytes).c_str());
    const Region *before = nullptr, *after = nullptr;
    for (int device = 0; device < (int)config().devices; device++) {
        const auto regions = snapshot(s, device);
        const Region* region = regions->below(address);
        if (region && (!before || region->begin > before->begin)) before = region;
        region = regions->above(address);
        if (region && (!after || region->begin < after->begin)) after = region;
    }
    const size_t behind = before && address >= before->end ? address - before->end : 0;
    const size_t ahead = after ? after->begin - address : SIZE_MAX;
    if (before && behind < NEAR && behind <= ahead)
        return format("byte %zu of %s", address - before->begin, before->name.c_str());
    if (ahead < NEAR) return format("%zu bytes before %s", ahead, after->name.c_str());
    return format("0x%lx, which is in no allocation", address);
}

void mark_initialised(uintptr_t address, size_t bytes) {
    for_states(address, bytes, [](uint8_t* states, size_t count) { memset(states, INITIALISED, count); });
}

void copy_state(uintptr_t destination, uintptr_t source, size_t bytes) {
    std::vector<uint8_t> copy(bytes, INITIALISED);
    for_states(source, bytes, [&](uint8_t* states, size_t count) { memcpy(copy.data(), states, count); });
    for_states(destination, bytes, [&](uint8_t* states, size_t count) { memcpy(states, copy.data(), count); });
}

std::optional<uintptr_t> find_uninitialised(uintptr_t address, size_t bytes) {
    std::optional<uintptr_t> result;
    if (!config().check_initialised) return result;
    for_states(address, bytes, [&](uint8_t* states, size_t count) {
        for (size_t i = 0; i < count && !result; i++)
            if (states[i] != INITIALISED) result = address + i;
    });
    return result;
}

uint32_t number_blocks(uint64_t blocks) {
    State& s = state();
    std::lock_guard lock(s.mutex);
    if (blocks > MAX_BLOCKS - 1)
        throw Error(CUDA_ERROR_NOT_SUPPORTED, "races can be checked in up to 16 million blocks");
    if (s.next_block + blocks > MAX_BLOCKS) {
        for (auto& entry : s.live)
            if (entry.second.shadow) entry.second.shadow->forget_cells();
        s.next_block = 1;
    }
    const uint32_t first = s.next_block;
    s.next_block += blocks;
    return first;
}

}  // namespace emulator::memory
