//! The end of a step: norm, clipping, log and AdamW over all tensors; and the matrices that products read, which follow.

use crate::support::{BF16, On, Random, Results, Tolerance, assert_parity, cpu, gpu};
use trainer_cuda::config::Precision;
use trainer_cuda::device::{
    AdamW, Device, LOG_COLUMNS, LowRank, Modules, PackedModule, PackedShape, Place, StepState, Trainable,
};
use trainer_cuda::formats::BlockType;

const CONSTANTS: AdamW = AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 };
/// Rows and columns of matrices that stand alone: odd ones, so that there are gaps between them.
const ALONE: [(usize, usize); 4] = [(123, 7), (1, 515), (64, 32), (3, 1)];
/// Two layers with updates: their input, and outputs and ranks of each.
const IN_FEATURES: usize = 20;
const LAYERS: [(usize, usize); 2] = [(13, 5), (30, 8)];
/// A vector, which no product reads.
const VECTOR: usize = 9;
const N_TOKENS: usize = 5;

fn packed_shape() -> PackedShape {
    let modules = LAYERS.map(|(out_features, rank)| PackedModule {
        out_features,
        rank,
        bias: false,
        stored: BlockType::BF16,
        trained: false,
    });
    PackedShape { in_features: IN_FEATURES, modules: modules.into(), precision: Precision::Bf16 }
}

/// Rows and columns of every tensor, in the order in which they are made.
fn shapes() -> Vec<(usize, usize)> {
    let updates = LAYERS.into_iter().flat_map(|(out, rank)| [(rank, IN_FEATURES), (out, rank)]);
    ALONE.into_iter().chain([(1, VECTOR)]).chain(updates).collect()
}

/// What changes from step to step; see `StepState`.
fn scalars(step: u32, max_grad_norm: f32) -> [f32; 5] {
    let (learning_rate, weight_decay) = (0.01, 0.1);
    let correction = |beta: f32| 1.0 - f64::from(beta).powi(step as i32);
    [
        max_grad_norm,
        (step - 1) as f32,
        1.0 - learning_rate * weight_decay,
        (f64::from(learning_rate) / correction(CONSTANTS.beta1)) as f32,
        correction(CONSTANTS.beta2).sqrt() as f32,
    ]
}

/// All that products read of the tensors.
fn products<D: Device>(
    on: &On<'_, D>,
    packed: &D::Packed,
    weights: [&D::Weight; 2],
    trained: &[Trainable<D>],
) -> Results {
    let (device, mut random) = (on.device, Random(22));
    let mut results = Results::new();
    for (tensor, (rows, cols)) in trained.iter().zip(ALONE) {
        let x = on.act(&random.values(N_TOKENS * cols), cols);
        let mut y = on.out(N_TOKENS, rows);
        device.project(&mut y, &x, &tensor.weight, N_TOKENS);
        results.push(("product", on.read(&y)));
    }
    let updates = &trained[ALONE.len() + 1..];
    let low_rank =
        [0, 1].map(|i| Some(LowRank { a: &updates[2 * i].weight, b: &updates[2 * i + 1].weight, scaling: 0.5 }));
    let modules = Modules { packed, weight: weights, bias: [None; 2], low_rank };
    let [(out_0, rank_0), (out_1, rank_1)] = LAYERS;
    let ranks = [rank_0, rank_1];
    let tail = ranks.iter().map(|rank| rank.next_multiple_of(8)).sum();
    let mut values = |width: usize| random.values(N_TOKENS * width);
    let [x] = on.acts([&values(IN_FEATURES)], [IN_FEATURES], tail);
    let [dy_0, dy_1] = on.acts([&values(out_0), &values(out_1)], [out_0, out_1], tail);
    let [mut y_0, mut y_1] = on.acts([&values(out_0), &values(out_1)], [out_0, out_1], 0);
    let mut low_rank_acts = || on.acts([&values(rank_0), &values(rank_1)], ranks, 0);
    let ([mut h_0, mut h_1], [mut d_h_0, mut d_h_1]) = (low_rank_acts(), low_rank_acts());
    device.low_rank_forward([Some(&mut h_0), Some(&mut h_1)], &x, &x, &modules, N_TOKENS);
    device.linear_forward([&mut y_0, &mut y_1], &x, [Some(&h_0), Some(&h_1)], &modules, None, N_TOKENS);
    device.low_rank_backward([Some(&mut d_h_0), Some(&mut d_h_1)], [&dy_0, &dy_1], &modules, N_TOKENS);
    for (act, width) in [(&y_0, out_0), (&y_1, out_1), (&d_h_0, rank_0), (&d_h_1, rank_1)] {
        results.push(("product", on.read_act(act, N_TOKENS, width)));
    }
    results
}

