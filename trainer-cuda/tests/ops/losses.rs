//! What a step's loss is, and its derivative: against naive sums and central differences in f64. A step has two batches
//! here, of which the second adds to the sums of the first.

use trainer_cuda::config::{Distance, TripletConfig};
use trainer_cuda::cpu::Cpu;
use trainer_cuda::device::{Device, PairBuffers, SUMS, TripletBuffers};

use crate::support::{Random, assert_near, edges, gradient, on_every_device, output, step_state, take, wide};

/// Sums of f64 in another order.
const SUM: f64 = 1e-12;

#[track_caller]
fn assert_sums(got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), SUMS);
    for i in 0..SUMS {
        let want = want.get(i).copied().unwrap_or(0.0);
        assert!((got[i] - want).abs() <= SUM * want.abs().max(1.0), "sum {i} of {got:?}, expected {want}");
    }
}

#[test]
fn sft_adds_minus_each_edges_share_times_its_log_probability() {
    for n_rows in [1, 7, 3000] {
        let mut random = Random(90);
        // Rows with none, one or several edges.
        let rows: Vec<Vec<u32>> = (0..n_rows).map(|r| vec![3; [1, 0, 3, 1, 2][r % 5]]).collect();
        let n_edges = rows.concat().len();
        let (logprob, d_logprob) = (random.values(n_edges), random.values(n_edges));
        let products = logprob.iter().zip(&d_logprob).map(|(&a, &b)| f64::from(a) * f64::from(b));
        let want: f64 = products.take(n_edges).sum();
        on_every_device(|cpu| {
            let (mut state, edges) = (step_state(cpu, 1), edges(cpu, &rows));
            cpu.sft_loss(&mut state, &logprob, &d_logprob, &edges, n_rows);
            assert_sums(&state.sums, &[want]);
            cpu.sft_loss(&mut state, &logprob, &d_logprob, &edges, n_rows);
            assert_sums(&state.sums, &[2.0 * want]);
            vec![state.sums.iter().map(|&sum| sum as f32).collect()]
        });
    }
}

#[test]
fn a_log_probability_that_is_no_number_stays_in_the_loss_of_sft() {
    let cpu = Cpu::new(Some(1));
    let (mut state, edges) = (step_state(&cpu, 1), edges(&cpu, &[vec![0, 1]]));
    cpu.sft_loss(&mut state, &vec![-1.0, f32::NAN], &vec![-0.5, -0.5], &edges, 1);
    assert!(state.sums[0].is_nan());
}

/// Preference pairs over some edges: each side's edges, and its log-probability under the reference.
struct Pairs {
    sides: Vec<Vec<u32>>, // chosen and rejected of each pair in turn
    reference: Vec<f64>,
}

const BETA: f64 = 0.25;
/// Pairs of the whole step, of which the batches hold some.
const N_STEP: usize = 9;

impl Pairs {
    /// Sides of 0 to 11 edges, all of which begin with edge 0; the last edge is nobody's.
    fn new(n_pairs: usize, n_edges: usize) -> Self {
        let mut random = Random(91);
        let mut side = |_| {
            let own = (0..random.below(11)).map(|_| 1 + random.below(n_edges - 2) as u32).collect::<Vec<_>>();
            [vec![0], own].concat()
        };
        let mut sides: Vec<_> = (0..2 * n_pairs).map(&mut side).collect();
        sides[1].clear(); // a response that was cut off whole
        Self { sides, reference: (0..2 * n_pairs).map(|i| -2.0 - (i % 3) as f64).collect() }
    }

    fn n(&self) -> usize {
        self.reference.len() / 2
    }

    /// On the device, with room for more pairs, whose entries are not read.
    fn upload(&self, cpu: &Cpu) -> PairBuffers<Cpu> {
        let ends = self.sides.iter().scan(0, |end, side| {
            *end += side.len() as u32;
            Some(*end)
        });
        let example_start: Vec<u32> = [0].into_iter().chain(ends).chain([99; 4]).collect();
        let example_edges: Vec<u32> = self.sides.concat().into_iter().chain([99; 7]).collect();
        let reference = [self.reference.clone(), vec![f64::NAN; 4]].concat();
        let mut pairs = PairBuffers {
            example_start: cpu.alloc_index(example_start.len()),
            example_edges: cpu.alloc_index(example_edges.len()),
            reference: cpu.alloc_f64(reference.len()),
            n_pairs: cpu.alloc_index(1),
            n_step: cpu.alloc_f32(1),
        };
        cpu.write_index(&mut pairs.example_start, &example_start);
        cpu.write_index(&mut pairs.example_edges, &example_edges);
        cpu.write_f64(&mut pairs.reference, &reference);
        cpu.write_index(&mut pairs.n_pairs, &[self.n() as u32]);
        cpu.write_f32(&mut pairs.n_step, &[N_STEP as f32]);
        pairs
    }

    /// Loss, accuracy, chosen and rejected reward, each over the step's pairs.
    fn figures(&self, logprob: &[f64]) -> [f64; 4] {
        let reward = |side: usize| {
            BETA * (self.sides[side].iter().map(|&edge| logprob[edge as usize]).sum::<f64>() - self.reference[side])
        };
        let mut sums = [0.0; 4];
        for pair in 0..self.n() {
            let (chosen, rejected) = (reward(2 * pair), reward(2 * pair + 1));
            let margin = chosen - rejected;
            let figures = [(1.0 + (-margin).exp()).ln(), f64::from(margin > 0.0), chosen, rejected];
            sums.iter_mut().zip(figures).for_each(|(sum, figure)| *sum += figure / N_STEP as f64);
        }
        sums
    }
}

