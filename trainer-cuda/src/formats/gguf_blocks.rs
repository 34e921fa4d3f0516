//! GGUF element types: fixed-size blocks of quantised values to f32.
//!
//! Layouts and the order of the float operations are those of ggml's `dequantize_row_*`, so the results are
//! equal to the last bit to llama.cpp's and to the `gguf` Python package's.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

/// An element type that this build reads: values of their own, or blocks of quantised ones (ggml's names).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are ggml's, which defines them")]
pub enum BlockType {
    F32,
    F16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
    BF16,
}

impl BlockType {
    /// The type of a `ggml_type` number, or its name where this build doesn't read it.
    pub(crate) fn from_id(id: u32) -> Result<Self, String> {
        Ok(match id {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => Self::Q5_0,
            7 => Self::Q5_1,
            8 => Self::Q8_0,
            12 => Self::Q4K,
            13 => Self::Q5K,
            14 => Self::Q6K,
            30 => Self::BF16,
            _ => {
                let name = UNREAD.iter().find(|(unread, _)| *unread == id).map(|(_, name)| *name);
                return Err(name.map_or_else(|| id.to_string(), str::to_owned));
            }
        })
    }

    /// Values in a block, bytes of a block.
    pub fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::BF16 => (1, 2),
            Self::Q4_0 => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q5_0 => (32, 22),
            Self::Q5_1 => (32, 24),
            Self::Q8_0 => (32, 34),
            Self::Q4K => (256, 144),
            Self::Q5K => (256, 176),
            Self::Q6K => (256, 210),
        }
    }

    /// Whole blocks to f32, on all threads.
    pub(crate) fn dequantize(self, bytes: &[u8]) -> Vec<f32> {
        // 64 KiB of values a task: large beside rayon's overhead, small beside a core's share of a tensor.
        const VALUES: usize = 16 * 1024;
        let (values, block_bytes) = self.block();
        let mut decoded = vec![0.0; bytes.len() / block_bytes * values];
        let parts = bytes.par_chunks(VALUES / values * block_bytes);
        decoded.par_chunks_mut(VALUES).zip(parts).for_each(|(values, bytes)| self.decode(bytes, values));
        decoded
    }

    /// Whole blocks to f32, on this thread: as many as `values` holds.
    pub fn decode(self, bytes: &[u8], values: &mut [f32]) {
        match self {
            Self::F32 => each_block(bytes, values, |b: &[u8; 4], y: &mut [f32; 1]| y[0] = f32::from_le_bytes(*b)),
            Self::F16 => f16s(bytes, values),
            Self::BF16 => {
                each_block(bytes, values, |b: &[u8; 2], y: &mut [f32; 1]| y[0] = bf16::from_le_bytes(*b).to_f32())
            }
            Self::Q4_0 => each_block(bytes, values, q4_0),
            Self::Q4_1 => each_block(bytes, values, q4_1),
            Self::Q5_0 => each_block(bytes, values, q5_0),
            Self::Q5_1 => each_block(bytes, values, q5_1),
            Self::Q8_0 => each_block(bytes, values, q8_0),
            Self::Q4K => each_block(bytes, values, q4_k),
            Self::Q5K => each_block(bytes, values, q5_k),
            Self::Q6K => each_block(bytes, values, q6_k),
        }
    }
}

/// Types with a number and a name that this build doesn't read, for the error message (ggml.h, `enum ggml_type`).
const UNREAD: [(u32, &str); 24] = [
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
];

/// Runs `decode` over `B`-byte blocks of `N` values.
fn each_block<const B: usize, const N: usize>(
    bytes: &[u8],
    values: &mut [f32],
    decode: impl Fn(&[u8; B], &mut [f32; N]),
) {
    for (y, block) in values.as_chunks_mut().0.iter_mut().zip(bytes.as_chunks().0) {
        decode(block, y);
    }
}

/// Several at a time, which processors have instructions for.
fn f16s(bytes: &[u8], values: &mut [f32]) {
    const PIECE: usize = 64;
    for (values, bytes) in values.chunks_mut(PIECE).zip(bytes.chunks(2 * PIECE)) {
        let mut halves = [f16::ZERO; PIECE];
        for (half, bytes) in halves.iter_mut().zip(bytes.as_chunks().0) {
            *half = f16::from_le_bytes(*bytes);
        }
        halves[..values.len()].convert_to_f32_slice(values);
    }
}

