//! The end of a step: gradients from zero, their norm, what clips and what halts, and AdamW.

use trainer_cuda::cpu::Cpu;
use trainer_cuda::device::{AdamW, Device, LOG_COLUMNS, SCALARS, SUMS, StepState, Trainable};

use crate::support::{Random, UNIT, assert_near, on_every_device, step_state, take, trainable, wide};

/// A tensor whose buffers all have the gradient's tail.
fn tensor(cpu: &Cpu, values: &[f32], rows: usize, cols: usize, grad: Vec<f32>) -> Trainable<Cpu> {
    let state = || [vec![0.0; rows * cols], grad[rows * cols..].to_vec()].concat();
    let (exp_avg, exp_avg_sq) = (state(), state());
    Trainable { grad, exp_avg, exp_avg_sq, ..trainable(cpu, values, rows, cols) }
}

const CONSTANTS: AdamW = AdamW { beta1: 0.875, beta2: 0.96875, epsilon: 1e-8 };
const LEARNING_RATE: f32 = 0.01;
const WEIGHT_DECAY: f32 = 0.125;

/// What a step with [`CONSTANTS`] is given.
fn scalars(step: i32, max_grad_norm: f32, log_row: usize) -> [f32; SCALARS] {
    let [learning_rate, weight_decay, beta1, beta2] =
        [LEARNING_RATE, WEIGHT_DECAY, CONSTANTS.beta1, CONSTANTS.beta2].map(f64::from);
    [
        max_grad_norm,
        log_row as f32,
        (1.0 - learning_rate * weight_decay) as f32,
        (learning_rate / (1.0 - beta1.powi(step))) as f32,
        (1.0 - beta2.powi(step)).sqrt() as f32,
    ]
}

/// A step that scales every gradient by `clip`, as if its end had said so.
fn step<D: Device>(device: &D, tensors: &mut [Trainable<D>], step: i32, clip: f32, constants: AdamW) {
    let mut state = step_state(device, 1);
    device.write_f32(&mut state.scalars, &scalars(step, 0.0, 0));
    device.write_f32(&mut state.control, &[clip, 0.0]);
    let optimizer = device.optimizer(tensors);
    device.adamw_step(tensors, &optimizer, &state, constants);
}

#[test]
fn three_steps_equal_torch() {
    // torch 2 AdamW(lr=0.01, betas=(0.875, 0.96875), eps=0.0625, weight_decay=0.125), gradients halved as clipping would.
    let gradients = [[0.25, -2.0, 0.001, 1.0], [0.5, 1.5, -0.002, 1.0], [-0.75, 0.125, 0.004, -3.0]];
    let want_weight = [0.48482972383499146, -1.2349965572357178, 2.988642454147339, -0.007464583497494459];
    let want_avg = [-0.007568359375, -0.005859375, 0.0001884765806607902, -0.0849609375];
    let want_avg_sq = [0.006744861602783203, 0.046478271484375, 1.6260530344425206e-07, 0.08521270751953125];
    for result in on_every_device(|cpu| {
        let mut tensors = [tensor(cpu, &[0.5, -1.25, 3.0, 0.0078125], 1, 4, vec![0.0; 4])];
        for (i, gradient) in gradients.iter().enumerate() {
            cpu.write_f32(&mut tensors[0].grad, gradient);
            step(cpu, &mut tensors, i as i32 + 1, 0.5, AdamW { epsilon: 0.0625, ..CONSTANTS });
        }
        let [t] = tensors;
        vec![cpu.read_weight(&t.weight), t.exp_avg, t.exp_avg_sq]
    }) {
        // Weights reach 3.0, whose last bit is 2.4e-7; moments are the same operations, fused or not.
        assert_near("weight", &result[0], &want_weight, |i| 4.0 * UNIT * want_weight[i].abs().max(0.01));
        assert_near("exp_avg", &result[1], &want_avg, |i| 4.0 * UNIT * want_avg[i].abs());
        assert_near("exp_avg_sq", &result[2], &want_avg_sq, |i| 4.0 * UNIT * want_avg_sq[i].abs());
    }
}

