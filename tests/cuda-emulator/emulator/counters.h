// What the process has asked of its devices, for tests that hold it to a budget: launches, copies, allocations, FLOPs.
#pragma once
#include <string>

#include "execution/launch.h"

namespace emulator::counters {

enum class Copy { HostToDevice, DeviceToHost, DeviceToDevice };

void count_kernel(const std::string& name, bool in_graph, const Work& work);
void count_blas(bool in_graph, uint64_t flops);
void count_graph_launch();
void count_memset(uint64_t bytes);
void count_copy(Copy direction, uint64_t bytes);
void count_allocation(uint64_t bytes, uint64_t used_bytes);
void count_host_allocation(uint64_t bytes);
void count_synchronisation();

std::string json();
void reset();

}  // namespace emulator::counters