#[test]
fn dpo_adds_the_pairs_figures_and_writes_the_derivative_by_each_edge() {
    for (n_pairs, n_edges) in [(1, 3), (7, 40), (5, 600)] {
        let (pairs, logprob) = (Pairs::new(n_pairs, n_edges), Random(92).values(n_edges));
        let logprob64 = wide(&logprob, n_edges);
        let want = pairs.figures(&logprob64);
        let want_d = gradient(&logprob64, |logprob| pairs.figures(logprob)[0]);
        let rows: Vec<Vec<u32>> = vec![vec![0]; n_edges];
        for result in on_every_device(|cpu| {
            let (mut state, mut buffers, edges) = (step_state(cpu, 1), pairs.upload(cpu), edges(cpu, &rows));
            let mut d_logprob = output(n_edges);
            cpu.dpo_loss(&mut state, &mut d_logprob, &logprob, &mut buffers, &edges, BETA, n_edges);
            assert_sums(&state.sums, &want);
            let first = take(d_logprob.clone(), n_edges);
            cpu.dpo_loss(&mut state, &mut d_logprob, &logprob, &mut buffers, &edges, BETA, n_edges);
            assert_sums(&state.sums, &want.map(|figure| 2.0 * figure));
            assert_eq!(take(d_logprob, n_edges), first, "written, not added");
            vec![first]
        }) {
            // Central differences of a loss of order 1 in f64, and one rounding of derivatives up to beta.
            assert_near("d_logprob", &result[0], &want_d, |_| 2e-8);
            assert_eq!(result[0][n_edges - 1], 0.0, "an edge of no pair");
        }
    }
}

/// Anchor, positive and negative of each triplet: texts that several share, and one that is both sides.
const SEGMENTS: [[u32; 3]; 6] = [[0, 1, 2], [0, 2, 1], [3, 1, 4], [4, 4, 0], [1, 3, 3], [5, 0, 6]];

fn figures(config: TripletConfig, embeddings: &[f64], hidden: usize) -> [f64; 4] {
    let distance = |a: u32, b: u32| {
        let row = |segment: u32| &embeddings[segment as usize * hidden..][..hidden];
        let (a, b) = (row(a), row(b));
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        match config.distance {
            Distance::Cosine => 1.0 - dot(a, b) / (dot(a, a) * dot(b, b)).sqrt(),
            Distance::Euclidean => a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt(),
        }
    };
    let mut sums = [0.0; 4];
    for [anchor, positive, negative] in SEGMENTS {
        let (near, far) = (distance(anchor, positive), distance(anchor, negative));
        let loss = (f64::from(config.margin) + near - far).max(0.0);
        let figures = [loss, f64::from(near < far), near, far];
        sums.iter_mut().zip(figures).for_each(|(sum, figure)| *sum += figure / N_STEP as f64);
    }
    sums
}

#[test]
fn triplets_add_their_figures_and_write_the_derivative_by_each_embedding() {
    // The second margin leaves some triplets without a loss.
    for (distance, margin) in [(Distance::Cosine, 3.0), (Distance::Cosine, 0.1), (Distance::Euclidean, 0.5)] {
        for hidden in [3, 48] {
            let config = TripletConfig { distance, margin };
            // The last two segments are nobody's: of another triplet's text, and padding.
            let n_segments = 9;
            let embeddings = Random(93).values(n_segments * hidden);
            let embeddings64 = wide(&embeddings, n_segments * hidden);
            let want = figures(config, &embeddings64, hidden);
            let want_d = gradient(&embeddings64, |embeddings| figures(config, embeddings, hidden)[0]);
            for result in on_every_device(|cpu| {
                let segments: Vec<u32> = SEGMENTS.concat().into_iter().chain([99; 3]).collect();
                let mut triplets = TripletBuffers {
                    segments: cpu.alloc_index(segments.len()),
                    n_triplets: cpu.alloc_index(1),
                    n_step: cpu.alloc_f32(1),
                };
                cpu.write_index(&mut triplets.segments, &segments);
                cpu.write_index(&mut triplets.n_triplets, &[SEGMENTS.len() as u32]);
                cpu.write_f32(&mut triplets.n_step, &[N_STEP as f32]);
                let (mut state, mut d) = (step_state(cpu, 1), output(n_segments * hidden));
                cpu.triplet_loss(&mut state, &mut d, &embeddings, &triplets, config, hidden, n_segments);
                assert_sums(&state.sums, &want);
                let first = take(d.clone(), n_segments * hidden);
                cpu.triplet_loss(&mut state, &mut d, &embeddings, &triplets, config, hidden, n_segments);
                assert_sums(&state.sums, &want.map(|figure| 2.0 * figure));
                assert_eq!(take(d, n_segments * hidden), first, "written, not added");
                vec![first]
            }) {
                // Central differences of a loss of order 1 in f64, and one rounding of derivatives up to 1.
                assert_near("d_embeddings", &result[0], &want_d, |_| 1e-7);
                assert_eq!(result[0][7 * hidden..], vec![0.0; 2 * hidden], "segments of no triplet");
            }
        }
    }
}
