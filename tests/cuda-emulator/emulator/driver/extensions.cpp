// What only the emulated driver has: callers look for these symbols and do without where there are none.
#include <string.h>

#include "../counters.h"
#include "../memory/memory.h"
#include "api.h"

using namespace emulator;

// Makes a part of an allocation a buffer of its own, with a name for messages. Its bytes have no value then.
CUDA_API CUresult cuda_emulator_carve(CUdeviceptr address, size_t bytes, const char* name) {
    return call(Needs::Nothing, [&] { memory::carve(address, bytes, name); });
}

// The allocation is one buffer again.
CUDA_API CUresult cuda_emulator_uncarve_all(CUdeviceptr allocation) {
    return call(Needs::Nothing, [&] { memory::uncarve_all(allocation); });
}

// The counters as JSON; the text is the caller's until its thread asks again.
CUDA_API const char* cuda_emulator_counters() {
    static thread_local std::string text;
    text = counters::json();
    return text.c_str();
}

CUDA_API void cuda_emulator_reset_counters() { counters::reset(); }

// Sets an option, by its name without the prefix.
CUDA_API CUresult cuda_emulator_set(const char* option, const char* value) {
    return call(Needs::Nothing, [&] { set_option(option, value); });
}
