//! The vocabulary projection and its loss.

use trainer_cuda::cpu::Cpu;
use trainer_cuda::device::{CrossEntropyGrad, Device};

use crate::linear::product;
use crate::support::{
    Random, assert_close, assert_near, dot, edges, gradient, on_every_device, output, sum, take, weight, wide,
};

struct Case {
    n_rows: usize,
    vocab: usize,
    hidden: usize,
    edges: Vec<Vec<u32>>,
    x: Vec<f32>,
    head: Vec<f32>,
    d_logprob: Vec<f32>,
    d_head: Vec<f32>,
}

impl Case {
    /// Rows with none, one or several edges; a target may come twice.
    fn new(n_rows: usize, vocab: usize, hidden: usize) -> Self {
        let mut random = Random(70);
        let mut row = |r: usize| (0..[1, 0, 3, 1, 2][r % 5]).map(|_| random.below(vocab) as u32).collect();
        let edges: Vec<Vec<u32>> = (0..n_rows).map(&mut row).collect();
        let n_edges = edges.concat().len();
        let (x, head) = (random.values(n_rows * hidden), random.values(vocab * hidden));
        Case {
            n_rows,
            vocab,
            hidden,
            edges,
            x,
            head,
            d_logprob: random.values(n_edges),
            d_head: random.values(vocab * hidden),
        }
    }

    fn n_edges(&self) -> usize {
        self.edges.concat().len()
    }

    fn logits(&self, x: &[f64], head: &[f64]) -> Vec<f64> {
        product([self.n_rows, self.vocab, self.hidden], |r, i| x[r * self.hidden + i], |i, w| head[w * self.hidden + i])
            .0
    }

    fn logprobs(&self, x: &[f64], head: &[f64]) -> Vec<f64> {
        let logits = self.logits(x, head);
        let row = |(logits, targets): (&[f64], &Vec<u32>)| {
            let max = logits.iter().fold(f64::MIN, |a, &b| a.max(b));
            let lse = max + logits.iter().map(|l| (l - max).exp()).sum::<f64>().ln();
            targets.iter().map(|&target| logits[target as usize] - lse).collect::<Vec<f64>>()
        };
        logits.chunks(self.vocab).zip(&self.edges).flat_map(row).collect()
    }

    /// logprob, argmax; then logprob, d_x, d_head of a call with gradients.
    fn run(&self, cpu: &Cpu, chunk_rows: usize) -> Vec<Vec<f32>> {
        let edges = edges(cpu, &self.edges);
        let head = weight(cpu, &self.head, self.vocab, self.hidden);
        let (n, n_edges) = (self.n_rows, self.n_edges());
        let (mut logprob, mut argmax) = (output(n_edges), vec![u32::MAX; n + 1]);
        let mut logits = output(chunk_rows * self.vocab);
        cpu.linear_cross_entropy(&mut logprob, &mut argmax, &mut logits, &self.x, &head, &edges, n, chunk_rows, None);
        assert_eq!(argmax.pop(), Some(u32::MAX), "wrote past the rows");

        let (mut logprob_again, mut argmax_again) = (output(n_edges), argmax.clone());
        let (mut d_x, mut d_head) = (output(n * self.hidden), self.d_head.clone());
        let grad = CrossEntropyGrad { d_logprob: &self.d_logprob, d_x: &mut d_x, d_head: Some(&mut d_head) };
        cpu.linear_cross_entropy(
            &mut logprob_again,
            &mut argmax_again,
            &mut logits,
            &self.x,
            &head,
            &edges,
            n,
            chunk_rows,
            Some(grad),
        );
        assert_eq!(argmax, argmax_again);
        assert_eq!(logprob, logprob_again);
        take(logits, chunk_rows * self.vocab);
        let argmax = argmax.into_iter().map(|i| i as f32).collect();
        vec![take(logprob, n_edges), argmax, take(d_x, n * self.hidden), take(d_head, self.vocab * self.hidden)]
    }
}

#[test]
fn logprobs_and_argmax_are_those_of_the_softmax() {
    for (n_rows, vocab, hidden, chunk_rows) in [(1, 1, 1, 1), (13, 515, 33, 4), (7, 5000, 64, 3), (40, 600, 20, 100)] {
        let case = Case::new(n_rows, vocab, hidden);
        let (x, head) = (wide(&case.x, n_rows * hidden), wide(&case.head, vocab * hidden));
        let want = case.logprobs(&x, &head);
        let largest =
            |row: &[f64]| (0..vocab).max_by(|&a, &b| row[a].total_cmp(&row[b]).then(b.cmp(&a))).unwrap() as f32;
        let argmax: Vec<f32> = case.logits(&x, &head).chunks(vocab).map(largest).collect();
        for result in on_every_device(|cpu| case.run(cpu, chunk_rows)) {
            // A logit is a sum of up to 64 products in f32: 1e-6; the golden losses need 1e-5 relative.
            assert_near("logprob", &result[0], &want, |i| 1e-6 * (1.0 + want[i].abs()));
            assert_eq!(result[1], argmax);
        }
    }
}

