// atom, red, and the fences between the blocks of a grid.
#include <atomic>

#include "../checks/races.h"
#include "../execution/access.h"
#include "lanes.h"
#include "table.h"

namespace emulator {
namespace {

using ptx::Operand;
using ptx::Space;
using ptx::Type;

// ---- what becomes of the old value: operations on it and one or two operands

struct Add {
    template <class T>
    T operator()(T old, T value, T) const {
        return T(old + value);
    }
    template <class T>
    Two<T> operator()(Two<T> old, Two<T> value, Two<T>) const {
        return {T(old.low + value.low), T(old.high + value.high)};
    }
};
struct Minimum {
    template <class T>
    T operator()(T old, T value, T) const {
        return T(minimum<Computed<T>>(old, value));
    }
};
struct Maximum {
    template <class T>
    T operator()(T old, T value, T) const {
        return T(maximum<Computed<T>>(old, value));
    }
};
struct And {
    template <class T>
    T operator()(T old, T value, T) const {
        return old & value;
    }
};
struct Or {
    template <class T>
    T operator()(T old, T value, T) const {
        return old | value;
    }
};
struct Xor {
    template <class T>
    T operator()(T old, T value, T) const {
        return old ^ value;
    }
};
struct Exchange {
    template <class T>
    T operator()(T, T value, T) const {
        return value;
    }
};
struct CompareAndSwap {
    template <class T>
    T operator()(T old, T expected, T value) const {
        return old == expected ? value : old;
    }
};
struct Increment {
    u32 operator()(u32 old, u32 last, u32) const { return old >= last ? 0 : old + 1; }
};
struct Decrement {
    u32 operator()(u32 old, u32 last, u32) const { return old == 0 || old > last ? last : old - 1; }
};

template <size_t BYTES>
using Bits = std::conditional_t<BYTES == 2, u16, std::conditional_t<BYTES == 4, u32, u64>>;

// Inputs: the address and two operands. The output, if there is one, is the old value.
template <class Op, class T>
void atomic(Warp& warp, const Instruction& in, Mask lanes) {
    Access access(Access::Atomic, sizeof(T));
    resolve(warp, in, lanes, 0, access);
    const T *first = warp.input<T>(in, 1), *second = warp.input<T>(in, 2);
    for (Mask rest = lanes; rest; rest &= rest - 1) {
        const int lane = std::countr_zero(rest);
        // Blocks may run on several threads of the host.
        auto* const place = (Bits<sizeof(T)>*)access.address[lane];
        auto old = __atomic_load_n(place, __ATOMIC_RELAXED);
        while (true) {
            const T result = Op()(std::bit_cast<T>(old), first[lane], second[lane]);
            if (__atomic_compare_exchange_n(place, &old, std::bit_cast<decltype(old)>(result), false, __ATOMIC_ACQ_REL,
                                            __ATOMIC_RELAXED))
                break;
        }
        if (in.outputs) warp.output<T>(in)[lane] = std::bit_cast<T>(old);
    }
}

template <class Op, class... T>
Handler handler_for(Type type) {
    return choose<T...>(type, []<class X>() { return atomic<Op, X>; });
}

struct Row {
    std::string_view name;
    Handler (*handler)(Type);
    unsigned flops = 0;
};
constexpr Row OPERATIONS[] = {
    {"add", handler_for<Add, u32, s32, u64, s64, float, double, F16, BF16, Two<F16>, Two<BF16>>, 1},
    {"min", handler_for<Minimum, u32, s32, u64, s64>},
    {"max", handler_for<Maximum, u32, s32, u64, s64>},
    {"and", handler_for<And, u32, u64>},
    {"or", handler_for<Or, u32, u64>},
    {"xor", handler_for<Xor, u32, u64>},
    {"exch", handler_for<Exchange, u32, u64>},
    {"cas", handler_for<CompareAndSwap, u16, u32, u64>},
    {"inc", handler_for<Increment, u32>},
    {"dec", handler_for<Decrement, u32>},
};

// atom has the old value as its first operand, red has not.
void atomic_instruction(Assembler& a, bool has_result) {
    const size_t first = has_result ? 1 : 0;
    const Space space = a.take("shared") || a.take("shared::cta") ? Space::Shared
                        : a.take("global")                        ? Space::Global
                                                                  : Space::Generic;
    const bool both = a.take("acq_rel"), releases = a.take("release") || both, acquires = a.take("acquire") || both;
    a.ignore({"relaxed", "cta", "cluster", "gpu", "sys", "noftz"});
    a.ignore_prefixed("L2::");
    const Row* operation = nullptr;
    for (const Row& row : OPERATIONS)
        if (!operation && a.take(row.name)) operation = &row;
    if (!operation) a.fail("its operation is unknown");
    const Type type = a.type();
    if (type == Type::BF16 || type == Type::BF16x2) a.require_target(90);
    const Handler handler = operation->handler(type);
    if (!handler) a.fail("it is unknown for this type");

    const Address address = a.address(a.operand(first), space);
    const Slot value = a.source(first + 1, type);
    const Slot second = a.operands().size() > first + 2 ? a.source(first + 2, type) : value;
    if (releases) a.emit(fence, {}, {});
    if (has_result)
        a.emit(handler, {a.destination(0, type)}, {address.base, value, second});
    else
        a.emit(handler, {}, {address.base, value, second});
    a.set_address(address);
    if (ptx::is_float(type)) a.set_flops(operation->flops);
    if (acquires) a.emit(fence, {}, {});
}

void fence_instruction(Assembler& a) {
    a.ignore({"sc", "acq_rel", "acquire", "release"});
    const bool only_block = a.take("cta");
    a.ignore({"gl", "gpu", "sys", "cluster"});
    // Within a block the order of accesses is that of the program anyway.
    if (!only_block) a.emit(fence, {}, {});
}

}  // namespace

void fence(Warp& warp, const Instruction&, Mask lanes) {
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (warp.block.races) warp.block.races->fence(warp, lanes);
}

const Family& atomic_instructions() {
    static const Family family = {
        {"atom", [](Assembler& a) { atomic_instruction(a, true); }},
        {"red", [](Assembler& a) { atomic_instruction(a, false); }},
        {"membar", fence_instruction},
        {"fence", fence_instruction},
    };
    return family;
}

}  // namespace emulator
