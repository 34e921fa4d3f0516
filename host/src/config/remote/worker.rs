use serde::{Deserialize, Serialize};

/// `[remote.modal]`: Modal, or a worker of our own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkerOptions {
    /// Its address.
    pub url: Option<String>,
}
