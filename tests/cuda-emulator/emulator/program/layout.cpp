// Where a kernel's variables lie, and which of its parameters are pointers.
#include <algorithm>
#include <set>

#include "../error.h"
#include "../size.h"
#include "assembler.h"

namespace emulator {

using ptx::Operand;
using ptx::Space;

namespace {

// Between two shared variables: an overrun by a row of a tile still hits no other one.
constexpr size_t SHARED_GAP = 1024;
// Enough for each access, and for kernels that derive a tile's swizzle from addresses.
constexpr size_t SHARED_ALIGNMENT = 1024;
constexpr size_t MAX_STATIC_SHARED = 48 * 1024;

}  // namespace

void Assembler::lay_out_memory() {
    for (const ptx::Variable& parameter : function.parameters) {
        const size_t offset = round_up(program->parameter_bytes, parameter.alignment);
        parameter_offsets[parameter.name] = offset;
        program->parameters.push_back({offset, parameter.bytes, false});
        program->parameter_bytes = offset + parameter.bytes;
    }
    for (const ptx::Variable& variable : function.variables) {
        if (variable.space == Space::Shared) {
            lay_out_shared(variable);
        } else {
            // The arguments of calls lie with the local variables.
            const size_t offset = round_up(program->local_bytes, std::max<size_t>(variable.alignment, 8));
            local_offsets[variable.name] = offset;
            program->local_bytes = offset + variable.bytes;
        }
    }
    // Of the module's shared variables a kernel has those that it uses.
    std::map<std::string, const ptx::Variable*> declared;
    for (const ptx::Variable& variable : module.variables)
        if (variable.space == Space::Shared) declared[variable.name] = &variable;
    std::vector<std::string> dynamic;
    for (const ptx::Statement& statement : function.body) {
        for (const Operand& operand : statement.operands) {
            const auto found = declared.find(operand.name);
            if (found == declared.end() || shared_offsets.count(operand.name)) continue;
            if (found->second->external)
                dynamic.push_back(operand.name);
            else
                lay_out_shared(*found->second);
        }
    }
    const size_t end =
        program->shared.empty() ? 0 : program->shared.back().offset + program->shared.back().bytes + SHARED_GAP;
    program->dynamic_shared_offset = round_up(end, SHARED_ALIGNMENT);
    for (const std::string& name : dynamic) shared_offsets[name] = program->dynamic_shared_offset;
    if (program->static_shared_bytes > MAX_STATIC_SHARED)
        throw Error(CUDA_ERROR_INVALID_PTX,
                    format("kernel `%s` has %zu bytes of static shared memory; at most %zu are allowed",
                           function.name.c_str(), program->static_shared_bytes, MAX_STATIC_SHARED));
}

void Assembler::lay_out_shared(const ptx::Variable& variable) {
    const SharedVariable* last = program->shared.empty() ? nullptr : &program->shared.back();
    const size_t offset = last ? round_up(last->offset + last->bytes + SHARED_GAP, SHARED_ALIGNMENT) : 0;
    shared_offsets[variable.name] = offset;
    program->shared.push_back({ptx::demangled(variable.name), offset, variable.bytes});
    program->static_shared_bytes = round_up(program->static_shared_bytes, variable.alignment) + variable.bytes;
}

// A parameter is a pointer to global memory if its value comes to be the operand of a `cvta.to.global`.
void Assembler::find_pointers() {
    std::map<std::string, size_t> from;  // registers that hold a parameter's value
    for (const ptx::Statement& statement : function.body) {
        const std::vector<Operand>& operands = statement.operands;
        if (operands.size() < 2) continue;
        const std::string& opcode = statement.opcode[0];
        if (statement.text() == "ld.param.u64" || statement.text() == "ld.param.b64") {
            for (size_t i = 0; i < function.parameters.size(); i++)
                if (operands[1].name == function.parameters[i].name && function.parameters[i].bytes == 8)
                    from[operands[0].name] = i;
        } else if (opcode == "mov" || opcode == "cvta") {
            const auto found = from.find(operands[1].name);
            if (found == from.end()) continue;
            if (opcode == "cvta")
                program->parameters[found->second].is_pointer = true;
            else
                from[operands[0].name] = found->second;
        }
    }
}

// Whatever a statement writes is, or is part of, its first operand.
void Assembler::find_definitions() {
    std::set<size_t> joins;
    for (const auto& [name, statement] : function.labels) joins.insert(statement);
    uint32_t block = 0;
    for (size_t i = 0; i < function.body.size(); i++) {
        const ptx::Statement& statement = function.body[i];
        if (joins.count(i)) block++;
        // Backwards, so that what a statement reads is seen before what it writes.
        for (size_t j = statement.operands.size(); j-- > 0;) {
            const Operand& operand = statement.operands[j];
            const auto mention = [&](const std::string& name) {
                Definition& definition = definitions[name];
                if (j == 0 && operand.kind != Operand::Address)
                    definition.count++, definition.block = block;
                else if (definition.count == 0)
                    definition.is_read_before = true;
            };
            mention(operand.name);
            for (const Operand& element : operand.elements) mention(element.name);
        }
        if (statement.opcode[0] == "bra" || statement.opcode[0] == "brx") block++;
    }
}

bool Assembler::symbol_value(const std::string& name, uint64_t& value) {
    for (const std::map<std::string, uint64_t>* map :
         {&local_offsets, &shared_offsets, &parameter_offsets, (std::map<std::string, uint64_t>*)&symbols}) {
        if (auto found = map->find(name); found != map->end()) {
            value = found->second;
            return true;
        }
    }
    return false;
}

}  // namespace emulator
