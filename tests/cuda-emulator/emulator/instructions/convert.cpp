// mov, cvt, cvta: between registers, types and address spaces.
#include <tuple>

#include "../execution/block.h"
#include "lanes.h"
#include "table.h"

namespace emulator {
namespace {

using ptx::Operand;
using ptx::Space;
using ptx::Type;

struct Copy {
    template <class T>
    T operator()(T x) const {
        return x;
    }
};

// ---- conversion of one lane

// Floats become integers at the nearest end of the range where they are outside of it. What is no number becomes 0, or
// 64 bits of which the highest is set (PTX ISA, "cvt").
template <class To, class From>
To to_integer(From x) {
    using Limits = std::numeric_limits<To>;
    // 2^n is exact in any float type, the greatest integer is not.
    const From end = std::ldexp(From(1), Limits::digits);
    constexpr bool is_wide = sizeof(To) == 8 || sizeof(From) == 8;
    if (x != x) return is_wide ? To(u64(1) << (8 * sizeof(To) - 1)) : To(0);
    if (x >= end) return Limits::max();
    if (x < From(Limits::min())) return Limits::min();
    return To(x);
}

template <class To>
struct Convert {
    template <class From>
    To operator()(From x) const {
        if constexpr (std::is_integral_v<To> && !std::is_integral_v<From>) {
            return to_integer<To>((Computed<From>)x);
        } else if constexpr (is_half<To> && (std::is_integral_v<From> || std::is_same_v<From, double>)) {
            return To((double)x);
        } else {
            return To(x);
        }
    }
};

// .sat between integers: at the nearest end of the target's range
template <class To>
struct ConvertSaturating {
    template <class From>
    To operator()(From x) const {
        using Limits = std::numeric_limits<To>;
        if (std::cmp_greater(x, Limits::max())) return Limits::max();
        if (std::cmp_less(x, Limits::min())) return Limits::min();
        return To(x);
    }
};

template <int MODE>
struct RoundToInteger {
    template <class T>
    T operator()(T x) const {
        const auto wide = (Computed<T>)x;
        if constexpr (MODE == 0) return T(std::nearbyint(wide));
        if constexpr (MODE == 1) return T(std::floor(wide));
        if constexpr (MODE == 2) return T(std::ceil(wide));
        return T(std::trunc(wide));
    }
};

// Rounding towards zero cuts bits off.
template <class To>
struct ToHalfZero {
    To operator()(float x) const {
        const To nearest(x);
        if (std::isnan(x)) return nearest;
        To result = nearest;
        if (std::fabs((float)nearest) > std::fabs(x)) result.bits--;
        return result;
    }
};

struct ToTf32 {
    u32 operator()(float x) const {  // to 10 bits, ties away from zero
        const u32 bits = std::bit_cast<u32>(x);
        return std::isfinite(x) ? (bits + 0x1000) & ~0x1fffu : bits;
    }
};

template <class T>
struct Relu {
    T operator()(T x) const { return T(maximum<Computed<T>>(x, 0)); }
};
template <class T>
struct Clamp01 {
    T operator()(T x) const { return T(minimum<Computed<T>>(maximum<Computed<T>>(x, 0), 1)); }
};

template <class T>
struct PackTwo {
    Two<T> operator()(T high, T low) const { return {low, high}; }
};

template <template <class> class Op, class... T>
Handler convert_among(Type from, Type to) {
    Handler result = nullptr;
    choose<T...>(to, [&]<class To>() {
        return result = choose<T...>(from, []<class From>() { return map<Op<To>, To, From>; });
    });
    return result;
}

Handler saturating_conversion(Type from, Type to) {
    return convert_among<ConvertSaturating, u8, s8, u16, s16, u32, s32, u64, s64>(from, to);
}

// ---- assembly of cvt

// cvt to a packed pair: the first source is the upper half.
void convert_pair(Assembler& a, Type to) {
    const Rounding rounding = a.rounding();
    const bool relu = a.take("relu");
    if (a.take("satfinite")) a.fail("`.satfinite` is not supported");
    if (a.type() != Type::F32) a.fail("a pair is made of two .f32");
    const bool is_bf16 = to == Type::BF16x2;
    const Handler narrow = rounding == Rounding::Zero
                               ? (is_bf16 ? map<ToHalfZero<BF16>, BF16, float> : map<ToHalfZero<F16>, F16, float>)
                               : (is_bf16 ? map<Convert<BF16>, BF16, float> : map<Convert<F16>, F16, float>);
    std::vector<Slot> halves;
    for (int i = 1; i <= 2; i++) {
        Slot wide = a.source(i, Type::F32);
        if (relu) {
            const Slot positive = a.temporary(4);
            a.emit(map<Relu<float>, float, float>, {positive}, {wide});
            wide = positive;
        }
        halves.push_back(a.temporary(2));
        a.emit(narrow, {halves.back()}, {wide});
    }
    a.emit(is_bf16 ? map<PackTwo<BF16>, Two<BF16>, BF16, BF16> : map<PackTwo<F16>, Two<F16>, F16, F16>,
           {a.destination(0, to)}, halves);
}

// .rni, .rmi, .rpi, .rzi: to a whole number
Handler rounding_to_integer(Assembler& a, Type type) {
    const auto handler = [&]<int MODE>() {
        return choose<float, double, F16, BF16>(type, []<class T>() { return map<RoundToInteger<MODE>, T, T>; });
    };
    if (a.take("rni")) return handler.operator()<0>();
    if (a.take("rmi")) return handler.operator()<1>();
    if (a.take("rpi")) return handler.operator()<2>();
    if (a.take("rzi")) return handler.operator()<3>();
    return nullptr;
}

void convert(Assembler& a) {
    a.allow_wider_registers();
    const Type to = a.type();
    if (to == Type::BF16x2 || to == Type::F16x2) return convert_pair(a, to);
    if (to == Type::TF32) {
        a.take_one({"rna"});
        a.type();
        a.emit(map<ToTf32, u32, float>, {a.destination(0, Type::B32)}, {a.source(1, Type::F32)});
        return;
    }
    const Type from = a.type();
    if (from == Type::BF16 || (to == Type::BF16 && from != Type::F32)) a.require_target(90);
    const bool flush = a.take("ftz"), saturate = a.take("sat"), relu = a.take("relu");
    Slot value = a.source(1, from);
    if (ptx::is_float(from)) {
        if (const Handler round = rounding_to_integer(a, from)) {
            const Slot whole = a.temporary(ptx::bytes(from));
            a.emit(round, {whole}, {value});
            a.set_environment(Rounding::Nearest, flush);
            value = whole;
        }
    }
    const Rounding rounding = a.rounding();
    const Slot result = a.destination(0, to);
    const bool is_half_result = to == Type::F16 || to == Type::BF16;
    if (is_half_result && rounding == Rounding::Zero && from == Type::F32) {
        a.emit(to == Type::F16 ? map<ToHalfZero<F16>, F16, float> : map<ToHalfZero<BF16>, BF16, float>, {result},
               {value});
    } else {
        const bool between_integers = saturate && !ptx::is_float(to) && !ptx::is_float(from);
        const Handler handler = between_integers ? saturating_conversion(from, to) : conversion(from, to);
        if (!handler) a.fail("it is unknown for these types");
        a.emit(handler, {result}, {value});
        a.set_environment(is_half_result ? Rounding::Nearest : rounding, flush);
        if (is_half_result && rounding != Rounding::Nearest) a.fail("this rounding of a half is not supported");
    }
    if (relu) a.emit(choose<float, F16, BF16>(to, []<class T>() { return map<Relu<T>, T, T>; }), {result}, {result});
    if (saturate && ptx::is_float(to))
        a.emit(choose<float, double, F16, BF16>(to, []<class T>() { return map<Clamp01<T>, T, T>; }), {result},
               {result});
}

// ---- mov

// {low, high} = value
template <class Part, class Whole>
void unpack(Warp& warp, const Instruction& in, Mask lanes) {
    Whole whole[LANES];
    memcpy(whole, warp.input<Whole>(in), sizeof whole);
    for (int i = 0; i < in.outputs; i++) {
        Part part[LANES];
        for (int lane = 0; lane < LANES; lane++) part[lane] = Part(whole[lane] >> 8 * sizeof(Part) * i);
        Warp::store(warp.output<Part>(in, i), part, lanes);
    }
}

// value = {low, high}
template <class Part, class Whole>
void pack(Warp& warp, const Instruction& in, Mask lanes) {
    Whole whole[LANES] = {};
    for (int i = 0; i < in.inputs; i++) {
        const Part* part = warp.input<Part>(in, i);
        for (int lane = 0; lane < LANES; lane++) whole[lane] |= Whole(part[lane]) << 8 * sizeof(Part) * i;
    }
    Warp::store(warp.output<Whole>(in), whole, lanes);
}

struct Packing {
    size_t part, whole;
    Handler unpack, pack;
};
constexpr Packing PACKINGS[] = {
    {1, 2, unpack<u8, u16>, pack<u8, u16>},   {1, 4, unpack<u8, u32>, pack<u8, u32>},
    {2, 4, unpack<u16, u32>, pack<u16, u32>}, {2, 8, unpack<u16, u64>, pack<u16, u64>},
    {4, 8, unpack<u32, u64>, pack<u32, u64>},
};

const Packing& packing(Assembler& a, size_t whole, size_t parts) {
    for (const Packing& row : PACKINGS)
        if (row.whole == whole && row.part * parts == whole) return row;
    a.fail("such a vector is unknown");
}

void copy_predicate(Warp& warp, const Instruction& in, Mask lanes) {
    warp.store_predicate(in.slots[0], *warp.input<Mask>(in), lanes);
}

void move(Assembler& a) {
    const Type type = a.type();
    const size_t size = ptx::bytes(type);
    const Operand &to = a.operand(0), &from = a.operand(1);
    if (type == Type::Pred) {
        a.emit(copy_predicate, {a.destination(0, type)}, {a.source(1, type)});
    } else if (to.kind == Operand::List) {
        const Packing& row = packing(a, size, to.elements.size());
        const Slot whole = a.source(from, type);
        std::vector<Slot> parts;
        for (const Operand& element : to.elements)
            parts.push_back(a.destination(element, ptx::unsigned_type(row.part)));
        a.emit(row.unpack, parts, {whole});
    } else if (from.kind == Operand::List) {
        const Packing& row = packing(a, size, from.elements.size());
        std::vector<Slot> parts;
        for (const Operand& element : from.elements) parts.push_back(a.source(element, ptx::unsigned_type(row.part)));
        a.emit(row.pack, {a.destination(to, type)}, parts);
    } else {
        if (!a.make_alias(to, from, type)) same_types<Copy, 1, u16, u32, u64>(a, ptx::unsigned_type(size));
    }
}

// ---- cvta: addresses of shared, local and parameter memory are offsets; generic ones are the host's own addresses

template <Space SPACE, bool TO>
void convert_address(Warp& warp, const Instruction& in, Mask lanes) {
    const u64* from = warp.input<u64>(in);
    u64 result[LANES];
    for (int lane = 0; lane < LANES; lane++) {
        u64 base = 0;
        if constexpr (SPACE == Space::Shared) base = (u64)warp.block.shared();
        if constexpr (SPACE == Space::Local) base = warp.block.local(warp, lane);
        if constexpr (SPACE == Space::Param) base = (u64)warp.block.launch->parameters.data();
        result[lane] = TO ? from[lane] - base : from[lane] + base;
    }
    Warp::store(warp.output<u64>(in), result, lanes);
}

void convert_address_space(Assembler& a) {
    const bool to = a.take("to");
    // Without clusters, the shared memory of the block is all there is.
    const std::string_view space = a.take_one({"global", "shared", "shared::cta", "local", "const", "param"});
    if (a.type() != Type::U64) a.fail("only 64-bit addresses are supported");
    const bool is_same = space == "global" || space == "const";
    if (is_same && a.make_alias(a.operand(0), a.operand(1), Type::U64)) return;
    Handler handler = map<Copy, u64, u64>;
    if (space.starts_with("shared"))
        handler = to ? convert_address<Space::Shared, true> : convert_address<Space::Shared, false>;
    if (space == "local") handler = to ? convert_address<Space::Local, true> : convert_address<Space::Local, false>;
    if (space == "param") handler = to ? convert_address<Space::Param, true> : convert_address<Space::Param, false>;
    a.emit(handler, {a.destination(0, Type::U64)}, {a.source(1, Type::U64)});
}

}  // namespace

Handler conversion(Type from, Type to) {
    return convert_among<Convert, u8, s8, u16, s16, u32, s32, u64, s64, float, double, F16, BF16>(from, to);
}

void read_clock(Warp& warp, const Instruction& in, Mask lanes) {
    u64 result[LANES];
    for (u64& value : result) value = __builtin_ia32_rdtsc();
    Warp::store(warp.output<u64>(in), result, lanes);
}

const Family& convert_instructions() {
    static const Family family = {
        {"mov", move},
        {"cvt", convert},
        {"cvta", convert_address_space},
    };
    return family;
}

}  // namespace emulator
