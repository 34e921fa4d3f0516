use std::path::PathBuf;

use serde::Serialize;

use super::{ConfigError, Options, store_path};
use crate::approval;

/// `[review]`, every default filled in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReviewConfig {
    /// The approval store.
    pub approvals: PathBuf,
    /// The file of people.
    pub people: PathBuf,
    /// Days after which what nobody decided is expired.
    pub expire_after_days: u32,
}

impl ReviewConfig {
    /// Fills in the defaults.
    ///
    /// # Errors
    /// [`ConfigError::Missing`] where nothing says where stores are.
    pub fn new(options: &Options) -> Result<Self, ConfigError> {
        let own = &options.review;
        let approvals = match &own.approvals {
            Some(approvals) => approvals.clone(),
            None => approval::store_beside(&store_path(options)?),
        };
        let people = own.people.clone().unwrap_or_else(|| approvals.with_file_name("people.toml"));
        let expire_after_days = own.expire_after_days.map_or(30, std::num::NonZeroU32::get);
        Ok(Self { approvals, people, expire_after_days })
    }
}
