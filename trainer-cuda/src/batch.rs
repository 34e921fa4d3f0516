//! A batch is a prefix forest: every token that examples share is computed once, exactly.
//!
//! Tokens stand in depth-first order. Query `q` sees key `k` iff `k <= q && q < subtree_end[k]`: causal, packed
//! without contamination and prefix-shared are all this one rule. Labels sit on edges `(parent token, target)`,
//! and the weight of an edge is the number of examples through it.

use std::ops::Range;

/// One example as token ids, with what is trained and what is scored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenExample {
    /// The whole sequence, the end-of-sequence token included.
    pub input_ids: Vec<u32>, // [length]
    /// `labels[i]`: token `i` is a training target. The first token never is: nothing predicts it.
    pub labels: Vec<bool>, // [length]
    /// The first token of the response: exact match is judged from here on.
    pub response_start: usize,
}

impl TokenExample {
    /// Number of targets that the loss averages over.
    pub fn n_labels(&self) -> usize {
        self.labels.iter().skip(1).filter(|&&labelled| labelled).count()
    }

    /// Length of the part that must be computed: up to the token before the last target. What follows
    /// it (the end-of-sequence token, at least) is read by no labelled row.
    fn computed_len(&self) -> usize {
        self.labels.iter().rposition(|&labelled| labelled).unwrap_or(0)
    }
}

/// Examples as a forest with labelled edges.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Forest {
    /// Token ids in depth-first order.
    pub token_ids: Vec<u32>, // [n_tokens]
    /// Depth of a token in its tree: its position in the sequence.
    pub position: Vec<u32>, // [n_tokens]
    /// One past the last token of the subtree of `t`.
    pub subtree_end: Vec<u32>, // [n_tokens]
    /// Tokens that have labelled edges, ascending: the rows that need logits.
    pub rows: Vec<u32>, // [n_rows]
    /// Edges of row `r` are `edge_start[r]..edge_start[r + 1]`.
    pub edge_start: Vec<u32>, // [n_rows + 1]
    /// The token that the edge predicts.
    pub edge_target: Vec<u32>, // [n_edges]
    /// How many examples pass through the edge as a label.
    pub edge_weight: Vec<f32>, // [n_edges]
    /// `example_edges[example_start[i]..example_start[i + 1]]`: the edges of example `i`, in sequence order.
    pub example_start: Vec<u32>, // [n_examples + 1]
    /// Edge numbers.
    pub example_edges: Vec<u32>, // [sum of labels]
    /// How many of an example's edges, from its end, belong to the scored response.
    pub response_edges: Vec<u32>, // [n_examples]
    /// Tokens that a batch of separate sequences would compute.
    pub n_tokens_flat: usize,
}

impl Forest {
    /// Merges the common prefixes of `examples`. The order of the examples does not change the tokens' order.
    pub fn new(examples: &[&TokenExample]) -> Self {
        let mut order: Vec<usize> = (0..examples.len()).collect();
        order.sort_by(|&a, &b| examples[a].input_ids.cmp(&examples[b].input_ids).then(a.cmp(&b)));

        let mut forest = Forest::default();
        let mut path: Vec<u32> = Vec::new(); // token index at each depth of the sequence inserted last
        let mut edges: Vec<(u32, u32, u32, u32)> = Vec::new(); // (row token, target, example, place in the example)
        for &index in &order {
            let example = examples[index];
            let ids = &example.input_ids[..example.computed_len()];
            let shared =
                path.iter().zip(ids).take_while(|&(&token, &id)| forest.token_ids[token as usize] == id).count();
            forest.close(path.drain(shared..));
            for (depth, &id) in ids.iter().enumerate().skip(shared) {
                path.push(forest.token_ids.len() as u32);
                forest.token_ids.push(id);
                forest.position.push(depth as u32);
                forest.subtree_end.push(0);
            }
            forest.n_tokens_flat += example.input_ids.len();
            for place in (1..=ids.len()).filter(|&place| example.labels[place]) {
                edges.push((path[place - 1], example.input_ids[place], index as u32, place as u32));
            }
        }
        forest.close(path.drain(..));
        forest.label(examples, edges);
        forest
    }

    /// Ends the subtrees of the tokens that the next sequence does not share.
    fn close(&mut self, tokens: impl Iterator<Item = u32>) {
        let end = self.token_ids.len() as u32;
        tokens.for_each(|token| self.subtree_end[token as usize] = end);
    }

    /// Merges equal `(row, target)` edges and lists each example's edges.
    fn label(&mut self, examples: &[&TokenExample], mut edges: Vec<(u32, u32, u32, u32)>) {
        edges.sort_unstable();
        let mut of_example: Vec<Vec<(u32, u32)>> = vec![Vec::new(); examples.len()]; // (place, edge)
        let mut last = None;
        for (row, target, example, place) in edges {
            if last != Some((row, target)) {
                if self.rows.last() != Some(&row) {
                    self.rows.push(row);
                    self.edge_start.push(self.edge_target.len() as u32);
                }
                self.edge_target.push(target);
                self.edge_weight.push(0.0);
                last = Some((row, target));
            }
            let edge = self.edge_target.len() - 1;
            self.edge_weight[edge] += 1.0;
            of_example[example as usize].push((place, edge as u32));
        }
        self.edge_start.push(self.edge_target.len() as u32);
        self.example_start.push(0);
        for (list, example) in of_example.iter_mut().zip(examples) {
            list.sort_unstable();
            let scored = list.iter().filter(|&&(place, _)| place as usize >= example.response_start).count();
            self.response_edges.push(scored as u32);
            self.example_edges.extend(list.iter().map(|&(_, edge)| edge));
            self.example_start.push(self.example_edges.len() as u32);
        }
    }

