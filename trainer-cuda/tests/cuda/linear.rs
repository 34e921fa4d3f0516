//! Linear layers of one input, their low-rank updates, and the gradients of both.

use crate::support::{BF16, On, Random, Results, SUM, Tolerance, assert_parity, cpu, gpu, stored};
use trainer_cuda::config::Precision;
use trainer_cuda::device::{Device, LowRank, Modules, PackedModule, PackedShape, Place, Trainable, UpdateGradient};
use trainer_cuda::formats::{BlockType, StoredTensor};

/// Layers of one input.
#[derive(Debug, Clone)]
struct Layers<const N: usize> {
    n_tokens: usize,
    in_features: usize,
    out_features: [usize; N],
    /// 0: no update.
    rank: [usize; N],
    bias: bool,
    /// How the file has the matrices; all but bf16 stay so.
    stored: BlockType,
}

impl<const N: usize> Layers<N> {
    fn packed(&self) -> PackedShape {
        let module = |i: usize| PackedModule {
            out_features: self.out_features[i],
            rank: self.rank[i],
            bias: self.bias,
            stored: self.stored,
            trained: false,
        };
        PackedShape {
            in_features: self.in_features,
            modules: (0..N).map(module).collect(),
            precision: self.precision(),
        }
    }

    fn precision(&self) -> Precision {
        if self.stored == BlockType::BF16 { Precision::Bf16 } else { Precision::Quantized }
    }

    /// What the optimiser's memory is planned for.
    fn trained(&self) -> Vec<usize> {
        let pair = |i: usize| [self.rank[i] * self.in_features, self.rank[i] * self.out_features[i]];
        (0..N).flat_map(pair).filter(|&len| len > 0).collect()
    }
}

/// A matrix as a GGUF file has it: blocks of random bytes, with scales that are numbers.
pub(crate) fn blocks(random: &mut Random, block: BlockType, rows: usize, cols: usize) -> StoredTensor<'static> {
    if block == BlockType::BF16 {
        return stored(&random.values(rows * cols), rows, cols);
    }
    let (values, bytes) = block.block();
    let half = |random: &mut Random| half::f16::from_f32(random.values(1)[0] / 16.0).to_le_bytes();
    let mut all = Vec::new();
    for _ in 0..rows * cols / values {
        let mut data: Vec<u8> = (0..bytes).map(|_| random.below(256) as u8).collect();
        // Scale, and minimum where there is one.
        let scales: &[usize] = match block {
            BlockType::F16 => &[0],
            BlockType::Q4_0 | BlockType::Q5_0 | BlockType::Q8_0 => &[0],
            BlockType::Q4_1 | BlockType::Q5_1 | BlockType::Q4K | BlockType::Q5K => &[0, 2],
            BlockType::Q6K => &[208],
            BlockType::F32 | BlockType::BF16 => &[],
        };
        for &at in scales {
            data[at..at + 2].copy_from_slice(&half(random));
        }
        if block == BlockType::F32 {
            data = random.values(1)[0].to_le_bytes().to_vec();
        }
        all.extend(data);
    }
    StoredTensor::new(vec![rows, cols], block, all)
}

