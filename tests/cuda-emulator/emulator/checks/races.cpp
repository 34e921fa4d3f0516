#include "races.h"

#include "../error.h"

namespace emulator {

void RaceChecker::start_launch(uint32_t first) {
    first_serial = first;
    started_blocks = 0;
    releases.clear();
}

void RaceChecker::start_block(uint32_t next) {
    serial = next;
    started_blocks++;
    now = 1;
    for (Times& times : seen) times.fill(0);
    lanes_seen.clear();
    readers.clear();
    free_readers.clear();
    acquires.clear();
    if (has_fences) fences.fill({});
    has_fences = false;
    fence_times = nullptr;
}

void RaceChecker::warp_sync(const Warp& warp, Mask lanes) {
    tick();
    if (lanes == (warp.existing & ~warp.exited)) {
        seen[warp.index][warp.index] = now;
        return;
    }
    auto& pairs = lanes_seen[warp.index];
    for (Mask a = lanes; a; a &= a - 1)
        for (Mask b = lanes; b; b &= b - 1) pairs[std::countr_zero(a)][std::countr_zero(b)] = now;
}

void RaceChecker::open(unsigned barrier) { offered[barrier].fill(0); }

void RaceChecker::arrive(const Warp& warp, unsigned barrier) {
    tick();
    for (int i = 0; i < WARPS; i++) offered[barrier][i] = std::max(offered[barrier][i], seen[warp.index][i]);
    offered[barrier][warp.index] = now;
}

void RaceChecker::leave(const Warp& warp, unsigned barrier) {
    for (int i = 0; i < WARPS; i++) seen[warp.index][i] = std::max(seen[warp.index][i], offered[barrier][i]);
}

void RaceChecker::fence(const Warp& warp, Mask lanes) {
    tick();
    has_fences = true;
    fence_times = nullptr;
    for (Mask rest = lanes; rest; rest &= rest - 1)
        fences[warp.index * LANES + std::countr_zero(rest)] = {now, seen[warp.index]};
}

void RaceChecker::atomic(const Warp& warp, int lane, uintptr_t address, bool reads, bool writes) {
    const unsigned thread = warp.index * LANES + lane;
    if (reads && releases.contains(address)) acquires.push_back({address, thread, now});
    if (!writes || !has_fences) return;  // most atomics are sums and order nothing
    if (!fence_times) {
        std::vector<uint32_t> times;
        for (const Fence& fence : fences) times.push_back(fence.time);
        fence_times = std::make_shared<std::vector<uint32_t>>(std::move(times));
    }
    releases[address].insert_or_assign(serial, Release{thread, now, seen[warp.index], fences[thread], fence_times});
    tick();
}

// Up to which time the lane has seen what another thread of its block did.
inline uint32_t RaceChecker::seen_by(const Warp& warp, int lane, unsigned thread) const {
    const unsigned other = thread / LANES;
    const uint32_t time = seen[warp.index][other];
    if (other != (unsigned)warp.index) return time;
    if (lanes_seen.empty()) return time;
    const auto pairs = lanes_seen.find(other);
    return pairs == lanes_seen.end() ? time : std::max(time, pairs->second[lane][thread % LANES]);
}

uint32_t RaceChecker::new_readers() {
    if (free_readers.empty()) {
        readers.push_back({});
        return readers.size() - 1;
    }
    const uint32_t entry = free_readers.back();
    free_readers.pop_back();
    readers[entry].fill(0);
    return entry;
}

inline bool RaceChecker::ordered(const Warp& warp, int lane, const Stamp& stamp, uint32_t readers_entry) const {
    if (stamp.block < first_serial || now == MAX_TIME) return true;  // an earlier launch, or the clock is at its end
    if (stamp.blocks || stamp.block != serial) return ordered_across_blocks(warp, lane, stamp);
    const unsigned thread = warp.index * LANES + lane;
    if (stamp.warps) {
        const Times &times = readers[readers_entry], &known = seen[warp.index];
        bool unseen = false;
        for (int i = 0; i < WARPS; i++) unseen |= times[i] && times[i] >= known[i];
        return !unseen;
    }
    if (stamp.lanes) return stamp.time < seen[warp.index][stamp.thread / LANES];
    return stamp.thread == thread || stamp.time < seen_by(warp, lane, stamp.thread);
}

// A thread has acquired if a fence stands between the atomic and itself: its own, or that of the thread with the
// atomic.
bool RaceChecker::has_acquired(const Warp& warp, int lane, const Acquire& acquire) const {
    const unsigned thread = warp.index * LANES + lane;
    if (thread == acquire.thread) return fences[thread].time > acquire.time;
    if (acquire.time < fences[thread].seen[acquire.thread / LANES]) return true;
    const uint32_t fenced = fences[acquire.thread].time;
    return fenced > acquire.time && fenced <= seen_by(warp, lane, acquire.thread);
}

bool RaceChecker::covers(const Release& release, const Stamp& stamp) {
    if (stamp.thread == release.thread)
        return stamp.time < release.fence.time || (stamp.atomic && stamp.time <= release.time);
    const unsigned warp = stamp.thread / LANES;
    if (stamp.time < release.fence.seen[warp]) return true;
    // Its own thread fenced it and then met the releasing thread at a barrier.
    const uint32_t fenced = (*release.fences)[stamp.thread];
    return stamp.time < fenced && fenced <= release.seen[warp];
}

bool RaceChecker::ordered_across_blocks(const Warp& warp, int lane, const Stamp& stamp) const {
    for (const Acquire& acquire : acquires) {
        if (!has_acquired(warp, lane, acquire)) continue;
        const auto& released = releases.at(acquire.address);
        // Of several blocks that read it is not known which: all must have released.
        if (stamp.blocks) {
            if (released.size() + 1 >= started_blocks) return true;
        } else if (auto found = released.find(stamp.block); found != released.end() && covers(found->second, stamp)) {
            return true;
        }
    }
    return false;
}

std::string RaceChecker::describe(const Stamp& stamp, const char* what) const {
    if (stamp.blocks) return format("several blocks %s it", what);
    if (stamp.block != serial)
        return format("block %s %s it", block.block_name(stamp.block - first_serial).c_str(), what);
    if (stamp.warps) return format("several warps %s it", what);
    if (stamp.lanes) return format("several lanes of warp %u %s it", unsigned(stamp.thread / LANES), what);
    return format("thread %s %s it", block.thread_name(stamp.thread).c_str(), what);
}

// Whether the cell knows of such a read already, by the thread or, since the last synchronisation, by lanes of its
// warp.
inline bool RaceChecker::is_remembered(const Cell& cell, const Stamp& me) const {
    if (cell.read == me) return true;
    if (cell.read.block != serial || cell.read.blocks || (me.bytes & ~cell.read.bytes) || cell.read.atomic > me.atomic)
        return false;
    if (cell.read.warps) return readers[cell.readers][me.thread / LANES] == now;
    return cell.read.lanes && cell.read.time == now && cell.read.thread / LANES == me.thread / LANES;
}

// A read that is ordered behind the earlier ones stands for them; else all that are not ordered are remembered.
void RaceChecker::remember_read(const Warp& warp, int lane, Cell& cell, Stamp me) {
    const Stamp old = cell.read;
    const bool same_block = old.block == serial && !old.blocks;
    if (same_block && old.thread == me.thread) me.bytes |= old.bytes;
    if (!old.bytes || old.block < first_serial || (same_block && ordered(warp, lane, old, cell.readers))) {
        if (old.warps && same_block) free_readers.push_back(cell.readers);
    } else {
        me.bytes |= old.bytes;
        me.atomic &= old.atomic;
        me.blocks = !same_block;
        me.lanes = old.lanes || old.thread != me.thread;
        me.warps = same_block && (old.warps || old.thread / LANES != me.thread / LANES);
        if (me.warps) {
            if (!old.warps) {
                cell.readers = new_readers();
                readers[cell.readers][old.thread / LANES] = old.time;
            }
            readers[cell.readers][warp.index] = now;
        }
    }
    cell.read = me;
}

inline RaceChecker::Race RaceChecker::touch_cell(const Warp& warp, int lane, Mask lanes, Cell& cell, const Stamp& me,
                                                 const Access& access) {
    if ((cell.write.bytes & me.bytes) && !(cell.write.atomic && me.atomic) && !ordered(warp, lane, cell.write, 0)) {
        // Lanes that store the same value in one instruction may do so (CUDA C++ Programming Guide, 7.2).
        const bool same_instruction = access.kind == Access::Write && cell.write.block == serial &&
                                      cell.write.time == now && cell.write.thread / LANES == unsigned(warp.index) &&
                                      (lanes >> cell.write.thread % LANES & 1);
        if (!same_instruction || !access.stores_same_value(lane, cell.write.thread % LANES)) return Race::WithWrite;
    }
    if (access.kind == Access::Read) {
        if (!is_remembered(cell, me)) remember_read(warp, lane, cell, me);
        return Race::None;
    }
    if ((cell.read.bytes & me.bytes) && !(cell.read.atomic && me.atomic) &&
        !ordered(warp, lane, cell.read, cell.readers))
        return Race::WithRead;
    if (cell.read.warps && cell.read.block == serial) free_readers.push_back(cell.readers);
    cell.write = me;
    cell.read = {};
    return Race::None;
}

std::optional<RaceChecker::Conflict> RaceChecker::touch(const Warp& warp, int lane, Mask lanes, const Region& region,
                                                        const Access& access) {
    const uint64_t start = access.address[lane] - region.shadow_origin;
    Cell* cell = region.shadow->cell() + start / CELL_BYTES;
    Cell* const end = cell + (access.bytes + CELL_BYTES - 1) / CELL_BYTES;
    Stamp me{};
    me.time = now;
    me.block = serial;
    me.thread = warp.index * LANES + lane;
    // Accesses are aligned: they are of whole cells, or of a byte.
    me.bytes = access.bytes < CELL_BYTES ? 1 << start % CELL_BYTES : (1 << CELL_BYTES) - 1;
    me.atomic = access.strong;
    const bool is_shared = block.in_shared(access.address[lane]);
    // Cells that were alike become alike. (Those that several warps have read are not: each has an entry of its own.)
    Cell before{}, after{};
    bool has_model = false;
    for (uint64_t address = access.address[lane]; cell < end; cell++, address += CELL_BYTES) {
        if (has_model && cell->write == before.write && cell->read == before.read) {
            *cell = after;
            continue;
        }
        before = *cell;
        if (is_shared) {  // where other blocks have been in other times
            if (cell->write.block != serial) cell->write = {};
            if (cell->read.block != serial) cell->read = {};
        }
        switch (touch_cell(warp, lane, lanes, *cell, me, access)) {
            case Race::None: break;
            case Race::WithWrite: return Conflict{address, describe(cell->write, "wrote")};
            case Race::WithRead: return Conflict{address, describe(cell->read, "read")};
        }
        after = *cell;
        has_model = !before.read.warps && !after.read.warps;
    }
    return {};
}

}  // namespace emulator