#[test]
fn a_step_updates_every_tensor_and_nothing_behind_it() {
    let shapes = [(1, 1), (123, 515), (8, 576), (3, 7)];
    let mut random = Random(80);
    let tensors: Vec<_> =
        shapes.iter().map(|(rows, cols)| (random.values(rows * cols), random.values(rows * cols))).collect();
    for result in on_every_device(|cpu| {
        let build = |((rows, cols), (w, grad)): (_, &(Vec<f32>, _))| tensor(cpu, w, rows, cols, Vec::clone(grad));
        let mut trained: Vec<_> = shapes.into_iter().zip(&tensors).map(build).collect();
        step(cpu, &mut trained, 1, 0.5, CONSTANTS);
        let results = trained.into_iter().zip(shapes).flat_map(|(t, (rows, cols))| {
            let n = rows * cols;
            [cpu.read_weight(&t.weight), take(t.exp_avg, n), take(t.exp_avg_sq, n)]
        });
        results.collect()
    }) {
        for (i, ((rows, cols), (w, grad))) in shapes.iter().zip(&tensors).enumerate() {
            let n = rows * cols;
            let (w, grad) = (wide(w, n), wide(grad, n));
            // In the first step both corrected moments are the gradient's: a step of lr against its sign.
            let want: Vec<f64> = (0..n).map(|j| w[j] * (1.0 - 0.01 * 0.125) - 0.01 * grad[j].signum()).collect();
            // Four roundings at 1 (decay, its product, step, difference); where |grad / 2| is 1e-6, epsilon's 1e-8
            // takes 1% of the step.
            let tolerance = |j: usize| 4.0 * UNIT + 0.01 * 1e-8 / (grad[j].abs() / 2.0 + 1e-8);
            assert_near("weight", &result[3 * i], &want, tolerance);
            let want_avg: Vec<f64> = grad.iter().map(|g| g / 2.0 * 0.125).collect();
            assert_near("exp_avg", &result[3 * i + 1], &want_avg, |j| 2.0 * UNIT * want_avg[j].abs());
        }
    }
}

/// The norm that the end of a step logs.
fn grad_norm<D: Device>(device: &D, trained: &[Trainable<D>]) -> f32 {
    let mut state = step_state(device, 1);
    device.end_step(&mut state, trained, &device.optimizer(trained));
    device.read_f64(&state.log, LOG_COLUMNS)[SUMS] as f32
}

#[test]
fn grad_norm_is_over_all_tensors() {
    let shapes = [(123, 515), (1, 1), (8, 576)];
    let mut random = Random(81);
    let gradients: Vec<_> = shapes.iter().map(|(rows, cols)| random.values(rows * cols)).collect();
    let squares =
        |(grad, (rows, cols)): (&Vec<f32>, &(usize, usize))| wide(grad, rows * cols).iter().map(|g| g * g).sum::<f64>();
    let want = gradients.iter().zip(&shapes).map(squares).sum::<f64>().sqrt();
    for result in on_every_device(|cpu| {
        let build = |(grad, &(rows, cols)): (&Vec<f32>, &(usize, usize))| tensor(cpu, grad, rows, cols, grad.clone());
        let trained: Vec<_> = gradients.iter().zip(&shapes).map(build).collect();
        vec![vec![grad_norm(cpu, &trained), grad_norm(cpu, &[])]]
    }) {
        // Summed in f64: one rounding to f32 is all.
        assert_near("norm", &result[0], &[want, 0.0], |i| [UNIT * want, 0.0][i]);
    }
}

#[test]
fn grad_norm_of_huge_gradients_is_finite() {
    let cpu = Cpu::new(Some(1));
    let norm = grad_norm(&cpu, &[tensor(&cpu, &[0.0; 2], 1, 2, vec![3e30, 4e30])]);
    assert_eq!(norm, 5e30);
}

/// A tensor of two weights with a gradient of length 5.
fn three_four(cpu: &Cpu) -> [Trainable<Cpu>; 1] {
    [tensor(cpu, &[0.5, -1.25], 1, 2, vec![3.0, -4.0])]
}

fn end_step<D: Device>(device: &D, state: &mut StepState<D>, trained: &mut [Trainable<D>]) {
    let optimizer = device.optimizer(trained);
    device.end_step(state, trained, &optimizer);
    device.adamw_step(trained, &optimizer, state, CONSTANTS);
}

fn zero_gradients<D: Device>(device: &D, trained: &mut [Trainable<D>]) {
    let optimizer = device.optimizer(trained);
    device.zero_gradients(trained, &optimizer);
}

#[test]
fn the_end_of_a_step_logs_its_sums_and_the_norm_in_its_row_and_clears_the_sums() {
    let cpu = Cpu::new(Some(2));
    let (mut state, mut trained) = (step_state(&cpu, 3), three_four(&cpu));
    for (log_row, loss) in [(1, 0.75), (2, 0.5)] {
        cpu.write_f32(&mut state.scalars, &scalars(log_row, 1.0, log_row as usize));
        cpu.write_f64(&mut state.sums, &[loss, 1.0, -2.0, 1e-300, f64::NAN]);
        end_step(&cpu, &mut state, &mut trained);
        assert_eq!(cpu.read_f64(&state.sums, SUMS), [0.0; SUMS]);
    }
    let log = cpu.read_f64(&state.log, 3 * LOG_COLUMNS);
    assert_eq!(log[..LOG_COLUMNS], [0.0; LOG_COLUMNS]);
    for (row, loss) in [(1, 0.75), (2, 0.5)] {
        let row = &log[row * LOG_COLUMNS..][..LOG_COLUMNS];
        assert_eq!(row[..4], [loss, 1.0, -2.0, 1e-300]);
        assert!(row[4].is_nan(), "a figure that is no number is logged and halts nothing");
        assert_eq!(row[SUMS], 5.0, "before clipping");
    }
    assert_ne!(cpu.read_weight(&trained[0].weight), [0.5, -1.25]);
}

