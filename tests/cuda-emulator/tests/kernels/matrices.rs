//! Matrix products: in tiles of shared memory, and on the emulated tensor cores.

use half::{bf16, f16};

use crate::common::*;

/// C = A B, row by row.
fn product(a: &[f32], b: &[f32], m: usize, n: usize, k: usize) -> Vec<f32> {
    let mut c = vec![0.0; m * n];
    for i in 0..m {
        for l in 0..k {
            for j in 0..n {
                c[i * n + j] += a[i * k + l] * b[l * n + j];
            }
        }
    }
    c
}

#[test]
fn in_tiles() {
    let gpu = Gpu::new();
    let (m, n, k) = (50, 70, 33);
    let (a, b) = (random(m * k, 5), random(k * n, 6));
    let c = gpu.zeros::<f32>(m * n);
    let grid = (n.div_ceil(16) as u32, m.div_ceil(16) as u32);
    let arguments: &[&dyn Argument] = &[&c, &gpu.upload(&a), &gpu.upload(&b), &(m as i32), &(n as i32), &(k as i32)];
    gpu.kernel(MATRICES, "matmul_tiled").run(&gpu, grid, (16, 16), arguments);
    assert_close(&c.download(), &product(&a, &b, m, n, k), 1e-5);
}

/// With mma, ldmatrix and two stages of cp.async, for operands of 16 bits as `bits` and `value` make them.
fn on_tensor_cores(kernel: &str, bits: fn(f32) -> u16, value: fn(u16) -> f32) {
    let gpu = Gpu::new();
    let (m, n, k) = (123, 72, 104);
    let operand = |len, seed| random(len, seed).into_iter().map(bits).collect::<Vec<_>>();
    let (a, b) = (operand(m * k, 7), operand(k * n, 8));
    let c = gpu.zeros::<f32>(m * n);
    let grid = (n.div_ceil(32) as u32, m.div_ceil(64) as u32);
    let arguments: &[&dyn Argument] = &[&c, &gpu.upload(&a), &gpu.upload(&b), &(m as i32), &(n as i32), &(k as i32)];
    gpu.kernel(MATRICES, kernel).run(&gpu, grid, 128, arguments);
    let values = |bits: &[u16]| bits.iter().map(|bits| value(*bits)).collect::<Vec<_>>();
    assert_close(&c.download(), &product(&values(&a), &values(&b), m, n, k), 1e-5);
}

#[test]
fn on_tensor_cores_in_bf16() {
    on_tensor_cores("matmul_bf16", |x| bf16::from_f32(x).to_bits(), |bits| bf16::from_bits(bits).to_f32());
}

#[test]
fn on_tensor_cores_in_f16() {
    on_tensor_cores("matmul_f16", |x| f16::from_f32(x).to_bits(), |bits| f16::from_bits(bits).to_f32());
}

#[test]
fn one_tile_of_depth_eight() {
    let gpu = Gpu::new();
    let bits = |len, seed| random(len, seed).into_iter().map(|x| bf16::from_f32(x).to_bits()).collect::<Vec<_>>();
    let (a, b) = (bits(16 * 8, 9), bits(8 * 8, 10));
    let c = gpu.zeros::<f32>(16 * 8);
    gpu.kernel(MATRICES, "mma_16x8x8").run(&gpu, 1, 32, &[&c, &gpu.upload(&a), &gpu.upload(&b)]);
    let values = |bits: &[u16]| bits.iter().map(|bits| bf16::from_bits(*bits).to_f32()).collect::<Vec<_>>();
    assert_close(&c.download(), &product(&values(&a), &values(&b), 16, 8, 8), 1e-6);
}

#[test]
fn copies_may_read_a_part_and_fill_with_zeros() {
    let gpu = Gpu::new();
    let kernel = gpu.kernel(MATRICES, "pad_to_quadruples");
    for n in [1_usize, 2, 3, 4, 63, 250, 253] {
        let quads = n.div_ceil(4) + 2;
        let x = random(n, n as u64);
        let y = gpu.allocate::<f32>(4 * quads);
        kernel.run(&gpu, 2, 64, &[&y, &gpu.upload(&x), &(n as i32), &(quads as i32)]);
        let expected: Vec<_> = x.into_iter().chain([0.0; 16]).take(4 * quads).collect();
        assert_close(&y.download(), &expected, 0.0);
    }
}
