// setp, set, selp, slct, testp.
#include "lanes.h"
#include "table.h"

namespace emulator {
namespace {

using ptx::Type;

// ---- comparisons of one lane; those of floats are false where one is a NaN, and with `u` behind their name true

struct Equal {
    template <class T>
    bool operator()(T a, T b) const {
        return a == b;
    }
};
struct NotEqual {
    template <class T>
    bool operator()(T a, T b) const {
        return a < b || a > b;
    }
};
struct Less {
    template <class T>
    bool operator()(T a, T b) const {
        return a < b;
    }
};
struct LessOrEqual {
    template <class T>
    bool operator()(T a, T b) const {
        return a <= b;
    }
};
struct Greater {
    template <class T>
    bool operator()(T a, T b) const {
        return a > b;
    }
};
struct GreaterOrEqual {
    template <class T>
    bool operator()(T a, T b) const {
        return a >= b;
    }
};
template <class Op>
struct OrUnordered {
    template <class T>
    bool operator()(T a, T b) const {
        return a != a || b != b || Op()(a, b);
    }
};
struct Ordered {
    template <class T>
    bool operator()(T a, T b) const {
        return a == a && b == b;
    }
};
struct Unordered {
    template <class T>
    bool operator()(T a, T b) const {
        return a != a || b != b;
    }
};

// How the comparison is combined with a predicate: Instruction::detail.
enum Combine : uint16_t { Alone, WithAnd, WithOr, WithXor };

Mask combine(uint16_t how, Mask compared, Mask other) {
    switch (how) {
        case WithAnd: return compared & other;
        case WithOr: return compared | other;
        case WithXor: return compared ^ other;
        default: return compared;
    }
}

// Outputs: the predicate and, where it is asked for, its opposite. Inputs: two values and a predicate.
template <class Op, class T>
void compare(Warp& warp, const Instruction& in, Mask lanes) {
    const T *a = warp.input<T>(in, 0), *b = warp.input<T>(in, 1);
    u8 bytes[LANES];
    for (int lane = 0; lane < LANES; lane++) bytes[lane] = Op()((Computed<T>)a[lane], (Computed<T>)b[lane]);
    const Mask compared = mask_of(bytes), other = *warp.input<Mask>(in, 2);
    warp.store_predicate(in.slots[0], combine(in.detail, compared, other), lanes);
    if (in.outputs == 2) warp.store_predicate(in.slots[1], combine(in.detail, ~compared, other), lanes);
}

template <class T>
void select(Warp& warp, const Instruction& in, Mask lanes) {
    const T *yes = warp.input<T>(in, 0), *no = warp.input<T>(in, 1);
    const Mask mask = *warp.input<Mask>(in, 2);
    T result[LANES];
    for (int lane = 0; lane < LANES; lane++) result[lane] = mask >> lane & 1 ? yes[lane] : no[lane];
    Warp::store(warp.output<T>(in), result, lanes);
}

void select_predicate(Warp& warp, const Instruction& in, Mask lanes) {
    const Mask yes = *warp.input<Mask>(in, 0), no = *warp.input<Mask>(in, 1), mask = *warp.input<Mask>(in, 2);
    warp.store_predicate(in.slots[0], (yes & mask) | (no & ~mask), lanes);
}

template <class Op, class T>
void test(Warp& warp, const Instruction& in, Mask lanes) {
    Mask mask = 0;
    for (int lane = 0; lane < LANES; lane++) mask |= Mask(Op()(warp.input<T>(in)[lane])) << lane;
    warp.store_predicate(in.slots[0], mask, lanes);
}
#define TEST(Name, condition)        \
    struct Name {                    \
        template <class T>           \
        bool operator()(T x) const { \
            return condition;        \
        }                            \
    };
TEST(IsFinite, std::isfinite(x))
TEST(IsInfinite, std::isinf(x))
TEST(IsNumber, !std::isnan(x))
TEST(IsNotANumber, std::isnan(x))
TEST(IsNormal, std::isnormal(x))
TEST(IsSubnormal, x != 0 && std::isfinite(x) && !std::isnormal(x))
#undef TEST

// ---- assembly

template <class Op>
Handler compare_any(Type type) {
    return choose<u16, s16, u32, s32, u64, s64, float, double, F16, BF16>(type,
                                                                          []<class T>() { return compare<Op, T>; });
}
template <class Op>
Handler compare_floats(Type type) {
    return choose<float, double, F16, BF16>(type, []<class T>() { return compare<Op, T>; });
}
template <class Op>
Handler compare_unsigned(Type type) {
    return choose<u16, u32, u64>(type, []<class T>() { return compare<Op, T>; });
}

struct Comparison {
    std::string_view name;
    Handler (*handler)(Type);
};
constexpr Comparison COMPARISONS[] = {
    {"eq", compare_any<Equal>},
    {"ne", compare_any<NotEqual>},
    {"lt", compare_any<Less>},
    {"le", compare_any<LessOrEqual>},
    {"gt", compare_any<Greater>},
    {"ge", compare_any<GreaterOrEqual>},
    {"lo", compare_unsigned<Less>},
    {"ls", compare_unsigned<LessOrEqual>},
    {"hi", compare_unsigned<Greater>},
    {"hs", compare_unsigned<GreaterOrEqual>},
    {"equ", compare_floats<OrUnordered<Equal>>},
    {"neu", compare_floats<OrUnordered<NotEqual>>},
    {"ltu", compare_floats<OrUnordered<Less>>},
    {"leu", compare_floats<OrUnordered<LessOrEqual>>},
    {"gtu", compare_floats<OrUnordered<Greater>>},
    {"geu", compare_floats<OrUnordered<GreaterOrEqual>>},
    {"num", compare_floats<Ordered>},
    {"nan", compare_floats<Unordered>},
};

// Emits the comparison of operands 1 and 2, combined with the predicate in operand 3 where there is one.
void emit_comparison(Assembler& a, const std::vector<Slot>& outputs) {
    Combine how = Alone;
    const Comparison* comparison = nullptr;
    for (const Comparison& row : COMPARISONS)
        if (!comparison && a.take(row.name)) comparison = &row;
    if (!comparison) a.fail("its comparison is missing");
    if (a.take("and")) how = WithAnd;
    if (a.take("or")) how = WithOr;
    if (a.take("xor")) how = WithXor;
    const bool flush = a.take("ftz");
    const Type type = a.type();
    const Handler handler = comparison->handler(type);
    if (!handler) a.fail("it is unknown for this type");
    const Slot other = how == Alone ? a.constant(0, 0) : a.source(3, Type::Pred);
    a.emit(handler, outputs, {a.source(1, type), a.source(2, type), other}).detail = how;
    if (flush) a.set_environment(Rounding::Nearest, true);
}

void set_predicate(Assembler& a) {
    std::vector<Slot> outputs;
    if (a.operand(0).kind == ptx::Operand::Pair)
        for (const ptx::Operand& element : a.operand(0).elements) outputs.push_back(a.destination(element, Type::Pred));
    else
        outputs.push_back(a.destination(0, Type::Pred));
    emit_comparison(a, outputs);
}

void emit_select(Assembler& a, Type type, Slot result, Slot yes, Slot no, Slot predicate) {
    const Handler handler =
        choose<u16, u32, u64>(ptx::unsigned_type(ptx::bytes(type)), []<class X>() { return select<X>; });
    if (!handler) a.fail("it is unknown for this type");
    a.emit(handler, {result}, {yes, no, predicate});
}

// All ones, or 1.0, where the comparison holds.
void set(Assembler& a) {
    // The first type is the result's, the second that of the comparison.
    const bool is_float = a.statement().opcode.size() > 2 && a.take("f32");
    const Type type = is_float ? Type::F32 : a.take("u32") ? Type::U32 : a.take("s32") ? Type::S32 : a.type();
    const Slot predicate = a.temporary(0);
    emit_comparison(a, {predicate});
    emit_select(a, type, a.destination(0, type), a.constant(type == Type::F32 ? 0x3f800000 : 0xffffffff, 4),
                a.constant(0, 4), predicate);
}

void select_by_predicate(Assembler& a) {
    const Type type = a.type();
    const Slot predicate = a.source(3, Type::Pred);
    if (type == Type::Pred) {
        a.emit(select_predicate, {a.destination(0, type)}, {a.source(1, type), a.source(2, type), predicate});
        return;
    }
    emit_select(a, type, a.destination(0, type), a.source(1, type), a.source(2, type), predicate);
}

// The first where the third operand is not negative.
void select_by_sign(Assembler& a) {
    const bool flush = a.take("ftz");
    const Type type = a.type(), sign = a.type();
    const Handler handler = sign == Type::F32 ? compare<GreaterOrEqual, float> : compare<GreaterOrEqual, s32>;
    const Slot predicate = a.temporary(0);
    a.emit(handler, {predicate}, {a.source(3, sign), a.constant(0, 4), a.constant(0, 0)});
    if (flush) a.set_environment(Rounding::Nearest, true);
    emit_select(a, type, a.destination(0, type), a.source(1, type), a.source(2, type), predicate);
}

void test_property(Assembler& a) {
    const auto emit = [&]<class Op>() {
        const Type type = a.type();
        const Handler handler = choose<float, double>(type, []<class T>() { return test<Op, T>; });
        if (!handler) a.fail("it is unknown for this type");
        a.emit(handler, {a.destination(0, Type::Pred)}, {a.source(1, type)});
    };
    const std::string_view property = a.take_one({"finite", "infinite", "number", "notanumber", "normal", "subnormal"});
    if (property == "finite") emit.operator()<IsFinite>();
    if (property == "infinite") emit.operator()<IsInfinite>();
    if (property == "number") emit.operator()<IsNumber>();
    if (property == "notanumber") emit.operator()<IsNotANumber>();
    if (property == "normal") emit.operator()<IsNormal>();
    if (property == "subnormal") emit.operator()<IsSubnormal>();
}

}  // namespace

const Family& compare_instructions() {
    static const Family family = {
        {"setp", set_predicate},  {"set", set}, {"selp", select_by_predicate}, {"slct", select_by_sign},
        {"testp", test_property},
    };
    return family;
}

}  // namespace emulator
