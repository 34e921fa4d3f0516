//! Prints GFLOP/s of the CPU device's matrix products at the shapes of a 135M model, in f32 and in bf16, and the share of
//! what the processor does in registers alone.
//!
//! `cargo run --release -p trainer-cuda --example gemm_speed [threads]`

#[path = "gemm_speed/peak.rs"]
mod peak;

use std::time::Instant;

use trainer_cuda::config::Precision;
use trainer_cuda::cpu::{Cpu, SimdLevel};
use trainer_cuda::device::{Device, LowRank, Modules, Place, UpdateGradient};
use trainer_cuda::formats::{BlockType, StoredTensor};

/// Tokens, rows and columns of the weight.
const LINEAR: [[usize; 3]; 14] = [
    [1, 576, 576],
    [1, 1536, 576],
    [8, 1536, 576],
    [50, 576, 576],
    [240, 192, 576],
    [240, 576, 576],
    [240, 1536, 576],
    [240, 576, 1536],
    [560, 1536, 576],
    [1000, 192, 576],
    [1000, 1536, 576],
    [1000, 576, 1536],
    [1, 49152, 576],
    [128, 49152, 576],
];
/// Tokens, out, in, of updates of rank 8.
const LORA: [[usize; 3]; 3] = [[240, 576, 576], [240, 1536, 576], [1000, 576, 1536]];
const RANK: usize = 8;

fn main() {
    let threads = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(1);
    for simd in SimdLevel::available() {
        let cpu = Cpu::with_simd(Some(threads), simd);
        println!("{}", cpu.describe());
        for (precision, peak) in [(Precision::F32, peak::f32(simd)), (Precision::Bf16, peak::bf16(simd))] {
            if precision == Precision::Bf16 && peak.is_none() {
                continue;
            }
            let peak = peak.map(|peak| peak * threads as f64);
            println!("{precision:?}, peak {}", peak.map_or("unknown".into(), |peak| format!("{peak:.0} GFLOP/s")));
            println!("{:>8}{:>8}{:>8}{:>14}{:>14}{:>14}", "tokens", "out", "in", "y", "dx", "dw");
            for shape in LINEAR {
                linear(&cpu, precision, shape, peak);
            }
        }
        println!("low-rank updates");
        println!("{:>8}{:>8}{:>8}{:>14}{:>14}{:>14}{:>14}", "tokens", "out", "in", "h", "dh", "dx", "da, db");
        for shape in LORA {
            lora(&cpu, shape, peak::f32(simd).map(|peak| peak * threads as f64));
        }
        println!();
    }
}

fn linear(cpu: &Cpu, precision: Precision, [n_tokens, out, inp]: [usize; 3], peak: Option<f64>) {
    let bytes = values(out * inp).iter().flat_map(|x| x.to_le_bytes()).collect();
    let tensor = StoredTensor::new(vec![out, inp], BlockType::F32, bytes);
    let weight = cpu.upload_frozen(&tensor, precision, Place::Matrix);
    let layer = Modules { packed: &(), weight: [&weight], bias: [None], low_rank: [None] };
    let (x, dy) = (values(n_tokens * inp), values(n_tokens * out));
    let (mut y, mut dx, mut d_weight) = (dy.clone(), x.clone(), vec![0.0; out * inp]);
    let flops = 2.0 * (n_tokens * out * inp) as f64;
    let forward = rate(flops, peak, || cpu.linear_forward([&mut y], &x, [None], &layer, None, n_tokens));
    let input = rate(flops, peak, || cpu.linear_backward_input(&mut dx, [&dy], [None], &layer, None, n_tokens));
    let gradient = match precision {
        Precision::F32 => rate(flops, peak, || cpu.linear_backward_weight(&mut d_weight, &dy, &x, out, inp, n_tokens)),
        _ => String::new(), // trained weights are f32
    };
    println!("{n_tokens:>8}{out:>8}{inp:>8}{forward:>14}{input:>14}{gradient:>14}");
}

/// What of a low-rank update is a call of its own.
fn lora(cpu: &Cpu, [n_tokens, out, inp]: [usize; 3], peak: Option<f64>) {
    let trained =
        |name: &str, rows, cols| cpu.upload_trained(name.into(), values(rows * cols), rows, cols, Place::Matrix);
    let (weight, mut trained) = (trained("w", out, inp).weight, [trained("a", RANK, inp), trained("b", out, RANK)]);
    let (x, dy) = (values(n_tokens * inp), values(n_tokens * out));
    let (mut dx, mut h, mut d_h) = (x.clone(), values(n_tokens * RANK), values(n_tokens * RANK));
    let [of_input, of_output] = [inp, out].map(|width| 2.0 * (n_tokens * RANK * width) as f64);
    let scaling = 1e-3;
    let update = LowRank { a: &trained[0].weight, b: &trained[1].weight, scaling };
    let layer = Modules { packed: &(), weight: [&weight], bias: [None], low_rank: [Some(update)] };
    let down = rate(of_input, peak, || cpu.low_rank_forward([Some(&mut h)], &x, &x, &layer, n_tokens));
    let up = rate(of_output, peak, || cpu.low_rank_backward([Some(&mut d_h)], [&dy], &layer, n_tokens));
    let input = rate(of_input, peak, || cpu.low_rank_input(&mut dx, &d_h, &trained[0].weight, n_tokens));
    let gradients = rate(of_input + of_output, peak, || {
        let update = UpdateGradient { a: 0, b: 1, scaling, dy: &dy, x: &x, h: &h, d_h: &d_h };
        cpu.low_rank_gradients(&mut trained, &[update], n_tokens);
    });
    println!("{n_tokens:>8}{out:>8}{inp:>8}{down:>14}{up:>14}{input:>14}{gradients:>14}");
}

fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i % 17) as f32 / 17.0 - 0.5).collect()
}

/// The best of many, for 50 ms at least: `107.3 (92%)`.
fn rate(flops: f64, peak: Option<f64>, mut product: impl FnMut()) -> String {
    let (start, mut best, mut runs) = (Instant::now(), f64::INFINITY, 0);
    while runs < 5 || start.elapsed().as_millis() < 50 {
        let start = Instant::now();
        product();
        best = start.elapsed().as_secs_f64().min(best);
        runs += 1;
    }
    let rate = flops / best / 1e9;
    let share = peak.map_or(String::new(), |peak| format!(" ({:.0}%)", 100.0 * rate / peak));
    format!("{rate:.1}{share}")
}
