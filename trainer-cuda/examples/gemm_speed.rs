//! Prints GFLOP/s of the CPU device's matrix products at the shapes of a 135M model.
//!
//! `cargo run --release -p trainer-cuda --example gemm_speed [threads]`

use std::time::Instant;

use trainer_cuda::cpu::{Cpu, SimdLevel};
use trainer_cuda::device::Device;

fn main() {
    let threads = std::env::args().nth(1).and_then(|n| n.parse().ok());
    for simd in SimdLevel::available() {
        let cpu = Cpu::with_simd(threads, simd);
        println!("{}\n{:>8}{:>8}{:>8}{:>12}{:>12}{:>12}", cpu.describe(), "tokens", "out", "in", "y", "dx", "dw");
        for (n_tokens, out, inp) in [
            (240, 576, 1536),
            (240, 1536, 576),
            (240, 576, 576),
            (1000, 192, 576),
            (1000, 1536, 576),
            (50, 576, 576),
            (1000, 8, 576),
            (1000, 576, 8),
            (128, 49152, 576),
        ] {
            let values = |len: usize| (0..len).map(|i| (i % 17) as f32 / 17.0 - 0.5).collect::<Vec<f32>>();
            let weight = cpu.upload_weight(values(out * inp), out, inp);
            let (x, dy) = (values(n_tokens * inp), values(n_tokens * out));
            let (mut y, mut dx, mut d_weight) = (dy.clone(), x.clone(), values(out * inp));
            let rate = |mut product: Box<dyn FnMut() + '_>| {
                product();
                let best = (0..5).map(|_| seconds(&mut product)).fold(f64::INFINITY, f64::min);
                format!("{:.1}", 2.0 * (n_tokens * out * inp) as f64 / best / 1e9)
            };
            let forward = rate(Box::new(|| cpu.linear_forward(&mut y, &x, &weight, None, n_tokens)));
            let input = rate(Box::new(|| cpu.linear_backward_input(&mut dx, &dy, &weight, n_tokens, false)));
            let weight = rate(Box::new(|| cpu.linear_backward_weight(&mut d_weight, &dy, &x, out, inp, n_tokens)));
            println!("{n_tokens:>8}{out:>8}{inp:>8}{forward:>12}{input:>12}{weight:>12}");
        }
    }
}

fn seconds(product: &mut impl FnMut()) -> f64 {
    let start = Instant::now();
    product();
    start.elapsed().as_secs_f64()
}
