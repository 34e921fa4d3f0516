// The C++ types of PTX's: 16-bit floats, pairs of them, and arithmetic that is defined for every input.
#pragma once
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

namespace emulator {

using u8 = uint8_t;
using u16 = uint16_t;
using u32 = uint32_t;
using u64 = uint64_t;
using s8 = int8_t;
using s16 = int16_t;
using s32 = int32_t;
using s64 = int64_t;

// A double to f32 such that rounding the result once more, to fewer bits, rounds correctly: to odd (Boldo and Melquiond
// 2008).
inline float round_to_odd(double x) {
    const float nearest = (float)x;
    if (std::isnan(x) || (double)nearest == x || std::isinf(nearest)) return nearest;
    const u32 bits = std::bit_cast<u32>(nearest);
    if (bits & 1) return nearest;
    const bool is_above = std::fabs((double)nearest) > std::fabs(x);
    return std::bit_cast<float>(is_above ? bits - 1 : bits + 1);
}

struct F16 {
    u16 bits;

    F16() = default;
    explicit F16(float x) : bits(std::bit_cast<u16>((_Float16)x)) {}
    explicit F16(double x) : F16(round_to_odd(x)) {}
    operator float() const { return (float)std::bit_cast<_Float16>(bits); }
};

struct BF16 {
    u16 bits;

    BF16() = default;
    explicit BF16(float x) {
        const u32 wide = std::bit_cast<u32>(x);
        const u32 rounded = wide + 0x7fff + (wide >> 16 & 1);  // to nearest, ties to even
        bits = (wide & 0x7fffffff) > 0x7f800000 ? 0x7fff : rounded >> 16;
    }
    explicit BF16(double x) : BF16(round_to_odd(x)) {}
    operator float() const { return std::bit_cast<float>((u32)bits << 16); }
};

// Two in 32 bits: .f16x2, .bf16x2
template <class T>
struct Two {
    T low, high;
};

template <class T>
constexpr bool is_half = std::is_same_v<T, F16> || std::is_same_v<T, BF16>;

// The type in which a T is computed.
template <class T>
using Computed = std::conditional_t<is_half<T>, float, T>;

// PTX's minimum and maximum: a NaN loses against a number, and -0 is less than +0.
template <class T>
T minimum(T a, T b) {
    if constexpr (std::is_floating_point_v<T>) {
        if (std::isnan(a)) return std::isnan(b) ? std::numeric_limits<T>::quiet_NaN() : b;
        if (a == b) return std::signbit(a) ? a : b;
        return b < a ? b : a;
    } else {
        return b < a ? b : a;
    }
}

template <class T>
T maximum(T a, T b) {
    if constexpr (std::is_floating_point_v<T>) {
        if (std::isnan(a)) return std::isnan(b) ? std::numeric_limits<T>::quiet_NaN() : b;
        if (a == b) return std::signbit(a) ? b : a;
        return b > a ? b : a;
    } else {
        return b > a ? b : a;
    }
}

}  // namespace emulator
