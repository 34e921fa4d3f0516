//! Each instruction of arithmetic.cu against the same expression here, for ordinary operands and those at the edges.

use crate::common::*;
use half::{bf16, f16};

const PTX: &str = include_str!("../../kernels/arithmetic.ptx");

/// All pairs and triples of some of these that fit into a block.
fn combinations<T: Copy>(values: &[T]) -> (Vec<T>, Vec<T>, Vec<T>) {
    let mut columns = (Vec::new(), Vec::new(), Vec::new());
    for (i, a) in values.iter().enumerate() {
        for (j, b) in values.iter().enumerate() {
            columns.0.push(*a);
            columns.1.push(*b);
            columns.2.push(values[(3 * i + 5 * j) % values.len()]);
        }
    }
    columns
}

/// Runs a kernel with one thread a column and gives the rows of its results.
fn rows<T: Copy, R: Copy + Default>(kernel: &str, count: usize, operands: &[&[T]]) -> Vec<Vec<R>> {
    let gpu = Gpu::new();
    let n = operands[0].len();
    let out = gpu.zeros::<R>(count * n);
    let buffers: Vec<_> = operands.iter().map(|values| gpu.upload(values)).collect();
    let n_argument = n as i32;
    let mut arguments: Vec<&dyn Argument> = vec![&out];
    arguments.extend(buffers.iter().map(|buffer| buffer as &dyn Argument));
    arguments.push(&n_argument);
    gpu.kernel(PTX, kernel).run(&gpu, 1, 512, &arguments);
    out.download().chunks(n).map(<[R]>::to_vec).collect()
}

#[test]
fn integers() {
    let values = [
        0,
        1,
        2,
        3,
        5,
        7,
        31,
        32,
        33,
        100,
        0x7f,
        0x80,
        0xff,
        0x8000,
        0xffff,
        0x1_0000,
        0x1234_5678,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_fffe,
        0xffff_ffff,
        0x00ff_00ff,
    ];
    let (a, b, c) = combinations::<u32>(&values);
    let rows = rows::<u32, u32>("integers", 40, &[&a, &b, &c]);
    type Operation = fn(u32, u32, u32) -> u32;
    let operations: [Operation; 40] = [
        |x, y, _| x.wrapping_add(y),
        |x, y, _| x.wrapping_sub(y),
        |x, y, _| x.wrapping_mul(y),
        |x, y, _| ((u64::from(x) * u64::from(y)) >> 32) as u32,
        |x, y, _| ((i64::from(x as i32) * i64::from(y as i32)) >> 32) as u32,
        |x, y, z| x.wrapping_mul(y).wrapping_add(z),
        |x, y, _| x.checked_div(y).unwrap_or(0),
        |x, y, _| x.checked_rem(y).unwrap_or(0),
        |x, y, _| if y == 0 { 0 } else { (x as i32).wrapping_div(y as i32) as u32 },
        |x, y, _| if y == 0 { 0 } else { (x as i32).wrapping_rem(y as i32) as u32 },
        |x, y, _| (x as i32).min(y as i32) as u32,
        |x, y, _| x.max(y),
        |x, _, _| (x as i32).wrapping_abs() as u32,
        |x, _, _| x.count_ones(),
        |x, _, _| x.leading_zeros(),
        |x, _, _| x.reverse_bits(),
        |x, _, _| if x == 0 { 0 } else { x.trailing_zeros() + 1 },
        |x, y, z| {
            let bytes = u64::from(y) << 32 | u64::from(x);
            (0..4).map(|i| (((bytes >> (8 * (z >> (4 * i) & 7))) & 0xff) as u32) << (8 * i)).sum()
        },
        |x, y, z| (((u64::from(y) << 32 | u64::from(x)) << (z & 31)) >> 32) as u32,
        |x, y, z| ((u64::from(y) << 32 | u64::from(x)) >> z.min(32)) as u32,
        |x, y, z| (x & y) | (!x & z),
        |x, y, _| if y < 32 { x << y } else { 0 },
        |x, y, _| if y < 32 { x >> y } else { 0 },
        |x, y, _| ((x as i32) >> y.min(31)) as u32,
        |x, y, z| x ^ y ^ z,
        |x, y, z| bit_field(i64::from(x), y % 40, z % 40, 0) as u32,
        |x, y, z| {
            let (position, length) = (y % 40, z % 40);
            let sign = if length == 0 { 0 } else { ((x as i32) >> (position + length - 1).min(31)) & 1 };
            bit_field(i64::from(x as i32), position, length, sign) as u32
        },
        |x, y, z| {
            let (position, length) = (y % 40, z % 40);
            let mask = (((1u64 << length) - 1) << position) as u32;
            if position >= 32 { z } else { (z & !mask) | (((u64::from(x) << position) as u32) & mask) }
        },
        |x, y, _| (x as i32).saturating_add(y as i32) as u32,
        |x, y, z| z.wrapping_add((x as i32).abs_diff(y as i32)),
        |x, _, _| {
            let bits = if (x as i32) < 0 { !x } else { x };
            31u32.wrapping_sub(bits.leading_zeros())
        },
        |x, y, _| (x & 0xff_ffff).wrapping_mul(y & 0xff_ffff),
        |x, y, z| {
            (0..4).fold(z, |sum, i| {
                let (a, b) = ((x >> (8 * i)) as u8, (y >> (8 * i)) as i8);
                sum.wrapping_add((i32::from(a) * i32::from(b)) as u32)
            })
        },
        |x, y, z| ((u64::from(x) * u64::from(y)).wrapping_add(u64::from(z) << 32) >> 32) as u32,
        |x, y, _| ((i64::from(x as i32) * i64::from(y as i32)) >> 32) as u32,
        |x, y, z| x.wrapping_add(y) ^ x.wrapping_add(z).wrapping_add(u32::from(x.checked_add(y).is_none())),
        |x, y, _| if (x as i32) < (y as i32) { 1 } else { 6 },
        |x, y, _| u32::from((x > y) != ((x as i32) > (y as i32))),
        |x, y, _| u32::from(x as u16).wrapping_mul(u32::from(y as u16)),
        |x, y, _| (i32::from(x as i16) * i32::from(y as i8)) as u32,
    ];
    for (row, operation) in operations.iter().enumerate() {
        for i in 0..a.len() {
            let expected = operation(a[i], b[i], c[i]);
            assert_eq!(rows[row][i], expected, "row {row} of {:#x}, {:#x}, {:#x}", a[i], b[i], c[i]);
        }
    }
}

