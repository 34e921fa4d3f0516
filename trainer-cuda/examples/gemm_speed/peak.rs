//! What one thread multiplies and adds with both factors and all sums in registers, in GFLOP/s.

use trainer_cuda::cpu::SimdLevel;

/// In f32 with the level's instructions, where there is a loop for them.
pub(crate) fn f32(simd: SimdLevel) -> Option<f64> {
    match simd.to_string().as_str() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the level exists only where the processor has its instructions.
        name if name.starts_with("avx512") => Some(best(2 * 16, |n| unsafe { x86::avx512_f32(n) })),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        "avx2" => Some(best(2 * 8, |n| unsafe { x86::avx2_f32(n) })),
        _ => None,
    }
}

/// In bf16 with f32 sums.
pub(crate) fn bf16(simd: SimdLevel) -> Option<f64> {
    #[cfg(target_arch = "x86_64")]
    if simd.multiplies_bf16() {
        // SAFETY: as above.
        return Some(best(2 * 32, |n| unsafe { x86::avx512_bf16(n) }));
    }
    let _ = simd;
    None
}

/// Sums in flight: more than any processor's pipes times their latency.
#[cfg(target_arch = "x86_64")]
const SUMS: usize = 12;

#[cfg(target_arch = "x86_64")]
fn best(flops: usize, run: impl Fn(usize)) -> f64 {
    const ROUNDS: usize = 200_000;
    let seconds = |_| {
        let start = std::time::Instant::now();
        run(ROUNDS);
        start.elapsed().as_secs_f64()
    };
    let best = (0..30).map(seconds).fold(f64::INFINITY, f64::min);
    (ROUNDS * SUMS * flops) as f64 / best / 1e9
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    use super::SUMS;

    macro_rules! peak {
        ($name:ident, $features:literal, $zero:ident(), $one:expr, |$sum:ident, $x:ident| $step:expr) => {
            #[target_feature(enable = $features)]
            pub(super) fn $name(rounds: usize) {
                let mut sums = [$zero(); SUMS];
                let $x = black_box($one);
                for _ in 0..rounds {
                    for sum in &mut sums {
                        let $sum = *sum;
                        *sum = $step;
                    }
                }
                black_box(sums);
            }
        };
    }

    peak!(avx512_f32, "avx512f", _mm512_setzero_ps(), _mm512_set1_ps(1.0), |sum, x| _mm512_fmadd_ps(x, x, sum));
    peak!(avx2_f32, "avx2,fma", _mm256_setzero_ps(), _mm256_set1_ps(1.0), |sum, x| _mm256_fmadd_ps(x, x, sum));
    peak!(
        avx512_bf16,
        "avx512f,avx512bf16",
        _mm512_setzero_ps(),
        _mm512_cvtne2ps_pbh(_mm512_set1_ps(1.0), _mm512_set1_ps(1.0)),
        |sum, x| _mm512_dpbf16_ps(sum, x, x)
    );
}
