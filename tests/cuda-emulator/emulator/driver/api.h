// What the functions of the C interface have in common.
#pragma once
#include "../config.h"
#include "../error.h"

// A function that the library exports, under the driver's name and with its C types: handles are pointers.
#define CUDA_API extern "C" __attribute__((visibility("default")))

using CUresult = int;
using CUdeviceptr = unsigned long long;
using CUdevice = int;

namespace emulator {

struct Context {
    int device;
};

int max_shared_bytes();  // of a block of the emulated device, static and dynamic

// Throw Error(CUDA_ERROR_NOT_INITIALIZED), Error(CUDA_ERROR_INVALID_CONTEXT).
void require_initialised();
Context& current_context();

enum class Needs {
    Nothing,
    Initialised,  // cuInit
    Context,      // a current context, and a device that has had no error
};

// Runs the body of an API function and turns what it throws into a status. An error of the device is every later call's
// result.
template <class Body>
CUresult call(Needs needs, Body body) {
    try {
        if (needs != Needs::Nothing) require_initialised();
        if (needs == Needs::Context) {
            current_context();
            if (device_error::code() != CUDA_SUCCESS) return device_error::code();
        }
        body();
        return CUDA_SUCCESS;
    } catch (const Error& error) {
        remember_refusal(error);
        return error.code;
    } catch (const std::exception& error) {
        remember_refusal(Error(CUDA_ERROR_UNKNOWN, error.what()));
        return CUDA_ERROR_UNKNOWN;
    }
}

}  // namespace emulator
