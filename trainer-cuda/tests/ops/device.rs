//! Buffers and names.

use trainer_cuda::cpu::{Cpu, SimdLevel};
use trainer_cuda::device::{Device, Place, Trainable};

use crate::support::weight;

#[test]
fn describes_threads_and_instructions() {
    let level = *SimdLevel::available().last().unwrap();
    let name = if cfg!(target_arch = "aarch64") { "neon" } else { "portable" };
    assert_eq!(Cpu::with_simd(Some(1), level).describe(), format!("cpu (1 thread, {name})"));
    assert_eq!(Cpu::with_simd(Some(2), level).describe(), format!("cpu (2 threads, {name})"));
}

#[test]
fn writes_touch_the_front_only() {
    let cpu = Cpu::new(Some(1));
    let mut values = cpu.alloc_f32(4);
    cpu.write_f32(&mut values, &[1.0, 2.0, 3.0]);
    cpu.write_f32(&mut values, &[0.0]);
    assert_eq!(cpu.read_f32(&values, 4), [0.0, 2.0, 3.0, 0.0]);

    let mut sums = cpu.alloc_f64(3);
    cpu.write_f64(&mut sums, &[1e300, 2.0]);
    assert_eq!(cpu.read_f64(&sums, 3), [1e300, 2.0, 0.0]);

    let mut activations = cpu.alloc_act(3, 1);
    cpu.write_act(&mut activations, &[4.0, 5.0]);
    assert_eq!(cpu.read_act(&activations, 3), [4.0, 5.0, 0.0]);

    let mut indices = cpu.alloc_index(3);
    cpu.write_index(&mut indices, &[7, 8]);
    assert_eq!(cpu.read_index(&indices, 3), [7, 8, 0]);

    let mut weight = weight(&cpu, &[1.0; 6], 2, 3);
    cpu.write_weight(&mut weight, &[2.0; 6]);
    assert_eq!((cpu.weight_shape(&weight), cpu.read_weight(&weight)), ([2, 3], vec![2.0; 6]));
}

#[test]
fn activations_side_by_side_are_buffers_of_their_own() {
    let cpu = Cpu::new(Some(1));
    let [mut a, mut b, c] = cpu.alloc_acts(2, [1, 3, 2], 5);
    cpu.write_act(&mut a, &[1.0, 2.0]);
    cpu.write_act(&mut b, &[3.0, 4.0, 5.0, 6.0]);
    assert_eq!(cpu.read_act(&a, 2), [1.0, 2.0]);
    assert_eq!(cpu.read_act(&b, 6), [3.0, 4.0, 5.0, 6.0, 0.0, 0.0]);
    assert_eq!(cpu.read_act(&c, 4), [0.0; 4]);
}

#[test]
fn a_frozen_vector_and_a_trained_tensor_are_what_was_uploaded() {
    let cpu = Cpu::new(Some(1));
    let vector = cpu.upload_vector(vec![1.0, 2.0, 3.0], Place::Vector);
    assert_eq!((cpu.weight_shape(&vector), cpu.read_weight(&vector)), ([1, 3], vec![1.0, 2.0, 3.0]));

    let Trainable { name, weight, grad, exp_avg, exp_avg_sq } =
        cpu.upload_trained("layers.0.w".into(), vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2, 3, Place::Matrix);
    assert_eq!(name, "layers.0.w");
    assert_eq!((cpu.weight_shape(&weight), cpu.read_weight(&weight)), ([2, 3], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
    for zeros in [grad, exp_avg, exp_avg_sq] {
        assert_eq!(cpu.read_f32(&zeros, 6), [0.0; 6]);
    }
}

#[test]
fn append_rows_overwrites_the_rows_from_a_position_on() {
    let cpu = Cpu::new(Some(1));
    let mut cache = vec![0.0; 8];
    cpu.append_rows(&mut cache, &vec![1.0, 2.0, 3.0, 4.0, 99.0], 1, 2, 2);
    assert_eq!(cache, [0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 0.0, 0.0]);
}
