// Logic, shifts and bit fields.
#include "lanes.h"
#include "table.h"

namespace emulator {
namespace {

using ptx::Type;

struct And {
    template <class T>
    T operator()(T a, T b) const {
        return a & b;
    }
};
struct Or {
    template <class T>
    T operator()(T a, T b) const {
        return a | b;
    }
};
struct Xor {
    template <class T>
    T operator()(T a, T b) const {
        return a ^ b;
    }
};
struct Not {
    template <class T>
    T operator()(T a) const {
        return T(~a);
    }
};
struct LogicalNot {
    template <class T>
    T operator()(T a) const {
        return a == 0;
    }
};

// Shifts by the width or more give what they would give bit by bit.
struct ShiftLeft {
    template <class T>
    T operator()(T a, u32 by) const {
        return by < 8 * sizeof(T) ? T(a << by) : T(0);
    }
};
struct ShiftRight {
    template <class T>
    T operator()(T a, u32 by) const {
        const u32 most = 8 * sizeof(T) - 1;
        if constexpr (std::is_signed_v<T>) return T(a >> (by < most ? by : most));
        return by <= most ? T(a >> by) : T(0);
    }
};

// Both of two words, shifted by `by`, of which one word remains.
struct Clamp {
    static u32 amount(u32 by) { return by < 32 ? by : 32; }
};
struct Wrap {
    static u32 amount(u32 by) { return by & 31; }
};
template <class Mode>
struct FunnelLeft {
    u32 operator()(u32 low, u32 high, u32 by) const { return ((u64(high) << 32 | low) << Mode::amount(by)) >> 32; }
};
template <class Mode>
struct FunnelRight {
    u32 operator()(u32 low, u32 high, u32 by) const { return (u64(high) << 32 | low) >> Mode::amount(by); }
};

// Any function of three bits: `immediate` is its truth table.
struct LogicOfThree {
    u32 table[8];
    explicit LogicOfThree(const Instruction& in) {
        for (int i = 0; i < 8; i++) table[i] = in.immediate >> i & 1 ? ~0u : 0;
    }
    u32 operator()(u32 a, u32 b, u32 c) const {
        return (~a & ((~b & ((~c & table[0]) | (c & table[1]))) | (b & ((~c & table[2]) | (c & table[3]))))) |
               (a & ((~b & ((~c & table[4]) | (c & table[5]))) | (b & ((~c & table[6]) | (c & table[7])))));
    }
};

struct CountOnes {
    template <class T>
    u32 operator()(T a) const {
        return std::popcount(a);
    }
};
struct CountLeadingZeros {
    template <class T>
    u32 operator()(T a) const {
        return std::countl_zero(a);
    }
};
// The place of the highest bit that differs from the sign, or -1.
struct FindHighest {
    template <class T>
    u32 operator()(T a) const {
        const std::make_unsigned_t<T> bits = a < 0 ? ~a : a;
        return 8 * sizeof(T) - 1 - std::countl_zero(bits);
    }
};
// How far that bit would have to be shifted to be the highest.
struct FindShift {
    template <class T>
    u32 operator()(T a) const {
        const std::make_unsigned_t<T> bits = a < 0 ? ~a : a;
        return bits ? std::countl_zero(bits) : ~0u;
    }
};
struct Reverse {
    template <class T>
    T operator()(T a) const {
        T result = 0;
        for (size_t i = 0; i < 8 * sizeof(T); i++) result |= (a >> i & 1) << (8 * sizeof(T) - 1 - i);
        return result;
    }
};

struct ExtractField {
    template <class T>
    T operator()(T a, u32 position, u32 length) const {
        constexpr u32 width = 8 * sizeof(T);
        position &= 0xff, length &= 0xff;
        const std::make_unsigned_t<T> bits = ShiftRight()(a, position);  // with the sign behind its end
        if (length >= width) return T(bits);
        const auto field = bits & ((std::make_unsigned_t<T>(1) << length) - 1);
        if constexpr (std::is_signed_v<T>) {
            if (length == 0) return 0;
            const u32 top = position + length - 1 < width ? position + length - 1 : width - 1;
            if (std::make_unsigned_t<T>(a) >> top & 1) return T(field | (~std::make_unsigned_t<T>(0) << length));
        }
        return T(field);
    }
};
struct InsertField {
    template <class T>
    T operator()(T field, T into, u32 position, u32 length) const {
        constexpr u32 width = 8 * sizeof(T);
        position &= 0xff, length &= 0xff;
        if (position >= width || length == 0) return into;
        const T ones = length >= width ? ~T(0) : (T(1) << length) - 1;
        return (into & ~T(ones << position)) | (T(field & ones) << position);
    }
};

// Any four of eight bytes, each by a digit of the selector; its highest bit asks for the byte's sign instead.
struct Permute {
    u32 operator()(u32 a, u32 b, u32 selector) const {
        const u64 bytes = u64(b) << 32 | a;
        u32 result = 0;
        for (int i = 0; i < 4; i++) {
            const u32 digit = selector >> 4 * i & 15;
            const u8 byte = bytes >> 8 * (digit & 7);
            const u8 chosen = digit & 8 ? (byte & 0x80 ? 0xff : 0) : byte;
            result |= u32(chosen) << 8 * i;
        }
        return result;
    }
};

// ---- predicates

template <class Op>
void map_predicates(Warp& warp, const Instruction& in, Mask lanes) {
    Mask result;
    if (in.inputs == 1)
        result = ~*warp.input<Mask>(in);
    else
        result = Op()(*warp.input<Mask>(in, 0), *warp.input<Mask>(in, 1));
    warp.store_predicate(in.slots[0], result, lanes);
}

// ---- assembly

template <class Op>
void logic(Assembler& a) {
    const Type type = a.type();
    if (type == Type::Pred) {
        a.emit(map_predicates<Op>, {a.destination(0, type)}, {a.source(1, type), a.source(2, type)});
        return;
    }
    same_types<Op, 2, u16, u32, u64>(a, type);
}

void logical_not(Assembler& a) {
    const Type type = a.type();
    if (type == Type::Pred) {
        a.emit(negate_predicate, {a.destination(0, type)}, {a.source(1, type)});
        return;
    }
    same_types<Not, 1, u16, u32, u64>(a, type);
}

template <class Op, class... T>
void shift(Assembler& a) {
    const Type type = a.type();
    const Handler handler = choose<T...>(type, []<class X>() { return map<Op, X, X, u32>; });
    if (!handler) a.fail("it is unknown for this type");
    a.emit(handler, {a.destination(0, type)}, {a.source(1, type), a.source(2, Type::U32)});
}

void funnel_shift(Assembler& a) {
    const bool left = a.take_one({"l", "r"}) == "l";
    const bool wraps = a.take_one({"wrap", "clamp"}) == "wrap";
    a.type();
    const Handler handler =
        left ? (wraps ? map<FunnelLeft<Wrap>, u32, u32, u32, u32> : map<FunnelLeft<Clamp>, u32, u32, u32, u32>)
             : (wraps ? map<FunnelRight<Wrap>, u32, u32, u32, u32> : map<FunnelRight<Clamp>, u32, u32, u32, u32>);
    a.emit(handler, {a.destination(0, Type::B32)},
           {a.source(1, Type::B32), a.source(2, Type::B32), a.source(3, Type::U32)});
}

void logic_of_three(Assembler& a) {
    const Type type = a.type();
    const uint64_t table = a.immediate(4);
    a.emit(map<LogicOfThree, u32, u32, u32, u32>, {a.destination(0, type)},
           {a.source(1, type), a.source(2, type), a.source(3, type)})
        .immediate = table;
}

// Counts of any width are 32 bits.
template <class Op, class... T>
void count(Assembler& a) {
    const Type type = a.type();
    const Handler handler = choose<T...>(type, []<class X>() { return map<Op, u32, X>; });
    if (!handler) a.fail("it is unknown for this type");
    a.emit(handler, {a.destination(0, Type::U32)}, {a.source(1, type)});
}

void find_highest(Assembler& a) {
    if (a.take("shiftamt")) return count<FindShift, u32, s32, u64, s64>(a);
    count<FindHighest, u32, s32, u64, s64>(a);
}

void extract_field(Assembler& a) {
    const Type type = a.type();
    const Handler handler =
        choose<u32, s32, u64, s64>(type, []<class T>() { return map<ExtractField, T, T, u32, u32>; });
    if (!handler) a.fail("it is unknown for this type");
    a.emit(handler, {a.destination(0, type)}, {a.source(1, type), a.source(2, Type::U32), a.source(3, Type::U32)});
}

void insert_field(Assembler& a) {
    const Type type = a.type();
    const Handler handler = choose<u32, u64>(type, []<class T>() { return map<InsertField, T, T, T, u32, u32>; });
    if (!handler) a.fail("it is unknown for this type");
    a.emit(handler, {a.destination(0, type)},
           {a.source(1, type), a.source(2, type), a.source(3, Type::U32), a.source(4, Type::U32)});
}

void permute(Assembler& a) {
    const Type type = a.type();
    a.emit(map<Permute, u32, u32, u32, u32>, {a.destination(0, type)},
           {a.source(1, type), a.source(2, type), a.source(3, type)});
}

}  // namespace

void negate_predicate(Warp& warp, const Instruction& in, Mask lanes) {
    warp.store_predicate(in.slots[0], ~*warp.input<Mask>(in), lanes);
}

const Family& bit_instructions() {
    static const Family family = {
        {"and", logic<And>},
        {"or", logic<Or>},
        {"xor", logic<Xor>},
        {"not", logical_not},
        {"cnot", [](Assembler& a) { same_types<LogicalNot, 1, u16, u32, u64>(a, a.type()); }},
        {"shl", shift<ShiftLeft, u16, u32, u64>},
        {"shr", shift<ShiftRight, u16, s16, u32, s32, u64, s64>},
        {"shf", funnel_shift},
        {"lop3", logic_of_three},
        {"popc", count<CountOnes, u32, u64>},
        {"clz", count<CountLeadingZeros, u32, u64>},
        {"bfind", find_highest},
        {"brev", [](Assembler& a) { same_types<Reverse, 1, u32, u64>(a, a.type()); }},
        {"bfe", extract_field},
        {"bfi", insert_field},
        {"prmt", permute},
    };
    return family;
}

}  // namespace emulator
