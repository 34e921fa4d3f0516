//! Parameters on their way to the device and back.

use crate::linear::blocks;
use crate::support::{Random, gpu};
use trainer_cuda::config::Precision;
use trainer_cuda::device::{Device, Place};
use trainer_cuda::formats::BlockType;

#[test]
fn every_block_type_is_rounded_to_bf16_as_on_the_host() {
    use BlockType::{BF16, F16, F32, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
    let cuda = gpu(&[], &[]);
    let mut random = Random(18);
    for block in [F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4K, Q5K, Q6K] {
        // Blocks of one value are read eight at a time, and what is left.
        let (rows, cols) = (13, (block.block().0 * 3).max(19));
        let tensor = blocks(&mut random, block, rows, cols);
        let weight = cuda.upload_frozen(&tensor, Precision::Bf16, Place::Matrix);
        let want: Vec<f32> = tensor.to_host().data.iter().map(|&value| half::bf16::from_f32(value).to_f32()).collect();
        assert_eq!(cuda.weight_shape(&weight), [rows, cols]);
        assert_eq!(cuda.read_weight(&weight), want, "{block:?}");
    }
}

#[test]
fn a_tensor_of_more_than_the_staging_memory_arrives_whole() {
    let cuda = gpu(&[], &[]);
    let (rows, cols) = (3000, 1501); // 9 MB of bf16: two parts
    let tensor = blocks(&mut Random(19), BlockType::BF16, rows, cols);
    let weight = cuda.upload_frozen(&tensor, Precision::Bf16, Place::Matrix);
    assert!(cuda.read_weight(&weight) == tensor.to_host().data);
}
