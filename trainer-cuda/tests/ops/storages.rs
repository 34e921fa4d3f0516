//! Products with a frozen matrix in each way of storing it: against f64, at every SIMD level.

use half::{bf16, f16};
use trainer_cuda::config::Precision;
use trainer_cuda::cpu::{Cpu, SimdLevel};
use trainer_cuda::device::{CrossEntropyGrad, Device, Place};
use trainer_cuda::formats::{BlockType, StoredTensor};

use crate::linear::{product, rounding};
use crate::support::{Random, assert_near, at_every_level, edges, output, single, take, wide};

/// Tokens, out, in: single elements, shapes that no tile, pair or panel divides, several blocks of K in f32 (over 768)
/// and in pairs (over 1536), K beyond what is packed of A at a time (4096 in pairs), more rows than that (2048).
const SHAPES: [[usize; 3]; 9] = [
    [1, 1, 1],
    [1, 130, 601],
    [5, 49, 1100],
    [50, 33, 17],
    [61, 17, 1601],
    [123, 515, 77],
    [3, 4500, 19],
    [9, 20, 5003],
    [2100, 3, 5],
];

/// As [`SHAPES`], with columns in whole blocks of 32, or of 256: three and a half, or eleven panels.
const BLOCK_SHAPES: [[usize; 3]; 4] = [[1, 130, 512], [7, 49, 1280], [61, 600, 256], [100, 17, 2816]];

/// A matrix in a file's element type, and how it is uploaded.
struct Storage {
    block: BlockType,
    precision: Precision,
}

const F32: Storage = Storage { block: BlockType::F32, precision: Precision::F32 };
const BF16: Storage = Storage { block: BlockType::F32, precision: Precision::Bf16 };

/// Every storage for which a shape's rows are whole blocks.
fn storages(cols: usize) -> impl Iterator<Item = Storage> {
    use BlockType as B;
    let types = [B::F32, B::F16, B::BF16, B::Q4_0, B::Q4_1, B::Q5_0, B::Q5_1, B::Q8_0, B::Q4K, B::Q5K, B::Q6K];
    let quantized = types.into_iter().filter(move |block| cols.is_multiple_of(block.block().0));
    let quantized = quantized.map(|block| Storage { block, precision: Precision::Quantized });
    let dequantized = [Storage { block: B::Q8_0, precision: Precision::F32 }];
    let dequantized = dequantized.into_iter().filter(move |_| cols.is_multiple_of(32));
    [F32, BF16].into_iter().chain(quantized).chain(dequantized)
}

impl Storage {
    /// Random blocks, of values around one.
    fn tensor(&self, random: &mut Random, rows: usize, cols: usize) -> StoredTensor<'static> {
        use BlockType as B;
        let (values, bytes) = self.block.block();
        let scales = match self.block {
            B::F32 | B::F16 | B::BF16 => {
                let values = random.values(rows * cols);
                let encode = |x: &f32| match self.block {
                    B::F32 => x.to_le_bytes().to_vec(),
                    B::F16 => f16::from_f32(*x).to_le_bytes().to_vec(),
                    _ => bf16::from_f32(*x).to_le_bytes().to_vec(),
                };
                let bytes = values[..rows * cols].iter().flat_map(encode).collect();
                return StoredTensor::new(vec![rows, cols], self.block, bytes);
            }
            B::Q4_0 | B::Q5_0 => [(0, 1.0 / 8.0); 2],
            B::Q4_1 => [(0, 1.0 / 16.0), (2, -0.5)],
            B::Q5_1 => [(0, 1.0 / 32.0), (2, -0.5)],
            B::Q8_0 => [(0, 1.0 / 128.0); 2],
            B::Q4K | B::Q5K => [(0, 1.0 / 1024.0), (2, 1.0 / 64.0)],
            B::Q6K => [(208, 1.0 / 4096.0); 2],
        };
        let mut data: Vec<u8> = (0..rows * cols / values * bytes).map(|_| random.below(256) as u8).collect();
        for block in data.chunks_exact_mut(bytes) {
            for (at, scale) in scales {
                block[at..at + 2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
            }
        }
        StoredTensor::new(vec![rows, cols], self.block, data)
    }

    /// The values that products see.
    fn weights(&self, tensor: &StoredTensor<'_>) -> Vec<f32> {
        let values = tensor.to_host().data;
        match self.precision {
            Precision::Bf16 => values.iter().map(|&x| bf16::from_f32(x).to_f32()).collect(),
            _ => values,
        }
    }

