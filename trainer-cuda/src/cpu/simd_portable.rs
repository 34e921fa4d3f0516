//! [`Simd`] in plain Rust that LLVM vectorises: NEON on aarch64, SSE2 on old x86-64.

use half::bf16;

use super::simd::{LANES, Simd};

#[derive(Clone, Copy)]
pub(super) struct Portable;

#[inline(always)]
fn map2(a: [f32; LANES], b: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    let mut r = a;
    for i in 0..LANES {
        r[i] = f(a[i], b[i]);
    }
    r
}

impl Simd for Portable {
    type V = [f32; LANES];
    const MANY_REGISTERS: bool = false;

    #[inline(always)]
    fn splat(x: f32) -> Self::V {
        [x; LANES]
    }

    #[inline(always)]
    fn load(from: &[f32; LANES]) -> Self::V {
        *from
    }

    #[inline(always)]
    fn store(to: &mut [f32; LANES], v: Self::V) {
        *to = v;
    }

    #[inline(always)]
    fn add(a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        let mut r = c;
        for i in 0..LANES {
            // Without hardware FMA `f32::mul_add` is a library call, some 20 times slower.
            r[i] = if cfg!(target_arch = "aarch64") { a[i].mul_add(b[i], c[i]) } else { a[i] * b[i] + c[i] };
        }
        r
    }

    #[inline(always)]
    fn max(a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn exp2_whole(n: Self::V) -> Self::V {
        n.map(|n| f32::from_bits(((n as i32 + 127) as u32) << 23))
    }

    #[inline(always)]
    fn greater(a: Self::V, b: Self::V) -> u16 {
        (0..LANES).fold(0, |mask, i| mask | u16::from(a[i] > b[i]) << i)
    }

    #[inline(always)]
    fn select(mask: u16, a: Self::V, b: Self::V) -> Self::V {
        let mut r = b;
        for i in 0..LANES {
            r[i] = if mask >> i & 1 == 1 { a[i] } else { b[i] };
        }
        r
    }

    #[inline(always)]
    fn zip(a: Self::V, b: Self::V) -> (Self::V, Self::V) {
        let (mut low, mut high) = (a, a);
        for i in 0..LANES / 2 {
            (low[2 * i], low[2 * i + 1]) = (a[i], b[i]);
            (high[2 * i], high[2 * i + 1]) = (a[i + LANES / 2], b[i + LANES / 2]);
        }
        (low, high)
    }

    #[inline(always)]
    fn widen(pairs: &[[bf16; 2]; LANES]) -> (Self::V, Self::V) {
        // A bf16 is the upper half of an f32.
        let half = |i: usize| pairs.map(|pair| f32::from_bits(u32::from(pair[i].to_bits()) << 16));
        (half(0), half(1))
    }
}
