//! What lanes, warps and blocks say to each other.

use half::f16;

use crate::common::*;

const PTX: &str = include_str!("../../kernels/warps.ptx");

#[test]
fn lanes_exchange_values() {
    let gpu = Gpu::new();
    let x: Vec<u32> = (0..32).map(|lane| lane * lane % 23).collect();
    let out = gpu.zeros::<u32>(11 * 32);
    gpu.kernel(PTX, "warp_exchange").run(&gpu, 1, 32, &[&out, &gpu.upload(&x)]);
    let rows = out.download();
    let mask =
        |wanted: &dyn Fn(usize) -> bool| (0..32).filter(|lane| wanted(*lane)).fold(0, |mask, lane| mask | 1u32 << lane);
    for lane in 0..32 {
        let expected = [
            x[5],
            x[if lane >= 3 { lane - 3 } else { lane }],
            x[if lane % 8 + 3 < 8 { lane + 3 } else { lane }],
            mask(&|other| x[other] % 2 == 1),
            3, // all are below 1000, one is zero
            mask(&|other| x[other] % 4 == x[lane] % 4),
            x.iter().sum(),
            22 - x.iter().min().unwrap() - (22 - x.iter().max().unwrap()),
            x[lane ^ 1],
            if lane % 3 == 0 { x[3] } else { 7 },
            1,
        ];
        for (row, expected) in expected.into_iter().enumerate() {
            assert_eq!(rows[row * 32 + lane], expected, "row {row} of lane {lane}");
        }
    }
}

#[test]
fn lanes_write_for_each_other() {
    let gpu = Gpu::new();
    let x = random(512, 1);
    let buffer = gpu.upload(&x);
    gpu.kernel(PTX, "warp_reverse").run(&gpu, 2, 256, &[&buffer]);
    let expected: Vec<_> = x.chunks(32).flat_map(|warp| warp.iter().rev().map(|x| x + 1.0)).collect();
    assert_close(&buffer.download(), &expected, 0.0);
}

#[test]
fn named_barriers_guard_a_buffer() {
    let gpu = Gpu::new();
    let (half, rounds) = (96, 5);
    let out = gpu.zeros::<i32>(half * rounds);
    gpu.kernel(PTX, "producer_consumer").run(&gpu, 1, 2 * half as u32, &[&out, &(rounds as i32)]);
    let expected: Vec<_> =
        (0..rounds).flat_map(|round| (0..half).rev().map(move |i| (1000 * round + i) as i32)).collect();
    assert_eq!(out.download(), expected);
}

#[test]
fn barriers_count_votes() {
    let gpu = Gpu::new();
    let kernel = gpu.kernel(PTX, "barrier_votes");
    let out = gpu.zeros::<i32>(3);
    for (values, expected) in
        [(vec![1; 100], [100, 1, 1]), (vec![-1; 100], [0, 0, 0]), ((-30..70).collect(), [69, 0, 1])]
    {
        kernel.run(&gpu, 1, 100, &[&out, &gpu.upload::<i32>(&values)]);
        assert_eq!(out.download(), expected);
    }
}

#[test]
fn barriers_do_not_wait_for_those_who_left() {
    let gpu = Gpu::new();
    let out = gpu.zeros::<i32>(128);
    gpu.kernel(PTX, "early_exit").run(&gpu, 1, 128, &[&out]);
    assert_eq!(out.download(), [[5; 64], [0; 64]].concat());
}

#[test]
fn atomics_lose_nothing() {
    let gpu = Gpu::new();
    let n = 4 * 64;
    let u = gpu.upload(&[0u32, 0, 99, 0, u32::MAX, 0, 0, 0, 0, 0]);
    let (f, d) = (gpu.zeros::<f32>(1), gpu.zeros::<f64>(1));
    let (pair, old) = (gpu.zeros::<u32>(1), gpu.zeros::<i32>(n));
    gpu.kernel(PTX, "atomics").run(&gpu, 4, 64, &[&u, &f, &d, &pair, &old]);
    let exclusive = (0..n as u32).fold(0, |all, i| all ^ i);
    let expected = [n as u32 * (n as u32 - 1) / 2, 255, 3, u32::MAX, 0xffff_0000, exclusive, 56, 44, 7, 2 * n as u32];
    assert_eq!(u.download(), expected);
    assert_eq!((f.download()[0], d.download()[0]), (128.0, 64.0));
    let sum = u32::from(f16::from_f32(256.0).to_bits());
    assert_eq!(pair.download(), [sum << 16 | sum]);
    // The old values of a block are its numbers, in some order.
    for block in old.download().chunks_mut(64) {
        block.sort_unstable();
        assert!(block.iter().copied().eq(0..64));
    }
}
