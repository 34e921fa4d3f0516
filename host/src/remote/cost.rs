//! Placeholder until prices are merged.

use std::time::Duration;

use super::RemoteError;
use crate::config::RemoteConfig;

/// Before anything is submitted.
pub fn check(config: &RemoteConfig) -> Result<(), RemoteError> {
    ceiling(config, config.max_attempts, Duration::ZERO).map(drop)
}

/// Placeholder.
pub fn ceiling(_: &RemoteConfig, _: u32, _: Duration) -> Result<Option<f64>, RemoteError> {
    Ok(None)
}

/// Placeholder.
pub fn of(_: &RemoteConfig, _: Duration) -> Option<f64> {
    None
}
