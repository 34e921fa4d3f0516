use serde::{Deserialize, Serialize};

/// `[remote.slurm]`: a Slurm cluster.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SlurmOptions {
    /// Its address.
    pub url: Option<String>,
}
