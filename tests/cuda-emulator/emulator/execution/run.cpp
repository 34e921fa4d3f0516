// All blocks of a launch, on one thread of the host or on several.
#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <random>
#include <thread>

#include "../checks/races.h"
#include "../memory/memory.h"
#include "fault.h"

namespace emulator {
namespace {

// Blocks that run nothing are kept, since their memory is already there.
class Pool {
public:
    std::unique_ptr<Block> take() {
        std::lock_guard lock(mutex);
        if (idle.empty()) return std::make_unique<Block>();
        std::unique_ptr<Block> block = std::move(idle.back());
        idle.pop_back();
        return block;
    }
    void give_back(std::unique_ptr<Block> block) {
        std::lock_guard lock(mutex);
        idle.push_back(std::move(block));
    }

private:
    std::mutex mutex;
    std::vector<std::unique_ptr<Block>> idle;
};

Pool& pool() {
    static Pool* const instance = new Pool;  // never destroyed: kernels may run until the end
    return *instance;
}

// One launch at a time while there is a shadow, which all share.
std::mutex shadow_mutex;

std::string describe(const Block& block, const Fault& fault) {
    return format("kernel `%s`, block %s, thread %s, %s: %s", block.program->name.c_str(),
                  block.block_name(block.number_in_grid).c_str(),
                  block.thread_name(fault.warp->index * LANES + fault.lane).c_str(),
                  block.program->place(fault.origin).c_str(), fault.message.c_str());
}

// In which order the blocks run.
class Sequence {
public:
    explicit Sequence(uint64_t blocks) : blocks(blocks), order(config().order) {
        if (order != Config::Order::Random) return;
        for (uint64_t i = 0; i < blocks; i++) shuffled.push_back(i);
        std::shuffle(shuffled.begin(), shuffled.end(), std::mt19937_64(config().seed));
    }
    uint64_t operator[](uint64_t i) const {
        switch (order) {
            case Config::Order::Reverse: return blocks - 1 - i;
            case Config::Order::Random: return shuffled[i];
            default: return i;
        }
    }

private:
    const uint64_t blocks;
    const Config::Order order;
    std::vector<uint64_t> shuffled;
};

struct Progress {
    explicit Progress(uint64_t blocks) : sequence(blocks) {}

    const Sequence sequence;
    std::atomic<uint64_t> next{0};
    std::atomic<bool> failed{false};
    std::mutex mutex;
    Work work;
    std::exception_ptr error;
};

void run_some(const Launch& launch, const Regions& regions, uint32_t serial, Progress& progress) {
    std::unique_ptr<Block> block = pool().take();
    block->prepare(launch, regions, serial);
    const uint64_t blocks = launch.grid.count();
    try {
        for (uint64_t i; !progress.failed && (i = progress.next++) < blocks;) block->run(progress.sequence[i]);
    } catch (const Fault& fault) {
        std::lock_guard lock(progress.mutex);
        if (!progress.failed.exchange(true))
            progress.error = std::make_exception_ptr(Error(fault.code, describe(*block, fault)));
    }
    std::lock_guard lock(progress.mutex);
    progress.work += block->work;
    pool().give_back(std::move(block));
}

}  // namespace

Work run(const Launch& launch) {
    const bool checks = config().checks();
    std::unique_lock lock(shadow_mutex, std::defer_lock);
    if (checks) lock.lock();
    const auto regions = memory::regions(launch.device);
    const uint32_t serial = checks ? memory::number_blocks(launch.grid.count()) : 0;

    Progress progress(launch.grid.count());
    std::vector<std::thread> others;
    const uint64_t workers = std::min<uint64_t>(config().workers(), launch.grid.count());
    for (uint64_t i = 1; i < workers; i++) others.emplace_back([&] { run_some(launch, *regions, serial, progress); });
    run_some(launch, *regions, serial, progress);
    for (std::thread& other : others) other.join();
    if (progress.error) std::rethrow_exception(progress.error);
    return progress.work;
}

}  // namespace emulator