/// Bits of a number, with its sign behind its end, and above them `sign`.
fn bit_field(x: i64, position: u32, length: u32, sign: i32) -> i64 {
    let field = (x >> position.min(63)) & ((1i64 << length) - 1);
    if sign != 0 { field | (-1i64 << length) } else { field }
}

#[test]
fn longs() {
    let values = [
        0,
        1,
        2,
        3,
        63,
        64,
        1000,
        1 << 31,
        1 << 32,
        (1 << 33) - 1,
        1 << 62,
        u64::MAX / 2,
        1 << 63,
        u64::MAX - 1,
        u64::MAX,
    ];
    let (a, b, _) = combinations::<u64>(&values);
    let rows = rows::<u64, u64>("longs", 14, &[&a, &b]);
    let operations: [fn(u64, u64) -> u64; 14] = [
        |x, y| x.wrapping_add(y),
        |x, y| x.wrapping_mul(y),
        |x, y| ((u128::from(x) * u128::from(y)) >> 64) as u64,
        |x, y| ((i128::from(x as i64) * i128::from(y as i64)) >> 64) as u64,
        |x, y| x / (y | 1),
        |x, y| (x as i64).wrapping_rem(y as i64 | 1) as u64,
        |x, _| u64::from(x.leading_zeros()),
        |x, _| u64::from(x.count_ones()),
        |x, _| x.reverse_bits(),
        |x, y| x << (y & 63),
        |x, y| ((x as i64) >> (y & 63)) as u64,
        |x, y| (x as i64).min(y as i64) as u64,
        |x, y| u64::from(x < y),
        |x, y| u64::from(x as u32).wrapping_add(y as i32 as u64),
    ];
    for (row, operation) in operations.iter().enumerate() {
        for i in 0..a.len() {
            assert_eq!(rows[row][i], operation(a[i], b[i]), "row {row} of {:#x}, {:#x}", a[i], b[i]);
        }
    }
}

const FLOATS: [f32; 22] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    1.5,
    2.5,
    -2.5,
    0.1,
    -7.3,
    100.25,
    1e-30,
    -1e30,
    3e9,
    -3e9,
    1e-40,
    5e-45,
    f32::MAX,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    0.999_999_94,
];

#[derive(Clone, Copy)]
enum Towards {
    Zero,
    Up,
    Down,
}

