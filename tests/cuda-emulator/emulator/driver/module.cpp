#include "module.h"

#include <string.h>

#include <fstream>
#include <mutex>
#include <set>
#include <sstream>

#include "../memory/memory.h"
#include "../program/assembler.h"
#include "stream.h"

namespace emulator {
namespace {

std::mutex mutex;
std::set<Module*> modules;

Module& module_of(Module* handle) {
    std::lock_guard lock(mutex);
    if (!modules.contains(handle)) throw Error(CUDA_ERROR_INVALID_HANDLE, "there is no such module");
    return *handle;
}

std::string read_file(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw Error(CUDA_ERROR_FILE_NOT_FOUND, format("cannot read `%s`", path.c_str()));
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
}

// "vectors" for text that begins with `// tunesmith: vectors.cu`
std::string module_name(const std::string& text) {
    constexpr char MARK[] = "// tunesmith: ";
    if (text.compare(0, strlen(MARK), MARK)) return "";
    const std::string file = text.substr(strlen(MARK), text.find('\n') - strlen(MARK));
    return file.substr(0, file.rfind(".cu"));
}

// The PTX to use: another one where OVERRIDE has a file for the module.
std::string chosen_text(const std::string& text) {
    if (config().override_directory.empty()) return text;
    const std::string path = config().override_directory + "/" + module_name(text) + ".ptx";
    return std::ifstream(path) ? read_file(path) : text;
}

// The newest PTX that a driver knows (PTX ISA, "Release Notes").
int newest_ptx(int driver_version) {
    constexpr struct {
        int driver, ptx;
    } ROWS[] = {{13000, 90}, {12090, 88}, {12080, 87}, {12050, 85}, {12040, 84},
                {12030, 83}, {12020, 82}, {12010, 81}, {12000, 80}};
    for (const auto& row : ROWS)
        if (driver_version >= row.driver) return row.ptx;
    return 78;
}

void write_initial_value(const ptx::Variable& variable, const std::map<std::string, uint64_t>& symbols) {
    const uintptr_t address = symbols.at(variable.name);
    memory::mark_initialised(address, variable.bytes);
    memset((void*)address, 0, variable.bytes);
    memcpy((void*)address, variable.initial.data(), variable.initial.size());
    for (const ptx::Relocation& relocation : variable.relocations) {
        const auto target = symbols.find(relocation.symbol);
        if (target == symbols.end())
            throw Error(CUDA_ERROR_INVALID_PTX, format("there is no variable `%s`", relocation.symbol.c_str()));
        const uint64_t value = target->second + relocation.addend;
        memcpy((void*)(address + relocation.offset), &value, sizeof value);
    }
}

// A module's text, read.
struct Assembled {
    int version, target;
    std::map<std::string, std::shared_ptr<const Program>> programs;  // the kernels
};

// Modules without variables are the same wherever they are loaded: tests that open a device each read them once.
std::map<std::string, std::shared_ptr<const Assembled>> assembled;

void check_versions(const Assembled& module) {
    const int newest = newest_ptx(config().driver_version);
    if (module.version > newest)
        throw Error(CUDA_ERROR_UNSUPPORTED_PTX_VERSION,
                    format("PTX %d.%d, but a driver of version %d knows it up to %d.%d", module.version / 10,
                           module.version % 10, config().driver_version, newest / 10, newest % 10));
    if (module.target > config().compute_capability)
        throw Error(CUDA_ERROR_INVALID_PTX, format("the PTX is for sm_%d or later, the device is sm_%d", module.target,
                                                   config().compute_capability));
}

// Reads a module and gives its variables their memory.
std::shared_ptr<const Assembled> assemble(const std::string& text, Module& module) {
    ptx::Module parsed = ptx::parse(text);
    auto result = std::make_shared<Assembled>(Assembled{parsed.version, parsed.target, {}});
    check_versions(*result);
    std::map<std::string, uint64_t> symbols;
    for (const ptx::Variable& variable : parsed.variables) {
        if (variable.space == ptx::Space::Shared) continue;
        if (variable.external)
            throw Error(CUDA_ERROR_INVALID_PTX, format("variable `%s` is defined nowhere", variable.name.c_str()));
        const uintptr_t address =
            memory::allocate(module.device, variable.bytes, format("variable `%s`", variable.name.c_str()));
        module.globals[variable.name] = {address, variable.bytes};
        symbols[variable.name] = address;
    }
    for (const ptx::Variable& variable : parsed.variables)
        if (variable.space != ptx::Space::Shared) write_initial_value(variable, symbols);
    for (auto& [name, function] : parsed.functions) {
        if (!function.is_kernel) continue;
        ptx::inline_calls(function, parsed);
        result->programs[name] = Assembler(parsed, function, symbols).assemble();
    }
    return result;
}

Module* load(const char* image) {
    // Cubins and fat binaries begin with a magic number, PTX with a comment or a directive.
    if (image[0] != '/' && image[0] != '.' && !isspace((unsigned char)image[0]))
        throw Error(CUDA_ERROR_INVALID_IMAGE, "the image is not PTX, which is all that can run here");
    const std::string text = chosen_text(image);
    std::lock_guard lock(mutex);
    auto module = std::make_unique<Module>(current_context().device);
    std::shared_ptr<const Assembled> source;
    if (const auto found = assembled.find(text); found != assembled.end()) {
        source = found->second;
        check_versions(*source);
    } else {
        source = assemble(text, *module);
        if (module->globals.empty()) assembled[text] = source;
    }
    for (const auto& [name, program] : source->programs) {
        const int default_dynamic = 48 * 1024 - (int)program->static_shared_bytes;
        module->functions[name] = {program, module->device, default_dynamic};
    }
    return *modules.insert(module.release()).first;
}

enum FunctionAttribute {
    MAX_THREADS_PER_BLOCK = 0,
    SHARED_SIZE_BYTES = 1,
    CONST_SIZE_BYTES = 2,
    LOCAL_SIZE_BYTES = 3,
    NUM_REGS = 4,
    PTX_VERSION = 5,
    BINARY_VERSION = 6,
    MAX_DYNAMIC_SHARED_SIZE_BYTES = 8,
};

}  // namespace

Module::~Module() {
    for (const auto& entry : globals) memory::release(entry.second.address);
}

}  // namespace emulator

