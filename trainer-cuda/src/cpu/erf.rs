//! The error function, for GELU.

use super::exp::exp;
use super::simd::Simd;

/// `erf(x)` within 1e-7 (measured: 6.0e-8, half a unit in the last place at 1); NaN stays NaN.
///
/// In two pieces, as Cody 1969 (Rational Chebyshev approximations for the error function) cuts it, with minimax
/// polynomials fitted by Remez exchange in 40 digits: `x + x P(x^2)` up to 1 (relative error 1.2e-9), and
/// `1 - e^(-t Q(t))` with `t = |x|` from there on (absolute error 2.4e-9), which is 1 in f32 from 4 on.
#[inline(always)]
pub(super) fn erf<S: Simd>(x: S::V) -> S::V {
    let (zero, one) = (S::splat(0.0), S::splat(1.0));
    let polynomial = |x, highest, coefficients: &[f32]| {
        coefficients.iter().fold(S::splat(highest), |p, &c| S::mul_add(p, x, S::splat(c)))
    };
    let p = [-8.010_194e-4, 5.188_327_7e-3, -2.685_381_2e-2, 1.128_358_5e-1, -3.761_262_6e-1, 1.283_791_7e-1];
    let near = S::mul_add(x, polynomial(S::mul(x, x), 7.853_861e-5, &p), x);

    let t = S::min(S::splat(4.2), S::max(S::sub(zero, x), x));
    let q = [3.183_117e-3, -2.278_608_6e-2, 1.050_966_7e-1, 6.358_464e-1, 1.128_475_6];
    let far = S::sub(one, exp::<S>(S::mul(S::sub(zero, t), polynomial(t, -2.101_82e-4, &q))));
    let far = S::select(S::greater(zero, x), S::sub(zero, far), far);
    S::select(S::greater(t, one), far, near)
}

#[cfg(test)]
mod tests {
    use super::super::simd::{LANES, SimdLevel, dispatch};
    use super::*;

    dispatch! { fn erf_lanes = erf_lanes_simd(x: &mut [f32; LANES]) }

    #[inline(always)]
    fn erf_lanes_simd<S: Simd>(x: &mut [f32; LANES]) {
        let e = erf::<S>(S::load(x));
        S::store(x, e);
    }

    /// In f64: the Taylor series (Abramowitz & Stegun 7.1.6, all terms positive) up to 3, then 60 levels of the
    /// continued fraction of the complement (7.1.14).
    fn reference(x: f64) -> f64 {
        let t = x.abs();
        let front = (-t * t).exp() / std::f64::consts::PI.sqrt();
        if t < 3.0 {
            let (mut term, mut sum) = (t, t);
            for n in 1..100 {
                term *= 2.0 * t * t / f64::from(2 * n + 1);
                sum += term;
            }
            return (2.0 * front * sum).copysign(x);
        }
        let fraction = (1..=60).rev().fold(t, |below, n| t + f64::from(n) / 2.0 / below);
        (1.0 - front / fraction).copysign(x)
    }

    #[test]
    fn the_reference_has_the_tabulated_values() {
        // Abramowitz & Stegun, table 7.1.
        for (x, want) in [(0.5, 0.520_499_877_8), (1.0, 0.842_700_792_9), (2.0, 0.995_322_265_0)] {
            assert!((reference(x) - want).abs() < 1e-10, "{x}");
        }
        assert!((reference(2.999_999) - reference(3.000_001)).abs() < 1e-9, "the pieces meet");
    }

    #[test]
    fn error_is_below_1e_7() {
        for level in SimdLevel::available() {
            let (mut worst, mut relative): (f64, f64) = (0.0, 0.0);
            // Every 499th of the floats from 2^-40 to 8.
            for bits in (2f32.powi(-40).to_bits()..8f32.to_bits()).step_by(499) {
                let x = f32::from_bits(bits);
                let mut lanes = [0.0; LANES];
                (lanes[0], lanes[1]) = (x, -x);
                erf_lanes(level, &mut lanes);
                let want = reference(f64::from(x));
                assert_eq!(lanes[0], -lanes[1], "odd at {x}");
                worst = worst.max((f64::from(lanes[0]) - want).abs());
                relative = relative.max((f64::from(lanes[0]) / want - 1.0).abs());
            }
            println!("{level}: {worst:.3e}, relative {relative:.3e}");
            assert!(worst < 1e-7, "{level}: {worst}");
            assert!(relative < 2e-7, "{level}: relative {relative}");
        }
    }

    #[test]
    fn far_arguments_give_one_and_nan_stays() {
        for level in SimdLevel::available() {
            let mut x = [0.0; LANES];
            x[..5].copy_from_slice(&[f32::INFINITY, 1e30, -1e30, f32::NEG_INFINITY, f32::NAN]);
            erf_lanes(level, &mut x);
            assert_eq!(x[..4], [1.0, 1.0, -1.0, -1.0], "{level}");
            assert!(x[4].is_nan() && x[5..].iter().all(|&e| e == 0.0), "{level}: {x:?}");
        }
    }
}
