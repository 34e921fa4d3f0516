//! Losses; see `sft_loss.cu`, `dpo_loss.cu` and `triplet_loss.cu`.

use super::Cuda;
use super::launch::{Grid, Source, source};
use super::memory::{Act, Buffer};
use crate::config::{Distance, TripletConfig};
use crate::device::{EdgeBuffers, PairBuffers, StepState, TripletBuffers};

static SFT_LOSS: Source = source!("sft_loss");
static DPO_LOSS: Source = source!("dpo_loss");
static TRIPLET_LOSS: Source = source!("triplet_loss");

impl Cuda {
    pub(super) fn weighted_sum(
        &self,
        state: &StepState<Self>,
        logprob: &Buffer<f32>,
        d_logprob: &Buffer<f32>,
        edges: &EdgeBuffers<Self>,
        n_rows: usize,
    ) {
        let launch = self.kernel(&SFT_LOSS, "sft_loss").buffer(&state.sums).buffer(logprob).buffer(d_logprob);
        launch.buffer(&edges.edge_start).int(n_rows).launch(Grid::new([1, 1, 1], 1024));
    }

    pub(super) fn preferences(
        &self,
        state: &StepState<Self>,
        d_logprob: &Buffer<f32>,
        logprob: &Buffer<f32>,
        pairs: &PairBuffers<Self>,
        edges: &EdgeBuffers<Self>,
        beta: f64,
        n_rows: usize,
    ) {
        // As many blocks as the most edges need, and shared memory for the most pairs: a recorded launch fits every batch.
        let (most_edges, most_pairs) = (d_logprob.len(), pairs.reference.len() / 2);
        let grid =
            Grid { blocks: [most_edges.div_ceil(1024), 1, 1], threads: [1024, 1, 1], shared_bytes: 32 * most_pairs };
        self.kernel(&DPO_LOSS, "dpo_loss")
            .buffer(&state.sums)
            .buffer(d_logprob)
            .buffer(logprob)
            .buffer(&pairs.example_start)
            .buffer(&pairs.example_edges)
            .buffer(&pairs.reference)
            .buffer(&pairs.n_step)
            .buffer(&pairs.n_pairs)
            .buffer(&edges.edge_start)
            .int(n_rows)
            .float(beta as f32)
            .launch(grid);
    }

    pub(super) fn triplets(
        &self,
        state: &StepState<Self>,
        d_embeddings: &Act,
        embeddings: &Act,
        triplets: &TripletBuffers<Self>,
        config: TripletConfig,
        hidden: usize,
        n_segments: usize,
    ) {
        let TripletConfig { distance, margin } = config;
        d_embeddings.assert_holds("d_embeddings", n_segments, hidden);
        embeddings.assert_holds("embeddings", n_segments, hidden);
        self.kernel(&TRIPLET_LOSS, "triplet_loss")
            .buffer(&state.sums)
            .act(d_embeddings)
            .act(embeddings)
            .buffer(&triplets.segments)
            .buffer(&triplets.n_triplets)
            .buffer(&triplets.n_step)
            .int(hidden)
            .int(usize::from(distance == Distance::Euclidean))
            .float(margin)
            .launch(Grid::new([n_segments, hidden.div_ceil(2048), 1], 256));
    }
}
