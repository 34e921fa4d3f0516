//! One thread an element: grids, blocks, coordinates, dynamic shared memory.

use cudarc::driver::sys::CUresult;

use crate::common::*;

#[test]
fn vectors_are_added() {
    let gpu = Gpu::new();
    let kernel = gpu.kernel(VECTORS, "vector_add");
    let n = 1000;
    let (a, b) = (random(n, 1), random(n, 2));
    let expected: Vec<_> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
    for (grid, block) in [(4, 256), (1, 1024), (1000, 1), (30, 37)] {
        let sum = gpu.zeros::<f32>(n);
        kernel.run(&gpu, grid, block, &[&sum, &gpu.upload(&a), &gpu.upload(&b), &(n as i32)]);
        assert_close(&sum.download(), &expected, 0.0);
    }
}

#[test]
fn a_grid_has_two_dimensions() {
    let gpu = Gpu::new();
    let kernel = gpu.kernel(VECTORS, "outer_product");
    let (rows, quads) = (37, 21);
    let (a, b) = (random(rows, 3), random(4 * quads, 4));
    let product = gpu.zeros::<f32>(rows * quads * 4);
    let arguments: &[&dyn Argument] = &[&product, &gpu.upload(&a), &gpu.upload(&b), &(rows as i32), &(quads as i32)];
    kernel.run(&gpu, (3, 5), (8, 8), arguments);
    let expected: Vec<_> = a.iter().flat_map(|a| b.iter().map(move |b| a * b)).collect();
    assert_close(&product.download(), &expected, 0.0);
}

#[test]
fn dynamic_shared_memory_beyond_48_kib_must_be_allowed() {
    let gpu = Gpu::new();
    let kernel = gpu.kernel(VECTORS, "reverse_rows");
    let (rows, columns) = (3, 15_000);
    let x = random(rows * columns, 5);
    let buffer = gpu.upload(&x);
    let bytes = (4 * columns) as u32;
    let launch = || kernel.launch(&gpu.stream, rows as u32, 256, bytes, &[&buffer, &(columns as i32)]);

    let refused = launch().unwrap_err();
    assert_eq!(refused.0, CUresult::CUDA_ERROR_INVALID_VALUE);
    assert!(message(&refused).contains("60000 bytes of dynamic shared memory, but only 49152"), "{refused:?}");

    assert_status(kernel.allow_dynamic_shared(227 * 1024 + 1), CUresult::CUDA_ERROR_INVALID_VALUE);
    kernel.allow_dynamic_shared(bytes as i32).unwrap();
    launch().unwrap();
    gpu.synchronize().unwrap();
    let expected: Vec<_> = x.chunks(columns).flat_map(|row| row.iter().rev().copied()).collect();
    assert_close(&buffer.download(), &expected, 0.0);
}

#[test]
fn threads_know_where_they_are() {
    let gpu = Gpu::new();
    let (grid, block) = ((2, 3, 2), (5, 4, 3));
    let threads = 12 * 60;
    let out = gpu.zeros::<i32>(threads * 8);
    gpu.kernel(VECTORS, "coordinates").run(&gpu, grid, block, &[&out]);
    for (i, row) in out.download().chunks(8).enumerate() {
        let (block, thread) = (i as i32 / 60, i as i32 % 60);
        let coordinates = [
            thread % 5,
            thread / 5 % 4,
            thread / 20, //
            block % 2,
            block / 2 % 3,
            block / 6, //
            thread % 32,
            thread / 32,
        ];
        assert_eq!(row, coordinates, "thread {thread} of block {block}");
    }
}
