//! A step by any of the three methods: without its update, in parts, and where numbers break.

#![allow(clippy::unwrap_used)] // the helpers read fixtures of this repository

mod small;

use std::ops::ControlFlow;
use trainer_cuda::config::{LoraConfig, TrainConfig};
use trainer_cuda::cpu::Cpu;
use trainer_cuda::device::Device;
use trainer_cuda::formats::BaseModel;
use trainer_cuda::method::{Dpo, Method, Sft, Triplets};
use trainer_cuda::trainer::{Event, StepMetrics, Trainer};

/// With room for the batches of `config`.
fn sft(base: &BaseModel, config: &TrainConfig) -> Trainer<Sft<Cpu>> {
    let data = small::sequences(base);
    Trainer::new(Sft::new(Cpu::new(None), base, config, &data, &[]).unwrap(), config.clone()).unwrap()
}

fn dpo(base: &BaseModel, config: &TrainConfig) -> Trainer<Dpo<Cpu>> {
    let data = small::pairs(base);
    Trainer::new(Dpo::new(Cpu::new(None), base, config, &data, &[], None).unwrap(), config.clone()).unwrap()
}

fn triplets(base: &BaseModel, config: &TrainConfig) -> Trainer<Triplets<Cpu>> {
    let data = small::triplets(base);
    Trainer::new(Triplets::new(Cpu::new(None), base, config, &data, &[]).unwrap(), config.clone()).unwrap()
}

fn weights<M: Method<Device = Cpu>>(trainer: &Trainer<M>) -> Vec<Vec<f32>> {
    let method = trainer.method();
    method.trained().iter().map(|tensor| method.device().read_weight(&tensor.weight)).collect()
}

/// What else an update changes.
fn moments<M: Method<Device = Cpu>>(trainer: &Trainer<M>) -> [Vec<Vec<f32>>; 2] {
    let trained = trainer.method().trained().iter();
    trained.map(|tensor| (tensor.exp_avg.clone(), tensor.exp_avg_sq.clone())).unzip::<_, _, Vec<_>, Vec<_>>().into()
}

fn gradients<M: Method<Device = Cpu>>(trainer: &Trainer<M>) -> Vec<Vec<f32>> {
    trainer.method().trained().iter().map(|tensor| tensor.grad.clone()).collect()
}

/// Loss and gradient of a step of two micro-batches, as often as asked, and nothing else.
fn accumulates<M: Method<Device = Cpu>>(mut trainer: Trainer<M>, data: &[M::Example]) {
    trainer.step(&[data[..8].iter().collect()], 1, 1e-2).unwrap(); // away from an update of zero
    let before = (weights(&trainer), moments(&trainer));
    let micro_batches = [data[8..12].iter().collect(), data[12..].iter().collect()];
    let first = trainer.method_mut().accumulate(&micro_batches, 2).unwrap();
    let gradient = gradients(&trainer);
    assert!(gradient.iter().any(|tensor| tensor.iter().any(|&value| value != 0.0)));
    assert_eq!(trainer.method_mut().accumulate(&micro_batches, 2).unwrap(), first, "nothing is left over");
    assert!(gradients(&trainer) == gradient);
    assert!((weights(&trainer), moments(&trainer)) == before);

    let step = trainer.step(&micro_batches, 2, 1e-2).unwrap();
    assert_eq!((step.loss, step.metrics), (first.loss, first.metrics), "what a step computes");
    let counts = first.counts;
    assert_eq!(
        (step.n_tokens, step.n_tokens_flat, step.n_labels),
        (counts.n_tokens, counts.n_tokens_flat, counts.n_labels)
    );
    assert!(gradients(&trainer) == gradient);
    assert!(weights(&trainer) != before.0 && moments(&trainer) != before.1);
}

#[test]
fn accumulating_gives_a_steps_loss_and_gradient_and_leaves_the_weights_alone() {
    let mut dropout = TrainConfig::default();
    dropout.lora.dropout = 0.3;
    for config in [TrainConfig::default(), TrainConfig { use_lora: false, ..TrainConfig::default() }, dropout] {
        let (base, encoder) = (small::base(), small::encoder_base());
        accumulates(sft(&base, &config), &small::sequences(&base));
        accumulates(dpo(&base, &config), &small::pairs(&base));
        accumulates(triplets(&encoder, &config), &small::triplets(&encoder));
    }
}

