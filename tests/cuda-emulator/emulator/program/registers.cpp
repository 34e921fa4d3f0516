#include "registers.h"

#include <algorithm>
#include <map>
#include <queue>

namespace emulator {
namespace {

class Bits {
public:
    explicit Bits(size_t count = 0) : words((count + 63) / 64) {}

    bool operator[](size_t i) const { return words[i / 64] >> i % 64 & 1; }
    void set(size_t i) { words[i / 64] |= uint64_t(1) << i % 64; }
    void reset(size_t i) { words[i / 64] &= ~(uint64_t(1) << i % 64); }
    void add(const Bits& other) {
        for (size_t i = 0; i < words.size(); i++) words[i] |= other.words[i];
    }
    bool operator==(const Bits&) const = default;

private:
    std::vector<uint64_t> words;
};

struct BasicBlock {
    size_t first, end;
    std::vector<size_t> successors;
    Bits live_in, live_out;
};

std::vector<BasicBlock> basic_blocks(const std::vector<RegisterUse>& code) {
    std::vector<bool> starts(code.size() + 1);
    starts[0] = true;
    for (size_t i = 0; i < code.size(); i++) {
        for (uint32_t target : code[i].targets) starts[target] = true;
        if (!code[i].targets.empty() || !code[i].continues) starts[i + 1] = true;
    }
    std::vector<BasicBlock> blocks;
    std::vector<size_t> block_of(code.size() + 1);
    for (size_t i = 0; i < code.size(); i++) {
        if (starts[i]) blocks.push_back({i, i, {}, Bits(), Bits()});
        block_of[i] = blocks.size() - 1;
        blocks.back().end = i + 1;
    }
    for (BasicBlock& block : blocks) {
        const RegisterUse& last = code[block.end - 1];
        for (uint32_t target : last.targets) block.successors.push_back(block_of[target]);
        if (last.continues && block.end < code.size()) block.successors.push_back(block_of[block.end]);
    }
    return blocks;
}

// The registers whose values are still needed where a block begins and ends.
void find_liveness(std::vector<BasicBlock>& blocks, const std::vector<RegisterUse>& code, size_t registers) {
    for (BasicBlock& block : blocks) block.live_in = block.live_out = Bits(registers);
    for (bool changed = true; changed;) {
        changed = false;
        for (auto block = blocks.rbegin(); block != blocks.rend(); ++block) {
            for (size_t successor : block->successors) block->live_out.add(blocks[successor].live_in);
            Bits live = block->live_out;
            for (size_t i = block->end; i-- > block->first;) {
                for (uint32_t r : code[i].defines) code[i].conditional ? live.set(r) : live.reset(r);
                for (uint32_t r : code[i].reads) live.set(r);
            }
            if (live != block->live_in) {
                block->live_in = std::move(live);
                changed = true;
            }
        }
    }
}

// From the first to the last instruction that a register's value must survive.
struct Interval {
    size_t first = SIZE_MAX, last = 0;
    void extend(size_t position) {
        first = std::min(first, position);
        last = std::max(last, position);
    }
};

std::vector<Interval> intervals(const std::vector<BasicBlock>& blocks, const std::vector<RegisterUse>& code,
                                size_t registers) {
    std::vector<Interval> result(registers);
    for (const BasicBlock& block : blocks) {
        for (size_t r = 0; r < registers; r++) {
            if (block.live_in[r]) result[r].extend(block.first);
            if (block.live_out[r]) result[r].extend(block.end);
        }
        for (size_t i = block.first; i < block.end; i++) {
            // Also what is never read has a place of its own: it must not be that of the instruction's other output.
            for (uint32_t r : code[i].defines) result[r].extend(i), result[r].extend(i + 1);
            for (uint32_t r : code[i].reads) result[r].extend(i);
        }
    }
    return result;
}

}  // namespace

// Linear scan (Poletto and Sarkar 1999): registers in the order in which they begin take the places of those that have
// ended. An instruction's output may take the place of its input, since handlers read before they write.
RegisterPlaces place_registers(const std::vector<VirtualRegister>& registers, const std::vector<RegisterUse>& code) {
    std::vector<BasicBlock> blocks = basic_blocks(code);
    find_liveness(blocks, code, registers.size());
    std::vector<Interval> lives = intervals(blocks, code, registers.size());

    std::vector<uint32_t> order;
    for (uint32_t r = 0; r < registers.size(); r++) {
        if (registers[r].pinned) lives[r] = {0, code.size()};
        if (lives[r].first != SIZE_MAX) order.push_back(r);
    }
    std::stable_sort(order.begin(), order.end(),
                     [&](uint32_t a, uint32_t b) { return lives[a].first < lives[b].first; });

    RegisterPlaces places;
    places.offsets.resize(registers.size());
    struct Class {
        std::vector<uint32_t> free;
        using End = std::pair<size_t, uint32_t>;  // the last use, and the place
        std::priority_queue<End, std::vector<End>, std::greater<End>> active;
    };
    std::map<size_t, Class> classes;  // by size
    for (uint32_t r : order) {
        Class& same_size = classes[registers[r].bytes];
        // Strictly earlier, or at this very instruction, which reads the one before it writes the other.
        while (!same_size.active.empty() && same_size.active.top().first <= lives[r].first && lives[r].first > 0) {
            same_size.free.push_back(same_size.active.top().second);
            same_size.active.pop();
        }
        if (same_size.free.empty()) {
            const size_t alignment = std::min<size_t>(registers[r].bytes, 64);
            places.bytes = (places.bytes + alignment - 1) / alignment * alignment;
            same_size.free.push_back(places.bytes);
            places.bytes += registers[r].bytes;
        }
        places.offsets[r] = same_size.free.back();
        same_size.free.pop_back();
        same_size.active.push({lives[r].last, places.offsets[r]});
    }
    return places;
}

}  // namespace emulator
