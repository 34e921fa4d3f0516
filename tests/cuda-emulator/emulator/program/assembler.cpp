#include "assembler.h"

#include <string.h>

#include <algorithm>

#include "../error.h"
#include "../instructions/environment.h"
#include "../instructions/lanes.h"
#include "../instructions/table.h"
#include "../size.h"
#include "registers.h"

namespace emulator {

using ptx::Operand;
using ptx::Space;
using ptx::Type;

Assembler::Assembler(const ptx::Module& module, const ptx::Function& function,
                     const std::map<std::string, uint64_t>& symbols)
    : module(module), function(function), symbols(symbols), program(std::make_shared<Program>()) {}

std::shared_ptr<const Program> Assembler::assemble() {
    program->name = function.name;
    program->files = module.files;
    if (function.max_threads) program->max_threads = function.max_threads, program->limits_threads = true;
    if (function.required_threads) program->max_threads = function.required_threads, program->limits_threads = true;
    lay_out_memory();
    find_pointers();
    find_definitions();
    for (const auto& [name, type] : function.registers) named[name] = new_register(ptx::bytes(type));
    for (const ptx::Statement& statement : function.body) assemble_statement(statement);
    // Falling off the end is leaving.
    starts.push_back(program->code.size());
    const ptx::Statement end{
        {"exit"}, "", false, {}, function.body.empty() ? ptx::Origin{} : function.body.back().origin};
    assemble_statement(end);
    starts.pop_back();
    resolve_targets();
    allocate_registers();
    for (size_t i = 0; i < program->code.size(); i++) program->code[i].slots = program->slots.data() + first_slots[i];
    return program;
}

// ---- the statement

void Assembler::fail(const std::string& what) const {
    throw Error(CUDA_ERROR_INVALID_PTX, format("PTX line %d: %s, in `%s` of kernel `%s`", now->origin.ptx_line,
                                               what.c_str(), now->text().c_str(), function.name.c_str()));
}

const Operand& Assembler::operand(size_t i) const {
    if (i >= now->operands.size()) fail(format("operand %zu is missing", i + 1));
    return now->operands[i];
}

bool Assembler::take(std::string_view part) {
    for (size_t i = 1; i < now->opcode.size(); i++) {
        if (taken[i] || now->opcode[i] != part) continue;
        taken[i] = true;
        return true;
    }
    return false;
}

bool Assembler::has(std::string_view part) const {
    return std::find(now->opcode.begin() + 1, now->opcode.end(), part) != now->opcode.end();
}

std::string_view Assembler::take_one(std::initializer_list<std::string_view> parts) {
    for (std::string_view part : parts)
        if (take(part)) return part;
    std::string known;
    for (std::string_view part : parts) known += " ." + std::string(part);
    fail("it has none of" + known);
}

bool Assembler::has_type() const {
    for (size_t i = 1; i < now->opcode.size(); i++)
        if (!taken[i] && ptx::parse_type(now->opcode[i]) != Type::None) return true;
    return false;
}

Type Assembler::type() {
    for (size_t i = 1; i < now->opcode.size(); i++) {
        const Type type = ptx::parse_type(now->opcode[i]);
        if (taken[i] || type == Type::None) continue;
        taken[i] = true;
        return type;
    }
    fail("its type is missing");
}

Rounding Assembler::rounding(Rounding otherwise) {
    if (take("rn")) return Rounding::Nearest;
    if (take("rz")) return Rounding::Zero;
    if (take("rm")) return Rounding::Down;
    if (take("rp")) return Rounding::Up;
    return otherwise;
}

void Assembler::require_target(int target) const {
    if (module.target < target) fail(format("it needs .target sm_%d, not sm_%d", target, module.target));
}

void Assembler::ignore(std::initializer_list<std::string_view> parts) {
    for (std::string_view part : parts) take(part);
}

void Assembler::ignore_prefixed(std::string_view prefix) {
    for (size_t i = 1; i < now->opcode.size(); i++)
        if (now->opcode[i].compare(0, prefix.size(), prefix) == 0) taken[i] = true;
}

void Assembler::assemble_statement(const ptx::Statement& statement) {
    now = &statement;
    taken.assign(statement.opcode.size(), false);
    wider_registers = false;
    starts.push_back(program->code.size());
    const Build* build = find_instruction(statement.opcode[0]);
    if (!build) fail("unknown instruction");
    (*build)(*this);
    for (size_t i = 1; i < taken.size(); i++)
        if (!taken[i]) fail(format("`.%s` is unknown", statement.opcode[i].c_str()));
    finish_extensions();
}

// ---- instructions

Instruction& Assembler::emit(Handler handler, const std::vector<Slot>& outputs, const std::vector<Slot>& inputs) {
    Instruction in{};
    in.run = handler;
    in.origin = now->origin;
    in.outputs = outputs.size();
    in.inputs = inputs.size();
    if (!now->guard.empty()) {
        const auto guard = named.find(now->guard);
        if (guard == named.end()) fail(format("there is no predicate `%s`", now->guard.c_str()));
        in.has_guard = true;
        in.guard = guard->second;
        in.guard_negated = now->guard_negated;
    }
    first_slots.push_back(program->slots.size());
    program->slots.insert(program->slots.end(), outputs.begin(), outputs.end());
    program->slots.insert(program->slots.end(), inputs.begin(), inputs.end());
    program->code.push_back(in);
    flows.push_back({});
    return program->code.back();
}

Instruction& Assembler::emit_control(Handler handler, const std::vector<Slot>& outputs, const std::vector<Slot>& inputs,
                                     std::vector<uint32_t> targets, bool continues) {
    Instruction& in = emit(handler, outputs, inputs);
    in.is_control = true;
    flows.back() = {std::move(targets), continues || in.has_guard, false};
    return in;
}

Instruction& Assembler::emit_branch_table(Handler handler, Slot index, std::vector<uint32_t> targets) {
    Instruction& in = emit_control(handler, {}, {index}, std::move(targets), false);
    in.immediate = program->branch_tables.size();
    program->branch_tables.emplace_back();
    flows.back().has_table = true;
    return in;
}

Instruction& Assembler::emit_collective(Handler inner, const std::vector<Slot>& outputs,
                                        const std::vector<Slot>& inputs, bool all) {
    Instruction& in = emit_control(all ? collective_of_all : collective_of_members, outputs, inputs, {}, true);
    in.inner = inner;
    return in;
}

void Assembler::set_environment(Rounding rounding, bool flush_to_zero) {
    if (rounding == Rounding::Nearest && !flush_to_zero) return;
    Instruction& in = program->code.back();
    in.inner = in.run;
    in.run = run_in_environment;
    in.environment = environment_bits(rounding, flush_to_zero);
}

void Assembler::set_address(const Address& address) {
    Instruction& in = program->code.back();
    in.immediate = address.offset;
    in.detail = address.mode.packed();
    in.site = new_sites(1);
}

uint32_t Assembler::new_sites(unsigned count) {
    program->sites += count;
    return program->sites - count;
}

// Until now targets were statements.
void Assembler::resolve_targets() {
    for (size_t i = 0; i < flows.size(); i++) {
        for (uint32_t& target : flows[i].targets) target = starts[target];
        Instruction& in = program->code[i];
        if (flows[i].has_table)
            program->branch_tables[in.immediate] = flows[i].targets;
        else if (!flows[i].targets.empty())
            in.immediate = flows[i].targets[0];
    }
}

void Assembler::allocate_registers() {
    std::vector<VirtualRegister> registers;
    for (size_t bytes : register_sizes) registers.push_back({array_bytes(bytes), false});
    // What the block fills in at its start keeps its place.
    for (const auto& [special, slot] : program->specials)
        if (!slot.is_constant()) registers[slot.offset()].pinned = true;

    std::vector<RegisterUse> uses;
    for (size_t i = 0; i < program->code.size(); i++) {
        const Instruction& in = program->code[i];
        RegisterUse use;
        use.targets = flows[i].targets;
        use.continues = flows[i].continues;
        use.conditional = in.has_guard;
        for (int j = 0; j < in.outputs + in.inputs; j++) {
            const Slot slot = program->slots[first_slots[i] + j];
            if (!slot.is_constant()) (j < in.outputs ? use.defines : use.reads).push_back(slot.offset());
        }
        if (in.has_guard) use.reads.push_back(in.guard.offset());
        uses.push_back(std::move(use));
    }
    const RegisterPlaces places = place_registers(registers, uses);
    program->register_bytes = round_up(places.bytes, 64);
    const auto patch = [&](Slot& slot) {
        if (!slot.is_constant()) slot.bits = places.offsets[slot.offset()];
    };
    for (Slot& slot : program->slots) patch(slot);
    for (Instruction& in : program->code)
        if (in.has_guard) patch(in.guard);
    for (auto& special : program->specials) patch(special.second);
}

std::string Program::place(const ptx::Origin& origin) const {
    const auto file = files.find(origin.file);
    if (file == files.end()) return format("PTX line %d", origin.ptx_line);
    return format("%s:%d", file->second.c_str(), origin.line);
}

}  // namespace emulator
