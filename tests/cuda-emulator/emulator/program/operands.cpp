// Operands of PTX as slots: registers, constants, addresses.
#include <string.h>

#include "../error.h"
#include "../instructions/lanes.h"
#include "../size.h"
#include "assembler.h"

namespace emulator {

using ptx::Operand;
using ptx::Space;
using ptx::Type;

namespace {

const std::map<std::string, Special> SPECIALS = {
    {"%tid.x", Special::TidX},
    {"%tid.y", Special::TidY},
    {"%tid.z", Special::TidZ},
    {"%ntid.x", Special::NtidX},
    {"%ntid.y", Special::NtidY},
    {"%ntid.z", Special::NtidZ},
    {"%ctaid.x", Special::CtaidX},
    {"%ctaid.y", Special::CtaidY},
    {"%ctaid.z", Special::CtaidZ},
    {"%nctaid.x", Special::NctaidX},
    {"%nctaid.y", Special::NctaidY},
    {"%nctaid.z", Special::NctaidZ},
    {"%laneid", Special::LaneId},
    {"%warpid", Special::WarpId},
    {"%nwarpid", Special::NwarpId},
    {"%smid", Special::SmId},
    {"%nsmid", Special::NsmId},
    {"%gridid", Special::GridId},
    {"%lanemask_eq", Special::LanemaskEq},
    {"%lanemask_lt", Special::LanemaskLt},
    {"%lanemask_le", Special::LanemaskLe},
    {"%lanemask_gt", Special::LanemaskGt},
    {"%lanemask_ge", Special::LanemaskGe},
    {"%dynamic_smem_size", Special::DynamicSmemSize},
    {"%total_smem_size", Special::TotalSmemSize},
};

}  // namespace

Slot Assembler::new_register(size_t bytes) {
    register_sizes.push_back(bytes);
    return {uint32_t(register_sizes.size() - 1)};
}

Slot Assembler::temporary(size_t bytes) { return new_register(bytes); }

Slot Assembler::carry() {
    const auto [found, is_new] = named.try_emplace("%carry");
    if (is_new) found->second = new_register(0);
    return found->second;
}

Slot Assembler::constant(uint64_t value, size_t bytes) {
    if (bytes && bytes < 8) value &= (uint64_t(1) << 8 * bytes) - 1;
    const auto [found, is_new] = constants.try_emplace({value, bytes});
    if (!is_new) return found->second;
    std::vector<uint8_t>& pool = program->constants;
    const size_t offset = round_up(pool.size(), bytes ? 64 : sizeof(Mask));
    pool.resize(offset + array_bytes(bytes));
    if (bytes == 0) {
        const Mask mask = value ? ALL_LANES : 0;
        memcpy(&pool[offset], &mask, sizeof mask);
    }
    for (size_t lane = 0; bytes && lane < LANES; lane++) memcpy(&pool[offset + lane * bytes], &value, bytes);
    return found->second = {Slot::CONSTANT | uint32_t(offset)};
}

Slot Assembler::special(const std::string& name) {
    const auto which = SPECIALS.find(name);
    if (which == SPECIALS.end()) fail(format("unknown register `%s`", name.c_str()));
    Slot slot;
    if (which->second < Special::CtaidX) {
        slot = new_register(4);
    } else {
        // A constant of its own: the value is put there when the block starts.
        const size_t offset = round_up(program->constants.size(), 64);
        program->constants.resize(offset + array_bytes(4));
        slot = {Slot::CONSTANT | uint32_t(offset)};
    }
    program->specials.push_back({which->second, slot});
    return named[name] = slot;
}

Type Assembler::register_type(const Operand& operand) const {
    const auto found = function.registers.find(operand.name);
    return found == function.registers.end() ? Type::U32 : found->second;  // special registers have 32 bits
}

Slot Assembler::source(const Operand& operand, Type type) {
    const size_t size = ptx::bytes(type);
    switch (operand.kind) {
        case Operand::Immediate:
            if (type == Type::F64 && operand.literal == Type::F32) fail("a 32-bit literal where 64 bits are needed");
            if (type == Type::F32 && operand.literal == Type::F64) {
                double wide;
                memcpy(&wide, &operand.value, sizeof wide);
                const float narrow = wide;
                uint32_t bits;
                memcpy(&bits, &narrow, sizeof bits);
                return constant(bits, 4);
            }
            return constant(operand.value, size);
        case Operand::Symbol: {
            uint64_t value;
            if (!symbol_value(operand.name, value)) fail(format("there is no variable `%s`", operand.name.c_str()));
            return constant(value + operand.value, size);
        }
        case Operand::Register: break;
        default: fail("expected a value");
    }

    if (operand.name == "%clock" || operand.name == "%clock64" || operand.name == "%globaltimer") {
        const Slot value = temporary(8);
        emit(read_clock, {value}, {});
        if (size == 8) return value;
        const Slot low = temporary(size);
        emit(conversion(Type::U64, type), {low}, {value});
        return low;
    }
    const Slot slot = named.count(operand.name) ? named[operand.name] : special(operand.name);
    const Type own = register_type(operand);
    if (own == Type::Pred || type == Type::Pred) {
        if (own != type) fail(format("`%s` is a predicate, or is needed as one", operand.name.c_str()));
        if (!operand.negated) return slot;
        const Slot negated = temporary(0);
        emit(negate_predicate, {negated}, {slot});
        return negated;
    }
    const size_t own_size = ptx::bytes(own);
    if (own_size == size) return slot;
    if (own_size < size) fail(format("`%s` is too narrow", operand.name.c_str()));
    if (!wider_registers) fail(format("`%s` is too wide", operand.name.c_str()));
    const Slot converted = temporary(size);
    emit(conversion(ptx::unsigned_type(own_size), ptx::unsigned_type(size)), {converted}, {slot});
    return converted;
}

Slot Assembler::destination(const Operand& operand, Type type) {
    const size_t size = ptx::bytes(type);
    if (operand.kind == Operand::Sink) return temporary(size);
    if (operand.kind != Operand::Register || !function.registers.count(operand.name))
        fail("expected a register to write to");
    const Slot slot = named[operand.name];
    const Type own = register_type(operand);
    if ((own == Type::Pred) != (type == Type::Pred))
        fail(format("`%s` is a predicate, or is needed as one", operand.name.c_str()));
    if (ptx::bytes(own) == size) return slot;
    if (ptx::bytes(own) < size) fail(format("`%s` is too narrow", operand.name.c_str()));
    if (!wider_registers) fail(format("`%s` is too wide", operand.name.c_str()));
    const Slot narrow = temporary(size);
    extensions.push_back({narrow, type, slot, own});
    return narrow;
}

bool Assembler::make_alias(const Operand& to, const Operand& from, Type type) {
    const Definition& copy = definitions[to.name];
    if (!now->guard.empty() || to.kind != Operand::Register || copy.count != 1) return false;
    // A register that is written again would no longer have the value, by another statement or by the same one in the
    // next round of a loop: the two must be written together. The special ones are not written.
    if (from.kind == Operand::Register && function.registers.count(from.name)) {
        const Definition& original = definitions[from.name];
        if (original.count != 1 || original.is_read_before) return false;
        if (original.block != 0 && (original.block != copy.block || copy.is_read_before)) return false;
    }
    if (register_type(to) == Type::Pred || ptx::bytes(register_type(to)) != ptx::bytes(type)) return false;
    named[to.name] = source(from, type);
    return true;
}

// A register that is wider than the value gets it extended, by the value's sign if it has one.
void Assembler::finish_extensions() {
    for (const Extension& extension : extensions) {
        const Type from =
            ptx::is_signed(extension.type) ? extension.type : ptx::unsigned_type(ptx::bytes(extension.type));
        emit(conversion(from, ptx::unsigned_type(ptx::bytes(extension.wide))), {extension.to}, {extension.from});
    }
    extensions.clear();
}

uint64_t Assembler::immediate(size_t i) const {
    if (operand(i).kind != Operand::Immediate) fail(format("operand %zu must be a number", i + 1));
    return operand(i).value;
}

uint32_t Assembler::target(const Operand& label) const {
    const auto found = function.labels.find(label.name);
    if (found == function.labels.end()) fail(format("there is no label `%s`", label.name.c_str()));
    return found->second;
}

std::vector<uint32_t> Assembler::targets(const Operand& label) const {
    const auto found = function.branch_targets.find(label.name);
    if (found == function.branch_targets.end()) fail(format("there are no branch targets `%s`", label.name.c_str()));
    std::vector<uint32_t> result;
    for (const std::string& name : found->second) {
        Operand one;
        one.name = name;
        result.push_back(target(one));
    }
    return result;
}

Address Assembler::address(const Operand& operand, Space space) {
    if (operand.kind != Operand::Address) fail("expected an address in brackets");
    if (named.count(operand.name)) {
        const Slot base = named[operand.name];
        const size_t width = ptx::bytes(register_type(operand));
        if (width != 4 && width != 8) fail(format("`%s` is too narrow for an address", operand.name.c_str()));
        return {base, operand.value, {space, width == 8}};
    }
    uint64_t value = 0;
    if (!operand.name.empty() && !symbol_value(operand.name, value))
        fail(format("there is no variable `%s`", operand.name.c_str()));
    if (space == Space::Param && local_offsets.count(operand.name)) space = Space::Local;
    return {constant(value + operand.value, 8), 0, {space, true}};
}

Slot Assembler::address_value(const Operand& operand, Space space, Type type) {
    const Address found = address(operand, space);
    Slot value = found.base;
    const Type own = found.mode.wide ? Type::U64 : Type::U32;
    if (own != type) emit(conversion(own, type), {value = temporary(ptx::bytes(type))}, {found.base});
    if (found.offset == 0) return value;
    const Slot sum = temporary(ptx::bytes(type));
    emit(addition(type), {sum}, {value, constant(found.offset, ptx::bytes(type))});
    return sum;
}

std::optional<uint64_t> Assembler::parameter_offset(const Operand& operand, Space space) const {
    const auto found = parameter_offsets.find(operand.name);
    if (space != Space::Param || found == parameter_offsets.end()) return {};
    return found->second + operand.value;
}

}  // namespace emulator
