use serde::Serialize;

use super::Provider;
use crate::plugins::PluginGrants;

/// What an operator allows a tenant. No file, variable or flag of the tenant sets it; the default, which a machine's own
/// user has, is everything.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Granted {
    /// Bytes that the telemetry store may grow to.
    pub store_quota: Option<u64>,
    /// Bytes in the folder of runs, from which on no run begins.
    pub output_quota: Option<u64>,
    /// Bytes that the memory plan of a training may come to.
    pub memory_limit: Option<u64>,
    /// Phoenix servers that may be read.
    pub phoenix_urls: Option<Vec<String>>,
    /// Servers that may be asked for generated examples.
    pub synthetic_urls: Option<Vec<String>>,
    /// Engines that may train.
    pub remote_providers: Option<Vec<Provider>>,
    /// Where those engines, and the stores that jobs go through, may be.
    pub remote_urls: Option<Vec<String>>,
    /// What plugins may be and have.
    pub plugins: PluginGrants,
}

impl Granted {
    /// Whether secrets in the environment may be used: they are the machine's user's, whoever the command works for.
    pub fn secrets_of_environment(&self) -> bool {
        self.phoenix_urls.is_none()
    }
}
