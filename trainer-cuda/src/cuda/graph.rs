//! What was launched once is recorded, and replayed as one launch.
//!
//! Nothing that a step reads or writes ever moves, and what changes from step to step is in memory: the launches of a step
//! of the same size are the same, to the last argument.

use super::Cuda;
use crate::device::ReplayKey;
use cudarc::driver::CudaGraph;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

/// What is known of each key.
#[derive(Default)]
pub(super) struct Graphs(RefCell<HashMap<ReplayKey, Recorded>>);

enum Recorded {
    /// It ran once: the kernels that it needs are loaded, the products' algorithms chosen.
    Seen,
    Graph(CudaGraph),
}

impl Graphs {
    /// To be called when memory moves.
    pub(super) fn clear(&self) {
        self.0.borrow_mut().clear();
    }
}

/// Read by who records, written by who makes or ends a handle of cuBLASLt: in one process, the end of a handle breaks
/// what another thread records (llama.cpp's pull request 14288 has it of cuBLAS). The likely cause of
/// `CUBLAS_STATUS_EXECUTION_FAILED` in three of nine runs at once on an H100; alone, all nine held.
pub(super) static RECORDINGS: RwLock<()> = RwLock::new(());

impl Cuda {
    /// The first time of a key, its launches run one by one; the second time they are recorded; from then on replayed.
    pub(super) fn run_or_replay(&self, key: ReplayKey, body: &mut dyn FnMut()) {
        if !self.options.graphs || self.failure.is_set() {
            return body();
        }
        let mut known = self.graphs.0.borrow_mut();
        match known.get(&key) {
            None => {
                body();
                known.insert(key, Recorded::Seen);
            }
            Some(Recorded::Graph(graph)) => {
                self.launch_graph(key.part, graph);
            }
            Some(Recorded::Seen) => {
                if let Some(graph) = self.record(key.part, body) {
                    self.launch_graph(key.part, &graph);
                    known.insert(key, Recorded::Graph(graph));
                }
            }
        }
    }

    fn launch_graph(&self, part: &str, graph: &CudaGraph) {
        self.failure.catch(part, graph.launch());
        self.count_graph();
    }

    fn record(&self, part: &str, body: &mut dyn FnMut()) -> Option<CudaGraph> {
        let _recording = RECORDINGS.read().unwrap_or_else(PoisonError::into_inner);
        // Of this thread alone: others may use the driver meanwhile.
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.failure.catch(part, self.stream.begin_capture(mode))?;
        self.recording.set(true);
        body();
        self.recording.set(false);
        let recorded = self.stream.end_capture(CUgraphInstantiate_flags(0));
        let graph = self.failure.catch(part, recorded)?;
        if graph.is_none() {
            self.failure.set(part, "nothing was recorded".to_owned());
        }
        graph
    }
}