/// A step of twenty examples where the buffers hold them all, and where they hold one: cut into parts, with one update.
fn steps_in_parts<M: Method<Device = Cpu>>(
    make: impl Fn(&TrainConfig) -> Trainer<M>,
    data: &[M::Example],
) -> [StepMetrics; 2] {
    let run = |batch_size| {
        let mut trainer = make(&TrainConfig { batch_size, ..TrainConfig::default() });
        trainer.step(&[data[..4].iter().collect()], 1, 1e-3).unwrap(); // away from an update of zero
        let step = trainer.step(&[data.iter().collect()], 2, 1e-3).unwrap();
        (step, gradients(&trainer), moments(&trainer))
    };
    let (whole, whole_gradient, whole_moments) = run(20);
    let (parts, parts_gradient, parts_moments) = run(1);
    assert!((whole.loss - parts.loss).abs() <= 1e-6 * whole.loss, "{} and {}", whole.loss, parts.loss);
    assert!((whole.grad_norm - parts.grad_norm).abs() <= 1e-5 * whole.grad_norm);
    assert_eq!((whole.n_tokens_flat, whole.n_labels), (parts.n_tokens_flat, parts.n_labels));
    // The same terms in another order of summation. An update after each part would leave other moments.
    for (what, whole, parts) in [
        ("gradient", &whole_gradient, &parts_gradient),
        ("first moment", &whole_moments[0], &parts_moments[0]),
        ("second moment", &whole_moments[1], &parts_moments[1]),
    ] {
        let square = |x: f32| f64::from(x).powi(2);
        let values = whole.iter().flatten().zip(parts.iter().flatten());
        let (off, norm) = values.fold((0.0, 0.0), |(off, norm), (a, b)| (off + square(a - b), norm + square(*a)));
        assert!(off.sqrt() <= 1e-5 * norm.sqrt(), "{what}: {:e}", (off / norm).sqrt());
    }
    [whole, parts]
}

#[test]
fn a_step_that_exceeds_the_buffers_is_cut_into_parts_and_gives_the_same() {
    let (base, encoder) = (small::base(), small::encoder_base());
    let [whole, parts] = steps_in_parts(|config| sft(&base, config), &small::sequences(&base));
    assert!(whole.n_tokens < parts.n_tokens, "prefixes are shared within a part only");
    let [whole, parts] = steps_in_parts(|config| dpo(&base, config), &small::pairs(&base));
    assert!(whole.n_tokens < parts.n_tokens, "prefixes are shared within a part only");
    steps_in_parts(|config| triplets(&encoder, config), &small::triplets(&encoder));
}

/// A value of a tensor, for another one; and the one that was there.
fn replace<M: Method<Device = Cpu>>(trainer: &mut Trainer<M>, tensor: &str, value: f32) -> f32 {
    let (device, trained) = trainer.method_mut().trained_mut();
    let weight = &mut trained.iter_mut().find(|own| own.name == tensor).unwrap().weight;
    let mut values = device.read_weight(weight);
    let before = std::mem::replace(&mut values[0], value);
    device.write_weight(weight, &values);
    before
}