/// The f32 next to an exact result, which is `exact + rest` for a rest that f64 has no room for.
fn rounded(exact: f64, rest: f64, towards: Towards) -> f32 {
    let nearest = exact as f32;
    let is_above = |x: f32| if f64::from(x) == exact { rest < 0.0 } else { f64::from(x) > exact };
    let is_below = |x: f32| if f64::from(x) == exact { rest > 0.0 } else { f64::from(x) < exact };
    let wanted = |x: f32| match towards {
        Towards::Up => !is_below(x),
        Towards::Down => !is_above(x),
        Towards::Zero => !(if exact > 0.0 { is_above(x) } else { is_below(x) }),
    };
    [nearest, nearest.next_up(), nearest.next_down()].into_iter().find(|x| wanted(*x)).unwrap_or(nearest)
}

/// (Knuth, TAOCP 2, 4.2.2) with the rest that the sum loses.
fn rounded_sum(x: f32, y: f32, towards: Towards) -> f32 {
    let (x, y) = (f64::from(x), f64::from(y));
    let sum = x + y;
    let part = sum - x;
    rounded(sum, (x - (sum - part)) + (y - part), towards)
}

/// -0 is less than +0, and a NaN loses.
fn maximum(x: f32, y: f32) -> f32 {
    if x == y && x.is_sign_negative() { y } else { x.max(y) }
}

fn minimum(x: f32, y: f32) -> f32 {
    if x == y && x.is_sign_positive() { y } else { x.min(y) }
}

#[test]
fn floats() {
    let (a, b, c) = combinations(&FLOATS);
    let rows = rows::<f32, f32>("floats", 44, &[&a, &b, &c]);
    /// How far a result may be off, relative to itself or to 1e-6.
    const EXACT: f32 = 0.0;
    const LIBM: f32 = 1e-6; // NVIDIA's own software functions: 2 units in the last place, in f32
    const FAST: f32 = 4e-6; // the hardware's approximations multiply an argument before
    type Operation = (f32, fn(f32, f32, f32) -> f32);
    let operations: [Operation; 44] = [
        (EXACT, |x, y, _| x + y),
        (EXACT, |x, y, _| x - y),
        (EXACT, |x, y, _| x * y),
        (EXACT, |x, y, _| x / y),
        (EXACT, |x, y, z| x.mul_add(y, z)),
        (EXACT, |x, y, _| minimum(x, y)),
        (EXACT, |x, y, _| maximum(x, y)),
        (EXACT, |x, _, _| x.abs()),
        (EXACT, |x, _, _| x.abs().sqrt()),
        (EXACT, |x, _, _| if x.is_nan() { 0.0 } else { x.clamp(0.0, 1.0) }),
        (EXACT, |x, y, _| rounded_sum(x, y, Towards::Zero)),
        (EXACT, |x, y, _| rounded_sum(x, y, Towards::Up)),
        (EXACT, |x, y, _| rounded(f64::from(x) * f64::from(y), 0.0, Towards::Down)),
        (EXACT, |x, y, _| x.copysign(y)),
        (EXACT, |x, _, _| x.floor()),
        (EXACT, |x, _, _| x.ceil()),
        (EXACT, |x, _, _| x.trunc()),
        (EXACT, |x, _, _| x.round_ties_even()),
        (EXACT, |x, _, _| x.round_ties_even() as i32 as f32),
        (EXACT, |x, _, _| x as i32 as f32),
        (EXACT, |x, _, _| x as u32 as f32),
        (EXACT, |x, _, _| {
            if x.is_nan() {
                1.0
            } else if x.is_infinite() {
                2.0
            } else {
                0.0
            }
        }),
        (EXACT, |x, y, _| f32::from(u8::from(x < y))),
        (EXACT, |x, y, _| f32::from(u8::from(!matches!(x.partial_cmp(&y), Some(std::cmp::Ordering::Less))))),
        (EXACT, |x, y, _| f32::from(u8::from(x != y))),
        (LIBM, |x, _, _| f64::from(x).exp2() as f32),
        (FAST, |x, _, _| f64::from(x).exp() as f32),
        (LIBM, |x, _, _| f64::from(x).exp() as f32),
        (LIBM, |x, _, _| f64::from(x.abs()).ln() as f32),
        (FAST, |x, _, _| f64::from(x.abs()).ln() as f32),
        (LIBM, |x, _, _| (1.0 / f64::from(x.abs()).sqrt()) as f32),
        (LIBM, |x, _, _| f64::from(x).tanh() as f32),
        (LIBM, |x, _, _| f64::from(x).sin() as f32),
        (LIBM, |x, _, _| f64::from(x).cos() as f32),
        (FAST, |x, _, _| f64::from(x).sin() as f32),
        (FAST, |x, _, _| f64::from(x).cos() as f32),
        (FAST, |x, y, _| (f64::from(x) / f64::from(y)) as f32),
        (FAST, |x, _, _| erf(f64::from(x)) as f32),
        (FAST, |x, _, _| f64::from(x.abs()).ln_1p() as f32),
        (FAST, |x, y, _| f64::from(x.abs()).powf(f64::from(y)) as f32),
        (LIBM, |x, _, _| f64::from(x).tanh() as f32),
        (EXACT, |x, _, _| flushed(1.0 / flushed(x))),
        (EXACT, |x, _, _| flushed(flushed(x) * 1e-30)),
        (EXACT, |x, y, _| if x.is_nan() || y.is_nan() { f32::NAN } else { maximum(x, y) }),
    ];
    for (row, (tolerance, operation)) in operations.iter().enumerate() {
        for i in 0..a.len() {
            let (actual, expected) = (rows[row][i], operation(a[i], b[i], c[i]));
            let same = actual == expected || (actual.is_nan() && expected.is_nan());
            let close = (actual - expected).abs() <= tolerance * (expected.abs() + 1e-6);
            assert!(
                same || close,
                "row {row} of {:e}, {:e}, {:e}: {actual:e}, expected {expected:e}",
                a[i],
                b[i],
                c[i]
            );
        }
    }
}