#[test]
fn backward_is_the_gradient_of_forward() {
    let (n_rows, vocab, hidden) = (7, 19, 5);
    let case = Case::new(n_rows, vocab, hidden);
    let (x, head) = (wide(&case.x, n_rows * hidden), wide(&case.head, vocab * hidden));
    let d_logprob = wide(&case.d_logprob, case.n_edges());
    let loss = |x: &[f64], head: &[f64]| dot(&case.logprobs(x, head), &d_logprob);
    let d_x = gradient(&x, |x| loss(x, &head));
    let d_head = sum(&gradient(&head, |head| loss(&x, head)), &wide(&case.d_head, vocab * hidden));
    for result in on_every_device(|cpu| case.run(cpu, 3)) {
        // Sums of 19 terms of order 1.
        assert_close("d_x", &result[2], &d_x, 2e-6);
        assert_close("d_head", &result[3], &d_head, 2e-6);
    }
}

#[test]
fn the_chunk_size_changes_no_bit_of_logprobs_and_d_x() {
    let case = Case::new(40, 515, 33);
    let cpu = Cpu::new(Some(2));
    let whole = case.run(&cpu, 40);
    for chunk_rows in [1, 7, 64] {
        assert!(case.run(&cpu, chunk_rows)[..3] == whole[..3], "chunks of {chunk_rows}");
    }
}

#[test]
fn a_large_vocabulary_is_summed_exactly() {
    // Equal logits: the log-probability is -ln(vocab), here with vocab * 1e-8 of relative error if f32 were summed plainly.
    let vocab = 49_152;
    let case = Case { edges: vec![vec![0, 49_151]], head: vec![0.5; vocab], x: vec![3.0], ..Case::new(1, vocab, 1) };
    for result in on_every_device(|cpu| {
        let edges = edges(cpu, &case.edges);
        let (mut logprob, mut argmax, mut logits) = (output(2), vec![9], output(vocab));
        let head = weight(cpu, &case.head, vocab, 1);
        cpu.linear_cross_entropy(&mut logprob, &mut argmax, &mut logits, &case.x, &head, &edges, 1, 1, None);
        assert_eq!(argmax, [0], "the first of equal logits");
        vec![take(logprob, 2)]
    }) {
        assert_eq!(result[0], [-(vocab as f64).ln() as f32; 2]);
    }
}

#[test]
fn large_logits_neither_overflow_nor_lose_the_loss() {
    for result in on_every_device(|cpu| {
        let edges = edges(cpu, &[vec![0, 1, 2]]);
        let (mut logprob, mut argmax, mut logits) = (output(3), vec![0], output(3));
        let head = weight(cpu, &[1e4, -1e4, 1e4 - 1.0], 3, 1);
        let mut d_x = output(1);
        let grad = CrossEntropyGrad { d_logprob: &vec![0.0, 0.0, 1.0], d_x: &mut d_x, d_head: None };
        cpu.linear_cross_entropy(&mut logprob, &mut argmax, &mut logits, &vec![1.0], &head, &edges, 1, 3, Some(grad));
        assert_eq!(argmax, [0]);
        vec![take(logprob, 3), take(d_x, 1)]
    }) {
        let lse = (1.0 + (-1f64).exp()).ln();
        assert_near("logprob", &result[0], &[-lse, -2e4 - lse, -1.0 - lse], |i| [1e-7, 1e-3, 1e-7][i]);
        // Logit 2 gets 1 - p, logit 0 gets -(1 - p), with p = 1 / (1 + e): times 1e4 - 1 and 1e4, rounded to 1e-3.
        let p = 1.0 / (1.0 + 1f64.exp());
        assert_near("d_x", &result[1], &[-(1.0 - p)], |_| 2e-3);
    }
}

#[test]
fn a_nan_logit_reaches_the_logprob() {
    for result in on_every_device(|cpu| {
        let edges = edges(cpu, &[vec![0]]);
        let (mut logprob, mut argmax, mut logits) = (output(1), vec![0], output(20));
        let mut values = [1.0; 20];
        values[17] = f32::NAN;
        let head = weight(cpu, &values, 20, 1);
        cpu.linear_cross_entropy(&mut logprob, &mut argmax, &mut logits, &vec![1.0], &head, &edges, 1, 1, None);
        vec![vec![f32::from(u8::from(take(logprob, 1)[0].is_nan()))]]
    }) {
        assert_eq!(result[0], [1.0]);
    }
}
