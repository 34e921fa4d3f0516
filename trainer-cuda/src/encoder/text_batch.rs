//! A batch of texts for an encoder: sequences one behind the other without padding, equal ones once.

use std::collections::HashMap;

/// Texts as the encoder reads them. A text that several places of the batch share is computed once; its gradients add.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TextBatch {
    /// Of all segments, one behind the other.
    pub token_ids: Vec<u32>, // [n_tokens]
    /// Place of a token in its segment.
    pub position: Vec<u32>, // [n_tokens]
    /// First token of each token's segment.
    pub segment_start: Vec<u32>, // [n_tokens]
    /// One past the last.
    pub segment_end: Vec<u32>, // [n_tokens]
    /// Segment `s` is `offsets[s]..offsets[s + 1]`.
    pub offsets: Vec<u32>, // [n_segments + 1]
    /// The segment of each text.
    pub segment_of: Vec<usize>, // [n_texts]
    /// Tokens that separate texts would have.
    pub n_tokens_flat: usize,
}

impl TextBatch {
    /// Segments stand in the order in which their text first appears.
    ///
    /// # Panics
    /// Where a text has no token.
    pub fn new(texts: &[&[u32]]) -> Self {
        let mut batch = Self { offsets: vec![0], ..Self::default() };
        let mut seen: HashMap<&[u32], usize> = HashMap::new();
        for &ids in texts {
            assert!(!ids.is_empty(), "a text without tokens has no embedding");
            let segment = *seen.entry(ids).or_insert_with(|| batch.push(ids));
            batch.segment_of.push(segment);
            batch.n_tokens_flat += ids.len();
        }
        batch
    }

    fn push(&mut self, ids: &[u32]) -> usize {
        let start = self.n_tokens() as u32;
        let end = start + ids.len() as u32;
        self.token_ids.extend_from_slice(ids);
        self.position.extend(0..ids.len() as u32);
        self.segment_start.resize(end as usize, start);
        self.segment_end.resize(end as usize, end);
        self.offsets.push(end);
        self.n_segments() - 1
    }

    /// Tokens computed.
    pub fn n_tokens(&self) -> usize {
        self.token_ids.len()
    }

    /// Different texts.
    pub fn n_segments(&self) -> usize {
        self.offsets.len() - 1
    }

    /// What its buffers must hold.
    pub fn budget(&self) -> TextBudget {
        let max_length = self.offsets.windows(2).map(|segment| segment[1] - segment[0]).max().unwrap_or(0);
        TextBudget {
            n_tokens: self.n_tokens(),
            n_segments: self.n_segments(),
            max_length: max_length as usize,
            n_triplets: 0,
        }
    }
}

/// Sizes of an encoder's buffers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TextBudget {
    /// Tokens of all different texts.
    pub n_tokens: usize,
    /// Different texts.
    pub n_segments: usize,
    /// Tokens of the longest text.
    pub max_length: usize,
    /// Triplets of a training batch; 0 where texts are only embedded.
    pub n_triplets: usize,
}

impl TextBudget {
    /// True where a batch of size `need` fits.
    pub fn holds(self, need: Self) -> bool {
        need.n_tokens <= self.n_tokens
            && need.n_segments <= self.n_segments
            && need.max_length <= self.max_length
            && need.n_triplets <= self.n_triplets
    }

    /// The smallest budget that holds both.
    pub fn max(self, other: Self) -> Self {
        Self {
            n_tokens: self.n_tokens.max(other.n_tokens),
            n_segments: self.n_segments.max(other.n_segments),
            max_length: self.max_length.max(other.max_length),
            n_triplets: self.n_triplets.max(other.n_triplets),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_are_one_segment() {
        let batch = TextBatch::new(&[&[5, 6], &[7], &[5, 6], &[5]]);
        assert_eq!(batch.token_ids, [5, 6, 7, 5]);
        assert_eq!(batch.position, [0, 1, 0, 0]);
        assert_eq!(batch.segment_start, [0, 0, 2, 3]);
        assert_eq!(batch.segment_end, [2, 2, 3, 4]);
        assert_eq!(batch.offsets, [0, 2, 3, 4]);
        assert_eq!(batch.segment_of, [0, 1, 0, 2]);
        assert_eq!(batch.n_tokens_flat, 6);
        assert_eq!(batch.budget(), TextBudget { n_tokens: 4, n_segments: 3, max_length: 2, n_triplets: 0 });
    }
}
