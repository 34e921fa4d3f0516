#include <cxxabi.h>
#include <stdlib.h>

#include <iterator>

#include "module.h"

namespace emulator::ptx {
namespace {

struct Row {
    std::string_view name;
    size_t bytes;
};

// In the order of `Type`.
constexpr Row TYPES[] = {
    {"", 0},    {"pred", 0},                                                                    //
    {"b8", 1},  {"u8", 1},   {"s8", 1},                                                         //
    {"b16", 2}, {"u16", 2},  {"s16", 2}, {"f16", 2}, {"bf16", 2},                               //
    {"b32", 4}, {"u32", 4},  {"s32", 4}, {"f32", 4}, {"f16x2", 4}, {"bf16x2", 4}, {"tf32", 4},  //
    {"b64", 8}, {"u64", 8},  {"s64", 8}, {"f64", 8},
};
static_assert(std::size(TYPES) == (size_t)Type::F64 + 1);

}  // namespace

Type parse_type(std::string_view name) {
    for (size_t i = 1; i < std::size(TYPES); i++)
        if (TYPES[i].name == name) return (Type)i;
    return Type::None;
}

size_t bytes(Type type) { return TYPES[(size_t)type].bytes; }

bool is_signed(Type type) { return type == Type::S8 || type == Type::S16 || type == Type::S32 || type == Type::S64; }

bool is_float(Type type) {
    return type == Type::F16 || type == Type::BF16 || type == Type::F32 || type == Type::TF32 || type == Type::F64;
}

Type unsigned_type(size_t bytes) {
    switch (bytes) {
        case 1: return Type::U8;
        case 2: return Type::U16;
        case 4: return Type::U32;
        case 8: return Type::U64;
        default: return Type::Pred;
    }
}

std::string demangled(const std::string& name) {
    char* const text = abi::__cxa_demangle(name.c_str(), nullptr, nullptr, nullptr);
    if (!text) return name;
    const std::string full = text;
    free(text);
    // Without the function: "rmsnorm::part"
    const size_t colons = full.rfind("::");
    return colons == full.npos ? full : full.substr(colons + 2);
}

std::string Statement::text() const {
    std::string result;
    for (const std::string& part : opcode) result += (result.empty() ? "" : ".") + part;
    return result;
}

}  // namespace emulator::ptx
