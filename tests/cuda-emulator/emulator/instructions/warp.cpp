// What the lanes of a warp exchange: shfl, vote, match, redux, activemask.
//
// Warp::collective sees to it that all lanes of the mask are here: handlers run for all of them at once.
#include "../execution/fault.h"
#include "lanes.h"
#include "table.h"

namespace emulator {
namespace {

using ptx::Operand;
using ptx::Type;

// ---- shfl

enum Shuffle : uint16_t { Up, Down, Butterfly, Index };

// Outputs: the value and, where it is asked for, whether it is another lane's. Inputs: the value, which lane, and how
// far.
template <Shuffle HOW>
void shuffle(Warp& warp, const Instruction& in, Mask lanes) {
    const u32 *value = warp.input<u32>(in, 0), *which = warp.input<u32>(in, 1), *clamp = warp.input<u32>(in, 2);
    s32 source[LANES];
    u8 in_range[LANES];
    for (int lane = 0; lane < LANES; lane++) {
        const s32 segment = clamp[lane] >> 8 & 31, by = which[lane] & 31;
        const s32 end =
            (lane & segment) | (clamp[lane] & 31 & ~segment);  // the last lane that may be read; the first, for Up
        s32 wanted;
        switch (HOW) {
            case Up: wanted = lane - by; break;
            case Down: wanted = lane + by; break;
            case Butterfly: wanted = lane ^ by; break;
            case Index: wanted = (lane & segment) | (by & ~segment); break;
        }
        in_range[lane] = HOW == Up ? wanted >= end : wanted <= end;
        source[lane] = in_range[lane] ? wanted : lane;
    }
    if (lanes != ALL_LANES) {
        for (Mask rest = lanes; rest; rest &= rest - 1) {
            const int lane = std::countr_zero(rest);
            if (!(lanes >> source[lane] & 1))
                fail(warp, in, lane, CUDA_ERROR_LAUNCH_FAILED,
                     format("a shuffle reads lane %d, which takes no part in it", source[lane]));
        }
    }
    u32 result[LANES];
    for (int lane = 0; lane < LANES; lane++) result[lane] = value[source[lane]];
    Warp::store(warp.output<u32>(in), result, lanes);
    if (in.outputs == 2) warp.store_predicate(in.slots[1], mask_of(in_range), lanes);
}

void shuffle_instruction(Assembler& a) {
    if (!a.take("sync")) a.fail("only shfl.sync is supported");
    const std::string_view how = a.take_one({"up", "down", "bfly", "idx"});
    a.type();
    const Handler handler = how == "up"     ? shuffle<Up>
                            : how == "down" ? shuffle<Down>
                            : how == "bfly" ? shuffle<Butterfly>
                                            : shuffle<Index>;
    std::vector<Slot> outputs;
    if (a.operand(0).kind == Operand::Pair)
        outputs = {a.destination(a.operand(0).elements[0], Type::B32),
                   a.destination(a.operand(0).elements[1], Type::Pred)};
    else
        outputs = {a.destination(0, Type::B32)};
    a.emit_collective(handler, outputs,
                      {a.source(1, Type::B32), a.source(2, Type::U32), a.source(3, Type::U32), a.source(4, Type::U32)});
}

// ---- vote

void ballot(Warp& warp, const Instruction& in, Mask lanes) {
    u32 result[LANES];
    for (u32& value : result) value = *warp.input<Mask>(in) & lanes;
    Warp::store(warp.output<u32>(in), result, lanes);
}

enum Vote : uint16_t { All, Any, Uniform };

void vote(Warp& warp, const Instruction& in, Mask lanes) {
    const Mask yes = *warp.input<Mask>(in) & lanes;
    const bool all = yes == lanes, any = yes != 0;
    const bool result = in.detail == All ? all : in.detail == Any ? any : all || !any;
    warp.store_predicate(in.slots[0], result ? ALL_LANES : 0, lanes);
}

void vote_instruction(Assembler& a) {
    if (!a.take("sync")) a.fail("only vote.sync is supported");
    const std::string_view how = a.take_one({"all", "any", "uni", "ballot"});
    const Type type = a.type();
    const std::vector<Slot> inputs = {a.source(1, Type::Pred), a.source(2, Type::U32)};
    Instruction& in = a.emit_collective(how == "ballot" ? ballot : vote, {a.destination(0, type)}, inputs);
    in.detail = how == "all" ? All : how == "any" ? Any : Uniform;
}

// ---- match

template <class T, bool ALL>
void match(Warp& warp, const Instruction& in, Mask lanes) {
    const T* const value = warp.input<T>(in);
    u32 result[LANES];
    Mask matched = 0;
    for (Mask rest = lanes; rest; rest &= rest - 1) {
        const int lane = std::countr_zero(rest);
        Mask same = 0;
        for (Mask other = lanes; other; other &= other - 1)
            if (value[std::countr_zero(other)] == value[lane]) same |= other & -other;
        if (same == lanes) matched |= Mask(1) << lane;
        result[lane] = ALL && same != lanes ? 0 : same;
    }
    Warp::store(warp.output<u32>(in), result, lanes);
    if (in.outputs == 2) warp.store_predicate(in.slots[1], matched, lanes);
}

void match_instruction(Assembler& a) {
    a.take_one({"sync"});
    const bool all = a.take_one({"any", "all"}) == "all";
    const Type type = a.type();
    const bool wide = ptx::bytes(type) == 8;
    std::vector<Slot> outputs;
    if (a.operand(0).kind == Operand::Pair)
        outputs = {a.destination(a.operand(0).elements[0], Type::B32),
                   a.destination(a.operand(0).elements[1], Type::Pred)};
    else
        outputs = {a.destination(0, Type::B32)};
    const Handler handler =
        wide ? (all ? match<u64, true> : match<u64, false>) : (all ? match<u32, true> : match<u32, false>);
    a.emit_collective(handler, outputs, {a.source(1, type), a.source(2, Type::U32)});
}

// ---- redux

template <class Op, class T>
void reduce(Warp& warp, const Instruction& in, Mask lanes) {
    const T* const value = warp.input<T>(in);
    T total = value[std::countr_zero(lanes)];
    for (Mask rest = lanes & (lanes - 1); rest; rest &= rest - 1) total = Op()(total, value[std::countr_zero(rest)]);
    T result[LANES];
    for (T& one : result) one = total;
    Warp::store(warp.output<T>(in), result, lanes);
}

struct Add {
    template <class T>
    T operator()(T a, T b) const {
        return T(u32(a) + u32(b));
    }
};
struct Minimum {
    template <class T>
    T operator()(T a, T b) const {
        return minimum(a, b);
    }
};
struct Maximum {
    template <class T>
    T operator()(T a, T b) const {
        return maximum(a, b);
    }
};
struct And {
    u32 operator()(u32 a, u32 b) const { return a & b; }
};
struct Or {
    u32 operator()(u32 a, u32 b) const { return a | b; }
};
struct Xor {
    u32 operator()(u32 a, u32 b) const { return a ^ b; }
};

void reduce_instruction(Assembler& a) {
    a.take_one({"sync"});
    const std::string_view op = a.take_one({"add", "min", "max", "and", "or", "xor"});
    const Type type = a.type();
    const bool is_signed = type == Type::S32;
    Handler handler = reduce<Add, u32>;
    if (op == "min") handler = is_signed ? reduce<Minimum, s32> : reduce<Minimum, u32>;
    if (op == "max") handler = is_signed ? reduce<Maximum, s32> : reduce<Maximum, u32>;
    if (op == "and") handler = reduce<And, u32>;
    if (op == "or") handler = reduce<Or, u32>;
    if (op == "xor") handler = reduce<Xor, u32>;
    a.emit_collective(handler, {a.destination(0, type)}, {a.source(1, type), a.source(2, Type::U32)});
}

// ---- activemask

void active_mask(Warp& warp, const Instruction& in, Mask lanes) {
    u32 result[LANES];
    for (u32& value : result) value = lanes;
    Warp::store(warp.output<u32>(in), result, lanes);
}

}  // namespace

void collective_of_members(Warp& warp, const Instruction& in, Mask lanes) {
    warp.collective(in, lanes, warp.input<Mask>(in, in.inputs - 1));
}

void collective_of_all(Warp& warp, const Instruction& in, Mask lanes) { warp.collective(in, lanes, nullptr); }

const Family& warp_instructions() {
    static const Family family = {
        {"shfl", shuffle_instruction},
        {"vote", vote_instruction},
        {"match", match_instruction},
        {"redux", reduce_instruction},
        {"activemask", [](Assembler& a) { a.emit(active_mask, {a.destination(0, a.type())}, {}); }},
    };
    return family;
}

}  // namespace emulator
