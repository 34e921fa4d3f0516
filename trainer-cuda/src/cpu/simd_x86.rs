//! [`Simd`] in AVX-512F and in AVX2 with FMA.

use std::arch::x86_64::*;

use half::bf16;

use super::simd::{LANES, Simd};

#[derive(Clone, Copy)]
pub(super) struct Avx512;

#[derive(Clone, Copy)]
pub(super) struct Avx2;

/// Two registers: lanes 0..8 and 8..16.
#[derive(Clone, Copy)]
pub(super) struct Pair(__m256, __m256);

macro_rules! intrinsics {
    ($e:expr) => {
        // SAFETY: `dispatch!` instantiates this level only where the processor has its instructions; pointers come
        // from references to sixteen values.
        unsafe { $e }
    };
}

impl Simd for Avx512 {
    type V = __m512;
    const MANY_REGISTERS: bool = true;

    #[inline(always)]
    fn splat(x: f32) -> __m512 {
        intrinsics!(_mm512_set1_ps(x))
    }

    #[inline(always)]
    fn load(from: &[f32; LANES]) -> __m512 {
        intrinsics!(_mm512_loadu_ps(from.as_ptr()))
    }

    #[inline(always)]
    fn store(to: &mut [f32; LANES], v: __m512) {
        intrinsics!(_mm512_storeu_ps(to.as_mut_ptr(), v))
    }

