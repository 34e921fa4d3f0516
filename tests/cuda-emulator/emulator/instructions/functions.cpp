// ex2, lg2, sin, cos, tanh, sqrt, rsqrt, rcp: more exact than a GPU's approximations, which differ by some units in the
// last place.
#include "lanes.h"
#include "table.h"

namespace emulator {
namespace {

using ptx::Type;

// 2^x: a polynomial on [-1/2, 1/2] (its Taylor series, with an error below 2^-25) and the exponent. In a form that the
// compiler vectorises, since softmax calls it for each element.
struct PowerOfTwo {
    float operator()(float x) const {
        const float clamped = x < -160.0f ? -160.0f : x > 130.0f ? 130.0f : x;
        const float whole = std::nearbyint(clamped);
        const float t = (clamped - whole) * 0.693147180559945f;
        const float series =
            1.0f + t * (1.0f + t * (1 / 2.0f + t * (1 / 6.0f + t * (1 / 24.0f + t * (1 / 120.0f + t * (1 / 720.0f))))));
        // In two steps: the exponent may be below that of normal numbers.
        const int exponent = (int)whole, half = exponent / 2;
        const auto power = [](int n) { return std::bit_cast<float>((n + 127) << 23); };
        return x != x ? x : series * power(half) * power(exponent - half);
    }
    template <class T>
    T operator()(T x) const {
        return T((*this)((float)x));
    }
};
struct Logarithm2 {
    static constexpr bool costly = true;
    float operator()(float x) const { return std::log2(x); }
};
struct Sine {
    static constexpr bool costly = true;
    float operator()(float x) const { return std::sin(x); }
};
struct Cosine {
    static constexpr bool costly = true;
    float operator()(float x) const { return std::cos(x); }
};
struct HyperbolicTangent {
    static constexpr bool costly = true;
    template <class T>
    T operator()(T x) const {
        return T(std::tanh((float)x));
    }
};
struct SquareRoot {
    template <class T>
    T operator()(T x) const {
        return std::sqrt(x);
    }
};
struct ReciprocalSquareRoot {
    template <class T>
    T operator()(T x) const {
        return 1 / std::sqrt(x);
    }
};
struct Reciprocal {
    template <class T>
    T operator()(T x) const {
        return 1 / x;
    }
};
template <class Op>
struct Pairwise {
    static constexpr bool costly = true;
    template <class T>
    Two<T> operator()(Two<T> pair) const {
        return {Op()(pair.low), Op()(pair.high)};
    }
};

template <class Op, class... T>
void function(Assembler& a) {
    a.ignore({"approx"});
    const Rounding rounding = a.rounding();
    const bool flush = a.take("ftz");
    const Type type = a.type();
    same_types<Op, 1, T...>(a, type);
    a.set_environment(rounding, flush && type == Type::F32);
    a.set_flops(1);
}

template <class Op>
void function_of_any_width(Assembler& a) {
    a.ignore({"approx"});
    const bool flush = a.take("ftz");
    const Type type = a.type();
    if (type == Type::F16x2 || type == Type::BF16x2) return same_types<Pairwise<Op>, 1, Two<F16>, Two<BF16>>(a, type);
    same_types<Op, 1, float, F16, BF16>(a, type);
    a.set_environment(Rounding::Nearest, flush && type == Type::F32);
    a.set_flops(1);
}

}  // namespace

const Family& function_instructions() {
    static const Family family = {
        {"ex2", function_of_any_width<PowerOfTwo>},
        {"tanh", function_of_any_width<HyperbolicTangent>},
        {"lg2", function<Logarithm2, float>},
        {"sin", function<Sine, float>},
        {"cos", function<Cosine, float>},
        {"sqrt", function<SquareRoot, float, double>},
        {"rsqrt", function<ReciprocalSquareRoot, float, double>},
        {"rcp", function<Reciprocal, float, double>},
    };
    return family;
}

}  // namespace emulator
