//! The losses of SFT, DPO and triplets, and their derivatives.

use crate::support::{BF16, On, Random, Results, Tolerance, assert_parity, cpu, gpu};
use trainer_cuda::config::{Distance, TripletConfig};
use trainer_cuda::device::{Device, EdgeBuffers, LOG_COLUMNS, PairBuffers, StepState, TripletBuffers};

fn sums<D: Device>(device: &D, state: &StepState<D>) -> Vec<f32> {
    let sums = device.read_f64(&state.sums, LOG_COLUMNS).iter().map(|&sum| sum as f32).collect();
    device.check().expect("no failure");
    sums
}

/// Rows of one edge and two, with what is behind them for no row.
fn edges<D: Device>(on: &On<'_, D>, n_rows: usize) -> (EdgeBuffers<D>, usize) {
    let starts: Vec<u32> = (0..=n_rows as u32).map(|row| row + row / 2).collect();
    let n_edges = starts[n_rows] as usize;
    (EdgeBuffers { edge_start: on.index(&starts), edge_target: on.index(&vec![0; n_edges]) }, n_edges)
}

fn sft_loss<D: Device>(device: &D, n_rows: usize) -> Results {
    let (on, mut random) = (On::new(device), Random(12));
    let (edges, n_edges) = edges(&on, n_rows);
    let (logprob, d_logprob) = (on.f32_input(&random.values(n_edges)), on.f32_input(&random.values(n_edges)));
    let mut state = on.step_state(1);
    for _ in 0..2 {
        device.sft_loss(&mut state, &logprob, &d_logprob, &edges, n_rows);
    }
    vec![("sums", sums(device, &state))]
}

#[test]
fn sft_losses_agree() {
    let cuda = gpu(&[], &[]);
    for n_rows in [1, 77, 2500] {
        let case = format!("sft_loss of {n_rows} rows");
        assert_parity(&case, &sft_loss(&cuda, n_rows), &sft_loss(&cpu(), n_rows), |_| Tolerance::F32);
    }
}

/// Pairs whose sequences have one edge in `rarity`, but for one of none.
#[derive(Debug, Clone, Copy)]
struct Pairs {
    n: usize,
    rarity: usize,
    empty: usize,
}

fn dpo_loss<D: Device>(device: &D, Pairs { n: n_pairs, rarity, empty }: Pairs) -> Results {
    let (on, mut random) = (On::new(device), Random(13));
    let n_rows = if rarity < 100 { 40 * n_pairs } else { 300 };
    let (edges, n_edges) = edges(&on, n_rows);
    // Sequences share edges with others; the second pair's are the same.
    let mut sequences: Vec<Vec<u32>> = (0..2 * n_pairs)
        .map(|sequence| (0..n_edges as u32).filter(|_| sequence != empty && random.below(rarity) == 0).collect())
        .collect();
    let mut reference: Vec<f64> = random.values(2 * n_pairs).iter().map(|&x| 4.0 * f64::from(x)).collect();
    if n_pairs > 1 {
        sequences[3] = sequences[2].clone();
        reference[3] = reference[2];
    }
    let starts = sequences.iter().scan(0, |end, sequence| {
        *end += sequence.len() as u32;
        Some(*end)
    });
    let starts: Vec<u32> = [0].into_iter().chain(starts).collect();
    let members = sequences.concat();
    let mut pairs = PairBuffers {
        example_start: on.index(&starts),
        example_edges: on.index(&members),
        reference: device.alloc_f64(2 * n_pairs),
        n_pairs: on.index(&[n_pairs as u32]),
        n_step: on.f32_input(&[(n_pairs + 3) as f32]),
    };
    device.write_f64(&mut pairs.reference, &reference);
    // As log-probabilities are: sums of a few units.
    let logprob: Vec<f32> = random.values(n_edges).iter().map(|x| x / 8.0).collect();
    let (logprob, mut d_logprob) = (on.f32_input(&logprob), on.f32_out(n_edges));
    let mut state = on.step_state(1);
    for _ in 0..2 {
        device.dpo_loss(&mut state, &mut d_logprob, &logprob, &mut pairs, &edges, 0.25, n_rows);
    }
    vec![("sums", sums(device, &state)), ("d_logprob", on.read_f32(&d_logprob, n_edges))]
}

#[test]
fn dpo_losses_agree() {
    let cuda = gpu(&[], &[]);
    // The first and the last sequence are empty ones; more pairs than the threads of a block.
    for (n, rarity, empty) in [(1, 3, 7), (3, 3, 0), (40, 5, 79), (1030, 400, 4)] {
        let pairs = Pairs { n, rarity, empty };
        let [gpu, cpu] = [dpo_loss(&cuda, pairs), dpo_loss(&cpu(), pairs)];
        assert_parity(&format!("dpo_loss of {pairs:?}"), &gpu, &cpu, |_| Tolerance::F32);
    }
}

/// Embeddings of up to `scale`.
fn triplet_loss<D: Device>(
    device: &D,
    config: TripletConfig,
    scale: f32,
    (n_triplets, hidden): (usize, usize),
) -> Results {
    let (on, mut random) = (On::new(device), Random(14));
    // Texts are in several triplets, and one is its own positive.
    let n_segments = n_triplets + 2;
    let mut segments = random.indices(3 * n_triplets, n_segments - 1);
    segments[1] = segments[0];
    let triplets = TripletBuffers {
        segments: on.index(&segments),
        n_triplets: on.index(&[n_triplets as u32]),
        n_step: on.f32_input(&[(n_triplets + 1) as f32]),
    };
    let embeddings: Vec<f32> = random.values(n_segments * hidden).iter().map(|x| x * scale).collect();
    let embeddings = on.act(&embeddings, hidden);
    let mut d_embeddings = on.out(n_segments, hidden);
    let mut state = on.step_state(1);
    for _ in 0..2 {
        device.triplet_loss(&mut state, &mut d_embeddings, &embeddings, &triplets, config, hidden, n_segments);
    }
    vec![("sums", sums(device, &state)), ("d_embeddings", on.read(&d_embeddings))]
}

#[test]
fn triplet_losses_agree() {
    let cuda = gpu(&[], &[]);
    // The last are shorter than 1e-12.
    for (distance, margin, scale) in
        [(Distance::Cosine, 0.5, 0.25), (Distance::Euclidean, 2.0, 0.25), (Distance::Cosine, 0.5, 2f32.powi(-45))]
    {
        for shape in [(1, 384), (21, 515), (9, 2056)] {
            let config = TripletConfig { distance, margin };
            let case = format!("triplet_loss {config:?} of {shape:?} times {scale}");
            let [gpu, cpu] = [triplet_loss(&cuda, config, scale, shape), triplet_loss(&cpu(), config, scale, shape)];
            assert_parity(&case, &gpu, &cpu, |name| match name {
                "sums" => Tolerance::F32,
                _ => Tolerance { relative: BF16, of_largest: 1e-4 },
            });
        }
    }
}
