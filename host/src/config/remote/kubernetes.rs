use serde::{Deserialize, Serialize};

/// `[remote.kubernetes]`: a Kubernetes cluster.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KubernetesOptions {
    /// Its address.
    pub url: Option<String>,
}
