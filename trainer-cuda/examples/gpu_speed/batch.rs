//! Batches of random tokens whose sizes are known.

use trainer_cuda::batch::TokenExample;
use trainer_cuda::method::PairExample;

use crate::random_tokens::random_token;

/// What a batch is made of. A sequence has one token more than are computed: the last one is only predicted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchShape {
    /// Computed in a batch, those that sequences have in common once; of pairs, each side's are counted in full.
    pub(crate) tokens: usize,
    /// Computed of a sequence by itself.
    pub(crate) length: usize,
    /// First ones that all sequences have in common.
    pub(crate) prefix: usize,
    /// Last ones that have labels.
    pub(crate) labels: usize,
}

impl BatchShape {
    /// Sequences of a batch, at least one.
    pub(crate) fn n_sequences(&self) -> usize {
        (self.tokens.saturating_sub(self.prefix) / (self.length - self.prefix)).max(1)
    }

    /// Pairs of a batch, at least one.
    pub(crate) fn n_pairs(&self) -> usize {
        (self.tokens / (2 * self.length)).max(1)
    }

    /// `n` sequences that part behind the prefix.
    pub(crate) fn sequences(&self, n: usize, vocab: usize) -> Vec<TokenExample> {
        let token = |index, place| match place {
            place if place < self.prefix => random_token(0, place, vocab),
            // No two alike, so that not one more token is in common.
            place if place == self.prefix => (index % vocab) as u32,
            place => random_token(1 + index, place, vocab),
        };
        let sequence = |index| labelled((0..=self.length).map(|place| token(index, place)).collect(), self.labels);
        (0..n).map(sequence).collect()
    }

    /// `n` pairs of two answers to a prompt of their own, each half of a sequence.
    pub(crate) fn pairs(&self, n: usize, vocab: usize) -> Vec<PairExample> {
        let start = self.length / 2;
        let pair = |chosen: TokenExample| {
            let mut ids = chosen.input_ids.clone();
            ids[start..].iter_mut().for_each(|id| *id = (*id + 1) % vocab as u32);
            PairExample { rejected: labelled(ids, self.length + 1 - start), chosen }
        };
        let whole = Self { prefix: 0, labels: self.length + 1 - start, ..*self };
        whole.sequences(n, vocab).into_iter().map(pair).collect()
    }
}

/// A sequence whose last tokens have labels.
fn labelled(input_ids: Vec<u32>, labels: usize) -> TokenExample {
    let response_start = input_ids.len().saturating_sub(labels);
    let labels = (0..input_ids.len()).map(|place| place >= response_start).collect();
    TokenExample { input_ids, labels, response_start }
}
