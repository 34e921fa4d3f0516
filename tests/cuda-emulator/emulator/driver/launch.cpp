// Launches: what a launch may ask for, its arguments, and the options that change or break launches on purpose.
#include "../execution/launch.h"

#include <string.h>

#include <algorithm>
#include <atomic>

#include "../counters.h"
#include "../memory/memory.h"
#include "launch.h"
#include "module.h"
#include "stream.h"

namespace emulator {

// Kernels and matrix products are counted where they run, whether or not in a graph.
void count_towards_failure() {
    static std::atomic<uint64_t> count{0};
    const uint64_t number = ++count;
    if (config().fail_launch && number >= config().fail_launch)
        throw Error(config().fail_code, format("launch number %lu fails, as CUDA_EMULATOR_FAIL_LAUNCH wants", number));
}

namespace {

class KernelLaunch : public Operation {
public:
    explicit KernelLaunch(Launch launch) : launch(std::move(launch)) {}
    void run(bool in_graph) const override {
        const std::string& name = launch.program->name;
        count_towards_failure();
        const bool executes = config().execute && name != config().skip_kernel;
        counters::count_kernel(name, in_graph, executes ? emulator::run(launch) : Work());
    }

private:
    const Launch launch;
};

[[noreturn]] void refuse(const Program& program, int code, const std::string& why) {
    throw Error(code, format("launch of `%s` refused: %s", program.name.c_str(), why.c_str()));
}

void check_limits(const Function& function, const Launch& launch) {
    const Program& program = *launch.program;
    const Dim3 &grid = launch.grid, &block = launch.block;
    const auto invalid = [&](const std::string& why) { refuse(program, CUDA_ERROR_INVALID_VALUE, why); };
    if (!grid.count() || !block.count()) invalid("a dimension is zero");
    if (grid.x > 2147483647 || grid.y > 65535 || grid.z > 65535)
        invalid(format("the grid (%u, %u, %u) is larger than (2147483647, 65535, 65535)", grid.x, grid.y, grid.z));
    if (block.x > 1024 || block.y > 1024 || block.z > 64 || block.count() > 1024)
        invalid(format("the block (%u, %u, %u) has more than 1024 threads, or more than 64 in z", block.x, block.y,
                       block.z));
    if (program.limits_threads && block.count() > program.max_threads)
        refuse(program, CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES,
               format("%lu threads, but its __launch_bounds__ allows %u", block.count(), program.max_threads));
    if (launch.dynamic_shared_bytes > (size_t)std::max(function.max_dynamic_shared_bytes, 0))
        invalid(
            format("%zu bytes of dynamic shared memory, but only %d are allowed; "
                   "CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES raises it",
                   launch.dynamic_shared_bytes, function.max_dynamic_shared_bytes));
}

// The values of the arguments as the kernel's parameters, by their sizes.
std::vector<uint8_t> parameters(const Program& program, void** arguments) {
    std::vector<uint8_t> result(program.parameter_bytes);
    for (size_t i = 0; i < program.parameters.size(); i++) {
        const Parameter& parameter = program.parameters[i];
        memcpy(&result[parameter.offset], arguments[i], parameter.bytes);
    }
    if (config().swap && config().swap->kernel == program.name) {
        const auto [first, second] = std::pair(config().swap->first, config().swap->second);
        if (std::max(first, second) >= program.parameters.size())
            refuse(program, CUDA_ERROR_INVALID_VALUE, "it has fewer arguments than CUDA_EMULATOR_SWAP_ARGS names");
        const Parameter &a = program.parameters[first], &b = program.parameters[second];
        const std::vector<uint8_t> before = result;
        memset(&result[a.offset], 0, a.bytes);
        memset(&result[b.offset], 0, b.bytes);
        memcpy(&result[a.offset], &before[b.offset], std::min(a.bytes, b.bytes));
        memcpy(&result[b.offset], &before[a.offset], std::min(a.bytes, b.bytes));
    }
    return result;
}

void check_pointers(const Launch& launch) {
    const Program& program = *launch.program;
    for (size_t i = 0; i < program.parameters.size(); i++) {
        const Parameter& parameter = program.parameters[i];
        uintptr_t address;
        if (!parameter.is_pointer) continue;
        memcpy(&address, &launch.parameters[parameter.offset], sizeof address);
        if (address && !memory::is_device_address(address))
            refuse(program, CUDA_ERROR_INVALID_VALUE,
                   format("argument %zu is used as a pointer, but 0x%lx is no device address", i, address));
    }
}

void launch_kernel(Function* function, Dim3 grid, Dim3 block, size_t shared_bytes, void* stream, void** arguments) {
    if (!function) throw Error(CUDA_ERROR_INVALID_HANDLE, "there is no such kernel");
    Launch launch;
    launch.program = function->program;
    launch.grid = grid;
    launch.block = block;
    launch.dynamic_shared_bytes = shared_bytes;
    launch.device = function->device;
    check_limits(*function, launch);
    launch.parameters = parameters(*launch.program, arguments);
    check_pointers(launch);
    submit(stream, std::make_shared<KernelLaunch>(std::move(launch)));
}

}  // namespace
}  // namespace emulator

