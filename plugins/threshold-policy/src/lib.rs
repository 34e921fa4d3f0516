//! Chooses the training method by counting: preference pairs first, because DPO needs fewer of them.

mod choice;

#[allow(missing_docs, unreachable_pub)]
mod bindings {
    wit_bindgen::generate!({ world: "policy", path: "../../wit", additional_derives: [PartialEq] });
}

use bindings::exports::tunesmith::plugin::selection_policy::{DatasetStatistics, Decision, Guest, PolicyConfig};
use bindings::tunesmith::plugin::types::PluginError;
use plugin_settings::Settings;

struct ThresholdPolicy;

impl Guest for ThresholdPolicy {
    fn decide(config: PolicyConfig, statistics: DatasetStatistics) -> Result<Decision, PluginError> {
        Settings::new(&config.settings, &[]).map_err(PluginError::Configuration)?;
        choice::decide(&config, &statistics)
    }
}

bindings::export!(ThresholdPolicy with_types_in bindings);

#[cfg(test)]
mod tests;
