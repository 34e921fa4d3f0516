//! How fast the emulated device is: CPU time of one thread, with the checks that `CUDA_EMULATOR_CHECK` asks for.
//!
//! ```sh
//! cargo run --release -p cuda-emulator --example speed
//! CUDA_EMULATOR_CHECK=all cargo run --release -p cuda-emulator --example speed -- barriers matmul_bf16
//! ```
#![allow(clippy::unwrap_used)] // a table to read, not a program to rely on

#[path = "../tests/common/mod.rs"]
mod common;

use common::*;
use cudarc::cublaslt::{CudaBlasLT, Matmul, MatmulConfig};

const PTX: &str = include_str!("../kernels/speed.ptx");

/// Milliseconds of this thread, which runs the kernels.
fn cpu_ms() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one time.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 * 1e-6
}

/// The best of five.
fn time(gpu: &Gpu, mut run: impl FnMut()) -> f64 {
    let once = |run: &mut dyn FnMut()| {
        let start = cpu_ms();
        run();
        gpu.synchronize().unwrap();
        cpu_ms() - start
    };
    (0..5).map(|_| once(&mut run)).fold(f64::INFINITY, f64::min)
}

const THREADS: usize = 1 << 16;

/// A kernel of rounds, each of so many operations.
fn rounds(gpu: &Gpu, kernel: &str, operations: i32, unit: &str) {
    let (rounds, x) = (20, gpu.zeros::<f32>(THREADS));
    let kernel = gpu.kernel(PTX, kernel);
    let ms = time(gpu, || kernel.launch(&gpu.stream, 256, 256, 0, &[&x, &rounds]).unwrap());
    let each = ms * 1e6 / (THREADS as f64 * f64::from(rounds * operations));
    println!("{ms:8.2} ms  {each:6.2} ns a {unit}");
}

fn elementwise(gpu: &Gpu) {
    let (x, y) = (gpu.zeros::<f32>(THREADS), gpu.zeros::<f32>(THREADS));
    let kernel = gpu.kernel(PTX, "elementwise");
    let ms = time(gpu, || kernel.launch(&gpu.stream, 256, 256, 0, &[&y, &x, &(THREADS as i32)]).unwrap());
    println!("{ms:8.2} ms  {:6.2} ns an element, SiLU", ms * 1e6 / THREADS as f64);
}

fn rms_norm(gpu: &Gpu) {
    let (x, y) = (gpu.zeros::<f32>(THREADS), gpu.zeros::<f32>(THREADS));
    let kernel = gpu.kernel(REDUCTIONS, "rms_norm");
    let ms = time(gpu, || kernel.launch(&gpu.stream, 64, 256, 0, &[&y, &x, &1024, &1e-5f32]).unwrap());
    println!("{ms:8.2} ms  {:6.2} ns an element", ms * 1e6 / THREADS as f64);
}

fn launches(gpu: &Gpu) {
    let (x, count) = (gpu.zeros::<f32>(32), 1000);
    let kernel = gpu.kernel(PTX, "elementwise");
    let ms = time(gpu, || {
        for _ in 0..count {
            kernel.launch(&gpu.stream, 1, 32, 0, &[&x, &x, &32]).unwrap();
        }
    });
    println!("{ms:8.2} ms  {:6.2} us a launch", ms * 1e3 / f64::from(count));
}

fn product(gpu: &Gpu, kernel: &str, grid: (u32, u32), block: (u32, u32)) {
    let side = 256;
    let [a, b, c] = [(); 3].map(|()| gpu.zeros::<f32>(side * side));
    let start = cpu_ms();
    let kernel = gpu.kernel(MATRICES, kernel);
    let load_ms = cpu_ms() - start;
    let n = side as i32;
    let ms = time(gpu, || kernel.launch(&gpu.stream, grid, block, 0, &[&c, &a, &b, &n, &n, &n]).unwrap());
    let flops = 2.0 * (side * side * side) as f64;
    println!("{ms:8.2} ms  {:6.2} GFLOP/s, {side}^3 (module loaded in {load_ms:.1} ms)", flops / ms * 1e-6);
}

fn blas(gpu: &Gpu) {
    let side = 512;
    let blas = CudaBlasLT::new(gpu.stream.clone()).unwrap();
    let a = gpu.stream.alloc_zeros::<f32>(side * side).unwrap();
    let mut c = gpu.stream.alloc_zeros::<f32>(side * side).unwrap();
    let config = MatmulConfig {
        transa: true,
        transb: false,
        transc: false,
        m: side as u64,
        n: side as u64,
        k: side as u64,
        alpha: 1.0,
        lda: side as i64,
        ldb: side as i64,
        beta: 0.0,
        ldc: side as i64,
        stride_a: None,
        stride_b: None,
        stride_c: None,
        stride_bias: None,
        batch_size: None,
    };
    // SAFETY: the buffers are as large as the configuration says.
    let ms = time(gpu, || unsafe { blas.matmul(config, &a, &a, &mut c, None, None) }.unwrap());
    println!("{ms:8.2} ms  {:6.2} GFLOP/s, {side}^3 in f32", 2.0 * (side * side * side) as f64 / ms * 1e-6);
}

fn main() {
    let gpu = Gpu::new();
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let benchmarks: [(&str, &dyn Fn()); 9] = [
        ("barriers", &|| rounds(&gpu, "barriers", 2, "thread and barrier")),
        ("shuffles", &|| rounds(&gpu, "shuffles", 1, "thread and shuffle")),
        ("arithmetic", &|| rounds(&gpu, "arithmetic", 2, "thread and multiply-add")),
        ("elementwise", &|| elementwise(&gpu)),
        ("rms_norm", &|| rms_norm(&gpu)),
        ("matmul_tiled", &|| product(&gpu, "matmul_tiled", (16, 16), (16, 16))),
        ("matmul_bf16", &|| product(&gpu, "matmul_bf16", (8, 4), (128, 1))),
        ("launches", &|| launches(&gpu)),
        ("cublaslt", &|| blas(&gpu)),
    ];
    for (name, benchmark) in benchmarks {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            print!("{name:12} ");
            benchmark();
        }
    }
}