using namespace emulator;

CUDA_API CUresult cuModuleLoadData(Module** module, const void* image) {
    return call(Needs::Context, [&] {
        refuse_in_capture("the loading of a module");
        *module = load((const char*)image);
    });
}

CUDA_API CUresult cuModuleLoadDataEx(Module** module, const void* image, unsigned, void*, void*) {
    return cuModuleLoadData(module, image);
}

CUDA_API CUresult cuModuleLoad(Module** module, const char* path) {
    return call(Needs::Context, [&] {
        refuse_in_capture("the loading of a module");
        *module = load(read_file(path).c_str());
    });
}

CUDA_API CUresult cuModuleUnload(Module* handle) {
    return call(Needs::Context, [&] {
        module_of(handle);
        flush_all();
        std::lock_guard lock(mutex);
        modules.erase(handle);
        delete handle;
    });
}

CUDA_API CUresult cuModuleGetFunction(Function** function, Module* handle, const char* name) {
    return call(Needs::Context, [&] {
        Module& module = module_of(handle);
        const auto found = module.functions.find(name);
        if (found == module.functions.end())
            throw Error(CUDA_ERROR_NOT_FOUND, format("the module has no kernel `%s`", name));
        *function = &found->second;
    });
}

CUDA_API CUresult cuModuleGetGlobal_v2(CUdeviceptr* address, size_t* bytes, Module* handle, const char* name) {
    return call(Needs::Context, [&] {
        Module& module = module_of(handle);
        const auto found = module.globals.find(name);
        if (found == module.globals.end())
            throw Error(CUDA_ERROR_NOT_FOUND, format("the module has no variable `%s`", name));
        if (address) *address = found->second.address;
        if (bytes) *bytes = found->second.bytes;
    });
}

CUDA_API CUresult cuFuncGetAttribute(int* value, int attribute, Function* function) {
    return call(Needs::Context, [&] {
        const Program& program = *function->program;
        switch (attribute) {
            case MAX_THREADS_PER_BLOCK: *value = program.max_threads; break;
            case SHARED_SIZE_BYTES: *value = program.static_shared_bytes; break;
            case CONST_SIZE_BYTES: *value = 0; break;
            case LOCAL_SIZE_BYTES: *value = program.local_bytes; break;
            case NUM_REGS: *value = 32; break;  // an emulated device has as many as it likes
            case PTX_VERSION:
            case BINARY_VERSION: *value = config().compute_capability; break;
            case MAX_DYNAMIC_SHARED_SIZE_BYTES: *value = function->max_dynamic_shared_bytes; break;
            default: *value = 0;
        }
    });
}

CUDA_API CUresult cuFuncSetAttribute(Function* function, int attribute, int value) {
    return call(Needs::Context, [&] {
        if (attribute != MAX_DYNAMIC_SHARED_SIZE_BYTES) return;
        const int most = max_shared_bytes() - (int)function->program->static_shared_bytes;
        if (value < 0 || value > most)
            throw Error(CUDA_ERROR_INVALID_VALUE,
                        format("kernel `%s` cannot have %d bytes of dynamic shared memory: at most %d",
                               function->program->name.c_str(), value, most));
        function->max_dynamic_shared_bytes = value;
    });
}

CUDA_API CUresult cuFuncSetCacheConfig(Function*, int) {
    return call(Needs::Context, [] {});
}