fn layers<D: Device, const N: usize>(device: &D, layers: &Layers<N>) -> Results {
    let (on, mut random) = (On::new(device), Random(16));
    let &Layers { n_tokens, in_features, out_features, rank, bias, stored, .. } = layers;
    let shape = layers.packed();
    let packed = device.pack(&shape);
    let weights: [D::Weight; N] = std::array::from_fn(|i| {
        let tensor = blocks(&mut random, stored, out_features[i], in_features);
        device.upload_frozen(&tensor, layers.precision(), Place::Weight(&packed, i))
    });
    let biases: [Option<D::Weight>; N] = std::array::from_fn(|i| {
        bias.then(|| device.upload_vector(random.values(out_features[i]), Place::Bias(&packed, i)))
    });
    let mut trained: Vec<Trainable<D>> = Vec::new();
    let updates: [Option<(usize, usize)>; N] = std::array::from_fn(|i| {
        (rank[i] > 0).then(|| {
            let a = random.values(rank[i] * in_features);
            trained.push(on.trained(&a, rank[i], in_features, Place::A(&packed, i)));
            let b = random.values(out_features[i] * rank[i]);
            trained.push(on.trained(&b, out_features[i], rank[i], Place::B(&packed, i, 0.25)));
            (trained.len() - 2, trained.len() - 1)
        })
    });
    let ranks: usize = rank.iter().map(|rank| rank.next_multiple_of(8)).sum();
    let x_values = random.values(n_tokens * in_features);
    let [x] = on.acts([&x_values], [in_features], ranks);
    // The same in rows of another length: the place of what dropout left.
    let x_elsewhere = on.act(&x_values, in_features);
    let dy: [Vec<f32>; N] = std::array::from_fn(|i| random.values(n_tokens * out_features[i]));
    let dy = on.acts(dy.each_ref().map(Vec::as_slice), out_features, ranks);
    let empty: [Vec<f32>; N] = std::array::from_fn(|i| vec![7.0; n_tokens * out_features[i]]);
    let mut y = on.acts(empty.each_ref().map(Vec::as_slice), out_features, 0);
    let mut y_alone = on.acts(empty.each_ref().map(Vec::as_slice), out_features, 0);
    let adapted: Vec<usize> = (0..N).filter(|&i| rank[i] > 0).collect();
    // Low-rank values of all updates side by side, as the blocks have them.
    let low_rank = || -> Vec<Option<D::Act>> {
        let mut acts: Vec<Option<D::Act>> = (0..N).map(|_| None).collect();
        match adapted[..] {
            [] => {}
            [a] => {
                let [h] = on.acts([&vec![7.0; n_tokens * rank[a]]], [rank[a]], 0);
                acts[a] = Some(h);
            }
            [a, b] => {
                let (of_a, of_b) = (vec![7.0; n_tokens * rank[a]], vec![7.0; n_tokens * rank[b]]);
                let [h_a, h_b] = on.acts([&of_a, &of_b], [rank[a], rank[b]], 0);
                (acts[a], acts[b]) = (Some(h_a), Some(h_b));
            }
            [a, b, c] => {
                let of = [a, b, c].map(|i| vec![7.0; n_tokens * rank[i]]);
                let [h_a, h_b, h_c] = on.acts(of.each_ref().map(Vec::as_slice), [rank[a], rank[b], rank[c]], 0);
                (acts[a], acts[b], acts[c]) = (Some(h_a), Some(h_b), Some(h_c));
            }
            _ => unreachable!(),
        }
        acts
    };
    let (mut h, mut d_h) = (low_rank(), low_rank());
    let residual_of = |width: usize, random: &mut Random| on.act(&random.values(n_tokens * width), width);
    let residual = (N == 1).then(|| residual_of(out_features[0], &mut random));
    let d_residual = residual_of(in_features, &mut random);
    let (mut dx, mut dx_alone) = (on.out(n_tokens, in_features), on.out(n_tokens, in_features));

    let low_rank: [Option<LowRank<'_, D>>; N] = std::array::from_fn(|i| {
        updates[i].map(|(a, b)| LowRank { a: &trained[a].weight, b: &trained[b].weight, scaling: 0.25 })
    });
    let modules =
        Modules { packed: &packed, weight: weights.each_ref(), bias: biases.each_ref().map(Option::as_ref), low_rank };
    fn some<T, const N: usize>(acts: &[Option<T>]) -> [Option<&T>; N] {
        std::array::from_fn(|i| acts[i].as_ref())
    }
    fn some_mut<T, const N: usize>(acts: &mut [Option<T>]) -> [Option<&mut T>; N] {
        let mut acts = acts.iter_mut();
        std::array::from_fn(|_| acts.next().and_then(Option::as_mut))
    }
    device.linear_forward(y_alone.each_mut(), &x, [None; N], &modules, None, n_tokens);
    if !adapted.is_empty() {
        device.low_rank_forward(some_mut(&mut h), &x_elsewhere, &x, &modules, n_tokens);
    }
    device.linear_forward(y.each_mut(), &x, some(&h), &modules, residual.as_deref(), n_tokens);
    device.linear_backward_input(&mut dx_alone, dy.each_ref(), [None; N], &modules, None, n_tokens);
    if !adapted.is_empty() {
        device.low_rank_backward(some_mut(&mut d_h), dy.each_ref(), &modules, n_tokens);
    }
    device.linear_backward_input(&mut dx, dy.each_ref(), some(&d_h), &modules, Some(&d_residual), n_tokens);

    let mut results: Results = vec![("dx", on.read(&dx)), ("dx without updates", on.read(&dx_alone))];
    for (i, out) in out_features.into_iter().enumerate() {
        results.push(("y", on.read_act(&y[i], n_tokens, out)));
        results.push(("y without updates", on.read_act(&y_alone[i], n_tokens, out)));
    }
    let values = trained.iter().map(|tensor| device.read_weight(&tensor.weight).len()).collect::<Vec<_>>();
    for (tensor, &len) in trained.iter_mut().zip(&values) {
        device.write_f32(&mut tensor.grad, &random.values(len));
    }
    let gradients: Vec<_> = adapted
        .iter()
        .map(|&i| {
            let (a, b) = updates[i].expect("an update");
            let (h, d_h) = (h[i].as_ref().expect("h"), d_h[i].as_ref().expect("d_h"));
            UpdateGradient { a, b, scaling: 0.25, dy: &dy[i], x: &x, h, d_h }
        })
        .collect();
    device.low_rank_gradients(&mut trained, &gradients, n_tokens);
    for &i in &adapted {
        results.push(("h", on.read_act(h[i].as_ref().expect("h"), n_tokens, rank[i])));
        results.push(("d_h", on.read_act(d_h[i].as_ref().expect("d_h"), n_tokens, rank[i])));
        let (a, b) = updates[i].expect("an update");
        results.push(("d_a", device.read_f32(&trained[a].grad, rank[i] * in_features)));
        results.push(("d_b", device.read_f32(&trained[b].grad, rank[i] * out_features[i])));
        let mut dropped = on.out(n_tokens, in_features);
        device.low_rank_input(&mut dropped, d_h[i].as_ref().expect("d_h"), &trained[a].weight, n_tokens);
        results.push(("the update's part of dx", on.read(&dropped)));
    }
    results
}

