//! Sixteen f32 lanes at every level (one AVX-512 register, two AVX2, four NEON), so that AVX-512 and AVX2 sum in
//! the same order and give the same bytes. What is written over [`Simd`] is written once.

use std::fmt;

use half::bf16;

use super::pages::Plain;

/// Lanes of one vector.
pub(super) const LANES: usize = 16;

/// Memory image of one vector. Aligned: an unaligned 64-byte load touches two cache lines every time.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Lanes(pub(super) [f32; LANES]);

impl Lanes {
    pub(super) const ZERO: Lanes = Lanes([0.0; LANES]);
}

/// Vectors as their values.
pub(super) fn flat(lanes: &[Lanes]) -> &[f32] {
    // SAFETY: `Lanes` is sixteen f32 and nothing else.
    unsafe { std::slice::from_raw_parts(lanes.as_ptr().cast(), lanes.len() * LANES) }
}

/// Asks for `len` values that will be read soon, at `FAR` of the processor's second cache alone.
#[inline(always)]
pub(super) fn prefetch<const FAR: bool, T>(values: *const T, len: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..len * size_of::<T>()).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
        let line = values.cast::<i8>().wrapping_add(line);
        // SAFETY: every x86-64 has the instruction, and it has no effect but on caches.
        unsafe { if FAR { _mm_prefetch::<_MM_HINT_T1>(line) } else { _mm_prefetch::<_MM_HINT_T0>(line) } };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (values, len);
}

/// Sixteen pairs of bf16, as many bytes as [`Lanes`].
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Pairs(pub(super) [[bf16; 2]; LANES]);

impl Pairs {
    pub(super) const ZERO: Pairs = Pairs([[bf16::ZERO; 2]; LANES]);
}

// SAFETY: floats of any bits, aligned to 64 bytes.
unsafe impl Plain for Lanes {}
// SAFETY: as above.
unsafe impl Plain for Pairs {}

/// Vector operations, lane by lane. Every implementation is `#[inline(always)]` into a function that
/// [`dispatch`] compiled for the level's instructions.
pub(super) trait Simd: Copy {
    /// Sixteen lanes in registers.
    type V: Copy;
    /// Whether 32 whole vectors fit into the registers: lets the tiles be larger.
    const MANY_REGISTERS: bool;

    fn splat(x: f32) -> Self::V;
    fn load(from: &[f32; LANES]) -> Self::V;
    fn store(to: &mut [f32; LANES], v: Self::V);
    fn add(a: Self::V, b: Self::V) -> Self::V;
    fn sub(a: Self::V, b: Self::V) -> Self::V;
    fn mul(a: Self::V, b: Self::V) -> Self::V;
    fn div(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once where the hardware can.
    fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `if a > b { a } else { b }`: a NaN in `b` stays.
    fn max(a: Self::V, b: Self::V) -> Self::V;
    /// `if a < b { a } else { b }`: a NaN in `b` stays.
    fn min(a: Self::V, b: Self::V) -> Self::V;
    /// `2^n` for whole `n` in -126..=127.
    fn exp2_whole(n: Self::V) -> Self::V;
    /// Bit `i` is `a[i] > b[i]`.
    fn greater(a: Self::V, b: Self::V) -> u16;
    /// `a[i]` where bit `i` of `mask` is set, else `b[i]`.
    fn select(mask: u16, a: Self::V, b: Self::V) -> Self::V;
    /// `(a0 b0 a1 b1 .. a7 b7, a8 b8 .. a15 b15)`.
    fn zip(a: Self::V, b: Self::V) -> (Self::V, Self::V);

    /// The first and the second of each pair in f32.
    fn widen(pairs: &[[bf16; 2]; LANES]) -> (Self::V, Self::V);

    /// The first sixteen values; where there are fewer, zeros follow.
    #[inline(always)]
    fn read(from: &[f32]) -> Self::V {
        match from.first_chunk() {
            Some(whole) => Self::load(whole),
            None => {
                let mut lanes = [0.0; LANES];
                lanes[..from.len()].copy_from_slice(from);
                Self::load(&lanes)
            }
        }
    }

    /// Overwrites the first sixteen values, or as many as there are.
    #[inline(always)]
    fn write(to: &mut [f32], v: Self::V) {
        match to.first_chunk_mut() {
            Some(whole) => Self::store(whole, v),
            None => to.copy_from_slice(&Self::to_array(v)[..to.len()]),
        }
    }

    /// The lanes as an array.
    #[inline(always)]
    fn to_array(v: Self::V) -> [f32; LANES] {
        let mut lanes = [0.0; LANES];
        Self::store(&mut lanes, v);
        lanes
    }

    /// Sum of the lanes, as a tree.
    #[inline(always)]
    fn sum(v: Self::V) -> f32 {
        let mut lanes = Self::to_array(v);
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                lanes[i] += lanes[i + half];
            }
        }
        lanes[0]
    }
}

/// The instructions that a [`super::Cpu`] uses. A value exists only where the processor has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SimdLevel(pub(super) Level);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    /// AVX-512 with dot products of bf16: differs in those alone.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

impl SimdLevel {
    /// What this processor has, best first; the last is always there.
    pub fn available() -> Vec<SimdLevel> {
        let mut levels = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            if has!("avx512f") && has!("avx512bw") && has!("avx512bf16") {
                levels.push(SimdLevel(Level::Avx512Bf16));
            }
            if has!("avx512f") {
                levels.push(SimdLevel(Level::Avx512));
            }
            if has!("avx2") && has!("fma") {
                levels.push(SimdLevel(Level::Avx2));
            }
        }
        levels.push(SimdLevel(Level::Portable));
        levels
    }

    /// Whether it has dot products of bf16.
    pub fn multiplies_bf16(self) -> bool {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16 => true,
            _ => false,
        }
    }
}

impl fmt::Display for SimdLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16 => "avx512 with bf16",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "avx2",
            Level::Portable if cfg!(target_arch = "aarch64") => "neon",
            Level::Portable => "portable",
        })
    }
}

/// Compiles `body::<S>` once per level and makes `name` choose at run time:
/// `dispatch! { fn name = body(arg: Type, ...) -> Type }`. `body` must be `#[inline(always)]`.
macro_rules! dispatch {
    ($vis:vis fn $name:ident = $body:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)?) => {
        $vis fn $name(simd: $crate::cpu::simd::SimdLevel, $($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f")]
            fn avx512($($arg: $ty),*) $(-> $ret)? {
                $body::<$crate::cpu::simd_x86::Avx512>($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $ty),*) $(-> $ret)? {
                $body::<$crate::cpu::simd_x86::Avx2>($($arg),*)
            }
            match simd.0 {
                // SAFETY: a `SimdLevel` exists only where the processor has its instructions.
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::simd::Level::Avx512Bf16 | $crate::cpu::simd::Level::Avx512 => unsafe { avx512($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::simd::Level::Avx2 => unsafe { avx2($($arg),*) },
                $crate::cpu::simd::Level::Portable => $body::<$crate::cpu::simd_portable::Portable>($($arg),*),
            }
        }
    };
}
pub(super) use dispatch;
