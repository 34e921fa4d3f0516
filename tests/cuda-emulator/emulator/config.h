// The options, read once from the environment (CUDA_EMULATOR_*). README.md says what each is for.
#pragma once
#include <cstdint>
#include <optional>
#include <string>

namespace emulator {

struct Config {
    enum class Order { Natural, Reverse, Random };

    bool check_races = false;
    bool check_initialised = false;
    bool execute = true;
    Order order = Order::Natural;
    uint64_t seed = 0;
    bool lazy_streams = false;
    unsigned threads = 1;
    unsigned devices = 1;
    int compute_capability = 90;
    size_t memory = size_t(8) << 30;
    int driver_version = 13000;
    uint64_t budget = uint64_t(1) << 33;  // instructions of a block's warps: some minutes

    uint64_t fail_launch = 0;  // the first launch to fail, from 1; 0 for none
    int fail_code = 0;
    std::string override_directory;
    std::string skip_kernel;
    struct Swap {
        std::string kernel;
        size_t first, second;
    };
    std::optional<Swap> swap;

    bool checks() const { return check_races || check_initialised; }
    // Blocks share one shadow, and random orders one generator: both are one thread's.
    unsigned workers() const { return checks() || order != Order::Natural ? 1 : threads; }
};

// The options in force; the first call reads the environment. Throws Error(CUDA_ERROR_INVALID_VALUE) for what it cannot
// understand, unknown names included: a misspelt check would pass every test.
const Config& config();
// Changes one option of a running process. Throws likewise.
void set_option(const std::string& name, const std::string& value);

}  // namespace emulator