    /// The activations that products see: rounded only where bf16 is asked for and the processor multiplies it.
    fn activations(&self, level: SimdLevel, values: &[f32]) -> Vec<f32> {
        let rounds = self.precision == Precision::Bf16 && level.multiplies_bf16();
        values.iter().map(|&x| if rounds { bf16::from_f32(x).to_f32() } else { x }).collect()
    }

    fn upload(&self, cpu: &Cpu, tensor: &StoredTensor<'_>) -> <Cpu as Device>::Weight {
        cpu.upload_frozen(tensor, self.precision, Place::Matrix)
    }

    fn name(&self) -> String {
        format!("{:?} as {:?}", self.block, self.precision)
    }
}

/// Every shape with every storage that it has.
fn cases() -> impl Iterator<Item = ([usize; 3], Storage)> {
    let shapes = SHAPES.into_iter().chain(BLOCK_SHAPES);
    shapes.flat_map(|shape| storages(shape[2]).map(move |storage| (shape, storage)))
}

#[test]
fn forward_is_the_product_with_every_storage() {
    for ([n_tokens, out, inp], storage) in cases() {
        let mut random = Random(80);
        let tensor = storage.tensor(&mut random, out, inp);
        let (w, x) = (storage.weights(&tensor), random.values(n_tokens * inp));
        for (level, result) in at_every_level(|cpu| {
            let mut y = output(n_tokens * out);
            cpu.linear_forward([&mut y], &x, [None], &single(&storage.upload(cpu, &tensor)), None, n_tokens);
            vec![take(y, n_tokens * out)]
        }) {
            let x = storage.activations(level, &x);
            let (want, magnitude) =
                product([n_tokens, out, inp], |t, i| x[t * inp + i].into(), |i, o| w[o * inp + i].into());
            let what = format!("{} at {level}, y of {n_tokens} x {out} x {inp}", storage.name());
            assert_near(&what, &result[0], &want, rounding(inp, &magnitude));
        }
    }
}

#[test]
fn backward_input_is_the_product_with_every_storage() {
    for ([n_tokens, out, inp], storage) in cases() {
        let mut random = Random(81);
        let tensor = storage.tensor(&mut random, out, inp);
        let (w, dy, residual) =
            (storage.weights(&tensor), random.values(n_tokens * out), random.values(n_tokens * inp));
        for (level, result) in at_every_level(|cpu| {
            let weight = storage.upload(cpu, &tensor);
            let (mut dx, mut dx_sum) = (output(n_tokens * inp), output(n_tokens * inp));
            cpu.linear_backward_input(&mut dx, [&dy], [None], &single(&weight), None, n_tokens);
            cpu.linear_backward_input(&mut dx_sum, [&dy], [None], &single(&weight), Some(&residual), n_tokens);
            vec![take(dx, n_tokens * inp), take(dx_sum, n_tokens * inp)]
        }) {
            let dy = storage.activations(level, &dy);
            let (want, magnitude) =
                product([n_tokens, inp, out], |t, o| dy[t * out + o].into(), |o, i| w[o * inp + i].into());
            let what = format!("{} at {level}, dx of {n_tokens} x {out} x {inp}", storage.name());
            assert_near(&what, &result[0], &want, rounding(out, &magnitude));
            let want: Vec<f64> = want.iter().zip(&residual).map(|(dx, &residual)| dx + f64::from(residual)).collect();
            assert_near(&format!("{what} with a residual"), &result[1], &want, rounding(out, &magnitude));
        }
    }
}

#[test]
fn a_row_is_the_same_whatever_rows_are_beside_it() {
    let (n_tokens, out, inp) = (67, 70, 1792);
    for storage in storages(inp) {
        let mut random = Random(82);
        let tensor = storage.tensor(&mut random, out, inp);
        let (x, dy) = (random.values(n_tokens * inp), random.values(n_tokens * out));
        at_every_level(|cpu| {
            let weight = storage.upload(cpu, &tensor);
            let run = |first: usize, n: usize| {
                let (mut y, mut dx) = (vec![0.0; n * out], vec![0.0; n * inp]);
                let (x, dy) = (x[first * inp..].to_vec(), dy[first * out..].to_vec());
                cpu.linear_forward([&mut y], &x, [None], &single(&weight), None, n);
                cpu.linear_backward_input(&mut dx, [&dy], [None], &single(&weight), None, n);
                (y, dx)
            };
            let (y, dx) = run(0, n_tokens);
            for (first, n) in [(0, 1), (66, 1), (3, 7), (20, 40)] {
                let (some_y, some_dx) = run(first, n);
                assert!(some_y == y[first * out..][..n * out], "{}: y of {n} rows", storage.name());
                assert!(some_dx == dx[first * inp..][..n * inp], "{}: dx of {n} rows", storage.name());
            }
            vec![y, dx]
        });
    }
}

