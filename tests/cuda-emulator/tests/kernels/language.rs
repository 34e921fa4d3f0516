//! What kernels are made of beside arithmetic.

use std::ffi::{CString, c_void};

use cudarc::driver::{result, sys};

use crate::common::*;

const PTX: &str = include_str!("../../kernels/language.ptx");

#[repr(C)]
struct Settings {
    scale: f32,
    offset: [i32; 3],
    shift: f64,
    table: u64,
}

impl Argument for Settings {
    fn pointer(&self) -> *mut c_void {
        std::ptr::from_ref(self).cast_mut().cast()
    }
}

#[test]
fn a_struct_is_a_parameter() {
    let gpu = Gpu::new();
    let table = [10.0f32, 20.0, 30.0, 40.0];
    let settings = Settings { scale: 1.5, offset: [1, -2, 3], shift: 0.25, table: gpu.upload(&table).address };
    let out = gpu.zeros::<f32>(50);
    gpu.kernel(PTX, "struct_parameter").run(&gpu, 2, 32, &[&out, &settings, &50]);
    let expected: Vec<_> = (0..50).map(|i| 1.5 * settings.offset[i % 3] as f32 + 0.25 + table[i % 4]).collect();
    assert_close(&out.download(), &expected, 0.0);
}

#[test]
fn functions_are_called_and_local_arrays_indexed() {
    let gpu = Gpu::new();
    let n = 70;
    let x = random(n, 1);
    let buffer = gpu.upload(&x);
    gpu.kernel(PTX, "device_functions").run(&gpu, 3, 32, &[&buffer, &(n as i32)]);
    let horner = |coefficients: &[f32], x: f32| coefficients.iter().rev().fold(0.0f32, |sum, c| sum.mul_add(x, *c));
    let expected: Vec<_> = (0..n)
        .map(|i| {
            let mut coefficients = [1.0, 2.0, 3.0, i as f32];
            coefficients[i % 4] += 1.0;
            let mut y = horner(&coefficients, x[i]);
            if i % 2 == 1 {
                y *= 2.0;
            }
            y + horner(&coefficients[1..3], y)
        })
        .collect();
    assert_close(&buffer.download(), &expected, 1e-6);
}

#[test]
fn lanes_part_and_meet_again() {
    let gpu = Gpu::new();
    let n = 100;
    let x: Vec<i32> = (0..n).map(|i| i * 37 - 1000).collect();
    let buffer = gpu.upload(&x);
    gpu.kernel(PTX, "switch_table").run(&gpu, 4, 32, &[&buffer, &n]);
    let branch = |i: usize, y: i32| match i % 9 {
        0 => y * 3 + 1,
        1 => y - 7,
        2 => y ^ 0x55,
        3 => y << 3,
        4 => y / 3,
        5 => -y,
        6 => y % 10,
        7 => y.count_ones() as i32,
        _ => 99,
    };
    let expected: Vec<_> = x.iter().enumerate().map(|(i, y)| branch(i, *y)).collect();
    assert_eq!(buffer.download(), expected);

    gpu.kernel(PTX, "collatz").run(&gpu, 4, 32, &[&buffer, &n]);
    let steps = |i: u32| {
        std::iter::successors(Some(i), |x| Some(if x % 2 == 1 { 3 * x + 1 } else { x / 2 })).position(|x| x == 1)
    };
    let expected: Vec<_> = (1..=n as u32).map(|i| steps(i).unwrap() as i32).collect();
    assert_eq!(buffer.download(), expected);
}

#[test]
fn a_branch_goes_through_a_table() {
    let gpu = Gpu::new();
    let x: Vec<i32> = (0..32).collect();
    let buffer = gpu.upload(&x);
    gpu.kernel(PTX, "jump_table").run(&gpu, 1, 32, &[&buffer]);
    let expected: Vec<_> = x.iter().map(|x| x + 100 * (x % 3 + 1)).collect();
    assert_eq!(buffer.download(), expected);
}

#[test]
fn modules_have_variables() {
    let gpu = Gpu::new();
    let module = gpu.module(PTX).unwrap();
    let kernel = module.kernel("module_variables");
    let out = gpu.zeros::<f32>(12);
    let table = [[1.0f32, 2.0, 3.0], [4.0, 5.0, 6.0]];
    let run = |weights: [f32; 4]| {
        kernel.run(&gpu, 1, 32, &[&out, &12]);
        let expected: Vec<_> = (0..12).map(|i| weights[i % 4] * table[i % 2][i % 3]).collect();
        assert_close(&out.download(), &expected, 0.0);
    };
    run([0.5, 1.5, 2.5, 3.5]);

    // SAFETY: the module is loaded.
    let global = |name: &str| unsafe { result::module::get_global(module.0, CString::new(name).unwrap()) };
    let (weights, bytes) = global("weights").unwrap();
    assert_eq!(bytes, 16);
    // SAFETY: the variable is as large as the values.
    unsafe { result::memcpy_htod_sync(weights, &[1.0f32, 2.0, 3.0, 4.0]) }.unwrap();
    run([1.0, 2.0, 3.0, 4.0]);

    let mut calls = [0i32];
    // SAFETY: likewise.
    unsafe { result::memcpy_dtoh_sync(&mut calls, global("calls").unwrap().0) }.unwrap();
    assert_eq!(calls, [44]);
    assert_status(global("absent"), sys::CUresult::CUDA_ERROR_NOT_FOUND);
}

#[test]
fn bytes_and_shorts_are_read_as_vectors() {
    let gpu = Gpu::new();
    let n = 40;
    let bytes: Vec<u8> = (0..4 * n).map(|i| (i * 7 % 256) as u8).collect();
    let shorts: Vec<i16> = (0..2 * n).map(|i| (i as i16 - 30) * 400).collect();
    let out = gpu.zeros::<f32>(4 * n);
    gpu.kernel(PTX, "unpack_bytes").run(&gpu, 1, 64, &[&out, &gpu.upload(&bytes), &gpu.upload(&shorts), &(n as i32)]);
    let expected: Vec<_> = (0..n)
        .flat_map(|i| {
            let (b, s) = (&bytes[4 * i..], &shorts[2 * i..]);
            [
                i32::from(b[0]) + i32::from(s[0]),
                i32::from(b[1]) - i32::from(s[1]),
                i32::from(b[2] as i8),
                i32::from(b[3]),
            ]
        })
        .map(|x| x as f32)
        .collect();
    assert_close(&out.download(), &expected, 0.0);
}

#[test]
fn kernels_print() {
    let out = in_process("language::kernels_print", &[], || {
        let gpu = Gpu::new();
        gpu.kernel(PTX, "say").run(&gpu, 1, 32, &[&7, &1.25f64]);
    });
    for thread in 0..2 {
        assert!(out.contains(&format!("thread {thread} of 7:  1.25 and 1099511627776%\n")), "{out}");
    }
}
