// A kernel's statements become instructions. The tables in `instructions/` say how, one statement at a time, with what
// is offered here: they ask for the parts of the opcode and for operands as slots, and emit what is to run.
//
// Each part of an opcode must be asked for by someone; one that nobody knows is an error, so that nothing is ignored by
// chance.
#pragma once
#include <initializer_list>
#include <memory>
#include <optional>
#include <string_view>
#include <unordered_map>

#include "program.h"

namespace emulator {

// How a memory operand is addressed: `Instruction::detail` of an access.
struct AddressMode {
    ptx::Space space;
    bool wide;            // the base is 64 bits wide, not 32
    bool strong = false;  // volatile, relaxed, acquire or release

    uint16_t packed() const { return (uint16_t)space << 2 | strong << 1 | wide; }
    static AddressMode unpack(uint16_t bits) { return {ptx::Space(bits >> 2), bool(bits & 1), bool(bits & 2)}; }
};

struct Address {
    Slot base;
    uint64_t offset;
    AddressMode mode;
};

// Rounding and flushing of an instruction that has not the usual ones.
enum class Rounding { Nearest, Down, Up, Zero };

class Assembler {
public:
    // `symbols` has the addresses of the module's global variables.
    Assembler(const ptx::Module& module, const ptx::Function& kernel, const std::map<std::string, uint64_t>& symbols);
    std::shared_ptr<const Program> assemble();

    // ---- the statement

    const ptx::Statement& statement() const { return *now; }
    const std::vector<ptx::Operand>& operands() const { return now->operands; }
    const ptx::Operand& operand(size_t i) const;
    [[noreturn]] void fail(const std::string& what) const;

    // Whether the opcode has this part, and strikes it off.
    bool take(std::string_view part);
    bool has(std::string_view part) const;  // without striking it off
    // The first part of the opcode that is one of these, which must be there.
    std::string_view take_one(std::initializer_list<std::string_view> parts);
    // The opcode's next type.
    ptx::Type type();
    bool has_type() const;
    // .rn, .rz, .rm, .rp, or what is usual
    Rounding rounding(Rounding otherwise = Rounding::Nearest);
    // What NVRTC lets pass in inline PTX, and only the driver would refuse.
    void require_target(int target) const;
    // What makes no difference here: cache hints, scopes, .sync, .aligned.
    void ignore(std::initializer_list<std::string_view> parts);
    void ignore_prefixed(std::string_view prefix);

    // ---- operands

    // ld, st and cvt: registers may be wider than the type. A value is extended, or its lower part is used.
    void allow_wider_registers() { wider_registers = true; }
    Slot source(const ptx::Operand& operand, ptx::Type type);
    Slot source(size_t i, ptx::Type type) { return source(operand(i), type); }
    Slot destination(const ptx::Operand& operand, ptx::Type type);
    Slot destination(size_t i, ptx::Type type) { return destination(operand(i), type); }
    Slot constant(uint64_t value, size_t bytes);
    Slot temporary(size_t bytes);  // 0 for a predicate
    Slot carry();                  // the carry flag, a predicate
    uint64_t immediate(size_t i) const;
    Address address(const ptx::Operand& operand, ptx::Space space);
    // The address as one value.
    Slot address_value(const ptx::Operand& operand, ptx::Space space, ptx::Type type);
    // Where a kernel's parameter lies, if the operand names one.
    std::optional<uint64_t> parameter_offset(const ptx::Operand& operand, ptx::Space space) const;
    uint32_t target(const ptx::Operand& label) const;
    std::vector<uint32_t> targets(const ptx::Operand& label) const;  // of a .branchtargets
    bool is_register(const ptx::Operand& operand) const { return operand.kind == ptx::Operand::Register; }
    ptx::Type register_type(const ptx::Operand& operand) const;

    // Lets a register stand for a value that it is only ever a copy of, so that nothing need be copied. False where it
    // must be.
    bool make_alias(const ptx::Operand& to, const ptx::Operand& from, ptx::Type type);

    // ---- instructions

    Instruction& emit(Handler handler, std::initializer_list<Slot> outputs, std::initializer_list<Slot> inputs) {
        return emit(handler, std::vector<Slot>(outputs), std::vector<Slot>(inputs));
    }
    Instruction& emit(Handler handler, const std::vector<Slot>& outputs, const std::vector<Slot>& inputs);
    // An instruction that moves the program counter, to one of `targets` or, if it `continues`, to the next.
    Instruction& emit_control(Handler handler, const std::vector<Slot>& outputs, const std::vector<Slot>& inputs,
                              std::vector<uint32_t> targets, bool continues);
    Instruction& emit_branch_table(Handler handler, Slot index, std::vector<uint32_t> targets);
    // An instruction that the lanes of a warp execute together. The last input says for each lane which they are;
    // without inputs of that kind (`all`), they are all.
    Instruction& emit_collective(Handler inner, const std::vector<Slot>& outputs, const std::vector<Slot>& inputs,
                                 bool all = false);
    // Of the instruction that was emitted last.
    void set_environment(Rounding rounding, bool flush_to_zero);
    void set_flops(unsigned flops) { program->code.back().flops = flops; }
    void set_address(const Address& address);
    uint32_t new_sites(unsigned count);  // the first of so many; see Instruction::site

private:
    struct Flow {
        std::vector<uint32_t> targets;  // statements, until all instructions are there
        bool continues = true;
        bool has_table = false;
    };
    struct Extension {
        Slot from;
        ptx::Type type;
        Slot to;
        ptx::Type wide;
    };

    // Which statements write a register.
    struct Definition {
        int count = 0;
        uint32_t block = 0;           // the basic block of the last of them; the first is 0, and runs once
        bool is_read_before = false;  // a statement above reads it
    };

    const ptx::Module& module;
    const ptx::Function& function;
    const std::map<std::string, uint64_t>& symbols;
    std::shared_ptr<Program> program;

    const ptx::Statement* now = nullptr;
    std::vector<bool> taken;
    bool wider_registers = false;
    std::vector<Extension> extensions;

    std::unordered_map<std::string, Definition> definitions;  // of registers
    std::vector<size_t> register_sizes;                       // of the virtual registers
    std::unordered_map<std::string, Slot> named;              // registers, also the special ones
    std::map<std::pair<uint64_t, size_t>, Slot> constants;
    std::vector<size_t> first_slots;  // of each instruction, in Program::slots
    std::vector<Flow> flows;
    std::vector<uint32_t> starts;  // the first instruction of each statement
    std::map<std::string, uint64_t> local_offsets, shared_offsets, parameter_offsets;

    void lay_out_memory();
    void lay_out_shared(const ptx::Variable& variable);
    void find_pointers();
    void find_definitions();
    void assemble_statement(const ptx::Statement& statement);
    void finish_extensions();
    void resolve_targets();
    void allocate_registers();
    Slot new_register(size_t bytes);
    Slot special(const std::string& name);
    bool symbol_value(const std::string& name, uint64_t& value);
};

}  // namespace emulator