#[test]
fn rows_are_read_back_exactly() {
    for ([_, rows, cols], storage) in cases() {
        let tensor = storage.tensor(&mut Random(83), rows, cols);
        let want = storage.weights(&tensor);
        let ids: Vec<u32> = [0, rows - 1, rows / 2, 0].map(|row| row as u32).to_vec();
        at_every_level(|cpu| {
            let weight = storage.upload(cpu, &tensor);
            assert_eq!(cpu.weight_shape(&weight), [rows, cols]);
            assert!(cpu.read_weight(&weight) == want, "{}: {rows} x {cols}", storage.name());
            let mut y = output(4 * cols);
            cpu.embedding_forward(&mut y, &[(&ids, &weight)], 4);
            let y = take(y, 4 * cols);
            for (&id, y) in ids.iter().zip(y.chunks_exact(cols)) {
                assert!(y == &want[id as usize * cols..][..cols], "{}: row {id}", storage.name());
            }
            vec![y]
        });
    }
}

#[test]
fn a_head_of_every_storage_scores_and_gives_the_gradient() {
    let (n_rows, vocab, hidden) = (5, 1030, 256);
    for storage in storages(hidden) {
        let mut random = Random(84);
        let tensor = storage.tensor(&mut random, vocab, hidden);
        let (w, x) = (storage.weights(&tensor), random.values(n_rows * hidden));
        let targets: Vec<Vec<u32>> = (0..n_rows).map(|_| vec![random.below(vocab) as u32]).collect();
        for (level, result) in at_every_level(|cpu| {
            let (head, edges) = (storage.upload(cpu, &tensor), edges(cpu, &targets));
            let (mut logprob, mut argmax, mut logits) = (output(n_rows), vec![0; n_rows], output(2 * vocab));
            let (mut d_x, d_logprob) = (output(n_rows * hidden), vec![1.0; n_rows]);
            let grad = CrossEntropyGrad { d_logprob: &d_logprob, d_x: &mut d_x, d_head: None };
            cpu.linear_cross_entropy(&mut logprob, &mut argmax, &mut logits, &x, &head, &edges, n_rows, 2, Some(grad));
            vec![take(logprob, n_rows), take(d_x, n_rows * hidden)]
        }) {
            let x = wide(&storage.activations(level, &x), n_rows * hidden);
            for r in 0..n_rows {
                let dot = |o: usize| (0..hidden).map(|i| x[r * hidden + i] * f64::from(w[o * hidden + i])).sum::<f64>();
                let logits: Vec<f64> = (0..vocab).map(dot).collect();
                let lse = logits.iter().map(|logit| logit.exp()).sum::<f64>().ln();
                let want = logits[targets[r][0] as usize] - lse;
                // Logits up to 40 are sums of 256 products: 256 roundings of 2^-24 of some 60.
                let what = format!("{} at {level}, row {r}", storage.name());
                assert_near(&what, &result[0][r..=r], &[want], |_| 1e-3);

                let p = |o: usize| (logits[o] - lse).exp();
                let d_logit = |o: usize| f64::from(u8::from(targets[r][0] as usize == o)) - p(o);
                let d_x = (0..hidden).map(|i| (0..vocab).map(|o| d_logit(o) * f64::from(w[o * hidden + i])).sum());
                let want: Vec<f64> = d_x.collect();
                // The gradient of the logits is rounded to bf16 as activations are: 2^-8 each of at most two in sum.
                let rounds = storage.precision == Precision::Bf16 && level.multiplies_bf16();
                let tolerance = if rounds { 2.0 / 256.0 } else { 1e-3 };
                assert_near(&what, &result[1][r * hidden..][..hidden], &want, |_| tolerance);
            }
        }
    }
}

#[test]
fn bf16_takes_half_of_f32s_bytes_and_blocks_those_of_the_file() {
    // What a storage costs is seen in the process: 64 MiB of f32, its halves, and its 4-bit blocks.
    let tensor = Storage { block: BlockType::Q4_0, precision: Precision::F32 }.tensor(&mut Random(85), 4096, 4096);
    let cpu = Cpu::new(Some(1));
    let mebibytes =
        |precision| cpu.upload_frozen(&tensor, precision, Place::Matrix).bytes() as f64 / f64::from(1 << 20);
    assert_eq!(mebibytes(Precision::F32), 64.0);
    assert_eq!(mebibytes(Precision::Bf16), 32.0);
    assert_eq!(mebibytes(Precision::Quantized), 9.0);
}
