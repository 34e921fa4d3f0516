use serde::{Deserialize, Serialize};

/// `[remote.azure_ml]`: Azure Machine Learning.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AzureMlOptions {
    /// Its address.
    pub url: Option<String>,
}
