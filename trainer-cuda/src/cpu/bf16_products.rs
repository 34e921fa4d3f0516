//! Products of pairs of bf16 with f32 sums (`vdpbf16ps`): a word of either factor is two neighbours in k.

use super::gemm::Operand;
use super::gemm_tiles::{Panels, Rows, Target};
use super::simd::{Lanes, Pairs, SimdLevel};

/// Defines `name`, which calls the function of [`x86`] of that name: products of pairs are asked for only at the one
/// level that has them.
macro_rules! bf16_level {
    ($(fn $name:ident($($arg:ident: $ty:ty),* $(,)?);)*) => {
        $(#[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
        pub(super) fn $name(simd: SimdLevel, $($arg: $ty),*) {
            match simd.0 {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: the level exists only where the processor has its instructions.
                super::simd::Level::Avx512Bf16 => unsafe { x86::$name($($arg),*) },
                _ => unreachable!("products of bf16 at {simd}"),
            }
        })*
    };
}

bf16_level! {
    fn multiply_tiles(a: Rows, b: Panels, depth: usize, target: &Target);

    // Rounds sixteen rows of A, or `count`, from `first` on: `depth` words of each from value `k_start` of `k` on.
    fn round_rows(
        rounded: &mut [Lanes], // [16, depth rounded up to 16] words
        a: Operand<'_>,
        first: usize,
        count: usize,
        k_start: usize,
        k: usize,
        depth: usize,
    );

    // Packs columns of pair panels, from pair `first` on: pairs of rows, from row `k_start` on.
    fn pack_pair_columns(
        packed: &mut [Lanes], // [n_panels, depth] words
        panels: &[Pairs],     // [rows / 16, n_pairs]
        n_pairs: usize,
        first: usize,
        k_start: usize,
        depth: usize,
    );
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::super::gemm::Operand;
    use super::super::gemm_tiles::{Multiply, Panels, Rows, Target, tiles};
    use super::super::simd::{LANES, Lanes, Pairs, prefetch};
    use super::super::simd_x86::Avx512;

    /// Pairs of a panel's columns, or of its rows.
    const PAIRED: usize = LANES / 2;

    struct Bf16;

    impl Multiply<Avx512> for Bf16 {
        #[inline(always)]
        fn add(a: __m512, b: __m512, c: __m512) -> __m512 {
            // SAFETY: only functions of the level call this; the three types are 64 bytes of any bits.
            unsafe {
                _mm512_dpbf16_ps(
                    c,
                    std::mem::transmute::<__m512, __m512bh>(a),
                    std::mem::transmute::<__m512, __m512bh>(b),
                )
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) fn multiply_tiles(a: Rows, b: Panels, depth: usize, target: &Target) {
        tiles::<Avx512, Bf16>(a, b, depth, target);
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) fn round_rows(
        rounded: &mut [Lanes],
        a: Operand<'_>,
        first: usize,
        count: usize,
        k_start: usize,
        k: usize,
        depth: usize,
    ) {
        assert_eq!(a.k_stride, 1, "rows to round are contiguous");
        let stride = rounded.len() / LANES;
        for (row, rounded) in rounded.chunks_exact_mut(stride).enumerate().take(count) {
            let values = &a.data[(first + row) * a.lane_stride..][k_start..k.min(k_start + 2 * depth)];
            for (rounded, values) in rounded.iter_mut().zip(values.chunks(2 * LANES)) {
                let mut whole = [0.0; 2 * LANES];
                let values = values.first_chunk().unwrap_or_else(|| {
                    whole[..values.len()].copy_from_slice(values);
                    &whole
                });
                // SAFETY: 32 values to read, 64 bytes to write.
                unsafe {
                    let (low, high) = (_mm512_loadu_ps(values.as_ptr()), _mm512_loadu_ps(values.as_ptr().add(LANES)));
                    let pairs = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
                    _mm512_store_si512(rounded.0.as_mut_ptr().cast(), pairs);
                }
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) fn pack_pair_columns(
        packed: &mut [Lanes],
        panels: &[Pairs],
        n_pairs: usize,
        first: usize,
        k_start: usize,
        depth: usize,
    ) {
        // Within 64 bits, two rows of two columns: (a0 a1 b0 b1) to (a0 b0 a1 b1).
        let transpose_two = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15));
        // Eight by eight of 64 bits: three rounds of a perfect shuffle.
        let low = _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11);
        let high = _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15);
        let width = packed.len() / depth * PAIRED;
        let columns = |k: usize| &panels[k / LANES * n_pairs..][first..n_pairs.min(first + width)];
        // Sixteen rows are eight words.
        for word in (0..depth).step_by(PAIRED) {
            let k = k_start + 2 * word;
            if word + PAIRED < depth {
                let next = columns(k + LANES);
                prefetch::<false, _>(next.as_ptr(), next.len());
            }
            for (panel, columns) in columns(k).chunks(PAIRED).enumerate() {
                let mut v = [_mm512_setzero_si512(); PAIRED];
                for (v, pairs) in v.iter_mut().zip(columns) {
                    // SAFETY: 64 bytes.
                    let pairs = unsafe { _mm512_load_si512(pairs.0.as_ptr().cast()) };
                    *v = _mm512_shuffle_epi8(pairs, transpose_two);
                }
                for _ in 0..3 {
                    let old = v;
                    for i in 0..PAIRED / 2 {
                        v[2 * i] = _mm512_permutex2var_epi64(old[i], low, old[i + PAIRED / 2]);
                        v[2 * i + 1] = _mm512_permutex2var_epi64(old[i], high, old[i + PAIRED / 2]);
                    }
                }
                for (packed, v) in packed[panel * depth..][word..depth.min(word + PAIRED)].iter_mut().zip(v) {
                    // SAFETY: 64 bytes.
                    unsafe { _mm512_store_si512(packed.0.as_mut_ptr().cast(), v) };
                }
            }
        }
    }
}
