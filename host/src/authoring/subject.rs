//! The plugin that is tested, of whatever kind.

use std::sync::Arc;

use serde_json::Value;

use super::Call;
use crate::plugins::{
    Costs, Extractor, Formatter, PluginEngine, PluginError, PluginIdentity, PluginKind, PluginPackage, Policy,
};

/// A loaded plugin.
pub enum Subject {
    /// Spans to examples.
    Extractor(Extractor),
    /// Examples to records.
    Formatter(Formatter),
    /// Statistics to a decision.
    Policy(Policy),
}

impl Subject {
    /// Compiles and checks `package` as a plugin of the kind that its manifest says.
    ///
    /// # Errors
    /// What [`PluginError`] has for a component that does not fit.
    pub fn load(engine: &Arc<PluginEngine>, package: &PluginPackage) -> Result<Self, PluginError> {
        Ok(match package.manifest.kind {
            PluginKind::Extractor => Self::Extractor(Extractor::load(engine, package)?),
            PluginKind::Formatter => Self::Formatter(Formatter::load(engine, package)?),
            PluginKind::Policy => Self::Policy(Policy::load(engine, package)?),
        })
    }

    /// What it says of itself.
    pub fn identity(&self) -> &PluginIdentity {
        match self {
            Self::Extractor(plugin) => plugin.identity(),
            Self::Formatter(plugin) => plugin.identity(),
            Self::Policy(plugin) => plugin.identity(),
        }
    }

    /// What its calls took so far.
    pub fn costs(&self) -> Costs {
        match self {
            Self::Extractor(plugin) => plugin.costs(),
            Self::Formatter(plugin) => plugin.costs(),
            Self::Policy(plugin) => plugin.costs(),
        }
    }

    /// What a call gives, as JSON, which is what expectations are written in.
    ///
    /// # Errors
    /// [`PluginError::Call`].
    ///
    /// # Panics
    /// On the call of another kind of plugin: fixtures are read for the kind of this one.
    pub fn call(&self, call: &Call) -> Result<Value, PluginError> {
        Ok(match (self, call) {
            (Self::Extractor(plugin), Call::Extract(config, spans)) => json(&plugin.extract(config, spans, 1)?),
            (Self::Formatter(plugin), Call::Format(config, examples)) => {
                json(&plugin.format_batch(config, examples, 1)?)
            }
            (Self::Policy(plugin), Call::Decide(config, statistics)) => json(&plugin.decide(config, statistics)?),
            (subject, _) => panic!("a call of another kind than {}", subject.identity().kind),
        })
    }
}

/// Our own records: none has a map with keys that are no texts.
pub(super) fn json(value: &impl serde::Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_else(|error| Value::from(error.to_string()))
}