    /// Tokens to compute.
    pub fn n_tokens(&self) -> usize {
        self.token_ids.len()
    }

    /// Rows that need logits.
    pub fn n_rows(&self) -> usize {
        self.rows.len()
    }

    /// Labelled edges.
    pub fn n_edges(&self) -> usize {
        self.edge_target.len()
    }

    /// Examples.
    pub fn n_sequences(&self) -> usize {
        self.example_start.len() - 1
    }

    /// Labelled tokens over all examples: what a mean loss divides by.
    pub fn total_weight(&self) -> f64 {
        self.example_edges.len() as f64
    }

    /// The edges of one example, in sequence order.
    pub fn edges_of(&self, example: usize) -> &[u32] {
        &self.example_edges[self.example_start[example] as usize..self.example_start[example + 1] as usize]
    }

    /// The edges of one example's response.
    pub fn response_edges_of(&self, example: usize) -> &[u32] {
        let edges = self.edges_of(example);
        &edges[edges.len() - self.response_edges[example] as usize..]
    }

    /// The row that each edge leaves from, as an index into `rows`.
    pub fn edge_rows(&self) -> Vec<u32> {
        let row_edges = |row: usize| -> Range<u32> { self.edge_start[row]..self.edge_start[row + 1] };
        (0..self.n_rows()).flat_map(|row| row_edges(row).map(move |_| row as u32)).collect()
    }

    /// The size of this batch, for the memory plan.
    pub fn budget(&self) -> Budget {
        Budget {
            n_tokens: self.n_tokens(),
            n_rows: self.n_rows(),
            n_edges: self.n_edges(),
            max_position: self.position.iter().max().map_or(0, |&p| p as usize + 1),
            n_sequences: self.n_sequences(),
            n_labels: self.example_edges.len(),
        }
    }
}

/// The largest batch that a set of buffers must hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Budget {
    /// Tokens of a forest.
    pub n_tokens: usize,
    /// Rows with labelled edges.
    pub n_rows: usize,
    /// Labelled edges.
    pub n_edges: usize,
    /// Longest sequence.
    pub max_position: usize,
    /// Examples; two for a preference pair.
    pub n_sequences: usize,
    /// Labels of all examples.
    pub n_labels: usize,
}

impl Budget {
    /// The budget that holds both.
    pub fn max(self, other: Budget) -> Budget {
        Budget {
            n_tokens: self.n_tokens.max(other.n_tokens),
            n_rows: self.n_rows.max(other.n_rows),
            n_edges: self.n_edges.max(other.n_edges),
            max_position: self.max_position.max(other.max_position),
            n_sequences: self.n_sequences.max(other.n_sequences),
            n_labels: self.n_labels.max(other.n_labels),
        }
    }

    /// True where a batch of size `other` fits.
    pub fn holds(self, other: Budget) -> bool {
        self.max(other) == self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(ids: &[u32], labelled_from: usize) -> TokenExample {
        let labels = (0..ids.len()).map(|i| i >= labelled_from).collect();
        TokenExample { input_ids: ids.to_vec(), labels, response_start: labelled_from }
    }

    #[test]
    fn shared_prefixes_are_computed_once_and_subtrees_are_ranges() {
        // 1 2 3 9 | 1 2 4 9 | 5 6 9: the last token of each is only ever a target.
        let (a, b, c) = (example(&[1, 2, 3, 9], 2), example(&[1, 2, 4, 9], 2), example(&[5, 6, 9], 1));
        let forest = Forest::new(&[&c, &a, &b]);
        assert_eq!(forest.token_ids, [1, 2, 3, 4, 5, 6]);
        assert_eq!(forest.position, [0, 1, 2, 2, 0, 1]);
        assert_eq!(forest.subtree_end, [4, 4, 3, 4, 6, 6]);
        assert_eq!(forest.n_tokens_flat, 11);
        // Row 1 (token `2`) has two children: two targets.
        assert_eq!(forest.rows, [1, 2, 3, 4, 5]);
        assert_eq!(forest.edge_start, [0, 2, 3, 4, 5, 6]);
        assert_eq!(forest.edge_target, [3, 4, 9, 9, 6, 9]);
        assert_eq!(forest.edges_of(0), [4, 5]); // c, as the caller ordered them
        assert_eq!(forest.edges_of(1), [0, 2]);
        assert_eq!(forest.total_weight(), 6.0);
        assert_eq!(forest.edge_rows(), [0, 0, 1, 2, 3, 4]);
    }

    #[test]
    fn an_edge_weighs_as_many_examples_as_pass_through_it() {
        let (a, b) = (example(&[1, 2, 3], 1), example(&[1, 2, 3], 2));
        let forest = Forest::new(&[&a, &b]);
        assert_eq!(forest.token_ids, [1, 2]);
        assert_eq!(forest.edge_target, [2, 3]);
        assert_eq!(forest.edge_weight, [1.0, 2.0]); // `2` is a label of the first only
        assert_eq!(forest.response_edges_of(1), [1]);
    }

    #[test]
    fn a_sequence_that_is_a_prefix_of_another_shares_all_of_it() {
        let (long, short) = (example(&[1, 2, 3, 4], 1), example(&[1, 2], 1));
        let forest = Forest::new(&[&long, &short]);
        assert_eq!(forest.token_ids, [1, 2, 3]);
        assert_eq!(forest.edge_weight, [2.0, 1.0, 1.0]);
    }
}
