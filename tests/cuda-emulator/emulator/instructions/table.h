// The instruction set: for each opcode the function that assembles it.
#pragma once
#include <map>
#include <string_view>

#include "../program/assembler.h"

namespace emulator {

// Emits what a statement is to do. Throws through Assembler::fail where it is not known.
using Build = void (*)(Assembler&);
using Family = std::map<std::string_view, Build>;

// A file for each: to add an instruction, write its operation for one lane and a row in its family.
const Family& arithmetic_instructions();  // add, mul, fma, div, min, ... of all types
const Family& function_instructions();    // ex2, lg2, sin, rsqrt, tanh, ...
const Family& bit_instructions();         // and, shl, lop3, prmt, bfe, ...
const Family& compare_instructions();     // setp, selp, ...
const Family& convert_instructions();     // mov, cvt, cvta
const Family& memory_instructions();      // ld, st, cp.async, prefetch
const Family& atomic_instructions();      // atom, red, membar, fence
const Family& control_instructions();     // bra, ret, bar, call, trap
const Family& warp_instructions();        // shfl, vote, match, redux, activemask
const Family& matrix_instructions();      // mma, ldmatrix

// Null where there is no such instruction.
const Build* find_instruction(std::string_view opcode);

}  // namespace emulator
