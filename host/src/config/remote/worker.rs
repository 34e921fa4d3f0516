use std::num::NonZeroU32;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `[remote.modal]`: Modal, or a worker of our own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkerOptions {
    /// Its address: `https://acme--tunesmith-web.modal.run`, `http://10.0.0.7:4318`.
    pub url: Option<String>,
    /// File with the token of a worker of our own, which `serve --worker` names at its start; or TUNESMITH_WORKER_TOKEN in the
    /// environment.
    pub token_file: Option<PathBuf>,
    /// File with the two parts of Modal's proxy token, `wk-...` and `ws-...`, a line each; or MODAL_KEY and MODAL_SECRET in the
    /// environment.
    pub key_file: Option<PathBuf>,
    /// Seconds that a request may take beyond what its bytes need [default: 60].
    pub timeout_s: Option<NonZeroU32>,
}
