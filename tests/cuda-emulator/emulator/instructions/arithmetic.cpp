// add, sub, mul, mad, fma, div, rem, min, max, abs, neg, sad, and their like.
#include <tuple>

#include "lanes.h"
#include "table.h"

namespace emulator {
namespace {

using ptx::Type;

// ---- operations for one lane

struct Add {
    template <class T>
    T operator()(T a, T b) const {
        return T(a + b);
    }
};
struct Subtract {
    template <class T>
    T operator()(T a, T b) const {
        return T(a - b);
    }
};
struct Multiply {
    template <class T>
    T operator()(T a, T b) const {
        if constexpr (std::is_same_v<T, u16> || std::is_same_v<T, s16>)
            return T(u32(a) * u32(b));  // not as int, which may overflow
        return T(a * b);
    }
};
struct Fma {
    template <class T>
    T operator()(T a, T b, T c) const {
        if constexpr (is_half<T>) return T(std::fma((double)a, (double)b, (double)c));
        return T(std::fma(a, b, c));
    }
};
struct FmaRelu {
    template <class T>
    T operator()(T a, T b, T c) const {
        return T(maximum<float>(Fma()(a, b, c), 0.0f));
    }
};

// The product of two integers in twice the width.
template <class T>
auto wide_product(T a, T b) {
    if constexpr (sizeof(T) == 2) return std::conditional_t<std::is_signed_v<T>, s32, u32>(a) * b;
    if constexpr (sizeof(T) == 4) return std::conditional_t<std::is_signed_v<T>, s64, u64>(a) * b;
    if constexpr (sizeof(T) == 8) {
        if constexpr (std::is_signed_v<T>)
            return (__int128)a * b;
        else
            return (unsigned __int128)a * b;
    }
}
struct MultiplyLow {
    template <class T>
    T operator()(T a, T b) const {
        return T(Multiply()(std::make_unsigned_t<T>(a), std::make_unsigned_t<T>(b)));
    }
};
struct MultiplyHigh {
    template <class T>
    T operator()(T a, T b) const {
        return T(wide_product(a, b) >> 8 * sizeof(T));
    }
};
struct MultiplyWide {
    template <class T>
    auto operator()(T a, T b) const {
        return wide_product(a, b);
    }
};
// Integer multiply and add: the product as one of the above has it.
template <class Product>
struct MultiplyAdd {
    template <class T, class C>
    C operator()(T a, T b, C c) const {
        return C(std::make_unsigned_t<C>(Product()(a, b)) + std::make_unsigned_t<C>(c));
    }
};
struct Multiply24 {
    template <class T>
    T operator()(T a, T b) const {
        return T(wide_product(T(u32(a) << 8) >> 8, T(u32(b) << 8) >> 8));
    }
};

struct Divide {
    template <class T>
    T operator()(T a, T b) const {
        if constexpr (std::is_integral_v<T>) {
            if (b == 0) return T(-1);  // what GPUs give; the manual leaves it open
            if constexpr (std::is_signed_v<T>)
                if (b == -1) return T(-std::make_unsigned_t<T>(a));  // the least number by -1 would trap
        }
        return T(a / b);
    }
};
struct Remainder {
    template <class T>
    T operator()(T a, T b) const {
        if (b == 0) return a;
        if constexpr (std::is_signed_v<T>)
            if (b == -1) return 0;
        return T(a % b);
    }
};

struct Minimum {
    template <class T>
    T operator()(T a, T b) const {
        return T(minimum<Computed<T>>(a, b));
    }
};
struct Maximum {
    template <class T>
    T operator()(T a, T b) const {
        return T(maximum<Computed<T>>(a, b));
    }
};
// .NaN: a NaN wins
template <class Op>
struct OrNan {
    template <class T>
    T operator()(T a, T b) const {
        if (std::isnan((Computed<T>)a) || std::isnan((Computed<T>)b))
            return T(std::numeric_limits<Computed<T>>::quiet_NaN());
        return Op()(a, b);
    }
};

struct Absolute {
    template <class T>
    T operator()(T a) const {
        if constexpr (std::is_integral_v<T>)
            return a < 0 ? T(-std::make_unsigned_t<T>(a)) : a;
        else
            return T(std::fabs((Computed<T>)a));
    }
};
struct Negate {
    template <class T>
    T operator()(T a) const {
        if constexpr (std::is_integral_v<T>)
            return T(-std::make_unsigned_t<T>(a));
        else
            return T(-a);
    }
};
struct CopySign {
    template <class T>
    T operator()(T sign, T magnitude) const {
        return std::copysign(magnitude, sign);
    }
};
struct Saturate {
    template <class T>
    T operator()(T a) const {
        return T(minimum<Computed<T>>(maximum<Computed<T>>(a, 0), 1));  // 0 for a NaN
    }
};
struct SaturatingAdd {
    s32 operator()(s32 a, s32 b) const {
        s32 sum;
        return __builtin_add_overflow(a, b, &sum) ? (a < 0 ? INT32_MIN : INT32_MAX) : sum;
    }
};
struct SaturatingSubtract {
    s32 operator()(s32 a, s32 b) const {
        s32 difference;
        return __builtin_sub_overflow(a, b, &difference) ? (a < 0 ? INT32_MIN : INT32_MAX) : difference;
    }
};
struct SumOfAbsoluteDifferences {
    template <class T>
    T operator()(T a, T b, T c) const {
        return T(c + (a < b ? std::make_unsigned_t<T>(b) - a : std::make_unsigned_t<T>(a) - b));
    }
};

// With the carry flag, a predicate that .cc writes and addc and subc read.
template <class T>
struct Carried {
    T value;
    bool carry;
};
struct AddCarry {
    template <class T>
    Carried<T> operator()(T a, T b, bool carry) const {
        const T sum = a + b;
        return {T(sum + carry), sum < a || T(sum + carry) < sum};
    }
};
struct SubtractBorrow {
    template <class T>
    Carried<T> operator()(T a, T b, bool borrow) const {
        const T difference = a - b;
        return {T(difference - borrow), a < b || difference < T(borrow)};
    }
};
template <class Op, class T>
void map_carry(Warp& warp, const Instruction& in, Mask lanes) {
    const Mask carry_in = *warp.input<Mask>(in, 2);
    T result[LANES];
    Mask carry = 0;
    for (int lane = 0; lane < LANES; lane++) {
        const auto [value, carries] =
            Op()(warp.input<T>(in, 0)[lane], warp.input<T>(in, 1)[lane], carry_in >> lane & 1);
        result[lane] = value;
        carry |= Mask(carries) << lane;
    }
    Warp::store(warp.output<T>(in, 0), result, lanes);
    warp.store_predicate(in.slots[1], carry, lanes);
}

// Both halves of a pair.
template <class Op>
struct Pairwise {
    template <class... T>
    auto operator()(Two<T>... pair) const {
        using First = std::tuple_element_t<0, std::tuple<T...>>;
        return Two<First>{Op()(pair.low...), Op()(pair.high...)};
    }
};

// Four products of bytes, and a sum.
template <class A, class B>
struct DotProduct4 {
    u32 operator()(u32 a, u32 b, u32 c) const {
        for (int i = 0; i < 32; i += 8) c += u32(A(a >> i)) * u32(B(b >> i));
        return c;
    }
};

// ---- assembly

#define INTEGERS u16, s16, u32, s32, u64, s64

template <class Op, int N>
void integers(Assembler& a, Type type) {
    same_types<Op, N, INTEGERS>(a, type);
}

// Floats of all kinds, with .ftz, .sat and a rounding mode.
template <class Op, int N>
void floats(Assembler& a, Type type, unsigned flops = 1) {
    const bool is_pair = type == Type::F16x2 || type == Type::BF16x2;
    const Rounding rounding = a.rounding();
    const bool flush = a.take("ftz"), saturate = a.take("sat");
    const Handler handler =
        is_pair ? choose<Two<F16>, Two<BF16>>(type, []<class T>() { return map_same<Pairwise<Op>, T, N>(); })
                : choose<float, double, F16, BF16>(type, []<class T>() { return map_same<Op, T, N>(); });
    if (!handler) a.fail("it is unknown for this type");
    std::vector<Slot> inputs;
    for (int i = 0; i < N; i++) inputs.push_back(a.source(i + 1, type));
    const Slot result = a.destination(0, type);
    a.emit(handler, {result}, inputs);
    a.set_environment(rounding, flush && type == Type::F32);
    a.set_flops(is_pair ? 2 * flops : flops);
    if (!saturate) return;
    const Handler clamp =
        is_pair ? choose<Two<F16>, Two<BF16>>(type, []<class T>() { return map_same<Pairwise<Saturate>, T, 1>(); })
                : choose<float, double, F16, BF16>(type, []<class T>() { return map_same<Saturate, T, 1>(); });
    a.emit(clamp, {result}, {result});
}

bool is_integer(Type type) { return !ptx::is_float(type) && type != Type::F16x2 && type != Type::BF16x2; }

template <class Op>
void carrying(Assembler& a, bool reads) {
    const Type type = a.type();
    const bool writes = a.take("cc");
    const Handler handler =
        choose<u32, u64>(ptx::unsigned_type(ptx::bytes(type)), []<class T>() { return map_carry<Op, T>; });
    if (!handler) a.fail("it is unknown for this type");
    a.emit(handler, {a.destination(0, type), writes ? a.carry() : a.temporary(0)},
           {a.source(1, type), a.source(2, type), reads ? a.carry() : a.constant(0, 0)});
}

// bf16 sums and products came with Hopper; before there is fma, with 1 or -0.
void check_target(Assembler& a, Type type) {
    if (type == Type::BF16 || type == Type::BF16x2) a.require_target(90);
}

template <class Op, class Saturating, class Carrying>
void sum(Assembler& a) {
    if (a.has("cc")) return carrying<Carrying>(a, false);
    const Type type = a.type();
    check_target(a, type);
    if (!is_integer(type)) return floats<Op, 2>(a, type);
    if (!a.take("sat")) return integers<Op, 2>(a, type);
    same_types<Saturating, 2, s32>(a, type);
}

// Which half of an integer product: .lo, .hi or .wide
template <class Low, class High, class Wide, int N>
void integer_product(Assembler& a, Type type) {
    const std::string_view part = a.take_one({"lo", "hi", "wide"});
    if (part == "lo") return integers<Low, N>(a, type);
    if (part == "hi") return integers<High, N>(a, type);
    Handler handler = nullptr;
    if constexpr (N == 2) {
        if (type == Type::U16) handler = map<Wide, u32, u16, u16>;
        if (type == Type::S16) handler = map<Wide, s32, s16, s16>;
        if (type == Type::U32) handler = map<Wide, u64, u32, u32>;
        if (type == Type::S32) handler = map<Wide, s64, s32, s32>;
    } else {
        if (type == Type::U16) handler = map<Wide, u32, u16, u16, u32>;
        if (type == Type::S16) handler = map<Wide, s32, s16, s16, s32>;
        if (type == Type::U32) handler = map<Wide, u64, u32, u32, u64>;
        if (type == Type::S32) handler = map<Wide, s64, s32, s32, s64>;
    }
    if (!handler) a.fail("it is unknown for this type");
    const Type wide = ptx::unsigned_type(2 * ptx::bytes(type));
    std::vector<Slot> inputs = {a.source(1, type), a.source(2, type)};
    if (N == 3) inputs.push_back(a.source(3, wide));
    a.emit(handler, {a.destination(0, wide)}, inputs);
}

void multiply(Assembler& a) {
    const Type type = a.type();
    check_target(a, type);
    if (!is_integer(type)) return floats<Multiply, 2>(a, type);
    integer_product<MultiplyLow, MultiplyHigh, MultiplyWide, 2>(a, type);
}

void multiply_add(Assembler& a) {
    const Type type = a.type();
    if (!is_integer(type)) return floats<Fma, 3>(a, type, 2);
    integer_product<MultiplyAdd<MultiplyLow>, MultiplyAdd<MultiplyHigh>, MultiplyAdd<MultiplyWide>, 3>(a, type);
}

void fused_multiply_add(Assembler& a) {
    const Type type = a.type();
    if (a.take("relu")) return floats<FmaRelu, 3>(a, type, 2);
    floats<Fma, 3>(a, type, 2);
}

template <class Op, int N>
void multiply_24(Assembler& a) {
    a.take_one({"lo"});
    same_types<Op, N, u32, s32>(a, a.type());
}

void divide(Assembler& a) {
    const Type type = a.type();
    if (is_integer(type)) return integers<Divide, 2>(a, type);
    a.ignore({"full", "approx"});  // more exact than they need to be
    floats<Divide, 2>(a, type);
}

template <class Op>
void extremum(Assembler& a) {
    const Type type = a.type();
    if (is_integer(type)) return integers<Op, 2>(a, type);
    if (a.take("NaN")) return floats<OrNan<Op>, 2>(a, type);
    floats<Op, 2>(a, type);
}

template <class Op>
void sign(Assembler& a) {
    const Type type = a.type();
    if (is_integer(type)) return same_types<Op, 1, s16, s32, s64>(a, type);
    floats<Op, 1>(a, type, 0);
}

void dot_product_4(Assembler& a) {
    const Type first = a.type(), second = a.type();
    const auto is = [&](Type x, Type y) { return first == x && second == y; };
    Handler handler = nullptr;
    if (is(Type::U32, Type::U32)) handler = map<DotProduct4<u8, u8>, u32, u32, u32, u32>;
    if (is(Type::S32, Type::S32)) handler = map<DotProduct4<s8, s8>, u32, u32, u32, u32>;
    if (is(Type::U32, Type::S32)) handler = map<DotProduct4<u8, s8>, u32, u32, u32, u32>;
    if (is(Type::S32, Type::U32)) handler = map<DotProduct4<s8, u8>, u32, u32, u32, u32>;
    if (!handler) a.fail("it is unknown for these types");
    a.emit(handler, {a.destination(0, Type::B32)},
           {a.source(1, Type::B32), a.source(2, Type::B32), a.source(3, Type::B32)});
}

}  // namespace

Handler addition(Type type) {
    return choose<u32, u64>(type, []<class T>() { return map_same<Add, T, 2>(); });
}

const Family& arithmetic_instructions() {
    static const Family family = {
        {"add", sum<Add, SaturatingAdd, AddCarry>},
        {"sub", sum<Subtract, SaturatingSubtract, SubtractBorrow>},
        {"addc", [](Assembler& a) { carrying<AddCarry>(a, true); }},
        {"subc", [](Assembler& a) { carrying<SubtractBorrow>(a, true); }},
        {"mul", multiply},
        {"mad", multiply_add},
        {"fma", fused_multiply_add},
        {"mul24", multiply_24<Multiply24, 2>},
        {"mad24", multiply_24<MultiplyAdd<Multiply24>, 3>},
        {"div", divide},
        {"rem", [](Assembler& a) { integers<Remainder, 2>(a, a.type()); }},
        {"min", extremum<Minimum>},
        {"max", extremum<Maximum>},
        {"abs", sign<Absolute>},
        {"neg", sign<Negate>},
        {"sad", [](Assembler& a) { integers<SumOfAbsoluteDifferences, 3>(a, a.type()); }},
        {"copysign", [](Assembler& a) { same_types<CopySign, 2, float, double>(a, a.type()); }},
        {"dp4a", dot_product_4},
    };
    return family;
}

}  // namespace emulator
