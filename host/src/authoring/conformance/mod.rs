//! The contract of each kind of plugin as checks that every one of it passes, whatever it makes of its input.

mod extractor;
mod formatter;
mod policy;

use serde::Serialize;

use super::Subject;
use super::samples::Settings;
use crate::plugins::{Fault, PluginError};

/// A check and how it went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// What must hold.
    pub check: &'static str,
    /// Why it does not.
    pub failure: Option<String>,
}

/// Holds a plugin to the contract of its kind.
pub fn conform(subject: &Subject, agent_type: &str, settings: &Settings) -> Vec<Outcome> {
    match subject {
        Subject::Extractor(plugin) => extractor::checks(
            &|config| plugin.selection(config),
            &|config, spans| plugin.extract(config, spans, 1),
            agent_type,
            settings,
        ),
        Subject::Formatter(plugin) => {
            formatter::checks(&|config, examples| plugin.format_batch(config, examples, 1), agent_type, settings)
        }
        Subject::Policy(plugin) => {
            policy::checks(&|config, statistics| plugin.decide(config, statistics), agent_type, settings)
        }
    }
}

fn outcome(check: &'static str, result: Result<(), String>) -> Outcome {
    Outcome { check, failure: result.err() }
}

/// An error that the plugin chose to give: it says what it does not serve.
fn is_own(error: &PluginError) -> bool {
    matches!(error, PluginError::Call { fault: Fault::Plugin(_), .. })
}

fn text(error: PluginError) -> String {
    error.to_string()
}
