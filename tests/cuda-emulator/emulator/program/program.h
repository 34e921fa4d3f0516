// A kernel in the form in which it runs: a list of instructions, each of which works on the 32 lanes of a warp at once.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "../ptx/module.h"

namespace emulator {

constexpr int LANES = 32;
using Mask = uint32_t;  // a bit a lane
constexpr Mask ALL_LANES = 0xffffffff;

class Warp;
struct Instruction;

// Runs one instruction for `lanes`. It reads the lane arrays of `Instruction::slots` and writes those lanes of its
// outputs that are in `lanes`.
using Handler = void (*)(Warp&, const Instruction&, Mask lanes);

// Where a value's lane array lies: among a warp's own registers, or among the constants, which all warps of a block
// share. A predicate is not an array but a Mask.
struct Slot {
    uint32_t bits = 0;
    static constexpr uint32_t CONSTANT = 1u << 31;

    size_t is_constant() const { return bits >> 31; }
    size_t offset() const { return bits & ~CONSTANT; }
};

// What the lane array of values of so many bytes takes; 0 bytes stand for a predicate.
constexpr size_t array_bytes(size_t bytes) { return bytes ? bytes * LANES : sizeof(Mask); }

struct Instruction {
    Handler run;
    const Slot* slots;   // the outputs, then the inputs
    uint64_t immediate;  // what the handler needs beside them: an offset, a truth table, a target
    Slot guard;
    bool has_guard;
    bool guard_negated;
    bool is_control;  // moves the program counter itself
    uint8_t flops;    // a lane
    uint8_t outputs, inputs;
    uint16_t detail;       // a handler's own small number
    uint32_t site;         // of a memory access: which it is in the program
    Handler inner;         // what a handler that prepares something wraps
    uint16_t environment;  // bits of MXCSR, see environment.h
    ptx::Origin origin;
};

// Registers that the hardware sets, and the lane array that holds each.
enum class Special : uint8_t {
    TidX,
    TidY,
    TidZ,
    LaneId,
    WarpId,
    LanemaskEq,
    LanemaskLt,
    LanemaskLe,
    LanemaskGt,
    LanemaskGe,  // a warp's own
    CtaidX,
    CtaidY,
    CtaidZ,  // a block's
    NtidX,
    NtidY,
    NtidZ,
    NctaidX,
    NctaidY,
    NctaidZ,
    NwarpId,
    DynamicSmemSize,
    TotalSmemSize,  // a launch's
    SmId,
    NsmId,
    GridId,  // constants here
};

struct Parameter {
    size_t offset, bytes;
    bool is_pointer;  // used as the address of global memory
};

struct SharedVariable {
    std::string name;
    size_t offset, bytes;
};

struct Program {
    std::string name;
    std::string module;
    std::vector<Instruction> code;
    std::vector<Slot> slots;
    std::vector<std::vector<uint32_t>> branch_tables;  // of brx.idx
    std::map<int, std::string> files;

    size_t register_bytes = 0;       // a warp's
    std::vector<uint8_t> constants;  // the lane arrays of the immediates; room for the block's special registers
    std::vector<std::pair<Special, Slot>> specials;

    std::vector<Parameter> parameters;
    size_t parameter_bytes = 0;

    std::vector<SharedVariable> shared;  // with gaps between them, so that no overrun meets another variable
    size_t static_shared_bytes = 0;      // what a GPU would count
    size_t dynamic_shared_offset = 0;
    size_t local_bytes = 0;  // a lane's

    uint32_t sites = 0;
    unsigned max_threads = 1024;
    bool limits_threads = false;  // by __launch_bounds__

    std::string place(const ptx::Origin& origin) const;  // "vectors.cu:12"
};

}  // namespace emulator
