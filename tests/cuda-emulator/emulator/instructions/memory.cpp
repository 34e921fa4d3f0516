// ld, st, cp.async, prefetch.
#include "../checks/checks.h"
#include "../execution/fault.h"
#include "lanes.h"
#include "table.h"

namespace emulator {
namespace {

using ptx::Operand;
using ptx::Space;
using ptx::Type;

// ---- ld and st of one to four values of a type

template <class T, int COUNT>
void load(Warp& warp, const Instruction& in, Mask lanes) {
    Access access(Access::Read, sizeof(T) * COUNT);
    resolve(warp, in, lanes, 0, access);
    for (int i = 0; i < COUNT; i++) {
        T* const to = warp.output<T>(in, i);
        if (access.pattern == Access::Contiguous) {
            const T* const from = (const T*)access.address[0];
            for (int lane = 0; lane < LANES; lane++) to[lane] = from[lane * COUNT + i];
        } else if (access.pattern == Access::Uniform) {
            const T value = ((const T*)access.address[0])[i];
            for (int lane = 0; lane < LANES; lane++) to[lane] = value;
        } else if (lanes == ALL_LANES) {
            for (int lane = 0; lane < LANES; lane++) to[lane] = ((const T*)access.address[lane])[i];
        } else {
            for (Mask rest = lanes; rest; rest &= rest - 1) {
                const int lane = std::countr_zero(rest);
                to[lane] = ((const T*)access.address[lane])[i];
            }
        }
    }
}

template <class T, int COUNT>
void store(Warp& warp, const Instruction& in, Mask lanes) {
    Access access(Access::Write, sizeof(T) * COUNT);
    access.value_bytes = sizeof(T);
    for (int i = 0; i < COUNT; i++) access.values[i] = (const std::byte*)warp.input<T>(in, i + 1);
    resolve(warp, in, lanes, 0, access);
    for (int i = 0; i < COUNT; i++) {
        const T* const from = warp.input<T>(in, i + 1);
        if (access.pattern == Access::Contiguous) {
            T* const to = (T*)access.address[0];
            for (int lane = 0; lane < LANES; lane++) to[lane * COUNT + i] = from[lane];
        } else {
            for (Mask rest = lanes; rest; rest &= rest - 1) {
                const int lane = std::countr_zero(rest);
                ((T*)access.address[lane])[i] = from[lane];
            }
        }
    }
}

// A kernel's parameters are the same for all lanes.
template <class T, int COUNT>
void load_parameter(Warp& warp, const Instruction& in, Mask lanes) {
    const T* const from = (const T*)(warp.block.launch->parameters.data() + in.immediate);
    for (int i = 0; i < COUNT; i++) {
        T values[LANES];
        for (T& value : values) value = from[i];
        Warp::store(warp.output<T>(in, i), values, lanes);
    }
}

struct Transfer {
    size_t bytes, count;
    Handler load, store, load_parameter;
};
#define TRANSFER(T, count) {sizeof(T), count, load<T, count>, store<T, count>, load_parameter<T, count>}
constexpr Transfer TRANSFERS[] = {
    TRANSFER(u8, 1),  TRANSFER(u8, 2),  TRANSFER(u8, 4),   //
    TRANSFER(u16, 1), TRANSFER(u16, 2), TRANSFER(u16, 4),  //
    TRANSFER(u32, 1), TRANSFER(u32, 2), TRANSFER(u32, 4),  //
    TRANSFER(u64, 1), TRANSFER(u64, 2),
};
#undef TRANSFER

Space take_space(Assembler& a) {
    if (a.take("global")) return Space::Global;
    if (a.take("shared") || a.take("shared::cta")) return Space::Shared;
    if (a.take("local")) return Space::Local;
    if (a.take("param") || a.take("param::entry") || a.take("param::func")) return Space::Param;
    if (a.take("const")) return Space::Const;
    return Space::Generic;
}

// An access that other threads may see while it happens.
bool take_strong(Assembler& a) {
    const bool is_volatile = a.take("volatile"), is_relaxed = a.take("relaxed"), is_mmio = a.take("mmio");
    return is_volatile || is_relaxed || is_mmio;
}

void ignore_hints(Assembler& a) {
    a.ignore({"nc", "weak", "ca", "cg", "cs", "lu", "cv", "wb", "wt", "cta", "cluster", "gpu", "sys"});
    a.ignore_prefixed("L1::");
    a.ignore_prefixed("L2::");
}

const Transfer& transfer(Assembler& a, Type type, size_t count) {
    for (const Transfer& row : TRANSFERS)
        if (row.bytes == ptx::bytes(type) && row.count == count) return row;
    a.fail("such a vector is unknown");
}

const std::vector<Operand> values_of(const Operand& operand) {
    return operand.kind == Operand::List ? operand.elements : std::vector<Operand>{operand};
}

void load_instruction(Assembler& a) {
    a.allow_wider_registers();
    const Space space = take_space(a);
    const bool acquires = a.take("acquire");
    const bool strong = take_strong(a) || acquires;
    ignore_hints(a);
    a.ignore({"v2", "v4"});  // the list of registers says it
    const Type type = a.type();
    const std::vector<Operand> values = values_of(a.operand(0));
    const Transfer& row = transfer(a, type, values.size());
    Address address = a.address(a.operand(1), space);
    address.mode.strong = strong;
    std::vector<Slot> outputs;
    for (const Operand& value : values) outputs.push_back(a.destination(value, type));
    if (const auto offset = a.parameter_offset(a.operand(1), space)) {
        a.emit(row.load_parameter, outputs, {}).immediate = *offset;
        return;
    }
    a.emit(row.load, outputs, {address.base});
    a.set_address(address);
    if (acquires) a.emit(fence, {}, {});
}

void store_instruction(Assembler& a) {
    a.allow_wider_registers();
    const Space space = take_space(a);
    const bool releases = a.take("release");
    const bool strong = take_strong(a) || releases;
    ignore_hints(a);
    a.ignore({"v2", "v4"});
    const Type type = a.type();
    const std::vector<Operand> values = values_of(a.operand(1));
    const Transfer& row = transfer(a, type, values.size());
    Address address = a.address(a.operand(0), space);
    address.mode.strong = strong;
    std::vector<Slot> inputs = {address.base};
    for (const Operand& value : values) inputs.push_back(a.source(value, type));
    if (releases) a.emit(fence, {}, {});
    a.emit(row.store, {}, inputs);
    a.set_address(address);
}

// ---- cp.async: copies that arrive when they are waited for, not before

// Inputs: the address in shared memory, that in global memory, and how many bytes are read; the rest becomes zero.
void copy_async(Warp& warp, const Instruction& in, Mask lanes) {
    const size_t bytes = in.immediate;
    const u32* const read = warp.input<u32>(in, 2);
    Access to(Access::Write, bytes);
    to.arrives_later = true;
    Access from(Access::Read, bytes);
    for (int lane = 0; lane < LANES; lane++) {
        to.address[lane] = (u64)warp.block.shared() + warp.input<u32>(in, 0)[lane];
        from.address[lane] = warp.input<u64>(in, 1)[lane];
    }

    Mask whole = 0;
    for (Mask rest = lanes; rest; rest &= rest - 1) {
        const int lane = std::countr_zero(rest);
        if (read[lane] > bytes)
            fail(warp, in, lane, CUDA_ERROR_LAUNCH_FAILED,
                 format("cp.async of %zu bytes is to read %u", bytes, read[lane]));
        if (read[lane] == bytes) {
            whole |= Mask(1) << lane;
        } else if (read[lane] > 0) {
            Access part = from;
            part.bytes = read[lane];
            part.alignment = bytes;
            check(warp, in, Mask(1) << lane, Space::Global, part);
        }
    }
    Access of_whole = from;  // the check moves lanes that take no part
    if (whole) check(warp, in, whole, Space::Global, of_whole);
    Instruction target = in;
    target.site++;  // another one than that of the source
    check(warp, target, lanes, Space::Shared, to);

    for (Mask rest = lanes; rest; rest &= rest - 1) {
        const int lane = std::countr_zero(rest);
        warp.copies.push_back({to.address[lane], warp.input<u64>(in, 1)[lane], (u8)bytes, (u8)read[lane], (u8)lane,
                               warp.copy_group[lane]});
    }
}

void commit_copies(Warp& warp, const Instruction&, Mask lanes) {
    for (Mask rest = lanes; rest; rest &= rest - 1) warp.copy_group[std::countr_zero(rest)]++;
}

// Waits for all but the last `immediate` groups.
void wait_for_copies(Warp& warp, const Instruction& in, Mask lanes) {
    const auto is_awaited = [&](const AsyncCopy& copy) {
        return (lanes >> copy.lane & 1) && copy.group + in.immediate < warp.copy_group[copy.lane];
    };
    for (const AsyncCopy& copy : warp.copies) {
        if (!is_awaited(copy)) continue;
        struct Sixteen {
            u64 halves[2];
        };
        if (copy.read_bytes == sizeof(Sixteen)) {  // nearly always
            *(Sixteen*)copy.to = *(const Sixteen*)copy.from;
        } else {
            memset((void*)copy.to, 0, copy.bytes);
            memcpy((void*)copy.to, (const void*)copy.from, copy.read_bytes);
        }
        if (warp.block.checks) mark_arrived(warp, in, copy.lane, copy.to, copy.bytes);
    }
    std::erase_if(warp.copies, is_awaited);
}

void copy_async_instruction(Assembler& a) {
    if (!a.take("async")) a.fail("only cp.async is supported");
    if (a.take("commit_group")) {
        a.emit(commit_copies, {}, {});
    } else if (a.take("wait_group")) {
        a.emit(wait_for_copies, {}, {}).immediate = a.immediate(0);
    } else if (a.take("wait_all")) {
        a.emit(commit_copies, {}, {});
        a.emit(wait_for_copies, {}, {});
    } else {
        a.take_one({"ca", "cg"});
        a.take_one({"shared", "shared::cta"});
        a.take_one({"global"});
        a.ignore_prefixed("L2::");
        const uint64_t bytes = a.immediate(2);
        if (bytes != 4 && bytes != 8 && bytes != 16) a.fail("it copies 4, 8 or 16 bytes");
        const Slot read = a.operands().size() > 3 ? a.source(3, Type::U32) : a.constant(bytes, 4);
        const Slot shared = a.address_value(a.operand(0), Space::Shared, Type::U32);
        const Slot global = a.address_value(a.operand(1), Space::Global, Type::U64);
        Instruction& in = a.emit(copy_async, {}, {shared, global, read});
        in.immediate = bytes;
        in.site = a.new_sites(2);
    }
}

}  // namespace

const Family& memory_instructions() {
    static const Family family = {
        {"ld", load_instruction},
        {"ldu", load_instruction},
        {"st", store_instruction},
        {"cp", copy_async_instruction},
        {"prefetch",
         [](Assembler& a) {
             a.ignore({"global", "local", "L1", "L2"});
             a.ignore_prefixed("L2::");
         }},
        {"prefetchu", [](Assembler& a) { a.ignore({"L1"}); }},
    };
    return family;
}

}  // namespace emulator
