use serde::{Deserialize, Serialize};

/// `[remote.ray]`: a Ray cluster.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RayOptions {
    /// Its address.
    pub url: Option<String>,
}
