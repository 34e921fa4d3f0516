//! The exponential shared by softmax, SwiGLU and cross entropy.

use std::f32::consts::LOG2_E;

use super::simd::Simd;

/// `2^23 * 1.5`: adding and subtracting it rounds to the nearest whole number.
const ROUND: f32 = 12_582_912.0;
/// ln 2 in two parts; the first has so few bits that its product with a whole number is exact.
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;

/// `e^x` within 1 ulp with FMA (2 without); NaN stays NaN. Arguments are clamped to -87.3..=88.3, so that the result is
/// a normal number: at least 1.2e-38 where the true value underflows, at most 2.2e38 where it overflows.
#[inline(always)]
pub(super) fn exp<S: Simd>(x: S::V) -> S::V {
    let x = S::max(S::splat(-87.3), S::min(S::splat(88.3), x));
    let n = S::sub(S::mul_add(x, S::splat(LOG2_E), S::splat(ROUND)), S::splat(ROUND));
    let r = S::mul_add(n, S::splat(-LN_2_HIGH), x);
    let r = S::mul_add(n, S::splat(-LN_2_LOW), r);
    // Minimax of (e^r - 1 - r) / r^2 on |r| <= ln 2 / 2 (Moshier, Cephes `expf`).
    let coefficients = [1.398_199_95e-3, 8.333_451_9e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];
    let mut p = S::splat(1.987_569_1e-4);
    for c in coefficients {
        p = S::mul_add(p, r, S::splat(c));
    }
    let e = S::add(S::mul_add(S::mul(r, r), p, r), S::splat(1.0));
    S::mul(e, S::exp2_whole(n))
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(super) fn sigmoid<S: Simd>(x: S::V) -> S::V {
    let one = S::splat(1.0);
    S::div(one, S::add(one, exp::<S>(S::sub(S::splat(0.0), x))))
}
