use serde::{Deserialize, Serialize};

/// `[remote.sagemaker]`: Amazon SageMaker.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SagemakerOptions {
    /// Its address.
    pub url: Option<String>,
}