/// The f16 at byte `at`.
fn half(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// `d | 16 x 2 nibbles`; the low nibbles are the first half.
fn q4_0(b: &[u8; 18], y: &mut [f32; 32]) {
    let d = half(b, 0);
    for i in 0..16 {
        y[i] = d * f32::from((b[2 + i] & 0x0F) as i8 - 8);
        y[i + 16] = d * f32::from((b[2 + i] >> 4) as i8 - 8);
    }
}

/// `d | m | 16 x 2 nibbles`.
fn q4_1(b: &[u8; 20], y: &mut [f32; 32]) {
    let (d, m) = (half(b, 0), half(b, 2));
    for i in 0..16 {
        y[i] = d * f32::from(b[4 + i] & 0x0F) + m;
        y[i + 16] = d * f32::from(b[4 + i] >> 4) + m;
    }
}

/// The 5-bit values of a block: nibbles, and the fifth bits in a little-endian u32.
fn five_bits(fifth: &[u8], nibbles: &[u8], i: usize) -> u8 {
    let low = if i < 16 { nibbles[i] & 0x0F } else { nibbles[i - 16] >> 4 };
    low | (fifth[i / 8] >> (i % 8) & 1) << 4
}

/// `d | 32 fifth bits | 16 x 2 nibbles`.
fn q5_0(b: &[u8; 22], y: &mut [f32; 32]) {
    let d = half(b, 0);
    for (i, y) in y.iter_mut().enumerate() {
        *y = d * f32::from(five_bits(&b[2..6], &b[6..], i) as i8 - 16);
    }
}

/// `d | m | 32 fifth bits | 16 x 2 nibbles`.
fn q5_1(b: &[u8; 24], y: &mut [f32; 32]) {
    let (d, m) = (half(b, 0), half(b, 2));
    for (i, y) in y.iter_mut().enumerate() {
        *y = d * f32::from(five_bits(&b[4..8], &b[8..], i)) + m;
    }
}

/// `d | 32 x i8`.
fn q8_0(b: &[u8; 34], y: &mut [f32; 32]) {
    let d = half(b, 0);
    for i in 0..32 {
        y[i] = f32::from(b[2 + i] as i8) * d;
    }
}

/// Scale and minimum `j` of 8, six bits each, packed into 12 bytes (ggml-quants.c, `get_scale_min_k4`).
fn scale_min(packed: &[u8], j: usize) -> (f32, f32) {
    let (scale, min) = if j < 4 {
        (packed[j] & 0x3F, packed[j + 4] & 0x3F)
    } else {
        let both = packed[j + 4];
        (both & 0x0F | packed[j - 4] >> 2 & 0x30, both >> 4 | packed[j] >> 2 & 0x30)
    };
    (f32::from(scale), f32::from(min))
}

/// `d | dmin | 8 x (scale, min) | 128 x 2 nibbles`; 32 bytes hold sub-blocks `2g` (low) and `2g + 1` (high).
fn q4_k(b: &[u8; 144], y: &mut [f32; 256]) {
    let (d, dmin) = (half(b, 0), half(b, 2));
    for (j, y) in y.chunks_exact_mut(32).enumerate() {
        let (scale, min) = scale_min(&b[4..16], j);
        let (scale, min) = (d * scale, dmin * min);
        let nibbles = &b[16 + j / 2 * 32..][..32];
        for (y, nibble) in y.iter_mut().zip(nibbles) {
            *y = scale * f32::from(nibble >> (4 * (j % 2)) & 0x0F) - min;
        }
    }
}

/// `d | dmin | 8 x (scale, min) | 32 x 8 fifth bits | 128 x 2 nibbles`; bit `j` of the fifth bits is sub-block `j`'s.
fn q5_k(b: &[u8; 176], y: &mut [f32; 256]) {
    let (d, dmin) = (half(b, 0), half(b, 2));
    for (j, y) in y.chunks_exact_mut(32).enumerate() {
        let (scale, min) = scale_min(&b[4..16], j);
        let (scale, min) = (d * scale, dmin * min);
        let (fifth, nibbles) = (&b[16..48], &b[48 + j / 2 * 32..][..32]);
        for ((y, nibble), fifth) in y.iter_mut().zip(nibbles).zip(fifth) {
            *y = scale * f32::from(nibble >> (4 * (j % 2)) & 0x0F | (fifth >> j & 1) << 4) - min;
        }
    }
}

/// `128 x 2 nibbles | 64 x 4 bit pairs | 16 x i8 scale | d`; a scale serves 16 values.
fn q6_k(b: &[u8; 210], y: &mut [f32; 256]) {
    let (nibbles, pairs, scales, d) = (&b[..128], &b[128..192], &b[192..208], half(b, 208));
    for (j, y) in y.chunks_exact_mut(32).enumerate() {
        // Half `h` of the block: 64 bytes of nibbles, 32 of pairs; row `r` of its four rows of 32 values.
        let (h, r) = (j / 4, j % 4);
        for (c, y) in y.iter_mut().enumerate() {
            let low = nibbles[64 * h + 32 * (r % 2) + c] >> (4 * (r / 2)) & 0x0F;
            let high = pairs[32 * h + c] >> (2 * r) & 3;
            let scale = d * f32::from(scales[2 * j + c / 16] as i8);
            *y = scale * f32::from((low | high << 4) as i8 - 32);
        }
    }
}
