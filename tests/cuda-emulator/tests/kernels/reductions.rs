//! Shuffles, sums over blocks, and sums by the block that is done last.

use crate::common::*;

#[test]
fn rows_are_normalised() {
    let gpu = Gpu::new();
    let (rows, columns) = (7, 300);
    let x = random(rows * columns, 3);
    let y = gpu.zeros::<f32>(rows * columns);
    let arguments: &[&dyn Argument] = &[&y, &gpu.upload(&x), &(columns as i32), &1e-5f32];
    gpu.kernel(REDUCTIONS, "rms_norm").run(&gpu, rows as u32, 256, arguments);
    let expected: Vec<_> = x
        .chunks(columns)
        .flat_map(|row| {
            let rstd = 1.0 / (row.iter().map(|x| x * x).sum::<f32>() / columns as f32 + 1e-5).sqrt();
            row.iter().map(move |x| x * rstd)
        })
        .collect();
    assert_close(&y.download(), &expected, 1e-5);
}

#[test]
fn a_warp_takes_a_row() {
    let gpu = Gpu::new();
    let (rows, columns) = (10, 77);
    let x = random(rows * columns, 4);
    let out = gpu.zeros::<f32>(rows);
    let arguments: &[&dyn Argument] = &[&out, &gpu.upload(&x), &(rows as i32), &(columns as i32)];
    gpu.kernel(REDUCTIONS, "log_sum_exp").run(&gpu, 3, (32, 4), arguments);
    let expected: Vec<_> = x.chunks(columns).map(|row| row.iter().map(|x| x.exp()).sum::<f32>().ln()).collect();
    assert_close(&out.download(), &expected, 1e-5);
}

#[test]
fn the_last_block_adds_the_partial_sums() {
    let gpu = Gpu::new();
    let kernel = gpu.kernel(REDUCTIONS, "last_block_sum");
    let x = random(1000, 5);
    let (sum, partial, counter) = (gpu.zeros::<f32>(1), gpu.zeros::<f32>(16), gpu.zeros::<u32>(1));
    for _ in 0..2 {
        kernel.run(&gpu, 16, 64, &[&sum, &partial, &counter, &gpu.upload(&x), &1000]);
        assert_close(&sum.download(), &[x.iter().sum()], 1e-5);
        assert_eq!(counter.download(), [0]);
    }
}

#[test]
fn the_last_block_adds_what_all_threads_published() {
    let gpu = Gpu::new();
    let kernel = gpu.kernel(REDUCTIONS, "last_block_columns");
    let (rows, columns, blocks) = (50, 100, 6);
    let x = random(rows * columns, 6);
    let (sums, partial, counter) =
        (gpu.zeros::<f32>(columns), gpu.allocate::<f32>(blocks * columns), gpu.zeros::<u32>(1));
    let arguments: &[&dyn Argument] = &[&sums, &partial, &counter, &gpu.upload(&x), &(rows as i32), &(columns as i32)];
    kernel.run(&gpu, blocks as u32, 64, arguments);
    let expected: Vec<f32> = (0..columns).map(|column| x.iter().skip(column).step_by(columns).sum()).collect();
    assert_close(&sums.download(), &expected, 1e-5);
    assert_eq!(counter.download(), [0]);
}
