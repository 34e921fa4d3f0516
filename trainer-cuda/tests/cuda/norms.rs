//! RMSNorm and LayerNorm.

use crate::support::{On, Random, Results, Tolerance, assert_parity, cpu, gpu};
use trainer_cuda::device::{Device, Place};

/// Rows, their width, rows of a token.
const SHAPES: [(usize, usize, usize); 8] = [
    (123, 515, 1),
    (7, 576, 1),
    (1, 2048, 1),
    (90, 64, 3),
    (5, 1100, 1),
    (33, 9, 1),
    (3, 16_384, 1),
    (1100, 33, 1), // two splits of the rows, of which the last has no whole batch
];

fn rms_norm<D: Device>(device: &D, (n_rows, width, per_token): (usize, usize, usize)) -> Results {
    let (on, mut random) = (On::new(device), Random(1));
    let (n_tokens, token) = (n_rows / per_token, width * per_token);
    // Nothing beside x, whose width says how many rows a token has.
    let [x] = on.acts([&random.values(n_rows * width)], [token], 0);
    let weight = on.trained(&random.values(width), 1, width, Place::Vector);
    let (mut y, mut rstd) = (on.out(n_tokens, token), on.f32_out(n_rows));
    device.rms_norm_forward(&mut y, &mut rstd, &x, &weight.weight, 1e-5, n_rows);
    let rstd = on.read_f32(&rstd, n_rows);
    let of_rows = on.f32_input(&rstd);
    let dy = on.act(&random.values(n_rows * width), token);
    let residual = on.act(&random.values(n_rows * width), token);
    let (mut dx, mut again, mut dx_alone) = (on.out(n_tokens, token), on.out(n_tokens, token), on.out(n_tokens, token));
    let mut d_weight = on.f32(&random.values(width));
    let residual = Some(&*residual);
    device.rms_norm_backward(
        &mut dx,
        Some(&mut d_weight),
        Some(&mut again),
        &dy,
        &x,
        &of_rows,
        &weight.weight,
        residual,
        n_rows,
    );
    device.rms_norm_backward(&mut dx_alone, None, None, &dy, &x, &of_rows, &weight.weight, None, n_rows);
    let y = on.read(&y);
    assert_eq!(y, on.read(&again), "the backward pass has the same y");
    vec![
        ("y", y),
        ("rstd", rstd),
        ("dx", on.read(&dx)),
        ("dx_alone", on.read(&dx_alone)),
        ("d_weight", on.read_f32(&d_weight, width)),
    ]
}

#[test]
fn rms_norms_agree() {
    for shape in SHAPES {
        let gpu = rms_norm(&gpu(&[shape.1], &[]), shape);
        assert_parity(&format!("rms_norm {shape:?}"), &gpu, &rms_norm(&cpu(), shape), |name| match name {
            // The normalised value is rounded before the weight is applied, as in Hugging Face's.
            "y" => Tolerance::ROUNDED_TWICE,
            "dx" | "dx_alone" => Tolerance::ROUNDED,
            _ => Tolerance::F32,
        });
    }
}

fn layer_norm<D: Device>(
    device: &D,
    (n_rows, width): (usize, usize),
    (centre, eps): (f32, f32),
    trained: bool,
) -> Results {
    let (on, mut random) = (On::new(device), Random(20));
    // Off centre, in steps that bf16 has there.
    let step = 2f32.powi(centre.max(1.0).log2() as i32 - 7);
    let x: Vec<f32> = random.values(n_rows * width).iter().map(|x| centre + (8.0 * x).round() * step).collect();
    let x = on.act(&x, width);
    let (weight, bias) = (on.vector(&random.values(width)), on.vector(&random.values(width)));
    let (mut y, mut mean, mut rstd) = (on.out(n_rows, width), on.f32_out(n_rows), on.f32_out(n_rows));
    device.layer_norm_forward(&mut y, &mut mean, &mut rstd, &x, &weight, &bias, eps, n_rows);
    let (mean, rstd) = (on.read_f32(&mean, n_rows), on.read_f32(&rstd, n_rows));
    let (of_means, of_rstds) = (on.f32_input(&mean), on.f32_input(&rstd));
    let dy = on.act(&random.values(n_rows * width), width);
    let (mut dx, mut again, mut dx_alone) = (on.out(n_rows, width), on.out(n_rows, width), on.out(n_rows, width));
    let (mut d_weight, mut d_bias) = (on.f32(&random.values(width)), on.f32(&random.values(width)));
    let gradients = trained.then_some((&mut d_weight, &mut d_bias));
    let (of_weight, of_bias) = gradients.unzip();
    device.layer_norm_backward(
        &mut dx,
        of_weight,
        of_bias,
        Some(&mut again),
        &dy,
        &x,
        &of_means,
        &of_rstds,
        &weight,
        &bias,
        n_rows,
    );
    device.layer_norm_backward(&mut dx_alone, None, None, None, &dy, &x, &of_means, &of_rstds, &weight, &bias, n_rows);
    let y = on.read(&y);
    assert_eq!(y, on.read(&again), "the backward pass has the same y");
    vec![
        ("y", y),
        ("mean", mean),
        ("rstd", rstd),
        ("dx", on.read(&dx)),
        ("dx_alone", on.read(&dx_alone)),
        ("d_weight", on.read_f32(&d_weight, width)),
        ("d_bias", on.read_f32(&d_bias, width)),
    ]
}

#[test]
fn layer_norms_agree() {
    let cuda = gpu(&[], &[]);
    for (shape, statistics, trained) in [
        ((123, 515), (0.5, 1e-12), true),
        ((7, 384), (0.5, 1e-12), false),
        ((700, 40), (64.0, 1e-12), true),
        ((2, 2056), (0.5, 1e-3), true),
        ((9, 1024), (0.5, 1e-3), false),
        ((1, 16_384), (0.5, 1e-3), true),
    ] {
        let [gpu, cpu] =
            [layer_norm(&cuda, shape, statistics, trained), layer_norm(&cpu(), shape, statistics, trained)];
        assert_parity(&format!("layer_norm {shape:?}"), &gpu, &cpu, |name| match name {
            "y" | "dx" | "dx_alone" => Tolerance::ROUNDED,
            _ => Tolerance::F32,
        });
    }
}
