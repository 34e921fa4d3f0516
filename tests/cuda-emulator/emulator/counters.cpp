#include "counters.h"

#include <algorithm>
#include <map>
#include <mutex>

#include "error.h"

namespace emulator::counters {
namespace {

struct Kernel {
    uint64_t launches = 0, graph_launches = 0;
    Work work;
};

struct Transfers {
    uint64_t count = 0, bytes = 0;
    void add(uint64_t more) { count++, bytes += more; }
    std::string json() const { return format(R"({"count":%lu,"bytes":%lu})", count, bytes); }
};

struct Counters {
    std::map<std::string, Kernel> kernels;
    uint64_t blas_calls = 0, blas_graph_calls = 0, blas_flops = 0;
    uint64_t graph_launches = 0, synchronisations = 0;
    Transfers memsets, copies[3], allocations, host_allocations;
    uint64_t peak_bytes = 0;
};

std::mutex mutex;
Counters counters;

}  // namespace

void count_kernel(const std::string& name, bool in_graph, const Work& work) {
    std::lock_guard lock(mutex);
    Kernel& kernel = counters.kernels[name];
    (in_graph ? kernel.graph_launches : kernel.launches)++;
    kernel.work += work;
}

void count_blas(bool in_graph, uint64_t flops) {
    std::lock_guard lock(mutex);
    (in_graph ? counters.blas_graph_calls : counters.blas_calls)++;
    counters.blas_flops += flops;
}

void count_graph_launch() {
    std::lock_guard lock(mutex);
    counters.graph_launches++;
}

void count_memset(uint64_t bytes) {
    std::lock_guard lock(mutex);
    counters.memsets.add(bytes);
}

void count_copy(Copy direction, uint64_t bytes) {
    std::lock_guard lock(mutex);
    counters.copies[(int)direction].add(bytes);
}

void count_allocation(uint64_t bytes, uint64_t used_bytes) {
    std::lock_guard lock(mutex);
    counters.allocations.add(bytes);
    counters.peak_bytes = std::max(counters.peak_bytes, used_bytes);
}

void count_host_allocation(uint64_t bytes) {
    std::lock_guard lock(mutex);
    counters.host_allocations.add(bytes);
}

void count_synchronisation() {
    std::lock_guard lock(mutex);
    counters.synchronisations++;
}

std::string json() {
    std::lock_guard lock(mutex);
    std::string kernels;
    for (const auto& [name, kernel] : counters.kernels)
        kernels += format(R"(%s"%s":{"launches":%lu,"graph_launches":%lu,"flops":%lu,"global_read_bytes":%lu,)"
                          R"("global_written_bytes":%lu,"shared_read_bytes":%lu,"shared_written_bytes":%lu})",
                          kernels.empty() ? "" : ",", name.c_str(), kernel.launches, kernel.graph_launches,
                          kernel.work.flops, kernel.work.global_read_bytes, kernel.work.global_written_bytes,
                          kernel.work.shared_read_bytes, kernel.work.shared_written_bytes);
    return format(
        R"({"kernels":{%s},"blas":{"calls":%lu,"graph_calls":%lu,"flops":%lu},"graph_launches":%lu,"synchronisations":%lu,)"
        R"("memsets":%s,"host_to_device":%s,"device_to_host":%s,"device_to_device":%s,"allocations":%s,"host_allocations":%s,)"
        R"("peak_bytes":%lu})",
        kernels.c_str(), counters.blas_calls, counters.blas_graph_calls, counters.blas_flops, counters.graph_launches,
        counters.synchronisations, counters.memsets.json().c_str(), counters.copies[0].json().c_str(),
        counters.copies[1].json().c_str(), counters.copies[2].json().c_str(), counters.allocations.json().c_str(),
        counters.host_allocations.json().c_str(), counters.peak_bytes);
}

void reset() {
    std::lock_guard lock(mutex);
    counters = {};
}

}  // namespace emulator::counters
