//! Policy plugins: dataset statistics in, decision out.

use std::sync::Arc;

use super::admission::incompatible;
use super::admitted::Admitted;
use super::bindings::policy::PolicyPre;
use super::bindings::selection_policy::{DatasetStatistics, Decision, PolicyConfig};
use super::cost::Costs;
use super::engine::PluginEngine;
use super::error::{Fault, PluginError};
use super::limits::CallState;
use super::manifest::PluginKind;
use super::registry::PluginPackage;
use super::text::make_plain;
use super::{PluginIdentity, failed};

/// An admitted policy.
pub struct Policy {
    plugin: Admitted,
    instance: PolicyPre<CallState>,
}

impl Policy {
    /// Compiles and checks `package`.
    ///
    /// # Errors
    /// What [`PluginError`] has for a component that does not fit.
    pub fn load(engine: &Arc<PluginEngine>, package: &PluginPackage) -> Result<Self, PluginError> {
        let (plugin, instance) = engine.admit(package, PluginKind::Policy)?;
        let instance = PolicyPre::new(instance).map_err(|error| incompatible(&package.manifest.name, &error))?;
        Ok(Self { plugin, instance })
    }

    /// What `run.json` says of it.
    pub fn identity(&self) -> &PluginIdentity {
        &self.plugin.identity
    }

    /// What its calls took so far.
    pub fn costs(&self) -> Costs {
        self.plugin.costs()
    }

    /// Whose run it serves: errors and log lines name the tenant.
    pub fn for_tenant(mut self, tenant: &str) -> Self {
        self.plugin.tenant = Some(tenant.to_owned());
        self
    }

    /// Decides what a dataset is good for. The reason is made fit to be printed.
    ///
    /// # Errors
    /// [`PluginError::Call`]; also where the confidence is no number from 0 to 1, or nothing is short where data
    /// is said to be insufficient.
    pub fn decide(&self, config: &PolicyConfig, statistics: &DatasetStatistics) -> Result<Decision, PluginError> {
        let site = self.plugin.site("decide", None);
        let config = self.plugin.permitted(config);
        let mut decision = self.plugin.call(&site, |store| {
            self.instance
                .instantiate(&mut *store)?
                .tunesmith_plugin_selection_policy()
                .call_decide(store, &config, statistics)
        })?;
        if let Err(what) = check(&decision) {
            return Err(failed(site, Fault::InvalidOutput { what }));
        }
        match &mut decision {
            Decision::Train(choice) => make_plain(&mut choice.reason, MAX_SENTENCE_CHARS),
            Decision::Insufficient(insufficiency) => make_plain(&mut insufficiency.reason, MAX_SENTENCE_CHARS),
        }
        Ok(decision)
    }
}

/// Characters of the policy's reason that are told: sentences for a person.
const MAX_SENTENCE_CHARS: usize = 2000;

fn check(decision: &Decision) -> Result<(), String> {
    match decision {
        Decision::Train(choice) if !(0.0..=1.0).contains(&choice.confidence) => {
            Err(format!("a confidence of {}, which is not from 0 to 1", choice.confidence))
        }
        Decision::Insufficient(insufficiency) if insufficiency.shortfalls.is_empty() => {
            Err("data is said to be insufficient, but no shortfall is named".to_owned())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::bindings::selection_policy::{Insufficiency, TrainingChoice};
    use super::super::bindings::types::TrainingMethod;
    use super::*;

    #[test]
    fn a_confidence_outside_of_0_to_1_is_invalid_output() {
        let train = |confidence| {
            Decision::Train(TrainingChoice { method: TrainingMethod::Sft, confidence, reason: String::new() })
        };
        assert_eq!(check(&train(0.0)), Ok(()));
        assert_eq!(check(&train(1.0)), Ok(()));
        assert_eq!(check(&train(1.5)), Err("a confidence of 1.5, which is not from 0 to 1".into()));
        assert!(check(&train(f64::NAN)).is_err());
    }

    #[test]
    fn insufficient_data_must_say_what_is_short() {
        assert!(check(&Decision::Insufficient(Insufficiency { shortfalls: vec![], reason: "x".into() })).is_err());
    }
}