#[test]
fn gradients_are_scaled_down_to_the_largest_norm_and_never_up() {
    // torch's clip_grad_norm_: max / (norm + 1e-6), at most 1.
    for (max_grad_norm, clip) in [(2.5, 2.5 / (5.0 + 1e-6)), (10.0, 1.0), (0.0, 1.0)] {
        let cpu = Cpu::new(Some(1));
        let (mut state, mut trained, mut scaled) = (step_state(&cpu, 1), three_four(&cpu), three_four(&cpu));
        cpu.write_f32(&mut state.scalars, &scalars(1, max_grad_norm, 0));
        end_step(&cpu, &mut state, &mut trained);
        assert_eq!(cpu.read_f32(&state.control, 2), [clip, 0.0]);

        scaled[0].grad.iter_mut().for_each(|grad| *grad *= clip);
        step(&cpu, &mut scaled, 1, 1.0, CONSTANTS);
        assert_eq!(cpu.read_weight(&trained[0].weight), cpu.read_weight(&scaled[0].weight));
        assert_eq!(trained[0].exp_avg, scaled[0].exp_avg);
        assert_eq!(trained[0].exp_avg_sq, scaled[0].exp_avg_sq);
        assert_eq!(trained[0].grad, [3.0, -4.0], "the gradient itself stays");
    }
}

#[test]
fn a_step_that_is_not_finite_changes_no_tensor_nor_does_any_after_it() {
    let cases = [
        ("loss", f64::NAN, 1.0),
        ("loss", f64::NEG_INFINITY, 1.0),
        ("gradient", 0.5, f32::NAN),
        ("gradient", 0.5, f32::INFINITY),
        ("norm", 0.5, f32::MAX), // each gradient is finite, and f32 has no such length
    ];
    for (what, loss, gradient) in cases {
        let cpu = Cpu::new(Some(2));
        let (mut state, mut trained) = (step_state(&cpu, 3), three_four(&cpu));
        let state_of = |trained: &[Trainable<Cpu>]| {
            let Trainable { weight, exp_avg, exp_avg_sq, .. } = &trained[0];
            [cpu.read_weight(weight), exp_avg.clone(), exp_avg_sq.clone()]
        };
        let mut run = |step: usize, loss: f64, grad: f32, trained: &mut [Trainable<Cpu>]| {
            cpu.write_f32(&mut state.scalars, &scalars(step as i32, 1.0, step - 1));
            cpu.write_f64(&mut state.sums, &[loss]);
            cpu.write_f32(&mut trained[0].grad, &[grad; 2]);
            end_step(&cpu, &mut state, trained);
            assert_eq!(cpu.read_f64(&state.sums, SUMS), [0.0; SUMS]);
            let row = cpu.read_f64(&state.log, 3 * LOG_COLUMNS)[(step - 1) * LOG_COLUMNS..].to_vec();
            (row[0], row[SUMS])
        };
        let (first, norm) = run(1, 0.25, 1.0, &mut trained);
        assert_eq!((first, norm), (0.25, f64::from(2f32.sqrt())));
        let before = state_of(&trained);
        assert_ne!(before[0], [0.5, -1.25]);

        let (logged, norm) = run(2, loss, gradient, &mut trained);
        assert_eq!(logged.to_bits(), loss.to_bits(), "{what} {loss} {gradient}: the log has it as it was");
        assert_eq!(norm.is_finite(), what == "loss", "{what} {loss} {gradient}");
        assert_eq!(state_of(&trained), before, "{what} {loss} {gradient}");

        // The step behind it is logged, for whoever reads both at once.
        assert_eq!(run(3, 0.125, 1.0, &mut trained), (0.125, f64::from(2f32.sqrt())));
        assert_eq!(state_of(&trained), before, "{what} {loss} {gradient}");
    }
}

#[test]
fn every_gradient_starts_from_zero() {
    let shapes = [(1, 1), (123, 515), (3, 7)];
    let values = shapes.map(|(rows, cols)| Random(82).values(rows * cols)[..rows * cols].to_vec());
    on_every_device(|cpu| {
        let mut trained = [0, 1, 2].map(|i| {
            let (rows, cols) = shapes[i];
            tensor(cpu, &values[i], rows, cols, values[i].clone())
        });
        let weights = trained.each_ref().map(|tensor| cpu.read_weight(&tensor.weight));
        zero_gradients(cpu, &mut trained);
        for (tensor, (weight, (rows, cols))) in trained.iter().zip(weights.iter().zip(shapes)) {
            assert_eq!(cpu.read_f32(&tensor.grad, rows * cols), vec![0.0; rows * cols]);
            assert_eq!(&cpu.read_weight(&tensor.weight), weight);
        }
        trained.map(|tensor| tensor.grad).to_vec()
    });
}
