// The bytes that a kernel may touch, as a sorted list that does not change while the kernel runs.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace emulator {

class ShadowMemory;

struct Region {
    uintptr_t begin, end;
    std::string name;                // "`weights` (4096 bytes)"
    uintptr_t shadow_origin = 0;     // the address of the shadow's first byte
    ShadowMemory* shadow = nullptr;  // null while checks are off

    bool contains(uintptr_t address, size_t bytes) const { return address >= begin && address + bytes <= end; }
};

class Regions {
public:
    void add(Region region) { sorted.push_back(std::move(region)); }
    void sort() {
        std::sort(sorted.begin(), sorted.end(), [](const Region& a, const Region& b) { return a.begin < b.begin; });
    }
    void clear() { sorted.clear(); }

    // The region that holds all the bytes, or null.
    const Region* find(uintptr_t address, size_t bytes) const {
        const Region* region = below(address);
        return region && region->contains(address, bytes) ? region : nullptr;
    }

    // The last region that begins at or below `address`.
    const Region* below(uintptr_t address) const {
        auto after = std::upper_bound(sorted.begin(), sorted.end(), address,
                                      [](uintptr_t value, const Region& region) { return value < region.begin; });
        return after == sorted.begin() ? nullptr : &*(after - 1);
    }
    // The first region that begins above `address`.
    const Region* above(uintptr_t address) const {
        auto after = std::upper_bound(sorted.begin(), sorted.end(), address,
                                      [](uintptr_t value, const Region& region) { return value < region.begin; });
        return after == sorted.end() ? nullptr : &*after;
    }

private:
    std::vector<Region> sorted;
};

}  // namespace emulator