#[track_caller]
fn agree<const N: usize>(case: &Layers<N>) {
    let cuda = gpu(&case.trained(), &[case.packed()]);
    // h and d_h are rounded to bf16, and s B is; blocks are dequantised to bf16. Errors of 2^-9 in each term of the sums that
    // follow, whose signs fall as they do.
    let quantised = if case.stored == BlockType::BF16 { 0.0 } else { BF16 };
    assert_parity(&format!("{case:?}"), &layers(&cuda, case), &layers(&cpu(), case), |name| match name {
        "y without updates" | "dx without updates" => Tolerance { relative: BF16, of_largest: SUM + quantised },
        _ => Tolerance { relative: BF16, of_largest: BF16 / 2.0 + quantised },
    });
}

const PLAIN: BlockType = BlockType::BF16;

#[test]
fn three_layers_of_one_input_agree() {
    let rank = [8, 8, 8];
    agree(&Layers { n_tokens: 123, in_features: 72, out_features: [72, 24, 24], rank, bias: false, stored: PLAIN });
    let rank = [5, 0, 16];
    agree(&Layers { n_tokens: 37, in_features: 515, out_features: [123, 20, 9], rank, bias: true, stored: PLAIN });
}

#[test]
fn two_layers_of_one_input_agree() {
    let rank = [16, 16];
    agree(&Layers { n_tokens: 130, in_features: 64, out_features: [192, 192], rank, bias: false, stored: PLAIN });
    let rank = [0, 0];
    agree(&Layers { n_tokens: 5, in_features: 33, out_features: [17, 40], rank, bias: true, stored: PLAIN });
}

#[test]
fn a_layer_with_a_residual_agrees() {
    for (n_tokens, in_features, out, rank) in
        [(123, 515, 123, 8), (9, 64, 576, 64), (64, 200, 31, 3), (1, 8, 1, 40), (5, 24, 10, 40)]
    {
        let layers = Layers { n_tokens, in_features, out_features: [out], rank: [rank], bias: false, stored: PLAIN };
        agree(&layers);
    }
    agree(&Layers { n_tokens: 20, in_features: 40, out_features: [51], rank: [0], bias: true, stored: PLAIN });
}