/// Steps of `gradient` times random numbers.
fn steps<D: Device>(device: &D, max_grad_norm: f32, gradient: f32) -> Results {
    let (on, mut random) = (On::new(device), Random(15));
    let packed = device.pack(&packed_shape());
    let weights = [0, 1].map(|i| {
        let (out, _) = LAYERS[i];
        on.frozen(&random.values(out * IN_FEATURES), out, IN_FEATURES, Place::Weight(&packed, i))
    });
    let places = ALONE.map(|_| Place::Matrix).into_iter().chain([Place::Vector]);
    let places = places.chain([0, 1].into_iter().flat_map(|i| [Place::A(&packed, i), Place::B(&packed, i, 0.5)]));
    let mut trained: Vec<_> = shapes()
        .into_iter()
        .zip(places)
        .map(|((rows, cols), place)| on.trained(&random.values(rows * cols), rows, cols, place))
        .collect();
    let optimizer = device.optimizer(&trained);
    let mut state = on.step_state(3);
    device.write_f64(&mut state.log, &[-1.0; 3 * LOG_COLUMNS]);
    for step in 1..=2u32 {
        device.write_f32(&mut state.scalars, &scalars(step, max_grad_norm));
        device.write_f64(&mut state.sums, &[0.5, 1.5, 2.5]);
        for (tensor, (rows, cols)) in trained.iter_mut().zip(shapes()) {
            let values: Vec<f32> = random.values(rows * cols).iter().map(|x| gradient * x).collect();
            device.write_f32(&mut tensor.grad, &values);
        }
        device.end_step(&mut state, &trained, &optimizer);
        device.adamw_step(&mut trained, &optimizer, &state, CONSTANTS);
    }
    let f64s = |values: Vec<f64>| values.iter().map(|&x| x as f32).collect();
    let mut results = vec![
        ("log", f64s(device.read_f64(&state.log, 3 * LOG_COLUMNS))),
        ("sums", f64s(device.read_f64(&state.sums, LOG_COLUMNS))),
        ("control", device.read_f32(&state.control, 2)),
    ];
    for (tensor, (rows, cols)) in trained.iter().zip(shapes()) {
        results.push(("weight", device.read_weight(&tensor.weight)));
        results.push(("exp_avg", device.read_f32(&tensor.exp_avg, rows * cols)));
        results.push(("exp_avg_sq", device.read_f32(&tensor.exp_avg_sq, rows * cols)));
    }
    results.extend(products(&on, &packed, weights.each_ref(), &trained));
    for (tensor, (rows, cols)) in trained.iter_mut().zip(shapes()) {
        device.write_weight(&mut tensor.weight, &random.values(rows * cols));
    }
    results.extend(products(&on, &packed, weights.each_ref(), &trained));
    device.zero_gradients(&mut trained, &optimizer);
    for (tensor, (rows, cols)) in trained.iter().zip(shapes()) {
        results.push(("zeroed", device.read_f32(&tensor.grad, rows * cols)));
    }
    device.check().expect("no failure");
    results
}

