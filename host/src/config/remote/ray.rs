use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `[remote.ray]`: a Ray cluster, by the Jobs API of its dashboard.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RayOptions {
    /// The dashboard's address: `http://10.0.0.5:8265`.
    pub url: Option<String>,
    /// File with the token of clusters that ask for one [default: RAY_AUTH_TOKEN of the environment].
    pub token_file: Option<PathBuf>,
    /// The resource by which nodes tell their kind of GPU; `{gpu}` is `gpu` [default: `accelerator_type:{gpu}`, which Ray gives
    /// nodes itself; empty: any node with GPUs].
    pub gpu_resource: Option<String>,
}