using namespace emulator;

CUDA_API CUresult cuLaunchKernel(Function* function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                                 unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes,
                                 void* stream, void** arguments, void** extra) {
    return call(Needs::Context, [&] {
        if (extra) throw Error(CUDA_ERROR_NOT_SUPPORTED, "arguments in one buffer are not supported");
        launch_kernel(function, {grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared_bytes, stream, arguments);
    });
}

CUDA_API CUresult cuLaunchCooperativeKernel(Function*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                                            unsigned, void*, void**) {
    return call(Needs::Context, [] { throw Error(CUDA_ERROR_NOT_SUPPORTED, "cooperative launches are not emulated"); });
}

// ---- occupancy: as if only threads and shared memory limited it

CUDA_API CUresult cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, Function* function, int threads,
                                                                       size_t shared_bytes, unsigned) {
    return call(Needs::Context, [&] {
        const size_t shared = function->program->static_shared_bytes + shared_bytes + 1024;
        const int by_threads = threads > 0 ? 2048 / threads : 0, by_shared = (max_shared_bytes() + 1024) / shared;
        *blocks = std::min({32, by_threads, by_shared});
    });
}

CUDA_API CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Function* function, int threads,
                                                              size_t shared_bytes) {
    return cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, function, threads, shared_bytes, 0);
}

CUDA_API CUresult cuOccupancyAvailableDynamicSMemPerBlock(size_t* bytes, Function* function, int blocks, int) {
    return call(Needs::Context, [&] {
        const size_t each = (max_shared_bytes() + 1024) / std::max(blocks, 1),
                     taken = function->program->static_shared_bytes + 1024;
        *bytes = each > taken ? each - taken : 0;
    });
}

CUDA_API CUresult cuOccupancyMaxPotentialBlockSizeWithFlags(int* blocks, int* threads, Function* function, void*,
                                                            size_t, int limit, unsigned) {
    return call(Needs::Context, [&] {
        *threads = function->program->max_threads;
        if (limit) *threads = std::min(*threads, limit);
        *blocks = 2048 / *threads;
    });
}

CUDA_API CUresult cuOccupancyMaxPotentialBlockSize(int* blocks, int* threads, Function* function, void* shared_bytes_of,
                                                   size_t shared_bytes, int limit) {
    return cuOccupancyMaxPotentialBlockSizeWithFlags(blocks, threads, function, shared_bytes_of, shared_bytes, limit,
                                                     0);
}

CUDA_API CUresult cuOccupancyMaxPotentialClusterSize(int*, Function*, const void*) {
    return call(Needs::Context, [] { throw Error(CUDA_ERROR_NOT_SUPPORTED, "clusters are not emulated"); });
}

CUDA_API CUresult cuOccupancyMaxActiveClusters(int*, Function*, const void*) {
    return call(Needs::Context, [] { throw Error(CUDA_ERROR_NOT_SUPPORTED, "clusters are not emulated"); });
}