#[test]
fn steps_of_the_optimiser_agree() {
    let lens: Vec<usize> = shapes().iter().map(|(rows, cols)| rows * cols).collect();
    // Not clipped, as it is not asked for or not needed; clipped; norms of which 1e-6, which is added to them, is a part.
    for (max_grad_norm, gradient) in [(0.0, 1.0), (1e6, 1.0), (1.0, 1.0), (1e-6, 1e-7)] {
        let gpu = steps(&gpu(&lens, &[packed_shape()]), max_grad_norm, gradient);
        let cpu = steps(&cpu(), max_grad_norm, gradient);
        assert_parity(&format!("adamw, norm {max_grad_norm}"), &gpu, &cpu, |name| match name {
            "zeroed" | "sums" => Tolerance::EXACT,
            // Of matrices in bf16, and of low-rank values.
            "product" => Tolerance { relative: BF16, of_largest: BF16 },
            _ => Tolerance { relative: 3e-6, of_largest: 3e-7 },
        });
    }
}

/// The norm, as it is logged, of gradients that are all `gradient`.
fn norm(n_values: usize, gradient: f32) -> (f64, f64) {
    let cuda = gpu(&[n_values], &[]);
    let on = On::new(&cuda);
    let mut trained = vec![on.trained(&vec![0.0; n_values], 1, n_values, Place::Vector)];
    let optimizer = cuda.optimizer(&trained);
    let mut state = on.step_state(1);
    cuda.write_f32(&mut state.scalars, &scalars(1, 0.0));
    cuda.write_f32(&mut trained[0].grad, &vec![gradient; n_values]);
    cuda.end_step(&mut state, &trained, &optimizer);
    (cuda.read_f64(&state.log, LOG_COLUMNS)[LOG_COLUMNS - 1], f64::from(gradient) * (n_values as f64).sqrt())
}

#[test]
fn norms_of_more_values_than_threads_agree() {
    // Threads of 1,024 blocks look more than once, and those of the last block at more than one partial sum.
    for n_values in [4097, (4 << 20) + 2052] {
        let (got, want) = norm(n_values, 0.5);
        assert!((got / want - 1.0).abs() < 1e-12, "{got} of {n_values} values, not {want}");
    }
}

#[test]
fn a_step_that_is_not_finite_halts_the_optimiser() {
    let cuda = gpu(&[6], &[]);
    let on = On::new(&cuda);
    let mut trained = vec![on.trained(&[1.0; 6], 2, 3, Place::Matrix)];
    let optimizer = cuda.optimizer(&trained);
    let mut state = on.step_state(5);
    // Of a loss that is none, twice, and a norm that f64 has and f32 has not.
    let steps = [(0.5, 1.0), (f64::NAN, 1.0), (f64::NAN, 1.0), (0.5, 3e38), (0.5, 1.0)];
    for (row, (loss, gradient)) in steps.into_iter().enumerate() {
        cuda.write_f32(&mut state.scalars, &[0.0, row as f32, 1.0, 1.0, 0.001f32.sqrt()]);
        cuda.write_f64(&mut state.sums, &[loss]);
        cuda.write_f32(&mut trained[0].grad, &[gradient; 6]);
        let halted = |state: &StepState<_>| cuda.read_f32(&state.control, 2)[1];
        let before = halted(&state);
        if row == 3 {
            cuda.write_f32(&mut state.control, &[1.0, 0.0]);
        }
        cuda.end_step(&mut state, &trained, &optimizer);
        let is_bad = !loss.is_finite() || gradient > 1.0;
        assert_eq!(halted(&state), if is_bad { 1.0 } else { before }, "after step {row}");
        cuda.adamw_step(&mut trained, &optimizer, &state, CONSTANTS);
    }
    let log = cuda.read_f64(&state.log, 5 * LOG_COLUMNS);
    let norms: Vec<f64> = log.chunks(LOG_COLUMNS).map(|row| row[LOG_COLUMNS - 1]).collect();
    assert_eq!(norms[0], 6f64.sqrt());
    assert!(norms[3] > f64::from(f32::MAX) && norms[3].is_finite(), "{norms:?}");
    let once = cuda.read_weight(&trained[0].weight);
    assert!(once.iter().all(|w| (w - 0.9).abs() < 1e-6), "only the first step changed the weights: {once:?}");
}
