//! What one plugin gets: what its manifest asks for and the operator grants, and no more.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::Limits;

/// Something that a plugin may ask for in `wants` of its `plugin.toml`, and that an operator grants or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Want {
    /// Lines in the host's log: the import `tunesmith:plugin/log`.
    Log,
    /// The operator's settings for plugins of its kind; without it a plugin sees none.
    Settings,
    /// The WASI interfaces that the runtimes of other languages link, powerless: no files, no network, no
    /// environment, a clock that stands still and fixed random numbers.
    Wasi,
}

impl Want {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Log, Self::Settings, Self::Wasi];
}

impl fmt::Display for Want {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Log => "log",
            Self::Settings => "settings",
            Self::Wasi => "wasi",
        })
    }
}

/// The capabilities and the limits of one plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Allowance {
    /// What it may use of the host.
    pub wants: BTreeSet<Want>,
    /// What a call of it may take.
    pub limits: Limits,
}

impl Default for Allowance {
    /// Nothing of the host, and the default limits.
    fn default() -> Self {
        Self { wants: BTreeSet::new(), limits: Limits::default() }
    }
}