/// The third step breaks at `value` in a tensor: its error ends in `names`, no weight changes, and once the value is
/// mended the trainer goes on as one that never broke.
fn breaks<M: Method<Device = Cpu>>(
    make: impl Fn() -> Trainer<M>,
    data: &[M::Example],
    (tensor, value): (&str, f32),
    names: &str,
) {
    let step =
        |trainer: &mut Trainer<M>, step: usize| trainer.step(&[data[4 * step..][..4].iter().collect()], step, 1e-3);
    let (mut trainer, mut unbroken) = (make(), make());
    for n in [1, 2] {
        assert_eq!(step(&mut trainer, n).unwrap().loss, step(&mut unbroken, n).unwrap().loss);
    }
    let before = replace(&mut trainer, tensor, value);
    let (kept, kept_moments) = (weights(&trainer), moments(&trainer));
    let error = step(&mut trainer, 3).unwrap_err().to_string();
    let advice = "lower the learning rate, or look at the examples of that step";
    assert_eq!(error, format!("{names} is not finite at step 3; {advice}"));
    let bits = |weights: &[Vec<f32>]| weights.concat().iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert!(bits(&weights(&trainer)) == bits(&kept) && moments(&trainer) == kept_moments, "{names}");

    replace(&mut trainer, tensor, before);
    let micro_batch = [data[12..16].iter().collect()];
    let accumulated = trainer.method_mut().accumulate(&micro_batch, 3).unwrap().loss;
    assert_eq!(accumulated, unbroken.method_mut().accumulate(&micro_batch, 3).unwrap().loss, "{names}");
    assert_eq!(step(&mut trainer, 3).unwrap().loss, step(&mut unbroken, 3).unwrap().loss, "{names}");
    assert!(weights(&trainer) == weights(&unbroken), "{names}: a step after the broken one");
}

#[test]
fn a_step_that_is_not_finite_names_the_buffer_and_leaves_the_weights_of_the_step_before() {
    let mut config = TrainConfig::default();
    for dropout in [0.0, 0.2] {
        config.lora = LoraConfig { dropout, ..LoraConfig::default() };
        let (base, encoder) = (small::base(), small::encoder_base());
        let broken = ("model.layers.1.mlp.up_proj.lora_B.weight", f32::NAN);
        let names = "the loss (first in `layers.1.up`)";
        breaks(|| sft(&base, &config), &small::sequences(&base), broken, names);
        breaks(|| dpo(&base, &config), &small::pairs(&base), broken, names);
        let broken = ("encoder.layer.1.attention.self.key.lora_B.weight", f32::INFINITY);
        let names = "the loss (first in `layers.1.k`)";
        breaks(|| triplets(&encoder, &config), &small::triplets(&encoder), broken, names);
    }
}

/// The update of the first module is zero, by `A`, and its gradient is beyond f32: the loss is the base's.
#[test]
fn a_gradient_that_is_not_finite_names_its_tensor_and_leaves_the_weights() {
    let base = small::base();
    let data = small::sequences(&base);
    let config = TrainConfig { lora: LoraConfig { alpha: 1e38, ..LoraConfig::default() }, ..TrainConfig::default() };
    let mut trainer = sft(&base, &config);
    let (device, trained) = trainer.method_mut().trained_mut();
    for tensor in trained {
        let value = if tensor.name == "model.layers.0.self_attn.q_proj.lora_B.weight" { 1e10 } else { 0.0 };
        let len = device.weight_shape(&tensor.weight).iter().product();
        device.write_weight(&mut tensor.weight, &vec![value; len]);
    }
    let (kept, kept_moments) = (weights(&trainer), moments(&trainer));
    let error = trainer.step(&[data[..4].iter().collect()], 1, 1e-3).unwrap_err().to_string();
    let expected = "the gradient of `model.layers.0.self_attn.q_proj.lora_A.weight` is not finite at step 1; lower the \
                    learning rate, or look at the examples of that step";
    assert_eq!(error, expected);
    assert!(weights(&trainer) == kept && moments(&trainer) == kept_moments);
}

#[test]
fn a_run_that_breaks_leaves_the_weights_of_the_step_before() {
    let base = small::base();
    let data = small::sequences(&base);
    let config = TrainConfig { learning_rate: 1e30, max_grad_norm: 0.0, ..TrainConfig::default() };
    let mut trainer = sft(&base, &config);
    let mut steps = 0;
    let error = trainer.train(&data, &[], None, &mut |event| {
        steps += usize::from(matches!(event, Event::Step(_)));
        ControlFlow::Continue(())
    });
    let error = error.unwrap_err().to_string();
    assert!(error.contains(&format!("is not finite at step {};", steps + 1)), "{error}");
    assert!(steps > 0, "the first step computes on the base");

    let mut stopped = sft(&base, &config);
    let mut left = steps;
    let stop = &mut |_: &Event| {
        left -= 1;
        if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    stopped.train(&data, &[], None, stop).unwrap();
    assert!(weights(&trainer) == weights(&stopped) && moments(&trainer) == moments(&stopped));
}