fn flushed(x: f32) -> f32 {
    if x.is_subnormal() { 0.0f32.copysign(x) } else { x }
}

/// Abramowitz and Stegun 7.1.5 and 7.1.14: the series, and the continued fraction where it converges.
fn erf(x: f64) -> f64 {
    let magnitude = x.abs();
    let value = if magnitude < 3.0 {
        let mut term = magnitude;
        let mut sum = magnitude;
        for n in 1..100 {
            term *= -magnitude * magnitude / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    } else if magnitude > 10.0 {
        1.0
    } else {
        let fraction = (1..60).rev().fold(magnitude, |below, n| magnitude + f64::from(n) / 2.0 / below);
        1.0 - (-magnitude * magnitude).exp() / fraction / std::f64::consts::PI.sqrt()
    };
    if x.is_nan() { x } else { value.copysign(x) }
}

#[test]
fn doubles() {
    let values: Vec<f64> = FLOATS.iter().map(|x| f64::from(*x)).chain([1e300, 0.1]).collect();
    let values: Vec<f64> = values.into_iter().filter(|x| x.abs() < 1e18 || x.is_infinite() || x.is_nan()).collect();
    let (a, b, _) = combinations(&values);
    let rows = rows::<f64, f64>("doubles", 12, &[&a, &b]);
    type Operation = (f64, fn(f64, f64) -> f64);
    let operations: [Operation; 12] = [
        (0.0, |x, y| x + y),
        (0.0, |x, y| x * y),
        (0.0, |x, y| x / y),
        (0.0, |x, y| x.mul_add(y, x)),
        (0.0, |x, _| x.abs().sqrt()),
        (0.0, |x, y| x.min(y)),
        (0.0, |x, _| f64::from(x as f32)),
        (0.0, |x, _| if x.is_nan() { i64::MIN as f64 } else { x as i64 as f64 }),
        (0.0, |x, _| x.floor()),
        (1e-15, |x, _| x.exp()),
        (1e-15, |x, _| x.abs().ln()),
        (3e-16, |x, y| x * y), // towards zero: at most one unit away
    ];
    for (row, (tolerance, operation)) in operations.iter().enumerate() {
        for i in 0..a.len() {
            let (actual, expected) = (rows[row][i], operation(a[i], b[i]));
            let same = actual == expected || (actual.is_nan() && expected.is_nan());
            let close = (actual - expected).abs() <= tolerance * (expected.abs() + 1e-6);
            assert!(same || close, "row {row} of {:e}, {:e}: {actual:e}, expected {expected:e}", a[i], b[i]);
        }
    }
}

#[test]
fn halves() {
    let values = [
        0.0,
        -0.0,
        1.0,
        -1.5,
        0.1,
        -7.3,
        100.25,
        1e-7,
        6e-8,
        -65504.0,
        65520.0,
        3e38,
        1.003_906_3,
        1.011_718_8,
        -2.0e-39,
    ];
    let (a, b, c) = combinations::<f32>(&values);
    let rows = rows::<f32, u32>("halves", 19, &[&a, &b, &c]);
    let pair = |high: f32, low: f32| {
        u32::from(bf16::from_f32(high).to_bits()) << 16 | u32::from(bf16::from_f32(low).to_bits())
    };
    let pair16 =
        |high: f32, low: f32| u32::from(f16::from_f32(high).to_bits()) << 16 | u32::from(f16::from_f32(low).to_bits());
    let r = |x: f32| bf16::from_f32(x).to_f32();
    let h = |x: f32| f16::from_f32(x).to_f32();
    // One rounding, of the exact sum: f64 holds products of halves, and their sums nearly always.
    let fma = |x: f32, y: f32, z: f32| f64::from(x) * f64::from(y) + f64::from(z);
    for i in 0..a.len() {
        let (x, y, z) = (a[i], b[i], c[i]);
        let expected = [
            u32::from(bf16::from_f32(x).to_bits()),
            pair(x, y),
            u32::from(bf16::from_f64(fma(r(x), r(y), r(z))).to_bits()) << 16
                | u32::from(bf16::from_f64(fma(r(y), r(z), r(x))).to_bits()),
            pair(maximum(r(x), r(y)), maximum(r(y), r(z))),
            pair(-x, -y),
            pair(x.abs(), y.abs()),
            u32::from(f16::from_f32(x).to_bits()),
            u32::from(f16::from_f32(h(x) + h(y)).to_bits()),
            u32::from(f16::from_f32(h(x) * h(y)).to_bits()),
            u32::from(f16::from_f64(fma(h(x), h(y), h(x))).to_bits()),
            h(x).to_bits(),
            pair16(x, y),
            pair16(h(x) + h(x), h(y) + h(y)),
            pair16(h(x) * h(x), h(y) * h(y)),
            x.to_bits() >> 16,
            pair(maximum(x, 0.0), maximum(y, 0.0)),
            (x.to_bits() + 0x1000) & !0x1fff,
            u32::from(h(x) < h(y)),
            u32::from(bf16::from_f64(fma(r(x), r(y), r(x))).to_bits()),
        ];
        for (row, expected) in expected.into_iter().enumerate() {
            let actual = rows[row][i];
            // Any NaN is one.
            let is_nan16 = |bits: u32| (bits & 0x7fff) > 0x7c00 && (7..=9).contains(&row);
            assert!(
                actual == expected || (is_nan16(actual) && is_nan16(expected)),
                "row {row} of {x:e}, {y:e}, {z:e}: {actual:#x}, expected {expected:#x}"
            );
        }
    }
}

#[test]
fn conversions() {
    let a: Vec<f32> = FLOATS.to_vec();
    let integers = [
        0,
        1,
        -1,
        127,
        128,
        -128,
        -129,
        255,
        256,
        32767,
        32768,
        1 << 24,
        (1 << 24) + 1,
        i64::from(i32::MAX),
        1 << 31,
        -(1 << 31) - 1,
        (1 << 53) + 1,
        i64::MAX,
        i64::MIN,
        -3_000_000_001,
        0x1234_5678_9abc,
        42,
    ];
    let n = a.len();
    let gpu = Gpu::new();
    let out = gpu.zeros::<i64>(18 * n);
    gpu.kernel(PTX, "conversions").run(&gpu, 1, 32, &[&out, &gpu.upload(&a), &gpu.upload(&integers), &(n as i32)]);
    let rows = out.download();
    for i in 0..n {
        let (x, y) = (a[i], integers[i]);
        let expected: [i64; 18] = [
            i64::from(x as i32),
            i64::from(x as u32),
            if x.is_nan() { i64::MIN } else { x as i64 },
            if x.is_nan() { i64::MIN } else { x as u64 as i64 },
            i64::from(x as i32 as i16),
            i64::from(y as i8),
            i64::from(y as u8),
            i64::from(y as i16),
            i64::from(y as u16),
            i64::from(y as i32),
            i64::from(y as u32),
            i64::from((y as f32).to_bits() as i32),
            i64::from((y as u32 as f32).to_bits() as i32),
            (y as f64).to_bits() as i64,
            i64::from(rounded(f64::from(y as i32), 0.0, Towards::Zero).to_bits() as i32),
            i64::from(rounded_up(y as u64).to_bits() as i32),
            y.clamp(-128, 127),
            i64::from(x.ceil() as i32),
        ];
        for (row, expected) in expected.into_iter().enumerate() {
            // (short)x of a float that no short holds is undefined in CUDA C++
            if row == 4 && (x.is_nan() || x.abs() > 3e4) {
                continue;
            }
            assert_eq!(rows[row * n + i], expected, "row {row} of {x:e}, {y}");
        }
    }
}

/// The least f32 that is not below the number.
fn rounded_up(x: u64) -> f32 {
    let nearest = x as f32;
    if (nearest as u128) < u128::from(x) { nearest.next_up() } else { nearest }
}