#[test]
fn a_layer_of_many_tokens_agrees() {
    // Two and four groups of warps, each with tokens of its own, share a factor.
    for n_tokens in [4113, 8200] {
        agree(&Layers { n_tokens, in_features: 40, out_features: [9], rank: [8], bias: false, stored: PLAIN });
    }
}

#[test]
fn layers_whose_blocks_stay_as_they_are_agree() {
    for stored in [BlockType::Q4_0, BlockType::Q8_0, BlockType::Q5_1] {
        agree(&Layers { n_tokens: 33, in_features: 96, out_features: [64, 24], rank: [8, 8], bias: true, stored });
    }
    for stored in [BlockType::Q4K, BlockType::Q6K] {
        agree(&Layers { n_tokens: 17, in_features: 256, out_features: [48], rank: [4], bias: false, stored });
    }
}

fn full<D: Device>(device: &D, (n_tokens, in_features, out_features): (usize, usize, usize)) -> Results {
    let (on, mut random) = (On::new(device), Random(17));
    let x = on.act(&random.values(n_tokens * in_features), in_features);
    let dy = on.act(&random.values(n_tokens * out_features), out_features);
    let mut d_weight = on.f32(&random.values(out_features * in_features));
    let mut d_bias = on.f32(&random.values(out_features));
    device.linear_backward_weight(&mut d_weight, &dy, &x, out_features, in_features, n_tokens);
    device.linear_backward_bias(&mut d_bias, &dy, out_features, n_tokens);
    vec![
        ("d_weight", on.read_f32(&d_weight, out_features * in_features)),
        ("d_bias", on.read_f32(&d_bias, out_features)),
    ]
}

#[test]
fn gradients_of_whole_matrices_agree() {
    let cuda = gpu(&[], &[]);
    for shape in [(123, 515, 60), (600, 64, 33), (1, 8, 8), (40, 30, 200)] {
        let case = format!("linear_backward {shape:?}");
        assert_parity(&case, &full(&cuda, shape), &full(&cpu(), shape), |_| Tolerance::F32);
    }
}

/// Outputs and ranks of updates of one input.
const UPDATES: [(usize, usize); 4] = [(300, 5), (130, 70), (300, 8), (9, 64)];
const UPDATES_IN: usize = 1000;

fn update_gradients<D: Device>(device: &D, n_tokens: usize) -> Results {
    let (on, mut random) = (On::new(device), Random(23));
    let x = on.act(&random.values(n_tokens * UPDATES_IN), UPDATES_IN);
    let mut trained: Vec<Trainable<D>> = Vec::new();
    let mut acts = Vec::new();
    for (out, rank) in UPDATES {
        for (rows, cols) in [(rank, UPDATES_IN), (out, rank)] {
            let mut tensor = on.trained(&random.values(rows * cols), rows, cols, Place::Matrix);
            device.write_f32(&mut tensor.grad, &random.values(rows * cols));
            trained.push(tensor);
        }
        acts.push([out, rank, rank].map(|width| on.act(&random.values(n_tokens * width), width)));
    }
    let gradients: Vec<_> = acts
        .iter()
        .enumerate()
        .map(|(i, [dy, h, d_h])| UpdateGradient::<D> { a: 2 * i, b: 2 * i + 1, scaling: 0.25, dy, x: &x, h, d_h })
        .collect();
    device.low_rank_gradients(&mut trained, &gradients, n_tokens);
    device.check().expect("no failure");
    let of = |i: usize, len: usize| device.read_f32(&trained[i].grad, len);
    let both = UPDATES
        .iter()
        .enumerate()
        .flat_map(|(i, &(out, rank))| [("d_a", of(2 * i, rank * UPDATES_IN)), ("d_b", of(2 * i + 1, out * rank))]);
    both.collect()
}

#[test]
fn gradients_of_updates_agree() {
    let trained: Vec<usize> = UPDATES.iter().flat_map(|&(out, rank)| [rank * UPDATES_IN, out * rank]).collect();
    // A step of 32 tokens for each split of them, and up to four.
    for n_tokens in [45, 970] {
        let [gpu, cpu] = [update_gradients(&gpu(&trained, &[]), n_tokens), update_gradients(&cpu(), n_tokens)];
        assert_parity(&format!("gradients of updates over {n_tokens} tokens"), &gpu, &cpu, |_| Tolerance::F32);
    }
}