    #[inline(always)]
    fn add(a: __m512, b: __m512) -> __m512 {
        intrinsics!(_mm512_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(a: __m512, b: __m512) -> __m512 {
        intrinsics!(_mm512_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(a: __m512, b: __m512) -> __m512 {
        intrinsics!(_mm512_mul_ps(a, b))
    }

    #[inline(always)]
    fn div(a: __m512, b: __m512) -> __m512 {
        intrinsics!(_mm512_div_ps(a, b))
    }

    #[inline(always)]
    fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 {
        intrinsics!(_mm512_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn max(a: __m512, b: __m512) -> __m512 {
        intrinsics!(_mm512_max_ps(a, b))
    }

    #[inline(always)]
    fn min(a: __m512, b: __m512) -> __m512 {
        intrinsics!(_mm512_min_ps(a, b))
    }

    #[inline(always)]
    fn exp2_whole(n: __m512) -> __m512 {
        intrinsics!(_mm512_scalef_ps(_mm512_set1_ps(1.0), n))
    }

    #[inline(always)]
    fn greater(a: __m512, b: __m512) -> u16 {
        intrinsics!(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b))
    }

    #[inline(always)]
    fn select(mask: u16, a: __m512, b: __m512) -> __m512 {
        intrinsics!(_mm512_mask_blend_ps(mask, b, a))
    }

    #[inline(always)]
    fn zip(a: __m512, b: __m512) -> (__m512, __m512) {
        intrinsics!({
            let low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            let high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
            (_mm512_permutex2var_ps(a, low, b), _mm512_permutex2var_ps(a, high, b))
        })
    }

    #[inline(always)]
    fn widen(pairs: &[[bf16; 2]; LANES]) -> (__m512, __m512) {
        // A bf16 is the upper half of an f32, and x86 is little-endian: the first of a pair is the lower half.
        intrinsics!({
            let words = _mm512_loadu_si512(pairs.as_ptr().cast());
            let odd = _mm512_and_si512(words, _mm512_set1_epi32(0xffff_0000_u32 as i32));
            (_mm512_castsi512_ps(_mm512_slli_epi32::<16>(words)), _mm512_castsi512_ps(odd))
        })
    }

    #[inline(always)]
    fn read(from: &[f32]) -> __m512 {
        // SAFETY: the mask leaves out what lies behind the slice.
        intrinsics!(_mm512_maskz_loadu_ps(first_lanes(from.len()), from.as_ptr()))
    }

    #[inline(always)]
    fn write(to: &mut [f32], v: __m512) {
        // SAFETY: as above.
        intrinsics!(_mm512_mask_storeu_ps(to.as_mut_ptr(), first_lanes(to.len()), v))
    }
}

/// A bit for each lane that a slice of `len` values has.
#[inline(always)]
fn first_lanes(len: usize) -> u16 {
    if len < LANES { (1 << len) - 1 } else { u16::MAX }
}

impl Simd for Avx2 {
    type V = Pair;
    const MANY_REGISTERS: bool = false;

    #[inline(always)]
    fn splat(x: f32) -> Pair {
        intrinsics!(Pair(_mm256_set1_ps(x), _mm256_set1_ps(x)))
    }

    #[inline(always)]
    fn load(from: &[f32; LANES]) -> Pair {
        intrinsics!(Pair(_mm256_loadu_ps(from.as_ptr()), _mm256_loadu_ps(from.as_ptr().add(8))))
    }

    #[inline(always)]
    fn store(to: &mut [f32; LANES], v: Pair) {
        intrinsics!({
            _mm256_storeu_ps(to.as_mut_ptr(), v.0);
            _mm256_storeu_ps(to.as_mut_ptr().add(8), v.1);
        })
    }

    #[inline(always)]
    fn add(a: Pair, b: Pair) -> Pair {
        intrinsics!(Pair(_mm256_add_ps(a.0, b.0), _mm256_add_ps(a.1, b.1)))
    }

    #[inline(always)]
    fn sub(a: Pair, b: Pair) -> Pair {
        intrinsics!(Pair(_mm256_sub_ps(a.0, b.0), _mm256_sub_ps(a.1, b.1)))
    }

    #[inline(always)]
    fn mul(a: Pair, b: Pair) -> Pair {
        intrinsics!(Pair(_mm256_mul_ps(a.0, b.0), _mm256_mul_ps(a.1, b.1)))
    }

    #[inline(always)]
    fn div(a: Pair, b: Pair) -> Pair {
        intrinsics!(Pair(_mm256_div_ps(a.0, b.0), _mm256_div_ps(a.1, b.1)))
    }

    #[inline(always)]
    fn mul_add(a: Pair, b: Pair, c: Pair) -> Pair {
        intrinsics!(Pair(_mm256_fmadd_ps(a.0, b.0, c.0), _mm256_fmadd_ps(a.1, b.1, c.1)))
    }

    #[inline(always)]
    fn max(a: Pair, b: Pair) -> Pair {
        intrinsics!(Pair(_mm256_max_ps(a.0, b.0), _mm256_max_ps(a.1, b.1)))
    }

    #[inline(always)]
    fn min(a: Pair, b: Pair) -> Pair {
        intrinsics!(Pair(_mm256_min_ps(a.0, b.0), _mm256_min_ps(a.1, b.1)))
    }

    #[inline(always)]
    fn exp2_whole(n: Pair) -> Pair {
        let half = |n: __m256| {
            intrinsics!({
                let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))
            })
        };
        Pair(half(n.0), half(n.1))
    }

    #[inline(always)]
    fn greater(a: Pair, b: Pair) -> u16 {
        let half = |a, b| intrinsics!(_mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(a, b)) as u16);
        half(a.0, b.0) | half(a.1, b.1) << 8
    }

    #[inline(always)]
    fn select(mask: u16, a: Pair, b: Pair) -> Pair {
        let half = |mask: u16, a, b| {
            intrinsics!({
                let bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
                let set = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(i32::from(mask)), bit), bit);
                _mm256_blendv_ps(b, a, _mm256_castsi256_ps(set))
            })
        };
        Pair(half(mask, a.0, b.0), half(mask >> 8, a.1, b.1))
    }

    #[inline(always)]
    fn zip(a: Pair, b: Pair) -> (Pair, Pair) {
        let half = |a, b| {
            intrinsics!({
                let (even, odd) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
                Pair(_mm256_permute2f128_ps::<0x20>(even, odd), _mm256_permute2f128_ps::<0x31>(even, odd))
            })
        };
        (half(a.0, b.0), half(a.1, b.1))
    }

    #[inline(always)]
    fn widen(pairs: &[[bf16; 2]; LANES]) -> (Pair, Pair) {
        let half = |i: usize| {
            intrinsics!({
                let words = _mm256_loadu_si256(pairs[i..].as_ptr().cast());
                let odd = _mm256_and_si256(words, _mm256_set1_epi32(0xffff_0000_u32 as i32));
                (_mm256_castsi256_ps(_mm256_slli_epi32::<16>(words)), _mm256_castsi256_ps(odd))
            })
        };
        let (low, high) = (half(0), half(8));
        (Pair(low.0, high.0), Pair(low.1, high.1))
    }
}
