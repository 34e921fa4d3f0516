// Branches, barriers, the end, and the calls that the driver answers: printf and assert.
#include <stdio.h>
#include <string.h>

#include "../execution/fault.h"
#include "lanes.h"
#include "table.h"

namespace emulator {
namespace {

using ptx::Operand;
using ptx::Type;

void branch(Warp& warp, const Instruction& in, Mask lanes) { warp.branch(lanes, in.immediate); }

// Each lane goes where its index says: those that want one target now, the others when they come back here.
void branch_indexed(Warp& warp, const Instruction& in, Mask lanes) {
    if (lanes == 0) return warp.branch(0, 0);
    const u32* const index = warp.input<u32>(in);
    const int first = std::countr_zero(lanes);
    Mask same = 0;
    for (Mask rest = lanes; rest; rest &= rest - 1)
        if (index[std::countr_zero(rest)] == index[first]) same |= rest & -rest;
    const auto& targets = warp.block.program->branch_tables[in.immediate];
    if (index[first] >= targets.size())
        fail(warp, in, first, CUDA_ERROR_LAUNCH_FAILED, format("brx.idx has no target %u", index[first]));
    if (same != lanes) warp.split(lanes & ~same);
    warp.branch(same, targets[index[first]]);
}

void leave(Warp& warp, const Instruction&, Mask lanes) { warp.exit(lanes); }

// Inputs: the barrier, and the number of threads, 0 for all. `immediate` says whether the thread waits.
void barrier(Warp& warp, const Instruction& in, Mask lanes) {
    if (lanes == 0) {
        warp.current().pc++;
        return;
    }
    const int lane = std::countr_zero(lanes);
    const Mask predicate = in.inputs > 2 ? *warp.input<Mask>(in, 2) : 0;
    warp.block.arrive(warp, in, lanes, warp.input<u32>(in, 0)[lane], warp.input<u32>(in, 1)[lane], predicate,
                      in.immediate);
}

void trap(Warp& warp, const Instruction& in, Mask lanes) {
    if (lanes) fail(warp, in, std::countr_zero(lanes), CUDA_ERROR_LAUNCH_FAILED, "trap");
    warp.current().pc++;
}

// ---- calls; inputs are addresses of arguments

std::string text_at(uint64_t address) { return std::string((const char*)address); }

// __assertfail(message, file, line, function, char size)
void assert_failed(Warp& warp, const Instruction& in, Mask lanes) {
    const int lane = std::countr_zero(lanes);
    const auto argument = [&](int i) {
        return (const void*)(warp.block.local(warp, lane) + warp.input<u64>(in, i)[lane]);
    };
    const std::string message = text_at(*(const u64*)argument(0)), file = text_at(*(const u64*)argument(1));
    fail(warp, in, lane, CUDA_ERROR_ASSERT,
         format("assertion `%s` failed at %s:%u", message.c_str(), file.c_str(), *(const u32*)argument(2)));
}

// vprintf(format, arguments): the arguments lie one behind another, each aligned to its size.
void print(Warp& warp, const Instruction& in, Mask lanes) {
    for (Mask rest = lanes; rest; rest &= rest - 1) {
        const int lane = std::countr_zero(rest);
        const auto argument = [&](int i) {
            return *(const u64*)(warp.block.local(warp, lane) + warp.input<u64>(in, i)[lane]);
        };
        uint64_t next = argument(1);
        const auto take = [&]<class T>() {
            next = (next + sizeof(T) - 1) / sizeof(T) * sizeof(T) + sizeof(T);
            return *(const T*)(next - sizeof(T));
        };
        const std::string pattern = text_at(argument(0));
        for (size_t at = 0; at < pattern.size();) {
            if (pattern[at] != '%') {
                putchar(pattern[at++]);
                continue;
            }
            const size_t end = pattern.find_first_of("diouxXcsfFeEgGaAp%", at + 1);
            const std::string one = pattern.substr(at, end == pattern.npos ? end : end - at + 1);
            at += one.size();
            const char kind = one.back();
            if (kind == '%')
                putchar('%');
            else if (kind == 's')
                printf("%s", text_at(take.operator()<u64>()).c_str());
            else if (strchr("fFeEgGaA", kind))
                printf(one.c_str(), take.operator()<double>());
            else if (kind == 'p' || one.find('l') != one.npos)
                printf(one.c_str(), take.operator()<u64>());
            else
                printf(one.c_str(), take.operator()<u32>());
        }
    }
    fflush(stdout);
}

// ---- assembly

void branch_instruction(Assembler& a) {
    a.ignore({"uni"});
    const bool is_conditional = !a.statement().guard.empty();
    a.emit_control(branch, {}, {}, {a.target(a.operand(0))}, is_conditional);
}

void branch_indexed_instruction(Assembler& a) {
    if (!a.take("idx")) a.fail("only brx.idx is supported");
    a.ignore({"uni"});
    a.emit_branch_table(branch_indexed, a.source(0, Type::U32), a.targets(a.operand(1)));
}

void exit_instruction(Assembler& a) {
    a.ignore({"uni"});
    a.emit_control(leave, {}, {}, {}, false);
}

// bar.sync a{, b}; bar.arrive a, b; bar.red.op d, a{, b}, p
void barrier_instruction(Assembler& a) {
    a.ignore({"cta", "aligned"});
    if (a.take("warp")) {
        a.take_one({"sync"});
        a.emit_collective(nullptr, {}, {a.source(0, Type::U32)});
        return;
    }
    const std::string_view what = a.take_one({"sync", "arrive", "red"});
    const bool reduces = what == "red";
    Reduction reduction = Reduction::None;
    std::vector<Slot> outputs, inputs;
    size_t next = 0;
    if (reduces) {
        const std::string_view op = a.take_one({"popc", "and", "or"});
        reduction = op == "popc" ? Reduction::Count : op == "and" ? Reduction::And : Reduction::Or;
        outputs.push_back(a.destination(next++, a.type()));
    }
    inputs.push_back(a.source(next++, Type::U32));
    const bool has_count = a.operands().size() > next + reduces;
    inputs.push_back(has_count ? a.source(next++, Type::U32) : a.constant(0, 4));
    if (reduces) inputs.push_back(a.source(next, Type::Pred));
    Instruction& in = a.emit_control(barrier, outputs, inputs, {}, true);
    in.immediate = what != "arrive";
    in.detail = (uint16_t)reduction;
}

void call_instruction(Assembler& a) {
    a.ignore({"uni"});
    const std::vector<Operand>& operands = a.operands();
    const bool has_result = operands[0].kind == Operand::List;
    const Operand& callee = a.operand(has_result ? 1 : 0);
    std::vector<Slot> arguments;
    for (const Operand& argument : operands.back().elements) arguments.push_back(a.source(argument, Type::U64));
    a.emit(callee.name == "vprintf" ? print : assert_failed, {}, arguments);
}

}  // namespace

const Family& control_instructions() {
    static const Family family = {
        {"bra", branch_instruction},
        {"brx", branch_indexed_instruction},
        {"ret", exit_instruction},
        {"exit", exit_instruction},
        {"bar", barrier_instruction},
        {"barrier", barrier_instruction},
        {"call", call_instruction},
        {"trap", [](Assembler& a) { a.emit_control(trap, {}, {}, {}, true); }},
        {"brkpt", [](Assembler& a) { a.emit_control(trap, {}, {}, {}, true); }},
        {"nanosleep", [](Assembler& a) { a.ignore({"u32"}); }},
        {"griddepcontrol", [](Assembler& a) { a.ignore({"wait", "launch_dependents"}); }},
    };
    return family;
}

}  // namespace emulator
