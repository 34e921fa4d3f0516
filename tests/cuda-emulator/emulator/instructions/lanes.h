// Instructions that do the same in each lane by itself.
//
// An operation is a struct whose call operator computes one lane; `map` makes it a handler. The loop over the lanes is
// a plain one that the compiler turns into vector instructions.
#pragma once
#include <utility>

#include "../execution/warp.h"
#include "../program/assembler.h"
#include "numbers.h"

namespace emulator {

// The operation of an instruction: it may want to see the instruction, for a truth table in `immediate`, say.
template <class Op>
Op operation(const Instruction& in) {
    if constexpr (std::is_constructible_v<Op, const Instruction&>)
        return Op(in);
    else
        return Op();
}

// Operations that call into the C library say `static constexpr bool costly = true`: they run for the lanes that want
// them only.
template <class Op>
constexpr bool is_costly = requires { Op::costly; };

template <class Op, class Result, class... Argument>
void each_lane(Op op, Mask lanes, Result* result, const Argument*... argument) {
    if constexpr (is_costly<Op>) {
        for (Mask rest = lanes; rest; rest &= rest - 1) {
            const int lane = std::countr_zero(rest);
            result[lane] = Result(op(argument[lane]...));
        }
    } else {
        // The result may lie where an argument does, lane for lane: no lane depends on another.
#pragma GCC ivdep
        for (int lane = 0; lane < LANES; lane++) result[lane] = Result(op(argument[lane]...));
    }
}

template <class Op, class Result, class... Argument>
void map(Warp& warp, const Instruction& in, Mask lanes) {
    const Op op = operation<Op>(in);
    [&]<size_t... I>(std::index_sequence<I...>) {
        if (lanes == ALL_LANES) {
            each_lane(op, lanes, warp.output<Result>(in), warp.input<Argument>(in, I)...);
        } else {
            Result result[LANES];
            each_lane(op, lanes, result, warp.input<Argument>(in, I)...);
            Warp::store(warp.output<Result>(in), result, lanes);
        }
    }(std::index_sequence_for<Argument...>());
}

// The same type for the result and for N arguments.
template <class Op, class T, int N>
constexpr Handler map_same() {
    if constexpr (N == 1) return map<Op, T, T>;
    if constexpr (N == 2) return map<Op, T, T, T>;
    if constexpr (N == 3) return map<Op, T, T, T, T>;
}

// A bit for each of 32 bytes, which are 0 or 1.
inline Mask mask_of(const u8 (&bytes)[LANES]) {
    Mask mask = 0;
    for (int i = 0; i < LANES; i += 8) {
        u64 eight;
        memcpy(&eight, bytes + i, 8);
        // The product moves bit 8 i to 56 + i.
        mask |= Mask(eight * 0x0102040810204080 >> 56) << i;
    }
    return mask;
}

// Whether T is the C++ type for a PTX type.
template <class T>
bool stands_for(ptx::Type type) {
    using ptx::Type;
    const auto is = [&](auto... types) { return ((type == types) || ...); };
    if constexpr (std::is_same_v<T, u8>) return is(Type::U8, Type::B8);
    if constexpr (std::is_same_v<T, s8>) return is(Type::S8);
    if constexpr (std::is_same_v<T, u16>) return is(Type::U16, Type::B16);
    if constexpr (std::is_same_v<T, s16>) return is(Type::S16);
    if constexpr (std::is_same_v<T, u32>) return is(Type::U32, Type::B32);
    if constexpr (std::is_same_v<T, s32>) return is(Type::S32);
    if constexpr (std::is_same_v<T, u64>) return is(Type::U64, Type::B64);
    if constexpr (std::is_same_v<T, s64>) return is(Type::S64);
    if constexpr (std::is_same_v<T, float>) return is(Type::F32);
    if constexpr (std::is_same_v<T, double>) return is(Type::F64);
    if constexpr (std::is_same_v<T, F16>) return is(Type::F16);
    if constexpr (std::is_same_v<T, BF16>) return is(Type::BF16);
    if constexpr (std::is_same_v<T, Two<F16>>) return is(Type::F16x2);
    if constexpr (std::is_same_v<T, Two<BF16>>) return is(Type::BF16x2);
    return false;
}

// The handler that `make` has for the first of T... that is `type`; null where none is.
template <class... T, class Make>
Handler choose(ptx::Type type, Make make) {
    Handler result = nullptr;
    ((stands_for<T>(type) ? (result = make.template operator()<T>(), true) : false) || ...);
    return result;
}

// Assembles `Op` for those types, with N operands of the same type as the result.
template <class Op, int N, class... T>
void same_types(Assembler& a, ptx::Type type) {
    const Handler handler = choose<T...>(type, []<class X>() { return map_same<Op, X, N>(); });
    if (!handler) a.fail("it is unknown for this type");
    std::vector<Slot> inputs;
    for (int i = 0; i < N; i++) inputs.push_back(a.source(i + 1, type));
    a.emit(handler, {a.destination(0, type)}, inputs);
}

// ---- handlers that several files need

void read_clock(Warp& warp, const Instruction& in, Mask lanes);
void negate_predicate(Warp& warp, const Instruction& in, Mask lanes);
// From any integer or float type to another, rounding towards zero where a float becomes an integer.
Handler conversion(ptx::Type from, ptx::Type to);
Handler addition(ptx::Type type);  // of u32 or u64
void fence(Warp& warp, const Instruction& in, Mask lanes);
void collective_of_members(Warp& warp, const Instruction& in, Mask lanes);
void collective_of_all(Warp& warp, const Instruction& in, Mask lanes);

}  // namespace emulator
