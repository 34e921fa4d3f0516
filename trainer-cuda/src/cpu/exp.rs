//! The exponential shared by softmax, SwiGLU and cross entropy.

use std::f32::consts::LOG2_E;

use super::simd::Simd;

/// `2^23 * 1.5`: adding and subtracting it rounds to the nearest whole number.
const ROUND: f32 = 12_582_912.0;
/// ln 2 in two parts; the first has so few bits that its product with a whole number is exact.
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;

/// `e^x` within 1 unit in the last place (measured: 0.99); NaN stays NaN. Arguments are clamped to -87.3..=88.3, so that the result is
/// a normal number: at least 1.2e-38 where the true value underflows, at most 2.2e38 where it overflows.
#[inline(always)]
pub(super) fn exp<S: Simd>(x: S::V) -> S::V {
    let x = S::max(S::splat(-87.3), S::min(S::splat(88.3), x));
    let n = S::sub(S::mul_add(x, S::splat(LOG2_E), S::splat(ROUND)), S::splat(ROUND));
    let r = S::mul_add(n, S::splat(-LN_2_HIGH), x);
    let r = S::mul_add(n, S::splat(-LN_2_LOW), r);
    // Minimax of (e^r - 1 - r) / r^2 on |r| <= ln 2 / 2 (Moshier, Cephes `expf`).
    let coefficients = [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];
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

#[cfg(test)]
mod tests {
    use super::super::simd::{LANES, SimdLevel, dispatch};
    use super::*;

    dispatch! { fn exp_lanes = exp_lanes_simd(x: &mut [f32; LANES]) }

    #[inline(always)]
    fn exp_lanes_simd<S: Simd>(x: &mut [f32; LANES]) {
        let e = exp::<S>(S::load(x));
        S::store(x, e);
    }

    /// Largest error over arguments of both signs, in units of the result's last place.
    fn worst_ulp(level: SimdLevel) -> f64 {
        let mut worst: f64 = 0.0;
        // Every 499th of the floats from 2^-30 to 87.3.
        for bits in (2f32.powi(-30).to_bits()..87.3f32.to_bits()).step_by(499) {
            let x = f32::from_bits(bits);
            let mut lanes = [0.0; LANES];
            (lanes[0], lanes[1]) = (x, -x);
            exp_lanes(level, &mut lanes);
            for (x, got) in [(x, lanes[0]), (-x, lanes[1])] {
                let want = f64::from(x).exp();
                let last_place = f64::from(f32::from_bits((want as f32).to_bits() + 1)) - f64::from(want as f32);
                worst = worst.max((f64::from(got) - want).abs() / last_place);
            }
        }
        worst
    }

    #[test]
    fn error_is_below_one_unit_in_the_last_place() {
        for level in SimdLevel::available() {
            let worst = worst_ulp(level);
            println!("{level}: {worst:.3} ulp");
            assert!(worst < 1.0, "{level}: {worst} ulp");
        }
    }

    #[test]
    fn arguments_out_of_range_are_clamped_and_nan_stays() {
        for level in SimdLevel::available() {
            let mut x = [0.0; LANES];
            x[..5].copy_from_slice(&[f32::NEG_INFINITY, -1e30, 1e30, f32::INFINITY, f32::NAN]);
            exp_lanes(level, &mut x);
            assert!(x[..2].iter().all(|e| (1.1e-38..1.3e-38).contains(e)), "{level}: {x:?}");
            assert!(x[2..4].iter().all(|e| (2.2e38..2.3e38).contains(e)), "{level}: {x:?}");
            assert!(x[4].is_nan() && x[5..].iter().all(|&e| e == 1.0), "{level}: {x:?}");
        }
    }
}
