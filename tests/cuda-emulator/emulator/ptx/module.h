// A PTX module as written: variables, functions and their statements, with the line of each.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace emulator::ptx {

enum class Type : uint8_t {
    None,
    Pred,
    B8,
    U8,
    S8,
    B16,
    U16,
    S16,
    F16,
    BF16,
    B32,
    U32,
    S32,
    F32,
    F16x2,
    BF16x2,
    TF32,
    B64,
    U64,
    S64,
    F64,
};

Type parse_type(std::string_view name);  // None where `name` is no type
size_t bytes(Type type);                 // 0 for None; a predicate takes none either
bool is_signed(Type type);
bool is_float(Type type);  // of one number, not the packed pairs
Type unsigned_type(size_t bytes);
std::string demangled(const std::string& name);  // "part" for "_ZZ7rmsnormE4part"

enum class Space : uint8_t { Generic, Global, Shared, Local, Param, Const };

// Where a statement comes from: the line of the PTX, and that of the CUDA source where a `.loc` says it.
struct Origin {
    int ptx_line = 0;
    int file = 0;  // a key of Module::files, 0 for none
    int line = 0;
};

struct Operand {
    enum Kind {
        Register,   // %r1, also the special ones
        Immediate,  // 42, 0f3F800000
        Symbol,     // a variable's address, plus `value`; also a label or a function
        Address,    // [name + value], or [value] where there is no name
        List,       // {a, b}: a vector
        Pair,       // a|b: two destinations
        Sink,       // _
    };
    Kind kind = Sink;
    std::string name;
    uint64_t value = 0;         // the bits of an immediate, or an offset
    Type literal = Type::None;  // of an Immediate: S64, F32 or F64
    bool negated = false;       // !%p1
    std::vector<Operand> elements;
};

struct Statement {
    std::vector<std::string> opcode;  // "ld", "global", "f32"
    std::string guard;                // the predicate of `@%p1`, or empty
    bool guard_negated = false;
    std::vector<Operand> operands;
    Origin origin;

    std::string text() const;  // "ld.global.f32", for messages
};

// A value at `offset` in a variable that is the address of another one.
struct Relocation {
    size_t offset;
    std::string symbol;
    uint64_t addend;
};

struct Variable {
    Space space = Space::Generic;
    std::string name;
    Type type = Type::None;
    size_t bytes = 0;
    size_t alignment = 1;
    bool external = false;         // `extern __shared__ x[]`: as large as the launch says
    std::vector<uint8_t> initial;  // shorter than `bytes` where the rest is zero
    std::vector<Relocation> relocations;
};

struct Function {
    std::string name;
    bool is_kernel = false;
    bool has_body = false;
    std::vector<Variable> results, parameters;
    std::unordered_map<std::string, Type> registers;
    std::vector<Variable> variables;  // of the body: shared, local, and what is passed to calls
    std::vector<Statement> body;
    std::map<std::string, size_t> labels;  // the statement that follows; may be one past the end
    std::map<std::string, std::vector<std::string>> branch_targets;
    unsigned max_threads = 0;       // of __launch_bounds__, 0 for none
    unsigned required_threads = 0;  // of .reqntid
};

struct Module {
    int version = 0;  // 87 for 8.7
    int target = 0;   // 80 for sm_80
    std::map<int, std::string> files;
    std::vector<Variable> variables;
    std::map<std::string, Function> functions;
};

// Throws Error(CUDA_ERROR_INVALID_PTX) that names the line.
Module parse(std::string_view text);

// Puts the body of every called function in place of its call: the rest of the emulator knows no calls.
void inline_calls(Function& kernel, const Module& module);

}  // namespace emulator::ptx
