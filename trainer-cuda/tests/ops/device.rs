//! Buffers and names.

use trainer_cuda::cpu::{Cpu, SimdLevel};
use trainer_cuda::device::Device;

#[test]
fn describes_threads_and_instructions() {
    let level = *SimdLevel::available().last().unwrap();
    let name = if cfg!(target_arch = "aarch64") { "neon" } else { "portable" };
    assert_eq!(Cpu::with_simd(Some(1), level).describe(), format!("cpu (1 thread, {name})"));
    assert_eq!(Cpu::with_simd(Some(2), level).describe(), format!("cpu (2 threads, {name})"));
}

#[test]
fn writes_and_zeroes_touch_the_front_only() {
    let cpu = Cpu::new(Some(1));
    let mut values = cpu.alloc_f32(4);
    cpu.write_f32(&mut values, &[1.0, 2.0, 3.0]);
    cpu.zero_f32(&mut values, 1);
    assert_eq!(cpu.read_f32(&values, 4), [0.0, 2.0, 3.0, 0.0]);

    let mut activations = cpu.alloc_act(3);
    cpu.write_act(&mut activations, &[4.0, 5.0]);
    assert_eq!(cpu.read_act(&activations, 3), [4.0, 5.0, 0.0]);

    let mut indices = cpu.alloc_index(3);
    cpu.write_index(&mut indices, &[7, 8]);
    assert_eq!(cpu.read_index(&indices, 3), [7, 8, 0]);

    let mut weight = cpu.upload_weight(vec![1.0; 6], 2, 3);
    cpu.write_weight(&mut weight, &[2.0; 6]);
    assert_eq!(cpu.read_weight(&weight), [2.0; 6]);
}

#[test]
fn append_rows_overwrites_the_rows_from_a_position_on() {
    let cpu = Cpu::new(Some(1));
    let mut cache = vec![0.0; 8];
    cpu.append_rows(&mut cache, &vec![1.0, 2.0, 3.0, 4.0, 99.0], 1, 2, 2);
    assert_eq!(cache, [0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 0.0, 0.0]);
}
