// Modules, their kernels, and the launches of those.
#pragma once
#include <map>
#include <memory>
#include <string>

#include "../program/program.h"
#include "api.h"

namespace emulator {

struct Function {
    std::shared_ptr<const Program> program;
    int device;
    int max_dynamic_shared_bytes;  // may be raised by an attribute
};

struct Module {
    explicit Module(int device) : device(device) {}
    ~Module();  // its variables go with it

    int device;
    std::map<std::string, Function> functions;
    struct Global {
        uintptr_t address;
        size_t bytes;
    };
    std::map<std::string, Global> globals;
};

}  // namespace emulator
