//! Libraries that only speak async, from code that does not.

use std::future::Future;
use std::sync::LazyLock;

use tokio::runtime::{Builder, Runtime};

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    // One thread that drives what was begun: a caller waits for its own call.
    let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("tunesmith-http").enable_all().build();
    runtime.expect("a machine that has no room for a thread has none for a run")
});

/// Waits for `future`; not to be called from async code.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    RUNTIME.block_on(future)
}
